//! What waits to be written to other nodes: one fast and one durable lane each. Pure.
//!
//! The fast lane (QoS 0) is lost with the link; the durable lane (QoS 1 and 2) is kept until
//! Redis has it or its time is over. Both number their records, so that the receiver sees what
//! is missing and what comes twice. Within one lane the order of publishing is kept; between
//! the two it is not.
//!
//! Scope: node. Bounded by records and bytes, all lanes together.

use std::{collections::VecDeque, time::Instant};

use bytes::Bytes;

use super::wire::{self, Head};

/// Records and bytes of one frame.
const FRAME_COUNT_MAX: usize = 256;
const FRAME_BYTES_MAX: usize = 1 << 20;

/// One message for one node, encoded once for all nodes.
#[derive(Debug)]
pub struct Parcel {
    pub record: Bytes,
    /// Whom to answer when it is written; see [`super::rules::Receipts`].
    pub receipt: Option<u64>,
    /// When it is given up.
    pub deadline: Instant,
}

/// A frame of the durable lane: it keeps its numbers until it is written or given up, so that
/// the receiver knows one that it has already.
#[derive(Debug)]
pub struct Durable {
    pub node: String,
    pub parcels: Vec<Parcel>,
    epoch: u64,
    first: u64,
}

impl Durable {
    pub fn frame(&self, origin: &str) -> Vec<u8> {
        let (epoch, first, count) = (self.epoch, self.first, self.parcels.len() as u32);
        let head = Head { origin, epoch, first, count };
        wire::frame(&head, self.parcels.iter().map(|parcel| &parcel.record[..]))
    }

    pub fn count(&self) -> usize {
        self.parcels.len()
    }

    pub fn bytes(&self) -> usize {
        self.parcels.iter().map(|parcel| parcel.record.len()).sum()
    }

    /// Something in it is for a shared group.
    pub fn is_shared(&self) -> bool {
        self.parcels.iter().any(|parcel| wire::group_of(&parcel.record).is_some())
    }

    pub fn receipts(&self) -> impl Iterator<Item = u64> {
        self.parcels.iter().filter_map(|parcel| parcel.receipt)
    }

    /// Nobody knows whether it was written. It may get other numbers before it is written again:
    /// those who have its messages are told that they come again.
    pub fn doubt(&mut self) {
        for parcel in &mut self.parcels {
            parcel.record = wire::again(&parcel.record).into();
        }
    }

    /// The time of all that is in it is over.
    pub fn is_late(&self, now: Instant) -> bool {
        self.parcels.iter().all(|parcel| parcel.deadline <= now)
    }

    fn last(&self) -> u64 {
        self.first + self.parcels.len() as u64 - 1
    }
}

/// The lanes to one node.
#[derive(Debug)]
pub struct Lane {
    node: String,
    fast: Vec<Bytes>,
    fast_last: u64,
    durable: VecDeque<Parcel>,
    durable_last: u64,
    /// Its inbox in Redis is at the limit.
    pub is_full: bool,
}

/// The last number of each lane to one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    fast: u64,
    durable: u64,
}

/// How much waits. Scope: node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub count: usize,
    pub bytes: usize,
}

impl Load {
    pub fn add(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes += bytes;
    }

    pub fn sub(&mut self, count: usize, bytes: usize) {
        self.count -= count;
        self.bytes -= bytes;
    }
}

impl Lane {
    /// - `numbers`: where the lanes to this node stopped when it was last in the group.
    pub fn new(node: &str, numbers: Numbers) -> Self {
        Self {
            node: node.to_owned(),
            fast: Vec::new(),
            fast_last: numbers.fast,
            durable: VecDeque::new(),
            durable_last: numbers.durable,
            is_full: false,
        }
    }

    /// Where the numbering goes on if the node comes back: it may remember what it has seen.
    pub fn numbers(&self) -> Numbers {
        Numbers { fast: self.fast_last, durable: self.durable_last }
    }

    pub fn push_fast(&mut self, record: Bytes) {
        self.fast.push(record);
    }

