//! The group's counters in Redis, under the predecessor's names.
//!
//! Every node writes what it is (connections, topics, subscriptions) as values of its own that
//! expire with it, and one script sums the nodes there are: a node that dies takes its part
//! with it. What was done (sent, received) only rises: the script adds to the group's total
//! what this run of the node counted since it last wrote, so a restart adds nothing twice and
//! a death loses at most one interval. In the same breath it reads what the other nodes wrote
//! of themselves, so that each can show the whole group.
//!
//! Scope: group, written by each node.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use octopus_engine::Stats;

use crate::{
    bridge::{
        keys::Keys,
        link::{Link, LinkError},
        members::Members,
    },
    hub::Hub,
    process,
};

/// KEYS: this node's gauges, what it has counted in, nodes, retained, then TOTAL_CONNECTION,
/// _TOPICS, _SUBSCRIPTIONS, _RETAINED, _SENT, _RECEIVED. ARGV: time to live in ms, run,
/// prefix of gauges, sent, received, then fields and values of this node's gauges.
/// Answers for each node its id and its gauges, an absent one as nil.
const WRITE: &str = r"
redis.call('HSET', KEYS[1], unpack(ARGV, 6))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
local sum, all, is_summed = {0, 0, 0}, {}, {}
for _, name in ipairs(redis.call('HKEYS', KEYS[3])) do
  local id = string.match(name, '^(.*):') or name
  if not is_summed[id] then
    is_summed[id] = true
    local part = redis.call('HMGET', ARGV[3] .. id, 'connection', 'topics', 'subscriptions',
      'sessions', 'in', 'out', 'memory', 'uptime', 'version')
    for i = 1, 3 do sum[i] = sum[i] + tonumber(part[i] or 0) end
    all[#all + 1] = id
    all[#all + 1] = part
  end
end
for i = 1, 3 do redis.call('SET', KEYS[4 + i], sum[i]) end
redis.call('SET', KEYS[8], redis.call('HLEN', KEYS[4]))
local before = redis.call('HMGET', KEYS[2], 'run', 'sent', 'received')
if before[1] ~= ARGV[2] then before = {ARGV[2], 0, 0} end
redis.call('INCRBY', KEYS[9], ARGV[4] - before[2])
redis.call('INCRBY', KEYS[10], ARGV[5] - before[3])
redis.call('HSET', KEYS[2], 'run', ARGV[2], 'sent', ARGV[4], 'received', ARGV[5])
redis.call('EXPIRE', KEYS[2], 604800)
return all";

/// What a node last told the group of itself. Scope: node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub connections: u64,
    pub subscriptions: u64,
    pub sessions: u64,
    /// Messages received and sent in a second, over the last interval.
    pub received_per_s: u64,
    pub sent_per_s: u64,
    pub memory_bytes: u64,
    pub uptime_s: u64,
    pub version: String,
}

impl Figures {
    /// From what the script answers; `None`: the node's figures have expired.
    fn read(part: &[Option<String>]) -> Option<Self> {
        let number = |at: usize| part.get(at)?.as_ref()?.parse().ok();
        Some(Self {
            connections: number(0)?,
            subscriptions: number(2)?,
            sessions: number(3)?,
            received_per_s: number(4)?,
            sent_per_s: number(5)?,
            memory_bytes: number(6)?,
            uptime_s: number(7)?,
            version: part.get(8)?.clone()?,
        })
    }
}

/// The figures of every node of the group, by id, as last read. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct GroupFigures(Arc<Mutex<BTreeMap<String, Figures>>>);

impl GroupFigures {
    pub fn of(&self, node: &str) -> Option<Figures> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
    }

    fn set(&self, answer: Vec<(String, Vec<Option<String>>)>) {
        let read = answer.into_iter().filter_map(|(id, part)| Some((id, Figures::read(&part)?)));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = read.collect();
    }
}

/// What one node counts, as the group's totals are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counted {
    connections: u64,
    sessions: u64,
    topics: u64,
    subscriptions: u64,
    sent: u64,
    received: u64,
}

impl Counted {
    fn of(shards: &[Stats]) -> Self {
        shards.iter().fold(Self::default(), |sum, stats| Self {
            connections: sum.connections + stats.connections,
            sessions: sum.sessions + stats.sessions,
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
    /// Where what the nodes wrote is left for others to read.
    pub figures: GroupFigures,
}

impl GroupStats {
    /// Runs until the node stops. What cannot be written is written the next time.
    pub async fn run(self) {
        let mut tick = tokio::time::interval(self.interval);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let started = Instant::now();
        let mut last = (started, Counted::default());
        loop {
            tick.tick().await;
            let Some(shards) = self.hub.stats().await else { return };
            let now = (Instant::now(), Counted::of(&shards));
            if let Err(error) = self.write(last, now, started).await {
                tracing::debug!(%error, "counters not written");
            }
            last = now;
        }
    }

    /// - `last`, `now`: what was counted, and when.
    async fn write(
        &self,
        last: (Instant, Counted),
        now: (Instant, Counted),
        started: Instant,
    ) -> Result<(), LinkError> {
        let (keys, id) = (&self.keys, self.members.id());
        let script = redis::Script::new(WRITE);
        let mut call = script.prepare_invoke();
        call.key(keys.stats(id)).key(keys.counted(id)).key(keys.nodes()).key(keys.retained());
        for name in ["CONNECTION", "TOPICS", "SUBSCRIPTIONS", "RETAINED", "SENT", "RECEIVED"] {
            call.key(keys.total(name));
        }
        let live_ms = self.interval.as_millis() as u64 * 2 + 1000;
        call.arg(live_ms).arg(self.members.incarnation()).arg(keys.stats(""));
        let counted = now.1;
        call.arg(counted.sent).arg(counted.received);
        let elapsed_s = now.0.duration_since(last.0).as_secs_f64().max(0.001);
        let per_s = |now: u64, last: u64| (now.saturating_sub(last) as f64 / elapsed_s) as u64;
        for (field, value) in [
            ("connection", counted.connections),
            ("topics", counted.topics),
            ("subscriptions", counted.subscriptions),
            ("sessions", counted.sessions),
            ("in", per_s(counted.received, last.1.received)),
            ("out", per_s(counted.sent, last.1.sent)),
            ("memory", process::memory_bytes().unwrap_or(0)),
            ("uptime", now.0.duration_since(started).as_secs()),
        ] {
            call.arg(field).arg(value);
        }
        call.arg("version").arg(env!("CARGO_PKG_VERSION"));
        self.figures.set(self.link.script(&mut call).await?);
        Ok(())
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
    #[test]
    fn a_node_whose_figures_have_expired_has_none() {
        let told = ["2", "9", "3", "4", "100", "200", "1024", "60", "0.1.0"];
        let told = told.map(|value| Some(value.to_owned())).to_vec();
        let figures = GroupFigures::default();
        figures.set(vec![("B1".into(), told), ("B2".into(), vec![None; 9])]);
        let read = figures.of("B1").expect("told");
        assert_eq!((read.connections, read.subscriptions, read.sent_per_s), (2, 3, 200));
        assert_eq!(read.version, "0.1.0");
        assert_eq!(figures.of("B2"), None);
    }
}
