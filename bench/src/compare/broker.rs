//! Broker processes: how each is started, known to be ready, and stopped.

use std::{
    env, fs, io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};

use crate::{cli::Cli, compare::CompareOptions, plan::Plan, run::run, system};

/// A kind of broker. In both texts `{port}` and `{dir}` are replaced, in the command `{config}`
/// too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Definition {
    pub name: String,
    command: String,
    /// The configuration file's text, if it takes one.
    config: Option<String>,
}

const OCTOPUS: &str = "--broker.host=127.0.0.1 --broker.port={port} --shards=1";

/// As Debian ships it, but for what would drop messages or write them down.
const MOSQUITTO_CONFIG: &str = "\
listener {port} 127.0.0.1
allow_anonymous true
max_queued_messages 0
persistence false
log_dest none
";

const READY_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(20);

/// The brokers that `options` name: those built in, then the peers.
///
/// # Errors
/// If a name is unknown or a text is not name=value.
pub(crate) fn definitions(options: &CompareOptions) -> io::Result<Vec<Definition>> {
    let mut definitions = Vec::new();
    for name in &options.broker {
        let (command, config) = match name.as_str() {
            "octopus" => (format!("{} {OCTOPUS}", options.octopus.display()), None),
            "mosquitto" => (
                format!("{} -c {{config}}", options.mosquitto.display()),
                Some(MOSQUITTO_CONFIG.to_owned()),
            ),
            "none" => continue,
            _ => return Err(io::Error::other(format!("no built-in broker is named {name}"))),
        };
        definitions.push(Definition { name: name.clone(), command, config });
    }
    for peer in &options.peer {
        let (name, command) = named(peer)?;
        definitions.push(Definition { name: name.into(), command: command.into(), config: None });
    }
    for config in &options.config {
        let (name, path) = named(config)?;
        let definition = definitions.iter_mut().find(|definition| definition.name == name);
        let definition = definition.ok_or_else(|| unknown(name))?;
        definition.config = Some(fs::read_to_string(path)?);
    }
    Ok(definitions)
}

fn named(text: &str) -> io::Result<(&str, &str)> {
    let expected = || io::Error::other(format!("expected name=value instead of {text}"));
    text.split_once('=').ok_or_else(expected)
}

fn unknown(name: &str) -> io::Error {
    io::Error::other(format!("--config for {name}, which is not among the brokers"))
}

impl Definition {
    /// - `command`: with `{port}`, `{dir}`.
    pub(crate) fn new(name: &str, command: String) -> Self {
        Self { name: name.to_owned(), command, config: None }
    }

    fn words(&self, port: u16, dir: &Path) -> Vec<String> {
        let config = dir.join("config").display().to_string();
        let fill = |word: &str| fill(word, port, dir).replace("{config}", &config);
        self.command.split_whitespace().map(fill).collect()
    }
}

fn fill(text: &str, port: u16, dir: &Path) -> String {
    text.replace("{port}", &port.to_string()).replace("{dir}", &dir.display().to_string())
}

/// A running broker of our own; dropping it ends it.
pub(crate) struct Broker {
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl Broker {
    /// Starts a broker on `cores` and a free port, and waits until it accepts clients. The
    /// calling thread is on `own_cores` afterwards.
    ///
    /// # Errors
    /// If it cannot be started or is not ready within ten seconds; with the end of what it
    /// wrote.
    pub(crate) fn start(
        definition: &Definition,
        cores: &[usize],
        own_cores: &[usize],
    ) -> io::Result<Self> {
        let port = free_port()?;
        let dir = env::temp_dir().join(format!("octopus-bench-{}-{port}", process::id()));
        fs::create_dir_all(&dir)?;
        if let Some(config) = &definition.config {
            fs::write(dir.join("config"), fill(config, port, &dir))?;
        }
        let words = definition.words(port, &dir);
        let (program, arguments) =
            words.split_first().ok_or_else(|| io::Error::other("an empty broker command"))?;
        let log = fs::File::create(dir.join("log"))?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // The child inherits the cores of the thread that starts it.
        system::pin(cores)?;
        let child = command.spawn();
        system::pin(own_cores)?;
        let failed = |error| io::Error::other(format!("{}: {program}: {error}", definition.name));
        let mut broker = Self { child: child.map_err(failed)?, port, dir };
        broker.wait_ready(&definition.name)?;
        Ok(broker)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    fn wait_ready(&mut self, name: &str) -> io::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < READY_TIMEOUT && self.child.try_wait()?.is_none() {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() && self.accepts()? {
                return Ok(());
            }
            thread::sleep(TICK);
        }
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let said = log.lines().last().unwrap_or("nothing");
        Err(io::Error::other(format!("{name} did not get ready; it said: {said}")))
    }

    /// Whether a client gets its CONNACK.
    fn accepts(&self) -> io::Result<bool> {
        let line = format!("octopus-bench conn -c 1 --hold 0 --quiet --port {}", self.port);
        let cli = Cli::try_parse_from(line.split(' ')).map_err(io::Error::other)?;
        let mut accepted = true;
        for plan in Plan::of(&cli.command)? {
            accepted &= run(plan, &mut |_| {})?.connected == 1;
        }
        Ok(accepted)
    }
}

impl Drop for Broker {
    /// Asks the broker to stop and, if it does not within five seconds, makes it.
    fn drop(&mut self) {
        // Failures here mean that it has ended already, which is what is wanted.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < STOP_TIMEOUT && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(TICK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

pub(crate) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_filled_in_with_port_directory_and_file() {
        let command = "broker -c {config} --data={dir} --port={port}".to_owned();
        let definition = Definition { name: "x".into(), command, config: None };
        let words = definition.words(1883, Path::new("/somewhere"));
        let expected = ["broker", "-c", "/somewhere/config", "--data=/somewhere", "--port=1883"];
        assert_eq!(words, expected);
    }

    #[test]
    fn a_peer_is_a_name_and_a_command() {
        assert_eq!(named("x=y --z=1").ok(), Some(("x", "y --z=1")));
        assert!(named("x").is_err());
    }
}
