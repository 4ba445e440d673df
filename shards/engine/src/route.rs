//! Where one message goes, and how it gets to one session.
//!
//! `route` serves all destinations of a message, `deliver` one session: into the
//! connection's buffer while the client is there and has quota, else into the queue.
//! `pump` moves on what waits in a session when there is room again.

use octopus_mqtt::{AckKind, PacketId, PublishWire, QoS, ReasonCode, encode_publish_raw};

use crate::connection::Connection;
use crate::durable::{Change, DeliveryItem, Kept, Promise};
use crate::envelope::SessionRef;
use crate::event::Notice;
use crate::inflight::{Inflight, Sent};
use crate::latency::Hop;
use crate::limits::QueueFull;
use crate::memory::MemoryLevel;
use crate::message::{Dropped, Message, Parcel, remaining_s};
use crate::recent::What;
use crate::session::{Deliveries, Extra, Queued};
use crate::shard::{Shard, lend};
use crate::subscriptions::{Grant, SessionId, Subscriber};
use crate::trace::Happened;

/// Where a message came from decides how far it may go (invariant 4): only what a client of
/// this shard published travels on, so a loop cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A client of this shard, or the node itself.
    Client,
    /// Another shard of this node.
    Shard,
    /// Another node of the group.
    Node,
}

/// Why there is a free Packet Identifier whenever a message may be sent.
pub(crate) const QUOTA_LEAVES_IDS: &str =
    "a message is sent only while fewer than 65,535 are in flight";

impl Origin {
    pub(crate) fn hop(self) -> Hop {
        match self {
            Self::Client => Hop::SameShard,
            Self::Shard => Hop::OtherShard,
            Self::Node => Hop::OtherNode,
        }
    }
}

/// What becomes of one delivery.
enum Way {
    Send,
    Queue,
    Drop(Dropped),
}

impl Shard {
    pub(crate) fn route_message(&mut self, message: &Message, origin: Origin) {
        if message.is_expired(self.now) {
            return self.drop_for_nobody(Dropped::Expired, &message.parcel());
        }
        self.route(&mut message.parcel(), origin, None);
    }

    /// Sends a message to every subscriber of this shard and, if it came from a client, to
    /// every interested peer once. Tells how many destinations there were.
    ///
    /// - `publisher`: the publishing session, for No Local [MQTT-3.8.3-3].
    pub(crate) fn route(
        &mut self,
        parcel: &mut Parcel<'_>,
        origin: Origin,
        publisher: Option<SessionId>,
    ) -> usize {
        self.templates.reset();
        self.latency.hop = Some(origin.hop());
        let mut matches = std::mem::take(&mut self.matches);
        let filters = self.subscriptions.matching(parcel.topic, |subscriber, grant| {
            matches.push((subscriber, grant));
        });
        if self.trace.is_on {
            self.trace_step(None, parcel, Happened::Matched { origin, subscribers: matches.len() });
        }
        let mut reached = if filters > 1 {
            self.deliver_merged(&mut matches, parcel, origin, publisher)
        } else {
            self.deliver_each(&matches, parcel, origin, publisher)
        };
        matches.clear();
        self.matches = matches;
        if origin == Origin::Client {
            reached += self.forward(parcel);
            if reached == 0 {
                self.drop_unwanted(parcel, publisher);
            }
        }
        reached
    }

    /// Nobody wanted this message. That is kept in mind, unless it waits as a retained one.
    pub(crate) fn drop_unwanted(&mut self, parcel: &Parcel<'_>, publisher: Option<SessionId>) {
        self.book_drop(Dropped::NoSubscriber, parcel);
        if self.trace.is_on {
            self.trace_step(publisher, parcel, Happened::Dropped(Dropped::NoSubscriber));
        }
        if parcel.retain {
            return;
        }
        let publisher = publisher.and_then(|id| self.sessions.get(id));
        let client = publisher.map_or("", |session| &session.client_id);
        let what = What::Dropped(Dropped::NoSubscriber);
        self.recent.note(self.now, client, parcel.topic.as_str(), what);
    }

    fn book_drop(&mut self, reason: Dropped, parcel: &Parcel<'_>) {
        self.stats.ledger.drop(reason);
        self.stats.dropped_bytes[reason as usize] += parcel.payload.len() as u64;
    }

    /// Drops a message that no session of this shard was to get yet.
    pub(crate) fn drop_for_nobody(&mut self, reason: Dropped, parcel: &Parcel<'_>) {
        self.book_drop(reason, parcel);
        self.recent.note(self.now, "", parcel.topic.as_str(), What::Dropped(reason));
        if self.trace.is_on {
            self.trace_step(None, parcel, Happened::Dropped(reason));
        }
    }

