//! What the nodes know of each other's subscriptions, proved: a SUBACK leaves when every live
//! node has taken in what this one wants, and a session that has moved is known the same way.
//!
//! Whoever has taken a change in, its shards included, says so on the channel of the node that
//! told it; what is said counts for all changes before. A node that does not answer is waited
//! for until its lease is out, and at most for two leases: then the shard is answered without
//! it, which is counted (`unheard`). While Redis is away nobody is waited for: what this node
//! wants is told when Redis is back, and its clients are served meanwhile. All leases run out in
//! a long outage: for a lease after Redis was reached, a node that has not taken its own anew is
//! waited for all the same.
//!
//! A shard is not answered either while this node has not caught up with what the group
//! retains, so that no SUBSCRIBE is answered from what was retained before an outage; nor while
//! Redis takes none of this node's messages; nor before those are written that came before the
//! shard asked. What is under way to where a session was must be there before that node is told
//! that nothing comes there any more.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    time::Instant,
};

use octopus_engine::{Envelope, ShardId};

use super::{
    members::{View, id_of},
    run::{After, Bridge},
    wire::{self, Control, Head},
    work::Op,
};

/// Epoch and number of a change of a node's interest; later ones are greater.
pub(super) type Mark = (u64, u64);

/// Who knows what this node wants, and which shards wait for it. Pure.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// How far each node knows it.
    by_node: HashMap<String, Mark>,
    asked: VecDeque<Asked>,
}

/// A shard that waits. Bounded by what waits on the shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) shard: ShardId,
    pub(super) barrier: u64,
    pub(super) mark: Mark,
    /// The batch to Redis that takes along what came before.
    pub(super) batch: u64,
    pub(super) until: Instant,
}

impl Known {
    /// `node` knows everything up to `mark`.
    pub(super) fn by(&mut self, node: &str, mark: Mark) {
        match self.by_node.get_mut(node) {
            Some(known) => *known = mark.max(*known),
            None => drop(self.by_node.insert(node.to_owned(), mark)),
        }
    }

    /// `node` is gone.
    pub(super) fn forget(&mut self, node: &str) {
        self.by_node.remove(node);
    }

    pub(super) fn ask(&mut self, asked: Asked) {
        self.asked.push_back(asked);
    }

    pub(super) fn is_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Up to which mark all these nodes know what this one wants.
    fn least<'a>(&self, nodes: impl Iterator<Item = &'a str>) -> Mark {
        let marks = nodes.map(|node| self.by_node.get(node).copied().unwrap_or_default());
        marks.min().unwrap_or((u64::MAX, u64::MAX))
    }

    /// Takes out those that need not wait for any of these nodes, nor for this one.
    ///
    /// - `written`: the last batch that Redis has taken.
    pub(super) fn answered<'a>(
        &mut self,
        nodes: impl Iterator<Item = &'a str>,
        written: u64,
    ) -> Vec<Asked> {
        let known = self.least(nodes);
        let is_known = |asked: &Asked| asked.mark <= known && asked.batch <= written;
        let count = self.asked.iter().take_while(|asked| is_known(asked)).count();
        self.asked.drain(..count).collect()
    }

    /// Takes out those that have waited long enough.
    pub(super) fn late(&mut self, now: Instant) -> Vec<Asked> {
        let count = self.asked.iter().take_while(|asked| asked.until <= now).count();
        self.asked.drain(..count).collect()
    }

    /// Takes out all: nobody can be asked.
    pub(super) fn all(&mut self) -> Vec<Asked> {
        self.asked.drain(..).collect()
    }
}

impl Bridge {
    /// A shard wants to know when the group has taken in all that it told so far.
    pub(super) fn asked(&mut self, shard: ShardId, barrier: u64) {
        let number = self.interest_last + u64::from(!self.changes.is_empty());
        let until = Instant::now() + 2 * self.config.lease;
        let batch = if self.has_unwritten() { self.batches_begun + 1 } else { 0 };
        self.known.ask(Asked { shard, barrier, mark: (self.epoch(), number), batch, until });
    }

