//! `/metrics` is what Prometheus's own checker likes, and true; health pages answer.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use libtest_mimic::Failed;

use super::{Node, Test, expect, success};

pub(super) const TESTS: [(&str, Test); 6] = [
    ("promtool_finds_nothing_to_mend", promtool),
    ("counters_are_true_after_a_known_load", counters),
    ("every_byte_in_and_out_is_counted", bytes),
    ("a_scrape_costs_a_shard_less_than_a_millisecond", cheap),
    ("openmetrics_is_written_when_asked_for", openmetrics),
    ("health_and_readiness_answer_without_a_token", health),
];

fn promtool(node: &Node) -> Result<(), Failed> {
    let text = node.http.get("/metrics")?.body;
    success(&piped(Command::new("promtool").args(["check", "metrics"]), &text)?)
}

/// What a program says when it is given `text`.
fn piped(command: &mut Command, text: &str) -> Result<Output, Failed> {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().ok_or("no input")?.write_all(text.as_bytes())?;
    Ok(child.wait_with_output()?)
}

/// The sum of a family's samples over all shards, of those with `label` in them.
fn sum(text: &str, family: &str, label: &str) -> f64 {
    let of_family = |line: &&str| {
        line.strip_prefix(family).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
    };
    let samples = text.lines().filter(of_family).filter(|line| line.contains(label));
    samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn counters(node: &Node) -> Result<(), Failed> {
    node.leave_session("keeper", "load/#")?;
    node.publish("load/a", &"x\n".repeat(20))?;
    node.publish("nobody/cares", &"yy\n".repeat(3))?;
    let text = node.http.get("/metrics")?.body;
    let expected = [
        ("octopus_sessions", "", 1.0),
        ("octopus_subscriptions", "", 1.0),
        ("octopus_connects_accepted_total", "", 3.0),
        ("octopus_messages_received_total", "qos=\"1\"", 23.0),
        ("octopus_messages_received_total", "qos=\"0\"", 0.0),
        ("octopus_payload_bytes_received_total", "", 26.0),
        ("octopus_queued_messages", "", 20.0),
        ("octopus_queued_bytes", "", 20.0 * 7.0),
        ("octopus_inflight_messages", "", 0.0),
        ("octopus_messages_dropped_total", "reason=\"no_subscriber\"", 3.0),
        ("octopus_payload_bytes_dropped_total", "reason=\"no_subscriber\"", 6.0),
    ];
    for (family, label, wanted) in expected {
        let found = sum(&text, family, label);
        expect((found - wanted).abs() < 0.5, (family, label, wanted, found))?;
    }
    let turns = sum(&text, "octopus_loop_turn_seconds_count", "");
    expect(turns > 10.0, turns)
}

/// One client that sends what is known to itself.
fn bytes(node: &Node) -> Result<(), Failed> {
    let packets: [(&[u8], usize); 4] = [
        (b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c", 4),
        (b"\x82\x06\x00\x01\x00\x01a\x00", 5),
        (b"\x30\x0b\x00\x01apayload!", 13),
        (b"\xc0\x00", 2),
    ];
    let mut stream = TcpStream::connect(node.broker.address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    for (packet, answer) in packets {
        stream.write_all(packet)?;
        stream.read_exact(&mut vec![0; answer])?;
    }
    let text = node.http.get("/metrics")?.body;
    let sent: usize = packets.iter().map(|(packet, _)| packet.len()).sum();
    let came: usize = packets.iter().map(|(_, answer)| answer).sum();
    for (family, wanted) in [
        ("octopus_bytes_received_total", sent),
        ("octopus_bytes_sent_total", came),
        ("octopus_payload_bytes_received_total", 8),
        ("octopus_payload_bytes_sent_total", 8),
        ("octopus_packets_received_total", 4),
        ("octopus_packets_sent_total", 4),
    ] {
        let found = sum(&text, family, "");
        expect((found - wanted as f64).abs() < 0.5, (family, wanted, found))?;
    }
    Ok(())
}

/// As Prometheus's own library reads it: names, units, suffixes, order, the end.
fn openmetrics(node: &Node) -> Result<(), Failed> {
    const READ: &str = "import sys\n\
        from prometheus_client.openmetrics.parser import text_fd_to_metric_families as families\n\
        labels = {l for f in families(sys.stdin) for s in f.samples for l in s.labels}\n\
        print(' '.join(sorted(labels)))";
    node.leave_session("om-client", "om/#")?;
    node.publish("om/x", "x\n")?;
    let accept = "Accept: application/openmetrics-text; version=1.0.0, text/plain;q=0.5";
    let answer = node.http.ask("GET", "/metrics", &[accept], "")?;
    expect(answer.head.contains("content-type: application/openmetrics-text"), &answer.head)?;
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
    let output = piped(Command::new(python).args(["-c", READ]), &answer.body)?;
    success(&output)?;
    let labels = String::from_utf8_lossy(&output.stdout).into_owned();
    // None that grows with the number of clients.
    let known = "backend hop le listener node qos reason result shard version";
    expect(labels.trim() == known, labels)?;
    expect(!answer.body.contains("om-client") && !answer.body.contains("om/x"), "a client's word")
}

fn health(node: &Node) -> Result<(), Failed> {
    let open = super::Http { token: None, ..node.http };
    for page in ["/healthz", "/readyz", "/metrics", "/", "/api/v1/openapi.json"] {
        let answer = open.get(page)?;
        expect(answer.status == 200, (page, answer.status, answer.body))?;
    }
    Ok(())
}

/// How long a shard is busy with one scrape while a thousand clients are connected. What else
/// runs on the machine makes it longer, so the least of several batches counts.
fn cheap(node: &Node) -> Result<(), Failed> {
    const SCRAPES: u64 = 40;
    let mut clients = Vec::new();
    for number in 0..1000 {
        let mut stream = TcpStream::connect(node.broker.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let connect = format!("\x10\x10\0\x04MQTT\x04\x02\0\0\0\x04{number:04}");
        stream.write_all(connect.as_bytes())?;
        stream.read_exact(&mut [0; 4])?;
        clients.push(stream);
    }
    let busy = || -> Result<Vec<u64>, Failed> {
        let status = node.http.api("status")?;
        let shards = status["shards"].as_array().into_iter().flatten();
        Ok(shards.filter_map(|shard| shard["busy_us"].as_u64()).collect())
    };
    let mut least = u64::MAX;
    for _ in 0..5 {
        let before = busy()?;
        for _ in 0..SCRAPES {
            node.http.get("/metrics")?;
        }
        let spent = busy()?.into_iter().zip(before).map(|(now, before)| (now - before) / SCRAPES);
        least = least.min(spent.max().unwrap_or(u64::MAX));
    }
    expect(least < 1000, format!("{least} µs"))
}
