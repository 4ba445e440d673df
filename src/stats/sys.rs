//! `$SYS/broker/…`: the node's figures as retained messages, under the names that mosquitto's
//! users know.
//!
//! A topic is published when its value changes, the first time at start. `load/…` are moving
//! averages per minute over 1, 5 and 15 minutes. The messages are the node's alone: they do
//! not travel to other nodes and do not count as published by a client.
//!
//! Where our figure is not exactly mosquitto's: `heap/…` is resident memory; `messages/inflight`
//! is what clients have not acknowledged yet; `messages/stored` counts retained and queued
//! messages; `clients/maximum` is the highest of the figures published.

use std::{collections::HashMap, time::Duration};

use octopus_engine::{Instant, Message};
use octopus_mqtt::{MessageProperties, QoS, TopicName};
use tokio::time::{self, MissedTickBehavior};

use super::Total;
use crate::{hub::Hub, process};

/// Reads one counter.
type Counter = fn(&Total) -> u64;

/// What a load average is kept of: its name, and the counter it follows.
const LOADS: [(&str, Counter); 9] = [
    ("messages/received", |t| t.packets_received),
    ("messages/sent", |t| t.packets_sent),
    ("publish/received", |t| t.publish_received),
    ("publish/sent", |t| t.publish_sent),
    ("publish/dropped", |t| t.dropped),
    ("bytes/received", |t| t.bytes_received),
    ("bytes/sent", |t| t.bytes_sent),
    ("sockets", |t| t.sockets_accepted),
    ("connections", |t| t.connects_accepted),
];

/// The spans of the load averages, in minutes.
const SPANS_MIN: [u32; 3] = [1, 5, 15];

/// Publishes `$SYS` every `interval` until the node stops; returns at once if it is zero.
pub async fn publish(hub: Hub, interval: Duration) {
    if interval.is_zero() {
        return;
    }
    let start = time::Instant::now();
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sys = Sys::default();
    loop {
        ticks.tick().await;
        let Some(shards) = hub.stats().await else { return };
        let memory_bytes = process::memory_bytes().unwrap_or(0);
        hub.publish_local(sys.changed(&Total::of(&shards), memory_bytes, start.elapsed()));
    }
}

/// What was published last, and the averages that need a past.
#[derive(Default)]
struct Sys {
    published: HashMap<String, String>,
    clients_max: u64,
    memory_max_bytes: u64,
    last: Option<(Total, Duration)>,
    /// By kind of load, then span; events per minute.
    loads: [[f64; SPANS_MIN.len()]; LOADS.len()],
}

impl Sys {
    /// The messages of this round: topics that are new or whose value changed.
    fn changed(&mut self, total: &Total, memory_bytes: u64, uptime: Duration) -> Vec<Message> {
        let mut values = self.figures(total, memory_bytes, uptime);
        values.extend(self.averages(total, uptime));
        values.retain(|(name, value)| self.published.get(name) != Some(value));
        let messages = values.iter().filter_map(|(name, value)| message(name, value)).collect();
        self.published.extend(values);
        messages
    }

