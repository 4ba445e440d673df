//! The admin API, by itself and through the sub-commands of the program.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use libtest_mimic::Failed;
use serde_json::Value;

use super::{Http, Node, Test, expect, success};

pub(super) const TESTS: [(&str, Test); 11] = [
    ("nothing_is_told_without_the_token", token),
    ("a_kicked_client_is_gone_and_its_session_stays", kick),
    ("why_names_the_reason_a_message_was_dropped", why),
    ("lists_go_in_pages_that_miss_nobody", pages),
    ("retained_messages_are_read_and_deleted", retained),
    ("what_is_published_over_the_api_arrives", publish),
    ("properties_of_what_is_published_arrive", properties),
    ("what_waits_for_a_client_is_told_message_by_message", pending),
    ("a_node_alone_tells_of_itself", nodes),
    ("top_has_a_screen_of_its_own_and_gives_the_old_one_back", top),
    ("log_level_and_reload_work_and_mistakes_are_told", log_and_mistakes),
];

fn token(node: &Node) -> Result<(), Failed> {
    for token in [None, Some("another")] {
        let other = Http { token, ..node.http };
        for resource in ["status", "clients", "clients/x", "log", "no-such"] {
            let status = other.get(&format!("/api/v1/{resource}"))?.status;
            expect(status == 401, (resource, status))?;
        }
        let answer = other.post("/api/v1/publish", "{}")?;
        expect(answer.status == 401, answer.status)?;
    }
    Ok(())
}

