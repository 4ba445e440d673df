//! What crosses between the nodes of a group, through the Redis they share.
//!
//! Read in this order: `rules` (the promises), `wire` (what nodes write to each other),
//! `outbox` (what waits to be written), `run`, `outgoing` and `incoming` (the bridge itself:
//! from the shards to Redis, from Redis to the shards), `retained` (how a node catches up),
//! `known` (which nodes know what a node wants), `left` (what a node that is dead or silent had
//! not taken in), `bequest` (the same of shared groups), `work` (the tasks that wait for Redis),
//! `keys`, `link` and `members` (names, the connection, the lease), `compat` (the predecessor's
//! JSON).
//!
//! In a Redis Cluster all of it goes by the one master that serves the group's slot (`link`), but
//! for QoS 0, which spreads over the masters (`Bridge::spread`, `Work::spread`).
//!
//! Promises. A SUBACK leaves when every live node knows the subscription. QoS 0 crosses at most
//! once, by pub/sub. QoS 1 and 2 are acknowledged when they are in the inbox stream of every node
//! that wants them, and stay there until its shards have them. Within each of the two, one
//! publisher's messages keep their order; a QoS 0 message may overtake or be overtaken by one of
//! QoS 1 or 2, and one of QoS 2 be overtaken by QoS 1 before it is routed (`octopus_engine`,
//! `once`). What is lost, comes twice or is refused is counted (`counters`).

mod bequest;
pub mod compat;
pub mod counters;
mod incoming;
pub mod keys;
mod known;
mod left;
pub mod members;
pub mod outbox;
mod outgoing;
pub mod retained;
pub mod rules;
mod run;
pub mod wire;
pub mod work;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};

pub use crate::link;
pub use run::Bridge;

use self::{
    counters::Counters,
    keys::Keys,
    link::Link,
    members::{JoinError, Members},
    retained::Catch,
    work::{Event, Work},
};
use crate::config::{Clustering, Config};

/// How long a node waits for Redis before it starts without.
pub const REDIS_WAIT: Duration = Duration::from_secs(5);
/// Events that wait for the bridge's turn.
const EVENTS_MAX: usize = 256;

/// Whom to tell that the shards have heard what the store told them.
pub type Heed = oneshot::Sender<()>;

/// A node that has joined its group, before its shards run.
pub struct Joined {
    config: Clustering,
    work: Work,
    events: mpsc::Receiver<Event>,
    heeds: mpsc::Sender<Heed>,
    heeds_out: mpsc::Receiver<Heed>,
    /// The group's retained messages; `None` if Redis was away.
    catch: Option<Catch>,
    counters: Counters,
}

impl Joined {
    /// Takes this node's place in its group and reads what the group retains.
    ///
    /// Without Redis it goes on alone, and joins as soon as Redis is there.
    ///
    /// # Errors
    /// A live node has this id, or the configuration names no usable Redis.
    pub async fn join(config: &Config, incarnation: u64) -> Result<Self, JoinError> {
        let keys = Keys::new(config);
        let link = Link::open(&config.redis, &keys.guard()).map_err(JoinError::Link)?;
        let (id, lease) = (&config.broker.id, config.cluster.lease);
        let members = Members::new(link.clone(), keys.clone(), id, incarnation, lease);
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let kept_until = watch::Sender::new(None);
        let (heeds, heeds_out) = mpsc::channel(1);
        let work = Work { link, keys, members, events: sender, look: Arc::default(), kept_until };
        let is_there = work.link.wait_up(REDIS_WAIT).await;
        let mut catch = None;
        if is_there {
            work.members.join().await?;
            // Now the list of nodes is whole.
            work.members.refresh().await.map_err(JoinError::Link)?;
            catch = work.compare(None).await;
        } else {
            tracing::warn!("Redis is not there; serving this node's clients alone until it is");
        }
        Ok(Self {
            config: config.cluster.clone(),
            work,
            events,
            heeds,
            heeds_out,
            catch,
            counters: Counters::default(),
        })
    }

    pub fn link(&self) -> &Link {
        &self.work.link
    }

    pub fn members(&self) -> &Members {
        &self.work.members
    }

    pub fn keys(&self) -> &Keys {
        &self.work.keys
    }

    /// Where the store says until when this node's sessions are its own.
    pub fn kept_until(&self) -> &watch::Sender<Option<Instant>> {
        &self.work.kept_until
    }

    /// Whom the store asks to say when the shards have heard all it told them, and this is rid of
    /// what they let go.
    pub fn heeds(&self) -> &mpsc::Sender<Heed> {
        &self.heeds
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
