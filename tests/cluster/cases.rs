//! What is promised of a group, one promise a case.

use std::collections::{BTreeSet, HashMap};

use libtest_mimic::Failed;
use rumqttc::QoS;

use super::{
    client::Client,
    group::{Group, Redis, wait},
};

type Case = fn() -> Result<(), Failed>;

pub(super) fn all() -> Vec<(&'static str, Case)> {
    vec![
        ("a_message_of_each_qos_reaches_every_other_node", each_qos),
        ("messages_of_one_publisher_keep_their_order", order),
        ("nothing_crosses_that_nobody_wants", nothing_crosses),
        ("retained_messages_and_their_ends_are_on_all_nodes", retained),
        ("a_node_that_comes_later_has_what_is_retained", retained_for_the_late),
        ("a_second_node_with_one_id_is_refused", same_id),
        ("a_killed_node_can_start_again_under_its_id", killed_node_returns),
        ("what_is_acknowledged_survives_the_death_of_its_node", death_of_the_publishers_node),
        ("what_is_acknowledged_survives_a_restart_of_redis", restart_of_redis),
        ("without_redis_a_node_serves_its_own_clients", redis_away),
        ("a_redis_that_comes_back_empty_is_told_what_is_retained", empty_redis),
        ("the_groups_counters_are_true_after_a_death", counters),
        ("a_shared_group_over_two_nodes_gets_each_message_once", shared),
        ("a_node_that_was_cut_off_takes_part_again", paused),
        ("after_a_fail_over_the_group_goes_on", fail_over),
        ("the_predecessors_messages_are_heard_and_spoken", predecessor),
        ("the_predecessors_kick_ends_a_connection", predecessors_kick),
        ("chosen_topics_are_published_for_ordinary_consumers", mirror),
    ]
}

fn each_qos() -> Result<(), Failed> {
    let group = Group::new(&[])?;
    let nodes = [group.node("A")?, group.node("B")?, group.node("C")?];
    let publisher = Client::connect(&nodes[0], "publisher")?;
    let subscribers = [Client::connect(&nodes[1], "b")?, Client::connect(&nodes[2], "c")?];
    for (name, subscriber) in ["b", "c"].into_iter().zip(&subscribers) {
        subscriber.subscribe("a/+")?;
        subscriber.settle(&publisher, name)?;
    }
    for (qos, text) in [(QoS::AtMostOnce, "0"), (QoS::AtLeastOnce, "1"), (QoS::ExactlyOnce, "2")] {
        publisher.publish("a/b", qos, text)?;
        for subscriber in &subscribers {
            assert_eq!(subscriber.next_real()?, ("a/b".into(), text.into(), false));
        }
    }
    Ok(())
}

fn order() -> Result<(), Failed> {
    const COUNT: usize = 2000;
    let group = Group::new(&[])?;
    let (a, b) = (group.node("A")?, group.node("B")?);
    let (publisher, subscriber) = (Client::connect(&a, "p")?, Client::connect(&b, "s")?);
    subscriber.subscribe("o/#")?;
    subscriber.settle(&publisher, "s")?;
    let expected: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
    for text in &expected {
        publisher.publish("o/1", QoS::AtLeastOnce, text)?;
    }
    let mut came = vec![subscriber.next_real()?.1];
    came.extend(subscriber.next_texts(COUNT - 1)?);
    assert_eq!(came, expected);
    Ok(())
}

fn nothing_crosses() -> Result<(), Failed> {
    let group = Group::new(&["--stats.interval=1h"])?;
    let (a, b) = (group.node("A")?, group.node("B")?);
    let (publisher, subscriber) = (Client::connect(&a, "p")?, Client::connect(&b, "s")?);
    let own = Client::connect(&a, "own")?;
    own.subscribe("near/#")?;
    subscriber.subscribe("far")?;
    subscriber.settle(&publisher, "s")?;
    publisher.publish("near/0", QoS::AtLeastOnce, "x")?;
    publisher.wait_acknowledged(1)?;
    let before = (group.redis.calls("publish")?, group.redis.calls("xadd")?);
    for _ in 0..100 {
        publisher.publish("near/1", QoS::AtMostOnce, "x")?;
        publisher.publish("near/1", QoS::AtLeastOnce, "x")?;
    }
    publisher.wait_acknowledged(101)?;
    let after = (group.redis.calls("publish")?, group.redis.calls("xadd")?);
    assert_eq!(after, before);
    Ok(())
}

