//! A session on its way between two nodes, while others still send to where it was.
//!
//! For a short time after a session has moved, publishers elsewhere know its old node only, or
//! both, or the new one only. The old node goes on taking what the session is subscribed to and
//! passes it on, in order, until it hears that everybody knows the new one: behind all that was
//! sent to it before, however long that takes. Then it says so and stops. The new node delivers
//! what is passed on, and holds what comes to it directly until the last was passed; of what it
//! holds it leaves out what came both ways. So nothing is lost, nothing comes twice, and one
//! publisher's messages keep their order. Messages are told apart by the number they got where
//! they were published.
//!
//! A session that its node did not hand over gets what that node left in its inbox (`estate`); so
//! does one whose old node dies, or is slow, before it has passed all on: behind what it did pass
//! on, and unless it says after all that this was all.
//!
//! If the new node dies meanwhile, the next one goes on: what is held is recorded as it comes, and
//! what is passed on stays where it was passed to until it is recorded as queued ([`Kept`]).
//!
//! Scope: session, of QoS 1 and 2.

use std::collections::HashSet;
use std::time::Duration;

use octopus_mqtt::QoS;

use crate::barrier::{Moved, Then};
use crate::durable::{Change, DeliveryItem, HeldRecord, Kept, RecordOp};
use crate::envelope::SessionRef;
use crate::estate::Ghost;
use crate::event::Instant;
use crate::message::{Dropped, Parcel};
use crate::session::Extra;
use crate::shard::{Shard, Timer};
use crate::subscriptions::SessionId;

/// How long the old node passes messages on after it heard, behind what was sent to it before,
/// that everybody knows the new one: for what is still on its way between its shards.
const PASSING_TIME: Duration = Duration::from_millis(400);
/// The same at a node that lost the session.
const GHOST_TIME: Duration = Duration::from_millis(100);
/// How long the old node passes messages on, or wants them, if the new one never says that it is
/// known. Longer than the hub waits for nodes that do not answer.
const PASSING_MAX: Duration = Duration::from_secs(30);
/// How long the new node, once known, waits for the last of them: the old one may be gone.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Numbers of places for what one node holds of a session.
const PLACES: u64 = 1 << 32;

/// How long what was passed on may still come directly as well.
const SETTLING_TIME: Duration = Duration::from_secs(5);

/// Where a session is on its way.
#[derive(Debug)]
pub(crate) enum Moving {
    /// It is another node's now; messages are passed on until then, but not those it had when
    /// they were passed on to it here.
    Gone { passed: HashSet<u64>, until: Instant },
    /// It is here; what comes directly is held.
    Arriving(Box<Arriving>),
    /// It is here; some of what was passed on may still come directly, or the other way round.
    Settling { passed: HashSet<u64>, until: Instant },
}

/// A session that does not have all yet that comes by way of where it was.
#[derive(Debug)]
pub(crate) struct Arriving {
    /// In the order of delivery; the first `held_before_count` of it is from before the session
    /// came here.
    held: Vec<HeldRecord>,
    held_before_count: usize,
    /// The node that held it: what that one left in its inbox is to be delivered behind it.
    held_by: Option<Box<str>>,
    place_before: u64,
    place: u64,
    /// Numbers of messages that it has.
    has: HashSet<u64>,
    /// Of these, numbers of those that may come directly as well.
    passed: HashSet<u64>,
    /// Numbers of those that came out of an inbox, or were held: they may be passed on as well.
    inherited: HashSet<u64>,
    evict: Option<u64>,
    /// The node that passes messages on. It had the session before those in `left`.
    passed_by: Option<Box<str>>,
    /// It was not waited for: its inbox is needed, unless it says after all that it has passed
    /// everything on.
    untold: Option<Box<str>>,
    /// What it has passed on until then is still to come.
    is_owed_last: bool,
    /// Nodes that have left something for it in their inboxes, in the order they had it.
    left: Vec<Box<str>>,
}

/// The old node of a session that passes messages on until every node knows where the session is:
/// the barrier of what it is subscribed to, and the answers still to come.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) by: Box<str>,
    pub(crate) barrier: u64,
    pub(crate) answers: usize,
}

impl Moving {
    /// What waits behind what is still to come.
    pub(crate) fn held(&self) -> &[HeldRecord] {
        match self {
            Self::Arriving(arriving) => &arriving.held,
            Self::Gone { .. } | Self::Settling { .. } => &[],
        }
    }
}

