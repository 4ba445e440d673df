//! Files that change under a running broker: on their own, and on SIGHUP.

use std::fs;

use libtest_mimic::Failed;

use super::backends::set;
use super::client::{Card, Client, publish};
use super::{Files, Test, broker};
use crate::harness::broker::Process;
use crate::harness::wire::Version;

pub(super) const TESTS: &[(&str, Test)] = &[
    ("a_deleted_account_is_dropped_and_others_are_not_touched", deleted),
    ("a_changed_password_drops_who_came_with_the_old_one", changed),
    ("changed_rules_reach_live_clients", rules),
    ("a_broken_file_leaves_the_old_one_in_force", broken),
];

fn start() -> Result<(Process, Files), Failed> {
    let files = Files::new()?;
    let (passwords, acl) = (files.path("passwords"), files.path("acl"));
    set(&passwords, "roger", "one", &[])?;
    set(&passwords, "anna", "two", &[])?;
    fs::write(&acl, "pattern readwrite #\n")?;
    let broker = broker(&[
        format!("--auth.password_file={}", passwords.display()),
        format!("--auth.acl_file={}", acl.display()),
    ])?;
    Ok((broker, files))
}

fn roger(broker: &Process) -> Result<Client, Failed> {
    Client::let_in(broker, Version::V5, &Card::new("roger", "roger", "one"))
}

fn anna(broker: &Process) -> Result<Client, Failed> {
    Client::let_in(broker, Version::V5, &Card::new("anna", "anna", "two"))
}

fn deleted() -> Result<(), Failed> {
    let (broker, files) = start()?;
    let (mut roger, mut anna) = (roger(&broker)?, anna(&broker)?);
    let passwords = files.path("passwords").display().to_string();
    super::passwd_delete(&passwords, "roger")?;
    let goodbye = roger.expect("disconnect")?;
    assert_eq!(goodbye.number_of("code"), 0x87);
    anna.ping()?;
    let (_, code) = Client::connect(&broker, Version::V5, &Card::new("roger", "roger", "one"))?;
    assert_eq!(code, 0x86, "not by the cache either");
    anna.ping()
}

fn changed() -> Result<(), Failed> {
    let (broker, files) = start()?;
    let (mut roger, mut anna) = (roger(&broker)?, anna(&broker)?);
    set(&files.path("passwords"), "roger", "new", &[])?;
    broker.signal("HUP")?;
    roger.expect("disconnect")?;
    Client::let_in(&broker, Version::V5, &Card::new("roger", "roger", "new"))?;
    anna.ping()
}

fn rules() -> Result<(), Failed> {
    let (broker, files) = start()?;
    let (mut roger, mut anna) = (roger(&broker)?, anna(&broker)?);
    for filter in ["secret/#", "open/#", "$share/g/secret/x"] {
        assert_eq!(roger.subscribe(filter)?, 1, "{filter}");
    }
    fs::write(files.path("acl"), "pattern readwrite open/#\nuser anna\ntopic write secret/#\n")?;
    broker.signal("HUP")?;
    broker.wait_for("reloaded")?;
    // Once roger is told no, all that changed for him is done.
    super::wait("the new rules hold", || Ok(roger.publish("secret/x", "")? == 0x87))?;
    anna.publish("secret/x", "not for roger")?;
    anna.send(&publish("open/x", "for all"))?;
    let came = roger.expect("publish")?;
    assert_eq!(came.bytes_of("payload"), b"for all");
    assert_eq!(roger.subscribe("secret/#")?, 0x87);
    Ok(())
}

fn broken() -> Result<(), Failed> {
    let (broker, files) = start()?;
    let mut roger = roger(&broker)?;
    files.write("passwords", "roger:not a hash\n")?;
    let line = broker.wait_for("stays in force")?;
    assert!(line.contains("line 1") && line.contains("passwords"), "{line}");
    roger.ping()?;
    anna(&broker)?.ping()
}