    /// One filter matched: no session is in the list twice.
    #[inline(always)]
    pub(crate) fn deliver_each(
        &mut self,
        matches: &[(Subscriber, Grant)],
        parcel: &mut Parcel<'_>,
        origin: Origin,
        publisher: Option<SessionId>,
    ) -> usize {
        for &(subscriber, grant) in matches {
            let id = match subscriber {
                Subscriber::Session(id) => id,
                Subscriber::Group(id) => {
                    // The node it was published on picks the member, in the whole group.
                    if origin != Origin::Node {
                        self.deliver_to_group(id, parcel);
                    }
                    continue;
                }
            };
            if grant.no_local && publisher == Some(id) {
                continue;
            }
            let retain = parcel.retain && grant.retain_as_published;
            let extra = (grant.subscription_id != 0).then(|| {
                Box::new(Extra { subscription_ids: vec![grant.subscription_id], group: None })
            });
            self.deliver(id, parcel, parcel.qos.min(grant.qos), retain, extra);
        }
        matches.len()
    }

    /// Several filters matched: a session gets the message once, at the highest QoS granted,
    /// with all its Subscription Identifiers [MQTT-3.3.4-2, -3].
    pub(crate) fn deliver_merged(
        &mut self,
        matches: &mut [(Subscriber, Grant)],
        parcel: &mut Parcel<'_>,
        origin: Origin,
        publisher: Option<SessionId>,
    ) -> usize {
        matches.sort_by_key(|(subscriber, _)| *subscriber);
        let mut reached = 0;
        for same in matches.chunk_by(|a, b| a.0 == b.0) {
            reached += 1;
            let id = match same[0].0 {
                Subscriber::Session(id) => id,
                Subscriber::Group(id) => {
                    if origin != Origin::Node {
                        self.deliver_to_group(id, parcel);
                    }
                    continue;
                }
            };
            let is_own = publisher == Some(id);
            let grants = same.iter().map(|(_, grant)| grant).filter(|g| !(g.no_local && is_own));
            let mut merged: Option<(QoS, bool)> = None;
            let mut subscription_ids = Vec::new();
            for grant in grants {
                let (qos, retain) = merged.unwrap_or_default();
                merged = Some((qos.max(grant.qos), retain | grant.retain_as_published));
                if grant.subscription_id != 0 {
                    subscription_ids.push(grant.subscription_id);
                }
            }
            let Some((qos, retain)) = merged else { continue };
            let extra = (!subscription_ids.is_empty())
                .then(|| Box::new(Extra { subscription_ids, group: None }));
            self.deliver(id, parcel, parcel.qos.min(qos), parcel.retain && retain, extra);
        }
        reached
    }

    /// Sends the message once to each interested peer.
    fn forward(&mut self, parcel: &mut Parcel<'_>) -> usize {
        if self.interest.is_empty() {
            return 0;
        }
        let mut peers = std::mem::take(&mut self.peers);
        self.interest.matching(parcel.topic, &mut peers);
        let reached = self.forward_to(parcel, &peers);
        peers.clear();
        self.peers = peers;
        reached
    }

    /// Delivers to one session of this shard.
    ///
    /// Cost: O(1); for QoS 0 without allocation.
    /// - `qos`: already lowered to what the subscription grants [MQTT-3.8.4-8].
    /// - `retain`: the RETAIN flag to send.
    /// - `extra`: Subscription Identifiers and shared group, where there are any.
    pub(crate) fn deliver(
        &mut self,
        id: SessionId,
        parcel: &mut Parcel<'_>,
        qos: QoS,
        retain: bool,
        extra: Option<Box<Extra>>,
    ) {
        if parcel.retain {
            self.note_newer(id, parcel.topic);
        }
        if self.config.cluster
            && (self.take_moving(id, parcel, qos, retain, extra.as_deref())
                || self.leave_out(id, parcel, qos, extra.as_deref()))
        {
            return;
        }
        match self.way(id, qos, parcel.size()) {
            Way::Drop(reason) => self.drop_for(id, reason, parcel),
            Way::Queue => {
                let message = parcel.message().clone();
                self.enqueue(id, Queued { message, qos, retain, serial: 0, extra });
                if self.trace.is_on {
                    self.trace_queued(id, parcel);
                }
            }
            Way::Send => self.send_now(id, parcel, qos, retain, extra),
        }
    }