impl Arriving {
    /// - `held`: what came to it directly where it was arriving before it came here.
    /// - `has`: numbers of messages that it has.
    fn new(
        held: Vec<HeldRecord>,
        has: HashSet<u64>,
        passed_by: Option<Box<str>>,
        left: Vec<Box<str>>,
    ) -> Self {
        let place_before = held.last().map_or(0, |held| held.place);
        Self {
            held_before_count: held.len(),
            // What comes out of the inbox there finds its places between these.
            place: (place_before / PLACES + 1) * PLACES,
            place_before,
            held_by: left.last().filter(|_| !held.is_empty()).cloned(),
            held,
            passed: has.clone(),
            has,
            inherited: HashSet::new(),
            evict: None,
            passed_by,
            untold: None,
            is_owed_last: false,
            left,
        }
    }

    fn hold(&mut self, item: DeliveryItem) -> HeldRecord {
        self.place += 1;
        let held = HeldRecord { place: self.place, item };
        self.held.push(held.clone());
        held
    }

    /// Holds what the node had not taken in yet that held what is here from before.
    fn hold_before(&mut self, item: DeliveryItem) -> HeldRecord {
        self.place_before += 1;
        let held = HeldRecord { place: self.place_before, item };
        self.held.insert(self.held_before_count, held.clone());
        self.held_before_count += 1;
        held
    }

    fn position(&self, number: u64) -> Option<usize> {
        let is_it = |held: &HeldRecord| number != 0 && held.item.message.id() == number;
        self.held.iter().position(is_it)
    }

    /// It came directly where the session was arriving before it came here.
    fn is_held_before(&self, number: u64) -> bool {
        self.held_before_count > 0
            && self.position(number).is_some_and(|index| index < self.held_before_count)
    }

    /// The session gets this message by way of where it was: takes it out if it is held.
    fn take_held(&mut self, number: u64) -> Option<u64> {
        let index = self.position(number);
        let is_before = index.is_none_or(|index| index < self.held_before_count);
        if is_before {
            // It may come directly here as well.
            self.passed.insert(number);
        }
        let index = index?;
        self.held_before_count -= usize::from(is_before);
        Some(self.held.remove(index).place)
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
        if self.estates.is_delivering {
            return self.take_left(id, parcel, qos, retain, extra);
        }
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let Some(moving) = &mut session.moving else { return false };
        if qos == QoS::AtMostOnce {
            let is_gone = matches!(**moving, Moving::Gone { .. });
            if is_gone {
                self.drop_for_nobody(Dropped::SessionEnded, parcel);
            }
            return is_gone;
        }
        let number = parcel.message().id();
        let is_here = match &mut **moving {
            Moving::Settling { passed, .. } => passed.remove(&number),
            Moving::Gone { passed, .. } => passed.remove(&number),
            Moving::Arriving(arriving) => {
                arriving.passed.remove(&number) || arriving.is_held_before(number)
            }
        };
        if is_here {
            self.stats.ledger.deliver();
            return true;
        }
        match &mut **moving {
            Moving::Settling { .. } => return false,
            Moving::Gone { .. } => {
                let (client_id, epoch) = (session.client_id.clone(), session.epoch);
                self.stats.ledger.forward();
                let change = Change::Passed { item: Some(item_of(parcel, qos, retain, extra)) };
                self.send_promised(RecordOp { client_id, epoch, change });
            }
            Moving::Arriving(arriving) => {
                let held = arriving.hold(item_of(parcel, qos, retain, extra));
                let is_full = arriving.held.len() >= held_max;
                self.stats.ledger.queue();
                self.record(id, || Change::Held(held));
                if is_full {
                    self.make_room(id);
                }
            }
        }
        true
    }

    /// Takes a message out of an inbox; `false` if it is to be delivered as any.
    fn take_left(
        &mut self,
        id: SessionId,
        parcel: &mut Parcel<'_>,
        qos: QoS,
        retain: bool,
        extra: Option<&Extra>,
    ) -> bool {
        let node = self.estates.delivering();
        let session = self.sessions.get_mut(id);
        let Some(session) = session else { return false };
        let Some(Moving::Arriving(arriving)) = session.moving.as_deref_mut() else { return false };
        let number = parcel.message().id();
        if number == 0 {
            return false;
        }
        let is_behind = node.is_some() && arriving.held_by.as_deref() == node;
        let is_here =
            !arriving.has.insert(number) || is_behind && arriving.position(number).is_some();
        if is_here {
            self.stats.ledger.deliver();
            return true;
        }
        if is_behind && qos > QoS::AtMostOnce {
            let held = arriving.hold_before(item_of(parcel, qos, retain, extra));
            self.stats.ledger.queue();
            self.record(id, || Change::Held(held));
            return true;
        }
        arriving.inherited.insert(number);
        let (held, session) = (arriving.take_held(number), session.id);
        if held.is_some() {
            self.stats.ledger.unqueue();
            self.begin_unkeeping(session, Kept { held, is_passed: false });
        }
        false
    }

