//! What a dead node left in its inbox for shared groups: it goes to nodes where the groups have
//! members now.
//!
//! One live node does it, the first by name, when all sessions of the dead one are another's, so
//! that the members are known and nothing more is taken in there. A slice of the inbox is read,
//! and in one step of Redis its messages are written into the inboxes of others and the place is
//! noted (`at` of [`super::keys::Keys::estate`]). So each message goes on once, however many nodes
//! try, and whoever dies meanwhile: the next one goes on from the place. A message of QoS 2 that a
//! session of the dead node had got already stays out; its session has it. Until the place is the
//! end of the inbox, the node is not forgotten.
//!
//! A node that was silent for longer than its lease, and comes back, leaves out what went on
//! meanwhile: it takes in nothing for shared groups while its lease is not certain, and asks for
//! the place when it holds it anew.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;
use octopus_engine::Presence;
use octopus_mqtt::QoS;
use redis::{Script, Value};

use super::{
    link::LinkError,
    members::{IS_REACHED, id_of},
    outbox::Parcel,
    retained,
    rules::Entry,
    run::{After, Bridge},
    wire::{self, Clock, Head, Record},
    work::{Event, Work, entry_of},
};

/// Entries looked through at a time.
const SLICE_COUNT: usize = 32;
/// How many leases long members of a group are looked for.
const PATIENCE_LEASES: u32 = 3;

/// Where the work stands, and what comes next; nothing while it cannot be done. KEYS: lease of
/// the dead node, nodes, its sessions, estate, inbox. ARGV: name, epoch, incarnation, entries.
const LOOK: &str = r"
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return {} end
if redis.call('GET', KEYS[1]) == ARGV[3] or redis.call('EXISTS', KEYS[3]) == 1 then return {} end
local at, last = unpack(redis.call('HMGET', KEYS[4], 'at', 'last'))
if is_reached(at, last) then return {} end
local slice = redis.call('XRANGE', KEYS[5], at and '(' .. at or '-', '+', 'COUNT', ARGV[4])
if #slice == 0 then redis.call('HSET', KEYS[4], 'at', last) end
return {at or '', slice}";

/// Writes frames into inboxes and notes the place, if all is as it was looked at. KEYS: lease of
/// the dead node, nodes, its sessions, estate, what its sessions got, then lease, inbox and estate
/// of each target. ARGV: name, epoch, incarnation, place before and after, then incarnation of each
/// target and frame, then the numbers of what must not go on again. In a Redis Cluster one more key
/// stands behind all of these.
const MOVE: &str = r"
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
if redis.call('GET', KEYS[1]) == ARGV[3] or redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
if (redis.call('HGET', KEYS[4], 'at') or '') ~= ARGV[4] then return 0 end
local arg = 6
for i = 6, #KEYS - 2, 3 do
  if redis.call('GET', KEYS[i]) ~= ARGV[arg] then return 0 end
  arg = arg + 2
end
arg = 6
for i = 6, #KEYS - 2, 3 do
  local entry = redis.call('XADD', KEYS[i + 1], '*', 'f', ARGV[arg + 1])
  redis.call('HSET', KEYS[i + 2], 'last', entry)
  arg = arg + 2
end
local now = redis.call('TIME')[1] * 1000
for i = arg, #ARGV do redis.call('ZADD', KEYS[5], now, ARGV[i]) end
redis.call('HSET', KEYS[4], 'at', ARGV[5])
return 1";

/// The members that shared groups have on live nodes, this one among them. Scope: cluster.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Nodes by name, those with a member online first.
    nodes: HashMap<Box<str>, Vec<String>>,
    turn: usize,
}

