//! The connection to the group's Redis: one for commands, kept alive and made anew when it is
//! lost; others on demand for blocking reads and for subscriptions.
//!
//! The one door to the `redis` crate's connections. Whoever uses it hears of an outage twice:
//! as an error of the command under way, and as a change of [`LinkState`]. A command is never
//! repeated here, because only the caller knows whether it may be: an error means that it was
//! carried out or not.
//!
//! In a Redis Cluster everything of a group is in one slot, by the tag in its names, so the link
//! is to one master: that of this slot. That it serves another slot now, or none, is the same as
//! its being lost. While the slot moves to another master key by key, no script of ours may run,
//! because it would find some of its keys and not others: every script names a key that never
//! exists (`guard`), and so Redis refuses it before it begins. What is published for one node
//! only, and may be lost, does not go by this link but spreads over all masters
//! ([`Link::spread`]).
//!
//! Scope: node. All of it runs on the control plane's thread; no shard waits for it.

pub(crate) mod cluster;
pub(crate) mod lookup;

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    IntoConnectionInfo as _, Pipeline, ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo,
    RedisError, ScriptInvocation, TlsMode, Value,
    aio::MultiplexedConnection,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use tokio::sync::{Notify, mpsc, watch};

use self::cluster::Masters;
use crate::config;

/// Between two looks whether Redis still answers.
const PING_INTERVAL: Duration = Duration::from_millis(500);
/// Wait before the second attempt to connect; doubles up to `BACK_OFF_MAX`.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);
/// Between two looks whether a channel is still served where it is listened to, and how long one
/// may take.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
const CHECK_MAX: Duration = Duration::from_secs(2);

/// Whether Redis can be reached. Scope: node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    Away,
    /// Reached; `generation` rises with every new connection, so that whoever sees a new one
    /// knows that it missed a time without Redis.
    Up {
        generation: u64,
        since: Instant,
    },
}

impl LinkState {
    pub fn is_up(self) -> bool {
        matches!(self, Self::Up { .. })
    }
}

/// Why a command has no answer.
#[derive(Debug)]
pub enum LinkError {
    /// Redis is away; nothing was sent.
    Away,
    /// What Redis or the way to it said. The command may have been carried out.
    Redis(RedisError),
}

