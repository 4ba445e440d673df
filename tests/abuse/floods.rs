//! Floods of connections, of CONNECTs, of clients that come and go.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use libtest_mimic::Failed;

use super::Test;
use super::probe::{Client, Pair, Usage, broker, descriptors_return};
use crate::harness::wire::{Packet, Version};

pub(super) const TESTS: &[(&str, Test)] = &[
    ("a_connect_flood_leaves_memory_and_descriptors_as_they_were", connects),
    ("connections_that_say_nothing_or_little_are_closed_and_given_back", slow_loris),
    ("a_client_that_flaps_is_banned_and_costs_nothing", flapping),
];

/// Rounds of connects by several clients at a time; the first lets the allocator grow, the last
/// must find it as it was.
fn connects() -> Result<(), Failed> {
    const EACH: usize = 600;
    let broker = broker(&[])?;
    let mut pair = Pair::new(&broker)?;
    let flood = |round: usize| -> Result<(), Failed> {
        std::thread::scope(|scope| {
            let floods: Vec<_> = (0..4)
                .map(|thread| {
                    let broker = &broker;
                    scope.spawn(move || -> Result<(), Failed> {
                        for index in 0..EACH {
                            Client::connect(broker, &format!("f{round}-{thread}-{index}"))?;
                        }
                        Ok(())
                    })
                })
                .collect();
            pair.is_served()?;
            floods.into_iter().try_for_each(|flood| flood.join().expect("no flood panics"))
        })
    };
    let before = Usage::of(&broker)?;
    let mut flood = flood;
    flood(0)?;
    descriptors_return(&broker, before)?;
    let warm = Usage::of(&broker)?;
    for round in 1..4 {
        flood(round)?;
    }
    descriptors_return(&broker, before)?;
    let growth = warm.growth(Usage::of(&broker)?);
    assert!(growth < 4 << 20, "7200 connects left {growth} bytes behind");
    Ok(())
}

/// Half of them say nothing, half a CONNECT that does not end.
fn slow_loris() -> Result<(), Failed> {
    let broker = broker(&["--limits.connect_timeout=2s"])?;
    let mut pair = Pair::new(&broker)?;
    let before = Usage::of(&broker)?;
    let mut held: Vec<TcpStream> = Vec::new();
    for index in 0..500 {
        let mut stream = broker.connect()?;
        if index % 2 == 0 {
            let connect = Packet::new("connect").bytes("id", "x".repeat(1000));
            let bytes = connect.encode(Version::V5);
            stream.write_all(&bytes[..bytes.len() / 2])?;
        }
        held.push(stream);
    }
    pair.is_served()?;
    let during = Usage::of(&broker)?;
    assert!(during.descriptors >= before.descriptors + 400, "{during:?}: they are held");
    assert!(before.growth(during) < 8 << 20, "500 of them took {}", before.growth(during));
    descriptors_return(&broker, before)?;
    pair.is_served()
}

fn flapping() -> Result<(), Failed> {
    let broker = broker(&["--auth.ban.flaps_max=10", "--auth.ban.time=2s"])?;
    let mut pair = Pair::new(&broker)?;
    let before = Usage::of(&broker)?;
    let mut refused = 0;
    for _ in 0..300 {
        refused += u32::from(Client::try_connect(&broker, "restless")?.1 == 0x8a);
    }
    assert!(refused > 250, "{refused} of 300 were refused as banned");
    pair.is_served()?;
    descriptors_return(&broker, before)?;
    let lines = broker.log().lines().filter(|line| line.contains("banned")).count();
    assert!(lines < 20, "{lines} lines about one client");
    std::thread::sleep(Duration::from_secs(2));
    Client::connect(&broker, "restless").map(drop)
}
