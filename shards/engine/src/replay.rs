//! Retained messages on their way to a new subscription (§3.8.4).
//!
//! Every shard keeps the retained messages whose topics are at home there. A replay asks the
//! shards in turn for slices, no faster than the client takes them, so that any number of
//! retained messages arrives without stalling anybody. A live message that was published
//! meanwhile is newer than what the replay holds of its topic, so that is left out.

use octopus_mqtt::{QoS, TopicFilter, TopicName};

use crate::envelope::{Envelope, Peer, ReplayId, RetainedFound, RetainedQuery, ShardId};
use crate::event::Output;
use crate::message::{Dropped, Message};
use crate::session::{Extra, Replay, Session};
use crate::shard::{Shard, Timer};
use crate::subscriptions::{Grant, SessionId};

/// Slices of this shard's own part that one replay takes in a turn.
const SLICES_PER_TURN: usize = 4;
/// Live topics remembered while a replay runs; past that, an older retained message may follow
/// a newer live one.
const NEWER_COUNT_MAX: usize = 1024;

impl Shard {
    pub(crate) fn new_replay(&mut self, filter: TopicFilter<'_>, grant: Grant) -> Replay {
        let (shard, last_shard) = if filter.has_wildcard() {
            (0, self.config.shards)
        } else {
            let home = self.home_of(filter.as_str()).0;
            (home, home + 1)
        };
        Replay {
            serial: self.random.next(),
            filter: filter.as_str().into(),
            grant,
            shard,
            last_shard,
            after: None,
            is_asked: false,
            newer: Vec::new(),
        }
    }

    /// Goes on with this session's replays as far as its client has room.
    pub(crate) fn pump_replays(&mut self, id: SessionId) {
        for _ in 0..SLICES_PER_TURN {
            if !self.may_replay(id) {
                return;
            }
            let limit = self.limits().retained_slice_count;
            let own = self.config.id;
            let Some(session) = self.sessions.get_mut(id) else { return };
            let replay_session = session.id;
            let replays = &mut session.deliveries().replays;
            let Some(replay) = replays.front_mut() else { return };
            if replay.shard >= replay.last_shard {
                replays.pop_front();
                session.trim();
                continue;
            }
            let to = ShardId(replay.shard);
            let query = RetainedQuery {
                replay: ReplayId { session: replay_session, serial: replay.serial },
                filter: replay.filter.clone(),
                after: replay.after.take(),
                limit,
            };
            replay.is_asked = true;
            if to != own {
                return self.send(to, Envelope::RetainedQuery(Box::new(query)));
            }
            let found = self.find_retained(&query);
            self.take_slice(found);
        }
        let Some(session) = self.sessions.get(id).map(|session| session.id) else { return };
        if self.may_replay(id) {
            self.timers.arm(self.now, Timer::Replay(session));
        }
    }

    /// Whether a replay is waiting that may go on: its client is there and takes what it gets.
    fn may_replay(&self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        let Some(deliveries) = session.peek_deliveries() else { return false };
        let Some(replay) = deliveries.replays.front() else { return false };
        let connection = session.connection.and_then(|id| self.connections.get(id));
        let out_half = self.config.limits.out_bytes_max / 2;
        !replay.is_asked
            && deliveries.queue.is_empty()
            && connection.is_some_and(|connection| connection.out_len() < out_half)
    }

    pub(crate) fn answer_retained(&mut self, to: Peer, query: &RetainedQuery) {
        let found = self.find_retained(query);
        let envelope = Envelope::RetainedFound(Box::new(found));
        self.push(Output::Send { to, envelope });
    }

    fn find_retained(&mut self, query: &RetainedQuery) -> RetainedFound {
        let mut messages = Vec::new();
        let next = match TopicFilter::parse(&query.filter) {
            Ok(filter) => {
                let after = query.after.as_deref();
                self.retained.matching(filter, after, query.limit, &mut messages)
            }
            Err(_) => None,
        };
        let now = self.now;
        for expired in messages.extract_if(.., |message| message.is_expired(now)) {
            self.retained.remove(expired.topic().as_str());
        }
        RetainedFound { replay: query.replay, messages, next }
    }

    /// Another shard's slice is here.
    pub(crate) fn retained_found(&mut self, found: RetainedFound) {
        let session = found.replay.session.id;
        self.take_slice(found);
        self.pump(session);
    }

    fn take_slice(&mut self, found: RetainedFound) {
        let RetainedFound { replay: id, messages, next } = found;
        let Some(session) = self.sessions.get_ref(id.session) else { return };
        let Some(deliveries) = session.deliveries_if_any() else { return };
        let same = |replay: &&mut Replay| replay.serial == id.serial;
        let Some(replay) = deliveries.replays.iter_mut().find(same) else { return };
        replay.is_asked = false;
        if next.is_none() {
            replay.shard += 1;
        }
        replay.after = next;
        let grant = replay.grant;
        let newer = std::mem::take(&mut replay.newer);
        for message in &messages {
            if newer.iter().all(|topic| **topic != *message.topic().as_str()) {
                self.replay_one(id.session.id, message, grant);
            }
        }
        let Some(session) = self.sessions.get_ref(id.session) else { return };
        if let Some(replay) = session.deliveries().replays.iter_mut().find(same) {
            replay.newer = newer;
        }
    }

    /// Delivers one retained message, marked as such [MQTT-3.3.1-8].
    fn replay_one(&mut self, session: SessionId, message: &Message, grant: Grant) {
        if self.sessions.get(session).is_none() {
            return self.drop_for_nobody(Dropped::SessionEnded, &message.parcel());
        }
        let extra = (grant.subscription_id != 0).then(|| {
            Box::new(Extra { subscription_ids: vec![grant.subscription_id], group: None })
        });
        let qos = message.qos().min(grant.qos);
        let mut parcel = message.parcel();
        parcel.retain = false; // it is not newer than the replay it is part of
        (parcel.id, parcel.is_again) = (0, false); // nor is it what was published then
        self.templates.reset();
        self.latency.hop = None; // it was published long ago
        if qos == QoS::AtMostOnce && self.sessions.get(session).is_some_and(Session::is_online) {
            // A slice is bounded and waited for room: it is not dropped for a slow reader.
            return self.send_now(session, &mut parcel, qos, true, extra);
        }
        self.deliver(session, &mut parcel, qos, true, extra);
    }

    /// A live retained message reaches a session: its replays must not bring an older one.
    pub(crate) fn note_newer(&mut self, id: SessionId, topic: TopicName<'_>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(deliveries) = session.deliveries_if_any() else { return };
        for replay in &mut deliveries.replays {
            let is_meant = TopicFilter::parse(&replay.filter).is_ok_and(|f| f.matches(topic));
            if is_meant
                && replay.newer.len() < NEWER_COUNT_MAX
                && replay.newer.iter().all(|known| **known != *topic.as_str())
            {
                replay.newer.push(topic.as_str().into());
            }
        }
    }
}
