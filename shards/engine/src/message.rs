//! The Application Message as it is routed: immutable, shared by reference count.
//!
//! Two forms. A [`Parcel`] borrows from the PUBLISH it came in and costs nothing; a
//! [`Message`] owns its bytes and can wait in queues and cross to other shards. A parcel
//! becomes a message when the first of its destinations needs one, so a QoS 0 message
//! between clients of one shard is never allocated.

use std::sync::Arc;

use bytes::Bytes;
use octopus_mqtt::{MessageProperties, QoS, TopicName};

use crate::Instant;

/// An Application Message. Cloning it is one reference count.
#[derive(Clone, Debug)]
pub struct Message(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Topic Name, encoded properties to forward (without the expiry), payload.
    text: Text,
    topic_len: u16,
    properties_len: u32,
    qos: QoS,
    retain: bool,
    expires_at: Option<Instant>,
    received_at: Instant,
    publisher: u64,
    id: u64,
}

/// Up to this many bytes of topic, properties and payload lie in the message itself: most
/// messages are then one allocation.
const INLINE_BYTES: usize = 110;

#[derive(Debug)]
enum Text {
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    Shared(Bytes),
}

impl Text {
    fn of(parts: [&[u8]; 3]) -> Self {
        let len = parts.iter().map(|part| part.len()).sum();
        if len > INLINE_BYTES {
            let mut bytes = Vec::with_capacity(len);
            parts.iter().for_each(|part| bytes.extend_from_slice(part));
            return Self::Shared(bytes.into());
        }
        let mut bytes = [0; INLINE_BYTES];
        let mut at = 0;
        for part in parts {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        Self::Inline { len: len as u8, bytes }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Self::Shared(bytes) => bytes,
        }
    }
}

impl Message {
    /// Builds a message of the node's own (`$SYS`, wills, tests).
    ///
    /// - `now`: when it was received; its Message Expiry Interval counts from here.
    pub fn new(
        topic: TopicName<'_>,
        payload: &[u8],
        qos: QoS,
        retain: bool,
        properties: &MessageProperties<'_>,
        now: Instant,
    ) -> Self {
        let mut encoded = Vec::new();
        properties.encode_without_expiry(&mut encoded);
        Self::from_parts(&MessageParts {
            topic,
            payload,
            qos,
            retain,
            properties: &encoded,
            expires_at: expiry(properties.expiry_s, now),
            received_at: now,
            publisher: 0,
            id: 0,
        })
    }

    /// A message of these parts.
    pub fn from_parts(parts: &MessageParts<'_>) -> Self {
        let topic = parts.topic.as_str().as_bytes();
        Self(Arc::new(Inner {
            text: Text::of([topic, parts.properties, parts.payload]),
            topic_len: topic.len() as u16,
            properties_len: parts.properties.len() as u32,
            qos: parts.qos,
            retain: parts.retain,
            expires_at: parts.expires_at,
            received_at: parts.received_at,
            publisher: parts.publisher,
            id: parts.id,
        }))
    }

    /// Hash of the publisher's Client Identifier; 0 for a node's own messages.
    pub fn publisher(&self) -> u64 {
        self.0.publisher
    }

