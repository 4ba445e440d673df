//! Waiting until other shards, and the nodes of the group, have taken in what was sent to them.
//!
//! The mesh is in order, so a `Fence` that comes back as `Fenced` proves that all that was
//! sent before it is in force there. SUBACK waits for that (invariant 8), and so does the
//! answer to a member that joins a shared group, and a session that has come from another node
//! before it says that it is known here. The hub answers for the other nodes; it does so in
//! bounded time, whatever they do.

use std::collections::VecDeque;

use hashbrown::HashMap;
use octopus_mqtt::PacketId;

use crate::connection::Pause;
use crate::envelope::{Envelope, SessionRef, ShardId};
use crate::event::{ConnectionId, Output};
use crate::session::Replay;
use crate::shard::Shard;

/// SUBACKs that one connection waits for; with more it is not read until half are out.
const SUBACK_COUNT_MAX: usize = 64;

/// What is waiting on this shard. Bounded by [`SUBACK_COUNT_MAX`] for each connection, and by
/// the sessions that come from other nodes.
#[derive(Debug, Default)]
pub(crate) struct Barriers {
    last: u64,
    waiting: HashMap<u64, Waiting>,
    /// SUBACKs among it, by connection.
    subacks: HashMap<ConnectionId, usize>,
}

#[derive(Debug)]
struct Waiting {
    /// Answers still to come.
    count: usize,
    then: Then,
}

/// What happens when all answers are there.
#[derive(Debug)]
pub(crate) enum Then {
    SubAck(PendingSubAck),
    /// Tell the member's shard that the group's interest is in force.
    Answer {
        to: ShardId,
        barrier: u64,
    },
    /// Everybody knows that it is here: from now on none of this node's shards sends to where it
    /// was only. What they sent before is waited for.
    Known(Moved),
    /// Nothing more is sent to where it was only: that is told.
    Sent(Moved),
}

/// What has come to this node.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Moved {
    /// A session that is handed over; its old node is told.
    Session(SessionRef),
    /// Sessions of this shard that wait for what their old node left, in this round; the hub is
    /// told.
    Round(u64),
}

/// A SUBACK that waits, and the retained messages that follow it.
#[derive(Debug)]
pub(crate) struct PendingSubAck {
    pub(crate) connection: ConnectionId,
    pub(crate) session: SessionRef,
    pub(crate) packet_id: PacketId,
    pub(crate) reasons: Vec<u8>,
    pub(crate) replays: VecDeque<Replay>,
}

impl Barriers {
    /// A barrier to put into an envelope; [`Shard::wait`] follows.
    pub(crate) fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Whether some interest may still be on its way.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl Shard {
    /// Does `then` after `answers` more `Fenced { barrier }`; fences all other shards first if
    /// `fence` says so, and in any case the group, if there is one: also a subscription that
    /// changes nothing waits until this node has caught up with what is retained.
    pub(crate) fn wait(&mut self, barrier: u64, fence: bool, answers: usize, then: Then) {
        let mut count = answers;
        if fence {
            for shard in self.other_shards() {
                self.send(shard, Envelope::Fence { barrier });
                count += 1;
            }
        }
        if self.config.cluster {
            self.send_hub(Envelope::Fence { barrier });
            count += 1;
        }
        if count == 0 {
            return self.pass(then);
        }
        if let Then::SubAck(pending) = &then {
            self.begin_suback(pending.connection);
        }
        self.barriers.waiting.insert(barrier, Waiting { count, then });
    }

    fn begin_suback(&mut self, id: ConnectionId) {
        let count = self.barriers.subacks.entry(id).or_default();
        *count += 1;
        if *count >= SUBACK_COUNT_MAX
            && self.connections.get_mut(id).is_some_and(|c| c.pause(Pause::AwaitingSubAcks))
        {
            self.push(Output::PauseReading { connection: id });
        }
    }

    fn end_suback(&mut self, id: ConnectionId) {
        let Some(count) = self.barriers.subacks.get_mut(&id) else { return };
        *count -= 1;
        let left = *count;
        if left == 0 {
            self.barriers.subacks.remove(&id);
        }
        if left <= SUBACK_COUNT_MAX / 2
            && self.connections.get_mut(id).is_some_and(|c| c.resume(Pause::AwaitingSubAcks))
        {
            self.push(Output::ResumeReading { connection: id });
        }
    }

    pub(crate) fn fenced(&mut self, barrier: u64) {
        let Some(waiting) = self.barriers.waiting.get_mut(&barrier) else { return };
        waiting.count -= 1;
        if waiting.count == 0
            && let Some(waiting) = self.barriers.waiting.remove(&barrier)
        {
            if let Then::SubAck(pending) = &waiting.then {
                self.end_suback(pending.connection);
            }
            self.pass(waiting.then);
        }
    }

    fn pass(&mut self, then: Then) {
        match then {
            Then::SubAck(pending) => self.suback(pending),
            Then::Answer { to, barrier } => self.send(to, Envelope::Fenced { barrier }),
            Then::Known(moved) => {
                let barrier = self.barriers.next();
                self.wait(barrier, false, 0, Then::Sent(moved));
            }
            Then::Sent(Moved::Session(session)) => self.arrival_known(session),
            Then::Sent(Moved::Round(round)) => self.send_hub(Envelope::Spread { round }),
        }
    }
}
