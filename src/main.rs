//! The program `octopus`: arguments, configuration, log, shards, a greeting, then waiting for a
//! signal and stopping.
#![forbid(unsafe_code)]

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use octopus::{
    auth::{self, passwd},
    bridge::{
        Bridge, Joined, REDIS_WAIT,
        counters::Counters,
        keys::Keys,
        link::Link,
        members::{JoinError, Members},
    },
    certificates,
    cli::{self, Command, Invocation},
    config::{self, Config, ConfigError, Loaded, LogFormat, Sources},
    greeting::greeting,
    hub::{self, BridgeSender, Hub},
    log,
    node::{self, Node, ShardFailed, StartError},
    operate, pages,
    reload::{Reload, Told},
    signals::Signals,
    stats::{self, GroupFigures, GroupStats},
    store, systemd,
};
use octopus_mqtt::ReasonCode;
use octopus_runtime::HubHandle;
use tokio::sync::{oneshot, watch};

/// How long clients may take to get their last bytes after a signal.
const FLUSH_MAX: Duration = Duration::from_secs(3);
/// How long what the shards told last of their sessions may take to be written.
const LAST_WRITES_MAX: Duration = Duration::from_millis(1000);
/// How long after a signal the process is gone, whatever happens.
const STOP_MAX: Duration = Duration::from_millis(4500);
/// How long the group may take to hear that this node leaves.
const LEAVE_MAX: Duration = Duration::from_millis(400);

fn main() -> ExitCode {
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(usage) => return explain(&usage),
    };
    let outcome = match &invocation.command {
        Command::Run => load(&invocation).and_then(|loaded| serve(&loaded, &invocation)),
        Command::CheckConfig => load(&invocation).and_then(|loaded| print(&report(&loaded))),
        Command::Operate(operation) => {
            load(&invocation).and_then(|loaded| Ok(operate::run(operation, &loaded.config)?))
        }
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
        let seed = RandomState::new().hash_one("seed");
        node::check(config)?;
        let incarnation = RandomState::new().hash_one("incarnation");
        let joined = join_group(config, incarnation).await?;
        let mut node = node::start(config, seed)?;
        let http = pages::bind(loaded).await?;
        let handle = node.take_hub().expect("taken once");
        let (open, opens) = oneshot::channel();
        let store = joined.as_ref().map(|joined| {
            let settings = store::Settings::new(config, incarnation, node.shards(), seed);
            let (link, kept_until) = (joined.link().clone(), joined.kept_until().clone());
            let heeds = joined.heeds().clone();
            store::start(settings, link, handle.sender(), kept_until, heeds, opens)
        });
        let (group, bridge, ready) = start_bridge(joined, &handle, node.shards(), seed);
        let (hub, mut hub_task, questions) = hub::hub(handle, node.shards(), bridge);
        let common = group
            .as_ref()
            .map(|group| auth::Common { link: group.link.clone(), bans_key: group.keys.bans() });
        let service = auth::Service::new(config, hub.clone(), common)?;
        let auth = service.auth();
        tokio::spawn(service.run(questions));
        let (store, last_writes) = store.unzip();
        if let Some(store) = store {
            hub_task.set_store(store);
        }
        let hub_task = tokio::spawn(hub_task.run());
        if let (Some(group), Some(ready)) = (&group, ready) {
            wait_until_ready(group, ready).await;
        }
        // The store has ended only if the node does.
        let _ = open.send(());
        tokio::spawn(stats::sys::publish(hub.clone(), config.stats.sys_interval));
        let (stopping, is_stopping) = watch::channel(false);
        let http_address = http.as_ref().and_then(|listener| listener.local_addr().ok());
        let certificates = certificates::watch(config, node.certificates());
        let told = Told {
            hub: hub.clone(),
            auth: auth.clone(),
            certificates: certificates.clone(),
            log_filter: log_filter.clone(),
        };
        let reload = Reload::new(sources(invocation), loaded, told);
        tokio::spawn(reload.clone().watch());
        if let Some(listener) = http {
            let parts = pages::Parts { auth, certificates, reload: reload.clone() };
            let shown = group.as_ref().map(|group| pages::Group {
                link: group.link.clone(),
                members: group.members.clone(),
                counters: group.counters.clone(),
                figures: group.figures.clone(),
            });
            let (hub, addresses) = (hub.clone(), node.addresses());
            let app = pages::app(config, hub, addresses, log_filter, parts, shown)?;
            tokio::spawn(octopus::http::serve(listener, Arc::new(app), is_stopping));
        }
        let members = group.map(|group| start_stats(group, hub.clone(), config.stats.interval));
        let (addresses, shards) = (node.addresses(), node.shards());
        let text = greeting(&config.broker, addresses, shards, http_address);
        greet(config.log.format, &text);
        systemd::ready(text.lines().next().unwrap_or_default());
        tokio::spawn(systemd::watch(async move || hub.stats().await.is_some()));
        let outcome = run_until_stopped(node, signals, stopping, &reload).await;
        if let Some(last_writes) = last_writes {
            let writes = async { (hub_task.await, last_writes.await) };
            if tokio::time::timeout(LAST_WRITES_MAX, writes).await.is_err() {
                tracing::warn!("stopped before all of the sessions was written");
            }
        }
        leave_group(members).await;
        outcome
    });
    // A shard that still hangs must not keep the process.
    control.shutdown_background();
    outcome
}

