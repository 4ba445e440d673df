//! Rights and limits that change while clients are connected, or away.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use octopus_engine::{
    Acl, Action, AuthAnswer, AuthOutcome, AuthRequest, Dropped, Envelope, Limits, NewLimits, Rate,
    Rule, ShardId, Verdict,
};
use octopus_mqtt::{Connect, QoS, TopicName, Version, Will, WillProperties};
use octopus_sim::{Client, Node, NodeConfig, connect};

/// Everything but what is denied.
fn rules(denied: &[&str]) -> Arc<Acl> {
    let deny = |filter: &&str| Rule {
        verdict: Verdict::Deny,
        action: Action::Both,
        filter: (*filter).into(),
    };
    Arc::new(Acl { rules: denied.iter().map(deny).collect(), otherwise: Verdict::Allow })
}

fn all_but_secret(_: &AuthRequest) -> AuthOutcome {
    AuthOutcome::Granted { user: None, acl: Some(rules(&["secret/#"])), data: None }
}

fn everything(_: &AuthRequest) -> AuthOutcome {
    AuthOutcome::Granted { user: None, acl: Some(rules(&[])), data: None }
}

fn node() -> Node {
    let mut node = Node::new(&NodeConfig { authenticate: true, ..NodeConfig::new(1) });
    node.hub.set_policy(everything);
    node
}

#[test]
fn what_waits_for_a_client_that_may_not_read_it_any_more_is_dropped() {
    let mut node = node();
    let (mut reader, _) = Client::persistent(&mut node, Version::V5, "reader");
    reader.subscribe(&mut node, "#", QoS::AtLeastOnce);
    reader.disconnect(&mut node);
    let mut writer = Client::clean(&mut node, Version::V5, "writer");
    for topic in ["secret/a", "open/a", "secret/b", "open/b"] {
        writer.publish(&mut node, topic, "x", QoS::AtLeastOnce);
    }
    node.hub.set_policy(all_but_secret);
    let (mut reader, is_present) = Client::persistent(&mut node, Version::V5, "reader");
    assert!(is_present);
    let came: Vec<String> =
        reader.take_messages(&mut node).into_iter().map(|(topic, _)| topic).collect();
    assert_eq!(came, ["open/a", "open/b"]);
    let stats = node.stats(ShardId(0));
    assert_eq!(stats.subscriptions_revoked, 1);
    assert_eq!(stats.ledger.dropped[Dropped::NotAuthorized as usize], 2);
    assert!(node.ledger_holds() && node.memory_is_counted());
}

#[test]
fn a_will_goes_with_the_right_to_publish_it() {
    for (denied, sent) in [(&["open"][..], 1), (&["secret/#"], 0)] {
        let mut node = node();
        let mut watcher = Client::clean(&mut node, Version::V5, "watcher");
        watcher.subscribe(&mut node, "secret/will", QoS::AtMostOnce);
        let newest = Rc::new(Cell::new(None));
        let asked = Rc::clone(&newest);
        node.hub.set_policy(move |request| {
            asked.set(Some(request.connection));
            everything(request)
        });
        let mut mortal = Client::open(&mut node, Version::V5);
        let topic = TopicName::parse("secret/will").expect("a topic");
        let properties = WillProperties::default();
        let will =
            Will { qos: QoS::AtMostOnce, retain: false, topic, payload: b"gone", properties };
        let plain = connect(Version::V5, "mortal", true);
        mortal.connect(&mut node, &Connect { will: Some(will), ..plain });
        let connection = newest.get().expect("the hub was asked");
        let outcome = AuthOutcome::Changed { acl: Some(rules(denied)) };
        let answer = Box::new(AuthAnswer { connection, outcome });
        node.send_from_hub(ShardId(0), Envelope::Authenticated(answer));
        node.settle();
        mortal.cut(&mut node);
        assert_eq!(watcher.take_messages(&mut node).len(), sent, "denied {denied:?}");
        assert!(node.ledger_holds() && node.memory_is_counted());
    }
}

/// Puts limits in force on the only shard.
fn reconfigure(node: &mut Node, limits: Limits) {
    let new = NewLimits { limits, listener_rates: vec![Rate::default()] };
    node.send_from_hub(ShardId(0), Envelope::Limits(Box::new(new)));
    node.settle();
}

#[test]
fn a_live_client_keeps_what_its_connack_said_and_a_new_one_is_told() {
    let mut node = Node::new(&NodeConfig::new(1));
    let mut old = Client::clean(&mut node, Version::V5, "old");
    let narrow = Limits { qos_max: QoS::AtMostOnce, packet_size_max: 200, ..Limits::default() };
    reconfigure(&mut node, narrow);
    let mut new = Client::clean(&mut node, Version::V5, "new");
    for client in [&mut old, &mut new] {
        client.publish(&mut node, "t", &"x".repeat(300), QoS::AtLeastOnce);
    }
    assert!(!old.is_closed(&node) && new.is_closed(&node));
    let mut newer = Client::clean(&mut node, Version::V5, "newer");
    newer.publish(&mut node, "t", "x", QoS::AtLeastOnce);
    assert!(newer.is_closed(&node));
}

#[test]
fn a_rate_and_a_budget_may_come_and_go() {
    let mut node = Node::new(&NodeConfig::new(1));
    let mut writer = Client::clean(&mut node, Version::V5, "writer");
    let (mut keeper, _) = Client::persistent(&mut node, Version::V5, "keeper");
    keeper.subscribe(&mut node, "t", QoS::AtLeastOnce);
    keeper.disconnect(&mut node);
    let burst = |node: &mut Node, writer: &mut Client| {
        for _ in 0..20 {
            writer.publish(node, "t", "x", QoS::AtLeastOnce);
        }
    };
    reconfigure(&mut node, Limits::default());
    burst(&mut node, &mut writer);
    assert!(!node.is_paused(writer.socket), "no rate");
    let tight = Limits { memory_bytes_max: 100, message_rate_max: 5, ..Limits::default() };
    reconfigure(&mut node, tight);
    assert!(node.memory_is_counted(), "from now on");
    burst(&mut node, &mut writer);
    assert!(node.is_paused(writer.socket), "above its rate");
    let stats = node.stats(ShardId(0));
    assert!(stats.memory.publishes_refused > 0 && stats.memory.used > 100, "{:?}", stats.memory);
    reconfigure(&mut node, Limits::default());
    node.advance(std::time::Duration::from_secs(60));
    burst(&mut node, &mut writer);
    assert!(!node.is_paused(writer.socket), "neither any more");
    let after = node.stats(ShardId(0)).memory.publishes_refused;
    assert_eq!(after, stats.memory.publishes_refused);
}
