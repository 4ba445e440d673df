//! A session on its way between two nodes, while others still send to where it was.
//!
//! For a short time after a session has moved, publishers elsewhere know its old node only, or
//! both, or the new one only. The old node goes on taking what the session is subscribed to and
//! passes it on, in order, until the new node says that everybody knows it, and a little longer
//! for what is still on its way; then it says so and stops. The new node delivers what is passed
//! on, and holds what comes to it directly until the last was passed; of what it holds it leaves
//! out what came both ways. So nothing is lost, nothing comes twice, and one publisher's messages
//! keep their order. Messages are told apart by the number they got where they were published.
//!
//! Scope: session, of QoS 1 and 2.

use std::collections::HashSet;
use std::time::Duration;

use octopus_mqtt::QoS;

use crate::barrier::Then;
use crate::durable::{Change, DeliveryItem, RecordOp};
use crate::envelope::SessionRef;
use crate::event::Instant;
use crate::message::{Dropped, Parcel};
use crate::session::Extra;
use crate::shard::{Shard, Timer};
use crate::subscriptions::SessionId;

/// How long the old node passes messages on after everybody knows the new one: for what was
/// sent to it before.
const PASSING_TIME: Duration = Duration::from_millis(400);
/// How long the old node passes messages on if the new one never says that it is known. Longer
/// than the hub waits for nodes that do not answer.
const PASSING_MAX: Duration = Duration::from_secs(30);
/// How long the new node, once known, waits for the last of them, if the old one is gone.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How long what was passed on may still come directly as well.
const SETTLING_TIME: Duration = Duration::from_secs(5);

/// Where a session is on its way.
#[derive(Debug)]
pub(crate) enum Moving {
    /// It is another node's now; messages are passed on until then.
    Gone { until: Instant },
    /// It is here; what comes directly is held.
    Arriving { held: Vec<DeliveryItem>, passed: HashSet<u64>, evict: Option<u64> },
    /// It is here; some of what was passed on may still come directly.
    Settling { passed: HashSet<u64>, until: Instant },
}

impl Moving {
    pub(crate) fn arriving() -> Self {
        Self::Arriving { held: Vec::new(), passed: HashSet::new(), evict: None }
    }
}

impl Shard {
    /// Takes a message for a session that moves; `false` if it is to be delivered as any.
    pub(crate) fn take_moving(
        &mut self,
        id: SessionId,
        parcel: &mut Parcel<'_>,
        qos: QoS,
        retain: bool,
        extra: Option<&Extra>,
    ) -> bool {
        let held_max = self.limits().queue_count_max as usize;
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let Some(moving) = &mut session.moving else { return false };
        if qos == QoS::AtMostOnce {
            let is_gone = matches!(**moving, Moving::Gone { .. });
            if is_gone {
                self.drop_for_nobody(Dropped::SessionEnded, parcel);
            }
            return is_gone;
        }
        let extra = extra.cloned().unwrap_or_default();
        let item = DeliveryItem {
            message: parcel.message().clone(),
            qos,
            retain,
            subscription_ids: extra.subscription_ids,
            group: extra.group,
        };
        match &mut **moving {
            Moving::Settling { passed, .. } => {
                let is_late = passed.remove(&item.message.id());
                if is_late {
                    self.stats.ledger.deliver();
                }
                return is_late;
            }
            Moving::Gone { .. } => {
                let (client_id, epoch) = (session.client_id.clone(), session.epoch);
                self.stats.ledger.forward();
                let change = Change::Passed { item: Some(item) };
                self.send_promised(RecordOp { client_id, epoch, change });
            }
            Moving::Arriving { held, .. } => {
                held.push(item);
                let is_full = held.len() >= held_max;
                self.stats.ledger.queue();
                if is_full {
                    // Nothing is lost by it; what is still passed on may come out of order.
                    self.arrived(id);
                }
            }
        }
        true
    }

    /// The session is another node's from here on.
    pub(crate) fn begin_passing(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let until = self.now.after(PASSING_MAX);
        session.moving = Some(Box::new(Moving::Gone { until }));
        session.is_recorded = false;
        session.will = None;
        let (session, epoch) = (session.id, session.epoch);
        self.sessions.unlink(id);
        self.passing.insert(epoch, session);
        self.timers.arm(until, Timer::Handover(session));
    }

