//! Shared subscriptions across shards.

use octopus_engine::Pick;
use octopus_mqtt::{Packet, QoS, Version};
use octopus_sim::{Client, Node, NodeConfig};

/// A member on another shard than its group got the message routed before, because the encoded
/// form of that one was used again.
#[test]
fn a_member_on_another_shard_gets_the_message_meant() {
    let mut node = Node::new(&NodeConfig::new(8));
    let mut members: Vec<Client> =
        (0..8).map(|n| Client::clean(&mut node, Version::V3_1_1, &format!("member-{n}"))).collect();
    for member in &mut members {
        member.subscribe(&mut node, "$share/g/t", QoS::AtMostOnce);
    }
    let mut publisher = Client::clean(&mut node, Version::V3_1_1, "publisher");
    for n in 10..26 {
        publisher.publish(&mut node, "t", &n.to_string(), QoS::AtMostOnce);
    }
    let mut payloads: Vec<String> = members
        .iter_mut()
        .flat_map(|member| member.take_messages(&mut node))
        .map(|(_, payload)| payload)
        .collect();
    payloads.sort();
    let wanted: Vec<String> = (10..26).map(|n| n.to_string()).collect();
    assert_eq!(payloads, wanted);
}

/// A QoS 2 message that was finished counted as unfinished for ever.
#[test]
fn a_finished_qos_2_message_no_longer_counts_against_its_member() {
    let config = NodeConfig { shared_pick: Pick::LeastInflight, ..NodeConfig::new(1) };
    let mut node = Node::new(&config);
    let mut quick = Client::clean(&mut node, Version::V5, "quick");
    let mut stuck = Client::clean(&mut node, Version::V5, "stuck");
    for member in [&mut quick, &mut stuck] {
        member.subscribe(&mut node, "$share/g/t", QoS::ExactlyOnce);
    }
    let mut publisher = Client::clean(&mut node, Version::V5, "publisher");
    for _ in 0..5 {
        publisher.publish(&mut node, "t", "", QoS::ExactlyOnce);
        while let Some(received) = quick.next(&mut node) {
            match received.packet() {
                Packet::Publish(publish) => {
                    let id = publish.delivery.packet_id().expect("QoS 2 has one");
                    quick.acknowledge(&mut node, Packet::PubRec, id);
                }
                Packet::PubRel(ack) => {
                    quick.acknowledge(&mut node, Packet::PubComp, ack.packet_id);
                }
                other => panic!("PUBLISH or PUBREL was expected, not {other:?}"),
            }
        }
    }
    assert_eq!(stuck.take_messages(&mut node).len(), 1);
}
