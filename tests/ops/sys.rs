//! `$SYS` as mosquitto_sub sees it.

use libtest_mimic::Failed;

use super::{Node, Test, expect};

pub(super) const TESTS: [(&str, Test); 2] = [
    ("the_names_that_mosquittos_users_know_are_there", names),
    ("wildcards_at_the_front_do_not_match_them", hidden),
];

const NAMES: [&str; 16] = [
    "version",
    "uptime",
    "clients/total",
    "clients/connected",
    "clients/disconnected",
    "clients/maximum",
    "clients/expired",
    "messages/received",
    "messages/sent",
    "publish/messages/dropped",
    "bytes/received",
    "subscriptions/count",
    "retained messages/count",
    "store/messages/bytes",
    "load/messages/received/1min",
    "load/publish/sent/15min",
];

fn names(node: &Node) -> Result<(), Failed> {
    let mut command = node.tool("mosquitto_sub");
    let output = command.args(["-v", "-C", "90", "-W", "5", "-t", "$SYS/#"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let values: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("$SYS/broker/")).collect();
    for name in NAMES {
        let prefix = format!("{name} ");
        expect(values.iter().any(|line| line.starts_with(&prefix)), (name, &text))?;
    }
    expect(values.iter().any(|line| line.starts_with("version octopus version ")), &text)
}

fn hidden(node: &Node) -> Result<(), Failed> {
    let mut command = node.tool("mosquitto_sub");
    let patterns = ["-W", "3", "-v", "-t", "#", "-t", "+/broker/#"];
    let output = command.args(patterns).output()?;
    expect(output.stdout.is_empty(), String::from_utf8_lossy(&output.stdout))
}