fn retained() -> Result<(), Failed> {
    let group = Group::new(&[])?;
    let (a, b) = (group.node("A")?, group.node("B")?);
    let publisher = Client::connect(&a, "p")?;
    publisher.retain("r/1", "first")?;
    publisher.retain("r/1", "second")?;
    publisher.retain("r/2", "kept")?;
    publisher.wait_acknowledged(3)?;
    wait_for_retained(&b, "r/#", &[("r/1", "second"), ("r/2", "kept")])?;
    publisher.retain("r/1", "")?;
    publisher.wait_acknowledged(4)?;
    wait_for_retained(&b, "r/#", &[("r/2", "kept")])?;
    wait_for_retained(&a, "r/#", &[("r/2", "kept")])
}

fn retained_for_the_late() -> Result<(), Failed> {
    let mut group = Group::new(&[])?;
    put_old_retained(&mut group)?;
    let a = group.node("A")?;
    let publisher = Client::connect(&a, "p")?;
    publisher.retain("r/1", "new")?;
    publisher.wait_acknowledged(1)?;
    let late = group.node("LATE")?;
    let subscriber = Client::connect(&late, "s")?;
    subscriber.subscribe("r/#")?;
    let came: BTreeSet<_> = [subscriber.next()?, subscriber.next()?].into();
    let expected = [("r/1", "new"), ("r/old", "hi")];
    assert_eq!(came, expected.map(|(topic, text)| (topic.into(), text.into(), true)).into());
    Ok(())
}

/// What a node of the predecessor has left.
fn put_old_retained(group: &mut Group) -> Result<(), Failed> {
    let json = r#"{"topic":"r/old","QoS":"AT_LEAST_ONCE","payload":[104,105]}"#;
    let mut redis = group.redis.connection()?;
    let key = group.redis.key("GROUP1:RETAIN");
    Ok(redis::cmd("HSET").arg(key).arg("r/old").arg(json).query(&mut redis)?)
}

fn wait_for_retained(
    node: &crate::harness::broker::Process,
    filter: &str,
    expected: &[(&str, &str)],
) -> Result<(), Failed> {
    let expected: BTreeSet<_> =
        expected.iter().map(|(topic, text)| ((*topic).into(), (*text).into(), true)).collect();
    let mut number = 0;
    wait(&format!("{expected:?} is retained"), || {
        number += 1;
        let client = Client::connect(node, &format!("look{number}"))?;
        client.subscribe(filter)?;
        // What is retained comes before the end of a second SUBSCRIBE.
        client.subscribe("nothing")?;
        let came: BTreeSet<_> = client.taken().into_iter().collect();
        Ok(came == expected)
    })
}

fn same_id() -> Result<(), Failed> {
    let group = Group::new(&[])?;
    let _first = group.node("A")?;
    let Err(said) = group.node("A") else { return Err("it started".into()) };
    assert!(said.contains("a node A is running in group GROUP1"), "{said}");
    Ok(())
}

fn killed_node_returns() -> Result<(), Failed> {
    let group = Group::new(&[])?;
    drop(group.node("A")?);
    let again = group.node("A")?;
    Client::connect(&again, "c").map(drop)
}

fn death_of_the_publishers_node() -> Result<(), Failed> {
    const COUNT: usize = 500;
    let group = Group::new(&[])?;
    let (a, b) = (group.node("A")?, group.node("B")?);
    let publisher = Client::connect(&a, "p")?;
    let subscriber = Client::open(&b, "s", false)?;
    subscriber.subscribe("d/#")?;
    subscriber.settle(&publisher, "s")?;
    for number in 0..COUNT {
        publisher.publish("d/1", QoS::AtLeastOnce, &number.to_string())?;
    }
    publisher.wait_acknowledged(COUNT / 2)?;
    drop(a);
    wait("the publisher knows", || Ok(publisher.is_gone()))?;
    let acknowledged = publisher.acknowledged();
    let first = subscriber.next_real()?.1;
    let mut came = vec![first];
    came.extend(subscriber.next_texts(acknowledged - 1)?);
    let expected: Vec<String> = (0..acknowledged).map(|number| number.to_string()).collect();
    assert_eq!(came, expected);
    Ok(())
}

