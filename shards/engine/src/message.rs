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
use crate::run::{KEPT_BYTES_MAX, MessageRun};

/// An Application Message. Cloning it is one reference count.
#[derive(Clone, Debug)]
pub struct Message(Body);

#[derive(Clone, Debug)]
enum Body {
    Own(Arc<Inner>),
    /// One of a run that was sent and waits to be acknowledged: the run is kept as a whole.
    OfRun {
        run: MessageRun,
        payload_at: u16,
        payload_len: u16,
    },
}

#[derive(Debug)]
struct Inner {
    /// Topic Name, encoded properties to forward (without the expiry), payload.
    text: Text,
    topic_len: u16,
    properties_len: u32,
    qos: QoS,
    /// [`RETAIN`] and [`AGAIN`].
    flags: u8,
    expires_at: Option<Instant>,
    received_at: Instant,
    publisher: u64,
    id: u64,
}

const RETAIN: u8 = 1;
const AGAIN: u8 = 2;

/// Up to this many bytes of topic, properties and payload lie in the message itself: most
/// messages are then one allocation.
const INLINE_BYTES: usize = 110;

#[derive(Debug)]
enum Text {
    Inline {
        len: u8,
        bytes: [u8; INLINE_BYTES],
    },
    Shared(Bytes),
    /// The payload lies where it was received.
    Apart {
        head: Box<[u8]>,
        payload: Bytes,
    },
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

    fn len(&self) -> usize {
        match self {
            Self::Inline { len, .. } => usize::from(*len),
            Self::Shared(bytes) => bytes.len(),
            Self::Apart { head, payload } => head.len() + payload.len(),
        }
    }

    /// Begins with topic and properties; ends with the payload, unless that lies apart.
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Self::Shared(bytes) => bytes,
            Self::Apart { head, .. } => head,
        }
    }
}

impl Inner {
    fn payload_at(&self) -> usize {
        usize::from(self.topic_len) + self.properties_len as usize
    }

    fn payload(&self) -> &[u8] {
        match &self.text {
            Text::Apart { payload, .. } => payload,
            text => &text.bytes()[self.payload_at()..],
        }
    }

