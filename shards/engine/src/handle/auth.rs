//! AUTH (§3.15): the steps of enhanced authentication between CONNECT and CONNACK, and
//! re-authentication of a live connection. What the data means is the hub's business.

use octopus_mqtt::{Auth, AuthProperties, ReasonCode, Version, decode_connect};

use crate::connection::{Extras, Phase};
use crate::envelope::{AuthExchange, AuthOutcome, AuthRequest, AuthStep, Envelope, Peer};
use crate::event::{ConnectionId, Output};
use crate::refusal::Refusal;
use crate::shard::Shard;

impl Shard {
    /// An AUTH on a live connection: re-authentication begins or goes on [MQTT-4.12.1-1].
    pub(crate) fn auth(&mut self, id: ConnectionId, packet: &Auth<'_>) -> Result<(), Refusal> {
        let Some(connection) = self.connections.get_mut(id) else { return Ok(()) };
        let Some(Extras { method: Some(method), is_authenticating, .. }) =
            connection.extras.as_deref_mut()
        else {
            return Err(Refusal::UnexpectedPacket);
        };
        if packet.properties.authentication_method != Some(method) {
            return Err(Refusal::AuthenticationMethodChanged);
        }
        let step = match (packet.reason, *is_authenticating) {
            (ReasonCode::ReAuthenticate, false) => AuthStep::Again,
            (ReasonCode::ContinueAuthentication, true) => AuthStep::Continue,
            _ => return Err(Refusal::UnexpectedPacket),
        };
        *is_authenticating = true;
        let method = method.clone();
        self.ask_again(id, method, packet, step);
        Ok(())
    }

    /// An AUTH while the CONNECT still waits for its answer [MQTT-4.12.0-4].
    pub(crate) fn auth_before_connack(
        &mut self,
        id: ConnectionId,
        packet: &Auth<'_>,
    ) -> Result<(), Refusal> {
        let Some(connection) = self.connections.get_mut(id) else { return Ok(()) };
        let Phase::AwaitingAuth(waiting) = &mut connection.phase else { return Ok(()) };
        let waiting = std::mem::take(waiting);
        let connect = decode_connect(&waiting.connect)?;
        let method = connect.properties.authentication_method;
        if method.is_none() || packet.reason != ReasonCode::ContinueAuthentication {
            return Err(Refusal::UnexpectedPacket);
        }
        if packet.properties.authentication_method != method {
            return Err(Refusal::AuthenticationMethodChanged);
        }
        let method: Box<str> = method.unwrap_or_default().into();
        connection.phase = Phase::AwaitingAnswer(waiting);
        self.ask_again(id, method, packet, AuthStep::Continue);
        Ok(())
    }

    fn ask_again(&mut self, id: ConnectionId, method: Box<str>, packet: &Auth<'_>, step: AuthStep) {
        let Some(connection) = self.connections.get(id) else { return };
        let session = connection.session().and_then(|session| self.sessions.get(session));
        let data = packet.properties.authentication_data.unwrap_or_default().into();
        let request = AuthRequest {
            connection: id,
            remote: connection.remote(),
            version: connection.version,
            client_id: session.map_or_else(Box::default, |session| session.client_id.clone()),
            user_name: connection.user.clone(),
            password: None,
            exchange: Some(AuthExchange { method, data, step }),
        };
        let envelope = Envelope::Authenticate(Box::new(request));
        self.push(Output::Send { to: Peer::Hub, envelope });
    }

    /// Passes the server's challenge on to the client [MQTT-4.12.0-2]; from here on it may
    /// answer with AUTH.
    pub(crate) fn challenge(&mut self, id: ConnectionId, data: &[u8]) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let method = match &connection.phase {
            Phase::AwaitingAuth(waiting) => {
                let connect = decode_connect(&waiting.connect).ok();
                connect.and_then(|c| c.properties.authentication_method).map(Box::from)
            }
            _ => connection.extras.as_ref().and_then(|extras| extras.method.clone()),
        };
        self.write_auth(id, ReasonCode::ContinueAuthentication, method, Some(data));
        self.read_inbox(id);
    }

    /// The hub's word on a re-authentication.
    pub(crate) fn authenticated_again(&mut self, id: ConnectionId, outcome: AuthOutcome) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        match outcome {
            AuthOutcome::Continue { data } => self.challenge(id, &data),
            AuthOutcome::Refused { reason } => self.refuse(id, Refusal::Told(reason)),
            AuthOutcome::Changed { acl } => self.change_acl(id, acl),
            AuthOutcome::Granted { user, acl, data } => {
                connection.user = user.or_else(|| connection.user.take());
                let extras = connection.extras();
                extras.is_authenticating = false;
                let method = extras.method.clone();
                self.write_auth(id, ReasonCode::Success, method, data.as_deref());
                self.change_acl(id, acl);
            }
        }
    }

    /// Clients are let in with the hub's word only from here on; it hears of those that are
    /// connected.
    pub(crate) fn ask_from_now_on(&mut self) {
        if std::mem::replace(&mut self.config.authenticate, true) {
            return;
        }
        for id in self.connections.ids() {
            let Some(connection) = self.connections.get(id) else { continue };
            let Some(session) = connection.session() else { continue };
            let Some(client_id) = self.sessions.get(session).map(|s| s.client_id.clone()) else {
                continue;
            };
            let request = AuthRequest {
                connection: id,
                remote: connection.remote(),
                version: connection.version,
                client_id,
                user_name: connection.user.clone(),
                password: None,
                exchange: None,
            };
            let envelope = Envelope::Live(Box::new(request));
            self.push(Output::Send { to: Peer::Hub, envelope });
        }
    }

    fn write_auth(
        &mut self,
        id: ConnectionId,
        reason: ReasonCode,
        method: Option<Box<str>>,
        data: Option<&[u8]>,
    ) {
        let Some(size_max) = self.connections.get(id).map(|c| c.packet_size_max as usize) else {
            return;
        };
        let Some(out) = self.out(id) else { return };
        let start = out.len();
        let properties = AuthProperties {
            authentication_method: method.as_deref(),
            authentication_data: data,
            ..AuthProperties::default()
        };
        Auth { reason, properties }.encode(Version::V5, out);
        if out.len() - start > size_max {
            out.truncate(start);
            self.refuse(id, Refusal::AnswerTooLarge);
        }
    }
}
