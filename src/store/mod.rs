//! Who has which session of the group, and what of the sessions outlives this node.
//!
//! Shards ask here before they let a client in, and tell what changes; all of it goes to Redis
//! in the order it came, many operations in one step. Of each operation Redis checks that the
//! session is still this node's, so a node that was cut off and comes back changes nothing that
//! is another's by now.
//!
//! What a crash of the node may lose, with `broker.storage` on `redis`:
//! - of QoS 1 and 2, nothing that was acknowledged: PUBACK, PUBREC, PUBREL, PUBCOMP and the
//!   first PUBLISH of QoS 2 wait until what they say is in Redis;
//! - of QoS 2 that was not acknowledged, nothing that matters: it is routed when its number is in
//!   Redis, and comes again under that number (`octopus_engine`, `once`); a shared group may get
//!   it twice;
//! - of sessions, subscriptions and wills, the last batch: its SUBACK or CONNACK may be out.
//!
//! With `local`, a session still moves to wherever its client connects, and is lost with its
//! node.
//!
//! Order of events that keeps two nodes apart: a node that wants a live node's session leaves
//! its wish in Redis and waits; the owner hands over, or does not look. Whoever has not looked
//! for [`Settings::fence_after`] has let go of its clients by itself, and after
//! [`Settings::takeover_timeout`], which is longer, the session is taken without it.
//!
//! Leases run out while Redis is away, of all nodes. For as long as a lease after a node has
//! reached Redis it takes no other for dead: it asks for a session, waits as for a live node's,
//! and adopts nothing.
//!
//! A session taken from a node that did not hand it over, dead or not, needs what that node had
//! not taken in from its inbox: it says so in Redis until its shard has that
//! ([`octopus_engine::SessionRecord::left`]), and until then the inbox is neither trimmed nor
//! forgotten.
//!
//! Redis that comes back without what it had (`V2:BORN` is not what it was) is told again: each
//! node records all sessions it holds, and holds the promises that rest on them until then.
//! Meanwhile, for at most a lease, a client whose session nobody has told yet waits. What no node
//! held is lost: sessions whose node was dead, and messages that stood in Redis alone.
//!
//! Scope: node. `codec` is the form of values, `scripts` and `redis` how they are kept.

mod codec;
mod passing;
mod redis;
mod scripts;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use octopus_engine::{
    Adopted, Change, Claim, Claimed, Envelope, RecordOp, ShardId, Surrendered, home_shard,
};
use octopus_mqtt::ReasonCode;
use octopus_runtime::HubSender;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinHandle,
};

use self::passing::{Call, Claiming, pass};
use self::redis::{Batch, Found, Orphan, Redis, Tended, Wish};
use crate::{
    config::{Config, WhenAway},
    link::Link,
};

/// Operations in one step of Redis; others wait for it.
const BATCH_COUNT_MAX: usize = 512;
/// Sessions of a node that is gone, adopted in one step.
const ADOPT_COUNT: usize = 32;
/// Between two looks whether a node is gone.
const ADOPT_INTERVAL: Duration = Duration::from_millis(500);
/// Between two tries while a claim waits or Redis is away.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// How often a session may change hands while one client waits for it.
const RIVALS_MAX: usize = 3;

/// How this node shares sessions with its group.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The group as the names of its keys have it.
    pub group_tag: String,
    /// The command that publishes on its channels.
    pub publish: &'static str,
    /// `<node>:<incarnation>`, as the node's lease has it.
    pub owner: String,
    /// How long a live node may take to hand a session over.
    pub takeover_timeout: Duration,
    /// How long a node that is not there is waited for.
    pub lease: Duration,
    /// While Redis is away, sessions go on as if this node were alone. Else persistent ones
    /// are refused.
    pub degrades: bool,
    pub shards: u16,
    /// Decides which shard is a client's home.
    pub seed: u64,
}

