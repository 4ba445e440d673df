//! What the tests of the tables share: seeded numbers, and topics and filters from a world so
//! small that they meet.

use octopus_mqtt::{TopicFilter, TopicName};

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len() as u64) as usize]
    }

    /// One to four levels: some empty, some with bytes that sort before the slash, some `$`.
    pub(crate) fn topic(&mut self) -> String {
        self.levels(&["a", "b", "a!", "", "$x", "ab", "a0"])
    }

    /// The same with wildcards, `#` at the end only.
    pub(crate) fn filter(&mut self) -> String {
        let mut filter = self.levels(&["a", "b", "a!", "", "$x", "ab", "+", "+", "+"]);
        if self.below(4) == 0 {
            filter.push_str("/#");
        }
        if self.below(40) == 0 { "#".to_owned() } else { filter }
    }

    fn levels(&mut self, of: &[&str]) -> String {
        let levels: Vec<_> = (0..=self.below(4)).map(|_| self.pick(of)).collect();
        let text = levels.join("/");
        if text.is_empty() { "/".to_owned() } else { text }
    }
}

pub(crate) fn topic(text: &str) -> TopicName<'_> {
    TopicName::parse(text).expect("a valid topic")
}

pub(crate) fn filter(text: &str) -> TopicFilter<'_> {
    TopicFilter::parse(text).expect("a valid filter")
}

/// Filter, topic, whether they match: what brokers get wrong.
pub(crate) const MATCHES: &[(&str, &str, bool)] = &[
    ("a/+", "a/b/c", false),
    ("+/b", "a/b/c/d", false),
    ("a/#", "a", true),
    ("a/b/#", "a/b", true),
    ("a/+", "a/", true),
    ("a/+", "a", false),
    ("a", "a/", false),
    ("a/", "a/", true),
    ("a/#", "a/", true),
    ("a/#", "ab", false),
    ("a/#", "a!", false),
    ("+/+", "/", true),
    ("+/+", "/a", true),
    ("/+", "/a", true),
    ("+", "/a", false),
    ("+", "a", true),
    ("/", "/", true),
    ("#", "/", true),
    ("#", "a/b", true),
    ("+/#", "a", true),
    ("a/+/#", "a/b", true),
    ("a/+/#", "a", false),
    ("a/+/c", "a/b/c", true),
    ("a/+/c", "a/b/d", false),
    ("+/+/+", "//", true),
    ("#", "$SYS/a", false),
    ("+/a", "$SYS/a", false),
    ("+", "$SYS", false),
    ("$SYS/#", "$SYS/a", true),
    ("$SYS/#", "$SYS", true),
    ("$SYS/+", "$SYS/a", true),
    ("a/+", "a/$b", true),
    ("a/#", "a/$b/c", true),
];
