//! Session State that outlives a connection: subscriptions, queue, in-flight, packet ids, will.
//!
//! Bookkeeping only; nothing here writes to a connection. Invariants: a Packet Identifier is
//! in `inflight` at most once; `inflight` is in sending order; `queue_bytes` is the sum of the
//! queued messages' sizes.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashTable;
use octopus_mqtt::{PacketId, QoS};

use crate::envelope::SessionRef;
use crate::event::{ConnectionId, Instant};
use crate::handover::Moving;
use crate::inflight::{Inflights, Sent, next_packet_id, next_serial, serial_after};
use crate::message::Message;
use crate::once::Once;
use crate::slots::Slots;
use crate::subscriptions::{FilterId, Grant, SessionId};
use crate::will::Will;

/// Session Expiry Interval that means never.
pub(crate) const NEVER: u32 = u32::MAX;

/// Scope: session, on its home shard.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionRef,
    pub(crate) client_id: Box<str>,
    pub(crate) connection: Option<ConnectionId>,
    /// Session Expiry Interval, seconds; 0 ends with the connection.
    pub(crate) expiry_s: u32,
    /// Under which the group knows this node as its owner; 0: not owned by anybody.
    pub(crate) epoch: u64,
    /// Its changes are told to the hub.
    pub(crate) is_recorded: bool,
    /// It came from another node, or went to one, a moment ago.
    pub(crate) moving: Option<Box<Moving>>,
    /// What is to happen while its client is away.
    pub(crate) away: Option<Box<Away>>,
    pub(crate) will: Option<Box<Will>>,
    pub(crate) subscriptions: Vec<FilterId>,
    /// Made with the first message of QoS 1 or 2, replay or shared subscription; gone after the
    /// last replay if there was nothing else.
    deliveries: Option<Box<Deliveries>>,
}

/// What becomes due of a session whose client is away. Scope: session.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Away {
    /// When the session ends.
    pub(crate) ends_at: Option<Instant>,
    /// When the will is sent.
    pub(crate) will_at: Option<Instant>,
}

/// What a session has to deliver. Scope: session.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    /// Not yet sent, oldest first.
    pub(crate) queue: VecDeque<Queued>,
    /// Topic plus payload bytes in `queue`.
    pub(crate) queue_bytes: usize,
    /// Sent and not finished.
    pub(crate) inflight: Inflights,
    /// How many at the end of `inflight` were not sent again since the client came back.
    pub(crate) unsent: usize,
    /// QoS 2 identifiers received and not yet released by PUBREL, sorted.
    incoming: Vec<PacketId>,
    last_packet_id: u16,
    last_serial: u32,
    /// The identifiers went once around while the oldest is still in flight.
    lapped: bool,
    /// Retained messages still to come, one subscription each.
    pub(crate) replays: VecDeque<Replay>,
    pub(crate) shared: Vec<SharedSubscription>,
    /// In a group: made with the first message that may come again.
    pub(crate) once: Option<Box<Once>>,
}

/// A message and how to send it.
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub(crate) message: Message,
    /// Already lowered to the subscription's maximum.
    pub(crate) qos: QoS,
    /// The RETAIN flag to send.
    pub(crate) retain: bool,
    /// Order within the session; 0 until the session has it.
    pub(crate) serial: u32,
    pub(crate) extra: Option<Box<Extra>>,
}

/// What only some deliveries carry.
#[derive(Clone, Debug, Default)]
pub(crate) struct Extra {
    pub(crate) subscription_ids: Vec<u32>,
    /// The shared group that picked this session.
    pub(crate) group: Option<Arc<str>>,
}

/// Retained messages on their way to one subscription.
#[derive(Debug)]
pub(crate) struct Replay {
    pub(crate) serial: u64,
    pub(crate) filter: Box<str>,
    pub(crate) grant: Grant,
    /// The next shard to ask, and where in its part; `u16::MAX` as end.
    pub(crate) shard: u16,
    pub(crate) last_shard: u16,
    pub(crate) after: Option<Box<str>>,
    pub(crate) is_asked: bool,
    /// Topics of live retained messages delivered meanwhile: newer than what the replay holds.
    pub(crate) newer: Vec<Box<str>>,
}

