//! The table of every key: its name, kind with unit and range, help, and field.
//!
//! Defaults are those of [`Config::default`]. Order is that of `config/octopus.yml` and of
//! `--help`. Names are the predecessor's where it had them.

mod listener;

use std::time::Duration;

use super::{
    Config, Listener, Shards,
    value::{Field, Kind, Value},
};

pub(super) use listener::LISTENER_KEYS;

/// One key of `T`.
pub(super) struct Key<T> {
    /// Full name, with dots; of a listener's key, the part behind `listeners.<index>.`.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// What it does, in a line or two.
    pub(super) help: &'static str,
    /// Where it is kept.
    pub(super) field: fn(&mut T) -> &mut dyn Field,
}

/// The key under which further listeners stand.
pub(super) const LISTENERS: &str = "listeners";

/// What `listeners` is for.
pub(super) const LISTENERS_HELP: &str =
    "More listeners, beside broker.host:broker.port; a list of maps with these keys";

const fn key<T>(
    name: &'static str,
    kind: Kind,
    help: &'static str,
    field: fn(&mut T) -> &mut dyn Field,
) -> Key<T> {
    Key { name, kind, help, field }
}

const fn count(min: u64, max: u64, unit: &'static str) -> Kind {
    Kind::Count { min, max, unit }
}

const fn bytes(min: u64, max: u64) -> Kind {
    Kind::Bytes { min, max }
}

const fn seconds(min: u64, max: u64) -> Kind {
    Kind::Time { min: Duration::from_secs(min), max: Duration::from_secs(max) }
}

const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
const DAY_S: u64 = 24 * 3600;
/// The most a Remaining Length can say, plus the fixed header (§1.5.5).
const PACKET_BYTES_MAX: u64 = 268_435_460;

const STORAGE: Kind = Kind::Choice(&["local", "redis"]);
const LISTENER_MESSAGES: Kind = count(0, 1_000_000_000, "messages a second");
const ANY_PORT: Kind = count(0, 65_535, "");
const PORT: Kind = count(1, 65_535, "");
const HOST: Kind = Kind::Text { what: "a host name or an address", valid: is_host };
const TEXT: Kind = Kind::Text { what: "text", valid: |_| true };
const ENDPOINTS: Kind = Kind::List { what: "host:port", valid: is_endpoint };
const BACKENDS: Kind = Kind::List {
    what: "one of anonymous, password_file, certificate, jwt, http, redis, scram",
    valid: |word| crate::auth::BACKENDS.contains(&word),
};
const BAN_TARGETS: Kind = Kind::List {
    what: "address:<address or network>, user:<name> or client:<id>",
    valid: |text| text.parse::<crate::auth::Target>().is_ok(),
};
const FILTERS: Kind = Kind::List {
    what: "a topic filter",
    valid: |text| octopus_mqtt::TopicFilter::parse(text).is_ok(),
};
const GROUP: Kind = Kind::Text {
    what: "nothing, or up to 64 of letters, digits, '_', '-', '.'",
    valid: |text| text.is_empty() || is_name(text),
};
const NAME: Kind = Kind::Text { what: "1 to 64 of letters, digits, '_', '-', '.'", valid: is_name };
const LOG_FILTER: Kind = Kind::Text {
    what: "error, warn, info, debug, trace, off, or a filter such as info,octopus_runtime=debug",
    valid: crate::log::is_filter,
};

