//! CONNECT (§3.1): a connection finds its session.
//!
//! The way of a CONNECT: decoded; if its Client Identifier is at home on another shard the
//! socket moves there, once, and all begins again; the hub is asked if this node
//! authenticates; then the connection takes its session over and gets its CONNACK.

use octopus_mqtt::{
    ConnAck, ConnAckProperties, Connect, DecodeError, Frame, QoS, ReasonCode, Version,
    decode_connect,
};

use super::publish::{has_more_levels, may_publish};
use crate::connection::{Connection, Pause, Phase, Waiting};
use crate::durable::{Change, RecordOp};
use crate::envelope::{
    AuthAnswer, AuthExchange, AuthOutcome, AuthRequest, AuthStep, Envelope, Peer, Presence,
};
use crate::event::{ConnectionId, DisconnectReason, Notice, Output};
use crate::limits::DuplicateLogin;
use crate::memory::MemoryLevel;
use crate::recent::What;
use crate::refusal::Refusal;
use crate::session::NEVER;
use crate::shard::{Shard, publisher_hash};
use crate::subscriptions::SessionId;
use crate::will::Will;

const CONNECT: u8 = 1;

impl Shard {
    /// The first packet of a connection, and the bytes from it on.
    pub(crate) fn first_packet(
        &mut self,
        id: ConnectionId,
        frame: Frame<'_>,
        unread: &[u8],
    ) -> Result<(), Refusal> {
        if frame.first >> 4 != CONNECT {
            return Err(Refusal::FirstPacketNotConnect);
        }
        if let Some(version) = announced_version(frame.body)
            && let Some(connection) = self.connections.get_mut(id)
        {
            // Known before the rest is checked, so that errors are told as it demands.
            connection.version = version;
        }
        if frame.first & 0x0f != 0 {
            return Err(DecodeError::ReservedFlags.into());
        }
        let connect = decode_connect(frame.body)?;
        if let Some(connection) = self.connections.get_mut(id) {
            // Refusals must fit too [MQTT-3.2.2-19].
            connection.packet_size_max = connect.properties.packet_size_max.unwrap_or(u32::MAX);
            connection.wants_problem_information =
                connect.properties.request_problem_information == Some(true);
        }
        let home = self.home_of(connect.client_id);
        if !connect.client_id.is_empty() && home != self.config.id {
            self.connections.remove(id);
            // They begin anew at home and are counted there.
            self.stats.packets_received -= 1;
            self.stats.bytes_received =
                self.stats.bytes_received.saturating_sub(unread.len() as u64);
            self.push(Output::HandOff { connection: id, to: home, unread: unread.to_vec() });
            return Ok(());
        }
        self.check_connect(&connect).inspect_err(|&r| self.note_refused(connect.client_id, r))?;
        if !self.config.authenticate {
            let everything = AuthOutcome::Granted { user: None, acl: None, data: None };
            return self.decide(id, &connect, frame.body, everything);
        }
        self.ask_hub(id, &connect, frame.body);
        Ok(())
    }

    fn check_connect(&self, connect: &Connect<'_>) -> Result<(), Refusal> {
        let limits = self.limits();
        let keeps_session = !connect.clean_start;
        if connect.client_id.is_empty() && keeps_session && connect.version != Version::V5 {
            return Err(Refusal::ClientIdRejected);
        }
        if let Some(will) = &connect.will {
            if will.qos > limits.qos_max {
                return Err(Refusal::QoSNotSupported);
            }
            if will.retain && !limits.retain_available {
                return Err(Refusal::RetainNotSupported);
            }
            if has_more_levels(will.topic.as_str(), limits.topic_levels_max.into()) {
                return Err(Refusal::TooManyLevels);
            }
        }
        if connect.properties.authentication_method.is_some() && !self.config.authenticate {
            return Err(Refusal::Told(ReasonCode::BadAuthenticationMethod));
        }
        Ok(())
    }

    fn ask_hub(&mut self, id: ConnectionId, connect: &Connect<'_>, body: &[u8]) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let waiting = Waiting { connect: body.into(), ..Waiting::default() };
        connection.phase = Phase::AwaitingAnswer(Box::new(waiting));
        let exchange = connect.properties.authentication_method.map(|method| AuthExchange {
            method: method.into(),
            data: connect.properties.authentication_data.unwrap_or_default().into(),
            step: AuthStep::Start,
        });
        let request = AuthRequest {
            connection: id,
            remote: connection.remote(),
            version: connect.version,
            client_id: connect.client_id.into(),
            user_name: connect.user_name.map(Into::into),
            password: connect.password.map(Into::into),
            exchange,
        };
        let envelope = Envelope::Authenticate(Box::new(request));
        self.push(Output::Send { to: Peer::Hub, envelope });
    }