impl Groups {
    /// - `all`: nodes and what they want.
    fn new<'a>(all: impl Iterator<Item = (&'a str, Entry)>) -> Self {
        let mut found = HashMap::<Box<str>, (Vec<String>, Vec<String>)>::new();
        for (node, entry) in all {
            let Entry::Group(key, presence) = entry else { continue };
            let (online, offline) = found.entry(key).or_default();
            let nodes = if presence == Presence::Online { online } else { offline };
            nodes.push(node.to_owned());
        }
        let best = |(online, offline): (Vec<String>, _)| match online.is_empty() {
            true => offline,
            false => online,
        };
        let nodes = found.into_iter().map(|(key, nodes)| (key, best(nodes))).collect();
        Self { nodes, turn: 0 }
    }

    /// A node for the next message of a group, in turn.
    fn pick(&mut self, key: &str) -> Option<&str> {
        let nodes = self.nodes.get(key)?;
        self.turn += 1;
        nodes.get(self.turn % nodes.len()).map(String::as_str)
    }
}

/// What becomes of one slice. Pure.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Records for each node, in order.
    moved: BTreeMap<String, Vec<Vec<u8>>>,
    /// Numbers of those of QoS 2.
    once: Vec<u64>,
    /// The place after it; `None`: nothing of it can be done yet.
    upto: Option<String>,
    /// Messages of groups that have no members.
    lost: u64,
}

impl Plan {
    /// - `got`: messages that sessions have already.
    /// - `is_late`: who has no members by now has none.
    fn new(
        entries: &[(String, Vec<Record>)],
        got: &HashSet<u64>,
        groups: &mut Groups,
        is_late: bool,
        clock: Clock,
    ) -> Self {
        let mut plan = Self::default();
        for (id, records) in entries {
            let (mut moved, mut once) = (Vec::new(), Vec::new());
            for record in records {
                let Some(key) = record.group.as_deref() else { continue };
                let (qos, number) = (record.message.qos(), record.message.id());
                // Also a frame that its sender has written twice is here only once.
                let is_here = got.contains(&number) || plan.once.contains(&number);
                if qos == QoS::AtMostOnce || is_here {
                    continue;
                }
                let Some(node) = groups.pick(key) else {
                    if !is_late {
                        // An entry goes as a whole; it is looked at again.
                        return plan;
                    }
                    plan.lost += 1;
                    continue;
                };
                once.extend((qos == QoS::ExactlyOnce && number != 0).then_some(number));
                let mut bytes = Vec::new();
                wire::put_message(&mut bytes, &record.message, Some(key), clock);
                moved.push((node.to_owned(), bytes));
            }
            plan.once.extend(once);
            for (node, bytes) in moved {
                plan.moved.entry(node).or_default().push(bytes);
            }
            plan.upto = Some(id.clone());
        }
        plan
    }
}

/// A node whose groups' messages go to others.
struct Dead {
    name: String,
    epoch: u64,
    groups: Groups,
    is_late: bool,
    clock: Clock,
    /// Tells the frames of one move from those of others.
    number: u64,
}

impl Bridge {
    /// Has what dead nodes left for shared groups go to others, if this node is the one to do it.
    pub(super) fn bequeath(&mut self) {
        let view = self.work.members.view().borrow().clone();
        let own = self.work.members.name();
        let first = view.nodes.iter().find(|(_, member)| member.is_live).map(|(name, _)| name);
        self.dead_since.retain(|name, _| view.nodes.get(name).is_some_and(|node| !node.is_live));
        if first.is_none_or(|first| first != own) {
            return;
        }
        let now = Instant::now();
        for (name, member) in view.nodes.iter().filter(|(_, member)| !member.is_live) {
            let since = *self.dead_since.entry(name.clone()).or_insert(now);
            if !self.bequeathing.insert(name.clone()) {
                continue;
            }
            self.moves += 1 << 32;
            let dead = Dead {
                name: name.clone(),
                epoch: member.epoch,
                groups: self.groups(),
                is_late: now - since >= PATIENCE_LEASES * self.config.lease,
                clock: self.clock(),
                number: self.moves,
            };
            tokio::spawn(self.work.clone().bequeath(dead));
        }
    }

    pub(super) fn bequeathed(&mut self, node: &str, moved: u64, lost: u64) {
        self.bequeathing.remove(node);
        self.counters.node_gone(lost);
        if moved + lost > 0 {
            tracing::info!(node, moved, lost, "messages for shared groups taken over");
        }
    }