    fn way(&mut self, id: SessionId, qos: QoS, size: usize) -> Way {
        let Some(session) = self.sessions.get(id) else { return Way::Drop(Dropped::SessionEnded) };
        let connection = session.connection.and_then(|id| self.connections.get(id));
        let limits = &self.config.limits;
        if qos == QoS::AtMostOnce {
            return match connection {
                None => Way::Drop(Dropped::Offline),
                Some(c) if c.out_len() >= limits.out_bytes_max => Way::Drop(Dropped::SlowReader),
                Some(c) if c.out_len() > 0 && self.memory.level() >= MemoryLevel::Short => {
                    Way::Drop(Dropped::Memory)
                }
                Some(_) => Way::Send,
            };
        }
        let Some(deliveries) = session.peek_deliveries() else {
            return if connection.is_some() { Way::Send } else { Way::Queue };
        };
        let has_room = connection.is_some_and(|c| {
            deliveries.queue.is_empty()
                && deliveries.unsent == 0
                && deliveries.inflight.len() < usize::from(c.send_quota)
                && deliveries.inflight.bytes() < limits.queue_bytes_max
                && c.out_len() < limits.out_bytes_max
        });
        let is_full = deliveries.queue.len() >= limits.queue_count_max as usize
            || deliveries.queue_bytes + size > limits.queue_bytes_max;
        match has_room {
            true => Way::Send,
            false if is_full && limits.queue_full == QueueFull::DropNewest => {
                Way::Drop(Dropped::QueueFull)
            }
            false => Way::Queue,
        }
    }

    /// Appends to the session's queue; with `DropOldest` makes room first.
    fn enqueue(&mut self, id: SessionId, mut item: Queued) {
        let limits = &self.config.limits;
        let (count_max, bytes_max) = (limits.queue_count_max as usize, limits.queue_bytes_max);
        let Some(session) = self.sessions.get_mut(id) else { return };
        let deliveries = session.deliveries();
        let mut displaced = Vec::new();
        while deliveries.queue.len() >= count_max
            || deliveries.queue_bytes + item.message.size() > bytes_max
        {
            let Some(oldest) = deliveries.pop() else { break };
            displaced.push(oldest);
        }
        self.stats.queue_bytes += item.message.size() as u64;
        item.serial = deliveries.next_serial();
        let serial = item.serial;
        let recorded = session.is_recorded.then(|| DeliveryItem::from(&item));
        session.deliveries().push(item);
        self.stats.ledger.queue();
        if let Some(item) = recorded {
            self.record(id, || Change::Queued { serial, item, kept: Kept::default() });
        }
        for oldest in displaced {
            self.stats.queue_bytes -= oldest.message.size() as u64;
            self.record(id, || Change::Done { serial: oldest.serial });
            self.stats.ledger.unqueue();
            self.drop_for(id, Dropped::QueueFull, &mut oldest.message.parcel());
        }
    }

