//! `/metrics`: every counter of the shards, of the process, and of whoever adds to
//! [`Metrics::sources`].
//!
//! Names begin with `octopus_`, counters end in `_total`, units are seconds and bytes. Labels
//! are shard, listener, qos, reason, hop: none grows with the number of clients.

use octopus_engine::{Dropped, Histogram, Hop, LISTENERS_COUNTED, LayerRefusal, Stats};

use super::exposition::{Exposition, Format};
use crate::process;

/// Writes families of its own; they must not be among ours.
pub type Source = Box<dyn Fn(&mut Exposition) + Send + Sync>;

/// What a scrape is made of. Scope: node.
pub struct Metrics {
    pub node: String,
    /// Names of the listeners, by index.
    pub listeners: Vec<String>,
    /// Figures of other parts of the node: authentication, the link to Redis.
    pub sources: Vec<Source>,
}

type Figure = (&'static str, &'static str, fn(&Stats) -> f64);

const GAUGES: &[Figure] = &[
    ("octopus_connections", "Clients connected.", |s| s.connections as f64),
    ("octopus_sessions", "Sessions, connected or not.", |s| s.sessions as f64),
    ("octopus_subscriptions", "Subscriptions, shared ones included.", |s| s.subscriptions as f64),
    ("octopus_shared_subscriptions", "Shared subscriptions.", |s| s.shared_subscriptions as f64),
    ("octopus_filters", "Distinct topic filters subscribed to.", |s| s.filters as f64),
    ("octopus_interest_filters", "Topic filters of other shards and nodes known.", |s| {
        s.interest as f64
    }),
    ("octopus_retained_messages", "Retained messages kept.", |s| s.retained as f64),
    ("octopus_retained_bytes", "Topic and payload bytes of retained messages.", |s| {
        s.retained_bytes as f64
    }),
    ("octopus_queued_messages", "Messages that wait in queues of sessions.", |s| {
        s.ledger.queued.saturating_sub(s.inflight) as f64
    }),
    ("octopus_queued_bytes", "Topic and payload bytes that wait in queues of sessions.", |s| {
        s.queue_bytes as f64
    }),
    ("octopus_inflight_messages", "Messages sent and not yet acknowledged.", |s| s.inflight as f64),
    ("octopus_sockets", "Sockets open, those without a session included.", |s| {
        s.driver.sockets as f64
    }),
    ("octopus_memory_bytes", "Bytes counted for limits.memory_bytes_max.", |s| {
        s.memory.used as f64
    }),
    ("octopus_memory_level", "What is shed for want of memory: 0 nothing, to 4 publishes.", |s| {
        s.memory.level as u8 as f64
    }),
    ("octopus_memory_held", "Connections read once a second for want of memory.", |s| {
        s.memory.held as f64
    }),
    ("octopus_loop_stall_seconds", "Longest turn of the shard's loop in the last minute.", |s| {
        s.driver.stall_max_us as f64 / 1e6
    }),
    ("octopus_ring_depth", "Requests under way on the shard's ring.", |s| {
        s.driver.ring_depth as f64
    }),
    ("octopus_mesh_backlog", "Envelopes that wait for the slowest peer.", |s| {
        s.driver.mesh_backlog as f64
    }),
];