/// The group this node is in.
struct Group {
    link: Link,
    keys: Keys,
    members: Members,
    counters: Counters,
    figures: GroupFigures,
}

/// Takes this node's place in its group, if it has one.
async fn join_group(config: &Config, incarnation: u64) -> Result<Option<Joined>, Fatal> {
    if config.broker.group.is_empty() {
        return Ok(None);
    }
    Ok(Some(Joined::join(config, incarnation).await?))
}

/// Starts what brings messages to other nodes and from them; where the hub sends to it, and what
/// tells when clients may come.
fn start_bridge(
    joined: Option<Joined>,
    handle: &HubHandle,
    shards: u16,
    seed: u64,
) -> (Option<Group>, Option<BridgeSender>, Option<oneshot::Receiver<()>>) {
    let Some(joined) = joined else { return (None, None, None) };
    let group = Group {
        link: joined.link().clone(),
        keys: joined.keys().clone(),
        members: joined.members().clone(),
        counters: joined.counters().clone(),
        figures: GroupFigures::default(),
    };
    let (sender, from_shards) = tokio::sync::mpsc::unbounded_channel();
    let mut bridge = Bridge::new(joined, handle.sender(), shards, seed, from_shards);
    let ready = bridge.ready();
    tokio::spawn(bridge.run());
    (Some(group), Some(sender), Some(ready))
}

/// Waits until clients may come: the shards were told what the other nodes want. The hub runs
/// already: nodes that start at the same time ask each other's shards.
async fn wait_until_ready(group: &Group, ready: oneshot::Receiver<()>) {
    if group.link.is_up() && tokio::time::timeout(REDIS_WAIT, ready).await.is_err() {
        tracing::warn!("Redis does not tell what the other nodes want; starting without");
    }
}

/// Starts what writes the group's counters.
fn start_stats(group: Group, hub: Hub, interval: Duration) -> Members {
    let Group { link, keys, members, figures, .. } = group;
    let stats = GroupStats { hub, link, keys, members: members.clone(), interval, figures };
    tokio::spawn(stats.run());
    members
}

/// Gives the lease back, so that the group knows at once.
async fn leave_group(members: Option<Members>) {
    let Some(members) = members else { return };
    let left = tokio::time::timeout(LEAVE_MAX, members.leave()).await;
    if !matches!(left, Ok(Ok(_))) {
        tracing::warn!("the group was not told; it will know when the lease is over");
    }
}

/// Waits for a signal, then stops: in order at the first one, at once at the second.
async fn run_until_stopped(
    node: Node,
    mut signals: Signals,
    stopping: watch::Sender<bool>,
    reload: &Reload,
) -> Result<(), Fatal> {
    loop {
        let signal = tokio::select! {
            signal = signals.any() => signal,
            failed = node.failed() => return Err(failed.into()),
        };
        match signal {
            Some(signal) => break tracing::info!(signal, "stopping"),
            None => reload.everything(),
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
    Auth(auth::StartError),
    Passwd(String),
    Group(JoinError),
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
            Self::Group(error) => writeln!(f, "octopus: {error}"),
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

impl From<JoinError> for Fatal {
    fn from(error: JoinError) -> Self {
        Self::Group(error)
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
