//! SUBSCRIBE (§3.8): interest spreads to every shard, then SUBACK, then retained messages.

use std::collections::VecDeque;
use std::sync::Arc;

use octopus_mqtt::{
    ReasonCode, RetainHandling, SubAck, Subscribe, SubscribeFilter, TopicFilter, Version,
};

use super::publish::has_more_levels;
use crate::barrier::{PendingSubAck, Then};
use crate::durable::Change;
use crate::envelope::{Envelope, SessionRef};
use crate::event::ConnectionId;
use crate::memory::MemoryLevel;
use crate::recent::What;
use crate::refusal::Refusal;
use crate::session::{Replay, SharedSubscription};
use crate::shard::Shard;
use crate::subscriptions::{FilterId, Grant, Subscriber};

/// What the entries of one SUBSCRIBE have led to so far.
#[derive(Default)]
struct Progress {
    reasons: Vec<u8>,
    replays: VecDeque<Replay>,
    /// Interest went out to the other shards.
    announced: bool,
    /// Groups on other shards that will answer.
    answers: usize,
}

impl Shard {
    pub(crate) fn subscribe(
        &mut self,
        id: ConnectionId,
        packet: &Subscribe<'_>,
    ) -> Result<(), Refusal> {
        let Some(connection) = self.connections.get(id) else { return Ok(()) };
        let Some(session) = connection.session() else { return Ok(()) };
        if connection.version == Version::V5 {
            self.check_available(packet)?;
        }
        let Some(session) = self.sessions.get(session).map(|session| session.id) else {
            return Ok(());
        };
        let barrier = self.barriers.next();
        let mut progress = Progress::default();
        for entry in packet.filters.iter() {
            let subscription_id = packet.properties.subscription_id.unwrap_or(0);
            let reason = match self.may_subscribe(id, session, entry.filter) {
                Err(reason) => {
                    self.stats.subscribes_denied += u64::from(reason == ReasonCode::NotAuthorized);
                    let is_short = self.memory.level() >= MemoryLevel::Filling;
                    let is_refused = is_short && reason == ReasonCode::QuotaExceeded;
                    self.stats.memory.subscriptions_refused += u64::from(is_refused);
                    let client = self.sessions.get(session.id).map_or("", |s| &s.client_id);
                    let what = What::SubscriptionRefused(reason);
                    self.recent.note(self.now, client, entry.filter.as_str(), what);
                    reason
                }
                Ok(()) => self.add(session, &entry, subscription_id, barrier, &mut progress),
            };
            progress.reasons.push(reason as u8);
        }
        let fence = progress.announced || self.barriers.is_waiting();
        let pending = PendingSubAck {
            connection: id,
            session,
            packet_id: packet.packet_id,
            reasons: progress.reasons,
            replays: progress.replays,
        };
        self.wait(barrier, fence, progress.answers, Then::SubAck(pending));
        Ok(())
    }

    /// A version 5 client was told in CONNACK what is not available (§3.2.2.3.11 and on).
    fn check_available(&self, packet: &Subscribe<'_>) -> Result<(), Refusal> {
        let has_id = packet.properties.subscription_id.is_some();
        if has_id && !self.limits().subscription_id_available {
            return Err(Refusal::Told(ReasonCode::SubscriptionIdsNotSupported));
        }
        let missing = packet.filters.iter().find_map(|entry| self.unavailable(entry.filter));
        missing.map_or(Ok(()), |reason| Err(Refusal::Told(reason)))
    }

    /// Why this node does not offer subscriptions of this kind, if it does not.
    fn unavailable(&self, filter: TopicFilter<'_>) -> Option<ReasonCode> {
        let limits = self.limits();
        if filter.shared().is_some() && !limits.shared_available {
            return Some(ReasonCode::SharedSubscriptionsNotSupported);
        }
        let is_offered = limits.wildcard_available || !filter.has_wildcard();
        (!is_offered).then_some(ReasonCode::WildcardSubscriptionsNotSupported)
    }