    /// Answers the shards that need not wait any more.
    pub(super) fn answer_asked(&mut self) {
        if !self.known.is_asked() {
            return;
        }
        let answered = if !self.link.is_up() {
            self.known.all()
        } else if self.is_behind() || self.is_held_up() {
            return;
        } else {
            let written = if self.has_unwritten() { self.batch_written } else { u64::MAX };
            self.known.answered(self.awaited().iter().map(String::as_str), written)
        };
        answered.into_iter().for_each(|asked| self.answer_shard(asked));
    }

    /// Answers the shards that have waited long enough.
    pub(super) fn answer_late(&mut self, now: Instant) {
        let late = self.known.late(now);
        self.counters.unheard(late.len() as u64);
        late.into_iter().for_each(|asked| self.answer_shard(asked));
    }

    /// Says once that clients may come: every other node knows this one, so that from then on
    /// its SUBACKs wait for this node too; what they wanted until then was read since, and is
    /// given to the shards before the first client can be; and Redis takes this node's messages.
    pub(super) fn say_ready(&mut self) {
        let is_listening = self.is_listening && self.is_listening_fast;
        if self.ready.is_none() || !is_listening || self.epoch() == 0 {
            return;
        }
        if !self.is_known {
            let mark = (self.epoch(), 1);
            self.is_known = self.known.least(self.live().iter().map(String::as_str)) >= mark;
            if self.is_known {
                self.load_all();
            }
        }
        if self.is_known
            && self.work.is_awake()
            && self.nodes.values().all(|node| !node.is_loading)
            && let Some(ready) = self.ready.take()
        {
            // Nobody waits any more.
            let _ = ready.send(());
        }
    }

    /// Every other node has said that it knows all that this one wants. Who is asked for what is
    /// known already does not tell it again, so this has to hold before anybody asks.
    pub(super) fn is_all_known(&self) -> bool {
        let told = (self.epoch(), self.interest_last);
        self.known.least(self.awaited().iter().map(String::as_str)) >= told
    }

    /// The other nodes whose leases hold.
    fn live(&self) -> BTreeSet<String> {
        others::<()>(&self.work.members.view().borrow(), self.work.members.name(), None)
    }

    /// The other nodes that may be there.
    fn awaited(&self) -> BTreeSet<String> {
        let is_early = self.work.link.is_newer_than(self.config.lease);
        let met = is_early.then_some(&self.nodes);
        others(&self.work.members.view().borrow(), self.work.members.name(), met)
    }

    fn answer_shard(&mut self, asked: Asked) {
        self.give(asked.shard, Envelope::Fenced { barrier: asked.barrier });
    }

    /// This node has not yet seen all that the group retained when Redis was reached.
    fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// Has the shards take in what was told since the last turn, to say so to those who told.
    pub(super) fn fence_told(&mut self) {
        if self.told.is_empty() {
            return;
        }
        let told = std::mem::take(&mut self.told);
        let marks = told.into_iter().filter_map(|name| {
            let mark = self.nodes.get(&name)?.known?;
            Some((name, mark))
        });
        let marks = marks.collect();
        let again = std::mem::take(&mut self.told_group);
        self.fence(After::Told { marks, again });
    }

    /// The shards have taken in what these nodes want, up to their marks. It is said behind
    /// all that the shards had sent before.
    pub(super) fn say_known(&mut self, marks: Vec<(String, Mark)>) {
        let (own, epoch) = (self.work.members.name().to_owned(), self.epoch());
        for (name, (of, number)) in marks {
            let head = Head { origin: &own, epoch, first: 0, count: 0 };
            let frame = wire::control(&head, &Control::Known { epoch: of, number }).into();
            self.answers.push(Op::Tell { channel: self.work.keys.known(&name), frame });
        }
    }
}