    /// The session is another node's from here on.
    pub(crate) fn begin_passing(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let until = self.now.after(PASSING_MAX);
        let moving = session.moving.take().map(|moving| *moving);
        let held = moving.as_ref().map(Moving::held).unwrap_or_default();
        held.iter().for_each(|_| self.stats.ledger.unqueue());
        let passed = match moving {
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

    /// Subscriptions of sessions that are other nodes' by now and still want something here.
    pub(crate) fn gone_subscriptions(&self) -> usize {
        let gone = self
            .passing
            .values()
            .filter_map(|id| self.sessions.get(id.id).filter(|session| session.id == *id));
        gone.map(|session| session.subscriptions.len()).sum()
    }

    /// Every node knows where the session went that was here under `epoch`. That it was lost may
    /// be heard later.
    pub(crate) fn known(&mut self, client_id: &str, epoch: u64) {
        if !self.passing.contains_key(&epoch)
            && let Some(id) = self.sessions.find(client_id)
            && self.sessions.get(id).is_some_and(|session| session.epoch == epoch)
        {
            self.disown(client_id, epoch);
        }
        let Some(&id) = self.passing.get(&epoch) else { return };
        let now = self.now;
        let Some(session) = self.sessions.get_ref(id) else { return };
        if *session.client_id == *client_id
            && let Some(Moving::Gone { until, .. }) = session.moving.as_deref_mut()
        {
            let time = if session.epoch == 0 { GHOST_TIME } else { PASSING_TIME };
            *until = now.after(time);
            self.timers.arm(*until, Timer::Handover(id));
        }
    }

    /// The session that was here under `epoch` was taken before it could be handed over: nothing
    /// that is passed on would reach it. `false` if there is none.
    pub(crate) fn stop_passing(&mut self, epoch: u64) -> bool {
        let Some(&id) = self.passing.get(&epoch) else { return false };
        if let Some(session) = self.sessions.get_ref(id)
            && session.epoch != 0
        {
            self.begin_haunting(id, epoch);
        }
        true
    }

    /// The session is another's, which it was not handed over to. What it is subscribed to is
    /// wanted until everybody knows where it is: its new node takes it out of the inbox.
    pub(crate) fn begin_haunting(&mut self, id: SessionRef, epoch: u64) {
        let Some(session) = self.sessions.get_ref(id) else { return };
        session.epoch = 0;
        let client_id = session.client_id.clone();
        // The one of an earlier loss, if the client had begun anew.
        self.banish_ghost(&client_id);
        self.estates.ghosts.insert(client_id, Ghost { session: id, epoch });
        self.passing.insert(epoch, id);
        self.abandon_receipts(id);
    }

    /// The session came from a node that passes on what it still gets, or did not answer.
    ///
    /// - `passed`: its node passes messages on.
    /// - `left`: nodes it was taken from, whose inboxes it needs.
    /// - `held`: what came directly where it was arriving before.
    pub(crate) fn begin_arriving(
        &mut self,
        id: SessionId,
        passed: Option<Passed>,
        mut left: Vec<Box<str>>,
        held: Vec<HeldRecord>,
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if !self.config.recorded.messages && !left.is_empty() {
            // What its old node had for it is lost anyway, and what it had already is unknown.
            let (client_id, epoch) = (session.client_id.clone(), session.epoch);
            for node in left.drain(..) {
                let change = Change::Inherited { node };
                self.send_op(RecordOp { client_id: client_id.clone(), epoch, change });
            }
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let has = session.peek_deliveries().map(|deliveries| {
            let got = deliveries.once.iter().flat_map(|once| once.got());
            let numbers = deliveries.messages().map(|message| message.id()).chain(got);
            numbers.filter(|&number| number != 0).collect()
        });
        held.iter().for_each(|_| self.stats.ledger.queue());
        let passed_by = passed.as_ref().map(|passed| passed.by.clone());
        let arriving = Arriving::new(held, has.unwrap_or_default(), passed_by, left.clone());
        session.moving = Some(Box::new(Moving::Arriving(Box::new(arriving))));
        let session = session.id;
        if let Some(Passed { barrier, answers, .. }) = passed {
            self.wait(barrier, true, answers, Then::Known(Moved::Session(session)));
        }
        self.go_on_arriving(id);
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
            Some(Moving::Arriving(_)) => self.was_not_passed(id.id),
            Some(Moving::Settling { until, .. }) if *until <= now => session.moving = None,
            Some(Moving::Gone { until, .. }) if *until <= now => {
                let (client_id, epoch) = (session.client_id.clone(), session.epoch);
                if epoch == 0 {
                    return self.banish_ghost(&client_id);
                }
                let change = Change::Passed { item: None };
                self.send_op(RecordOp { client_id, epoch, change });
                self.passing.remove(&epoch);
                self.forget_session(id.id);
            }
            Some(Moving::Settling { .. } | Moving::Gone { .. }) => {}
        }
    }

    /// What the session's old node passes on; `None`: that was the last.
    ///
    /// - `is_all`: see [`Envelope::Pass`](crate::Envelope::Pass).
    pub(crate) fn passed_on(
        &mut self,
        client_id: &str,
        items: Vec<Option<DeliveryItem>>,
        is_all: bool,
    ) {
        for item in items {
            match (self.sessions.find(client_id), item) {
                (Some(id), Some(item)) => self.take_passed(id, item),
                (Some(id), None) => self.was_passed(id),
                (None, Some(item)) => {
                    self.drop_for_nobody(Dropped::SessionEnded, &item.message.parcel());
                }
                (None, None) => {}
            }
        }
        if is_all
            && let Some(id) = self.sessions.find(client_id)
            && let Some((_, arriving)) = self.arriving(id)
            && std::mem::take(&mut arriving.is_owed_last)
        {
            self.go_on_arriving(id);
        }
    }

    fn take_passed(&mut self, id: SessionId, item: DeliveryItem) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let (session_ref, number) = (session.id, item.message.id());
        let mut kept = Kept { is_passed: true, held: None };
        let mut moving = session.moving.take();
        let is_here = match moving.as_deref_mut() {
            Some(Moving::Arriving(arriving)) if number != 0 => {
                let is_here = arriving.inherited.remove(&number);
                if !is_here {
                    kept.held = arriving.take_held(number);
                    arriving.has.insert(number);
                }
                is_here
            }
            Some(Moving::Settling { passed, .. }) => passed.remove(&number),
            _ => false,
        };
        if kept.held.is_some() {
            self.stats.ledger.unqueue();
        }
        self.begin_unkeeping(session_ref, kept);
        if !is_here {
            self.estates.is_delivering = true;
            self.deliver_item(id, item);
            self.estates.is_delivering = false;
        }
        self.end_unkeeping();
        if let Some(session) = self.sessions.get_ref(session_ref) {
            session.moving = moving;
        }
    }

    /// The session's old node passes nothing on any more.
    fn was_passed(&mut self, id: SessionId) {
        self.record_always(id, Change::Arrived { is_told: true });
        let Some((session, arriving)) = self.arriving(id) else { return };
        if arriving.passed_by.take().is_some() {
            return self.go_on_arriving(id);
        }
        // Nothing in its inbox is needed any more: what it will not pass on comes directly as well.
        let Some(node) = arriving.untold.take() else { return };
        if arriving.left.iter().filter(|left| **left == node).count() == 1 {
            arriving.is_owed_last = false;
            self.estates.stop_inheriting(session, &node);
            self.record(id, || Change::Inherited { node: node.clone() });
            self.has_inherited(id, &node);
        }
    }

    /// It has not said so in time. What it had not taken in and passed on is in its inbox; but what
    /// it did pass on is older, and comes first: once this is recorded the hub looks for it.
    fn was_not_passed(&mut self, id: SessionId) {
        let is_kept = self.config.recorded.messages;
        let Some((_, arriving)) = self.arriving(id) else { return };
        let Some(node) = arriving.passed_by.take() else { return };
        if is_kept && !node.is_empty() {
            arriving.left.insert(0, node.clone());
            arriving.untold = Some(node.clone());
        }
        arriving.is_owed_last = true;
        self.record_always(id, Change::Arrived { is_told: false });
        if !is_kept {
            self.record_always(id, Change::Inherited { node });
        }
    }

    /// The session has all that was in the inbox of `node`.
    pub(crate) fn has_inherited(&mut self, id: SessionId, node: &str) {
        if let Some((_, arriving)) = self.arriving(id) {
            arriving.left.retain(|name| **name != *node);
            self.go_on_arriving(id);
        }
    }

    fn arriving(&mut self, id: SessionId) -> Option<(SessionRef, &mut Arriving)> {
        let session = self.sessions.get_mut(id)?;
        match session.moving.as_deref_mut() {
            Some(Moving::Arriving(arriving)) => Some((session.id, arriving)),
            _ => None,
        }
    }

    /// What is passed on comes first, then what is in the inboxes of nodes, one by one; if nothing
    /// comes any more by way of where the session was, it settles.
    fn go_on_arriving(&mut self, id: SessionId) {
        let Some((session, arriving)) = self.arriving(id) else { return };
        match arriving.left.first().cloned() {
            _ if arriving.passed_by.is_some() || arriving.is_owed_last => {}
            Some(node) => self.begin_inheriting(session, node),
            None => self.settle_in(id),
        }
    }

    /// Nothing more comes by way of where the session was: delivers what was held.
    fn settle_in(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let client_id = session.client_id.clone();
        let session_ref = session.id;
        let Some(Moving::Arriving(mut arriving)) = session.moving.take().map(|moving| *moving)
        else {
            return;
        };
        self.deliver_held(id, &mut arriving);
        let Arriving { mut passed, inherited, evict, .. } = *arriving;
        passed.extend(inherited);
        if let Some(session) = self.sessions.get_mut(id).filter(|_| !passed.is_empty()) {
            let until = self.now.after(SETTLING_TIME);
            session.moving = Some(Box::new(Moving::Settling { passed, until }));
            self.timers.arm(until, Timer::Handover(session_ref));
        }
        if let Some(epoch) = evict {
            self.evict(client_id, epoch);
        }
    }

    /// More than that is not held: it is delivered, and what is still to come by way of where the
    /// session was comes behind it, out of order.
    fn make_room(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let session_ref = session.id;
        let mut moving = session.moving.take();
        if let Some(Moving::Arriving(arriving)) = moving.as_deref_mut() {
            self.deliver_held(id, arriving);
        }
        if let Some(session) = self.sessions.get_ref(session_ref) {
            session.moving = moving;
        }
    }

    fn deliver_held(&mut self, id: SessionId, arriving: &mut Arriving) {
        let Some(session) = self.sessions.get(id).map(|session| session.id) else { return };
        let before_count = std::mem::take(&mut arriving.held_before_count);
        let held = std::mem::take(&mut arriving.held);
        for (index, HeldRecord { place, item }) in held.into_iter().enumerate() {
            self.stats.ledger.unqueue();
            let number = item.message.id();
            self.begin_unkeeping(session, Kept { is_passed: false, held: Some(place) });
            self.deliver_item(id, item);
            self.end_unkeeping();
            if number != 0 {
                arriving.has.insert(number);
                arriving.inherited.insert(number);
            }
            if number != 0 && index < before_count {
                arriving.passed.insert(number);
            }
        }
    }

    /// Puts the handing over of a session off that has not arrived itself; `false` if it has.
    pub(crate) fn evict_later(&mut self, id: SessionId, epoch: u64) -> bool {
        let arriving = self.arriving(id);
        let is_arriving = arriving.is_some();
        if let Some((_, arriving)) = arriving {
            arriving.evict = Some(epoch);
        }
        is_arriving
    }

    fn deliver_item(&mut self, id: SessionId, item: DeliveryItem) {
        let DeliveryItem { message, qos, retain, subscription_ids, group } = item;
        let has_extra = group.is_some() || !subscription_ids.is_empty();
        let extra = has_extra.then(|| Box::new(Extra { subscription_ids, group }));
        self.templates.reset();
        self.deliver(id, &mut message.parcel(), qos, retain, extra);
    }
}

fn item_of(parcel: &mut Parcel<'_>, qos: QoS, retain: bool, extra: Option<&Extra>) -> DeliveryItem {
    let extra = extra.cloned().unwrap_or_default();
    DeliveryItem {
        message: parcel.message().clone(),
        qos,
        retain,
        subscription_ids: extra.subscription_ids,
        group: extra.group,
    }
}
