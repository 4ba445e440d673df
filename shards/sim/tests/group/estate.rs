//! How the model's nodes get what one that is dead or silent left in its inbox: rounds as the
//! real bridge has them, but ended by what has happened and not by the clock.

use std::collections::BTreeMap;

use octopus_engine::Envelope;

use crate::world::{World, send_all};

/// One inbox that is gone through for the sessions of one node.
#[derive(Debug)]
pub(crate) struct Round {
    number: u64,
    heir: usize,
    pub(crate) node: usize,
    /// The next entry to read.
    next: u64,
    spread: Spread,
}

/// How far the news of the heir's sessions has come. Numbers are of what was pushed before.
#[derive(Debug)]
enum Spread {
    /// Not told by the heir yet.
    Told(u64),
    /// Not heard by these nodes yet.
    Heard(BTreeMap<usize, u64>),
    /// Heard; what they sent before is not in Redis yet.
    Written(BTreeMap<usize, u64>),
    Done,
}

impl World {
    pub(crate) fn begin_round(&mut self, heir: usize, node: usize) {
        self.last_round += 1;
        let (number, next) = (self.last_round, self.inboxes[node].first);
        let spread = Spread::Told(self.told[heir].pushed);
        let left: Box<str> = node.to_string().into();
        send_all(&mut self.nodes[heir], &Envelope::LeftBegins { node: left, round: number });
        self.rounds.push(Round { number, heir, node, next, spread });
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
        self.spread_on(&mut round);
        let number = round.number;
        if let Some(message) = self.inboxes[round.node].get(round.next) {
            round.next += 1;
            send_all(&mut self.nodes[round.heir], &Envelope::Left { round: number, message });
        } else if matches!(round.spread, Spread::Done) {
            return send_all(&mut self.nodes[round.heir], &Envelope::LeftEnds { round: number });
        }
        self.rounds.push(round);
    }

    fn spread_on(&mut self, round: &mut Round) {
        let others: Vec<usize> =
            (0..self.nodes.len()).filter(|&node| node != round.heir && self.is_up(node)).collect();
        match &mut round.spread {
            Spread::Told(at) if self.told[round.heir].popped >= *at => {
                let pushed = |&node: &usize| (node, self.lane(round.heir, node).pushed);
                round.spread = Spread::Heard(others.iter().map(pushed).collect());
            }
            Spread::Heard(at) => {
                at.retain(|&node, at| {
                    others.contains(&node) && self.lane(round.heir, node).popped < *at
                });
                if at.is_empty() {
                    self.collect();
                    let pushed = |&node: &usize| (node, self.told[node].pushed);
                    round.spread = Spread::Written(others.iter().map(pushed).collect());
                }
            }
            Spread::Written(at) => {
                at.retain(|&node, at| others.contains(&node) && self.told[node].popped < *at);
                // What the heir itself sent before its own shards knew is behind, too.
                if at.is_empty() {
                    round.spread = Spread::Done;
                }
            }
            Spread::Told(_) | Spread::Done => {}
        }
    }
}
