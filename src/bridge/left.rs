//! What nodes left in their inboxes: acknowledged to its publishers, and not taken in by the
//! shards of a node that died or does not answer. Sessions that were taken from such a node get
//! it from here.
//!
//! Shards name the nodes in question; a round goes through one inbox, for all sessions of this
//! node that waited for it when the round began. It reads on until every shard has said that all
//! nodes know where these sessions are: before, they write to the old inbox only. The inbox
//! stays as it is meanwhile: its owner does not trim it and nobody forgets it
//! ([`super::members::Members::forget`]) before every session that needs it has it.
//!
//! A message that the old node had handed to a session without noting it in its inbox comes
//! again here; the session knows it by its number.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use octopus_engine::{Envelope, PeerSet, ShardId};
use redis::Value;
use tokio::sync::Semaphore;

use super::{
    rules::Seen,
    run::{After, Bridge},
    wire,
    work::{Event, Work, entry_of, next_id},
};

/// Between the first session that waits for a node and the round that serves it: others follow.
const GATHER_TIME: Duration = Duration::from_millis(50);
/// Between two reads while a round waits for more.
const READ_INTERVAL: Duration = Duration::from_millis(50);
/// Entries read at a time.
const SLICE_COUNT: usize = 128;

/// One inbox that is being gone through.
pub(super) struct Round {
    /// What was seen in it.
    seen: HashMap<String, Seen>,
    /// Shards that have not said yet that all nodes know of their sessions.
    shards: u16,
    /// They all have: what is in it then is all.
    is_spread: Arc<AtomicBool>,
}

impl Bridge {
    /// Sessions of this node wait for what `node` left.
    pub(super) fn owe(&mut self, node: Box<str>) {
        if self.owed.is_empty() {
            let events = self.work.events.clone();
            tokio::spawn(async move {
                tokio::time::sleep(GATHER_TIME).await;
                // Nobody listens any more: the node is stopping.
                let _ = events.send(Event::Owed).await;
            });
        }
        self.owed.insert(node);
    }

    pub(super) fn begin_rounds(&mut self) {
        for node in std::mem::take(&mut self.owed) {
            self.last_round += 1;
            let round = self.last_round;
            let is_spread = Arc::new(AtomicBool::new(false));
            let (shards, told) = (self.shards, is_spread.clone());
            self.rounds.insert(round, Round { seen: HashMap::new(), shards, is_spread });
            self.give_all(&Envelope::LeftBegins { node: node.clone(), round });
            let permits = self.left_permits.clone();
            tokio::spawn(self.work.clone().read_left(node, round, told, permits));
        }
    }

    /// What the inbox's owner had taken in: it may be in there again.
    pub(super) fn left_seen(&mut self, round: u64, found: &HashMap<String, String>) {
        let seen = found.iter();
        let seen = seen.filter_map(|(origin, text)| Some((origin.clone(), Seen::parse(text)?)));
        if let Some(round) = self.rounds.get_mut(&round) {
            round.seen = seen.collect();
        }
    }

    /// All nodes know where one shard's sessions of this round are.
    pub(super) fn spread_of(&mut self, round: u64) {
        let Some(round) = self.rounds.get_mut(&round) else { return };
        round.shards -= 1;
        if round.shards == 0 {
            round.is_spread.store(true, Ordering::Release);
        }
    }

    /// Hands what was left to the shards, but for what came into the inbox twice.
    pub(super) fn take_left(&mut self, round: u64, entries: &[(String, Bytes)]) {
        let Some(mut state) = self.rounds.remove(&round) else { return };
        let frames = entries.iter().map(|(_, frame)| frame);
        for frame in frames.filter(|frame| wire::read_known(frame).is_none()) {
            let (head, records) = match wire::messages(frame, self.clock()) {
                Ok(read) => read,
                Err(error) => {
                    self.malformed(error);
                    continue;
                }
            };
            let seen = state.seen.entry(head.origin.to_owned()).or_default();
            let take = seen.take(head.epoch, head.first, records.len() as u64);
            for record in records.into_iter().skip(take.duplicates as usize) {
                if record.group.is_some() {
                    // It goes to a member that is left (`bequest`).
                    continue;
                }
                let message = record.message;
                let mut shards = PeerSet::default();
                self.wanted.shards_for(message.topic(), &mut shards);
                for shard in shards.iter() {
                    let message = message.clone();
                    self.give(ShardId(shard), Envelope::Left { round, message });
                }
            }
        }
        self.rounds.insert(round, state);
        self.fence(After::Permit(self.left_permits.clone()));
    }

    pub(super) fn end_round(&mut self, round: u64) {
        self.rounds.remove(&round);
        self.give_all(&Envelope::LeftEnds { round });
    }
}

impl Work {
    async fn left_before(&self, node: &str) -> HashMap<String, String> {
        loop {
            let mut command = redis::cmd("HGETALL");
            command.arg(self.keys.seen(node));
            match self.link.command(&command).await {
                Ok(found) => return found,
                Err(_) => tokio::time::sleep(READ_INTERVAL).await,
            }
        }
    }

    /// Reads one inbox from its beginning, and on until nothing more comes into it that is not
    /// sent to where the sessions are as well.
    async fn read_left(
        self,
        node: Box<str>,
        round: u64,
        is_spread: Arc<AtomicBool>,
        permits: Arc<Semaphore>,
    ) {
        let mut from = "-".to_owned();
        let found = self.left_before(&node).await;
        if self.events.send(Event::LeftSeen { round, found }).await.is_err() {
            return;
        }
        loop {
            let Ok(permit) = permits.acquire().await else { return };
            let is_last = is_spread.load(Ordering::Acquire);
            let mut command = redis::cmd("XRANGE");
            command.arg(self.keys.inbox(&node)).arg(&from).arg("+");
            command.arg("COUNT").arg(SLICE_COUNT);
            let Ok(found) = self.link.command::<Vec<Value>>(&command).await else {
                tokio::time::sleep(READ_INTERVAL).await;
                continue;
            };
            let is_end = found.len() < SLICE_COUNT;
            let entries: Vec<_> = found.into_iter().filter_map(entry_of).collect();
            if let Some((last, _)) = entries.last() {
                from = next_id(last);
                permit.forget();
                if self.events.send(Event::Left { round, entries }).await.is_err() {
                    return;
                }
            }
            if is_end && is_last {
                // Nobody listens any more: the node is stopping.
                let _ = self.events.send(Event::LeftEnds { round }).await;
                return;
            }
            if is_end {
                tokio::time::sleep(READ_INTERVAL).await;
            }
        }
    }
}
