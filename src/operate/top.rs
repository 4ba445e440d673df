//! `octopus top`: rates and load by shard, latencies and the slowest clients, drawn anew every
//! second. On a terminal it has a screen of its own, which is given back at the end.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use serde_json::Value;

use super::{
    api::Api,
    dropped, list,
    table::{Table, bytes, count, micros, seconds, text},
};

const INTERVAL: Duration = Duration::from_secs(1);
const CLIENTS: usize = 10;
/// Cells of a bar.
const BAR: usize = 10;

/// The other screen, without cursor and without breaking long lines; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// Shows `rounds` readings, or goes on until Ctrl-C or until its output is closed.
pub(super) fn run(api: &Api, rounds: Option<u64>) -> io::Result<()> {
    let before = api.get("status")?;
    if !io::stdout().is_terminal() {
        return watch(api, before, rounds, |page| page.to_owned());
    }
    write(ENTER)?;
    // Over the last picture and not after clearing it, which would flicker.
    let drawn = watch(api, before, rounds, |page| {
        format!("\x1b[H{}\x1b[K\n\x1b[J", page.trim_end().replace('\n', "\x1b[K\n"))
    });
    write(LEAVE)?;
    drawn
}

fn watch(
    api: &Api,
    mut before: Value,
    rounds: Option<u64>,
    draw: impl Fn(&str) -> String,
) -> io::Result<()> {
    let mut left = rounds;
    while left != Some(0) && !api.is_interrupted_within(INTERVAL) {
        let now = api.get("status")?;
        let mut slow = Vec::new();
        for by in ["queue", "out"] {
            let page = api.get(&format!("sessions?sort={by}&limit={CLIENTS}"))?;
            slow.extend_from_slice(list(&page["sessions"]));
        }
        match write(&draw(&page(&before, &now, &slow))) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
        before = now;
        left = left.map(|left| left - 1);
    }
    Ok(())
}

fn write(text: &str) -> io::Result<()> {
    let mut screen = io::stdout().lock();
    screen.write_all(text.as_bytes())?;
    screen.flush()
}

fn page(before: &Value, now: &Value, sessions: &[Value]) -> String {
    let elapsed_s = (number(&now["time_ms"]) - number(&before["time_ms"])).max(1.0) / 1000.0;
    let cpu = 100.0 * (number(&now["cpu_s"]) - number(&before["cpu_s"])) / elapsed_s;
    let shards: Vec<(&Value, &Value)> =
        list(&before["shards"]).iter().zip(list(&now["shards"])).collect();
    let rate = |(old, new): (&Value, &Value), key: &str| {
        (number(&new[key]) - number(&old[key])).max(0.0) / elapsed_s
    };
    let sum = |key: &str| shards.iter().map(|shard| rate(*shard, key)).sum::<f64>();
    let clients: f64 = shards.iter().map(|(_, new)| number(&new["connections"])).sum();
    let mut told = format!(
        "{} {}, up {}, memory {}, processor {cpu:.0} %\n\
         {} clients, in {} msg/s {}/s, out {} msg/s {}/s\n",
        text(&now["node"]),
        text(&now["version"]),
        seconds(&now["uptime_s"]),
        bytes(&now["memory_bytes"]),
        count(clients),
        count(sum("messages_received")),
        bytes(&sum("bytes_received").into()),
        count(sum("messages_sent")),
        bytes(&sum("bytes_sent").into()),
    );
    told.push_str(&latency(before, now));
    let titles = ["shard", "busy", "", "clients", "in/s", "out/s", "in", "out", "queued"];
    let titles = [&titles[..], &["in flight", "longest turn"]].concat();
    let mut table = Table::<11>::new(titles.try_into().unwrap_or_default()).figures(2..11);
    for shard in &shards {
        let new = shard.1;
        let busy = (rate(*shard, "busy_us") / 10_000.0).min(100.0);
        table.row([
            text(&new["shard"]),
            bar(busy),
            format!("{busy:.0} %"),
            count(number(&new["connections"])),
            count(rate(*shard, "messages_received")),
            count(rate(*shard, "messages_sent")),
            format!("{}/s", bytes(&rate(*shard, "bytes_received").into())),
            format!("{}/s", bytes(&rate(*shard, "bytes_sent").into())),
            count(number(&new["queued"])),
            count(number(&new["inflight"])),
            micros(number(&new["stall_max_us"])),
        ]);
    }
    told.push_str(&table.finish());
    let dropped = dropped(now).join(", ");
    let dropped = if dropped.is_empty() { "nothing" } else { &dropped };
    told.push_str(&format!("\ndropped since the start: {dropped}\n"));
    told.push_str(&slow_clients(sessions));
    told
}