    fn payload_shared(&self) -> Bytes {
        match &self.text {
            Text::Inline { .. } => Bytes::copy_from_slice(self.payload()),
            Text::Shared(bytes) => bytes.slice(self.payload_at()..),
            Text::Apart { payload, .. } => payload.clone(),
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
            is_again: false,
        })
    }

    /// A message of these parts.
    pub fn from_parts(parts: &MessageParts<'_>) -> Self {
        let topic = parts.topic.as_str().as_bytes();
        Self::with_text(parts, Text::of([topic, parts.properties, parts.payload]))
    }

    /// As `from_parts`, but the payload is not copied: it is a part of `packet`, which is kept.
    fn from_packet(parts: &MessageParts<'_>, packet: &Bytes) -> Self {
        let head = [parts.topic.as_str().as_bytes(), parts.properties].concat().into();
        Self::with_text(parts, Text::Apart { head, payload: packet.slice_ref(parts.payload) })
    }

    fn with_text(parts: &MessageParts<'_>, text: Text) -> Self {
        let (retain, again) = (u8::from(parts.retain) * RETAIN, u8::from(parts.is_again) * AGAIN);
        Self(Body::Own(Arc::new(Inner {
            text,
            topic_len: parts.topic.as_str().len() as u16,
            properties_len: parts.properties.len() as u32,
            qos: parts.qos,
            flags: retain | again,
            expires_at: parts.expires_at,
            received_at: parts.received_at,
            publisher: parts.publisher,
            id: parts.id,
        })))
    }

    /// The message of a run whose payload stands there: a part of it, or a copy, if it would
    /// keep much more than itself. The run has less than 64 KiB.
    pub(crate) fn of_run(run: &MessageRun, payload_at: usize, payload_len: usize) -> Self {
        let (at, len) = (payload_at as u16, payload_len as u16);
        let part = Self(Body::OfRun { run: run.clone(), payload_at: at, payload_len: len });
        match run.bytes().len() <= KEPT_BYTES_MAX {
            true => part,
            false => Self::from_parts(&part.parts()),
        }
    }

    /// Hash of the publisher's Client Identifier; 0 for a node's own messages.
    pub fn publisher(&self) -> u64 {
        match &self.0 {
            Body::Own(own) => own.publisher,
            Body::OfRun { run, .. } => run.publisher(),
        }
    }

    /// Tells a message of QoS 1 or 2 from all others in its group; 0 for all others.
    pub fn id(&self) -> u64 {
        match &self.0 {
            Body::Own(own) => own.id,
            Body::OfRun { .. } => 0,
        }
    }

    /// It is published a second time, by way of another node, and may be everywhere already:
    /// whoever has, or had, a message of this number leaves it out.
    pub fn is_again(&self) -> bool {
        match &self.0 {
            Body::Own(own) => own.flags & AGAIN != 0,
            Body::OfRun { .. } => false,
        }
    }

    pub fn topic(&self) -> TopicName<'_> {
        let topic = str::from_utf8(self.topic_bytes()).expect("it was a Topic Name before");
        TopicName::assume_valid(topic)
    }

    /// The Topic Name, to compare with others.
    pub(crate) fn topic_bytes(&self) -> &[u8] {
        match &self.0 {
            Body::Own(own) => &own.text.bytes()[..usize::from(own.topic_len)],
            Body::OfRun { run, .. } => run.topic_bytes(),
        }
    }

    pub fn payload(&self) -> &[u8] {
        match &self.0 {
            Body::Own(own) => own.payload(),
            Body::OfRun { run, payload_at, payload_len } => {
                &run.bytes()[usize::from(*payload_at)..][..usize::from(*payload_len)]
            }
        }
    }

    /// The payload, shared with this message unless it is short.
    pub fn payload_shared(&self) -> Bytes {
        match &self.0 {
            Body::Own(own) => own.payload_shared(),
            Body::OfRun { run, payload_at, payload_len } => {
                let at = usize::from(*payload_at);
                run.bytes().slice(at..at + usize::from(*payload_len))
            }
        }
    }

    /// Encoded version 5 properties to forward, without the Message Expiry Interval.
    pub fn properties(&self) -> &[u8] {
        match &self.0 {
            Body::Own(own) => &own.text.bytes()[own.topic_len.into()..own.payload_at()],
            Body::OfRun { .. } => &[],
        }
    }

    pub fn qos(&self) -> QoS {
        match &self.0 {
            Body::Own(own) => own.qos,
            Body::OfRun { run, .. } => run.qos(),
        }
    }

    /// The RETAIN flag it was published with.
    pub fn retain(&self) -> bool {
        match &self.0 {
            Body::Own(own) => own.flags & RETAIN != 0,
            Body::OfRun { .. } => false,
        }
    }

    /// When its Message Expiry Interval is over (§3.3.2.3.3).
    pub fn expires_at(&self) -> Option<Instant> {
        match &self.0 {
            Body::Own(own) => own.expires_at,
            Body::OfRun { .. } => None,
        }
    }

    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires_at().is_some_and(|at| at <= now)
    }

    /// When this node took it in.
    pub fn received_at(&self) -> Instant {
        match &self.0 {
            Body::Own(own) => own.received_at,
            Body::OfRun { run, .. } => run.received_at(),
        }
    }

    /// A message of the node's own, made without a clock, as one received now: its Message
    /// Expiry Interval counts from here.
    pub(crate) fn taken_in(self, now: Instant) -> Self {
        let Some(expires_at) = self.expires_at() else { return self };
        let left = expires_at.since(self.received_at());
        let expires_at = Some(now.after(left));
        Self::from_parts(&MessageParts { expires_at, received_at: now, ..self.parts() })
    }

    fn parts(&self) -> MessageParts<'_> {
        MessageParts {
            topic: self.topic(),
            payload: self.payload(),
            qos: self.qos(),
            retain: self.retain(),
            properties: self.properties(),
            expires_at: self.expires_at(),
            received_at: self.received_at(),
            publisher: self.publisher(),
            id: self.id(),
            is_again: self.is_again(),
        }
    }

    /// Topic plus payload, the size limits are counted in.
    pub fn size(&self) -> usize {
        match &self.0 {
            Body::Own(own) => own.text.len() - own.properties_len as usize,
            Body::OfRun { run, payload_len, .. } => {
                run.topic_bytes().len() + usize::from(*payload_len)
            }
        }
    }

    /// What the next hop needs; borrows from this message.
    pub(crate) fn parcel(&self) -> Parcel<'_> {
        Parcel {
            topic: self.topic(),
            payload: self.payload(),
            qos: self.qos(),
            retain: self.retain(),
            properties: Properties::Encoded(self.properties()),
            expires_at: self.expires_at(),
            received_at: self.received_at(),
            publisher: self.publisher(),
            id: self.id(),
            is_again: self.is_again(),
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
    /// As [`Message::is_again`].
    pub is_again: bool,
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
    /// See [`Message::is_again`].
    pub(crate) is_again: bool,
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
    #[inline]
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
            is_again: false,
            message: None,
        }
    }

    /// The owned form; made once, then shared.
    pub(crate) fn message(&mut self) -> &Message {
        if self.message.is_none() {
            self.message = Some(self.own(Message::from_parts));
        }
        self.message.as_ref().expect("made above")
    }

    /// Makes the owned form: the payload stays where it is in `packet`, which this was decoded
    /// from, unless there is more else in that.
    #[inline(never)]
    pub(crate) fn keep(&mut self, packet: &Bytes) {
        if self.payload.len() > packet.len() / 2 {
            self.message = Some(self.own(|parts| Message::from_packet(parts, packet)));
        }
    }

    fn own(&self, make: impl FnOnce(&MessageParts<'_>) -> Message) -> Message {
        let mut encoded = Vec::new();
        let properties = match self.properties {
            Properties::None => &[],
            Properties::Encoded(bytes) => bytes,
            Properties::Decoded(properties) => {
                properties.encode_without_expiry(&mut encoded);
                &encoded[..]
            }
        };
        make(&MessageParts {
            topic: self.topic,
            payload: self.payload,
            qos: self.qos,
            retain: self.retain,
            properties,
            expires_at: self.expires_at,
            received_at: self.received_at,
            publisher: self.publisher,
            id: self.id,
            is_again: self.is_again,
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
                is_again: false,
            });
            assert_eq!((message.topic().as_str(), message.properties()), ("a/b", &[1, 1][..]));
            assert_eq!(
                (message.payload(), &message.payload_shared()[..]),
                (&payload[..], &payload[..])
            );
            assert_eq!(message.size(), 3 + payload_len);
            let Body::Own(own) = &message.0 else { panic!("it is of no run") };
            let is_inline = matches!(own.text, Text::Inline { .. });
            assert_eq!(is_inline, 5 + payload_len <= INLINE_BYTES);
        }
    }

    #[test]
    fn a_message_and_its_count_fit_in_three_cache_lines() {
        assert!(size_of::<Inner>() + 2 * size_of::<usize>() <= 176);
    }

    #[test]
    fn a_large_payload_stays_in_its_packet_and_the_message_says_the_same() {
        let properties = MessageProperties { expiry_s: Some(9), ..MessageProperties::default() };
        let user = MessageProperties { content_type: Some("text"), ..properties.clone() };
        let packet = Bytes::from([&b"head"[..], &vec![b'.'; 5000]].concat());
        for properties in [MessageProperties::default(), properties, user] {
            let made = |keep: bool| {
                let (payload, qos) = (&packet[4..], QoS::AtLeastOnce);
                let mut parcel =
                    Parcel::new(topic("a/b"), payload, qos, true, &properties, 7, Instant(3));
                parcel.id = 5;
                if keep {
                    parcel.keep(&packet);
                }
                parcel.message().clone()
            };
            let (kept, copied) = (made(true), made(false));
            assert_eq!(kept.payload().as_ptr(), packet[4..].as_ptr());
            assert_eq!(kept.payload_shared().as_ptr(), packet[4..].as_ptr());
            assert_ne!(copied.payload().as_ptr(), packet[4..].as_ptr());
            let said = |message: &Message| {
                let text = (message.topic().as_str().to_owned(), message.payload().to_vec());
                let numbers = (message.publisher(), message.id(), message.size());
                let times = (message.expires_at(), message.received_at());
                (text, message.properties().to_vec(), numbers, times, message.retain())
            };
            assert_eq!(said(&kept), said(&copied));
        }
        // A packet that is mostly properties is not kept for its payload.
        let none = MessageProperties::default();
        let (payload, qos) = (&packet[4000..], QoS::AtMostOnce);
        let mut parcel = Parcel::new(topic("a"), payload, qos, false, &none, 0, Instant(0));
        parcel.keep(&packet);
        assert_ne!(parcel.message().payload().as_ptr(), packet[4000..].as_ptr());
    }
}
