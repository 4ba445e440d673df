//! The command line: sub-commands and options, as mqttx's bench names them where both have them.

use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use octopus_mqtt::{QoS, Version};

use crate::{cluster::ClusterOptions, compare::CompareOptions};

/// Load generator for MQTT brokers: many clients, little CPU, every message checked.
///
/// Each run is bounded in time and ends by itself. The exit code is 1 if a promise was broken:
/// an error, loss above QoS 0, a duplicate at QoS 0 or 2, or messages out of order.
#[derive(Debug, Parser)]
#[command(name = "octopus-bench", disable_help_flag = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Print help
    #[arg(long, global = true, action = ArgAction::Help)]
    pub help: Option<bool>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Connect clients and hold them
    Conn(Clients),
    /// Connect clients as fast as the broker takes them; latency is that of CONNACK
    Storm(Clients),
    /// Subscribe clients and count what they get
    Sub(SubOptions),
    /// Publish from many clients; latency is that of the acknowledgement
    Pub(PubOptions),
    /// Pairs of one publisher and one subscriber, each on its own topic
    Pairs(TrafficOf),
    /// Many publishers to one subscriber
    Fanin(TrafficOf),
    /// One publisher to many subscribers
    Fanout(TrafficOf),
    /// Pairs at a low rate (1,000 msg/s in total unless told)
    Latency(TrafficOf),
    /// Publishers to a group of subscribers that share one subscription
    Shared(SharedOptions),
    /// Many connections that are silent beside a few pairs that are not
    Idle(IdleOptions),
    /// Publish retained messages, then time their replay to one new subscription
    Retained(RetainedOptions),
    /// Queue messages for sessions whose clients are away, then time their delivery
    Offline(OfflineOptions),
    /// Pick few subscriptions out of many with each message
    Subscriptions(SubscriptionsOptions),
    /// Start groups of nodes with a Redis of their own and measure what crosses between them
    Cluster(ClusterOptions),
    /// Run brokers interleaved on the same loads and print their ratios
    Compare(CompareOptions),
}

impl Command {
    /// The options every load has; `None` for what starts brokers itself.
    pub(crate) fn common(&self) -> Option<&Common> {
        Some(match self {
            Self::Conn(o) | Self::Storm(o) => &o.common,
            Self::Sub(o) => &o.clients.common,
            Self::Pub(o) => &o.load.clients.common,
            Self::Pairs(o) | Self::Fanin(o) | Self::Fanout(o) | Self::Latency(o) => {
                &o.clients.common
            }
            Self::Shared(o) => &o.common,
            Self::Idle(o) => &o.load.clients.common,
            Self::Retained(o) => &o.common,
            Self::Offline(o) => &o.clients.common,
            Self::Subscriptions(o) => &o.load.clients.common,
            Self::Cluster(_) | Self::Compare(_) => return None,
        })
    }
}

/// Where the broker is and how clients present themselves.
#[derive(Clone, Debug, Args)]
pub(crate) struct BrokerOptions {
    /// Address of the broker
    #[arg(short = 'h', long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port of the broker
    #[arg(short, long, default_value_t = 20000)]
    pub port: u16,
    /// Ports of the nodes of a group, instead of --port: publishers are spread over them, and
    /// each subscriber is on the node behind its publisher's
    #[arg(long, value_delimiter = ',')]
    pub group: Vec<u16>,
    /// Protocol version: 3.1.1 or 5
    #[arg(short = 'V', long, value_parser = version, default_value = "3.1.1")]
    pub mqtt_version: Version,
    /// Speak TLS 1.3, with brokers that the authorities in this PEM file vouch for
    #[arg(long)]
    pub ca_file: Option<std::path::PathBuf>,
    #[arg(short, long)]
    pub username: Option<String>,
    #[arg(short = 'P', long)]
    pub password: Option<String>,
    /// Client identifiers; %i is the number of the client, %r a number of this run
    #[arg(short = 'I', long, default_value = "bench-%r-%i")]
    pub client_id: String,
    /// Ask the broker to keep the sessions (Clean Session or Clean Start is 0)
    #[arg(short = 'C', long)]
    pub no_clean: bool,
    /// Keep Alive, seconds; 0 turns it off
    #[arg(short, long, default_value_t = 60)]
    pub keep_alive: u16,
}