    /// Tells a message of QoS 1 or 2 from all others in its group; 0 for all others.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    pub fn topic(&self) -> TopicName<'_> {
        let topic = str::from_utf8(self.topic_bytes()).expect("it was a Topic Name before");
        TopicName::assume_valid(topic)
    }

    /// The Topic Name, to compare with others.
    pub(crate) fn topic_bytes(&self) -> &[u8] {
        &self.0.text.bytes()[..usize::from(self.0.topic_len)]
    }

    pub fn payload(&self) -> &[u8] {
        &self.0.text.bytes()[self.payload_at()..]
    }

    /// The payload, shared with this message unless it is short.
    pub fn payload_shared(&self) -> Bytes {
        match &self.0.text {
            Text::Inline { .. } => Bytes::copy_from_slice(self.payload()),
            Text::Shared(bytes) => bytes.slice(self.payload_at()..),
        }
    }

    /// Encoded version 5 properties to forward, without the Message Expiry Interval.
    pub fn properties(&self) -> &[u8] {
        &self.0.text.bytes()[self.0.topic_len.into()..self.payload_at()]
    }

    fn payload_at(&self) -> usize {
        usize::from(self.0.topic_len) + self.0.properties_len as usize
    }

    pub fn qos(&self) -> QoS {
        self.0.qos
    }

    /// The RETAIN flag it was published with.
    pub fn retain(&self) -> bool {
        self.0.retain
    }

    /// When its Message Expiry Interval is over (§3.3.2.3.3).
    pub fn expires_at(&self) -> Option<Instant> {
        self.0.expires_at
    }

    pub fn is_expired(&self, now: Instant) -> bool {
        self.0.expires_at.is_some_and(|at| at <= now)
    }

    /// When this node took it in.
    pub fn received_at(&self) -> Instant {
        self.0.received_at
    }

    /// A message of the node's own, made without a clock, as one received now: its Message
    /// Expiry Interval counts from here.
    pub(crate) fn taken_in(self, now: Instant) -> Self {
        let Some(expires_at) = self.0.expires_at else { return self };
        let left = expires_at.since(self.0.received_at);
        Self::from_parts(&MessageParts {
            topic: self.topic(),
            payload: self.payload(),
            qos: self.0.qos,
            retain: self.0.retain,
            properties: self.properties(),
            expires_at: Some(now.after(left)),
            received_at: now,
            publisher: self.0.publisher,
            id: self.0.id,
        })
    }

    /// Topic plus payload, the size limits are counted in.
    pub fn size(&self) -> usize {
        self.0.text.bytes().len() - self.0.properties_len as usize
    }

    /// What the next hop needs; borrows from this message.
    pub(crate) fn parcel(&self) -> Parcel<'_> {
        Parcel {
            topic: self.topic(),
            payload: self.payload(),
            qos: self.0.qos,
            retain: self.0.retain,
            properties: Properties::Encoded(self.properties()),
            expires_at: self.0.expires_at,
            received_at: self.0.received_at,
            publisher: self.0.publisher,
            id: self.0.id,
            message: Some(self.clone()),
        }
    }
}

/// What a message is made of, when it crosses between nodes.
#[derive(Clone, Copy, Debug)]
pub struct MessageParts<'a> {
    pub topic: TopicName<'a>,
    pub payload: &'a [u8],
    pub qos: QoS,
    pub retain: bool,
    /// As [`Message::properties`].
    pub properties: &'a [u8],
    pub expires_at: Option<Instant>,
    pub received_at: Instant,
    pub publisher: u64,
    /// As [`Message::id`].
    pub id: u64,
}

/// A message on its way through one shard, borrowed until somebody must keep it.
#[derive(Debug)]
pub(crate) struct Parcel<'a> {
    pub(crate) topic: TopicName<'a>,
    pub(crate) payload: &'a [u8],
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    properties: Properties<'a>,
    pub(crate) expires_at: Option<Instant>,
    pub(crate) received_at: Instant,
    /// Hash of the publisher's Client Identifier; 0 for the node's own messages.
    pub(crate) publisher: u64,
    /// See [`Message::id`].
    pub(crate) id: u64,
    message: Option<Message>,
}

/// Properties to forward: absent, as the publisher sent them, or encoded by us.
#[derive(Debug)]
enum Properties<'a> {
    None,
    Decoded(&'a MessageProperties<'a>),
    Encoded(&'a [u8]),
}

impl<'a> Parcel<'a> {
    /// The message of a PUBLISH just received.
    pub(crate) fn new(
        topic: TopicName<'a>,
        payload: &'a [u8],
        qos: QoS,
        retain: bool,
        properties: &'a MessageProperties<'a>,
        publisher: u64,
        now: Instant,
    ) -> Self {
        let bare = properties.is_empty();
        Self {
            topic,
            payload,
            qos,
            retain,
            expires_at: if bare { None } else { expiry(properties.expiry_s, now) },
            properties: if bare { Properties::None } else { Properties::Decoded(properties) },
            received_at: now,
            publisher,
            id: 0,
            message: None,
        }
    }

    /// The owned form; made once, then shared.
    pub(crate) fn message(&mut self) -> &Message {
        self.message.get_or_insert_with(|| {
            let mut encoded = Vec::new();
            let properties = match self.properties {
                Properties::None => &[],
                Properties::Encoded(bytes) => bytes,
                Properties::Decoded(properties) => {
                    properties.encode_without_expiry(&mut encoded);
                    &encoded[..]
                }
            };
            Message::from_parts(&MessageParts {
                topic: self.topic,
                payload: self.payload,
                qos: self.qos,
                retain: self.retain,
                properties,
                expires_at: self.expires_at,
                received_at: self.received_at,
                publisher: self.publisher,
                id: self.id,
            })
        })
    }

