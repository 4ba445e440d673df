//! A group of simulated nodes with a model of Redis between them, stepped from one seed: what
//! travels keeps its order on each way, and takes as long as the seed says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use octopus_engine::{
    Adopted, Claim, Claimed, Envelope, Message, NodeIndex, Recorded, ShardId, Surrendered,
    home_shard,
};
use octopus_mqtt::ReasonCode;
use octopus_sim::{Node, NodeConfig, Random};

use crate::estate::Round;
use crate::redis::Redis;

pub(crate) const SHARDS: u16 = 2;
/// Decides homes on a node, and numbers its messages.
fn seed_of(node: usize) -> u64 {
    7 + node as u64
}

/// How long a node's sessions are its own.
const LEASE: Duration = Duration::from_secs(2);

/// What one node tells another.
#[derive(Debug)]
enum Carried {
    Interest {
        filter: Box<str>,
        wanted: bool,
    },
    /// Say when all before it is taken in; the number is of [`Asked`].
    Ask(u64),
    /// It is.
    Known(u64),
}

/// The numbers of [`Asked`] are above those of all fences behind an inbox.
const ASKED_FROM: u64 = 1 << 32;

/// A shard that waits until these nodes know what its node wants.
#[derive(Debug)]
struct Asked {
    node: usize,
    shard: ShardId,
    barrier: u64,
    left: BTreeSet<usize>,
}

/// A way that keeps its order.
type Way<T> = VecDeque<T>;

/// What stands in an inbox.
#[derive(Clone, Debug)]
pub(crate) enum Inboxed {
    Message(Message),
    /// Every node knows where this client's session went that was here under this epoch.
    Known(u64, Box<str>),
}

/// A node's inbox in Redis: what it was sent and has not noted as taken in.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    entries: VecDeque<Inboxed>,
    /// The number of the first of them.
    pub(crate) first: u64,
    /// The next one the node reads.
    next: u64,
    /// Answers to the fence behind each one read that are still to come.
    fences: BTreeMap<u64, u16>,
    /// Everything before is safe with the node.
    taken: u64,
}

impl Inbox {
    pub(crate) fn get(&self, number: u64) -> Option<Inboxed> {
        self.entries.get((number - self.first) as usize).cloned()
    }
}

/// A claim that waits for a live owner to hand over.
#[derive(Debug)]
struct Waiting {
    node: usize,
    shard: ShardId,
    claim: Box<Claim>,
    /// Owner and epoch that were asked.
    asked: (usize, u64),
}

pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) redis: Redis,
    pub(crate) random: Random,
    pub(crate) is_live: Vec<bool>,
    paused: Option<usize>,
    /// What shards told the hub and Redis has not taken yet, by node: of messages and who wants
    /// which, and of sessions. Neither waits for the other.
    told: Vec<Way<(ShardId, Envelope)>>,
    recorded: Vec<Way<(ShardId, Envelope)>>,
    pub(crate) inboxes: Vec<Inbox>,
    pub(crate) rounds: Vec<Round>,
    pub(crate) last_round: u64,
    /// What others want of a node that does not look.
    wishes: Vec<(String, Envelope)>,
    /// Sessions of dead nodes that nobody has taken.
    orphans: Vec<String>,
    /// Operations taken from each shard.
    counts: BTreeMap<(usize, ShardId), u64>,
    /// How many shards of a node want a filter.
    wanted: Vec<BTreeMap<Box<str>, u16>>,
    lanes: BTreeMap<(usize, usize), Way<Carried>>,
    waiting: Vec<Waiting>,
    asked: BTreeMap<u64, Asked>,
    last_asked: u64,
    /// The second hears nothing of the first until this is taken back.
    pub(crate) is_deaf: Option<(usize, usize)>,
    /// Clients to whom something was passed on; `true`: whose nodes want to know that it is all.
    calls: BTreeMap<String, bool>,
    /// What Redis does takes many times as long, and what is read in it so many percent longer yet.
    pub(crate) slow: Option<u32>,
}