/// How a run goes, whatever its load.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunOptions {
    /// Seconds to measure, or to hold the connections
    #[arg(short, long, visible_alias = "hold", value_parser = seconds, default_value = "10")]
    pub duration: Duration,
    /// Seconds of load before measuring
    #[arg(long, value_parser = seconds, default_value = "1")]
    pub warmup: Duration,
    /// Seconds without any progress after which missing messages are given up
    #[arg(long, value_parser = seconds, default_value = "2")]
    pub drain: Duration,
    /// Milliseconds between two connects of a thread; 0 is as fast as --connect-window allows
    #[arg(short = 'i', long = "interval", default_value_t = 0)]
    pub connect_interval_ms: u64,
    /// Connects under way at a time; more than the broker's backlog holds (100 is usual) makes
    /// the kernel repeat them after a second
    #[arg(long, default_value_t = 64)]
    pub connect_window: usize,
    /// Threads, each with its own clients
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Cores the threads may run on, such as 1 or 2,3
    #[arg(long, value_delimiter = ',')]
    pub cpu: Vec<usize>,
    /// Print the result as one line of JSON
    #[arg(long)]
    pub json: bool,
    /// Show no progress
    #[arg(long)]
    pub quiet: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Common {
    #[command(flatten)]
    pub broker: BrokerOptions,
    #[command(flatten)]
    pub run: RunOptions,
}

/// What is published, and how fast.
#[derive(Clone, Debug, Args)]
pub(crate) struct Traffic {
    /// QoS of messages and subscriptions: 0, 1 or 2
    #[arg(short, long, value_parser = qos, default_value = "0")]
    pub qos: QoS,
    /// Bytes of payload; from 24 on each message is checked and timed
    #[arg(short, long, default_value_t = 64)]
    pub size: usize,
    /// Text to begin the payload's rest with; without it the rest is filled with x
    #[arg(short, long)]
    pub message: Option<String>,
    /// Messages per second of all publishers together; without a rate, as fast as they go
    #[arg(short, long, conflicts_with_all = ["rate_per_client", "message_interval"])]
    pub rate: Option<f64>,
    /// Messages per second of each publisher
    #[arg(long, conflicts_with = "message_interval")]
    pub rate_per_client: Option<f64>,
    /// Milliseconds between two messages of a publisher
    #[arg(long, visible_alias = "im")]
    pub message_interval: Option<f64>,
    /// Messages a publisher may have under way: not acknowledged, or not yet received by the
    /// subscribers of this process; 0 leaves QoS 0 to TCP alone. Default: by QoS, size and load
    #[arg(long)]
    pub inflight: Option<usize>,
    /// Messages of all publishers together after which the run ends
    #[arg(short = 'L', long)]
    pub limit: Option<u64>,
    /// Set the RETAIN flag
    #[arg(long)]
    pub retain: bool,
}

impl Traffic {
    /// Messages per second of all of `publishers`, if a rate was asked for.
    pub(crate) fn total_rate(&self, publishers: usize) -> Option<f64> {
        let per_client =
            self.rate_per_client.or_else(|| self.message_interval.map(|ms| 1000.0 / ms));
        self.rate.or_else(|| per_client.map(|rate| rate * publishers as f64))
    }
}

/// How many clients, and nothing about what they do.
#[derive(Clone, Debug, Args)]
pub(crate) struct Clients {
    #[command(flatten)]
    pub common: Common,
    /// Number of clients, pairs, or of the many [default: conn, sub and pub 1000, storm and idle
    /// 10000, fanout 500, fanin 100, pairs 50, latency 10, offline 200, subscriptions 1000]
    #[arg(short, long)]
    pub count: Option<usize>,
}

impl Clients {
    /// The number asked for, or the sub-command's own.
    pub(crate) fn count_or(&self, default: usize) -> usize {
        self.count.unwrap_or(default)
    }
}

