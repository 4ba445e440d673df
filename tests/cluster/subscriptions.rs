//! A subscription is known on every live node when its SUBACK is out.

use std::time::Instant;

use libtest_mimic::Failed;
use rumqttc::QoS;

use super::{
    client::Client,
    group::{Group, wait},
};

type Case = fn() -> Result<(), Failed>;

pub(super) fn all() -> Vec<(&'static str, Case)> {
    vec![
        ("what_is_published_anywhere_after_suback_arrives", after_suback),
        ("a_node_that_stands_still_does_not_hold_suback_for_ever", stands_still),
        ("a_node_that_has_just_started_knows_every_subscription", just_started),
    ]
}

/// Subscribed, and published on the other nodes at once; many times.
fn after_suback() -> Result<(), Failed> {
    const ROUNDS: usize = 150;
    let group = Group::new(&[])?;
    let nodes = [group.node("A")?, group.node("B")?, group.node("C")?];
    let subscriber = Client::connect(&nodes[0], "s")?;
    let publishers = [Client::connect(&nodes[1], "p1")?, Client::connect(&nodes[2], "p2")?];
    for round in 0..ROUNDS {
        let topic = format!("after/{round}");
        // Every third as the only member of a shared group.
        let filter = match round % 3 {
            0 => format!("$share/g/{topic}"),
            _ => topic.clone(),
        };
        subscriber.subscribe(&filter)?;
        for publisher in &publishers {
            publisher.publish(&topic, QoS::AtLeastOnce, &round.to_string())?;
        }
    }
    for publisher in &publishers {
        publisher.wait_acknowledged(ROUNDS)?;
    }
    let mut came = vec![0; ROUNDS];
    wait("every message is here", || {
        for (_, text, _) in subscriber.taken() {
            came[text.parse::<usize>().expect("a number")] += 1;
        }
        Ok(came.iter().all(|&count| count >= publishers.len()))
    })
    .map_err(|_| format!("not twice each: {came:?}"))?;
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

fn just_started() -> Result<(), Failed> {
    const ROUNDS: usize = 5;
    let group = Group::new(&[])?;
    let a = group.node("A")?;
    let subscriber = Client::connect(&a, "s")?;
    subscriber.subscribe("new/#")?;
    for round in 0..ROUNDS {
        let node = group.node(&format!("N{round}"))?;
        let publisher = Client::connect(&node, &format!("p{round}"))?;
        publisher.publish("new/1", QoS::AtLeastOnce, &round.to_string())?;
        assert_eq!(subscriber.next()?.1, round.to_string());
    }
    Ok(())
}
