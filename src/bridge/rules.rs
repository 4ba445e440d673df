//! The bridge's promises, without any Redis: what this node wants, what it has seen of the
//! others, what it owes its publishers. Pure.

use std::collections::HashMap;

use octopus_engine::{Interest, PeerIndex, PeerSet, Presence, ReceiptId, ShardId};
use octopus_mqtt::{TopicFilter, TopicName};

/// Matches every topic but those that begin with `$`.
const EVERYTHING: &str = "#";

/// What the shards of this node want, each filter once: what the other nodes are told, and
/// which shards a message from another node goes to.
pub struct Wanted {
    filters: HashMap<Box<str>, PeerSet>,
    interest: Interest,
    groups: HashMap<Box<str>, Presence>,
    /// The others send this node every message.
    takes_all: bool,
}

impl Wanted {
    /// - `takes_all`: tell the others that this node wants everything; its shards still get
    ///   only what they want.
    pub fn new(seed: u64, takes_all: bool) -> Self {
        let interest = Interest::new(seed);
        Self { filters: HashMap::new(), interest, groups: HashMap::new(), takes_all }
    }

    /// A shard wants a filter, or no longer does; the entry to tell the group if that changes
    /// what this node wants.
    pub fn change(&mut self, shard: ShardId, filter: &str, wanted: bool) -> Option<Entry> {
        let parsed = TopicFilter::parse(filter).ok()?;
        let entry = || Entry::Filter(filter.into());
        if wanted {
            self.interest.add(parsed, shard.0);
            let shards = self.filters.entry(filter.into()).or_default();
            let is_first = shards.is_empty();
            shards.insert(shard.0);
            return is_first.then(entry);
        }
        self.interest.remove(parsed, shard.0);
        let shards = self.filters.get_mut(filter)?;
        shards.remove(shard.0);
        if !shards.is_empty() {
            return None;
        }
        self.filters.remove(filter);
        // What is always told is never taken back.
        (!(self.takes_all && filter == EVERYTHING)).then(entry)
    }

    /// The members of a shared group on this node changed; what to take back and what to tell.
    pub fn change_group(
        &mut self,
        key: &str,
        presence: Option<Presence>,
    ) -> (Option<Entry>, Option<Entry>) {
        let before = match presence {
            Some(presence) => self.groups.insert(key.into(), presence),
            None => self.groups.remove(key),
        };
        let entry = |presence| Entry::Group(key.into(), presence);
        (before.map(entry), presence.map(entry))
    }

    /// The shards with subscribers for `topic`.
    pub fn shards_for(&self, topic: TopicName<'_>, into: &mut PeerSet) {
        self.interest.matching(topic, into);
    }

    /// All there is to tell.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let filters = self.filters.keys().map(|filter| Entry::Filter(filter.clone()));
        let groups = self.groups.iter();
        let all = self.takes_all.then(|| Entry::Filter(EVERYTHING.into()));
        let groups = groups.map(|(key, presence)| Entry::Group(key.clone(), *presence));
        all.into_iter().chain(filters).chain(groups)
    }
}

/// One thing a node wants, as it stands in Redis.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Entry {
    Filter(Box<str>),
    /// Members of a shared group.
    Group(Box<str>, Presence),
}

impl Entry {
    /// A letter for the kind, then the text.
    pub fn to_text(&self) -> String {
        match self {
            Self::Filter(filter) => format!("f{filter}"),
            Self::Group(key, Presence::Online) => format!("o{key}"),
            Self::Group(key, Presence::Offline) => format!("w{key}"),
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_at_checked(1)?;
        TopicFilter::parse(rest).ok()?;
        match kind {
            "f" => Some(Self::Filter(rest.into())),
            "o" => Some(Self::Group(rest.into(), Presence::Online)),
            "w" => Some(Self::Group(rest.into(), Presence::Offline)),
            _ => None,
        }
    }
}

/// How far one lane of one sender was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub epoch: u64,
    pub last: u64,
}

