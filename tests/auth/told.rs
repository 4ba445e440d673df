//! Each limit, when it is met a hundred times: a counter that says so, and a log of at most a
//! line a second and shard.

use std::time::Instant;

use libtest_mimic::Failed;

use super::client::{Card, Client, publish};
use super::{Test, metric, metrics, wait};
use crate::harness::broker::Process;
use crate::harness::wire::Version;

pub(super) const TESTS: &[(&str, Test)] = &[
    ("connections_over_each_limit_are_counted_and_not_all_logged", connections),
    ("bans_are_counted_and_not_all_logged", bans),
    ("slowed_reads_are_counted_and_not_all_logged", rates),
    ("a_full_budget_is_counted_and_not_all_logged", memory),
    ("a_name_with_a_line_end_makes_no_line_of_its_own", names),
];

/// How often each limit is met.
const TIMES: usize = 100;
const SHARDS: u64 = 2;

/// A broker with one limit, and what it says of itself.
struct Scene {
    broker: Process,
    http: std::net::SocketAddr,
    start: Instant,
}

impl Scene {
    fn new(settings: &[&str]) -> Result<Self, Failed> {
        let (http, with_metrics) = metrics();
        let own = [format!("--shards={SHARDS}")];
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        let broker = Process::start(&[&own[..], &with_metrics, &settings].concat())?;
        Ok(Self { broker, http, start: Instant::now() })
    }

    fn stay(&self, id: &str) -> Result<Client, Failed> {
        Client::let_in(&self.broker, Version::V5, &Card::new(id, "roger", ""))
    }

    fn try_often(&self, id: impl Fn(usize) -> String) {
        for number in 0..TIMES {
            // Refused or closed, as is wanted.
            let _ =
                Client::connect(&self.broker, Version::V5, &Card::new(&id(number), "roger", ""));
        }
    }

    /// `counter` has counted at least so many, and lines with `text` are few: one a second and
    /// shard, and at least one.
    fn is_told(&self, counter: &str, least: usize, text: &str) -> Result<(), Failed> {
        wait(counter, || Ok(metric(self.http, counter)? >= least as f64))?;
        self.broker.wait_for(text)?;
        let lines = self.broker.log().lines().filter(|line| line.contains(text)).count() as u64;
        let lines_max = (self.start.elapsed().as_secs() + 1) * SHARDS;
        assert!(lines <= lines_max, "{lines} lines with {text:?}, {lines_max} may be");
        Ok(())
    }
}

fn connections() -> Result<(), Failed> {
    for (setting, counter, text) in [
        (
            "--connections.count_max=1",
            "octopus_sockets_refused_total",
            "connections refused: the node's limit is reached",
        ),
        (
            "--connections.per_address_max=1",
            "octopus_auth_over_address_limit_total",
            "too many connections from this address",
        ),
        (
            "--connections.per_user_max=1",
            "octopus_auth_over_user_limit_total",
            "too many connections of this user",
        ),
        ("--limits.duplicate_login=refuse_newer", "octopus_duplicates_refused_total", " refused "),
    ] {
        let scene = Scene::new(&[setting])?;
        let _stays = scene.stay("stays")?;
        let is_duplicate = setting.contains("duplicate");
        scene.try_often(|n| if is_duplicate { "stays".to_owned() } else { format!("more-{n}") });
        scene.is_told(counter, TIMES, text)?;
    }
    let scene = Scene::new(&["--connections.rate_max=200"])?;
    scene.try_often(|n| n.to_string());
    scene.is_told("octopus_accepts_paced_total", 1, "connections wait")
}

fn bans() -> Result<(), Failed> {
    let scene = Scene::new(&["--auth.ban.list=user:roger"])?;
    scene.try_often(|n| n.to_string());
    scene.is_told("octopus_auth_banned_total", TIMES, "why=\"banned\"")?;
    let scene = Scene::new(&["--auth.ban.flaps_max=2"])?;
    scene.try_often(|n| (n / 2).to_string());
    let counter = "octopus_auth_bans_for_flapping_total";
    scene.is_told(counter, TIMES / 2, "it connects too often")?;
    let chain = ["--broker.auth.enable=true", "--auth.chain=anonymous"];
    let scene = Scene::new(&[&chain[..], &["--auth.ban.failures_max=5"]].concat())?;
    scene.try_often(|n| n.to_string());
    scene.is_told("octopus_auth_bans_for_failures_total", 1, "too many failures")?;
    scene.is_told("octopus_auth_banned_total", TIMES - 5, "authentication failed")
}

fn rates() -> Result<(), Failed> {
    for (setting, counter) in [
        ("--limits.message_rate_max=100", "octopus_reads_slowed_total"),
        ("--limits.byte_rate_max=2KiB", "octopus_reads_slowed_total"),
        ("--broker.message_rate_max=100", "octopus_listener_reads_slowed_total"),
        ("--broker.byte_rate_max=2KiB", "octopus_listener_reads_slowed_total"),
    ] {
        let scene = Scene::new(&[setting])?;
        let mut writer = scene.stay("writer")?;
        let message = publish("t", &"x".repeat(40));
        for round in 0..25 {
            for _ in 0..10 {
                writer.send(&message)?;
            }
            writer.ping().map_err(|fault| format!("{setting}, round {round}: {fault:?}"))?;
        }
        scene.is_told(counter, 2, "read more slowly")?;
    }
    Ok(())
}

fn memory() -> Result<(), Failed> {
    let scene = Scene::new(&["--limits.memory_bytes_max=64KiB"])?;
    let mut writer = scene.stay("writer")?;
    for index in 0..40 {
        let packet = publish(&format!("t/{index}"), &"x".repeat(1000));
        writer.send(&packet.number("retain", 1_u8))?;
    }
    scene.try_often(|n| format!("new-{n}"));
    scene.is_told("octopus_memory_connects_refused_total", TIMES / 2, "limits.memory_bytes_max")?;
    scene.is_told("octopus_memory_connects_refused_total", TIMES / 2, " refused ")
}

/// Who could forge a line could have fail2ban shut others out.
fn names() -> Result<(), Failed> {
    let scene = Scene::new(&["--auth.ban.list=user:eve"])?;
    let forged = "x\nforged WARN authentication failed address=192.0.2.1";
    for user in ["roger", "eve", forged] {
        let card = Card::new(forged, user, "");
        drop(Client::connect(&scene.broker, Version::V5, &card)?);
    }
    scene.broker.wait_for("authentication failed")?;
    wait("all three are told of", || {
        let log = scene.broker.log();
        Ok(log.lines().filter(|line| line.contains("forged")).count() >= 5)
    })?;
    let log = scene.broker.log();
    assert!(!log.lines().any(|line| line.starts_with("forged")), "{log}");
    Ok(())
}
