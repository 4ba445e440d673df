//! One shard's body: a pinned thread, its ring, its sockets, its place on the mesh.
//!
//! [`start`] runs one glommio executor per core; in each, one task owns a [`Service`] (the
//! engine's `Shard`) and turns its loop: bytes and envelopes in, bytes and envelopes out. The
//! only crate that names glommio and io_uring, and the only one with `unsafe` in it: in `net`
//! (the ring's memory), `wake` (eventfd) and `preflight` (rlimits, the table of descriptors).
//!
//! Read in this order: `node` (start and stop), `driver` (the loop), `net` (the ring), `mesh`
//! (what shards send each other), `stream` (what may lie between a socket and MQTT), then the rest.

mod accept;
mod census;
mod connections;
mod driver;
mod handoff;
mod hub;
mod listener;
mod mesh;
mod net;
mod node;
mod notice;
mod placement;
mod preflight;
mod service;
pub mod stream;
mod tally;
mod unix;
mod wake;

pub use census::AcceptLimits;
pub use hub::{HubHandle, HubSender};
pub use listener::{Address, ListenerConfig};
pub use mesh::BACKLOG_MAX;
pub use node::{Certificates, Node, NodeConfig, ShardFailed, Tuning, start};
pub use notice::Plain;
/// The vocabulary of a [`Service`].
pub use octopus_engine::{
    ConnectionId, Input, Instant, ListenerId, LostCause, OutBuffer, Output, Remote, ShardId,
};
pub use preflight::{StartError, preflight};
pub use service::Service;
