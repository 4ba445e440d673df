//! Brokers side by side: the same loads, interleaved, each broker alone on its cores and the
//! generator on others.
//!
//! A shared machine is slower at one moment than at another. So each round of a scenario runs
//! every broker once, the figures are medians over the rounds, and what counts are the ratios
//! within one run.

pub(crate) mod broker;
mod certificate;
pub(crate) mod definition;
mod place;
pub(crate) mod scenario;
mod table;

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::{Args, Parser};
use serde::Serialize;

use crate::{
    cli::{Cli, seconds},
    compare::{
        broker::Broker,
        definition::Definition,
        scenario::{Cores, Scenario},
    },
    plan::Plan,
    report::Outcome,
    run::{Mark, run},
    system::{self, Usage},
};

#[derive(Clone, Debug, Args)]
pub(crate) struct CompareOptions {
    /// Scenarios by name, `*` for any text, separated by commas; `list` tells their names
    #[arg(short, long, value_delimiter = ',', default_value = "*")]
    pub scenario: Vec<String>,
    /// Brokers, the one to compare with the others first: octopus, floor, mosquitto, flashmq,
    /// rumqttd, rmqtt, nanomq
    #[arg(short, long, value_delimiter = ',', default_value = "octopus,mosquitto")]
    pub broker: Vec<String>,
    /// Another broker as name=command; {port} stands for the port, {http} for another, {dir} for
    /// a directory of its own, {threads} for their number, {config} for the file made by --config
    #[arg(long)]
    pub peer: Vec<String>,
    /// Configuration of a broker as name=file; the same is replaced in it
    #[arg(long)]
    pub config: Vec<String>,
    /// Program of a broker as name=path, where it is not the usual one
    #[arg(long)]
    pub program: Vec<String>,
    /// How often each broker runs each scenario
    #[arg(short, long, default_value_t = 3)]
    pub rounds: usize,
    /// Seconds to measure
    #[arg(short, long, value_parser = seconds, default_value = "5")]
    pub duration: Duration,
    /// Seconds of load before measuring
    #[arg(long, value_parser = seconds, default_value = "1")]
    pub warmup: Duration,
    /// Short measurements on smaller loads: to see that everything works, not for figures
    #[arg(long)]
    pub quick: bool,
    /// Cores of the broker
    #[arg(long, value_delimiter = ',', default_value = "0")]
    pub broker_cpu: Vec<usize>,
    /// Cores of the generator, one thread each
    #[arg(long, value_delimiter = ',', default_value = "1")]
    pub load_cpu: Vec<usize>,
    /// Append each single run as a line of JSON to this file
    #[arg(short, long)]
    pub output: Option<PathBuf>,
    /// What was built, for the record
    #[arg(long, default_value = "unknown")]
    pub commit: String,
}

/// One broker's run of one scenario; as JSON one line.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub broker: String,
    pub case: &'static str,
    pub round: usize,
    pub command: String,
    /// Whether the clients are where the scenario wants them; `None` if it does not care.
    pub placed: Option<bool>,
    /// Seconds since 1970.
    pub time_s: u64,
    pub machine: String,
    pub commit: String,
    /// CPU of the broker per message delivered (or taken, where none is delivered here).
    pub cpu_us: Option<f64>,
    pub user_us: Option<f64>,
    pub system_us: Option<f64>,
    /// CPU of the broker per client connected, its subscriptions included.
    pub connect_cpu_us: Option<f64>,
    /// Growth of the broker's resident set per client connected.
    pub connection_bytes: Option<f64>,
    /// Resident set at the end of measuring.
    pub resident_bytes: u64,
    pub outcome: Outcome,
}

/// Runs what `options` choose and prints the tables; `false` if a promise was broken.
///
/// # Errors
/// If nothing is chosen, a broker does not start, or the machine refuses what a run needs.
pub(crate) fn compare(options: &CompareOptions) -> io::Result<bool> {
    if options.scenario == ["list"] {
        for scenario in scenario::SCENARIOS {
            writeln!(io::stdout(), "{:<16} {}", scenario.name, scenario.load)?;
        }
        return Ok(true);
    }
    let scenarios = scenario::chosen(&options.scenario)?;
    let brokers = definition::definitions(options)?;
    system::raise_open_files();
    system::pin(&options.load_cpu)?;
    writeln!(io::stdout(), "{}", heading(options))?;
    let mut kept = true;
    for scenario in scenarios {
        let found = play(options, scenario, &brokers)?;
        kept &= found.samples.iter().all(|sample| sample.outcome.broken.is_empty());
        writeln!(io::stdout(), "\n{}", table::markdown(scenario, &brokers, &found))?;
    }
    Ok(kept)
}

/// What came of one scenario.
#[derive(Default)]
pub(crate) struct Found {
    pub samples: Vec<Sample>,
    pub absent: Vec<Absent>,
}

/// A broker that could not play a scenario; as JSON one line.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Absent {
    pub broker: String,
    pub case: &'static str,
    /// Why not.
    pub cannot: String,
    pub commit: String,
}

