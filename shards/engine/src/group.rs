//! Shared subscriptions (§4.8.2): who is in a group, and who gets the next message.
//!
//! A group lives on one shard of the node, the home of its key. There it subscribes like a
//! session does, picks one member per message and hands the message on, at most one hop
//! further. Members are online first; while none is, messages of QoS 1 and 2 are held here up
//! to the queue limits. What a member could not finish comes back and goes to another.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashMap;
use octopus_mqtt::{QoS, TopicFilter};

use crate::barrier::Then;
use crate::durable::Change;
use crate::envelope::{
    Envelope, GroupEnvelope, GroupEvent, Member, NodeIndex, Presence, ReceiptId, SessionRef,
    ShardId,
};
use crate::inflight::Sent;
use crate::latency::Hop;
use crate::message::{Dropped, Message, Parcel};
use crate::receipt;
use crate::session::{Extra, Queued};
use crate::shard::{Random, Shard};
use crate::subscriptions::{FilterId, Grant, GroupId, SessionId, Subscriber};
use crate::trace::Happened;

/// How a group picks among its online members. Scope: node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pick {
    #[default]
    RoundRobin,
    Random,
    /// The member with the fewest messages of this group unfinished.
    LeastInflight,
    /// The same member until it goes away.
    Sticky,
    /// By the publisher's Client Identifier: one publisher, one member.
    Publisher,
}

/// The groups whose home is this shard.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    slots: Vec<Option<Group>>,
    free: Vec<u32>,
    by_key: HashMap<Arc<str>, GroupId>,
}

#[derive(Debug)]
struct Group {
    key: Arc<str>,
    filter: FilterId,
    members: Vec<Enrolled>,
    /// Other nodes that have members, and whether any of those is online.
    nodes: Vec<(NodeIndex, Presence)>,
    /// Round robin: the index to begin with. Sticky: the member to stay with.
    turn: usize,
    /// The same for `nodes`.
    node_turn: usize,
    /// What the other nodes were told of the members here.
    told: Option<Presence>,
    held: VecDeque<Message>,
    held_bytes: usize,
}

#[derive(Debug)]
struct Enrolled {
    member: Member,
    grant: Grant,
    presence: Presence,
    unfinished: u32,
}

impl Groups {
    fn find(&self, key: &str) -> Option<GroupId> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn count(&self) -> usize {
        self.by_key.len()
    }

    fn get_mut(&mut self, id: GroupId) -> Option<&mut Group> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    /// Where the next group goes.
    fn vacant(&mut self) -> GroupId {
        GroupId(self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        }))
    }

    /// What the members of this node are like, if the group's other nodes do not know yet.
    pub(crate) fn changed_presence(&mut self, key: &str) -> Option<Option<Presence>> {
        let group = self.find(key).and_then(|id| self.get_mut(id))?;
        let is_online = group.members.iter().any(|e| e.presence == Presence::Online);
        let presence = match (group.members.is_empty(), is_online) {
            (true, _) => None,
            (false, true) => Some(Presence::Online),
            (false, false) => Some(Presence::Offline),
        };
        let told = std::mem::replace(&mut group.told, presence);
        (told != presence).then_some(presence)
    }

    fn keys_with_node(&self, node: NodeIndex) -> Vec<Arc<str>> {
        let groups = self.slots.iter().flatten();
        let with_node = groups.filter(|group| group.nodes.iter().any(|(index, _)| *index == node));
        with_node.map(|group| group.key.clone()).collect()
    }

    fn remove(&mut self, id: GroupId, key: &str) -> Option<Group> {
        self.by_key.remove(key);
        self.free.push(id.0);
        self.slots[id.0 as usize].take()
    }
}

impl Group {
    fn position(&self, member: Member) -> Option<usize> {
        self.members.iter().position(|enrolled| enrolled.member == member)
    }

