//! PUBLISH (§3.3), the hot path: one pass in, one pass out, nothing copied but the bytes that
//! are sent.

use std::num::NonZeroU16;

use crate::frame::PacketType;
use crate::property::{
    Property, put_subscription_id, put_u16_property, put_u32_property, subscription_id_len,
};
use crate::reader::Reader;
use crate::writer::{put_text, put_variable, text_len, variable_len};
use crate::{DecodeError, Delivery, PacketId, Publish, PublishProperties, QoS, TopicName, Version};

const DUP: u8 = 0b1000;
const QOS: u8 = 0b0110;
const QOS_SHIFT: u8 = 1;
const RETAIN: u8 = 0b0001;

/// Decodes a PUBLISH from its first byte and its body.
///
/// # Errors
/// What one packet can do wrong by itself. Not checked, because it takes the connection to
/// know: that a client sends no Subscription Identifier [MQTT-3.3.4-6], that a Topic Alias is
/// within its maximum, and that the payload is UTF-8 if it says so.
#[inline]
pub fn decode_publish<'a>(
    first: u8,
    body: &'a [u8],
    version: Version,
) -> Result<Publish<'a>, DecodeError> {
    let dup = first & DUP != 0;
    let mut reader = Reader::new(body);
    if first & QOS == QOS {
        return Err(DecodeError::QoS3);
    }
    let topic = match reader.binary()? {
        [] if version == Version::V5 => None,
        name => Some(TopicName::decode(name)?),
    };
    let delivery = match (first & QOS) >> QOS_SHIFT {
        // Version 3.1 gives DUP no meaning here and does not forbid it.
        0 if dup && version > Version::V3_1 => return Err(DecodeError::DupWithQoS0),
        0 => Delivery::AtMostOnce,
        1 => Delivery::AtLeastOnce(reader.packet_id()?),
        _ => Delivery::ExactlyOnce(reader.packet_id()?),
    };
    let section = if version == Version::V5 { reader.section()? } else { &[] };
    let retain = first & RETAIN != 0;
    let payload = reader.rest();
    // The properties are wide: without any, they are written straight into the result.
    if section.is_empty() && topic.is_some() {
        let properties = PublishProperties::default();
        return Ok(Publish { dup, retain, delivery, topic, properties, payload });
    }
    let properties = PublishProperties::decode(section)?;
    if topic.is_none() && properties.topic_alias.is_none() {
        return Err(DecodeError::NeitherTopicNorAlias);
    }
    Ok(Publish { dup, retain, delivery, topic, properties, payload })
}

/// The flags of a PUBLISH (§3.3.1): the lower half of its first byte.
#[inline]
pub const fn publish_flags(dup: bool, qos: QoS, retain: bool) -> u8 {
    (dup as u8) << 3 | (qos as u8) << QOS_SHIFT | retain as u8
}

impl Publish<'_> {
    /// Bytes of the whole packet as `version` writes it, to be held against a Maximum Packet
    /// Size [MQTT-3.1.2-24].
    pub fn encoded_len(&self, version: Version) -> usize {
        let remaining = self.head(self.properties_len(version)).remaining(self.payload.len());
        1 + variable_len(remaining) + remaining
    }

    /// Appends it to `out` as `version` writes it. `topic` may be absent in version 5 only,
    /// with a Topic Alias.
    #[inline]
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let properties_len = self.properties_len(version);
        self.head(properties_len).put(out, self.payload.len());
        if let Some(len) = properties_len {
            put_variable(out, len as u32);
            if len > 0 {
                self.properties.encode(out);
            }
        }
        out.extend_from_slice(self.payload);
    }

    #[inline]
    fn head(&self, properties_len: Option<usize>) -> Head<'_> {
        Head {
            flags: publish_flags(self.dup, self.delivery.qos(), self.retain),
            topic: self.topic.map_or("", TopicName::as_str),
            packet_id: self.delivery.packet_id(),
            properties_len,
        }
    }

    #[inline]
    fn properties_len(&self, version: Version) -> Option<usize> {
        (version == Version::V5).then(|| self.properties.encoded_len())
    }
}