const COUNTERS: &[Figure] = &[
    ("octopus_connections_opened", "Network connections begun or taken over from a shard.", |s| {
        s.connections_opened as f64
    }),
    ("octopus_connects_accepted", "Clients let in.", |s| s.connects_accepted as f64),
    ("octopus_connects_refused", "Connections that ended before they had a session.", |s| {
        s.connects_refused as f64
    }),
    ("octopus_takeovers", "Connections ended by a newer one of the same client.", |s| {
        s.takeovers as f64
    }),
    ("octopus_duplicates_refused", "Connects refused: their client was connected.", |s| {
        s.duplicates_refused as f64
    }),
    ("octopus_subscribes_denied", "Subscriptions that the client's rules did not allow.", |s| {
        s.subscribes_denied as f64
    }),
    ("octopus_subscriptions_revoked", "Subscriptions ended by a change of rules.", |s| {
        s.subscriptions_revoked as f64
    }),
    ("octopus_reads_slowed", "Times a client above its rate was read later.", |s| {
        s.reads_slowed as f64
    }),
    ("octopus_sessions_expired", "Sessions whose expiry interval was over.", |s| {
        s.sessions_expired as f64
    }),
    ("octopus_packets_received", "Control packets received.", |s| s.packets_received as f64),
    ("octopus_packets_sent", "Control packets sent.", |s| s.packets_sent as f64),
    ("octopus_bytes_received", "Bytes received from clients.", |s| s.bytes_received as f64),
    ("octopus_bytes_sent", "Bytes sent to clients.", |s| s.bytes_sent as f64),
    ("octopus_payload_bytes_received", "Payload bytes of messages received.", |s| {
        s.publish_bytes_received as f64
    }),
    ("octopus_payload_bytes_sent", "Payload bytes of messages sent.", |s| {
        s.publish_bytes_sent as f64
    }),
    ("octopus_wills_sent", "Will messages published.", |s| s.wills_sent as f64),
    ("octopus_deliveries_owed", "Deliveries taken on, one per message and destination.", |s| {
        s.ledger.owed as f64
    }),
    ("octopus_deliveries_done", "Deliveries finished.", |s| s.ledger.delivered as f64),
    ("octopus_deliveries_forwarded", "Deliveries handed to another shard or node.", |s| {
        s.ledger.forwarded as f64
    }),
    ("octopus_sockets_accepted", "Sockets accepted.", |s| s.driver.accepted as f64),
    ("octopus_sockets_refused", "Sockets closed at once: the node has as many as it may.", |s| {
        s.driver.accept_refused as f64
    }),
    ("octopus_accepts_paced", "Pauses in accepting: connections came faster than may.", |s| {
        s.driver.accepts_paced as f64
    }),
    ("octopus_accept_errors", "Accepts that failed.", |s| s.driver.accept_errors as f64),
    ("octopus_memory_connects_refused", "New sessions refused for want of memory.", |s| {
        s.memory.connects_refused as f64
    }),
    ("octopus_memory_subscriptions_refused", "Subscriptions refused for want of memory.", |s| {
        s.memory.subscriptions_refused as f64
    }),
    ("octopus_memory_holds", "Times a publisher was held for want of memory.", |s| {
        s.memory.holds as f64
    }),
    ("octopus_memory_publishes_refused", "PUBLISH packets refused for want of memory.", |s| {
        s.memory.publishes_refused as f64
    }),
    ("octopus_memory_packets_cut", "Connections closed within a packet, for memory.", |s| {
        s.memory.packets_cut as f64
    }),
    ("octopus_pressure_turns", "Turns in which clients waited for a peer to catch up.", |s| {
        s.driver.pressure_turns as f64
    }),
];

/// Ends of a histogram's buckets, as powers of two of a microsecond: 16 µs to 67 s.
const POWERS: std::ops::RangeInclusive<u32> = 4..=26;

impl Metrics {
    /// The text for one scrape. `shards`: by number.
    pub fn text(&self, shards: &[Stats], format: Format) -> String {
        let mut text = Exposition::new(format);
        text.gauge("octopus_build_info", "Always 1; the version and the node's name.");
        let version = ("version", env!("CARGO_PKG_VERSION"));
        text.sample(&[version, ("node", &self.node)], 1.0);
        figures(&mut text, shards, GAUGES, Exposition::gauge);
        figures(&mut text, shards, COUNTERS, Exposition::counter);
        self.by_listener(&mut text, shards);
        by_qos(&mut text, shards);
        by_reason(&mut text, shards);
        latency(&mut text, shards);
        process::write(&mut text);
        for source in &self.sources {
            source(&mut text);
        }
        text.finish()
    }

    fn by_listener(&self, text: &mut Exposition, shards: &[Stats]) {
        text.gauge("octopus_listener_connections", "Clients connected, by listener.");
        let listeners = self.listeners.iter().take(LISTENERS_COUNTED).enumerate();
        for (index, name) in listeners {
            let count: u64 = shards.iter().map(|s| s.connections_by_listener[index]).sum();
            text.sample(&[("listener", name)], count as f64);
        }
        let help = "Times a client was read later because its listener was above its rate.";
        text.counter("octopus_listener_reads_slowed", help);
        for (index, name) in self.listeners.iter().take(LISTENERS_COUNTED).enumerate() {
            let count: u64 = shards.iter().map(|s| s.reads_slowed_by_listener[index]).sum();
            text.sample(&[("listener", name)], count as f64);
        }
    }
}