    fn groups(&self) -> Groups {
        let live = self.nodes.iter().filter(|(_, node)| node.is_live);
        let others = live.flat_map(|(name, node)| {
            node.entries.iter().map(move |entry| (name.as_str(), entry.clone()))
        });
        let own = self.work.members.name();
        Groups::new(others.chain(self.wanted.entries().map(|entry| (own, entry))))
    }

    /// A message for a shared group of which no node has it gets another one; its receipt is
    /// answered when that has it.
    pub(super) fn regroup(&mut self, parcel: Parcel) {
        let own = self.work.members.name().to_owned();
        let mut groups = self.groups();
        groups.turn = self.moves as usize;
        self.moves += 1;
        let picked = wire::group_of(&parcel.record).and_then(|key| groups.pick(key));
        let picked = picked.unwrap_or_default().to_owned();
        match self.nodes.get_mut(&picked) {
            Some(node) => {
                self.load.add(parcel.record.len());
                node.lane.push_durable(parcel);
            }
            None if picked == own => {
                let head = Head { origin: &own, epoch: 0, first: 0, count: 1 };
                let frame = wire::frame(&head, std::iter::once(&parcel.record[..]));
                let records = wire::messages(&frame, self.clock()).map(|(_, records)| records);
                records.into_iter().flatten().for_each(|record| self.deliver(record));
                self.fence(After::Regrouped { receipt: parcel.receipt, again: true });
            }
            None => {
                self.counters.node_gone(1);
                self.written(parcel.receipt);
            }
        }
    }

    /// Tells the home shards of its groups what a node's members are like now: those of a node
    /// that is not live come last, for what it gets is taken out of its inbox.
    pub(super) fn tell_groups(&mut self, name: &str) {
        let Some(node) = self.nodes.get(name) else { return };
        let index = node.index;
        let is_group = |entry: &Entry| match entry {
            Entry::Group(key, _) => Some((key.clone(), node.presence(key))),
            Entry::Filter(_) => None,
        };
        let groups: Vec<_> = node.entries.iter().filter_map(is_group).collect();
        for (key, presence) in groups {
            self.tell_group(index, key, presence);
        }
    }

    // --- a node that was silent itself ---

    /// Whether what stands in the inbox for shared groups is still this node's for certain.
    fn is_certain(&self) -> bool {
        self.work.members.holds_lease() && self.work.members.epoch() == self.moved_epoch
    }

    /// Takes a batch of the inbox in, or keeps it until this node knows what of it is its own.
    pub(super) fn take_or_keep(&mut self, entries: Vec<(String, Bytes)>) {
        let is_free = self.uncertain.is_empty() && (self.is_certain() || !has_groups(&entries));
        if is_free {
            return self.take_inbox(&entries);
        }
        self.uncertain.push_back(entries);
        self.take_uncertain();
    }

    pub(super) fn take_uncertain(&mut self) {
        if self.uncertain.is_empty() || !self.is_certain() {
            return;
        }
        for entries in std::mem::take(&mut self.uncertain) {
            self.take_inbox(&entries);
        }
    }

    /// The lease was lost and is held anew, under this epoch.
    pub(super) fn ask_moved(&self) {
        tokio::spawn(self.work.clone().load_moved(self.epoch()));
    }

    pub(super) fn moved(&mut self, epoch: u64, upto: Option<String>) {
        if epoch != self.epoch() {
            return;
        }
        (self.moved_epoch, self.moved_upto) = (epoch, upto);
        self.take_uncertain();
    }

    /// Whether what this entry holds for shared groups is with others.
    pub(super) fn is_moved(&self, id: &str) -> bool {
        self.moved_upto.as_ref().is_some_and(|upto| retained::is_reached(upto, id))
    }
}

/// Batches of the inbox that wait. Bounded by what is read ahead.
pub(super) type Uncertain = VecDeque<Vec<(String, Bytes)>>;

/// Whether there is something for shared groups in it.
fn has_groups(entries: &[(String, Bytes)]) -> bool {
    let clock = Clock { unix_ms: 0, now: octopus_engine::Instant(0) };
    entries
        .iter()
        .filter_map(|(_, frame)| wire::messages(frame, clock).ok())
        .any(|(_, records): (_, Vec<Record>)| records.iter().any(|record| record.group.is_some()))
}

