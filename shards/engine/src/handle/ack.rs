//! PUBACK, PUBREC, PUBREL, PUBCOMP (§3.4 to §3.7): deliveries come to their end.

use octopus_mqtt::{Ack, AckKind, PacketId, ReasonCode};

use crate::connection::Connection;
use crate::durable::{Change, Promise};
use crate::event::ConnectionId;
use crate::inflight::{Inflight, Sent};
use crate::message::Dropped;
use crate::refusal::Refusal;
use crate::session::Queued;
use crate::shard::Shard;
use crate::subscriptions::SessionId;
use crate::trace::Happened;

impl Shard {
    /// The client has the QoS 1 message. An identifier we do not know is an old or repeated
    /// acknowledgement and changes nothing.
    pub(crate) fn puback(&mut self, id: ConnectionId, ack: &Ack<'_>) -> Result<(), Refusal> {
        let Some(session) = self.session_of(id) else { return Ok(()) };
        let is_qos1 = |item: &Queued| item.qos == octopus_mqtt::QoS::AtLeastOnce;
        if let Some(item) = self.take_published(session, ack.packet_id, is_qos1) {
            self.finish(session, &item, ack.reason);
        }
        self.pump(session);
        Ok(())
    }

    /// The client has the QoS 2 message: PUBREL follows, also for an identifier we do not
    /// know, so that the client can finish [MQTT-4.3.3-4].
    pub(crate) fn pubrec(&mut self, id: ConnectionId, ack: &Ack<'_>) -> Result<(), Refusal> {
        let Some(session) = self.session_of(id) else { return Ok(()) };
        let is_qos2 = |item: &Queued| item.qos == octopus_mqtt::QoS::ExactlyOnce;
        if ack.reason.is_error() {
            if let Some(item) = self.take_published(session, ack.packet_id, is_qos2) {
                self.finish(session, &item, ack.reason);
            }
            self.pump(session);
            return Ok(());
        }
        let mut reason = ReasonCode::PacketIdNotFound;
        let mut taken = None;
        if let Some(found) = self.sessions.get_mut(session)
            && let Some(deliveries) = found.deliveries_if_any()
            && let Some(index) = deliveries.position(ack.packet_id)
        {
            let sent = &deliveries.inflight.list()[index];
            let is_ours = match &sent.state {
                Sent::Published(item) => is_qos2(item),
                Sent::Released => true,
            };
            if is_ours {
                let (serial, packet_id) = (sent.serial, ack.packet_id);
                let released = deliveries.inflight.release(index);
                let number = match &released {
                    Sent::Published(item) => deliveries.has_got(item),
                    Sent::Released => 0,
                };
                self.stats.inflight_bytes -= released.bytes() as u64;
                taken = Some(released);
                reason = ReasonCode::Success;
                self.record(session, || Change::Released { serial, packet_id, number });
            }
        }
        if let Some(Sent::Published(item)) = taken {
            if self.trace.is_on {
                let happened = Happened::Acknowledged { reason: ack.reason };
                self.trace_step(Some(session), &item.message.parcel(), happened);
            }
            self.shared_done(session, &item);
        }
        self.reply(id, AckKind::PubRel, ack.packet_id, reason);
        Ok(())
    }

    /// The client releases a QoS 2 identifier; it may be used for a new message from now on
    /// [MQTT-4.3.3-11].
    pub(crate) fn pubrel(&mut self, id: ConnectionId, ack: &Ack<'_>) -> Result<(), Refusal> {
        let Some(session) = self.session_of(id) else { return Ok(()) };
        let found = self.sessions.get_mut(session).and_then(|s| s.deliveries_if_any());
        let is_known = found.is_some_and(|deliveries| deliveries.release(ack.packet_id));
        let reason = if is_known { ReasonCode::Success } else { ReasonCode::PacketIdNotFound };
        if is_known {
            self.record(session, || Change::IncomingReleased { packet_id: ack.packet_id });
        }
        self.reply(id, AckKind::PubComp, ack.packet_id, reason);
        Ok(())
    }