/// Every key but those below `listeners`.
pub(super) static KEYS: &[Key<Config>] = &[
    key(
        "broker.group",
        GROUP,
        "Name of the cluster. Nodes with one group and one Redis are one broker to their clients. Empty: this node is alone and needs no Redis.",
        |c| &mut c.broker.group,
    ),
    key("broker.id", NAME, "Name of this node, unique in its group.", |c| &mut c.broker.id),
    key(
        "broker.listen",
        Kind::Switch,
        "Whether to listen on broker.host:broker.port; false leaves it to `listeners`.",
        |c| &mut c.broker.listen,
    ),
    key(
        "broker.host",
        HOST,
        "Where to listen. 0.0.0.0: every IPv4 address of this machine; \"::\": every IPv6 address.",
        |c| &mut c.broker.host,
    ),
    key("broker.port", ANY_PORT, "TCP port to listen on; 0: any free one.", |c| &mut c.broker.port),
    key(
        "broker.backlog",
        count(1, 65_535, "connections"),
        "Connections the kernel keeps waiting until they are accepted; net.core.somaxconn limits it.",
        |c| &mut c.broker.backlog,
    ),
    key(
        "broker.message_rate_max",
        LISTENER_MESSAGES,
        "PUBLISH packets read from all clients of this listener; above, they are read later. Each shard has an equal part of it. 0: any number.",
        |c| &mut c.broker.message_rate_max,
    ),
    key(
        "broker.byte_rate_max",
        bytes(0, TIB),
        "Bytes a second read from them; above, they are read later. 0: any number.",
        |c| &mut c.broker.byte_rate_max,
    ),
    key(
        "broker.storage.retain",
        STORAGE,
        "Where retained messages are kept: in this process's memory, or in Redis.",
        |c| &mut c.broker.storage.retain,
    ),
    key(
        "broker.storage.publish",
        STORAGE,
        "Where queued and unacknowledged messages are kept.",
        |c| &mut c.broker.storage.publish,
    ),
    key("broker.storage.subscription", STORAGE, "Where subscriptions are kept.", |c| {
        &mut c.broker.storage.subscription
    }),
    key("broker.storage.session", STORAGE, "Where sessions are kept.", |c| {
        &mut c.broker.storage.session
    }),
    key(
        "broker.shared_pick",
        Kind::Choice(&["round_robin", "random", "least_inflight", "sticky", "publisher"]),
        "Which online member of a shared subscription gets a message; publisher: one publisher, one member.",
        |c| &mut c.broker.shared_pick,
    ),
    key(
        "broker.server_reference",
        TEXT,
        "Where version 5 clients are sent when this node stops (Server Reference); empty: nowhere.",
        |c| &mut c.broker.server_reference,
    ),
    key(
        "broker.response_information",
        TEXT,
        "What version 5 clients that ask for Response Information get; empty: none.",
        |c| &mut c.broker.response_information,
    ),
    key(
        "broker.auth.enable",
        Kind::Switch,
        "Whether clients must authenticate; false: anyone may connect.",
        |c| &mut c.broker.auth.enable,
    ),
    key(
        "shards",
        Kind::AutoOrCount { max: 1024, unit: "shards" },
        "Shards, each a thread pinned to its core. auto: one per core this process may use.",
        |c| &mut c.shards,
    ),
    key(
        "connections.count_max",
        count(1, 16_000_000, "connections"),
        "Open connections of the node; more are closed at once.",
        |c| &mut c.connections.count_max,
    ),
    key(
        "connections.rate_max",
        count(0, 10_000_000, "connections a second"),
        "Accepted on all listeners; more wait in the backlog until it is their turn. 0: any number.",
        |c| &mut c.connections.rate_max,
    ),
    key(
        "connections.per_address_max",
        count(0, 16_000_000, "connections"),
        "Connections from one address; more are refused (0x97). 0: any number.",
        |c| &mut c.connections.per_address_max,
    ),
    key(
        "connections.per_user_max",
        count(0, 16_000_000, "connections"),
        "Connections of one user; more are refused (0x97). 0: any number.",
        |c| &mut c.connections.per_user_max,
    ),
    key(
        "limits.packet_size_max",
        bytes(128, PACKET_BYTES_MAX),
        "One packet from a client. Larger: the connection is closed (0x95).",
        |c| &mut c.limits.packet_size_max,
    ),
    key(
        "limits.connect_timeout",
        seconds(1, 3600),
        "For a complete CONNECT; what is below MQTT (TLS, WebSocket, PROXY protocol) has as long before it. Later: closed.",
        |c| &mut c.limits.connect_timeout,
    ),
    key(
        "limits.keep_alive_max_s",
        count(0, 65_535, "seconds"),
        "Keep Alive for version 5 clients that ask for more, or for none; 0: any is accepted.",
        |c| &mut c.limits.keep_alive_max_s,
    ),
    key(
        "limits.out_bytes_max",
        bytes(4096, 1 << 30),
        "Bytes waiting to be sent, per connection. Above: QoS 0 is dropped, QoS 1 and 2 are queued, and the client is not read.",
        |c| &mut c.limits.out_bytes_max,
    ),
    key(
        "limits.inflight_count_max",
        count(1, 65_535, "messages"),
        "QoS 1 and 2 messages sent and unacknowledged, per session.",
        |c| &mut c.limits.inflight_count_max,
    ),
    key(
        "limits.receive_max",
        count(1, 65_535, "messages"),
        "QoS 1 and 2 messages of a client under way to us (Receive Maximum), per connection.",
        |c| &mut c.limits.receive_max,
    ),
    key(
        "limits.topic_alias_max",
        count(0, 65_535, "aliases"),
        "Topic Aliases accepted from a client, per connection.",
        |c| &mut c.limits.topic_alias_max,
    ),
    key(
        "limits.topic_alias_out_max",
        count(0, 65_535, "aliases"),
        "Topic Aliases used towards a client, per connection.",
        |c| &mut c.limits.topic_alias_out_max,
    ),
    key(
        "limits.queue_count_max",
        count(0, 1_000_000_000, "messages"),
        "Messages waiting in a session's queue.",
        |c| &mut c.limits.queue_count_max,
    ),
    key(
        "limits.queue_bytes_max",
        bytes(0, TIB),
        "Topic and payload bytes waiting in a session's queue.",
        |c| &mut c.limits.queue_bytes_max,
    ),
    key(
        "limits.queue_full",
        Kind::Choice(&["drop_newest", "drop_oldest"]),
        "Which message goes when a session's queue is full.",
        |c| &mut c.limits.queue_full,
    ),
    key(
        "limits.subscription_count_max",
        count(1, 100_000_000, "subscriptions"),
        "Subscriptions of one session. More: refused (0x97).",
        |c| &mut c.limits.subscription_count_max,
    ),
    key(
        "limits.topic_levels_max",
        count(1, 65_535, "levels"),
        "Levels of a topic name or filter. More: refused (0x90, 0x8F).",
        |c| &mut c.limits.topic_levels_max,
    ),
    key(
        "limits.retained_count_max",
        count(0, 4_000_000_000, "messages"),
        "Retained messages of the node. More: delivered, not retained.",
        |c| &mut c.limits.retained_count_max,
    ),
    key(
        "limits.retained_bytes_max",
        bytes(0, TIB),
        "Topic and payload bytes of the node's retained messages.",
        |c| &mut c.limits.retained_bytes_max,
    ),
    key(
        "limits.session_count_max",
        count(1, 4_000_000_000, "sessions"),
        "Sessions of the node, connected or not. More: CONNECT is refused (0x97).",
        |c| &mut c.limits.session_count_max,
    ),
    key(
        "limits.session_expiry_max",
        seconds(0, u32::MAX as u64),
        "Longest Session Expiry Interval; a 3.1.1 session that is not clean gets it too.",
        |c| &mut c.limits.session_expiry_max,
    ),
    key(
        "limits.memory_bytes_max",
        bytes(0, TIB),
        "What clients may make the node keep in memory, topics and payloads as counted in the other limits, with buffers, filters and an estimate for each thing. As it fills: newcomers are refused (70 %), QoS 0 is dropped for who does not keep up (80 %), publishers are read once a second and packets of more than 1 MiB that are not whole closed (90 %), and all refused (100 %). 0: no budget.",
        |c| &mut c.limits.memory_bytes_max,
    ),
    key(
        "limits.message_rate_max",
        count(0, 100_000_000, "messages a second"),
        "PUBLISH packets read from one client; above, it is read later. 0: any number.",
        |c| &mut c.limits.message_rate_max,
    ),
    key(
        "limits.byte_rate_max",
        bytes(0, TIB),
        "Bytes a second read from one client; above, it is read later. 0: any number.",
        |c| &mut c.limits.byte_rate_max,
    ),
    key(
        "limits.duplicate_login",
        Kind::Choice(&["take_over", "refuse_newer"]),
        "Who stays when a connected Client Identifier comes again. The specification wants take_over.",
        |c| &mut c.limits.duplicate_login,
    ),
    key("limits.qos_max", Kind::Choice(&["0", "1", "2"]), "Highest QoS accepted.", |c| {
        &mut c.limits.qos_max
    }),
    key(
        "limits.retain_available",
        Kind::Switch,
        "Whether messages may be retained; false: refused (0x9A).",
        |c| &mut c.limits.retain_available,
    ),
    key(
        "limits.wildcard_available",
        Kind::Switch,
        "Whether filters may have wildcards; false: refused (0xA2).",
        |c| &mut c.limits.wildcard_available,
    ),
    key(
        "limits.shared_available",
        Kind::Switch,
        "Whether there are shared subscriptions; false: refused (0x9E).",
        |c| &mut c.limits.shared_available,
    ),
    key(
        "limits.subscription_id_available",
        Kind::Switch,
        "Whether subscriptions may have identifiers; false: refused (0xA1).",
        |c| &mut c.limits.subscription_id_available,
    ),
    key(
        "limits.shared_payload_min",
        bytes(0, 256 * MIB),
        "Payloads from this size are shared by reference, smaller ones copied to each subscriber's buffer.",
        |c| &mut c.limits.shared_payload_min,
    ),
    key(
        "limits.retained_slice_count",
        count(1, 100_000, "messages"),
        "Retained messages handed to a new subscription at a time.",
        |c| &mut c.limits.retained_slice_count,
    ),
    key(
        "auth.chain",
        BACKENDS,
        "Backends, asked in this order until one knows the client; certificate first of a client whose certificate names it (tls.user_from). scram answers version 5 clients that ask for SCRAM-SHA-256, from the password file.",
        |c| &mut c.auth.chain,
    ),
    key(
        "auth.no_opinion",
        Kind::Choice(&["deny", "allow"]),
        "A client that no backend knows.",
        |c| &mut c.auth.no_opinion,
    ),
    key(
        "auth.on_error",
        Kind::Choice(&["next", "refuse"]),
        "A backend that fails or is late: ask the next one, or refuse the client (0x88).",
        |c| &mut c.auth.on_error,
    ),
    key(
        "auth.timeout",
        Kind::Time { min: Duration::from_millis(10), max: Duration::from_secs(60) },
        "For one backend's answer.",
        |c| &mut c.auth.timeout,
    ),
    key(
        "auth.concurrency_max",
        count(1, 10_000, "questions"),
        "Under way at a time to the HTTP endpoint, and to Redis. More wait, within auth.timeout.",
        |c| &mut c.auth.concurrency_max,
    ),
    key(
        "auth.hash_threads",
        count(1, 256, "threads"),
        "Threads that check passwords, nice to the shards. With 32 waiting for each, more clients are told to come later (0x89).",
        |c| &mut c.auth.hash_threads,
    ),
    key(
        "auth.password_file",
        TEXT,
        "Accounts, as octopus passwd or mosquitto_passwd write them. Empty: none.",
        |c| &mut c.auth.password_file,
    ),
    key(
        "auth.acl_file",
        TEXT,
        "Who may publish and subscribe to what: mosquitto's acl_file, or ours in a .yml. Empty: everyone all, but not publish to topics with $ in front. In force whether or not clients authenticate.",
        |c| &mut c.auth.acl_file,
    ),
    key(
        "auth.cache.ttl",
        seconds(0, DAY_S),
        "How long a backend's yes is remembered; 0s: not.",
        |c| &mut c.auth.cache.ttl,
    ),
    key(
        "auth.cache.negative_ttl",
        seconds(0, DAY_S),
        "How long its no is remembered; 0s: not.",
        |c| &mut c.auth.cache.negative_ttl,
    ),
    key(
        "auth.cache.count_max",
        count(0, 10_000_000, "answers"),
        "Remembered, of each kind.",
        |c| &mut c.auth.cache.count_max,
    ),
    key("auth.jwt.secret", Kind::Secret, "For tokens with HS256, HS384, HS512.", |c| {
        &mut c.auth.jwt.secret
    }),
    key(
        "auth.jwt.key_file",
        TEXT,
        "Public key in PEM, or keys in a JWKS file, for RS, PS, ES and EdDSA. The token is the password; it must have exp.",
        |c| &mut c.auth.jwt.key_file,
    ),
    key("auth.jwt.audience", TEXT, "What aud must hold; empty: anything.", |c| {
        &mut c.auth.jwt.audience
    }),
    key("auth.jwt.issuer", TEXT, "What iss must be; empty: anything.", |c| &mut c.auth.jwt.issuer),
    key("auth.jwt.user_claim", TEXT, "The claim that is the user name.", |c| {
        &mut c.auth.jwt.user_claim
    }),
    key("auth.jwt.leeway", seconds(0, 3600), "How far clocks may differ.", |c| {
        &mut c.auth.jwt.leeway
    }),
    key(
        "auth.http.url",
        Kind::Text { what: "a URL, http:// or https://", valid: is_url },
        "Where to POST a client's name, user and password as JSON; see src/auth/http.rs.",
        |c| &mut c.auth.http.url,
    ),
    key(
        "auth.redis.prefix",
        TEXT,
        "Accounts are hashes <prefix>:<user> with password_hash and acl, in the Redis below: alone, behind Sentinels or a Redis Cluster; by TLS or not.",
        |c| &mut c.auth.redis.prefix,
    ),
    key(
        "auth.ban.failures_max",
        count(0, 1_000_000, "failures"),
        "Of one address within the window; then it is banned. 0: never. Behind a proxy that hides addresses use 0.",
        |c| &mut c.auth.ban.failures_max,
    ),
    key(
        "auth.ban.flaps_max",
        count(0, 1_000_000, "connects"),
        "Of one Client Identifier within the window; then it is banned. 0: never.",
        |c| &mut c.auth.ban.flaps_max,
    ),
    key("auth.ban.window", seconds(1, DAY_S), "In which failures and connects count.", |c| {
        &mut c.auth.ban.window
    }),
    key("auth.ban.time", seconds(1, 365 * DAY_S), "How long such a ban lasts.", |c| {
        &mut c.auth.ban.time
    }),
    key(
        "auth.ban.list",
        BAN_TARGETS,
        "Always banned: address:10.0.0.0/8, user:eve, client:c1.",
        |c| &mut c.auth.ban.list,
    ),
    key("redis.host", HOST, "Redis that the group shares.", |c| &mut c.redis.host),
    key("redis.port", PORT, "Its port.", |c| &mut c.redis.port),
    key("redis.database", count(0, 65_535, ""), "Its database number.", |c| &mut c.redis.database),
    key("redis.username", TEXT, "User; empty: the default user.", |c| &mut c.redis.username),
    key("redis.password", Kind::Secret, "Password; empty: none.", |c| &mut c.redis.password),
    key("redis.ssl", Kind::Switch, "Whether to speak TLS with it.", |c| &mut c.redis.ssl),
    key("redis.timeout", seconds(0, DAY_S), "For one command; 0s: none.", |c| &mut c.redis.timeout),
    key("redis.connect_timeout", seconds(0, DAY_S), "For one connection; 0s: the kernel's.", |c| {
        &mut c.redis.connect_timeout
    }),
    key("redis.sentinel.master", TEXT, "Name of the master that the Sentinels watch.", |c| {
        &mut c.redis.sentinel.master
    }),
    key(
        "redis.sentinel.nodes",
        ENDPOINTS,
        "The Sentinels; in use if there are any. Asked without TLS.",
        |c| &mut c.redis.sentinel.nodes,
    ),
    key("redis.sentinel.username", TEXT, "User at the Sentinels.", |c| {
        &mut c.redis.sentinel.username
    }),
    key("redis.sentinel.password", Kind::Secret, "Password at the Sentinels.", |c| {
        &mut c.redis.sentinel.password
    }),
    key(
        "redis.cluster.nodes",
        ENDPOINTS,
        "Some nodes of a Redis Cluster; in use if there are any. Names in it have the group in braces.",
        |c| &mut c.redis.cluster.nodes,
    ),
    key(
        "redis.cluster.max_redirects",
        count(0, 100, "redirections"),
        "Redirections followed until the master of a slot is found.",
        |c| &mut c.redis.cluster.max_redirects,
    ),
    key(
        "cluster.lease",
        seconds(1, 300),
        "How long a node that says nothing counts as live.",
        |c| &mut c.cluster.lease,
    ),
    key(
        "cluster.takeover_timeout",
        Kind::Time { min: Duration::from_millis(200), max: Duration::from_secs(60) },
        "How long a live node may take to hand over a session whose client has connected elsewhere. A node that cannot look for three quarters of it lets the clients of its persistent sessions go.",
        |c| &mut c.cluster.takeover_timeout,
    ),
    key(
        "cluster.when_redis_is_away",
        Kind::Choice(&["hold", "degrade"]),
        "Messages of QoS 1 and 2 for other nodes while Redis is away. hold: not acknowledged before it is back; degrade: acknowledged, counted, and lost if this node ends first.",
        |c| &mut c.cluster.when_redis_is_away,
    ),
    key(
        "cluster.hold_time",
        seconds(0, DAY_S),
        "How long such a message is held. Later: refused (0x97; before version 5 by closing the connection).",
        |c| &mut c.cluster.hold_time,
    ),
    key(
        "cluster.hold_count_max",
        count(1, 100_000_000, "messages"),
        "Messages held for other nodes. More: QoS 0 is dropped, QoS 1 and 2 are refused.",
        |c| &mut c.cluster.hold_count_max,
    ),
    key("cluster.hold_bytes_max", bytes(1 << 16, TIB), "Their bytes.", |c| {
        &mut c.cluster.hold_bytes_max
    }),
    key(
        "cluster.inbox_count_max",
        count(1, 1_000_000_000, "entries"),
        "Entries, each of one or more messages, that wait in Redis for one node. More: held, then refused.",
        |c| &mut c.cluster.inbox_count_max,
    ),
    key(
        "cluster.interest_routing",
        Kind::Switch,
        "Whether the other nodes send this one only what its clients subscribe to; false: every message, which is of use to measure what routing saves.",
        |c| &mut c.cluster.interest_routing,
    ),
    key(
        "cluster.compat.enable",
        Kind::Switch,
        "Whether to share the group with nodes of the Java Octopus: its JSON on <group>:PUB:BRIDGE and <group>:CLOSE:BRIDGE, both ways.",
        |c| &mut c.cluster.compat.enable,
    ),
    key(
        "cluster.mirror.channel",
        TEXT,
        "Redis channel on which messages are published as JSON for ordinary consumers; empty: none are.",
        |c| &mut c.cluster.mirror.channel,
    ),
    key("cluster.mirror.filters", FILTERS, "Topic Filters of what is published there.", |c| {
        &mut c.cluster.mirror.filters
    }),
    key("http.enable", Kind::Switch, "Whether to serve metrics, health and the admin API.", |c| {
        &mut c.http.enable
    }),
    key("http.host", HOST, "Where to serve them.", |c| &mut c.http.host),
    key("http.port", ANY_PORT, "Their TCP port; 0: any free one.", |c| &mut c.http.port),
    key(
        "http.token",
        Kind::Secret,
        "Token the admin API asks for (Authorization: Bearer). Empty, and no file: only this machine may use the API.",
        |c| &mut c.http.token,
    ),
    key("http.token_file", TEXT, "File with that token in its first line.", |c| {
        &mut c.http.token_file
    }),
    key(
        "stats.interval",
        seconds(1, 3600),
        "Between two writes of the group's STATS keys to Redis.",
        |c| &mut c.stats.interval,
    ),
    key(
        "stats.sys_interval",
        seconds(0, DAY_S),
        "Between two rounds of $SYS messages; 0s: none.",
        |c| &mut c.stats.sys_interval,
    ),
    key("log.level", LOG_FILTER, "How much to log.", |c| &mut c.log.level),
    key("log.format", Kind::Choice(&["text", "json"]), "How a log line is written.", |c| {
        &mut c.log.format
    }),
];

