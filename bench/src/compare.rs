//! Brokers side by side: the same loads, interleaved, each broker alone on its cores and the
//! generator on others.
//!
//! A shared machine is slower at one moment than at another. So each round of a scenario runs
//! every broker once, the figures are medians over the rounds, and what counts are the ratios
//! within one run.

pub(crate) mod broker;
mod scenario;
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
        broker::{Broker, Definition},
        scenario::Scenario,
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
    /// Brokers built in, the one to compare with the others first: octopus, mosquitto
    #[arg(short, long, value_delimiter = ',', default_value = "octopus,mosquitto")]
    pub broker: Vec<String>,
    /// Another broker as name=command; {port} stands for the port, {dir} for a directory of its
    /// own, {config} for the file made by --config
    #[arg(long)]
    pub peer: Vec<String>,
    /// Configuration of a broker as name=file; {port} and {dir} in it are replaced
    #[arg(long)]
    pub config: Vec<String>,
    /// Program of the built-in octopus
    #[arg(long, default_value = "target/release/octopus")]
    pub octopus: PathBuf,
    /// Program of the built-in mosquitto
    #[arg(long, default_value = "/usr/sbin/mosquitto")]
    pub mosquitto: PathBuf,
    /// How often each broker runs each scenario
    #[arg(short, long, default_value_t = 3)]
    pub rounds: usize,
    /// Seconds to measure
    #[arg(short, long, value_parser = seconds, default_value = "5")]
    pub duration: Duration,
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
    let brokers = broker::definitions(options)?;
    system::raise_open_files();
    system::pin(&options.load_cpu)?;
    writeln!(io::stdout(), "{}", heading(options))?;
    let mut kept = true;
    for scenario in scenarios {
        let mut samples = Vec::new();
        for round in 0..options.rounds.max(1) {
            for definition in &brokers {
                let sample = sample(options, scenario, definition, round)?;
                kept &= sample.outcome.broken.is_empty();
                record(options, &sample)?;
                samples.push(sample);
            }
        }
        writeln!(io::stdout(), "\n{}", table::markdown(scenario, &brokers, &samples))?;
    }
    Ok(kept)
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
    scenario: &Scenario,
    definition: &Definition,
    round: usize,
) -> io::Result<Sample> {
    let broker = Broker::start(definition, &options.broker_cpu, &options.load_cpu)?;
    let command = command_line(options, scenario, broker.port());
    let cli = Cli::try_parse_from(command.split(' ')).map_err(io::Error::other)?;
    let mut last = None;
    for plan in Plan::of(&cli.command)? {
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

/// The load as one would type it, so that a single run can be repeated by hand.
fn command_line(options: &CompareOptions, scenario: &Scenario, port: u16) -> String {
    let cores: Vec<_> = options.load_cpu.iter().map(ToString::to_string).collect();
    let load = if options.quick { scenario.quick } else { scenario.load };
    let duration = if options.quick { 1.0 } else { options.duration.as_secs_f64() };
    format!(
        "octopus-bench {load} --port {port} --duration {duration} --threads {} --cpu {} --quiet",
        cores.len(),
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

fn record(options: &CompareOptions, sample: &Sample) -> io::Result<()> {
    let Some(path) = &options.output else { return Ok(()) };
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{}", serde_json::to_string(sample).map_err(io::Error::other)?)
}
