//! QoS 2 across the death of a node: a message is delivered once, also if the node of its
//! publisher dies, is cut off or stands still before it could acknowledge it.
//!
//! The publisher's side. A message of a recorded session gets its number with the intent to
//! publish it: both are recorded with its Packet Identifier, and it is routed when that is safe.
//! PUBREC leaves when everybody has confirmed the message (`receipt`); that nothing of it is left
//! to do is recorded then, without waiting for it. A client that publishes under an identifier
//! whose message was not confirmed, here or on another node, has it published under the same
//! number again, and marked so ([`crate::Message::is_again`]). An intent that was not safe was
//! not routed either: that message is a new one. What a node wrote to another's inbox, and does
//! not know whether it did, is marked in the same way when it is written again (`outbox`); and
//! what comes by way of a node that had the session before (`handover`, `estate`) is taken for
//! marked.
//!
//! The receiver's side. A session leaves a message out that comes again, if it has this number
//! in its queue or in flight, or got it lately: it remembers the last [`GOT_MAX`] its client said
//! PUBREC to, and they are recorded as well. The first of two may come last, by a longer way: the
//! numbers that came again are kept for as many, and not taken a second time.
//!
//! Not told apart: a shared group, which gives the message that comes again to the member whose
//! turn it is; and what is delivered at QoS 1 or 0. Between the intent and its being safe, what
//! the same client publishes with a lower QoS may overtake.
//!
//! Scope: session.

use std::collections::VecDeque;

use octopus_mqtt::{AckKind, PacketId, QoS, ReasonCode};

use crate::durable::{Change, Promise};
use crate::event::ConnectionId;
use crate::message::{Dropped, Message, Parcel};
use crate::receipt::Acknowledgement;
use crate::refusal::Refusal;
use crate::session::{Deliveries, Extra, Queued};
use crate::shard::Shard;
use crate::subscriptions::SessionId;

/// Numbers of received messages that a session remembers.
pub const GOT_MAX: usize = 256;

/// What a session remembers of its QoS 2 messages by their numbers.
#[derive(Debug, Default)]
pub(crate) struct Once {
    /// Published by the client and not confirmed by everybody: under which identifier.
    intents: VecDeque<(PacketId, u64)>,
    /// The client said PUBREC to these, the last one last.
    got: VecDeque<u64>,
    /// These came again, and it was their first time here.
    again: VecDeque<u64>,
}

impl Once {
    pub(crate) fn new(intents: Vec<(PacketId, u64)>, got: Vec<u64>) -> Self {
        Self { intents: intents.into(), got: got.into(), again: VecDeque::new() }
    }

    pub(crate) fn intents(&self) -> impl Iterator<Item = (PacketId, u64)> {
        self.intents.iter().copied()
    }

    pub(crate) fn got(&self) -> impl Iterator<Item = u64> {
        self.got.iter().copied()
    }

    pub(crate) fn forget(&mut self, packet_id: PacketId) {
        // Mostly the oldest.
        if let Some(place) = self.intents.iter().position(|(id, _)| *id == packet_id) {
            self.intents.remove(place);
        }
    }
}

fn remember(numbers: &mut VecDeque<u64>, number: u64) {
    while numbers.len() >= GOT_MAX {
        numbers.pop_front();
    }
    numbers.push_back(number);
}

impl Queued {
    /// It is the message of this number, and not a shared group's.
    fn is(&self, number: u64) -> bool {
        self.message.id() == number && self.extra.as_ref().is_none_or(|extra| extra.group.is_none())
    }
}

impl Deliveries {
    /// The number of the message under this identifier, if not everybody has confirmed it.
    pub(crate) fn intent(&self, packet_id: PacketId) -> Option<u64> {
        let mut intents = self.once.as_ref()?.intents();
        intents.find(|(id, _)| *id == packet_id).map(|(_, number)| number)
    }

    /// The client said PUBREC to this message. Gives the number to be kept, or 0.
    pub(crate) fn has_got(&mut self, item: &Queued) -> u64 {
        let number = item.message.id();
        if number == 0 || !item.is(number) {
            return 0;
        }
        remember(&mut self.once.get_or_insert_default().got, number);
        number
    }

    fn has_or_had(&self, number: u64) -> bool {
        let once = self.once.as_ref();
        once.is_some_and(|once| once.got.contains(&number) || once.again.contains(&number))
            || self.inflight.published().chain(&self.queue).any(|item| item.is(number))
    }

    /// Whether a message is here already; notes it if it comes again and is not.
    fn is_repeated(&mut self, number: u64, is_again: bool) -> bool {
        if !is_again {
            return self.once.as_ref().is_some_and(|once| once.again.contains(&number));
        }
        let is_here = self.has_or_had(number);
        if !is_here {
            remember(&mut self.once.get_or_insert_default().again, number);
        }
        is_here
    }
}

