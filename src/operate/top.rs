//! `octopus top`: rates and load by shard and the slowest clients, drawn anew every second.

use std::{
    io::{self, IsTerminal as _, Write as _},
    thread,
    time::Duration,
};

use serde_json::Value;

use super::{
    api::Api,
    dropped, list,
    table::{Table, bytes, seconds, text},
};

const INTERVAL: Duration = Duration::from_secs(1);
const CLIENTS: usize = 10;

/// Shows `rounds` readings, or goes on until it is stopped or its output is closed.
pub(super) fn run(api: &Api, rounds: Option<u64>) -> io::Result<()> {
    let mut before = api.get("status")?;
    let mut left = rounds;
    while left != Some(0) {
        thread::sleep(INTERVAL);
        let now = api.get("status")?;
        let slow = api.get(&format!("sessions?sort=queue&limit={CLIENTS}"))?;
        let mut screen = io::stdout().lock();
        if io::stdout().is_terminal() {
            // Home, and clear from there.
            screen.write_all(b"\x1b[H\x1b[2J")?;
        }
        match screen.write_all(page(&before, &now, list(&slow["sessions"])).as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
        screen.flush()?;
        before = now;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

fn page(before: &Value, now: &Value, sessions: &[Value]) -> String {
    let elapsed_s = (number(&now["time_ms"]) - number(&before["time_ms"])).max(1.0) / 1000.0;
    let cpu = 100.0 * (number(&now["cpu_s"]) - number(&before["cpu_s"])) / elapsed_s;
    let mut told = format!(
        "{} {}, up {}, memory {}, processor {cpu:.0} %\n",
        text(&now["node"]),
        text(&now["version"]),
        seconds(&now["uptime_s"]),
        bytes(&now["memory_bytes"]),
    );
    told.push_str(&latency(now));
    let titles = [
        "shard",
        "busy",
        "clients",
        "in/s",
        "out/s",
        "in B/s",
        "out B/s",
        "queued",
        "in flight",
        "stall",
    ];
    let mut table = Table::new(titles);
    for (old, new) in list(&before["shards"]).iter().zip(list(&now["shards"])) {
        let rate = |key: &str| (number(&new[key]) - number(&old[key])).max(0.0) / elapsed_s;
        table.row([
            text(&new["shard"]),
            format!("{:.0} %", rate("busy_us") / 10_000.0),
            text(&new["connections"]),
            format!("{:.0}", rate("messages_received")),
            format!("{:.0}", rate("messages_sent")),
            format!("{:.0}", rate("bytes_received")),
            format!("{:.0}", rate("bytes_sent")),
            text(&new["queued"]),
            text(&new["inflight"]),
            format!("{:.1} ms", number(&new["stall_max_us"]) / 1000.0),
        ]);
    }
    told.push_str(&table.finish());
    told.push_str(&format!("\ndropped: {}\n", dropped(now).join(", ")));
    told.push_str(&slow_clients(sessions));
    told
}

fn latency(status: &Value) -> String {
    let hops = status["latency"].as_object().into_iter().flatten();
    let measured = hops.filter(|(_, latency)| number(&latency["count"]) > 0.0);
    let shown: Vec<String> = measured
        .map(|(hop, latency)| {
            let (p50, p99) = (number(&latency["p50_us"]), number(&latency["p99_us"]));
            let (p50, p99) = (p50 / 1000.0, p99 / 1000.0);
            format!("{} {p50:.2}/{p99:.2} ms", hop.replace('_', " "))
        })
        .collect();
    format!("latency p50/p99: {}\n\n", shown.join(", "))
}

fn slow_clients(sessions: &[Value]) -> String {
    let waiting = |session: &&Value| number(&session["queue_count"]) > 0.0;
    let mut table =
        Table::new(["slow client", "queued", "bytes", "in flight", "unsent", "address"]);
    let mut count = 0;
    for session in sessions.iter().filter(waiting) {
        count += 1;
        table.row([
            text(&session["client"]),
            text(&session["queue_count"]),
            bytes(&session["queue_bytes"]),
            text(&session["inflight_count"]),
            bytes(&session["connection"]["out_bytes"]),
            text(&session["connection"]["address"]),
        ]);
    }
    if count == 0 { "no client has a queue\n".to_owned() } else { format!("\n{}", table.finish()) }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rates_are_differences_over_the_time_between() {
        let status = |time_ms: u64, count: u64| {
            json!({
                "time_ms": time_ms, "cpu_s": 0.0,
                "shards": [{ "shard": 0, "messages_received": count, "busy_us": count * 1000 }],
            })
        };
        let told = page(&status(1000, 0), &status(3000, 1000), &[]);
        let row = told.lines().find(|line| line.starts_with("0 ")).expect("the shard's line");
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(&cells[..4], ["0", "50", "%", "500"], "{told}");
    }
}
