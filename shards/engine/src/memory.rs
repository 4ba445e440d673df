//! The memory budget of a node, and what is given up first when it runs short.
//!
//! Each shard counts what its clients make it keep and tells the other shards how much of its
//! part is used; the shard that has most used decides for all, because a publisher on one shard
//! fills the queues of another. What was promised is never given up: queued and unacknowledged
//! messages, what is retained, sessions and subscriptions stay. What goes, in this order, as
//! the budget fills:
//!
//! | from | what is shed |
//! |---|---|
//! | 70 % | newcomers: CONNECT of a new session (0x89), new subscriptions (0x97); who has a session gets in and takes what waits for it |
//! | 80 % | QoS 0 for clients that have not read what was sent before; retained messages of QoS 0 on new topics |
//! | 90 % | reading: who publishes, or is in the middle of a packet, is read once a second; if more than 1 MiB and 3 % of the budget has come of one packet, its connection is closed |
//! | 100 % | what comes all the same: PUBLISH is refused unacknowledged (0x97; before version 5 by closing), a connection in the middle of a packet is closed |
//!
//! Counted as the limits count, topic and payload bytes, so a message that waits for two
//! sessions counts twice; plus what a connection's buffers hold, the texts of filters and
//! Client Identifiers, and a fixed amount for each thing. Not counted: the state of TLS and
//! WebSockets, Topic Aliases, wills, what is on the mesh, and what is on its way to being
//! recorded before it is routed (`once`).
//!
//! Scope: shard, and the word of the other shards of the node.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::connection::Pause;
use crate::envelope::{Envelope, ShardId};
use crate::event::{ConnectionId, Notice, Output};
use crate::refusal::Refusal;
use crate::shard::{Shard, Timer};

/// Estimates of what each thing takes beside the bytes that are counted.
const CONNECTION_BYTES: usize = 400;
const SESSION_BYTES: usize = 300;
const SUBSCRIPTION_BYTES: usize = 150;
const MESSAGE_BYTES: usize = 200;

/// How often a held publisher is read all the same, so that its acknowledgements get through.
const READ_EVERY: Duration = Duration::from_secs(1);

/// A packet that is not all there is given up as soon as publishers are held if it takes so large
/// a part of the budget, and more than any packet may have by default: waiting for its end would
/// keep all others waiting.
const PACKET_PART: usize = 32;
const PACKET_BYTES: usize = 1 << 20;

/// How far a level's threshold must be undercut before it is left, percent of the budget.
const SLACK_PERCENT: usize = 5;

/// How much of the budget is used; each level sheds what the ones before it do, and more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemoryLevel {
    #[default]
    Ample,
    /// Newcomers are refused.
    Filling,
    /// QoS 0 is dropped for who does not keep up.
    Short,
    /// Publishers are held.
    Scarce,
    /// Publishes are refused.
    Full,
}

impl MemoryLevel {
    const ALL: [Self; 5] = [Self::Ample, Self::Filling, Self::Short, Self::Scarce, Self::Full];

    /// From which part of the budget on, percent.
    fn threshold_percent(self) -> usize {
        match self {
            Self::Ample => 0,
            Self::Filling => 70,
            Self::Short => 80,
            Self::Scarce => 90,
            Self::Full => 100,
        }
    }

    /// The level of `used` of `budget` bytes, coming from level `self`.
    fn next(self, used: usize, budget: usize) -> Self {
        let percent = |part: usize| (budget as u128 * part as u128 / 100) as usize;
        let holds = |level: &&Self| {
            let slack = if **level <= self { SLACK_PERCENT } else { 0 };
            used >= percent(level.threshold_percent().saturating_sub(slack))
        };
        Self::ALL.iter().rev().find(holds).copied().unwrap_or_default()
    }
}

/// What a shard has shed for want of memory, and how full it is. Counters, unless said.
#[derive(Clone, Debug, Default)]
pub struct MemoryStats {
    /// Gauge: bytes counted on this shard; 0 without a budget.
    pub used: u64,
    /// Gauge: the level in force on this shard.
    pub level: MemoryLevel,
    /// Gauge: connections that are read once a second only.
    pub held: u64,
    /// CONNECTs and subscriptions refused.
    pub connects_refused: u64,
    pub subscriptions_refused: u64,
    /// Times a connection was held.
    pub holds: u64,
    /// PUBLISH packets refused, those whose connection was closed for it included; and
    /// connections closed in the middle of a packet.
    pub publishes_refused: u64,
    pub packets_cut: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    own: MemoryLevel,
    /// Of the other shards, as they told.
    others: Vec<MemoryLevel>,
    /// The highest of all.
    level: MemoryLevel,
    held: BTreeSet<ConnectionId>,
}

impl Memory {
    pub(crate) fn new(shards: u16) -> Self {
        Self { others: vec![MemoryLevel::Ample; usize::from(shards)], ..Self::default() }
    }

    pub(crate) fn level(&self) -> MemoryLevel {
        self.level
    }

    fn settle(&mut self) {
        let others = self.others.iter().copied().max().unwrap_or_default();
        self.level = self.own.max(others);
    }
}