    fn figures(
        &mut self,
        total: &Total,
        memory_bytes: u64,
        uptime: Duration,
    ) -> Vec<(String, String)> {
        self.clients_max = self.clients_max.max(total.sessions);
        self.memory_max_bytes = self.memory_max_bytes.max(memory_bytes);
        let away = total.sessions.saturating_sub(total.connections);
        let stored = total.retained + total.queued.saturating_sub(total.inflight);
        let numbers = [
            ("clients/total", total.sessions),
            ("clients/connected", total.connections),
            ("clients/active", total.connections),
            ("clients/disconnected", away),
            ("clients/inactive", away),
            ("clients/maximum", self.clients_max),
            ("clients/expired", total.sessions_expired),
            ("messages/received", total.packets_received),
            ("messages/sent", total.packets_sent),
            ("messages/stored", stored),
            ("messages/inflight", total.inflight),
            ("store/messages/count", stored),
            ("store/messages/bytes", total.retained_bytes + total.queue_bytes),
            ("publish/messages/received", total.publish_received),
            ("publish/messages/sent", total.publish_sent),
            ("publish/messages/dropped", total.dropped),
            ("publish/bytes/received", total.publish_bytes_received),
            ("publish/bytes/sent", total.publish_bytes_sent),
            ("bytes/received", total.bytes_received),
            ("bytes/sent", total.bytes_sent),
            ("subscriptions/count", total.subscriptions),
            ("shared_subscriptions/count", total.shared_subscriptions),
            ("retained messages/count", total.retained),
            ("heap/current", memory_bytes),
            ("heap/maximum", self.memory_max_bytes),
        ];
        let texts = [
            ("version", concat!("octopus version ", env!("CARGO_PKG_VERSION")).to_owned()),
            ("uptime", format!("{} seconds", uptime.as_secs())),
        ];
        let numbers = numbers.into_iter().map(|(name, value)| (name, value.to_string()));
        texts.into_iter().chain(numbers).map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Follows each counter with an exponential average, as mosquitto does: the events since
    /// the last round weigh `1 - e^(-elapsed/span)`.
    fn averages(&mut self, total: &Total, uptime: Duration) -> Vec<(String, String)> {
        let (before, at) = self.last.replace((*total, uptime)).unwrap_or_default();
        let elapsed_min = uptime.saturating_sub(at).as_secs_f64() / 60.0;
        let mut values = Vec::new();
        for ((name, counter), averages) in LOADS.iter().zip(&mut self.loads) {
            let events = counter(total).saturating_sub(counter(&before)) as f64;
            let rate = if elapsed_min > 0.0 { events / elapsed_min } else { 0.0 };
            for (span_min, average) in SPANS_MIN.iter().zip(averages) {
                let keep = (-elapsed_min / f64::from(*span_min)).exp();
                *average = rate + keep * (*average - rate);
                values.push((format!("load/{name}/{span_min}min"), format!("{average:.2}")));
            }
        }
        values
    }
}

fn message(name: &str, value: &str) -> Option<Message> {
    let topic = format!("$SYS/broker/{name}");
    let topic = TopicName::parse(&topic).ok()?;
    let (retain, none) = (true, MessageProperties::default());
    let now = Instant::default();
    Some(Message::new(topic, value.as_bytes(), QoS::AtMostOnce, retain, &none, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(messages: &[Message]) -> HashMap<String, String> {
        let of = |message: &Message| {
            assert!(message.retain());
            let payload = String::from_utf8(message.payload().to_vec()).expect("text");
            let name = message.topic().as_str().strip_prefix("$SYS/broker/").expect("prefix");
            (name.to_owned(), payload)
        };
        messages.iter().map(of).collect()
    }

    #[test]
    fn the_first_round_names_everything_and_the_next_only_what_changed() {
        let mut sys = Sys::default();
        let total = Total { connections: 2, sessions: 3, packets_received: 7, ..Total::default() };
        let first = values(&sys.changed(&total, 1 << 20, Duration::from_millis(1)));
        assert_eq!(first["uptime"], "0 seconds");
        assert_eq!(first["clients/disconnected"], "1");
        assert_eq!(first["messages/received"], "7");
        assert_eq!(first["heap/current"], "1048576");
        assert!(first["version"].starts_with("octopus version "));
        assert_eq!(first.len(), 27 + 27);
        let total = Total { connections: 3, ..total };
        let next = values(&sys.changed(&total, 1 << 20, Duration::from_secs(10)));
        let mut figures: Vec<&str> =
            next.keys().map(String::as_str).filter(|name| !name.starts_with("load/")).collect();
        figures.sort_unstable();
        let changed = [
            "clients/active",
            "clients/connected",
            "clients/disconnected",
            "clients/inactive",
            "uptime",
        ];
        assert_eq!(figures, changed);
    }

    #[test]
    fn a_steady_rate_becomes_the_load() {
        let mut sys = Sys::default();
        let mut last = HashMap::new();
        for second in 0..=1200 {
            let total = Total { publish_received: second * 10, ..Total::default() };
            last.extend(values(&sys.changed(&total, 0, Duration::from_secs(second))));
        }
        let load = |span: &str| -> f64 {
            last[&format!("load/publish/received/{span}")].parse().expect("a number")
        };
        assert!((load("1min") - 600.0).abs() < 0.1, "{}", load("1min"));
        assert!((load("5min") - 600.0).abs() < 12.0, "{}", load("5min"));
        assert!(load("15min") > 400.0 && load("15min") < 600.0, "{}", load("15min"));
    }
}