impl Settings {
    /// - `incarnation`: as the node's lease has it.
    /// - `seed`: as the shards have it.
    pub fn new(config: &Config, incarnation: u64, shards: u16, seed: u64) -> Self {
        Self {
            group_tag: config.group_tag(),
            publish: config.redis.publish_command(),
            owner: format!("{}:{incarnation:016x}", config.broker.id),
            takeover_timeout: config.cluster.takeover_timeout,
            lease: config.cluster.lease,
            degrades: config.cluster.when_redis_is_away == WhenAway::Degrade,
            shards,
            seed,
        }
    }

    /// How long after its last look a node's sessions are still its own.
    pub fn fence_after(&self) -> Duration {
        self.takeover_timeout * 3 / 4
    }

    /// How long after it was asked a live node loses a session: leaves time to say so.
    fn force_after(&self) -> Duration {
        self.takeover_timeout * 19 / 20
    }
}

/// The store as the hub sees it. Cheap to clone; it ends with its last clone.
#[derive(Clone)]
pub struct Store {
    inbox: mpsc::UnboundedSender<(ShardId, Asked)>,
}

/// What shards send here.
enum Asked {
    Claim(Box<Claim>),
    Record(Box<RecordOp>),
    Surrendered(Box<Surrendered>),
    /// A shard begins, or has ended, to record anew all it has.
    Restated {
        round: u64,
        is_over: bool,
    },
    /// A record that Redis has lost before it had it; what came of it is recorded anew.
    Stale,
}

/// What all tasks of the store share.
struct Shared {
    settings: Settings,
    link: Link,
    redis: Redis,
    shards: HubSender,
    /// Claims that wait for another node, by client.
    waiting: Mutex<HashMap<Box<str>, Arc<Notify>>>,
    /// Another node wants something.
    called: Notify,
    /// Clients whose claim was not answered yet.
    claiming: Mutex<HashMap<Box<str>, Claiming>>,
    /// Sessions to which something was passed on.
    passes: mpsc::UnboundedSender<Call>,
}

/// Starts the store; wait for the task after the last [`Store`] is gone, so that what was told
/// last is written.
///
/// - `kept_until`: where it says until when the sessions are this node's for certain.
/// - `heeds`: whom it asks to say when the shards, and what they tell other nodes, know which
///   sessions are not.
/// - `opens`: told, or given up, when clients may come; until then their claims wait.
pub fn start(
    settings: Settings,
    link: Link,
    shards: HubSender,
    kept_until: watch::Sender<Option<Instant>>,
    heeds: mpsc::Sender<oneshot::Sender<()>>,
    opens: oneshot::Receiver<()>,
) -> (Store, JoinHandle<()>) {
    let redis = Redis::new(link.clone(), &settings, shards.clone());
    let (passes, passes_out) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared {
        settings,
        link,
        redis,
        shards,
        waiting: Mutex::default(),
        called: Notify::new(),
        claiming: Mutex::default(),
        passes,
    });
    let (sender, inbox) = mpsc::unbounded_channel();
    let helpers = [
        tokio::spawn(tend(Arc::clone(&shared), kept_until, heeds)),
        tokio::spawn(listen(Arc::clone(&shared))),
        tokio::spawn(adopt(Arc::clone(&shared))),
        tokio::spawn(pass(Arc::clone(&shared), passes_out)),
    ];
    let writer = Writer {
        shared,
        inbox,
        backlog: VecDeque::new(),
        counts: HashMap::new(),
        round: 0,
        stale: HashSet::new(),
        restating: HashSet::new(),
    };
    let task = tokio::spawn(async move {
        // What is asked meanwhile stays in order.
        let _ = opens.await;
        writer.run().await;
        helpers.iter().for_each(JoinHandle::abort);
    });
    (Store { inbox: sender }, task)
}

