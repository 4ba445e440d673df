//! PUBACK, PUBREC, PUBREL and PUBCOMP (§3.4 to §3.7): one shape, four names.

use crate::frame::PacketType;
use crate::reader::Reader;
use crate::writer::{put_packet, put_section};
use crate::{Ack, DecodeError, PacketId, ReasonCode, ReasonProperties, Version};

/// Which acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AckKind {
    PubAck,
    PubRec,
    PubRel,
    PubComp,
}

impl AckKind {
    /// The first byte; that of PUBREL has its reserved flag set [MQTT-3.6.1-1].
    #[inline]
    const fn first(self) -> u8 {
        match self {
            Self::PubAck => PacketType::PubAck.first(),
            Self::PubRec => PacketType::PubRec.first(),
            Self::PubRel => PacketType::PubRel.first(),
            Self::PubComp => PacketType::PubComp.first(),
        }
    }

    /// The Reason Codes it may carry [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1],
    /// [MQTT-3.7.2-1].
    const fn reasons(self) -> &'static [u8] {
        match self {
            Self::PubAck | Self::PubRec => &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
            Self::PubRel | Self::PubComp => &[0x00, 0x92],
        }
    }
}

/// Before version 5, and mostly in it, the body is a Packet Identifier and nothing else.
#[inline]
pub(crate) fn decode_ack(
    kind: AckKind,
    body: &[u8],
    version: Version,
) -> Result<Ack<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    if reader.is_empty() {
        let properties = ReasonProperties::default();
        return Ok(Ack { packet_id, reason: ReasonCode::Success, properties });
    }
    if version < Version::V5 {
        return Err(DecodeError::TrailingBytes);
    }
    decode_reason(kind, packet_id, reader)
}

fn decode_reason(
    kind: AckKind,
    packet_id: PacketId,
    mut reader: Reader<'_>,
) -> Result<Ack<'_>, DecodeError> {
    let reason = ReasonCode::decode(reader.u8()?, kind.reasons())?;
    // The Property Length may be left out too (§3.4.2.2.1).
    let section = if reader.is_empty() { &[] } else { reader.section()? };
    reader.finish()?;
    Ok(Ack { packet_id, reason, properties: ReasonProperties::decode(section)? })
}

impl Ack<'_> {
    /// Appends it as the packet that `kind` says; see [`encode_ack`].
    #[inline]
    pub fn encode(&self, kind: AckKind, version: Version, out: &mut Vec<u8>) {
        encode_ack(kind, self.packet_id, self.reason, &self.properties, version, out);
    }
}

/// Bytes of an acknowledgement that says nothing but its Packet Identifier.
pub const PLAIN_ACK_BYTES: usize = 4;

/// That acknowledgement.
///
/// - `packet_id`: as on the wire.
#[inline]
pub const fn plain_ack(kind: AckKind, packet_id: [u8; 2]) -> [u8; PLAIN_ACK_BYTES] {
    let [high, low] = packet_id;
    [kind.first(), 2, high, low]
}

/// Appends an acknowledgement, in the shortest form that says it: four bytes before version 5
/// and for Success without properties.
#[inline]
pub fn encode_ack(
    kind: AckKind,
    packet_id: PacketId,
    reason: ReasonCode,
    properties: &ReasonProperties<'_>,
    version: Version,
    out: &mut Vec<u8>,
) {
    let [high, low] = packet_id.get().to_be_bytes();
    let plain = reason == ReasonCode::Success && properties.is_empty();
    if plain || version < Version::V5 {
        out.extend_from_slice(&plain_ack(kind, [high, low]));
    } else if properties.is_empty() {
        out.extend_from_slice(&[kind.first(), 3, high, low, reason as u8]);
    } else {
        put_packet(out, kind.first(), |out| {
            out.extend_from_slice(&[high, low, reason as u8]);
            put_section(out, |out| properties.encode(out));
        });
    }
}
