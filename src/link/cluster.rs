//! A Redis Cluster: which master serves a slot, and the way there.
//!
//! Ours, and not the `redis` crate's cluster client, because that one carries a command out again
//! by itself when a slot has moved or a node was lost, and connects again without a word. Here a
//! command must not be repeated unless its caller says so, whoever was away must know it
//! ([`super::LinkState`]), and reads that block want a connection of their own. What is left is
//! small: the topology is asked (`CLUSTER SLOTS`), the master of the slot is dialed, and a first
//! command proves that it does serve it.
//!
//! Scope: node.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue,
    IntoConnectionInfo as _, Pipeline, RedisConnectionInfo, RedisError, ServerErrorKind, Value,
    aio::MultiplexedConnection,
};

use super::{settings, timeouts};
use crate::config;

/// Slots of every Redis Cluster.
const SLOTS: u16 = 16384;
/// How long one node may take to say who serves what, or to carry out the first command.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// Between two questions for the topology, and two attempts to reach one master.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Host and port of a node.
type Address = (String, u16);

/// See the module.
pub(crate) struct Masters {
    seeds: Vec<Address>,
    settings: RedisConnectionInfo,
    is_tls: bool,
    config: AsyncConnectionConfig,
    redirects_max: u16,
    known: Mutex<Topology>,
    /// When the topology was last asked for, and of how many nodes.
    looked: tokio::sync::Mutex<(Option<Instant>, usize)>,
    /// Connections to masters, made when they are first needed.
    ways: Mutex<HashMap<Address, Arc<tokio::sync::Mutex<Way>>>>,
}

/// The connection to one master.
#[derive(Default)]
struct Way {
    connection: Option<MultiplexedConnection>,
    failed_at: Option<Instant>,
}

/// Who serves what, as last told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Topology {
    /// First and last slot, and their master.
    ranges: Vec<(u16, u16, Address)>,
    /// All nodes, replicas too.
    nodes: Vec<Address>,
    /// Slots that have moved since.
    moved: HashMap<u16, Address>,
}

impl Topology {
    fn master(&self, slot: u16) -> Option<Address> {
        let range = || self.ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot));
        self.moved.get(&slot).or_else(|| range().map(|(.., master)| master)).cloned()
    }

    /// The answer to CLUSTER SLOTS.
    ///
    /// - `asked`: who gave it; a node that does not know its own name is meant by it.
    fn read(answer: Value, asked: &Address) -> Self {
        let mut topology = Self::default();
        let Value::Array(rows) = answer else { return topology };
        for row in rows {
            let Value::Array(row) = row else { continue };
            let mut row = row.into_iter();
            let (Some(first), Some(last)) = (row.next().and_then(slot), row.next().and_then(slot))
            else {
                continue;
            };
            for (place, node) in row.enumerate() {
                let Some(node) = node_of(node, asked) else { continue };
                if place == 0 {
                    topology.ranges.push((first, last, node.clone()));
                }
                if !topology.nodes.contains(&node) {
                    topology.nodes.push(node);
                }
            }
        }
        topology
    }
}

fn slot(value: Value) -> Option<u16> {
    u16::from_redis_value(value).ok().filter(|slot| *slot < SLOTS)
}

/// A node of CLUSTER SLOTS: how it wants to be reached, its port. `?` is an unknown host.
fn node_of(value: Value, asked: &Address) -> Option<Address> {
    let Value::Array(fields) = value else { return None };
    let mut fields = fields.into_iter();
    let host = match fields.next()? {
        Value::BulkString(host) => String::from_utf8(host).ok()?,
        _ => String::new(),
    };
    let port = u16::from_redis_value(fields.next()?).ok()?;
    match host.as_str() {
        "?" => None,
        "" => Some((asked.0.clone(), port)),
        _ => Some((host, port)),
    }
}

/// The slot of a key or a channel: of what stands in its first braces, or of all of it.
pub(super) fn slot_of(key: &str) -> u16 {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    let hashed = tag.map_or(key, |(tag, _)| if tag.is_empty() { key } else { tag });
    crc16(hashed.as_bytes()) % SLOTS
}

/// CRC-16/XMODEM, as the Redis Cluster specification has it.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| {
            let shifted = crc << 1;
            if crc & 0x8000 == 0 { shifted } else { shifted ^ 0x1021 }
        })
    })
}

/// Where a slot is now, by the error that says so: `<slot> <host>:<port>`.
///
/// - `asked`: who gave it; a node that does not know the other's name leaves out the host.
fn moved_to(error: &RedisError, asked: &Address, kind: ServerErrorKind) -> Option<Address> {
    // Of a pipeline, the first command that failed speaks for all: they are of one slot.
    let errors = error.clone().into_server_errors()?;
    let (_, first) = errors.first().filter(|(_, error)| error.kind() == Some(kind))?;
    address_in(first.details()?, asked)
}

