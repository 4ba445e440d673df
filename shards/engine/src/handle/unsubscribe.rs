//! UNSUBSCRIBE (§3.10).

use octopus_mqtt::{ReasonCode, SubAck, TopicFilter, Unsubscribe};

use crate::durable::Change;
use crate::envelope::GroupEvent;
use crate::event::ConnectionId;
use crate::refusal::Refusal;
use crate::shard::Shard;
use crate::subscriptions::{SessionId, Subscriber};

impl Shard {
    /// Removes the subscriptions whose filters are the same, character by character
    /// [MQTT-3.10.4-1]. What is in flight is still finished [MQTT-3.10.4-3].
    pub(crate) fn unsubscribe(
        &mut self,
        id: ConnectionId,
        packet: &Unsubscribe<'_>,
    ) -> Result<(), Refusal> {
        let Some(connection) = self.connections.get(id) else { return Ok(()) };
        let manner = connection.manner();
        let Some(session) = connection.session() else { return Ok(()) };
        let mut reasons = Vec::with_capacity(packet.filters.len());
        for filter in packet.filters.iter() {
            let existed = self.unsubscribe_one(session, filter);
            let reason =
                if existed { ReasonCode::Success } else { ReasonCode::NoSubscriptionExisted };
            reasons.push(reason as u8);
        }
        let (packet_id, reasons) = (packet.packet_id, &reasons[..]);
        let Some(out) = self.out(id) else { return Ok(()) };
        let is_told = manner.put(out, ReasonCode::Success, |out, properties| {
            SubAck { packet_id, properties, reasons }.encode_unsuback(manner.version, out);
        });
        if is_told { Ok(()) } else { Err(Refusal::AnswerTooLarge) }
    }

    /// Ends one subscription; `false` if there is none with this filter.
    pub(crate) fn unsubscribe_one(&mut self, session: SessionId, filter: TopicFilter<'_>) -> bool {
        let existed = match filter.shared() {
            Some(_) => self.remove_shared(session, filter),
            None => self.remove(session, filter),
        };
        if existed {
            let text = filter.as_str();
            self.record(session, || Change::Unsubscribed { filter: text.into() });
        }
        existed
    }

    fn remove(&mut self, session: SessionId, filter: TopicFilter<'_>) -> bool {
        let Some(filter_id) = self.subscriptions.find(filter.as_str()) else { return false };
        let Some(found) = self.sessions.get_mut(session) else { return false };
        let Some(index) = found.subscriptions.iter().position(|&own| own == filter_id) else {
            return false;
        };
        found.subscriptions.swap_remove(index);
        if let Some(deliveries) = found.deliveries_if_any() {
            deliveries.replays.retain(|replay| &*replay.filter != filter.as_str());
        }
        self.withdraw(filter_id, Subscriber::Session(session));
        true
    }

    fn remove_shared(&mut self, session: SessionId, filter: TopicFilter<'_>) -> bool {
        let Some(found) = self.sessions.get_mut(session) else { return false };
        let id = found.id;
        let Some(deliveries) = found.deliveries_if_any() else { return false };
        let same = |shared: &crate::session::SharedSubscription| &*shared.key == filter.as_str();
        let Some(index) = deliveries.shared.iter().position(same) else { return false };
        let shared = deliveries.shared.swap_remove(index);
        self.stats.shared_subscriptions -= 1;
        let member = self.member(id);
        self.tell_group(&shared.key, GroupEvent::Leave { member });
        true
    }
}
