//! What the bridge takes in from Redis: the group's nodes and what they want, their messages,
//! and the log of retained messages.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use bytes::Bytes;
use octopus_engine::{
    Envelope, NodeIndex, PeerSet, Presence, ReplayId, RetainedFound, RetainedQuery, SessionId,
    SessionRef, ShardId,
};
use octopus_mqtt::QoS;
use octopus_runtime::Plain;

use super::{
    compat,
    link::LinkState,
    members::{Member, View, id_of},
    outbox::Lane,
    retained::{self, Catch},
    rules::Entry,
    run::{After, Bridge, Node, Taken, Told},
    wire::{self, Control, Record},
    work::{Event, How, Op},
};

/// Retained messages asked of a shard at a time.
const SWEEP_COUNT: usize = 512;

impl Bridge {
    pub(super) fn on(&mut self, event: Event) {
        match event {
            Event::Link(state) => self.on_link(state),
            Event::Rejoined => {
                tracing::info!(epoch = self.epoch(), "in the group");
                self.see_group();
                self.tell_all_interest();
                self.ask_moved();
            }
            Event::Seen => self.see_group(),
            Event::Written { ops, result } => self.on_written(ops, result),
            Event::Listening => self.listening(),
            Event::ListeningFast => self.is_listening_fast = true,
            Event::Spread { node } => {
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.is_spreading = false;
                }
            }
            Event::Heard { channel, payload } => self.heard(&channel, &payload),
            Event::Interest { node, found } => self.loaded(&node, &found),
            Event::Inbox(entries) => self.take_or_keep(entries),
            Event::Log(entries) => self.take_log(&entries),
            Event::Catch(catch) => self.caught(catch),
            Event::Owed => self.begin_rounds(),
            Event::LeftSeen { round, found } => self.left_seen(round, &found),
            Event::Left { round, entries } => self.take_left(round, &entries),
            Event::LeftEnds { round } => self.end_round(round),
            Event::Bequeathed { node, moved, lost } => self.bequeathed(&node, moved, lost),
            Event::Moved { epoch, upto } => self.moved(epoch, upto),
        }
    }

    /// Redis came or went. When it came, everything is told and looked at anew.
    fn on_link(&mut self, state: LinkState) {
        self.link = state;
        if state.is_up() {
            self.behind = Some(None);
            self.tell_all_interest();
            let has_overflowed = std::mem::take(&mut self.has_overflowed);
            let place = self.place.clone().filter(|_| !has_overflowed);
            tokio::spawn(self.work.clone().catch_up(place));
        }
    }

    // --- the group ---

    /// Compares the nodes we know with those there are.
    pub(super) fn see_group(&mut self) {
        let view = self.work.members.view().borrow().clone();
        let own = self.work.members.name().to_owned();
        for name in self.nodes_missing_in(&view) {
            self.remove_node(&name);
        }
        for (name, member) in view.nodes.into_iter().filter(|(name, _)| *name != own) {
            let Some(node) = self.nodes.get_mut(&name) else {
                self.add_node(&name, &member);
                continue;
            };
            let is_other = node.epoch != member.epoch;
            node.epoch = member.epoch;
            if std::mem::replace(&mut node.is_live, member.is_live) != member.is_live {
                self.tell_groups(&name);
            }
            if is_other {
                self.load(&name);
            }
        }
    }

    /// Nodes whose lease has run out are forgotten as soon as nobody needs what they left.
    pub(super) fn forget_gone(&self) {
        let view = self.work.members.view().borrow().clone();
        for (name, member) in view.nodes.into_iter().filter(|(_, member)| !member.is_live) {
            let members = self.work.members.clone();
            // Whoever is not forgotten now is looked at again.
            tokio::spawn(async move { members.forget(&name, member.epoch).await });
        }
    }

    /// Nodes that were not in the list for as long as a lease lasts. A shorter time may be
    /// Redis's loss of memory and not the node's end: it has yet to say that it is there.
    fn nodes_missing_in(&mut self, view: &View) -> Vec<String> {
        let (now, lease) = (Instant::now(), self.config.lease);
        let mut gone = Vec::new();
        for (name, node) in &mut self.nodes {
            if view.nodes.contains_key(name) {
                node.missing_since = None;
            } else if now - *node.missing_since.get_or_insert(now) >= lease {
                gone.push(name.clone());
            }
        }
        gone
    }

    fn add_node(&mut self, name: &str, member: &Member) {
        let (epoch, is_live) = (member.epoch, member.is_live);
        let index = NodeIndex(self.indexes.acquire());
        let slot = usize::from(index.0);
        if self.by_index.len() <= slot {
            self.by_index.resize(slot + 1, None);
        }
        self.by_index[slot] = Some(name.to_owned());
        self.counters.name_node(index, id_of(name));
        let numbers = self.numbers.get(name).copied().unwrap_or_default();
        let node = Node {
            index,
            epoch,
            lane: Lane::new(name, numbers),
            known: None,
            entries: HashSet::new(),
            later: Vec::new(),
            is_loading: false,
            is_spreading: false,
            is_live,
            missing_since: None,
        };
        self.nodes.insert(name.to_owned(), node);
        tracing::info!(node = name, epoch, "node is in the group");
        self.load(name);
    }

    fn remove_node(&mut self, name: &str) {
        let Some(mut node) = self.nodes.remove(name) else { return };
        tracing::warn!(node = name, epoch = node.epoch, "node has left the group");
        self.drop_lane(name, &mut node);
        self.numbers.insert(name.to_owned(), node.lane.numbers());
        self.known.forget(name);
        self.give_all(&Envelope::NodeGone { node: node.index });
        self.by_index[usize::from(node.index.0)] = None;
        self.indexes.release(node.index.0);
        self.waiting.push_back(Op::Sweep { node: name.to_owned() });
    }

    // --- what nodes want ---

    /// What was said while nobody listened is asked again; also what the others said to know.
    fn listening(&mut self) {
        self.is_listening = true;
        self.see_group();
        // Who joined and told it while this node did not listen yet.
        self.work.look.notify_one();
        self.load_all();
        if self.ready.is_some() || !self.is_all_known() {
            self.tell_all_interest();
        }
    }

    pub(super) fn load_all(&mut self) {
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        names.iter().for_each(|name| self.load(name));
    }

    fn load(&mut self, name: &str) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.is_loading = true;
            tokio::spawn(self.work.clone().load_interest(name.to_owned()));
        }
    }

    /// A node's interest was read: what is new and what is not wanted any more.
    fn loaded(&mut self, name: &str, found: &HashMap<String, String>) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        node.is_loading = false;
        // Without its mark, Redis has forgotten it; the node will tell all of it again.
        let Some(mark) = found.get("").and_then(|mark| read_mark(mark)) else { return };
        if node.known.is_some_and(|known| mark < known) {
            // Asked for twice, and overtaken by what was told since.
            return;
        }
        node.known = Some(mark);
        self.told.insert(name.to_owned());
        let wanted: HashSet<Entry> = found.keys().filter_map(|text| Entry::parse(text)).collect();
        let new: Vec<Entry> = wanted.difference(&node.entries).cloned().collect();
        let old: Vec<Entry> = node.entries.difference(&wanted).cloned().collect();
        let later = std::mem::take(&mut node.later);
        new.into_iter().for_each(|entry| self.change(name, entry, true));
        old.into_iter().for_each(|entry| self.change(name, entry, false));
        for told in later {
            self.take_changes(name, told);
        }
    }

    fn take_changes(&mut self, name: &str, told: Told) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        if node.is_loading {
            return node.later.push(told);
        }
        let Told { epoch, number, changes } = told;
        self.told.insert(name.to_owned());
        match node.known {
            Some(known) if (epoch, number) <= known => {}
            Some((known_epoch, last)) if epoch == known_epoch && number == last + 1 => {
                node.known = Some((epoch, number));
                for (text, wanted) in changes {
                    if let Some(entry) = Entry::parse(&text) {
                        self.change(name, entry, wanted);
                    }
                }
            }
            _ => {
                self.counters.gap(1);
                self.load(name);
            }
        }
    }

    /// Brings one change of a node's interest to the shards.
    fn change(&mut self, name: &str, entry: Entry, wanted: bool) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        let index = node.index;
        let is_new = match wanted {
            true => node.entries.insert(entry.clone()),
            false => node.entries.remove(&entry),
        };
        if !is_new {
            return;
        }
        match entry {
            Entry::Filter(filter) => {
                self.give_all(&Envelope::NodeInterest { node: index, filter, wanted });
            }
            Entry::Group(key, _) => {
                let presence = node.presence(&key);
                self.tell_group(index, key, presence);
            }
        }
    }

    pub(super) fn tell_group(
        &mut self,
        node: NodeIndex,
        key: Box<str>,
        presence: Option<Presence>,
    ) {
        let home = key.clone();
        self.told_group = true;
        self.give_home(&home, Envelope::NodeGroup { node, key, presence });
    }

    // --- messages ---

    fn heard(&mut self, channel: &str, payload: &[u8]) {
        let keys = &self.work.keys;
        if channel == keys.control() || channel == keys.known(self.work.members.name()) {
            self.control(payload);
        } else if channel == keys.old_publish() {
            self.heard_predecessor(compat::read_publish(payload));
        } else if channel == keys.old_close() {
            self.heard_predecessor(compat::read_close(payload));
        } else {
            self.take_frame(payload, None);
        }
    }

    fn control(&mut self, payload: &[u8]) {
        let (head, control) = match wire::read_control(payload) {
            Ok(read) => read,
            Err(error) => return self.malformed(error),
        };
        if head.origin == self.work.members.name() {
            return;
        }
        if !self.nodes.contains_key(head.origin) {
            // It waits until we know it.
            self.work.look.notify_one();
        }
        match control {
            Control::Reload => self.load(head.origin),
            Control::Interest(changes) => {
                let told = Told { epoch: head.epoch, number: head.first, changes };
                self.take_changes(head.origin, told);
            }
            Control::Kick { client, reason } => self.give_all(&Envelope::Kick { client, reason }),
            Control::Known { epoch, number } => self.known.by(head.origin, (epoch, number)),
        }
    }

    pub(super) fn malformed(&mut self, error: wire::WireError) {
        self.counters.malformed(1);
        tracing::warn!(?error, "frame of another node not understood");
    }

    /// Hands the records of a frame to the shards, but for those seen before.
    ///
    /// - `taken`: the batch of the inbox it is of; `None`: it came by pub/sub.
    fn take_frame(&mut self, frame: &[u8], taken: Option<&mut Taken>) {
        let is_moved = taken.as_ref().is_some_and(|taken| self.is_moved(&taken.upto));
        let (head, records) = match wire::messages(frame, self.clock()) {
            Ok(read) => read,
            Err(error) => return self.malformed(error),
        };
        let is_fast = taken.is_none();
        let lanes = if is_fast { &mut self.fast_seen } else { &mut self.durable_seen };
        let seen = match lanes.get_mut(head.origin) {
            Some(seen) => seen,
            None => lanes.entry(head.origin.to_owned()).or_default(),
        };
        let take = seen.take(head.epoch, head.first, records.len() as u64);
        if let Some(taken) = taken {
            let is_qos2 = |record: &Record| record.message.qos() == QoS::ExactlyOnce;
            taken.has_qos2 |= records.iter().any(is_qos2);
            taken.again |= records.iter().any(|record| record.group.is_some());
            taken.seen.insert(head.origin.to_owned(), *seen);
        }
        self.counters.gap(take.gap);
        self.counters.duplicate(take.duplicates);
        self.counters.received(records.len() as u64 - take.duplicates);
        let new = records.into_iter().skip(take.duplicates as usize);
        let own = new.filter(|record| !is_moved || record.group.is_none());
        own.for_each(|record| self.deliver(record));
    }

    pub(super) fn deliver(&mut self, record: Record) {
        let Record { group, message } = record;
        if let Some(key) = group {
            let home = key.clone();
            return self.give_home(&home, Envelope::GroupMessage { key, message });
        }
        let mut shards = PeerSet::default();
        self.wanted.shards_for(message.topic(), &mut shards);
        for shard in shards.iter() {
            self.give(ShardId(shard), Envelope::Publish(message.clone()));
        }
    }

    pub(super) fn take_inbox(&mut self, entries: &[(String, Bytes)]) {
        let mut taken = Taken { count: entries.len(), ..Taken::default() };
        for (id, frame) in entries {
            taken.upto.clone_from(id);
            match wire::read_known(frame) {
                Some((epoch, client_id)) => {
                    let client_id: Box<str> = client_id.into();
                    let home = client_id.clone();
                    self.give_home(&home, Envelope::Known { epoch, client_id });
                }
                None => self.take_frame(frame, Some(&mut taken)),
            }
        }
        self.fence_inbox(taken);
    }

    // --- retained messages ---

    fn take_log(&mut self, entries: &[(String, Bytes)]) {
        for (id, frame) in entries {
            self.place = Some(id.clone());
            match wire::messages(frame, self.clock()) {
                Ok((head, records)) => {
                    let is_own = head.origin == self.work.members.name();
                    for record in records {
                        self.apply_retained(record, is_own);
                    }
                }
                Err(error) => self.malformed(error),
            }
        }
        self.fence(After::Permit(self.log_permits.clone()));
        self.read_log();
    }

    /// Whether the log is read as far as it reached when Redis was.
    fn read_log(&mut self) {
        if let (Some(Some(upto)), Some(place)) = (&self.behind, &self.place)
            && retained::is_reached(place, upto)
        {
            self.behind = None;
        }
    }

    /// Keeps what the log says, unless a change of our own is still to come in it.
    fn apply_retained(&mut self, record: Record, is_own: bool) {
        let message = record.message;
        let topic = message.topic().as_str();
        if is_own {
            self.pending.came_back(topic);
        }
        if !self.pending.is_pending(topic) {
            let home: Box<str> = topic.into();
            self.give_home(&home, Envelope::RetainHere(message));
        }
    }

    /// Our place in the log was compared with Redis.
    pub(super) fn caught(&mut self, catch: Catch) {
        match catch {
            Catch::Up { at, upto } => {
                if self.log_reader.is_none() {
                    self.follow_log(at);
                }
                self.behind = Some(Some(upto));
                self.read_log();
            }
            Catch::Load { at, values, old } => {
                let had_some = self.place.is_some();
                self.behind = None;
                self.forget_pending();
                let known = values.keys().chain(old.keys()).cloned().collect();
                self.load_retained(&values, &old);
                self.follow_log(at);
                if had_some {
                    self.start_sweep(Some(known));
                }
            }
            Catch::Restore => {
                tracing::warn!("Redis has lost retained messages; giving back what we hold");
                self.behind = None;
                self.forget_pending();
                self.follow_log("0-0".to_owned());
                self.start_sweep(None);
            }
        }
    }

    fn load_retained(&mut self, values: &HashMap<String, Vec<u8>>, old: &HashMap<String, Vec<u8>>) {
        for frame in values.values() {
            match wire::messages(frame, self.clock()) {
                Ok((_, records)) => {
                    records.into_iter().for_each(|record| self.apply_retained(record, false));
                }
                Err(error) => self.malformed(error),
            }
        }
        let now = self.sender.now();
        for (topic, json) in old.iter().filter(|(topic, _)| !values.contains_key(*topic)) {
            match compat::read_retained(json, now) {
                Some(message) => {
                    self.apply_retained(Record { group: None, message }, false);
                }
                None => {
                    let topic = tracing::field::display(Plain(topic));
                    tracing::warn!(topic, "the predecessor's retained message is not read");
                }
            }
        }
    }

    fn follow_log(&mut self, at: String) {
        self.place = Some(at.clone());
        if let Some(reader) = self.log_reader.take() {
            reader.abort();
            // Batches of the old reader may still be under way; each gives its permit back.
            self.log_permits =
                std::sync::Arc::new(tokio::sync::Semaphore::new(super::run::READ_AHEAD));
        }
        let (log, permits) = (self.work.keys.retained_log(), self.log_permits.clone());
        let read = self.work.clone().read(log, at, permits, Event::Log);
        self.log_reader = Some(tokio::spawn(read));
    }

    /// Of our own changes only those still to be written can come back.
    fn forget_pending(&mut self) {
        self.pending.clear();
        for op in &self.waiting {
            if let Op::Retain { topic, how: How::Set | How::Delete, .. } = op {
                self.pending.sent(topic);
            }
        }
    }

    /// Goes through the retained messages of all shards: those not in `known` are dropped;
    /// without it, all are given to Redis.
    fn start_sweep(&mut self, known: Option<HashSet<String>>) {
        self.sweep = Some(known);
        (0..self.shards).for_each(|shard| self.ask_retained(ShardId(shard), None));
    }

    fn ask_retained(&mut self, shard: ShardId, after: Option<Box<str>>) {
        let nobody = SessionRef { id: SessionId(u32::MAX), serial: 0 };
        let query = RetainedQuery {
            replay: ReplayId { session: nobody, serial: 0 },
            filter: "#".into(),
            after,
            limit: SWEEP_COUNT,
        };
        self.give(shard, Envelope::RetainedQuery(Box::new(query)));
    }

    pub(super) fn found_retained(&mut self, shard: ShardId, found: RetainedFound) {
        let Some(known) = self.sweep.take() else { return };
        for message in &found.messages {
            let topic = message.topic().as_str();
            match &known {
                None => self.retain(message, How::Restore, None),
                Some(known) if known.contains(topic) || self.pending.is_pending(topic) => {}
                Some(_) => {
                    let nothing = compat::empty(message, self.sender.now());
                    self.give(shard, Envelope::RetainHere(nothing));
                }
            }
        }
        self.sweep = Some(known);
        if found.next.is_some() {
            self.ask_retained(shard, found.next);
        }
    }
}

/// Epoch and number.
fn read_mark(mark: &str) -> Option<(u64, u64)> {
    let (epoch, number) = mark.split_once(' ')?;
    Some((epoch.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_an_epoch_and_a_number() {
        assert_eq!(read_mark("3 17"), Some((3, 17)));
        assert_eq!(read_mark("3"), None);
        assert_eq!(read_mark("a b"), None);
    }
}
