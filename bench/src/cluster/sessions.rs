//! How long sessions take to move: to where their client connects, and away from a dead node.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use clap::Parser;
use rustix::process::Signal;

use super::{ClusterOptions, Group, say};
use crate::{cli::Cli, plan::Plan, report::Outcome, run::run};

/// All of a session is kept in Redis.
const KEPT: &str = "--broker.storage.session=redis --broker.storage.subscription=redis \
                    --broker.storage.publish=redis";
/// Sessions that change their node, one after the other or all at a time.
const MOVED: usize = 100;
const ADOPT_MAX: Duration = Duration::from_secs(90);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// What happens to the node that has the sessions.
#[derive(Clone, Copy)]
enum Fate {
    Lives,
    StandsStill,
    Dies,
}

/// Clients connect to one node, then with the same names to another.
pub(super) fn takeover(options: &ClusterOptions) -> io::Result<()> {
    say(&format!(
        "### Takeover\n\nFrom connect to CONNACK of {MOVED} clients whose sessions another node has.\n"
    ))?;
    say(
        "| the old node | at a time | p50 ms | p99 ms | max ms |\n| --- | --: | --: | --: | --: |",
    )?;
    for (name, fate, window) in [
        ("lives", Fate::Lives, 1),
        ("lives", Fate::Lives, MOVED),
        ("stands still (SIGSTOP)", Fate::StandsStill, MOVED),
        ("is killed at that moment", Fate::Dies, MOVED),
    ] {
        let group = Group::start(options, 2, KEPT)?;
        let outcome = move_clients(&group, fate, window)?;
        let ms = |us: u64| us as f64 / 1000.0;
        if let Some(times) = outcome.connect {
            say(&format!(
                "| {name} | {window} | {:.1} | {:.1} | {:.1} |",
                ms(times.p50_us),
                ms(times.p99_us),
                ms(times.max_us)
            ))?;
        }
        if outcome.connected != MOVED as u64 {
            say(&format!(
                "only {} of {MOVED} were let in: {:?}",
                outcome.connected, outcome.errors
            ))?;
        }
    }
    say("")
}

fn move_clients(group: &Group, fate: Fate, window: usize) -> io::Result<Outcome> {
    let [old, new] = &group.nodes[..] else { return Err(io::Error::other("two nodes")) };
    let hold = hold(old.port(), MOVED, "sub -t m/%i -q 1");
    let first = thread::spawn(move || play(&hold));
    wait_until(|| Ok(subscribed(group)? >= MOVED as u64))?;
    match fate {
        Fate::Lives => {}
        Fate::StandsStill => old.signal(Signal::STOP)?,
        Fate::Dies => old.signal(Signal::KILL)?,
    }
    let line = format!(
        "conn -c {MOVED} -C -I mover-%i --hold 0 --port {} --connect-window {window}",
        new.port()
    );
    let outcome = play(&line)?;
    if matches!(fate, Fate::StandsStill) {
        old.signal(Signal::CONT)?;
    }
    // Its clients were sent away, which it counts as errors.
    let _ = first.join();
    Ok(outcome)
}

/// A node with many sessions is killed; another takes them.
pub(super) fn adopt(options: &ClusterOptions) -> io::Result<()> {
    let count = options.sessions;
    say(&format!(
        "### Adoption\n\n{count} sessions with one subscription each, their node killed, one other node.\n"
    ))?;
    let group = Group::start(options, 2, KEPT)?;
    let [old, _] = &group.nodes[..] else { return Err(io::Error::other("two nodes")) };
    let hold = hold(old.port(), count, "sub -t m/%i -q 1");
    let first = thread::spawn(move || play(&hold));
    wait_until(|| Ok(subscribed(&group)? >= count as u64))?;
    let before = group.look();
    old.signal(Signal::KILL)?;
    let killed = Instant::now();
    let full = owned_by(&group, "N0")?;
    wait_until(|| Ok(owned_by(&group, "N0")? < full))?;
    let begun = killed.elapsed();
    wait_until(|| Ok(owned_by(&group, "N0")? == 0))?;
    let done = killed.elapsed();
    let after = group.look();
    let per_session = (after.redis_ns - before.redis_ns) as f64 / 1000.0 / count as f64;
    say(&format!(
        "The first was adopted {:.2} s after the kill (cluster.lease is 5 s), the last {:.2} s \
         after the first; Redis used {per_session:.1} µs of CPU for each.\n",
        begun.as_secs_f64(),
        (done - begun).as_secs_f64(),
    ))?;
    // Its clients lost their node, which it counts as errors.
    let _ = first.join();
    Ok(())
}

/// A load that keeps its connections until they are closed, or for a while.
fn hold(port: u16, count: usize, load: &str) -> String {
    format!("{load} -c {count} -C -I mover-%i --hold 30 --port {port}")
}

fn play(load: &str) -> io::Result<Outcome> {
    let line = format!("octopus-bench {load} --quiet");
    let cli = Cli::try_parse_from(line.split(' ')).map_err(io::Error::other)?;
    let plan = Plan::of(&cli.command)?.pop().ok_or_else(|| io::Error::other("no load"))?;
    run(plan, &mut |_| {})
}

/// Sessions with their subscriptions, whoever has them.
fn subscribed(group: &Group) -> io::Result<u64> {
    number(group, "return #redis.call('KEYS','BENCH:SUB:*')")
}

/// Sessions that a node has, in any of its lives.
fn owned_by(group: &Group, node: &str) -> io::Result<u64> {
    let script = format!(
        "local n = 0 \
         for _, owner in ipairs(redis.call('SMEMBERS', 'BENCH:V2:OWNERS')) do \
         if string.sub(owner, 1, {}) == '{node}:' then \
         n = n + redis.call('SCARD', 'BENCH:V2:OWNED:' .. owner) end end return n",
        node.len() + 1
    );
    number(group, &script)
}

fn number(group: &Group, script: &str) -> io::Result<u64> {
    let answer = group.redis.ask(&format!("EVAL \"{script}\" 0"))?;
    answer.parse().map_err(|_| io::Error::other(format!("Redis says {answer}")))
}

fn wait_until(mut condition: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < ADOPT_MAX {
        if condition()? {
            return Ok(());
        }
        thread::sleep(LOOK_INTERVAL);
    }
    Err(io::Error::other("waited in vain"))
}