impl Work {
    async fn bequeath(self, mut dead: Dead) {
        let (mut moved, mut lost) = (0, 0);
        while let Ok(Some((more, less))) = self.bequeath_slice(&mut dead).await {
            moved += more;
            lost += less;
        }
        // Nobody listens any more: the node is stopping.
        let _ = self.events.send(Event::Bequeathed { node: dead.name, moved, lost }).await;
    }

    /// How many messages went on, and how many have nobody; `None`: nothing can be done now.
    async fn bequeath_slice(&self, dead: &mut Dead) -> Result<Option<(u64, u64)>, LinkError> {
        let keys = &self.keys;
        let (id, incarnation) = dead.name.rsplit_once(':').unwrap_or((&dead.name, ""));
        let look = Script::new(&format!("{IS_REACHED}{LOOK}"));
        let mut call = look.key(keys.node(id));
        call.key(keys.nodes()).key(keys.owned(&dead.name)).key(keys.estate(&dead.name));
        call.key(keys.inbox(&dead.name)).arg(&dead.name).arg(dead.epoch).arg(incarnation);
        let found: Vec<Value> = self.link.script(call.arg(SLICE_COUNT)).await?;
        let mut found = found.into_iter();
        let (Some(Value::BulkString(at)), Some(Value::Array(slice))) = (found.next(), found.next())
        else {
            return Ok(None);
        };
        let read = |(id, frame): (String, Bytes)| {
            let records = wire::messages(&frame, dead.clock).map(|(_, records)| records);
            (id, records.unwrap_or_default())
        };
        let entries: Vec<_> = slice.into_iter().filter_map(entry_of).map(read).collect();
        let got = self.got(&dead.name, &entries).await?;
        let plan = Plan::new(&entries, &got, &mut dead.groups, dead.is_late, dead.clock);
        let Some(upto) = plan.upto else { return Ok(None) };
        let mover = Script::new(MOVE);
        let mut call = mover.key(keys.node(id));
        call.key(keys.nodes()).key(keys.owned(&dead.name)).key(keys.estate(&dead.name));
        call.key(keys.got(&dead.name));
        call.arg(&dead.name).arg(dead.epoch).arg(incarnation).arg(at).arg(upto);
        let origin = format!("{}/{}", self.members.name(), dead.name);
        let mut count = 0;
        for (node, records) in plan.moved {
            dead.number += 1;
            count += records.len() as u64;
            // Each frame is a new life of its sender: none is missing before it, and none is
            // written twice.
            let (epoch, records_count) = (dead.number, records.len() as u32);
            let head = Head { origin: &origin, epoch, first: 1, count: records_count };
            let frame = wire::frame(&head, records.iter().map(Vec::as_slice));
            call.key(keys.node(id_of(&node))).key(keys.inbox(&node)).key(keys.estate(&node));
            let (_, incarnation) = node.rsplit_once(':').unwrap_or((&node, ""));
            call.arg(incarnation).arg(frame);
        }
        call.arg(plan.once);
        let is_done: bool = self.link.script(&mut call).await?;
        Ok(is_done.then_some((count, plan.lost)))
    }

    /// Of what is for shared groups, what sessions of the dead node have already.
    async fn got(
        &self,
        name: &str,
        entries: &[(String, Vec<Record>)],
    ) -> Result<HashSet<u64>, LinkError> {
        let records = entries.iter().flat_map(|(_, records)| records);
        let once = records
            .filter(|record| record.group.is_some() && record.message.qos() == QoS::ExactlyOnce);
        let numbers: Vec<u64> = once.map(|record| record.message.id()).collect();
        if numbers.is_empty() {
            return Ok(HashSet::new());
        }
        let mut command = redis::cmd("ZMSCORE");
        command.arg(self.keys.got(name)).arg(&numbers);
        let scores: Vec<Option<f64>> = self.link.command(&command).await?;
        let got = numbers.into_iter().zip(scores).filter(|(_, score)| score.is_some());
        Ok(got.map(|(number, _)| number).collect())
    }

