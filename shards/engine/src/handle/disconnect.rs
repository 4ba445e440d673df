//! How connections end: DISCONNECT, refusals, losses; and what that means for the session.

use std::time::Duration;

use octopus_mqtt::{
    ConnAck, ConnAckProperties, Disconnect, DisconnectProperties, PINGRESP, ReasonCode, Version,
};

use crate::connection::{Phase, discards_will};
use crate::envelope::{Envelope, GroupEvent, Peer, Presence, SessionRef};
use crate::event::{ConnectionId, DisconnectReason, Notice, Output};
use crate::message::Dropped;
use crate::refusal::Refusal;
use crate::route::Origin;
use crate::session::NEVER;
use crate::shard::{Shard, Timer};
use crate::subscriptions::{SessionId, Subscriber};

impl Shard {
    pub(crate) fn pingreq(&mut self, id: ConnectionId) -> Result<(), Refusal> {
        if let Some(out) = self.out(id) {
            out.extend_from_slice(&PINGRESP);
        }
        Ok(())
    }

    /// The client says goodbye: no will [MQTT-3.14.4-3], unless it asks for it.
    pub(crate) fn disconnect(
        &mut self,
        id: ConnectionId,
        packet: &Disconnect<'_>,
    ) -> Result<(), Refusal> {
        let Some(connection) = self.connections.get(id) else { return Ok(()) };
        let Some(session) = connection.session() else { return Ok(()) };
        let was_zero = connection.is_expiry_fixed;
        if let Some(expiry_s) = packet.properties.session_expiry_s {
            if was_zero && expiry_s > 0 {
                return Err(Refusal::SessionExpiryFromZero);
            }
            let expiry_s = self.capped_expiry(expiry_s);
            if let Some(session) = self.sessions.get_mut(session) {
                session.expiry_s = expiry_s;
            }
        }
        if discards_will(packet.reason) {
            self.keep_will_unsent(id);
        }
        self.part(id, DisconnectReason::ByClient(packet.reason));
        self.close(id);
        Ok(())
    }

    /// Throws the will of this connection's session away.
    pub(crate) fn keep_will_unsent(&mut self, id: ConnectionId) {
        let session = self.connections.get(id).and_then(|connection| connection.session());
        if let Some(session) = session.and_then(|session| self.sessions.get_mut(session)) {
            session.will = None;
        }
    }

    /// Ends a connection for what the client did, or for what was decided about it; tells the
    /// client as far as its version allows.
    pub(crate) fn refuse(&mut self, id: ConnectionId, refusal: Refusal) {
        let (reason, text) = refusal.reason();
        let Some(connection) = self.connections.get(id) else { return };
        let version = connection.version;
        match connection.phase {
            Phase::Closing => return,
            Phase::Connected { .. } if version == Version::V5 => {
                self.write_disconnect(id, reason, &text);
            }
            Phase::Connected { .. } => {}
            _ => {
                if refusal.is_told_in_connack(version) {
                    self.write_refusing_connack(id, reason, &text);
                }
            }
        }
        self.part(id, DisconnectReason::ByServer(reason, text));
        self.close(id);
    }

    fn write_disconnect(&mut self, id: ConnectionId, reason: ReasonCode, text: &str) {
        let Some(connection) = self.connections.get(id) else { return };
        let size_max = connection.packet_size_max as usize;
        let Some(out) = self.out(id) else { return };
        let start = out.len();
        let properties =
            DisconnectProperties { reason_string: Some(text), ..DisconnectProperties::default() };
        Disconnect { reason, properties }.encode(Version::V5, out);
        if out.len() - start > size_max {
            // A Reason String that makes the packet too large is left out [MQTT-3.14.2-3].
            out.truncate(start);
            Disconnect { reason, properties: DisconnectProperties::default() }
                .encode(Version::V5, out);
        }
    }

    /// The socket is gone already.
    pub(crate) fn forget(&mut self, id: ConnectionId, reason: DisconnectReason) {
        self.part(id, reason);
        self.connections.remove(id);
    }

