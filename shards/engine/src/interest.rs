//! Which peers (other shards, other nodes) want which topics.
//!
//! A replica of what the peers announced, without texts and without subscribers: a filter
//! costs one small entry however many peers want it, because equal sets of peers are kept
//! once. It may over-match, never under-match but for a collision of 64-bit hashes (see
//! `filter_index`).
//!
//! Scope: shard.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use octopus_mqtt::{TopicFilter, TopicName};

use crate::filter_index::FilterIndex;

/// A peer, as the engine numbers them: shards from 0, then nodes.
pub type PeerIndex = u16;

/// A set of peers. Up to 64 peers without allocation.
#[derive(Default, Clone, PartialEq, Eq, Hash, Debug)]
pub struct PeerSet {
    /// Peers 0 to 63.
    low: u64,
    /// Peers from 64 on; the last word is never 0, so equal sets are equal values.
    high: Vec<u64>,
}

impl PeerSet {
    pub fn insert(&mut self, peer: PeerIndex) {
        let (word, bit) = position(peer);
        if word > self.high.len() {
            self.high.resize(word, 0);
        }
        *self.word_mut(word) |= bit;
    }

    pub fn remove(&mut self, peer: PeerIndex) {
        let (word, bit) = position(peer);
        if word <= self.high.len() {
            *self.word_mut(word) &= !bit;
        }
        while self.high.last() == Some(&0) {
            self.high.pop();
        }
    }

    pub fn contains(&self, peer: PeerIndex) -> bool {
        let (word, bit) = position(peer);
        self.words().nth(word).is_some_and(|bits| bits & bit != 0)
    }

    pub fn is_empty(&self) -> bool {
        self.low == 0 && self.high.is_empty()
    }

    /// The peers in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = PeerIndex> {
        (0..).step_by(64).zip(self.words()).flat_map(|(base, mut bits)| {
            std::iter::from_fn(move || {
                let bit = (bits != 0).then(|| bits.trailing_zeros() as PeerIndex)?;
                bits &= bits - 1;
                Some(base + bit)
            })
        })
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.low = 0;
        self.high.clear();
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: &Self) {
        self.low |= other.low;
        if self.high.len() < other.high.len() {
            self.high.resize(other.high.len(), 0);
        }
        for (mine, theirs) in self.high.iter_mut().zip(&other.high) {
            *mine |= theirs;
        }
    }

    fn words(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.low).chain(self.high.iter().copied())
    }

    fn word_mut(&mut self, word: usize) -> &mut u64 {
        if word == 0 { &mut self.low } else { &mut self.high[word - 1] }
    }
}

fn position(peer: PeerIndex) -> (usize, u64) {
    (usize::from(peer / 64), 1 << (peer % 64))
}

/// All interest of the peers of one shard.
#[derive(Debug)]
pub struct Interest {
    index: FilterIndex,
    sets: PeerSets,
}

impl Interest {
    /// - `seed`: keys the hashes; not to be known by clients.
    pub fn new(seed: u64) -> Self {
        Self { index: FilterIndex::new(seed), sets: PeerSets::new(seed) }
    }

    /// `peer` wants what `filter` matches. Again is the same as once.
    pub fn add(&mut self, filter: TopicFilter<'_>, peer: PeerIndex) {
        let Some(old) = self.index.find(filter, |_| true) else {
            let mut peers = PeerSet::default();
            peers.insert(peer);
            let new = self.sets.acquire(peers);
            self.index.insert(filter, new);
            return;
        };
        if !self.sets.get(old).contains(peer) {
            let mut peers = self.sets.get(old).clone();
            peers.insert(peer);
            self.exchange(filter, old, peers);
        }
    }

    /// `peer` wants it no more; nothing happens if it did not.
    pub fn remove(&mut self, filter: TopicFilter<'_>, peer: PeerIndex) {
        let Some(old) = self.index.find(filter, |_| true) else { return };
        if !self.sets.get(old).contains(peer) {
            return;
        }
        let mut peers = self.sets.get(old).clone();
        peers.remove(peer);
        if peers.is_empty() {
            self.index.remove(filter, old);
            self.sets.release(old);
        } else {
            self.exchange(filter, old, peers);
        }
    }

    /// The peer is gone, and all its interest. Cost: all filters, once.
    pub fn forget(&mut self, peer: PeerIndex) {
        if self.sets.forget(peer) {
            self.index.retain(|set| !self.sets.get(set).is_empty());
            self.sets.drop_empty();
        }
    }

    /// Adds to `into` every peer that wants `topic`.
    pub fn matching(&self, topic: TopicName<'_>, into: &mut PeerSet) {
        if !self.is_empty() {
            self.index.candidates(topic.as_str(), |set| into.extend(self.sets.get(set)));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.filter_count() == 0
    }

    pub fn filter_count(&self) -> usize {
        self.index.filter_count()
    }

    fn exchange(&mut self, filter: TopicFilter<'_>, old: u32, peers: PeerSet) {
        let new = self.sets.acquire(peers);
        self.index.replace(filter, old, new);
        self.sets.release(old);
    }
}

/// Sets of peers, each kept once and counted.
#[derive(Debug)]
struct PeerSets {
    hasher: FixedState,
    sets: Vec<Counted>,
    by_set: HashTable<u32>,
    unused: Vec<u32>,
}

#[derive(Debug)]
struct Counted {
    peers: PeerSet,
    /// How many filters have this set; 0: unused.
    filter_count: u32,
}

impl PeerSets {
    fn new(seed: u64) -> Self {
        Self {
            hasher: FixedState::with_seed(seed),
            sets: Vec::new(),
            by_set: HashTable::new(),
            unused: Vec::new(),
        }
    }

