//! Broker processes: how each is started, known to be ready, and stopped.

use std::{
    env, fs, io,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    process::{self, Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    cli::Cli,
    compare::{
        certificate,
        definition::{Definition, Fill},
        scenario::Transport,
    },
    plan::Plan,
    run::run,
    system,
};

const READY_TIMEOUT: Duration = Duration::from_secs(10);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(20);

/// A running broker of our own; dropping it ends it.
pub(crate) struct Broker {
    child: Child,
    port: u16,
    dir: PathBuf,
    homes: Option<String>,
    transport: Transport,
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
        threads: usize,
        transport: Transport,
        cores: &[usize],
        own_cores: &[usize],
    ) -> io::Result<Self> {
        let [port, http] = free_ports()?;
        let dir = env::temp_dir().join(format!("octopus-bench-{}-{port}", process::id()));
        fs::create_dir_all(&dir)?;
        if transport == Transport::Tls {
            certificate::make(&dir)?;
        }
        let fill = Fill { port, http, dir: &dir, threads, transport };
        // Those that read several formats go by the name; to the others it is only a name.
        let file = dir.join("config.toml");
        if let Some(config) = definition.config(&fill) {
            fs::write(&file, config)?;
        }
        let (words, homes) = (definition.words(&fill, &file), definition.homes(&fill));
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
        let mut broker = Self { child: child.map_err(failed)?, port, dir, homes, transport };
        broker.wait_ready(&definition.name)?;
        Ok(broker)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The options by which a load finds it.
    pub(crate) fn address(&self) -> String {
        let port = self.port;
        match self.transport {
            Transport::Tcp => format!("--port {port}"),
            Transport::Tls => {
                format!("--port {port} --ca-file {}", certificate::path(&self.dir).display())
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Port and path of the API that tells a client's home, if there is one.
    pub(crate) fn homes(&self) -> Option<&str> {
        self.homes.as_deref()
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
        let line = format!("octopus-bench conn -c 1 --hold 0 --quiet {}", self.address());
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

/// `N` ports that nobody listens on.
pub(crate) fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    let free: Vec<_> =
        (0..N).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<io::Result<_>>()?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(free) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