impl Store {
    /// Takes what a shard sent, if it is for the store; gives it back if not.
    pub fn take(&self, shard: ShardId, envelope: Envelope) -> Option<Envelope> {
        let asked = match envelope {
            Envelope::Claim(claim) => Asked::Claim(claim),
            Envelope::Record(op) => Asked::Record(op),
            Envelope::Surrendered(surrendered) => Asked::Surrendered(surrendered),
            Envelope::Restated { round, is_over } => Asked::Restated { round, is_over },
            other => return Some(other),
        };
        // The store has ended only if the node does.
        let _ = self.inbox.send((shard, asked));
        None
    }
}

impl Shared {
    /// Redis was reached so lately that others may not have taken their leases again.
    fn is_early(&self) -> bool {
        self.link.is_newer_than(self.settings.lease)
    }

    fn home(&self, client_id: &str) -> ShardId {
        home_shard(client_id, self.settings.shards, self.settings.seed)
    }

    fn send_home(&self, client_id: &str, envelope: Envelope) {
        self.shards.send(self.home(client_id), vec![envelope]);
    }

    fn answer(&self, shard: ShardId, claim: &Claim, found: redis::Claimed) {
        let (epoch, found) = match found {
            redis::Claimed::Mine { epoch } => (epoch, Found::default()),
            redis::Claimed::Taken { epoch, found } => (epoch, found),
            redis::Claimed::Held(_) => return,
        };
        let Found { record, is_passed } = found;
        let (connection, client_id) = (claim.connection, claim.client_id.clone());
        let claimed = Claimed { connection, client_id, epoch, record };
        self.shards.send(shard, vec![Envelope::Claimed(Box::new(claimed))]);
        self.end_claim(&claim.client_id);
        if is_passed {
            self.look_for_passed(Call::new(&claim.client_id));
        }
    }

    fn refuse(&self, shard: ShardId, claim: &Claim, reason: ReasonCode) {
        let connection = claim.connection;
        self.shards.send(shard, vec![Envelope::ClaimRefused { connection, reason }]);
        self.end_claim(&claim.client_id);
    }

    /// Answers a claim while Redis is away.
    fn answer_alone(&self, shard: ShardId, claim: &Claim) {
        if claim.is_persistent && !self.settings.degrades {
            return self.refuse(shard, claim, ReasonCode::ServerUnavailable);
        }
        self.answer(shard, claim, redis::Claimed::Mine { epoch: 0 });
    }

    fn freed(&self, client_id: &str) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notify) = waiting.get(client_id) {
            notify.notify_waiters();
        }
    }

    fn wait_for(&self, client_id: &str) -> Arc<Notify> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(waiting.entry(client_id.into()).or_default())
    }

    fn stop_waiting(&self, client_id: &str) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's own, and the caller's.
        if waiting.get(client_id).is_some_and(|notify| Arc::strong_count(notify) <= 2) {
            waiting.remove(client_id);
        }
    }
}

/// Carries out what shards ask, in order.
struct Writer {
    shared: Arc<Shared>,
    inbox: mpsc::UnboundedReceiver<(ShardId, Asked)>,
    backlog: VecDeque<(ShardId, Asked)>,
    /// Operations of each shard that are done.
    counts: HashMap<ShardId, u64>,
    /// How often Redis came back without what it had.
    round: u64,
    /// Shards that have not yet begun to record anew: what they tell is stale.
    stale: HashSet<ShardId>,
    /// Shards of which not all is recorded anew: nothing they told is safe.
    restating: HashSet<ShardId>,
}

