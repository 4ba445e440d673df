//! What one shard counts: plain integers, read by asking. Scope: shard.

use crate::event::{ListenerId, SlowedBy};
use crate::latency::{Histogram, Hop};
use crate::memory::MemoryStats;
use crate::message::Dropped;
use crate::refusal::ConnectRefused;
use crate::session::Deliveries;

/// Listeners that are counted each on its own.
pub const LISTENERS_COUNTED: usize = 16;

/// Counters and gauges of one shard. Counters only rise; gauges are named as such.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Gauge: clients with a CONNACK.
    pub connections: u64,
    /// Gauge: those by listener; the last counts every listener from there on.
    pub connections_by_listener: [u64; LISTENERS_COUNTED],
    /// Gauge: sessions, connected or not.
    pub sessions: u64,
    /// Gauge: subscriptions of this shard's sessions, shared ones included.
    pub subscriptions: u64,
    /// Gauge: shared subscriptions among them.
    pub shared_subscriptions: u64,
    /// Gauge: distinct filters of this shard's subscribers.
    pub filters: u64,
    /// Gauge: filters of other shards and nodes known here.
    pub interest: u64,
    /// Gauge: retained messages kept by this shard, and their topic plus payload bytes.
    pub retained: u64,
    pub retained_bytes: u64,
    /// Gauge: QoS 1 and 2 messages sent and not yet acknowledged.
    pub inflight: u64,
    /// Gauge: their topic plus payload bytes.
    pub inflight_bytes: u64,
    /// Gauge: topic plus payload bytes that wait in session queues.
    pub queue_bytes: u64,
    /// Network Connections that began on this shard, or were handed over to it.
    pub connections_opened: u64,
    pub connects_accepted: u64,
    /// Connections that ended before they had a session, by [`ConnectRefused`].
    pub connects_refused: [u64; ConnectRefused::ALL.len()],
    /// Connections taken over by a newer one with the same Client Identifier.
    pub takeovers: u64,
    /// Connections refused because their Client Identifier was connected
    /// ([`crate::DuplicateLogin::RefuseNewer`]).
    pub duplicates_refused: u64,
    /// Entries of SUBSCRIBE that the client's rules did not allow. A denied PUBLISH is in the
    /// ledger, as dropped.
    pub subscribes_denied: u64,
    /// Subscriptions ended because the client's rules changed.
    pub subscriptions_revoked: u64,
    /// Times a client was read later because it was above its message or byte rate.
    pub reads_slowed: u64,
    /// Times a client was read later because its listener was above its rate, by listener as in
    /// `connections_by_listener`.
    pub reads_slowed_by_listener: [u64; LISTENERS_COUNTED],
    /// Sessions that ended because their expiry interval was over.
    pub sessions_expired: u64,
    /// All control packets and bytes, in and out; out as soon as a write has begun.
    pub packets_received: u64,
    pub packets_sent: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// PUBLISH packets by QoS, in from clients and out to clients (retransmissions included).
    pub publish_received: [u64; 3],
    pub publish_sent: [u64; 3],
    /// Payload bytes of those.
    pub publish_bytes_received: u64,
    pub publish_bytes_sent: u64,
    pub wills_sent: u64,
    pub ledger: Ledger,
    pub memory: MemoryStats,
    /// Payload bytes of dropped messages, by [`Dropped`].
    pub dropped_bytes: [u64; Dropped::ALL.len()],
    /// From receipt to the end of the write to a subscriber, by [`Hop`]; sampled.
    pub latency: [Histogram; Hop::ALL.len()],
    /// What the driver around the shard counts; zero where there is none.
    pub driver: DriverStats,
}

impl Stats {
    pub(crate) fn connected(&mut self, listener: ListenerId) {
        self.connections += 1;
        self.connections_by_listener[place(listener)] += 1;
        self.connects_accepted += 1;
    }

    pub(crate) fn slowed(&mut self, listener: ListenerId, by: SlowedBy) {
        match by {
            SlowedBy::Client => self.reads_slowed += 1,
            SlowedBy::Listener => self.reads_slowed_by_listener[place(listener)] += 1,
        }
    }

    pub(crate) fn parted(&mut self, listener: ListenerId) {
        self.connections -= 1;
        self.connections_by_listener[place(listener)] -= 1;
    }
}

fn place(listener: ListenerId) -> usize {
    usize::from(listener.0).min(LISTENERS_COUNTED - 1)
}

/// What the driver of a shard counts. The driver fills it in as the answer passes by.
#[derive(Clone, Debug, Default)]
pub struct DriverStats {
    /// Turns of the loop, by how long each took from waking up to going to sleep: the time
    /// that nobody else on this shard was served.
    pub turns: Histogram,
    /// Gauge: the longest turn of the last half to full minute, microseconds.
    pub stall_max_us: u64,
    /// Gauge: sockets, those of clients without a CONNACK and closing ones included.
    pub sockets: u64,
    pub accepted: u64,
    /// Connections closed at once because the node has as many as it may.
    pub accept_refused: u64,
    /// Connections that ended in the layers below MQTT, by [`LayerRefusal`].
    pub layer_refused: [u64; LayerRefusal::ALL.len()],
    /// Accepts that failed, for want of descriptors or memory.
    pub accept_errors: u64,
    /// Times accepting paused because connections came faster than they may.
    pub accepts_paced: u64,
    /// Gauge: requests under way on the ring.
    pub ring_depth: u64,
    /// Gauge: envelopes that wait for the peer that is furthest behind.
    pub mesh_backlog: u64,
    /// Turns in which clients were not read because a peer was too far behind.
    pub pressure_turns: u64,
}

