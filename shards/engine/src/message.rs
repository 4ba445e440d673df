//! The Application Message as it is routed: immutable, shared by reference count.

use std::sync::Arc;

/// An Application Message. Cloning it is one reference count.
#[derive(Clone, Debug)]
pub struct Message(pub(crate) Arc<()>);

/// Why a message did not reach a subscriber. Every drop is counted under one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Dropped {
    /// No subscription matched anywhere this shard knows of.
    NoSubscriber,
    /// The session's queue was full (messages or bytes).
    QueueFull,
    /// QoS 0 for a client that does not read fast enough.
    SlowReader,
    /// QoS 0 for a session whose client is away.
    Offline,
    /// The Message Expiry Interval passed before it could be sent.
    Expired,
    /// Larger than the client's Maximum Packet Size [MQTT-3.1.2-25].
    TooLarge,
    /// The session ended with the message still in its queue.
    SessionEnded,
    /// The publisher was not allowed to publish it.
    NotAuthorized,
    /// QoS 0 for a peer on the mesh that is too far behind.
    MeshFull,
}
