//! The hub's end of the mesh: for the control plane, from a plain thread or an async runtime.

use octopus_engine::{Envelope, Peer, ShardId};

use crate::census::AcceptLimits;
use crate::driver::{HubParcel, Parcel};
use crate::mesh::{Inbox, Sender};

/// Takes what shards send to the hub, and sends to shards. Scope: node.
pub struct HubHandle {
    sender: HubSender,
    inbox: Inbox<HubParcel>,
}

/// Sends to shards as the hub. Clones push to the same inboxes; order holds per clone.
#[derive(Clone)]
pub struct HubSender {
    shards: Vec<Sender<Parcel>>,
    origin: std::time::Instant,
}

impl HubHandle {
    pub(crate) fn new(
        shards: Vec<Sender<Parcel>>,
        inbox: Inbox<HubParcel>,
        origin: std::time::Instant,
    ) -> Self {
        Self { sender: HubSender { shards, origin }, inbox }
    }

    /// A sender for another task or thread.
    pub fn sender(&self) -> HubSender {
        self.sender.clone()
    }

    /// Sends `envelopes` to one shard, in order. Never waits.
    pub fn send(&self, to: ShardId, envelopes: Vec<Envelope>) {
        self.sender.send(to, envelopes);
    }

    /// Sends `envelopes` to every shard, in order. Never waits.
    pub fn broadcast(&self, envelopes: &[Envelope]) {
        self.sender.broadcast(envelopes);
    }

    /// What a shard sent, as soon as there is something; `None` when all shards have ended.
    /// Loses nothing when the future is dropped.
    pub async fn recv(&self) -> Option<(ShardId, Vec<Envelope>)> {
        self.inbox.take_async().await
    }

    /// As [`Self::recv`], for a plain thread: blocks.
    pub fn recv_blocking(&self) -> Option<(ShardId, Vec<Envelope>)> {
        self.inbox.take()
    }

    /// What a shard sent, if something is there.
    pub fn try_recv(&self) -> Option<(ShardId, Vec<Envelope>)> {
        self.inbox.try_take()
    }
}

impl HubSender {
    /// This moment, as the shards reckon it.
    pub fn now(&self) -> octopus_engine::Instant {
        let elapsed = self.origin.elapsed().as_micros();
        octopus_engine::Instant(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    /// Sends `envelopes` to one shard, in order. Never waits; the hub looks at
    /// [`Self::backlog_count`] when it has a source it can slow down.
    pub fn send(&self, to: ShardId, envelopes: Vec<Envelope>) {
        if let Some(shard) = self.shards.get(usize::from(to.0)) {
            shard.push(envelopes.len(), Parcel::Envelopes { from: Peer::Hub, envelopes });
        }
    }

    /// Sends `envelopes` to every shard, in order. Never waits.
    pub fn broadcast(&self, envelopes: &[Envelope]) {
        for shard in &self.shards {
            let envelopes = envelopes.to_vec();
            shard.push(envelopes.len(), Parcel::Envelopes { from: Peer::Hub, envelopes });
        }
    }

    /// Puts other bounds on accepting in force, on every shard. Who is connected stays.
    pub fn limit_accepting(&self, limits: &AcceptLimits) {
        for shard in &self.shards {
            shard.push(0, Parcel::Limits(limits.clone()));
        }
    }

    /// Envelopes that wait in a shard's inbox, from whomever. Above
    /// [`crate::BACKLOG_MAX`] the shards themselves hold back.
    pub fn backlog_count(&self, shard: ShardId) -> usize {
        self.shards.get(usize::from(shard.0)).map_or(0, Sender::backlog_count)
    }
}
