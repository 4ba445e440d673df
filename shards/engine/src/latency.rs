//! How long messages take from being received to being in the kernel's hands for a subscriber.
//!
//! One delivery in [`SAMPLE_EVERY`] is followed, each one where they are rarer than one in
//! [`SAMPLE_INTERVAL`]: from the moment the node took the message in, to the moment the write that
//! carries it is done. The engine has one time per turn of the driver's loop, so the end is when
//! the driver saw the write done. Messages of the node's own and retained ones are not followed.
//! Scope: shard.

use std::time::Duration;

use crate::event::{ConnectionId, Instant};

/// Deliveries per sample.
const SAMPLE_EVERY: u32 = 16;
/// While samples are further apart than this, the next delivery is one as well.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);
/// Samples followed at a time; while all are taken up by slow readers nobody else is followed.
const SAMPLES_MAX: usize = 2;

/// Buckets of a histogram: four to each power of two, up to 2^27 µs (134 s).
const BUCKETS: usize = 4 * 27;

/// Times in microseconds, counted in buckets whose width is a quarter of their power of two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; BUCKETS],
    sum_us: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], sum_us: 0 }
    }
}

impl Histogram {
    pub fn record(&mut self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket(us)] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum_us = self.sum_us.saturating_add(other.sum_us);
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Sum of all times, microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// Times below `2^power` µs.
    pub fn count_below_power(&self, power: u32) -> u64 {
        let end = bucket(1 << power);
        self.counts[..end].iter().sum()
    }

    /// The time that `share` (0 to 1) of all stay below, microseconds: the upper end of its
    /// bucket. 0 if nothing was recorded.
    pub fn quantile_us(&self, share: f64) -> u64 {
        let wanted = (self.count() as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return upper_end(index);
            }
        }
        0
    }
}

fn bucket(us: u64) -> usize {
    if us < 4 {
        return us as usize;
    }
    let power = us.ilog2() as usize;
    let quarter = (us >> (power - 2)) as usize & 3;
    ((power - 1) * 4 + quarter).min(BUCKETS - 1)
}

/// The first time that is too long for this bucket.
fn upper_end(index: usize) -> u64 {
    if index < 4 {
        return index as u64 + 1;
    }
    let (power, quarter) = (index / 4 + 1, index % 4);
    (4 + quarter as u64 + 1) << (power - 2)
}

/// How far a message came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Hop {
    /// Publisher and subscriber live on one shard.
    #[default]
    SameShard,
    OtherShard,
    /// It came from another node of the group; measured from its arrival at this node.
    OtherNode,
    /// It waited in a queue, whatever way it came.
    Queued,
}

impl Hop {
    pub const ALL: [Self; 4] = [Self::SameShard, Self::OtherShard, Self::OtherNode, Self::Queued];

    /// The label in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::SameShard => "same_shard",
            Self::OtherShard => "other_shard",
            Self::OtherNode => "other_node",
            Self::Queued => "queued",
        }
    }
}

/// Follows some deliveries.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    /// The way of the message being routed now; `None`: do not follow it.
    pub(crate) hop: Option<Hop>,
    /// Deliveries until the next sample.
    left: u32,
    last_at: Instant,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    connection: ConnectionId,
    received_at: Instant,
    hop: Hop,
    /// The write that carries it is out.
    is_writing: bool,
}

impl Sampler {
    /// Messages that came together were put into this connection's buffer.
    #[inline]
    pub(crate) fn delivered(
        &mut self,
        to: ConnectionId,
        count: u32,
        received_at: Instant,
        now: Instant,
    ) {
        match self.left.checked_sub(count) {
            Some(left) => self.left = left,
            None => self.follow(to, received_at, now),
        }
    }

