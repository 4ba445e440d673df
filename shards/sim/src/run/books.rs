//! What was sent, who was subscribed, what arrived; and whether that is as promised.

use std::collections::{BTreeMap, BTreeSet};

use octopus_mqtt::{QoS, TopicFilter, TopicName};

/// A message's index in the books; its payload begins with it.
pub(super) type MessageId = usize;

/// A moment, counted in scheduler steps.
pub(super) type Step = usize;

/// Not yet.
pub(super) const NEVER: Step = Step::MAX;

#[derive(Debug)]
pub(super) struct Sent {
    pub(super) topic: String,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    /// A retained message of no bytes.
    pub(super) is_deletion: bool,
    pub(super) sent_at: Step,
    /// When the publisher had its acknowledgement.
    pub(super) acked_at: Step,
    /// It went out more than once: QoS 1 may then be routed again, behind what came later.
    pub(super) is_repeated: bool,
    pub(super) fate: Fate,
}

/// What must become of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Published; arrives once acknowledged.
    Owed,
    /// The publisher forgot it, or a connection that may never have been: may arrive.
    Maybe,
    /// A will whose connection lives.
    Armed,
    /// A will that must not arrive.
    Forbidden,
}

#[derive(Debug)]
pub(super) struct Subscribed {
    pub(super) client: usize,
    pub(super) filter: String,
    pub(super) qos: QoS,
    /// SUBACK was read.
    pub(super) from: Step,
    /// UNSUBSCRIBE was sent, or the session may have ended.
    pub(super) until: Step,
    /// Session or subscription ended later: what was not delivered by then need not be.
    pub(super) is_gone: bool,
}

/// How often one client received one message.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Receipt {
    pub(super) by_qos: [u32; 3],
}

impl Receipt {
    fn total(self) -> u32 {
        self.by_qos.iter().sum()
    }
}

#[derive(Debug, Default)]
pub(super) struct Books {
    pub(super) sent: Vec<Sent>,
    pub(super) subscriptions: Vec<Subscribed>,
    pub(super) receipts: BTreeMap<(usize, MessageId), Receipt>,
    /// Highest message per client, topic and (QoS above 0): order of first deliveries.
    last: BTreeMap<(usize, String, bool), MessageId>,
    /// Highest retained or live message per client and retained topic.
    newest: BTreeMap<(usize, String), MessageId>,
    /// What a client received as retained.
    replayed: BTreeSet<(usize, MessageId)>,
}

impl Books {
    pub(super) fn send(&mut self, sent: Sent) -> MessageId {
        self.sent.push(sent);
        self.sent.len() - 1
    }

    /// A client received this PUBLISH, not a QoS 2 repetition.
    pub(super) fn receive(
        &mut self,
        client: usize,
        topic: &str,
        payload: &[u8],
        qos: QoS,
        (retain, is_member): (bool, bool),
    ) -> Result<(), String> {
        let id = message_id(payload).ok_or("a payload nobody sent")?;
        let sent = self.sent.get(id).ok_or("a message nobody sent")?;
        if sent.topic != topic {
            return Err(format!("message {id} of topic {} came as topic {topic}", sent.topic));
        }
        if payload != payload_of(id, topic) {
            return Err(format!("message {id} came with another payload"));
        }
        if qos > sent.qos {
            return Err(format!("message {id} came at a higher QoS than it was sent"));
        }
        if retain && !sent.retain {
            return Err(format!("message {id} came as retained and is not"));
        }
        let is_ordered = !(is_member || sent.is_repeated && sent.qos == QoS::AtLeastOnce);
        if sent.retain {
            self.note_retained(client, topic, id, retain)?;
        }
        if retain {
            return Ok(());
        }
        let receipt = self.receipts.entry((client, id)).or_default();
        let is_first = receipt.total() == 0;
        receipt.by_qos[qos as usize] += 1;
        if is_first && is_ordered {
            let key = (client, topic.to_owned(), qos > QoS::AtMostOnce);
            let last = self.last.insert(key, id);
            if last.is_some_and(|last| last > id) {
                return Err(format!("client {client} got message {id} after {last:?}"));
            }
        }
        Ok(())
    }

    /// Retained topics: what comes as retained is never older than what came before.
    fn note_retained(
        &mut self,
        client: usize,
        topic: &str,
        id: MessageId,
        retain: bool,
    ) -> Result<(), String> {
        let is_repetition = if retain {
            !self.replayed.insert((client, id))
        } else {
            self.receipts.contains_key(&(client, id))
        };
        let newest = self.newest.entry((client, topic.to_owned())).or_insert(id);
        if *newest > id && !is_repetition {
            return Err(format!(
                "client {client} got message {id} (retained: {retain}) after the newer {newest}"
            ));
        }
        *newest = id.max(*newest);
        Ok(())
    }

