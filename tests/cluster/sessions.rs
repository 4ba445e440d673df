//! What is promised of a session in a group: it goes where its client goes, and outlives the
//! node it was on.

use std::{thread, time::Instant};

use libtest_mimic::Failed;
use rumqttc::QoS;

use super::{
    client::Client,
    group::{Group, Redis, wait},
    raw::Raw,
};
use crate::harness::{broker::Process, wire::Packet};

type Case = fn() -> Result<(), Failed>;

/// All of a session is kept in Redis.
pub(super) const KEPT: &[&str] = &[
    "--broker.storage.session=redis",
    "--broker.storage.subscription=redis",
    "--broker.storage.publish=redis",
];
/// Takeover takes no longer, and a little for a machine that is busy.
const TAKEOVER_MAX_S: f32 = 2.5;

pub(super) fn all() -> Vec<(&'static str, Case)> {
    vec![
        ("a_session_goes_where_its_client_goes", moves),
        ("a_session_without_storage_goes_where_its_client_goes", moves_without_storage),
        ("a_wandering_session_loses_nothing_and_gets_nothing_twice", wanders),
        ("a_session_is_taken_from_a_node_that_stands_still", taken_from_the_paused),
        ("a_session_outlives_its_node", outlives),
        ("other_nodes_go_on_with_the_sessions_of_a_dead_one", adopted),
        ("what_is_published_again_at_another_node_comes_once", published_again),
        ("soon_after_an_outage_no_node_is_taken_for_dead", not_dead_yet),
        ("soon_after_an_outage_suback_waits_for_who_is_not_back_yet", not_known_yet),
    ]
}

fn moves() -> Result<(), Failed> {
    move_with(KEPT)
}

fn moves_without_storage() -> Result<(), Failed> {
    move_with(&[])
}

fn move_with(settings: &[&str]) -> Result<(), Failed> {
    let group = Group::new(settings)?;
    let (a, b) = (group.node("A")?, group.node("B")?);
    let first = Client::open(&a, "s", false)?;
    first.subscribe("m/#")?;
    let publisher = Client::connect(&a, "p")?;
    publisher.publish("m/1", QoS::AtLeastOnce, "before")?;
    assert_eq!(first.next()?.1, "before");
    let second = Client::open(&b, "s", false)?;
    wait("the old connection is closed", || Ok(first.is_gone()))?;
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        publisher.publish("m/1", qos, "after")?;
        assert_eq!(second.next()?.1, "after");
    }
    Ok(())
}

fn wanders() -> Result<(), Failed> {
    const MOVES: usize = 8;
    const EACH: usize = 60;
    let group = Group::new(KEPT)?;
    let nodes = [group.node("A")?, group.node("B")?, group.node("C")?];
    let publisher = Client::connect(&nodes[2], "p")?;
    let mut subscriber = Client::open(&nodes[0], "s", false)?;
    subscriber.subscribe("w/#")?;
    subscriber.settle(&publisher, "s")?;
    let mut came = Vec::new();
    for turn in 0..MOVES {
        for number in 0..EACH {
            let text = (turn * EACH + number).to_string();
            publisher.publish("w/1", QoS::AtLeastOnce, &text)?;
        }
        let next = Client::open(&nodes[(turn + 1) % 3], "s", false)?;
        wait("the old connection is closed", || Ok(subscriber.is_gone()))?;
        came.extend(subscriber.taken());
        subscriber = next;
    }
    let wanted: Vec<usize> = (0..MOVES * EACH).collect();
    let mut got: Vec<usize> = Vec::new();
    let mut read = |came: Vec<super::client::Came>| {
        for (_, text, _) in came.into_iter().filter(|(topic, ..)| topic == "w/1") {
            let number = text.parse().expect("a number");
            // QoS 1: what was not acknowledged on the old connection comes again.
            if !got.contains(&number) {
                got.push(number);
            }
        }
        got.clone()
    };
    read(came);
    wait("everything is here", || Ok(read(subscriber.taken()).len() == wanted.len()))?;
    assert_eq!(read(Vec::new()), wanted);
    Ok(())
}

fn taken_from_the_paused() -> Result<(), Failed> {
    let group = Group::new(KEPT)?;
    let (a, b) = (group.node("A")?, group.node("B")?);
    let first = Client::open(&a, "s", false)?;
    first.subscribe("m/#")?;
    let publisher = Client::connect(&b, "p")?;
    first.settle(&publisher, "s")?;
    a.signal("STOP")?;
    let asked = Instant::now();
    let second = Client::open(&b, "s", false)?;
    let took = asked.elapsed().as_secs_f32();
    assert!(took < TAKEOVER_MAX_S, "it took {took} s");
    a.signal("CONT")?;
    wait("the node that was paused lets the client go", || Ok(first.is_gone()))?;
    publisher.publish("m/1", QoS::AtLeastOnce, "x")?;
    assert_eq!(second.next_real()?.1, "x");
    assert!(first.taken().iter().all(|(topic, ..)| topic != "m/1"));
    Ok(())
}