impl World {
    pub(crate) fn new(seed: u64, count: usize) -> Self {
        let recorded = Recorded { sessions: true, subscriptions: true, messages: true };
        let config = NodeConfig { cluster: true, recorded, ..NodeConfig::new(SHARDS) };
        let new = |node| Node::new(&NodeConfig { seed: seed_of(node), ..config.clone() });
        let mut nodes: Vec<Node> = (0..count).map(new).collect();
        nodes.iter_mut().for_each(tend);
        Self {
            nodes,
            redis: Redis::default(),
            random: Random::new(seed),
            is_live: vec![true; count],
            paused: None,
            told: (0..count).map(|_| Way::default()).collect(),
            recorded: (0..count).map(|_| Way::default()).collect(),
            inboxes: (0..count).map(|_| Inbox::default()).collect(),
            rounds: Vec::new(),
            last_round: 0,
            wishes: Vec::new(),
            orphans: Vec::new(),
            counts: BTreeMap::new(),
            wanted: vec![BTreeMap::new(); count],
            lanes: (0..count * count).map(|n| ((n / count, n % count), Way::default())).collect(),
            waiting: Vec::new(),
            asked: BTreeMap::new(),
            last_asked: ASKED_FROM,
            is_deaf: None,
            calls: BTreeMap::new(),
            slow: None,
        }
    }

    /// Takes one thing somewhere on, or lets a little time pass.
    pub(crate) fn step(&mut self) {
        self.collect();
        let node = self.random.below(self.nodes.len());
        match self.random.below(12) {
            _ if !self.is_up(node) => self.force(node),
            0..=3 => self.serve_redis(node),
            4..=6 => (0..4).for_each(|_| self.carry(node)),
            7..=9 if self.slow.is_some_and(|percent| self.random.chance(percent)) => {}
            7 => self.pass_on(),
            8 => self.read_inbox(node),
            9 => self.read_left(),
            10 => self.adopt(),
            _ => {
                let most_us = if self.slow.is_some() { 40_000 } else { 1500 };
                let pause = Duration::from_micros(self.random.below(most_us) as u64);
                self.each_up(|node| {
                    node.advance(pause);
                    tend(node);
                });
            }
        }
        self.each_up(Node::settle);
    }

    fn each_up(&mut self, mut what: impl FnMut(&mut Node)) {
        for index in 0..self.nodes.len() {
            if self.is_up(index) {
                what(&mut self.nodes[index]);
            }
        }
    }

    /// It lives and does not stand still.
    pub(crate) fn is_up(&self, node: usize) -> bool {
        self.is_live[node] && self.paused != Some(node)
    }

    pub(crate) fn run(&mut self, steps: usize) {
        (0..steps).for_each(|_| self.step());
    }

    /// The node is gone at once, with all it did not tell; the others take its sessions.
    pub(crate) fn kill(&mut self, node: usize) {
        self.collect();
        self.is_live[node] = false;
        self.told[node] = Way::default();
        self.recorded[node] = Way::default();
        self.waits_for_no_longer(node);
        self.waiting.retain(|waiting| waiting.node != node);
        let owned = self.redis.sessions.iter().filter(|(_, kept)| kept.owner == Some(node));
        self.orphans.extend(owned.map(|(client, _)| client.clone()));
    }

    /// One session of a dead node goes to a live one, unless its client was faster.
    fn adopt(&mut self) {
        let Some(client) = self.orphans.pop() else { return };
        let owner = self.redis.sessions.get(&client).and_then(|kept| kept.owner);
        if owner.is_none_or(|owner| self.is_live[owner]) {
            return;
        }
        let heirs: Vec<usize> = (0..self.nodes.len()).filter(|&other| self.is_up(other)).collect();
        let heir = self.random.pick(&heirs);
        let (epoch, record) = self.redis.own(&client, heir);
        let client_id = client.as_str().into();
        let adopted = Adopted { client_id, epoch, record: record.unwrap_or_default() };
        self.send_home(heir, &client, Envelope::Adopt(Box::new(adopted)));
        self.call(client, false);
    }

    /// The node does nothing until [`Self::resume`]; others may take its sessions.
    pub(crate) fn pause(&mut self, node: usize) {
        self.collect();
        self.paused = Some(node);
        self.waits_for_no_longer(node);
    }

    /// The node's lease is out: whoever asked what it knows need not wait for it.
    fn waits_for_no_longer(&mut self, node: usize) {
        let asked: Vec<u64> = self.asked.keys().copied().collect();
        asked.into_iter().for_each(|number| self.known(number, node));
    }