    /// For the text of a failure.
    pub(super) fn subscriptions_of(&self, client: usize) -> Vec<&Subscribed> {
        self.subscriptions.iter().filter(|s| s.client == client).collect()
    }

    /// Whether this client has a SUBACK for this filter, still in force.
    pub(super) fn has(&self, client: usize, filter: &str) -> bool {
        let is_it = |s: &Subscribed| s.client == client && s.filter == filter && s.until == NEVER;
        self.subscriptions.iter().any(is_it)
    }

    /// A new session or subscription: what it saw before does not count.
    pub(super) fn forget_newest(&mut self, client: usize) {
        self.newest.retain(|(other, _), _| *other != client);
    }

    /// The highest QoS at which this client was subscribed to this message all the time from
    /// sending to acknowledgement.
    pub(super) fn granted(&self, client: usize, sent: &Sent, end: Step) -> Option<QoS> {
        let acked_at = sent.acked_at.min(end);
        let throughout = |s: &&Subscribed| {
            s.client == client
                && !s.is_gone
                && s.from < sent.sent_at
                && s.until > acked_at
                && matches(&s.filter, &sent.topic)
        };
        self.subscriptions.iter().filter(throughout).map(|s| s.qos).max()
    }

    /// Whether this client got what it was owed; how many messages it did not get.
    pub(super) fn check_client(&self, client: usize, end: Step) -> Result<Vec<MessageId>, String> {
        let mut missing = Vec::new();
        for (id, sent) in self.sent.iter().enumerate() {
            let receipt = self.receipts.get(&(client, id)).copied().unwrap_or_default();
            if sent.fate == Fate::Forbidden && receipt.total() > 0 {
                return Err(format!("will {id} was sent after a DISCONNECT"));
            }
            let is_once = sent.qos != QoS::AtLeastOnce && receipt.by_qos[1] == 0;
            if is_once && receipt.total() > 1 {
                return Err(format!("client {client} got message {id} {receipt:?}"));
            }
            if sent.fate != Fate::Owed || sent.is_deletion {
                continue;
            }
            let granted = self.granted(client, sent, end).unwrap_or_default();
            if granted.min(sent.qos) > QoS::AtMostOnce && receipt.total() == 0 {
                missing.push(id);
            }
        }
        Ok(missing)
    }

    /// Whether each message reached exactly one member of a group, and at least one.
    ///
    /// - `is_calm`: no member ever went away, so nothing may come twice.
    pub(super) fn check_group(
        &self,
        members: &[usize],
        is_calm: bool,
        end: Step,
    ) -> Result<(), String> {
        for (id, sent) in self.sent.iter().enumerate() {
            let receipts = members.iter().filter_map(|&member| self.receipts.get(&(member, id)));
            let mut by_qos = [0; 3];
            for receipt in receipts {
                (0..3).for_each(|qos| by_qos[qos] += receipt.by_qos[qos]);
            }
            let total: u32 = by_qos.iter().sum();
            let is_once = sent.qos != QoS::AtLeastOnce && (by_qos[1] == 0 || is_calm);
            if is_once && total > 1 {
                return Err(format!("group of {members:?} got message {id} {by_qos:?}"));
            }
            let is_subscribed =
                members.iter().any(|&member| self.granted(member, sent, end).is_some());
            let is_owed = sent.fate == Fate::Owed && sent.qos > QoS::AtMostOnce && is_subscribed;
            if is_owed && total == 0 {
                return Err(format!("nobody of group {members:?} got message {id} {sent:?}"));
            }
        }
        Ok(())
    }

    /// The last message of each retained topic, if it is not a deletion.
    pub(super) fn retained(&self) -> BTreeMap<&str, MessageId> {
        let mut retained = BTreeMap::new();
        for (id, sent) in self.sent.iter().enumerate().filter(|(_, sent)| sent.retain) {
            if sent.is_deletion {
                retained.remove(&*sent.topic);
            } else {
                retained.insert(&*sent.topic, id);
            }
        }
        retained
    }
}

/// `{id} {topic} …`, long or short by the identifier, so that both ways of writing are used.
pub(super) fn payload_of(id: MessageId, topic: &str) -> Vec<u8> {
    let mut payload = format!("{id} {topic}").into_bytes();
    payload.resize(payload.len() + (id % 4) * 20, b'.');
    payload
}

pub(super) fn message_id(payload: &[u8]) -> Option<MessageId> {
    std::str::from_utf8(payload).ok()?.split(' ').next()?.parse().ok()
}

fn matches(filter: &str, topic: &str) -> bool {
    let filter = TopicFilter::parse(filter).expect("our own filter");
    filter.matches(TopicName::parse(topic).expect("our own topic"))
}
