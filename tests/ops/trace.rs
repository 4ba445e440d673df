//! Following messages, through the admin API and with `octopus trace`.

use std::process::Command;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use serde_json::Value;

use super::{Node, TOKEN, Test, expect};
use crate::harness::broker::Process;

pub(super) const TESTS: [(&str, Test); 2] = [
    ("a_message_is_followed_to_its_subscribers_queue", followed),
    ("a_trace_ends_by_itself_and_there_is_one_at_a_time", one_at_a_time),
];

const PATIENCE: Duration = Duration::from_secs(10);

/// Asks for the trace until `holds`.
fn wait(node: &Node, holds: impl Fn(&Value) -> bool) -> Result<Value, Failed> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let trace = node.http.api("trace?limit=1000")?;
        match holds(&trace) {
            true => return Ok(trace),
            false if Instant::now() > deadline => return Err(trace.to_string().into()),
            // Nobody tells of a change, so it is asked again after a while.
            false => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn followed(node: &Node) -> Result<(), Failed> {
    node.leave_session("reader", "trace/#")?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_octopus"));
    command.args(["trace", "trace/a", "--for", "30", &format!("--http.token={TOKEN}")]);
    command.arg(format!("--http.port={}", node.http.address.port()));
    let follower = Process::spawn(command, node.http.address)?;
    wait(node, |trace| trace["about"] == "trace/a")?;
    node.publish("trace/a", "hello\n")?;
    node.publish("trace/b", "not meant\n")?;
    follower.wait_for(" answered ")?;
    let steps = wait(node, |trace| trace["steps"].as_array().is_some_and(|s| s.len() >= 4))?;
    let names = steps["steps"].as_array().into_iter().flatten();
    let names: Vec<&str> = names.filter_map(|step| step["step"].as_str()).collect();
    // Publisher and subscriber live on one shard or on two.
    let wanted = ["received", "matched", "queued", "answered"];
    expect(wanted.iter().all(|name| names.contains(name)), &steps)?;
    follower.signal("INT")?;
    wait(node, |trace| trace["about"].is_null())?;
    let log = follower.log();
    for part in
        ["QoS 1, 5 B", " queued        reader  trace/a  as the last of 1", "trace/a  Success"]
    {
        expect(log.contains(part), (part, &log))?;
    }
    expect(!log.contains("trace/b"), log)
}

fn one_at_a_time(node: &Node) -> Result<(), Failed> {
    let start = |body: &str| node.http.post("/api/v1/trace", body).map(|answer| answer.status);
    expect(start(r##"{ "about": "#", "seconds": 1 }"##)? == 200, "started")?;
    node.publish("any/topic", "x\n")?;
    let first = wait(node, |trace| trace["steps"].as_array().is_some_and(|s| s.len() >= 4))?;
    let cursor = first["next"].as_str().ok_or("no cursor")?;
    let again = node.http.api(&format!("trace?cursor={cursor}"))?;
    expect(again["steps"] == Value::Array(vec![]) && again["missed"] == 0, &again)?;
    wait(node, |trace| trace["ends_in_s"] == 0.0)?;
    expect(start(r#"{ "about": "second", "seconds": 60 }"#)? == 200, "the first is over")?;
    let refused = node.http.post("/api/v1/trace", r#"{ "about": "third" }"#)?;
    expect(refused.status == 409 && refused.body.contains("a trace of second"), refused.body)?;
    for body in ["{}", r#"{ "about": "" }"#, r#"{ "about": "x", "seconds": 0 }"#] {
        expect(start(body)? == 400, body)?;
    }
    expect(node.http.get("/api/v1/trace?cursor=1")?.status == 400, "two shards")?;
    let stopped = node.http.ask("DELETE", "/api/v1/trace", &[], "")?;
    expect(stopped.body.contains("second"), stopped.body)
}
