//! The bridge itself: takes from the shards what other nodes must get, and from the other
//! nodes what the shards must get. One task that never waits for Redis.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use octopus_engine::{
    Envelope, Message, NodeIndex, PeerSet, Presence, ReceiptId, ShardId, home_shard,
};
use octopus_mqtt::{QoS, ReasonCode};
use octopus_runtime::HubSender;
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
};

use super::{
    Heed, Joined,
    bequest::Uncertain,
    compat::Outside,
    counters::Counters,
    known::{Known, Mark},
    left::Round,
    link::LinkState,
    outbox::{Lane, Load, Numbers, Parcel},
    retained::Pending,
    rules::{Entry, Indexes, Receipts, Seen, Wanted},
    wire::{self, Clock, Control},
    work::{Event, How, Op, Work},
};
use crate::config::{Clustering, WhenAway};

/// Batches of a stream that the shards may have before more are read.
pub(super) const READ_AHEAD: usize = 8;
/// How often what waits is looked through for what is over.
const TICK: Duration = Duration::from_millis(250);
/// How long a message is kept whose publisher has its acknowledgement, or never gets one.
const KEEP_TIME: Duration = Duration::from_secs(24 * 3600);
/// How long, and for how many entries, what was taken from the inbox is not noted in Redis.
const NOTE_INTERVAL: Duration = Duration::from_millis(100);
const NOTE_COUNT_MAX: usize = 512;
/// Envelopes taken from the shards before what they led to is written.
const TURN_COUNT: usize = 1024;

/// Another node, as the bridge knows it.
pub(super) struct Node {
    pub(super) index: NodeIndex,
    pub(super) epoch: u64,
    pub(super) lane: Lane,
    /// Epoch and number of the last change of its interest that is in force here.
    pub(super) known: Option<Mark>,
    pub(super) entries: HashSet<Entry>,
    /// Changes that came while its interest is being loaded.
    pub(super) later: Vec<Told>,
    pub(super) is_loading: bool,
    /// Fast frames are on their way to it; see [`Bridge::spread`].
    pub(super) is_spreading: bool,
    /// Its lease holds, as far as is known.
    pub(super) is_live: bool,
    /// Since when it is not in the list of nodes.
    pub(super) missing_since: Option<Instant>,
}

impl Node {
    /// What its members of a shared group are like. Those of a node that is not live come last.
    pub(super) fn presence(&self, key: &str) -> Option<Presence> {
        let has = |presence| self.entries.contains(&Entry::Group(key.into(), presence));
        let found = [Presence::Online, Presence::Offline].into_iter().find(|&p| has(p))?;
        Some(if self.is_live { found } else { Presence::Offline })
    }
}

/// One change of a node's interest, as it told it.
pub(super) struct Told {
    pub(super) epoch: u64,
    pub(super) number: u64,
    /// Entries as text; `true`: wanted.
    pub(super) changes: Vec<(Box<str>, bool)>,
}

/// A batch the shards are taking in.
struct Fence {
    barrier: u64,
    left: u16,
    then: After,
}

/// What is to be done when the shards have taken something in.
pub(super) enum After {
    /// More may be read.
    Permit(Arc<Semaphore>),
    /// The shards have heard what the store told them before it asked.
    Heard(Heed),
    Inbox(Taken),
    /// A message for a shared group was taken in that another node had no use for. The home
    /// shard gives it to a member: that has it for certain when it is asked once more.
    Regrouped {
        receipt: Option<u64>,
        again: bool,
    },
    /// What these nodes want, up to these marks. Of a shared group the home shard tells the
    /// others: they have it for certain when they are asked once more (`again`).
    Told {
        marks: Vec<(String, Mark)>,
        again: bool,
    },
}

