//! The configuration: YAML file, environment and flags into one typed, checked [`Config`].
//!
//! Read in this order: this file (what is configured), `keys` (the one table of every key),
//! `value` (how a value is written), `names` (how a key may be spelled, the predecessor's names
//! among them), `load` (the sources, in rising order), `check` (values that exclude each other),
//! `yaml` (a file with its lines), `error`
//! (what is told), `reference` (what is generated from the table).
//!
//! A new key is a field here with its default, and one entry in `keys`. Its flag, environment
//! variable, check, help text and line in `config/octopus.yml` follow from the entry.

mod auth;
mod check;
mod error;
mod keys;
mod load;
mod names;
mod reference;
mod value;
mod yaml;

use std::time::Duration;

use octopus_engine::{DuplicateLogin, Limits, Pick, QueueFull, Rate};
use octopus_mqtt::QoS;
use octopus_runtime::stream::UserFrom;

pub use auth::{Auth, AuthCache, AuthHttp, AuthRedis, Ban, Jwt, NoOpinion, OnError};
pub use error::{ConfigError, Nearest, Place, Warning};
pub use load::{Effective, Flag, Loaded, Sources, load};
pub use names::{is_setting, is_switch, is_switch_value};
pub use reference::{example_file, help};
pub use value::Secret;
use value::Word;

/// All that can be configured. Scope: one node.
#[derive(Clone, Debug, Default)]
pub struct Config {
    pub broker: Broker,
    /// Listeners beside the one of `broker.host` and `broker.port`.
    pub listeners: Vec<Listener>,
    pub shards: Shards,
    /// Limits of the node as a whole; [`limits_per_shard`] divides them.
    pub limits: Limits,
    pub connections: Connections,
    pub auth: Auth,
    pub redis: Redis,
    pub cluster: Clustering,
    pub http: Http,
    pub stats: Stats,
    pub log: Log,
}

/// Who this node is, where it listens first, and where it keeps what.
#[derive(Clone, Debug)]
pub struct Broker {
    /// The cluster's name; empty: this node is alone.
    pub group: String,
    /// This node's name, unique in its group.
    pub id: String,
    /// Whether the listener of `host` and `port` is opened at all.
    pub listen: bool,
    /// Name or address to listen on.
    pub host: String,
    /// 0: any free port.
    pub port: u16,
    pub backlog: u32,
    /// What all clients of the listener of `host` and `port` may send; 0: any number.
    pub message_rate_max: u32,
    pub byte_rate_max: usize,
    pub storage: StorageKinds,
    /// How a shared subscription picks its member.
    pub shared_pick: Pick,
    /// Server Reference of a planned stop; empty: none.
    pub server_reference: String,
    /// Response Information; empty: none.
    pub response_information: String,
    pub auth: AuthSwitch,
}

/// Where each kind of record is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StorageKinds {
    pub retain: Storage,
    pub publish: Storage,
    pub subscription: Storage,
    pub session: Storage,
}

/// Where records of one kind are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// In this process's memory; gone when it ends.
    #[default]
    Local,
    /// In Redis, for the whole group.
    Redis,
}

/// Whether it matters who connects.
#[derive(Clone, Debug, Default)]
pub struct AuthSwitch {
    /// `false`: anyone may, with or without a user name.
    pub enable: bool,
}

/// One more place to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// For logs and metrics.
    pub name: String,
    pub kind: ListenerKind,
    /// `host:port`; of a Unix socket its path.
    pub address: String,
    /// Permissions of a Unix socket's file, octal.
    pub socket_mode: String,
    pub backlog: u32,
    /// What all of its clients may send; 0: any number.
    pub message_rate_max: u32,
    pub byte_rate_max: usize,
    /// Its connections; 0: any number.
    pub connections_max: u32,
    /// Who decides about its clients; empty: `auth.chain`, if `broker.auth.enable` is.
    pub chain: Vec<String>,
    /// Connections begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Networks of the proxies that are believed.
    pub trusted_proxies: Vec<String>,
    /// Origins of the pages that may open a WebSocket; empty: any.
    pub origins: Vec<String>,
    /// For the kinds with TLS.
    pub tls: ListenerTls,
}

/// Paths of PEM files, empty: none; and what a client's certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerTls {
    pub certificate: String,
    pub key: String,
    pub client_ca: String,
    pub require_client_certificate: bool,
    pub crl: String,
    /// What of a client's certificate is its user name.
    pub user_from: UserFrom,
}

