//! Shared subscriptions across shards.

use octopus_mqtt::{QoS, Version};
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