    pub fn push_durable(&mut self, parcel: Parcel) {
        self.durable.push_back(parcel);
    }

    pub fn has_durable(&self) -> bool {
        !self.durable.is_empty()
    }

    /// Takes the fast lane as frames. Numbers go on also for what is then lost: that is how
    /// the receiver learns of it.
    pub fn take_fast(&mut self, origin: &str, epoch: u64, load: &mut Load) -> Vec<Bytes> {
        let mut frames = Vec::new();
        let records = std::mem::take(&mut self.fast);
        for chunk in chunks(&records, |record| record.len()) {
            let bytes = chunk.iter().map(Bytes::len).sum();
            load.sub(chunk.len(), bytes);
            let head = next_head(origin, epoch, &mut self.fast_last, chunk.len());
            frames.push(wire::frame(&head, chunk.iter().map(|record| &record[..])).into());
        }
        frames
    }

    /// Takes the durable lane as frames, oldest first.
    pub fn take_durable(&mut self, epoch: u64) -> Vec<Durable> {
        if self.is_full {
            return Vec::new();
        }
        let mut parcels: Vec<Parcel> = std::mem::take(&mut self.durable).into();
        let sizes = chunks(&parcels, |parcel| parcel.record.len()).map(<[Parcel]>::len);
        let sizes: Vec<usize> = sizes.collect();
        let mut frames = Vec::new();
        for size in sizes {
            let rest = parcels.split_off(size);
            let parcels = std::mem::replace(&mut parcels, rest);
            let first = self.durable_last + 1;
            self.durable_last += size as u64;
            frames.push(Durable { node: self.node.clone(), parcels, epoch, first });
        }
        frames
    }

    /// Takes frames back that were certainly not written, oldest first. Unless others were
    /// written behind them, their numbers are used again.
    pub fn put_back(&mut self, frames: Vec<Durable>) {
        let mut next = None;
        let is_run =
            frames.iter().all(|f| next.replace(f.last() + 1).is_none_or(|next| f.first == next));
        if let Some(first) = frames.first()
            && is_run
            && next == Some(self.durable_last + 1)
        {
            self.durable_last = first.first - 1;
        }
        for frame in frames.into_iter().rev() {
            frame.parcels.into_iter().rev().for_each(|parcel| self.durable.push_front(parcel));
        }
    }

    /// Takes out the parcels that are `void`.
    pub fn drop_void(&mut self, load: &mut Load, is_void: impl Fn(&Parcel) -> bool) {
        self.durable.retain(|parcel| {
            let is_kept = !is_void(parcel);
            if !is_kept {
                load.sub(1, parcel.record.len());
            }
            is_kept
        });
    }

    /// Takes out what is given up by now.
    pub fn expire(&mut self, now: Instant) -> Vec<Parcel> {
        let late = self.durable.iter().take_while(|parcel| parcel.deadline <= now).count();
        self.durable.drain(..late).collect()
    }

    /// Takes out all that waits; its node is gone.
    pub fn drain(&mut self) -> (Vec<Bytes>, Vec<Parcel>) {
        (std::mem::take(&mut self.fast), std::mem::take(&mut self.durable).into())
    }
}

fn next_head<'a>(origin: &'a str, epoch: u64, last: &mut u64, count: usize) -> Head<'a> {
    let first = *last + 1;
    *last += count as u64;
    Head { origin, epoch, first, count: count as u32 }
}