    /// The index of the member for the next message; `None` if nobody is online.
    fn pick(&mut self, how: Pick, publisher: u64, random: &mut Random) -> Option<usize> {
        let is_online = |enrolled: &&Enrolled| enrolled.presence == Presence::Online;
        let online = self.members.iter().filter(is_online).count();
        if online == 0 {
            return None;
        }
        let nth_online = |n: usize| {
            let online = self.members.iter().enumerate().filter(|(_, e)| is_online(e));
            online.map(|(index, _)| index).nth(n)
        };
        let index = match how {
            Pick::RoundRobin => self.next_online()?,
            Pick::Sticky => self.next_online()?,
            Pick::Random => nth_online((random.next() % online as u64) as usize)?,
            Pick::Publisher => nth_online((publisher % online as u64) as usize)?,
            Pick::LeastInflight => {
                let first = self.next_online()?;
                let count = self.members.len();
                let after_turn = |index: usize| (index + count - first) % count;
                let online = self.members.iter().enumerate().filter(|(_, e)| is_online(e));
                online.min_by_key(|(index, e)| (e.unfinished, after_turn(*index)))?.0
            }
        };
        self.turn = if how == Pick::Sticky { index } else { index + 1 };
        Some(index)
    }

    /// Another node for the next message, in turn, among those that are `presence`.
    fn pick_node(&mut self, presence: Presence) -> Option<NodeIndex> {
        let count = self.nodes.len();
        let steps = (0..count).map(|step| (self.node_turn + step) % count);
        let index = steps.into_iter().find(|&index| self.nodes[index].1 == presence)?;
        self.node_turn = index + 1;
        Some(self.nodes[index].0)
    }

    /// Where a message goes that no member here is online for.
    fn elsewhere(&mut self) -> Option<NodeIndex> {
        let online = self.pick_node(Presence::Online);
        let is_held_here = !self.members.is_empty();
        online.or_else(|| if is_held_here { None } else { self.pick_node(Presence::Offline) })
    }

    /// The first online member from `turn` on, around the end.
    fn next_online(&self) -> Option<usize> {
        let count = self.members.len();
        (0..count)
            .map(|step| (self.turn + step) % count)
            .find(|&index| self.members[index].presence == Presence::Online)
    }
}

impl Shard {
    // --- on the group's home shard ---

    pub(crate) fn group_event(&mut self, from: ShardId, envelope: GroupEnvelope) {
        let GroupEnvelope { key, event } = envelope;
        match event {
            GroupEvent::Join { member, grant, presence, barrier } => {
                let announced = self.join(&key, member, grant, presence);
                let fence = announced || self.barriers.is_waiting();
                let own = self.barriers.next();
                self.wait(own, fence, 0, Then::Answer { to: from, barrier });
            }
            GroupEvent::Leave { member } => self.leave(&key, member),
            GroupEvent::Presence { member, presence } => self.present(&key, member, presence),
            GroupEvent::Return { member, message, receipt } => {
                self.take_back(&key, member, &message, receipt);
            }
            GroupEvent::Done { member, count } => self.done(&key, member, count),
            GroupEvent::Deliver { member, grant, message, receipt } => {
                self.deliver_as_member(key, member, grant, &message, receipt);
            }
        }
    }

    /// Enrols a member or changes its grant; `true` if interest was announced for it.
    fn join(&mut self, key: &Arc<str>, member: Member, grant: Grant, presence: Presence) -> bool {
        let Ok(whole) = TopicFilter::parse(key) else { return false };
        let Some((_, filter)) = whole.shared() else { return false };
        let enrolled = Enrolled { member, grant, presence, unfinished: 0 };
        if let Some(group) = self.groups.find(key).and_then(|id| self.groups.get_mut(id)) {
            match group.position(member) {
                Some(index) => group.members[index].grant = grant,
                None => group.members.push(enrolled),
            }
            self.release_held(key);
            self.tell_group_state(key);
            return false;
        }
        let announced = self.found_group(key, filter, vec![enrolled], Vec::new());
        self.tell_group_state(key);
        announced
    }

