//! One shard: takes inputs, gives outputs. The only dispatch.
//!
//! `handle` runs to its end, never waits, and never panics on a client's bytes. What follows
//! from an input is done before the next one: there is no hidden work but what the outputs
//! and timers say. Handlers of client packets are in `handle/`, one file per packet.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

use bytes::Bytes;
use hashbrown::HashMap;
use octopus_mqtt::{QoS, ReasonCode};

use crate::barrier::Barriers;
use crate::connection::{Connection, Connections, Pause, Phase};
use crate::durable::{Recorded, Recorder};
use crate::envelope::{Envelope, Peer, SessionRef, ShardId};
use crate::estate::Estates;
use crate::event::{ConnectionId, Input, Instant, LostCause, Notice, OutBuffer, Output, Remote};
use crate::group::Groups;
use crate::interest::{Interest, PeerSet};
use crate::latency::Sampler;
use crate::limits::{Limits, Rate};
use crate::memory::Memory;
use crate::message::Message;
use crate::query::Answer;
use crate::quiet::Lines;
use crate::rate::ListenerMeters;
use crate::receipt::Receipts;
use crate::recent::Recent;
use crate::reconfigure::Editions;
use crate::refusal::Refusal;
use crate::retained::Retained;
use crate::route::Origin;
use crate::session::Sessions;
use crate::stats::Stats;
use crate::subscriptions::{Grant, Subscriber, Subscriptions};
use crate::template::Templates;
use crate::timer::Wheel;
use crate::trace::Trace;

/// What a shard is told when it is made. Scope: shard.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    pub id: ShardId,
    /// Shards of this node, at least 1.
    pub shards: u16,
    pub limits: Limits,
    /// What all clients of a listener may send to this shard, by listener; listeners behind the
    /// end may send any number.
    pub listener_rates: Vec<Rate>,
    /// Seeds hashing and generated Client Identifiers. The same on every shard of a node,
    /// because it decides which shard is a client's home.
    pub seed: u64,
    /// Ask the hub before a client may connect. The hub may want that later as well.
    pub authenticate: bool,
    /// Where version 5 clients are sent when the node stops (Server Reference).
    pub server_reference: Option<Box<str>>,
    /// What clients that ask for Response Information get: the beginning of the topics they
    /// may use for responses.
    pub response_information: Option<Box<str>>,
    /// How a shared group picks the member that gets a message.
    pub shared_pick: crate::group::Pick,
    /// The node is one of a group: the hub is told what this shard's clients want and publish,
    /// messages of QoS 1 and 2 are acknowledged when all who must keep them have them, and
    /// sessions are claimed.
    pub cluster: bool,
    /// In a group: what of the sessions is told the hub as it changes.
    pub recorded: Recorded,
}

impl ShardConfig {
    /// A shard with default limits that lets everybody in.
    pub fn new(id: ShardId, shards: u16, seed: u64) -> Self {
        Self {
            id,
            shards,
            limits: Limits::default(),
            listener_rates: Vec::new(),
            seed,
            authenticate: false,
            server_reference: None,
            response_information: None,
            shared_pick: crate::group::Pick::default(),
            cluster: false,
            recorded: Recorded::default(),
        }
    }
}

/// Buffers kept for the next connection that writes.
const SPARE_COUNT_MAX: usize = 1024;
/// Larger buffers are given back to the allocator.
const SPARE_BYTES_MAX: usize = 64 << 10;