fn address_in(details: &str, asked: &Address) -> Option<Address> {
    let (host, port) = details.split_ascii_whitespace().nth(1)?.rsplit_once(':')?;
    let host = if host.is_empty() { &asked.0 } else { host };
    Some((host.to_owned(), port.parse().ok()?))
}

fn nobody(slot: u16) -> RedisError {
    let what = "no node of redis.cluster.nodes says who serves a slot";
    (ErrorKind::ClusterConnectionNotFound, what, slot.to_string()).into()
}

fn too_late() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

impl Masters {
    pub(crate) fn new(config: &config::Redis) -> Self {
        let seeds = config.cluster.nodes.iter().map(|node| {
            // That it is host:port was checked when it was read.
            let (host, port) = node.rsplit_once(':').unwrap_or((node, "6379"));
            (host.trim_matches(['[', ']']).to_owned(), port.parse().unwrap_or(6379))
        });
        Self {
            seeds: seeds.collect(),
            settings: settings(config),
            is_tls: config.ssl,
            config: timeouts(config.timeout, config.connect_timeout),
            redirects_max: config.cluster.max_redirects,
            known: Mutex::default(),
            looked: tokio::sync::Mutex::default(),
            ways: Mutex::default(),
        }
    }

    /// A new connection to the master of `slot`, which has carried out `first`.
    ///
    /// # Errors
    /// What the last node said that was asked; after a fail-over that nobody knows of yet it is
    /// to be tried again.
    pub(super) async fn dial(
        &self,
        slot: u16,
        config: &AsyncConnectionConfig,
        first: &Cmd,
    ) -> Result<MultiplexedConnection, RedisError> {
        let mut redirects = 0;
        let mut address = self.master(slot).await?;
        loop {
            let error = match self.try_dial(&address, config, first).await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            redirects += 1;
            match moved_to(&error, &address, ServerErrorKind::Moved) {
                Some(next) => self.note(slot, next),
                // It is dead perhaps, and another serves the slot.
                None => self.look().await?,
            }
            let next = self.master(slot).await?;
            if next == address || redirects > self.redirects_max {
                return Err(error);
            }
            address = next;
        }
    }

    async fn try_dial(
        &self,
        address: &Address,
        config: &AsyncConnectionConfig,
        first: &Cmd,
    ) -> Result<MultiplexedConnection, RedisError> {
        let mut connection = self.connect(address, config).await?;
        let answer = first.query_async::<Value>(&mut connection);
        tokio::time::timeout(ANSWER_MAX, answer).await.map_err(|_| too_late())??;
        Ok(connection)
    }

    /// Carries commands out at the master of `key`'s slot, on a connection that is kept. All of
    /// them are carried out again if the slot has moved: only for what may be.
    pub(crate) async fn run<T: FromRedisValue>(
        &self,
        key: &str,
        commands: &Pipeline,
    ) -> Result<T, RedisError> {
        let slot = slot_of(key);
        let mut redirects = 0;
        loop {
            let address = self.master(slot).await?;
            let error = match self.try_run(&address, commands).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            redirects += 1;
            if redirects > self.redirects_max {
                return Err(error);
            }
            if let Some(next) = moved_to(&error, &address, ServerErrorKind::Moved) {
                self.note(slot, next);
            } else if let Some(next) = moved_to(&error, &address, ServerErrorKind::Ask) {
                return self.try_run(&next, &asking(commands)).await;
            } else {
                // Its errors are those of the next attempt.
                let _ = self.look().await;
                return Err(error);
            }
        }
    }