impl LinkError {
    /// Whether it says that Redis could not be reached, or that it was not the right one; not
    /// that the command was wrong.
    pub fn is_of_the_link(&self) -> bool {
        match self {
            Self::Away => true,
            Self::Redis(error) => is_of_the_link(error),
        }
    }
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away => f.write_str("Redis is away"),
            Self::Redis(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for LinkError {}

impl From<RedisError> for LinkError {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

/// The link to Redis. Cheap to clone.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

struct Shared {
    dialer: Dialer,
    /// For the log.
    place: String,
    state: watch::Sender<LinkState>,
    /// The connection for commands while the link is up.
    current: Mutex<Option<MultiplexedConnection>>,
    /// Somebody saw the connection fail.
    failed: Notify,
    operations: AtomicU64,
    /// Of the last look whether Redis answers, microseconds.
    round_trip_us: AtomicU64,
}

/// Where Redis is.
enum Dialer {
    Direct(Client),
    /// Asks the Sentinels for the master at every attempt. The client needs `&mut`.
    Sentinel(tokio::sync::Mutex<SentinelClient>),
    /// The master of the slot that `guard` is in, a key that never exists.
    Cluster {
        masters: Masters,
        guard: String,
    },
}

/// Where it is looked for, by the keys that say so.
fn place(config: &config::Redis) -> String {
    if !config.cluster.nodes.is_empty() {
        return format!("redis.cluster.nodes {}", config.cluster.nodes.join(","));
    }
    match config.sentinel.nodes.is_empty() {
        true => format!("redis.host {}, redis.port {}", config.host, config.port),
        false => format!(
            "redis.sentinel.nodes {}, redis.sentinel.master {}",
            config.sentinel.nodes.join(","),
            config.sentinel.master
        ),
    }
}

impl Link {
    /// A link that begins to connect at once and goes on for as long as the runtime lives.
    /// Call it on the control plane's runtime.
    ///
    /// - `guard`: a key that never exists, in a Redis Cluster in the slot of all others.
    ///
    /// # Errors
    /// What in `config` no connection can be made of.
    pub fn open(config: &config::Redis, guard: &str) -> Result<Self, LinkError> {
        let link = Self(Arc::new(Shared {
            dialer: Dialer::new(config, guard)?,
            place: place(config),
            state: watch::Sender::new(LinkState::Away),
            current: Mutex::new(None),
            failed: Notify::new(),
            operations: AtomicU64::new(0),
            round_trip_us: AtomicU64::new(0),
        }));
        let (timeout, connect_timeout) = (config.timeout, config.connect_timeout);
        tokio::spawn(keep(Arc::downgrade(&link.0), timeouts(timeout, connect_timeout)));
        Ok(link)
    }

    /// The state, to watch.
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.0.state.subscribe()
    }

    pub fn is_up(&self) -> bool {
        self.0.state.borrow().is_up()
    }

    /// Whether Redis has not been reached for `time` yet.
    pub fn is_newer_than(&self, time: Duration) -> bool {
        match *self.0.state.borrow() {
            LinkState::Up { since, .. } => since.elapsed() < time,
            LinkState::Away => true,
        }
    }

    /// What every script has to name among its keys; `None`: nothing.
    pub fn guard(&self) -> Option<&str> {
        match &self.0.dialer {
            Dialer::Cluster { guard, .. } => Some(guard),
            Dialer::Direct(_) | Dialer::Sentinel(_) => None,
        }
    }

    /// Whether what may be lost goes by [`Link::spread`].
    pub fn is_spread(&self) -> bool {
        matches!(self.0.dialer, Dialer::Cluster { .. })
    }

    /// Commands sent since the start; pipelines count each of theirs.
    pub fn operation_count(&self) -> u64 {
        self.0.operations.load(Ordering::Relaxed)
    }

    /// How long the last look took whether Redis answers; there is one every half second.
    pub fn round_trip(&self) -> Duration {
        Duration::from_micros(self.0.round_trip_us.load(Ordering::Relaxed))
    }

    /// Waits until Redis is reached, at most `limit`.
    pub async fn wait_up(&self, limit: Duration) -> bool {
        let mut state = self.state();
        let is_up = state.wait_for(|state| state.is_up());
        tokio::time::timeout(limit, is_up).await.is_ok_and(|found| found.is_ok())
    }

    /// One command.
    pub async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, LinkError> {
        let mut connection = self.connection(1)?;
        self.told(command.query_async(&mut connection).await)
    }

    /// Commands in order, sent together.
    pub async fn pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T, LinkError> {
        let mut connection = self.connection(pipeline.len() as u64)?;
        self.told(pipeline.query_async(&mut connection).await)
    }

    /// A script, loaded when Redis does not know it. The guard is added to its keys.
    pub async fn script<T: FromRedisValue>(
        &self,
        script: &mut ScriptInvocation<'_>,
    ) -> Result<T, LinkError> {
        if let Some(guard) = self.guard() {
            script.key(guard);
        }
        let mut connection = self.connection(1)?;
        self.told(script.invoke_async(&mut connection).await)
    }

    /// A connection of the caller's own, for reads that block: it has no time limit. It ends
    /// with an error when Redis goes away.
    pub async fn blocking(&self) -> Result<MultiplexedConnection, LinkError> {
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        Ok(self.0.dialer.dial(&config).await?)
    }

    /// A connection that listens to channels.
    ///
    /// - `own`: the group's, all in its slot.
    /// - `outside`: those on which others publish, who know nothing of slots.
    pub async fn subscribe(
        &self,
        own: &[String],
        outside: &[String],
    ) -> Result<Subscription, LinkError> {
        let (sender, pushes) = mpsc::unbounded_channel();
        let config = AsyncConnectionConfig::new().set_push_sender(sender);
        let mut connection = self.0.dialer.dial(&config).await?;
        let mut check = None;
        if let Some(guard) = self.guard() {
            for channel in own {
                ssubscribe(channel).query_async::<()>(&mut connection).await?;
            }
            check = Some(exists(guard));
        } else {
            connection.subscribe(own).await?;
        }
        if !outside.is_empty() {
            connection.subscribe(outside).await?;
        }
        Ok(Subscription::new(connection, pushes, check))
    }

    /// A connection that listens to what is published by [`Link::spread`] on one channel.
    pub async fn subscribe_spread(&self, channel: &str) -> Result<Subscription, LinkError> {
        let Dialer::Cluster { masters, .. } = &self.0.dialer else {
            return self.subscribe(&[channel.to_owned()], &[]).await;
        };
        let (sender, pushes) = mpsc::unbounded_channel();
        let config = AsyncConnectionConfig::new().set_push_sender(sender);
        let slot = cluster::slot_of(channel);
        let connection = masters.dial(slot, &config, &ssubscribe(channel)).await?;
        // A key of the channel's name is in its slot.
        Ok(Subscription::new(connection, pushes, Some(exists(channel))))
    }

    /// Publishes at the master of the channel's slot, whichever that is; only where
    /// [`Link::is_spread`]. Beside the link: whether that is up says nothing about it. What is
    /// published may come twice if the slot moves meanwhile.
    pub async fn spread(&self, channel: &str, payloads: &[bytes::Bytes]) -> Result<(), LinkError> {
        let Dialer::Cluster { masters, .. } = &self.0.dialer else { return Err(LinkError::Away) };
        self.0.operations.fetch_add(payloads.len() as u64, Ordering::Relaxed);
        let mut pipeline = redis::pipe();
        for payload in payloads {
            pipeline.cmd("SPUBLISH").arg(channel).arg(&payload[..]).ignore();
        }
        Ok(masters.run(channel, &pipeline).await?)
    }

    fn connection(&self, operations: u64) -> Result<MultiplexedConnection, LinkError> {
        self.0.operations.fetch_add(operations, Ordering::Relaxed);
        let current = self.0.current.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        current.clone().ok_or(LinkError::Away)
    }

    /// Passes `result` on; tells the keeper if the connection is to blame.
    fn told<T>(&self, result: Result<T, RedisError>) -> Result<T, LinkError> {
        result.map_err(|error| {
            if is_of_the_link(&error) {
                self.0.failed.notify_one();
            }
            error.into()
        })
    }
}

fn ssubscribe(channel: &str) -> Cmd {
    let mut command = redis::cmd("SSUBSCRIBE");
    command.arg(channel);
    command
}

fn exists(key: &str) -> Cmd {
    let mut command = redis::cmd("EXISTS");
    command.arg(key);
    command
}

/// What is published on the channels of one [`Link::subscribe`].
pub struct Subscription {
    connection: MultiplexedConnection,
    pushes: mpsc::UnboundedReceiver<PushInfo>,
    /// In a Redis Cluster: what fails where the channels are not served.
    check: Option<Cmd>,
    checked_at: tokio::time::Instant,
}

impl Subscription {
    fn new(
        connection: MultiplexedConnection,
        pushes: mpsc::UnboundedReceiver<PushInfo>,
        check: Option<Cmd>,
    ) -> Self {
        Self { connection, pushes, check, checked_at: tokio::time::Instant::now() }
    }

    /// Channel and payload of the next message; `None` when the connection is lost, or when it
    /// is not the right one any more.
    pub async fn next(&mut self) -> Option<(String, Vec<u8>)> {
        loop {
            let push = tokio::select! {
                push = self.pushes.recv() => push?,
                () = tokio::time::sleep_until(self.checked_at + CHECK_INTERVAL),
                    if self.check.is_some() =>
                {
                    if !self.holds().await {
                        return None;
                    }
                    continue;
                }
            };
            match push.kind {
                // A channel whose slot has moved is unsubscribed.
                PushKind::Disconnection | PushKind::SUnsubscribe => return None,
                PushKind::Message | PushKind::SMessage => {
                    if let Some(message) = message_of(push.data) {
                        return Some(message);
                    }
                }
                _ => {}
            }
        }
    }
}

impl Subscription {
    /// Whether the channels are still served here.
    async fn holds(&mut self) -> bool {
        self.checked_at = tokio::time::Instant::now();
        let Some(check) = &self.check else { return true };
        let answer = check.query_async::<Value>(&mut self.connection);
        match tokio::time::timeout(CHECK_MAX, answer).await {
            Ok(Ok(_)) => true,
            // As long as it is on its way to another master, it is served here.
            Ok(Err(error)) => error.code() == Some("ASK") || !is_of_the_link(&error),
            Err(_) => false,
        }
    }
}

fn message_of(data: Vec<Value>) -> Option<(String, Vec<u8>)> {
    let mut data = data.into_iter();
    match (data.next(), data.next()) {
        (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) => {
            Some((String::from_utf8(channel).ok()?, payload))
        }
        _ => None,
    }
}

/// Whether an error says that this connection cannot be used, and not just that a command was
/// wrong. A master that has become a replica counts: Sentinel names another one; and in a Redis
/// Cluster one that does not serve the slot, or not all of it.
fn is_of_the_link(error: &RedisError) -> bool {
    let is_server = |code: &str| error.code() == Some(code);
    error.is_io_error()
        || error.is_connection_dropped()
        || error.is_timeout()
        || error.is_cluster_error()
        || error.kind() == ErrorKind::AuthenticationFailed
        || ["READONLY", "LOADING", "MASTERDOWN", "NOAUTH"].into_iter().any(is_server)
}

/// Connects, looks after the connection, connects again. Ends with the last [`Link`].
async fn keep(shared: std::sync::Weak<Shared>, config: AsyncConnectionConfig) {
    let mut generation = 0;
    let mut back_off = BACK_OFF_MIN;
    let mut is_told = false;
    loop {
        let Some(shared) = shared.upgrade() else { return };
        match shared.dialer.dial(&config).await {
            Ok(connection) => {
                generation += 1;
                back_off = BACK_OFF_MIN;
                is_told = false;
                tracing::info!(generation, "Redis is reached");
                shared.set(
                    Some(connection.clone()),
                    LinkState::Up { generation, since: Instant::now() },
                );
                watch_over(&shared, connection).await;
                shared.set(None, LinkState::Away);
                tracing::warn!("Redis is away");
            }
            Err(error) => {
                if !std::mem::replace(&mut is_told, true) {
                    let place = &shared.place;
                    tracing::warn!(place, %error, "Redis cannot be reached");
                }
                drop(shared);
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(BACK_OFF_MAX);
            }
        }
    }
}

/// Returns when the connection is of no more use.
async fn watch_over(shared: &Shared, mut connection: MultiplexedConnection) {
    loop {
        tokio::select! {
            () = shared.failed.notified() => return,
            () = tokio::time::sleep(PING_INTERVAL) => {}
        }
        let asked_at = Instant::now();
        if let Dialer::Cluster { guard, .. } = &shared.dialer {
            // A replica, or a master of other slots, does not answer it.
            let answer: Result<Value, _> = exists(guard).query_async(&mut connection).await;
            shared.took(asked_at);
            if answer.is_err_and(|error| is_of_the_link(&error)) {
                return;
            }
            continue;
        }
        // A replica answers PING as well; ROLE tells when the master has become one.
        let role: Result<Vec<Value>, _> = redis::cmd("ROLE").query_async(&mut connection).await;
        shared.took(asked_at);
        match role {
            Ok(role) if role.first() == Some(&Value::BulkString(b"master".to_vec())) => {}
            Ok(_) => return,
            Err(error) if is_of_the_link(&error) => return,
            // An access list may forbid ROLE; PING says as much as we need then.
            Err(_) => {
                let pong: Result<Value, _> = redis::cmd("PING").query_async(&mut connection).await;
                if pong.is_err() {
                    return;
                }
            }
        }
    }
}

impl Shared {
    fn set(&self, connection: Option<MultiplexedConnection>, state: LinkState) {
        let current = self.current.lock();
        *current.unwrap_or_else(std::sync::PoisonError::into_inner) = connection;
        self.state.send_replace(state);
    }

    /// Redis has answered what it was asked then.
    fn took(&self, asked_at: Instant) {
        let us = u64::try_from(asked_at.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.round_trip_us.store(us, Ordering::Relaxed);
    }
}

impl Dialer {
    fn new(config: &config::Redis, guard: &str) -> Result<Self, RedisError> {
        if !config.cluster.nodes.is_empty() {
            return Ok(Self::Cluster { masters: Masters::new(config), guard: guard.to_owned() });
        }
        if config.sentinel.nodes.is_empty() {
            return Ok(Self::Direct(Client::open(address(config)?)?));
        }
        let sentinels = config.sentinel.nodes.iter().map(|node| {
            let (host, port) = node.rsplit_once(':').unwrap_or((node, "26379"));
            ConnectionAddr::Tcp(host.to_owned(), port.parse().unwrap_or(26379))
        });
        let mut builder = SentinelClientBuilder::new(
            sentinels,
            config.sentinel.master.clone(),
            SentinelServerType::Master,
        )?
        .set_client_to_redis_db(i64::from(config.database))
        .set_client_to_redis_protocol(ProtocolVersion::RESP3);
        if config.ssl {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        }
        if !config.username.is_empty() {
            builder = builder.set_client_to_redis_username(&config.username);
        }
        if !config.password.is_empty() {
            builder = builder.set_client_to_redis_password(config.password.reveal());
        }
        if !config.sentinel.username.is_empty() {
            builder = builder.set_client_to_sentinel_username(&config.sentinel.username);
        }
        if !config.sentinel.password.is_empty() {
            builder = builder.set_client_to_sentinel_password(config.sentinel.password.reveal());
        }
        Ok(Self::Sentinel(tokio::sync::Mutex::new(builder.build()?)))
    }

    async fn dial(
        &self,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, RedisError> {
        match self {
            Self::Direct(client) => {
                client.get_multiplexed_async_connection_with_config(config).await
            }
            Self::Sentinel(client) => {
                client.lock().await.get_async_connection_with_config(config).await
            }
            Self::Cluster { masters, guard } => {
                masters.dial(cluster::slot_of(guard), config, &exists(guard)).await
            }
        }
    }
}

/// `0s` in the configuration is no limit.
fn timeouts(response: Duration, connection: Duration) -> AsyncConnectionConfig {
    let limit = |time: Duration| (!time.is_zero()).then_some(time);
    AsyncConnectionConfig::new()
        .set_response_timeout(limit(response))
        .set_connection_timeout(limit(connection))
}

fn address(config: &config::Redis) -> Result<ConnectionInfo, RedisError> {
    let (host, port) = (config.host.clone(), config.port);
    let address = match config.ssl {
        false => ConnectionAddr::Tcp(host, port),
        true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
    };
    Ok(address.into_connection_info()?.set_redis_settings(settings(config)))
}

/// How we present ourselves to any Redis.
fn settings(config: &config::Redis) -> RedisConnectionInfo {
    let mut settings = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_db(i64::from(config.database));
    if !config.username.is_empty() {
        settings = settings.set_username(&config.username);
    }
    if !config.password.is_empty() {
        settings = settings.set_password(config.password.reveal());
    }
    settings
}
