//! Topic Filters to small numbers, and from a Topic Name to the numbers of all filters that
//! may match it. The shared half of [`crate::Subscriptions`] and [`crate::Interest`].
//!
//! A filter without wildcards is one entry under the hash of its text, found in one probe. A
//! filter with wildcards hangs on a chain of nodes, one per prefix from its first wildcard to
//! its last; a prefix is known by the hash folded over its levels, so literal levels before the
//! first wildcard need no nodes: the walk carries their hash along and probes only at levels
//! where some filter has its first wildcard. Nor do the literal levels after the last: all of
//! them are one entry, found in one probe. Cost grows with the levels of the topic and with the
//! matching prefixes, not with the number of filters.
//!
//! No text is kept here. Texts whose 64-bit hashes collide are told apart by `is_it` where the
//! caller keeps the text; two *prefixes* that collide are one. The hash is keyed by a seed
//! that clients do not know; for a million filters the chance of any collision is 3e-8.
//!
//! Scope: shard. Deterministic: same seed and calls, same order of visits.

use std::hash::{BuildHasher, Hasher};

use foldhash::{
    SharedSeed,
    fast::{FixedState, FoldHasher},
};
use hashbrown::HashTable;
use octopus_mqtt::TopicFilter;

/// What a filter maps to; every `u32` but this one.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct FilterIndex {
    seed: SharedSeed,
    /// Hash of the prefix without levels.
    root: u64,
    /// Filters without wildcards, and those with wildcards that end in literal levels.
    whole: HashTable<Whole>,
    nodes: Vec<Node>,
    /// Nodes by the hash of their prefix.
    by_prefix: HashTable<u32>,
    /// First of the unused nodes, linked through `parent`.
    unused: u32,
    /// How many nodes stand for the levels before a first wildcard, by number of levels.
    starts: Vec<u32>,
    filter_count: usize,
}

#[derive(Debug)]
struct Whole {
    hash: u64,
    /// Node of the levels up to the last wildcard; `NONE` for a filter without wildcards.
    parent: u32,
    value: u32,
}

/// A prefix of filters with wildcards: their levels up to the first wildcard, or more.
#[derive(Debug)]
struct Node {
    prefix: u64,
    /// The node one level up, or `START` plus the number of levels before the first wildcard.
    parent: u32,
    /// Filters and nodes that hang on this one; the highest bits say where to look on. They
    /// are not cleared before the node dies: at worst, a probe finds nothing.
    uses: u32,
    /// This prefix followed by `+`.
    plus: u32,
    /// This prefix followed by `#`.
    multi: u32,
}

const START: u32 = 1 << 31;
/// A filter goes on behind `+`.
const PLUS_GOES_ON: u32 = 1 << 31;
/// A filter goes on behind a literal level.
const LITERAL_GOES_ON: u32 = 1 << 30;
/// A filter ends in literal levels, and nothing but those.
const LITERAL_ENDS: u32 = 1 << 29;
const USES: u32 = LITERAL_ENDS - 1;

/// Where the value of a filter is kept.
#[derive(Debug)]
enum Place {
    Whole(u64),
    /// Under the prefix with this hash.
    Plus(u64),
    Multi(u64),
}

