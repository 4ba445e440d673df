//! Attacks on memory: packets announced and not sent, subscriptions and retained messages
//! without end.

use std::io::Write as _;
use std::time::Duration;

use libtest_mimic::Failed;

use super::Test;
use super::probe::{Client, Pair, Usage, broker, descriptors_return, publish};
use crate::harness::wire::{Packet, Value, Version};

pub(super) const TESTS: &[(&str, Test)] = &[
    ("packets_of_64_mib_announced_and_not_sent_cost_nothing", announced),
    ("large_packets_sent_in_part_stay_within_the_budget", partial),
    ("a_hundred_thousand_subscriptions_meet_their_limit", subscriptions),
    ("a_subscription_bomb_stays_within_the_budget", subscription_budget),
    ("a_retained_bomb_meets_its_limit", retained),
    ("publishers_without_a_reader_stay_within_the_budget", queues),
];

/// The head of a PUBLISH of 64 MiB.
const HUGE: [u8; 5] = [0x30, 0x80, 0x80, 0x80, 0x20];

/// Allowed by configuration, so that nothing but the bytes that came may cost memory.
fn announced() -> Result<(), Failed> {
    let broker = broker(&["--limits.packet_size_max=100MiB"])?;
    let mut pair = Pair::new(&broker)?;
    let before = Usage::of(&broker)?;
    let mut held = Vec::new();
    for index in 0..300 {
        let mut client = Client::connect(&broker, &format!("h{index}"))?;
        client.stream.write_all(&HUGE)?;
        client.stream.write_all(&[0; 1000])?;
        held.push(client);
    }
    pair.is_served()?;
    let growth = before.growth(Usage::of(&broker)?);
    assert!(growth < 16 << 20, "19 GiB announced, {growth} bytes taken");
    drop(held);
    descriptors_return(&broker, before)
}

/// Twenty clients try to send 64 MiB each into a budget of 32 MiB.
fn partial() -> Result<(), Failed> {
    let broker = broker(&["--limits.packet_size_max=100MiB", "--limits.memory_bytes_max=32MiB"])?;
    let mut pair = Pair::new(&broker)?;
    let before = Usage::of(&broker)?;
    let mut held = Vec::new();
    for index in 0..20 {
        let Ok((mut client, 0)) = Client::try_connect(&broker, &format!("h{index}")) else {
            continue;
        };
        client.stream.set_write_timeout(Some(Duration::from_millis(200)))?;
        client.stream.write_all(&HUGE)?;
        let piece = vec![0; 1 << 20];
        for _ in 0..64 {
            match client.stream.write_all(&piece) {
                Ok(()) => {}
                // Not read any more, or closed: either is what is wanted.
                Err(_) => break,
            }
        }
        held.push(client);
    }
    pair.is_served()?;
    let growth = before.growth(Usage::of(&broker)?);
    // A buffer that grows is twice its content for a moment, and the kernel's are not ours.
    assert!(growth < 96 << 20, "a budget of 32 MiB, {growth} bytes taken");
    broker.wait_for("limits.memory_bytes_max")?;
    drop(held);
    descriptors_return(&broker, before)?;
    Client::connect(&broker, "a newcomer is welcome again").map(drop)
}

/// SUBSCRIBE of so many filters, and what came of each.
fn subscribe(
    client: &mut Client,
    first: usize,
    count: usize,
    tail: &str,
) -> Result<Vec<u8>, Failed> {
    let packet = Packet::new("subscribe").number("id", 7_u8);
    let packet = (first..first + count).fold(packet, |packet, index| {
        packet.bytes("filter", format!("bomb/{index}/+{tail}")).number("options", 0_u8)
    });
    client.send(&packet)?;
    let suback = client.expect("suback")?;
    match suback.get("codes") {
        Some(Value::Bytes(codes)) => Ok(codes.clone()),
        other => Err(format!("{other:?} are no codes").into()),
    }
}