    /// The hub has decided, or wants to hear more from the client.
    pub(crate) fn authenticated(&mut self, answer: AuthAnswer) {
        let AuthAnswer { connection: id, outcome } = answer;
        let Some(connection) = self.connections.get_mut(id) else { return };
        let waiting = match &mut connection.phase {
            Phase::AwaitingAnswer(waiting) => std::mem::take(waiting),
            Phase::Connected { .. } | Phase::AwaitingClaim(_) => {
                return self.authenticated_again(id, outcome);
            }
            _ => return,
        };
        if let AuthOutcome::Continue { data } = outcome {
            connection.phase = Phase::AwaitingAuth(waiting);
            return self.challenge(id, &data);
        }
        let body = &waiting.connect;
        let decided = decode_connect(body)
            .map_err(Refusal::from)
            .and_then(|connect| self.decide(id, &connect, body, outcome));
        if let Err(refusal) = decided {
            return self.refuse(id, refusal);
        }
        self.read_inbox(id);
        if self.connections.get_mut(id).is_some_and(|c| c.resume(Pause::AwaitingAnswer)) {
            self.push(Output::ResumeReading { connection: id });
        }
    }

    /// Keeps in mind why this client was not let in.
    fn note_refused(&mut self, client_id: &str, refusal: Refusal) {
        let (reason, text) = refusal.reason();
        let what = What::Ended(DisconnectReason::ByServer(reason, text));
        self.recent.note(self.now, client_id, "", what);
    }

    /// Lets the client in, or not; in a group, its session is claimed first.
    fn decide(
        &mut self,
        id: ConnectionId,
        connect: &Connect<'_>,
        body: &[u8],
        outcome: AuthOutcome,
    ) -> Result<(), Refusal> {
        self.admit(id, connect, body, outcome)
            .inspect_err(|&refusal| self.note_refused(connect.client_id, refusal))
    }

    fn admit(
        &mut self,
        id: ConnectionId,
        connect: &Connect<'_>,
        body: &[u8],
        outcome: AuthOutcome,
    ) -> Result<(), Refusal> {
        let (user, acl, data) = match outcome {
            AuthOutcome::Granted { user, acl, data } => (user, acl, data),
            AuthOutcome::Refused { reason } => return Err(Refusal::Told(reason)),
            AuthOutcome::Continue { .. } | AuthOutcome::Changed { .. } => return Ok(()),
        };
        let Some(connection) = self.connections.get_mut(id) else { return Ok(()) };
        connection.user = user.or_else(|| connect.user_name.map(Into::into));
        connection.acl = acl;
        if let Some(will) = &connect.will
            && !may_publish(connection, will.topic)
        {
            return Err(Refusal::Told(ReasonCode::NotAuthorized));
        }
        if self.config.cluster {
            self.claim(id, connect, body, data);
            return Ok(());
        }
        let assigned = connect.client_id.is_empty().then(|| self.new_client_id());
        self.let_in(id, connect, 0, assigned.as_deref(), data.as_deref())
    }

    /// Gives the client its session and its CONNACK.
    ///
    /// - `epoch`: under which the node owns the session in its group; 0 outside of one.
    /// - `assigned`: the Client Identifier made for it.
    /// - `data`: the last of an enhanced authentication.
    pub(super) fn let_in(
        &mut self,
        id: ConnectionId,
        connect: &Connect<'_>,
        epoch: u64,
        assigned: Option<&str>,
        data: Option<&[u8]>,
    ) -> Result<(), Refusal> {
        self.check_connack_fits(connect, assigned, data)?;
        let client_id = assigned.unwrap_or(connect.client_id);
        let (session, session_present) = self.take_session(client_id, connect.clean_start)?;
        if let Some(found) = self.sessions.get_mut(session) {
            found.epoch = epoch;
        }
        self.attach(id, session, connect);
        self.revoke(id);
        let mut connack = Vec::new();
        self.encode_connack(connect, session_present, assigned, data, &mut connack);
        if let Some(out) = self.out(id) {
            out.extend_from_slice(&connack);
        }
        self.notice_connected(id, session, session_present);
        self.arm_keep_alive(id);
        self.tell_presence(session, Presence::Online);
        self.pump(session);
        Ok(())
    }