    /// Makes a group and subscribes it; `true` if interest was announced for it.
    fn found_group(
        &mut self,
        key: &Arc<str>,
        filter: TopicFilter<'_>,
        members: Vec<Enrolled>,
        nodes: Vec<(NodeIndex, Presence)>,
    ) -> bool {
        let id = self.groups.vacant();
        // The group takes each message at the QoS it has; the member's grant lowers it later.
        let full = Grant {
            qos: QoS::ExactlyOnce,
            no_local: false,
            retain_as_published: true,
            subscription_id: 0,
        };
        let subscribed = self.subscriptions.subscribe(filter, Subscriber::Group(id), full);
        let group = Group {
            key: key.clone(),
            filter: subscribed.filter,
            members,
            nodes,
            turn: 0,
            node_turn: 0,
            told: None,
            held: VecDeque::new(),
            held_bytes: 0,
        };
        self.groups.slots[id.0 as usize] = Some(group);
        self.groups.by_key.insert(key.clone(), id);
        if subscribed.first {
            self.announce(filter.as_str(), true);
        }
        subscribed.first
    }

    fn leave(&mut self, key: &str, member: Member) {
        let Some(id) = self.groups.find(key) else { return };
        let Some(group) = self.groups.get_mut(id) else { return };
        if let Some(index) = group.position(member) {
            group.members.remove(index);
            if index < group.turn {
                group.turn -= 1;
            }
        }
        self.tell_group_state(key);
        self.end_empty_group(key);
    }

    /// Ends a group without members on any node.
    fn end_empty_group(&mut self, key: &str) {
        let Some(id) = self.groups.find(key) else { return };
        let Some(group) = self.groups.get_mut(id) else { return };
        if !group.members.is_empty() {
            return;
        }
        if !group.nodes.is_empty() {
            return self.release_held(key);
        }
        let filter = group.filter;
        if let Some(group) = self.groups.remove(id, key) {
            for message in &group.held {
                self.stats.ledger.unqueue();
                self.drop_for_nobody(Dropped::NoMember, &message.parcel());
            }
        }
        self.withdraw(filter, Subscriber::Group(id));
    }

    fn present(&mut self, key: &Arc<str>, member: Member, presence: Presence) {
        let Some(id) = self.groups.find(key) else { return };
        let Some(group) = self.groups.get_mut(id) else { return };
        if let Some(index) = group.position(member) {
            group.members[index].presence = presence;
            group.members[index].unfinished = 0;
        }
        self.tell_group_state(key);
        if presence == Presence::Online {
            self.release_held(key);
        }
    }

    /// What another node's members of a group are like now; `None`: it has none.
    pub(crate) fn take_node_group(
        &mut self,
        node: NodeIndex,
        key: &str,
        presence: Option<Presence>,
    ) {
        let Ok(whole) = TopicFilter::parse(key) else { return };
        let Some((_, filter)) = whole.shared() else { return };
        let Some(group) = self.groups.find(key).and_then(|id| self.groups.get_mut(id)) else {
            if let Some(presence) = presence {
                self.found_group(&key.into(), filter, Vec::new(), vec![(node, presence)]);
            }
            return;
        };
        group.nodes.retain(|(index, _)| *index != node);
        group.nodes.extend(presence.map(|presence| (node, presence)));
        match presence {
            Some(Presence::Online) => self.release_held(key),
            Some(Presence::Offline) => {}
            None => self.end_empty_group(key),
        }
    }

    pub(crate) fn forget_node_in_groups(&mut self, node: NodeIndex) {
        for key in self.groups.keys_with_node(node) {
            self.take_node_group(node, &key, None);
        }
    }

