//! `$SYS` as mosquitto_sub sees it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use libtest_mimic::Failed;

use super::{Node, Test, expect};
use crate::harness::broker::{Process, free_port};

pub(super) const TESTS: [(&str, Test); 2] = [
    ("every_topic_that_mosquitto_has_is_there", names),
    ("wildcards_at_the_front_do_not_match_them", hidden),
];

/// The topics below `$SYS` that a broker retains.
fn topics(port: u16) -> Result<BTreeSet<String>, Failed> {
    let mut command = Command::new("mosquitto_sub");
    command.args(["-p", &port.to_string(), "-F", "%t", "-W", "3", "-t", "$SYS/#"]);
    let output = command.output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Compared with the mosquitto that is installed, at the same moment.
fn names(node: &Node) -> Result<(), Failed> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let file = std::env::temp_dir().join(format!("octopus-sys-{}.conf", std::process::id()));
    let port = address.port();
    let text = format!("listener {port} 127.0.0.1\nallow_anonymous true\nsys_interval 1\n");
    std::fs::write(&file, text)?;
    let mosquitto = Process::spawn(program_of(&file), address)?;
    mosquitto.wait_for(" running")?;
    let theirs = topics(port)?;
    std::fs::remove_file(file)?;
    expect(theirs.len() > 40, &theirs)?;
    let ours = topics(node.broker.address.port())?;
    let missing: Vec<&String> = theirs.difference(&ours).collect();
    expect(missing.is_empty(), missing)?;
    let mut command = node.tool("mosquitto_sub");
    let output = command.args(["-C", "1", "-W", "5", "-t", "$SYS/broker/version"]).output()?;
    expect(output.stdout.starts_with(b"octopus version "), output)
}

fn program_of(file: &Path) -> Command {
    let mut command = crate::deploy::tools::program("mosquitto");
    command.arg("-c").arg(file);
    command
}

fn hidden(node: &Node) -> Result<(), Failed> {
    let mut command = node.tool("mosquitto_sub");
    let patterns = ["-W", "3", "-v", "-t", "#", "-t", "+/broker/#"];
    let output = command.args(patterns).output()?;
    expect(output.stdout.is_empty(), String::from_utf8_lossy(&output.stdout))
}
