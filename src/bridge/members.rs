//! Which nodes the group has, and that this node is one of them: leases in Redis.
//!
//! A node is live while it holds `<GROUP>:NODE:<id>`, a key that expires unless its holder
//! refreshes it. The value is the holder's incarnation, so nobody refreshes or removes what is
//! not its own. Each time a node takes its lease it gets an epoch, which only rises in the
//! group: of two that claim one name, the higher is the newer.
//!
//! A node whose lease ran out stays in `<GROUP>:V2:NODES` until it is forgotten, so that what
//! it left behind (inbox, sessions) can be taken over first.
//!
//! Scope: node.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use redis::Script;
use tokio::sync::watch;

use super::{
    keys::Keys,
    link::{Link, LinkError},
};

/// Takes the lease. KEYS: node, nodes, epoch. ARGV: id, incarnation, lease in ms, the highest
/// epoch we know of (Redis may have forgotten). Answers the epoch, or 0 if another holds it.
const TAKE: &str = r"
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
local epoch = redis.call('INCR', KEYS[3])
if epoch <= tonumber(ARGV[4]) then
  epoch = tonumber(ARGV[4]) + 1
  redis.call('SET', KEYS[3], epoch)
end
redis.call('HSET', KEYS[2], ARGV[1], epoch .. ' ' .. ARGV[2])
return epoch";

/// Refreshes the lease and answers whether it is still ours, then id, epoch and liveness of
/// every node. KEYS: node, nodes. ARGV: incarnation, lease in ms, prefix of node keys.
const REFRESH: &str = r"
local own = 0
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  own = 1
end
local answer = {own}
local nodes = redis.call('HGETALL', KEYS[2])
for i = 1, #nodes, 2 do
  local epoch, incarnation = string.match(nodes[i + 1], '^(%d+) (.*)$')
  answer[#answer + 1] = nodes[i]
  answer[#answer + 1] = epoch
  answer[#answer + 1] = redis.call('GET', ARGV[3] .. nodes[i]) == incarnation and '1' or '0'
end
return answer";

/// Gives the lease back. KEYS: node. ARGV: incarnation.
const RELEASE: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0";

/// Takes a node that is not live off the list. KEYS: node, nodes. ARGV: id, its epoch.
const FORGET: &str = r"
local entry = redis.call('HGET', KEYS[2], ARGV[1])
if entry and string.match(entry, '^(%d+) ') == ARGV[2] and redis.call('EXISTS', KEYS[1]) == 0 then
  return redis.call('HDEL', KEYS[2], ARGV[1])
end
return 0";

/// A node of the group as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub epoch: u64,
    /// Its lease holds. `false`: it is gone, and not yet forgotten.
    pub is_live: bool,
}

/// The group as this node sees it. Scope: node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// This node's epoch; 0 before it has a lease.
    pub epoch: u64,
    /// This node holds its lease, as far as it knows.
    pub is_member: bool,
    /// Every node by id, this one among them.
    pub nodes: BTreeMap<String, Member>,
}

/// Why this node cannot join.
#[derive(Debug)]
pub enum JoinError {
    /// A live node has this id.
    Taken {
        group: String,
        id: String,
    },
    Link(LinkError),
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Taken { group, id } => write!(
                f,
                "broker.id: a node {id} is running in group {group}; give this one another id"
            ),
            Self::Link(error) => write!(f, "cannot join the group: {error}"),
        }
    }
}

impl std::error::Error for JoinError {}

/// This node's membership. Cheap to clone.
#[derive(Clone)]
pub struct Members(Arc<Inner>);

struct Inner {
    link: Link,
    keys: Keys,
    id: String,
    incarnation: String,
    lease: Duration,
    view: watch::Sender<View>,
    /// Until when our own lease holds for certain, by our clock.
    lease_until: watch::Sender<Option<Instant>>,
    has_left: AtomicBool,
}

impl Members {
    /// - `incarnation`: tells this run of the node from every other, live or past.
    pub fn new(link: Link, keys: Keys, id: &str, incarnation: u64, lease: Duration) -> Self {
        Self(Arc::new(Inner {
            link,
            keys,
            id: id.to_owned(),
            incarnation: format!("{incarnation:016x}"),
            lease,
            view: watch::Sender::new(View::default()),
            lease_until: watch::Sender::new(None),
            has_left: AtomicBool::new(false),
        }))
    }

    /// This node's id.
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// What tells this run of the node from every other.
    pub fn incarnation(&self) -> &str {
        &self.0.incarnation
    }

    /// This node's epoch; 0 before it had a lease.
    pub fn epoch(&self) -> u64 {
        self.0.view.borrow().epoch
    }

    /// The group as last seen, to watch.
    pub fn view(&self) -> watch::Receiver<View> {
        self.0.view.subscribe()
    }

