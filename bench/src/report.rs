//! What came of a run: figures, broken promises, and how both are written down.

use std::{collections::BTreeMap, fmt, time::Duration};

use octopus_mqtt::QoS;
use serde::Serialize;

use crate::{
    plan::{Plan, Spread},
    stats::{Percentiles, Stats},
};

/// What the coordinator saw of a run while measuring.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// When the first connect was made; ns of the monotonic clock.
    pub connect_start_ns: u64,
    /// CPU time of the generator until all clients were ready.
    pub connect_cpu_ns: u64,
    /// Length of the measurement.
    pub elapsed: Duration,
    /// When it began; ns of the monotonic clock.
    pub start_ns: u64,
    pub sent: u64,
    pub received: u64,
    /// CPU time of the generator.
    pub load_cpu_ns: u64,
    pub open_at_end: u64,
}

/// The outcome of one run; as JSON one line.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    pub scenario: &'static str,
    pub mqtt_version: u8,
    pub qos: u8,
    pub payload_bytes: usize,
    pub publishers: usize,
    pub subscribers: usize,
    /// Filters of each subscriber.
    pub filters_each: usize,
    pub idle: usize,
    pub threads: usize,
    pub inflight: usize,

    pub connected: u64,
    pub connect_s: f64,
    pub connects_per_s: f64,
    /// From `connect` to CONNACK.
    pub connect: Option<Percentiles>,
    pub open_at_end: u64,

    pub measured_s: f64,
    /// Messages while measuring.
    pub measured_sent: u64,
    pub measured_received: u64,
    pub sent_per_s: f64,
    pub received_per_s: f64,
    /// From publish to receipt.
    pub latency: Option<Percentiles>,
    /// From publish to its last acknowledgement.
    pub acknowledge: Option<Percentiles>,

    /// Messages of the whole run.
    pub sent: u64,
    pub received: u64,
    pub lost: u64,
    pub duplicates: u64,
    pub out_of_order: u64,
    pub foreign: u64,
    pub unacknowledged: u64,
    pub errors: BTreeMap<String, u64>,

    /// CPU of the generator per message received, or sent where nothing is received here.
    pub load_cpu_us_per_message: Option<f64>,
    /// Part of its threads' time the generator was busy, 0 to 1: near 1 it was the bottleneck.
    /// While measuring, or while connecting if nothing else was done.
    pub load_busy: f64,
    /// Promises that were not kept; empty is a pass.
    pub broken: Vec<String>,
}

impl Outcome {
    pub(crate) fn new(plan: &Plan, measured: &Measured, stats: &Stats) -> Self {
        let measured_s = measured_s(plan, measured, stats);
        let connect = stats.connect.summary();
        let connected = connect.map_or(0, |connect| connect.count);
        let connect_s = stats.last_ready_ns.saturating_sub(measured.connect_start_ns) as f64 / 1e9;
        let messages = if measured.received > 0 { measured.received } else { measured.sent };
        let busy_s = measured.load_cpu_ns as f64 / 1e9;
        let mut outcome = Self {
            scenario: plan.name,
            mqtt_version: plan.version as u8,
            qos: plan.qos as u8,
            payload_bytes: plan.payload.len(),
            publishers: plan.publishers,
            subscribers: plan.subscribers,
            filters_each: plan.filters_each,
            idle: plan.idle,
            threads: plan.threads,
            inflight: plan.window,
            connected,
            connect_s,
            connects_per_s: connected as f64 / connect_s.max(1e-9),
            connect,
            open_at_end: measured.open_at_end,
            measured_s,
            measured_sent: measured.sent,
            measured_received: measured.received,
            sent_per_s: measured.sent as f64 / measured_s,
            received_per_s: measured.received as f64 / measured_s,
            latency: stats.latency.summary(),
            acknowledge: stats.acknowledge.summary(),
            sent: stats.sent,
            received: stats.received,
            lost: lost(plan, stats),
            duplicates: stats.duplicates,
            out_of_order: stats.out_of_order,
            foreign: stats.foreign,
            unacknowledged: stats.unacknowledged,
            errors: stats.errors.clone(),
            load_cpu_us_per_message: (messages > 0).then(|| busy_s * 1e6 / messages as f64),
            load_busy: load_busy(plan, measured, connect_s),
            broken: Vec::new(),
        };
        outcome.broken = outcome.broken_promises(plan);
        outcome
    }

    /// What the protocol or this run's plan promises and did not happen.
    fn broken_promises(&self, plan: &Plan) -> Vec<String> {
        let mut broken = Vec::new();
        let mut check = |count: u64, what: &str| {
            if count > 0 {
                broken.push(format!("{count} {what}"));
            }
        };
        check(self.errors.values().sum(), "errors");
        check((plan.clients() as u64).saturating_sub(self.connected), "clients not connected");
        check(self.unacknowledged, "messages not acknowledged");
        check(self.out_of_order, "messages out of order");
        if plan.qos > QoS::AtMostOnce {
            check(self.lost, "messages lost");
        }
        if plan.qos != QoS::AtLeastOnce {
            check(self.duplicates, "duplicates");
        }
        broken
    }

    /// The outcome as one line of JSON.
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).expect("plain numbers and texts")
    }
}

fn load_busy(plan: &Plan, measured: &Measured, connect_s: f64) -> f64 {
    let (cpu_ns, seconds) = if plan.duration.is_zero() {
        (measured.connect_cpu_ns, connect_s)
    } else {
        (measured.load_cpu_ns, measured.elapsed.as_secs_f64())
    };
    cpu_ns as f64 / 1e9 / (seconds.max(1e-9) * plan.threads as f64)
}

