//! `octopus.service`, and what the broker tells systemd.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::Failed;

use super::Test;
use super::tools::{Scratch, octopus, program, run, text};
use crate::harness::broker::Process;

pub(super) fn tests() -> Vec<Test> {
    vec![
        ("unit_is_what_systemd_understands", verify),
        ("unit_leaves_the_broker_few_rights", security),
        ("systemd_is_told_of_start_life_and_end", notify),
    ]
}

/// The unit with the tested binary in it; what it runs must exist.
fn unit(scratch: &Scratch) -> Result<String, Failed> {
    let unit = text("deploy/octopus.service")?;
    let unit = unit.replace("/usr/local/bin/octopus", &octopus().to_string_lossy());
    Ok(scratch.write("octopus.service", &unit)?.to_string_lossy().into_owned())
}

fn verify() -> Result<(), Failed> {
    let scratch = Scratch::new("unit")?;
    let said = run(program("systemd-analyze").args(["verify", &unit(&scratch)?]))?;
    assert!(!said.contains("octopus.service"), "{said}");
    Ok(())
}

/// Exposure from 0 to 10, in tenths; what systemd calls "OK" ends at 4.
fn security() -> Result<(), Failed> {
    let scratch = Scratch::new("unit")?;
    let arguments = ["security", "--offline=true", "--threshold=20", &unit(&scratch)?];
    run(program("systemd-analyze").args(arguments))?;
    Ok(())
}

fn notify() -> Result<(), Failed> {
    let scratch = Scratch::new("notify")?;
    let path = scratch.path().join("socket");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut command = Command::new(octopus());
    command.args(["--broker.port=0", "--http.enable=false", "--shards=2"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
    let broker = Process::spawn(command, ([127, 0, 0, 1], 0).into())?;
    let ready = receive(&socket)?;
    assert!(ready.starts_with("READY=1\nSTATUS=octopus "), "{ready:?}");
    assert_eq!(receive(&socket)?.trim(), "WATCHDOG=1");
    assert_eq!(receive(&socket)?.trim(), "WATCHDOG=1");
    run(Command::new("kill").args(["-TERM", &broker.id().to_string()]))?;
    let last = std::iter::repeat_with(|| receive(&socket));
    let mut last =
        last.skip_while(|said| said.as_ref().is_ok_and(|said| said.contains("WATCHDOG")));
    assert_eq!(last.next().ok_or("nothing")??.trim(), "STOPPING=1");
    Ok(())
}

fn receive(socket: &UnixDatagram) -> Result<String, Failed> {
    let mut datagram = [0; 512];
    let length = socket.recv(&mut datagram)?;
    Ok(String::from_utf8_lossy(&datagram[..length]).into_owned())
}
