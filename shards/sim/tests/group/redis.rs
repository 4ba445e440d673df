//! What Redis is to sessions, in memory: one step at a time, nothing forgotten.

use std::collections::{BTreeMap, VecDeque};

use octopus_engine::{
    Change, DeliveryItem, DeliveryRecord, DeliveryState, RecordOp, SessionRecord,
};
use octopus_mqtt::PacketId;

/// One session as it is kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    /// `None` between two owners.
    pub(crate) owner: Option<usize>,
    pub(crate) epoch: u64,
    pub(crate) record: SessionRecord,
    pub(crate) handover: Option<Box<SessionRecord>>,
    /// Epochs in which it was taken without being handed over.
    lost: Vec<u64>,
    /// Of these, the last of each node whose inbox it still needs.
    had: BTreeMap<usize, u64>,
    /// Who handed it over, and the epoch it had there.
    pub(crate) from: Option<(usize, u64)>,
    /// Who passes messages on to it.
    pub(crate) passing: Option<usize>,
}

#[derive(Debug, Default)]
pub(crate) struct Redis {
    pub(crate) sessions: BTreeMap<String, Kept>,
    pub(crate) passed: BTreeMap<String, VecDeque<Option<DeliveryItem>>>,
    /// What of it was read and not recorded.
    pub(crate) taken: BTreeMap<String, VecDeque<Option<DeliveryItem>>>,
    last_epoch: u64,
}

impl Redis {
    /// The session is `owner`'s from here on; what it was, if it was.
    pub(crate) fn own(&mut self, client: &str, owner: usize) -> (u64, Option<Box<SessionRecord>>) {
        self.last_epoch += 1;
        let epoch = self.last_epoch;
        if let Some(kept) = self.sessions.get_mut(client)
            && let Some(old) = kept.owner.filter(|&old| old != owner)
        {
            kept.record.left.push(old.to_string().into());
            kept.lost.push(kept.epoch);
            kept.had.insert(old, kept.epoch);
        }
        let before = self.sessions.get(client).cloned();
        let kept = self.sessions.entry(client.to_owned()).or_default();
        (kept.owner, kept.epoch) = (Some(owner), epoch);
        let record = before.map(|kept| {
            let left = kept.record.left.clone();
            let passed_by = kept.passing.map(|by| match by == owner {
                true => "".into(),
                false => by.to_string().into(),
            });
            let record = kept.handover.map_or(kept.record, |handover| *handover);
            Box::new(SessionRecord { left, passed_by, ..record })
        });
        if let Some(taken) = self.taken.remove(client) {
            let passed = self.passed.entry(client.to_owned()).or_default();
            taken.into_iter().rev().for_each(|item| passed.push_front(item));
        }
        (epoch, record)
    }

    /// Whether a session waits for what is in this node's inbox.
    pub(crate) fn is_owed(&self, node: usize) -> bool {
        let name = node.to_string();
        self.sessions.values().any(|kept| kept.record.left.iter().any(|left| **left == *name))
    }

    /// What was passed on to a session; it is kept until it is recorded.
    pub(crate) fn take_passed(&mut self, client: &str) -> Vec<Option<DeliveryItem>> {
        let items: Vec<_> = self.passed.remove(client).unwrap_or_default().into();
        self.taken.entry(client.to_owned()).or_default().extend(items.iter().cloned());
        items
    }

    /// Who handed the session over; asked once.
    pub(crate) fn take_from(&mut self, client: &str) -> Option<(usize, u64)> {
        self.sessions.get_mut(client)?.from.take()
    }