/// The nodes of the group but for this one, whose leases hold.
///
/// - `met`: not long after Redis was reached, the nodes that were there before. They count, and so
///   do all of the list, unless they said that they leave, or a later life of them or this node has
///   their id.
fn others<T>(view: &View, own: &str, met: Option<&HashMap<String, T>>) -> BTreeSet<String> {
    let live = || view.nodes.iter().filter(|(_, node)| node.is_live).map(|(name, _)| name);
    let ids: HashSet<&str> = live().map(|name| id_of(name)).chain([id_of(own)]).collect();
    let may_live = met.into_iter().flat_map(|met| view.nodes.keys().chain(met.keys()));
    let has_left = |name: &String| view.nodes.get(name).is_some_and(|node| node.has_left);
    let may_live = may_live.filter(|name| !ids.contains(id_of(name)) && !has_left(name));
    live().filter(|name| *name != own).chain(may_live).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::members::Member;
    use super::*;

    fn asked(barrier: u64, mark: Mark) -> Asked {
        let until = Instant::now() + Duration::from_secs(9);
        Asked { shard: ShardId(0), barrier, mark, batch: 1, until }
    }

    fn barriers(asked: &[Asked]) -> Vec<u64> {
        asked.iter().map(|asked| asked.barrier).collect()
    }

    #[test]
    fn a_shard_is_answered_when_the_last_live_node_knows() {
        let mut known = Known::default();
        known.ask(asked(1, (7, 1)));
        known.ask(asked(2, (7, 2)));
        known.by("B", (7, 2));
        assert_eq!(known.answered(["B", "C"].into_iter(), 1), []);
        known.by("C", (7, 1));
        assert_eq!(known.answered(["B", "C"].into_iter(), 0), [], "not all is written");
        assert_eq!(barriers(&known.answered(["B", "C"].into_iter(), 1)), [1]);
        // C's lease has run out.
        assert_eq!(barriers(&known.answered(["B"].into_iter(), 1)), [2]);
        known.ask(asked(3, (8, 3)));
        assert_eq!(known.answered(["B"].into_iter(), 1), []);
        known.by("B", (8, 5));
        assert_eq!(barriers(&known.answered(["B"].into_iter(), 1)), [3]);
    }

    #[test]
    fn soon_after_an_outage_nodes_without_a_lease_are_waited_for() {
        let member = |name: &str, is_live, has_left| {
            (name.to_owned(), Member { epoch: 1, is_live, has_left })
        };
        let live = ["A:2", "B:2"].map(|name| member(name, true, false));
        let silent = ["A:1", "B:1", "C:1"].map(|name| member(name, false, false));
        let nodes = live.into_iter().chain(silent).chain([member("E:1", false, true)]);
        let view = View { nodes: nodes.collect(), ..View::default() };
        // D is not in the list: Redis has lost it.
        let met = ["A:1", "B:2", "D:1", "E:1"].map(|name| (name.to_owned(), ())).into();
        let others = |met| others::<()>(&view, "A:2", met).into_iter().collect::<Vec<_>>();
        assert_eq!(others(None), ["B:2"]);
        assert_eq!(others(Some(&met)), ["B:2", "C:1", "D:1"]);
        // Their word counts as that of any other.
        let mut known = Known::default();
        known.ask(asked(1, (7, 1)));
        for name in ["B:2", "C:1"] {
            known.by(name, (7, 1));
            assert_eq!(known.answered(others(Some(&met)).iter().map(String::as_str), 1), []);
        }
        known.by("D:1", (7, 1));
        let answered = known.answered(others(Some(&met)).iter().map(String::as_str), 1);
        assert_eq!(barriers(&answered), [1]);
    }

    #[test]
    fn alone_nobody_is_waited_for() {
        let mut known = Known::default();
        known.ask(asked(1, (7, 1)));
        assert_eq!(barriers(&known.answered(std::iter::empty(), 1)), [1]);
        assert!(!known.is_asked());
    }

    #[test]
    fn nobody_is_waited_for_without_end() {
        let mut known = Known::default();
        let late = asked(1, (7, 1));
        known.ask(late);
        assert_eq!(known.late(Instant::now()), []);
        assert_eq!(barriers(&known.late(late.until)), [1]);
    }
}