    /// Whether our lease holds at this moment for certain: by our own clock, reckoned from
    /// before we asked. After a pause of the process it says no before anything else runs.
    pub fn holds_lease(&self) -> bool {
        self.0.lease_until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Takes the lease for the first time. A lease that nobody refreshes is waited for, so a
    /// node that was killed can start again under its name.
    ///
    /// # Errors
    /// [`JoinError::Taken`] as soon as a live node is seen to refresh it.
    pub async fn join(&self) -> Result<u64, JoinError> {
        const LOOK_INTERVAL: Duration = Duration::from_millis(100);
        let inner = &*self.0;
        let mut left_ms = i64::MAX;
        loop {
            if let Some(epoch) = self.take().await.map_err(JoinError::Link)? {
                return Ok(epoch);
            }
            let node = inner.keys.node(&inner.id);
            let left: i64 =
                inner.link.command(redis::cmd("PTTL").arg(node)).await.map_err(JoinError::Link)?;
            if left > left_ms {
                let (group, id) = (inner.keys.group().to_owned(), inner.id.clone());
                return Err(JoinError::Taken { group, id });
            }
            left_ms = left;
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Takes or keeps the lease and looks at the group; three times per lease, and at once
    /// when Redis is back. `Ok(true)`: the lease was lost meanwhile and is held anew, with a
    /// new epoch; all that was told the group is to be told again.
    pub async fn refresh(&self) -> Result<bool, LinkError> {
        let inner = &*self.0;
        if inner.has_left.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let asked = Instant::now();
        let node = inner.keys.node(&inner.id);
        let prefix = inner.keys.node("");
        let script = Script::new(REFRESH);
        let mut call = script.key(node);
        call.key(inner.keys.nodes()).arg(&inner.incarnation);
        call.arg(inner.lease.as_millis() as u64).arg(prefix);
        let answer: Vec<String> = inner.link.script(&call).await?;
        let mut fields = answer.into_iter();
        let is_ours = fields.next().as_deref() == Some("1");
        let nodes = read_nodes(fields);
        let is_listed = nodes.contains_key(&inner.id);
        if is_ours && is_listed {
            inner.lease_until.send_replace(Some(asked + inner.lease));
            self.see(|view| {
                view.is_member = true;
                view.nodes = nodes;
            });
            return Ok(false);
        }
        self.see(|view| {
            view.is_member = false;
            view.nodes = nodes;
        });
        Ok(self.take().await?.is_some())
    }

    /// Gives the lease back, so that the others need not wait for its end.
    pub async fn leave(&self) -> Result<(), LinkError> {
        let inner = &*self.0;
        inner.has_left.store(true, Ordering::Relaxed);
        inner.lease_until.send_replace(None);
        self.see(|view| view.is_member = false);
        let script = Script::new(RELEASE);
        let mut call = script.key(inner.keys.node(&inner.id));
        inner.link.script(call.arg(&inner.incarnation)).await
    }

    /// Takes a node off the list whose lease has run out and of which nothing is left to take
    /// over. Nothing happens if it lives again.
    pub async fn forget(&self, id: &str, epoch: u64) -> Result<(), LinkError> {
        let inner = &*self.0;
        let script = Script::new(FORGET);
        let mut call = script.key(inner.keys.node(id));
        call.key(inner.keys.nodes()).arg(id).arg(epoch);
        inner.link.script(&call).await
    }

    /// The epoch, if the lease could be taken.
    async fn take(&self) -> Result<Option<u64>, LinkError> {
        let inner = &*self.0;
        let asked = Instant::now();
        let known = inner.view.borrow().epoch;
        let script = Script::new(TAKE);
        let mut call = script.key(inner.keys.node(&inner.id));
        call.key(inner.keys.nodes()).key(inner.keys.epoch());
        call.arg(&inner.id).arg(&inner.incarnation).arg(inner.lease.as_millis() as u64).arg(known);
        let epoch: u64 = inner.link.script(&call).await?;
        if epoch == 0 {
            return Ok(None);
        }
        inner.lease_until.send_replace(Some(asked + inner.lease));
        self.see(|view| {
            view.epoch = epoch;
            view.is_member = true;
            view.nodes.insert(inner.id.clone(), Member { epoch, is_live: true });
        });
        Ok(Some(epoch))
    }

    fn see(&self, change: impl FnOnce(&mut View)) {
        self.0.view.send_if_modified(|view| {
            let before = view.clone();
            change(view);
            *view != before
        });
    }
}

/// Id, epoch and liveness, again and again.
fn read_nodes(mut fields: impl Iterator<Item = String>) -> BTreeMap<String, Member> {
    let mut nodes = BTreeMap::new();
    while let (Some(id), Some(epoch), Some(live)) = (fields.next(), fields.next(), fields.next()) {
        let epoch = epoch.parse().unwrap_or(0);
        nodes.insert(id, Member { epoch, is_live: live == "1" });
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_nodes_is_read_in_threes() {
        let fields = ["A", "3", "1", "B", "7", "0", "half"].map(str::to_owned);
        let nodes = read_nodes(fields.into_iter());
        assert_eq!(nodes.len(), 2);
        assert_eq!(nodes["A"], Member { epoch: 3, is_live: true });
        assert_eq!(nodes["B"], Member { epoch: 7, is_live: false });
    }
}
