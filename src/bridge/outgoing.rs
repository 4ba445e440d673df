//! What the bridge gives Redis: batches for the writer, one at a time, and what becomes of them;
//! and what is given up when its time is over.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use bytes::Bytes;
use octopus_engine::{Envelope, Message, ReceiptId, ShardId};
use redis::Value;

use super::{
    link::LinkError,
    outbox::Durable,
    run::{Bridge, Node},
    wire::{self, Control, Head},
    work::{How, Op},
};
use crate::config::WhenAway;

impl Bridge {
    /// Writes a change of the retained messages.
    pub(super) fn retain(&mut self, message: &Message, how: How, receipt: Option<ReceiptId>) {
        if !self.link.is_up() && self.waiting.len() >= self.config.hold_count_max as usize {
            // This node keeps what the group will not have; when Redis is back, the group's
            // value replaces it.
            self.has_overflowed = true;
            return self.refuse(receipt);
        }
        let topic = message.topic().as_str();
        let how = if message.payload().is_empty() { How::Delete } else { how };
        let mut record = Vec::with_capacity(64 + message.size());
        wire::put_message(&mut record, message, None, self.clock());
        self.retained_last += 1;
        let head = Head {
            origin: self.work.members.name(),
            epoch: self.epoch(),
            first: self.retained_last,
            count: 1,
        };
        let frame = Bytes::from(wire::frame(&head, std::iter::once(&record[..])));
        if how != How::Restore {
            self.pending.sent(topic);
        }
        let is_degraded = !self.link.is_up() && self.config.when_redis_is_away == WhenAway::Degrade;
        let receipt = match receipt {
            Some(receipt) if is_degraded => {
                self.counters.degraded(1);
                self.answer(receipt, None);
                None
            }
            receipt => receipt.map(|receipt| self.receipts.open(receipt, 1)),
        };
        self.waiting.push_back(Op::Retain {
            topic: topic.into(),
            frame,
            how,
            receipt,
            deadline: Instant::now() + self.config.hold_time,
        });
    }

    /// Gives the writer all there is, if it is idle and Redis is there.
    pub(super) fn write(&mut self) {
        if self.is_writing || !self.link.is_up() || self.epoch() == 0 {
            return;
        }
        let mut ops: Vec<Op> = self.waiting.drain(..).collect();
        ops.extend(self.interest_op());
        let (own, epoch) = (self.work.members.name().to_owned(), self.epoch());
        let is_spread = self.work.link.is_spread();
        let is_held = self.holds_durable || !self.work.is_awake();
        for (name, node) in &mut self.nodes {
            if !is_spread {
                let fast = node.lane.take_fast(&own, epoch, &mut self.load);
                ops.extend(fast.into_iter().map(|frame| Op::Fast { node: name.clone(), frame }));
            }
            if !is_held {
                ops.extend(node.lane.take_durable(epoch).into_iter().map(Op::Append));
            }
        }
        if !self.is_held_up() {
            ops.append(&mut self.answers);
        }
        if ops.is_empty() {
            return;
        }
        self.is_whole = !is_held;
        self.batches_begun += u64::from(self.is_whole);
        // The channel holds one batch and the writer is idle, so there is room.
        self.is_writing = self.batches.try_send(ops).is_ok();
    }

    /// Messages that shards sent may still be on this node, because Redis takes none of it at
    /// present: what is said to be behind them must not overtake them.
    pub(super) fn is_held_up(&self) -> bool {
        !self.work.is_awake() || self.has_put_back && self.has_unwritten()
    }

    /// Something that shards sent may still be on this node.
    pub(super) fn has_unwritten(&self) -> bool {
        self.is_writing
            || self.nodes.values().any(|node| node.lane.has_durable())
            || self.waiting.iter().any(|op| matches!(op, Op::Append(_)))
    }

    /// Hands on what goes by the masters of a Redis Cluster, each node's apart from the others':
    /// one at a time, so that it keeps its order. A master that does not answer holds up nobody
    /// but the nodes whose channels it serves.
    pub(super) fn spread(&mut self) {
        if !self.work.link.is_spread() || self.epoch() == 0 {
            return;
        }
        let (own, epoch) = (self.work.members.name().to_owned(), self.epoch());
        for (name, node) in self.nodes.iter_mut().filter(|(_, node)| !node.is_spreading) {
            let frames = node.lane.take_fast(&own, epoch, &mut self.load);
            if !frames.is_empty() {
                node.is_spreading = true;
                tokio::spawn(self.work.clone().spread(name.clone(), frames));
            }
        }
    }