/// Runs every broker once in each round; one that cannot play is left out from then on.
fn play(
    options: &CompareOptions,
    scenario: &'static Scenario,
    brokers: &[Definition],
) -> io::Result<Found> {
    let mut found = Found::default();
    for round in 0..options.rounds.max(1) {
        for definition in brokers {
            if found.absent.iter().any(|absent| absent.broker == definition.name) {
                continue;
            }
            let sample = match definition.cannot(scenario) {
                Some(reason) => Err(io::Error::other(reason)),
                None => sample(options, scenario, definition, round),
            };
            match sample {
                Ok(sample) => {
                    record(options, &sample)?;
                    found.samples.push(sample);
                }
                Err(reason) => {
                    let absent = Absent {
                        broker: definition.name.clone(),
                        case: scenario.name,
                        cannot: reason.to_string(),
                        commit: options.commit.clone(),
                    };
                    record(options, &absent)?;
                    found.absent.push(absent);
                }
            }
        }
    }
    Ok(found)
}

fn heading(options: &CompareOptions) -> String {
    format!(
        "{}\ncommit {}, {} rounds, broker on cores {:?}, generator on cores {:?}, time {} s since 1970",
        system::machine(),
        options.commit,
        options.rounds.max(1),
        options.broker_cpu,
        options.load_cpu,
        unix_time_s(),
    )
}

pub(crate) fn unix_time_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Starts the broker, loads it, and looks at what it used.
fn sample(
    options: &CompareOptions,
    scenario: &'static Scenario,
    definition: &Definition,
    round: usize,
) -> io::Result<Sample> {
    let [broker_cores, load_cores] = cores(options, scenario);
    let (threads, transport) = (scenario.threads, scenario.transport);
    let broker = Broker::start(definition, threads, transport, &broker_cores, &load_cores)?;
    let command = command_line(options, scenario, &broker, &load_cores);
    let cli = Cli::try_parse_from(command.split(' ')).map_err(io::Error::other)?;
    let mut last = None;
    let mut placed = None;
    for mut plan in Plan::of(&cli.command)? {
        if let Some(place) = scenario.place {
            let client_ids = place::client_ids(&broker, plan.publishers, place)?;
            placed = Some(client_ids.is_some());
            plan.client_ids = client_ids.unwrap_or_default().into();
        }
        last = Some(observe(&broker, plan)?);
    }
    let (outcome, looks) = last.ok_or_else(|| io::Error::other("the scenario runs nothing"))?;
    let messages = match outcome.measured_received {
        0 => outcome.measured_sent,
        received => received,
    };
    let measured = looks.measured();
    let per_message = |ns: f64| (messages > 0).then(|| ns / 1000.0 / messages as f64);
    let per_client = |total: f64| (outcome.connected > 0).then(|| total / outcome.connected as f64);
    let cpu_ns = measured.cpu_ns as f64;
    let connecting = looks.connecting();
    let growth = connecting.resident_bytes as f64 - looks.before.resident_bytes as f64;
    Ok(Sample {
        broker: definition.name.clone(),
        case: scenario.name,
        round,
        command,
        placed,
        time_s: unix_time_s(),
        machine: system::machine(),
        commit: options.commit.clone(),
        cpu_us: per_message(cpu_ns),
        user_us: per_message(cpu_ns * measured.user_share()),
        system_us: per_message(cpu_ns * (1.0 - measured.user_share())),
        connect_cpu_us: per_client(connecting.cpu_ns as f64 / 1000.0),
        connection_bytes: per_client(growth),
        resident_bytes: measured.resident_bytes,
        outcome,
    })
}

/// The cores of the broker and those of the generator.
fn cores(options: &CompareOptions, scenario: &Scenario) -> [Vec<usize>; 2] {
    match scenario.cores {
        Cores::Apart => [options.broker_cpu.clone(), options.load_cpu.clone()],
        Cores::Together => {
            let all = [&options.broker_cpu[..], &options.load_cpu[..]].concat();
            [all.clone(), all]
        }
    }
}

/// The load as one would type it, so that a single run can be repeated by hand.
fn command_line(
    options: &CompareOptions,
    scenario: &Scenario,
    broker: &Broker,
    load_cores: &[usize],
) -> String {
    let cores: Vec<_> = load_cores.iter().map(ToString::to_string).collect();
    let load = if options.quick { scenario.quick } else { scenario.load };
    let duration = if options.quick { 1.0 } else { options.duration.as_secs_f64() };
    format!(
        "octopus-bench {load} {} --duration {duration} --warmup {} --threads {} --cpu {} --quiet",
        broker.address(),
        options.warmup.as_secs_f64(),
        options.load_cpu.len(),
        cores.join(","),
    )
}

/// What the broker had used at each mark of a run.
struct Looks {
    before: Usage,
    connected: Usage,
    start: Usage,
    end: Usage,
}

impl Looks {
    fn connecting(&self) -> Usage {
        self.connected.since(&self.before)
    }

    fn measured(&self) -> Usage {
        self.end.since(&self.start)
    }
}

fn observe(broker: &Broker, plan: Plan) -> io::Result<(Outcome, Looks)> {
    // A broker that died is seen as errors in the outcome; its use then stands still.
    let look = |before: Usage| Usage::of(broker.pid()).unwrap_or(before);
    let before = Usage::of(broker.pid())?;
    let mut looks = Looks { before, connected: before, start: before, end: before };
    let outcome = run(plan, &mut |mark| match mark {
        Mark::Connected => looks.connected = look(looks.before),
        Mark::MeasureStart => looks.start = look(looks.connected),
        Mark::MeasureEnd => looks.end = look(looks.start),
    })?;
    Ok((outcome, looks))
}

fn record(options: &CompareOptions, line: &impl Serialize) -> io::Result<()> {
    let Some(path) = &options.output else { return Ok(()) };
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{}", serde_json::to_string(line).map_err(io::Error::other)?)
}
