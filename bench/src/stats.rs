//! What one thread counts, and how the counts of all threads become one.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::order::Seen;

/// Times in microseconds up to a minute, three digits exact.
#[derive(Clone, Debug)]
pub(crate) struct Times(Histogram<u64>);

impl Times {
    const MICROSECONDS_MAX: u64 = 60_000_000;

    pub(crate) fn new() -> Self {
        let times = Histogram::new_with_bounds(1, Self::MICROSECONDS_MAX, 3);
        Self(times.expect("the bounds are lawful constants"))
    }

    /// Takes one time, in nanoseconds; what is above a minute counts as a minute.
    pub(crate) fn record_ns(&mut self, nanoseconds: u64) {
        self.0.saturating_record((nanoseconds / 1000).max(1));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// `None` if nothing was recorded.
    pub(crate) fn summary(&self) -> Option<Percentiles> {
        let at = |quantile| self.0.value_at_quantile(quantile);
        (!self.0.is_empty()).then(|| Percentiles {
            count: self.0.len(),
            mean_us: self.0.mean(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: self.0.max(),
        })
    }
}

/// A distribution of times, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    pub count: u64,
    pub mean_us: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

/// The counts of one thread over a whole run, or of all threads once merged.
#[derive(Debug)]
pub(crate) struct Stats {
    /// From `connect` to an accepting CONNACK.
    pub connect: Times,
    /// From publish to receipt, while measuring.
    pub latency: Times,
    /// From publish to the last acknowledgement, while measuring.
    pub acknowledge: Times,
    /// Messages handed to sockets.
    pub sent: u64,
    /// Messages received, duplicates not counted.
    pub received: u64,
    pub duplicates: u64,
    pub out_of_order: u64,
    /// Gaps seen by subscribers in what they did receive.
    pub missing: u64,
    /// Messages of other runs, or not of this generator.
    pub foreign: u64,
    /// Messages published above QoS 0 whose acknowledgement never came.
    pub unacknowledged: u64,
    /// When the last client was ready; ns of the monotonic clock.
    pub last_ready_ns: u64,
    /// When the last message came; ns of the monotonic clock.
    pub last_received_ns: u64,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
    /// Of a group: which messages any member of this thread saw, by publisher.
    pub seen: Vec<Seen>,
}

impl Stats {
    pub(crate) fn new() -> Self {
        Self {
            connect: Times::new(),
            latency: Times::new(),
            acknowledge: Times::new(),
            sent: 0,
            received: 0,
            duplicates: 0,
            out_of_order: 0,
            missing: 0,
            foreign: 0,
            unacknowledged: 0,
            last_ready_ns: 0,
            last_received_ns: 0,
            errors: BTreeMap::new(),
            seen: Vec::new(),
        }
    }

    pub(crate) fn count_error(&mut self, what: String) {
        *self.errors.entry(what).or_default() += 1;
    }

    /// Adds another thread's counts. Messages of a group that both threads saw turn out to be
    /// duplicates only here.
    pub(crate) fn merge(&mut self, other: Self) {
        self.connect.merge(&other.connect);
        self.latency.merge(&other.latency);
        self.acknowledge.merge(&other.acknowledge);
        self.sent += other.sent;
        self.received += other.received;
        self.duplicates += other.duplicates;
        self.out_of_order += other.out_of_order;
        self.missing += other.missing;
        self.foreign += other.foreign;
        self.unacknowledged += other.unacknowledged;
        self.last_ready_ns = self.last_ready_ns.max(other.last_ready_ns);
        self.last_received_ns = self.last_received_ns.max(other.last_received_ns);
        for (what, count) in other.errors {
            *self.errors.entry(what).or_default() += count;
        }
        if self.seen.len() < other.seen.len() {
            self.seen.resize(other.seen.len(), Seen::default());
        }
        for (mine, theirs) in self.seen.iter_mut().zip(&other.seen) {
            let both = mine.merge(theirs);
            self.received -= both;
            self.duplicates += both;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut times = Times::new();
        assert_eq!(times.summary(), None);
        (1..=1000).for_each(|us| times.record_ns(us * 1000));
        let summary = times.summary().expect("a thousand times");
        assert_eq!(summary.count, 1000);
        assert_eq!((summary.p50_us, summary.p99_us, summary.p999_us), (500, 990, 999));
        assert_eq!(summary.max_us, 1000);
    }

    #[test]
    fn a_time_too_long_or_too_short_counts_at_the_bound() {
        let mut times = Times::new();
        times.record_ns(0);
        times.record_ns(u64::MAX);
        let summary = times.summary().expect("two times");
        assert_eq!(summary.p50_us, 1);
        assert!(summary.max_us >= Times::MICROSECONDS_MAX);
    }

    #[test]
    fn threads_add_up_and_share_the_view_of_a_group() {
        let (mut one, mut other) = (Stats::new(), Stats::new());
        for (stats, sequences) in [(&mut one, [0, 1]), (&mut other, [1, 2])] {
            stats.seen.resize(1, Seen::default());
            assert!(sequences.iter().all(|&sequence| stats.seen[0].insert(sequence)));
            stats.received = 2;
            stats.count_error("closed".into());
            stats.latency.record_ns(5000);
        }
        one.merge(other);
        assert_eq!((one.received, one.duplicates), (3, 1));
        assert_eq!(one.errors["closed"], 2);
        assert_eq!(one.latency.summary().map(|summary| summary.count), Some(2));
    }
}
