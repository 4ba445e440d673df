//! The memory budget: what is shed as it fills, in which order, and what never is.

use std::time::Duration;

use octopus_engine::{Dropped, Limits, MemoryLevel, ShardId};
use octopus_mqtt::{Packet, QoS, ReasonCode, Version};
use octopus_sim::{Client, Intake, Node, NodeConfig, connect};

/// A budget small enough to be filled by a few messages of a kilobyte.
const BUDGET: usize = 100_000;

fn node(shards: u16) -> Node {
    let limits = Limits { memory_bytes_max: BUDGET / usize::from(shards), ..Limits::default() };
    Node::new(&NodeConfig { limits, ..NodeConfig::new(shards) })
}

/// Leaves a session behind that keeps every message of QoS 1 to `filter`.
fn keeper(node: &mut Node, filter: &str) {
    let mut keeper = Client::open(node, Version::V3_1_1);
    let packet = connect(Version::V3_1_1, "keeper", false);
    keeper.send(node, &Packet::Connect(Box::new(packet)));
    assert!(matches!(keeper.expect(node).packet(), Packet::ConnAck(_)));
    keeper.subscribe(node, filter, QoS::AtLeastOnce);
    node.cut(keeper.socket);
}

fn level(node: &Node) -> MemoryLevel {
    node.all_stats().iter().map(|stats| stats.memory.level).max().expect("a shard")
}

/// Publishes until `to` is reached; how many messages were acknowledged as taken.
fn fill(node: &mut Node, publisher: &mut Client, to: MemoryLevel) -> usize {
    let payload = "x".repeat(1000);
    let mut taken = 0;
    while level(node) < to {
        publisher.publish(node, "keep/a", &payload, QoS::AtLeastOnce);
        while publisher.next(node).is_none() {
            assert!(node.is_paused(publisher.socket), "unanswered and not held");
            node.advance(Duration::from_secs(1));
        }
        taken += 1;
        assert!(taken < 1000, "the budget never fills");
    }
    taken
}

fn code_of_connect(node: &mut Node, id: &str, clean: bool) -> ReasonCode {
    let mut client = Client::open(node, Version::V5);
    client.send(node, &Packet::Connect(Box::new(connect(Version::V5, id, clean))));
    match client.expect(node).packet() {
        Packet::ConnAck(connack) => connack.reason,
        other => panic!("CONNACK was expected, not {other:?}"),
    }
}

#[test]
fn newcomers_are_refused_first_and_who_has_a_session_is_not() {
    for shards in [1, 3] {
        let mut node = node(shards);
        keeper(&mut node, "keep/#");
        let mut publisher = Client::clean(&mut node, Version::V5, "publisher");
        assert_eq!(publisher.subscribe(&mut node, "a", QoS::AtMostOnce), 0);
        fill(&mut node, &mut publisher, MemoryLevel::Filling);
        assert_eq!(code_of_connect(&mut node, "new", true), ReasonCode::ServerBusy);
        assert_eq!(publisher.subscribe(&mut node, "b", QoS::AtMostOnce), 0x97);
        assert_eq!(publisher.subscribe(&mut node, "a", QoS::AtLeastOnce), 1, "one it had");
        assert_eq!(code_of_connect(&mut node, "keeper", false), ReasonCode::Success);
        let refused: u64 = node.all_stats().iter().map(|s| s.memory.connects_refused).sum();
        assert_eq!(refused, 1);
    }
}

#[test]
fn qos_0_is_dropped_for_who_does_not_keep_up_and_for_nobody_else() {
    let mut node = node(1);
    let mut prompt = Client::clean(&mut node, Version::V5, "prompt");
    prompt.subscribe(&mut node, "live", QoS::AtMostOnce);
    let mut slow = Client::clean(&mut node, Version::V5, "slow");
    slow.subscribe(&mut node, "live", QoS::AtMostOnce);
    keeper(&mut node, "keep/#");
    let mut publisher = Client::clean(&mut node, Version::V5, "publisher");
    node.set_intake(slow.socket, Intake::Stopped);
    fill(&mut node, &mut publisher, MemoryLevel::Short);
    for n in 0..3 {
        publisher.publish(&mut node, "live", &n.to_string(), QoS::AtMostOnce);
        node.settle();
        assert_eq!(prompt.take_messages(&mut node).len(), 1);
    }
    let dropped = node.stats(ShardId(0)).ledger.dropped_for(Dropped::Memory);
    assert_eq!(dropped, 2, "the first was under way already when the others came");
}

