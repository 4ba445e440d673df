//! Starts and stops the shards of one node. Once per process: glommio's executors are not
//! started a second time on the same thread, and a node that has failed ends its process.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};
use octopus_engine::{ListenerId, ShardId};
use octopus_mqtt::ReasonCode;

use crate::accept::Acceptor;
use crate::census::{AcceptLimits, Census};
use crate::driver::{Driver, MeshEnds, Parcel, Parts};
use crate::hub::HubHandle;
use crate::listener::{self, Address, ListenerConfig};
use crate::mesh::{self, Inbox, Sender};
use crate::net::Ring;
use crate::placement;
use crate::preflight::{StartError, preflight};
use crate::service::Service;
use crate::stream::{Tls, TlsError, TlsFiles};
use crate::unix::SocketFile;
use crate::wake::Wake;

/// What a node is told when it starts. Scope: node.
#[derive(Clone, Debug, Default)]
pub struct NodeConfig {
    /// `None`: one per allowed core, at most `available_parallelism`.
    pub shards: Option<u16>,
    pub listeners: Vec<ListenerConfig>,
    pub accept: AcceptLimits,
    /// Given to every shard's service; `None`: random.
    pub seed: Option<u64>,
    pub tuning: Tuning,
}

/// Sizes and times of a shard's loop; the defaults are what measured best (bench/results).
/// Scope: shard.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Requests that one system call can submit.
    pub ring_entries: u32,
    /// Receive buffers, a power of two. Only what was once written to takes memory.
    pub receive_buffer_count: u16,
    pub receive_buffer_bytes: u32,
    /// Longest sleep in the ring, and so the longest that other tasks of the executor wait.
    pub sleep_max: Duration,
    /// How often the executor's other tasks get a turn while the shard is busy.
    pub preempt_timer: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            ring_entries: 1024,
            receive_buffer_count: 256,
            receive_buffer_bytes: 32 << 10,
            sleep_max: Duration::from_millis(100),
            preempt_timer: Duration::from_millis(100),
        }
    }
}

/// A running node.
pub struct Node {
    addresses: Vec<Address>,
    /// Of Unix sockets; removed when the node is told to stop.
    socket_files: Mutex<Vec<SocketFile>>,
    shards: Vec<Sender<Parcel>>,
    hub: Option<HubHandle>,
    threads: Vec<ExecutorJoinHandle<()>>,
    ended: flume::Receiver<Ended>,
    tls: Vec<(ListenerId, Arc<Tls>)>,
    stopping: AtomicBool,
    seed: u64,
}

/// The certificates, keys and revocation lists of one listener. Scope: node.
pub struct Certificates {
    listener: ListenerId,
    tls: Arc<Tls>,
    shards: Vec<Sender<Parcel>>,
}

impl Certificates {
    pub fn listener(&self) -> ListenerId {
        self.listener
    }

    /// The files they are read from.
    pub fn files(&self) -> Vec<PathBuf> {
        let TlsFiles { certificate, key, client_ca, crl, .. } = self.tls.files().clone();
        [Some(certificate), Some(key), client_ca, crl].into_iter().flatten().collect()
    }

    /// When the server's certificate ends, seconds since 1970.
    pub fn not_after_s(&self) -> i64 {
        self.tls.not_after_s()
    }

    /// Reads the files again, for connections that come from now on; live ones are held against
    /// them, and closed if their certificate does not hold any more. Blocks while it reads.
    ///
    /// # Errors
    /// Which file cannot be used, and why. What was read before stays in force, all of it.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.tls.reload()?;
        for shard in &self.shards {
            shard.push(0, Parcel::Recheck);
        }
        Ok(())
    }
}

/// A shard's thread is over.
struct Ended {
    shard: ShardId,
    cause: Option<Box<str>>,
}

/// A shard ended though nobody stopped it. The node is not whole any more: end the process.
#[derive(Debug)]
pub struct ShardFailed {
    pub shard: ShardId,
    pub cause: Box<str>,
}

impl fmt::Display for ShardFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "shard {} ended: {}", self.shard.0, self.cause)
    }
}

impl std::error::Error for ShardFailed {}

