//! Waiting until other shards have taken in what was sent to them.
//!
//! The mesh is in order, so a `Fence` that comes back as `Fenced` proves that all that was
//! sent before it is in force there. SUBACK waits for that (invariant 8), and so does the
//! answer to a member that joins a shared group.

use std::collections::VecDeque;

use hashbrown::HashMap;
use octopus_mqtt::PacketId;

use crate::envelope::{Envelope, SessionRef, ShardId};
use crate::event::ConnectionId;
use crate::session::Replay;
use crate::shard::Shard;

/// What is waiting on this shard. Bounded by the SUBSCRIBE packets under way.
#[derive(Debug, Default)]
pub(crate) struct Barriers {
    last: u64,
    waiting: HashMap<u64, Waiting>,
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
    /// `fence` says so.
    pub(crate) fn wait(&mut self, barrier: u64, fence: bool, answers: usize, then: Then) {
        let mut count = answers;
        if fence {
            for shard in self.other_shards() {
                self.send(shard, Envelope::Fence { barrier });
                count += 1;
            }
        }
        if count == 0 {
            return self.pass(then);
        }
        self.barriers.waiting.insert(barrier, Waiting { count, then });
    }

    pub(crate) fn fenced(&mut self, barrier: u64) {
        let Some(waiting) = self.barriers.waiting.get_mut(&barrier) else { return };
        waiting.count -= 1;
        if waiting.count == 0
            && let Some(waiting) = self.barriers.waiting.remove(&barrier)
        {
            self.pass(waiting.then);
        }
    }

    fn pass(&mut self, then: Then) {
        match then {
            Then::SubAck(pending) => self.suback(pending),
            Then::Answer { to, barrier } => self.send(to, Envelope::Fenced { barrier }),
        }
    }
}
