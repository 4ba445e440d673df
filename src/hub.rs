//! The mesh's last peer: hands what shards send out to whoever asked or must know.
//!
//! One task owns the receiving end of the mesh. It never waits for a part of the control
//! plane: authentication, bridge and store take what is theirs over a bounded channel, and
//! when one is full its named behaviour applies, so that no slow backend reaches a shard.
//! Everyone else talks to the shards through a [`Hub`], a handle that clones.

use std::{collections::HashMap, sync::Arc};

use octopus_engine::{
    Ask, AuthAnswer, AuthOutcome, AuthRequest, ConnectionId, Envelope, Found, Message, NewLimits,
    Query, ShardId, Stats,
};
use octopus_mqtt::ReasonCode;
use octopus_runtime::{AcceptLimits, HubHandle, HubSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::store::Store;

/// Connects that wait for authentication at a time; more are told the server is busy (0x89).
const AUTH_WAITING_MAX: usize = 16_384;
/// Questions of the control plane that wait for the hub's turn.
const REQUESTS_MAX: usize = 1024;

/// Takes what concerns other nodes to the bridge, with the shard it came from.
pub type BridgeSender = mpsc::UnboundedSender<(ShardId, Envelope)>;

/// The way from the control plane to the shards. Cheap to clone. Scope: node.
#[derive(Clone)]
pub struct Hub {
    sender: HubSender,
    requests: mpsc::Sender<Request>,
    shards: u16,
    bridge: Option<BridgeSender>,
}

/// What authentication has to know, in the order it happened.
pub enum AuthEvent {
    Asked(AuthQuestion),
    /// A client is connected that nobody was asked about.
    Live {
        shard: ShardId,
        request: Box<AuthRequest>,
    },
    /// A connection that was asked about is gone.
    Parted {
        shard: ShardId,
        connection: ConnectionId,
    },
}

/// A CONNECT or AUTH to decide on, and the shard that waits for the answer.
pub struct AuthQuestion {
    pub shard: ShardId,
    pub request: AuthRequest,
    /// One of [`AUTH_WAITING_MAX`] places, free again when the question is dropped.
    _place: OwnedSemaphorePermit,
}

/// What the hub's task is asked to collect.
enum Request {
    Stats(oneshot::Sender<Vec<Stats>>),
    Query { shard: ShardId, ask: Ask, asker: oneshot::Sender<Found> },
}

/// The hub's task, before it runs.
pub struct HubTask {
    handle: HubHandle,
    requests: mpsc::Receiver<Request>,
    auth: mpsc::UnboundedSender<AuthEvent>,
    auth_places: Arc<Semaphore>,
    store: Option<Store>,
    /// What goes to other nodes. Not bounded here: the bridge takes everything at once and
    /// has the limits.
    bridge: Option<BridgeSender>,
    shards: u16,
    /// Answers to `StatsWanted` that are still coming, oldest question first.
    stats: Vec<StatsRound>,
    /// Questions to shards that are not answered yet, by number.
    queries: HashMap<u64, oneshot::Sender<Found>>,
    last_query: u64,
}

struct StatsRound {
    answers: HashMap<ShardId, Stats>,
    asker: oneshot::Sender<Vec<Stats>>,
}

/// The hub of a node that has just started: the handle for everyone, the task to spawn, and
/// the questions that authentication answers.
///
/// - `bridge`: where what concerns other nodes goes; `None` if there are none.
pub fn hub(
    handle: HubHandle,
    shards: u16,
    bridge: Option<BridgeSender>,
) -> (Hub, HubTask, mpsc::UnboundedReceiver<AuthEvent>) {
    let (requests_in, requests) = mpsc::channel(REQUESTS_MAX);
    // As long as its two bounds: the places for questions, and the connections of the node.
    let (auth_in, auth) = mpsc::unbounded_channel();
    let sender = handle.sender();
    let hub = Hub { sender, requests: requests_in, shards, bridge: bridge.clone() };
    let task = HubTask {
        handle,
        requests,
        auth: auth_in,
        auth_places: Arc::new(Semaphore::new(AUTH_WAITING_MAX)),
        store: None,
        bridge,
        shards,
        stats: Vec::new(),
        queries: HashMap::new(),
        last_query: 0,
    };
    (hub, task, auth)
}

impl Hub {
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// The counters of every shard, by shard; `None` if the node is stopping.
    pub async fn stats(&self) -> Option<Vec<Stats>> {
        let (asker, answer) = oneshot::channel();
        self.requests.send(Request::Stats(asker)).await.ok()?;
        answer.await.ok()
    }

    /// Asks one shard what lives there; `None` if the node is stopping.
    pub async fn query(&self, shard: ShardId, ask: Ask) -> Option<Found> {
        let (asker, answer) = oneshot::channel();
        self.requests.send(Request::Query { shard, ask, asker }).await.ok()?;
        answer.await.ok()
    }

    /// Answers an [`AuthQuestion`].
    pub fn authenticated(&self, shard: ShardId, answer: AuthAnswer) {
        self.sender.send(shard, vec![Envelope::Authenticated(Box::new(answer))]);
    }

    /// Has every shard ask before it lets a client in, and say who is there already.
    pub fn ask_from_now_on(&self) {
        self.sender.broadcast(&[Envelope::AskHub]);
    }

    /// Puts other limits in force, on every shard. What is above one of them stays.
    pub fn reconfigure(&self, accept: &AcceptLimits, new: NewLimits) {
        self.sender.limit_accepting(accept);
        self.sender.broadcast(&[Envelope::Limits(Box::new(new))]);
    }

    /// Publishes a message of the node's own to all its clients.
    pub fn publish(&self, message: Message) {
        self.sender.send(ShardId(0), vec![Envelope::Inject(message)]);
    }

    /// Hands messages that concern this node alone to its clients; see [`Envelope::Local`].
    pub fn publish_local(&self, messages: impl IntoIterator<Item = Message>) {
        let envelopes: Vec<_> = messages.into_iter().map(Envelope::Local).collect();
        self.sender.broadcast(&envelopes);
    }

    /// Ends a client's connection, wherever in the group it is.
    pub fn kick(&self, client: &str, reason: ReasonCode) {
        if let Some(bridge) = &self.bridge {
            // A bridge that has ended has no other node to tell.
            let _ = bridge.send((ShardId(0), Envelope::Kick { client: client.into(), reason }));
        }
        self.sender.broadcast(&[Envelope::Kick { client: client.into(), reason }]);
    }
}

impl HubTask {
    /// Hands what concerns sessions of the group to `store`.
    pub fn set_store(&mut self, store: Store) {
        self.store = Some(store);
    }

    /// Runs until every shard has ended.
    pub async fn run(mut self) {
        loop {
            tokio::select! {
                batch = self.handle.recv() => match batch {
                    Some((shard, envelopes)) => {
                        for envelope in envelopes {
                            self.take(shard, envelope);
                        }
                    }
                    None => return,
                },
                Some(request) = self.requests.recv() => self.ask(request),
            }
        }
    }

    fn ask(&mut self, request: Request) {
        match request {
            Request::Stats(asker) => {
                self.stats.push(StatsRound { answers: HashMap::new(), asker });
                self.handle.broadcast(&[Envelope::StatsWanted]);
            }
            Request::Query { shard, ask, asker } => {
                self.last_query += 1;
                let id = self.last_query;
                self.queries.insert(id, asker);
                self.handle.send(shard, vec![Envelope::Query(Box::new(Query { id, ask }))]);
            }
        }
    }

    fn take(&mut self, shard: ShardId, envelope: Envelope) {
        let envelope = match &self.store {
            Some(store) => match store.take(shard, envelope) {
                Some(envelope) => envelope,
                None => return,
            },
            None => envelope,
        };
        match envelope {
            Envelope::Stats(stats) => self.take_stats(shard, *stats),
            Envelope::Answer(answer) => {
                if let Some(asker) = self.queries.remove(&answer.id) {
                    // Whoever asked may have gone away.
                    let _ = asker.send(answer.found);
                }
            }
            Envelope::Authenticate(request) => self.authenticate(shard, *request),
            Envelope::Live(request) => {
                // Nobody listens while the node stops.
                let _ = self.auth.send(AuthEvent::Live { shard, request });
            }
            Envelope::Parted { connection } => {
                // Nobody listens while the node stops.
                let _ = self.auth.send(AuthEvent::Parted { shard, connection });
            }
            Envelope::Interest { .. }
            | Envelope::GroupState { .. }
            | Envelope::Bridge { .. }
            | Envelope::BridgeGroup { .. }
            | Envelope::Retained { .. }
            | Envelope::RetainedFound(_)
            | Envelope::Fence { .. }
            | Envelope::Fenced { .. }
            | Envelope::Owed { .. }
            | Envelope::Spread { .. }
            | Envelope::LetGo { .. } => {
                if let Some(bridge) = &self.bridge {
                    // It ends after the hub.
                    let _ = bridge.send((shard, envelope));
                }
            }
            other => tracing::error!(?shard, envelope = ?other, "not for the hub"),
        }
    }

    /// Shards answer in the order they were asked, so an answer belongs to the oldest round
    /// that has none of this shard yet.
    fn take_stats(&mut self, shard: ShardId, stats: Stats) {
        let waiting = self.stats.iter().position(|round| !round.answers.contains_key(&shard));
        let Some(index) = waiting else { return };
        let round = &mut self.stats[index];
        round.answers.insert(shard, stats);
        if round.answers.len() == usize::from(self.shards) {
            let mut round = self.stats.remove(index);
            let in_order = (0..self.shards).filter_map(|id| round.answers.remove(&ShardId(id)));
            // Whoever asked may have gone away.
            let _ = round.asker.send(in_order.collect());
        }
    }

    fn authenticate(&mut self, shard: ShardId, request: AuthRequest) {
        let connection = request.connection;
        let place = Arc::clone(&self.auth_places).try_acquire_owned();
        let is_taken = place.is_ok_and(|place| {
            let question = AuthQuestion { shard, request, _place: place };
            self.auth.send(AuthEvent::Asked(question)).is_ok()
        });
        if !is_taken {
            let outcome = AuthOutcome::Refused { reason: ReasonCode::ServerBusy };
            let answer = AuthAnswer { connection, outcome };
            self.handle.send(shard, vec![Envelope::Authenticated(Box::new(answer))]);
        }
    }
}
