//! Clients that begin and do not go on, at every layer: they are closed in time, their
//! descriptors come back, and others are served meanwhile.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use super::{Door, Tests, connect, connect_packet, wait};
use crate::harness::broker::free_port;

pub(super) const TESTS: Tests =
    &[("half_open_and_dripping_clients_are_closed_in_time_at_every_layer", closed_in_time)];

/// `limits.connect_timeout`, for the layers and once more for CONNECT.
const LIMIT: Duration = Duration::from_secs(1);
/// Of each kind.
const COUNT: usize = 20;
/// What a busy machine may be late.
const SLACK: Duration = Duration::from_secs(8);

/// The head of a TLS record, of 512 bytes that never come.
const HALF_HELLO: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
const HALF_REQUEST: &[u8] = b"GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: webso";
const HALF_HEADER: &[u8] = b"PROXY TCP4 192.0.2.7 10.";

/// One that sends `bytes`, then one more byte now and then, and how long it was borne.
fn drip(address: SocketAddr, bytes: &[u8]) -> Result<Duration, Failed> {
    let mut stream = connect(address)?;
    stream.write_all(bytes)?;
    let start = Instant::now();
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    loop {
        match stream.read(&mut [0; 256]) {
            // Closed, behind a last word or without.
            Ok(0) => return Ok(start.elapsed()),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                // Who has said nothing stays silent. If it fails, the next look tells.
                let _ = stream.write_all(if bytes.is_empty() { b"" } else { b"1" });
            }
            Err(_) => return Ok(start.elapsed()),
        }
        if start.elapsed() > LIMIT * 2 + SLACK {
            return Err(format!("{bytes:?}: still there after {:?}", start.elapsed()).into());
        }
    }
}

fn descriptors(door: &Door) -> Result<usize, Failed> {
    Ok(fs::read_dir(format!("/proc/{}/fd", door.broker.id()))?.count())
}

fn closed_in_time() -> Result<(), Failed> {
    let [ws, proxied] = [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, free_port())));
    let door = Door::open(
        "tls",
        &[
            "--limits.connect_timeout=1s",
            "--listeners[1].name=ws",
            "--listeners[1].kind=ws",
            &format!("--listeners[1].address={ws}"),
            "--listeners[2].name=proxied",
            "--listeners[2].proxy_protocol=true",
            &format!("--listeners[2].address={proxied}"),
        ],
    )?;
    let before = descriptors(&door)?;
    let connect = connect_packet("never");
    // The last byte of CONNECT's fixed header announces more than comes.
    let half_connect = [&[connect[0], 0xff, 0x7f], &connect[2..]].concat();
    let kinds: [(SocketAddr, &[u8]); 7] = [
        (door.address, b""),
        (door.address, HALF_HELLO),
        (ws, HALF_REQUEST),
        (proxied, HALF_HEADER),
        (proxied, b"PROXY UNKNOWN\r\n"),
        (door.broker.address, &half_connect),
        (door.broker.address, &connect[..1]),
    ];
    let borne: Vec<Duration> = thread::scope(|scope| {
        let mut clients = Vec::new();
        for (address, bytes) in kinds.into_iter().cycle().take(COUNT * kinds.len()) {
            clients.push(
                scope.spawn(move || drip(address, bytes).map_err(|fault| format!("{fault:?}"))),
            );
        }
        for round in 0..4 {
            let message = ["-t", "a", "-m", "b", "-q", "1", "-i"];
            let id = format!("served-{round}");
            door.tool("mosquitto_pub", None, &[&message[..], &[&id]].concat())?;
        }
        clients
            .into_iter()
            .map(|client| client.join().map_err(|_| "a client panicked")?)
            .collect::<Result<_, String>>()
    })?;
    let longest = borne.iter().max().copied().unwrap_or_default();
    assert!(longest < LIMIT * 2 + SLACK, "{longest:?}");
    for (reason, least) in
        [("tls_late", COUNT), ("websocket_upgrade_late", COUNT), ("proxy_header_late", 1)]
    {
        let count = door.refused(reason)?;
        assert!(count >= least as f64, "{reason}: {count}");
        let line = door.broker.wait_for(&format!("reason=\"{reason}\""))?;
        assert!(line.contains("address=127.0.0.1:"), "{line}");
    }
    wait("the descriptors are back", || Ok(descriptors(&door)? <= before))
}
