//! Acknowledgements that wait: a publisher is told only when its message is as safe as the
//! configured storage promises (invariant 7).
//!
//! While one PUBLISH is routed, everyone who must still confirm it takes the receipt's number
//! with [`Shard::confirmation`] and answers later, once: the hub with `Accepted` or `Refused`,
//! another shard likewise. Nobody took one: the acknowledgement leaves at once and nothing is
//! allocated. Acknowledgements leave a connection in the order of their PUBLISH packets
//! [MQTT-4.6.0-2], [MQTT-4.6.0-3], so one that is ready waits behind one that is not.
//!
//! A message that came from another shard with that shard's receipt is confirmed to it when all
//! confirmations taken here are in.
//!
//! A QoS 2 message of a recorded session is routed only when it is recorded that its client
//! publishes it (`once`); until then its receipt keeps it. So PUBREC waits for two things, one
//! after the other: that the intent is safe, and that everybody has confirmed the message.
//!
//! Scope: shard.

use std::collections::VecDeque;

use hashbrown::HashMap;
use octopus_mqtt::{AckKind, PacketId, ReasonCode, Version};

use crate::connection::{Connection, Pause};
use crate::envelope::{Envelope, Peer, ReceiptId, SessionRef};
use crate::event::{ConnectionId, Output};
use crate::message::Message;
use crate::refusal::Refusal;
use crate::shard::Shard;

/// All receipts of this shard that wait for a confirmation. Bounded by the Receive Maximum of
/// its connections, and by what other shards have under way.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    last: u64,
    /// The receipt of the message being routed, and the confirmations taken so far.
    taking: Option<(u64, u32)>,
    open: HashMap<u64, Open>,
    /// Of messages that are not routed for want of a lease, in order.
    pub(crate) fenced: VecDeque<u64>,
    /// Sessions that another node wants and gets when nothing of theirs is open: client, epoch.
    evicting: Vec<(SessionRef, Box<str>, u64)>,
}

#[derive(Debug)]
struct Open {
    /// Confirmations still to come.
    left: u32,
    refused: Option<ReasonCode>,
    then: Then,
    /// Of a message that was recorded before it was routed; else 0.
    number: u64,
    /// That message, until it is.
    intent: Option<Message>,
}

/// Who waits for a receipt.
#[derive(Debug)]
pub(crate) enum Then {
    /// A client, for its PUBACK or PUBREC.
    Acknowledge(Acknowledgement),
    /// Another shard that sent the message here, or this one: a member of a shared group gave
    /// it back.
    Confirm(ReceiptId),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledgement {
    pub(crate) at: ConnectionId,
    pub(crate) session: SessionRef,
    pub(crate) kind: AckKind,
    pub(crate) packet_id: PacketId,
    /// What to say if it is confirmed.
    pub(crate) reason: ReasonCode,
}

/// What a connection owes its client, in order. Scope: connection.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    queue: VecDeque<Entry>,
    puback_count: usize,
}

#[derive(Debug)]
struct Entry {
    /// 0: nothing is waited for but its turn.
    receipt: u64,
    kind: AckKind,
    packet_id: PacketId,
    /// `None` while it waits.
    reason: Option<ReasonCode>,
    /// Refused by whom it was to be confirmed, and not by the rules for publishing.
    is_lost: bool,
}

impl Receipts {
    fn has_open(&self, session: SessionRef) -> bool {
        self.open
            .values()
            .any(|open| matches!(&open.then, Then::Acknowledge(its) if its.session == session))
    }

    /// The PUBREC of this message is under way.
    pub(crate) fn is_open(&self, session: SessionRef, packet_id: PacketId) -> bool {
        self.open.values().any(|open| open.then.is_pubrec(session, packet_id))
    }
}

impl Then {
    fn is_pubrec(&self, session: SessionRef, packet_id: PacketId) -> bool {
        match self {
            Self::Acknowledge(its) => {
                (its.session, its.packet_id, its.kind) == (session, packet_id, AckKind::PubRec)
            }
            Self::Confirm(_) => false,
        }
    }
}

impl Owed {
    /// QoS 1 messages taken and not acknowledged: they count against Receive Maximum.
    pub(crate) fn puback_count(&self) -> usize {
        self.puback_count
    }

