//! Rights that end while a client, or its session, has something that rests on them:
//! subscriptions, messages that wait, the will.

use std::collections::VecDeque;
use std::sync::Arc;

use octopus_mqtt::{TopicFilter, TopicName};

use crate::acl::Acl;
use crate::durable::Change;
use crate::event::ConnectionId;
use crate::message::Dropped;
use crate::session::Queued;
use crate::shard::Shard;
use crate::subscriptions::SessionId;

impl Shard {
    /// Other rules hold for a live client from now on.
    pub(crate) fn change_acl(&mut self, id: ConnectionId, acl: Option<Arc<Acl>>) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.acl = acl;
        self.revoke(id);
        self.revoke_will(id);
    }

    /// Ends what a client's session has and its rules do not allow (any more): subscriptions,
    /// and messages that wait for it. What was sent once is finished as usual.
    pub(crate) fn revoke(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let Some(acl) = connection.acl.clone() else { return };
        let Some(session) = connection.session() else { return };
        self.revoke_subscriptions(session, &acl);
        self.revoke_queued(session, &acl);
    }

    fn revoke_subscriptions(&mut self, session: SessionId, acl: &Acl) {
        let Some(found) = self.sessions.get(session) else { return };
        let plain = found.subscriptions.iter().map(|&filter| self.subscriptions.text(filter));
        let shared = found.peek_deliveries().map_or(&[][..], |deliveries| &deliveries.shared);
        let filters: Vec<Box<str>> =
            plain.chain(shared.iter().map(|shared| &*shared.key)).map(Into::into).collect();
        for filter in filters {
            let Ok(filter) = TopicFilter::parse(&filter) else { continue };
            if !acl.allows_subscribe(filter) {
                self.unsubscribe_one(session, filter);
                self.stats.subscriptions_revoked += 1;
            }
        }
    }

    /// A subscription that is allowed covers its topics, so what it brought is allowed too.
    fn revoke_queued(&mut self, session: SessionId, acl: &Acl) {
        let Some(found) = self.sessions.get_mut(session) else { return };
        let Some(deliveries) = found.deliveries_if_any() else { return };
        let may_read = |item: &Queued| {
            let topic = TopicFilter::parse(item.message.topic().as_str());
            topic.is_ok_and(|topic| acl.allows_subscribe(topic))
        };
        let (kept, revoked): (VecDeque<Queued>, VecDeque<Queued>) =
            std::mem::take(&mut deliveries.queue).into_iter().partition(may_read);
        deliveries.queue = kept;
        let bytes: usize = revoked.iter().map(|item| item.message.size()).sum();
        deliveries.queue_bytes -= bytes;
        self.stats.queue_bytes -= bytes as u64;
        for item in revoked {
            self.record(session, || Change::Done { serial: item.serial });
            self.stats.ledger.unqueue();
            self.drop_for(session, Dropped::NotAuthorized, &mut item.message.parcel());
        }
    }

    /// A will that its client could not publish any more is not published for it either.
    fn revoke_will(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let Some(session) = connection.session() else { return };
        let may_publish = |topic: &str| match &connection.acl {
            Some(acl) => acl.allows_publish(TopicName::assume_valid(topic)),
            None => true,
        };
        let Some(found) = self.sessions.get_mut(session) else { return };
        if let Some(will) = found.will.take_if(|will| !may_publish(will.topic())) {
            self.record_opened(session);
            self.drop_for(session, Dropped::NotAuthorized, &mut will.message(self.now).parcel());
        }
    }
}
