//! PUBLISH (§3.3): a client's message comes in.

use octopus_mqtt::{AckKind, Delivery, PacketId, Publish, QoS, ReasonCode, TopicName, Version};

use crate::connection::Connection;
use crate::durable::Change;
use crate::envelope::Envelope;
use crate::event::ConnectionId;
use crate::memory::MemoryLevel;
use crate::message::{Dropped, Message, Parcel};
use crate::receipt::{Acknowledgement, Then};
use crate::reconfigure::Announced;
use crate::refusal::Refusal;
use crate::route::Origin;
use crate::shard::Shard;
use crate::subscriptions::SessionId;
use crate::trace::Happened;

impl Shard {
    pub(crate) fn publish(
        &mut self,
        id: ConnectionId,
        publish: &Publish<'_>,
    ) -> Result<(), Refusal> {
        let qos = publish.delivery.qos();
        self.stats.publish_received[qos as usize] += 1;
        self.stats.publish_bytes_received += publish.payload.len() as u64;
        let Some(connection) = self.connections.get_mut(id) else { return Ok(()) };
        let announced = self.editions.get(connection.edition);
        check_publish(publish, qos, announced, self.config.limits.topic_levels_max)?;
        let Some(session) = connection.session() else { return Ok(()) };
        let publisher = connection.publisher;
        let aliased;
        let topic = match (publish.topic, publish.properties.topic_alias) {
            (Some(topic), None) => topic,
            (topic, alias) => {
                let max = announced.topic_alias_max;
                aliased = resolve_alias(connection, topic, alias.map(|a| a.get()), max)?;
                TopicName::assume_valid(&aliased)
            }
        };
        let is_allowed = may_publish(connection, topic);
        self.check_memory(id, session, publish.delivery)?;
        if self.config.cluster && self.intends(session, qos) {
            return self.publish_intended(id, session, publish, (topic, is_allowed));
        }
        if let Delivery::ExactlyOnce(packet_id) = publish.delivery
            && !self.receive_once(session, packet_id, announced.receive_max)?
        {
            self.acknowledge_again(id, session, publish.delivery, packet_id);
            return Ok(());
        }
        let is_receipted = self.config.cluster && qos != QoS::AtMostOnce;
        if is_receipted {
            self.check_unacknowledged(id, announced.receive_max)?;
            self.begin_receipt();
        }
        let mut parcel = Parcel::new(
            topic,
            publish.payload,
            qos,
            publish.retain,
            &publish.properties.message,
            publisher,
            self.now,
        );
        if is_receipted {
            parcel.id = self.random.next();
        }
        if let Some(packet) = &self.packet {
            parcel.keep(packet);
        }
        if self.trace.is_on {
            let (retain, bytes) = (publish.retain, publish.payload.len());
            self.trace_step(Some(session), &parcel, Happened::Received { qos, retain, bytes });
        }
        let reason = match self.refused(session, &mut parcel, is_allowed) {
            Some(reason) => reason,
            None => {
                if publish.retain {
                    self.retain_everywhere(parcel.message().clone());
                }
                match self.route(&mut parcel, Origin::Client, Some(session)) {
                    0 => ReasonCode::NoMatchingSubscribers,
                    _ => ReasonCode::Success,
                }
            }
        };
        let is_put_off = is_receipted && self.await_receipt(id, session, publish.delivery, reason);
        if self.trace.is_on
            && let Some((_, packet_id)) = acknowledgement_of(publish.delivery)
        {
            self.trace_unanswered((id, packet_id), session, &parcel, is_put_off);
        }
        if !is_put_off {
            self.acknowledge(id, publish.delivery, reason);
        }
        Ok(())
    }