impl Shard {
    /// Leaves out what the session has, or had, already.
    pub(crate) fn leave_out(
        &mut self,
        id: SessionId,
        parcel: &Parcel<'_>,
        qos: QoS,
        extra: Option<&Extra>,
    ) -> bool {
        let is_shared = extra.is_some_and(|extra| extra.group.is_some());
        if qos != QoS::ExactlyOnce || is_shared || parcel.id == 0 {
            return false;
        }
        // What comes by way of another node may have come directly as well.
        let is_again = parcel.is_again || self.estates.is_delivering;
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let is_left_out = match session.deliveries_if_any() {
            None if !is_again => false,
            _ => session.deliveries().is_repeated(parcel.id, is_again),
        };
        if is_left_out {
            self.stats.ledger.deliver();
        }
        is_left_out
    }

    /// Whether the messages of this session are routed only when that is known.
    pub(crate) fn intends(&self, session: SessionId, qos: QoS) -> bool {
        qos == QoS::ExactlyOnce
            && self.sessions.get(session).is_some_and(|found| self.records_messages(found))
    }

    /// The number under which a message was published already, if not everybody confirmed it and
    /// nothing is under way to that.
    pub(crate) fn cut_off(&self, session: SessionId, packet_id: PacketId) -> Option<u64> {
        let found = self.sessions.get(session)?;
        let number = found.peek_deliveries()?.intent(packet_id)?;
        (!self.receipts.is_open(found.id, packet_id)).then_some(number)
    }

    /// Records that the session publishes this message, and routes it when that is safe.
    pub(crate) fn intend(
        &mut self,
        at: ConnectionId,
        session: SessionId,
        packet_id: PacketId,
        message: Message,
    ) {
        let Some(found) = self.sessions.get_mut(session) else { return };
        let (kind, reason) = (AckKind::PubRec, ReasonCode::Success);
        let acknowledgement = Acknowledgement { at, session: found.id, kind, packet_id, reason };
        let number = message.id();
        if !message.is_again() {
            let once = found.deliveries().once.get_or_insert_default();
            once.intents.push_back((packet_id, number));
        }
        self.record(session, || Change::Incoming { packet_id, number });
        let receipt = self.open_intent(acknowledgement, message);
        self.promise(Promise::Route { receipt });
    }

    /// Routes a message whose intent is safe. Without the lease the session may be another
    /// node's, and the message be published by way of that: it is known when there is one again.
    ///
    /// - `is_refused`: it is another node's.
    pub(crate) fn route_intent(&mut self, receipt: u64, is_refused: bool) {
        if self.is_fenced && !is_refused {
            return self.receipts.fenced.push_back(receipt);
        }
        let Some(acknowledgement) = self.intent_of(receipt) else { return };
        if is_refused {
            self.forget_intents(acknowledgement.session);
            return self.refuse(acknowledgement.at, Refusal::Told(ReasonCode::ServerUnavailable));
        }
        let Some(message) = self.take_intent(receipt) else { return };
        self.begin_receipt_of(receipt);
        let mut reason = ReasonCode::Success;
        if message.is_expired(self.now) {
            self.drop_for_nobody(Dropped::Expired, &message.parcel());
        } else {
            if message.retain() {
                self.retain_everywhere(message.clone());
            }
            let publisher = self.sessions.get_ref(acknowledgement.session).map(|s| s.id.id);
            let mut parcel = message.parcel();
            if self.route(&mut parcel, crate::route::Origin::Client, publisher) == 0 {
                reason = ReasonCode::NoMatchingSubscribers;
            }
        }
        self.end_receipt_of(receipt, reason);
    }

    /// The lease is there again: what was lost without it is known.
    pub(crate) fn route_fenced(&mut self) {
        for receipt in std::mem::take(&mut self.receipts.fenced) {
            self.route_intent(receipt, false);
        }
    }

    /// Everybody has confirmed this message: published again, it is not routed again.
    pub(crate) fn end_intent(&mut self, acknowledgement: &Acknowledgement, number: u64) {
        let Acknowledgement { session, packet_id, .. } = *acknowledgement;
        let Some(found) = self.sessions.get_ref(session) else { return };
        let Some(deliveries) = found.deliveries_if_any() else { return };
        if deliveries.intent(packet_id) == Some(number) {
            deliveries.once.get_or_insert_default().forget(packet_id);
            self.record(session.id, || Change::Incoming { packet_id, number: 0 });
        }
    }

    /// The client is told that its message was refused: it is not published again.
    pub(crate) fn release_intent(&mut self, at: ConnectionId, packet_id: PacketId) {
        let session = self.connections.get(at).and_then(|connection| connection.session());
        let Some(session) = session else { return };
        let found = self.sessions.get_mut(session).and_then(|found| found.deliveries_if_any());
        let Some(deliveries) = found.filter(|found| found.intent(packet_id).is_some()) else {
            return;
        };
        deliveries.release(packet_id);
        self.record(session, || Change::IncomingReleased { packet_id });
    }
}
