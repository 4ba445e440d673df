//! How connections end: DISCONNECT, refusals, losses; and what that means for the session.

use std::time::Duration;

use octopus_mqtt::{
    ConnAck, ConnAckProperties, Disconnect, DisconnectProperties, PINGRESP, ReasonCode, Version,
};

use crate::connection::{Phase, discards_will};
use crate::durable::Change;
use crate::envelope::{Envelope, GroupEvent, Peer, Presence, SessionRef};
use crate::event::{ConnectionId, DisconnectReason, Notice, Output};
use crate::message::Dropped;
use crate::recent::What;
use crate::refusal::{ConnectRefused, Refusal};
use crate::route::Origin;
use crate::session::{Deliveries, NEVER, Session};
use crate::shard::{Shard, Timer};
use crate::subscriptions::{SessionId, Subscriber};
use crate::trace::Happened;

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
        let session_id = self.connections.get(id).and_then(|connection| connection.session());
        if let Some(session) = session_id.and_then(|session| self.sessions.get_mut(session)) {
            session.will = None;
        }
        if let Some(session) = session_id {
            self.record(session, || Change::WillGone);
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
        let reference = self.config.server_reference.clone();
        let Some(out) = self.out(id) else { return };
        let start = out.len();
        let server_reference =
            reference.as_deref().filter(|_| reason == ReasonCode::UseAnotherServer);
        let bare = DisconnectProperties::default();
        let plain = DisconnectProperties { server_reference, ..bare.clone() };
        let told = DisconnectProperties { reason_string: Some(text), ..plain.clone() };
        // What makes the packet too large is left out [MQTT-3.14.2-3].
        for properties in [told, plain, bare] {
            Disconnect { reason, properties }.encode(Version::V5, out);
            if out.len() - start <= size_max {
                return;
            }
            out.truncate(start);
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
        let (address, listener) = (connection.address, connection.listener);
        let phase = std::mem::replace(&mut connection.phase, Phase::Closing);
        let session = match phase {
            Phase::Connected { session } => session,
            Phase::Closing => return,
            waiting => {
                self.stats.connects_refused[ConnectRefused::of(&reason) as usize] += 1;
                if !matches!(waiting, Phase::AwaitingConnect) {
                    self.tell_parted(id);
                }
                if let Some(more) = self.quiet.refused.may_say(self.now) {
                    self.notice(Notice::Refused { client: None, address, reason, more });
                }
                return;
            }
        };
        self.tell_parted(id);
        self.stats.parted(listener);
        self.latency.forget(id);
        let Some(found) = self.sessions.get_mut(session) else { return };
        found.connection = None;
        let client = found.client_id.clone();
        if !matches!(reason, DisconnectReason::ByClient(_)) {
            self.recent.note(self.now, &client, "", What::Ended(reason.clone()));
        }
        self.notice(Notice::Disconnected { client, address, reason });
        self.tell_presence(session, Presence::Offline);
        self.return_shared(session);
        self.wait_alone(session);
    }

    /// Tells the hub that a connection it was asked about is gone.
    fn tell_parted(&mut self, id: ConnectionId) {
        if self.config.authenticate {
            let envelope = Envelope::Parted { connection: id };
            self.push(Output::Send { to: Peer::Hub, envelope });
        }
    }

    /// The session's client is away: starts its expiry and its will's delay, or goes on with
    /// them if they ran elsewhere before.
    pub(crate) fn wait_alone(&mut self, session: SessionId) {
        let now = self.now;
        let is_fenced = self.is_fenced;
        let Some(found) = self.sessions.get_mut(session) else { return };
        if is_fenced && found.is_recorded {
            return;
        }
        let id = found.id;
        if found.expiry_s == 0 {
            return self.end_session(session);
        }
        if found.expiry_s != NEVER {
            let ends_after = Duration::from_secs(found.expiry_s.into());
            let ends_at = *found.away().ends_at.get_or_insert_with(|| now.after(ends_after));
            self.timers.arm(ends_at, Timer::SessionEnd(id));
        }
        match found.will.as_ref().map(|will| will.delay_s) {
            None => {}
            Some(0) => self.send_will(session),
            Some(delay_s) => {
                let due_after = Duration::from_secs(delay_s.into());
                let will_at = *found.away().will_at.get_or_insert_with(|| now.after(due_after));
                self.timers.arm(will_at, Timer::Will(id));
            }
        }
        if let Some(found) = self.sessions.get(session) {
            let (expiry_s, ends_at, will_at) = (found.expiry_s, found.ends_at(), found.will_at());
            self.record(session, || Change::Away { expiry_s, ends_at, will_at });
        }
    }

    /// Whether the session must be left as it is, because it may be another node's.
    fn is_out_of_reach(&self, session: &Session) -> bool {
        self.is_fenced && session.is_recorded
    }

    /// Publishes the will of a session, once [MQTT-3.1.2-8], [MQTT-3.1.2-10].
    pub(crate) fn send_will(&mut self, session: SessionId) {
        let Some(found) = self.sessions.get_mut(session) else { return };
        if let Some(away) = &mut found.away {
            away.will_at = None;
        }
        let Some(will) = found.will.take() else { return };
        self.record(session, || Change::WillGone);
        let message = will.message(self.now);
        self.stats.wills_sent += 1;
        if message.retain() {
            self.retain_everywhere(message.clone());
        }
        self.route_message(&message, Origin::Client);
    }

    pub(crate) fn will_due(&mut self, id: SessionRef) {
        let now = self.now;
        if self.postpone(id, Timer::Will(id)) {
            return;
        }
        let Some(session) = self.sessions.get_ref(id) else { return };
        if session.will_at().is_some_and(|at| at <= now) {
            self.send_will(id.id);
        }
    }

    pub(crate) fn session_end_due(&mut self, id: SessionRef) {
        let now = self.now;
        if self.postpone(id, Timer::SessionEnd(id)) {
            return;
        }
        let Some(session) = self.sessions.get_ref(id) else { return };
        if session.connection.is_none() && session.ends_at().is_some_and(|at| at <= now) {
            self.stats.sessions_expired += 1;
            self.end_session(id.id);
        }
    }

    /// While the session is out of reach its timers wait.
    fn postpone(&mut self, id: SessionRef, timer: Timer) -> bool {
        const AGAIN: Duration = Duration::from_millis(500);
        let is_out = self.sessions.get(id.id).is_some_and(|session| self.is_out_of_reach(session));
        if is_out {
            self.timers.arm(self.now.after(AGAIN), timer);
        }
        is_out
    }

    /// Keeps in mind which messages a session did not get any more.
    fn note_lost(&mut self, id: SessionId, deliveries: &Deliveries) {
        let what = What::Dropped(Dropped::SessionEnded);
        for message in deliveries.messages() {
            let bytes = message.payload().len() as u64;
            self.stats.dropped_bytes[Dropped::SessionEnded as usize] += bytes;
            let client = self.sessions.get(id).map_or("", |session| &session.client_id);
            self.recent.note(self.now, client, message.topic().as_str(), what.clone());
            if self.trace.is_on {
                let happened = Happened::Dropped(Dropped::SessionEnded);
                self.trace_step(Some(id), &message.parcel(), happened);
            }
        }
    }

    /// Ends a session: its will goes out first [MQTT-3.1.3-9], then nothing of it remains.
    pub(crate) fn end_session(&mut self, session: SessionId) {
        self.send_will(session);
        let Some(found) = self.sessions.get_mut(session) else { return };
        let id = found.id;
        let filters = std::mem::take(&mut found.subscriptions);
        let deliveries = found.take_deliveries();
        if let Some(moving) = found.moving.take() {
            let held = moving.held().iter();
            held.for_each(|_| self.stats.ledger.give_up(Dropped::SessionEnded));
        }
        if let Some(found) = self.sessions.get(session) {
            self.record_end(found.epoch, found.client_id.clone());
        }
        for filter in filters {
            self.withdraw(filter, Subscriber::Session(session));
        }
        if let Some(deliveries) = deliveries {
            let member = self.member(id);
            for shared in &deliveries.shared {
                self.tell_group(&shared.key, GroupEvent::Leave { member });
            }
            self.stats.let_go(&deliveries);
            self.note_lost(session, &deliveries);
            for _ in 0..deliveries.owed_count() {
                self.stats.ledger.give_up(Dropped::SessionEnded);
            }
        }
        self.sessions.remove(session);
    }

    /// Takes a session off this shard without its will or its end: it goes on elsewhere.
    pub(crate) fn forget_session(&mut self, session: SessionId) {
        let Some(found) = self.sessions.get_mut(session) else { return };
        let filters = std::mem::take(&mut found.subscriptions);
        let moving = found.moving.take();
        for filter in filters {
            self.withdraw(filter, Subscriber::Session(session));
        }
        if let Some(moving) = moving {
            moving.held().iter().for_each(|_| self.stats.ledger.unqueue());
        }
        self.empty_session(session);
        self.sessions.remove(session);
    }

    /// Takes messages and shared groups off a session that goes on elsewhere.
    pub(crate) fn empty_session(&mut self, session: SessionId) {
        let Some(found) = self.sessions.get_mut(session) else { return };
        let id = found.id;
        let Some(deliveries) = found.take_deliveries() else { return };
        let member = self.member(id);
        for shared in &deliveries.shared {
            self.tell_group(&shared.key, GroupEvent::Leave { member });
        }
        self.stats.let_go(&deliveries);
        for _ in 0..deliveries.owed_count() {
            self.stats.ledger.unqueue();
        }
    }

    pub(crate) fn capped_expiry(&self, expiry_s: u32) -> u32 {
        let max = self.limits().session_expiry_max.as_secs();
        if max >= NEVER.into() { expiry_s } else { expiry_s.min(max as u32) }
    }

    fn write_refusing_connack(&mut self, id: ConnectionId, reason: ReasonCode, text: &str) {
        let Some(connection) = self.connections.get(id) else { return };
        let (version, size_max) = (connection.version, connection.packet_size_max as usize);
        let Some(out) = self.out(id) else { return };
        let start = out.len();
        // What makes the packet too large is left out [MQTT-3.2.2-19].
        for reason_string in [Some(text), None] {
            let properties = ConnAckProperties { reason_string, ..ConnAckProperties::default() };
            ConnAck { session_present: false, reason, properties }.encode(version, out);
            if out.len() - start <= size_max {
                return;
            }
            out.truncate(start);
        }
    }
}
