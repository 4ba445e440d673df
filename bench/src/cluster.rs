//! Groups of nodes with a Redis between them: what a message costs that crosses, on the nodes
//! and on Redis, how long sessions take to move, and what interest routing saves.
//!
//! Everything stands on one machine, so nodes, Redis and generator share its cores: throughput
//! is that of the machine and not of a group; what is worth reading are CPU and operations per
//! message, and how both change with the number of nodes.

mod redis;
mod sessions;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser};

use self::redis::Redis;
use crate::{
    cli::{Cli, seconds},
    compare::{broker::Broker, definition::Definition, scenario::Transport, unix_time_s},
    plan::Plan,
    report::Outcome,
    run::{Mark, run},
    system::{self, Usage},
};

#[derive(Clone, Debug, Args)]
pub(crate) struct ClusterOptions {
    /// Program of the broker
    #[arg(long, default_value = "target/release/octopus")]
    pub octopus: PathBuf,
    /// Program of Redis
    #[arg(long, default_value = "redis-server")]
    pub redis: PathBuf,
    /// What to measure: full (as fast as it goes), rate, routing, takeover, adopt
    #[arg(short, long, value_delimiter = ',', default_value = "full,rate,routing,takeover,adopt")]
    pub part: Vec<String>,
    /// Seconds to measure
    #[arg(short, long, value_parser = seconds, default_value = "4")]
    pub duration: Duration,
    /// Messages per second where a rate is set
    #[arg(long, default_value_t = 2000)]
    pub rate: u32,
    /// Sessions to be adopted
    #[arg(long, default_value_t = 10_000)]
    pub sessions: usize,
    /// What was built, for the record
    #[arg(long, default_value = "unknown")]
    pub commit: String,
}

type Part = fn(&ClusterOptions) -> io::Result<()>;

const PARTS: [(&str, Part); 5] = [
    ("full", full),
    ("rate", rate),
    ("routing", routing),
    ("takeover", sessions::takeover),
    ("adopt", sessions::adopt),
];

/// Measures what `options` choose and prints it as markdown; `true` if it came to its end.
///
/// # Errors
/// If nothing has that name, a process does not start, or a promise was broken.
pub(crate) fn measure(options: &ClusterOptions) -> io::Result<bool> {
    system::raise_open_files();
    let (machine, commit) = (system::machine(), &options.commit);
    let time_s = unix_time_s();
    say(&format!("{machine}\ncommit {commit}, time {time_s} s since 1970\n"))?;
    for part in &options.part {
        let known = PARTS.iter().find(|(name, _)| name == part);
        let (_, measure) = known.ok_or_else(|| io::Error::other(format!("no part {part}")))?;
        measure(options)?;
    }
    Ok(true)
}

