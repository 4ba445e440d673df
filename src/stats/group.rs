//! The group's counters in Redis, under the predecessor's names.
//!
//! Every node writes what it is (connections, topics, subscriptions) as values of its own that
//! expire with it, and one script sums the nodes there are: a node that dies takes its part
//! with it. What was done (sent, received) only rises: the script adds to the group's total
//! what this run of the node counted since it last wrote, so a restart adds nothing twice and
//! a death loses at most one interval.
//!
//! Scope: group, written by each node.

use std::time::Duration;

use octopus_engine::Stats;

use crate::{
    bridge::{
        keys::Keys,
        link::{Link, LinkError},
        members::Members,
    },
    hub::Hub,
};

/// KEYS: this node's gauges, what it has counted in, nodes, retained, then TOTAL_CONNECTION,
/// _TOPICS, _SUBSCRIPTIONS, _RETAINED, _SENT, _RECEIVED. ARGV: time to live in ms, run,
/// prefix of gauges, connections, topics, subscriptions, sent, received.
const WRITE: &str = r"
redis.call('HSET', KEYS[1], 'connection', ARGV[4], 'topics', ARGV[5], 'subscriptions', ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local sum, is_summed = {0, 0, 0}, {}
for _, name in ipairs(redis.call('HKEYS', KEYS[3])) do
  local id = string.match(name, '^(.*):') or name
  if not is_summed[id] then
    is_summed[id] = true
    local part = redis.call('HMGET', ARGV[3] .. id, 'connection', 'topics', 'subscriptions')
    for i = 1, 3 do sum[i] = sum[i] + tonumber(part[i] or 0) end
  end
end
for i = 1, 3 do redis.call('SET', KEYS[4 + i], sum[i]) end
redis.call('SET', KEYS[8], redis.call('HLEN', KEYS[4]))
local before = redis.call('HMGET', KEYS[2], 'run', 'sent', 'received')
if before[1] ~= ARGV[2] then before = {ARGV[2], 0, 0} end
redis.call('INCRBY', KEYS[9], ARGV[7] - before[2])
redis.call('INCRBY', KEYS[10], ARGV[8] - before[3])
redis.call('HSET', KEYS[2], 'run', ARGV[2], 'sent', ARGV[7], 'received', ARGV[8])
redis.call('EXPIRE', KEYS[2], 604800)";

/// What one node counts, as the group's totals are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    connections: u64,
    topics: u64,
    subscriptions: u64,
    sent: u64,
    received: u64,
}

impl Counted {
    fn of(shards: &[Stats]) -> Self {
        shards.iter().fold(Self::default(), |sum, stats| Self {
            connections: sum.connections + stats.connections,
            topics: sum.topics + stats.filters,
            subscriptions: sum.subscriptions + stats.subscriptions,
            sent: sum.sent + stats.publish_sent.iter().sum::<u64>(),
            received: sum.received + stats.publish_received.iter().sum::<u64>(),
        })
    }
}

/// Writes the group's `STATS` keys.
pub struct GroupStats {
    pub hub: Hub,
    pub link: Link,
    pub keys: Keys,
    pub members: Members,
    /// Between two writes.
    pub interval: Duration,
}

impl GroupStats {
    /// Runs until the node stops. What cannot be written is written the next time.
    pub async fn run(self) {
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let Some(shards) = self.hub.stats().await else { return };
            if let Err(error) = self.write(Counted::of(&shards)).await {
                tracing::debug!(%error, "counters not written");
            }
        }
    }

    async fn write(&self, counted: Counted) -> Result<(), LinkError> {
        let (keys, id) = (&self.keys, self.members.id());
        let script = redis::Script::new(WRITE);
        let mut call = script.prepare_invoke();
        call.key(keys.stats(id)).key(keys.counted(id)).key(keys.nodes()).key(keys.retained());
        for name in ["CONNECTION", "TOPICS", "SUBSCRIPTIONS", "RETAINED", "SENT", "RECEIVED"] {
            call.key(keys.total(name));
        }
        let live_ms = self.interval.as_millis() as u64 * 2 + 1000;
        call.arg(live_ms).arg(self.members.incarnation()).arg(keys.stats(""));
        let Counted { connections, topics, subscriptions, sent, received } = counted;
        for count in [connections, topics, subscriptions, sent, received] {
            call.arg(count);
        }
        self.link.script(&call).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_counts_what_all_its_shards_count() {
        let one = Stats { connections: 2, publish_sent: [1, 2, 3], ..Stats::default() };
        let two = Stats { connections: 5, publish_received: [1, 0, 1], ..Stats::default() };
        let counted = Counted::of(&[one, two]);
        assert_eq!((counted.connections, counted.sent, counted.received), (7, 6, 2));
    }
}
