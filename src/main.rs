//! The program `octopus`: arguments, configuration, log, shards, a greeting, then waiting for a
//! signal and stopping.
#![forbid(unsafe_code)]

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use octopus::{
    cli::{self, Command, Invocation},
    config::{self, ConfigError, Loaded, LogFormat, Sources},
    greeting::greeting,
    hub, log,
    node::{self, Node, ShardFailed, StartError},
    operate, pages,
    signals::Signals,
    stats, systemd,
};
use octopus_mqtt::ReasonCode;
use tokio::sync::watch;

/// How long clients may take to get their last bytes after a signal.
const FLUSH_MAX: Duration = Duration::from_secs(3);
/// How long after a signal the process is gone, whatever happens.
const STOP_MAX: Duration = Duration::from_millis(4500);

fn main() -> ExitCode {
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(usage) => return explain(&usage),
    };
    let outcome = load(&invocation).and_then(|loaded| match &invocation.command {
        Command::Run => serve(&loaded, &invocation),
        Command::CheckConfig => print(&report(&loaded)),
        Command::Operate(operation) => Ok(operate::run(operation, &loaded.config)?),
    });
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
    config::load(sources(invocation)).map_err(Fatal::Config)
}

fn sources(invocation: &Invocation) -> Sources {
    let environment = std::env::vars_os()
        .map(|(name, text)| {
            (name.to_string_lossy().into_owned(), text.to_string_lossy().into_owned())
        })
        .collect();
    let (file, flags) = (invocation.config_file.clone(), invocation.settings.clone());
    Sources { file, environment, flags }
}

/// Runs the broker until a signal has stopped it.
fn serve(loaded: &Loaded, invocation: &Invocation) -> Result<(), Fatal> {
    let config = &loaded.config;
    let log_filter = log::start(&config.log);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = control.block_on(async {
        let signals = Signals::catch()?;
        let mut node = node::start(config)?;
        let http = pages::bind(loaded).await?;
        let (hub, hub_task, _auth) = hub::hub(node.take_hub().expect("taken once"), node.shards());
        tokio::spawn(hub_task.run());
        tokio::spawn(stats::sys::publish(hub.clone(), config.stats.sys_interval));
        let (stopping, is_stopping) = watch::channel(false);
        let http_address = http.as_ref().and_then(|listener| listener.local_addr().ok());
        if let Some(listener) = http {
            let reload = pages::Reload::new(sources(invocation), loaded, log_filter.clone());
            let app = pages::app(config, hub.clone(), node.addresses(), log_filter, reload)?;
            tokio::spawn(octopus::http::serve(listener, Arc::new(app), is_stopping));
        }
        let (addresses, shards) = (node.addresses(), node.shards());
        let text = greeting(&config.broker, addresses, shards, http_address);
        greet(config.log.format, &text);
        systemd::ready(text.lines().next().unwrap_or_default());
        tokio::spawn(systemd::watch(async move || hub.stats().await.is_some()));
        run_until_stopped(node, signals, stopping).await
    });
    // A shard that still hangs must not keep the process.
    control.shutdown_background();
    outcome
}

/// Waits for a signal, then stops: in order at the first one, at once at the second.
async fn run_until_stopped(
    node: Node,
    mut signals: Signals,
    stopping: watch::Sender<bool>,
) -> Result<(), Fatal> {
    loop {
        let signal = tokio::select! {
            signal = signals.any() => signal,
            failed = node.failed() => return Err(failed.into()),
        };
        match signal {
            Some(signal) => break tracing::info!(signal, "stopping"),
            None => node.reload_certificates(),
        }
    }
    systemd::stopping();
    stopping.send_replace(true);
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
