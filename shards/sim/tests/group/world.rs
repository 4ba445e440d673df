//! A group of simulated nodes with a model of Redis between them, stepped from one seed: what
//! travels keeps its order on each way, and takes as long as the seed says.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use octopus_engine::{
    Adopted, Claim, Claimed, Envelope, Instant, Message, NodeIndex, Recorded, ShardId, Surrendered,
    home_shard,
};
use octopus_sim::{Node, NodeConfig, Random};

use crate::redis::Redis;

const SHARDS: u16 = 2;
/// Decides homes on a node, and numbers its messages.
fn seed_of(node: usize) -> u64 {
    7 + node as u64
}

/// What one node sends to all shards of another.
#[derive(Debug)]
enum Carried {
    Interest {
        filter: Box<str>,
        wanted: bool,
    },
    Message(Message),
    /// Say when all before it is taken in; the number is of [`Asked`].
    Ask(u64),
    /// It is.
    Known(u64),
}

/// A shard that waits until these nodes know what its node wants.
#[derive(Debug)]
struct Asked {
    node: usize,
    shard: ShardId,
    barrier: u64,
    left: BTreeSet<usize>,
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
    is_live: Vec<bool>,
    /// What shards told the hub and Redis has not taken yet, by node.
    told: Vec<VecDeque<(ShardId, Envelope)>>,
    /// Operations taken from each shard.
    counts: BTreeMap<(usize, ShardId), u64>,
    /// How many shards of a node want a filter.
    wanted: Vec<BTreeMap<Box<str>, u16>>,
    lanes: BTreeMap<(usize, usize), VecDeque<Carried>>,
    waiting: Vec<Waiting>,
    asked: BTreeMap<u64, Asked>,
    last_asked: u64,
    /// Hears nothing of the others until this is taken back.
    pub(crate) is_deaf: Option<usize>,
    /// Clients to whom something was passed on.
    calls: BTreeSet<String>,
}

impl World {
    pub(crate) fn new(seed: u64, count: usize) -> Self {
        let recorded = Recorded { sessions: true, subscriptions: true, messages: true };
        let config = NodeConfig { cluster: true, recorded, ..NodeConfig::new(SHARDS) };
        let new = |node| Node::new(&NodeConfig { seed: seed_of(node), ..config.clone() });
        let mut nodes: Vec<Node> = (0..count).map(new).collect();
        for node in &mut nodes {
            send_all(node, &Envelope::Lease { until: Instant(u64::MAX) });
        }
        Self {
            nodes,
            redis: Redis::default(),
            random: Random::new(seed),
            is_live: vec![true; count],
            told: (0..count).map(|_| VecDeque::new()).collect(),
            counts: BTreeMap::new(),
            wanted: vec![BTreeMap::new(); count],
            lanes: BTreeMap::new(),
            waiting: Vec::new(),
            asked: BTreeMap::new(),
            last_asked: 0,
            is_deaf: None,
            calls: BTreeSet::new(),
        }
    }

    /// Takes one thing somewhere on, or lets a little time pass.
    pub(crate) fn step(&mut self) {
        self.collect();
        let node = self.random.below(self.nodes.len());
        match self.random.below(8) {
            0..=2 => self.serve_redis(node),
            3..=5 => (0..4).for_each(|_| self.carry(node)),
            6 => self.pass_on(),
            _ => {
                let pause = Duration::from_micros(self.random.below(1500) as u64);
                self.nodes.iter_mut().for_each(|node| node.advance(pause));
            }
        }
        self.nodes.iter_mut().for_each(Node::settle);
    }

    pub(crate) fn run(&mut self, steps: usize) {
        (0..steps).for_each(|_| self.step());
    }

    /// The node is gone at once, with all it did not tell; the others take its sessions.
    pub(crate) fn kill(&mut self, node: usize) {
        self.collect();
        self.is_live[node] = false;
        self.told[node].clear();
        let asked: Vec<u64> = self.asked.keys().copied().collect();
        asked.into_iter().for_each(|number| self.known(number, node));
        self.waiting.retain(|waiting| waiting.node != node);
        let orphans: Vec<String> = self
            .redis
            .sessions
            .iter()
            .filter(|(_, kept)| kept.owner == Some(node))
            .map(|(client, _)| client.clone())
            .collect();
        let heirs: Vec<usize> =
            (0..self.nodes.len()).filter(|&other| self.is_live[other]).collect();
        for client in orphans {
            let heir = self.random.pick(&heirs);
            let (epoch, record) = self.redis.own(&client, heir);
            let adopted = Adopted {
                client_id: client.as_str().into(),
                epoch,
                record: record.unwrap_or_default(),
            };
            self.send_home(heir, &client, Envelope::Adopt(Box::new(adopted)));
        }
    }

