//! Session State as it leaves a shard: whole, to go on elsewhere, or change by change, to be
//! kept where the node's death does not reach it.
//!
//! A shard that belongs to a group does not own its sessions by itself. The hub claims each for
//! it under an epoch, and takes it away again when its client connects to another node
//! (`handle/claim.rs`). What changes in a recorded session goes to the hub as a [`RecordOp`], in
//! order; the hub tells with [`Envelope::Recorded`] how many of them are safe, and what must not
//! be said before that waits in the [`Recorder`].
//!
//! Nothing here happens on a shard that is alone: no session has an epoch there.

use std::collections::VecDeque;
use std::sync::Arc;

use octopus_mqtt::{AckKind, PacketId, QoS, ReasonCode};

use crate::envelope::{Envelope, ReceiptId, SessionRef};
use crate::event::{ConnectionId, Instant};
use crate::handover::{Moving, Passed};
use crate::inflight::{Inflight, Sent};
use crate::message::Message;
use crate::once::Once;
use crate::session::{Away, Extra, Queued, Session};
use crate::shard::Shard;
use crate::subscriptions::{Grant, SessionId};
use crate::will::Will;

/// What of its recorded sessions a shard tells the hub, change by change. Scope: node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// That they exist, their wills and when they end. Without it, nothing is told.
    pub sessions: bool,
    pub subscriptions: bool,
    /// Queued and unfinished messages, in both directions.
    pub messages: bool,
}

/// A session with all its state, owned by whoever holds it. Moments are those of the shard
/// that made it; who carries it to another node translates them.
#[derive(Clone, Debug, Default)]
pub struct SessionRecord {
    /// Session Expiry Interval, seconds.
    pub expiry_s: u32,
    /// When it ends, if its client is away.
    pub ends_at: Option<Instant>,
    pub will: Option<Box<Will>>,
    /// When the will is due, if its client is away.
    pub will_at: Option<Instant>,
    /// Filters as subscribed, `$share/…` included.
    pub subscriptions: Vec<(Box<str>, Grant)>,
    /// In the order of sending: in flight first, then queued.
    pub deliveries: Vec<DeliveryRecord>,
    /// The node that handed it over and goes on passing messages to it for a while; empty if
    /// that is the node it comes to.
    pub passed_by: Option<Box<str>>,
    /// What came to it directly while messages were passed on to it, in order.
    pub held: Vec<HeldRecord>,
    /// Nodes it was taken from without their doing, in whose inboxes there may be messages for
    /// it.
    pub left: Vec<Box<str>>,
    /// QoS 2 identifiers received and not released.
    pub incoming: Vec<PacketId>,
    /// The same, with the numbers of messages that are perhaps not yet with everybody.
    pub intents: Vec<(PacketId, u64)>,
    /// Numbers of the last QoS 2 messages the client said PUBREC to, oldest first.
    pub got: Vec<u64>,
    pub last_packet_id: u16,
}

/// A message on its way to a session's client.
#[derive(Clone, Debug)]
pub struct DeliveryRecord {
    /// Rises with the order of sending within a session; wraps.
    pub serial: u32,
    pub state: DeliveryState,
    /// `None` once released: the message is the client's then.
    pub item: Option<DeliveryItem>,
}

/// A message that waits behind what is passed on to its session.
#[derive(Clone, Debug)]
pub struct HeldRecord {
    /// Rises with the order.
    pub place: u64,
    pub item: DeliveryItem,
}

/// Where a message for a session that moves was kept. When it is queued, or need not be, it is
/// there no more, in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// It is the oldest of what was passed on.
    pub is_passed: bool,
    /// It was held in this place.
    pub held: Option<u64>,
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    /// Not sent.
    Queued,
    /// PUBLISH may be out under this identifier.
    Published(PacketId),
    /// PUBREL may be out under this identifier.
    Released(PacketId),
}

/// A message and how it is sent.
#[derive(Clone, Debug)]
pub struct DeliveryItem {
    pub message: Message,
    pub qos: QoS,
    pub retain: bool,
    pub subscription_ids: Vec<u32>,
    /// The shared group that picked this session.
    pub group: Option<Arc<str>>,
}

/// One change of a recorded session.
#[derive(Clone, Debug)]
pub struct RecordOp {
    pub client_id: Box<str>,
    /// The ownership under which it happened.
    pub epoch: u64,
    pub change: Change,
}

