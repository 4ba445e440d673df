//! Finds lost, repeated and overtaken messages from the numbers that publishers give them.
//!
//! [`Stream`] checks one publisher's messages at one subscriber, which must get all of them.
//! [`Seen`] checks a publisher whose messages are spread over a group, where each member gets
//! some: only all members together can tell what is missing or came twice.

/// What one message's number says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The number that was due, or a higher one: those between are missing so far.
    InOrder,
    /// A number that was missing: it was overtaken.
    Late,
    /// A number that came before.
    Duplicate,
}

/// One publisher's messages at one subscriber.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    next: u32,
    lost: u64,
    /// Ranges `from..to` not seen, ascending.
    missing: Vec<(u32, u32)>,
}

impl Stream {
    /// Ranges remembered as missing. Past it the oldest is given up: it stays lost, and a
    /// message of it that still comes counts as a duplicate.
    const MISSING_COUNT_MAX: usize = 1024;

    /// A stream that begins at `first`: nothing before it was due.
    pub(crate) fn starting_at(first: u32) -> Self {
        Self { next: first, ..Self::default() }
    }

    /// Takes note of message number `sequence`.
    pub(crate) fn observe(&mut self, sequence: u32) -> Arrival {
        if sequence >= self.next {
            if sequence > self.next {
                self.skip_to(sequence);
            }
            self.next = sequence + 1;
            return Arrival::InOrder;
        }
        if self.fill(sequence) { Arrival::Late } else { Arrival::Duplicate }
    }

    /// Messages skipped and not seen since. What follows the last message is not known here.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    fn skip_to(&mut self, sequence: u32) {
        if self.missing.len() == Self::MISSING_COUNT_MAX {
            self.missing.remove(0);
        }
        self.missing.push((self.next, sequence));
        self.lost += u64::from(sequence - self.next);
    }

    fn fill(&mut self, sequence: u32) -> bool {
        let at = self.missing.partition_point(|&(_, to)| to <= sequence);
        let Some(&(from, to)) = self.missing.get(at) else { return false };
        if sequence < from {
            return false;
        }
        let before = (from, sequence);
        let after = (sequence + 1, to);
        let rest = [before, after].into_iter().filter(|(from, to)| from < to);
        self.missing.splice(at..=at, rest);
        self.lost -= 1;
        true
    }
}

/// The messages of one publisher seen by any member of a group: a bit each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    words: Vec<u64>,
}

impl Seen {
    /// Takes note of message number `sequence`; `false` if it was seen before.
    pub(crate) fn insert(&mut self, sequence: u32) -> bool {
        let (word, bit) = (sequence as usize / 64, 1 << (sequence % 64));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        new
    }

    /// Adds what another thread saw and returns how many messages both had.
    pub(crate) fn merge(&mut self, other: &Self) -> u64 {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        let mut both = 0;
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            both += u64::from((*mine & theirs).count_ones());
            *mine |= theirs;
        }
        both
    }
}

#[cfg(test)]
mod tests {
    use super::{Arrival::*, *};

    fn arrivals(stream: &mut Stream, sequences: &[u32]) -> Vec<Arrival> {
        sequences.iter().map(|&sequence| stream.observe(sequence)).collect()
    }

    #[test]
    fn messages_in_order_lose_nothing() {
        let mut stream = Stream::default();
        assert_eq!(arrivals(&mut stream, &[0, 1, 2]), [InOrder; 3]);
        assert_eq!(stream.lost(), 0);
    }

    #[test]
    fn a_gap_is_lost_until_it_is_filled() {
        let mut stream = Stream::default();
        assert_eq!(arrivals(&mut stream, &[0, 5]), [InOrder; 2]);
        assert_eq!(stream.lost(), 4);
        assert_eq!(arrivals(&mut stream, &[3, 1, 4, 2]), [Late; 4]);
        assert_eq!(stream.lost(), 0);
    }

    #[test]
    fn a_number_seen_before_is_a_duplicate_also_beside_a_gap() {
        let mut stream = Stream::default();
        let got = arrivals(&mut stream, &[0, 0, 4, 4, 2, 2, 0]);
        assert_eq!(got, [InOrder, Duplicate, InOrder, Duplicate, Late, Duplicate, Duplicate]);
        assert_eq!(stream.lost(), 2);
    }

    #[test]
    fn a_stream_taken_up_midway_misses_only_what_follows() {
        let mut stream = Stream::starting_at(100);
        assert_eq!(arrivals(&mut stream, &[100, 102]), [InOrder; 2]);
        assert_eq!(stream.lost(), 1);
    }

    #[test]
    fn very_many_gaps_are_counted_and_bounded() {
        let mut stream = Stream::default();
        (0..5000).for_each(|n| assert_eq!(stream.observe(2 * n + 1), InOrder));
        assert_eq!(stream.lost(), 5000);
        assert_eq!(stream.missing.len(), Stream::MISSING_COUNT_MAX);
    }

    #[test]
    fn a_group_counts_what_two_members_both_got() {
        let (mut one, mut other) = (Seen::default(), Seen::default());
        assert!(one.insert(0) && one.insert(64) && !one.insert(64));
        assert!(other.insert(64) && other.insert(1000));
        assert_eq!(one.merge(&other), 1);
        assert!(!one.insert(1000));
    }
}
