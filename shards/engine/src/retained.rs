//! The retained messages of this shard, in topic order (§3.3.1.3).
//!
//! One tree ordered by topic; the key is the message's own topic. A filter is answered by
//! scanning the tree and leaping over what cannot match: from a level that differs to the
//! nearest topic that could match. Answers come in slices with a topic as cursor, so they stay
//! right while messages come and go between slices, and a slice looks at a bounded number of
//! topics, so a filter that matches little does not stall the shard.
//!
//! Expired messages are messages like others here; the caller drops them.
//!
//! Scope: shard.

use std::{borrow::Borrow, cmp::Ordering, collections::BTreeSet, ops::Bound};

use octopus_mqtt::TopicFilter;

use crate::Message;

/// Topics one slice looks at, matching or not.
const LOOKED_AT_MAX: usize = 1024;

/// See the module.
#[derive(Debug, Default)]
pub struct Retained {
    messages: BTreeSet<ByTopic>,
    bytes: usize,
}

impl Retained {
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps `message` for its topic; returns the one it replaces [MQTT-3.3.1-5].
    pub fn insert(&mut self, message: Message) -> Option<Message> {
        self.bytes += message.size();
        let replaced = self.messages.replace(ByTopic(message))?.0;
        self.bytes -= replaced.size();
        Some(replaced)
    }

    pub fn remove(&mut self, topic: &str) -> Option<Message> {
        let removed = self.messages.take(topic.as_bytes())?.0;
        self.bytes -= removed.size();
        Some(removed)
    }

    pub fn get(&self, topic: &str) -> Option<&Message> {
        self.messages.get(topic.as_bytes()).map(|by_topic| &by_topic.0)
    }

    /// Appends to `out` at most `limit` messages whose topic matches `filter`, in topic order.
    ///
    /// - `after`: the cursor that the previous slice returned; `None` from the start.
    ///
    /// Returns the cursor to go on from, or `None` at the end. A slice can be short, even
    /// empty, before the end: it looks at no more than a fixed number of topics.
    pub fn matching(
        &self,
        filter: TopicFilter<'_>,
        after: Option<&str>,
        limit: usize,
        out: &mut Vec<Message>,
    ) -> Option<Box<str>> {
        if !filter.has_wildcard() {
            let wanted = after.is_none_or(|after| after < filter.as_str());
            out.extend(self.get(filter.as_str()).filter(|_| wanted).cloned());
            return None;
        }
        let mut cursor = after.unwrap_or_default();
        let mut from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.to_owned()));
        let (mut found, mut looked_at) = (0, 0);
        loop {
            let mut leap: Option<String> = None;
            for ByTopic(message) in self.messages.range::<[u8], _>(bounds(&from)) {
                if found == limit || looked_at == LOOKED_AT_MAX {
                    return Some(cursor.into());
                }
                let topic = message.topic().as_str();
                if leap.as_deref().is_some_and(|to| topic < to) {
                    break;
                }
                leap = None;
                cursor = topic;
                looked_at += 1;
                match step(filter, topic) {
                    Step::Take => {
                        out.push(message.clone());
                        found += 1;
                    }
                    Step::Pass => {}
                    // Often the next topic is far enough already, without a search.
                    Step::Leap(to) => leap = Some(to),
                    Step::End => return None,
                }
            }
            from = Bound::Included(leap?);
        }
    }

    pub fn count(&self) -> usize {
        self.messages.len()
    }

    /// Topic plus payload bytes of all messages.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn bounds(from: &Bound<String>) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (from.as_ref().map(String::as_bytes), Bound::Unbounded)
}

/// What to do with a topic the scan has come to.
#[derive(Debug)]
enum Step {
    /// It matches.
    Take,
    /// It does not; the next one may.
    Pass,
    /// It does not, and nothing before this text will.
    Leap(String),
    /// Neither it nor anything behind it does.
    End,
}

/// Compares level by level. `filter` has a wildcard.
fn step(filter: TopicFilter<'_>, topic: &str) -> Step {
    if topic.starts_with('$') && filter.as_str().starts_with(['+', '#']) {
        return Step::Leap("%".to_owned()); // '%' follows '$': behind all of `$…` [MQTT-4.7.2-1]
    }
    let mut start = 0;
    for level in filter.levels() {
        if level == "#" {
            return Step::Take;
        }
        if start > topic.len() {
            return Step::Pass;
        }
        let end = topic[start..].find('/').map_or(topic.len(), |length| start + length);
        if level != "+" && level != &topic[start..end] {
            return leap_to_level(topic, start, level);
        }
        start = end + 1;
    }
    if start > topic.len() { Step::Take } else { behind(&topic[..start]) }
}

/// Where a topic with `topic[..start]` and then `level` can be, seen from `topic`, whose own
/// level there is another one. Between `a/b` and `a/b/…` other topics sort (`a/b!`), so there
/// are two places.
fn leap_to_level(topic: &str, start: usize, level: &str) -> Step {
    let mut wanted = format!("{}{level}", &topic[..start]);
    if topic < wanted.as_str() {
        return Step::Leap(wanted);
    }
    wanted.push('/');
    if topic < wanted.as_str() {
        return Step::Leap(wanted);
    }
    behind(&topic[..start])
}

