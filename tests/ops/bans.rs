//! Keeping somebody out, on a broker that otherwise lets everybody in.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use super::{Node, Test, expect, success};

pub(super) const TESTS: [(&str, Test); 3] = [
    ("a_banned_client_goes_at_once_and_stays_out_until_it_is_taken_off", client),
    ("a_banned_user_goes_although_nobody_was_asked_about_it", user),
    ("a_ban_ends_by_itself_and_mistakes_are_told", ends),
];

fn publishes(node: &Node, arguments: &[&str]) -> Result<bool, Failed> {
    let mut command = node.tool("mosquitto_pub");
    command.args(["-t", "b/x", "-m", "x", "-q", "1"]).args(arguments);
    Ok(command.stderr(Stdio::null()).status()?.success())
}

fn client(node: &Node) -> Result<(), Failed> {
    let mut command: Command = node.tool("mosquitto_sub");
    command.args(["-i", "eve", "-t", "b/#"]).stderr(Stdio::null());
    let mut eve = command.stdout(Stdio::null()).spawn()?;
    node.broker.wait_for("client=eve")?;
    let banned = node.octopus(&["ban", "add", "client:eve", "--for", "3600"])?;
    let ended = node.broker.wait_for("Banned");
    eve.kill().and_then(|()| eve.wait())?;
    success(&banned)?;
    ended?;
    expect(!publishes(node, &["-i", "eve"])?, "eve is let in")?;
    expect(publishes(node, &["-i", "adam"])?, "adam is kept out")?;
    let list = node.octopus(&["ban", "list"])?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    expect(list.contains("client:eve  59m") || list.contains("client:eve  1h"), list)?;
    let metrics = node.http.get("/metrics")?.body;
    expect(metrics.contains("octopus_auth_bans 1\n"), "the gauge")?;
    success(&node.octopus(&["ban", "remove", "client:eve"])?)?;
    expect(publishes(node, &["-i", "eve"])?, "eve is still kept out")
}

fn user(node: &Node) -> Result<(), Failed> {
    let mut command = node.tool("mosquitto_sub");
    command.args(["-i", "m1", "-u", "mallory", "-P", "p", "-t", "b/#"]).stderr(Stdio::null());
    let mut mallory = command.stdout(Stdio::null()).spawn()?;
    node.broker.wait_for("client=m1")?;
    let body = r#"{ "target": "user:mallory" }"#;
    let answer = node.http.post("/api/v1/bans", body)?;
    let ended = node.broker.wait_for("Banned");
    mallory.kill().and_then(|()| mallory.wait())?;
    expect(answer.status == 200, answer.body)?;
    ended?;
    expect(!publishes(node, &["-u", "mallory", "-P", "p"])?, "mallory is let in")?;
    let list = node.http.api("bans")?;
    let only = &list["bans"][0];
    expect(only["target"] == "user:mallory" && only["ends_in_s"].is_null(), &list)
}

fn ends(node: &Node) -> Result<(), Failed> {
    let body = r#"{ "target": "client:short", "seconds": 1 }"#;
    expect(node.http.post("/api/v1/bans", body)?.status == 200, "banned")?;
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut was_kept_out = false;
    while !publishes(node, &["-i", "short"])? {
        was_kept_out = true;
        expect(Instant::now() < deadline, "the ban does not end")?;
    }
    expect(was_kept_out, "the ban did not begin")?;
    for body in ["{}", r#"{ "target": "eve" }"#, r#"{ "target": "user:x", "seconds": 0 }"#] {
        expect(node.http.post("/api/v1/bans", body)?.status == 400, body)?;
    }
    for (target, status) in [("user:nobody", 404), ("nobody", 404), ("address:10.0.0.0%2F8", 404)] {
        let answer = node.http.ask("DELETE", &format!("/api/v1/bans/{target}"), &[], "")?;
        expect(answer.status == status, (target, answer.status, answer.body))?;
    }
    Ok(())
}