#[derive(Clone, Debug)]
pub enum Change {
    /// A connection has the session now.
    Opened {
        expiry_s: u32,
        will: Option<Box<Will>>,
    },
    /// The client went away.
    Away {
        expiry_s: u32,
        ends_at: Option<Instant>,
        will_at: Option<Instant>,
    },
    /// The will was sent or thrown away.
    WillGone,
    /// Nothing of the session remains.
    Ended,
    Subscribed {
        filter: Box<str>,
        grant: Grant,
    },
    Unsubscribed {
        filter: Box<str>,
    },
    /// A message waits for the client, which was kept elsewhere before.
    Queued {
        serial: u32,
        item: DeliveryItem,
        kept: Kept,
    },
    /// A message that was kept for the session is not queued.
    Unkept(Kept),
    /// A message came directly while others are passed on.
    Held(HeldRecord),
    /// The session is where it is. The old node said that it passes nothing more on; or it did
    /// not say so in time, and the session needs what is in its inbox, behind what was passed on
    /// before this is recorded: the hub answers with [`Envelope::Pass`], even if that is nothing.
    Arrived {
        is_told: bool,
    },
    /// The message with this serial is in flight.
    Published {
        serial: u32,
        packet_id: PacketId,
    },
    /// The client has the message; PUBREL follows.
    Released {
        serial: u32,
        packet_id: PacketId,
        /// To be kept among [`SessionRecord::got`]; 0: need not be.
        number: u64,
    },
    /// All of [`SessionRecord::got`].
    Got {
        numbers: Vec<u64>,
    },
    /// The delivery is over.
    Done {
        serial: u32,
    },
    /// Every node knows that the session has come here: whoever had it before need not pass
    /// anything on any more.
    Known,
    /// A message for a session that is another node's now; `None`: there are no more.
    Passed {
        item: Option<DeliveryItem>,
    },
    /// The session has what was left for it in this node's inbox.
    Inherited {
        node: Box<str>,
    },
    /// A QoS 2 identifier of the client's was received, and released.
    Incoming {
        packet_id: PacketId,
        /// Its message is to be published under this number; 0: that is done.
        number: u64,
    },
    IncomingReleased {
        packet_id: PacketId,
    },
}

impl Recorded {
    fn covers(self, change: &Change) -> bool {
        match change {
            // Also of a session that is not recorded, the ownership moves and ends.
            Change::Ended | Change::Inherited { .. } | Change::Known => true,
            Change::Arrived { .. } => true,
            Change::Unkept(kept) => kept.is_passed || self.sessions && self.messages,
            Change::Opened { .. } | Change::Away { .. } | Change::WillGone => self.sessions,
            Change::Subscribed { .. } | Change::Unsubscribed { .. } => {
                self.sessions && self.subscriptions
            }
            _ => self.sessions && self.messages,
        }
    }
}

/// Counts what was told to the hub, and keeps what waits for it to be safe. Scope: shard.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    /// Operations sent so far.
    pub(crate) sent: u64,
    safe: u64,
    waiting: VecDeque<(u64, Promise)>,
    /// Where what is being delivered to this session was kept.
    kept: Option<(SessionRef, Kept)>,
    /// QoS 2 messages of other nodes came since the hub's last fence.
    pub(crate) is_ahead: bool,
    /// The fence behind the last of them, and the last up to which the inbox is trimmed.
    fence: u64,
    trimmed: u64,
    /// What waits for the inbox to be trimmed: up to the next fence, or this one.
    untrimmed: VecDeque<(Option<u64>, Promise)>,
}

/// What is said only when the operations before it are safe.
#[derive(Debug)]
pub(crate) enum Promise {
    /// PUBREL or PUBCOMP.
    Reply { connection: ConnectionId, kind: AckKind, packet_id: PacketId, reason: ReasonCode },
    /// What the publisher's acknowledgement waits for.
    Confirm(ReceiptId),
    /// A QoS 2 message is published: that it is must be known to whoever gets it again.
    Route { receipt: u64 },
    /// The hub's fence: it may throw away what came before.
    Fenced { barrier: u64 },
    /// The first PUBLISH of a QoS 2 message: its identifier must be known to whoever may have
    /// to send it again, and it must not be in the node's inbox any more, out of which it would
    /// come again when the client has finished it.
    Publish { session: SessionRef, packet_id: PacketId },
}

