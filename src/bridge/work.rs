//! What waits for Redis, each in a task of its own, so that the bridge itself never waits.
//!
//! Each task tells the bridge what came of it as an [`Event`]. The reader takes a permit per
//! batch, which the bridge gives back when the shards have taken the batch: a slow shard stops
//! the reading, not the bridge.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use redis::{Pipeline, Value};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use super::{
    keys::Keys,
    link::{Link, LinkError, LinkState},
    members::Members,
    outbox::Durable,
    retained::Catch,
    rules::Entry,
};

/// Entries of a stream taken at a time.
const READ_COUNT: usize = 128;
/// How long one read waits for entries.
const READ_BLOCK_MS: u64 = 1000;
/// How long a read may take, its waiting included.
const READ_MAX: Duration = Duration::from_secs(3);
/// After an error that is not the link's, before the next attempt.
const RETRY: Duration = Duration::from_millis(200);

/// Keeps a change of the retained messages in the one order all nodes follow. KEYS: values,
/// log, the predecessor's values. ARGV: topic, frame, entries to keep, `set`, `del` or `new`.
const RETAIN: &str = r"
if ARGV[4] == 'new' and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return false end
redis.call('HDEL', KEYS[3], ARGV[1])
if ARGV[4] == 'del' then redis.call('HDEL', KEYS[1], ARGV[1])
else redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
return redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 't', ARGV[1], 'f', ARGV[2])";

/// Publishes to a node, on the same condition. KEYS: that this node is there. ARGV: channel, frame.
const FAST: &str = r"
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
return redis.call('PUBLISH', ARGV[1], ARGV[2])";

/// Writes into a node's inbox, if this node said lately that it is there: a node that did not has
/// let go of its clients, and they publish elsewhere; and if the other is not forgotten. Answers
/// the entry, 0 if this node is not there, or 2 if the other is gone. KEYS: that it is there,
/// inbox, estate of the other. ARGV: frame, whether there is something for shared groups in it.
const APPEND: &str = r"
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if redis.call('HEXISTS', KEYS[3], 'gone') == 1 then return 2 end
local entry = redis.call('XADD', KEYS[2], '*', 'f', ARGV[1])
if ARGV[2] == '1' then redis.call('HSET', KEYS[3], 'last', entry) end
return entry";

/// Changes a node's interest and tells the others. KEYS: interest. ARGV: mark, how to publish,
/// channel, frame, then `+` or `-` and an entry each.
const INTEREST: &str = r"
for i = 5, #ARGV, 2 do
  if ARGV[i] == '+' then redis.call('HSET', KEYS[1], ARGV[i + 1], '1')
  else redis.call('HDEL', KEYS[1], ARGV[i + 1]) end
end
redis.call('HSET', KEYS[1], '', ARGV[1])
redis.call(ARGV[2], ARGV[3], ARGV[4])";

/// Forgets what was taken in of an inbox, unless somebody else still needs it. Answers whether
/// it did. What sessions got before the first entry that is kept was in an entry before it. KEYS:
/// clients who need it, inbox, seen, what sessions got. ARGV: the first entry to keep, then origin
/// and what was seen of it.
const TRIM: &str = r"
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('XTRIM', KEYS[2], 'MINID', ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', '(' .. string.match(ARGV[1], '^%d+'))
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1]) end
return 1";

/// Plain calls. ARGV: of each the number of its words, then the words.
const CALLS: &str = r"
local i = 1
while i <= #ARGV do
  local n = tonumber(ARGV[i])
  redis.call(unpack(ARGV, i + 1, i + n))
  i = i + n + 1
end";

/// Removes what a forgotten node left. KEYS: nodes, then its keys. ARGV: its id.
const SWEEP: &str = r"
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 0 end
for i = 2, #KEYS do redis.call('DEL', KEYS[i]) end
return 1";

/// Entries of the log of retained changes that are kept for nodes that were away.
const RETAIN_LOG_MAX: u64 = 100_000;