impl Shard {
    /// Bytes that clients make this shard keep. Cost: O(1).
    pub(crate) fn memory_used(&self) -> usize {
        let (subscriptions, interest) = (&self.subscriptions, &self.interest);
        let filters = subscriptions.subscription_count() + interest.filter_count();
        let shared = self.stats.shared_subscriptions as usize;
        let messages = self.retained.count() + self.stats.ledger.queued as usize;
        self.connections.buffered()
            + self.retained.bytes()
            + (self.stats.queue_bytes + self.stats.inflight_bytes) as usize
            + subscriptions.text_bytes()
            + self.sessions.name_bytes()
            + self.connections.len() * CONNECTION_BYTES
            + self.sessions.len() * SESSION_BYTES
            + (filters + shared) * SUBSCRIPTION_BYTES
            + messages * MESSAGE_BYTES
    }

    pub(crate) fn tell_memory(&self, stats: &mut MemoryStats) {
        stats.level = self.memory.level;
        stats.held = self.memory.held.len() as u64;
        if self.config.limits.memory_bytes_max > 0 {
            stats.used = self.memory_used() as u64;
        }
    }

    /// Looks how full the budget is; tells the other shards if that has changed.
    pub(crate) fn look_at_memory(&mut self) {
        let budget = self.config.limits.memory_bytes_max;
        if budget == 0 {
            return;
        }
        let used = self.memory_used();
        let level = self.memory.own.next(used, budget);
        if level == self.memory.own {
            return;
        }
        self.memory.own = level;
        for shard in self.other_shards() {
            self.send(shard, Envelope::Memory { level });
        }
        if let Some(more) = self.quiet.memory.may_say(self.now) {
            self.notice(Notice::Memory { level, used, budget, more });
        }
        self.settle_memory();
    }

    /// There is a budget from now on: what connections hold is counted.
    pub(crate) fn count_memory(&mut self) {
        for id in self.connections.ids() {
            self.connections.recount(id);
        }
    }

    /// There is no budget any more: nothing is shed here, nor elsewhere for this shard's sake.
    pub(crate) fn forget_memory(&mut self) {
        let level = MemoryLevel::Ample;
        if std::mem::replace(&mut self.memory.own, level) != level {
            for shard in self.other_shards() {
                self.send(shard, Envelope::Memory { level });
            }
        }
        self.settle_memory();
    }

    /// Another shard of the node has got to this level.
    pub(crate) fn take_memory_level(&mut self, of: ShardId, level: MemoryLevel) {
        if let Some(other) = self.memory.others.get_mut(usize::from(of.0)) {
            *other = level;
        }
        self.settle_memory();
    }

    fn settle_memory(&mut self) {
        self.memory.settle();
        if self.memory.level < MemoryLevel::Scarce {
            for id in std::mem::take(&mut self.memory.held) {
                self.let_go_of_held(id);
            }
        }
    }

    /// What the bytes of a client lead to when memory is scarce.
    ///
    /// - `has_published`: a PUBLISH was among them.
    pub(crate) fn hold_back(&mut self, id: ConnectionId, has_published: bool) {
        self.connections.recount(id);
        if self.memory.level < MemoryLevel::Scarce {
            return;
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
        let is_cut = !connection.inbox.is_empty();
        let large = (self.config.limits.memory_bytes_max / PACKET_PART).max(PACKET_BYTES);
        let is_large = connection.inbox.len() > large;
        if is_large || is_cut && self.memory.level == MemoryLevel::Full {
            self.stats.memory.packets_cut += 1;
            return self.refuse(id, Refusal::OutOfMemory);
        }
        if !has_published && !is_cut {
            return;
        }
        if connection.pause(Pause::Memory) {
            self.push(Output::PauseReading { connection: id });
        }
        self.stats.memory.holds += 1;
        self.memory.held.insert(id);
        self.timers.arm(self.now.after(READ_EVERY), Timer::Memory(id));
    }

    /// Reads a held publisher for once.
    pub(crate) fn read_held(&mut self, id: ConnectionId) {
        if self.memory.held.remove(&id) {
            self.let_go_of_held(id);
        }
    }

    fn let_go_of_held(&mut self, id: ConnectionId) {
        if self.connections.get_mut(id).is_some_and(|held| held.resume(Pause::Memory)) {
            self.push(Output::ResumeReading { connection: id });
        }
    }

    /// Whether what is counted as it changes is what a walk over everything finds: for tests.
    #[doc(hidden)]
    pub fn memory_is_counted(&self) -> bool {
        let deliveries = || self.sessions.iter().filter_map(|session| session.peek_deliveries());
        let queued: usize = deliveries().map(|deliveries| deliveries.queue_bytes).sum();
        let inflight: usize = deliveries().map(|deliveries| deliveries.inflight.bytes()).sum();
        let texts: usize = self.subscriptions.filters().map(|(_, text, _)| text.len()).sum();
        let names: usize = self.sessions.iter().map(|session| session.client_id.len()).sum();
        self.stats.queue_bytes == queued as u64
            && self.sessions.name_bytes() == names
            && self.stats.inflight_bytes == inflight as u64
            && self.subscriptions.text_bytes() == texts
            && self.connections.is_counted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_rise_at_their_thresholds_and_fall_a_little_below() {
        use MemoryLevel::*;
        let steps = [
            (Ample, 699, Ample),
            (Ample, 700, Filling),
            (Ample, 1000, Full),
            (Filling, 799, Filling),
            (Filling, 660, Filling),
            (Filling, 649, Ample),
            (Full, 960, Full),
            (Full, 949, Scarce),
            (Full, 0, Ample),
        ];
        for (from, used, to) in steps {
            assert_eq!(from.next(used, 1000), to, "from {from:?} with {used}");
        }
    }
}