    /// Hands out what was held while nobody was online.
    fn release_held(&mut self, key: &str) {
        let Some(id) = self.groups.find(key) else { return };
        let Some(group) = self.groups.get_mut(id) else { return };
        let is_anybody_there = group.next_online().is_some() || group.elsewhere().is_some();
        if group.held.is_empty() || !is_anybody_there {
            return;
        }
        let held = std::mem::take(&mut group.held);
        self.latency.hop = Some(Hop::Queued);
        group.held_bytes = 0;
        for message in held {
            self.stats.ledger.unqueue();
            self.deliver_to_group(id, &mut message.parcel());
        }
    }

    /// - `receipt`: of this shard, if the message's publisher waits for it.
    fn take_back(
        &mut self,
        key: &str,
        member: Member,
        message: &Message,
        receipt: Option<ReceiptId>,
    ) {
        let Some(receipt) = receipt else { return self.give_another(key, member, message) };
        self.begin_receipt();
        self.give_another(key, member, message);
        if !self.end_receipt(|| Some(receipt::Then::Confirm(receipt))) {
            self.confirmed(receipt, None);
        }
    }

    fn give_another(&mut self, key: &str, member: Member, message: &Message) {
        self.latency.hop = Some(Hop::Queued);
        match self.groups.find(key) {
            Some(id) => {
                if let Some(group) = self.groups.get_mut(id)
                    && let Some(index) = group.position(member)
                {
                    let unfinished = &mut group.members[index].unfinished;
                    *unfinished = unfinished.saturating_sub(1);
                }
                self.deliver_to_group(id, &mut message.parcel());
            }
            None => self.drop_for_nobody(Dropped::NoMember, &message.parcel()),
        }
    }

    fn done(&mut self, key: &str, member: Member, count: u32) {
        let Some(group) = self.groups.find(key).and_then(|id| self.groups.get_mut(id)) else {
            return;
        };
        if let Some(index) = group.position(member) {
            let unfinished = &mut group.members[index].unfinished;
            *unfinished = unfinished.saturating_sub(count);
        }
    }

    /// One message for the group: to one online member, or held until one comes.
    pub(crate) fn deliver_to_group(&mut self, id: GroupId, parcel: &mut Parcel<'_>) {
        let how = self.config.shared_pick;
        let Some(group) = self.groups.slots.get_mut(id.0 as usize).and_then(Option::as_mut) else {
            return self.drop_for_nobody(Dropped::NoMember, parcel);
        };
        let Some(index) = group.pick(how, parcel.publisher, &mut self.random) else {
            return match group.elsewhere() {
                Some(node) => self.send_to_node_of_group(id, node, parcel),
                None => self.hold(id, parcel),
            };
        };
        let key = group.key.clone();
        let Enrolled { member, grant, ref mut unfinished, .. } = group.members[index];
        if parcel.qos.min(grant.qos) != QoS::AtMostOnce {
            *unfinished += 1;
        }
        if member.shard == self.config.id {
            return self.deliver_shared(key, member.session.id, grant, parcel);
        }
        self.stats.ledger.forward();
        if self.trace.is_on {
            let (shards, nodes) = (vec![member.shard], Vec::new());
            self.trace_step(None, parcel, Happened::Forwarded { shards, nodes });
        }
        let message = parcel.message().clone();
        let receipt = self.confirmation();
        let event = GroupEvent::Deliver { member, grant, message, receipt };
        self.send(member.shard, Envelope::Group(Box::new(GroupEnvelope { key, event })));
    }

    /// A member of another node gets it: that node picks which.
    fn send_to_node_of_group(&mut self, id: GroupId, node: NodeIndex, parcel: &mut Parcel<'_>) {
        let Some(key) = self.groups.get_mut(id).map(|group| group.key.clone()) else { return };
        self.stats.ledger.forward();
        if self.trace.is_on {
            let (shards, nodes) = (Vec::new(), vec![node]);
            self.trace_step(None, parcel, Happened::Forwarded { shards, nodes });
        }
        let (message, receipt) = (parcel.message().clone(), self.confirmation());
        self.send_hub(Envelope::BridgeGroup { node, key, message, receipt });
    }