/// One `$share` subscription of a session.
#[derive(Debug)]
pub(crate) struct SharedSubscription {
    pub(crate) key: Arc<str>,
    pub(crate) grant: Grant,
}

impl Session {
    pub(crate) fn new(id: SessionRef, client_id: &str) -> Self {
        Self {
            id,
            client_id: client_id.into(),
            connection: None,
            epoch: 0,
            is_recorded: false,
            moving: None,
            expiry_s: 0,
            away: None,
            will: None,
            subscriptions: Vec::new(),
            deliveries: None,
        }
    }

    /// It is another node's by now.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.moving.as_deref(), Some(Moving::Gone { .. }))
    }

    pub(crate) fn is_online(&self) -> bool {
        self.connection.is_some()
    }

    pub(crate) fn deliveries(&mut self) -> &mut Deliveries {
        self.deliveries.get_or_insert_default()
    }

    pub(crate) fn deliveries_if_any(&mut self) -> Option<&mut Deliveries> {
        self.deliveries.as_deref_mut()
    }

    /// Gives memory back after the last replay: most sessions get no message of QoS 1 or 2.
    pub(crate) fn trim(&mut self) {
        let Some(deliveries) = self.deliveries.as_mut() else { return };
        if deliveries.replays.is_empty() {
            deliveries.replays = VecDeque::new();
        }
        self.deliveries.take_if(|deliveries| deliveries.is_untouched());
    }

    pub(crate) fn peek_deliveries(&self) -> Option<&Deliveries> {
        self.deliveries.as_deref()
    }

    pub(crate) fn take_deliveries(&mut self) -> Option<Box<Deliveries>> {
        self.deliveries.take()
    }

    pub(crate) fn ends_at(&self) -> Option<Instant> {
        self.away.as_ref()?.ends_at
    }

    pub(crate) fn will_at(&self) -> Option<Instant> {
        self.away.as_ref()?.will_at
    }

    pub(crate) fn away(&mut self) -> &mut Away {
        self.away.get_or_insert_default()
    }

    /// Subscriptions of both kinds.
    pub(crate) fn subscription_count(&self) -> usize {
        self.subscriptions.len() + self.peek_deliveries().map_or(0, |d| d.shared.len())
    }
}

impl Deliveries {
    /// The next free Packet Identifier [MQTT-2.2.1-3], or `None` if all are in flight.
    pub(crate) fn next_packet_id(&mut self) -> Option<PacketId> {
        if self.inflight.is_empty() {
            self.lapped = false;
        } else if self.inflight.len() == usize::from(u16::MAX) {
            return None;
        }
        loop {
            let id = next_packet_id(self.last_packet_id);
            self.last_packet_id = id.get();
            // Identifiers are handed out in order, so until the oldest one in flight is met
            // again none can be in use.
            self.lapped |= self.inflight.oldest() == Some(id);
            if !self.lapped || self.inflight.list().iter().all(|sent| sent.packet_id != id) {
                return Some(id);
            }
        }
    }

    /// Packet Identifiers and serials for so many messages, in a row: the first of each. `None`
    /// if one of the identifiers may be in flight.
    pub(crate) fn next_numbers(&mut self, count: usize) -> Option<(PacketId, u32)> {
        const IDS: usize = u16::MAX as usize;
        self.lapped &= !self.inflight.is_empty();
        let last = usize::from(self.last_packet_id);
        // So many can be handed out until the oldest is met again.
        let free = self
            .inflight
            .oldest()
            .map_or(IDS, |oldest| (usize::from(oldest.get()) + 2 * IDS - last - 1) % IDS);
        if self.lapped || count > free {
            return None;
        }
        let first = (next_packet_id(self.last_packet_id), self.next_serial());
        self.last_packet_id = ((last + count - 1) % IDS + 1) as u16;
        self.last_serial = serial_after(first.1, count as u32 - 1);
        Some(first)
    }