impl Field for Shards {
    fn put(&mut self, value: Value) -> bool {
        *self = match value {
            Value::Auto => Self::Auto,
            Value::Number(number) => match u16::try_from(number) {
                Ok(number) => Self::Count(number),
                Err(_) => return false,
            },
            _ => return false,
        };
        true
    }

    fn get(&self) -> Value {
        match self {
            Self::Auto => Value::Auto,
            Self::Count(count) => Value::Number(u64::from(*count)),
        }
    }
}

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

fn is_host(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == '/')
}

fn is_network(text: &str) -> bool {
    octopus_runtime::stream::network(text).is_some()
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    text.is_empty() || rest.is_some_and(is_host_and_path)
}

fn is_host_and_path(rest: &str) -> bool {
    is_host(rest.split('/').next().unwrap_or_default()) && !rest.contains(char::is_whitespace)
}

/// `host:port`; an IPv6 address stands in brackets.
fn is_endpoint(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    is_host(host) && (bracketed || !host.contains(':')) && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T>(keys: &[Key<T>], target: &mut T, may_be_empty: &[&str]) {
        for key in keys {
            let value = (key.field)(target).get();
            if may_be_empty.contains(&key.name) {
                continue;
            }
            let text = key.kind.show(&value);
            let read = key.kind.parse(&text);
            assert_eq!(read.as_ref(), Some(&value), "{}: default {text}", key.name);
            assert!((key.field)(target).put(value), "{}: field refuses its own value", key.name);
        }
    }

    #[test]
    fn every_default_is_a_value_its_key_takes() {
        check(KEYS, &mut Config::default(), &[]);
        check(LISTENER_KEYS, &mut Listener::default(), &["name", "address"]);
    }

    #[test]
    fn every_field_holds_the_whole_range_of_its_key() {
        for key in KEYS {
            let ends = match key.kind {
                Kind::Count { min, max, .. } | Kind::Bytes { min, max } => {
                    vec![Value::Number(min), Value::Number(max)]
                }
                Kind::AutoOrCount { max, .. } => vec![Value::Number(1), Value::Number(max)],
                Kind::Time { min, max } => vec![Value::Time(min), Value::Time(max)],
                Kind::Choice(words) => words.iter().map(|w| Value::Text((*w).into())).collect(),
                _ => continue,
            };
            for end in ends {
                let mut config = Config::default();
                assert!((key.field)(&mut config).put(end.clone()), "{} {end:?}", key.name);
                assert_eq!((key.field)(&mut config).get(), end, "{}", key.name);
            }
        }
    }

    #[test]
    fn endpoints_are_host_and_port() {
        for good in ["localhost:1", "127.0.0.1:1883", "[::1]:1883"] {
            assert!(is_endpoint(good), "{good}");
        }
        for bad in ["", "localhost", ":1883", "::1:1883", "host:99999", "a b:1", "tcp://a:1"] {
            assert!(!is_endpoint(bad), "{bad}");
        }
    }
}