/// The properties of a PUBLISH whose message part is encoded already; for
/// [`encode_publish_raw`].
#[derive(Clone, Copy, Debug, Default)]
pub struct PublishWire<'a> {
    pub alias: Option<NonZeroU16>,
    /// What is left of the Message Expiry Interval, seconds.
    pub expiry_s: Option<u32>,
    pub subscription_ids: &'a [u32],
    /// As [`crate::MessageProperties::encode_without_expiry`] wrote them.
    pub message: &'a [u8],
}

impl PublishWire<'_> {
    #[inline]
    fn encoded_len(&self) -> usize {
        self.alias.map_or(0, |_| 3)
            + self.expiry_s.map_or(0, |_| 5)
            + self.subscription_ids.iter().map(|&id| subscription_id_len(id)).sum::<usize>()
            + self.message.len()
    }

    #[inline]
    fn encode(&self, out: &mut Vec<u8>) {
        put_u32_property(out, Property::MessageExpiryInterval, self.expiry_s);
        put_u16_property(out, Property::TopicAlias, self.alias.map(NonZeroU16::get));
        for &id in self.subscription_ids {
            put_subscription_id(out, id);
        }
        out.extend_from_slice(self.message);
    }
}

/// Appends all of a PUBLISH that stands before its payload, for a payload of `payload_len`
/// bytes that the caller adds. What it makes can be copied to many subscribers, each with a
/// Packet Identifier of its own written over the two bytes at the offset returned.
///
/// Before version 5 `properties` is not looked at. `flags` are [`publish_flags`]; their QoS must
/// agree with `packet_id`. `topic` may be empty in version 5 only, with an alias.
///
/// Returns the offset in `out` of the Packet Identifier, or `out.len()` if there is none.
#[inline]
pub fn encode_publish_raw(
    out: &mut Vec<u8>,
    version: Version,
    flags: u8,
    topic: &str,
    packet_id: Option<PacketId>,
    properties: PublishWire<'_>,
    payload_len: usize,
) -> usize {
    debug_assert_eq!(flags & QOS == 0, packet_id.is_none(), "QoS and Packet Identifier disagree");
    if version < Version::V5 {
        return Head { flags, topic, packet_id, properties_len: None }.put(out, payload_len);
    }
    let len = properties.encoded_len();
    let offset = Head { flags, topic, packet_id, properties_len: Some(len) }.put(out, payload_len);
    put_variable(out, len as u32);
    if len > 0 {
        properties.encode(out);
    }
    if packet_id.is_some() { offset } else { out.len() }
}

/// What every PUBLISH begins with, properties apart.
struct Head<'a> {
    flags: u8,
    topic: &'a str,
    packet_id: Option<PacketId>,
    /// `None` before version 5, which does not write a Property Length.
    properties_len: Option<usize>,
}

impl Head<'_> {
    /// The Remaining Length of the packet.
    #[inline]
    fn remaining(&self, payload_len: usize) -> usize {
        text_len(self.topic)
            + self.packet_id.map_or(0, |_| 2)
            + self.properties_len.map_or(0, |len| variable_len(len) + len)
            + payload_len
    }

    /// Appends it; returns the offset of the Packet Identifier, or `out.len()`.
    #[inline]
    fn put(&self, out: &mut Vec<u8>, payload_len: usize) -> usize {
        let remaining = self.remaining(payload_len);
        out.reserve(5 + remaining);
        out.push((PacketType::Publish as u8) << 4 | self.flags);
        put_variable(out, remaining as u32);
        put_text(out, self.topic);
        let offset = out.len();
        if let Some(packet_id) = self.packet_id {
            out.extend_from_slice(&packet_id.get().to_be_bytes());
        }
        offset
    }
}