    /// Appends the encoded properties to forward, without the Message Expiry Interval.
    pub(crate) fn encode_properties(&self, out: &mut Vec<u8>) {
        match self.properties {
            Properties::None => {}
            Properties::Encoded(bytes) => out.extend_from_slice(bytes),
            Properties::Decoded(properties) => properties.encode_without_expiry(out),
        }
    }

    /// Seconds left of the Message Expiry Interval, rounded up so that a message that is not
    /// expired never says 0 [MQTT-3.3.2-6].
    pub(crate) fn expiry_s(&self, now: Instant) -> Option<u32> {
        remaining_s(self.expires_at, now)
    }

    /// Topic plus payload bytes.
    pub(crate) fn size(&self) -> usize {
        self.topic.as_str().len() + self.payload.len()
    }
}

/// Seconds from `now` to `expires_at`, at least 1.
pub(crate) fn remaining_s(expires_at: Option<Instant>, now: Instant) -> Option<u32> {
    let left = expires_at?.since(now);
    Some(u32::try_from(left.as_micros().div_ceil(1_000_000)).unwrap_or(u32::MAX).max(1))
}

fn expiry(expiry_s: Option<u32>, now: Instant) -> Option<Instant> {
    expiry_s.map(|s| now.after(std::time::Duration::from_secs(s.into())))
}

macro_rules! dropped {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a message did not reach a subscriber. Every drop is counted under one of these.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Dropped { $($(#[$doc])* $name,)* }

        impl Dropped {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The label in metrics.
            pub fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

dropped! {
    /// No subscription matched anywhere this shard knows of.
    NoSubscriber = "no_subscriber",
    /// The session's queue was full (messages or bytes).
    QueueFull = "queue_full",
    /// QoS 0 for a client that does not read fast enough.
    SlowReader = "slow_reader",
    /// QoS 0 for a session whose client is away.
    Offline = "offline",
    /// The Message Expiry Interval passed before it could be sent.
    Expired = "expired",
    /// Larger than the client's Maximum Packet Size [MQTT-3.1.2-25].
    TooLarge = "too_large",
    /// The session ended with the message still in its queue.
    SessionEnded = "session_ended",
    /// The client refused it: a PUBACK or PUBREC with an error [MQTT-4.3.3-4].
    RefusedByClient = "refused_by_client",
    /// A shared group had no member left to take it.
    NoMember = "no_member",
    /// Published, but the retained store was full: delivered, not retained.
    RetainedFull = "retained_full",
    /// The publisher was not allowed to publish it.
    NotAuthorized = "not_authorized",
    /// QoS 0 for a peer on the mesh that is too far behind.
    MeshFull = "mesh_full",
    /// The memory budget ran short: QoS 0 for who does not keep up, or not retained; or it ran
    /// out, and the publisher was refused.
    Memory = "memory",
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::topic;

    #[test]
    fn a_message_is_its_parts_whether_they_lie_in_it_or_not() {
        for payload_len in [0, 1, INLINE_BYTES - 6, INLINE_BYTES - 5, 5000] {
            let payload = vec![b'.'; payload_len];
            let message = Message::from_parts(&MessageParts {
                topic: topic("a/b"),
                payload: &payload,
                qos: QoS::AtLeastOnce,
                retain: false,
                properties: &[1, 1],
                expires_at: None,
                received_at: Instant(0),
                publisher: 0,
                id: 0,
            });
            assert_eq!((message.topic().as_str(), message.properties()), ("a/b", &[1, 1][..]));
            assert_eq!(
                (message.payload(), &message.payload_shared()[..]),
                (&payload[..], &payload[..])
            );
            assert_eq!(message.size(), 3 + payload_len);
            let is_inline = matches!(message.0.text, Text::Inline { .. });
            assert_eq!(is_inline, 5 + payload_len <= INLINE_BYTES);
        }
    }

    #[test]
    fn a_message_and_its_count_fit_in_three_cache_lines() {
        assert!(size_of::<Inner>() + 2 * size_of::<usize>() <= 176);
    }
}
