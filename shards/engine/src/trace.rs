//! What happens to the messages of one client, or under one topic, step by step as long as an
//! operator looks: received, matched, forwarded, queued, sent, acknowledged, dropped.
//!
//! Off, it costs one look at [`Trace::is_on`] per step. On, the steps that are wanted go into a
//! bounded ring; at most [`PER_SECOND_MAX`] in a second, so that a trace of everything does not
//! become the shard's main work. Every wanted step has a number whether it is kept or not: a gap
//! tells its reader how many are missing. Scope: shard.

use std::collections::VecDeque;
use std::time::Duration;

use octopus_mqtt::{PacketId, QoS, ReasonCode, TopicFilter, TopicName};

use crate::envelope::{NodeIndex, ShardId};
use crate::event::{ConnectionId, Instant};
use crate::message::{Dropped, Parcel};
use crate::route::Origin;
use crate::shard::{Shard, publisher_hash};
use crate::subscriptions::SessionId;

/// Steps kept for the next reader.
const KEPT_MAX: usize = 2048;
/// Steps kept per second.
const PER_SECOND_MAX: u32 = 1000;
/// Messages remembered until their publishers are acknowledged.
const UNANSWERED_MAX: usize = 256;

/// One thing that happened to a message on this shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Counted from 1 since the trace began; steps that were not kept are counted as well.
    pub serial: u64,
    pub at: Instant,
    /// The publisher of what is received or answered, the subscriber of all else; empty if the
    /// step is about no client of this shard.
    pub client: Box<str>,
    pub topic: Box<str>,
    pub happened: Happened,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// A client of this shard published it.
    Received {
        qos: QoS,
        retain: bool,
        bytes: usize,
    },
    /// It came to this shard, from a client or from elsewhere, and was matched with its
    /// subscriptions: how many sessions and shared groups want it.
    Matched {
        origin: Origin,
        subscribers: usize,
    },
    /// It was sent on to where else it is wanted.
    Forwarded {
        shards: Vec<ShardId>,
        nodes: Vec<NodeIndex>,
    },
    /// It waits in the subscriber's queue, as the last of so many.
    Queued {
        count: usize,
    },
    /// It was put into the subscriber's connection. `again`: after the client came back.
    Sent {
        qos: QoS,
        packet_id: Option<PacketId>,
        again: bool,
    },
    /// The subscriber acknowledged it: PUBACK, or PUBREC for QoS 2.
    Acknowledged {
        reason: ReasonCode,
    },
    /// Its publisher's acknowledgement waits until other shards or nodes have it.
    AnswerWaits,
    /// Its publisher was sent PUBACK or PUBREC.
    Answered {
        reason: ReasonCode,
    },
    Dropped(Dropped),
}

/// What an operator asks of the trace.
#[derive(Clone, Debug)]
pub enum TraceAsk {
    /// Begin anew; what was kept is forgotten.
    ///
    /// - `about`: a Client Identifier, a topic or a filter: steps that fit any of them are kept.
    Start { about: Box<str>, lasts: Duration },
    /// Steps behind this number.
    Read { after: u64, limit: usize },
    /// Stop, and forget what was kept.
    Stop,
}

/// The answer to each [`TraceAsk`].
#[derive(Clone, Debug)]
pub struct TraceSlice {
    /// Oldest first.
    pub steps: Vec<Step>,
    pub now: Instant,
}

/// Whom a trace is about.
#[derive(Debug)]
struct Subject {
    about: Box<str>,
    /// What messages of this client carry to other shards and nodes.
    publisher: u64,
    /// `about` as a Topic Filter without a `$share` in front, if it is one.
    filter: Option<Box<str>>,
    ends_at: Instant,
}

/// A message that its publisher has no PUBACK or PUBREC for yet.
#[derive(Debug)]
struct Unanswered {
    answer: (ConnectionId, PacketId),
    client: Box<str>,
    topic: Box<str>,
}

#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// Whether steps are to be looked at; the only thing read while it is off.
    pub(crate) is_on: bool,
    subject: Option<Box<Subject>>,
    ring: VecDeque<Step>,
    last_serial: u64,
    second_ends_at: Instant,
    kept_this_second: u32,
    unanswered: VecDeque<Unanswered>,
}

impl Subject {
    fn new(about: &str, ends_at: Instant) -> Self {
        let filter = TopicFilter::parse(about).ok();
        let filter = filter.map(|filter| filter.shared().map_or(filter, |(_, inner)| inner));
        Self {
            about: about.into(),
            publisher: publisher_hash(about),
            filter: filter.map(|filter| filter.as_str().into()),
            ends_at,
        }
    }

    fn wants(&self, client: &str, topic: TopicName<'_>, publisher: u64) -> bool {
        let filter = self.filter.as_deref().map(TopicFilter::assume_valid);
        *self.about == *client
            || self.publisher == publisher
            || filter.is_some_and(|filter| filter.matches(topic))
    }
}

impl Trace {
    fn start(&mut self, about: &str, ends_at: Instant) {
        let subject = Some(Box::new(Subject::new(about, ends_at)));
        *self = Self { is_on: true, subject, ..Self::default() };
    }

    fn note(&mut self, now: Instant, client: &str, topic: &str, happened: Happened) {
        self.last_serial += 1;
        if now >= self.second_ends_at {
            self.second_ends_at = now.after(Duration::from_secs(1));
            self.kept_this_second = 0;
        }
        if self.kept_this_second == PER_SECOND_MAX {
            return;
        }
        self.kept_this_second += 1;
        if self.ring.len() == KEPT_MAX {
            self.ring.pop_front();
        }
        let (serial, client, topic) = (self.last_serial, client.into(), topic.into());
        self.ring.push_back(Step { serial, at: now, client, topic, happened });
    }