    /// Finds or makes the session of this client, after ending its older connection
    /// [MQTT-3.1.4-3]; `true` if it was there before [MQTT-3.2.2-2], [MQTT-3.2.2-3].
    fn take_session(
        &mut self,
        client_id: &str,
        clean_start: bool,
    ) -> Result<(SessionId, bool), Refusal> {
        if let Some(session) = self.sessions.find(client_id) {
            let old = self.sessions.get(session).and_then(|session| session.connection);
            if let Some(old) = old {
                if self.limits().duplicate_login == DuplicateLogin::RefuseNewer {
                    self.stats.duplicates_refused += 1;
                    return Err(Refusal::ClientIdInUse);
                }
                self.stats.takeovers += 1;
                self.refuse(old, Refusal::TakenOver);
            }
        }
        let is_new = self.sessions.find(client_id).is_none();
        if is_new && self.memory.level() >= MemoryLevel::Filling {
            self.stats.memory.connects_refused += 1;
            return Err(Refusal::NoMemoryForNewcomers);
        }
        match self.sessions.find(client_id) {
            Some(session) if clean_start => self.end_session(session),
            Some(session) => return Ok((session, true)),
            None => {}
        }
        if self.sessions.len() >= self.limits().session_count_max as usize {
            return Err(Refusal::TooManySessions);
        }
        Ok((self.sessions.create(client_id).id.id, false))
    }

    /// Ties connection and session together, with what CONNECT asked for.
    fn attach(&mut self, id: ConnectionId, session: SessionId, connect: &Connect<'_>) {
        let expiry_s = self.granted_expiry(connect);
        let limits = &self.config.limits;
        let keep_alive_s = granted_keep_alive(connect, limits.keep_alive_max_s);
        let Some(found) = self.sessions.get_mut(session) else { return };
        found.connection = Some(id);
        found.expiry_s = expiry_s;
        found.away = None;
        found.is_recorded |= expiry_s > 0 && found.epoch > 0;
        found.will = connect.will.as_ref().map(|will| Box::new(Will::new(will)));
        if let Some(deliveries) = found.deliveries_if_any() {
            deliveries.unsent = deliveries.inflight.len();
        }
        let publisher = publisher_hash(&found.client_id);
        let edition = self.editions.current();
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.phase = Phase::Connected { session };
        connection.version = connect.version;
        connection.keep_alive_s = keep_alive_s;
        connection.publisher = publisher;
        connection.edition = edition;
        let receive_max = connect.properties.receive_max.map_or(u16::MAX, |max| max.get());
        connection.send_quota = receive_max.min(limits.inflight_count_max);
        note_extras(connection, connect, limits.topic_alias_out_max);
        self.stats.connected(connection.listener);
        self.record_opened(session);
    }

    /// Session Expiry Interval of this client's session, seconds.
    pub(super) fn granted_expiry(&self, connect: &Connect<'_>) -> u32 {
        let expiry_s = match connect.version {
            Version::V5 => connect.properties.session_expiry_s.unwrap_or(0),
            _ if connect.clean_start => 0,
            _ => NEVER,
        };
        self.capped_expiry(expiry_s)
    }

    /// Told of every session that is owned: a will must outlive this node even if its session
    /// does not outlive the connection, and ownership goes on after a clean start.
    pub(crate) fn record_opened(&mut self, session: SessionId) {
        let Some(found) = self.sessions.get(session).filter(|found| found.epoch > 0) else {
            return;
        };
        let is_kept = self.config.recorded.sessions;
        let will = found.will.clone().filter(|_| is_kept);
        let expiry_s = if is_kept { found.expiry_s } else { 0 };
        let (client_id, epoch) = (found.client_id.clone(), found.epoch);
        self.send_op(RecordOp { client_id, epoch, change: Change::Opened { expiry_s, will } });
    }

    /// A client that cannot be told that it is let in is not.
    fn check_connack_fits(
        &self,
        connect: &Connect<'_>,
        assigned: Option<&str>,
        data: Option<&[u8]>,
    ) -> Result<(), Refusal> {
        let Some(size_max) = connect.properties.packet_size_max else { return Ok(()) };
        let mut connack = Vec::new();
        self.encode_connack(connect, false, assigned, data, &mut connack);
        if connack.len() > size_max as usize { Err(Refusal::AnswerTooLarge) } else { Ok(()) }
    }

