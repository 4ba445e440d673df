//! Runs: PUBLISH packets of QoS 0 or 1 to one topic, side by side in what a client sent, and the
//! PUBACKs that answer them.
//!
//! A run is matched once. Subscribers that may have its packets just as they came, but for the
//! Packet Identifiers, get all of them in one piece; for everybody else, and wherever each
//! message counts by itself (shared groups, other nodes, a reader that is behind), it is taken
//! apart. A run and its messages one by one differ in nothing but the cost: `tests/runs.rs`
//! holds the two against each other.

use std::sync::Arc;

use bytes::Bytes;
use octopus_mqtt::{
    AckKind, MessageProperties, PLAIN_ACK_BYTES, PacketType, PublishRun, QoS, ReasonCode,
    RunBytesMax, RunPackets, RunShape, TopicName, Version, plain_ack,
};

use crate::envelope::{Envelope, ShardId};
use crate::event::{ConnectionId, Instant, OutBuffer};
use crate::handle::publish::{has_more_levels, may_publish};
use crate::inflight::{Inflight, Sent, SentRun, next_packet_id};
use crate::interest::PeerSet;
use crate::memory::MemoryLevel;
use crate::message::{Message, Parcel};
use crate::route::{Origin, QUOTA_LEAVES_IDS};
use crate::session::{Deliveries, Queued};
use crate::shard::{Shard, lend};
use crate::subscriptions::{Grant, SessionId, Subscriber};

/// The first byte of every PUBACK.
pub(crate) const PUBACK: u8 = (PacketType::PubAck as u8) << 4;

/// A message of a run keeps all of it, if it has no more bytes than this; of a larger one it is
/// copied.
pub(crate) const KEPT_BYTES_MAX: usize = 4096;
/// Bytes of a run of QoS 1 whose packets have one length. While its messages are acknowledged in
/// order it is kept as it is: a session keeps one for fewer messages than it has.
const EVEN_BYTES_MAX: usize = 16 << 10;
/// So many large packets are a run, whatever their bytes.
const LARGE_COUNT: usize = 8;

/// Bytes of a run of QoS 1 whose first packet has so many. Places in it are `u16`.
pub(crate) fn acknowledged_bytes_max(packet_len: usize) -> RunBytesMax {
    let large = LARGE_COUNT * packet_len;
    let max = |small: usize| large.clamp(small, u16::MAX.into());
    RunBytesMax { even: max(EVEN_BYTES_MAX), uneven: max(KEPT_BYTES_MAX) }
}

/// A run that is kept: on the mesh, or until its messages are acknowledged. Cloning it is one
/// reference count.
#[derive(Clone, Debug)]
pub struct MessageRun(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes: Bytes,
    topic_at: u16,
    topic_len: u16,
    shape: RunShape,
    publisher: u64,
    received_at: Instant,
}

impl MessageRun {
    /// Messages in it.
    pub fn count(&self) -> usize {
        self.0.shape.count
    }

    /// Its packets as they came from the publisher.
    pub(crate) fn packets(&self) -> RunPackets<'_> {
        PublishRun::of(&self.0.bytes, self.0.shape).packets()
    }

    pub(crate) fn bytes(&self) -> &Bytes {
        &self.0.bytes
    }

    pub(crate) fn topic_bytes(&self) -> &[u8] {
        &self.0.bytes[self.0.topic_at.into()..][..self.0.topic_len.into()]
    }

    pub(crate) fn qos(&self) -> QoS {
        self.0.shape.qos
    }

    /// As [`crate::Message::publisher`].
    pub(crate) fn publisher(&self) -> u64 {
        self.0.publisher
    }

    pub(crate) fn received_at(&self) -> Instant {
        self.0.received_at
    }
}

/// A run on its way through one shard, borrowed until somebody must keep it.
pub(crate) struct RunParcel<'a> {
    run: PublishRun<'a>,
    publisher: u64,
    received_at: Instant,
    owned: Option<MessageRun>,
}

impl<'a> RunParcel<'a> {
    fn owned(&mut self) -> &MessageRun {
        self.owned.get_or_insert_with(|| {
            let topic_len = self.run.topic().as_str().len();
            let topic_end = self.run.packets().next().map_or(topic_len, |first| first.packet_id_at);
            MessageRun(Arc::new(Inner {
                bytes: Bytes::copy_from_slice(self.run.bytes()),
                // Behind a fixed header; the end of a long topic would not fit.
                topic_at: (topic_end - topic_len) as u16,
                topic_len: topic_len as u16,
                shape: self.run.shape(),
                publisher: self.publisher,
                received_at: self.received_at,
            }))
        })
    }