fn outlives() -> Result<(), Failed> {
    let group = Group::new(KEPT)?;
    let (a, b) = (group.node("A")?, group.node("B")?);
    let first = Client::open(&a, "s", false)?;
    first.subscribe("m/#")?;
    first.leave()?;
    wait("it is gone", || Ok(first.is_gone()))?;
    let publisher = Client::connect(&a, "p")?;
    for number in 0..100 {
        publisher.publish("m/1", QoS::AtLeastOnce, &number.to_string())?;
    }
    publisher.wait_acknowledged(100)?;
    drop(a);
    let asked = Instant::now();
    let second = Client::open(&b, "s", false)?;
    let took = asked.elapsed().as_secs_f32();
    assert!(took < TAKEOVER_MAX_S, "it took {took} s");
    let wanted: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    assert_eq!(second.next_texts(100)?, wanted);
    Ok(())
}

fn adopted() -> Result<(), Failed> {
    let group = Group::new(KEPT)?;
    let (a, b) = (group.node("A")?, group.node("B")?);
    let first = Client::open(&a, "s", false)?;
    first.subscribe("m/#")?;
    drop(a);
    let publisher = Client::connect(&b, "p")?;
    let mut redis = group.redis.connection()?;
    wait("B has the session", || {
        let key = group.redis.key("GROUP1:SESSION:s");
        let owner: String = redis::cmd("HGET").arg(key).arg("owner").query(&mut redis)?;
        Ok(owner.starts_with("B:"))
    })?;
    publisher.publish("m/1", QoS::AtLeastOnce, "while away")?;
    publisher.wait_acknowledged(1)?;
    let second = Client::open(&b, "s", false)?;
    assert_eq!(second.next()?.1, "while away");
    Ok(())
}

/// Redis goes and is back, and B, which has stood still, has no lease any more.
fn half_back(group: &mut Group, a: &Process, b: &Process) -> Result<redis::Connection, Failed> {
    b.signal("STOP")?;
    group.redis.kill()?;
    a.wait_for("Redis is away")?;
    group.redis.revive()?;
    let mut redis = group.redis.connection()?;
    // As if it had been away for longer than a lease.
    let lease = group.redis.key("GROUP1:NODE:B");
    redis::cmd("DEL").arg(lease).query::<()>(&mut redis)?;
    a.wait_for("Redis is reached generation=2")?;
    refreshed(group, true, &mut redis)?;
    Ok(redis)
}

/// Time to see that something does not happen.
const LONG: [&str; 2] = ["--cluster.lease=10s", "--cluster.takeover_timeout=10s"];

/// Waits until A has not refreshed its lease for 2 s, or has just done so.
fn refreshed(group: &Group, is_just: bool, redis: &mut redis::Connection) -> Result<(), Failed> {
    let key = group.redis.key("GROUP1:NODE:A");
    wait("A's lease is that old", || {
        let left_ms: i64 = redis::cmd("PTTL").arg(&key).query(redis)?;
        Ok(left_ms > 0 && (left_ms > 8000) == is_just)
    })
}

/// A neither adopts the session at B nor gives it to its client before B had its time, because B
/// has what nobody else has: messages in its memory.
fn not_dead_yet() -> Result<(), Failed> {
    let kept = ["--broker.storage.session=redis", "--broker.storage.subscription=redis"];
    let mut group = Group::with(Redis::start(true)?, &[&kept[..], &LONG].concat())?;
    let (a, b) = (group.node("A")?, group.node("B")?);
    let first = Client::open(&b, "s", false)?;
    first.subscribe("m/#")?;
    first.leave()?;
    wait("it is gone", || Ok(first.is_gone()))?;
    let publisher = Client::connect(&b, "p")?;
    publisher.publish("m/1", QoS::AtLeastOnce, "in memory")?;
    publisher.wait_acknowledged(1)?;
    let mut redis = half_back(&mut group, &a, &b)?;
    // Meanwhile it would have looked four times for what dead nodes left.
    refreshed(&group, false, &mut redis)?;
    let owner = |redis: &mut redis::Connection| {
        let key = group.redis.key("GROUP1:SESSION:s");
        redis::cmd("HGET").arg(key).arg("owner").query::<String>(redis)
    };
    let b_as_owner = owner(&mut redis)?;
    assert!(b_as_owner.starts_with("B:"), "adopted by {b_as_owner}");

    let second = thread::scope(|scope| {
        let coming = scope.spawn(|| Client::open(&a, "s", false));
        let wishes = group.redis.key(&format!("GROUP1:V2:EVICT:{b_as_owner}"));
        wait("B is asked for the session, or has lost it", || {
            let is_asked: bool = redis::cmd("EXISTS").arg(&wishes).query(&mut redis)?;
            Ok(is_asked || coming.is_finished())
        })?;
        b.signal("CONT")?;
        coming.join().map_err(|_| "the client panicked")?
    })?;
    assert_eq!(second.next()?.1, "in memory");
    Ok(())
}

