//! A subscription is known on every live node when its SUBACK is out.

use std::time::Instant;

use libtest_mimic::Failed;
use rumqttc::QoS;

use super::{client::Client, group::Group, raw::Raw};
use crate::harness::wire::Packet;

type Case = fn() -> Result<(), Failed>;

pub(super) fn all() -> Vec<(&'static str, Case)> {
    vec![
        ("what_is_published_anywhere_after_suback_arrives", after_suback),
        ("a_node_that_stands_still_does_not_hold_suback_for_ever", stands_still),
        ("a_node_that_has_just_started_knows_every_subscription", just_started),
    ]
}

/// Subscribed, and published on the other nodes the moment SUBACK is here; many times. Each
/// SUBSCRIBE has so many filters that taking them in takes a while.
fn after_suback() -> Result<(), Failed> {
    const ROUNDS: usize = 60;
    const FILTERS: usize = 100;
    let group = Group::new(&[])?;
    let nodes = [group.node("A")?, group.node("B")?, group.node("C")?];
    let (mut subscriber, _) = Raw::connect(&nodes[0], "s", 0)?;
    let mut publishers = [&nodes[1], &nodes[2]].map(|node| Raw::connect(node, "", 0));
    for round in 0..ROUNDS {
        let mut filters: Vec<String> = (1..FILTERS).map(|n| format!("{round}/{n}")).collect();
        let topic = format!("after/{round}");
        // Every third as the only member of a shared group.
        filters.push(match round % 3 {
            0 => format!("$share/g/{topic}"),
            _ => topic.clone(),
        });
        subscriber.subscribe(&filters)?;
        for publisher in &mut publishers {
            let (publisher, _) = publisher.as_mut().map_err(|_| "not connected")?;
            publisher.publish(&topic, 1, &round.to_string())?;
        }
        for publisher in &mut publishers {
            let (publisher, _) = publisher.as_mut().map_err(|_| "not connected")?;
            let code = publisher.next_of("puback")?.number_of("code");
            assert!(code < 0x80, "round {round}: {code}");
        }
        for _ in &publishers {
            let publish = subscriber.next_of("publish").map_err(|failed| {
                let why = failed.message().unwrap_or_default();
                format!("round {round}: a message is missing: {why}")
            })?;
            assert_eq!(publish.bytes_of("payload"), round.to_string().as_bytes());
            subscriber.send(&Packet::new("puback").number("id", publish.number_of("id")))?;
        }
    }
    Ok(())
}

fn stands_still() -> Result<(), Failed> {
    // Two leases, and as much again for a machine that is busy.
    const SUBACK_MAX_S: f32 = 8.0;
    let group = Group::new(&[])?;
    let nodes = [group.node("A")?, group.node("B")?, group.node("C")?];
    let subscriber = Client::connect(&nodes[0], "s")?;
    let publisher = Client::connect(&nodes[1], "p")?;
    subscriber.subscribe("x/before")?;
    nodes[2].signal("STOP")?;
    let asked = Instant::now();
    subscriber.subscribe("x/after")?;
    let took = asked.elapsed().as_secs_f32();
    nodes[2].signal("CONT")?;
    assert!(took < SUBACK_MAX_S, "it took {took} s");
    publisher.publish("x/after", QoS::AtLeastOnce, "1")?;
    assert_eq!(subscriber.next()?.1, "1");
    Ok(())
}

/// Its first client publishes as soon as it is let in, while there is much to know.
fn just_started() -> Result<(), Failed> {
    const ROUNDS: usize = 4;
    const FILTERS: usize = 20_000;
    let group = Group::new(&["--limits.subscription_count_max=100000"])?;
    let a = group.node("A")?;
    let (mut subscriber, _) = Raw::connect(&a, "s", 0)?;
    let filters: Vec<String> = (0..FILTERS).map(|n| format!("new/{n}")).collect();
    for some in filters.chunks(1000) {
        subscriber.subscribe(some)?;
    }
    for round in 0..ROUNDS {
        let node = group.node(&format!("N{round}"))?;
        let (mut publisher, _) = Raw::connect(&node, "p", 0)?;
        for id in 1..=20 {
            publisher.publish(&format!("new/{}", id * 900), id as u64, "")?;
            let code = publisher.next_of("puback")?.number_of("code");
            assert_eq!(code, 0, "round {round}: nobody was known to want it");
        }
    }
    Ok(())
}
