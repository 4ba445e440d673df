//! The operator's sub-commands: they ask a running node through its admin API, or speak MQTT
//! with it, and print what they learn.

mod api;
mod mqtt;
mod table;
mod top;
mod trace;

use std::io::{self, Write as _};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::config::Config;
use api::Api;
use table::{Table, bytes, seconds, text};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Status,
    Clients {
        search: Option<String>,
        /// Sessions whose client is away as well.
        all: bool,
    },
    Client {
        client: String,
    },
    Kick {
        client: String,
    },
    Top {
        /// Readings to show; `None`: until it is stopped.
        rounds: Option<u64>,
    },
    /// Where messages of a client or a topic went.
    Why {
        about: String,
    },
    /// What happens to the messages of a client or a topic, as it happens.
    Trace {
        about: String,
        seconds: u64,
    },
    Bans,
    Ban {
        target: String,
        /// `None`: until it is taken off.
        seconds: Option<u64>,
    },
    Unban {
        target: String,
    },
    Publish {
        door: Door,
        topic: String,
        payload: String,
        qos: u8,
        retain: bool,
    },
    Subscribe {
        door: Door,
        filter: String,
        qos: u8,
        /// Messages after which it ends.
        count: Option<u64>,
    },
}

/// Where and as whom to connect by MQTT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Door {
    /// `host:port`; `None`: that of the configuration.
    pub at: Option<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    /// Its first line is the password.
    pub password_file: Option<PathBuf>,
    /// The authorities that the broker's certificate may come from; with it TLS is spoken.
    pub ca_file: Option<PathBuf>,
}

/// Carries `operation` out and prints its result.
///
/// # Errors
/// If the node is not there, or refuses; the text says what it said.
pub fn run(operation: &Operation, config: &Config) -> io::Result<()> {
    let told = match operation {
        Operation::Publish { door, topic, payload, qos, retain } => {
            let client = mqtt::Client::connect(door, config)?;
            return mqtt::publish(client, topic, payload.as_bytes(), *qos, *retain);
        }
        Operation::Subscribe { door, filter, qos, count } => {
            return mqtt::subscribe(mqtt::Client::connect(door, config)?, filter, *qos, *count);
        }
        Operation::Bans => bans(&Api::new(config)?.get("bans")?),
        Operation::Ban { target, seconds } => {
            let body = json!({ "target": target, "seconds": seconds });
            Api::new(config)?.post("bans", &body)?;
            format!("{target} is banned\n")
        }
        Operation::Unban { target } => {
            Api::new(config)?.delete(&format!("bans/{}", api::encoded(target)))?;
            format!("{target} is not banned any more\n")
        }
        Operation::Top { rounds } => return top::run(&Api::new(config)?, *rounds),
        Operation::Trace { about, seconds } => {
            return trace::run(&Api::new(config)?, about, *seconds);
        }
        Operation::Status => status(&Api::new(config)?.get("status")?),
        Operation::Clients { search, all } => clients(&Api::new(config)?, search.as_deref(), *all)?,
        Operation::Client { client } => {
            detail(&Api::new(config)?.get(&format!("clients/{}", api::encoded(client)))?)
        }
        Operation::Kick { client } => {
            Api::new(config)?.delete(&format!("clients/{}", api::encoded(client)))?;
            format!("{client} is disconnected\n")
        }
        Operation::Why { about } => why(about, &Api::new(config)?)?,
    };
    print(&told)
}