/// Past all topics that begin with `prefix`, which is empty or ends in a slash.
fn behind(prefix: &str) -> Step {
    match prefix.strip_suffix('/') {
        Some(before) => Step::Leap(format!("{before}0")), // '0' follows '/'
        None => Step::End,
    }
}

/// A message ordered by its topic.
#[derive(Debug)]
struct ByTopic(Message);

impl ByTopic {
    /// Texts and their bytes have the same order.
    fn topic(&self) -> &[u8] {
        self.0.topic_bytes()
    }
}

impl Borrow<[u8]> for ByTopic {
    fn borrow(&self) -> &[u8] {
        self.topic()
    }
}

impl PartialEq for ByTopic {
    fn eq(&self, other: &Self) -> bool {
        self.topic() == other.topic()
    }
}

impl Eq for ByTopic {}

impl PartialOrd for ByTopic {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByTopic {
    fn cmp(&self, other: &Self) -> Ordering {
        self.topic().cmp(other.topic())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use octopus_mqtt::{MessageProperties, QoS};

    use super::*;
    use crate::{
        Instant,
        testing::{MATCHES, Random, filter, topic},
    };

    fn message(name: &str, payload: &[u8]) -> Message {
        let properties = MessageProperties::default();
        Message::new(topic(name), payload, QoS::AtMostOnce, true, &properties, Instant(0))
    }

    /// All slices of a replay, and how many there were.
    fn replay(retained: &Retained, text: &str, limit: usize) -> (Vec<String>, usize) {
        let (mut out, mut cursor, mut slices) = (Vec::new(), None, 0);
        loop {
            let before = out.len();
            cursor = retained.matching(filter(text), cursor.as_deref(), limit, &mut out);
            slices += 1;
            assert!(out.len() - before <= limit);
            if cursor.is_none() {
                let topics = out.iter().map(|message| message.topic().as_str().to_owned());
                return (topics.collect(), slices);
            }
        }
    }

    /// Number 9 of the predecessor's defects among them.
    #[test]
    fn every_filter_matches_what_the_specification_says() {
        for &(text, name, matches) in MATCHES {
            let mut retained = Retained::new();
            retained.insert(message(name, b""));
            assert_eq!(replay(&retained, text, 1).0.len() == 1, matches, "{text} and {name}");
        }
    }

    #[test]
    fn random_messages_agree_with_a_list_of_topics() {
        for seed in 0..10 {
            let mut random = Random(seed);
            let mut retained = Retained::new();
            let mut model = BTreeMap::new();
            for _ in 0..400 {
                let name = random.topic();
                if random.below(3) == 0 {
                    let removed = retained.remove(&name).map(|message| message.size());
                    assert_eq!(removed, model.remove(&name));
                } else {
                    let size = random.below(9) as usize;
                    let replaced = retained.insert(message(&name, &[0; 9][..size]));
                    let size = name.len() + size;
                    let had = model.insert(name, size);
                    assert_eq!(replaced.map(|message| message.size()), had);
                }
                assert_eq!(retained.count(), model.len());
                assert_eq!(retained.bytes(), model.values().sum());
                let text = random.filter();
                let wanted: Vec<_> = model
                    .keys()
                    .filter(|name| filter(&text).matches(topic(name)))
                    .cloned()
                    .collect();
                let limit = 1 + random.below(5) as usize;
                assert_eq!(replay(&retained, &text, limit).0, wanted, "{text}");
            }
        }
    }

    #[test]
    fn a_filter_that_matches_nothing_looks_at_few_topics() {
        let mut retained = Retained::new();
        for number in 0..20_000 {
            retained.insert(message(&format!("site/{}/{}/x", number % 100, number), b""));
        }
        for text in ["site/7/none/+", "site/+/none/#", "a/+", "z/+", "+", "none/#"] {
            assert_eq!(replay(&retained, text, 10), (vec![], 1), "{text}");
        }
        let (found, slices) = replay(&retained, "site/+/+/y", 10);
        assert!(found.is_empty() && slices > 9, "{slices} slices of a bounded size");
    }

    #[test]
    fn a_cursor_stays_right_while_messages_come_and_go() {
        let mut retained = Retained::new();
        for name in ["a/1", "a/3", "a/5", "b/1"] {
            retained.insert(message(name, b""));
        }
        let mut out = Vec::new();
        let cursor = retained.matching(filter("a/+"), None, 2, &mut out);
        assert_eq!(cursor.as_deref(), Some("a/3"));
        retained.remove("a/3");
        retained.insert(message("a/2", b""));
        retained.insert(message("a/4", b""));
        assert_eq!(retained.matching(filter("a/+"), cursor.as_deref(), 9, &mut out), None);
        let topics: Vec<_> = out.iter().map(|message| message.topic().as_str()).collect();
        assert_eq!(topics, ["a/1", "a/3", "a/4", "a/5"]);
    }
}