impl From<&Queued> for DeliveryItem {
    fn from(item: &Queued) -> Self {
        let extra = item.extra.as_deref().cloned().unwrap_or_default();
        Self {
            message: item.message.clone(),
            qos: item.qos,
            retain: item.retain,
            subscription_ids: extra.subscription_ids,
            group: extra.group,
        }
    }
}

impl DeliveryItem {
    fn queued(self, serial: u32) -> Queued {
        let has_extra = self.group.is_some() || !self.subscription_ids.is_empty();
        let extra = Extra { subscription_ids: self.subscription_ids, group: self.group };
        Queued {
            message: self.message,
            qos: self.qos,
            retain: self.retain,
            serial,
            extra: has_extra.then(|| Box::new(extra)),
        }
    }
}

impl Shard {
    // --- change by change ---

    /// Whether changes of this session's messages are told to the hub.
    pub(crate) fn records_messages(&self, session: &Session) -> bool {
        session.is_recorded && self.config.recorded.sessions && self.config.recorded.messages
    }

    /// Tells the hub of a change, if it is one that is recorded.
    pub(crate) fn record(&mut self, id: SessionId, change: impl FnOnce() -> Change) {
        let Some(session) = self.sessions.get(id).filter(|session| session.is_recorded) else {
            return;
        };
        let (client_id, epoch, session) = (session.client_id.clone(), session.epoch, session.id);
        let mut change = change();
        if !self.config.recorded.covers(&change) {
            return;
        }
        if let Change::Queued { kept, .. } = &mut change
            && let Some((_, from)) = self.recorder.kept.take_if(|(of, _)| *of == session)
        {
            *kept = from;
        }
        let is_promised = matches!(change, Change::Queued { .. } | Change::Held(_));
        let op = RecordOp { client_id, epoch, change };
        if is_promised { self.send_promised(op) } else { self.send_op(op) }
    }

    /// What is delivered to the session next was kept there.
    pub(crate) fn begin_unkeeping(&mut self, session: SessionRef, kept: Kept) {
        self.end_unkeeping();
        self.recorder.kept = Some((session, kept));
    }

    /// It is delivered: if it was not queued, it is to be forgotten where it was.
    pub(crate) fn end_unkeeping(&mut self) {
        let Some((session, kept)) = self.recorder.kept.take() else { return };
        if self.sessions.get_ref(session).is_some() {
            self.record_always(session.id, Change::Unkept(kept));
        }
    }

    /// Tells the hub of a change that is recorded also of a session that is not, if it is owned.
    pub(crate) fn record_always(&mut self, id: SessionId, change: Change) {
        let Some(session) = self.sessions.get(id).filter(|session| session.epoch > 0) else {
            return;
        };
        if self.config.recorded.covers(&change) {
            let (client_id, epoch) = (session.client_id.clone(), session.epoch);
            self.send_op(RecordOp { client_id, epoch, change });
        }
    }

    /// Tells the hub what the acknowledgement of the message being routed waits for.
    pub(crate) fn send_promised(&mut self, op: RecordOp) {
        self.send_op(op);
        if let Some(receipt) = self.confirmation() {
            self.recorder.waiting.push_back((self.recorder.sent, Promise::Confirm(receipt)));
        }
    }

    /// The end of a session is told also if nothing else of it was: its ownership ends.
    pub(crate) fn record_end(&mut self, epoch: u64, client_id: Box<str>) {
        if epoch == 0 {
            return;
        }
        self.send_op(RecordOp { client_id, epoch, change: Change::Ended });
    }

    pub(crate) fn send_op(&mut self, op: RecordOp) {
        self.recorder.sent += 1;
        self.send_hub(Envelope::Record(Box::new(op)));
    }

    /// Keeps the promise now if all that was told to the hub is safe, else when it is.
    pub(crate) fn promise(&mut self, promise: Promise) {
        if self.recorder.safe >= self.recorder.sent {
            return self.keep_promise(promise);
        }
        self.recorder.waiting.push_back((self.recorder.sent, promise));
    }

    /// The first `count` operations are safe, or refused.
    pub(crate) fn recorded(&mut self, count: u64, refused: &[u64]) {
        self.recorder.safe = self.recorder.safe.max(count);
        while let Some((at, _)) = self.recorder.waiting.front()
            && *at <= self.recorder.safe
            && let Some((at, promise)) = self.recorder.waiting.pop_front()
        {
            match promise {
                Promise::Confirm(receipt) if refused.contains(&at) => {
                    self.confirmed(receipt, Some(ReasonCode::ImplementationSpecific));
                }
                Promise::Route { receipt } if refused.contains(&at) => {
                    self.route_intent(receipt, true);
                }
                promise => self.keep_promise(promise),
            }
        }
    }