/// `items` in runs of a frame's size.
fn chunks<T>(items: &[T], len: impl Fn(&T) -> usize) -> impl Iterator<Item = &[T]> {
    let mut rest = items;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut bytes = 0;
        let fits = rest.iter().take(FRAME_COUNT_MAX).take_while(|item| {
            bytes += len(item);
            bytes <= FRAME_BYTES_MAX
        });
        let count = fits.count().max(1);
        let (chunk, after) = rest.split_at(count);
        rest = after;
        Some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn parcel(bytes: usize, receipt: u64, deadline: Instant) -> Parcel {
        Parcel { record: vec![0; bytes].into(), receipt: Some(receipt), deadline }
    }

    #[test]
    fn frames_are_bounded_and_keep_the_order() {
        let now = Instant::now();
        let mut lane = Lane::new("B", Numbers::default());
        (0..FRAME_COUNT_MAX as u64 + 1).for_each(|n| lane.push_durable(parcel(1, n, now)));
        lane.push_durable(parcel(FRAME_BYTES_MAX * 2, 999, now));
        let frames = lane.take_durable(3);
        let counts: Vec<usize> = frames.iter().map(Durable::count).collect();
        assert_eq!(counts, [FRAME_COUNT_MAX, 1, 1]);
        let receipts: Vec<u64> = frames.iter().flat_map(Durable::receipts).collect();
        assert!(receipts.is_sorted());
    }

    #[test]
    fn numbers_go_on_when_a_node_comes_back() {
        let now = Instant::now();
        let clock = wire::Clock { unix_ms: 0, now: octopus_engine::Instant(0) };
        let mut record = Vec::new();
        let topic = octopus_mqtt::TopicName::parse("a").expect("a topic");
        let message = octopus_engine::Message::new(
            topic,
            b"",
            octopus_mqtt::QoS::AtLeastOnce,
            false,
            &octopus_mqtt::MessageProperties::default(),
            octopus_engine::Instant(0),
        );
        wire::put_message(&mut record, &message, None, clock);
        let record = Bytes::from(record);
        let mut numbers = Numbers::default();
        for expected in [1, 2] {
            let mut lane = Lane::new("B", numbers);
            lane.push_durable(Parcel { record: record.clone(), receipt: None, deadline: now });
            let frames = lane.take_durable(1);
            let bytes = frames[0].frame("A");
            let (head, _) = wire::messages(&bytes, clock).expect("a frame");
            assert_eq!(head.first, expected);
            numbers = lane.numbers();
        }
    }

    #[test]
    fn what_may_have_been_written_is_marked_so_under_whatever_numbers() {
        let now = Instant::now();
        let mut lane = Lane::new("B", Numbers::default());
        lane.push_durable(parcel(2, 1, now));
        let mut frames = lane.take_durable(1);
        let before = frames[0].parcels[0].record.clone();
        frames[0].doubt();
        lane.put_back(frames);
        let frames = lane.take_durable(2);
        assert_eq!(frames[0].parcels[0].record, wire::again(&before));
        assert_ne!(frames[0].parcels[0].record, before);
    }

    #[test]
    fn what_was_not_written_goes_before_what_came_since() {
        let now = Instant::now();
        let mut lane = Lane::new("B", Numbers::default());
        (1..=2).for_each(|n| lane.push_durable(parcel(FRAME_BYTES_MAX, n, now)));
        let frames = lane.take_durable(1);
        lane.push_durable(parcel(1, 3, now));
        lane.put_back(frames);
        let frames = lane.take_durable(1);
        let receipts: Vec<u64> = frames.iter().flat_map(Durable::receipts).collect();
        assert_eq!(receipts, [1, 2, 3]);
        assert_eq!((frames[0].first, frames[1].first), (1, 2));
        // One behind them was written: its number stays.
        lane.put_back(frames.into_iter().take(1).collect());
        assert_eq!(lane.take_durable(1)[0].first, 4);
    }

    #[test]
    fn a_full_inbox_holds_the_durable_lane_until_its_time_is_over() {
        let now = Instant::now();
        let mut lane = Lane::new("B", Numbers::default());
        lane.is_full = true;
        lane.push_durable(parcel(1, 1, now));
        lane.push_durable(parcel(1, 2, now + Duration::from_secs(9)));
        assert!(lane.take_durable(1).is_empty());
        let given_up: Vec<_> = lane.expire(now).into_iter().map(|p| p.receipt).collect();
        assert_eq!(given_up, [Some(1)]);
        lane.is_full = false;
        assert_eq!(lane.take_durable(1)[0].receipts().collect::<Vec<_>>(), [2]);
    }
}