    fn read(&self, after: u64, limit: usize) -> Vec<Step> {
        let first = self.ring.partition_point(|step| step.serial <= after);
        self.ring.range(first..).take(limit).cloned().collect()
    }
}

impl Shard {
    pub(crate) fn ask_trace(&mut self, ask: TraceAsk) -> TraceSlice {
        let steps = match ask {
            TraceAsk::Start { about, lasts } => {
                self.trace.start(&about, self.now.after(lasts));
                Vec::new()
            }
            TraceAsk::Stop => {
                self.trace = Trace::default();
                Vec::new()
            }
            TraceAsk::Read { after, limit } => self.trace.read(after, limit),
        };
        TraceSlice { steps, now: self.now }
    }

    /// Keeps a step of this message, if it is wanted. To be called only while the trace is on.
    ///
    /// - `whom`: as [`Step::client`].
    #[cold]
    #[inline(never)]
    pub(crate) fn trace_step(
        &mut self,
        whom: Option<SessionId>,
        parcel: &Parcel<'_>,
        happened: Happened,
    ) {
        let client = whom.and_then(|id| self.sessions.get(id)).map_or("", |s| &s.client_id);
        let Some(subject) = &self.trace.subject else { return };
        if subject.ends_at <= self.now {
            self.trace.is_on = false;
            return;
        }
        if subject.wants(client, parcel.topic, parcel.publisher) {
            self.trace.note(self.now, client, parcel.topic.as_str(), happened);
        }
    }

    /// Keeps that this message was put into a session's queue.
    #[cold]
    #[inline(never)]
    pub(crate) fn trace_queued(&mut self, id: SessionId, parcel: &Parcel<'_>) {
        let deliveries = self.sessions.get(id).and_then(|session| session.peek_deliveries());
        let count = deliveries.map_or(0, |deliveries| deliveries.queue.len());
        self.trace_step(Some(id), parcel, Happened::Queued { count });
    }

    /// Remembers what the publisher's next acknowledgement is of, and keeps a step if it is put
    /// off.
    ///
    /// - `answer`: where it goes, and its identifier.
    #[cold]
    #[inline(never)]
    pub(crate) fn trace_unanswered(
        &mut self,
        answer: (ConnectionId, PacketId),
        session: SessionId,
        parcel: &Parcel<'_>,
        is_put_off: bool,
    ) {
        if is_put_off {
            self.trace_step(Some(session), parcel, Happened::AnswerWaits);
        }
        let client = self.sessions.get(session).map_or("", |session| &session.client_id);
        let Some(subject) = &self.trace.subject else { return };
        if !subject.wants(client, parcel.topic, parcel.publisher) {
            return;
        }
        if self.trace.unanswered.len() == UNANSWERED_MAX {
            self.trace.unanswered.pop_front();
        }
        let (client, topic) = (client.into(), parcel.topic.as_str().into());
        self.trace.unanswered.push_back(Unanswered { answer, client, topic });
    }

    /// PUBACK or PUBREC has left.
    #[cold]
    #[inline(never)]
    pub(crate) fn trace_answered(
        &mut self,
        at: ConnectionId,
        packet_id: PacketId,
        reason: ReasonCode,
    ) {
        let is_it = |known: &Unanswered| known.answer == (at, packet_id);
        let Some(index) = self.trace.unanswered.iter().position(is_it) else { return };
        if let Some(Unanswered { client, topic, .. }) = self.trace.unanswered.remove(index) {
            self.trace.note(self.now, &client, &topic, Happened::Answered { reason });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::topic;

    #[test]
    fn a_subject_is_a_client_its_messages_elsewhere_and_the_topics_it_matches() {
        let wants = |about: &str, client: &str, name: &str, publisher: &str| {
            Subject::new(about, Instant(1)).wants(client, topic(name), publisher_hash(publisher))
        };
        assert!(wants("c1", "c1", "a/b", "other") && wants("c1", "other", "a/b", "c1"));
        assert!(wants("a/+", "x", "a/b", "y") && wants("$share/g/a/#", "x", "a/b/c", "y"));
        assert!(!wants("c1", "c2", "a/b", "c3") && !wants("a/+", "x", "b/a", "y"));
        assert!(!wants("#", "x", "$SYS/broker/uptime", ""), "as a subscription");
        assert!(wants("a#b", "a#b", "t", ""), "no filter, but a client's name");
    }

    #[test]
    fn the_ring_is_bounded_and_gaps_in_the_numbers_tell_what_is_missing() {
        let mut trace = Trace::default();
        trace.start("c", Instant(u64::MAX));
        let step = || Happened::Queued { count: 1 };
        for second in 0..4_u64 {
            for _ in 0..2 * u64::from(PER_SECOND_MAX) {
                trace.note(Instant(second * 1_000_000), "c", "t", step());
            }
        }
        let steps = trace.read(0, usize::MAX);
        assert_eq!((steps.len(), trace.last_serial), (KEPT_MAX, 8 * u64::from(PER_SECOND_MAX)));
        let missed = steps[KEPT_MAX - 1].serial - KEPT_MAX as u64;
        assert_eq!(missed, 7000 - KEPT_MAX as u64, "the last second's second half is not told yet");
        assert_eq!(trace.read(steps[9].serial, 2)[..], steps[10..12]);
    }
}