    /// Nothing waits, and nothing ever did.
    fn is_untouched(&self) -> bool {
        self.last_serial == 0
            && self.last_packet_id == 0
            && self.queue.is_empty()
            && self.inflight.is_empty()
            && self.incoming.is_empty()
            && self.replays.is_empty()
            && self.shared.is_empty()
            && self.once.is_none()
    }

    /// Something waits until the client has room for it.
    pub(crate) fn has_waiting(&self) -> bool {
        !self.queue.is_empty() || self.unsent > 0 || !self.replays.is_empty()
    }

    /// The next place in the session's order; never 0.
    pub(crate) fn next_serial(&mut self) -> u32 {
        self.last_serial = next_serial(self.last_serial);
        self.last_serial
    }

    pub(crate) fn restore_serial(&mut self, serial: u32) {
        self.last_serial = serial;
    }

    pub(crate) fn restore(&mut self, mut incoming: Vec<PacketId>, last_packet_id: u16) {
        incoming.sort_unstable();
        self.incoming = incoming;
        self.last_packet_id = last_packet_id;
        self.lapped = true;
    }

    pub(crate) fn incoming(&self) -> &[PacketId] {
        &self.incoming
    }

    pub(crate) fn last_packet_id(&self) -> u16 {
        self.last_packet_id
    }

    /// Where in `inflight` this identifier is; acknowledgements mostly come in order. Until the
    /// identifiers have lapped they ascend from the oldest on, once around at most.
    pub(crate) fn position(&mut self, id: PacketId) -> Option<usize> {
        let inflight = self.inflight.list();
        let oldest = inflight.front()?.packet_id;
        if oldest == id {
            return Some(0);
        }
        if self.lapped {
            return inflight.iter().position(|sent| sent.packet_id == id);
        }
        let distance = |id: PacketId| id.get().wrapping_sub(oldest.get());
        inflight.binary_search_by_key(&distance(id), |sent| distance(sent.packet_id)).ok()
    }

    /// Notes a QoS 2 identifier as received; `false` if it was already [MQTT-4.3.3-10].
    pub(crate) fn receive(&mut self, id: PacketId) -> bool {
        match self.incoming.binary_search(&id) {
            Ok(_) => false,
            Err(place) => {
                self.incoming.insert(place, id);
                true
            }
        }
    }

    pub(crate) fn has_received(&self, id: PacketId) -> bool {
        self.incoming.binary_search(&id).is_ok()
    }

    /// Releases a QoS 2 identifier upon PUBREL; `false` if it is unknown.
    pub(crate) fn release(&mut self, id: PacketId) -> bool {
        if let Some(once) = &mut self.once {
            once.forget(id);
        }
        let place = self.incoming.binary_search(&id);
        place.map(|place| self.incoming.remove(place)).is_ok()
    }

    pub(crate) fn incoming_count(&self) -> usize {
        self.incoming.len()
    }

    pub(crate) fn push(&mut self, item: Queued) {
        self.queue_bytes += item.message.size();
        self.queue.push_back(item);
    }

    pub(crate) fn pop(&mut self) -> Option<Queued> {
        let item = self.queue.pop_front()?;
        self.queue_bytes -= item.message.size();
        if self.queue.is_empty() && self.queue.capacity() > 64 {
            self.queue = VecDeque::new();
        }
        Some(item)
    }

    /// The messages of these that are still here: not those that the client has released.
    pub(crate) fn messages(&self) -> impl Iterator<Item = Message> {
        let sent = self.inflight.each().filter_map(|sent| match &sent.state {
            Sent::Published(item) => Some(item.message.clone()),
            Sent::Released => None,
        });
        sent.chain(self.queue.iter().map(|item| item.message.clone()))
    }