/// What to do with a frame's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Take {
    /// Records at its beginning that were seen before.
    pub duplicates: u64,
    /// Records before it that never came.
    pub gap: u64,
}

impl Seen {
    /// As it stands in Redis.
    pub fn to_text(self) -> String {
        format!("{} {}", self.epoch, self.last)
    }

    pub fn parse(text: &str) -> Option<Self> {
        let (epoch, last) = text.split_once(' ')?;
        Some(Self { epoch: epoch.parse().ok()?, last: last.parse().ok()? })
    }

    /// Notes a frame of `count` records from number `first` on.
    pub fn take(&mut self, epoch: u64, first: u64, count: u64) -> Take {
        if epoch < self.epoch {
            return Take { duplicates: count, gap: 0 };
        }
        if epoch > self.epoch {
            // A new life of the sender; what of its last one is missing nobody can tell.
            *self = Self { epoch, last: first.saturating_sub(1) };
        }
        let next = self.last + 1;
        let gap = first.saturating_sub(next);
        let duplicates = next.saturating_sub(first).min(count);
        self.last = self.last.max(first.saturating_add(count).saturating_sub(1));
        Take { duplicates, gap }
    }
}

/// Receipts that wait until all lanes have their copy of a message.
#[derive(Default)]
pub struct Receipts {
    last: u64,
    open: HashMap<u64, (ReceiptId, usize)>,
}

impl Receipts {
    /// A number for a receipt that waits for `copies`.
    pub fn open(&mut self, receipt: ReceiptId, copies: usize) -> u64 {
        self.last += 1;
        self.open.insert(self.last, (receipt, copies));
        self.last
    }

    /// One copy is written; the receipt, if it was the last.
    pub fn written(&mut self, number: u64) -> Option<ReceiptId> {
        let (receipt, left) = self.open.get_mut(&number)?;
        *left -= 1;
        if *left > 0 {
            return None;
        }
        let receipt = *receipt;
        self.open.remove(&number);
        Some(receipt)
    }

    /// Still waited for.
    pub fn is_open(&self, number: u64) -> bool {
        self.open.contains_key(&number)
    }

    /// Takes those of the receipts of `shard` with these serials, which are in order.
    pub fn void(&mut self, shard: ShardId, serials: &[u64]) -> Vec<ReceiptId> {
        let is_void = |receipt: &ReceiptId| {
            receipt.shard == shard && serials.binary_search(&receipt.serial).is_ok()
        };
        let void = self.open.extract_if(|_, (receipt, _)| is_void(receipt));
        let mut void: Vec<ReceiptId> = void.map(|(_, (receipt, _))| receipt).collect();
        void.sort_unstable();
        void
    }

    /// One copy will not be written; the receipt, if it was not answered before.
    pub fn lost(&mut self, number: u64) -> Option<ReceiptId> {
        self.open.remove(&number).map(|(receipt, _)| receipt)
    }
}

/// Numbers for other nodes: small, the lowest free one first.
#[derive(Default)]
pub struct Indexes {
    used: Vec<bool>,
}

impl Indexes {
    pub fn acquire(&mut self) -> PeerIndex {
        let free = self.used.iter().position(|used| !used);
        let index = free.unwrap_or_else(|| {
            self.used.push(false);
            self.used.len() - 1
        });
        self.used[index] = true;
        index as PeerIndex
    }