/// What is spoken below MQTT.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListenerKind {
    #[default]
    Tcp,
    Tls,
    /// WebSocket.
    Ws,
    /// WebSocket over TLS.
    Wss,
    /// A Unix socket.
    Unix,
}

/// How many shards the node runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shards {
    /// One per core this process may use.
    #[default]
    Auto,
    Count(u16),
}

/// Connections of the node.
#[derive(Clone, Debug)]
pub struct Connections {
    /// Open connections, all listeners together. More are accepted and closed at once.
    pub count_max: u32,
    /// Accepted a second, all listeners together; more wait to be accepted. 0: any number.
    pub rate_max: u32,
    /// Of one address; 0: any number.
    pub per_address_max: u32,
    /// Of one user; 0: any number.
    pub per_user_max: u32,
}

/// The Redis that a group shares.
#[derive(Clone, Debug)]
pub struct Redis {
    pub host: String,
    pub port: u16,
    pub database: u32,
    /// Empty: the default user.
    pub username: String,
    /// Empty: none is sent.
    pub password: Secret,
    pub ssl: bool,
    /// For one command.
    pub timeout: Duration,
    /// For one connection.
    pub connect_timeout: Duration,
    pub sentinel: Sentinel,
    pub cluster: Cluster,
}

impl Redis {
    pub fn is_cluster(&self) -> bool {
        !self.cluster.nodes.is_empty()
    }

    /// What publishes on a group's own channels: in a Redis Cluster to the nodes that serve their
    /// slot only.
    pub fn publish_command(&self) -> &'static str {
        if self.is_cluster() { "SPUBLISH" } else { "PUBLISH" }
    }
}

/// Redis Sentinels to ask for the master; in use if `nodes` has any.
#[derive(Clone, Debug, Default)]
pub struct Sentinel {
    /// The name under which the Sentinels know the master.
    pub master: String,
    /// `host:port` each.
    pub nodes: Vec<String>,
    pub username: String,
    pub password: Secret,
}

/// Redis Cluster; in use if `nodes` has any.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// `host:port` of some of its nodes.
    pub nodes: Vec<String>,
    /// Redirections followed until the master of a slot is found.
    pub max_redirects: u16,
}

/// How a node is part of its group. Without `broker.group` none of it is used.
#[derive(Clone, Debug)]
pub struct Clustering {
    /// How long a node that says nothing counts as live.
    pub lease: Duration,
    /// How long a node may take to hand a session over to another.
    pub takeover_timeout: Duration,
    /// What happens to messages of QoS 1 and 2 while Redis is away.
    pub when_redis_is_away: WhenAway,
    /// How long such a message is held before it is refused.
    pub hold_time: Duration,
    /// Messages held for other nodes, and their bytes. More are refused.
    pub hold_count_max: u32,
    pub hold_bytes_max: usize,
    /// Entries in a node's inbox in Redis, each of one or more messages. At the limit messages
    /// for that node are held, then refused.
    pub inbox_count_max: u32,
    /// Nodes send each other what is wanted, and not everything.
    pub interest_routing: bool,
    /// Share the group with nodes of the predecessor.
    pub compat: Compat,
    pub mirror: Mirror,
}

/// What is promised while Redis is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenAway {
    /// Nothing: what other nodes must get is not acknowledged before Redis is back.
    #[default]
    Hold,
    /// It is acknowledged at once, counted, and lost if this node ends before Redis is back.
    Degrade,
}

/// The predecessor's bridge. Scope: node.
#[derive(Clone, Debug, Default)]
pub struct Compat {
    pub enable: bool,
}

/// A Redis channel that ordinary consumers can subscribe to.
#[derive(Clone, Debug, Default)]
pub struct Mirror {
    /// Empty: nothing is mirrored.
    pub channel: String,
    /// Topic Filters of what is.
    pub filters: Vec<String>,
}

/// Metrics, health and the admin API.
#[derive(Clone, Debug)]
pub struct Http {
    pub enable: bool,
    pub host: String,
    pub port: u16,
    /// What the admin API asks for; empty: see `token_file`.
    pub token: Secret,
    /// Path of a file whose first line is the token; empty: none.
    pub token_file: String,
}