    /// Messages that have not reached the client, as the ledger counts them.
    pub(crate) fn owed_count(&self) -> usize {
        self.queue.len() + self.inflight.len()
    }
}

/// The sessions of a shard, by slot and by Client Identifier. Scope: shard.
#[derive(Debug)]
pub(crate) struct Sessions {
    slots: Slots<Session>,
    free: Vec<u32>,
    by_client: HashTable<u32>,
    hasher: foldhash::fast::FixedState,
    last_serial: u32,
    name_bytes: usize,
}

impl Sessions {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            slots: Slots::default(),
            free: Vec::new(),
            by_client: HashTable::new(),
            hasher: foldhash::fast::FixedState::with_seed(seed),
            last_serial: 0,
            name_bytes: 0,
        }
    }

    /// Bytes of all Client Identifiers.
    pub(crate) fn name_bytes(&self) -> usize {
        self.name_bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.by_client.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.slots.iter()
    }

    /// Slots in use or free again; every session's slot is below.
    pub(crate) fn slot_count(&self) -> u32 {
        self.slots.len()
    }

    pub(crate) fn get(&self, id: SessionId) -> Option<&Session> {
        self.slots.get(id.0)
    }

    pub(crate) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.slots.get_mut(id.0)
    }

    /// The session if it is still the one meant.
    pub(crate) fn get_ref(&mut self, id: SessionRef) -> Option<&mut Session> {
        self.get_mut(id.id).filter(|session| session.id == id)
    }

    pub(crate) fn find(&self, client_id: &str) -> Option<SessionId> {
        let hash = self.hash(client_id);
        let found = self.by_client.find(hash, |&slot| self.client_at(slot) == client_id);
        found.map(|&slot| SessionId(slot))
    }

    pub(crate) fn create(&mut self, client_id: &str) -> &mut Session {
        let slot = self.free.pop().unwrap_or(self.slots.len());
        self.last_serial = self.last_serial.wrapping_add(1);
        let id = SessionRef { id: SessionId(slot), serial: self.last_serial };
        self.name_bytes += client_id.len();
        let hash = self.hash(client_id);
        let Self { slots, by_client, hasher, .. } = self;
        let hash_at = |&slot: &u32| {
            let client = slots.get(slot).map_or("", |session| &*session.client_id);
            std::hash::BuildHasher::hash_one(hasher, client)
        };
        by_client.insert_unique(hash, slot, hash_at);
        slots.insert(slot, Session::new(id, client_id))
    }

    /// Takes the name off a session: nobody finds it by its client any more.
    pub(crate) fn unlink(&mut self, id: SessionId) {
        let Some(session) = self.get(id) else { return };
        let hash = self.hash(&session.client_id);
        if let Ok(entry) = self.by_client.find_entry(hash, |&slot| slot == id.0) {
            entry.remove();
        }
    }

    pub(crate) fn remove(&mut self, id: SessionId) -> Option<Session> {
        let hash = self.hash(&self.get(id)?.client_id);
        if let Ok(entry) = self.by_client.find_entry(hash, |&slot| slot == id.0) {
            entry.remove();
        }
        self.free.push(id.0);
        let removed = self.slots.take(id.0)?;
        self.name_bytes -= removed.client_id.len();
        Some(removed)
    }

    fn hash(&self, client_id: &str) -> u64 {
        std::hash::BuildHasher::hash_one(&self.hasher, client_id)
    }

    fn client_at(&self, slot: u32) -> &str {
        self.slots.get(slot).map_or("", |session| &session.client_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inflight::{Inflight, Sent};

    fn id(n: u16) -> PacketId {
        PacketId::new(n).expect("not zero")
    }

    fn released(packet_id: PacketId) -> Inflight {
        Inflight { packet_id, serial: 0, state: Sent::Released }
    }

    #[test]
    fn packet_ids_skip_those_in_flight_after_the_wrap() {
        let mut deliveries = Deliveries::default();
        for n in [5, 7, 9] {
            deliveries.inflight.push(released(id(n)));
        }
        deliveries.last_packet_id = 4;
        let next: Vec<u16> =
            (0..4).filter_map(|_| deliveries.next_packet_id()).map(|id| id.0.get()).collect();
        assert_eq!(next, [6, 8, 10, 11]);
    }

    #[test]
    fn packet_ids_run_out_only_when_all_are_in_flight() {
        let mut deliveries = Deliveries::default();
        for _ in 0..u16::MAX {
            let packet_id = deliveries.next_packet_id().expect("one is free");
            deliveries.inflight.push(released(packet_id));
        }
        assert_eq!(deliveries.next_packet_id(), None);
        deliveries.inflight.remove(100);
        assert_eq!(deliveries.next_packet_id(), Some(id(101)));
    }

    #[test]
    fn numbers_in_a_row_are_those_that_come_one_by_one() {
        let mut random = crate::testing::Random(7);
        for _ in 0..300 {
            let start =
                random.pick(&["0", "1", "65500", "65534", "65535"]).parse().expect("a number");
            let serials = random.pick(&["0", "4294967290", "4294967295"]).parse().expect("one");
            let at = |last_packet_id| Deliveries {
                last_packet_id,
                last_serial: serials,
                ..Deliveries::default()
            };
            let (mut row, mut single) = (at(start), at(start));
            for _ in 0..6 {
                let count = 1 + random.below(40_000) as usize;
                let first = row.next_numbers(count);
                let free = usize::from(u16::MAX) - single.inflight.len();
                assert_eq!(first.is_some(), count <= free, "{count} with {free} free");
                let Some(first) = first else { break };
                for at in 0..count {
                    let numbers =
                        (single.next_packet_id().expect("one is free"), single.next_serial());
                    assert!(at > 0 || numbers == first);
                    single.inflight.push(released(numbers.0));
                    row.inflight.push(released(numbers.0));
                }
                assert_eq!(row.last_packet_id, single.last_packet_id);
                assert_eq!(row.last_serial, single.last_serial);
                for _ in 0..random.below(count as u64) {
                    single.inflight.remove(0);
                    row.inflight.remove(0);
                }
            }
        }
    }

    #[test]
    fn an_identifier_is_found_wherever_it_is_in_flight() {
        let mut deliveries = Deliveries { last_packet_id: u16::MAX - 500, ..Deliveries::default() };
        let mut expected = Vec::new();
        // Thrice around, with the oldest in flight all the time from the second time on.
        for step in 0..200_000_u32 {
            let packet_id = deliveries.next_packet_id().expect("one is free");
            deliveries.inflight.push(released(packet_id));
            expected.push(packet_id);
            let oldest_stays = usize::from(step > 70_000);
            for index in [oldest_stays, 7 + oldest_stays] {
                if expected.len() > 40 {
                    assert_eq!(deliveries.position(expected[index]), Some(index), "step {step}");
                    deliveries.inflight.remove(index);
                    assert_eq!(deliveries.position(expected.remove(index)), None, "step {step}");
                }
            }
        }
    }

    #[test]
    fn a_slot_that_is_used_again_is_another_session() {
        let mut sessions = Sessions::new(1);
        let first = sessions.create("a").id;
        sessions.remove(first.id);
        let second = sessions.create("b").id;
        assert_eq!(first.id, second.id);
        assert!(sessions.get_ref(first).is_none() && sessions.get_ref(second).is_some());
        assert!(sessions.find("a").is_none() && sessions.find("b") == Some(second.id));
    }

    #[test]
    fn a_received_identifier_is_new_only_once() {
        let mut deliveries = Deliveries::default();
        assert!(deliveries.receive(id(3)) && deliveries.receive(id(1)));
        assert!(!deliveries.receive(id(3)));
        assert!(deliveries.release(id(3)) && !deliveries.release(id(3)));
        assert!(deliveries.receive(id(3)));
    }
}