#[test]
fn publishers_are_held_and_what_they_were_acknowledged_arrives() {
    for shards in [1, 3] {
        let mut node = node(shards);
        keeper(&mut node, "keep/#");
        let mut publisher = Client::clean(&mut node, Version::V5, "publisher");
        let mut taken = fill(&mut node, &mut publisher, MemoryLevel::Scarce);
        publisher.publish(&mut node, "keep/a", "one more", QoS::AtLeastOnce);
        assert!(node.is_paused(publisher.socket), "held");
        node.advance(Duration::from_secs(1));
        taken += usize::from(publisher.next(&mut node).is_some());
        let mut keeper = Client::open(&mut node, Version::V3_1_1);
        let packet = connect(Version::V3_1_1, "keeper", false);
        keeper.send(&mut node, &Packet::Connect(Box::new(packet)));
        let mut came = 0;
        while let Some(received) = keeper.next(&mut node) {
            if let Packet::Publish(publish) = received.packet() {
                came += 1;
                let id = publish.delivery.packet_id().expect("QoS 1 has one");
                keeper.acknowledge(&mut node, Packet::PubAck, id);
            }
        }
        node.advance(Duration::from_secs(1));
        assert_eq!(came, taken, "what was acknowledged, and nothing else");
        assert_eq!(level(&node), MemoryLevel::Ample);
        assert!(!node.is_paused(publisher.socket), "read again");
        assert!(node.memory_is_counted());
    }
}

#[test]
fn a_full_budget_refuses_what_comes_and_acknowledges_nothing_it_does_not_keep() {
    let mut node = node(1);
    keeper(&mut node, "keep/#");
    let mut old = Client::clean(&mut node, Version::V3_1_1, "old");
    let mut publisher = Client::clean(&mut node, Version::V5, "publisher");
    let taken = fill(&mut node, &mut publisher, MemoryLevel::Full);
    node.advance(Duration::from_secs(1));
    publisher.publish(&mut node, "keep/a", "x", QoS::AtLeastOnce);
    node.advance(Duration::from_secs(1));
    match publisher.expect(&mut node).packet() {
        Packet::PubAck(ack) => assert_eq!(ack.reason, ReasonCode::QuotaExceeded),
        other => panic!("PUBACK was expected, not {other:?}"),
    }
    old.publish(&mut node, "keep/a", "x", QoS::AtLeastOnce);
    assert!(old.next(&mut node).is_none() && old.is_closed(&node), "it cannot be told otherwise");
    let stats = node.stats(ShardId(0));
    assert_eq!((stats.ledger.queued, stats.memory.publishes_refused), (taken as u64, 2));
}

#[test]
fn packets_that_are_announced_and_do_not_come_are_cut_when_memory_is_out() {
    let mut node = node(1);
    let mut clients: Vec<Client> =
        (0..20).map(|n| Client::clean(&mut node, Version::V5, &format!("c{n}"))).collect();
    for client in &mut clients {
        // A PUBLISH of 100,000 bytes, of which a few come.
        client.send_bytes(&mut node, &[0x30, 0xa0, 0x8d, 0x06]);
        for _ in 0..30 {
            client.send_bytes(&mut node, &[0; 1000]);
        }
    }
    let stats = node.stats(ShardId(0)).memory;
    assert!(stats.used <= (BUDGET + 2000) as u64, "{} bytes are kept", stats.used);
    assert!(clients.iter().any(|client| node.is_paused(client.socket)), "some are held");
}