    fn push(&mut self, entry: Entry) {
        self.puback_count += usize::from(entry.kind == AckKind::PubAck);
        self.queue.push_back(entry);
    }

    fn pop_ready(&mut self) -> Option<Entry> {
        self.queue.front()?.reason?;
        let entry = self.queue.pop_front()?;
        self.puback_count -= usize::from(entry.kind == AckKind::PubAck);
        Some(entry)
    }
}

impl Shard {
    /// From here to [`Shard::end_receipt`], confirmations can be taken for one message.
    pub(crate) fn begin_receipt(&mut self) {
        self.receipts.taking = Some((self.receipts.last + 1, 0));
    }

    /// One more confirmation is needed for the message being routed: whoever gets the number
    /// answers it once. `None` if nobody waits for an acknowledgement of this message.
    pub(crate) fn confirmation(&mut self) -> Option<ReceiptId> {
        let (serial, taken) = self.receipts.taking.as_mut()?;
        *taken += 1;
        Some(ReceiptId { shard: self.config.id, serial: *serial })
    }

    /// Does `then` when all confirmations are in; at once, and `false`, if none was taken.
    pub(crate) fn end_receipt(&mut self, then: impl FnOnce() -> Option<Then>) -> bool {
        let left = self.receipts.taking.take().map_or(0, |(_, taken)| taken);
        if left == 0 {
            return false;
        }
        self.receipts.last += 1;
        let receipt = self.receipts.last;
        let Some(then) = then() else { return false };
        if let Then::Acknowledge(acknowledgement) = &then {
            self.owe(*acknowledgement, receipt);
        }
        let open = Open { left, refused: None, then, number: 0, intent: None };
        self.receipts.open.insert(receipt, open);
        true
    }

    // --- of a message that is not routed yet (`once`) ---

    /// Owes PUBREC for this message; gives the receipt's number.
    pub(crate) fn open_intent(
        &mut self,
        acknowledgement: Acknowledgement,
        message: Message,
    ) -> u64 {
        self.receipts.last += 1;
        let receipt = self.receipts.last;
        self.owe(acknowledgement, receipt);
        let (then, number) = (Then::Acknowledge(acknowledgement), message.id());
        let open = Open { left: 0, refused: None, then, number, intent: Some(message) };
        self.receipts.open.insert(receipt, open);
        receipt
    }

    /// What is owed for a message that is not routed. `None` if it was given up.
    pub(crate) fn intent_of(&self, receipt: u64) -> Option<Acknowledgement> {
        let open = self.receipts.open.get(&receipt).filter(|open| open.intent.is_some())?;
        match open.then {
            Then::Acknowledge(acknowledgement) => Some(acknowledgement),
            Then::Confirm(_) => None,
        }
    }

    /// The message, which is to be routed now.
    pub(crate) fn take_intent(&mut self, receipt: u64) -> Option<Message> {
        self.receipts.open.get_mut(&receipt)?.intent.take()
    }

    /// Nothing comes of what this session intends: of one message as of those behind it.
    pub(crate) fn forget_intents(&mut self, session: SessionRef) {
        self.receipts.open.retain(|_, open| {
            let is_its = matches!(open.then, Then::Acknowledge(its) if its.session == session);
            !is_its || open.intent.is_none()
        });
        self.evict_settled(session);
    }

    /// From here to [`Shard::end_receipt_of`], confirmations can be taken for its message.
    pub(crate) fn begin_receipt_of(&mut self, receipt: u64) {
        self.receipts.taking = Some((receipt, 0));
    }

    /// The message is routed; its client is told `reason` when all have confirmed it.
    pub(crate) fn end_receipt_of(&mut self, receipt: u64, said: ReasonCode) {
        let taken = self.receipts.taking.take().map_or(0, |(_, taken)| taken);
        let Some(open) = self.receipts.open.get_mut(&receipt) else { return };
        open.left = taken;
        if let Then::Acknowledge(Acknowledgement { reason, .. }) = &mut open.then {
            *reason = said;
        }
        if taken == 0 {
            self.complete(receipt);
        }
    }

