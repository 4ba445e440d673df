//! Sessions of a group: claimed, taken away, adopted, and guarded by the node's lease.
//!
//! A CONNECT that has passed everything else waits until the hub has claimed its session for
//! this node. Another node's claim comes here as `Evict`: the connection is closed and the
//! session handed over whole. While the lease is out, another node may own any of the group's
//! sessions, so this shard lets go of their clients and does nothing in their name.

use octopus_mqtt::{Connect, ReasonCode, decode_connect};

use crate::connection::{Pause, Phase, Waiting};
use crate::durable::{Change, RecordOp, SessionRecord};
use crate::envelope::{Claim, Claimed, Envelope, Peer, Presence, Surrendered};
use crate::event::{ConnectionId, Instant, Output};
use crate::refusal::Refusal;
use crate::session::Session;
use crate::shard::Shard;
use crate::subscriptions::SessionId;

impl Shard {
    /// Asks the hub for the session of a client that may connect.
    pub(crate) fn claim(
        &mut self,
        id: ConnectionId,
        connect: &Connect<'_>,
        body: &[u8],
        data: Option<Box<[u8]>>,
    ) {
        let assigned: Option<Box<str>> =
            connect.client_id.is_empty().then(|| self.new_client_id().into());
        let client_id = assigned.clone().unwrap_or_else(|| connect.client_id.into());
        let is_persistent = self.granted_expiry(connect) > 0;
        let is_here = self.is_claimed(&client_id);
        let Some(connection) = self.connections.get_mut(id) else { return };
        let waiting = Waiting { connect: body.into(), assigned, data, is_here };
        connection.phase = Phase::AwaitingClaim(Box::new(waiting));
        let clean_start = connect.clean_start;
        let claim = Claim { connection: id, client_id, clean_start, is_here, is_persistent };
        self.push(Output::Send { to: Peer::Hub, envelope: Envelope::Claim(Box::new(claim)) });
    }

    /// The session is this node's. What was recorded of it is kept even if the connection that
    /// asked has gone.
    pub(crate) fn claimed(&mut self, claimed: Claimed) {
        let Claimed { connection: id, client_id, epoch, record } = claimed;
        if self.connections.get(id).is_some_and(|connection| connection.session().is_some()) {
            return self.registered(&client_id, epoch, record.is_some());
        }
        // The hub was asked before the session was handed over, and answered that it is here.
        let is_stale = self.passing.contains_key(&epoch);
        if !is_stale {
            self.take_claimed(&client_id, epoch, record);
        }
        let phase = self.connections.get_mut(id).map(|connection| &mut connection.phase);
        let Some(Phase::AwaitingClaim(waiting)) = phase else {
            if !is_stale {
                self.keep_unasked(&client_id, epoch);
            }
            return;
        };
        let Waiting { connect: body, assigned, data, is_here } = std::mem::take(&mut **waiting);
        let let_in = match decode_connect(&body) {
            // Or the session has ended meanwhile: the hub is asked once more.
            Ok(connect) if is_stale || is_here && self.sessions.find(&client_id).is_none() => {
                return self.claim(id, &connect, &body, data);
            }
            Ok(connect) => self.let_in(id, &connect, epoch, assigned.as_deref(), data.as_deref()),
            Err(error) => Err(Refusal::from(error)),
        };
        if let Err(refusal) = let_in {
            self.keep_unasked(&client_id, epoch);
            return self.refuse(id, refusal);
        }
        self.read_inbox(id);
        if self.connections.get_mut(id).is_some_and(|c| c.resume(Pause::AwaitingAnswer)) {
            self.push(Output::ResumeReading { connection: id });
        }
    }

    fn take_claimed(&mut self, client_id: &str, epoch: u64, record: Option<Box<SessionRecord>>) {
        let here = self.sessions.find(client_id);
        let session = here.and_then(|id| self.sessions.get_mut(id));
        let is_known = session.as_ref().is_some_and(|session| session.epoch == epoch);
        match (record, session) {
            (Some(record), _) if !is_known => {
                here.into_iter().for_each(|stale| self.let_go(stale));
                let session = self.import(client_id, epoch, *record);
                self.catch_up(session);
            }
            (_, Some(session)) => session.epoch = epoch,
            (_, None) => {}
        }
    }

    /// A session that was let in unclaimed is this node's now. Its client has the newest
    /// connection: what there was elsewhere ends.
    fn registered(&mut self, client_id: &str, epoch: u64, has_record: bool) {
        let Some(id) = self.sessions.find(client_id) else { return };
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.epoch = epoch;
        if has_record {
            let client_id = client_id.into();
            self.send_op(RecordOp { client_id, epoch, change: Change::Ended });
            self.record_opened(id);
        }
    }

    /// A claimed session that no connection takes: it waits as any session whose client is
    /// away, or is given up if there is none.
    fn keep_unasked(&mut self, client_id: &str, epoch: u64) {
        match self.sessions.find(client_id) {
            None if epoch > 0 => {
                let client_id = client_id.into();
                self.send_op(RecordOp { client_id, epoch, change: Change::Ended });
            }
            None => {}
            Some(id) if self.sessions.get(id).is_some_and(|session| session.is_online()) => {}
            Some(id) => self.wait_alone(id),
        }
    }

    /// The hub could not claim the session.
    pub(crate) fn claim_refused(&mut self, id: ConnectionId, reason: ReasonCode) {
        let is_waiting = |phase: &Phase| matches!(phase, Phase::AwaitingClaim(_));
        if self.connections.get(id).is_some_and(|connection| is_waiting(&connection.phase)) {
            self.refuse(id, Refusal::Told(reason));
        }
    }

