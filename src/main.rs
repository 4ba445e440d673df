//! The program `octopus`: arguments, configuration, log, shards, a greeting, then waiting for a
//! signal and stopping.
#![forbid(unsafe_code)]

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use octopus::{
    auth::{self, passwd},
    cli::{self, Command, Invocation},
    config::{self, ConfigError, Loaded, LogFormat, Sources},
    greeting::greeting,
    hub, log,
    node::{self, Node, ShardFailed, StartError},
    signals::Signals,
};
use octopus_mqtt::ReasonCode;

/// How long clients may take to get their last bytes after a signal.
const FLUSH_MAX: Duration = Duration::from_secs(3);
/// How long after a signal the process is gone, whatever happens.
const STOP_MAX: Duration = Duration::from_millis(4500);

fn main() -> ExitCode {
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(usage) => return explain(&usage),
    };
    let outcome = match &invocation.command {
        Command::Run => load(&invocation).and_then(|loaded| serve(&loaded)),
        Command::CheckConfig => load(&invocation).and_then(|loaded| print(&report(&loaded))),
        Command::Passwd(passwd) => {
            passwd::run(passwd).map_err(Fatal::Passwd).and_then(|done| print(&done))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            // If standard error is closed, the exit code has to do.
            let _ = write!(io::stderr(), "{fatal}");
            ExitCode::FAILURE
        }
    }
}

fn load(invocation: &Invocation) -> Result<Loaded, Fatal> {
    let environment = std::env::vars_os()
        .map(|(name, text)| {
            (name.to_string_lossy().into_owned(), text.to_string_lossy().into_owned())
        })
        .collect();
    let (file, flags) = (invocation.config_file.clone(), invocation.settings.clone());
    config::load(Sources { file, environment, flags }).map_err(Fatal::Config)
}

/// Runs the broker until a signal has stopped it.
fn serve(loaded: &Loaded) -> Result<(), Fatal> {
    let config = &loaded.config;
    log::start(&config.log);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = control.block_on(async {
        let signals = Signals::catch()?;
        let mut node = node::start(config)?;
        let (hub, hub_task, questions) =
            hub::hub(node.take_hub().expect("taken once"), node.shards());
        let auth = auth::Service::new(config, hub)?;
        tokio::spawn(hub_task.run());
        tokio::spawn(auth.run(questions));
        greet(config.log.format, &greeting(&config.broker, node.addresses(), node.shards()));
        run_until_stopped(node, signals).await
    });
    // A shard that still hangs must not keep the process.
    control.shutdown_background();
    outcome
}

/// Waits for a signal, then stops: in order at the first one, at once at the second.
async fn run_until_stopped(node: Node, mut signals: Signals) -> Result<(), Fatal> {
    tokio::select! {
        signal = signals.next() => tracing::info!(signal, "stopping"),
        failed = node.failed() => return Err(failed.into()),
    }
    node.stop(ReasonCode::ServerShuttingDown, FLUSH_MAX);
    let joined = tokio::task::spawn_blocking(move || node.join());
    tokio::select! {
        ended = joined => match ended {
            Ok(ended) => ended?,
            Err(panicked) => return Err(io::Error::other(panicked).into()),
        },
        signal = signals.next() => return Err(Fatal::StoppedAtOnce(signal)),
        () = tokio::time::sleep(STOP_MAX) => return Err(Fatal::StoppedLate),
    }
    tracing::info!("stopped");
    Ok(())
}

/// Says `text` on standard output; in the log, if that is read by a machine.
fn greet(format: LogFormat, text: &str) {
    match format {
        // A closed standard output is no reason to stop serving.
        LogFormat::Text => drop(writeln!(io::stdout(), "{text}")),
        LogFormat::Json => text.lines().for_each(|line| tracing::info!("{line}")),
    }
}

/// What `check-config` says: the warnings, `OK`, and every key with its value and origin.
fn report(loaded: &Loaded) -> String {
    let mut text = String::new();
    for warning in &loaded.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text.push_str("OK\n");
    for line in loaded.effective() {
        let value = if line.value.is_empty() { "\"\"" } else { &line.value };
        let place = line.place.as_deref().unwrap_or("default");
        text.push_str(&format!("{:<60} # {place}\n", format!("{}: {value}", line.key)));
    }
    text
}

/// Writes `text` to standard output. That its reader has seen enough is no error.
fn print(text: &str) -> Result<(), Fatal> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Prints what clap has to say: help and version to standard output, errors to the other.
fn explain(usage: &clap::Error) -> ExitCode {
    // If it cannot be printed, the exit code has to do.
    let _ = usage.print();
    match usage.use_stderr() {
        true => ExitCode::from(2),
        false => ExitCode::SUCCESS,
    }
}

/// Why the process ends with a failure; one line for each thing that is wrong.
enum Fatal {
    Config(Vec<ConfigError>),
    Start(StartError),
    Auth(auth::StartError),
    Passwd(String),
    Shard(ShardFailed),
    System(io::Error),
    StoppedAtOnce(&'static str),
    StoppedLate,
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(errors) => {
                errors.iter().try_for_each(|error| writeln!(f, "octopus: {error}"))
            }
            Self::Start(error) => writeln!(f, "octopus: {error}"),
            Self::Auth(error) => writeln!(f, "octopus: {error}"),
            Self::Passwd(cause) => writeln!(f, "octopus passwd: {cause}"),
            Self::Shard(error) => writeln!(f, "octopus: {error}"),
            Self::System(error) => writeln!(f, "octopus: {error}"),
            Self::StoppedAtOnce(signal) => {
                writeln!(f, "octopus: ended at once by a second signal ({signal})")
            }
            Self::StoppedLate => writeln!(f, "octopus: ended before every shard had stopped"),
        }
    }
}

impl From<StartError> for Fatal {
    fn from(error: StartError) -> Self {
        Self::Start(error)
    }
}

impl From<auth::StartError> for Fatal {
    fn from(error: auth::StartError) -> Self {
        Self::Auth(error)
    }
}

impl From<ShardFailed> for Fatal {
    fn from(error: ShardFailed) -> Self {
        Self::Shard(error)
    }
}

impl From<io::Error> for Fatal {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}