    /// A message that another node picked this one for: it goes no further unless nobody is
    /// left here.
    pub(crate) fn deliver_to_own_members(&mut self, key: &str, parcel: &mut Parcel<'_>) {
        let Some(id) = self.groups.find(key) else {
            return self.drop_for_nobody(Dropped::NoMember, parcel);
        };
        let Some(group) = self.groups.get_mut(id) else { return };
        let is_online = group.next_online().is_some();
        if group.members.is_empty() {
            return self.drop_for_nobody(Dropped::NoMember, parcel);
        }
        match is_online {
            true => self.deliver_to_group(id, parcel),
            false => self.hold(id, parcel),
        }
    }

    fn hold(&mut self, id: GroupId, parcel: &mut Parcel<'_>) {
        let (count_max, bytes_max) = (self.limits().queue_count_max, self.limits().queue_bytes_max);
        let Some(group) = self.groups.get_mut(id) else { return };
        let size = parcel.size();
        let is_full = group.held.len() >= count_max as usize || group.held_bytes + size > bytes_max;
        if parcel.qos == QoS::AtMostOnce {
            self.drop_for_nobody(Dropped::Offline, parcel);
        } else if is_full {
            self.drop_for_nobody(Dropped::QueueFull, parcel);
        } else {
            group.held_bytes += size;
            group.held.push_back(parcel.message().clone());
            let count = group.held.len();
            self.stats.ledger.queue();
            if self.trace.is_on {
                self.trace_step(None, parcel, Happened::Queued { count });
            }
        }
    }

    // --- on the member's shard ---

    /// Tells the group's home about one of this shard's sessions.
    pub(crate) fn tell_group(&mut self, key: &Arc<str>, event: GroupEvent) {
        let home = self.home_of(key);
        let envelope = GroupEnvelope { key: key.clone(), event };
        if home == self.config.id {
            self.group_event(home, envelope);
        } else {
            self.send(home, Envelope::Group(Box::new(envelope)));
        }
    }

    /// Joins a group for a session; `(announced here, answers to wait for)`.
    pub(crate) fn join_group(
        &mut self,
        key: &Arc<str>,
        session: SessionRef,
        grant: Grant,
        barrier: u64,
    ) -> (bool, usize) {
        let member = self.member(session);
        let presence = Presence::Online;
        if self.is_home_of(key) {
            return (self.join(key, member, grant, presence), 0);
        }
        self.tell_group(key, GroupEvent::Join { member, grant, presence, barrier });
        (false, 1)
    }

    pub(crate) fn member(&self, session: SessionRef) -> Member {
        Member { shard: self.config.id, session }
    }

    fn deliver_as_member(
        &mut self,
        key: Arc<str>,
        member: Member,
        grant: Grant,
        message: &Message,
        receipt: Option<ReceiptId>,
    ) {
        if self.sessions.get_ref(member.session).is_none() {
            return self.give_back(&key, member, message.clone(), receipt);
        }
        if receipt.is_some() {
            self.begin_receipt();
        }
        self.latency.hop = Some(Hop::OtherShard);
        self.deliver_shared(key, member.session.id, grant, &mut message.parcel());
        if let Some(receipt) = receipt
            && !self.end_receipt(|| Some(receipt::Then::Confirm(receipt)))
        {
            self.send(receipt.shard, Envelope::Accepted { receipt });
        }
    }

    /// Sends a message back to the group's home, which owes it from there.
    fn give_back(
        &mut self,
        key: &Arc<str>,
        member: Member,
        message: Message,
        receipt: Option<ReceiptId>,
    ) {
        if !self.is_home_of(key) {
            self.stats.ledger.forward();
        }
        self.tell_group(key, GroupEvent::Return { member, message, receipt });
    }

