//! A client that subscribes: checks and times each message it gets.

use std::collections::HashMap;

use foldhash::fast::FixedState;

use crate::{
    context::{Context, Phase},
    order::{Arrival, Seen, Stream},
    plan::{Plan, Spread},
    stamp::Stamp,
};

/// Scope: one connection.
#[derive(Default)]
pub(crate) struct Subscriber {
    /// Its number among the run's subscribers.
    number: usize,
    /// Filters it has asked for.
    asked: usize,
    /// A stream for each publisher heard, and which it is.
    streams: Vec<(Source, Stream)>,
    index: HashMap<Source, u32, FixedState>,
    /// Where the last message belonged: mostly the next one does too.
    last: usize,
}

/// A publisher of some run.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Source {
    run: u32,
    publisher: u32,
}

/// Filters in one SUBSCRIBE.
const FILTERS_PER_PACKET: usize = 100;

impl Subscriber {
    pub(crate) fn new(number: usize) -> Self {
        Self { number, ..Self::default() }
    }

    pub(crate) fn has_more_filters(&self, plan: &Plan) -> bool {
        self.asked < plan.filters_each
    }

    /// The filters of the next SUBSCRIBE.
    pub(crate) fn next_filters(&mut self, plan: &Plan) -> Vec<String> {
        let first = self.asked;
        self.asked = plan.filters_each.min(first + FILTERS_PER_PACKET);
        let filter = plan.filter.replace("%i", &self.number.to_string());
        (first..self.asked).map(|number| filter.replace("%f", &number.to_string())).collect()
    }

    /// Takes one message's payload into the counts.
    #[inline]
    pub(crate) fn receive(&mut self, payload: &[u8], context: &mut Context) {
        context.stats.last_received_ns = context.now;
        let stamp = Stamp::read(payload);
        let Some(stamp) = stamp else {
            context.stats.received += 1;
            return;
        };
        if context.plan.publishers > 0 && stamp.run != context.plan.run {
            context.stats.foreign += 1;
            return;
        }
        if self.is_new(&stamp, context) {
            context.stats.received += 1;
            context.count_delivery(stamp.publisher);
        } else {
            context.stats.duplicates += 1;
        }
        if context.phase == Phase::Measure && context.plan.replay.is_none() {
            context.stats.latency.record_ns(context.now.saturating_sub(stamp.sent_ns));
        }
    }

    /// Messages that were skipped by what this subscriber received.
    pub(crate) fn missing(&self) -> u64 {
        self.streams.iter().map(|(_, stream)| stream.lost()).sum()
    }

    fn is_new(&mut self, stamp: &Stamp, context: &mut Context) -> bool {
        if context.plan.spread == Spread::Group {
            return self.is_new_to_group(stamp, context);
        }
        match self.stream(stamp, context).observe(stamp.sequence) {
            Arrival::InOrder => true,
            Arrival::Late => {
                context.stats.out_of_order += 1;
                true
            }
            Arrival::Duplicate => false,
        }
    }

    /// A member gets some of the messages, each message one member. Retained messages have no
    /// order among topics.
    fn is_new_to_group(&mut self, stamp: &Stamp, context: &mut Context) -> bool {
        let overtaken = self.stream(stamp, context).observe(stamp.sequence) != Arrival::InOrder;
        let publisher = stamp.publisher as usize;
        let seen = &mut context.stats.seen;
        if publisher >= seen.len() {
            seen.resize(publisher + 1, Seen::default());
        }
        let new = seen[publisher].insert(stamp.sequence);
        if new && overtaken && context.plan.replay.is_none() {
            context.stats.out_of_order += 1;
        }
        new
    }

    #[inline]
    fn stream(&mut self, stamp: &Stamp, context: &Context) -> &mut Stream {
        let source = Source { run: stamp.run, publisher: stamp.publisher };
        if self.streams.get(self.last).is_none_or(|(last, _)| *last != source) {
            self.last = self.find(source, stamp, context);
        }
        &mut self.streams[self.last].1
    }

    fn find(&mut self, source: Source, stamp: &Stamp, context: &Context) -> usize {
        let at = *self.index.entry(source).or_insert_with(|| {
            // Of publishers elsewhere we may have come too late for the first messages.
            let from_start = context.plan.publishers > 0;
            let first = if from_start { 0 } else { stamp.sequence };
            self.streams.push((source, Stream::starting_at(first)));
            (self.streams.len() - 1) as u32
        });
        at as usize
    }
}