/// What was taken in of the inbox.
#[derive(Default)]
pub(super) struct Taken {
    /// The fence behind it.
    pub(super) barrier: u64,
    /// Its last entry.
    pub(super) upto: String,
    /// How far the lanes of its senders were seen with it.
    pub(super) seen: HashMap<String, Seen>,
    /// One of its messages must not come again.
    pub(super) has_qos2: bool,
    /// Home shards of shared groups give some of it to members: all shards are asked once more.
    pub(super) again: bool,
    /// They were.
    pub(super) is_second: bool,
    pub(super) count: usize,
}

/// See the module. Made before the shards, run beside them.
pub struct Bridge {
    pub(super) sender: HubSender,
    pub(super) shards: u16,
    seed: u64,
    pub(super) config: Clustering,
    pub(super) work: Work,
    events: mpsc::Receiver<Event>,
    /// The store's, who wants to know when the shards have heard it.
    heeds: mpsc::Receiver<Heed>,
    from_shards: mpsc::UnboundedReceiver<(ShardId, Envelope)>,
    pub(super) batches: mpsc::Sender<Vec<Op>>,
    pub(super) is_writing: bool,
    /// Batches that took all along that waited for other nodes.
    pub(super) batches_begun: u64,
    /// The last one is such a batch.
    pub(super) is_whole: bool,
    /// The last of them that Redis took as it was.
    pub(super) batch_written: u64,
    pub(super) link: LinkState,
    pub(super) wanted: Wanted,
    pub(super) changes: Vec<(Entry, bool)>,
    pub(super) interest_last: u64,
    pub(super) nodes: HashMap<String, Node>,
    /// Of the lanes to nodes that were in the group.
    pub(super) numbers: HashMap<String, Numbers>,
    pub(super) by_index: Vec<Option<String>>,
    pub(super) indexes: Indexes,
    pub(super) receipts: Receipts,
    pub(super) load: Load,
    /// What is written before the lanes: what an outage left, retained messages, housekeeping.
    pub(super) waiting: VecDeque<Op>,
    pub(super) pending: Pending,
    pub(super) place: Option<String>,
    pub(super) retained_last: u64,
    /// A change of the retained messages was given up.
    pub(super) has_overflowed: bool,
    pub(super) fast_seen: HashMap<String, Seen>,
    pub(super) durable_seen: HashMap<String, Seen>,
    /// The durable lanes are not written before the next tick.
    pub(super) holds_durable: bool,
    /// Redis has refused messages, and taken none since.
    pub(super) has_put_back: bool,
    /// The last trimming of the inbox that was put off.
    pub(super) untrimmed: Option<Op>,
    /// Batches of the inbox of which the shards are still to be asked once more.
    again_count: usize,
    /// Since when nodes are not live.
    pub(super) dead_since: HashMap<String, Instant>,
    /// Dead nodes whose inboxes are being gone through for shared groups.
    pub(super) bequeathing: HashSet<String>,
    pub(super) moves: u64,
    /// What of this node's own inbox went to others, known under this epoch.
    pub(super) moved_epoch: u64,
    pub(super) moved_upto: Option<String>,
    pub(super) uncertain: Uncertain,
    /// Nodes in whose inboxes there is something for sessions of this node.
    pub(super) owed: BTreeSet<Box<str>>,
    /// Inboxes that are being gone through.
    pub(super) rounds: HashMap<u64, Round>,
    pub(super) last_round: u64,
    pub(super) left_permits: Arc<Semaphore>,
    /// Nodes that changed what they want since the shards were last asked to take it in.
    pub(super) told: HashSet<String>,
    /// Shared groups are among it.
    pub(super) told_group: bool,
    pub(super) known: Known,
    /// Told when this node may let clients in; `None` then.
    pub(super) ready: Option<oneshot::Sender<()>>,
    pub(super) is_listening: bool,
    /// The same of the channel of what spreads; `true` where nothing does.
    pub(super) is_listening_fast: bool,
    /// Every other node knows this one.
    pub(super) is_known: bool,
    /// What is written behind the lanes.
    pub(super) answers: Vec<Op>,
    /// Until where the log is to be read before this node knows what is retained; `Some(None)`:
    /// that is being found out.
    pub(super) behind: Option<Option<String>>,
    /// What was taken in; `count` of it since it was last noted in Redis.
    taken: Taken,
    fences: VecDeque<Fence>,
    last_barrier: u64,
    pub(super) inbox_permits: Arc<Semaphore>,
    pub(super) log_permits: Arc<Semaphore>,
    pub(super) log_reader: Option<JoinHandle<()>>,
    /// Topics to keep while the shards' retained messages are gone through; `None` in it:
    /// everything is to be given to Redis.
    pub(super) sweep: Option<Option<HashSet<String>>>,
    to_shards: Vec<Vec<Envelope>>,
    pub(super) outside: Outside,
    pub(super) counters: Counters,
    pub(super) measured_at: Instant,
}