fn figures(
    text: &mut Exposition,
    shards: &[Stats],
    figures: &[Figure],
    begin: fn(&mut Exposition, &str, &str),
) {
    for (name, help, value) in figures {
        begin(text, name, help);
        for (shard, stats) in shards.iter().enumerate() {
            text.sample(&[("shard", &shard.to_string())], value(stats));
        }
    }
}

fn by_qos(text: &mut Exposition, shards: &[Stats]) {
    type ByQoS = fn(&Stats) -> &[u64; 3];
    let families: [(&str, &str, ByQoS); 2] = [
        ("octopus_messages_received", "PUBLISH packets received.", |s| &s.publish_received),
        ("octopus_messages_sent", "PUBLISH packets sent, repetitions included.", |s| {
            &s.publish_sent
        }),
    ];
    for (name, help, counts) in families {
        text.counter(name, help);
        for (shard, stats) in shards.iter().enumerate() {
            for (qos, count) in counts(stats).iter().enumerate() {
                let labels = [("shard", &*shard.to_string()), ("qos", &*qos.to_string())];
                text.sample(&labels, *count as f64);
            }
        }
    }
}

fn by_reason(text: &mut Exposition, shards: &[Stats]) {
    text.counter("octopus_messages_dropped", "Messages that did not reach a destination.");
    for (shard, stats) in shards.iter().enumerate() {
        for reason in Dropped::ALL {
            let labels = [("shard", &*shard.to_string()), ("reason", reason.label())];
            text.sample(&labels, stats.ledger.dropped_for(*reason) as f64);
        }
    }
    text.counter("octopus_layers_refused", "Sockets closed by PROXY protocol, TLS or WebSocket.");
    for (shard, stats) in shards.iter().enumerate() {
        for reason in LayerRefusal::ALL {
            let labels = [("shard", &*shard.to_string()), ("reason", reason.label())];
            text.sample(&labels, stats.driver.layer_refused[*reason as usize] as f64);
        }
    }
}

fn latency(text: &mut Exposition, shards: &[Stats]) {
    text.histogram(
        "octopus_delivery_latency_seconds",
        "From receipt of a message to the end of the write to a subscriber, sampled.",
    );
    for hop in Hop::ALL {
        for (shard, stats) in shards.iter().enumerate() {
            let labels = [("shard", &*shard.to_string()), ("hop", hop.label())];
            histogram(text, &labels, &stats.latency[hop as usize]);
        }
    }
    text.histogram("octopus_loop_turn_seconds", "How long turns of the shard's loop take.");
    for (shard, stats) in shards.iter().enumerate() {
        histogram(text, &[("shard", &shard.to_string())], &stats.driver.turns);
    }
}

fn histogram(text: &mut Exposition, labels: &[(&str, &str)], histogram: &Histogram) {
    let buckets =
        POWERS.map(|power| ((1_u64 << power) as f64 / 1e6, histogram.count_below_power(power)));
    text.buckets(labels, buckets, histogram.count(), histogram.sum_us() as f64 / 1e6);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_family_is_written_once_and_sources_are_appended() {
        let metrics = Metrics {
            node: "N1".into(),
            listeners: vec!["default".into(), "tls".into()],
            sources: vec![Box::new(|text| {
                text.counter("octopus_extra", "More.");
                text.sample(&[], 4.0);
            })],
        };
        let mut stats = Stats { publish_received: [1, 2, 3], ..Stats::default() };
        stats.latency[Hop::OtherShard as usize].record(std::time::Duration::from_micros(100));
        let text = metrics.text(&[stats.clone(), stats], Format::Prometheus);
        let mut seen = HashSet::new();
        for family in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            assert!(seen.insert(family), "{family}");
        }
        for line in [
            "octopus_messages_received_total{shard=\"1\",qos=\"2\"} 3",
            "octopus_messages_dropped_total{shard=\"0\",reason=\"queue_full\"} 0",
            "octopus_layers_refused_total{shard=\"0\",reason=\"certificate_revoked\"} 0",
            "octopus_delivery_latency_seconds_count{shard=\"0\",hop=\"other_shard\"} 1",
            "octopus_delivery_latency_seconds_count{shard=\"0\",hop=\"queued\"} 0",
            "octopus_listener_connections{listener=\"tls\"} 0",
            "octopus_extra_total 4",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