/// One shard's whole state. See [`Input`] and [`Output`] for the contract: handle one input,
/// then drain `poll` (or handle a batch, then drain: order is kept).
#[derive(Debug)]
pub struct Shard {
    pub(crate) config: ShardConfig,
    pub(crate) now: Instant,
    pub(crate) connections: Connections,
    pub(crate) sessions: Sessions,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) interest: Interest,
    pub(crate) retained: Retained,
    pub(crate) groups: Groups,
    pub(crate) barriers: Barriers,
    /// Sessions that are another node's by now, by the epoch they had here.
    pub(crate) passing: HashMap<u64, SessionRef>,
    pub(crate) receipts: Receipts,
    pub(crate) timers: Wheel<Timer>,
    pub(crate) stats: Stats,
    pub(crate) latency: Sampler,
    pub(crate) recent: Recent,
    pub(crate) trace: Trace,
    pub(crate) random: Random,
    outputs: VecDeque<Output>,
    /// Connections with bytes to write, or to close.
    pub(crate) dirty: Vec<ConnectionId>,
    pub(crate) spare: Vec<Vec<u8>>,
    is_stopping: bool,
    pub(crate) recorder: Recorder,
    pub(crate) estates: Estates,
    /// Past this moment the node's sessions may be another's.
    pub(crate) lease_until: Instant,
    pub(crate) is_fenced: bool,
    pub(crate) quiet: Lines,
    pub(crate) memory: Memory,
    pub(crate) editions: Editions,
    pub(crate) listener_meters: ListenerMeters,
    // Scratch memory, empty between inputs.
    /// The packet that is being handled, if it has memory of its own that may be kept.
    pub(crate) packet: Option<Bytes>,
    pub(crate) templates: Templates,
    pub(crate) matches: Vec<(Subscriber, Grant)>,
    pub(crate) peers: PeerSet,
    due: Vec<Timer>,
}

/// What a timer is for. Owners check on firing whether it still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    ConnectTimeout(ConnectionId),
    KeepAlive(ConnectionId),
    /// Close although the last bytes did not go out.
    Linger(ConnectionId),
    SessionEnd(SessionRef),
    Will(SessionRef),
    /// Read a client again that was ahead of its rate, or whose listener was.
    Rate(ConnectionId),
    /// Read a publisher that is held for want of memory.
    Memory(ConnectionId),
    /// A session that moves has had its time.
    Handover(SessionRef),
    /// Go on with a retained replay that used up its share of a turn.
    Replay(SessionRef),
}

/// Deterministic randomness (splitmix64), seeded from outside.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The shard on which this key (a Client Identifier, a topic, a shared group) is at home.
pub fn home_shard(key: &str, shards: u16, seed: u64) -> ShardId {
    if shards == 1 {
        return ShardId(0);
    }
    let hasher = foldhash::fast::FixedState::with_seed(seed);
    let hash = std::hash::BuildHasher::hash_one(&hasher, key);
    ShardId(((u128::from(hash) * u128::from(shards)) >> 64) as u16)
}

/// What [`crate::Pick::Publisher`] goes by: the same on every shard, whatever the seed.
pub(crate) fn publisher_hash(client_id: &str) -> u64 {
    let hasher = foldhash::fast::FixedState::with_seed(0);
    std::hash::BuildHasher::hash_one(&hasher, client_id)
}

impl Shard {
    pub fn new(config: ShardConfig) -> Self {
        let seed = config.seed;
        Self {
            now: Instant::default(),
            connections: Connections::default(),
            sessions: Sessions::new(seed),
            subscriptions: Subscriptions::new(seed),
            interest: Interest::new(seed),
            retained: Retained::new(),
            groups: Groups::default(),
            barriers: Barriers::default(),
            passing: HashMap::new(),
            receipts: Receipts::default(),
            timers: Wheel::new(Instant::default()),
            stats: Stats::default(),
            latency: Sampler::default(),
            recent: Recent::default(),
            trace: Trace::default(),
            random: Random(seed ^ (u64::from(config.id.0) << 48)),
            outputs: VecDeque::new(),
            dirty: Vec::new(),
            spare: Vec::new(),
            is_stopping: false,
            recorder: Recorder::default(),
            estates: Estates::default(),
            lease_until: if config.cluster { Instant(0) } else { Instant(u64::MAX) },
            is_fenced: config.cluster,
            quiet: Lines::default(),
            memory: Memory::new(config.shards),
            editions: Editions::new(&config.limits),
            listener_meters: ListenerMeters::new(&config.listener_rates),
            packet: None,
            templates: Templates::default(),
            matches: Vec::new(),
            peers: PeerSet::default(),
            due: Vec::new(),
            config,
        }
    }

