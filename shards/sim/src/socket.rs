//! A socket as two byte pipes in memory, with a client end that may be slow.

use octopus_engine::{ConnectionId, Instant, OutBuffer, ShardId};

/// A socket of the node: its index in the order of opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub usize);

/// How the client's end takes what the node writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Intake {
    /// All bytes of a `Write` at once.
    #[default]
    AtOnce,
    /// So many bytes in each step.
    Slow(usize),
    /// Nothing.
    Stopped,
}

/// Scope: node; a socket may move between shards once.
#[derive(Debug)]
pub(crate) struct Socket {
    /// The shard and connection it belongs to; `None` once either end is done with it.
    pub(crate) at: Option<(ShardId, ConnectionId)>,
    /// Sent by the client, not yet read by the shard.
    pub(crate) inbound: Vec<u8>,
    /// Taken from the node, not yet looked at by the client.
    pub(crate) outbound: Vec<u8>,
    /// The `Write` that is out and how many of its bytes the client took.
    pub(crate) writing: Option<Writing>,
    pub(crate) is_paused: bool,
    /// The engine asked to close: when it happens even if the client takes nothing.
    pub(crate) closes_by: Option<Instant>,
    pub(crate) is_closed: bool,
    pub(crate) intake: Intake,
}

#[derive(Debug)]
pub(crate) struct Writing {
    pub(crate) buffer: OutBuffer,
    pub(crate) bytes: Vec<u8>,
    pub(crate) taken: usize,
}

impl Socket {
    pub(crate) fn new(shard: ShardId, connection: ConnectionId) -> Self {
        Self {
            at: Some((shard, connection)),
            inbound: Vec::new(),
            outbound: Vec::new(),
            writing: None,
            is_paused: false,
            closes_by: None,
            is_closed: false,
            intake: Intake::AtOnce,
        }
    }

    /// Whether the shard may read from it now.
    pub(crate) fn is_readable(&self) -> bool {
        self.at.is_some() && self.closes_by.is_none() && !self.is_paused && !self.inbound.is_empty()
    }

    /// Whether the client may take bytes now.
    pub(crate) fn is_writable(&self) -> bool {
        self.writing.is_some() && self.intake != Intake::Stopped && !self.is_closed
    }

    /// The client takes up to `count` bytes of the `Write` that is out; its buffer when all
    /// are taken.
    pub(crate) fn take(&mut self, count: usize) -> Option<OutBuffer> {
        let writing = self.writing.as_mut()?;
        let end = writing.bytes.len().min(writing.taken.saturating_add(count));
        self.outbound.extend_from_slice(&writing.bytes[writing.taken..end]);
        writing.taken = end;
        if end < writing.bytes.len() {
            return None;
        }
        self.writing.take().map(|writing| writing.buffer)
    }
}
