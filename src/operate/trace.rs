//! `octopus trace`: follows the messages of a client or a topic until it is stopped or over.

use std::{io, time::Duration};

use serde_json::{Value, json};

use super::{api::Api, list, print, table::text};

/// Between two looks for new steps.
const INTERVAL: Duration = Duration::from_millis(250);
/// Steps asked for at a time, of each shard.
const LIMIT: u32 = 1000;

/// Prints each step as it is seen. Ends after `seconds`, or at Ctrl-C, and stops the trace then.
pub(super) fn run(api: &Api, about: &str, seconds: u64) -> io::Result<()> {
    api.post("trace", &json!({ "about": about, "seconds": seconds }))?;
    let followed = follow(api, about);
    // A trace of somebody else's is theirs to stop.
    if followed? {
        api.delete("trace")?;
    }
    Ok(())
}

/// Whether the trace is still ours at the end.
fn follow(api: &Api, about: &str) -> io::Result<bool> {
    let mut cursor = String::new();
    loop {
        let is_stopped = api.is_interrupted_within(INTERVAL);
        let page = api.get(&format!("trace?limit={LIMIT}&cursor={cursor}"))?;
        if page["about"] != about {
            return Ok(false);
        }
        let steps = list(&page["steps"]);
        let mut told: String = steps.iter().map(line).collect();
        match page["missed"].as_u64() {
            None | Some(0) => {}
            Some(missed) => told.push_str(&format!("({missed} steps are not shown)\n")),
        }
        print(&told)?;
        text(&page["next"]).clone_into(&mut cursor);
        let is_over = page["ends_in_s"] == 0.0 && steps.is_empty();
        if is_stopped || is_over {
            return Ok(true);
        }
    }
}

/// `time shard step client topic what`; the time is UTC.
fn line(step: &Value) -> String {
    let ms = step["time_ms"].as_u64().unwrap_or(0) % 86_400_000;
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    let client = if step["client"].is_null() { "-".to_owned() } else { text(&step["client"]) };
    let columns = format!(
        "{hours:02}:{minutes:02}:{seconds:02}.{:03}  shard {:<3} {:<13} {client}  {}  {}",
        ms % 1000,
        text(&step["shard"]),
        text(&step["step"]).replace('_', " "),
        text(&step["topic"]),
        detail(step),
    );
    format!("{}\n", columns.trim_end())
}

fn detail(step: &Value) -> String {
    let value = |key: &str| text(&step[key]);
    let if_so =
        |key: &str, words: &str| if step[key] == true { words.to_owned() } else { String::new() };
    match step["step"].as_str().unwrap_or_default() {
        "received" => {
            format!("QoS {}, {} B{}", value("qos"), value("bytes"), if_so("retain", ", retain"))
        }
        "matched" => format!("{} wanted here, from a {}", value("subscribers"), value("origin")),
        "forwarded" => {
            let all = |key: &str| list(&step[key]).iter().map(text).collect::<Vec<_>>().join(", ");
            let named = [("shard", all("shards")), ("node", all("nodes"))];
            let named = named.into_iter().filter(|(_, names)| !names.is_empty());
            let named: Vec<String> = named.map(|(kind, names)| format!("{kind} {names}")).collect();
            format!("to {}", named.join(" and "))
        }
        "queued" => format!("as the last of {}", value("queue_count")),
        "sent" => format!("QoS {}{}", value("qos"), if_so("again", ", again")),
        _ => value("reason"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_a_line_with_time_place_and_what_happened() {
        let step = json!({
            "time_ms": 3_723_004, "shard": 1, "step": "forwarded", "client": null, "topic": "a/b",
            "shards": [0, 2], "nodes": ["B2"],
        });
        let told = line(&step);
        assert_eq!(
            told,
            "01:02:03.004  shard 1   forwarded     -  a/b  to shard 0, 2 and node B2\n"
        );
        let step = json!({ "time_ms": 0, "shard": 0, "step": "answer_waits", "client": "c\u{1b}", "topic": "t" });
        assert_eq!(line(&step), "00:00:00.000  shard 0   answer waits  c\u{fffd}  t\n");
    }
}