    /// Every node knows where the session went that was here under `epoch`.
    pub(crate) fn known(&mut self, client_id: &str, epoch: u64) {
        let until = self.now.after(PASSING_TIME);
        let Some(&id) = self.passing.get(&epoch) else { return };
        let Some(session) = self.sessions.get_mut(id.id).filter(|s| s.id == id) else { return };
        if *session.client_id == *client_id {
            session.moving = Some(Box::new(Moving::Gone { until }));
            self.timers.arm(until, Timer::Handover(id));
        }
    }

    /// The session came from a node that passes on what it still gets.
    ///
    /// - `barrier`: of what the session is subscribed to, with `answers` still to come.
    pub(crate) fn begin_arriving(&mut self, id: SessionId, barrier: u64, answers: usize) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.moving = Some(Box::new(Moving::arriving()));
        let session = session.id;
        self.wait(barrier, true, answers, Then::Known(session));
    }

    /// Every node knows that the session is here: its old node may stop.
    pub(crate) fn arrival_known(&mut self, id: SessionRef) {
        let Some(session) = self.sessions.get_ref(id) else { return };
        let (client_id, epoch) = (session.client_id.clone(), session.epoch);
        self.send_op(RecordOp { client_id, epoch, change: Change::Known });
        self.timers.arm(self.now.after(PATIENCE), Timer::Handover(id));
    }

    pub(crate) fn handover_due(&mut self, id: SessionRef) {
        let now = self.now;
        let Some(session) = self.sessions.get_ref(id) else { return };
        match session.moving.as_deref() {
            None => {}
            Some(Moving::Arriving { .. }) => self.arrived(id.id),
            Some(Moving::Settling { until, .. }) if *until <= now => session.moving = None,
            Some(Moving::Gone { until }) if *until <= now => {
                let (client_id, epoch) = (session.client_id.clone(), session.epoch);
                let change = Change::Passed { item: None };
                self.send_op(RecordOp { client_id, epoch, change });
                self.passing.remove(&epoch);
                self.forget_session(id.id);
            }
            Some(Moving::Settling { .. } | Moving::Gone { .. }) => {}
        }
    }

    /// What the session's old node passes on; `None`: that was the last.
    pub(crate) fn passed_on(&mut self, client_id: &str, items: Vec<Option<DeliveryItem>>) {
        for item in items {
            let Some(id) = self.sessions.find(client_id) else {
                if let Some(item) = item {
                    self.drop_for_nobody(Dropped::SessionEnded, &item.message.parcel());
                }
                continue;
            };
            let Some(item) = item else {
                self.arrived(id);
                continue;
            };
            let moving = self.sessions.get_mut(id).and_then(|session| session.moving.take());
            let moving = moving.map(|mut moving| {
                if let Moving::Arriving { passed, .. } = &mut *moving {
                    passed.extend(Some(item.message.id()).filter(|&number| number != 0));
                }
                moving
            });
            self.deliver_item(id, item);
            if let Some(session) = self.sessions.get_mut(id) {
                session.moving = moving;
            }
        }
    }

    /// Everything was passed on: delivers what was held and not among it.
    fn arrived(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let client_id = session.client_id.clone();
        let session_ref = session.id;
        if !matches!(session.moving.as_deref(), Some(Moving::Arriving { .. })) {
            return;
        }
        let Some(moving) = session.moving.take() else { return };
        let Moving::Arriving { held, mut passed, evict } = *moving else { return };
        for item in held {
            self.stats.ledger.unqueue();
            let number = item.message.id();
            if number == 0 || !passed.remove(&number) {
                self.deliver_item(id, item);
            }
        }
        if let Some(epoch) = evict {
            return self.evict(client_id, epoch);
        }
        if let Some(session) = self.sessions.get_mut(id).filter(|_| !passed.is_empty()) {
            let until = self.now.after(SETTLING_TIME);
            session.moving = Some(Box::new(Moving::Settling { passed, until }));
            self.timers.arm(until, Timer::Handover(session_ref));
        }
    }

    /// Puts the handing over of a session off that has not arrived itself; `false` if it has.
    pub(crate) fn evict_later(&mut self, id: SessionId, epoch: u64) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        match session.moving.as_deref_mut() {
            Some(Moving::Arriving { evict, .. }) => {
                *evict = Some(epoch);
                true
            }
            _ => false,
        }
    }

    fn deliver_item(&mut self, id: SessionId, item: DeliveryItem) {
        let DeliveryItem { message, qos, retain, subscription_ids, group } = item;
        let has_extra = group.is_some() || !subscription_ids.is_empty();
        let extra = has_extra.then(|| Box::new(Extra { subscription_ids, group }));
        self.templates.reset();
        self.deliver(id, &mut message.parcel(), qos, retain, extra);
    }
}
