//! A node dies while a session is on its way to it: the next one finds in Redis what was passed on
//! and what was held, and goes on.

use std::collections::BTreeMap;

use libtest_mimic::Failed;
use rumqttc::QoS;

use super::{
    client::Client,
    group::{Group, wait},
    sessions::KEPT,
};

type Case = fn() -> Result<(), Failed>;

pub(super) fn all() -> Vec<(&'static str, Case)> {
    vec![
        ("a_session_goes_on_arriving_when_its_new_node_dies", new_node_dies),
        ("a_session_goes_on_arriving_when_both_its_nodes_die", both_nodes_die),
    ]
}

fn new_node_dies() -> Result<(), Failed> {
    go_on(true)
}

fn both_nodes_die() -> Result<(), Failed> {
    go_on(false)
}

/// As if a node OLD had handed a session to A, which died when it had queued `first`, read `second`
/// of what was passed on, and held `fifth`.
///
/// - `is_told`: OLD has said that it passes nothing more on. Else it is dead, and `fourth` is in
///   its inbox.
fn go_on(is_told: bool) -> Result<(), Failed> {
    let group = Group::new(KEPT)?;
    let a = group.node("A")?;
    let subscriber = Client::open(&a, "s", false)?;
    subscriber.subscribe("m/#")?;
    subscriber.leave()?;
    wait("it is gone", || Ok(subscriber.is_gone()))?;
    let other = group.node("OTHER")?;
    let bystander = Client::connect(&other, "bystander")?;
    bystander.subscribe("m/4")?;
    other.signal("STOP")?;
    let publisher = Client::connect(&a, "p")?;
    let texts = ["first", "second", "third", "fourth", "fifth"];
    for (number, text) in (1..).zip(texts) {
        publisher.publish(&format!("m/{number}"), QoS::AtLeastOnce, text)?;
    }
    publisher.wait_acknowledged(texts.len())?;
    drop((a, other));

    let mut redis = group.redis.connection()?;
    let key = |name: &str| group.redis.key(&format!("GROUP1:{name}"));
    let messages = key("PUB:s");
    let kept: BTreeMap<String, Vec<u8>> = redis::cmd("HGETALL").arg(&messages).query(&mut redis)?;
    let mut take = |text: &str| {
        let is_it = |value: &[u8]| value.windows(text.len()).any(|part| part == text.as_bytes());
        let found = kept.iter().find(|(_, value)| is_it(value));
        let (field, value) = found.ok_or_else(|| format!("{text} is not queued"))?;
        redis::cmd("HDEL").arg(&messages).arg(field).query::<()>(&mut redis)?;
        Ok::<_, Failed>(value.clone())
    };
    let [second, third, _, fifth] =
        [take("second")?, take("third")?, take("fourth")?, take("fifth")?];
    let mut pipeline = redis::pipe();
    pipeline.cmd("RPUSH").arg(key("V2:TAKEN:s")).arg(second);
    pipeline.cmd("RPUSH").arg(key("V2:PASS:s")).arg(third);
    pipeline.cmd("HSET").arg(&messages).arg("h4294967297").arg(fifth);
    pipeline.cmd("HSET").arg(key("SESSION:s")).arg("passing").arg("OLD:1");
    pipeline.cmd("SADD").arg(key("V2:HANDED:OLD:1")).arg("s");
    if is_told {
        pipeline.cmd("RPUSH").arg(key("V2:PASS:s")).arg("");
    } else {
        let owners: Vec<String> = redis::cmd("HKEYS").arg(key("V2:NODES")).query(&mut redis)?;
        let other = owners.iter().find(|owner| owner.starts_with("OTHER:"));
        let inbox = key(&format!("V2:INBOX:{}", other.ok_or("OTHER is not listed")?));
        pipeline.cmd("RENAME").arg(inbox).arg(key("V2:INBOX:OLD:1"));
        // It would be forgotten at once, if nobody needed its inbox.
        pipeline.cmd("HSET").arg(key("V2:NODES")).arg("OLD:1").arg("1");
    }
    pipeline.query::<()>(&mut redis)?;

    let b = group.node("B")?;
    let subscriber = Client::open(&b, "s", false)?;
    if !is_told {
        wait("B says that it needs the inbox", || {
            let waiting = key("V2:LEFT:OLD:1");
            Ok(redis::cmd("SISMEMBER").arg(waiting).arg("s").query(&mut redis)?)
        })?;
    }
    let wanted: &[&str] = if is_told { &["first", "second", "third", "fifth"] } else { &texts };
    assert_eq!(subscriber.next_texts(wanted.len())?, wanted);
    let left = ["V2:TAKEN:s", "V2:PASS:s", "V2:HANDED:OLD:1", "V2:LEFT:OLD:1"].map(key);
    wait("nothing of it is kept any more", || {
        let count: u32 = redis::cmd("EXISTS").arg(&left).query(&mut redis)?;
        let kept: Vec<String> = redis::cmd("HKEYS").arg(&messages).query(&mut redis)?;
        let passing: Option<String> =
            redis::cmd("HGET").arg(key("SESSION:s")).arg("passing").query(&mut redis)?;
        let is_held = kept.iter().any(|field| field.starts_with('h'));
        Ok(count == 0 && !is_held && passing.is_none())
    })?;
    assert!(subscriber.taken().is_empty(), "something came twice");
    Ok(())
}