#[derive(Clone, Debug, Args)]
pub(crate) struct TrafficOf {
    #[command(flatten)]
    pub clients: Clients,
    #[command(flatten)]
    pub traffic: Traffic,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SubOptions {
    #[command(flatten)]
    pub clients: Clients,
    /// Topic Filter; %i is the number of the client
    #[arg(short, long, default_value = "bench/%i")]
    pub topic: String,
    #[arg(short, long, value_parser = qos, default_value = "0")]
    pub qos: QoS,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct PubOptions {
    #[command(flatten)]
    pub load: TrafficOf,
    /// Topic Name; %i is the number of the client, %n that of its message
    #[arg(short, long, default_value = "bench/%i")]
    pub topic: String,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SharedOptions {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub traffic: Traffic,
    #[arg(long, default_value_t = 50)]
    pub publishers: usize,
    #[arg(long, default_value_t = 50)]
    pub subscribers: usize,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct IdleOptions {
    #[command(flatten)]
    pub load: TrafficOf,
    /// Pairs that exchange messages (1,000 msg/s in total unless told)
    #[arg(long, default_value_t = 50)]
    pub active: usize,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct RetainedOptions {
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub traffic: Traffic,
    /// Number of retained messages, each on its own topic
    #[arg(short, long, default_value_t = 100_000)]
    pub count: u64,
    /// Leave the retained messages in the broker
    #[arg(long)]
    pub keep: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct OfflineOptions {
    #[command(flatten)]
    pub clients: Clients,
    #[command(flatten)]
    pub traffic: Traffic,
    /// Messages queued for each session
    #[arg(long, default_value_t = 500)]
    pub messages: u64,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct SubscriptionsOptions {
    #[command(flatten)]
    pub load: TrafficOf,
    /// Filters of each subscriber; a message fits one of all
    #[arg(long, default_value_t = 1000)]
    pub each: usize,
    /// What the filters hold
    #[arg(long, value_enum, default_value = "exact")]
    pub wildcard: Wildcard,
    #[arg(long, default_value_t = 10)]
    pub publishers: usize,
}

/// The wildcard in each of many filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wildcard {
    /// None.
    Exact,
    /// `+` for the last level but one.
    Plus,
    /// `#` behind all levels.
    Hash,
}

fn version(text: &str) -> Result<Version, String> {
    match text {
        "3.1" | "3" => Ok(Version::V3_1),
        "3.1.1" | "4" => Ok(Version::V3_1_1),
        "5" | "5.0" => Ok(Version::V5),
        _ => Err("expected 3.1.1 or 5".into()),
    }
}

fn qos(text: &str) -> Result<QoS, String> {
    match text {
        "0" => Ok(QoS::AtMostOnce),
        "1" => Ok(QoS::AtLeastOnce),
        "2" => Ok(QoS::ExactlyOnce),
        _ => Err("expected 0, 1 or 2".into()),
    }
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let expected = || "expected seconds, such as 10 or 0.5".to_owned();
    let seconds: f64 = text.parse().map_err(|_| expected())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| expected())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Ok(Cli::try_parse_from(line.split(' '))?.command)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_predecessors_three_benches_can_be_said() {
        let Ok(Command::Conn(conn)) = parse("octopus-bench conn -c 3000") else { panic!("conn") };
        assert_eq!((conn.count, conn.common.broker.port), (Some(3000), 20000));

        let line = "octopus-bench sub -c 10000 -t bench/%i -q 2";
        let Ok(Command::Sub(sub)) = parse(line) else { panic!("{line}") };
        assert_eq!((sub.clients.count, sub.qos), (Some(10_000), QoS::ExactlyOnce));
        assert_eq!(sub.topic, "bench/%i");

        let line = "octopus-bench pub -c 2000 -t bench/%i -q 2";
        let Ok(Command::Pub(publish)) = parse(line) else { panic!("{line}") };
        assert_eq!(publish.load.clients.count, Some(2000));
        assert_eq!(publish.load.traffic.qos, QoS::ExactlyOnce);
    }

    #[test]
    fn each_way_to_ask_for_a_rate_gives_the_total() {
        for (option, total) in
            [("--rate 500", 500.0), ("--rate-per-client 2", 200.0), ("--im 100", 1000.0)]
        {
            let line = format!("octopus-bench pairs -c 100 {option}");
            let Ok(Command::Pairs(pairs)) = parse(&line) else { panic!("{line}") };
            assert_eq!(
                pairs.traffic.total_rate(pairs.clients.count_or(50)),
                Some(total),
                "{option}"
            );
        }
        assert!(parse("octopus-bench pairs --rate 1 --im 1").is_err());
    }

    #[test]
    fn versions_and_durations_are_read_and_nonsense_is_refused() {
        let Ok(Command::Conn(conn)) = parse("octopus-bench conn -V 5 -h ::1 --hold 0.5") else {
            panic!("conn")
        };
        assert_eq!(conn.common.broker.mqtt_version, Version::V5);
        assert_eq!(conn.common.run.duration, Duration::from_millis(500));
        for wrong in ["conn -V 6", "sub -q 3", "conn -d -1", "conn -d inf", "pairs --rate x"] {
            assert!(parse(&format!("octopus-bench {wrong}")).is_err(), "{wrong}");
        }
    }
}