impl Bridge {
    pub fn new(
        joined: Joined,
        sender: HubSender,
        shards: u16,
        seed: u64,
        from_shards: mpsc::UnboundedReceiver<(ShardId, Envelope)>,
    ) -> Self {
        let (batches, batches_out) = mpsc::channel(1);
        let Joined { config, work, events, heeds: _, heeds_out: heeds, catch, counters } = joined;
        let takes_all = !config.interest_routing;
        let is_listening_fast = !work.link.is_spread();
        tokio::spawn(work.clone().write(batches_out));
        let mut bridge = Self {
            sender,
            shards,
            seed,
            config,
            work,
            events,
            heeds,
            from_shards,
            batches,
            is_writing: false,
            batches_begun: 0,
            is_whole: false,
            batch_written: 0,
            link: LinkState::Away,
            wanted: Wanted::new(seed, takes_all),
            changes: Vec::new(),
            interest_last: 0,
            nodes: HashMap::new(),
            numbers: HashMap::new(),
            by_index: Vec::new(),
            indexes: Indexes::default(),
            receipts: Receipts::default(),
            load: Load::default(),
            waiting: VecDeque::new(),
            pending: Pending::default(),
            place: None,
            retained_last: 0,
            has_overflowed: false,
            fast_seen: HashMap::new(),
            durable_seen: HashMap::new(),
            untrimmed: None,
            holds_durable: false,
            again_count: 0,
            dead_since: HashMap::new(),
            bequeathing: HashSet::new(),
            moves: 0,
            moved_epoch: 0,
            moved_upto: None,
            uncertain: Uncertain::new(),
            has_put_back: false,
            owed: BTreeSet::new(),
            rounds: HashMap::new(),
            last_round: 0,
            left_permits: Arc::new(Semaphore::new(READ_AHEAD)),
            told: HashSet::new(),
            told_group: false,
            known: Known::default(),
            ready: None,
            is_listening: false,
            is_listening_fast,
            is_known: false,
            answers: Vec::new(),
            behind: None,
            taken: Taken::default(),
            fences: VecDeque::new(),
            last_barrier: 0,
            inbox_permits: Arc::new(Semaphore::new(READ_AHEAD)),
            log_permits: Arc::new(Semaphore::new(READ_AHEAD)),
            log_reader: None,
            sweep: None,
            to_shards: (0..shards).map(|_| Vec::new()).collect(),
            outside: Outside::default(),
            counters,
            measured_at: Instant::now(),
        };
        bridge.moved_epoch = bridge.epoch();
        bridge.open_outside();
        if let Some(catch) = catch {
            bridge.caught(catch);
        }
        bridge.hand_over();
        bridge
    }

    /// Told when this node's shards know what every other node wants, and Redis takes messages of
    /// theirs, which must be before a client of theirs publishes.
    pub fn ready(&mut self) -> oneshot::Receiver<()> {
        let (sender, ready) = oneshot::channel();
        self.ready = Some(sender);
        ready
    }