/// Something to write. Carried out in order, again and again until Redis has it, but for what
/// says otherwise.
#[derive(Debug)]
pub enum Op {
    /// For those outside the group. Lost with the link.
    Publish {
        channel: String,
        frame: Bytes,
    },
    /// For the nodes of the group. Lost with the link.
    Tell {
        channel: String,
        frame: Bytes,
    },
    /// QoS 0 for a node, where that does not spread. Lost with the link.
    Fast {
        node: String,
        frame: Bytes,
    },
    Append(Durable),
    Retain {
        topic: Box<str>,
        frame: Bytes,
        how: How,
        receipt: Option<u64>,
        /// When its publisher is told that it was not in time.
        deadline: Instant,
    },
    /// Lost with the link; all interest is told anew when it is back.
    Interest {
        mark: String,
        frame: Bytes,
        changes: Vec<(Entry, bool)>,
    },
    /// All interest of this node. Lost with the link.
    AllInterest {
        mark: String,
        frame: Bytes,
        entries: Vec<Entry>,
    },
    /// This node's inbox is taken in up to this entry.
    Trim {
        /// The fence behind what is taken in.
        barrier: u64,
        upto: String,
        seen: Vec<(String, String)>,
    },
    /// Removes the keys of a node that is gone.
    Sweep {
        node: String,
    },
    /// Asks for the length of a node's inbox.
    Measure {
        node: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Set,
    Delete,
    /// Unless somebody wrote it meanwhile.
    Restore,
}

impl Op {
    /// Whether it is written again after an outage.
    pub fn is_durable(&self) -> bool {
        let is_lost = matches!(
            self,
            Self::Publish { .. }
                | Self::Tell { .. }
                | Self::Fast { .. }
                | Self::Interest { .. }
                | Self::AllInterest { .. }
                | Self::Measure { .. }
        );
        !is_lost
    }
}

/// What the tasks tell the bridge.
#[derive(Debug)]
pub enum Event {
    Link(LinkState),
    /// The lease was lost and taken anew.
    Rejoined,
    /// The group may have changed.
    Seen,
    /// The answers to a batch, or what became of it.
    Written {
        ops: Vec<Op>,
        result: Result<Vec<Value>, LinkError>,
    },
    /// The group's channels are listened to from now on.
    Listening,
    /// That of this node is, which spreads.
    ListeningFast,
    /// What was to be spread to a node is, or is lost.
    Spread {
        node: String,
    },
    Heard {
        channel: String,
        payload: Vec<u8>,
    },
    /// What a node wants: its mark and entries.
    Interest {
        node: String,
        found: HashMap<String, String>,
    },
    /// What came in the inbox and the log, by entry id.
    Inbox(Vec<(String, Bytes)>),
    Log(Vec<(String, Bytes)>),
    /// What there is to catch up with.
    Catch(Catch),
    /// It is time to go through the inboxes that are owed.
    Owed,
    /// What of one of them was taken in, origin by origin.
    LeftSeen {
        round: u64,
        found: HashMap<String, String>,
    },
    /// What is in it, by entry id.
    Left {
        round: u64,
        entries: Vec<(String, Bytes)>,
    },
    /// That was all.
    LeftEnds {
        round: u64,
    },
    /// What a dead node left for shared groups was looked through.
    Bequeathed {
        node: String,
        /// Messages that other members get.
        moved: u64,
        /// Messages of groups without members.
        lost: u64,
    },
    /// Under this epoch, up to this entry what this node had left for shared groups when it was
    /// not live is with others.
    Moved {
        epoch: u64,
        upto: Option<String>,
    },
}

/// What every task needs.
#[derive(Clone)]
pub struct Work {
    pub link: Link,
    pub keys: Keys,
    pub members: Members,
    pub events: mpsc::Sender<Event>,
    /// The group is to be looked at now.
    pub look: Arc<Notify>,
    /// Until when this node's sessions are its own for certain, by our clock; from the store.
    pub kept_until: watch::Sender<Option<Instant>>,
}

impl Work {
    /// Follows the link's state.
    pub async fn follow_link(self) {
        let mut state = self.link.state();
        loop {
            let now = *state.borrow_and_update();
            if self.events.send(Event::Link(now)).await.is_err() || state.changed().await.is_err() {
                return;
            }
        }
    }

