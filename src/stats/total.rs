//! The counters of all shards of a node as one.

use octopus_engine::Stats;

/// Sums over the shards of one node. Scope: node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    pub connections: u64,
    pub sockets_accepted: u64,
    pub connects_accepted: u64,
    pub sessions: u64,
    pub sessions_expired: u64,
    pub subscriptions: u64,
    pub shared_subscriptions: u64,
    pub retained: u64,
    pub retained_bytes: u64,
    /// Messages that wait in queues, and those sent and not yet acknowledged.
    pub queued: u64,
    pub inflight: u64,
    pub queue_bytes: u64,
    pub packets_received: u64,
    pub packets_sent: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub publish_received: u64,
    pub publish_sent: u64,
    pub publish_bytes_received: u64,
    pub publish_bytes_sent: u64,
    pub dropped: u64,
}

impl Total {
    pub fn of(shards: &[Stats]) -> Self {
        let sum = |of: fn(&Stats) -> u64| shards.iter().map(of).sum();
        Self {
            connections: sum(|s| s.connections),
            sockets_accepted: sum(|s| s.driver.accepted),
            connects_accepted: sum(|s| s.connects_accepted),
            sessions: sum(|s| s.sessions),
            sessions_expired: sum(|s| s.sessions_expired),
            subscriptions: sum(|s| s.subscriptions),
            shared_subscriptions: sum(|s| s.shared_subscriptions),
            retained: sum(|s| s.retained),
            retained_bytes: sum(|s| s.retained_bytes),
            queued: sum(|s| s.ledger.queued),
            inflight: sum(|s| s.inflight),
            queue_bytes: sum(|s| s.queue_bytes),
            packets_received: sum(|s| s.packets_received),
            packets_sent: sum(|s| s.packets_sent),
            bytes_received: sum(|s| s.bytes_received),
            bytes_sent: sum(|s| s.bytes_sent),
            publish_received: sum(|s| s.publish_received.iter().sum()),
            publish_sent: sum(|s| s.publish_sent.iter().sum()),
            publish_bytes_received: sum(|s| s.publish_bytes_received),
            publish_bytes_sent: sum(|s| s.publish_bytes_sent),
            dropped: sum(|s| s.ledger.dropped_total()),
        }
    }
}