    fn topic(&self) -> TopicName<'a> {
        self.run.topic()
    }

    /// Its messages one by one.
    fn parcels<'p>(&self, none: &'p MessageProperties<'p>) -> impl Iterator<Item = Parcel<'p>>
    where
        'a: 'p,
    {
        let (topic, publisher, at) = (self.topic(), self.publisher, self.received_at);
        let qos = self.run.shape().qos;
        let packets = self.run.packets();
        packets
            .map(move |packet| Parcel::new(topic, packet.payload, qos, false, none, publisher, at))
    }
}

impl Shard {
    /// Takes a run from a client; `false`, and nothing is done, if its packets must be taken
    /// one by one.
    pub(crate) fn publish_run(&mut self, id: ConnectionId, run: PublishRun<'_>) -> bool {
        let Some(connection) = self.connections.get(id) else { return false };
        let Some(session) = connection.session() else { return false };
        let RunShape { qos, count, payload_bytes, .. } = run.shape();
        let levels_max = self.config.limits.topic_levels_max.into();
        // In a group each message of QoS 1 has a receipt of its own.
        let is_acknowledged = qos == QoS::AtMostOnce
            || !self.config.cluster
                && connection.owed.is_none()
                && self.editions.get(connection.edition).qos_max >= qos;
        if self.trace.is_on
            || !is_acknowledged
            || self.memory.level() >= MemoryLevel::Short
            || has_more_levels(run.topic().as_str(), levels_max)
            || !may_publish(connection, run.topic())
        {
            return false;
        }
        self.stats.packets_received += count as u64;
        self.stats.publish_received[qos as usize] += count as u64;
        self.stats.publish_bytes_received += payload_bytes as u64;
        let (publisher, received_at) = (connection.publisher, self.now);
        let mut parcel = RunParcel { run, publisher, received_at, owned: None };
        let reached = self.route_run(&mut parcel, Origin::Client, Some(session));
        if qos == QoS::AtLeastOnce {
            self.acknowledge_run(id, &run, reached);
        }
        true
    }

    #[inline(never)]
    fn acknowledge_run(&mut self, id: ConnectionId, run: &PublishRun<'_>, reached: usize) {
        let reason = match reached {
            0 => ReasonCode::NoMatchingSubscribers,
            _ => ReasonCode::Success,
        };
        let Some(manner) = self.connections.get(id).map(|connection| connection.manner()) else {
            return;
        };
        let Some(out) = self.out(id) else { return };
        if manner.version < Version::V5 || reason == ReasonCode::Success {
            let start = out.len();
            out.resize(start + PLAIN_ACK_BYTES * run.shape().count, 0);
            let mut answers = out[start..].as_chunks_mut().0.iter_mut();
            let bytes = run.bytes();
            run.each_packet_id_at(|at| {
                if let (Some(answer), Some(id)) = (answers.next(), bytes[at..].first_chunk()) {
                    *answer = plain_ack(AckKind::PubAck, *id);
                }
            });
        } else {
            for packet_id in run.packets().filter_map(|packet| packet.packet_id) {
                manner.put_ack(out, AckKind::PubAck, packet_id, reason);
            }
        }
        // `out` counted one.
        self.stats.packets_sent += run.shape().count as u64 - 1;
    }

    /// Takes the PUBACKs at the front of `bytes` that come in the order of what they answer;
    /// tells how many bytes those are. What says more than that is left to `puback`.
    pub(crate) fn pubacks(&mut self, id: ConnectionId, bytes: &[u8]) -> usize {
        if self.trace.is_on {
            return 0;
        }
        let session = self.connections.get(id).and_then(|connection| connection.session());
        let Some((session, found)) = session.and_then(|id| Some((id, self.sessions.get_mut(id)?)))
        else {
            return 0;
        };
        if found.is_recorded {
            return 0;
        }
        let deliveries = found.deliveries_if_any().filter(|deliveries| deliveries.unsent == 0);
        let Some(deliveries) = deliveries else { return 0 };
        let (answers, _) = bytes.as_chunks();
        let mut count = 0;
        while let Some(done) = deliveries.inflight.acknowledge(&answers[count..]) {
            self.stats.inflight_bytes -= done.bytes as u64;
            count += done.count;
        }
        if count > 0 {
            self.stats.packets_received += count as u64;
            self.stats.inflight -= count as u64;
            self.stats.ledger.settle_all(count as u64);
            self.pump(session);
        }
        count * PLAIN_ACK_BYTES
    }