    fn interest_op(&mut self) -> Option<Op> {
        if self.changes.is_empty() {
            return None;
        }
        let changes = std::mem::take(&mut self.changes);
        self.interest_last += 1;
        let told = changes.iter().map(|(entry, wanted)| (entry.to_text().into(), *wanted));
        let frame = self.control_frame(&Control::Interest(told.collect()));
        Some(Op::Interest { mark: self.mark(), frame, changes })
    }

    /// Tells the group all that this node wants.
    pub(super) fn tell_all_interest(&mut self) {
        self.changes.clear();
        self.interest_last += 1;
        let entries = self.wanted.entries().collect();
        let frame = self.control_frame(&Control::Reload);
        self.waiting.push_back(Op::AllInterest { mark: self.mark(), frame, entries });
    }

    fn mark(&self) -> String {
        format!("{} {}", self.epoch(), self.interest_last)
    }

    /// Tells every node something that is lost with the link.
    pub(super) fn tell(&mut self, control: &Control) {
        let frame = self.control_frame(control);
        let channel = self.work.keys.control();
        self.waiting.push_back(Op::Tell { channel, frame });
    }

    fn control_frame(&self, control: &Control) -> Bytes {
        let head = Head {
            origin: self.work.members.name(),
            epoch: self.epoch(),
            first: self.interest_last,
            count: 0,
        };
        wire::control(&head, control).into()
    }

    pub(super) fn on_written(&mut self, ops: Vec<Op>, result: Result<Vec<Value>, LinkError>) {
        self.is_writing = false;
        match result {
            Ok(answers) => {
                let mut refused = BTreeMap::<String, Vec<Durable>>::new();
                let mut gone = Vec::new();
                self.has_put_back &= !ops.iter().any(|op| matches!(op, Op::Append(_)));
                for (op, answer) in ops.into_iter().zip(answers) {
                    match op {
                        Op::Append(durable) if answer == Value::Int(0) => {
                            refused.entry(durable.node.clone()).or_default().push(durable);
                        }
                        Op::Append(durable) if answer == Value::Int(2) => gone.push(durable),
                        op => self.done(op, &answer),
                    }
                }
                for durable in gone {
                    self.load.sub(durable.count(), durable.bytes());
                    durable.parcels.into_iter().for_each(|parcel| self.gone_before(parcel));
                }
                if self.is_whole && refused.is_empty() {
                    self.batch_written = self.batches_begun;
                }
                self.has_put_back |= !refused.is_empty();
                self.holds_durable |= !refused.is_empty();
                for (node, frames) in refused {
                    self.put_back(&node, frames);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "batch not written");
                let is_interest =
                    |op: &Op| matches!(op, Op::Interest { .. } | Op::AllInterest { .. });
                let lost_interest = ops.iter().any(is_interest);
                for mut op in ops.into_iter().rev().filter(Op::is_durable) {
                    if let Op::Append(durable) = &mut op {
                        durable.doubt();
                    }
                    self.waiting.push_front(op);
                }
                self.drop_void();
                if lost_interest {
                    self.tell_all_interest();
                }
            }
        }
    }

    /// Redis does not take them, because this node did not say lately that it is there: it will
    /// in a moment.
    fn put_back(&mut self, node: &str, frames: Vec<Durable>) {
        match self.nodes.get_mut(node) {
            Some(node) => node.lane.put_back(frames),
            None => self.waiting.extend(frames.into_iter().map(Op::Append)),
        }
        self.drop_void();
    }

    /// A session of `shard` was lost to another node; its client publishes there again what it has
    /// no acknowledgement of.
    pub(super) fn void(&mut self, shard: ShardId, receipts: &[u64]) {
        let void = self.receipts.void(shard, receipts);
        self.has_overflowed |= !void.is_empty();
        void.into_iter().for_each(|receipt| self.refuse(Some(receipt)));
        self.drop_void();
    }