    /// The session is another node's: what its client has no acknowledgement of, it publishes
    /// there again, and other nodes must not get it from here any more.
    pub(crate) fn abandon_receipts(&mut self, session: SessionRef) {
        self.forget_intents(session);
        let is_its = |open: &Open| match &open.then {
            Then::Acknowledge(acknowledgement) => acknowledgement.session == session,
            Then::Confirm(_) => false,
        };
        let its = self.receipts.open.iter().filter(|(_, open)| is_its(open));
        let mut receipts: Vec<u64> = its.map(|(&receipt, _)| receipt).collect();
        if !receipts.is_empty() {
            receipts.sort_unstable();
            self.send_hub(Envelope::LetGo { receipts });
        }
    }

    /// Puts the handing over of a session off while something its client published is not
    /// confirmed: what the client publishes elsewhere must come behind it. `false` if all is.
    pub(crate) fn evict_confirmed(
        &mut self,
        session: SessionRef,
        client: &str,
        epoch: u64,
    ) -> bool {
        let is_open = self.receipts.has_open(session);
        let is_noted = self.receipts.evicting.iter().any(|(of, ..)| *of == session);
        if is_open && !is_noted {
            self.receipts.evicting.push((session, client.into(), epoch));
        }
        is_open
    }

    fn evict_settled(&mut self, session: SessionRef) {
        let receipts = &mut self.receipts;
        let Some(at) = receipts.evicting.iter().position(|(of, ..)| *of == session) else { return };
        if !receipts.has_open(session) {
            let (_, client_id, epoch) = receipts.evicting.swap_remove(at);
            self.evict(client_id, epoch);
        }
    }

    /// Takes a message of another shard in, which waits for our word.
    pub(crate) fn route_for(&mut self, message: &Message, receipt: ReceiptId) {
        self.begin_receipt();
        self.route_message(message, crate::route::Origin::Shard);
        if !self.end_receipt(|| Some(Then::Confirm(receipt))) {
            self.send(receipt.shard, Envelope::Accepted { receipt });
        }
    }

    /// A confirmation is here, or will never be.
    pub(crate) fn confirmed(&mut self, receipt: ReceiptId, refused: Option<ReasonCode>) {
        let Some(open) = self.receipts.open.get_mut(&receipt.serial) else { return };
        open.left -= 1;
        open.refused = open.refused.or(refused);
        if open.left == 0 {
            self.complete(receipt.serial);
        }
    }

    /// All confirmations are in.
    fn complete(&mut self, serial: u64) {
        let Some(open) = self.receipts.open.remove(&serial) else { return };
        match open.then {
            Then::Confirm(receipt) if receipt.shard == self.config.id => {
                self.confirmed(receipt, open.refused);
            }
            Then::Confirm(receipt) => {
                let envelope = match open.refused {
                    None => Envelope::Accepted { receipt },
                    Some(reason) => Envelope::Refused { receipt, reason },
                };
                self.send(receipt.shard, envelope);
            }
            Then::Acknowledge(acknowledgement) => {
                match open.refused {
                    None if open.number != 0 => self.end_intent(&acknowledgement, open.number),
                    // It was not published everywhere: when it comes again, it is a new message;
                    // or this one again, if it has a number and the client cannot be told.
                    Some(_) if open.number == 0 => self.release(&acknowledgement),
                    _ => {}
                }
                self.settle(serial, &acknowledgement, open.refused);
                self.evict_settled(acknowledgement.session);
            }
        }
    }

    /// PUBACK or PUBREC in its turn, for a message that nobody has to confirm.
    ///
    /// Returns `false`, having done nothing, if no other acknowledgement is before it.
    pub(crate) fn owe_behind(
        &mut self,
        at: ConnectionId,
        kind: AckKind,
        packet_id: PacketId,
        reason: ReasonCode,
    ) -> bool {
        let Some(connection) = self.connections.get_mut(at) else { return true };
        let Some(owed) = connection.owed.as_mut() else { return false };
        owed.push(Entry { receipt: 0, kind, packet_id, reason: Some(reason), is_lost: false });
        true
    }