    pub fn release(&mut self, index: PeerIndex) {
        if let Some(used) = self.used.get_mut(usize::from(index)) {
            *used = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_told_of_the_first_and_the_last_shard_only() {
        let mut wanted = Wanted::new(1, false);
        let told = Some(Entry::Filter("a/#".into()));
        assert_eq!(wanted.change(ShardId(0), "a/#", true), told);
        assert_eq!(wanted.change(ShardId(1), "a/#", true), None);
        assert_eq!(wanted.change(ShardId(0), "a/#", false), None);
        let mut shards = PeerSet::default();
        wanted.shards_for(TopicName::parse("a/b").expect("a topic"), &mut shards);
        assert_eq!(shards.iter().collect::<Vec<_>>(), [1]);
        assert_eq!(wanted.change(ShardId(1), "a/#", false), told);
        assert_eq!(wanted.entries().count(), 0);
    }

    #[test]
    fn a_node_that_takes_all_says_so_and_never_takes_it_back() {
        let mut wanted = Wanted::new(1, true);
        let all = Entry::Filter("#".into());
        assert_eq!(wanted.entries().collect::<Vec<_>>(), std::slice::from_ref(&all));
        assert_eq!(wanted.change(ShardId(0), "#", true), Some(all));
        assert_eq!(wanted.change(ShardId(0), "#", false), None);
        assert_eq!(wanted.entries().count(), 1);
        let mut shards = PeerSet::default();
        wanted.shards_for(TopicName::parse("a").expect("a topic"), &mut shards);
        assert!(shards.is_empty());
    }

    #[test]
    fn a_group_is_told_anew_when_its_members_come_or_go() {
        let mut wanted = Wanted::new(1, false);
        let key = "$share/g/a";
        let online = Entry::Group(key.into(), Presence::Online);
        let waiting = Entry::Group(key.into(), Presence::Offline);
        let told = wanted.change_group(key, Some(Presence::Online));
        assert_eq!(told, (None, Some(online.clone())));
        let told = wanted.change_group(key, Some(Presence::Offline));
        assert_eq!(told, (Some(online), Some(waiting.clone())));
        assert_eq!(wanted.change_group(key, None), (Some(waiting), None));
    }

    #[test]
    fn entries_are_read_as_they_are_written() {
        for text in ["fa/+", "o$share/g/a", "w$share/g/#"] {
            assert_eq!(Entry::parse(text).map(|entry| entry.to_text()).as_deref(), Some(text));
        }
        for bad in ["", "f", "xa", "fa/#/b", "ä"] {
            assert_eq!(Entry::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_was_seen_is_read_as_it_is_written() {
        let seen = Seen { epoch: 3, last: 17 };
        assert_eq!(Seen::parse(&seen.to_text()), Some(seen));
        assert_eq!(Seen::parse("half"), None);
    }

    #[test]
    fn gaps_and_duplicates_of_a_lane_are_seen() {
        let mut seen = Seen::default();
        // (epoch, first, count) -> (duplicates, gap)
        for (frame, expected) in [
            ((5, 1, 3), (0, 0)),
            ((5, 4, 2), (0, 0)),
            ((5, 4, 2), (2, 0)),
            ((5, 5, 2), (1, 0)),
            ((5, 9, 1), (0, 2)),
            ((4, 10, 1), (1, 0)),
            ((6, 1, 1), (0, 0)),
            ((5, 10, 1), (1, 0)),
            ((6, 2, 1), (0, 0)),
        ] {
            let (epoch, first, count) = frame;
            let take = seen.take(epoch, first, count);
            assert_eq!((take.duplicates, take.gap), expected, "{frame:?}");
        }
    }

    #[test]
    fn a_receipt_is_answered_once() {
        let mut receipts = Receipts::default();
        let receipt = ReceiptId { shard: ShardId(1), serial: 9 };
        let number = receipts.open(receipt, 2);
        assert_eq!(receipts.written(number), None);
        assert_eq!(receipts.written(number), Some(receipt));
        assert_eq!(receipts.lost(number), None);
        let number = receipts.open(receipt, 2);
        assert_eq!(receipts.lost(number), Some(receipt));
        assert_eq!(receipts.written(number), None);
    }

    #[test]
    fn a_free_number_is_used_again() {
        let mut indexes = Indexes::default();
        assert_eq!((indexes.acquire(), indexes.acquire()), (0, 1));
        indexes.release(0);
        assert_eq!((indexes.acquire(), indexes.acquire()), (0, 2));
    }
}
