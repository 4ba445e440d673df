//! A Redis Cluster under the group: the same promises, and what only a Cluster can do to them. Its
//! masters die and replicas follow them, slots move to other masters.

use std::{collections::BTreeMap, thread, time::Duration};

use libtest_mimic::Failed;
use redis::{Connection, FromRedisValue as _, Value};
use rumqttc::QoS;

use super::{
    cases::wait_for_totals,
    client::Client,
    group::{Group, Redis, wait},
    history::scene::{Place, Scene, Stage},
};

type Case = fn() -> Result<(), Failed>;

const MASTERS: usize = 3;
const SLOTS: usize = 16384;
/// Acknowledgements of each publisher between two mishaps.
const WHILE: usize = 60;

pub(super) fn all() -> Vec<(&'static str, Case)> {
    vec![
        ("a_redis_cluster_carries_what_one_redis_does", carries),
        ("in_a_redis_cluster_qos_0_is_one_command_at_one_master", one_call_each),
        ("history_holds_when_a_redis_cluster_fails_over", fail_over),
        ("history_holds_when_slots_of_a_redis_cluster_move", slots_move),
    ]
}

/// A Redis Cluster of three masters, each with so many replicas; what is returned is the master
/// that serves the group, with the others.
pub(crate) fn start(replicas: usize, has_log: bool) -> Result<Redis, Failed> {
    let count = MASTERS * (1 + replicas);
    let mut servers = Vec::new();
    for _ in 0..count {
        servers.push(Redis::start_shard(has_log)?);
    }
    let mut connections = Vec::new();
    for server in &servers {
        connections.push(server.own_connection()?);
    }
    for (index, connection) in connections.iter_mut().take(MASTERS).enumerate() {
        let range = [index * SLOTS / MASTERS, (index + 1) * SLOTS / MASTERS - 1];
        cluster(&["SET-CONFIG-EPOCH", &(index + 1).to_string()], connection)?;
        let [first, last] = range.map(|slot| slot.to_string());
        cluster(&["ADDSLOTSRANGE", &first, &last], connection)?;
    }
    for server in &servers[1..] {
        let bus = server.bus().unwrap_or_default().to_string();
        let meet = ["MEET", "127.0.0.1", &server.port().to_string(), &bus];
        cluster(&meet, &mut connections[0])?;
    }
    let knows = format!("cluster_known_nodes:{count}");
    wait_for_all(&mut connections, &knows)?;
    for index in MASTERS..count {
        let master = text(cluster(&["MYID"], &mut connections[index % MASTERS])?);
        // It has to know the master as one before it may follow it.
        wait("the replica follows", || {
            Ok(cluster(&["REPLICATE", &master], &mut connections[index]).is_ok())
        })?;
    }
    wait_for_all(&mut connections, "cluster_state:ok")?;
    wait("every replica has what its master has", || {
        for connection in &mut connections[MASTERS..] {
            let info: String = redis::cmd("INFO").arg("replication").query(connection)?;
            if !info.contains("master_link_status:up") {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    let serves = |connection: &mut Connection| {
        redis::cmd("EXISTS").arg("{GROUP1}").query::<bool>(connection).is_ok()
    };
    let first = connections.iter_mut().position(serves).ok_or("nobody serves the group")?;
    let mut redis = servers.remove(first);
    redis.others = servers;
    Ok(redis)
}

fn wait_for_all(connections: &mut [Connection], what: &str) -> Result<(), Failed> {
    wait(&format!("all nodes of the Redis Cluster say {what}"), || {
        for connection in &mut *connections {
            if !text(cluster(&["INFO"], connection)?).contains(what) {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

fn cluster(words: &[&str], connection: &mut Connection) -> Result<Value, Failed> {
    Ok(redis::cmd("CLUSTER").arg(words).query(connection)?)
}

fn text(value: Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::VerbatimString { text, .. } | Value::SimpleString(text) => text,
        _ => String::new(),
    }
}

/// The names of the group's nodes' channels for QoS 0, and the index of the server each is at.
fn spread_channels(redis: &Redis) -> Result<BTreeMap<String, usize>, Failed> {
    let mut found = BTreeMap::new();
    for (index, server) in redis.all().enumerate() {
        let mut connection = server.own_connection()?;
        let mut pubsub = redis::cmd("PUBSUB");
        let channels: Vec<String> =
            pubsub.arg("SHARDCHANNELS").arg("GROUP1:V2:BRIDGE:*").query(&mut connection)?;
        found.extend(channels.into_iter().map(|channel| (channel, index)));
    }
    Ok(found)
}

/// Moves a slot key by key to the server of this index, as `redis-cli --cluster reshard` does. It
/// rests for a while when nothing has moved yet, and with some of the keys there and some here.
/// Answers how many scripts ran where it was meanwhile.
fn move_slot(redis: &Redis, key: &str, to: usize) -> Result<u64, Failed> {
    let servers: Vec<&Redis> = redis.all().collect();
    let target = servers.get(to).ok_or("no such server")?;
    let mut target_connection = target.own_connection()?;
    let slot = u64::from_redis_value(cluster(&["KEYSLOT", key], &mut target_connection)?)?;
    let slot = slot.to_string();
    let from = servers.iter().find(|server| {
        let exists = |mut c| redis::cmd("EXISTS").arg(key).query::<bool>(&mut c).is_ok();
        server.own_connection().is_ok_and(exists)
    });
    let from = from.ok_or("nobody serves the slot")?;
    let scripts = || Ok::<u64, Failed>(from.calls("eval")? + from.calls("evalsha")?);
    let mut source = from.own_connection()?;
    let from_id = text(cluster(&["MYID"], &mut source)?);
    let to_id = text(cluster(&["MYID"], &mut target_connection)?);
    cluster(&["SETSLOT", &slot, "IMPORTING", &from_id], &mut target_connection)?;
    cluster(&["SETSLOT", &slot, "MIGRATING", &to_id], &mut source)?;
    let before = scripts()?;
    thread::sleep(Duration::from_millis(100));
    let mut is_first = true;
    loop {
        let keys = cluster(&["GETKEYSINSLOT", &slot, "10"], &mut source)?;
        let keys = Vec::<String>::from_redis_value(keys)?;
        if keys.is_empty() {
            break;
        }
        let mut migrate = redis::cmd("MIGRATE");
        migrate.arg("127.0.0.1").arg(target.port()).arg("").arg(0).arg(5000);
        migrate.arg("KEYS").arg(keys).query::<()>(&mut source)?;
        if std::mem::take(&mut is_first) {
            thread::sleep(Duration::from_millis(300));
        }
    }
    let scripts = scripts()? - before;
    cluster(&["SETSLOT", &slot, "NODE", &to_id], &mut target_connection)?;
    cluster(&["SETSLOT", &slot, "NODE", &to_id], &mut source)?;
    Ok(scripts)
}

/// How often the masters were told to publish on a channel of one slot.
fn spread_count(redis: &Redis) -> Result<u64, Failed> {
    redis.all().map(|server| server.calls("spublish")).sum()
}

fn carries() -> Result<(), Failed> {
    let settings = ["--stats.interval=1s", "--cluster.compat.enable=true"];
    let group = Group::with(start(0, false)?, &settings)?;
    let (a, b) = (group.node("A")?, group.node("B")?);
    let (publisher, subscriber) = (Client::connect(&a, "p")?, Client::connect(&b, "s")?);
    subscriber.subscribe("a/+")?;
    subscriber.subscribe("$share/g/s")?;
    subscriber.settle(&publisher, "s")?;
    for (qos, text) in [(QoS::AtMostOnce, "0"), (QoS::AtLeastOnce, "1"), (QoS::ExactlyOnce, "2")] {
        publisher.publish("a/b", qos, text)?;
        assert_eq!(subscriber.next_real()?, ("a/b".into(), text.into(), false));
        publisher.publish("s", qos, text)?;
        assert_eq!(subscriber.next()?, ("s".into(), text.into(), false));
    }
    publisher.retain("r/1", "kept")?;
    subscriber.subscribe("r/#")?;
    assert_eq!(subscriber.next()?.1, "kept");
    each_where_its_slot_is(&group.redis)?;

    // A kick by the predecessor, from wherever in the Cluster it is.
    let kicked = Client::connect(&b, "kicked")?;
    let json = concat!(
        r#"{"identity":{"clusterMessageId":0,"group":"GROUP1","brokerId":"BROKER9"},"#,
        r#""clientToClose":"kicked"}"#,
    );
    for server in group.redis.all() {
        let mut connection = server.own_connection()?;
        redis::cmd("PUBLISH").arg("GROUP1:CLOSE:BRIDGE").arg(json).query::<()>(&mut connection)?;
    }
    wait("the client is gone", || Ok(kicked.is_gone()))?;

    // The session moves, and with it the channel it is reached by.
    let moved = Client::open(&a, "moved", false)?;
    moved.subscribe("m/#")?;
    let again = Client::open(&b, "moved", false)?;
    wait("the old connection is closed", || Ok(moved.is_gone()))?;
    publisher.publish("m/1", QoS::AtLeastOnce, "after")?;
    assert_eq!(again.next()?.1, "after");
    wait_for_totals(&group, &[("CONNECTION", 3), ("SUBSCRIPTIONS", 4), ("RETAINED", 1)])
}

/// Each node is listened for where its own slot is.
fn each_where_its_slot_is(redis: &Redis) -> Result<(), Failed> {
    let channels = spread_channels(redis)?;
    assert_eq!(channels.len(), 2, "{channels:?}");
    let servers: Vec<&Redis> = redis.all().collect();
    for (channel, index) in channels {
        let mut connection = servers[index].own_connection()?;
        // It is refused by all others.
        redis::cmd("EXISTS").arg(channel).query::<bool>(&mut connection)?;
    }
    Ok(())
}

/// A message of QoS 0 for one node is one command at one master, and no other master and no
/// script has to do with it.
fn one_call_each() -> Result<(), Failed> {
    const COUNT: u64 = 50;
    let group = Group::with(start(0, false)?, &["--stats.interval=1h"])?;
    let (a, b) = (group.node("A")?, group.node("B")?);
    let (publisher, subscriber) = (Client::connect(&a, "p")?, Client::connect(&b, "s")?);
    // With its SUBACK the other node knows it, and nothing more is told between the nodes.
    subscriber.subscribe("a/#")?;
    publisher.publish("a/0", QoS::AtMostOnce, "first")?;
    assert_eq!(subscriber.next()?.1, "first");
    let before = spread_count(&group.redis)?;
    for number in 0..COUNT {
        // One at a time, so that they do not share a frame.
        publisher.publish("a/0", QoS::AtMostOnce, &number.to_string())?;
        assert_eq!(subscriber.next()?.1, number.to_string());
    }
    assert_eq!(spread_count(&group.redis)? - before, COUNT);
    Ok(())
}

/// The master that serves the group dies when its replica has what it acknowledged. Sessions stay
/// where they are: it takes 2 to 3 s, and nodes let go of them later.
fn fail_over() -> Result<(), Failed> {
    let redis = start(1, false)?;
    let mut settings = redis.settings();
    let patience = ["--cluster.takeover_timeout=10s", "--cluster.lease=10s"];
    settings.extend(patience.map(str::to_owned));
    let places = [(); 3].map(|()| Place::here());
    let mut scene = Scene::begin(Stage::at(redis, &places, &settings)?)?;
    scene.go_on(WHILE)?;
    scene.stage.redis.kill_followed()?;
    scene.node("A").running()?.wait_for("Redis is away")?;
    scene.go_on(WHILE)?;
    scene.end()
}

/// The slot of the group goes to another master, then that of a node's channel. Until the first
/// is there as a whole, Redis is away for the group.
fn slots_move() -> Result<(), Failed> {
    let scene = Scene::begin(Stage::with(start(0, false)?, &[])?)?;
    scene.go_on(WHILE)?;
    // They would have found some of their keys only.
    assert_eq!(move_slot(&scene.stage.redis, "{GROUP1}", 1)?, 0, "scripts on half of the keys");
    scene.go_on(WHILE)?;
    for (channel, index) in spread_channels(&scene.stage.redis)? {
        let to = (index + 1) % MASTERS;
        move_slot(&scene.stage.redis, &channel, to)?;
        wait("it is listened to where it is now", || {
            Ok(spread_channels(&scene.stage.redis)?.get(&channel) == Some(&to))
        })?;
    }
    scene.go_on(WHILE)?;
    scene.end()
}