/// Starts a node: one pinned thread per shard, every listener bound on each. Returns when all
/// shards accept connections. `make(shard, shards, seed)` is called on each shard's thread;
/// `shards` and `seed` are the same for all.
///
/// # Errors
/// What is in the way, with its remedy; nothing is left running then.
pub fn start<S, F>(config: &NodeConfig, make: F) -> Result<Node, StartError>
where
    S: Service + 'static,
    F: Fn(ShardId, u16, u64) -> S + Clone + Send + 'static,
{
    preflight()?;
    let cores = placement::place(config.shards, &placement::allowed_cores()?);
    let count = u16::try_from(cores.len()).expect("place gives at most 65535");
    let Listening { addresses, sockets, files } = bind_all(&config.listeners, count)?;
    let mesh = Mesh::new(count)?;
    let seed = config.seed.unwrap_or_else(|| RandomState::new().hash_one("seed"));
    let (ended_sender, ended) = flume::unbounded();

    let origin = std::time::Instant::now();
    let mut node = Node {
        addresses,
        socket_files: Mutex::new(files),
        shards: mesh.shards.clone(),
        hub: Some(HubHandle::new(mesh.shards.clone(), mesh.hub_inbox, origin)),
        threads: Vec::new(),
        ended,
        tls: config
            .listeners
            .iter()
            .filter_map(|listener| Some((listener.id, Arc::clone(listener.layers.tls.as_ref()?))))
            .collect(),
        stopping: AtomicBool::new(false),
        seed,
    };
    let listener_ids = config.listeners.iter().map(|listener| usize::from(listener.id.0) + 1);
    let census = Arc::new(Census::new(listener_ids.max().unwrap_or(0)));
    let mut ready = Vec::new();
    for (((number, core), inbox), sockets) in (0..).zip(cores).zip(mesh.inboxes).zip(sockets) {
        let id = ShardId(number);
        let (ready_sender, ready_receiver) = flume::bounded(1);
        let ends = MeshEnds { inbox, shards: mesh.shards.clone(), hub: mesh.hub.clone() };
        let layers = config.listeners.iter().map(|listener| (listener.id, listener.layers.clone()));
        let acceptor = Acceptor::new(sockets, layers.collect(), config.accept.clone(), count);
        let census = Arc::clone(&census);
        let (make, tuning) = (make.clone(), config.tuning.clone());
        let guard = EndGuard { shard: id, sender: ended_sender.clone(), cause: None };
        let body = move || {
            let service = make(id, count, seed);
            run(guard, ready_sender, move || {
                let ring = Ring::new(&tuning)?;
                let mesh = ends;
                Ok(Driver::new(Parts {
                    id,
                    service,
                    ring,
                    mesh,
                    acceptor,
                    census,
                    origin,
                    sleep_max: tuning.sleep_max,
                }))
            })
        };
        match executor(id, core, &config.tuning).spawn(body) {
            Ok(thread) => node.threads.push(thread),
            Err(error) => return Err(node.give_up(id, &error.to_string())),
        }
        ready.push((id, ready_receiver));
    }
    for (id, ready) in ready {
        if let Err(cause) = ready.recv().unwrap_or_else(|_| Err("its thread panicked".into())) {
            return Err(node.give_up(id, &cause));
        }
    }
    Ok(node)
}

fn executor(id: ShardId, core: usize, tuning: &Tuning) -> LocalExecutorBuilder {
    LocalExecutorBuilder::new(Placement::Fixed(core))
        .name(&format!("shard-{}", id.0))
        // The default pins 10 MiB per shard for files; ours are few and small.
        .io_memory(64 << 10)
        .preempt_timer(tuning.preempt_timer)
}

/// A shard's life inside its executor.
async fn run<S: Service>(
    mut guard: EndGuard,
    ready: flume::Sender<Result<(), Box<str>>>,
    make: impl FnOnce() -> io::Result<Driver<S>>,
) {
    let mut driver = match make() {
        Ok(driver) => driver,
        Err(error) => {
            // The starter waits for this.
            let _ = ready.send(Err(error.to_string().into()));
            return;
        }
    };
    let _ = ready.send(Ok(()));
    guard.cause = Some("it panicked".into());
    let ended = loop {
        match driver.turn() {
            Ok(true) => glommio::yield_if_needed().await,
            Ok(false) => break driver.finish(),
            Err(error) => break Err(error),
        }
    };
    guard.cause = ended.err().map(|error| error.to_string().into());
}

/// Tells the node when a shard's thread is over, by whatever way.
struct EndGuard {
    shard: ShardId,
    sender: flume::Sender<Ended>,
    cause: Option<Box<str>>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        // Nobody listens any more only if the node is gone.
        let _ = self.sender.send(Ended { shard: self.shard, cause: self.cause.take() });
    }
}