    fn may_subscribe(
        &self,
        id: ConnectionId,
        session: SessionRef,
        filter: TopicFilter<'_>,
    ) -> Result<(), ReasonCode> {
        let limits = self.limits();
        if let Some(reason) = self.unavailable(filter) {
            return Err(reason);
        }
        if has_more_levels(filter.as_str(), limits.topic_levels_max.into()) {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        let acl = self.connections.get(id).and_then(|connection| connection.acl.as_ref());
        if acl.is_some_and(|acl| !acl.allows_subscribe(filter)) {
            return Err(ReasonCode::NotAuthorized);
        }
        if self.memory.level() >= MemoryLevel::Filling && !self.has_subscription(session, filter) {
            return Err(ReasonCode::QuotaExceeded);
        }
        let count = self.sessions.get(session.id).map_or(0, |s| s.subscription_count());
        if count >= limits.subscription_count_max as usize {
            return Err(ReasonCode::QuotaExceeded);
        }
        Ok(())
    }

    fn has_subscription(&self, session: SessionRef, filter: TopicFilter<'_>) -> bool {
        let known = self.subscriptions.find(filter.as_str());
        let subscriber = Subscriber::Session(session.id);
        known.is_some_and(|known| self.subscriptions.grant(known, subscriber).is_some())
    }

    /// Adds or replaces one subscription [MQTT-3.8.4-3]; the QoS granted as Reason Code.
    fn add(
        &mut self,
        session: SessionRef,
        entry: &SubscribeFilter<'_>,
        subscription_id: u32,
        barrier: u64,
        progress: &mut Progress,
    ) -> ReasonCode {
        let options = entry.options;
        let grant = Grant {
            qos: options.qos.min(self.limits().qos_max),
            no_local: options.no_local,
            retain_as_published: options.retain_as_published,
            subscription_id,
        };
        let granted = ReasonCode::granted(grant.qos);
        if entry.filter.shared().is_some() {
            self.add_shared(session, entry.filter, grant, barrier, progress);
            return granted;
        }
        let subscriber = Subscriber::Session(session.id);
        let subscribed = self.subscriptions.subscribe(entry.filter, subscriber, grant);
        if subscribed.first {
            self.announce(entry.filter.as_str(), true);
            progress.announced = true;
        }
        self.record_subscribed(session, entry.filter, grant);
        let is_new = subscribed.replaced.is_none();
        if is_new {
            self.tell_first(subscribed.filter, subscriber);
        }
        if is_new && let Some(found) = self.sessions.get_mut(session.id) {
            found.subscriptions.push(subscribed.filter);
        }
        let wants_retained = match options.retain_handling {
            RetainHandling::Always => true,
            RetainHandling::OnlyIfNew => is_new,
            RetainHandling::Never => false,
        };
        if wants_retained {
            progress.replays.push_back(self.new_replay(entry.filter, grant));
        }
        granted
    }

    fn add_shared(
        &mut self,
        session: SessionRef,
        filter: TopicFilter<'_>,
        grant: Grant,
        barrier: u64,
        progress: &mut Progress,
    ) {
        let key: Arc<str> = filter.as_str().into();
        let Some(found) = self.sessions.get_mut(session.id) else { return };
        let shared = &mut found.deliveries().shared;
        match shared.iter_mut().find(|subscription| subscription.key == key) {
            Some(subscription) => subscription.grant = grant,
            None => {
                shared.push(SharedSubscription { key: key.clone(), grant });
                self.stats.shared_subscriptions += 1;
            }
        }
        self.record_subscribed(session, filter, grant);
        let (announced, answers) = self.join_group(&key, session, grant, barrier);
        progress.announced |= announced;
        progress.answers += answers;
    }

    fn record_subscribed(&mut self, session: SessionRef, filter: TopicFilter<'_>, grant: Grant) {
        let filter = filter.as_str();
        self.record(session.id, || Change::Subscribed { filter: filter.into(), grant });
    }

    /// Subscribes a session that was recorded elsewhere, as it was; how many groups on other
    /// shards will answer with `barrier`.
    pub(crate) fn restore_subscription(
        &mut self,
        session: SessionRef,
        text: &str,
        grant: Grant,
        barrier: u64,
    ) -> usize {
        let Ok(filter) = TopicFilter::parse(text) else { return 0 };
        if filter.shared().is_some() {
            let key: Arc<str> = text.into();
            let Some(found) = self.sessions.get_mut(session.id) else { return 0 };
            found.deliveries().shared.push(SharedSubscription { key: key.clone(), grant });
            self.stats.shared_subscriptions += 1;
            return self.join_group(&key, session, grant, barrier).1;
        }
        let subscriber = Subscriber::Session(session.id);
        let subscribed = self.subscriptions.subscribe(filter, subscriber, grant);
        if subscribed.first {
            self.announce(text, true);
        }
        if subscribed.replaced.is_none()
            && let Some(found) = self.sessions.get_mut(session.id)
        {
            found.subscriptions.push(subscribed.filter);
            self.tell_first(subscribed.filter, subscriber);
        }
        0
    }

    /// All shards and nodes have the interest: SUBACK, then what is retained.
    pub(crate) fn suback(&mut self, pending: PendingSubAck) {
        let Some(connection) = self.connections.get(pending.connection) else { return };
        let manner = connection.manner();
        if connection.session() != Some(pending.session.id) {
            return;
        }
        let PendingSubAck { packet_id, ref reasons, .. } = pending;
        let refused = reasons.iter().filter_map(|&code| ReasonCode::from_u8(code));
        let refused = refused.max().unwrap_or(ReasonCode::Success);
        let Some(out) = self.out(pending.connection) else { return };
        let is_told = manner.put(out, refused, |out, properties| {
            SubAck { packet_id, properties, reasons }.encode_suback(manner.version, out);
        });
        if !is_told {
            return self.refuse(pending.connection, Refusal::AnswerTooLarge);
        }
        if !pending.replays.is_empty()
            && let Some(session) = self.sessions.get_ref(pending.session)
        {
            session.deliveries().replays.extend(pending.replays);
        }
        self.pump(pending.session.id);
    }

    /// Tells every other shard that this one wants `filter`, or no longer does.
    pub(crate) fn announce(&mut self, filter: &str, wanted: bool) {
        for shard in self.other_shards() {
            self.send(shard, Envelope::Interest { filter: filter.into(), wanted });
        }
    }

    /// Takes a subscriber off a filter, and the filter off the other shards if it was the last.
    pub(crate) fn withdraw(&mut self, filter: FilterId, subscriber: Subscriber) {
        let removed = self.subscriptions.unsubscribe(filter, subscriber);
        let Some(removed) = removed else { return };
        self.tell_last(filter, subscriber, removed.text.as_deref());
        if let Some(text) = removed.text {
            self.announce(&text, false);
        }
    }

    /// Another peer wants a filter, or no longer does.
    pub(crate) fn take_interest(&mut self, filter: &str, wanted: bool, peer: u16) {
        let Ok(filter) = TopicFilter::parse(filter) else { return };
        if wanted {
            self.interest.add(filter, peer);
        } else {
            self.interest.remove(filter, peer);
        }
    }
}