fn say(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

/// A Redis and the nodes that share it.
struct Group {
    nodes: Vec<Broker>,
    redis: Redis,
}

impl Group {
    /// One shard a node, the nodes in turn on the cores there are.
    fn start(options: &ClusterOptions, count: usize, settings: &str) -> io::Result<Self> {
        let redis = Redis::start(&options.redis)?;
        let cores: Vec<usize> = (0..cores()).collect();
        let mut nodes = Vec::new();
        for number in 0..count {
            let command = format!(
                "{} --broker.host=127.0.0.1 --broker.port={{port}} --http.enable=false --shards=1 \
                 --broker.group=BENCH --broker.id=N{number} --redis.host=127.0.0.1 \
                 --redis.port={} {settings}",
                options.octopus.display(),
                redis.port(),
            );
            let definition = Definition::new(&format!("N{number}"), command);
            let core = cores[number % cores.len()];
            nodes.push(Broker::start(&definition, 1, Transport::Tcp, &[core], &cores)?);
        }
        Ok(Self { nodes, redis })
    }

    fn ports(&self) -> String {
        let ports: Vec<String> = self.nodes.iter().map(|node| node.port().to_string()).collect();
        ports.join(",")
    }

    fn look(&self) -> Look {
        // A node that died is seen as errors in the outcome; its use then is none.
        let of = |pid| Usage::of(pid).map_or(0, |usage| usage.cpu_ns);
        Look {
            nodes_ns: self.nodes.iter().map(|node| of(node.pid())).sum(),
            redis_ns: of(self.redis.pid()),
            calls: self.redis.calls().unwrap_or_default(),
        }
    }

    /// Runs a load as typed, and tells what was used while it was measured.
    fn load(&self, load: &str) -> io::Result<(Outcome, Cost)> {
        let line = format!("octopus-bench {load} --group {} --quiet", self.ports());
        let cli = Cli::try_parse_from(line.split(' ')).map_err(io::Error::other)?;
        let plan = Plan::of(&cli.command)?.pop().ok_or_else(|| io::Error::other("no load"))?;
        let (mut start, mut end) = (Look::default(), Look::default());
        let outcome = run(plan, &mut |mark| match mark {
            Mark::Connected => {}
            Mark::MeasureStart => start = self.look(),
            Mark::MeasureEnd => end = self.look(),
        })?;
        if !outcome.broken.is_empty() {
            say(&format!("broken in `{line}`: {:?}", outcome.broken))?;
        }
        let cost = Cost::between(&start, &end, outcome.measured_received);
        Ok((outcome, cost))
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What all was used at a moment.
#[derive(Default)]
struct Look {
    nodes_ns: u64,
    redis_ns: u64,
    calls: BTreeMap<String, u64>,
}

/// Per message delivered.
struct Cost {
    nodes_us: f64,
    redis_us: f64,
    /// Calls of each command, the most frequent first.
    calls: Vec<(String, f64)>,
}

impl Cost {
    fn between(start: &Look, end: &Look, messages: u64) -> Self {
        let messages = messages.max(1) as f64;
        let us = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1000.0 / messages;
        let before = |name: &str| start.calls.get(name).copied().unwrap_or(0);
        let mut calls: Vec<(String, f64)> = end
            .calls
            .iter()
            // What this program asks for itself.
            .filter(|(name, _)| *name != "info")
            .map(|(name, count)| (name.clone(), (count - before(name)) as f64 / messages))
            .collect();
        calls.sort_by(|a, b| b.1.total_cmp(&a.1));
        Self {
            nodes_us: us(start.nodes_ns, end.nodes_ns),
            redis_us: us(start.redis_ns, end.redis_ns),
            calls,
        }
    }

    fn calls_total(&self) -> f64 {
        self.calls.iter().map(|(_, count)| count).sum()
    }

    /// The most frequent ones, as `xadd 0.010`.
    fn calls_text(&self) -> String {
        const SHOWN: usize = 4;
        let shown = self.calls.iter().take(SHOWN).filter(|(_, count)| *count >= 0.0005);
        let shown: Vec<String> = shown.map(|(name, count)| format!("{name} {count:.3}")).collect();
        shown.join(", ")
    }
}

const HEAD: &str = "| load | nodes | messages/s | CPU µs/message, nodes | Redis \
    | Redis calls/message | of these | p50 µs | p99 µs |\n\
    | --- | --: | --: | --: | --: | --: | --- | --: | --: |";

fn row(name: &str, nodes: usize, outcome: &Outcome, cost: &Cost) -> String {
    let times = outcome.latency.as_ref();
    let time = |time: Option<u64>| time.map_or_else(String::new, |time| time.to_string());
    format!(
        "| {name} | {nodes} | {:.0} | {:.2} | {:.2} | {:.3} | {} | {} | {} |",
        outcome.received_per_s,
        cost.nodes_us,
        cost.redis_us,
        cost.calls_total(),
        cost.calls_text(),
        time(times.map(|times| times.p50_us)),
        time(times.map(|times| times.p99_us)),
    )
}

/// Pairs as fast as they go; with more than one node each message crosses once.
fn full(options: &ClusterOptions) -> io::Result<()> {
    say(&format!("### As fast as it goes\n\n50 pairs, 64 bytes.\n\n{HEAD}"))?;
    for qos in [0, 1] {
        for nodes in [1, 2, 4] {
            let group = Group::start(options, nodes, "")?;
            let duration = options.duration.as_secs_f64();
            let (outcome, cost) =
                group.load(&format!("pairs -c 50 -q {qos} --duration {duration}"))?;
            say(&row(&format!("QoS {qos}"), nodes, &outcome, &cost))?;
        }
    }
    say("")
}

/// Pairs at a rate that leaves the machine idle time: what the hop adds.
fn rate(options: &ClusterOptions) -> io::Result<()> {
    let rate = options.rate;
    say(&format!("### At {rate} messages/s in total\n\n50 pairs, 64 bytes.\n\n{HEAD}"))?;
    for qos in [0, 1] {
        for nodes in [1, 2, 4] {
            let group = Group::start(options, nodes, "")?;
            let (outcome, cost) = group.load(&at_rate(options, qos))?;
            say(&row(&format!("QoS {qos}"), nodes, &outcome, &cost))?;
        }
    }
    say("")
}

fn at_rate(options: &ClusterOptions, qos: u8) -> String {
    let (rate, duration) = (options.rate, options.duration.as_secs_f64());
    format!("pairs -c 50 -q {qos} --rate {rate} --duration {duration}")
}

/// The same with every message sent to every node, as the predecessor did.
fn routing(options: &ClusterOptions) -> io::Result<()> {
    let rate = options.rate;
    say(&format!("### With and without interest routing, {rate} messages/s\n\n{HEAD}"))?;
    for qos in [0, 1] {
        for nodes in [2, 4, 8] {
            for (name, settings) in [("", ""), (" to all", "--cluster.interest_routing=false")] {
                let group = Group::start(options, nodes, settings)?;
                let (outcome, cost) = group.load(&at_rate(options, qos))?;
                say(&row(&format!("QoS {qos}{name}"), nodes, &outcome, &cost))?;
            }
        }
    }
    say("")
}
