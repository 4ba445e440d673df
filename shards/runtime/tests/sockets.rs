//! The driver over real sockets: bytes, hand-offs, slow readers, stops.

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use octopus_mqtt::ReasonCode;
use octopus_runtime::{Node, StartError, start};
use support::{BULK_WRITE, Scripted, address, client, config, node, read_once};

fn end(node: Node) {
    node.stop(ReasonCode::Success, Duration::from_secs(5));
    node.join().expect("no shard fails");
}

fn read(client: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    client.read_exact(&mut bytes).expect("the bytes come");
    bytes
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|position| (position % 251) as u8).collect()
}

#[test]
fn bytes_come_back_on_1_and_2_shards() {
    for shards in [1, 2] {
        let node = node(&config(shards));
        let mut clients: Vec<_> = (0..20).map(|_| client(&node)).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.write_all(format!("ehello {number}").as_bytes()).expect("written");
        }
        for (number, client) in clients.iter_mut().enumerate() {
            let text = format!("hello {number}");
            let shard = read(client, 1)[0] - b'0';
            assert!(u16::from(shard) < shards);
            assert_eq!(read(client, text.len()), text.as_bytes());
        }
        end(node);
    }
}

#[test]
fn many_bytes_come_back_whole_while_both_sides_write() {
    let node = node(&config(1));
    let mut writer = client(&node);
    let mut reader = writer.try_clone().expect("cloned");
    let sent = pattern(5_000_000);
    let expected = sent.clone();
    let thread = std::thread::spawn(move || {
        writer.write_all(b"e").expect("written");
        writer.write_all(&sent).expect("written");
    });
    assert_eq!(read(&mut reader, 1), b"0");
    assert_eq!(read(&mut reader, expected.len()), expected);
    thread.join().expect("the writer ends");
    end(node);
}

#[test]
fn a_handed_over_connection_loses_no_byte_and_keeps_their_order() {
    let node = node(&config(2));
    for to in ["0", "1"].repeat(20) {
        let mut writer = client(&node);
        let mut reader = writer.try_clone().expect("cloned");
        let mut sent = format!("h{to}e").into_bytes();
        sent.extend(pattern(100_000));
        let expected = sent[3..].to_vec();
        // Bytes arrive before, while and after the connection moves.
        let thread = std::thread::spawn(move || {
            sent.chunks(777).for_each(|part| writer.write_all(part).expect("written"));
        });
        assert_eq!(read(&mut reader, 1), to.as_bytes());
        assert_eq!(read(&mut reader, expected.len()), expected);
        thread.join().expect("the writer ends");
    }
    end(node);
}

#[test]
fn a_slow_reader_gets_50_megabytes_whole_while_others_are_served() {
    let node = node(&config(1));
    let mut slow = client(&node);
    slow.write_all(b"b2").expect("written");
    let mut other = client(&node);
    other.write_all(b"e").expect("written");
    assert_eq!(read(&mut other, 1), b"0");
    let (mut total, mut copied) = (0, 0);
    let mut bytes = vec![0; 30_000];
    while total < 100 * BULK_WRITE {
        let length = read_once(&mut slow, &mut bytes);
        assert!(length > 0, "ended after {total}");
        total += length;
        copied += bytes[..length].iter().filter(|byte| **byte == b'b').count();
        if total % 7 == 0 {
            other.write_all(b"!").expect("written");
            assert_eq!(read(&mut other, 1), b"!");
        }
    }
    assert_eq!((total, copied), (100 * BULK_WRITE, 100 * 1000));
    end(node);
}

#[test]
fn a_paused_connection_is_read_again_from_where_it_stopped() {
    let node = node(&config(1));
    let mut client = client(&node);
    client.write_all(b"p").expect("written");
    client.set_write_timeout(Some(Duration::from_secs(20))).expect("a time-out");
    // More than the kernel's buffers hold: written only if reading goes on.
    let mut writer = client.try_clone().expect("cloned");
    let sent = vec![b'.'; 20_000_000];
    let thread = std::thread::spawn(move || {
        writer.write_all(&sent).expect("written");
        writer.write_all(b"end").expect("written");
    });
    let mut tail = Vec::new();
    let mut bytes = vec![0; 65536];
    while !tail.ends_with(b"end") {
        let length = read_once(&mut client, &mut bytes);
        assert!(length > 0);
        tail = bytes[..length].to_vec();
    }
    thread.join().expect("the writer ends");
    end(node);
}

#[test]
fn a_last_write_arrives_though_the_client_still_sends() {
    let node = node(&config(1));
    let mut client = client(&node);
    client.write_all(b"c").expect("written");
    // The server shuts its end only; what is sent now does not reset the connection.
    client.write_all(&[b'.'; 100_000]).expect("written");
    assert_eq!(read(&mut client, 3), b"bye");
    assert_eq!(read_once(&mut client, &mut [0]), 0);
    end(node);
}

#[test]
fn a_connection_over_the_limit_is_closed_and_one_after_a_leave_is_not() {
    let mut config = config(1);
    config.accept.connection_count_max = 1;
    let node = node(&config);
    let mut first = client(&node);
    first.write_all(b"e").expect("written");
    assert_eq!(read(&mut first, 1), b"0");
    assert_eq!(read_once(&mut client(&node), &mut [0]), 0);
    drop(first);
    loop {
        let mut next = client(&node);
        let answered = next.write_all(b"e").and_then(|()| next.read(&mut [0]));
        if matches!(answered, Ok(1)) {
            break;
        }
    }
    end(node);
}

#[test]
fn a_stop_tells_every_client_and_ends() {
    let node = node(&config(2));
    let mut clients: Vec<_> = (0..10).map(|_| client(&node)).collect();
    for client in &mut clients {
        client.write_all(b"e").expect("written");
        read(client, 1);
    }
    let address = address(&node);
    node.stop(ReasonCode::Success, Duration::from_secs(5));
    for client in &mut clients {
        assert_eq!(read(client, 4), b"stop");
        assert_eq!(read_once(client, &mut [0]), 0);
    }
    drop(clients);
    node.join().expect("no shard fails");
    let refused = TcpStream::connect(address).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn a_stop_does_not_wait_for_a_reader_that_does_not_read() {
    let node = node(&config(1));
    let mut stuck = client(&node);
    stuck.write_all(b"b2").expect("written");
    read(&mut stuck, 1);
    let begin = Instant::now();
    node.stop(ReasonCode::Success, Duration::from_millis(300));
    node.join().expect("no shard fails");
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
}

#[test]
fn a_shard_that_panics_fails_the_node() {
    let node = node(&config(1));
    client(&node).write_all(b"x").expect("written");
    let failed = node.join().expect_err("a shard failed");
    assert!(failed.to_string().contains("panicked"), "{failed}");
}

#[test]
fn an_address_in_use_is_said_so() {
    let first = node(&config(2));
    let mut config = config(2);
    config.listeners[0].address = first.addresses()[0].clone();
    let error = start(&config, |shard, _, _| Scripted::new(shard)).err().expect("in use");
    assert!(matches!(error, StartError::Bind { .. }), "{error}");
    end(first);
}
