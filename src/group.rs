//! How this node becomes one of its group: the link to Redis, its lease, its sessions.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use octopus_runtime::HubSender;
use tokio::task::JoinHandle;

use crate::{
    bridge::{
        keys::Keys,
        link::{Link, LinkError},
        members::{JoinError, Members},
    },
    config::{Config, WhenAway},
    store::{self, Store},
};

/// How long a node that starts waits for Redis.
const REDIS_WAIT_MAX: Duration = Duration::from_secs(10);

/// This node in its group.
pub struct Group {
    pub store: Store,
    members: Members,
    lease: JoinHandle<()>,
    writer: JoinHandle<()>,
}

/// Why this node did not become one of its group.
#[derive(Debug)]
pub enum GroupError {
    Link(LinkError),
    /// Redis was not reached in time.
    Away {
        address: String,
    },
    Join(JoinError),
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(error) => write!(f, "redis: {error}"),
            Self::Away { address } => {
                write!(f, "redis: {address} does not answer; a node of a group needs it to start")
            }
            Self::Join(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for GroupError {}

/// Joins the group that the configuration names.
///
/// # Errors
/// Redis is not there, or another live node has this one's name.
pub async fn join(
    config: &Config,
    shards: HubSender,
    count: u16,
    seed: u64,
) -> Result<Group, GroupError> {
    let link = Link::open(&config.redis).map_err(GroupError::Link)?;
    if !link.wait_up(REDIS_WAIT_MAX).await {
        let address = format!("{}:{}", config.redis.host, config.redis.port);
        return Err(GroupError::Away { address });
    }
    let incarnation = RandomState::new().hash_one("incarnation");
    let (group, id) = (&config.broker.group, &config.broker.id);
    let lease = config.cluster.lease;
    let members = Members::new(link.clone(), Keys::new(group), id, incarnation, lease);
    members.join().await.map_err(GroupError::Join)?;
    let settings = store::Settings {
        group: group.clone(),
        owner: format!("{id}:{incarnation:016x}"),
        takeover_timeout: config.cluster.takeover_timeout,
        degrades: config.cluster.when_redis_is_away == WhenAway::Degrade,
        shards: count,
        seed,
    };
    let lease = tokio::spawn(keep_lease(members.clone(), lease));
    let (store, writer) = store::start(settings, link, shards);
    Ok(Group { store, members, lease, writer })
}

impl Group {
    /// Leaves when the last shard has ended: what is to be kept is written first.
    pub async fn leave(self) {
        const LEAVE_MAX: Duration = Duration::from_secs(1);
        let Self { store, members, lease, writer } = self;
        drop(store);
        let leave = async {
            // It was aborted or panicked; either way it writes nothing more.
            let _ = writer.await;
            lease.abort();
            if let Err(error) = members.leave().await {
                tracing::warn!(%error, "the lease is left to run out");
            }
        };
        if tokio::time::timeout(LEAVE_MAX, leave).await.is_err() {
            tracing::warn!("the group was left before everything was written");
        }
    }
}

async fn keep_lease(members: Members, lease: Duration) {
    loop {
        tokio::time::sleep(lease / 3).await;
        match members.refresh().await {
            Ok(true) => tracing::warn!("the lease was lost and is held anew"),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "the lease was not refreshed"),
        }
    }
}