    /// The QoS 2 delivery is finished.
    pub(crate) fn pubcomp(&mut self, id: ConnectionId, ack: &Ack<'_>) -> Result<(), Refusal> {
        let Some(session) = self.session_of(id) else { return Ok(()) };
        if let Some(found) = self.sessions.get_mut(session)
            && let Some(deliveries) = found.deliveries_if_any()
            && let Some(index) = deliveries.position(ack.packet_id)
            && matches!(deliveries.inflight.list()[index].state, Sent::Released)
        {
            let serial = deliveries.inflight.list()[index].serial;
            deliveries.remove_inflight(index);
            self.stats.inflight -= 1;
            self.stats.ledger.settle();
            self.record(session, || Change::Done { serial });
        }
        self.pump(session);
        Ok(())
    }

    fn session_of(&self, id: ConnectionId) -> Option<SessionId> {
        self.connections.get(id)?.session()
    }

    /// Takes the message this identifier stands for out of flight, if its PUBLISH is what
    /// waits for an answer and it passes `is_meant`.
    fn take_published(
        &mut self,
        session: SessionId,
        packet_id: PacketId,
        is_meant: impl Fn(&Queued) -> bool,
    ) -> Option<Queued> {
        let deliveries = self.sessions.get_mut(session)?.deliveries_if_any()?;
        let index = deliveries.position(packet_id)?;
        match &deliveries.inflight.list()[index].state {
            Sent::Published(item) if is_meant(item) => {}
            _ => return None,
        }
        let taken = deliveries.remove_inflight(index)?;
        self.stats.inflight -= 1;
        self.stats.inflight_bytes -= taken.state.bytes() as u64;
        match taken.state {
            Sent::Published(item) => Some(item),
            Sent::Released => None,
        }
    }

    /// Books the end of a delivery. A client that refuses a message is not asked again, nor is
    /// another member of a shared group [MQTT-4.8.2-6].
    fn finish(&mut self, session: SessionId, item: &Queued, reason: ReasonCode) {
        if self.trace.is_on {
            let happened = Happened::Acknowledged { reason };
            self.trace_step(Some(session), &item.message.parcel(), happened);
        }
        if reason.is_error() {
            self.stats.ledger.unqueue();
            self.drop_for(session, Dropped::RefusedByClient, &mut item.message.parcel());
        } else {
            self.stats.ledger.settle();
        }
        self.record(session, || Change::Done { serial: item.serial });
        self.shared_done(session, item);
    }

    /// PUBREL or PUBCOMP; of a recorded session, once what it says is safe: the other side
    /// forgets the identifier with it.
    fn reply(
        &mut self,
        connection: ConnectionId,
        kind: AckKind,
        packet_id: PacketId,
        reason: ReasonCode,
    ) {
        let session = self.session_of(connection).and_then(|session| self.sessions.get(session));
        if session.is_some_and(|session| self.records_messages(session)) {
            return self.promise(Promise::Reply { connection, kind, packet_id, reason });
        }
        self.write_reply(connection, kind, packet_id, reason);
    }

    pub(crate) fn write_reply(
        &mut self,
        id: ConnectionId,
        kind: AckKind,
        packet_id: PacketId,
        reason: ReasonCode,
    ) {
        let Some(manner) = self.connections.get(id).map(Connection::manner) else { return };
        let Some(out) = self.out(id) else { return };
        manner.put_ack(out, kind, packet_id, reason);
    }
}

impl crate::session::Deliveries {
    fn remove_inflight(&mut self, index: usize) -> Option<Inflight> {
        let first_unsent = self.inflight.len() - self.unsent;
        if index >= first_unsent {
            self.unsent -= 1;
        }
        self.inflight.remove(index)
    }
}