    fn keep_promise(&mut self, promise: Promise) {
        match promise {
            Promise::Reply { connection, kind, packet_id, reason } => {
                self.write_reply(connection, kind, packet_id, reason);
            }
            Promise::Confirm(receipt) => self.confirmed(receipt, None),
            Promise::Route { receipt } => self.route_intent(receipt, false),
            Promise::Fenced { barrier } => self.send_hub(Envelope::Fenced { barrier }),
            Promise::Publish { session, packet_id } => {
                let recorder = &mut self.recorder;
                if recorder.is_ahead || recorder.fence > recorder.trimmed {
                    let fence = (!recorder.is_ahead).then_some(recorder.fence);
                    return recorder.untrimmed.push_back((fence, promise));
                }
                self.publish_held(session, packet_id);
            }
        }
    }

    // --- the inbox ---

    /// The hub has sent a part of the inbox: it is told when that is safe here.
    pub(crate) fn fence_hub(&mut self, barrier: u64) {
        if std::mem::take(&mut self.recorder.is_ahead) {
            self.recorder.fence = barrier;
            for (fence, _) in self.recorder.untrimmed.iter_mut().rev() {
                if fence.is_some() {
                    break;
                }
                *fence = Some(barrier);
            }
        }
        self.promise(Promise::Fenced { barrier });
    }

    /// Nothing before this fence comes out of the inbox again.
    pub(crate) fn trimmed(&mut self, barrier: u64) {
        self.recorder.trimmed = self.recorder.trimmed.max(barrier);
        while let Some((Some(fence), _)) = self.recorder.untrimmed.front()
            && *fence <= barrier
            && let Some((_, promise)) = self.recorder.untrimmed.pop_front()
        {
            if let Promise::Publish { session, packet_id } = promise {
                self.publish_held(session, packet_id);
            }
        }
    }

    // --- as a whole ---

    /// Records anew all sessions that are this node's. Cost: all of them, in one turn.
    pub(crate) fn restate(&mut self, round: u64) {
        self.send_hub(Envelope::Restated { round, is_over: false });
        for (id, is_online) in self.sessions_where(|s| s.epoch > 0 && !s.is_gone()) {
            self.record_opened(id);
            self.restate_session(id);
            let Some(session) = self.sessions.get(id).filter(|_| !is_online) else { continue };
            let (expiry_s, ends_at) = (session.expiry_s, session.ends_at());
            let will_at = session.will_at();
            self.record(id, || Change::Away { expiry_s, ends_at, will_at });
        }
        self.send_hub(Envelope::Restated { round, is_over: true });
    }

    fn restate_session(&mut self, id: SessionId) {
        let Some(record) = self.snapshot(id) else { return };
        for (filter, grant) in record.subscriptions {
            self.record(id, || Change::Subscribed { filter, grant });
        }
        for DeliveryRecord { serial, state, item } in record.deliveries {
            if let Some(item) = item {
                let kept = Kept::default();
                self.record(id, || Change::Queued { serial, item, kept });
            }
            match state {
                DeliveryState::Queued => {}
                DeliveryState::Published(packet_id) => {
                    self.record(id, || Change::Published { serial, packet_id });
                }
                DeliveryState::Released(packet_id) => {
                    self.record(id, || Change::Released { serial, packet_id, number: 0 });
                }
            }
        }
        let done = record.incoming.into_iter().map(|packet_id| (packet_id, 0));
        for (packet_id, number) in done.chain(record.intents) {
            self.record(id, || Change::Incoming { packet_id, number });
        }
        if !record.got.is_empty() {
            self.record(id, || Change::Got { numbers: record.got });
        }
        for held in record.held {
            self.record(id, || Change::Held(held));
        }
    }

    /// Takes a session off this shard without ending it: no will. What it still gets is passed
    /// on for a while.
    pub(crate) fn export(&mut self, id: SessionId) -> Option<Box<SessionRecord>> {
        let record = self.snapshot(id)?;
        self.empty_session(id);
        self.begin_passing(id);
        Some(Box::new(record))
    }