    pub(crate) fn send_now(
        &mut self,
        id: SessionId,
        parcel: &mut Parcel<'_>,
        qos: QoS,
        retain: bool,
        extra: Option<Box<Extra>>,
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(at) = session.connection else { return };
        let Some(connection) = self.connections.get_mut(at) else { return };
        let is_aliased = connection.extras.as_ref().is_some_and(|e| e.alias_out_max > 0);
        if extra.is_some() || is_aliased || session.is_recorded {
            let message = parcel.message().clone();
            return self.send_item(id, Queued { message, qos, retain, serial: 0, extra });
        }
        let form = (connection.version, qos, retain);
        let shared_min = self.config.limits.shared_payload_min;
        let template = self.templates.form(parcel, form, shared_min, self.now);
        if template.len() > connection.packet_size_max as usize {
            return self.drop_for(id, Dropped::TooLarge, parcel);
        }
        let packet_id = match qos {
            QoS::AtMostOnce => None,
            _ => Some(session.deliveries().next_packet_id().expect(QUOTA_LEAVES_IDS)),
        };
        lend(connection, &mut self.spare);
        template.append_to(connection, packet_id);
        self.latency.delivered(at, 1, parcel.received_at, self.now);
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(at);
        }
        self.stats.packets_sent += 1;
        self.stats.publish_sent[qos as usize] += 1;
        self.stats.publish_bytes_sent += parcel.payload.len() as u64;
        match packet_id {
            None => self.stats.ledger.deliver(),
            Some(packet_id) => {
                let serial = session.deliveries().next_serial();
                let message = parcel.message().clone();
                self.stats.inflight_bytes += message.size() as u64;
                let item = Queued { message, qos, retain, serial, extra: None };
                let state = Sent::Published(item);
                session.deliveries().inflight.push(Inflight { packet_id, serial, state });
                self.stats.inflight += 1;
                self.stats.ledger.queue();
            }
        }
        if self.trace.is_on {
            self.trace_step(Some(id), parcel, Happened::Sent { qos, packet_id, again: false });
        }
    }

    /// Sends one message that is encoded for this client alone, new to the ledger.
    fn send_item(&mut self, id: SessionId, mut item: Queued) {
        if item.qos == QoS::AtMostOnce {
            if !self.write_publish(id, &item, None, false) {
                return self.drop_for(id, Dropped::TooLarge, &mut item.message.parcel());
            }
            return self.stats.ledger.deliver();
        }
        let is_new = item.serial == 0;
        let Some(session) = self.sessions.get_mut(id) else { return };
        let deliveries = session.deliveries();
        let Some(packet_id) = deliveries.next_packet_id() else { return };
        if is_new {
            item.serial = deliveries.next_serial();
        }
        let serial = item.serial;
        let session_ref = session.id;
        let is_held = item.qos == QoS::ExactlyOnce
            && self.sessions.get(id).is_some_and(|session| self.records_messages(session));
        if !is_held && !self.write_publish(id, &item, Some(packet_id), false) {
            if !is_new {
                self.record(id, || Change::Done { serial });
            }
            return self.drop_for(id, Dropped::TooLarge, &mut item.message.parcel());
        }
        if is_new {
            let kept = Kept::default();
            self.record(id, || Change::Queued { serial, item: (&item).into(), kept });
        }
        self.record(id, || Change::Published { serial, packet_id });
        let Some(session) = self.sessions.get_mut(id) else { return };
        self.stats.inflight_bytes += item.message.size() as u64;
        let state = Sent::Published(item);
        session.deliveries().inflight.push(Inflight { packet_id, serial, state });
        self.stats.inflight += 1;
        self.stats.ledger.queue();
        if is_held {
            self.promise(Promise::Publish { session: session_ref, packet_id });
        }
    }

    /// The first PUBLISH of a message that waited until its identifier was safe. If the client
    /// came back meanwhile, it is sent with what else was in flight.
    pub(crate) fn publish_held(&mut self, session: SessionRef, packet_id: PacketId) {
        let Some(found) = self.sessions.get_ref(session) else { return };
        let Some(deliveries) = found.deliveries_if_any() else { return };
        let Some(index) = deliveries.position(packet_id) else { return };
        let is_resent_later = index >= deliveries.inflight.len() - deliveries.unsent;
        let Sent::Published(item) = &deliveries.inflight.list()[index].state else { return };
        if is_resent_later {
            return;
        }
        let item = item.clone();
        if !self.write_publish(session.id, &item, Some(packet_id), false) {
            self.give_up_inflight(session.id, index, &item);
        }
    }

    /// Gives a message up that is too large for this client after all.
    fn give_up_inflight(&mut self, id: SessionId, index: usize, item: &Queued) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.deliveries().inflight.remove(index);
            self.stats.inflight -= 1;
            self.stats.inflight_bytes -= item.message.size() as u64;
        }
        self.record(id, || Change::Done { serial: item.serial });
        self.stats.ledger.unqueue();
        self.drop_for(id, Dropped::TooLarge, &mut item.message.parcel());
    }

    /// Encodes a PUBLISH into the client's buffer; `false` if it is larger than the client
    /// takes [MQTT-3.1.2-24].
    fn write_publish(
        &mut self,
        id: SessionId,
        item: &Queued,
        packet_id: Option<PacketId>,
        dup: bool,
    ) -> bool {
        let now = self.now;
        let shared_min = self.config.limits.shared_payload_min;
        let Some(at) = self.sessions.get(id).and_then(|session| session.connection) else {
            return true;
        };
        let Some(connection) = self.connections.get_mut(at) else { return true };
        lend(connection, &mut self.spare);
        let start = connection.out.bytes.len();
        let is_new_alias = encode_for(connection, item, packet_id, dup, now);
        let payload = item.message.payload();
        let payload_len = payload.len() as u64;
        let len = connection.out.bytes.len() - start + payload.len();
        if len > connection.packet_size_max as usize {
            connection.out.bytes.truncate(start);
            if is_new_alias {
                connection.extras().aliases_out.remove(item.message.topic().as_str());
            }
            return false;
        }
        if payload.len() < shared_min {
            connection.out.bytes.extend_from_slice(payload);
        } else {
            connection.shared_len += payload.len();
            let offset = connection.out.bytes.len();
            connection.out.shared.push((offset, item.message.payload_shared()));
        }
        self.stats.packets_sent += 1;
        self.stats.publish_sent[item.qos as usize] += 1;
        self.stats.publish_bytes_sent += payload_len;
        if !dup {
            self.latency.delivered(at, 1, item.message.received_at(), now);
        }
        self.touch(at);
        if self.trace.is_on {
            let happened = Happened::Sent { qos: item.qos, packet_id, again: dup };
            self.trace_step(Some(id), &item.message.parcel(), happened);
        }
        true
    }

    /// Moves on what waits for this client: first what was in flight when it went away, then
    /// the queue, then retained replays.
    pub(crate) fn pump(&mut self, id: SessionId) {
        let deliveries = self.sessions.get(id).and_then(|session| session.peek_deliveries());
        if !deliveries.is_some_and(Deliveries::has_waiting) {
            return;
        }
        self.latency.hop = Some(Hop::Queued);
        while self.has_room(id) {
            let Some(session) = self.sessions.get_mut(id) else { return };
            let Some(deliveries) = session.deliveries_if_any() else { return };
            if deliveries.unsent > 0 {
                self.resend_one(id);
                continue;
            }
            let Some(item) = deliveries.pop() else { break };
            self.stats.queue_bytes -= item.message.size() as u64;
            self.stats.ledger.unqueue();
            if item.message.is_expired(self.now) {
                self.record(id, || Change::Done { serial: item.serial });
                self.drop_for(id, Dropped::Expired, &mut item.message.parcel());
            } else {
                self.send_item(id, item);
            }
        }
        self.pump_replays(id);
    }

    /// Whether another QoS 1 or 2 message may be sent now.
    fn has_room(&self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        let Some(deliveries) = session.peek_deliveries() else { return false };
        let connection = session.connection.and_then(|id| self.connections.get(id));
        connection.is_some_and(|c| {
            deliveries.inflight.len() - deliveries.unsent < usize::from(c.send_quota)
                && (deliveries.unsent > 0
                    || deliveries.inflight.bytes() < self.config.limits.queue_bytes_max)
                && c.out_len() < self.config.limits.out_bytes_max
        })
    }

    /// Sends the next unacknowledged packet again, with its own identifier [MQTT-4.4.0-1].
    fn resend_one(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let at = session.connection;
        let deliveries = session.deliveries();
        let index = deliveries.inflight.len() - deliveries.unsent;
        deliveries.unsent -= 1;
        let packet_id = deliveries.inflight.list()[index].packet_id;
        let item = match &deliveries.inflight.list()[index].state {
            Sent::Published(item) => item.clone(),
            Sent::Released => {
                let Some(at) = at else { return };
                return self.write_reply(at, AckKind::PubRel, packet_id, ReasonCode::Success);
            }
        };
        if !self.write_publish(id, &item, Some(packet_id), true) {
            self.give_up_inflight(id, index, &item);
        }
    }

    /// Counts a drop and tells the operator, at most once a second.
    pub(crate) fn drop_for(&mut self, id: SessionId, reason: Dropped, parcel: &mut Parcel<'_>) {
        self.book_drop(reason, parcel);
        let client = self.sessions.get(id).map_or("", |session| &session.client_id);
        self.recent.note(self.now, client, parcel.topic.as_str(), What::Dropped(reason));
        if self.trace.is_on {
            self.trace_step(Some(id), parcel, Happened::Dropped(reason));
        }
        let Some(session) = self.sessions.get(id) else { return };
        let Some(more) = self.quiet.dropped.may_say(self.now) else { return };
        let client = session.client_id.clone();
        let message = parcel.message().clone();
        self.notice(Notice::Dropped { client, message, reason, more });
    }
}

/// Encodes all of a PUBLISH but its payload, with a Topic Alias if the client allows one;
/// `true` if this packet defines the alias.
fn encode_for(
    connection: &mut Connection,
    item: &Queued,
    packet_id: Option<PacketId>,
    dup: bool,
    now: crate::event::Instant,
) -> bool {
    let message = &item.message;
    let topic = message.topic();
    let (alias, is_known) = connection.alias_for(topic.as_str());
    let flags = u8::from(dup) << 3 | (item.qos as u8) << 1 | u8::from(item.retain);
    let wire = PublishWire {
        alias,
        expiry_s: remaining_s(message.expires_at(), now),
        subscription_ids: item.extra.as_ref().map_or(&[], |extra| &extra.subscription_ids),
        message: message.properties(),
    };
    let version = connection.version;
    encode_publish_raw(
        &mut connection.out.bytes,
        version,
        flags,
        if is_known { "" } else { topic.as_str() },
        packet_id,
        wire,
        message.payload().len(),
    );
    alias.is_some() && !is_known
}