    /// Parts the connection from its session: the will, the expiry, the shared groups.
    pub(crate) fn part(&mut self, id: ConnectionId, reason: DisconnectReason) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let address = connection.remote.address;
        let phase = std::mem::replace(&mut connection.phase, Phase::Closing);
        let session = match phase {
            Phase::Connected { session } => session,
            Phase::Closing => return,
            waiting => {
                self.stats.connects_refused += 1;
                if !matches!(waiting, Phase::AwaitingConnect) {
                    self.tell_parted(id);
                }
                return self.notice(Notice::Refused { client: None, address, reason });
            }
        };
        self.stats.connections -= 1;
        self.tell_parted(id);
        let Some(found) = self.sessions.get_mut(session) else { return };
        found.connection = None;
        let client = found.client_id.clone();
        self.notice(Notice::Disconnected { client, address, reason });
        self.tell_presence(session, Presence::Offline);
        self.return_shared(session);
        self.leave_alone(session);
    }

    /// Tells the hub that a connection it was asked about is gone.
    fn tell_parted(&mut self, id: ConnectionId) {
        if self.config.authenticate {
            let envelope = Envelope::Parted { connection: id };
            self.push(Output::Send { to: Peer::Hub, envelope });
        }
    }

    /// The session's client is away: starts its expiry and its will's delay.
    fn leave_alone(&mut self, session: SessionId) {
        let now = self.now;
        let Some(found) = self.sessions.get_mut(session) else { return };
        let id = found.id;
        if found.expiry_s == 0 {
            return self.end_session(session);
        }
        if found.expiry_s != NEVER {
            let ends_at = now.after(Duration::from_secs(found.expiry_s.into()));
            found.ends_at = Some(ends_at);
            self.timers.arm(ends_at, Timer::SessionEnd(id));
        }
        match found.will.as_ref().map(|will| will.delay_s) {
            None => {}
            Some(0) => self.send_will(session),
            Some(delay_s) => {
                let will_at = now.after(Duration::from_secs(delay_s.into()));
                found.will_at = Some(will_at);
                self.timers.arm(will_at, Timer::Will(id));
            }
        }
    }

    /// Publishes the will of a session, once [MQTT-3.1.2-8], [MQTT-3.1.2-10].
    pub(crate) fn send_will(&mut self, session: SessionId) {
        let Some(found) = self.sessions.get_mut(session) else { return };
        found.will_at = None;
        let Some(will) = found.will.take() else { return };
        let message = will.message(self.now);
        self.stats.wills_sent += 1;
        if message.retain() {
            self.retain_at_home(message.clone());
        }
        self.route_message(&message, Origin::Client);
    }

    pub(crate) fn will_due(&mut self, id: SessionRef) {
        let now = self.now;
        let Some(session) = self.sessions.get_ref(id) else { return };
        if session.will_at.is_some_and(|at| at <= now) {
            self.send_will(id.id);
        }
    }

    pub(crate) fn session_end_due(&mut self, id: SessionRef) {
        let now = self.now;
        let Some(session) = self.sessions.get_ref(id) else { return };
        if session.connection.is_none() && session.ends_at.is_some_and(|at| at <= now) {
            self.end_session(id.id);
        }
    }

    /// Ends a session: its will goes out first [MQTT-3.1.3-9], then nothing of it remains.
    pub(crate) fn end_session(&mut self, session: SessionId) {
        self.send_will(session);
        let Some(found) = self.sessions.get_mut(session) else { return };
        let id = found.id;
        let filters = std::mem::take(&mut found.subscriptions);
        let deliveries = found.take_deliveries();
        for filter in filters {
            self.withdraw(filter, Subscriber::Session(session));
        }
        if let Some(deliveries) = deliveries {
            let member = self.member(id);
            for shared in &deliveries.shared {
                self.tell_group(&shared.key, GroupEvent::Leave { member });
            }
            for _ in 0..deliveries.owed_count() {
                self.stats.ledger.give_up(Dropped::SessionEnded);
            }
        }
        self.sessions.remove(session);
    }

    pub(crate) fn capped_expiry(&self, expiry_s: u32) -> u32 {
        let max = self.limits().session_expiry_max.as_secs();
        if max >= NEVER.into() { expiry_s } else { expiry_s.min(max as u32) }
    }

    fn write_refusing_connack(&mut self, id: ConnectionId, reason: ReasonCode, text: &str) {
        let Some(version) = self.connections.get(id).map(|c| c.version) else { return };
        let Some(out) = self.out(id) else { return };
        let properties =
            ConnAckProperties { reason_string: Some(text), ..ConnAckProperties::default() };
        ConnAck { session_present: false, reason, properties }.encode(version, out);
    }
}