/// Writes to standard output. That its reader has seen enough is no error.
fn print(told: &str) -> io::Result<()> {
    match io::stdout().write_all(told.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

fn status(status: &Value) -> String {
    let mut told = format!(
        "{} {}, up {}, memory {}\n\n",
        text(&status["node"]),
        text(&status["version"]),
        seconds(&status["uptime_s"]),
        bytes(&status["memory_bytes"]),
    );
    let columns = [
        ("shard", "shard"),
        ("clients", "connections"),
        ("sessions", "sessions"),
        ("subscriptions", "subscriptions"),
        ("retained", "retained"),
        ("queued", "queued"),
        ("in flight", "inflight"),
        ("received", "messages_received"),
        ("sent", "messages_sent"),
    ];
    let mut table = Table::new(columns.map(|(title, _)| title)).figures(0..9);
    for shard in list(&status["shards"]) {
        table.row(columns.map(|(_, key)| text(&shard[key])));
    }
    told.push_str(&table.finish());
    let dropped = dropped(status);
    if !dropped.is_empty() {
        told.push_str(&format!("\ndropped: {}\n", dropped.join(", ")));
    }
    told
}

/// `count reason` of every reason that happened, over all shards.
fn dropped(status: &Value) -> Vec<String> {
    let mut totals: Vec<(String, u64)> = Vec::new();
    for shard in list(&status["shards"]) {
        for (reason, count) in shard["messages_dropped"].as_object().into_iter().flatten() {
            let count = count.as_u64().unwrap_or(0);
            match totals.iter_mut().find(|(known, _)| known == reason) {
                Some((_, total)) => *total += count,
                None => totals.push((reason.clone(), count)),
            }
        }
    }
    let happened = totals.into_iter().filter(|(_, total)| *total > 0);
    happened.map(|(reason, total)| format!("{total} {reason}")).collect()
}

fn clients(api: &Api, search: Option<&str>, all: bool) -> io::Result<String> {
    let name = if all { "sessions" } else { "clients" };
    let titles =
        ["client", "address", "version", "user", "subscriptions", "queued", "in flight", "shard"];
    let mut table = Table::new(titles).figures(4..8);
    let mut cursor = String::new();
    loop {
        let search = api::encoded(search.unwrap_or_default());
        let cursor_text = api::encoded(&cursor);
        let page = api.get(&format!("{name}?limit=1000&search={search}&cursor={cursor_text}"))?;
        for client in list(&page[name]) {
            let connection = &client["connection"];
            table.row([
                text(&client["client"]),
                if connection.is_null() { "away".into() } else { text(&connection["address"]) },
                text(&connection["version"]),
                text(&connection["user"]),
                text(&client["subscription_count"]),
                text(&client["queue_count"]),
                text(&client["inflight_count"]),
                text(&client["shard"]),
            ]);
        }
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => return Ok(table.finish()),
        }
    }
}

fn detail(client: &Value) -> String {
    let connection = &client["connection"];
    let mut told = format!("client         {}\n", text(&client["client"]));
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            told.push_str(&format!("{name:<14} {value}\n"));
        }
    };
    if connection.is_null() {
        line("connection", "away".into());
    } else {
        line("address", text(&connection["address"]));
        line("listener", text(&connection["listener"]));
        line("version", text(&connection["version"]));
        line("user", text(&connection["user"]));
        line("keep alive", format!("{} s", text(&connection["keep_alive_s"])));
        line("silent for", seconds(&connection["silent_s"]));
        line("unsent", bytes(&connection["out_bytes"]));
    }
    line("shard", text(&client["shard"]));
    let queued = (text(&client["queue_count"]), bytes(&client["queue_bytes"]));
    line("queued", format!("{} ({})", queued.0, queued.1));
    line("in flight", text(&client["inflight_count"]));
    line("will", text(&client["will_topic"]));
    for subscription in list(&client["subscriptions"]) {
        let filter = text(&subscription["filter"]);
        line("subscription", format!("{filter} (QoS {})", text(&subscription["qos"])));
    }
    for (name, key) in [("sent", "inflight"), ("waits", "queue")] {
        list(&client[key]).iter().for_each(|message| line(name, pending(message)));
    }
    told + &incidents(list(&client["incidents"]))
}

/// One message in flight or in the queue.
fn pending(message: &Value) -> String {
    let id = match &message["packet_id"] {
        Value::Null => String::new(),
        id => format!(", packet {id}"),
    };
    match &message["topic"] {
        Value::Null => format!("(released; PUBCOMP is awaited{id})"),
        topic => {
            let size = bytes(&message["bytes"]);
            format!("{} (QoS {}, {size}{id})", text(topic), text(&message["qos"]))
        }
    }
}

fn bans(found: &Value) -> String {
    let mut table = Table::new(["banned", "for"]);
    for ban in list(&found["bans"]) {
        let left = &ban["ends_in_s"];
        let left = if left.is_null() { "good".to_owned() } else { seconds(left) };
        table.row([text(&ban["target"]), left]);
    }
    table.finish()
}

fn why(about: &str, api: &Api) -> io::Result<String> {
    let found = api.get(&format!("incidents?limit=50&about={}", api::encoded(about)))?;
    match list(&found["incidents"]) {
        [] => Ok(format!("nothing was dropped or refused lately for {about}\n")),
        found => Ok(incidents(found)),
    }
}

fn incidents(incidents: &[Value]) -> String {
    if incidents.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["ago", "what", "reason", "client", "topic", "times"]).figures(5..6);
    for incident in incidents {
        table.row([
            seconds(&incident["age_s"]),
            text(&incident["kind"]).replace('_', " "),
            text(&incident["reason"]),
            text(&incident["client"]),
            text(&incident["topic"]),
            text(&incident["count"]),
        ]);
    }
    table.finish()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_sums_what_was_dropped_over_the_shards() {
        let shard = json!({ "shard": 0, "messages_dropped": { "expired": 2, "offline": 0 } });
        let told = status(&json!({ "node": "N1", "shards": [shard.clone(), shard] }));
        assert!(told.ends_with("\ndropped: 4 expired\n"), "{told}");
    }

    #[test]
    fn incidents_are_lines_with_time_reason_and_count() {
        let incident = json!({
            "age_s": 61.5, "kind": "dropped", "reason": "queue_full",
            "client": "c1", "topic": "a/b", "count": 3,
        });
        let told = incidents(&[incident]);
        let words: Vec<&str> = told.lines().nth(1).expect("a line").split_whitespace().collect();
        assert_eq!(words, ["1m", "1s", "dropped", "queue_full", "c1", "a/b", "3"]);
    }
}
