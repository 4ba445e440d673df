//! Messages that sessions still get from the inbox of the node they were taken from.
//!
//! A node that dies, or does not answer, leaves messages in its inbox that their publishers
//! have the acknowledgements of. A session taken from it is like one that is handed over
//! (`handover`): what comes directly is held until the last of these was delivered, and what
//! comes both ways is left out once. The hub reads the inbox in rounds: a round is for the
//! sessions that waited for that node when it began, and for no other.
//!
//! Scope: shard, of sessions of QoS 1 and 2.

use std::collections::{HashMap, HashSet};

use crate::barrier::{Moved, Then};
use crate::durable::Change;
use crate::envelope::{Envelope, SessionRef};
use crate::message::Message;
use crate::route::Origin;
use crate::shard::Shard;
use crate::subscriptions::Subscriber;

/// Who waits for what a node left.
#[derive(Debug, Default)]
pub(crate) struct Estates {
    /// By node; its round has not begun.
    waiting: HashMap<Box<str>, Vec<SessionRef>>,
    rounds: HashMap<u64, Round>,
    /// By client.
    pub(crate) ghosts: HashMap<Box<str>, Ghost>,
    /// What is being delivered comes by way of where the session was, and not directly.
    pub(crate) is_delivering: bool,
    /// It comes out of the inbox of this round.
    round: Option<u64>,
}

/// A session that was lost to another node and is still subscribed here.
#[derive(Debug)]
pub(crate) struct Ghost {
    pub(crate) session: SessionRef,
    /// It was this node's under this one.
    pub(crate) epoch: u64,
}

#[derive(Debug)]
struct Round {
    node: Box<str>,
    heirs: HashSet<SessionRef>,
}

impl Estates {
    /// The node out of whose inbox comes what is being delivered.
    pub(crate) fn delivering(&self) -> Option<&str> {
        self.rounds.get(&self.round?).map(|round| &*round.node)
    }

    /// The session needs nothing of what this node left.
    pub(crate) fn stop_inheriting(&mut self, session: SessionRef, node: &str) {
        if let Some(waiting) = self.waiting.get_mut(node) {
            waiting.retain(|heir| *heir != session);
        }
        for round in self.rounds.values_mut().filter(|round| *round.node == *node) {
            round.heirs.remove(&session);
        }
    }
}

impl Shard {
    /// The session waits for what this node left.
    pub(crate) fn begin_inheriting(&mut self, session: SessionRef, node: Box<str>) {
        let waiting = self.estates.waiting.entry(node.clone()).or_default();
        waiting.push(session);
        if waiting.len() == 1 {
            self.send_hub(Envelope::Owed { node });
        }
    }

    /// The client's session is here again: nothing of the one that was lost remains.
    pub(crate) fn banish_ghost(&mut self, client_id: &str) {
        let Some(Ghost { session, epoch }) = self.estates.ghosts.remove(client_id) else { return };
        self.passing.remove(&epoch);
        if self.sessions.get_ref(session).is_some() {
            self.forget_session(session.id);
        }
    }

    /// What follows of this round is for the sessions that wait for `node` now. It goes on until
    /// everybody knows where they are.
    pub(crate) fn begin_round(&mut self, node: Box<str>, round: u64) {
        let Some(waiting) = self.estates.waiting.remove(&node) else {
            return self.send_hub(Envelope::Spread { round });
        };
        let heirs = waiting.into_iter().collect();
        self.estates.rounds.insert(round, Round { node, heirs });
        let barrier = self.barriers.next();
        self.wait(barrier, true, 0, Then::Known(Moved::Round(round)));
    }

    /// A message that the round's node had not taken in for certain.
    pub(crate) fn inherit(&mut self, round: u64, message: &Message) {
        let Some(estate) = self.estates.rounds.get(&round) else { return };
        if message.is_expired(self.now) {
            return;
        }
        let mut matches = std::mem::take(&mut self.matches);
        let parcel = &mut message.parcel();
        self.subscriptions.matching(parcel.topic, |subscriber, grant| {
            if let Subscriber::Session(id) = subscriber
                && let Some(session) = self.sessions.get(id)
                && estate.heirs.contains(&session.id)
            {
                matches.push((subscriber, grant));
            }
        });
        self.templates.reset();
        (self.estates.is_delivering, self.estates.round) = (true, Some(round));
        self.deliver_merged(&mut matches, parcel, Origin::Node, None);
        (self.estates.is_delivering, self.estates.round) = (false, None);
        self.end_unkeeping();
        matches.clear();
        self.matches = matches;
    }

    /// The round's sessions have all that its node left.
    pub(crate) fn end_round(&mut self, round: u64) {
        let Some(Round { node, heirs }) = self.estates.rounds.remove(&round) else { return };
        let mut heirs: Vec<SessionRef> = heirs.into_iter().collect();
        heirs.sort_unstable();
        for heir in heirs {
            if self.sessions.get_ref(heir).is_some() {
                self.record(heir.id, || Change::Inherited { node: node.clone() });
                self.has_inherited(heir.id, &node);
            }
        }
    }
}
