//! A Redis server and nodes that share it, on free ports of the loopback, in a directory of
//! their own. All end when dropped.
//!
//! With `OCTOPUS_TEST_REDIS_CLUSTER` set, the server of most cases is a Redis Cluster of three
//! masters ([`super::sharded`]). Those that cut the wire to Redis say nothing then: the nodes of
//! a Cluster are reached at the addresses it gives.

use std::{
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Failed;

use crate::harness::broker::{Process, free_port, own_name};

/// How long what must come may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

pub(crate) struct Redis {
    /// What its command line begins with: perhaps a program that runs the rest, then itself.
    command: Vec<String>,
    address: Ipv4Addr,
    port: u16,
    directory: PathBuf,
    has_log: bool,
    /// The port by which the nodes of a Redis Cluster speak to each other, if it is one.
    bus: Option<u16>,
    /// The other nodes of its Redis Cluster.
    pub(super) others: Vec<Self>,
    child: Child,
}

impl Redis {
    /// - `has_log`: every write is in an append-only file before it is answered.
    pub(super) fn start(has_log: bool) -> Result<Self, Failed> {
        match std::env::var_os("OCTOPUS_TEST_REDIS_CLUSTER") {
            Some(_) => super::sharded::start(0, has_log),
            None => Self::start_alone(has_log),
        }
    }

    /// The same, and never a Redis Cluster.
    pub(crate) fn start_alone(has_log: bool) -> Result<Self, Failed> {
        Self::start_at(&[], Ipv4Addr::LOCALHOST, has_log)
    }

    /// The same, with settings of its own and without a log.
    pub(crate) fn start_with(settings: &[[&str; 2]]) -> Result<Self, Failed> {
        let words = [program()].into_iter().chain(settings.concat().into_iter().map(str::to_owned));
        let redis = Self::spawn(words.collect(), Ipv4Addr::LOCALHOST, false, None)?;
        redis.wait_until_there()?;
        Ok(redis)
    }

    /// A node of a Redis Cluster to be. It needs two ports, and there are many such nodes: if
    /// somebody was faster, it takes two others.
    pub(super) fn start_shard(has_log: bool) -> Result<Self, Failed> {
        loop {
            let bus = Some(free_port());
            let mut redis = Self::spawn(vec![program()], Ipv4Addr::LOCALHOST, has_log, bus)?;
            let mut has_ended = false;
            wait("Redis answers, or ends", || {
                has_ended = redis.child.try_wait()?.is_some();
                Ok(has_ended || redis.answers())
            })?;
            if !has_ended {
                return Ok(redis);
            }
        }
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
        let redis = Self::spawn(command, address, has_log, None)?;
        redis.wait_until_there()?;
        Ok(redis)
    }

    /// Starts Valkey, with a log.
    pub(super) fn valkey() -> Result<Self, Failed> {
        let redis = Self::spawn(vec![valkey()?], Ipv4Addr::LOCALHOST, true, None)?;
        redis.wait_until_there()?;
        Ok(redis)
    }

    fn spawn(
        command: Vec<String>,
        address: Ipv4Addr,
        has_log: bool,
        bus: Option<u16>,
    ) -> Result<Self, Failed> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("octopus-cluster-{}-{number}", own_name());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory)?;
        let port = free_port();
        let child = spawn(&command, address, port, &directory, has_log, bus)?;
        let others = Vec::new();
        Ok(Self { command, address, port, directory, has_log, bus, others, child })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn bus(&self) -> Option<u16> {
        self.bus
    }

    /// It and the others of its Redis Cluster.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.others)
    }

    /// How nodes are told where it is.
    pub(crate) fn settings(&self) -> Vec<String> {
        if self.bus.is_none() {
            let (address, port) = (self.address, self.port);
            return vec![format!("--redis.host={address}"), format!("--redis.port={port}")];
        }
        let nodes: Vec<String> = self.all().map(|one| format!("127.0.0.1:{}", one.port)).collect();
        vec![format!("--redis.cluster.nodes={}", nodes.join(","))]
    }

    /// The name of a key of the group, as this Redis has it.
    pub(super) fn key(&self, name: &str) -> String {
        match self.bus {
            Some(_) => name.replacen("GROUP1", "{GROUP1}", 1),
            None => name.to_owned(),
        }
    }

    /// Makes it a replica, and waits until it has what `master` has.
    pub(crate) fn follow(&self, master: &Self) -> Result<(), Failed> {
        let mut own = self.own_connection()?;
        redis::cmd("REPLICAOF").arg("127.0.0.1").arg(master.port).query::<()>(&mut own)?;
        wait("the replica follows", || {
            let info: String = redis::cmd("INFO").arg("replication").query(&mut own)?;
            Ok(info.contains("master_link_status:up"))
        })
    }

    /// A Sentinel that watches it under the name `octopus`, and knows its replica.
    pub(crate) fn watched(&self) -> Result<Self, Failed> {
        let port = free_port();
        let directory = self.directory.join(format!("sentinel-{port}"));
        std::fs::create_dir_all(&directory)?;
        let file = directory.join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor octopus 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds octopus 500\n\
             sentinel failover-timeout octopus 2000\n",
            self.port
        );
        std::fs::write(&file, text)?;
        let mut command = Command::new(program());
        command.arg(&file).arg("--sentinel").current_dir(&directory);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn()?;
        let (command, address) = (Vec::new(), Ipv4Addr::LOCALHOST);
        let (bus, others) = (None, Vec::new());
        let sentinel =
            Self { command, address, port, directory, has_log: false, bus, others, child };
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

    /// Ends it as a crash does when its replicas have all that it acknowledged: they follow
    /// asynchronously, and what they lack then nobody has. Writes under way wait meanwhile.
    pub(crate) fn kill_followed(&mut self) -> Result<(), Failed> {
        const PAUSE_MS: u64 = 10_000;
        let mut own = self.own_connection()?;
        redis::cmd("CLIENT").arg("PAUSE").arg(PAUSE_MS).arg("WRITE").query::<()>(&mut own)?;
        wait("the replicas have what the master has", || {
            let info: String = redis::cmd("INFO").arg("replication").query(&mut own)?;
            let written = field(&info, "master_repl_offset:");
            let replicas: Vec<&str> = info.lines().filter(|line| line.contains(",port=")).collect();
            for replica in &replicas {
                let port = replica.split(',').find_map(|field| field.strip_prefix("port="));
                let port = port.unwrap_or_default().parse()?;
                let client = redis::Client::open((self.address.to_string(), port))?;
                let mut replica = client.get_connection()?;
                let info: String = redis::cmd("INFO").arg("replication").query(&mut replica)?;
                if field(&info, "slave_repl_offset:") != written {
                    return Ok(false);
                }
            }
            Ok(!replicas.is_empty())
        })?;
        self.kill()
    }

    /// Starts it again, with what its log holds.
    pub(crate) fn revive(&mut self) -> Result<(), Failed> {
        let Self { command, address, port, directory, has_log, bus, .. } = &*self;
        self.child = spawn(command, *address, *port, directory, *has_log, *bus)?;
        self.wait_until_there()
    }

    /// To where the group's keys are; waits until somebody has them.
    pub(super) fn connection(&self) -> Result<redis::Connection, Failed> {
        if self.others.is_empty() {
            return self.own_connection();
        }
        let mut found = None;
        wait("a node of the Redis Cluster serves the group", || {
            found = self.all().find_map(|one| {
                let mut connection = one.own_connection().ok()?;
                let nothing = redis::cmd("EXISTS").arg("{GROUP1}").query::<bool>(&mut connection);
                nothing.is_ok().then_some(connection)
            });
            Ok(found.is_some())
        })?;
        found.ok_or_else(|| "nobody does".into())
    }

    /// To this server.
    pub(crate) fn own_connection(&self) -> Result<redis::Connection, Failed> {
        let client = redis::Client::open((self.address.to_string(), self.port))?;
        let connection = client.get_connection()?;
        connection.set_read_timeout(Some(PATIENCE))?;
        Ok(connection)
    }

    /// How often a command was called since the server started.
    pub(super) fn calls(&self, command: &str) -> Result<u64, Failed> {
        let mut connection = self.own_connection()?;
        let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut connection)?;
        let prefix = format!("cmdstat_{command}:calls=");
        let count = field(&stats, &prefix).and_then(|rest| rest.split(',').next());
        Ok(count.map_or(Ok(0), str::parse)?)
    }

    fn wait_until_there(&self) -> Result<(), Failed> {
        wait("Redis answers", || Ok(self.answers()))
    }

    fn answers(&self) -> bool {
        let is_open = TcpStream::connect((self.address, self.port)).is_ok();
        let ping = |mut connection| redis::cmd("PING").query::<String>(&mut connection).is_ok();
        is_open && self.own_connection().is_ok_and(ping)
    }
}

/// What stands behind `name` in an answer to INFO.
fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name))
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
    bus: Option<u16>,
) -> std::io::Result<Child> {
    let mut words = line.iter();
    let mut command = Command::new(words.next().map_or("", String::as_str));
    command.args(words).args(["--save", "", "--appendfsync", "always"]);
    command.args(["--protected-mode", "no", "--bind"]).arg(address.to_string());
    command.args(["--appendonly", if has_log { "yes" } else { "no" }]);
    command.arg("--port").arg(port.to_string()).arg("--dir").arg(directory);
    if let Some(bus) = bus {
        command.args(["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]);
        command.args(["--cluster-port", &bus.to_string(), "--repl-diskless-sync-delay", "0"]);
    }
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
            "--cluster.lease=2s".to_owned(),
            "--shards=2".to_owned(),
        ];
        settings.extend(self.redis.settings());
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
