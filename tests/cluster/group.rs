//! A Redis server and nodes that share it, on free ports of the loopback, in a directory of
//! their own. All end when dropped.

use std::{
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Failed;

use crate::harness::broker::{Process, free_port};

/// How long what must come may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) struct Redis {
    /// What its command line begins with: perhaps a program that runs the rest, then itself.
    command: Vec<String>,
    address: Ipv4Addr,
    port: u16,
    directory: PathBuf,
    has_log: bool,
    child: Child,
}

impl Redis {
    /// - `has_log`: every write is in an append-only file before it is answered.
    pub(super) fn start(has_log: bool) -> Result<Self, Failed> {
        Self::start_at(&[], Ipv4Addr::LOCALHOST, has_log)
    }

    /// Starts it somewhere else.
    ///
    /// - `prefix`: a program that runs the rest of the command line, and its arguments.
    pub(super) fn start_at(
        prefix: &[String],
        address: Ipv4Addr,
        has_log: bool,
    ) -> Result<Self, Failed> {
        let command = prefix.iter().cloned().chain([program()]).collect();
        Self::run(command, address, has_log)
    }

    /// Starts Valkey, with a log.
    pub(super) fn valkey() -> Result<Self, Failed> {
        Self::run(vec![valkey()?], Ipv4Addr::LOCALHOST, true)
    }

    fn run(command: Vec<String>, address: Ipv4Addr, has_log: bool) -> Result<Self, Failed> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("octopus-cluster-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory)?;
        let port = free_port();
        let child = spawn(&command, address, port, &directory, has_log)?;
        let redis = Self { command, address, port, directory, has_log, child };
        redis.wait_until_there()?;
        Ok(redis)
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Makes it a replica, and waits until it has what `master` has.
    pub(super) fn follow(&self, master: &Self) -> Result<(), Failed> {
        let mut own = self.connection()?;
        redis::cmd("REPLICAOF").arg("127.0.0.1").arg(master.port).query::<()>(&mut own)?;
        wait("the replica follows", || {
            let info: String = redis::cmd("INFO").arg("replication").query(&mut own)?;
            Ok(info.contains("master_link_status:up"))
        })
    }

    /// A Sentinel that watches it under the name `octopus`, and knows its replica.
    pub(super) fn watched(&self) -> Result<Self, Failed> {
        let (port, directory) = (free_port(), self.directory.join("sentinel"));
        std::fs::create_dir_all(&directory)?;
        let file = directory.join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor octopus 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds octopus 500\n\
             sentinel failover-timeout octopus 3000\n",
            self.port
        );
        std::fs::write(&file, text)?;
        let mut command = Command::new(program());
        command.arg(&file).arg("--sentinel").current_dir(&directory);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn()?;
        let (command, address) = (Vec::new(), Ipv4Addr::LOCALHOST);
        let sentinel = Self { command, address, port, directory, has_log: false, child };
        sentinel.wait_until_there()?;
        let mut connection = sentinel.connection()?;
        wait("the Sentinel knows the replica", || {
            let found: Vec<redis::Value> =
                redis::cmd("SENTINEL").arg("REPLICAS").arg("octopus").query(&mut connection)?;
            Ok(!found.is_empty())
        })?;
        Ok(sentinel)
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) -> Result<(), Failed> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again, with what its log holds.
    pub(crate) fn revive(&mut self) -> Result<(), Failed> {
        let Self { command, address, port, directory, has_log, .. } = &*self;
        self.child = spawn(command, *address, *port, directory, *has_log)?;
        self.wait_until_there()
    }

    pub(super) fn connection(&self) -> Result<redis::Connection, Failed> {
        let client = redis::Client::open((self.address.to_string(), self.port))?;
        let connection = client.get_connection()?;
        connection.set_read_timeout(Some(PATIENCE))?;
        Ok(connection)
    }

    /// How often a command was called since the server started.
    pub(super) fn calls(&self, command: &str) -> Result<u64, Failed> {
        let mut connection = self.connection()?;
        let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut connection)?;
        let prefix = format!("cmdstat_{command}:calls=");
        let line = stats.lines().find_map(|line| line.strip_prefix(&prefix));
        let count = line.and_then(|rest| rest.split(',').next());
        Ok(count.map_or(Ok(0), str::parse)?)
    }

    fn wait_until_there(&self) -> Result<(), Failed> {
        wait("Redis answers", || {
            let is_open = TcpStream::connect((self.address, self.port)).is_ok();
            Ok(is_open
                && self
                    .connection()
                    .is_ok_and(|mut c| redis::cmd("PING").query::<String>(&mut c).is_ok()))
        })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The server under the group, or what `OCTOPUS_TEST_REDIS` names instead.
fn program() -> String {
    std::env::var("OCTOPUS_TEST_REDIS").unwrap_or_else(|_| "redis-server".to_owned())
}

/// Where `tests/run.sh` has put Valkey's server.
fn valkey() -> Result<String, Failed> {
    let find = ["target/venv", "-path", "*/linux-x86_64/valkey-server"];
    let output = Command::new("find").args(find).output()?;
    let found = String::from_utf8(output.stdout)?;
    let path = found.lines().next().ok_or("no Valkey, which tests/run.sh installs")?;
    Ok(std::fs::canonicalize(path)?.display().to_string())
}

fn spawn(
    line: &[String],
    address: Ipv4Addr,
    port: u16,
    directory: &PathBuf,
    has_log: bool,
) -> std::io::Result<Child> {
    let mut words = line.iter();
    let mut command = Command::new(words.next().map_or("", String::as_str));
    command.args(words).args(["--save", "", "--appendfsync", "always"]);
    command.args(["--protected-mode", "no", "--bind"]).arg(address.to_string());
    command.args(["--appendonly", if has_log { "yes" } else { "no" }]);
    command.arg("--port").arg(port.to_string()).arg("--dir").arg(directory);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn()
}

/// A Redis and what the nodes of one group are told.
pub(crate) struct Group {
    pub(crate) redis: Redis,
    settings: Vec<String>,
}

impl Group {
    pub(crate) fn new(settings: &[&str]) -> Result<Self, Failed> {
        Self::with(Redis::start(false)?, settings)
    }

    pub(super) fn with(redis: Redis, settings: &[&str]) -> Result<Self, Failed> {
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        Ok(Self { redis, settings })
    }

    /// Starts a node of the group.
    pub(super) fn node(&self, id: &str) -> Result<Process, String> {
        self.node_with(id, &[])
    }

    /// Starts a node with settings of its own.
    pub(crate) fn node_with(&self, id: &str, own: &[String]) -> Result<Process, String> {
        let mut settings = vec![
            "--broker.group=GROUP1".to_owned(),
            format!("--broker.id={id}"),
            "--redis.host=127.0.0.1".to_owned(),
            format!("--redis.port={}", self.redis.port),
            "--cluster.lease=2s".to_owned(),
            "--shards=2".to_owned(),
        ];
        settings.extend(self.settings.iter().cloned());
        settings.extend(own.iter().cloned());
        Process::start(&settings)
    }
}

/// Waits until `condition` holds.
///
/// # Errors
/// If it does not in all of [`PATIENCE`], or what it fails with.
pub(crate) fn wait(
    what: &str,
    mut condition: impl FnMut() -> Result<bool, Failed>,
) -> Result<(), Failed> {
    const LOOK_INTERVAL: Duration = Duration::from_millis(20);
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if condition()? {
            return Ok(());
        }
        thread::sleep(LOOK_INTERVAL);
    }
    Err(format!("waited in vain until {what}").into())
}
