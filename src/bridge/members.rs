//! Which nodes the group has, and that this node is one of them: leases in Redis.
//!
//! A node is live while it holds `<GROUP>:NODE:<id>`, a key that expires unless its holder
//! refreshes it. The value is the holder's incarnation, so nobody refreshes or removes what is
//! not its own. Each time a node takes its lease it gets an epoch, which only rises in the
//! group: of two that claim one name, the higher is the newer.
//!
//! To the group each life of a node is a node of its own, named by its id and incarnation: one
//! that is started again begins with an empty inbox, and what its last life left (inbox,
//! sessions, what it wanted) stands in `<GROUP>:V2:NODES` until others have taken it over.
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

/// Takes the lease. KEYS: node, nodes, epoch, estate. ARGV: name, incarnation, lease in ms, the
/// highest epoch we know of (Redis may have forgotten). Answers the epoch, or 0 if another holds
/// it.
const TAKE: &str = r"
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[2] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
local epoch = redis.call('INCR', KEYS[3])
if epoch <= tonumber(ARGV[4]) then
  epoch = tonumber(ARGV[4]) + 1
  redis.call('SET', KEYS[3], epoch)
end
redis.call('HSET', KEYS[2], ARGV[1], epoch)
redis.call('HDEL', KEYS[4], 'gone', 'left')
redis.call('PERSIST', KEYS[4])
return epoch";