    /// Runs until the hub has ended.
    pub async fn run(mut self) {
        self.spawn_tasks();
        let mut tick = tokio::time::interval(TICK);
        let mut note = tokio::time::interval(NOTE_INTERVAL);
        let mut kept_until = self.work.kept_until.subscribe();
        let mut taken = Vec::new();
        loop {
            tokio::select! {
                count = self.from_shards.recv_many(&mut taken, TURN_COUNT) => {
                    if count == 0 {
                        return;
                    }
                    for (shard, envelope) in taken.drain(..) {
                        self.take(shard, envelope);
                    }
                }
                event = self.events.recv() => match event {
                    Some(event) => self.on(event),
                    None => return,
                },
                Some(told) = self.heeds.recv() => self.fence(After::Heard(told)),
                _ = tick.tick() => self.tick(),
                _ = note.tick(), if self.has_taken() => self.note_taken(),
                // This node is awake perhaps.
                Ok(()) = kept_until.changed(), if self.ready.is_some() => {}
            }
            self.fence_told();
            self.answer_asked();
            self.spread();
            self.write();
            self.counters.set_waiting(self.load.count, self.load.bytes);
            self.hand_over();
            self.say_ready();
        }
    }

    fn spawn_tasks(&self) {
        let work = &self.work;
        let name = work.members.name();
        let mut own = vec![work.keys.control(), work.keys.known(name)];
        match work.link.is_spread() {
            true => drop(tokio::spawn(work.clone().listen_fast())),
            false => own.push(work.keys.fast(name)),
        }
        let outside = match self.config.compat.enable {
            true => vec![work.keys.old_publish(), work.keys.old_close()],
            false => Vec::new(),
        };
        tokio::spawn(work.clone().follow_link());
        tokio::spawn(work.clone().keep_lease(self.config.lease));
        tokio::spawn(work.clone().listen(own, outside));
        let (inbox, permits) = (work.keys.inbox(name), self.inbox_permits.clone());
        tokio::spawn(work.clone().read(inbox, "0-0".to_owned(), permits, Event::Inbox));
    }

    // --- from the shards ---

    fn take(&mut self, shard: ShardId, envelope: Envelope) {
        match envelope {
            Envelope::Interest { filter, wanted } => {
                let told = self.wanted.change(shard, &filter, wanted);
                self.changes.extend(told.map(|entry| (entry, wanted)));
            }
            Envelope::GroupState { key, presence } => {
                let (before, after) = self.wanted.change_group(&key, presence);
                self.changes.extend(after.map(|entry| (entry, true)));
                self.changes.extend(before.map(|entry| (entry, false)));
            }
            Envelope::Bridge { message, nodes, receipt } => {
                let mut nodes = nodes;
                self.send_outside(&message, &mut nodes);
                self.send(&message, None, &nodes, receipt);
            }
            Envelope::BridgeGroup { node, key, message, receipt } => {
                let mut nodes = PeerSet::default();
                nodes.insert(node.0);
                self.send(&message, Some(&key), &nodes, receipt);
            }
            Envelope::Retained { message, receipt } => self.retain(&message, How::Set, receipt),
            Envelope::RetainedFound(found) => self.found_retained(shard, *found),
            Envelope::Fence { barrier } => self.asked(shard, barrier),
            Envelope::Fenced { barrier } => self.fenced(barrier),
            Envelope::Owed { node } => self.owe(node),
            Envelope::Spread { round } => self.spread_of(round),
            Envelope::LetGo { receipts } => self.void(shard, &receipts),
            Envelope::Kick { client, reason } => {
                self.tell(&Control::Kick { client: client.clone(), reason });
                self.kick_predecessors(&client);
            }
            other => tracing::error!(?shard, envelope = ?other, "not for the bridge"),
        }
    }

