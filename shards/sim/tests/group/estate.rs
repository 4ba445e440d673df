//! How the model's nodes get what one that is dead or silent left in its inbox: rounds as the
//! real bridge has them.

use octopus_engine::Envelope;

use crate::world::{Inboxed, SHARDS, World, send_all};

/// One inbox that is gone through for the sessions of one node.
#[derive(Debug)]
pub(crate) struct Round {
    number: u64,
    heir: usize,
    pub(crate) node: usize,
    /// The next entry to read.
    next: u64,
    /// Shards of the heir that have not said that all nodes know of their sessions.
    shards: u16,
}

impl World {
    pub(crate) fn begin_round(&mut self, heir: usize, node: usize) {
        self.last_round += 1;
        let (number, next) = (self.last_round, self.inboxes[node].first);
        let left: Box<str> = node.to_string().into();
        send_all(&mut self.nodes[heir], &Envelope::LeftBegins { node: left, round: number });
        self.rounds.push(Round { number, heir, node, next, shards: SHARDS });
    }

    /// All nodes know where one shard's sessions of this round are.
    pub(crate) fn spread(&mut self, heir: usize, number: u64) {
        let is_it = |round: &&mut Round| (round.heir, round.number) == (heir, number);
        self.rounds.iter_mut().find(is_it).expect("a round of ours").shards -= 1;
    }

    /// Takes one round on.
    pub(crate) fn read_left(&mut self) {
        if self.rounds.is_empty() {
            return;
        }
        let index = self.random.below(self.rounds.len());
        let mut round = self.rounds.swap_remove(index);
        if !self.is_up(round.heir) {
            return self.rounds.extend(self.is_live[round.heir].then_some(round));
        }
        let number = round.number;
        // Nobody needs what was forgotten meanwhile.
        round.next = round.next.max(self.inboxes[round.node].first);
        if let Some(entry) = self.inboxes[round.node].get(round.next) {
            round.next += 1;
            if let Inboxed::Message(message) = entry {
                send_all(&mut self.nodes[round.heir], &Envelope::Left { round: number, message });
            }
        } else if round.shards == 0 {
            return send_all(&mut self.nodes[round.heir], &Envelope::LeftEnds { round: number });
        }
        self.rounds.push(round);
    }
}