    fn deliver_shared(
        &mut self,
        group: Arc<str>,
        session: SessionId,
        grant: Grant,
        parcel: &mut Parcel<'_>,
    ) {
        // This may be another message than the one that is being routed, if any.
        self.templates.reset();
        let qos = parcel.qos.min(grant.qos);
        let retain = parcel.retain && grant.retain_as_published;
        let subscription_ids =
            if grant.subscription_id == 0 { Vec::new() } else { vec![grant.subscription_id] };
        let extra = Extra { subscription_ids, group: Some(group) };
        let is_plain = qos == QoS::AtMostOnce && extra.subscription_ids.is_empty();
        self.deliver(session, parcel, qos, retain, (!is_plain).then(|| Box::new(extra)));
    }

    /// Presence of a session's client in all its groups.
    pub(crate) fn tell_presence(&mut self, session: SessionId, presence: Presence) {
        let Some(found) = self.sessions.get(session) else { return };
        let Some(deliveries) = found.peek_deliveries() else { return };
        let keys: Vec<_> = deliveries.shared.iter().map(|shared| shared.key.clone()).collect();
        let member = self.member(found.id);
        for key in keys {
            self.tell_group(&key, GroupEvent::Presence { member, presence });
        }
    }

    /// Gives unfinished messages of shared groups back, so that others get them: what waits in
    /// the queue, and QoS 1 without PUBACK. QoS 2 once sent stays [MQTT-4.8.2-4].
    pub(crate) fn return_shared(&mut self, session: SessionId) {
        let Some(found) = self.sessions.get_mut(session) else { return };
        let id = found.id;
        let Some(deliveries) = found.deliveries_if_any() else { return };
        if deliveries.shared.is_empty() {
            return;
        }
        let before = (deliveries.inflight.len(), deliveries.queue_bytes);
        let inflight_bytes = deliveries.inflight.bytes();
        let returned = deliveries.take_shared();
        self.stats.inflight -= (before.0 - deliveries.inflight.len()) as u64;
        self.stats.inflight_bytes -= (inflight_bytes - deliveries.inflight.bytes()) as u64;
        self.stats.queue_bytes -= (before.1 - deliveries.queue_bytes) as u64;
        let member = self.member(id);
        for (key, message, serial) in returned {
            self.record(session, || Change::Done { serial });
            self.stats.ledger.unqueue();
            self.give_back(&key, member, message, None);
        }
    }

    /// A shared message was finished by this member.
    pub(crate) fn shared_done(&mut self, session: SessionId, item: &Queued) {
        if self.config.shared_pick != Pick::LeastInflight {
            return;
        }
        let Some(key) = item.extra.as_ref().and_then(|extra| extra.group.clone()) else { return };
        let Some(found) = self.sessions.get(session) else { return };
        let member = self.member(found.id);
        self.tell_group(&key, GroupEvent::Done { member, count: 1 });
    }
}

impl crate::session::Deliveries {
    /// Takes out the shared messages that another member may get, oldest first.
    fn take_shared(&mut self) -> Vec<(Arc<str>, Message, u32)> {
        let group_of = |item: &Queued| item.extra.as_ref().and_then(|extra| extra.group.clone());
        let mut returned = Vec::new();
        self.inflight.retain(|sent| match &sent.state {
            Sent::Published(item) if item.qos == QoS::AtLeastOnce => match group_of(item) {
                Some(key) => {
                    returned.push((key, item.message.clone(), item.serial));
                    false
                }
                None => true,
            },
            _ => true,
        });
        let mut bytes = 0;
        self.queue.retain(|item| match group_of(item) {
            Some(key) => {
                bytes += item.message.size();
                returned.push((key, item.message.clone(), item.serial));
                false
            }
            None => true,
        });
        self.queue_bytes -= bytes;
        returned
    }
}