/// What is counted, and how often it is told.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Between two writes of the group's `STATS` keys.
    pub interval: Duration,
    /// Between two rounds of `$SYS` messages; zero: none are sent.
    pub sys_interval: Duration,
}

/// The log.
#[derive(Clone, Debug)]
pub struct Log {
    /// A level, or a filter with one per target.
    pub level: String,
    pub format: LogFormat,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            group: String::new(),
            id: "BROKER1".to_owned(),
            listen: true,
            host: "127.0.0.1".to_owned(),
            port: 20000,
            backlog: 1024,
            message_rate_max: 0,
            byte_rate_max: 0,
            storage: StorageKinds::default(),
            shared_pick: Pick::default(),
            server_reference: String::new(),
            response_information: String::new(),
            auth: AuthSwitch::default(),
        }
    }
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            name: String::new(),
            kind: ListenerKind::Tcp,
            address: String::new(),
            socket_mode: "0660".to_owned(),
            backlog: Broker::default().backlog,
            message_rate_max: 0,
            byte_rate_max: 0,
            connections_max: 0,
            chain: Vec::new(),
            proxy_protocol: false,
            trusted_proxies: Vec::new(),
            origins: Vec::new(),
            tls: ListenerTls::default(),
        }
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self { count_max: 1_000_000, rate_max: 0, per_address_max: 0, per_user_max: 0 }
    }
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            host: "localhost".to_owned(),
            port: 6379,
            database: 0,
            username: String::new(),
            password: Secret::default(),
            ssl: false,
            timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(2),
            sentinel: Sentinel::default(),
            cluster: Cluster::default(),
        }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self { nodes: Vec::new(), max_redirects: 5 }
    }
}

impl Default for Clustering {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(5),
            takeover_timeout: Duration::from_secs(2),
            when_redis_is_away: WhenAway::default(),
            hold_time: Duration::from_secs(10),
            hold_count_max: 100_000,
            hold_bytes_max: 256 << 20,
            inbox_count_max: 1_000_000,
            interest_routing: true,
            compat: Compat::default(),
            mirror: Mirror::default(),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            enable: true,
            host: "127.0.0.1".to_owned(),
            port: 20080,
            token: Secret::default(),
            token_file: String::new(),
        }
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self { interval: Duration::from_secs(5), sys_interval: Duration::from_secs(10) }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Word for Storage {
    const WORDS: &'static [(&'static str, Self)] =
        &[("local", Self::Local), ("redis", Self::Redis)];
}

impl Word for ListenerKind {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("tcp", Self::Tcp),
        ("tls", Self::Tls),
        ("ws", Self::Ws),
        ("wss", Self::Wss),
        ("unix", Self::Unix),
    ];
}

impl Word for UserFrom {
    const WORDS: &'static [(&'static str, Self)] =
        &[("none", Self::None), ("cn", Self::CommonName), ("subject", Self::Subject)];
}

impl Word for WhenAway {
    const WORDS: &'static [(&'static str, Self)] =
        &[("hold", Self::Hold), ("degrade", Self::Degrade)];
}

impl Word for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

impl Word for QueueFull {
    const WORDS: &'static [(&'static str, Self)] =
        &[("drop_newest", Self::DropNewest), ("drop_oldest", Self::DropOldest)];
}

impl Word for DuplicateLogin {
    const WORDS: &'static [(&'static str, Self)] =
        &[("take_over", Self::TakeOver), ("refuse_newer", Self::RefuseNewer)];
}

impl Word for Pick {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("round_robin", Self::RoundRobin),
        ("random", Self::Random),
        ("least_inflight", Self::LeastInflight),
        ("sticky", Self::Sticky),
        ("publisher", Self::Publisher),
    ];
}

impl Word for QoS {
    const WORDS: &'static [(&'static str, Self)] =
        &[("0", Self::AtMostOnce), ("1", Self::AtLeastOnce), ("2", Self::ExactlyOnce)];
}

impl StorageKinds {
    /// Each kind with its key's last word.
    pub fn named(&self) -> [(&'static str, Storage); 4] {
        [
            ("retain", self.retain),
            ("publish", self.publish),
            ("subscription", self.subscription),
            ("session", self.session),
        ]
    }
}

impl Config {
    /// Every listener: that of `broker.host` and `broker.port` first, if it is to be opened,
    /// then `listeners` in their order.
    pub fn all_listeners(&self) -> Vec<Listener> {
        let first = self.broker.listen.then(|| Listener {
            name: "default".to_owned(),
            kind: ListenerKind::Tcp,
            address: join_port(&self.broker.host, self.broker.port),
            backlog: self.broker.backlog,
            message_rate_max: self.broker.message_rate_max,
            byte_rate_max: self.broker.byte_rate_max,
            ..Listener::default()
        });
        first.into_iter().chain(self.listeners.iter().cloned()).collect()
    }