    /// Drops what is still to be written and whose publishers wait no longer.
    fn drop_void(&mut self) {
        let (load, receipts) = (&mut self.load, &self.receipts);
        let is_void =
            |receipt: Option<u64>| receipt.is_some_and(|number| !receipts.is_open(number));
        for node in self.nodes.values_mut() {
            node.lane.drop_void(load, |parcel| is_void(parcel.receipt));
        }
        self.waiting.retain_mut(|op| match op {
            Op::Append(durable) => {
                durable.parcels.retain(|parcel| {
                    if is_void(parcel.receipt) {
                        load.sub(1, parcel.record.len());
                    }
                    !is_void(parcel.receipt)
                });
                !durable.parcels.is_empty()
            }
            Op::Retain { receipt, .. } => !is_void(*receipt),
            _ => true,
        });
    }

    fn done(&mut self, op: Op, answer: &Value) {
        match op {
            Op::Append(durable) => {
                self.load.sub(durable.count(), durable.bytes());
                self.counters.sent(durable.count() as u64);
                durable.receipts().for_each(|number| self.written(Some(number)));
            }
            Op::Retain { receipt, .. } => self.written(receipt),
            Op::Measure { node } => {
                if let (Some(node), Value::Int(len)) = (self.nodes.get_mut(&node), answer) {
                    node.lane.is_full = *len >= i64::from(self.config.inbox_count_max);
                }
            }
            // Who was taken over needs what is in the inbox.
            Op::Trim { .. } if *answer == Value::Int(0) => self.untrimmed = Some(op),
            Op::Trim { barrier, .. } => {
                self.untrimmed = None;
                self.give_all(&Envelope::Trimmed { barrier });
            }
            Op::Publish { .. }
            | Op::Tell { .. }
            | Op::Fast { .. }
            | Op::Interest { .. }
            | Op::AllInterest { .. }
            | Op::Sweep { .. } => {}
        }
    }

    // --- time ---

    pub(super) fn tick(&mut self) {
        let now = Instant::now();
        let mut late = Vec::new();
        for node in self.nodes.values_mut() {
            late.extend(node.lane.expire(now));
        }
        for parcel in late {
            self.load.sub(1, parcel.record.len());
            self.lost(parcel.receipt);
        }
        self.expire_waiting(now);
        self.answer_late(now);
        if self.nodes.values().any(|node| node.missing_since.is_some()) {
            self.see_group();
        }
        self.take_uncertain();
        self.waiting.extend(self.untrimmed.take());
        self.holds_durable = false;
        if self.link.is_up() && now - self.measured_at >= Duration::from_secs(1) {
            self.measured_at = now;
            self.forget_gone();
            self.bequeath();
            let names = self.nodes.keys().cloned();
            let measures: Vec<Op> = names.map(|node| Op::Measure { node }).collect();
            self.waiting.extend(measures);
        }
    }

    /// Gives up what an outage left and is over by now. A retained message is still written,
    /// because it says what is; only its publisher is told that it was not in time.
    fn expire_waiting(&mut self, now: Instant) {
        let mut lost = Vec::new();
        let load = &mut self.load;
        self.waiting.retain_mut(|op| match op {
            Op::Append(durable) if durable.is_late(now) => {
                load.sub(durable.count(), durable.bytes());
                lost.extend(durable.receipts());
                false
            }
            Op::Retain { receipt, deadline, .. } if *deadline <= now => {
                lost.extend(receipt.take());
                true
            }
            _ => true,
        });
        lost.into_iter().for_each(|number| self.lost(Some(number)));
    }

    /// A node is gone: nobody waits for what it would have got.
    pub(super) fn drop_lane(&mut self, name: &str, node: &mut Node) {
        let (fast, durable) = node.lane.drain();
        for record in fast {
            self.load.sub(1, record.len());
        }
        let mut parcels = durable;
        parcels.iter().for_each(|parcel| self.load.sub(1, parcel.record.len()));
        let load = &mut self.load;
        self.waiting.retain_mut(|op| match op {
            Op::Append(durable) if durable.node == name => {
                load.sub(durable.count(), durable.bytes());
                parcels.append(&mut durable.parcels);
                false
            }
            Op::Measure { node } => node != name,
            _ => true,
        });
        parcels.into_iter().for_each(|parcel| self.gone_before(parcel));
    }
}
