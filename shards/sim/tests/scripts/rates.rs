//! Clients that send more than they may are read later, and lose nothing.

use std::time::Duration;

use octopus_engine::{Rate, ShardId};
use octopus_mqtt::{QoS, Version};
use octopus_sim::{Client, Node, NodeConfig};

#[test]
fn clients_of_a_listener_share_its_rate_and_none_is_starved() {
    let mut config = NodeConfig::new(1);
    config.listener_rates = vec![Rate { messages: 10, bytes: 0 }];
    let mut node = Node::new(&config);
    let mut reader = Client::clean(&mut node, Version::V5, "reader");
    reader.subscribe(&mut node, "#", QoS::AtMostOnce);
    let mut writers: Vec<Client> =
        (0..2).map(|n| Client::clean(&mut node, Version::V5, &format!("writer-{n}"))).collect();
    for round in 0..20 {
        for (n, writer) in writers.iter_mut().enumerate() {
            writer.publish(&mut node, &format!("t/{n}"), &round.to_string(), QoS::AtMostOnce);
        }
    }
    assert!(writers.iter().all(|writer| node.is_paused(writer.socket)), "both are slowed");
    assert!(!node.is_paused(reader.socket), "who sends nothing is not");
    let came = reader.take_messages(&mut node).len();
    assert!(came < 20, "{came} messages came at once at 10 a second");
    node.advance(Duration::from_secs(5));
    let later = reader.take_messages(&mut node);
    assert_eq!(came + later.len(), 40, "nothing is lost");
    let stats = node.stats(ShardId(0));
    assert!(stats.reads_slowed_by_listener[0] > 0 && stats.reads_slowed == 0);
}