    /// Puts a message into the lanes of `nodes`.
    fn send(
        &mut self,
        message: &Message,
        group: Option<&str>,
        nodes: &PeerSet,
        receipt: Option<ReceiptId>,
    ) {
        let mut record = Vec::with_capacity(64 + message.size());
        wire::put_message(&mut record, message, group, self.clock());
        let record = Bytes::from(record);
        let copies = nodes.iter().count();
        if copies == 0 {
            // It was for those outside only, who are promised nothing.
            receipt.into_iter().for_each(|receipt| self.answer(receipt, None));
            return;
        }
        let is_fast = message.qos() == QoS::AtMostOnce;
        let is_away = !self.link.is_up();
        if self.is_overloaded() || is_fast && (is_away || self.is_crowded()) {
            if is_fast {
                return self.counters.dropped(copies as u64);
            }
            return self.refuse(receipt);
        }
        let receipt = receipt.filter(|&receipt| {
            let is_degraded = is_away && self.config.when_redis_is_away == WhenAway::Degrade;
            if is_degraded {
                self.counters.degraded(1);
                self.answer(receipt, None);
            }
            !is_degraded
        });
        let receipt = receipt.map(|receipt| self.receipts.open(receipt, copies));
        // What nobody waits for is kept until Redis is back, as far as there is room.
        let hold_time = if receipt.is_some() { self.config.hold_time } else { KEEP_TIME };
        let deadline = Instant::now() + hold_time;
        for index in nodes.iter() {
            let name = self.by_index.get(usize::from(index)).and_then(Option::as_ref);
            let Some(node) = name.and_then(|name| self.nodes.get_mut(name)) else {
                let record = record.clone();
                self.gone_before(Parcel { record, receipt, deadline });
                continue;
            };
            self.load.add(record.len());
            let record = record.clone();
            match is_fast {
                true => node.lane.push_fast(record),
                false => node.lane.push_durable(Parcel { record, receipt, deadline }),
            }
        }
    }

    fn is_overloaded(&self) -> bool {
        self.load.count >= self.config.hold_count_max as usize
            || self.load.bytes >= self.config.hold_bytes_max
    }

    /// What spreads may take half of the room: a master that does not answer must not have
    /// messages refused that do not go by it.
    fn is_crowded(&self) -> bool {
        self.work.link.is_spread()
            && (self.load.count >= self.config.hold_count_max as usize / 2
                || self.load.bytes >= self.config.hold_bytes_max / 2)
    }

    fn fenced(&mut self, barrier: u64) {
        let Some(fence) = self.fences.iter_mut().find(|fence| fence.barrier == barrier) else {
            return;
        };
        fence.left -= 1;
        while self.fences.front().is_some_and(|fence| fence.left == 0)
            && let Some(fence) = self.fences.pop_front()
        {
            match fence.then {
                After::Permit(permits) => permits.add_permits(1),
                After::Heard(told) => {
                    // It asks again if it did not wait for this.
                    let _ = told.send(());
                }
                After::Regrouped { receipt, again: true } => {
                    self.fence(After::Regrouped { receipt, again: false });
                }
                After::Regrouped { receipt, again: false } => self.written(receipt),
                After::Told { marks, again: true } => {
                    self.fence(After::Told { marks, again: false });
                }
                After::Told { marks, again: false } => self.say_known(marks),
                After::Inbox(taken) if taken.again => {
                    self.fence(After::Inbox(Taken { again: false, is_second: true, ..taken }));
                }
                After::Inbox(taken) => {
                    self.again_count -= usize::from(taken.is_second);
                    self.inbox_permits.add_permits(1);
                    self.taken_in(Taken { barrier: fence.barrier, ..taken });
                }
            }
        }
    }

    /// Notes that the shards have a batch: at once if one of its messages must not come again,
    /// else with others. What is not noted comes again if this node dies.
    fn taken_in(&mut self, taken: Taken) {
        (self.taken.barrier, self.taken.upto) = (taken.barrier, taken.upto);
        self.taken.seen.extend(taken.seen);
        self.taken.count += taken.count;
        if taken.has_qos2 || self.taken.count >= NOTE_COUNT_MAX {
            self.note_taken();
        }
    }

