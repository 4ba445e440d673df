//! What nodes left in their inboxes: acknowledged to its publishers, and not taken in by the
//! shards of a node that died or does not answer. Sessions that were taken from such a node get
//! it from here.
//!
//! Shards name the nodes in question; a round goes through one inbox, for all sessions of this
//! node that waited for it when the round began. It reads on for a while, because until the
//! other nodes know where these sessions are now they write to the old inbox only. The inbox
//! stays as it is meanwhile: its owner does not trim it and nobody forgets it
//! ([`super::members::Members::forget`]) before every session that needs it has it.
//!
//! A message that the old node had handed to a session without noting it in its inbox comes
//! again here; the session knows it by its number.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
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
/// How long a round reads on: many times what news of a subscription takes.
const SPREAD_TIME: Duration = Duration::from_millis(1000);
/// Between two reads while it does.
const READ_INTERVAL: Duration = Duration::from_millis(50);
/// Entries read at a time.
const SLICE_COUNT: usize = 128;

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
            self.rounds.insert(round, HashMap::new());
            self.give_all(&Envelope::LeftBegins { node: node.clone(), round });
            let permits = self.left_permits.clone();
            tokio::spawn(self.work.clone().read_left(node, round, permits));
        }
    }

    /// What the inbox's owner had taken in: it may be in there again.
    pub(super) fn left_seen(&mut self, round: u64, found: &HashMap<String, String>) {
        let seen = found.iter();
        let seen = seen.filter_map(|(origin, text)| Some((origin.clone(), Seen::parse(text)?)));
        self.rounds.insert(round, seen.collect());
    }

    /// Hands what was left to the shards, but for what came into the inbox twice.
    pub(super) fn take_left(&mut self, round: u64, entries: &[(String, Bytes)]) {
        let mut seen = self.rounds.remove(&round).unwrap_or_default();
        for (_, frame) in entries {
            let (head, records) = match wire::messages(frame, self.clock()) {
                Ok(read) => read,
                Err(error) => {
                    self.malformed(error);
                    continue;
                }
            };
            let seen = seen.entry(head.origin.to_owned()).or_default();
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
        self.rounds.insert(round, seen);
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

    /// Reads one inbox from its beginning, and on until the time is over; as long as it takes
    /// if Redis is away.
    async fn read_left(self, node: Box<str>, round: u64, permits: Arc<Semaphore>) {
        let mut from = "-".to_owned();
        let mut until = None;
        let found = self.left_before(&node).await;
        if self.events.send(Event::LeftSeen { round, found }).await.is_err() {
            return;
        }
        loop {
            let Ok(permit) = permits.acquire().await else { return };
            let begun = Instant::now();
            let mut command = redis::cmd("XRANGE");
            command.arg(self.keys.inbox(&node)).arg(&from).arg("+");
            command.arg("COUNT").arg(SLICE_COUNT);
            let Ok(found) = self.link.command::<Vec<Value>>(&command).await else {
                tokio::time::sleep(READ_INTERVAL).await;
                continue;
            };
            let until = *until.get_or_insert(begun + SPREAD_TIME);
            let is_end = found.len() < SLICE_COUNT;
            let entries: Vec<_> = found.into_iter().filter_map(entry_of).collect();
            if let Some((last, _)) = entries.last() {
                from = next_id(last);
                permit.forget();
                if self.events.send(Event::Left { round, entries }).await.is_err() {
                    return;
                }
            }
            if is_end && begun >= until {
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