/// A replay ends with its last message, not when we noticed that it had.
fn measured_s(plan: &Plan, measured: &Measured, stats: &Stats) -> f64 {
    let replayed_ns = stats.last_received_ns.saturating_sub(measured.start_ns);
    if plan.replay.is_some() && replayed_ns > 0 {
        return replayed_ns as f64 / 1e9;
    }
    measured.elapsed.as_secs_f64().max(1e-9)
}

fn lost(plan: &Plan, stats: &Stats) -> u64 {
    if let Some(replay) = plan.replay {
        return replay.count.saturating_sub(stats.received);
    }
    if plan.spread == Spread::Apart {
        return stats.missing;
    }
    (stats.sent * plan.deliveries_per_message() as u64).saturating_sub(stats.received)
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = match self.mqtt_version {
            3 => "3.1",
            4 => "3.1.1",
            _ => "5",
        };
        writeln!(
            f,
            "{}: MQTT {version}, QoS {}, {} B, {} publishers, {} subscribers, {} idle",
            self.scenario,
            self.qos,
            self.payload_bytes,
            self.publishers,
            self.subscribers,
            self.idle
        )?;
        writeln!(
            f,
            "  connected   {} in {:.2} s ({:.0}/s), {} open at the end",
            self.connected, self.connect_s, self.connects_per_s, self.open_at_end
        )?;
        write_times(f, "connect", self.connect.as_ref())?;
        if self.publishers + self.subscribers > 0 {
            writeln!(
                f,
                "  rate        {:.0} sent/s, {:.0} received/s over {:.2} s",
                self.sent_per_s, self.received_per_s, self.measured_s
            )?;
            write_times(f, "latency", self.latency.as_ref())?;
            write_times(f, "acknowledge", self.acknowledge.as_ref())?;
            writeln!(
                f,
                "  messages    {} sent, {} received, {} lost, {} duplicates, {} out of order",
                self.sent, self.received, self.lost, self.duplicates, self.out_of_order
            )?;
        }
        for (what, count) in &self.errors {
            writeln!(f, "  error       {count} x {what}")?;
        }
        write!(f, "  generator   {:.0} % busy", self.load_busy * 100.0)?;
        match self.load_cpu_us_per_message {
            Some(cpu_us) => writeln!(f, ", {cpu_us:.2} us CPU per message")?,
            None => writeln!(f)?,
        }
        match self.broken.is_empty() {
            true => write!(f, "  all promises kept"),
            false => write!(f, "  BROKEN      {}", self.broken.join(", ")),
        }
    }
}

fn write_times(f: &mut fmt::Formatter<'_>, name: &str, t: Option<&Percentiles>) -> fmt::Result {
    let Some(t) = t else { return Ok(()) };
    writeln!(
        f,
        "  {name:<11} p50 {} us, p99 {} us, p99.9 {} us, max {} us",
        t.p50_us, t.p99_us, t.p999_us, t.max_us
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    fn plan(line: &str) -> Plan {
        let cli = Cli::try_parse_from(line.split(' ')).expect("a lawful line");
        Plan::of(&cli.command).expect("an address").remove(0)
    }

    /// Two clients, a hundred messages in a second, all of them received.
    fn perfect() -> (Measured, Stats) {
        let measured = Measured {
            elapsed: Duration::from_secs(1),
            sent: 100,
            received: 100,
            load_cpu_ns: 50_000_000,
            open_at_end: 2,
            ..Measured::default()
        };
        let mut stats = Stats::new();
        (0..2).for_each(|_| stats.connect.record_ns(1_000_000));
        (0..100).for_each(|n| stats.latency.record_ns(n * 1_000_000));
        (stats.sent, stats.received) = (100, 100);
        (measured, stats)
    }

    #[test]
    fn a_perfect_run_breaks_no_promise_and_tells_its_figures() {
        let (measured, stats) = perfect();
        let outcome = Outcome::new(&plan("b pairs -c 1 -q 2"), &measured, &stats);
        assert!(outcome.broken.is_empty(), "{:?}", outcome.broken);
        assert_eq!((outcome.lost, outcome.received_per_s), (0, 100.0));
        assert_eq!(outcome.load_cpu_us_per_message, Some(500.0));
        let text = outcome.to_string();
        assert!(text.contains("100 received/s") && text.contains("all promises kept"), "{text}");
        let json = outcome.to_json();
        assert!(!json.contains('\n') && json.contains("\"p99_us\":98"), "{json}");
    }

    #[test]
    fn each_qos_promises_what_it_promises() {
        for (qos, lost, duplicates, broken) in [
            (0, 1, 0, ""),
            (0, 0, 1, "1 duplicates"),
            (1, 1, 0, "1 messages lost"),
            (1, 0, 1, ""),
            (2, 1, 0, "1 messages lost"),
            (2, 0, 1, "1 duplicates"),
        ] {
            let (measured, mut stats) = perfect();
            stats.received -= lost;
            stats.duplicates = duplicates;
            let plan = plan(&format!("b pairs -c 1 -q {qos}"));
            let outcome = Outcome::new(&plan, &measured, &stats);
            assert_eq!(outcome.broken.join(", "), broken, "QoS {qos}");
        }
    }

    #[test]
    fn errors_and_order_and_absent_clients_always_count() {
        let (measured, mut stats) = perfect();
        stats.count_error("closed by the broker".into());
        stats.out_of_order = 3;
        let outcome = Outcome::new(&plan("b pairs -c 2"), &measured, &stats);
        let expected = ["1 errors", "2 clients not connected", "3 messages out of order"];
        assert_eq!(outcome.broken, expected);
        assert!(outcome.to_string().contains("1 x closed by the broker"));
    }
}