    /// Takes one input. If time has passed, or may have, due timers fire first.
    pub fn handle(&mut self, input: Input<'_>, now: Instant) {
        if now > self.now || matches!(input, Input::Tick) {
            self.pass_time(now);
        }
        match input {
            Input::Opened { connection, remote } => self.opened(connection, remote),
            Input::Received { connection, bytes } => self.received(connection, bytes),
            Input::Written { connection, buffer } => self.written(connection, buffer),
            Input::Lost { connection, cause } => self.lost(connection, cause),
            Input::Envelope { from, envelope } => self.envelope(from, envelope),
            Input::Tick => {}
            Input::Stop { reason } => self.stop(reason),
        }
        self.look_at_memory();
    }

    /// The next thing to do outside, until `None`. What goes to peers comes before what
    /// clients are told.
    pub fn poll(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        while let Some(id) = self.dirty.pop() {
            if let Some(output) = self.write_or_close(id) {
                return Some(output);
            }
        }
        self.outputs.pop_front()
    }

    /// When to call `handle(Input::Tick, …)` at the latest; `None` if no timer is armed.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// What this shard counted so far. Cost: that of the sessions that have just left it.
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats.clone();
        stats.sessions = self.sessions.len() as u64;
        // A group whose home is here subscribes like a session; its members count instead.
        let others = self.groups.count() + self.gone_subscriptions();
        let own = self.subscriptions.subscription_count() - others;
        stats.subscriptions = own as u64 + stats.shared_subscriptions;
        stats.filters = self.subscriptions.filter_count() as u64;
        stats.interest = self.interest.filter_count() as u64;
        stats.retained = self.retained.count() as u64;
        stats.retained_bytes = self.retained.bytes() as u64;
        self.tell_memory(&mut stats.memory);
        stats
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.config.limits
    }

    pub(crate) fn is_home_of(&self, key: &str) -> bool {
        self.home_of(key) == self.config.id
    }

    pub(crate) fn home_of(&self, key: &str) -> ShardId {
        home_shard(key, self.config.shards, self.config.seed)
    }

    pub(crate) fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(crate) fn send(&mut self, to: ShardId, envelope: Envelope) {
        self.push(Output::Send { to: Peer::Shard(to), envelope });
    }

    /// Every other shard of this node.
    pub(crate) fn other_shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        let own = self.config.id;
        (0..self.config.shards).map(ShardId).filter(move |&shard| shard != own)
    }

    // --- connections ---

    fn opened(&mut self, id: ConnectionId, remote: Remote) {
        let mut connection = Connection::new(id, remote, self.now);
        connection.edition = self.editions.current();
        self.connections.insert(connection);
        self.stats.connections_opened += 1;
        if self.is_stopping {
            return self.close(id);
        }
        let deadline = self.now.after(self.limits().connect_timeout);
        self.timers.arm(deadline, Timer::ConnectTimeout(id));
    }

    fn written(&mut self, id: ConnectionId, mut buffer: OutBuffer) {
        // Comes back empty from the ring, so its bytes were counted when it was handed out.
        buffer.clear();
        if self.spare.len() < SPARE_COUNT_MAX && buffer.bytes.capacity() <= SPARE_BYTES_MAX {
            self.spare.push(buffer.bytes);
        }
        if let Some((hop, time)) = self.latency.written(id, self.now) {
            self.stats.latency[hop as usize].record(time);
        }
        let half = self.limits().out_bytes_max / 2;
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.writing = None;
        let is_below_half = connection.out_len() <= half;
        let session = connection.session();
        if is_below_half && connection.resume(Pause::SlowReader) {
            self.push(Output::ResumeReading { connection: id });
        }
        if let Some(session) = session.filter(|_| is_below_half) {
            self.pump(session);
        }
        if self.config.limits.memory_bytes_max > 0 {
            self.connections.recount(id);
        }
        self.touch(id);
    }

    fn lost(&mut self, id: ConnectionId, cause: LostCause) {
        self.forget(id, crate::event::DisconnectReason::Lost(cause));
    }

    /// Lists the connection for the next drain of `poll` if it has something to write.
    pub(crate) fn touch(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let is_closing = matches!(connection.phase, Phase::Closing);
        if !connection.is_dirty && (is_closing || !connection.out.is_empty()) {
            connection.is_dirty = true;
            self.dirty.push(id);
        }
    }

    /// The buffer packets for this connection are encoded into; `None` if it is gone.
    pub(crate) fn out(&mut self, id: ConnectionId) -> Option<&mut Vec<u8>> {
        let connection = self.connections.get_mut(id)?;
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(id);
        }
        self.stats.packets_sent += 1;
        Some(lend(connection, &mut self.spare))
    }

    fn write_or_close(&mut self, id: ConnectionId) -> Option<Output> {
        if self.config.limits.memory_bytes_max > 0 {
            self.connections.recount(id);
        }
        let connection = self.connections.get_mut(id)?;
        connection.is_dirty = false;
        if connection.writing.is_some() {
            self.pause_slow_reader(id);
            return None;
        }
        let is_closing = matches!(connection.phase, Phase::Closing);
        if connection.out.is_empty() {
            if !is_closing {
                return None;
            }
            self.connections.remove(id);
            return Some(Output::Close { connection: id });
        }
        let buffer = std::mem::take(&mut connection.out);
        connection.writing = NonZeroUsize::new(buffer.bytes.len() + connection.shared_len);
        connection.shared_len = 0;
        self.latency.writing(id);
        if is_closing {
            self.connections.remove(id);
            self.push(Output::Close { connection: id });
        } else {
            self.pause_slow_reader(id);
        }
        self.stats.bytes_sent += buffer.len() as u64;
        Some(Output::Write { connection: id, buffer })
    }

    fn pause_slow_reader(&mut self, id: ConnectionId) {
        let limit = self.limits().out_bytes_max;
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.out_len() > limit && connection.pause(Pause::SlowReader) {
            self.push(Output::PauseReading { connection: id });
        }
    }

    /// Closes when the bytes already encoded are out, or after a short while.
    pub(crate) fn close(&mut self, id: ConnectionId) {
        const LINGER: std::time::Duration = std::time::Duration::from_secs(2);
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.phase = Phase::Closing;
        connection.inbox = Vec::new();
        if connection.writing.is_some() {
            self.timers.arm(self.now.after(LINGER), Timer::Linger(id));
        }
        self.touch(id);
    }

    fn stop(&mut self, reason: ReasonCode) {
        self.is_stopping = true;
        let refusal = match self.config.server_reference {
            Some(_) => Refusal::Told(ReasonCode::UseAnotherServer),
            None => Refusal::Told(reason),
        };
        for id in self.connections.ids() {
            self.keep_will_unsent(id);
            self.refuse(id, refusal);
        }
    }

    // --- time ---

    fn pass_time(&mut self, now: Instant) {
        self.now = self.now.max(now);
        if self.lease_until < self.now && !self.is_fenced {
            self.fence_off();
        }
        self.fire_due_timers();
    }

    fn fire_due_timers(&mut self) {
        if self.timers.next().is_none_or(|at| at > self.now) {
            return;
        }
        let mut due = std::mem::take(&mut self.due);
        self.timers.expire(self.now, &mut due);
        for timer in due.drain(..) {
            self.fire(timer);
        }
        self.due = due;
    }

    fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::ConnectTimeout(id) => match self.connections.get(id).map(|c| &c.phase) {
                None | Some(Phase::Closing) => {}
                Some(Phase::Connected { .. }) => self.check_keep_alive(id),
                Some(_) => self.refuse(id, Refusal::ConnectTimeout),
            },
            Timer::KeepAlive(id) => self.check_keep_alive(id),
            Timer::Linger(id) => {
                let is_closing = |c: &Connection| matches!(c.phase, Phase::Closing);
                if self.connections.get(id).is_some_and(is_closing) {
                    self.connections.remove(id);
                    self.push(Output::Close { connection: id });
                }
            }
            Timer::SessionEnd(session) => self.session_end_due(session),
            Timer::Will(session) => self.will_due(session),
            Timer::Rate(id) => self.resume_rate(id),
            Timer::Memory(id) => self.read_held(id),
            Timer::Handover(session) => self.handover_due(session),
            Timer::Replay(session) => self.pump(session.id),
        }
    }

    /// Ends the connection if nothing came for 1.5 times Keep Alive [MQTT-3.1.2-22].
    fn check_keep_alive(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.session().is_none() || connection.keep_alive_s == 0 {
            return;
        }
        let deadline = connection.last_received.after(keep_alive_grace(connection));
        if deadline <= self.now {
            self.refuse(id, Refusal::KeepAliveTimeout);
        } else {
            self.timers.arm(deadline, Timer::KeepAlive(id));
        }
    }

    /// Watches the Keep Alive of a client that gets its CONNACK. Its connect time-out is armed
    /// still and will look after it, so only a shorter Keep Alive needs a timer now.
    pub(crate) fn arm_keep_alive(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if keep_alive_grace(connection) < self.limits().connect_timeout {
            self.check_keep_alive(id);
        }
    }

    // --- the mesh ---

    fn envelope(&mut self, from: Peer, envelope: Envelope) {
        match (envelope, from) {
            (Envelope::Publish(message), Peer::Shard(_)) => {
                self.route_message(&message, Origin::Shard);
            }
            (Envelope::Publish(message), Peer::Hub) => {
                self.recorder.is_ahead |= message.qos() == QoS::ExactlyOnce;
                self.route_message(&message, Origin::Node);
            }
            (Envelope::PublishRun(run), Peer::Shard(_)) => self.take_run(&run),
            (Envelope::PublishFor { message, receipt }, Peer::Shard(_)) => {
                self.route_for(&message, receipt);
            }
            (Envelope::Accepted { receipt }, _) => self.confirmed(receipt, None),
            (Envelope::Refused { receipt, reason }, _) => self.confirmed(receipt, Some(reason)),
            (Envelope::NodeInterest { node, filter, wanted }, Peer::Hub) => {
                self.take_node_interest(node, &filter, wanted);
            }
            (Envelope::NodeGone { node }, Peer::Hub) => self.forget_node(node),
            (Envelope::NodeGroup { node, key, presence }, Peer::Hub) => {
                self.take_node_group(node, &key, presence);
            }
            (Envelope::GroupMessage { key, message }, Peer::Hub) => {
                self.group_message(&key, &message);
            }
            (Envelope::RetainHere(message), Peer::Hub) => self.retain_at_home(message),
            (Envelope::Inject(message), _) => self.inject(&message.taken_in(self.now)),
            (Envelope::Local(message), _) => self.take_local(message),
            (Envelope::Interest { filter, wanted }, Peer::Shard(shard)) => {
                self.take_interest(&filter, wanted, shard.0);
            }
            // What came before is taken in when it is also safe.
            (Envelope::Fence { barrier }, Peer::Hub) => self.fence_hub(barrier),
            (Envelope::Trimmed { barrier }, Peer::Hub) => self.trimmed(barrier),
            (Envelope::Fence { barrier }, peer) => {
                self.push(Output::Send { to: peer, envelope: Envelope::Fenced { barrier } });
            }
            (Envelope::Memory { level }, Peer::Shard(shard)) => {
                self.take_memory_level(shard, level);
            }
            (Envelope::Fenced { barrier }, _) => self.fenced(barrier),
            (Envelope::Retain(message), _) => self.retain(message),
            (Envelope::RetainedQuery(query), peer) => self.answer_retained(peer, &query),
            (Envelope::RetainedFound(found), _) => self.retained_found(*found),
            (Envelope::Group(envelope), Peer::Shard(shard)) => self.group_event(shard, *envelope),
            (Envelope::Authenticated(answer), Peer::Hub) => self.authenticated(*answer),
            (Envelope::AskHub, Peer::Hub) => self.ask_from_now_on(),
            (Envelope::Claimed(claimed), Peer::Hub) => self.claimed(*claimed),
            (Envelope::ClaimRefused { connection, reason }, Peer::Hub) => {
                self.claim_refused(connection, reason);
            }
            (Envelope::Evict { client_id, epoch }, Peer::Hub) => self.evict(client_id, epoch),
            (Envelope::Adopt(adopted), Peer::Hub) => {
                self.adopt(&adopted.client_id, adopted.epoch, *adopted.record);
            }
            (Envelope::Pass { client_id, items, is_all }, Peer::Hub) => {
                self.passed_on(&client_id, items, is_all);
            }
            (Envelope::LeftBegins { node, round }, Peer::Hub) => self.begin_round(node, round),
            (Envelope::Left { round, message }, Peer::Hub) => self.inherit(round, &message),
            (Envelope::LeftEnds { round }, Peer::Hub) => self.end_round(round),
            (Envelope::Known { client_id, epoch }, Peer::Hub) => self.known(&client_id, epoch),
            (Envelope::Disown { client_id, epoch }, Peer::Hub) => self.disown(&client_id, epoch),
            (Envelope::Recorded { count, refused }, Peer::Hub) => self.recorded(count, &refused),
            (Envelope::Restate { round }, Peer::Hub) => self.restate(round),
            (Envelope::Lease { until }, Peer::Hub) => self.renew_lease(until),
            (Envelope::Limits(new), Peer::Hub) => self.reconfigure(*new),
            (Envelope::Kick { client, reason }, _) => self.kick(&client, reason),
            (Envelope::StatsWanted, peer) => {
                let envelope = Envelope::Stats(Box::new(self.stats()));
                self.push(Output::Send { to: peer, envelope });
            }
            (Envelope::Query(query), peer) => {
                let answer = Answer { id: query.id, found: self.answer(query.ask) };
                let envelope = Envelope::Answer(Box::new(answer));
                self.push(Output::Send { to: peer, envelope });
            }
            (envelope, from) => unreachable!("{from:?} does not send {envelope:?}"),
        }
    }

    /// Routes a message of the node's own, and keeps it if it is to be retained.
    fn inject(&mut self, message: &Message) {
        if message.retain() {
            self.retain_everywhere(message.clone());
        }
        self.route_message(message, Origin::Client);
    }

    /// Delivers a message that concerns this node alone to this shard's subscribers.
    fn take_local(&mut self, message: Message) {
        self.route_message(&message, Origin::Node);
        if message.retain() && self.is_home_of(message.topic().as_str()) {
            self.retain(message);
        }
    }

    fn kick(&mut self, client: &str, reason: ReasonCode) {
        let session = self.sessions.find(client).and_then(|id| self.sessions.get(id));
        if let Some(connection) = session.and_then(|session| session.connection) {
            self.refuse(connection, Refusal::Told(reason));
        }
    }

    pub(crate) fn notice(&mut self, notice: Notice) {
        self.push(Output::Notice(Box::new(notice)));
    }
}

/// The buffer of a connection, with memory of a spare one if it has none.
pub(crate) fn lend<'c>(
    connection: &'c mut Connection,
    spare: &mut Vec<Vec<u8>>,
) -> &'c mut Vec<u8> {
    if connection.out.bytes.capacity() == 0
        && let Some(bytes) = spare.pop()
    {
        connection.out.bytes = bytes;
    }
    &mut connection.out.bytes
}

/// 1.5 times Keep Alive [MQTT-3.1.2-22].
fn keep_alive_grace(connection: &Connection) -> std::time::Duration {
    std::time::Duration::from_millis(u64::from(connection.keep_alive_s) * 1500)
}