    /// Whether nothing is under way.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.collect();
        self.told.iter().all(VecDeque::is_empty)
            && self.lanes.values().all(VecDeque::is_empty)
            && self.redis.passed.values().all(VecDeque::is_empty)
    }

    fn collect(&mut self) {
        for (node, told) in self.told.iter_mut().enumerate() {
            let outbox = std::mem::take(&mut self.nodes[node].hub.outbox);
            if self.is_live[node] {
                told.extend(outbox);
            }
        }
    }

    fn send_home(&mut self, node: usize, client: &str, envelope: Envelope) {
        let home = home_shard(client, SHARDS, seed_of(node));
        self.nodes[node].send_from_hub(home, envelope);
    }

    // --- what shards tell ---

    fn serve_redis(&mut self, node: usize) {
        let Some((shard, envelope)) = self.told[node].pop_front() else { return };
        match envelope {
            Envelope::Claim(claim) => self.claim(node, shard, claim),
            Envelope::Record(op) => {
                let (client_id, epoch) = (op.client_id.clone(), op.epoch);
                let is_passed = matches!(op.change, octopus_engine::Change::Passed { .. });
                let is_known = matches!(op.change, octopus_engine::Change::Known);
                let is_kept = self.redis.apply(node, *op);
                let count = self.counts.entry((node, shard)).or_default();
                *count += 1;
                let (count, mut refused) = (*count, Vec::new());
                if is_known && let Some((old, epoch)) = self.redis.take_from(&client_id) {
                    let client_id = client_id.clone();
                    self.send_home(old, &client_id.clone(), Envelope::Known { epoch, client_id });
                }
                if is_passed {
                    self.calls.insert(client_id.clone().into());
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
            Envelope::Fenced { barrier } => {
                let Some(asked) = self.asked.get(&barrier) else { return };
                let lane = self.lanes.entry((node, asked.node)).or_default();
                lane.push_back(Carried::Known(barrier));
            }
            Envelope::Bridge { message, nodes, receipt } => {
                for other in nodes.iter() {
                    let lane = self.lanes.entry((node, other.into())).or_default();
                    lane.push_back(Carried::Message(message.clone()));
                }
                if let Some(receipt) = receipt {
                    self.nodes[node].send_from_hub(shard, Envelope::Accepted { receipt });
                }
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
            return self.send_home(other, &client, Envelope::Evict { client_id, epoch });
        }
        let (epoch, record) = match owner == Some(node) && claim.is_here {
            true => (epoch, None),
            false => self.redis.own(&client, node),
        };
        let (connection, client_id) = (claim.connection, claim.client_id);
        let claimed = Claimed { connection, client_id, epoch, record };
        self.nodes[node].send_from_hub(shard, Envelope::Claimed(Box::new(claimed)));
        self.calls.insert(client);
    }

    fn surrendered(&mut self, node: usize, surrendered: Surrendered) {
        let Surrendered { client_id, epoch, record } = surrendered;
        let kept = self.redis.sessions.get_mut(&*client_id);
        if let Some(kept) = kept.filter(|kept| (kept.owner, kept.epoch) == (Some(node), epoch)) {
            (kept.owner, kept.handover) = (None, record);
            kept.from = Some((node, epoch));
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
        let others = (0..self.nodes.len()).filter(|&other| other != node && self.is_live[other]);
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
        if self.is_deaf == Some(to) {
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
            Carried::Message(message) => Envelope::Publish(message),
            Carried::Interest { filter, wanted } => {
                Envelope::NodeInterest { node: NodeIndex(from as u16), filter, wanted }
            }
        };
        send_all(&mut self.nodes[to], &envelope);
    }

    fn pass_on(&mut self) {
        let Some(client) = self.calls.pop_first() else { return };
        let owner = self.redis.sessions.get(&client).and_then(|kept| kept.owner);
        let Some(owner) = owner.filter(|&owner| self.is_live[owner]) else {
            // The next claim looks again.
            return;
        };
        let Some(items) = self.redis.passed.remove(&client) else { return };
        let envelope = Envelope::Pass { client_id: client.as_str().into(), items: items.into() };
        self.send_home(owner, &client, envelope);
    }
}

fn send_all(node: &mut Node, envelope: &Envelope) {
    for shard in 0..SHARDS {
        node.send_from_hub(ShardId(shard), envelope.clone());
    }
    node.settle();
}
