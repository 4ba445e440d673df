//! What the shards of a node send each other, counted: how the mesh grows with their number.

use octopus_engine::Envelope;

/// Envelopes from shard to shard, by what they are for. Scope: node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// A shard has, or no longer has, a subscriber with some filter.
    pub interest: u64,
    /// Both halves of barriers: a question and its answer.
    pub fences: u64,
    /// Messages on their way to another shard's subscribers.
    pub messages: u64,
    /// Looking for retained messages, and what was found.
    pub replays: u64,
    pub others: u64,
    /// The most envelopes that one inbox held.
    pub backlog_most: usize,
}

impl Traffic {
    /// An envelope was pushed into an inbox, which holds `backlog` now.
    pub(crate) fn count(&mut self, envelope: &Envelope, backlog: usize) {
        let count = match envelope {
            Envelope::Interest { .. } => &mut self.interest,
            Envelope::Fence { .. } | Envelope::Fenced { .. } => &mut self.fences,
            Envelope::Publish(_) | Envelope::PublishFor { .. } => &mut self.messages,
            Envelope::RetainedQuery(_) | Envelope::RetainedFound(_) => &mut self.replays,
            _ => &mut self.others,
        };
        *count += 1;
        self.backlog_most = self.backlog_most.max(backlog);
    }
}