    /// Nodes that lost the session and need not want what it is subscribed to any more, if this
    /// is carried out, with the epochs it had there.
    pub(crate) fn take_had(&mut self, client: &str, change: &Change) -> Vec<(usize, u64)> {
        let Some(kept) = self.sessions.get_mut(client) else { return Vec::new() };
        match change {
            Change::Ended => std::mem::take(&mut kept.had).into_iter().collect(),
            Change::Inherited { node } => {
                let node = node.parse().expect("a node's number");
                kept.had.remove_entry(&node).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    /// Whether the session is this node's under this epoch.
    pub(crate) fn is_of(&self, client: &str, owner: usize, epoch: u64) -> bool {
        let kept = self.sessions.get(client);
        kept.is_some_and(|kept| (kept.owner, kept.epoch) == (Some(owner), epoch))
    }

    /// Carries one operation out; `false` if the session is another's.
    pub(crate) fn apply(&mut self, owner: usize, op: RecordOp) -> bool {
        let RecordOp { client_id, epoch, change } = op;
        let client = String::from(client_id);
        if let Change::Passed { item } = change {
            let is_lost = |kept: &Kept| kept.lost.contains(&epoch);
            if epoch == 0 || self.sessions.get(&client).is_some_and(is_lost) {
                return false;
            }
            self.passed.entry(client).or_default().push_back(item);
            return true;
        }
        let is_new =
            matches!(change, Change::Opened { .. }) && !self.sessions.contains_key(&client);
        if is_new {
            let kept = Kept { owner: Some(owner), epoch, ..Kept::default() };
            self.sessions.insert(client.clone(), kept);
        }
        let Some(kept) = self.sessions.get_mut(&client) else { return false };
        if kept.owner != Some(owner) || kept.epoch != epoch {
            return false;
        }
        let taken = self.taken.entry(client.clone()).or_default();
        match change {
            Change::Ended => {
                self.sessions.remove(&client);
                return true;
            }
            Change::Queued { kept: from, .. } | Change::Unkept(from) => {
                if from.is_passed {
                    taken.pop_front();
                }
                kept.record.held.retain(|held| Some(held.place) != from.held);
            }
            Change::Arrived { is_told } => {
                if is_told {
                    taken.pop_front();
                }
                let old = kept.passing.take().filter(|&old| old != owner && !is_told);
                kept.record.left.splice(..0, old.map(|old| old.to_string().into()));
            }
            _ => {}
        }
        if matches!(change, Change::Opened { .. } | Change::Away { .. }) {
            kept.handover = None;
        }
        fold(&mut kept.record, change);
        true
    }
}

fn fold(record: &mut SessionRecord, change: Change) {
    match change {
        Change::Opened { expiry_s, will } => {
            (record.expiry_s, record.will) = (expiry_s, will);
            (record.ends_at, record.will_at) = (None, None);
        }
        Change::Away { expiry_s, ends_at, will_at } => {
            (record.expiry_s, record.ends_at, record.will_at) = (expiry_s, ends_at, will_at);
        }
        Change::WillGone => record.will = None,
        Change::Known | Change::Unkept(_) | Change::Arrived { .. } => {}
        Change::Held(held) => {
            record.held.push(held);
            record.held.sort_by_key(|held| held.place);
        }
        Change::Subscribed { filter, grant } => {
            record.subscriptions.retain(|(known, _)| *known != filter);
            record.subscriptions.push((filter, grant));
        }
        Change::Unsubscribed { filter } => {
            record.subscriptions.retain(|(known, _)| *known != filter);
        }
        Change::Queued { serial, item, .. } => {
            let state = DeliveryState::Queued;
            record.deliveries.push(DeliveryRecord { serial, state, item: Some(item) });
        }
        Change::Published { serial, packet_id } => {
            record.last_packet_id = packet_id.get();
            set_state(record, serial, DeliveryState::Published(packet_id));
        }
        Change::Released { serial, packet_id, number } => {
            set_state(record, serial, DeliveryState::Released(packet_id));
            record.got.extend((number != 0).then_some(number));
        }
        Change::Got { numbers } => record.got = numbers,
        Change::Inherited { node } => record.left.retain(|left| *left != node),
        Change::Done { serial } => record.deliveries.retain(|known| known.serial != serial),
        Change::Incoming { packet_id, number } => {
            forget(record, packet_id);
            match number {
                0 => record.incoming.push(packet_id),
                number => record.intents.push((packet_id, number)),
            }
        }
        Change::IncomingReleased { packet_id } => forget(record, packet_id),
        Change::Ended | Change::Passed { .. } => unreachable!("carried out by apply"),
    }
}

fn forget(record: &mut SessionRecord, packet_id: PacketId) {
    record.incoming.retain(|id| *id != packet_id);
    record.intents.retain(|(id, _)| *id != packet_id);
}

fn set_state(record: &mut SessionRecord, serial: u32, state: DeliveryState) {
    for delivery in record.deliveries.iter_mut().filter(|known| known.serial == serial) {
        delivery.state = state;
        if matches!(state, DeliveryState::Released(_)) {
            delivery.item = None;
        }
    }
}
