//! A broker as a process of its own, on a free port of the loopback, killed when dropped.

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long a broker may take to say where it listens.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// A running broker.
pub(crate) struct Process {
    pub address: SocketAddr,
    child: Child,
    log: Arc<Log>,
}

/// Lines from the broker's two outputs, and a bell for who waits for one.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    bell: Condvar,
}

impl Process {
    /// Starts the broker under test with `--key=value` arguments of its configuration, or the
    /// one that `OCTOPUS_TEST_BROKER` names: running the scripts against another broker shows
    /// where a script, and not the broker, is wrong.
    ///
    /// # Errors
    /// What the broker printed, if it does not come to listen.
    pub(crate) fn start(settings: &[String]) -> Result<Self, String> {
        match env::var_os("OCTOPUS_TEST_BROKER") {
            Some(program) if PathBuf::from(&program).ends_with("mosquitto") => {
                Self::mosquitto(program.into())
            }
            Some(program) => Self::octopus(program.into(), settings),
            None => Self::octopus(env!("CARGO_BIN_EXE_octopus").into(), settings),
        }
    }

    /// Starts the broker under test somewhere else.
    ///
    /// - `prefix`: a program that runs the rest of the command line, and its arguments; empty:
    ///   none.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub(crate) fn start_at(
        prefix: &[String],
        environment: &[(String, String)],
        settings: &[String],
    ) -> Result<Self, String> {
        let broker = env!("CARGO_BIN_EXE_octopus");
        let mut command = match prefix.split_first() {
            None => Command::new(broker),
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(broker);
                command
            }
        };
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        Self::listening(command, settings)
    }

    fn octopus(program: PathBuf, settings: &[String]) -> Result<Self, String> {
        Self::listening(Command::new(program), settings)
    }

    fn listening(mut command: Command, settings: &[String]) -> Result<Self, String> {
        command.args(["--broker.host=127.0.0.1", "--broker.port=0", "--http.enable=false"]);
        command.args(settings);
        let mut process = Self::spawn(command, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let line = process.wait_for("listening on ")?;
        let after = line.split("listening on ").nth(1).unwrap_or_default();
        let word = after.split_whitespace().next().unwrap_or_default();
        let word = word.trim_start_matches("mqtt://").trim_matches(|mark| ",;.\"".contains(mark));
        process.address = word.parse().map_err(|_| format!("no address in {line:?}"))?;
        Ok(process)
    }

    fn mosquitto(program: PathBuf) -> Result<Self, String> {
        let port = free_port();
        let file = env::temp_dir().join(format!("octopus-test-{port}.conf"));
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n\
             max_queued_messages 1000\n"
        );
        std::fs::write(&file, text).map_err(|error| error.to_string())?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&file);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let process = Self::spawn(command, address)?;
        process.wait_for(" running")?;
        Ok(process)
    }

    /// Starts any other server; both of its outputs become the log.
    ///
    /// # Errors
    /// Why it could not be started.
    pub(crate) fn spawn(mut command: Command, address: SocketAddr) -> Result<Self, String> {
        command.env("NO_COLOR", "1").stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let log = Arc::new(Log::default());
        if let Some(output) = child.stdout.take() {
            log.follow(output);
        }
        if let Some(output) = child.stderr.take() {
            log.follow(output);
        }
        Ok(Self { address, child, log })
    }

    /// Waits until the broker prints a line with `text` in it, and returns the first such line.
    ///
    /// # Errors
    /// All that it printed, if it does not within the time a start may take.
    pub(crate) fn wait_for(&self, text: &str) -> Result<String, String> {
        let deadline = Instant::now() + START_PATIENCE;
        let mut lines = self.log.lines.lock().expect("no reader of the log panics");
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return Ok(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // Standard output and error end one after the other; both must be read.
            let has_ended = lines.iter().filter(|line| *line == END).count() == 2;
            if left.is_zero() || has_ended {
                return Err(format!("no {text:?} from the broker:\n{}", lines.join("\n")));
            }
            lines = self.log.bell.wait_timeout(lines, left).expect("no reader panics").0;
        }
    }

    /// Sends a signal by its name without `SIG`.
    pub(crate) fn signal(&self, name: &str) -> std::io::Result<()> {
        let mut kill = Command::new("kill");
        kill.arg(format!("-{name}")).arg(self.child.id().to_string()).status().map(drop)
    }

    /// All it has printed.
    pub(crate) fn log(&self) -> String {
        self.log.lines.lock().expect("no reader of the log panics").join("\n")
    }

    /// The number by which to send it a signal.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn connect(&self) -> std::io::Result<TcpStream> {
        TcpStream::connect(self.address)
    }
}

/// Stands in the log where an output of the broker ended.
const END: &str = "(end of output)";

impl Log {
    fn follow(self: &Arc<Self>, output: impl Read + Send + 'static) {
        let log = Arc::clone(self);
        thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            for line in lines.chain([END.to_owned()]) {
                log.lines.lock().expect("no reader of the log panics").push(line);
                log.bell.notify_all();
            }
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to kill and only to wait.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of the loopback for a process that is to start: none of those that the system gives away
/// meanwhile, and each once.
pub(crate) fn free_port() -> u16 {
    static LAST: AtomicU16 = AtomicU16::new(0);
    loop {
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (std::process::id() as u16 % 32 * 256).wrapping_add(number) % 10_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// In the environment of a program of tests that runs in a namespace for processes: its name among
/// all on the machine, which its own number is not.
pub(crate) const INSIDE: &str = "OCTOPUS_TEST_INSIDE";

/// Tells what this process makes from what others make.
pub(crate) fn own_name() -> String {
    env::var(INSIDE).unwrap_or_else(|_| std::process::id().to_string())
}