    async fn try_run<T: FromRedisValue>(
        &self,
        address: &Address,
        commands: &Pipeline,
    ) -> Result<T, RedisError> {
        let way = {
            let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(ways.entry(address.clone()).or_default())
        };
        let mut connection = {
            let mut way = way.lock().await;
            match &way.connection {
                Some(connection) => connection.clone(),
                None if way.failed_at.is_some_and(|at| at.elapsed() < LOOK_INTERVAL) => {
                    return Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into());
                }
                None => {
                    let made = self.connect(address, &self.config).await;
                    way.failed_at = made.is_err().then(Instant::now);
                    way.connection.insert(made?).clone()
                }
            }
        };
        let answer = commands.query_async(&mut connection).await;
        if answer.as_ref().is_err_and(|error| error.is_io_error() || error.is_timeout()) {
            way.lock().await.connection = None;
        }
        answer
    }

    async fn connect(
        &self,
        (host, port): &Address,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, RedisError> {
        let (host, port) = (host.clone(), *port);
        let address = match self.is_tls {
            false => ConnectionAddr::Tcp(host, port),
            true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        };
        let info = address.into_connection_info()?.set_redis_settings(self.settings.clone());
        Client::open(info)?.get_multiplexed_async_connection_with_config(config).await
    }

    /// Who serves `slot`, asked if we do not know.
    async fn master(&self, slot: u16) -> Result<Address, RedisError> {
        if let Some(master) = self.known().master(slot) {
            return Ok(master);
        }
        self.look().await?;
        self.known().master(slot).ok_or_else(|| nobody(slot))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Topology> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, slot: u16, master: Address) {
        self.known().moved.insert(slot, master);
    }

    /// Asks for the topology, unless that was just done. Each time another node is asked first:
    /// one that is cut off from the others does not know what became of them.
    async fn look(&self) -> Result<(), RedisError> {
        let mut looked = self.looked.lock().await;
        if looked.0.is_some_and(|at| at.elapsed() < LOOK_INTERVAL) {
            return Ok(());
        }
        let mut nodes = self.known().nodes.clone();
        let seeds = self.seeds.iter().filter(|seed| !nodes.contains(seed));
        let seeds: Vec<Address> = seeds.cloned().collect();
        nodes.extend(seeds);
        let mut error = nobody(0);
        for _ in 0..nodes.len() {
            looked.1 += 1;
            let node = &nodes[looked.1 % nodes.len()];
            match self.slots_at(node).await {
                Ok(topology) if !topology.ranges.is_empty() => {
                    tracing::debug!(node = ?node, ?topology, "Redis Cluster");
                    *self.known() = topology;
                    looked.0 = Some(Instant::now());
                    return Ok(());
                }
                Ok(_) => {}
                Err(failed) => error = failed,
            }
        }
        looked.0 = Some(Instant::now());
        Err(error)
    }

    async fn slots_at(&self, node: &Address) -> Result<Topology, RedisError> {
        let ask = async {
            let mut connection = self.connect(node, &self.config).await?;
            redis::cmd("CLUSTER").arg("SLOTS").query_async::<Value>(&mut connection).await
        };
        let answer = tokio::time::timeout(ANSWER_MAX, ask).await.map_err(|_| too_late())??;
        Ok(Topology::read(answer, node))
    }
}

/// The same commands, where their slot is on its way to.
fn asking(commands: &Pipeline) -> Pipeline {
    let mut asking = redis::pipe();
    for command in commands.cmd_iter() {
        asking.cmd("ASKING").ignore().add_command(command.clone());
    }
    asking
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn address(host: &str, port: u16) -> Address {
        (host.to_owned(), port)
    }

    #[test]
    fn a_slot_is_that_of_the_first_braces() {
        // The values that the specification and `CLUSTER KEYSLOT` give.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot_of("foo"), 12182);
        for key in ["{foo}", "{foo}:V2:NODES", "a{foo}b{bar}"] {
            assert_eq!(slot_of(key), 12182, "{key}");
        }
        assert_eq!(slot_of("foo{}bar"), crc16(b"foo{}bar") % SLOTS);
        assert_eq!(slot_of("foo{bar"), crc16(b"foo{bar") % SLOTS);
    }

    #[test]
    fn who_serves_what_is_read_and_a_move_is_noted() {
        let node = |host: Value, port| Value::Array(vec![host, Value::Int(port), text("id")]);
        let row = |first, last, nodes: [Value; 2]| {
            let mut row = vec![Value::Int(first), Value::Int(last)];
            row.extend(nodes);
            Value::Array(row)
        };
        let answer = Value::Array(vec![
            row(0, 99, [node(text("m1"), 1), node(text("r1"), 2)]),
            row(100, 16383, [node(Value::Nil, 3), node(text(""), 4)]),
            row(7, 7, [node(text("?"), 5), Value::Nil]),
        ]);
        let mut topology = Topology::read(answer, &address("asked", 9));
        assert_eq!(topology.master(0), Some(address("m1", 1)));
        assert_eq!(topology.master(99), Some(address("m1", 1)));
        assert_eq!(topology.master(100), Some(address("asked", 3)));
        assert_eq!(topology.nodes.len(), 4);
        topology.moved.insert(99, address("m3", 6));
        assert_eq!(topology.master(99), Some(address("m3", 6)));
        assert_eq!(topology.master(98), Some(address("m1", 1)));
        assert_eq!(Topology::read(Value::Nil, &address("asked", 9)), Topology::default());
    }

    #[test]
    fn a_redirection_without_a_host_means_the_node_that_was_asked() {
        let asked = address("asked", 9);
        assert_eq!(address_in("12182 127.0.0.1:7001", &asked), Some(address("127.0.0.1", 7001)));
        assert_eq!(address_in("12182 ::1:7001", &asked), Some(address("::1", 7001)));
        assert_eq!(address_in("12182 :7001", &asked), Some(address("asked", 7001)));
        assert_eq!(address_in("12182", &asked), None);
    }
}
