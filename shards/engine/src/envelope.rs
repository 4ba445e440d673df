//! All that travels on the mesh: between shards, and between a shard and the hub.

use crate::Message;

/// One shard of this node, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// Who is at the other end of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    Shard(ShardId),
    /// The control plane: bridge, store, authentication, statistics.
    Hub,
}

/// What one peer tells another. Delivered in order per pair of peers, exactly once.
#[derive(Clone, Debug)]
pub enum Envelope {
    /// A message for this peer's own subscribers.
    Publish(Message),
}