/// Refreshes the lease and answers whether it is still ours, then name, epoch and liveness of
/// every node: 1, 0, or `left`. KEYS: node, nodes. ARGV: incarnation, lease in ms, prefixes of node
/// keys and of estates.
const REFRESH: &str = r"
local own = 0
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  own = 1
end
local answer = {own}
local nodes = redis.call('HGETALL', KEYS[2])
for i = 1, #nodes, 2 do
  local id, incarnation = string.match(nodes[i], '^(.*):([^:]*)$')
  answer[#answer + 1] = nodes[i]
  answer[#answer + 1] = nodes[i + 1]
  if id and redis.call('GET', ARGV[3] .. id) == incarnation then answer[#answer + 1] = '1'
  elseif redis.call('HEXISTS', ARGV[4] .. nodes[i], 'left') == 1 then answer[#answer + 1] = 'left'
  else answer[#answer + 1] = '0' end
end
return answer";

/// Gives the lease back, for good. KEYS: node, estate. ARGV: incarnation.
const RELEASE: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[2], 'left', '1')
return redis.call('DEL', KEYS[1])";

/// Whether a stream that is read up to the entry `at` is read up to `last`, if there is one.
pub(super) const IS_REACHED: &str = r"
local function is_reached(at, last)
  if not last then return true end
  local ms, number = string.match(at or '', '(%d+)-(%d+)')
  local last_ms, last_number = string.match(last, '(%d+)-(%d+)')
  if ms ~= last_ms then return ms and tonumber(ms) > tonumber(last_ms) end
  return tonumber(number) >= tonumber(last_number)
end
";

/// Takes a node that is not live off the list, if nobody needs what it left: no session is its
/// own, none waits for what is in its inbox, and what of that was for shared groups is with
/// others. From then on nothing is written into its inbox. KEYS: node, nodes, clients that wait,
/// its sessions, estate, clients it passes messages on to. ARGV: name, its epoch, incarnation,
/// prefix of sessions, how long it is known that it is gone, ms.
const FORGET: &str = r"
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
if redis.call('GET', KEYS[1]) == ARGV[3] then return 0 end
for _, client in ipairs(redis.call('SRANDMEMBER', KEYS[3], 100)) do
  local left = redis.call('HGET', ARGV[4] .. client, 'left')
  if not left or not string.find(left, ARGV[1], 1, true) then
    redis.call('SREM', KEYS[3], client)
  end
end
for _, client in ipairs(redis.call('SRANDMEMBER', KEYS[6], 100)) do
  if redis.call('HGET', ARGV[4] .. client, 'passing') ~= ARGV[1] then
    redis.call('SREM', KEYS[6], client)
  end
end
if redis.call('EXISTS', KEYS[3], KEYS[4], KEYS[6]) > 0 then return 0 end
local estate = redis.call('HMGET', KEYS[5], 'last', 'at')
if not is_reached(estate[2], estate[1]) then return 0 end
redis.call('HSET', KEYS[5], 'gone', '1')
redis.call('PEXPIRE', KEYS[5], ARGV[5])
return redis.call('HDEL', KEYS[2], ARGV[1])";

/// How long a node is known to be gone: longer than anything waits to be written for it.
const GONE_TIME: Duration = Duration::from_secs(48 * 3600);

/// A node of the group as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub epoch: u64,
    /// Its lease holds. `false`: it is gone, and not yet forgotten.
    pub is_live: bool,
    /// It gave its lease back: it is gone for certain.
    pub has_left: bool,
}

/// The group as this node sees it. Scope: node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// This node's epoch; 0 before it has a lease.
    pub epoch: u64,
    /// This node holds its lease, as far as it knows.
    pub is_member: bool,
    /// Every node by its name, this one among them.
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
    name: String,
    lease: Duration,
    view: watch::Sender<View>,
    /// Until when our own lease holds for certain, by our clock.
    lease_until: watch::Sender<Option<Instant>>,
    has_left: AtomicBool,
}

impl Members {
    /// - `incarnation`: tells this run of the node from every other, live or past.
    pub fn new(link: Link, keys: Keys, id: &str, incarnation: u64, lease: Duration) -> Self {
        let incarnation = format!("{incarnation:016x}");
        Self(Arc::new(Inner {
            link,
            keys,
            id: id.to_owned(),
            name: format!("{id}:{incarnation}"),
            incarnation,
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

    /// This life of this node, as the group knows it: `<id>:<incarnation>`.
    pub fn name(&self) -> &str {
        &self.0.name
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
        call.arg(inner.lease.as_millis() as u64).arg(prefix).arg(inner.keys.estate(""));
        let answer: Vec<String> = inner.link.script(&mut call).await?;
        let mut fields = answer.into_iter();
        let is_ours = fields.next().as_deref() == Some("1");
        let nodes = read_nodes(fields);
        let is_listed = nodes.contains_key(&inner.name);
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
        call.key(inner.keys.estate(&inner.name));
        inner.link.script(call.arg(&inner.incarnation)).await
    }

    /// Takes a node off the list whose lease has run out, once all it left is taken over.
    /// Nothing happens before, or if it lives again.
    pub async fn forget(&self, name: &str, epoch: u64) -> Result<(), LinkError> {
        let inner = &*self.0;
        let keys = &inner.keys;
        let script = Script::new(&format!("{IS_REACHED}{FORGET}"));
        let (id, incarnation) = name.rsplit_once(':').unwrap_or((name, ""));
        let mut call = script.key(keys.node(id));
        call.key(keys.nodes()).key(keys.left(name)).key(keys.owned(name));
        call.key(keys.estate(name)).key(keys.handed(name));
        call.arg(name).arg(epoch).arg(incarnation).arg(keys.session(""));
        call.arg(GONE_TIME.as_millis() as u64);
        inner.link.script(&mut call).await
    }

    /// The epoch, if the lease could be taken.
    async fn take(&self) -> Result<Option<u64>, LinkError> {
        let inner = &*self.0;
        let asked = Instant::now();
        let known = inner.view.borrow().epoch;
        let script = Script::new(TAKE);
        let mut call = script.key(inner.keys.node(&inner.id));
        call.key(inner.keys.nodes()).key(inner.keys.epoch()).key(inner.keys.estate(&inner.name));
        call.arg(&inner.name)
            .arg(&inner.incarnation)
            .arg(inner.lease.as_millis() as u64)
            .arg(known);
        let epoch: u64 = inner.link.script(&mut call).await?;
        if epoch == 0 {
            return Ok(None);
        }
        inner.lease_until.send_replace(Some(asked + inner.lease));
        self.see(|view| {
            view.epoch = epoch;
            view.is_member = true;
            view.nodes.insert(inner.name.clone(), Member { epoch, is_live: true, has_left: false });
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

/// The id of the node that has this name.
pub fn id_of(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(id, _)| id)
}

/// Name, epoch and liveness, again and again.
fn read_nodes(mut fields: impl Iterator<Item = String>) -> BTreeMap<String, Member> {
    let mut nodes = BTreeMap::new();
    while let (Some(name), Some(epoch), Some(live)) = (fields.next(), fields.next(), fields.next())
    {
        let epoch = epoch.parse().unwrap_or(0);
        let (is_live, has_left) = (live == "1", live == "left");
        nodes.insert(name, Member { epoch, is_live, has_left });
    }
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_nodes_is_read_in_threes() {
        let fields = ["A", "3", "1", "B", "7", "0", "C", "9", "left", "half"].map(str::to_owned);
        let nodes = read_nodes(fields.into_iter());
        assert_eq!(nodes.len(), 3);
        assert_eq!(nodes["A"], Member { epoch: 3, is_live: true, has_left: false });
        assert_eq!(nodes["B"], Member { epoch: 7, is_live: false, has_left: false });
        assert_eq!(nodes["C"], Member { epoch: 9, is_live: false, has_left: true });
    }
}
