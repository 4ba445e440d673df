//! Certificates, keys and revocation lists that change under a running broker.

use std::fs;
use std::process::Command;

use libtest_mimic::Failed;

use super::{Door, MUTUAL, Tests, wait};
use crate::harness::broker::Process;

pub(super) const TESTS: Tests = &[
    ("certificates_are_read_again_on_sighup", hangup),
    ("a_changed_revocation_list_drops_the_revoked_and_nobody_else", revoked),
    ("a_broken_file_leaves_the_old_certificates_in_force_and_is_told", broken),
    ("a_changed_certificate_is_shown_to_new_clients_and_live_ones_stay", renewed),
];

const MESSAGE: [&str; 6] = ["-t", "a", "-m", "b", "-q", "1"];

fn hangup() -> Result<(), Failed> {
    let door = Door::open("tls", &[])?;
    door.broker.signal("HUP")?;
    door.broker.wait_for("certificates read again")?;
    door.tool("mosquitto_pub", None, &MESSAGE)?;
    Ok(())
}

/// A client that stays: mosquitto's subscriber to `live`, which has got its first message.
fn stay(door: &Door, name: &str) -> Result<Process, Failed> {
    let mut command = Command::new("mosquitto_sub");
    let port = door.address.port().to_string();
    command.args(["-h", "127.0.0.1", "-p", &port, "-t", "live", "-i", name, "-q", "1"]);
    for (flag, file) in [
        ("--cafile", "ca.pem".to_owned()),
        ("--cert", format!("{name}.pem")),
        ("--key", format!("{name}.key")),
    ] {
        command.arg(flag).arg(door.certificates.file(&file));
    }
    let client = Process::spawn(command, door.address)?;
    client.wait_for("first")?;
    Ok(client)
}

/// A door for known clients only, with a message that waits for each.
fn open() -> Result<Door, Failed> {
    let door = Door::open("tls", &MUTUAL)?;
    say(&door, "first", &["-r"])?;
    Ok(door)
}

fn say(door: &Door, what: &str, flags: &[&str]) -> Result<(), Failed> {
    let message = ["-t", "live", "-q", "1", "-i", "speaker", "-m", what];
    door.tool("mosquitto_pub", Some("bob"), &[&message[..], flags].concat())?;
    Ok(())
}

/// Nobody but those that are expected has been disconnected.
fn is_still_there(door: &Door, name: &str) {
    let log = door.broker.log();
    let gone = log
        .lines()
        .any(|line| line.contains(" disconnected") && line.contains(&format!("client={name} ")));
    assert!(!gone, "{log}");
}

fn revoked() -> Result<(), Failed> {
    let door = open()?;
    let (_alice, bob) = (stay(&door, "alice")?, stay(&door, "bob")?);
    assert_eq!(door.refused("certificate_revoked")?, 0.0);
    door.certificates.replace("crl.pem", "crl-alice.pem")?;
    wait("alice is dropped", || {
        let log = door.broker.log();
        let mut lines = log.lines();
        Ok(lines.any(|line| line.contains(" disconnected") && line.contains("client=alice ")))
    })?;
    let line = door.broker.wait_for("refused below MQTT")?;
    assert!(line.contains("address=127.0.0.1:") && line.contains("revoked"), "{line}");
    assert!(door.refused("certificate_revoked")? >= 1.0);
    say(&door, "second", &[])?;
    bob.wait_for("second")?;
    is_still_there(&door, "bob");
    door.tool("mosquitto_pub", Some("alice"), &MESSAGE).expect_err("not again either");
    Ok(())
}

fn broken() -> Result<(), Failed> {
    let door = open()?;
    let alice = stay(&door, "alice")?;
    let is_broken = || door.metric("octopus_tls_files_broken{", "listener=\"door\"");
    assert_eq!(is_broken()?, 0.0);
    fs::copy(door.certificates.file("crl.pem"), door.certificates.file("good"))?;
    fs::write(door.certificates.file("bad"), "no list")?;
    door.certificates.replace("crl.pem", "bad")?;
    let line = door.broker.wait_for("the old certificates stay in force")?;
    assert!(line.contains("crl.pem") && line.contains("listener=\"door\""), "{line}");
    assert_eq!(is_broken()?, 1.0);
    assert_eq!(door.metric("octopus_tls_reload_failures_total{", "")?, 1.0);
    say(&door, "second", &[])?;
    alice.wait_for("second")?;
    is_still_there(&door, "alice");
    let before = door.refused("certificate_revoked")?;
    door.tool("mosquitto_pub", Some("mallory"), &MESSAGE).expect_err("by the old list");
    door.is_refused_once_more("certificate_revoked", before)?;
    door.certificates.replace("crl.pem", "good")?;
    door.broker.wait_for("certificates read again")?;
    wait("it is whole again", || Ok(is_broken()? == 0.0))
}

fn renewed() -> Result<(), Failed> {
    let door = open()?;
    let bob = stay(&door, "bob")?;
    // One after the other, as tools do: between the two they do not fit each other.
    door.certificates.replace("server.pem", "alice.pem")?;
    door.certificates.replace("server.key", "alice.key")?;
    door.broker.wait_for("certificates read again")?;
    let refused =
        door.tool("mosquitto_pub", Some("bob"), &MESSAGE).expect_err("alice is no server");
    assert!(refused.contains("verif") || refused.contains("TLS"), "{refused}");
    let plain = door.broker.address.port().to_string();
    let publish = ["-p", &plain, "-t", "live", "-q", "1", "-m", "second"];
    assert!(Command::new("mosquitto_pub").args(publish).status()?.success());
    bob.wait_for("second")?;
    is_still_there(&door, "bob");
    Ok(())
}