    /// It goes on where it was, much later by its clock. What it had not written of what its
    /// clients published is refused, as they are let go; it learns what others wanted of it.
    pub(crate) fn resume(&mut self) {
        let Some(node) = self.paused.take() else { return };
        self.nodes[node].advance(LEASE * 2);
        for (shard, envelope) in &mut self.told[node] {
            if let Envelope::Bridge { receipt: Some(receipt), nodes, .. } = envelope {
                let (receipt, reason) = (*receipt, ReasonCode::QuotaExceeded);
                *nodes = octopus_engine::PeerSet::default();
                self.nodes[node].send_from_hub(*shard, Envelope::Refused { receipt, reason });
            }
        }
        if self.random.chance(50) {
            self.read_inbox(node);
        }
        for (client, envelope) in std::mem::take(&mut self.wishes) {
            self.send_home(node, &client, envelope);
        }
        tend(&mut self.nodes[node]);
    }

    /// Takes the sessions that others want of a node that stands still.
    fn force(&mut self, node: usize) {
        if self.paused != Some(node) {
            return;
        }
        let is_its = |waiting: &Waiting| waiting.asked.0 == node;
        let (its, others) = std::mem::take(&mut self.waiting).into_iter().partition(is_its);
        self.waiting = others;
        let its: Vec<Waiting> = its;
        for Waiting { node: to, shard, claim, asked } in its {
            let client_id = claim.client_id.clone();
            let lost = Envelope::Disown { client_id: client_id.clone(), epoch: asked.1 };
            self.wishes.push((client_id.into(), lost));
            self.claimed(to, shard, *claim, None);
        }
    }

