//! What may happen to a group, one mishap a case; the history is judged after each.

use std::{process::Command, thread, time::Duration};

use libtest_mimic::Failed;

use super::{
    super::group::{Redis, wait},
    Case,
    scene::{CREW, Place, Scene, Stage},
};

/// Acknowledgements of each publisher between two mishaps.
pub(super) const WHILE: usize = 60;

pub(super) fn all() -> Vec<(&'static str, Case)> {
    vec![
        ("history_holds_when_nothing_happens", nothing),
        ("history_holds_when_redis_restarts_with_its_log", restarted),
        ("history_holds_when_redis_is_valkey_and_restarts", valkey),
        ("history_holds_when_redis_is_away_beyond_the_leases", away_for_long),
        ("history_holds_when_redis_restarts_without_its_log", emptied),
        ("history_holds_when_sentinels_fail_over", failed_over),
        ("history_holds_when_a_nodes_clock_steps", node_clock),
        ("history_holds_when_a_nodes_wire_to_redis_is_cut_for_a_moment", cut_for_a_moment),
        ("history_holds_when_a_node_is_cut_off_from_its_clients", cut_from_clients),
        ("history_holds_when_a_node_is_cut_off_from_redis_beyond_its_lease", cut_for_long),
        ("history_holds_when_a_node_is_killed", killed),
        ("history_holds_when_a_node_is_killed_and_starts_again", killed_and_started),
        ("history_holds_for_a_shared_group_when_a_members_node_is_killed", member_killed),
        ("history_holds_when_two_nodes_are_killed_one_after_the_other", killed_in_turn),
        ("history_holds_when_a_node_stands_still_beyond_its_lease", stopped),
        ("history_holds_when_a_node_stands_still_for_a_moment", stopped_for_a_moment),
    ]
}

pub(super) fn scene() -> Result<Scene, Failed> {
    Scene::begin(Stage::with(Redis::start(false)?, &[])?)
}

fn nothing() -> Result<(), Failed> {
    let scene = scene()?;
    scene.go_on(WHILE)?;
    scene.end()
}

fn restarted() -> Result<(), Failed> {
    restart(Redis::start(true)?)
}

fn valkey() -> Result<(), Failed> {
    restart(Redis::valkey()?)
}

fn restart(redis: Redis) -> Result<(), Failed> {
    let mut scene = Scene::begin(Stage::with(redis, &[])?)?;
    scene.go_on(WHILE)?;
    scene.stage.redis.kill()?;
    scene.node("A").running()?.wait_for("Redis is away")?;
    scene.stage.redis.revive()?;
    scene.go_on(WHILE)?;
    scene.end()
}

/// Every node has let go of its clients, and no lease holds any more, when Redis is back.
fn away_for_long() -> Result<(), Failed> {
    let mut scene = Scene::begin(Stage::with(Redis::start(true)?, &[])?)?;
    scene.go_on(WHILE)?;
    scene.stage.redis.kill()?;
    scene.mishap();
    thread::sleep(Duration::from_millis(2600));
    scene.stage.redis.revive()?;
    scene.go_on(WHILE)?;
    scene.end()
}

/// All that the nodes hold in memory is given back: sessions with their subscriptions and
/// queues, what is retained, who is in the group and wants what. What stands in Redis alone
/// cannot be, so publishers rest until that is nothing.
fn emptied() -> Result<(), Failed> {
    let mut scene = scene()?;
    for _ in 0..2 {
        scene.go_on(WHILE)?;
        scene.rest()?;
        scene.wait_taken_in()?;
        scene.stage.redis.kill()?;
        scene.node("A").running()?.wait_for("Redis is away")?;
        scene.stage.redis.revive()?;
        scene.resume();
    }
    scene.go_on(WHILE)?;
    scene.end()
}

/// The master dies under load, and two of three Sentinels make its replica the master. What it had
/// acknowledged and not yet sent to the replica may be lost, that is not promised; a process that
/// is killed has sent it, a moment aside, because the kernel delivers what it wrote. So all of the
/// promises are asked for. Sessions stay where they are: nodes let go of them later than the 2 s
/// or so that it takes, and than the 4 s more of each vote without a majority.
fn failed_over() -> Result<(), Failed> {
    let (mut master, replica) = (Redis::start_alone(false)?, Redis::start_alone(false)?);
    replica.follow(&master)?;
    let sentinels = [master.watched()?, master.watched()?, master.watched()?];
    for sentinel in &sentinels {
        let mut connection = sentinel.own_connection()?;
        wait("each Sentinel knows the others", || {
            let mut others = redis::cmd("SENTINEL");
            let others: Vec<redis::Value> =
                others.arg("SENTINELS").arg("octopus").query(&mut connection)?;
            Ok(others.len() == 2)
        })?;
    }
    let ports = sentinels.each_ref().map(|sentinel| format!("127.0.0.1:{}", sentinel.port()));
    let settings = [
        "--redis.sentinel.master=octopus".to_owned(),
        format!("--redis.sentinel.nodes={}", ports.join(",")),
        "--cluster.takeover_timeout=30s".to_owned(),
        "--cluster.lease=30s".to_owned(),
    ];
    // Whoever looks for the group's keys finds the first of them that is there.
    master.others = vec![replica];
    let places = [(); 3].map(|()| Place::here());
    let mut scene = Scene::begin(Stage::at(master, &places, &settings)?)?;
    scene.go_on(WHILE)?;
    scene.stage.redis.kill_followed()?;
    scene.node("A").running()?.wait_for("Redis is away")?;
    scene.go_on(WHILE)?;
    scene.end()
}