fn restart_of_redis() -> Result<(), Failed> {
    const COUNT: usize = 300;
    let mut group = Group::with(Redis::start(true)?, &["--cluster.hold_time=60s"])?;
    let (a, b) = (group.node("A")?, group.node("B")?);
    let (publisher, subscriber) = (Client::connect(&a, "p")?, Client::connect(&b, "s")?);
    subscriber.subscribe("d/#")?;
    subscriber.settle(&publisher, "s")?;
    for number in 0..COUNT {
        publisher.publish("d/1", QoS::AtLeastOnce, &number.to_string())?;
        if number == COUNT / 3 {
            group.redis.kill()?;
        }
    }
    group.redis.revive()?;
    publisher.wait_acknowledged(COUNT)?;
    let mut came = vec![subscriber.next_real()?.1];
    came.extend(subscriber.next_texts(COUNT - 1)?);
    let expected: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
    assert_eq!(came, expected);
    Ok(())
}

fn redis_away() -> Result<(), Failed> {
    let mut group = Group::new(&["--cluster.hold_time=1s"])?;
    let (a, b) = (group.node("A")?, group.node("B")?);
    let (publisher, near) = (Client::connect(&a, "p")?, Client::connect(&a, "near")?);
    let far = Client::connect(&b, "far")?;
    near.subscribe("near")?;
    far.subscribe("far")?;
    far.settle(&publisher, "far")?;
    group.redis.kill()?;
    a.wait_for("Redis is away")?;
    publisher.publish("near", QoS::AtLeastOnce, "1")?;
    publisher.wait_acknowledged(1)?;
    assert_eq!(near.next()?.1, "1");
    // What another node must get is held, then refused: in 3.1.1 by closing the connection.
    publisher.publish("far", QoS::AtLeastOnce, "2")?;
    wait("the publisher is refused", || Ok(publisher.is_gone()))?;
    assert_eq!(publisher.acknowledged(), 1);
    // Back again, everything goes on without a restart.
    group.redis.revive()?;
    let again = Client::connect(&a, "again")?;
    far.settle(&again, "again")?;
    again.publish("far", QoS::AtLeastOnce, "3")?;
    assert_eq!(far.next_real()?.1, "3");
    Ok(())
}

fn empty_redis() -> Result<(), Failed> {
    let mut group = Group::new(&[])?;
    let a = group.node("A")?;
    let publisher = Client::connect(&a, "p")?;
    publisher.retain("r/1", "kept")?;
    publisher.wait_acknowledged(1)?;
    a.wait_for("Redis is reached")?;
    // The change has come back to the node when another client's change after it has.
    wait_for_retained(&a, "r/#", &[("r/1", "kept")])?;
    group.redis.kill()?;
    group.redis.revive()?;
    let mut redis = group.redis.connection()?;
    wait("Redis knows it again", || {
        let key = group.redis.key("GROUP1:V2:RETAIN");
        Ok(redis::cmd("HEXISTS").arg(key).arg("r/1").query(&mut redis)?)
    })?;
    let late = group.node("LATE")?;
    wait_for_retained(&late, "r/#", &[("r/1", "kept")])
}

fn counters() -> Result<(), Failed> {
    let group = Group::new(&["--stats.interval=1s"])?;
    let (a, b) = (group.node("A")?, group.node("B")?);
    let clients = [Client::connect(&a, "1")?, Client::connect(&a, "2")?, Client::connect(&b, "3")?];
    clients[2].subscribe("x/#")?;
    clients[0].publish("y", QoS::AtLeastOnce, "")?;
    wait_for_totals(&group, &[("CONNECTION", 3), ("SUBSCRIPTIONS", 1), ("RECEIVED", 1)])?;
    drop(a);
    wait_for_totals(&group, &[("CONNECTION", 1), ("SUBSCRIPTIONS", 1), ("RECEIVED", 1)])
}

