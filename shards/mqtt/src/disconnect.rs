//! DISCONNECT (§3.14) and AUTH (§3.15): a Reason Code and properties, or nothing at all.

use crate::frame::PacketType;
use crate::reader::Reader;
use crate::writer::{put_packet, put_section};
use crate::{
    Auth, AuthProperties, DecodeError, Disconnect, DisconnectProperties, ReasonCode, Version,
};

/// The Reason Codes of either direction [MQTT-3.14.2-1], and 0x8C, which §2.4 adds to them.
const DISCONNECT_REASONS: &[u8] = &[
    0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8b, 0x8c, 0x8d, 0x8e, 0x8f, 0x90, 0x93, 0x94,
    0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9e, 0x9f, 0xa0, 0xa1, 0xa2,
];

/// [MQTT-3.15.2-1].
const AUTH_REASONS: &[u8] = &[0x00, 0x18, 0x19];

impl<'a> Disconnect<'a> {
    pub(crate) fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        if reader.is_empty() {
            return Ok(Self {
                reason: ReasonCode::Success,
                properties: DisconnectProperties::default(),
            });
        }
        if version < Version::V5 {
            return Err(DecodeError::TrailingBytes);
        }
        let reason = ReasonCode::decode(reader.u8()?, DISCONNECT_REASONS)?;
        // The Property Length may be left out (§3.14.2.2.1).
        let section = if reader.is_empty() { &[] } else { reader.section()? };
        reader.finish()?;
        Ok(Self { reason, properties: DisconnectProperties::decode(section)? })
    }

    /// Appends it to `out`, in the shortest form that says it. Before version 5 there is only
    /// one, without a reason.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let first = PacketType::Disconnect.first();
        let bare = self.properties == DisconnectProperties::default();
        if version < Version::V5 || bare && self.reason == ReasonCode::Success {
            out.extend_from_slice(&[first, 0]);
        } else if bare {
            out.extend_from_slice(&[first, 1, self.reason as u8]);
        } else {
            put_packet(out, first, |out| {
                out.push(self.reason as u8);
                put_section(out, |out| self.properties.encode(out));
            });
        }
    }
}

impl<'a> Auth<'a> {
    pub(crate) fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        if version < Version::V5 {
            return Err(DecodeError::UnknownPacketType);
        }
        let mut reader = Reader::new(body);
        if reader.is_empty() {
            return Ok(Self { reason: ReasonCode::Success, properties: AuthProperties::default() });
        }
        let reason = ReasonCode::decode(reader.u8()?, AUTH_REASONS)?;
        let section = reader.section()?;
        reader.finish()?;
        Ok(Self { reason, properties: AuthProperties::decode(section)? })
    }

    /// Appends it to `out`; nothing before version 5, which does not know it.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        if version < Version::V5 {
            return;
        }
        let first = PacketType::Auth.first();
        if self.reason == ReasonCode::Success && self.properties == AuthProperties::default() {
            out.extend_from_slice(&[first, 0]);
            return;
        }
        put_packet(out, first, |out| {
            out.push(self.reason as u8);
            put_section(out, |out| self.properties.encode(out));
        });
    }
}