    async fn load_moved(self, epoch: u64) {
        const RETRY: Duration = Duration::from_millis(100);
        loop {
            let mut command = redis::cmd("HGET");
            command.arg(self.keys.estate(self.members.name())).arg("at");
            match self.link.command(&command).await {
                Ok(upto) => {
                    // Nobody listens any more: the node is stopping.
                    let _ = self.events.send(Event::Moved { epoch, upto }).await;
                    return;
                }
                Err(_) if self.members.epoch() != epoch => return,
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use octopus_engine::{Instant as Moment, Message, MessageParts};
    use octopus_mqtt::TopicName;

    use super::*;

    const KEY: &str = "$share/g/t";

    fn record(group: Option<&str>, qos: QoS, id: u64) -> Record {
        let message = Message::from_parts(&MessageParts {
            topic: TopicName::parse("t").expect("a topic"),
            payload: b"",
            qos,
            retain: false,
            properties: b"",
            expires_at: None,
            received_at: Moment(0),
            publisher: 0,
            id,
            is_again: false,
        });
        Record { group: group.map(Into::into), message }
    }

    fn plan(slice: &[(&str, Vec<Record>)], got: &[u64], nodes: &[&str], is_late: bool) -> Plan {
        let entry = || Entry::Group(KEY.into(), Presence::Online);
        let mut groups = Groups::new(nodes.iter().map(|&node| (node, entry())));
        let entries: Vec<_> =
            slice.iter().map(|(id, records)| ((*id).to_owned(), records.clone())).collect();
        let clock = Clock { unix_ms: 0, now: Moment(0) };
        Plan::new(&entries, &got.iter().copied().collect(), &mut groups, is_late, clock)
    }

    fn counts(plan: &Plan) -> Vec<(&str, usize)> {
        plan.moved.iter().map(|(node, records)| (&**node, records.len())).collect()
    }

    #[test]
    fn what_is_for_a_group_goes_to_its_nodes_in_turn() {
        let records = |first: u64| {
            let shared = (first..first + 2).map(|id| record(Some(KEY), QoS::ExactlyOnce, id));
            shared.chain([record(None, QoS::ExactlyOnce, 90)]).collect::<Vec<_>>()
        };
        let plan = plan(&[("1-0", records(1)), ("2-0", records(3))], &[], &["A:1", "B:1"], false);
        assert_eq!(counts(&plan), [("A:1", 2), ("B:1", 2)]);
        assert_eq!((plan.once, plan.upto.as_deref()), (vec![1, 2, 3, 4], Some("2-0")));
    }

    #[test]
    fn what_a_session_has_or_is_there_twice_goes_once() {
        let slice = [
            ("1-0", vec![record(Some(KEY), QoS::ExactlyOnce, 1)]),
            ("2-0", vec![record(Some(KEY), QoS::ExactlyOnce, 2)]),
            ("3-0", vec![record(Some(KEY), QoS::ExactlyOnce, 2)]),
        ];
        let plan = plan(&slice, &[1], &["A:1"], false);
        assert_eq!((counts(&plan), plan.upto.as_deref()), (vec![("A:1", 1)], Some("3-0")));
    }

    #[test]
    fn members_are_waited_for_and_not_without_end() {
        let slice = [
            ("1-0", vec![record(None, QoS::AtLeastOnce, 1)]),
            ("2-0", vec![record(Some(KEY), QoS::AtLeastOnce, 2)]),
        ];
        let early = plan(&slice, &[], &[], false);
        assert_eq!((early.upto.as_deref(), early.lost), (Some("1-0"), 0));
        let late = plan(&slice, &[], &[], true);
        assert_eq!((late.upto.as_deref(), late.lost), (Some("2-0"), 1));
    }

    #[test]
    fn a_member_online_goes_before_one_that_is_away() {
        let entry = |presence| Entry::Group(KEY.into(), presence);
        let nodes = [("A:1", entry(Presence::Offline)), ("B:1", entry(Presence::Online))];
        let mut groups = Groups::new(nodes.into_iter());
        assert_eq!(groups.pick(KEY), Some("B:1"));
        assert_eq!(groups.pick("other"), None);
    }
}
