//! Descriptors: none leaks, and running out of them is survived. One test, since it counts
//! and limits the descriptors of the whole process.

#[expect(dead_code, reason = "each test binary uses a part of it")]
mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use octopus_mqtt::ReasonCode;
use socket2::{Domain, SockRef, Socket, Type};
use support::{client, config, node};

const LIMIT: usize = 300;
/// Descriptors left to the node when the clients come.
const LEFT: usize = 10;

fn open_count() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc").count()
}

/// Lowers the limit for good; `preflight` raises the soft limit up to the hard one only.
fn limit_to(count: usize) {
    let count = count as libc::rlim_t;
    let limit = libc::rlimit { rlim_cur: count, rlim_max: count };
    // SAFETY: reads one rlimit from the address of `limit`.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
}

fn is_answered(client: &mut TcpStream) -> bool {
    client.set_read_timeout(Some(Duration::from_millis(1))).expect("a time-out");
    client.read_exact(&mut [0]).is_ok()
}

#[test]
fn descriptors_run_out_and_come_back_and_none_leaks() {
    limit_to(LIMIT);
    let mut config = config(2);
    config.listeners[0].backlog = 1024;
    let node = node(&config);
    let before = open_count();
    for _ in 0..500 {
        let mut client = client(&node);
        client.write_all(b"e").expect("written");
        client.read_exact(&mut [0]).expect("answered");
    }

    // The sockets exist before descriptors run out, so only the node's accepts meet the limit.
    let mut sockets = Vec::new();
    while open_count() < LIMIT - LEFT {
        sockets.push(Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket"));
    }
    let mut waiting: Vec<TcpStream> = sockets.into_iter().map(TcpStream::from).collect();
    assert!(waiting.len() > 5 * LEFT, "the node itself has {}", LIMIT - waiting.len());
    for client in &mut waiting {
        let address = node.addresses()[0].tcp().expect("it listens on TCP").into();
        SockRef::from(&*client).connect(&address).expect("the kernel completes it");
        client.write_all(b"e").expect("written");
    }
    let begin = Instant::now();
    while File::open("/dev/null").is_ok() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the node did not use what is left");
    }
    // Each client that is answered leaves, and so makes room for another.
    while !waiting.is_empty() {
        waiting.retain_mut(|client| !is_answered(client));
        assert!(begin.elapsed() < Duration::from_secs(20), "{} are never served", waiting.len());
    }
    while open_count() > before {
        assert!(begin.elapsed() < Duration::from_secs(20), "{} leaked", open_count() - before);
    }
    node.stop(ReasonCode::Success, Duration::from_secs(5));
    node.join().expect("no shard fails");
}
