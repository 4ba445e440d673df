//! Limits that change with the configuration of a running broker.

use std::path::Path;

use libtest_mimic::Failed;

use super::client::{Card, Client};
use super::{Files, Test, metric, metrics, wait};
use crate::harness::broker::Process;
use crate::harness::wire::Version;

pub(super) const TESTS: &[(&str, Test)] = &[
    ("changed_limits_are_in_force_and_live_clients_stay", limits),
    ("a_broken_configuration_leaves_the_old_limits_in_force_and_is_told", broken),
    ("a_ban_in_the_configuration_comes_and_goes_with_it", bans),
    ("what_waits_for_a_restart_is_named", restart),
];

fn start(file: &Path, more: &[String]) -> Result<Process, Failed> {
    let own = ["--shards=2".to_owned(), format!("--config={}", file.display())];
    Ok(Process::start(&[&own[..], more].concat())?)
}

fn card(client: &str) -> Card<'_> {
    Card { client, ..Card::default() }
}

fn is_let_in(broker: &Process, client: &str) -> Result<bool, Failed> {
    let mut connection = Client::open(broker, Version::V5)?;
    // Closed at once, or told in CONNACK.
    let connack = connection.ask(&card(client).connect(), "connack");
    Ok(connack.is_ok_and(|connack| connack.number_of("code") == 0))
}

fn limits() -> Result<(), Failed> {
    let files = Files::new()?;
    let file = files.write("octopus.yml", "connections: {per_address_max: 2}\n")?;
    let broker = start(&file, &[])?;
    let mut old = Client::let_in(&broker, Version::V5, &card("old"))?;
    let mut other = Client::let_in(&broker, Version::V5, &card("other"))?;
    assert!(!is_let_in(&broker, "third")?);

    // By itself, when the file changes.
    files.write("octopus.yml", "connections: {per_address_max: 3}\nlimits: {qos_max: 0}\n")?;
    let line = broker.wait_for("configuration read again")?;
    assert!(line.contains("connections.per_address_max"), "{line}");
    assert!(line.contains("limits.qos_max"), "{line}");
    wait("a third is let in", || is_let_in(&broker, "third"))?;
    assert_ne!(old.publish("t", "as its CONNACK allows")?, 0x9b);
    let mut new = Client::open(&broker, Version::V5)?;
    wait("its place is free again", || {
        new = Client::open(&broker, Version::V5)?;
        let connack = new.ask(&card("new").connect(), "connack")?;
        let is_told = connack.get("qos-max").is_some() && connack.number_of("qos-max") == 0;
        assert_eq!(connack.number_of("code") == 0, is_told, "{connack:?}");
        Ok(is_told)
    })?;
    assert!(new.publish("t", "too high for it").is_err(), "closed");

    // On SIGHUP; more than may be are here already, and stay.
    files.write("octopus.yml", "connections: {count_max: 1, per_address_max: 9}\n")?;
    broker.signal("HUP")?;
    wait("no more are let in", || Ok(!is_let_in(&broker, "fourth")?))?;
    broker.wait_for("the node's limit is reached")?;
    old.ping()?;
    other.ping()
}

fn broken() -> Result<(), Failed> {
    let files = Files::new()?;
    let file = files.write("octopus.yml", "connections: {per_address_max: 1}\n")?;
    let (http, settings) = metrics();
    let broker = start(&file, &settings)?;
    let mut only = Client::let_in(&broker, Version::V5, &card("only"))?;
    let text = "connections: {per_address_max: 5}\nlimits: {qos_max: 9}\n";
    files.write("octopus.yml", text)?;
    let line = broker.wait_for("the old one stays in force")?;
    assert!(line.contains("octopus.yml:2") && line.contains("limits.qos_max"), "{line}");
    assert_eq!(metric(http, "octopus_config_broken")?, 1.0);
    assert!(!is_let_in(&broker, "another")?, "nothing of it is in force");
    only.ping()?;
    files.write("octopus.yml", "connections: {per_address_max: 2}\n")?;
    wait("the mended one is in force", || is_let_in(&broker, "another"))?;
    assert_eq!(metric(http, "octopus_config_broken")?, 0.0);
    assert!(metric(http, "octopus_config_reload_failures_total")? >= 1.0);
    only.ping()
}

fn bans() -> Result<(), Failed> {
    let files = Files::new()?;
    let file = files.write("octopus.yml", "auth: {ban: {list: []}}\n")?;
    let broker = start(&file, &[])?;
    let mut eve = Client::let_in(&broker, Version::V5, &card("eve"))?;
    let mut anna = Client::let_in(&broker, Version::V5, &card("anna"))?;
    files.write("octopus.yml", "auth: {ban: {list: ['client:eve']}}\n")?;
    assert_eq!(eve.expect("disconnect")?.number_of("code"), 0x8a);
    assert!(!is_let_in(&broker, "eve")?);
    files.write("octopus.yml", "auth: {ban: {list: []}}\n")?;
    wait("eve is let in again", || is_let_in(&broker, "eve"))?;
    anna.ping()
}

fn restart() -> Result<(), Failed> {
    let files = Files::new()?;
    let file = files.write("octopus.yml", "limits: {receive_max: 7}\n")?;
    let broker = start(&file, &[])?;
    files.write("octopus.yml", "limits: {receive_max: 8}\nauth: {timeout: 1s}\n")?;
    let line = broker.wait_for("configuration read again")?;
    let (applied, needs_restart) = line.split_once("needs_restart").ok_or("no such field")?;
    assert!(applied.contains("limits.receive_max"), "{line}");
    assert!(needs_restart.contains("auth.timeout"), "{line}");
    assert!(!needs_restart.contains("receive_max"), "{line}");
    Ok(())
}