    /// Keeps the lease, and tells when the group changes.
    pub async fn keep_lease(self, lease: Duration) {
        let mut state = self.link.state();
        let mut view = self.members.view();
        loop {
            match self.members.refresh().await {
                Ok(true) if self.events.send(Event::Rejoined).await.is_err() => return,
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "lease not refreshed"),
            }
            if view.has_changed().unwrap_or(false) {
                view.mark_unchanged();
                if self.events.send(Event::Seen).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(lease / 4) => {}
                () = self.look.notified() => {}
                changed = state.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Writes batches, one after the other.
    pub async fn write(self, mut batches: mpsc::Receiver<Vec<Op>>) {
        while let Some(ops) = batches.recv().await {
            let result = self.link.pipeline(&self.pipeline(&ops)).await;
            if self.events.send(Event::Written { ops, result }).await.is_err() {
                return;
            }
        }
    }

    fn pipeline(&self, ops: &[Op]) -> Pipeline {
        let mut pipeline = redis::pipe();
        for op in ops {
            self.put(op, &mut pipeline);
        }
        pipeline
    }

    /// One command per op, so that answers belong to ops by their place.
    fn put(&self, op: &Op, pipeline: &mut Pipeline) {
        let keys = &self.keys;
        match op {
            Op::Publish { channel, frame } => {
                pipeline.cmd("PUBLISH").arg(channel).arg(&frame[..]);
            }
            Op::Tell { channel, frame } => {
                pipeline.cmd(keys.publish()).arg(channel).arg(&frame[..]);
            }
            Op::Fast { node, frame } => {
                let eval = self.eval(pipeline, FAST, [keys.awake(self.members.name())]);
                eval.arg(keys.fast(node)).arg(&frame[..]);
            }
            Op::Append(durable) => {
                let own = self.members.name();
                let node = &durable.node;
                let names = [keys.awake(own), keys.inbox(node), keys.estate(node)];
                let eval = self.eval(pipeline, APPEND, names);
                eval.arg(durable.frame(own)).arg(u8::from(durable.is_shared()));
            }
            Op::Retain { topic, frame, how, .. } => {
                let how = match how {
                    How::Set => "set",
                    How::Delete => "del",
                    How::Restore => "new",
                };
                let names = [keys.retained(), keys.retained_log(), keys.old_retained()];
                let eval = self.eval(pipeline, RETAIN, names);
                eval.arg(&**topic).arg(&frame[..]).arg(RETAIN_LOG_MAX).arg(how);
            }
            Op::Interest { mark, frame, changes } => {
                let names = [keys.interest(self.members.name())];
                let eval = self.eval(pipeline, INTEREST, names);
                eval.arg(mark).arg(keys.publish()).arg(keys.control()).arg(&frame[..]);
                for (entry, wanted) in changes {
                    eval.arg(if *wanted { "+" } else { "-" }).arg(entry.to_text());
                }
            }
            Op::AllInterest { mark, frame, entries } => {
                let mut all = redis::pipe();
                all.atomic();
                let key = keys.interest(self.members.name());
                all.cmd("DEL").arg(&key);
                for chunk in entries.chunks(1000) {
                    let set = all.cmd("HSET").arg(&key);
                    chunk.iter().for_each(|entry| {
                        set.arg(entry.to_text()).arg("1");
                    });
                }
                all.cmd("HSET").arg(&key).arg("").arg(mark);
                all.cmd(keys.publish()).arg(keys.control()).arg(&frame[..]);
                put_atomic(self.eval(pipeline, CALLS, []), &all);
            }
            Op::Trim { upto, seen, .. } => {
                let own = self.members.name();
                let names = [keys.left(own), keys.inbox(own), keys.seen(own), keys.got(own)];
                let eval = self.eval(pipeline, TRIM, names);
                eval.arg(next_id(upto));
                for (origin, seen) in seen {
                    eval.arg(origin).arg(seen);
                }
            }
            Op::Sweep { node } => {
                let (inbox, interest) = (keys.inbox(node), keys.interest(node));
                let names = [keys.nodes(), inbox, interest, keys.seen(node), keys.got(node)];
                self.eval(pipeline, SWEEP, names).arg(node);
            }
            Op::Measure { node } => {
                pipeline.cmd("XLEN").arg(keys.inbox(node));
            }
        }
    }

    /// Whether Redis takes messages of this node ([`APPEND`]), for certain.
    pub(super) fn is_awake(&self) -> bool {
        self.kept_until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// A script that names `keys`, and the link's guard behind them; its arguments are to follow.
    fn eval<'a, const COUNT: usize>(
        &self,
        pipeline: &'a mut Pipeline,
        script: &str,
        keys: [String; COUNT],
    ) -> &'a mut Pipeline {
        let guard = self.link.guard();
        let count = COUNT + usize::from(guard.is_some());
        pipeline.cmd("EVAL").arg(script).arg(count).arg(&keys[..]).arg(guard)
    }

    /// Spreads QoS 0 for a node, or loses it.
    ///
    /// In one Redis the publishing itself asks there whether this node is awake (`FAST`); what
    /// spreads is not where that stands. Our own clock says the same, and sooner: the time began
    /// before the store asked. What it cannot say is what becomes of a frame that has left: if
    /// the process stands still in the very moment, the frame goes out when it wakes, perhaps
    /// behind what its publisher has sent by another node since. It is QoS 0: it does not come
    /// twice, and nobody was promised it.
    pub async fn spread(self, node: String, frames: Vec<Bytes>) {
        if self.is_awake()
            && let Err(error) = self.link.spread(&self.keys.fast(&node), &frames).await
        {
            tracing::debug!(node, %error, "messages of QoS 0 lost");
        }
        // Nobody listens any more: the node is stopping.
        let _ = self.events.send(Event::Spread { node }).await;
    }

    /// Listens to what spreads to this node, for good.
    pub async fn listen_fast(self) {
        let channel = self.keys.fast(self.members.name());
        loop {
            if let Ok(mut subscription) = self.link.subscribe_spread(&channel).await {
                if self.events.send(Event::ListeningFast).await.is_err() {
                    return;
                }
                while let Some((channel, payload)) = subscription.next().await {
                    if self.events.send(Event::Heard { channel, payload }).await.is_err() {
                        return;
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Listens to the group's channels, and those of others, for good.
    pub async fn listen(self, own: Vec<String>, outside: Vec<String>) {
        loop {
            // A connection that died without a word is not noticed by listening; that the link
            // was made anew is. Looked at from here on: what was asked for when this listened,
            // and the link was not there yet, is asked for again.
            let mut state = self.link.state();
            let Ok(mut subscription) = self.link.subscribe(&own, &outside).await else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            if self.events.send(Event::Listening).await.is_err() {
                return;
            }
            loop {
                let heard = tokio::select! {
                    heard = subscription.next() => heard,
                    changed = state.changed() => match changed {
                        Ok(()) => None,
                        Err(_) => return,
                    },
                };
                let Some((channel, payload)) = heard else { break };
                if self.events.send(Event::Heard { channel, payload }).await.is_err() {
                    return;
                }
            }
        }
    }

    /// Reads one stream for good, from behind `after`.
    pub async fn read(
        self,
        stream: String,
        mut after: String,
        permits: Arc<Semaphore>,
        event: fn(Vec<(String, Bytes)>) -> Event,
    ) {
        loop {
            let Ok(mut connection) = self.link.blocking().await else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            loop {
                let Ok(permit) = permits.acquire().await else { return };
                let mut command = redis::cmd("XREAD");
                command.arg("COUNT").arg(READ_COUNT).arg("BLOCK").arg(READ_BLOCK_MS);
                command.arg("STREAMS").arg(&stream).arg(&after);
                let answer = command.query_async::<Value>(&mut connection);
                // Without an answer in all that time the connection is dead.
                let Ok(Ok(answer)) = tokio::time::timeout(READ_MAX, answer).await else { break };
                let entries = entries_of(answer);
                let Some((last, _)) = entries.last() else { continue };
                after.clone_from(last);
                permit.forget();
                if self.events.send(event(entries)).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Reads what a node wants, once; again if Redis does not answer.
    pub async fn load_interest(self, node: String) {
        let mut command = redis::cmd("HGETALL");
        command.arg(self.keys.interest(&node));
        let found: HashMap<String, String> = match self.link.command(&command).await {
            Ok(found) => found,
            // The next time it is listened, it is loaded again.
            Err(_) => return,
        };
        // Nobody listens any more: the node is stopping.
        let _ = self.events.send(Event::Interest { node, found }).await;
    }
}

/// Several commands that answer as one: `eval` is a script of plain calls.
fn put_atomic(eval: &mut Pipeline, commands: &Pipeline) {
    for command in commands.cmd_iter() {
        let arguments: Vec<&[u8]> = command
            .args_iter()
            .filter_map(|argument| match argument {
                redis::Arg::Simple(bytes) => Some(bytes),
                _ => None,
            })
            .collect();
        eval.arg(arguments.len());
        arguments.into_iter().for_each(|argument| {
            eval.arg(argument);
        });
    }
}

/// The entry id right behind this one.
pub(super) fn next_id(id: &str) -> String {
    match id.split_once('-') {
        Some((ms, number)) => {
            let number: u64 = number.parse().unwrap_or(0);
            format!("{ms}-{}", number.saturating_add(1))
        }
        None => id.to_owned(),
    }
}

/// Id and field `f` of every entry in an answer to XREAD or XRANGE. Entries without the field
/// come with an empty one.
fn entries_of(answer: Value) -> Vec<(String, Bytes)> {
    let streams = match answer {
        Value::Map(streams) => streams.into_iter().map(|(_, entries)| entries).collect(),
        Value::Array(streams) => streams
            .into_iter()
            .filter_map(|stream| match stream {
                Value::Array(pair) => pair.into_iter().nth(1),
                _ => None,
            })
            .collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    let entries = streams.into_iter().flat_map(|entries| match entries {
        Value::Array(entries) => entries,
        _ => Vec::new(),
    });
    entries.filter_map(entry_of).collect()
}

pub(super) fn entry_of(entry: Value) -> Option<(String, Bytes)> {
    let Value::Array(parts) = entry else { return None };
    let mut parts = parts.into_iter();
    let Value::BulkString(id) = parts.next()? else { return None };
    let id = String::from_utf8(id).ok()?;
    let mut frame = Bytes::new();
    if let Some(Value::Array(fields)) = parts.next() {
        let mut fields = fields.into_iter();
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            if let (Value::BulkString(name), Value::BulkString(value)) = (name, value)
                && name == b"f"
            {
                frame = value.into();
            }
        }
    }
    Some((id, frame))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn the_id_behind_an_id_is_the_next_number() {
        assert_eq!(next_id("1700-0"), "1700-1");
        assert_eq!(next_id("1700-41"), "1700-42");
    }

    #[test]
    fn entries_are_read_in_both_protocols() {
        let entry = Value::Array(vec![text("1-1"), Value::Array(vec![text("f"), text("x")])]);
        let entries = Value::Array(vec![entry]);
        let resp3 = Value::Map(vec![(text("s"), entries.clone())]);
        let resp2 = Value::Array(vec![Value::Array(vec![text("s"), entries])]);
        let expected = vec![("1-1".to_owned(), Bytes::from_static(b"x"))];
        assert_eq!(entries_of(resp3), expected);
        assert_eq!(entries_of(resp2), expected);
        assert_eq!(entries_of(Value::Nil), []);
    }
}