    fn get(&self, set: u32) -> &PeerSet {
        &self.sets[set as usize].peers
    }

    /// The number of a set equal to `peers`, counted once more.
    fn acquire(&mut self, peers: PeerSet) -> u32 {
        let hash = self.hasher.hash_one(&peers);
        if let Some(&set) = self.by_set.find(hash, |&set| *self.get(set) == peers) {
            self.sets[set as usize].filter_count += 1;
            return set;
        }
        let new = Counted { peers, filter_count: 1 };
        let set = if let Some(set) = self.unused.pop() {
            self.sets[set as usize] = new;
            set
        } else {
            self.sets.push(new);
            self.sets.len() as u32 - 1
        };
        let (hasher, sets) = (&self.hasher, &self.sets);
        self.by_set.insert_unique(hash, set, |&set| hasher.hash_one(&sets[set as usize].peers));
        set
    }

    fn release(&mut self, set: u32) {
        let counted = &mut self.sets[set as usize];
        counted.filter_count -= 1;
        if counted.filter_count > 0 {
            return;
        }
        let hash = self.hasher.hash_one(&counted.peers);
        counted.peers = PeerSet::default();
        if let Ok(found) = self.by_set.find_entry(hash, |&other| other == set) {
            found.remove();
        }
        self.unused.push(set);
    }

    /// Takes `peer` out of every set, where it stands. Sets that become equal by this stay
    /// apart until their filters go. Says whether a set in use became empty.
    fn forget(&mut self, peer: PeerIndex) -> bool {
        for counted in &mut self.sets {
            counted.peers.remove(peer);
        }
        self.index_sets();
        self.sets.iter().any(|counted| counted.filter_count > 0 && counted.peers.is_empty())
    }

    /// Frees the empty sets; no filter has them any more.
    fn drop_empty(&mut self) {
        for (set, counted) in (0..).zip(&mut self.sets) {
            if counted.filter_count > 0 && counted.peers.is_empty() {
                counted.filter_count = 0;
                self.unused.push(set);
            }
        }
        self.index_sets();
    }

    fn index_sets(&mut self) {
        let hash = |set: &u32| self.hasher.hash_one(&self.sets[*set as usize].peers);
        self.by_set.clear();
        for (set, counted) in (0..).zip(&self.sets) {
            if counted.filter_count > 0 {
                self.by_set.insert_unique(hash(&set), set, hash);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testing::{MATCHES, Random, filter, topic};

    const PEERS: [PeerIndex; 5] = [0, 1, 63, 64, 300];

    fn peers_of(interest: &Interest, name: &str) -> Vec<PeerIndex> {
        let mut peers = PeerSet::default();
        interest.matching(topic(name), &mut peers);
        peers.iter().collect()
    }

    #[test]
    fn every_filter_matches_what_the_specification_says() {
        for &(text, name, matches) in MATCHES {
            let mut interest = Interest::new(1);
            interest.add(filter(text), 70);
            assert_eq!(peers_of(&interest, name) == [70], matches, "{text} and {name}");
        }
    }

    #[test]
    fn random_interest_agrees_with_a_list_of_filters() {
        for seed in 0..10 {
            let mut random = Random(seed);
            let mut interest = Interest::new(seed);
            let mut model = BTreeSet::new();
            for round in 0..1000 {
                let text = random.filter();
                let peer = PEERS[random.below(5) as usize];
                if random.below(200) == 0 {
                    interest.forget(peer);
                    model.retain(|(_, other)| *other != peer);
                } else if random.below(1000) > round {
                    interest.add(filter(&text), peer);
                    model.insert((text, peer));
                } else {
                    interest.remove(filter(&text), peer);
                    model.remove(&(text, peer));
                }
                let name = random.topic();
                let wanted: BTreeSet<_> = model
                    .iter()
                    .filter(|(text, _)| filter(text).matches(topic(&name)))
                    .map(|(_, peer)| *peer)
                    .collect();
                assert_eq!(peers_of(&interest, &name), Vec::from_iter(wanted), "{name}");
                let filters: BTreeSet<_> = model.iter().map(|(text, _)| text).collect();
                assert_eq!(interest.filter_count(), filters.len());
            }
            PEERS.iter().for_each(|&peer| interest.forget(peer));
            assert!(interest.is_empty());
            assert!(interest.index.is_pristine());
            assert!(interest.sets.by_set.is_empty());
            assert_eq!(interest.sets.unused.len(), interest.sets.sets.len());
        }
    }

    #[test]
    fn a_set_of_peers_agrees_with_a_tree() {
        let mut random = Random(1);
        let mut set = PeerSet::default();
        let mut model = BTreeSet::new();
        for _ in 0..5000 {
            let peer = random.below(200) as PeerIndex;
            if random.below(2) == 0 {
                set.insert(peer);
                model.insert(peer);
            } else {
                set.remove(peer);
                model.remove(&peer);
            }
            assert_eq!(set.contains(peer), model.contains(&peer));
            assert!(set.iter().eq(model.iter().copied()));
        }
        model.iter().for_each(|&peer| set.remove(peer));
        assert_eq!(set, PeerSet::default());
    }
}