    #[cold]
    fn follow(&mut self, connection: ConnectionId, received_at: Instant, now: Instant) {
        let is_rare = now.since(self.last_at) > SAMPLE_INTERVAL;
        self.left = if is_rare { 0 } else { SAMPLE_EVERY - 1 };
        self.last_at = now;
        let Some(hop) = self.hop else { return };
        let is_known = self.samples.iter().any(|sample| sample.connection == connection);
        if is_known || self.samples.len() == SAMPLES_MAX || received_at == Instant::default() {
            return;
        }
        self.samples.push(Sample { connection, received_at, hop, is_writing: false });
    }

    /// A write with all that is in this connection's buffer leaves.
    #[inline]
    pub(crate) fn writing(&mut self, connection: ConnectionId) {
        if self.samples.is_empty() {
            return;
        }
        for sample in &mut self.samples {
            sample.is_writing |= sample.connection == connection;
        }
    }

    /// The write is done: the way and the time of the message followed in it, if there is one.
    #[inline]
    pub(crate) fn written(
        &mut self,
        connection: ConnectionId,
        now: Instant,
    ) -> Option<(Hop, Duration)> {
        if self.samples.is_empty() {
            return None;
        }
        let is_done = |sample: &Sample| sample.is_writing && sample.connection == connection;
        let index = self.samples.iter().position(is_done)?;
        let sample = self.samples.swap_remove(index);
        Some((sample.hop, now.since(sample.received_at)))
    }

    /// The connection is gone, and what was to be written with it.
    pub(crate) fn forget(&mut self, connection: ConnectionId) {
        self.samples.retain(|sample| sample.connection != connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_lies_in_its_bucket() {
        for us in (0..5000).chain([1 << 20, (1 << 26) + 12_345]) {
            let index = bucket(us);
            assert!(us < upper_end(index), "{us}");
            assert!(index == 0 || us >= upper_end(index - 1), "{us}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_and_powers_agree_with_a_sorted_list() {
        let mut histogram = Histogram::default();
        for us in 1..=1000 {
            histogram.record(Duration::from_micros(us));
        }
        assert_eq!((histogram.count(), histogram.sum_us()), (1000, 500_500));
        assert_eq!(histogram.count_below_power(9), 511);
        for (share, us) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = histogram.quantile_us(share) as f64;
            assert!(found >= us && found <= us * 1.26, "{share}: {found}");
        }
        assert_eq!(Histogram::default().quantile_us(0.5), 0);
    }

    #[test]
    fn a_message_is_timed_from_its_arrival_to_the_end_of_the_write_that_carries_it() {
        let id = ConnectionId { slot: 3, generation: 1 };
        let mut sampler = Sampler { hop: Some(Hop::OtherShard), ..Sampler::default() };
        sampler.delivered(id, 1, Instant(1000), Instant(1200));
        assert_eq!(sampler.written(id, Instant(1300)), None, "an older write");
        sampler.writing(id);
        let expected = (Hop::OtherShard, Duration::from_micros(800));
        assert_eq!(sampler.written(id, Instant(1800)), Some(expected));
        assert_eq!(sampler.written(id, Instant(1900)), None);
    }

    #[test]
    fn every_rare_delivery_is_followed_and_one_in_sixteen_of_many() {
        let followed_of = |gap_us: u64| {
            let mut sampler = Sampler { hop: Some(Hop::SameShard), ..Sampler::default() };
            let mut followed = 0;
            for n in 1..=160_u64 {
                let id = ConnectionId { slot: n as u32, generation: 1 };
                let now = Instant(n * gap_us);
                sampler.delivered(id, 1, now, now);
                sampler.writing(id);
                followed += usize::from(sampler.written(id, now).is_some());
            }
            followed
        };
        assert_eq!(followed_of(200_000), 160);
        assert_eq!(followed_of(10), 10);
    }

    #[test]
    fn what_was_followed_on_a_lost_connection_is_forgotten() {
        let id = ConnectionId { slot: 3, generation: 1 };
        let mut sampler = Sampler { hop: Some(Hop::SameShard), ..Sampler::default() };
        sampler.delivered(id, 1, Instant(1), Instant(1));
        sampler.forget(id);
        sampler.writing(id);
        assert_eq!(sampler.written(id, Instant(2)), None);
    }
}