    fn has_taken(&self) -> bool {
        self.taken.count > 0
    }

    /// Has Redis forget what this node has. All lanes are noted each time: what was noted last
    /// may have been put off (`untrimmed`).
    pub(super) fn note_taken(&mut self) {
        self.taken.count = 0;
        let Taken { barrier, ref upto, ref seen, .. } = self.taken;
        let seen = seen.iter().map(|(origin, seen)| (origin.clone(), seen.to_text())).collect();
        self.waiting.push_back(Op::Trim { barrier, upto: upto.clone(), seen });
    }

    /// Asks every shard to say when it has taken in this part of the inbox. Parts behind one of
    /// which they are asked twice are so too: they are noted in order.
    pub(super) fn fence_inbox(&mut self, mut taken: Taken) {
        taken.again |= self.again_count > 0;
        self.again_count += usize::from(taken.again);
        self.fence(After::Inbox(taken));
    }

    /// A message for a node that is gone.
    pub(super) fn gone_before(&mut self, parcel: Parcel) {
        if wire::group_of(&parcel.record).is_some() {
            return self.regroup(parcel);
        }
        self.counters.node_gone(1);
        self.written(parcel.receipt);
    }

    /// Asks every shard to say when it has taken in what was sent to it so far.
    pub(super) fn fence(&mut self, then: After) {
        self.last_barrier += 1;
        let barrier = self.last_barrier;
        self.fences.push_back(Fence { barrier, left: self.shards, then });
        self.give_all(&Envelope::Fence { barrier });
    }

    // --- receipts ---

    pub(super) fn written(&mut self, number: Option<u64>) {
        if let Some(receipt) = number.and_then(|number| self.receipts.written(number)) {
            self.answer(receipt, None);
        }
    }

    pub(super) fn lost(&mut self, number: Option<u64>) {
        if let Some(receipt) = number.and_then(|number| self.receipts.lost(number)) {
            self.refuse(Some(receipt));
        }
    }

    pub(super) fn refuse(&mut self, receipt: Option<ReceiptId>) {
        self.counters.refused(1);
        if let Some(receipt) = receipt {
            self.answer(receipt, Some(ReasonCode::QuotaExceeded));
        }
    }

    pub(super) fn answer(&mut self, receipt: ReceiptId, refused: Option<ReasonCode>) {
        let envelope = match refused {
            None => Envelope::Accepted { receipt },
            Some(reason) => Envelope::Refused { receipt, reason },
        };
        self.give(receipt.shard, envelope);
    }

    // --- to the shards ---

    pub(super) fn give(&mut self, shard: ShardId, envelope: Envelope) {
        if let Some(envelopes) = self.to_shards.get_mut(usize::from(shard.0)) {
            envelopes.push(envelope);
        }
    }

    pub(super) fn give_all(&mut self, envelope: &Envelope) {
        for envelopes in &mut self.to_shards {
            envelopes.push(envelope.clone());
        }
    }

    /// To the home shard of a shared group or a topic.
    pub(super) fn give_home(&mut self, key: &str, envelope: Envelope) {
        let home = home_shard(key, self.shards, self.seed);
        self.give(home, envelope);
    }

    fn hand_over(&mut self) {
        for (shard, envelopes) in (0..).zip(&mut self.to_shards) {
            if !envelopes.is_empty() {
                self.sender.send(ShardId(shard), std::mem::take(envelopes));
            }
        }
    }

    // --- what is asked for often ---

    pub(super) fn epoch(&self) -> u64 {
        self.work.members.epoch()
    }

    pub(super) fn clock(&self) -> Clock {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { unix_ms: unix.as_millis() as u64, now: self.sender.now() }
    }
}
