//! Any packet, in and out: the one dispatch on the packet type, and the fixed header's flags.

use crate::ack::decode_ack;
use crate::frame::PacketType;
use crate::subscribe::{decode_suback, decode_subscribe, decode_unsuback, decode_unsubscribe};
use crate::{
    AckKind, Auth, ConnAck, DecodeError, Disconnect, Frame, Packet, Version, decode_connect,
    decode_publish,
};

/// A whole PINGREQ (§3.12).
pub const PINGREQ: [u8; 2] = [PacketType::PingReq.first(), 0];

/// A whole PINGRESP (§3.13).
pub const PINGRESP: [u8; 2] = [PacketType::PingResp.first(), 0];

/// Decodes a packet of either direction, as `version` has it. A CONNECT says its own version.
///
/// Allocates for CONNECT and CONNACK only, which `Packet` keeps in a box; [`decode_connect`]
/// does without.
///
/// # Errors
/// Whatever the bytes break of what the specification says about one packet alone. What depends
/// on the direction or on the connection's state is the caller's to check.
#[inline]
pub fn decode<'a>(frame: Frame<'a>, version: Version) -> Result<Packet<'a>, DecodeError> {
    let body = frame.body;
    let packet_type = frame.packet_type().ok_or(DecodeError::UnknownPacketType)?;
    if packet_type == PacketType::Publish {
        return decode_publish(frame.first, body, version).map(Packet::Publish);
    }
    check_flags(frame.first, packet_type, version)?;
    Ok(match packet_type {
        PacketType::Publish => unreachable!("returned above"),
        PacketType::PubAck => Packet::PubAck(decode_ack(AckKind::PubAck, body, version)?),
        PacketType::PubRec => Packet::PubRec(decode_ack(AckKind::PubRec, body, version)?),
        PacketType::PubRel => Packet::PubRel(decode_ack(AckKind::PubRel, body, version)?),
        PacketType::PubComp => Packet::PubComp(decode_ack(AckKind::PubComp, body, version)?),
        PacketType::PingReq => empty(body, Packet::PingReq)?,
        PacketType::PingResp => empty(body, Packet::PingResp)?,
        PacketType::Subscribe => Packet::Subscribe(decode_subscribe(body, version)?),
        PacketType::SubAck => Packet::SubAck(decode_suback(body, version)?),
        PacketType::Unsubscribe => Packet::Unsubscribe(decode_unsubscribe(body, version)?),
        PacketType::UnsubAck => Packet::UnsubAck(decode_unsuback(body, version)?),
        PacketType::Connect => Packet::Connect(Box::new(decode_connect(body)?)),
        PacketType::ConnAck => Packet::ConnAck(Box::new(ConnAck::decode(body, version)?)),
        PacketType::Disconnect => Packet::Disconnect(Disconnect::decode(body, version)?),
        PacketType::Auth => Packet::Auth(Auth::decode(body, version)?),
    })
}

/// The flags that §2.1.3 reserves must be as it says [MQTT-2.1.3-1]. Only 3.1 lets a repeated
/// PUBREL, SUBSCRIBE or UNSUBSCRIBE carry the DUP flag.
#[inline]
fn check_flags(first: u8, packet_type: PacketType, version: Version) -> Result<(), DecodeError> {
    const DUP: u8 = 0b1000;
    let expected = packet_type.first();
    let dup_3_1 = version == Version::V3_1 && expected & 0b0010 != 0 && first == expected | DUP;
    if first == expected || dup_3_1 { Ok(()) } else { Err(DecodeError::ReservedFlags) }
}

fn empty<'a>(body: &[u8], packet: Packet<'a>) -> Result<Packet<'a>, DecodeError> {
    if body.is_empty() { Ok(packet) } else { Err(DecodeError::TrailingBytes) }
}

impl Packet<'_> {
    /// Appends the packet to `out` as `version` writes it; a CONNECT as its own version does. An
    /// AUTH, which older versions do not know, appends nothing for them.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        match self {
            Self::Connect(connect) => connect.encode(out),
            Self::ConnAck(connack) => connack.encode(version, out),
            Self::Publish(publish) => publish.encode(version, out),
            Self::PubAck(ack) => ack.encode(AckKind::PubAck, version, out),
            Self::PubRec(ack) => ack.encode(AckKind::PubRec, version, out),
            Self::PubRel(ack) => ack.encode(AckKind::PubRel, version, out),
            Self::PubComp(ack) => ack.encode(AckKind::PubComp, version, out),
            Self::Subscribe(subscribe) => subscribe.encode(version, out),
            Self::SubAck(suback) => suback.encode_suback(version, out),
            Self::Unsubscribe(unsubscribe) => unsubscribe.encode(version, out),
            Self::UnsubAck(unsuback) => unsuback.encode_unsuback(version, out),
            Self::PingReq => out.extend_from_slice(&PINGREQ),
            Self::PingResp => out.extend_from_slice(&PINGRESP),
            Self::Disconnect(disconnect) => disconnect.encode(version, out),
            Self::Auth(auth) => auth.encode(version, out),
        }
    }
}