    fn encode_connack(
        &self,
        connect: &Connect<'_>,
        session_present: bool,
        assigned_client_id: Option<&str>,
        authentication_data: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) {
        let limits = self.limits();
        let expiry_s = connect.properties.session_expiry_s.unwrap_or(0);
        let granted_s = self.capped_expiry(expiry_s);
        let keep_alive_s = granted_keep_alive(connect, limits.keep_alive_max_s);
        let asks = connect.properties.request_response_information == Some(true);
        let response_information = self.config.response_information.clone().filter(|_| asks);
        let properties = ConnAckProperties {
            session_expiry_s: (granted_s != expiry_s).then_some(granted_s),
            receive_max: std::num::NonZeroU16::new(limits.receive_max),
            qos_max: (limits.qos_max < QoS::ExactlyOnce).then_some(limits.qos_max as u8),
            retain_available: (!limits.retain_available).then_some(false),
            packet_size_max: Some(limits.packet_size_max),
            assigned_client_id,
            topic_alias_max: (limits.topic_alias_max > 0).then_some(limits.topic_alias_max),
            server_keep_alive_s: (keep_alive_s != connect.keep_alive_s).then_some(keep_alive_s),
            wildcard_subscription_available: (!limits.wildcard_available).then_some(false),
            subscription_ids_available: (!limits.subscription_id_available).then_some(false),
            shared_subscription_available: (!limits.shared_available).then_some(false),
            response_information: response_information.as_deref(),
            authentication_method: connect.properties.authentication_method,
            authentication_data,
            ..ConnAckProperties::default()
        };
        let connack = ConnAck { session_present, reason: ReasonCode::Success, properties };
        connack.encode(connect.version, out);
    }

    fn notice_connected(&mut self, id: ConnectionId, session: SessionId, session_present: bool) {
        let Some(connection) = self.connections.get(id) else { return };
        let Some(session) = self.sessions.get(session) else { return };
        let notice = Notice::Connected {
            client: session.client_id.clone(),
            address: connection.address,
            listener: connection.listener,
            version: connection.version,
            user: connection.user.clone(),
            session_present,
            keep_alive_s: connection.keep_alive_s,
        };
        self.notice(notice);
    }

    /// A Client Identifier nobody has, at home on this shard so that the socket stays here.
    pub(super) fn new_client_id(&mut self) -> String {
        loop {
            let id = format!("auto-{:016x}", self.random.next());
            if self.is_home_of(&id) && self.sessions.find(&id).is_none() {
                return id;
            }
        }
    }
}

/// Keep Alive in force: what the client asked for, unless a version 5 client has to be told
/// less [MQTT-3.1.2-21].
fn granted_keep_alive(connect: &Connect<'_>, max_s: u16) -> u16 {
    let asked_s = connect.keep_alive_s;
    let is_too_long = asked_s == 0 || asked_s > max_s;
    if connect.version == Version::V5 && max_s > 0 && is_too_long { max_s } else { asked_s }
}

fn note_extras(connection: &mut Connection, connect: &Connect<'_>, alias_out_max: u16) {
    if connect.version != Version::V5 {
        return;
    }
    let properties = &connect.properties;
    let alias_out_max = properties.topic_alias_max.unwrap_or(0).min(alias_out_max);
    let session_expiry_was_zero = properties.session_expiry_s.unwrap_or(0) == 0;
    let method: Option<Box<str>> = properties.authentication_method.map(Into::into);
    connection.is_expiry_fixed = session_expiry_was_zero;
    if alias_out_max > 0 || method.is_some() {
        let extras = connection.extras();
        extras.alias_out_max = alias_out_max;
        extras.method = method;
    }
}

/// The version a CONNECT announces, if its beginning can be read at all.
fn announced_version(body: &[u8]) -> Option<Version> {
    match body {
        [0, 4, b'M', b'Q', b'T', b'T', 5, ..] => Some(Version::V5),
        [0, 4, b'M', b'Q', b'T', b'T', 4, ..] => Some(Version::V3_1_1),
        [0, 6, b'M', b'Q', b'I', b's', b'd', b'p', 3, ..] => Some(Version::V3_1),
        _ => None,
    }
}
