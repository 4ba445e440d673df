//! What a script may rely on.

use std::time::Duration;

use octopus_engine::ShardId;
use octopus_mqtt::{Packet, QoS, Version};
use octopus_sim::{Client, Intake, Node, NodeConfig, connect};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

#[test]
fn a_message_reaches_a_subscriber_on_any_shard() {
    for (shards, version) in [1, 2, 3, 8, 64].into_iter().flat_map(|n| VERSIONS.map(|v| (n, v))) {
        let mut node = Node::new(&NodeConfig::new(shards));
        let mut subscriber = Client::clean(&mut node, version, "subscriber");
        assert_eq!(subscriber.subscribe(&mut node, "a/+", QoS::AtLeastOnce), 1);
        for n in 0..4 {
            let mut publisher = Client::clean(&mut node, version, &format!("publisher-{n}"));
            publisher.publish(&mut node, "a/b", "hello", QoS::AtLeastOnce);
            assert!(matches!(publisher.expect(&mut node).packet(), Packet::PubAck(_)));
            assert_eq!(subscriber.expect(&mut node).message(), ("a/b", "hello"));
        }
    }
}

#[test]
fn a_connection_moves_to_its_home_with_all_its_bytes() {
    let mut node = Node::new(&NodeConfig::new(8));
    let homes: Vec<ShardId> = (0..8)
        .map(|shard| {
            let mut client = Client::open_at(&mut node, ShardId(shard), Version::V3_1_1);
            let mut bytes = Vec::new();
            let packet = connect(Version::V3_1_1, "wanderer", true);
            Packet::Connect(Box::new(packet)).encode(Version::V3_1_1, &mut bytes);
            Packet::PingReq.encode(Version::V3_1_1, &mut bytes);
            client.send_bytes(&mut node, &bytes);
            assert!(matches!(client.expect(&mut node).packet(), Packet::ConnAck(_)));
            assert!(matches!(client.expect(&mut node).packet(), Packet::PingResp));
            node.shard_of(client.socket).expect("it is open")
        })
        .collect();
    assert!(homes.windows(2).all(|two| two[0] == two[1]), "{homes:?}");
}

#[test]
fn a_silent_socket_is_closed_in_time() {
    let mut node = Node::new(&NodeConfig::new(2));
    let client = Client::open(&mut node, Version::V5);
    node.advance(Duration::from_secs(9));
    assert!(!client.is_closed(&node));
    node.advance(Duration::from_secs(2));
    assert!(client.is_closed(&node));
}

#[test]
fn a_client_that_takes_nothing_gets_all_of_it_later() {
    let mut node = Node::new(&NodeConfig::new(2));
    let mut slow = Client::clean(&mut node, Version::V3_1_1, "slow");
    slow.subscribe(&mut node, "#", QoS::AtMostOnce);
    node.set_intake(slow.socket, Intake::Stopped);
    let mut publisher = Client::clean(&mut node, Version::V3_1_1, "publisher");
    for n in 0..10 {
        publisher.publish(&mut node, "t", &n.to_string(), QoS::AtMostOnce);
    }
    assert!(slow.next(&mut node).is_none());
    node.set_intake(slow.socket, Intake::Slow(3));
    let payloads: Vec<String> =
        slow.take_messages(&mut node).into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}