impl Writer {
    async fn run(mut self) {
        const LAST_WRITES: Duration = Duration::from_secs(2);
        let mut is_open = true;
        let mut ends_by = None;
        while is_open || !self.backlog.is_empty() {
            let mut taken = Vec::new();
            if self.backlog.is_empty() {
                is_open = self.inbox.recv_many(&mut taken, BATCH_COUNT_MAX).await > 0;
            } else {
                while let Ok(asked) = self.inbox.try_recv() {
                    taken.push(asked);
                }
                is_open = !self.inbox.is_closed();
            }
            for (_, asked) in &taken {
                if let Asked::Claim(claim) = asked {
                    self.shared.begin_claim(&claim.client_id);
                }
            }
            for (shard, asked) in taken {
                let asked = self.mark_stale(shard, asked);
                self.backlog.push_back((shard, asked));
            }
            if !is_open
                && *ends_by.get_or_insert_with(|| Instant::now() + LAST_WRITES) < Instant::now()
            {
                tracing::warn!(operations = self.backlog.len(), "not written to Redis at the end");
                return;
            }
            if !self.shared.link.is_up() || !self.write().await {
                self.answer_claims_alone();
                if !self.backlog.is_empty() {
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }

    /// Carries the oldest of the backlog out; `false` if Redis did not answer.
    async fn write(&mut self) -> bool {
        let clock = self.shared.redis.clock();
        let is_early = self.shared.is_early();
        let count = self.backlog.len().min(BATCH_COUNT_MAX);
        let mut batch = Batch::default();
        for (_, asked) in self.backlog.iter().take(count) {
            match asked {
                Asked::Claim(claim) => {
                    batch.claim(&claim.client_id, "", claim.is_here, "", is_early);
                }
                Asked::Record(op) => batch.op(op, clock),
                Asked::Surrendered(surrendered) => {
                    let Surrendered { client_id, epoch, record } = &**surrendered;
                    batch.surrender(client_id, *epoch, record.as_deref(), clock);
                }
                Asked::Restated { .. } | Asked::Stale => batch.nothing(),
            }
        }
        if batch.is_empty() {
            return true;
        }
        let outcome = match self.shared.redis.run(&batch).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::debug!(%error, count, "sessions not written yet");
                return false;
            }
        };
        if outcome.is_lost {
            return self.restore().await;
        }
        let mut claims: HashMap<usize, redis::Claimed> = outcome.claims.into_iter().collect();
        let mut told: HashMap<ShardId, Vec<u64>> = HashMap::new();
        for (number, (shard, asked)) in self.backlog.drain(..count).enumerate() {
            match asked {
                Asked::Claim(claim) => match claims.remove(&number) {
                    Some(redis::Claimed::Held(owner)) => {
                        tokio::spawn(take_over(Arc::clone(&self.shared), shard, claim, owner));
                    }
                    Some(found) => self.shared.answer(shard, &claim, found),
                    None => self.shared.refuse(shard, &claim, ReasonCode::UnspecifiedError),
                },
                Asked::Record(op) => {
                    let count = self.counts.entry(shard).or_default();
                    *count += 1;
                    let refused = told.entry(shard).or_default();
                    if outcome.refused.contains(&number) {
                        refused.push(*count);
                        let RecordOp { client_id, epoch, .. } = *op;
                        self.shared.shards.send(shard, vec![Envelope::Disown { client_id, epoch }]);
                    } else if let Some(call) = Call::behind(&op) {
                        self.shared.look_for_passed(call);
                    }
                }
                Asked::Stale => *self.counts.entry(shard).or_default() += 1,
                Asked::Restated { round, is_over: true } if round == self.round => {
                    self.restating.remove(&shard);
                    told.entry(shard).or_default();
                }
                Asked::Surrendered(_) | Asked::Restated { .. } => {}
            }
        }
        for (shard, refused) in told {
            if self.restating.contains(&shard) && refused.is_empty() {
                continue;
            }
            let count = self.counts.get(&shard).copied().unwrap_or(0);
            self.shared.shards.send(shard, vec![Envelope::Recorded { count, refused }]);
        }
        true
    }

    /// Redis does not hold what we knew it to hold: has the shards record all they have anew,
    /// if there is any; `false` if Redis does not answer.
    async fn restore(&mut self) -> bool {
        let lease = self.shared.settings.lease;
        let has_lost = loop {
            match self.shared.redis.begin(lease).await {
                Ok(Some(has_lost)) => break has_lost,
                // What is restored while our lease does not hold would be taken for a dead node's.
                Ok(None) => tokio::time::sleep(RETRY_INTERVAL).await,
                Err(_) => return false,
            }
        };
        if !has_lost {
            return true;
        }
        tracing::warn!("Redis has lost the sessions; giving back what this node holds");
        self.round += 1;
        let shards = || (0..self.shared.settings.shards).map(ShardId);
        (self.stale, self.restating) = (shards().collect(), shards().collect());
        for (shard, asked) in std::mem::take(&mut self.backlog) {
            let asked = self.mark_stale(shard, asked);
            self.backlog.push_back((shard, asked));
        }
        self.shared.shards.broadcast(&[Envelope::Restate { round: self.round }]);
        true
    }

    /// What a shard told before it began to record anew is not written: it would be refused,
    /// and what came of it is recorded anew. Messages for other nodes' sessions are.
    fn mark_stale(&mut self, shard: ShardId, asked: Asked) -> Asked {
        match asked {
            Asked::Restated { round, .. } if round == self.round => drop(self.stale.remove(&shard)),
            Asked::Record(op)
                if self.stale.contains(&shard) && !matches!(op.change, Change::Passed { .. }) =>
            {
                Call::behind(&op).into_iter().for_each(|call| self.shared.look_for_passed(call));
                return Asked::Stale;
            }
            _ => {}
        }
        asked
    }

    fn answer_claims_alone(&mut self) {
        let shared = Arc::clone(&self.shared);
        self.backlog.retain(|(shard, asked)| match asked {
            Asked::Claim(claim) => {
                shared.answer_alone(*shard, claim);
                false
            }
            _ => true,
        });
    }
}

/// Waits until a live node has handed a session over, or has had its time.
async fn take_over(shared: Arc<Shared>, shard: ShardId, claim: Box<Claim>, owner: String) {
    let freed = shared.wait_for(&claim.client_id);
    match try_take_over(&shared, &claim, owner, &freed).await {
        Ok(found) => shared.answer(shard, &claim, found),
        Err(reason) => shared.refuse(shard, &claim, reason),
    }
    shared.stop_waiting(&claim.client_id);
}

async fn try_take_over(
    shared: &Shared,
    claim: &Claim,
    mut owner: String,
    freed: &Notify,
) -> Result<redis::Claimed, ReasonCode> {
    let timeout = shared.settings.force_after();
    let mut asked = Instant::now();
    let mut rivals = 0;
    loop {
        let left = timeout.saturating_sub(asked.elapsed());
        // A call that was missed is no loss: it is looked for again.
        let _ = tokio::time::timeout(left.min(RETRY_INTERVAL), freed.notified()).await;
        let forced = if asked.elapsed() >= timeout { &*owner } else { "" };
        let mut batch = Batch::default();
        batch.claim(&claim.client_id, forced, false, &owner, shared.is_early());
        let outcome = shared.redis.run(&batch).await;
        let mut outcome = outcome.map_err(|_| ReasonCode::ServerUnavailable)?;
        if outcome.is_lost {
            // The writer finds it out as well, and does what is to be done.
            continue;
        }
        match outcome.claims.pop() {
            Some((_, redis::Claimed::Held(other))) if other == owner => {}
            Some((_, redis::Claimed::Held(other))) => {
                rivals += 1;
                if rivals > RIVALS_MAX {
                    return Err(ReasonCode::ServerBusy);
                }
                (owner, asked) = (other, Instant::now());
            }
            Some((_, found)) => return Ok(found),
            None => return Err(ReasonCode::UnspecifiedError),
        }
    }
}

/// Looks what other nodes want of this one, and with each look keeps its sessions its own for
/// a while longer. The shards hear of the wishes first; and if sessions were lost meanwhile,
/// nothing is written for other nodes before the shards have let go of them.
async fn tend(
    shared: Arc<Shared>,
    kept_until: watch::Sender<Option<Instant>>,
    heeds: mpsc::Sender<oneshot::Sender<()>>,
) {
    let fence_after = shared.settings.fence_after();
    // Of a node that begins nobody has wanted anything.
    let (mut has_heeded, mut heeding) = (true, None);
    let mut count = 0;
    loop {
        let until = shared.shards.now().after(fence_after);
        let own_until = Instant::now() + fence_after;
        match shared.redis.tend(fence_after, has_heeded, count).await {
            Ok(Tended { is_live, is_awake, count: found, wishes }) => {
                count = found;
                let is_kept = is_live && is_awake;
                kept_until.send_replace(is_kept.then_some(own_until));
                let has_lost = wishes.iter().any(|wish| matches!(wish, Wish::Lost { .. }));
                wishes.into_iter().for_each(|wish| grant(&shared, wish));
                if is_live {
                    shared.shards.broadcast(&[Envelope::Lease { until }]);
                }
                if is_kept || !is_live {
                    heeding = None;
                } else if has_lost || heeding.is_none() {
                    let (told, heeded) = oneshot::channel();
                    // The bridge has ended only if the node does.
                    let _ = heeds.send(told).await;
                    heeding = Some(heeded);
                }
            }
            Err(_) => {
                // What it found, if it did, is looked for again.
                (count, heeding) = (0, None);
                if shared.settings.degrades {
                    shared.shards.broadcast(&[Envelope::Lease { until }]);
                }
            }
        }
        // Whether it was called or not, it looks.
        let pause = fence_after / 5;
        let heard = match &mut heeding {
            Some(heeded) => tokio::time::timeout(pause, heeded).await.ok(),
            None => {
                let _ = tokio::time::timeout(pause, shared.called.notified()).await;
                None
            }
        };
        has_heeded = matches!(heard, Some(Ok(())));
        heeding = heeding.filter(|_| heard.is_none());
    }
}

fn grant(shared: &Shared, wish: Wish) {
    match wish {
        Wish::HandOver { client_id, epoch } => {
            let envelope = Envelope::Evict { client_id: client_id.as_str().into(), epoch };
            shared.send_home(&client_id, envelope);
        }
        Wish::Lost { client_id, epoch, is_known } => {
            let client: Box<str> = client_id.as_str().into();
            let lost = Envelope::Disown { client_id: client.clone(), epoch };
            shared.send_home(&client_id, lost);
            if is_known {
                shared.send_home(&client_id, Envelope::Known { client_id: client, epoch });
            }
        }
    }
}

/// Hears when other nodes call.
async fn listen(shared: Arc<Shared>) {
    let channel = [shared.redis.channel()];
    loop {
        if let Ok(mut subscription) = shared.link.subscribe(&channel, &[]).await {
            shared.called.notify_one();
            while let Some((_, call)) = subscription.next().await {
                match String::from_utf8_lossy(&call).split_once(' ') {
                    Some(("freed", client_id)) => shared.freed(client_id),
                    Some(("pass", client_id)) => shared.look_for_passed(Call::new(client_id)),
                    _ => shared.called.notify_one(),
                }
            }
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Takes over what nodes that are gone have left, a few sessions at a time so that every node
/// of the group gets its share.
async fn adopt(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(ADOPT_INTERVAL).await;
        if shared.is_early() {
            continue;
        }
        for owner in shared.redis.gone().await.unwrap_or_default() {
            let mut count = 0;
            while let Ok(orphans) = shared.redis.adopt(&owner, ADOPT_COUNT).await
                && !orphans.is_empty()
            {
                count += orphans.len();
                for orphan in orphans {
                    keep(&shared, orphan);
                }
                tokio::task::yield_now().await;
            }
            if count > 0 {
                tracing::info!(owner, count, "sessions adopted");
            }
        }
    }
}

fn keep(shared: &Shared, orphan: Orphan) {
    let Orphan { client_id, epoch, found: Found { record, is_passed } } = orphan;
    let record = record.unwrap_or_default();
    let adopted = Adopted { client_id: client_id.as_str().into(), epoch, record };
    shared.send_home(&client_id, Envelope::Adopt(Box::new(adopted)));
    if is_passed {
        shared.look_for_passed(Call::new(&client_id));
    }
}