    /// The group as it stands in the names of its keys in Redis. In a Redis Cluster with braces:
    /// only what is between them decides the slot, so all its keys are in one.
    pub fn group_tag(&self) -> String {
        match self.redis.is_cluster() {
            true => format!("{{{}}}", self.broker.group),
            false => self.broker.group.clone(),
        }
    }

    /// The words of the chain that decides about a listener's clients; none: everyone is let in.
    pub fn chain_of<'a>(&'a self, listener: &'a Listener) -> &'a [String] {
        match (&listener.chain[..], self.broker.auth.enable) {
            ([], true) => &self.auth.chain,
            ([], false) => &[],
            ([word], _) if word == crate::auth::ANYONE => &[],
            (own, _) => own,
        }
    }
}

/// The limits of one of `shards` shards: what `node` counts per node is divided, rounded up;
/// what it counts per connection, session or subscription stays.
pub fn limits_per_shard(node: &Limits, shards: u16) -> Limits {
    let shards = shards.max(1);
    Limits {
        retained_count_max: node.retained_count_max.div_ceil(u32::from(shards)),
        retained_bytes_max: node.retained_bytes_max.div_ceil(usize::from(shards)),
        session_count_max: node.session_count_max.div_ceil(u32::from(shards)),
        memory_bytes_max: node.memory_bytes_max.div_ceil(usize::from(shards)),
        ..node.clone()
    }
}

impl Listener {
    /// Whether `address` is the path of a Unix socket: a host and a port have no slash.
    pub(crate) fn has_path(&self) -> bool {
        self.address.contains('/')
    }

    /// `socket_mode` as a number.
    pub(crate) fn mode(&self) -> Option<u32> {
        parse_mode(&self.socket_mode)
    }
}

/// Reads permissions as `chmod` does: up to four octal digits.
pub(crate) fn parse_mode(text: &str) -> Option<u32> {
    let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    is_octal.then(|| u32::from_str_radix(text, 8).ok())?.filter(|mode| *mode <= 0o777)
}

/// What the clients of each listener may send to one of `shards` shards: the listener's rates,
/// divided and rounded up.
pub fn listener_rates_per_shard(listeners: &[Listener], shards: u16) -> Vec<Rate> {
    let shards = shards.max(1);
    let rate = |listener: &Listener| Rate {
        messages: listener.message_rate_max.div_ceil(u32::from(shards)),
        bytes: listener.byte_rate_max.div_ceil(usize::from(shards)),
    };
    listeners.iter().map(rate).collect()
}

/// `host:port`, with brackets around an IPv6 address.
fn join_port(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_node_are_divided_and_those_of_a_client_are_not() {
        let node = Limits::default();
        let shard = limits_per_shard(&node, 3);
        assert_eq!(shard.retained_count_max, 333_334);
        assert_eq!(shard.session_count_max, 333_334);
        assert_eq!(shard.retained_bytes_max, (1_usize << 30).div_ceil(3));
        assert_eq!(shard.queue_count_max, node.queue_count_max);
        assert_eq!(limits_per_shard(&node, 0).session_count_max, 1_000_000);
    }

    #[test]
    fn permissions_are_octal() {
        for (text, mode) in [
            ("0660", Some(0o660)),
            ("777", Some(0o777)),
            ("1777", None),
            ("0888", None),
            ("66", None),
            ("+660", None),
            ("", None),
        ] {
            assert_eq!(parse_mode(text), mode, "{text}");
        }
    }

    #[test]
    fn the_default_listener_comes_first_and_can_be_left_out() {
        let mut config = Config { listeners: vec![Listener::default()], ..Config::default() };
        config.broker.host = "::1".to_owned();
        let addresses: Vec<String> =
            config.all_listeners().into_iter().map(|listener| listener.address).collect();
        assert_eq!(addresses, ["[::1]:20000", ""]);
        config.broker.listen = false;
        assert_eq!(config.all_listeners(), config.listeners);
    }
}