impl FilterIndex {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed: SharedSeed::from_u64(seed),
            // Spread over all bits: a root of 0 would stay 0 over empty levels.
            root: FixedState::with_seed(seed).hash_one(seed),
            whole: HashTable::new(),
            nodes: Vec::new(),
            by_prefix: HashTable::new(),
            unused: NONE,
            starts: Vec::new(),
            filter_count: 0,
        }
    }

    pub(crate) fn filter_count(&self) -> usize {
        self.filter_count
    }

    /// The value of `filter`; `is_it` tells it from others with the same hash.
    pub(crate) fn find(&self, filter: TopicFilter<'_>, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let value = match self.place(filter) {
            Place::Whole(hash) => self.find_whole(hash, &is_it)?.value,
            Place::Plus(prefix) => self.nodes[self.node(prefix)? as usize].plus,
            Place::Multi(prefix) => self.nodes[self.node(prefix)? as usize].multi,
        };
        (value != NONE && is_it(value)).then_some(value)
    }

    /// Gives `filter`, which has the value `old`, the value `new`.
    pub(crate) fn replace(&mut self, filter: TopicFilter<'_>, old: u32, new: u32) {
        let kept = match self.place(filter) {
            Place::Whole(hash) => self
                .whole
                .find_mut(hash, |whole| whole.hash == hash && whole.value == old)
                .map(|whole| &mut whole.value),
            Place::Plus(prefix) => {
                self.node(prefix).map(|node| &mut self.nodes[node as usize].plus)
            }
            Place::Multi(prefix) => {
                self.node(prefix).map(|node| &mut self.nodes[node as usize].multi)
            }
        };
        if let Some(kept) = kept
            && *kept == old
        {
            *kept = new;
        }
    }

    /// Whether nothing is left of all filters that were here.
    #[cfg(test)]
    pub(crate) fn is_pristine(&self) -> bool {
        self.filter_count == 0
            && self.whole.is_empty()
            && self.by_prefix.is_empty()
            && self.starts.is_empty()
    }

    /// Adds `filter`, which must not be here yet. Cost: its levels from the first wildcard on.
    pub(crate) fn insert(&mut self, filter: TopicFilter<'_>, value: u32) {
        self.filter_count += 1;
        let text = filter.as_str();
        if !filter.has_wildcard() {
            self.insert_whole(Whole { hash: self.hash(text), parent: NONE, value });
            return;
        }
        let (head, last) = split_last(text);
        let mut prefix = self.root;
        let mut node = None;
        let mut depth = 0;
        for level in levels(head) {
            if node.is_none() && level == "+" {
                node = Some(self.enter(prefix, START | depth));
            }
            if let Some(at) = node {
                self.nodes[at as usize].uses |=
                    if level == "+" { PLUS_GOES_ON } else { LITERAL_GOES_ON };
            }
            prefix = self.step(prefix, level);
            node = node.map(|parent| self.enter(prefix, parent));
            depth += 1;
        }
        let node = node.unwrap_or_else(|| self.enter(prefix, START | depth));
        self.attach(node, last, value);
    }

    /// Removes `filter` if it has the value `value`.
    pub(crate) fn remove(&mut self, filter: TopicFilter<'_>, value: u32) {
        let freed = match self.place(filter) {
            Place::Whole(hash) => self
                .whole
                .find_entry(hash, |whole| whole.hash == hash && whole.value == value)
                .ok()
                .map(|found| found.remove().0.parent),
            Place::Plus(prefix) => self
                .node(prefix)
                .filter(|&node| take_if_equal(&mut self.nodes[node as usize].plus, value)),
            Place::Multi(prefix) => self
                .node(prefix)
                .filter(|&node| take_if_equal(&mut self.nodes[node as usize].multi, value)),
        };
        if let Some(node) = freed {
            self.filter_count -= 1;
            self.release(node);
        }
    }

    /// Keeps only the filters whose value `keep` says yes to. Cost: all filters.
    pub(crate) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        let mut freed = Vec::new();
        self.whole.retain(|whole| {
            let kept = keep(whole.value);
            if !kept {
                freed.push(whole.parent);
            }
            kept
        });
        for (index, node) in (0..).zip(&mut self.nodes) {
            for value in [&mut node.plus, &mut node.multi] {
                if *value != NONE && !keep(*value) {
                    *value = NONE;
                    freed.push(index);
                }
            }
        }
        self.filter_count -= freed.len();
        for node in freed {
            self.release(node);
        }
    }

    /// Visits the value of every filter that matches `topic`, and by a collision of hashes
    /// perhaps of others. Wildcards do not match a first level with `$` [MQTT-4.7.2-1].
    pub(crate) fn candidates(&self, topic: &str, mut visit: impl FnMut(u32)) {
        if !self.whole.is_empty() {
            self.visit_whole(self.hash(topic), &mut visit);
        }
        let mut prefix = self.root;
        let mut rest = Some(topic);
        for (depth, &starts) in self.starts.iter().enumerate() {
            if starts > 0
                && !(depth == 0 && topic.starts_with('$'))
                && let Some(node) = self.node(prefix)
            {
                self.descend(node, rest, &mut visit);
            }
            let Some(text) = rest else { return };
            let (level, after) = split_level(text);
            prefix = self.step(prefix, level);
            rest = after;
        }
    }

    /// Visits what matches `rest` of a topic below `node`; `None`: the topic ends here, which
    /// only `#` still matches (`a/#` matches `a`).
    fn descend(&self, node: u32, rest: Option<&str>, visit: &mut impl FnMut(u32)) {
        let mut branches = Vec::new();
        let mut next = Some((node, rest));
        while let Some((node, rest)) = next {
            let node = &self.nodes[node as usize];
            if node.multi != NONE {
                visit(node.multi);
            }
            next = None;
            if let Some(text) = rest {
                if node.uses & LITERAL_ENDS != 0 {
                    self.visit_whole(self.step(node.prefix, text), visit);
                }
                let (level, after) = split_level(text);
                if after.is_none() && node.plus != NONE {
                    visit(node.plus);
                }
                if node.uses & PLUS_GOES_ON != 0 {
                    next = self.node(self.step(node.prefix, "+")).map(|child| (child, after));
                }
                if node.uses & LITERAL_GOES_ON != 0
                    && let Some(child) = self.node(self.step(node.prefix, level))
                {
                    branches.extend(next.replace((child, after)));
                }
            }
            next = next.or_else(|| branches.pop());
        }
    }

    fn visit_whole(&self, hash: u64, visit: &mut impl FnMut(u32)) {
        self.whole.iter_hash(hash).filter(|whole| whole.hash == hash).for_each(|whole| {
            visit(whole.value);
        });
    }

    fn place(&self, filter: TopicFilter<'_>) -> Place {
        let text = filter.as_str();
        if !filter.has_wildcard() {
            return Place::Whole(self.hash(text));
        }
        let (head, last) = split_last(text);
        let prefix = levels(head).fold(self.root, |prefix, level| self.step(prefix, level));
        match last {
            "+" => Place::Plus(prefix),
            "#" => Place::Multi(prefix),
            literal => Place::Whole(self.step(prefix, literal)),
        }
    }

    fn find_whole(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<&Whole> {
        self.whole.find(hash, |whole| whole.hash == hash && is_it(whole.value))
    }

    fn insert_whole(&mut self, whole: Whole) {
        self.whole.insert_unique(whole.hash, whole, |whole| whole.hash);
    }

    fn node(&self, prefix: u64) -> Option<u32> {
        self.by_prefix.find(prefix, |&node| self.nodes[node as usize].prefix == prefix).copied()
    }

    /// Hangs a filter on the node of its head; `last` as [`split_last`] tells.
    fn attach(&mut self, at: u32, last: &str, value: u32) {
        let prefix = self.nodes[at as usize].prefix;
        let node = &mut self.nodes[at as usize];
        node.uses += 1;
        match last {
            "+" => node.plus = value,
            "#" => node.multi = value,
            literal => {
                node.uses |= LITERAL_ENDS;
                let hash = self.step(prefix, literal);
                self.insert_whole(Whole { hash, parent: at, value });
            }
        }
    }

    /// The node of `prefix`, made if there is none yet.
    fn enter(&mut self, prefix: u64, parent: u32) -> u32 {
        if let Some(node) = self.node(prefix) {
            return node;
        }
        if parent & START == 0 {
            self.nodes[parent as usize].uses += 1;
        } else {
            let depth = (parent & !START) as usize;
            if self.starts.len() <= depth {
                self.starts.resize(depth + 1, 0);
            }
            self.starts[depth] += 1;
        }
        let new = Node { prefix, parent, uses: 0, plus: NONE, multi: NONE };
        let index = if self.unused == NONE {
            push_tight(&mut self.nodes, new);
            self.nodes.len() as u32 - 1
        } else {
            let index = self.unused;
            let node = &mut self.nodes[index as usize];
            self.unused = node.parent;
            *node = new;
            index
        };
        let nodes = &self.nodes;
        self.by_prefix.insert_unique(prefix, index, |&node| nodes[node as usize].prefix);
        index
    }

    /// One thing less hangs on `node` (`NONE`: a filter without wildcards, on no node); nodes
    /// that nothing hangs on go, up the chain.
    fn release(&mut self, mut node: u32) {
        while node != NONE {
            let at = &mut self.nodes[node as usize];
            at.uses -= 1;
            if at.uses & USES > 0 {
                return;
            }
            let (prefix, parent) = (at.prefix, at.parent);
            at.parent = self.unused;
            self.unused = node;
            if let Ok(found) = self.by_prefix.find_entry(prefix, |&other| other == node) {
                found.remove();
            }
            node = parent;
            if parent & START != 0 {
                self.starts[(parent & !START) as usize] -= 1;
                while self.starts.last() == Some(&0) {
                    self.starts.pop();
                }
                return;
            }
        }
    }

    /// Hash of a whole Topic Name or of a filter without wildcards.
    fn hash(&self, text: &str) -> u64 {
        self.step(self.root, text)
    }

    /// Hash of the prefix that is `prefix` and one more `level`.
    fn step(&self, prefix: u64, level: &str) -> u64 {
        let mut hasher = FoldHasher::with_seed(prefix, &self.seed);
        hasher.write(level.as_bytes());
        hasher.finish()
    }
}

/// The first level and what follows it: `None` at the last level.
fn split_level(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((level, after)) => (level, Some(after)),
        None => (text, None),
    }
}

/// A filter with wildcards in two: its last part is its last level if that is a wildcard, else
/// all the literal levels behind its last wildcard. `None`: nothing is in front.
fn split_last(filter: &str) -> (Option<&str>, &str) {
    let end = filter.rfind(['+', '#']).map_or(0, |wildcard| wildcard + 1);
    match filter.get(end + 1..) {
        Some(literals) => (Some(&filter[..end]), literals),
        None => filter.rsplit_once('/').map_or((None, filter), |(head, last)| (Some(head), last)),
    }
}

fn levels(head: Option<&str>) -> impl Iterator<Item = &str> {
    head.into_iter().flat_map(|head| head.split('/'))
}

fn take_if_equal(slot: &mut u32, value: u32) -> bool {
    let equal = *slot == value;
    if equal {
        *slot = NONE;
    }
    equal
}

/// Pushes, growing by an eighth: doubling would waste half of a large table.
pub(crate) fn push_tight<T>(items: &mut Vec<T>, item: T) {
    if items.len() == items.capacity() {
        items.reserve_exact((items.len() / 8).max(8));
    }
    items.push(item);
}