fn kick(node: &Node) -> Result<(), Failed> {
    let mut command = node.tool("mosquitto_sub");
    command.args(["-i", "victim", "-c", "-q", "1", "-t", "v/#", "-d"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    node.broker.wait_for("client=victim")?;
    let detail = node.http.api("clients/victim")?;
    expect(detail["connected"] == true, &detail)?;
    success(&node.octopus(&["kick", "victim"])?)?;
    node.broker.wait_for("disconnected")?;
    let detail = node.http.api("clients/victim");
    // mosquitto_sub comes back by itself: either state is right, the session is there.
    let ended = child.kill().and_then(|()| child.wait());
    expect(detail?["client"] == "victim" && ended.is_ok(), "the session stays")?;
    let why = node.octopus(&["why", "victim"])?;
    expect(String::from_utf8_lossy(&why.stdout).contains("Administrative action"), why)
}

fn why(node: &Node) -> Result<(), Failed> {
    node.publish("lost/topic", "x\n")?;
    let incidents = node.http.api("incidents?about=lost/topic")?;
    let incident = &incidents["incidents"][0];
    expect(incident["reason"] == "no_subscriber" && incident["count"] == 1, &incidents)?;
    let told = node.octopus(&["why", "lost/topic"])?;
    expect(String::from_utf8_lossy(&told.stdout).contains("no_subscriber"), told)
}

fn pages(node: &Node) -> Result<(), Failed> {
    let mut wanted: Vec<String> = (0..23).map(|number| format!("page-{number:02}")).collect();
    for client in &wanted {
        node.leave_session(client, "p/#")?;
    }
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = format!("sessions?limit=5&search=page-&match=prefix&cursor={cursor}");
        let page = node.http.api(&page)?;
        let sessions = page["sessions"].as_array().ok_or("no list")?;
        expect(sessions.len() <= 5, sessions.len())?;
        found.extend(sessions.iter().filter_map(|s| s["client"].as_str().map(str::to_owned)));
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    found.sort();
    wanted.sort();
    expect(found == wanted, found)?;
    let sorted = node.http.api("sessions?limit=3&sort=client")?;
    expect(sorted["sessions"][2]["client"] == "page-02", &sorted)?;
    let clients = node.http.api("clients")?;
    expect(clients["clients"].as_array().is_some_and(Vec::is_empty), &clients)?;
    let subscriptions = node.http.api("subscriptions?limit=1000&contains=p/")?;
    let count = subscriptions["subscriptions"].as_array().map_or(0, Vec::len);
    expect(count == 23, count)
}

fn retained(node: &Node) -> Result<(), Failed> {
    for (topic, payload) in [("r/1", "one"), ("r/2", "two"), ("r/2/x", "three")] {
        success(&node.octopus(&["publish", "-q", "1", "-r", topic, payload])?)?;
    }
    let found = node.http.api("retained?filter=r/%2B")?;
    expect(found["retained"].as_array().map_or(0, Vec::len) == 2, &found)?;
    expect(node.http.api("retained/r%2F2%2Fx")?["payload"] == "three", "payload")?;
    let deleted = node.http.ask("DELETE", "/api/v1/retained/r%2F2%2Fx", &[], "")?;
    expect(deleted.status == 200, deleted.body)?;
    let gone = node.http.get("/api/v1/retained/r%2F2%2Fx")?;
    expect(gone.status == 404, gone.body)
}

fn publish(node: &Node) -> Result<(), Failed> {
    node.leave_session("reader", "api/#")?;
    let body = r#"{ "topic": "api/a", "payload_base64": "aGVsbG8=", "qos": 1 }"#;
    let answer = node.http.post("/api/v1/publish", body)?;
    expect(answer.status == 200, answer.body)?;
    let mut command = node.tool("mosquitto_sub");
    command.args(["-i", "reader", "-c", "-q", "1", "-t", "api/#", "-C", "1", "-W", "10"]);
    let output = command.output()?;
    expect(output.stdout == b"hello\n", output)
}

fn properties(node: &Node) -> Result<(), Failed> {
    let body = r#"{ "topic": "api/p", "payload": "21", "retain": true, "properties": {
        "content_type": "text/plain", "response_topic": "api/answer", "message_expiry_s": 3600,
        "correlation_data_base64": "aWQ=", "payload_is_utf8": true,
        "user_properties": [["unit", "C"], ["unit", "K"]] } }"#;
    let answer = node.http.post("/api/v1/publish", body)?;
    expect(answer.status == 200, answer.body)?;
    let mut command = node.tool("mosquitto_sub");
    command.args(["-V", "5", "-t", "api/p", "-C", "1", "-W", "10"]);
    let output = command.args(["-F", "%p|%C|%R|%D|%F|%P|%E"]).output()?;
    let came = String::from_utf8_lossy(&output.stdout).into_owned();
    expect(came.starts_with("21|text/plain|api/answer|id|1|unit:C unit:K|3"), came)
}