/// B serves its clients all along: what they publish after a SUBACK at A, A gets.
fn not_known_yet() -> Result<(), Failed> {
    let mut group = Group::with(Redis::start(true)?, &LONG)?;
    let (a, b) = (group.node("A")?, group.node("B")?);
    let subscriber = Client::connect(&a, "s")?;
    let mut redis = half_back(&mut group, &a, &b)?;
    refreshed(&group, false, &mut redis)?;
    // Now A sees that B has no lease.
    refreshed(&group, true, &mut redis)?;
    thread::scope(|scope| {
        let subscribing = scope.spawn(|| subscriber.subscribe("n/#"));
        refreshed(&group, false, &mut redis)?;
        assert!(!subscribing.is_finished(), "SUBACK came before B knows");
        b.signal("CONT")?;
        subscribing.join().map_err(|_| "the subscriber panicked")?
    })?;
    Client::connect(&b, "p")?.publish("n/1", QoS::AtMostOnce, "x")?;
    assert_eq!(subscriber.next()?.1, "x");
    Ok(())
}

/// A publisher and a subscriber are on a node that dies before it can say that everybody has
/// confirmed a message: what it had recorded until then is put in the place of what it said.
fn published_again() -> Result<(), Failed> {
    const EXPIRY_S: u32 = 600;
    let publish = |id: u8, text: &str| {
        let packet = Packet::new("publish").number("qos", 2_u8).bytes("topic", "m/1");
        packet.number("id", id).bytes("payload", text)
    };
    let group = Group::new(KEPT)?;
    let (a, b, c) = (group.node("A")?, group.node("B")?, group.node("C")?);
    let mut redis = group.redis.connection()?;
    let [sent, got] = ["GROUP1:PUB:p", "GROUP1:V2:ONCE:s"].map(|key| group.redis.key(key));
    let mut field = |name: &str| -> Result<Option<Vec<u8>>, Failed> {
        Ok(redis::cmd("HGET").arg(&sent).arg(name).query(&mut redis)?)
    };
    let subscriber = Client::open(&a, "s", false)?;
    subscriber.subscribe("m/#")?;
    let other = Client::open(&c, "t", false)?;
    other.subscribe("m/#")?;
    let (mut publisher, _) = Raw::connect(&a, "p", EXPIRY_S)?;
    publisher.send(&publish(1, "x"))?;
    publisher.next_of("pubrec")?;
    assert_eq!((subscriber.next()?.1, other.next()?.1), ("x".to_owned(), "x".to_owned()));
    wait("it is recorded that it is done", || Ok(field("i1")?.is_some()))?;
    assert_eq!(field("n1")?, None);

    let mut redis = group.redis.connection()?;
    let mut numbers: Vec<Vec<u8>> = Vec::new();
    wait("the number of what came is recorded", || {
        numbers = redis::cmd("LRANGE").arg(&got).arg(0).arg(-1).query(&mut redis)?;
        Ok(!numbers.is_empty())
    })?;
    let [number] = &numbers[..] else { return Err("more than one number".into()) };
    let number = u64::from_be_bytes(number.as_slice().try_into()?);
    redis::cmd("HDEL").arg(&sent).arg("i1").exec(&mut redis)?;
    redis::cmd("HSET").arg(&sent).arg("n1").arg(number).exec(&mut redis)?;
    drop(a);
    let subscriber = Client::open(&c, "s", false)?;
    let (mut publisher, _) = Raw::open(&b, "p", EXPIRY_S, false)?;
    publisher.send(&publish(1, "x").number("dup", 1_u8))?;
    publisher.next_of("pubrec")?;
    publisher.send(&publish(2, "y"))?;
    publisher.next_of("pubrec")?;
    assert_eq!((subscriber.next()?.1, other.next()?.1), ("y".to_owned(), "y".to_owned()));
    wait("it is recorded again that it is done", || {
        Ok(field("i1")?.is_some() && field("n1")?.is_none())
    })?;
    publisher.send(&Packet::new("pubrel").number("id", 1_u8))?;
    publisher.next_of("pubcomp")?;
    assert_eq!(field("i1")?, None);
    Ok(())
}