pub(super) fn wait_for_totals(group: &Group, expected: &[(&str, u64)]) -> Result<(), Failed> {
    let mut redis = group.redis.connection()?;
    wait(&format!("the totals are {expected:?}"), || {
        let mut all_hold = true;
        for (name, count) in expected {
            let key = group.redis.key(&format!("STATS:GROUP1:TOTAL_{name}"));
            let found: Option<u64> = redis::cmd("GET").arg(key).query(&mut redis)?;
            all_hold &= found == Some(*count);
        }
        Ok(all_hold)
    })
}

fn shared() -> Result<(), Failed> {
    const COUNT: usize = 60;
    let group = Group::new(&[])?;
    let (a, b, c) = (group.node("A")?, group.node("B")?, group.node("C")?);
    let publisher = Client::connect(&a, "p")?;
    let members = [Client::connect(&b, "b")?, Client::connect(&c, "c")?];
    for (name, member) in ["b", "c"].into_iter().zip(&members) {
        member.subscribe("$share/g/s/#")?;
        member.settle(&publisher, name)?;
    }
    for number in 0..COUNT {
        publisher.publish("s/1", QoS::AtLeastOnce, &number.to_string())?;
    }
    publisher.wait_acknowledged(COUNT)?;
    let mut got: HashMap<String, [usize; 2]> = HashMap::new();
    wait("every message is with a member", || {
        for (index, member) in members.iter().enumerate() {
            for (topic, text, _) in member.taken() {
                if topic == "s/1" {
                    got.entry(text).or_default()[index] += 1;
                }
            }
        }
        Ok(got.len() == COUNT)
    })?;
    assert!(got.values().all(|counts| counts.iter().sum::<usize>() == 1), "{got:?}");
    // Near members first: as soon as the publisher's node has one, it gets them.
    let near = Client::connect(&a, "near")?;
    near.subscribe("$share/g/s/#")?;
    publisher.publish("s/1", QoS::AtLeastOnce, "near")?;
    assert_eq!(near.next()?.1, "near");
    Ok(())
}

fn paused() -> Result<(), Failed> {
    let group = Group::new(&[])?;
    let (a, b) = (group.node("A")?, group.node("B")?);
    let (publisher, subscriber) = (Client::connect(&a, "p")?, Client::connect(&b, "s")?);
    subscriber.subscribe("x")?;
    subscriber.settle(&publisher, "before")?;
    publisher.publish("x", QoS::AtLeastOnce, "1")?;
    assert_eq!(subscriber.next_real()?.1, "1");
    b.signal("STOP")?;
    a.wait_for("node has left the group")?;
    b.signal("CONT")?;
    // The others have ended its clients' sessions: it lets the clients go.
    wait("the client is let go", || Ok(subscriber.is_gone()))?;
    let subscriber = Client::connect(&b, "s")?;
    subscriber.subscribe("x")?;
    subscriber.settle(&publisher, "after")?;
    publisher.publish("x", QoS::AtLeastOnce, "2")?;
    assert_eq!(subscriber.next_real()?.1, "2");
    Ok(())
}

fn fail_over() -> Result<(), Failed> {
    let (mut master, replica) = (Redis::start_alone(false)?, Redis::start_alone(false)?);
    replica.follow(&master)?;
    let sentinel = master.watched()?;
    let nodes = format!("--redis.sentinel.nodes=127.0.0.1:{}", sentinel.port());
    let settings = ["--redis.sentinel.master=octopus", &nodes, "--cluster.hold_time=60s"];
    let group = Group::with(replica, &settings)?;
    let (a, b) = (group.node("A")?, group.node("B")?);
    let (publisher, subscriber) = (Client::connect(&a, "p")?, Client::connect(&b, "s")?);
    subscriber.subscribe("x")?;
    subscriber.settle(&publisher, "before")?;
    master.kill()?;
    publisher.publish("x", QoS::AtLeastOnce, "held")?;
    publisher.wait_acknowledged(1)?;
    assert_eq!(subscriber.next_real()?.1, "held");
    Ok(())
}