fn log_and_mistakes(node: &Node) -> Result<(), Failed> {
    let set = node.http.ask("PUT", "/api/v1/log", &[], r#"{ "level": "warn" }"#)?;
    expect(set.status == 200, set.body)?;
    expect(node.http.api("log")?["level"] == "warn", "the level")?;
    let done = node.http.post("/api/v1/config/reload", "{}")?;
    expect(done.body.contains("log.level"), &done.body)?;
    expect(node.http.api("log")?["level"] == "info", "the level of the configuration")?;
    let mistakes = [
        ("GET", "/api/v1/nothing", "", 404),
        ("PATCH", "/api/v1/status", "", 405),
        ("GET", "/api/v1/clients?limit=0", "", 400),
        ("GET", "/api/v1/clients?cursor=x", "", 400),
        ("GET", "/api/v1/clients?sort=shoe-size", "", 400),
        ("GET", "/api/v1/retained?filter=a%23", "", 400),
        ("GET", "/api/v1/clients/%FF", "", 400),
        ("DELETE", "/api/v1/clients/nobody", "", 404),
        ("PUT", "/api/v1/log", r#"{ "level": "loud" }"#, 400),
        ("POST", "/api/v1/publish", "not json", 400),
        ("POST", "/api/v1/publish", r#"{ "topic": "a/+" }"#, 400),
        ("POST", "/api/v1/publish", r#"{ "topic": "a", "qos": 3 }"#, 400),
        ("POST", "/api/v1/publish", r#"{ "topic": "a", "properties": 1 }"#, 400),
        (
            "POST",
            "/api/v1/publish",
            r##"{ "topic": "a", "properties": { "response_topic": "#" } }"##,
            400,
        ),
        (
            "POST",
            "/api/v1/publish",
            r#"{ "topic": "a", "properties": { "user_properties": [["a"]] } }"#,
            400,
        ),
        (
            "POST",
            "/api/v1/publish",
            r#"{ "topic": "a", "properties": { "content_type": "\u0000" } }"#,
            400,
        ),
    ];
    for (method, path, body, wanted) in mistakes {
        let answer = node.http.ask(method, path, &[], body)?;
        let has_reason = answer.body.contains("\"error\"");
        expect(answer.status == wanted && has_reason, (path, answer.status, answer.body))?;
    }
    Ok(())
}

/// What waits for a client that is away, and what a client has not acknowledged, are told message
/// by message.
fn pending(node: &Node) -> Result<(), Failed> {
    node.leave_session("reader", "queue/#")?;
    node.publish("queue/a", "one\n")?;
    node.publish("queue/b", "three\n")?;
    let detail = node.http.api("clients/reader")?;
    let waits = |at: usize| {
        let message = &detail["queue"][at];
        format!(
            "{} {} {} {}",
            message["topic"], message["qos"], message["bytes"], message["packet_id"]
        )
    };
    expect(waits(0) == "\"queue/a\" 1 3 null" && waits(1) == "\"queue/b\" 1 5 null", &detail)?;
    let told = node.octopus(&["client", "reader"])?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    expect(told.contains("waits          queue/b (QoS 1, 5 B)"), &told)?;
    // Takes its messages and never says so.
    let mut silent = TcpStream::connect(node.broker.address)?;
    silent.set_read_timeout(Some(Duration::from_secs(10)))?;
    silent.write_all(b"\x10\x12\x00\x04MQTT\x04\x00\x00\x3c\x00\x06reader")?;
    let mut came = vec![0; 4 + 14 + 16];
    silent.read_exact(&mut came)?;
    let detail = node.http.api("clients/reader")?;
    let first = &detail["inflight"][0];
    expect(first["topic"] == "queue/a" && first["packet_id"].as_u64() > Some(0), &detail)?;
    expect(detail["queue"] == Value::Array(vec![]), detail)
}

/// A node without a group tells of itself what it can.
fn nodes(node: &Node) -> Result<(), Failed> {
    let nodes = node.http.api("nodes")?;
    let only = &nodes["nodes"][0];
    let figures = &only["figures"];
    expect(only["self"] == true && nodes["nodes"].as_array().map(Vec::len) == Some(1), &nodes)?;
    expect(figures["version"] == env!("CARGO_PKG_VERSION"), &nodes)?;
    expect(figures["connections"] == 0 && figures["received_per_s"].is_null(), nodes)
}

/// On a terminal `top` has a screen of its own, and gives the old one back.
fn top(node: &Node) -> Result<(), Failed> {
    node.leave_session("behind", "slow/#")?;
    node.publish("slow/a", "x\n")?;
    let program = env!("CARGO_BIN_EXE_octopus");
    let port = node.http.address.port();
    let typed = format!("'{program}' top -n 1 --http.port={port} --http.token={}", super::TOKEN);
    let output = Command::new("script").args(["-qec", &typed, "/dev/null"]).output()?;
    success(&output)?;
    let screen = String::from_utf8_lossy(&output.stdout).into_owned();
    expect(screen.starts_with("\x1b[?1049h") && screen.ends_with("\x1b[?1049l"), &screen)?;
    for part in ["longest turn", "behind", "half / 99 % within", "dropped since the start: nothing"]
    {
        expect(screen.contains(part), (part, &screen))?;
    }
    Ok(())
}