/// Why a connection ended below MQTT: what a layer refused, or which was not through in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerRefusal {
    /// No PROXY protocol header where there must be one, or a malformed one.
    ProxyHeader,
    /// A PROXY protocol listener was reached by who may not tell addresses.
    UntrustedProxy,
    /// Not TLS, an older version, an alert.
    Tls,
    /// No client certificate, or one that does not hold.
    Certificate,
    /// A client certificate on the revocation list.
    Revoked,
    /// Not the HTTP request that begins a WebSocket for MQTT.
    Upgrade,
    /// A WebSocket frame against the rules.
    Frame,
    /// The peer asks and does not read the answers.
    Unread,
    ProxyLate,
    TlsLate,
    UpgradeLate,
}

impl LayerRefusal {
    pub const ALL: &'static [Self] = &[
        Self::ProxyHeader,
        Self::UntrustedProxy,
        Self::Tls,
        Self::Certificate,
        Self::Revoked,
        Self::Upgrade,
        Self::Frame,
        Self::Unread,
        Self::ProxyLate,
        Self::TlsLate,
        Self::UpgradeLate,
    ];

    /// The label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::ProxyHeader => "proxy_header",
            Self::UntrustedProxy => "untrusted_proxy",
            Self::Tls => "tls",
            Self::Certificate => "certificate",
            Self::Revoked => "certificate_revoked",
            Self::Upgrade => "websocket_upgrade",
            Self::Frame => "websocket_frame",
            Self::Unread => "answers_unread",
            Self::ProxyLate => "proxy_header_late",
            Self::TlsLate => "tls_late",
            Self::UpgradeLate => "websocket_upgrade_late",
        }
    }
}

impl Stats {
    /// What a session had to deliver is no longer this shard's.
    pub(crate) fn let_go(&mut self, deliveries: &Deliveries) {
        self.inflight -= deliveries.inflight.len() as u64;
        self.inflight_bytes -= deliveries.inflight.bytes() as u64;
        self.queue_bytes -= deliveries.queue_bytes as u64;
        self.shared_subscriptions -= deliveries.shared.len() as u64;
    }
}

/// Invariant 5: `owed = delivered + queued + forwarded + dropped` on every shard at every
/// moment. One entry is one message to one destination (a session, a shared group or a peer).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Deliveries this shard took upon itself.
    pub owed: u64,
    /// QoS 0 written to the client's buffer; QoS 1 and 2 acknowledged by the client.
    pub delivered: u64,
    /// Gauge: waiting in a queue, or sent and not yet acknowledged.
    pub queued: u64,
    /// Handed to another shard or to the hub, which owes it from there.
    pub forwarded: u64,
    pub dropped: [u64; Dropped::ALL.len()],
}

impl Ledger {
    /// Whether the books balance.
    pub fn holds(&self) -> bool {
        self.owed == self.delivered + self.queued + self.forwarded + self.dropped_total()
    }

    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    pub fn dropped_for(&self, reason: Dropped) -> u64 {
        self.dropped[reason as usize]
    }

    /// A new debt that is settled at once.
    pub(crate) fn deliver(&mut self) {
        self.deliver_all(1);
    }

    pub(crate) fn deliver_all(&mut self, count: u64) {
        self.owed += count;
        self.delivered += count;
    }

    pub(crate) fn forward(&mut self) {
        self.forward_all(1);
    }

    pub(crate) fn forward_all(&mut self, count: u64) {
        self.owed += count;
        self.forwarded += count;
    }

    pub(crate) fn drop(&mut self, reason: Dropped) {
        self.owed += 1;
        self.dropped[reason as usize] += 1;
    }

    /// A new debt that waits.
    pub(crate) fn queue(&mut self) {
        self.queue_all(1);
    }

    pub(crate) fn queue_all(&mut self, count: u64) {
        self.owed += count;
        self.queued += count;
    }

    /// A waiting message was acknowledged.
    pub(crate) fn settle(&mut self) {
        self.settle_all(1);
    }

    pub(crate) fn settle_all(&mut self, count: u64) {
        self.queued -= count;
        self.delivered += count;
    }

    /// A waiting message was given up.
    pub(crate) fn give_up(&mut self, reason: Dropped) {
        self.queued -= 1;
        self.dropped[reason as usize] += 1;
    }

    /// A waiting message leaves to be booked anew elsewhere.
    pub(crate) fn unqueue(&mut self) {
        self.queued -= 1;
        self.owed -= 1;
    }
}