    /// A QoS 2 message came again while its receipt is open: its PUBREC goes to the connection
    /// it came on. `false` if there is no such receipt.
    pub(crate) fn owe_again(
        &mut self,
        at: ConnectionId,
        session: SessionRef,
        packet_id: PacketId,
    ) -> bool {
        let found = self.receipts.open.iter_mut().find_map(|(&receipt, open)| {
            let is_it = open.then.is_pubrec(session, packet_id);
            let Then::Acknowledge(acknowledgement) = &mut open.then else { return None };
            is_it.then_some((receipt, acknowledgement))
        });
        let Some((receipt, acknowledgement)) = found else { return false };
        if acknowledgement.at != at {
            acknowledgement.at = at;
            let acknowledgement = *acknowledgement;
            self.owe(acknowledgement, receipt);
        }
        true
    }

    fn owe(&mut self, acknowledgement: Acknowledgement, receipt: u64) {
        let Acknowledgement { at, kind, packet_id, .. } = acknowledgement;
        let Some(connection) = self.connections.get_mut(at) else { return };
        let max = usize::from(self.editions.get(connection.edition).receive_max);
        let owed = connection.owed.get_or_insert_default();
        owed.push(Entry { receipt, kind, packet_id, reason: None, is_lost: false });
        // An older client knows no Receive Maximum: it is not read instead.
        if owed.queue.len() >= max && connection.pause(Pause::AwaitingReceipts) {
            self.push(Output::PauseReading { connection: at });
        }
    }

    fn settle(
        &mut self,
        receipt: u64,
        acknowledgement: &Acknowledgement,
        refused: Option<ReasonCode>,
    ) {
        let Some(connection) = self.connections.get_mut(acknowledgement.at) else { return };
        let Some(owed) = connection.owed.as_mut() else { return };
        if let Some(entry) = owed.queue.iter_mut().find(|entry| entry.receipt == receipt) {
            entry.reason = Some(refused.unwrap_or(acknowledgement.reason));
            entry.is_lost = refused.is_some();
        }
        self.pay(acknowledgement.at);
    }

    /// A QoS 2 message was refused: its identifier is free.
    fn release(&mut self, acknowledgement: &Acknowledgement) {
        if acknowledgement.kind == AckKind::PubRec
            && let Some(session) = self.sessions.get_ref(acknowledgement.session)
        {
            session.deliveries().release(acknowledgement.packet_id);
        }
    }

    /// Sends the acknowledgements whose turn it is.
    fn pay(&mut self, at: ConnectionId) {
        loop {
            let Some(connection) = self.connections.get_mut(at) else { return };
            let Some(owed) = connection.owed.as_mut() else { return };
            let Some(entry) = owed.pop_ready() else { break };
            let manner = connection.manner();
            let reason = entry.reason.unwrap_or(ReasonCode::Success);
            if entry.is_lost && manner.version != Version::V5 {
                // It cannot be told; without an acknowledgement it sends the message again.
                return self.refuse(at, Refusal::Told(reason));
            }
            if entry.is_lost && entry.kind == AckKind::PubRec {
                self.release_intent(at, entry.packet_id);
            }
            let Some(out) = self.out(at) else { return };
            manner.put_ack(out, entry.kind, entry.packet_id, reason);
            if self.trace.is_on {
                self.trace_answered(at, entry.packet_id, reason);
            }
        }
        self.resume_paid(at);
    }

    fn resume_paid(&mut self, at: ConnectionId) {
        let Some(connection) = self.connections.get_mut(at) else { return };
        let half = usize::from(self.editions.get(connection.edition).receive_max) / 2;
        let left = connection.owed.as_ref().map_or(0, |owed| owed.queue.len());
        if left == 0 {
            connection.owed = None;
        }
        if left <= half && connection.resume(Pause::AwaitingReceipts) {
            self.push(Output::ResumeReading { connection: at });
        }
    }

    /// Sends to the hub.
    pub(crate) fn send_hub(&mut self, envelope: Envelope) {
        self.push(Output::Send { to: Peer::Hub, envelope });
    }
}

impl Connection {
    /// QoS 1 messages of this client that are not acknowledged yet.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.owed.as_ref().map_or(0, |owed| owed.puback_count())
    }
}