    /// Takes a run from another shard.
    pub(crate) fn take_run(&mut self, run: &MessageRun) {
        let Inner { bytes, shape, publisher, received_at, .. } = &*run.0;
        let mut parcel = RunParcel {
            run: PublishRun::of(bytes, *shape),
            publisher: *publisher,
            received_at: *received_at,
            owned: Some(run.clone()),
        };
        self.route_run(&mut parcel, Origin::Shard, None);
    }

    /// As `route`, for each of its messages; all have as many destinations.
    fn route_run(
        &mut self,
        parcel: &mut RunParcel<'_>,
        origin: Origin,
        publisher: Option<SessionId>,
    ) -> usize {
        let none = MessageProperties::default();
        let mut matches = std::mem::take(&mut self.matches);
        let filters = self.subscriptions.matching(parcel.topic(), |subscriber, grant| {
            matches.push((subscriber, grant));
        });
        if filters > 1 || self.trace.is_on {
            // Who matched twice gets each message once: that is found out message by message.
            matches.clear();
            self.matches = matches;
            let messages = parcel.parcels(&none);
            let reached = messages.map(|mut message| self.route(&mut message, origin, publisher));
            // Nothing changes between them that could make it differ.
            return reached.max().unwrap_or(0);
        }
        self.latency.hop = Some(origin.hop());
        let mut reached = matches.len();
        let is_worth_it = reached > 1 || parcel.owned.is_some();
        let is_shared = is_worth_it && parcel.run.bytes().len() >= self.limits().shared_payload_min;
        matches.retain(|&(subscriber, grant)| {
            !self.deliver_run(subscriber, grant, parcel, publisher, is_shared)
        });
        if !matches.is_empty() {
            for mut message in parcel.parcels(&none) {
                self.templates.reset();
                self.deliver_each(&matches, &mut message, origin, publisher);
            }
        }
        matches.clear();
        self.matches = matches;
        if origin == Origin::Client {
            reached += self.forward_run(parcel, &none);
            if reached == 0 {
                parcel.parcels(&none).for_each(|message| self.drop_unwanted(&message, publisher));
            }
        }
        reached
    }

    /// Writes the whole run to a subscriber that takes it as it is; `false` if this one does
    /// not.
    fn deliver_run(
        &mut self,
        subscriber: Subscriber,
        grant: Grant,
        parcel: &mut RunParcel<'_>,
        publisher: Option<SessionId>,
        is_shared: bool,
    ) -> bool {
        let Subscriber::Session(id) = subscriber else { return false };
        let RunShape { version, qos, count, packet_len_max, payload_bytes, .. } =
            parcel.run.shape();
        let is_own = grant.no_local && publisher == Some(id);
        if grant.subscription_id != 0 || grant.qos < qos || is_own {
            return false;
        }
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let Some(at) = session.connection else { return false };
        if session.is_recorded || session.moving.is_some() {
            return false;
        }
        let is_ample = self.memory.level() < MemoryLevel::Short;
        let limits = &self.config.limits;
        let Some(connection) = self.connections.get_mut(at) else { return false };
        let bytes = parcel.run.bytes();
        let size = count * parcel.topic().as_str().len() + payload_bytes;
        let (waiting, sent, sent_bytes) = match session.peek_deliveries() {
            Some(found) => (found.has_waiting(), found.inflight.len(), found.inflight.bytes()),
            None => (false, 0, 0),
        };
        let has_room = qos == QoS::AtMostOnce
            || !waiting
                && sent + count <= connection.send_quota.into()
                && sent_bytes + size <= limits.queue_bytes_max;
        let is_plain = connection.version == version
            && packet_len_max <= connection.packet_size_max as usize
            && connection.extras.as_ref().is_none_or(|extras| extras.alias_out_max == 0);
        let out_len = connection.out_len() + bytes.len();
        if !is_plain || !is_ample || !has_room || out_len > limits.out_bytes_max {
            return false;
        }
        let out = lend(connection, &mut self.spare);
        if qos == QoS::AtLeastOnce {
            let run = parcel.owned().clone();
            let is_shared = payload_bytes >= count * limits.shared_payload_min;
            connection.shared_len +=
                send_run(run, size, &mut connection.out, session.deliveries(), is_shared);
            self.stats.inflight += count as u64;
            self.stats.inflight_bytes += size as u64;
            self.stats.ledger.queue_all(count as u64);
        } else if is_shared {
            let offset = out.len();
            connection.out.shared.push((offset, parcel.owned().0.bytes.clone()));
            connection.shared_len += bytes.len();
        } else {
            out.extend_from_slice(bytes);
        }
        if !connection.is_dirty {
            connection.is_dirty = true;
            self.dirty.push(at);
        }
        self.latency.delivered(at, count as u32, parcel.received_at, self.now);
        self.stats.packets_sent += count as u64;
        self.stats.publish_sent[qos as usize] += count as u64;
        self.stats.publish_bytes_sent += payload_bytes as u64;
        if qos == QoS::AtMostOnce {
            self.stats.ledger.deliver_all(count as u64);
        }
        true
    }

