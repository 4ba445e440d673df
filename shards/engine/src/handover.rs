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
//! A session that its node did not hand over gets what that node left in its inbox (`estate`).
//!
//! What is held, and what was passed on and not yet delivered, is in memory only: a node that
//! dies in the second after it was handed a session may lose of it what came in that second.
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
/// How long a node that lost a session still wants what the session is subscribed to.
const GHOST_TIME: Duration = Duration::from_millis(100);
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
    /// It is another node's now; messages are passed on until then, but not those it had when
    /// they were passed on to it here.
    Gone { passed: HashSet<u64>, until: Instant },
    /// It is here; what comes directly is held.
    Arriving {
        held: Vec<DeliveryItem>,
        passed: HashSet<u64>,
        evict: Option<u64>,
        /// Its old node passes messages on.
        is_passed: bool,
        /// Nodes that have left something for it in their inboxes.
        left: Vec<Box<str>>,
    },
    /// It is here; some of what was passed on may still come directly.
    Settling { passed: HashSet<u64>, until: Instant },
}

impl Moving {
    /// - `has`: numbers of messages that the session has already.
    fn arriving(has: HashSet<u64>, is_passed: bool, left: Vec<Box<str>>) -> Self {
        Self::Arriving { held: Vec::new(), passed: has, evict: None, is_passed, left }
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
        let is_left = self.estates.is_delivering;
        let held_max = self.limits().queue_count_max as usize;
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let Some(moving) = &mut session.moving else { return false };
        if let Moving::Arriving { passed, .. } = &mut **moving
            && is_left
        {
            let number = parcel.message().id();
            let is_here = number != 0 && !passed.insert(number);
            if is_here {
                self.stats.ledger.deliver();
            }
            return is_here;
        }
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
            Moving::Gone { passed, .. } => {
                if passed.remove(&item.message.id()) {
                    self.stats.ledger.deliver();
                    return true;
                }
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
                    // Nothing is lost by it; what is still to come may come out of order.
                    self.settle_in(id);
                }
            }
        }
        true
    }

    /// The session is another node's from here on.
    pub(crate) fn begin_passing(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let time = if session.epoch == 0 { GHOST_TIME } else { PASSING_MAX };
        let until = self.now.after(time);
        let passed = match session.moving.take().map(|moving| *moving) {
            Some(Moving::Settling { passed, .. }) => passed,
            _ => HashSet::new(),
        };
        session.moving = Some(Box::new(Moving::Gone { passed, until }));
        session.is_recorded = false;
        session.will = None;
        let (session, epoch) = (session.id, session.epoch);
        self.sessions.unlink(id);
        if epoch != 0 {
            self.passing.insert(epoch, session);
        }
        self.timers.arm(until, Timer::Handover(session));
    }

    /// Every node knows where the session went that was here under `epoch`.
    pub(crate) fn known(&mut self, client_id: &str, epoch: u64) {
        let end = self.now.after(PASSING_TIME);
        let Some(&id) = self.passing.get(&epoch) else { return };
        let Some(session) = self.sessions.get_mut(id.id).filter(|s| s.id == id) else { return };
        if *session.client_id == *client_id
            && let Some(Moving::Gone { until, .. }) = session.moving.as_deref_mut()
        {
            *until = end;
            self.timers.arm(end, Timer::Handover(id));
        }
    }

    /// The session that was here under `epoch` was taken before it could be handed over: nothing
    /// that is passed on would reach it. `false` if there is none.
    pub(crate) fn stop_passing(&mut self, epoch: u64) -> bool {
        let end = self.now.after(GHOST_TIME);
        let Some(id) = self.passing.remove(&epoch) else { return false };
        if let Some(session) = self.sessions.get_mut(id.id).filter(|session| session.id == id)
            && let Some(Moving::Gone { until, .. }) = session.moving.as_deref_mut()
        {
            *until = end;
            session.epoch = 0;
            self.estates.ghosts.insert(session.client_id.clone(), id);
            self.abandon_receipts(id);
            self.timers.arm(end, Timer::Handover(id));
        }
        true
    }

    /// The session came from a node that passes on what it still gets, or did not answer.
    ///
    /// - `passed`: its node passes messages on, until every node knows where the session is: the
    ///   barrier of what it is subscribed to, and the answers still to come.
    /// - `left`: nodes it was taken from, whose inboxes it needs.
    pub(crate) fn begin_arriving(
        &mut self,
        id: SessionId,
        passed: Option<(u64, usize)>,
        mut left: Vec<Box<str>>,
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if !self.config.recorded.messages && !left.is_empty() {
            // What its old node had for it is lost anyway, and what it had already is unknown.
            let (client_id, epoch) = (session.client_id.clone(), session.epoch);
            for node in left.drain(..) {
                let change = Change::Inherited { node };
                self.send_op(RecordOp { client_id: client_id.clone(), epoch, change });
            }
            if passed.is_none() {
                return;
            }
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let has = session.peek_deliveries().map(|deliveries| {
            let numbers = deliveries.messages().map(|message| message.id());
            numbers.filter(|&number| number != 0).collect()
        });
        let has = has.unwrap_or_default();
        let moving = Moving::arriving(has, passed.is_some(), left.clone());
        session.moving = Some(Box::new(moving));
        let session = session.id;
        if let Some((barrier, answers)) = passed {
            self.wait(barrier, true, answers, Then::Known(session));
        }
        self.begin_inheriting(session, &left);
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
            Some(Moving::Arriving { .. }) => self.was_passed(id.id),
            Some(Moving::Settling { until, .. }) if *until <= now => session.moving = None,
            Some(Moving::Gone { until, .. }) if *until <= now => {
                let (client_id, epoch) = (session.client_id.clone(), session.epoch);
                let change = Change::Passed { item: None };
                match epoch {
                    0 => self.banish_ghost(&client_id),
                    _ => self.send_op(RecordOp { client_id, epoch, change }),
                }
                self.passing.remove(&epoch);
                if self.sessions.get_ref(id).is_some() {
                    self.forget_session(id.id);
                }
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
                self.was_passed(id);
                continue;
            };
            let moving = self.sessions.get_mut(id).and_then(|session| session.moving.take());
            let moving = moving.map(|mut moving| {
                if let Moving::Arriving { passed, .. } = &mut *moving {
                    passed.extend(Some(item.message.id()).filter(|&number| number != 0));
                }
                moving
            });
            self.estates.is_delivering = true;
            self.deliver_item(id, item);
            self.estates.is_delivering = false;
            if let Some(session) = self.sessions.get_mut(id) {
                session.moving = moving;
            }
        }
    }

    /// The session's old node passes nothing on any more.
    fn was_passed(&mut self, id: SessionId) {
        let moving = self.sessions.get_mut(id).and_then(|session| session.moving.as_deref_mut());
        if let Some(Moving::Arriving { is_passed, .. }) = moving {
            *is_passed = false;
            self.arrived(id);
        }
    }

    /// The session has all that was in the inbox of `node`.
    pub(crate) fn has_inherited(&mut self, id: SessionId, node: &str) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let session_ref = session.id;
        if let Some(Moving::Arriving { left, .. }) = session.moving.as_deref_mut() {
            left.retain(|name| **name != *node);
            let left = left.clone();
            self.begin_inheriting(session_ref, &left);
            self.arrived(id);
        }
    }

    /// Settles if nothing comes any more by way of where the session was.
    fn arrived(&mut self, id: SessionId) {
        let moving = self.sessions.get(id).and_then(|session| session.moving.as_deref());
        if let Some(Moving::Arriving { is_passed: false, left, .. }) = moving
            && left.is_empty()
        {
            self.settle_in(id);
        }
    }

    /// Delivers what was held and is new.
    fn settle_in(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let client_id = session.client_id.clone();
        let session_ref = session.id;
        let Some(moving) = session.moving.take() else { return };
        let Moving::Arriving { held, mut passed, evict, is_passed, left } = *moving else { return };
        let comes_again = is_passed || !left.is_empty();
        let mut delivered = Vec::new();
        for item in held {
            self.stats.ledger.unqueue();
            let number = item.message.id();
            if number == 0 || !passed.remove(&number) {
                delivered.extend((comes_again && number != 0).then_some(number));
                self.deliver_item(id, item);
            }
        }
        passed.extend(delivered);
        if let Some(session) = self.sessions.get_mut(id).filter(|_| !passed.is_empty()) {
            let until = self.now.after(SETTLING_TIME);
            session.moving = Some(Box::new(Moving::Settling { passed, until }));
            self.timers.arm(until, Timer::Handover(session_ref));
        }
        if let Some(epoch) = evict {
            self.evict(client_id, epoch);
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