fn predecessor() -> Result<(), Failed> {
    let group = Group::new(&["--cluster.compat.enable=true"])?;
    let a = group.node("A")?;
    let subscriber = Client::connect(&a, "s")?;
    subscriber.subscribe("old/#")?;
    let mut redis = group.redis.connection()?;
    let json = concat!(
        r#"{"identity":{"clusterMessageId":7,"group":"GROUP1","brokerId":"BROKER9"},"#,
        r#""payload":{"clientId":"BROKER9","messageId":0,"topic":"old/1","QoS":"AT_MOST_ONCE","#,
        r#""payload":[104,105],"type":"PUBLISH"}}"#,
    );
    wait("the node listens", || {
        let heard: i64 =
            redis::cmd("PUBLISH").arg("GROUP1:PUB:BRIDGE").arg(json).query(&mut redis)?;
        Ok(heard == 1)
    })?;
    assert_eq!(subscriber.next()?, ("old/1".into(), "hi".into(), false));
    let mut listener = group.redis.connection()?;
    let mut listener = listener.as_pubsub();
    listener.subscribe("GROUP1:PUB:BRIDGE")?;
    Client::connect(&a, "p")?.publish("new/1", QoS::AtMostOnce, "ho")?;
    let said: String = listener.get_message()?.get_payload()?;
    assert_eq!(
        said,
        concat!(
            r#"{"identity":{"clusterMessageId":0,"group":"GROUP1","brokerId":"A"},"#,
            r#""payload":{"clientId":"A","messageId":0,"topic":"new/1","QoS":"AT_MOST_ONCE","#,
            r#""payload":[104,111],"type":"PUBLISH"}}"#,
        )
    );
    Ok(())
}

fn predecessors_kick() -> Result<(), Failed> {
    let group = Group::new(&["--cluster.compat.enable=true"])?;
    let a = group.node("A")?;
    let client = Client::connect(&a, "c1")?;
    let mut redis = group.redis.connection()?;
    let json = concat!(
        r#"{"identity":{"clusterMessageId":0,"group":"GROUP1","brokerId":"BROKER9"},"#,
        r#""clientToClose":"c1"}"#,
    );
    wait("the node listens", || {
        let heard: i64 =
            redis::cmd("PUBLISH").arg("GROUP1:CLOSE:BRIDGE").arg(json).query(&mut redis)?;
        Ok(heard == 1)
    })?;
    wait("the client is gone", || Ok(client.is_gone()))
}

fn mirror() -> Result<(), Failed> {
    let settings = ["--cluster.mirror.channel=out", "--cluster.mirror.filters=shown/#"];
    let group = Group::new(&settings)?;
    let (a, b) = (group.node("A")?, group.node("B")?);
    let mut listener = group.redis.connection()?;
    let mut listener = listener.as_pubsub();
    listener.subscribe("out")?;
    let publisher = Client::connect(&a, "p")?;
    let subscriber = Client::connect(&b, "s")?;
    subscriber.subscribe("#")?;
    for (topic, text) in [("hidden", "1"), ("shown/a", "2")] {
        publisher.publish(topic, QoS::AtLeastOnce, text)?;
    }
    publisher.wait_acknowledged(2)?;
    assert_eq!(subscriber.next_texts(2)?, ["1", "2"]);
    publisher.publish("shown/b", QoS::AtLeastOnce, "3")?;
    // Once each, by the node of the publisher, and nothing else.
    for (topic, text) in [("shown/a", "2"), ("shown/b", "3")] {
        let said: String = listener.get_message()?.get_payload()?;
        let said: serde_json::Value = serde_json::from_str(&said)?;
        assert_eq!(said["topic"], topic, "{said}");
        let payload = text.as_bytes().iter().map(|&byte| u64::from(byte)).collect::<Vec<_>>();
        assert_eq!(said["payload"], serde_json::json!(payload), "{said}");
    }
    Ok(())
}