fn subscriptions() -> Result<(), Failed> {
    let broker = broker(&["--limits.subscription_count_max=1000"])?;
    let mut pair = Pair::new(&broker)?;
    let before = Usage::of(&broker)?;
    let mut client = Client::connect(&broker, "bomber")?;
    let mut granted = 0;
    for first in (0..100_000).step_by(2000) {
        let codes = subscribe(&mut client, first, 2000, "")?;
        assert!(codes.iter().all(|&code| code == 0 || code == 0x97), "granted, or over quota");
        granted += codes.iter().filter(|&&code| code == 0).count();
    }
    assert_eq!(granted, 1000);
    pair.is_served()?;
    let growth = before.growth(Usage::of(&broker)?);
    assert!(growth < 16 << 20, "100,000 filters took {growth} bytes");
    drop(client);
    descriptors_return(&broker, before)
}

/// Long filters, and no limit on their number but the budget.
fn subscription_budget() -> Result<(), Failed> {
    let broker =
        broker(&["--limits.subscription_count_max=1000000", "--limits.memory_bytes_max=16MiB"])?;
    let mut pair = Pair::new(&broker)?;
    let before = Usage::of(&broker)?;
    let mut client = Client::connect(&broker, "bomber")?;
    let tail = format!("/{}", "x".repeat(1000));
    let mut refused = 0;
    for first in (0..20_000).step_by(500) {
        let codes = subscribe(&mut client, first, 500, &tail)?;
        refused += codes.iter().filter(|&&code| code == 0x97).count();
    }
    assert!(refused > 10_000, "{refused} of 20,000 filters of a kilobyte were refused");
    pair.is_served()?;
    let growth = before.growth(Usage::of(&broker)?);
    assert!(growth < 48 << 20, "a budget of 16 MiB, {growth} bytes taken");
    Ok(())
}

fn retained() -> Result<(), Failed> {
    let broker = broker(&["--limits.retained_count_max=1000"])?;
    let mut pair = Pair::new(&broker)?;
    let before = Usage::of(&broker)?;
    let mut client = Client::connect(&broker, "bomber")?;
    for first in (0..50_000).step_by(500) {
        let mut bytes = Vec::new();
        for index in first..first + 500 {
            let packet = publish(&format!("bomb/{index}"), vec![b'x'; 500]).number("retain", 1_u8);
            bytes.extend_from_slice(&packet.encode(Version::V5));
        }
        client.stream.write_all(&bytes)?;
        client.send(&Packet::new("pingreq"))?;
        client.expect("pingresp")?;
    }
    pair.is_served()?;
    let growth = before.growth(Usage::of(&broker)?);
    assert!(growth < 16 << 20, "50,000 retained messages took {growth} bytes");
    Ok(())
}

/// Messages of QoS 1 for a session that is away, until the broker stops reading.
fn queues() -> Result<(), Failed> {
    let broker = broker(&[
        "--limits.memory_bytes_max=16MiB",
        "--limits.queue_bytes_max=1GiB",
        "--limits.queue_count_max=1000000",
    ])?;
    let mut pair = Pair::new(&broker)?;
    Client::leave_session(&broker, "keeper", "keep/#")?;
    let before = Usage::of(&broker)?;
    let mut client = Client::connect(&broker, "bomber")?;
    client.stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    client.stream.set_write_timeout(Some(Duration::from_millis(500)))?;
    let mut acknowledged = 0;
    for _ in 0..64 {
        let packet = publish("keep/a", vec![b'x'; 1 << 20].split_off(1 << 10));
        let sent = client.send(&packet.number("qos", 1_u8).number("id", 1_u8));
        match sent.and_then(|()| client.expect("puback")) {
            Ok(ack) if ack.number_of("code") == 0 => acknowledged += 1,
            // Held, refused or closed.
            _ => break,
        }
    }
    assert!((4..16).contains(&acknowledged), "{acknowledged} MiB of 16 were acknowledged");
    let growth = before.growth(Usage::of(&broker)?);
    assert!(growth < 64 << 20, "a budget of 16 MiB, {growth} bytes taken");
    let mut keeper = Client::resume(&broker, "keeper")?;
    for index in 0..acknowledged {
        let came = keeper.expect("publish").map_err(|fault| format!("{index}: {fault:?}"))?;
        keeper.send(&Packet::new("puback").number("id", came.number_of("id")))?;
    }
    // Refused while the budget was full, as everybody; served as soon as it is not.
    pair.is_served()
}