    fn snapshot(&self, id: SessionId) -> Option<SessionRecord> {
        let session = self.sessions.get(id)?;
        let subscriber = crate::subscriptions::Subscriber::Session(id);
        let own = session.subscriptions.iter().filter_map(|&filter| {
            let grant = self.subscriptions.grant(filter, subscriber)?;
            Some((self.subscriptions.text(filter).into(), grant))
        });
        let mut record = SessionRecord {
            expiry_s: session.expiry_s,
            ends_at: session.ends_at(),
            will: session.will.clone(),
            will_at: session.will_at(),
            subscriptions: own.collect(),
            held: session.moving.as_deref().map(Moving::held).unwrap_or_default().to_vec(),
            ..SessionRecord::default()
        };
        if let Some(deliveries) = session.peek_deliveries() {
            let shared = deliveries.shared.iter().map(|s| ((&*s.key).into(), s.grant));
            record.subscriptions.extend(shared);
            record.deliveries.extend(deliveries.inflight.each().map(|sent| inflight_record(&sent)));
            record.deliveries.extend(deliveries.queue.iter().map(|item| DeliveryRecord {
                serial: item.serial,
                state: DeliveryState::Queued,
                item: Some(item.into()),
            }));
            let incoming = deliveries.incoming().iter().copied();
            record.incoming = incoming.filter(|&id| deliveries.intent(id).is_none()).collect();
            if let Some(once) = &deliveries.once {
                record.intents = once.intents().collect();
                record.got = once.got().collect();
            }
            record.last_packet_id = deliveries.last_packet_id();
        }
        Some(record)
    }

    /// Makes a session of what was recorded elsewhere. Its client is away until a connection
    /// takes it; packet identifiers and order are what they were.
    pub(crate) fn import(
        &mut self,
        client_id: &str,
        epoch: u64,
        record: SessionRecord,
    ) -> SessionId {
        self.banish_ghost(client_id);
        let session = self.sessions.create(client_id);
        let id = session.id;
        session.epoch = epoch;
        session.is_recorded = true;
        session.expiry_s = record.expiry_s;
        *session.away() = Away { ends_at: record.ends_at, will_at: record.will_at };
        session.will = record.will;
        let (passed_by, left, held) = (record.passed_by, record.left, record.held);
        let owed = record.deliveries.len();
        let SessionRecord { mut incoming, intents, got, .. } = record;
        incoming.extend(intents.iter().map(|(packet_id, _)| packet_id));
        let has_once = !intents.is_empty() || !got.is_empty();
        if owed > 0 || !incoming.is_empty() || record.last_packet_id > 0 || has_once {
            let deliveries = session.deliveries();
            deliveries.restore(incoming, record.last_packet_id);
            deliveries.once = has_once.then(|| Box::new(Once::new(intents, got)));
            for delivery in record.deliveries {
                let DeliveryRecord { serial, state, item } = delivery;
                deliveries.restore_serial(serial);
                let item = item.map(|item| item.queued(serial));
                match (state, item) {
                    (DeliveryState::Queued, Some(item)) => deliveries.push(item),
                    (DeliveryState::Published(packet_id), Some(item)) => {
                        let state = Sent::Published(item);
                        deliveries.inflight.push(Inflight { packet_id, serial, state });
                    }
                    (DeliveryState::Released(packet_id), _) => {
                        let state = Sent::Released;
                        deliveries.inflight.push(Inflight { packet_id, serial, state });
                    }
                    (_, None) => continue,
                }
                self.stats.ledger.queue();
            }
            self.stats.inflight += deliveries.inflight.len() as u64;
            self.stats.inflight_bytes += deliveries.inflight.bytes() as u64;
            self.stats.queue_bytes += deliveries.queue_bytes as u64;
        }
        let barrier = self.barriers.next();
        let mut answers = 0;
        for (filter, grant) in record.subscriptions {
            answers += self.restore_subscription(id, &filter, grant, barrier);
        }
        if passed_by.is_some() || !left.is_empty() || !held.is_empty() {
            let passed = passed_by.map(|by| Passed { by, barrier, answers });
            self.begin_arriving(id.id, passed, left, held);
        }
        id.id
    }
}

fn inflight_record(sent: &Inflight) -> DeliveryRecord {
    let Inflight { packet_id, serial, state } = sent;
    let (state, item) = match state {
        Sent::Published(item) => (DeliveryState::Published(*packet_id), Some(item.into())),
        Sent::Released => (DeliveryState::Released(*packet_id), None),
    };
    DeliveryRecord { serial: *serial, state, item }
}