    /// As `forward`: to other shards in one piece, to other nodes message by message.
    fn forward_run(&mut self, parcel: &mut RunParcel<'_>, none: &MessageProperties<'_>) -> usize {
        if self.interest.is_empty() {
            return 0;
        }
        let mut peers = std::mem::take(&mut self.peers);
        self.interest.matching(parcel.topic(), &mut peers);
        let (mut reached, mut nodes) = (0, PeerSet::default());
        for peer in peers.iter() {
            reached += 1;
            if peer >= self.config.shards {
                nodes.insert(peer);
                continue;
            }
            self.stats.ledger.forward_all(parcel.run.shape().count as u64);
            self.send(ShardId(peer), Envelope::PublishRun(parcel.owned().clone()));
        }
        if !nodes.is_empty() {
            for mut message in parcel.parcels(none) {
                self.forward_to(&mut message, &nodes);
            }
        }
        peers.clear();
        self.peers = peers;
        reached
    }
}

/// Writes a run of QoS 1 with Packet Identifiers of this session's, and notes its messages as
/// sent. Tells how many bytes of payload were not copied.
///
/// - `size`: topic plus payload bytes of all of them.
/// - `is_shared`: its payloads are large enough to be sent from where they are kept.
fn send_run(
    kept: MessageRun,
    size: usize,
    out: &mut OutBuffer,
    deliveries: &mut Deliveries,
    is_shared: bool,
) -> usize {
    let RunShape { count, is_even, payload_bytes, .. } = kept.0.shape;
    let numbers = if is_even { deliveries.next_numbers(count) } else { None };
    let Some((packet_id, serial)) = numbers else {
        send_each(&kept, &mut out.bytes, deliveries);
        return 0;
    };
    let run = PublishRun::of(kept.bytes(), kept.0.shape);
    let mut next = packet_id;
    let mut next_id = || {
        let id = next.get();
        next = next_packet_id(id);
        id.to_be_bytes()
    };
    if is_shared {
        let mut start = 0;
        for packet in run.packets() {
            let id_at = out.bytes.len() + packet.packet_id_at - start;
            out.bytes.extend_from_slice(&run.bytes()[start..packet.payload_at]);
            out.bytes[id_at..id_at + 2].copy_from_slice(&next_id());
            start = packet.payload_at + packet.payload.len();
            out.shared.push((out.bytes.len(), kept.bytes().slice(packet.payload_at..start)));
        }
    } else {
        let start = out.bytes.len();
        out.bytes.extend_from_slice(run.bytes());
        let written = &mut out.bytes[start..];
        run.each_packet_id_at(|at| written[at..at + 2].copy_from_slice(&next_id()));
    }
    let (left, size, behind) = (count, size / count, Vec::new());
    let run = SentRun { run: kept, packet_id, serial, left, size, behind };
    deliveries.inflight.push_run(run);
    if is_shared { payload_bytes } else { 0 }
}

/// As `send_run`, for what has no numbers one after the other: each message is noted by itself.
fn send_each(kept: &MessageRun, out: &mut Vec<u8>, deliveries: &mut Deliveries) {
    let start = out.len();
    out.extend_from_slice(kept.bytes());
    for packet in kept.packets() {
        let packet_id = deliveries.next_packet_id().expect(QUOTA_LEAVES_IDS);
        let id_at = start + packet.packet_id_at;
        out[id_at..id_at + 2].copy_from_slice(&packet_id.get().to_be_bytes());
        let serial = deliveries.next_serial();
        let (qos, retain, extra) = (QoS::AtLeastOnce, false, None);
        let message = Message::of_run(kept, packet.payload_at, packet.payload.len());
        let item = Queued { message, qos, retain, serial, extra };
        deliveries.inflight.push(Inflight { packet_id, serial, state: Sent::Published(item) });
    }
}