    /// A QoS 2 message of a recorded session: its routing waits (`once`).
    #[inline(never)]
    fn publish_intended(
        &mut self,
        id: ConnectionId,
        session: SessionId,
        publish: &Publish<'_>,
        (topic, is_allowed): (TopicName<'_>, bool),
    ) -> Result<(), Refusal> {
        let Delivery::ExactlyOnce(packet_id) = publish.delivery else { return Ok(()) };
        let Some(connection) = self.connections.get(id) else { return Ok(()) };
        let (publisher, edition) = (connection.publisher, connection.edition);
        let receive_max = self.editions.get(edition).receive_max;
        let mut again = None;
        if !self.receive_once(session, packet_id, receive_max)? {
            again = self.cut_off(session, packet_id);
            if again.is_none() {
                self.acknowledge_again(id, session, publish.delivery, packet_id);
                return Ok(());
            }
        }
        self.check_unacknowledged(id, receive_max)?;
        let (payload, properties) = (publish.payload, &publish.properties.message);
        let (qos, retain, now) = (QoS::ExactlyOnce, publish.retain, self.now);
        let mut parcel = Parcel::new(topic, payload, qos, retain, properties, publisher, now);
        parcel.id = again.unwrap_or_else(|| self.random.next());
        parcel.is_again = again.is_some();
        if let Some(packet) = &self.packet {
            parcel.keep(packet);
        }
        if self.trace.is_on {
            let happened = Happened::Received { qos, retain, bytes: payload.len() };
            self.trace_step(Some(session), &parcel, happened);
        }
        let refused = self.refused(session, &mut parcel, is_allowed);
        if self.trace.is_on {
            self.trace_unanswered((id, packet_id), session, &parcel, refused.is_none());
        }
        match refused {
            Some(reason) => self.acknowledge(id, publish.delivery, reason),
            None => self.intend(id, session, packet_id, parcel.message().clone()),
        }
        Ok(())
    }

    /// Drops a message that may not be published, or not now; why.
    fn refused(
        &mut self,
        session: SessionId,
        parcel: &mut Parcel<'_>,
        is_allowed: bool,
    ) -> Option<ReasonCode> {
        if !is_allowed {
            self.drop_for(session, Dropped::NotAuthorized, parcel);
            return Some(ReasonCode::NotAuthorized);
        }
        if self.memory.level() < MemoryLevel::Full {
            return None;
        }
        self.stats.memory.publishes_refused += 1;
        self.drop_for(session, Dropped::Memory, parcel);
        Some(ReasonCode::QuotaExceeded)
    }

    /// A version 5 client may not send more than Receive Maximum unacknowledged messages;
    /// those of QoS 2 are counted where their identifiers are kept [MQTT-3.3.4-9].
    fn check_unacknowledged(&self, id: ConnectionId, max: u16) -> Result<(), Refusal> {
        let Some(connection) = self.connections.get(id) else { return Ok(()) };
        if connection.version == Version::V5 && connection.unacknowledged() >= max.into() {
            return Err(Refusal::ReceiveMaximumExceeded);
        }
        Ok(())
    }

    /// Puts the acknowledgement off if somebody must confirm the message first.
    fn await_receipt(
        &mut self,
        at: ConnectionId,
        session: SessionId,
        delivery: Delivery,
        reason: ReasonCode,
    ) -> bool {
        let session = self.sessions.get(session).map(|session| session.id);
        let session = session.zip(acknowledgement_of(delivery));
        self.end_receipt(|| {
            session.map(|(session, (kind, packet_id))| {
                Then::Acknowledge(Acknowledgement { at, session, kind, packet_id, reason })
            })
        })
    }

    /// PUBREC for a QoS 2 message that was sent again; not before the first is due.
    fn acknowledge_again(
        &mut self,
        id: ConnectionId,
        session: SessionId,
        delivery: Delivery,
        packet_id: PacketId,
    ) {
        let session = self.sessions.get(session).map(|session| session.id);
        if self.config.cluster
            && session.is_some_and(|session| self.owe_again(id, session, packet_id))
        {
            return;
        }
        self.acknowledge(id, delivery, ReasonCode::Success);
    }

    /// Without memory for a message that must be acknowledged, a client that cannot be told of a
    /// refusal is closed: it sends the message again later.
    fn check_memory(
        &mut self,
        id: ConnectionId,
        session: SessionId,
        delivery: Delivery,
    ) -> Result<(), Refusal> {
        let is_v5 = self.connections.get(id).is_some_and(|c| c.version == Version::V5);
        if self.memory.level() < MemoryLevel::Full || is_v5 {
            return Ok(());
        }
        let deliveries = self.sessions.get(session).and_then(|found| found.peek_deliveries());
        let is_known = match delivery {
            Delivery::AtMostOnce => true,
            Delivery::AtLeastOnce(_) => false,
            Delivery::ExactlyOnce(id) => {
                deliveries.is_some_and(|found| found.has_received(id) && found.intent(id).is_none())
            }
        };
        if is_known {
            return Ok(());
        }
        self.stats.memory.publishes_refused += 1;
        Err(Refusal::OutOfMemory)
    }

    /// Notes a QoS 2 identifier; `false` if this is the same message again [MQTT-4.3.3-10].
    fn receive_once(
        &mut self,
        id: SessionId,
        packet_id: PacketId,
        max: u16,
    ) -> Result<bool, Refusal> {
        let Some(session) = self.sessions.get_mut(id) else { return Ok(false) };
        let deliveries = session.deliveries();
        if deliveries.has_received(packet_id) {
            return Ok(false);
        }
        if deliveries.incoming_count() >= max.into() {
            return Err(Refusal::ReceiveMaximumExceeded);
        }
        Ok(deliveries.receive(packet_id))
    }

    /// PUBACK or PUBREC. An older client cannot be told of a refusal: it gets its plain
    /// acknowledgement [MQTT311-3.3.5-2].
    fn acknowledge(&mut self, id: ConnectionId, delivery: Delivery, reason: ReasonCode) {
        let Some((kind, packet_id)) = acknowledgement_of(delivery) else { return };
        let Some(connection) = self.connections.get(id) else { return };
        let (manner, session) = (connection.manner(), connection.session());
        if kind == AckKind::PubRec
            && reason.is_error()
            && manner.version == Version::V5
            && let Some(session) = session
            && let Some(found) = self.sessions.get_mut(session)
        {
            found.deliveries().release(packet_id);
            self.record(session, || Change::IncomingReleased { packet_id });
        }
        if self.owe_behind(id, kind, packet_id, reason) {
            return;
        }
        let Some(out) = self.out(id) else { return };
        manner.put_ack(out, kind, packet_id, reason);
        if self.trace.is_on {
            self.trace_answered(id, packet_id, reason);
        }
    }

    /// Keeps, or with an empty payload forgets, a retained message on the shard its topic is
    /// at home on [MQTT-3.3.1-5], [MQTT-3.3.1-6].
    pub(crate) fn retain_at_home(&mut self, message: Message) {
        let home = self.home_of(message.topic().as_str());
        if home == self.config.id {
            self.retain(message);
        } else {
            self.send(home, Envelope::Retain(message));
        }
    }

    pub(crate) fn retain(&mut self, message: Message) {
        let topic = message.topic();
        if message.payload().is_empty() {
            self.retained.remove(topic.as_str());
            return;
        }
        let limits = &self.config.limits;
        let is_new = self.retained.get(topic.as_str()).is_none();
        let is_short = self.memory.level() >= MemoryLevel::Short;
        if is_new && is_short && message.qos() == QoS::AtMostOnce {
            return self.stats.ledger.drop(Dropped::Memory);
        }
        let is_full = is_new && self.retained.count() >= limits.retained_count_max as usize
            || self.retained.bytes() + message.size() > limits.retained_bytes_max;
        if is_full {
            // What was retained before is older than this one: it would be stale.
            self.retained.remove(topic.as_str());
            return self.drop_for_nobody(Dropped::RetainedFull, &message.parcel());
        }
        self.retained.insert(message);
    }
}

fn check_publish(
    publish: &Publish<'_>,
    qos: QoS,
    announced: Announced,
    levels_max: u16,
) -> Result<(), Refusal> {
    if qos > announced.qos_max {
        return Err(Refusal::QoSNotSupported);
    }
    if publish.retain && !announced.retain_available {
        return Err(Refusal::RetainNotSupported);
    }
    if !publish.properties.subscription_ids.is_empty() {
        return Err(Refusal::SubscriptionIdInPublish);
    }
    if publish.topic.is_some_and(|topic| has_more_levels(topic.as_str(), levels_max.into())) {
        return Err(Refusal::TooManyLevels);
    }
    Ok(())
}

/// What a message of this delivery is acknowledged with.
fn acknowledgement_of(delivery: Delivery) -> Option<(AckKind, PacketId)> {
    match delivery {
        Delivery::AtMostOnce => None,
        Delivery::AtLeastOnce(packet_id) => Some((AckKind::PubAck, packet_id)),
        Delivery::ExactlyOnce(packet_id) => Some((AckKind::PubRec, packet_id)),
    }
}

/// The topic of a PUBLISH with a Topic Alias; defines or replaces the alias if a topic is
/// given as well (§3.3.2.3.4).
fn resolve_alias(
    connection: &mut Connection,
    topic: Option<TopicName<'_>>,
    alias: Option<u16>,
    max: u16,
) -> Result<Box<str>, Refusal> {
    let alias = alias.filter(|&alias| alias <= max).ok_or(Refusal::TopicAliasInvalid)?;
    let aliases = &mut connection.extras().aliases_in;
    let index = usize::from(alias) - 1;
    match topic {
        Some(topic) => {
            if aliases.len() <= index {
                aliases.resize(index + 1, None);
            }
            let topic: Box<str> = topic.as_str().into();
            aliases[index] = Some(topic.clone());
            Ok(topic)
        }
        None => aliases.get(index).cloned().flatten().ok_or(Refusal::TopicAliasUnset),
    }
}

/// What the client's rules allow; topics of the server's own only if a rule names them
/// [MQTT-4.7.2-1].
pub(crate) fn may_publish(connection: &Connection, topic: TopicName<'_>) -> bool {
    match &connection.acl {
        Some(acl) => acl.allows_publish(topic),
        None => !topic.as_str().starts_with('$'),
    }
}

pub(crate) fn has_more_levels(topic: &str, max: usize) -> bool {
    topic.len() > max && topic.bytes().filter(|&byte| byte == b'/').count() >= max
}
