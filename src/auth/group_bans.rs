//! The ban list of a group, in the Redis that its nodes share.
//!
//! `<GROUP>:V2:BANS` is a hash from target to `<ends> <reach>`: when its ban ends, by Redis' own
//! clock in ms (0: when it is taken off), so that clocks of nodes may differ; and whom it hits.
//! Every change raises `<GROUP>:V2:BANS:VERSION`. Each node writes its own changes as they happen
//! and looks once a second whether others have; so a ban holds in the whole group within about a
//! second, and where Redis is away on the node that set it. A Redis that lost the list is told it
//! again.
//!
//! Bans of the configuration are each node's own and do not get here.
//!
//! Scope: node.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use redis::{Script, Value};

use super::ban::{Reach, Target};
use super::chain::lock;
use crate::link::{Link, LinkError};

/// Changes that wait for Redis; more than the list can hold are not needed.
const WAITING_MAX: usize = 10_000;

/// Sets a ban. KEYS: bans, version. ARGV: target, time in ms or empty, reach.
const SET: &str = r"
local until_ms = 0
if ARGV[2] ~= '' then
  local now = redis.call('TIME')
  until_ms = now[1] * 1000 + math.floor(now[2] / 1000) + tonumber(ARGV[2])
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', until_ms) .. ' ' .. ARGV[3])
return redis.call('INCR', KEYS[2])";

/// Takes a ban off. KEYS: bans, version. ARGV: target.
const REMOVE: &str = r"
redis.call('HDEL', KEYS[1], ARGV[1])
return redis.call('INCR', KEYS[2])";

/// The version; if it is another than the known one, also each target, how many ms its ban has
/// left (-1: no end), and its reach. Forgets bans that are over. KEYS: bans, version. ARGV: known
/// version.
const READ: &str = r"
local version = redis.call('GET', KEYS[2]) or '0'
local answer = {version}
if version == ARGV[1] then return answer end
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local bans = redis.call('HGETALL', KEYS[1])
for i = 1, #bans, 2 do
  local ends, reach = string.match(bans[i + 1], '^(%d+) (%a+)$')
  local until_ms = tonumber(ends or '1')
  if until_ms ~= 0 and until_ms <= now_ms then
    redis.call('HDEL', KEYS[1], bans[i])
  else
    answer[#answer + 1] = bans[i]
    answer[#answer + 1] = string.format('%.0f', until_ms == 0 and -1 or until_ms - now_ms)
    answer[#answer + 1] = reach
  end
end
return answer";

/// What a node does to the list.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// `None`: until it is taken off.
    Set(Target, Option<Duration>, Reach),
    Remove(Target),
}

/// The whole list of the group: who, for how long still, and whom it hits.
pub(crate) type List = HashMap<Target, (Option<Duration>, Reach)>;

/// What a look at Redis brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nobody changed anything.
    Same,
    Changed(List),
    /// Redis knows of no ban ever: it is new, or has lost what it had.
    Empty,
}

/// See the module.
pub(crate) struct GroupBans {
    link: Link,
    bans: String,
    version: String,
    waiting: Mutex<VecDeque<Change>>,
    known: Mutex<String>,
}

impl GroupBans {
    /// - `key`: of the hash; the version's is `<key>:VERSION`.
    pub(crate) fn new(link: Link, key: &str) -> Self {
        Self {
            link,
            bans: key.to_owned(),
            version: format!("{key}:VERSION"),
            waiting: Mutex::default(),
            known: Mutex::new("0".to_owned()),
        }
    }

    /// Has `change` told to the group, now or when Redis is back.
    pub(crate) fn tell(&self, change: Change) {
        let mut waiting = lock(&self.waiting);
        if waiting.len() == WAITING_MAX {
            // The oldest is the nearest to its end.
            waiting.pop_front();
        }
        waiting.push_back(change);
    }

    /// Whether changes of this node are not written yet.
    pub(crate) fn is_behind(&self) -> bool {
        !lock(&self.waiting).is_empty()
    }

    /// Has the next look bring the whole list.
    pub(crate) fn read_again(&self) {
        lock(&self.known).clear();
    }

    /// Writes what waits, then looks for what others wrote.
    ///
    /// # Errors
    /// If Redis is away; what waits goes on waiting.
    pub(crate) async fn exchange(&self) -> Result<Seen, LinkError> {
        loop {
            let next = lock(&self.waiting).front().cloned();
            let Some(change) = next else { break };
            self.write(&change).await?;
            lock(&self.waiting).pop_front();
        }
        let known = lock(&self.known).clone();
        let script = Script::new(READ);
        let mut call = script.key(&self.bans);
        call.key(&self.version).arg(&known);
        let answer: Vec<Value> = self.link.script(&mut call).await?;
        let texts: Vec<String> = answer.iter().filter_map(text_of).collect();
        let Some((version, bans)) = texts.split_first() else { return Ok(Seen::Same) };
        if *version == known {
            return Ok(Seen::Same);
        }
        lock(&self.known).clone_from(version);
        if version == "0" {
            return Ok(Seen::Empty);
        }
        Ok(Seen::Changed(list_of(bans)))
    }

    async fn write(&self, change: &Change) -> Result<(), LinkError> {
        let (set, remove) = (Script::new(SET), Script::new(REMOVE));
        let (script, target, time, reach) = match change {
            Change::Set(target, time, reach) => (&set, target, *time, *reach),
            Change::Remove(target) => (&remove, target, None, Reach::Newcomers),
        };
        let time = time.map_or_else(String::new, |time| time.as_millis().to_string());
        let mut call = script.key(&self.bans);
        call.key(&self.version).arg(target.to_string()).arg(time).arg(reach.word());
        self.link.script::<i64>(&mut call).await.map(drop)
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}

/// Targets, times and reaches in turn, as [`READ`] answers; what is not one of ours is left out.
fn list_of(texts: &[String]) -> List {
    let bans = texts.chunks_exact(3).filter_map(|ban| {
        let (target, left_ms) = (ban[0].parse().ok()?, ban[1].parse::<i64>().ok()?);
        let left = u64::try_from(left_ms).ok().map(Duration::from_millis);
        Some((target, (left, Reach::parse(&ban[2])?)))
    });
    bans.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_and_what_is_not_ours_is_left_out() {
        let texts = "user:eve 1500 everyone client:c -1 newcomers nonsense 7 everyone \
                     user:x soon everyone user:y 7 nobody";
        let texts: Vec<String> = texts.split_whitespace().map(str::to_owned).collect();
        let list = list_of(&texts);
        let target = |text: &str| text.parse::<Target>().expect("a target");
        assert_eq!(list.len(), 2);
        let left = Some(Duration::from_millis(1500));
        assert_eq!(list[&target("user:eve")], (left, Reach::Everyone));
        assert_eq!(list[&target("client:c")], (None, Reach::Newcomers));
    }
}