fn bar(percent: f64) -> String {
    let full = (percent / 100.0 * BAR as f64).round() as usize;
    format!("{}{}", "█".repeat(full.min(BAR)), "░".repeat(BAR.saturating_sub(full)))
}

/// Of the messages delivered between two readings, by hop.
fn latency(before: &Value, now: &Value) -> String {
    let hops = now["latency"].as_object().into_iter().flatten();
    let shown: Vec<String> = hops
        .filter_map(|(hop, new)| {
            let old = &before["latency"][hop];
            let (p50, p99) = (within(old, new, 0.5)?, within(old, new, 0.99)?);
            Some(format!("{} {} / {}", hop.replace('_', " "), micros(p50), micros(p99)))
        })
        .collect();
    let shown = if shown.is_empty() { "nothing delivered".to_owned() } else { shown.join(", ") };
    format!("latency, half / 99 % within: {shown}\n\n")
}

/// The time, µs, that `share` of what came between two readings stayed below; `None` if nothing
/// came. Within a bucket it is taken to be evenly spread.
fn within(old: &Value, new: &Value, share: f64) -> Option<f64> {
    let all = number(&new["count"]) - number(&old["count"]);
    let wanted = (all > 0.0).then_some(all * share)?;
    let below = |power: usize| {
        let of = |latency: &Value| number(&latency["below_2_power_us"][power]);
        of(new) - of(old)
    };
    let last = list(&new["below_2_power_us"]).len();
    let power = (0..last).find(|&power| below(power) >= wanted).unwrap_or(last);
    let start = if power == 0 { 0.0 } else { (1_u64 << (power - 1)) as f64 };
    let (before, end) = (if power == 0 { 0.0 } else { below(power - 1) }, (1_u64 << power) as f64);
    let inside = (below(power) - before).max(1.0);
    Some(start + (end - start) * ((wanted - before) / inside).clamp(0.0, 1.0))
}

/// Those with the most that waits for them, each once.
fn slow_clients(sessions: &[Value]) -> String {
    let waiting = |session: &Value| {
        number(&session["queue_bytes"]) + number(&session["connection"]["out_bytes"])
    };
    let mut slow: Vec<&Value> = sessions.iter().filter(|session| waiting(session) > 0.0).collect();
    slow.sort_by(|a, b| {
        waiting(b).total_cmp(&waiting(a)).then_with(|| text(&a["client"]).cmp(&text(&b["client"])))
    });
    slow.dedup_by(|a, b| a["client"] == b["client"]);
    if slow.is_empty() {
        return "nothing waits for any client\n".to_owned();
    }
    let mut table =
        Table::new(["slow client", "queued", "bytes", "in flight", "unsent", "address"])
            .figures(1..5);
    for session in slow.into_iter().take(CLIENTS) {
        let connection = &session["connection"];
        table.row([
            text(&session["client"]),
            count(number(&session["queue_count"])),
            bytes(&session["queue_bytes"]),
            count(number(&session["inflight_count"])),
            bytes(&connection["out_bytes"]),
            if connection.is_null() { "away".into() } else { text(&connection["address"]) },
        ]);
    }
    format!("\n{}", table.finish())
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
        let row = told.lines().find(|line| line.starts_with("0  ")).expect("the shard's line");
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(&cells[..6], ["0", "█████░░░░░", "50", "%", "0", "500"], "{told}");
    }

    #[test]
    fn latency_is_that_of_the_last_interval() {
        let hop = |count: u64, below: [u64; 4]| {
            let hop = json!({ "count": count, "below_2_power_us": below });
            json!({ "latency": { "same_shard": hop } })
        };
        // A hundred that took long before; now ten between 2 and 4 µs.
        let told = latency(&hop(100, [0, 0, 0, 0]), &hop(110, [0, 0, 10, 10]));
        assert!(told.contains("same shard 3 µs / 4 µs"), "{told}");
        let same = hop(100, [0, 0, 0, 0]);
        assert!(latency(&same, &same).contains("nothing delivered"));
    }

    #[test]
    fn a_client_that_is_slow_in_both_ways_is_named_once() {
        let session = |client: &str, queue: u64, out: u64| {
            let connection = json!({ "out_bytes": out, "address": "a:1" });
            json!({ "client": client, "queue_bytes": queue, "connection": connection })
        };
        let slow = session("slow", 5, 2048);
        let told = slow_clients(&[session("little", 1, 0), slow.clone(), slow]);
        let names: Vec<&str> = told.lines().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(names, ["", "slow", "slow", "little"], "{told}");
        assert_eq!(slow_clients(&[session("fast", 0, 0)]), "nothing waits for any client\n");
    }
}