/// All ends of the mesh, before they are given away.
struct Mesh {
    shards: Vec<Sender<Parcel>>,
    inboxes: Vec<Inbox<Parcel>>,
    hub: Sender<(ShardId, Vec<octopus_engine::Envelope>)>,
    hub_inbox: Inbox<(ShardId, Vec<octopus_engine::Envelope>)>,
}

impl Mesh {
    fn new(shards: u16) -> Result<Self, StartError> {
        let (mut senders, mut inboxes) = (Vec::new(), Vec::new());
        for number in 0..shards {
            let wake = Wake::new().map_err(|error| StartError::Shard {
                shard: ShardId(number),
                cause: error.to_string().into(),
            })?;
            let (sender, inbox) = mesh::inbox(Some(wake));
            senders.push(sender);
            inboxes.push(inbox);
        }
        let (hub, hub_inbox) = mesh::inbox(None);
        Ok(Self { shards: senders, inboxes, hub, hub_inbox })
    }
}

/// All listeners, bound.
struct Listening {
    addresses: Vec<Address>,
    files: Vec<SocketFile>,
    /// By shard. Behind `files`, which go before their sockets if one is not bound.
    sockets: Vec<Vec<(ListenerId, OwnedFd)>>,
}

fn bind_all(listeners: &[ListenerConfig], shards: u16) -> Result<Listening, StartError> {
    let sockets = (0..shards).map(|_| Vec::new()).collect();
    let mut all = Listening { addresses: Vec::new(), sockets, files: Vec::new() };
    for config in listeners {
        let bound = listener::bind(config, shards)?;
        all.addresses.push(bound.address);
        all.files.extend(bound.file);
        for (sockets, socket) in all.sockets.iter_mut().zip(bound.sockets) {
            sockets.push((config.id, socket));
        }
    }
    Ok(all)
}

impl Node {
    /// The address of each listener, in the order of the configuration.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Shards of this node.
    pub fn shards(&self) -> u16 {
        u16::try_from(self.shards.len()).expect("started with a u16")
    }

    /// What the shards were given to find a client's home.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The hub's end of the mesh; `None` if it was taken already.
    pub fn take_hub(&mut self) -> Option<HubHandle> {
        self.hub.take()
    }

    /// The certificates of each listener that has some.
    pub fn certificates(&self) -> Vec<Certificates> {
        let all = self.tls.iter().cloned();
        all.map(|(listener, tls)| Certificates { listener, tls, shards: self.shards.clone() })
            .collect()
    }

    /// Tells every shard to stop: listeners close, the service gets `Input::Stop`, writes go
    /// out until `deadline` at the latest. Returns at once; [`Self::join`] waits.
    pub fn stop(&self, reason: ReasonCode, deadline: Duration) {
        self.stopping.store(true, Ordering::Relaxed);
        self.socket_files.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for shard in &self.shards {
            shard.push(0, Parcel::Stop { reason, deadline });
        }
    }

    /// Waits until a shard ends though nobody stopped the node. Loses nothing when the future
    /// is dropped.
    pub async fn failed(&self) -> ShardFailed {
        loop {
            let Ok(ended) = self.ended.recv_async().await else {
                return std::future::pending().await;
            };
            if let Some(failed) = self.judge(ended) {
                return failed;
            }
        }
    }

    /// Waits until every shard has ended, after [`Self::stop`].
    ///
    /// # Errors
    /// The first shard that ended though nobody stopped it; the others go on.
    pub fn join(mut self) -> Result<(), ShardFailed> {
        while let Ok(ended) = self.ended.recv() {
            if let Some(failed) = self.judge(ended) {
                return Err(failed);
            }
        }
        for thread in self.threads.drain(..) {
            // Its end was judged above.
            let _ = thread.join();
        }
        Ok(())
    }

    fn judge(&self, ended: Ended) -> Option<ShardFailed> {
        let shard = ended.shard;
        match ended.cause {
            Some(cause) => Some(ShardFailed { shard, cause }),
            None if self.stopping.load(Ordering::Relaxed) => None,
            None => Some(ShardFailed { shard, cause: "it ended by itself".into() }),
        }
    }

    /// Ends what runs already, after `shard` did not start.
    fn give_up(self, shard: ShardId, cause: &str) -> StartError {
        self.stop(ReasonCode::Success, Duration::ZERO);
        let _ = self.join();
        StartError::Shard { shard, cause: cause.into() }
    }
}
