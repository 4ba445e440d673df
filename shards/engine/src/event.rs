//! All that can go into a shard and come out of it.

use std::borrow::Cow;
use std::net::SocketAddr;

use octopus_mqtt::{ReasonCode, Version};

use crate::{Envelope, Message, Peer, ShardId};

/// A moment, in microseconds since the node started. The driver reads the clock once per turn
/// of its loop and passes it in; the engine never asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// The moment `duration` later; saturates.
    pub fn after(self, duration: std::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> std::time::Duration {
        std::time::Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// A Network Connection on one shard. `slot` is small and reused (an index for the driver and
/// the engine alike), `generation` tells two users of one slot apart. Scope: shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    pub slot: u32,
    pub generation: u32,
}

/// Which configured listener accepted a connection; an index into the node's list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u16);

/// Where a connection comes from, as the outermost trusted layer told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    pub listener: ListenerId,
    /// The client's address; `None` on a Unix socket.
    pub address: Option<SocketAddr>,
    /// The identity a verified TLS client certificate carries, if the listener asks for one.
    pub certificate: Option<Box<str>>,
}

/// All that goes in.
#[derive(Debug)]
pub enum Input<'a> {
    /// A connection begins here: accepted by this shard, or handed over by another one, in
    /// which case its unread bytes follow as `Received`.
    Opened { connection: ConnectionId, remote: Remote },
    /// Bytes arrived. The slice is lent for the call only.
    Received { connection: ConnectionId, bytes: &'a [u8] },
    /// The kernel took all bytes of the last `Output::Write`; its buffer comes back for reuse.
    Written { connection: ConnectionId, buffer: OutBuffer },
    /// The connection is gone without our doing. Nothing more comes from it.
    Lost { connection: ConnectionId, cause: LostCause },
    /// Another shard or the hub sent this.
    Envelope { from: Peer, envelope: Envelope },
    /// Nothing happened but time: due timers fire (they do on every other input as well).
    Tick,
    /// The node stops: every client is told (version 5: `reason`) and closed, wills are not
    /// sent, nothing new is accepted.
    Stop { reason: ReasonCode },
}

/// Why a connection went away on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostCause {
    /// The peer closed its end.
    ClosedByPeer,
    /// Reset, time-out or any other error of the socket.
    Error,
    /// A layer below MQTT refused the bytes (TLS, WebSocket, PROXY protocol).
    Layer,
}

/// All that comes out. Drain with [`crate::Shard::poll`] after every input or batch of inputs.
///
/// Order is meaning: what goes to other shards comes before the acknowledgements that promise
/// it.
#[derive(Debug)]
pub enum Output {
    /// Send these bytes; exactly one `Write` per connection is out at a time, until `Written`
    /// brings its buffer back.
    Write { connection: ConnectionId, buffer: OutBuffer },
    /// Stop reading from this connection (back-pressure); what was read already may still come.
    PauseReading { connection: ConnectionId },
    /// Read again.
    ResumeReading { connection: ConnectionId },
    /// Close, after the `Write` that is out (if any) is done or a short time-out has passed.
    /// The engine has forgotten the connection already; no input about it is expected.
    Close { connection: ConnectionId },
    /// Move the socket to the session's home shard with the bytes read so far. The engine has
    /// forgotten the connection already. There it begins with `Opened` and `Received`.
    HandOff { connection: ConnectionId, to: ShardId, unread: Vec<u8> },
    /// Send to another shard or to the hub: in order, never lost, never waited for.
    Send { to: Peer, envelope: Envelope },
    /// Something an operator may want to read.
    Notice(Box<Notice>),
}

/// Bytes for one connection: small packets side by side in `bytes`, large payloads shared by
/// reference and spliced in at their offsets.
#[derive(Debug, Default)]
pub struct OutBuffer {
    /// Encoded bytes, in order.
    pub bytes: Vec<u8>,
    /// `(offset, chunk)`: `chunk` goes out after the first `offset` bytes of `bytes`. Offsets
    /// do not decrease. Empty for small messages.
    pub shared: Vec<(usize, bytes::Bytes)>,
}

impl OutBuffer {
    /// All bytes still to send, shared chunks included.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.shared.iter().map(|(_, chunk)| chunk.len()).sum::<usize>()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.shared.is_empty()
    }

    /// The pieces in sending order, for a vectored write.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        let last = self.shared.last().map_or(0, |(offset, _)| *offset);
        self.shared
            .iter()
            .flat_map(move |(offset, chunk)| {
                let before = &self.bytes[start..*offset];
                start = *offset;
                [before, &chunk[..]]
            })
            .chain(std::iter::once(&self.bytes[last..]))
            .filter(|piece| !piece.is_empty())
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.shared.clear();
    }
}

/// What an operator reads in the log; the driver writes it with its fields.
#[derive(Debug)]
pub enum Notice {
    Connected {
        client: Box<str>,
        address: Option<SocketAddr>,
        listener: ListenerId,
        version: Version,
        user: Option<Box<str>>,
        session_present: bool,
        keep_alive_s: u16,
    },
    Disconnected {
        client: Box<str>,
        address: Option<SocketAddr>,
        reason: DisconnectReason,
    },
    /// A connection ended before it had a session; at most one notice per second and shard.
    Refused {
        client: Option<Box<str>>,
        address: Option<SocketAddr>,
        reason: DisconnectReason,
        /// How many were not told since the last one.
        more: u64,
    },
    /// A message was dropped for this client; at most one notice per second and shard.
    Dropped {
        client: Box<str>,
        message: Message,
        reason: crate::Dropped,
        more: u64,
    },
    /// The memory budget has got fuller or emptier; at most one notice per second and shard.
    Memory {
        level: crate::MemoryLevel,
        /// Bytes used of the shard's budget.
        used: usize,
        budget: usize,
        more: u64,
    },
    /// A client is read later because of its rate, or of its listener's; at most one notice per
    /// second and shard.
    Slowed {
        /// Empty before its CONNECT is through.
        client: Box<str>,
        address: Option<SocketAddr>,
        listener: ListenerId,
        by: SlowedBy,
        more: u64,
    },
}

/// Whose rate a client was ahead of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowedBy {
    Client,
    Listener,
}

/// Why a connection ended, in a form to print.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DisconnectReason {
    /// The client sent DISCONNECT.
    ByClient(ReasonCode),
    /// We ended it, and this is why.
    ByServer(ReasonCode, Cow<'static, str>),
    Lost(LostCause),
}