    /// Whether nothing is under way.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.collect();
        let is_read =
            |(node, inbox): (usize, &Inbox)| !self.is_live[node] || inbox.entries.is_empty();
        self.told.iter().chain(&self.recorded).all(|told| told.is_empty())
            && self.inboxes.iter().enumerate().all(is_read)
            && self.rounds.is_empty()
            && self.redis.passed.values().all(VecDeque::is_empty)
            && self.redis.taken.values().all(VecDeque::is_empty)
    }

    fn collect(&mut self) {
        for (index, node) in self.nodes.iter_mut().enumerate() {
            let outbox = std::mem::take(&mut node.hub.outbox);
            for item in outbox.into_iter().filter(|_| self.is_live[index]) {
                let is_of_a_session = matches!(
                    item.1,
                    Envelope::Claim(_) | Envelope::Record(_) | Envelope::Surrendered(_)
                );
                let way = if is_of_a_session { &mut self.recorded } else { &mut self.told };
                way[index].push_back(item);
            }
        }
    }

    fn send_home(&mut self, node: usize, client: &str, envelope: Envelope) {
        let home = home_shard(client, SHARDS, seed_of(node));
        self.nodes[node].send_from_hub(home, envelope);
    }

    // --- what shards tell ---

    fn serve_redis(&mut self, node: usize) {
        let way = if self.random.chance(50) { &mut self.recorded } else { &mut self.told };
        let Some((shard, envelope)) = way[node].pop_front() else { return };
        match envelope {
            Envelope::Claim(claim) => self.claim(node, shard, claim),
            Envelope::Record(op) => {
                let (client_id, epoch) = (op.client_id.clone(), op.epoch);
                let is_passed = matches!(op.change, octopus_engine::Change::Passed { .. });
                let is_known = matches!(op.change, octopus_engine::Change::Known);
                let is_untold =
                    matches!(op.change, octopus_engine::Change::Arrived { is_told: false });
                if self.redis.is_of(&client_id, node, epoch) {
                    for (old, epoch) in self.redis.take_had(&client_id, &op.change) {
                        let known = Inboxed::Known(epoch, client_id.clone());
                        self.inboxes[old].entries.push_back(known);
                    }
                }
                let is_kept = self.redis.apply(node, *op);
                let count = self.counts.entry((node, shard)).or_default();
                *count += 1;
                let (count, mut refused) = (*count, Vec::new());
                if is_known && let Some((old, epoch)) = self.redis.take_from(&client_id) {
                    let known = Inboxed::Known(epoch, client_id.clone());
                    self.inboxes[old].entries.push_back(known);
                }
                if is_passed || is_kept && is_untold {
                    self.call(client_id.clone().into(), is_untold);
                }
                if !is_kept {
                    refused.push(count);
                    let envelope = Envelope::Disown { client_id, epoch };
                    self.nodes[node].send_from_hub(shard, envelope);
                }
                self.nodes[node].send_from_hub(shard, Envelope::Recorded { count, refused });
            }
            Envelope::Surrendered(surrendered) => self.surrendered(node, *surrendered),
            Envelope::Interest { filter, wanted } => self.interest(node, filter, wanted),
            Envelope::Fence { barrier } => self.ask(node, shard, barrier),
            // Its shards were settled when it was asked, and all they had told is served.
            Envelope::Fenced { barrier } if barrier > ASKED_FROM => {
                let Some(asked) = self.asked.get(&barrier) else { return };
                let lane = self.lanes.entry((node, asked.node)).or_default();
                lane.push_back(Carried::Known(barrier));
            }
            Envelope::Bridge { message, nodes, receipt } => {
                for other in nodes.iter() {
                    let entry = Inboxed::Message(message.clone());
                    self.inboxes[usize::from(other)].entries.push_back(entry);
                }
                if let Some(receipt) = receipt {
                    self.nodes[node].send_from_hub(shard, Envelope::Accepted { receipt });
                }
            }
            Envelope::Fenced { barrier } => self.fenced(node, barrier),
            Envelope::Spread { round } => self.spread(node, round),
            Envelope::Owed { node: left } => {
                self.begin_round(node, left.parse().expect("a node's number"));
            }
            _ => {}
        }
    }

    fn claim(&mut self, node: usize, shard: ShardId, claim: Box<Claim>) {
        let client = String::from(claim.client_id.clone());
        let kept = self.redis.sessions.get(&client);
        let owner = kept.and_then(|kept| kept.owner);
        let epoch = kept.map_or(0, |kept| kept.epoch);
        if let Some(other) = owner.filter(|&other| other != node && self.is_live[other]) {
            let client_id = claim.client_id.clone();
            self.waiting.push(Waiting { node, shard, claim, asked: (other, epoch) });
            let envelope = Envelope::Evict { client_id, epoch };
            if self.paused == Some(other) {
                return self.wishes.push((client, envelope));
            }
            return self.send_home(other, &client, envelope);
        }
        let is_here = owner == Some(node) && claim.is_here;
        self.claimed(node, shard, *claim, is_here.then_some(epoch));
    }

    /// - `epoch`: of the session, if `node` has it in memory.
    fn claimed(&mut self, node: usize, shard: ShardId, claim: Claim, epoch: Option<u64>) {
        let client = String::from(claim.client_id.clone());
        let (epoch, record) = match epoch {
            Some(epoch) => (epoch, None),
            None => self.redis.own(&client, node),
        };
        let (connection, client_id) = (claim.connection, claim.client_id);
        let claimed = Claimed { connection, client_id, epoch, record };
        self.nodes[node].send_from_hub(shard, Envelope::Claimed(Box::new(claimed)));
        self.call(client, false);
    }

    fn surrendered(&mut self, node: usize, surrendered: Surrendered) {
        let Surrendered { client_id, epoch, record } = surrendered;
        let kept = self.redis.sessions.get_mut(&*client_id);
        if let Some(kept) = kept.filter(|kept| (kept.owner, kept.epoch) == (Some(node), epoch)) {
            (kept.owner, kept.handover) = (None, record);
            (kept.from, kept.passing) = (Some((node, epoch)), Some(node));
        }
        let (freed, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|w| w.claim.client_id == client_id && w.asked == (node, epoch));
        self.waiting = waiting;
        let freed: Vec<Waiting> = freed;
        for Waiting { node, shard, claim, .. } in freed {
            self.claim(node, shard, claim);
        }
    }

    fn interest(&mut self, node: usize, filter: Box<str>, wanted: bool) {
        let count = self.wanted[node].entry(filter.clone()).or_default();
        *count = if wanted { *count + 1 } else { count.saturating_sub(1) };
        if *count != u16::from(wanted) {
            return;
        }
        for other in (0..self.nodes.len()).filter(|&other| other != node) {
            let lane = self.lanes.entry((node, other)).or_default();
            lane.push_back(Carried::Interest { filter: filter.clone(), wanted });
        }
    }

    /// A shard wants to know when the others know what was told before.
    fn ask(&mut self, node: usize, shard: ShardId, barrier: u64) {
        self.last_asked += 1;
        let number = self.last_asked;
        let others = (0..self.nodes.len()).filter(|&other| other != node && self.is_up(other));
        let left: BTreeSet<usize> = others.collect();
        for &other in &left {
            self.lanes.entry((node, other)).or_default().push_back(Carried::Ask(number));
        }
        self.asked.insert(number, Asked { node, shard, barrier, left });
        self.known(number, node);
    }

    /// `by` has taken in what was asked about, or is dead.
    fn known(&mut self, number: u64, by: usize) {
        let Some(asked) = self.asked.get_mut(&number) else { return };
        asked.left.remove(&by);
        if asked.left.is_empty()
            && let Some(Asked { node, shard, barrier, .. }) = self.asked.remove(&number)
        {
            self.nodes[node].send_from_hub(shard, Envelope::Fenced { barrier });
        }
    }

    // --- what travels between nodes ---

    fn carry(&mut self, to: usize) {
        let from = self.random.below(self.nodes.len());
        if self.is_deaf == Some((from, to)) {
            return;
        }
        let Some(lane) = self.lanes.get_mut(&(from, to)) else { return };
        let Some(carried) = lane.pop_front() else { return };
        if !self.is_live[to] {
            if let Carried::Ask(number) = carried {
                self.known(number, to);
            }
            return;
        }
        let envelope = match carried {
            Carried::Ask(number) => {
                // What its shards told before is behind them; the answer follows it.
                self.nodes[to].settle();
                self.collect();
                let answer = Envelope::Fenced { barrier: number };
                return self.told[to].push_back((ShardId(0), answer));
            }
            Carried::Known(number) => return self.known(number, from),
            Carried::Interest { filter, wanted } => {
                Envelope::NodeInterest { node: NodeIndex(from as u16), filter, wanted }
            }
        };
        send_all(&mut self.nodes[to], &envelope);
    }

    fn read_inbox(&mut self, node: usize) {
        for _ in 0..self.random.below(6) {
            let inbox = &mut self.inboxes[node];
            let Some(entry) = inbox.get(inbox.next) else { break };
            inbox.next += 1;
            let barrier = inbox.next;
            inbox.fences.insert(barrier, SHARDS);
            match entry {
                Inboxed::Message(message) => {
                    send_all(&mut self.nodes[node], &Envelope::Publish(message));
                }
                Inboxed::Known(epoch, client_id) => {
                    let known = Envelope::Known { epoch, client_id: client_id.clone() };
                    self.send_home(node, &client_id, known);
                }
            }
            send_all(&mut self.nodes[node], &Envelope::Fence { barrier });
        }
        self.trim(node);
    }

    fn fenced(&mut self, node: usize, barrier: u64) {
        let inbox = &mut self.inboxes[node];
        let left = inbox.fences.get_mut(&barrier).expect("a fence of ours");
        *left -= 1;
        if *left == 0 {
            inbox.fences.remove(&barrier);
            inbox.taken = inbox.taken.max(barrier);
        }
        self.trim(node);
    }

    /// Forgets what the node has taken in, unless somebody else needs it.
    fn trim(&mut self, node: usize) {
        if self.redis.is_owed(node) || !self.is_up(node) {
            return;
        }
        let inbox = &mut self.inboxes[node];
        if inbox.first < inbox.taken {
            inbox.entries.drain(..(inbox.taken - inbox.first) as usize);
            inbox.first = inbox.taken;
            let barrier = inbox.taken;
            send_all(&mut self.nodes[node], &Envelope::Trimmed { barrier });
        }
    }

    fn call(&mut self, client: String, is_all: bool) {
        *self.calls.entry(client).or_default() |= is_all;
    }

    fn pass_on(&mut self) {
        let Some((client, is_all)) = self.calls.pop_first() else { return };
        let owner = self.redis.sessions.get(&client).and_then(|kept| kept.owner);
        let Some(owner) = owner.filter(|&owner| self.is_live[owner]) else {
            // The next claim looks again.
            return;
        };
        let items = self.redis.take_passed(&client);
        let envelope = Envelope::Pass { client_id: client.as_str().into(), items, is_all };
        self.send_home(owner, &client, envelope);
    }
}

/// The node looks what others want, and has its sessions for a while longer.
fn tend(node: &mut Node) {
    let until = node.now().after(LEASE);
    send_all(node, &Envelope::Lease { until });
}

pub(crate) fn send_all(node: &mut Node, envelope: &Envelope) {
    for shard in 0..SHARDS {
        node.send_from_hub(ShardId(shard), envelope.clone());
    }
    node.settle();
}