/// Shorter than its sessions are safe from being taken.
fn cut_for_a_moment() -> Result<(), Failed> {
    let mut scene = scene()?;
    scene.go_on(WHILE)?;
    if let Some(wire) = &scene.node("B").wire {
        wire.cut();
        thread::sleep(Duration::from_millis(700));
        wire.heal();
    }
    scene.go_on(WHILE)?;
    scene.end()
}

/// Others have its sessions when it can speak again.
fn cut_for_long() -> Result<(), Failed> {
    let mut scene = scene()?;
    scene.go_on(WHILE)?;
    if let Some(wire) = &scene.node("B").wire {
        wire.cut();
    }
    scene.mishap();
    scene.wait_until_gone("B")?;
    scene.go_on(WHILE)?;
    if let Some(wire) = &scene.node("B").wire {
        wire.heal();
    }
    scene.wait_until_there("B")?;
    scene.go_on(WHILE)?;
    scene.end()
}

fn killed() -> Result<(), Failed> {
    let mut scene = scene()?;
    scene.go_on(WHILE)?;
    scene.kill("B");
    scene.go_on(WHILE)?;
    scene.wait_until_forgotten()?;
    scene.end()
}

fn killed_and_started() -> Result<(), Failed> {
    let mut scene = scene()?;
    scene.go_on(WHILE)?;
    scene.kill("B");
    scene.node("B").revive()?;
    scene.go_on(WHILE)?;
    scene.wait_until_forgotten()?;
    scene.end()
}

/// Silent first, so that it has messages for its members in its inbox when it dies, and its
/// publishers the acknowledgements.
fn member_killed() -> Result<(), Failed> {
    let stage = Stage::with(Redis::start(false)?, &[])?;
    let mut scene = Scene::begin_with(stage, CREW)?;
    scene.go_on(WHILE)?;
    scene.node("B").running()?.signal("STOP")?;
    scene.go_on(WHILE)?;
    scene.kill("B");
    scene.go_on(WHILE)?;
    scene.wait_until_forgotten()?;
    scene.end()
}

/// The second one while it takes over from the first.
fn killed_in_turn() -> Result<(), Failed> {
    let mut scene = scene()?;
    scene.go_on(WHILE)?;
    scene.kill("B");
    scene.wait_until_gone("B")?;
    scene.kill("C");
    scene.go_on(WHILE)?;
    scene.node("B").revive()?;
    scene.go_on(WHILE)?;
    scene.wait_until_forgotten()?;
    scene.end()
}

fn stopped() -> Result<(), Failed> {
    let mut scene = scene()?;
    scene.go_on(WHILE)?;
    scene.node("B").running()?.signal("STOP")?;
    scene.mishap();
    scene.wait_until_gone("B")?;
    scene.go_on(WHILE)?;
    scene.node("B").running()?.signal("CONT")?;
    scene.wait_until_there("B")?;
    scene.go_on(WHILE)?;
    scene.end()
}

/// Its clients go elsewhere, and it wakes before its lease is out.
fn stopped_for_a_moment() -> Result<(), Failed> {
    let mut scene = scene()?;
    for _ in 0..3 {
        scene.go_on(WHILE)?;
        scene.node("B").running()?.signal("STOP")?;
        scene.mishap();
        thread::sleep(Duration::from_millis(1700));
        scene.node("B").running()?.signal("CONT")?;
    }
    scene.go_on(WHILE)?;
    scene.end()
}

fn cut_from_clients() -> Result<(), Failed> {
    let mut scene = scene()?;
    scene.go_on(WHILE)?;
    if let Some(door) = &scene.node("B").door {
        door.cut();
    }
    scene.go_on(WHILE)?;
    if let Some(door) = &scene.node("B").door {
        door.heal();
    }
    scene.go_on(WHILE)?;
    scene.end()
}

/// The wall clock of one node is an hour fast, then an hour slow. libfaketime stands between
/// the node and the C library; the monotonic clock is left alone, as a real step leaves it.
fn node_clock() -> Result<(), Failed> {
    let file = std::env::temp_dir().join(format!("octopus-clock-{}", std::process::id()));
    let step = |offset: &str| std::fs::write(&file, offset);
    step("+0")?;
    let library = faketime()?;
    let environment = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", &file.to_string_lossy()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let scene = Scene::begin(Stage::with(Redis::start(false)?, &environment)?)?;
    scene.go_on(WHILE)?;
    for offset in ["+3600", "-3600", "+0"] {
        step(offset)?;
        scene.go_on(WHILE)?;
    }
    scene.end()?;
    Ok(std::fs::remove_file(file)?)
}

fn faketime() -> Result<String, Failed> {
    let output = Command::new("faketime").args(["-f", "+0", "printenv", "LD_PRELOAD"]).output();
    let output =
        output.map_err(|error| format!("faketime, which tests/run.sh installs: {error}"))?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}
