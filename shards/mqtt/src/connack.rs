//! CONNACK (§3.2).

use crate::frame::PacketType;
use crate::reader::Reader;
use crate::writer::{put_packet, put_section};
use crate::{ConnAck, ConnAckProperties, DecodeError, ReasonCode, Version};

/// The Reason Codes it may carry [MQTT-3.2.2-8].
const REASONS: &[u8] = &[
    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8c, 0x90, 0x95, 0x97,
    0x99, 0x9a, 0x9b, 0x9c, 0x9d, 0x9f,
];

impl<'a> ConnAck<'a> {
    pub(crate) fn decode(body: &'a [u8], version: Version) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (flags, code) = (reader.u8()?, reader.u8()?);
        let reason = match version {
            Version::V5 => ReasonCode::decode(code, REASONS)?,
            _ => ReasonCode::from_connack_3(code)?,
        };
        let properties = match version {
            Version::V5 => ConnAckProperties::decode(reader.section()?)?,
            _ => ConnAckProperties::default(),
        };
        reader.finish()?;
        let session_present = session_present(flags, reason, version)?;
        Ok(Self { session_present, reason, properties })
    }

    /// Appends it to `out`; before version 5 with the return code for `reason`
    /// ([`ReasonCode::connack_3`]). Session Present is never said with a refusal
    /// [MQTT-3.2.2-6], nor in version 3.1, which does not know it.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let accepted = self.reason == ReasonCode::Success;
        let present = self.session_present && accepted && version > Version::V3_1;
        let code = match version {
            Version::V5 => self.reason as u8,
            _ => self.reason.connack_3(),
        };
        put_packet(out, PacketType::ConnAck.first(), |out| {
            out.extend_from_slice(&[u8::from(present), code]);
            if version == Version::V5 {
                put_section(out, |out| self.properties.encode(out));
            }
        });
    }
}

/// Reads the Connect Acknowledge Flags (§3.2.2.1); version 3.1 reserves all of them.
fn session_present(flags: u8, reason: ReasonCode, version: Version) -> Result<bool, DecodeError> {
    match flags {
        _ if version == Version::V3_1 => Ok(false),
        0 => Ok(false),
        1 if reason == ReasonCode::Success => Ok(true),
        1 => Err(DecodeError::SessionPresentOnRefusal),
        _ => Err(DecodeError::ConnAckReservedFlags),
    }
}