    /// Another node claims the session: its connection ends here, all of it goes there. The
    /// will follows the rules of a takeover: without a delay it is sent now (§3.1.4).
    pub(crate) fn evict(&mut self, client_id: Box<str>, epoch: u64) {
        let mut record = None;
        if let Some(id) = self.sessions.find(&client_id)
            && self.sessions.get(id).is_some_and(|session| session.epoch == epoch)
        {
            if let Some(connection) = self.sessions.get(id).and_then(|s| s.connection) {
                self.stats.takeovers += 1;
                self.refuse(connection, Refusal::TakenOver);
            }
            let left = self.sessions.find(&client_id);
            if left.is_some_and(|id| self.evict_later(id, epoch)) {
                return;
            }
            let open = left.and_then(|id| self.sessions.get(id)).map(|session| session.id);
            if open.is_some_and(|session| self.evict_confirmed(session, &client_id, epoch)) {
                return;
            }
            record = left.and_then(|id| self.export(id));
        }
        let surrendered = Surrendered { client_id, epoch, record };
        let envelope = Envelope::Surrendered(Box::new(surrendered));
        self.push(Output::Send { to: Peer::Hub, envelope });
    }

    /// The session is another node's already: forgets it without a word in its name. What it is
    /// subscribed to is wanted until everybody knows its new node, because others may know this one
    /// only; the new one takes it out of the inbox.
    pub(crate) fn disown(&mut self, client_id: &str, epoch: u64) {
        if self.stop_passing(epoch) {
            return;
        }
        if let Some(id) = self.sessions.find(client_id)
            && let Some(session) = self.sessions.get_mut(id)
            && session.epoch <= epoch
            && epoch > 0
        {
            // What it is sent from here on is nobody's word: nothing is passed on.
            (session.is_recorded, session.will, session.epoch) = (false, None, 0);
            if let Some(connection) = session.connection {
                self.stats.takeovers += 1;
                self.refuse(connection, Refusal::TakenOver);
            }
            let Some(id) = self.sessions.find(client_id) else { return };
            self.empty_session(id);
            self.begin_passing(id);
            if let Some(session) = self.sessions.get(id).map(|session| session.id) {
                self.begin_haunting(session, epoch);
            }
        }
    }

    /// Keeps a session whose node is gone, until its client comes or it ends.
    pub(crate) fn adopt(&mut self, client_id: &str, epoch: u64, record: SessionRecord) {
        if let Some(stale) = self.sessions.find(client_id) {
            self.let_go(stale);
        }
        let id = self.import(client_id, epoch, record);
        self.tell_presence(id, Presence::Offline);
        self.catch_up(id);
    }

    /// Does what became due of a session while it was nobody's, or becomes due now that its
    /// client is known to be away.
    fn catch_up(&mut self, id: SessionId) {
        let now = self.now;
        let is_past = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let Some(session) = self.sessions.get(id) else { return };
        if session.expiry_s == 0 || is_past(session.ends_at()) {
            return self.end_session(id);
        }
        if is_past(session.will_at()) {
            self.send_will(id);
        }
        self.wait_alone(id);
    }

    fn is_claimed(&self, client_id: &str) -> bool {
        let session = self.sessions.find(client_id).and_then(|id| self.sessions.get(id));
        session.is_some_and(|session| session.epoch > 0)
    }

    /// Closes the session's connection and forgets the session: no will, no end.
    fn let_go(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.epoch = 0;
        session.is_recorded = false;
        session.will = None;
        let (connection, client_id) = (session.connection, session.client_id.clone());
        if let Some(connection) = connection {
            self.stats.takeovers += 1;
            self.refuse(connection, Refusal::TakenOver);
        }
        if let Some(id) = self.sessions.find(&client_id) {
            self.forget_session(id);
        }
    }

    // --- the lease ---

    /// Until then this node's sessions are its own.
    pub(crate) fn renew_lease(&mut self, until: Instant) {
        self.lease_until = self.lease_until.max(until);
        if !self.is_fenced || self.lease_until < self.now {
            return;
        }
        self.is_fenced = false;
        for (id, is_online) in self.sessions_where(|session| session.is_recorded) {
            if !is_online {
                self.wait_alone(id);
            }
        }
        self.register_unclaimed();
        self.route_fenced();
    }

    /// The lease is out: clients of recorded sessions are let go, and nothing more is done in
    /// the name of these sessions until it is renewed.
    pub(crate) fn fence_off(&mut self) {
        self.is_fenced = true;
        for (id, is_online) in self.sessions_where(|session| session.is_recorded) {
            let connection = self.sessions.get(id).and_then(|session| session.connection);
            if let Some(connection) = connection.filter(|_| is_online) {
                self.refuse(connection, Refusal::Told(ReasonCode::ServerUnavailable));
            }
        }
    }

    /// Claims what was let in while nothing could be claimed.
    fn register_unclaimed(&mut self) {
        for (id, _) in self.sessions_where(|session| session.epoch == 0 && session.is_online()) {
            let Some(session) = self.sessions.get(id) else { continue };
            let Some(connection) = session.connection else { continue };
            let client_id = session.client_id.clone();
            let claim = Claim {
                connection,
                client_id,
                clean_start: false,
                is_here: false,
                is_persistent: false,
            };
            self.push(Output::Send { to: Peer::Hub, envelope: Envelope::Claim(Box::new(claim)) });
        }
    }

    pub(crate) fn sessions_where(
        &self,
        is_meant: impl Fn(&Session) -> bool,
    ) -> Vec<(SessionId, bool)> {
        let meant = self.sessions.iter().filter(|session| is_meant(session));
        meant.map(|session| (session.id.id, session.is_online())).collect()
    }
}
