//! CONNECT (§3.1): the packet that says which version the connection speaks.

use crate::frame::PacketType;
use crate::reader::Reader;
use crate::writer::{put_binary, put_packet, put_section, put_text};
use crate::{
    Connect, ConnectProperties, DecodeError, QoS, TopicName, Version, Will, WillProperties,
};

/// The Connect Flags (§3.1.2.3).
mod flag {
    pub(super) const RESERVED: u8 = 0x01;
    pub(super) const CLEAN_START: u8 = 0x02;
    pub(super) const WILL: u8 = 0x04;
    pub(super) const WILL_QOS_SHIFT: u8 = 3;
    pub(super) const WILL_QOS: u8 = 0x18;
    pub(super) const WILL_RETAIN: u8 = 0x20;
    pub(super) const PASSWORD: u8 = 0x40;
    pub(super) const USER_NAME: u8 = 0x80;
}

/// Decodes the body of a CONNECT of any version; allocates nothing.
///
/// Version 3.1 is read as leniently as it asks for: unused flags are ignored, and a User Name or
/// Password that is announced may be missing at the end. An empty Client Identifier is decoded
/// in every version; whether it is accepted is the caller's decision.
///
/// # Errors
/// `WrongProtocolName` and `UnsupportedVersion` before anything else is looked at, so that the
/// caller can answer a version it does not know.
pub fn decode_connect<'a>(body: &'a [u8]) -> Result<Connect<'a>, DecodeError> {
    let mut reader = Reader::new(body);
    let version = version(&mut reader)?;
    let flags = reader.u8()?;
    check_flags(flags, version)?;
    let keep_alive_s = reader.u16()?;
    let properties = match version {
        Version::V5 => ConnectProperties::decode(reader.section()?)?,
        _ => ConnectProperties::default(),
    };
    let client_id = reader.text()?;
    let will = will(&mut reader, flags, version)?;
    let may_be_missing = version == Version::V3_1;
    let user_name = match flags & flag::USER_NAME {
        0 => None,
        _ if may_be_missing && reader.is_empty() => None,
        _ => Some(reader.text()?),
    };
    let password = match flags & flag::PASSWORD {
        0 => None,
        _ if may_be_missing && reader.is_empty() => None,
        _ => Some(reader.binary()?),
    };
    reader.finish()?;
    Ok(Connect {
        version,
        clean_start: flags & flag::CLEAN_START != 0,
        keep_alive_s,
        client_id,
        will,
        user_name,
        password,
        properties,
    })
}

fn version(reader: &mut Reader<'_>) -> Result<Version, DecodeError> {
    let name = reader.binary()?;
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(DecodeError::WrongProtocolName);
    }
    match (name, reader.u8()?) {
        (b"MQIsdp", 3) => Ok(Version::V3_1),
        (b"MQTT", 4) => Ok(Version::V3_1_1),
        (b"MQTT", 5) => Ok(Version::V5),
        (_, level) => Err(DecodeError::UnsupportedVersion { level }),
    }
}

fn check_flags(flags: u8, version: Version) -> Result<(), DecodeError> {
    let set = |flag| flags & flag != 0;
    if flags & flag::WILL_QOS == flag::WILL_QOS {
        return Err(DecodeError::WillQoS3);
    }
    if version < Version::V5 && set(flag::PASSWORD) && !set(flag::USER_NAME) {
        return Err(DecodeError::PasswordWithoutUserName);
    }
    if version == Version::V3_1 {
        return Ok(());
    }
    if set(flag::RESERVED) {
        return Err(DecodeError::ConnectReservedFlag);
    }
    if !set(flag::WILL) && set(flag::WILL_QOS | flag::WILL_RETAIN) {
        return Err(DecodeError::WillFlagsWithoutWill);
    }
    Ok(())
}

fn will<'a>(
    reader: &mut Reader<'a>,
    flags: u8,
    version: Version,
) -> Result<Option<Will<'a>>, DecodeError> {
    if flags & flag::WILL == 0 {
        return Ok(None);
    }
    let properties = match version {
        Version::V5 => WillProperties::decode(reader.section()?)?,
        _ => WillProperties::default(),
    };
    let qos = (flags & flag::WILL_QOS) >> flag::WILL_QOS_SHIFT;
    Ok(Some(Will {
        topic: TopicName::decode(reader.binary()?)?,
        payload: reader.binary()?,
        qos: QoS::from_u8(qos).ok_or(DecodeError::WillQoS3)?,
        retain: flags & flag::WILL_RETAIN != 0,
        properties,
    }))
}

impl Connect<'_> {
    /// Appends it as its own `version` writes it. Before version 5 a password without a user
    /// name cannot be said, and is left out.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_packet(out, PacketType::Connect.first(), |out| {
            put_text(out, self.version.protocol_name());
            out.push(self.version.level());
            out.push(self.flags());
            out.extend_from_slice(&self.keep_alive_s.to_be_bytes());
            if self.version == Version::V5 {
                put_section(out, |out| self.properties.encode(out));
            }
            put_text(out, self.client_id);
            if let Some(will) = &self.will {
                will.encode(self.version, out);
            }
            if let Some(user_name) = self.user_name {
                put_text(out, user_name);
            }
            if let Some(password) = self.written_password() {
                put_binary(out, password);
            }
        });
    }

    fn written_password(&self) -> Option<&[u8]> {
        self.password.filter(|_| self.version == Version::V5 || self.user_name.is_some())
    }

    fn flags(&self) -> u8 {
        let when = |yes: bool, flag: u8| if yes { flag } else { 0 };
        let will = self.will.as_ref().map_or(0, |will| {
            flag::WILL
                | (will.qos as u8) << flag::WILL_QOS_SHIFT
                | when(will.retain, flag::WILL_RETAIN)
        });
        will | when(self.clean_start, flag::CLEAN_START)
            | when(self.user_name.is_some(), flag::USER_NAME)
            | when(self.written_password().is_some(), flag::PASSWORD)
    }
}

impl Will<'_> {
    fn encode(&self, version: Version, out: &mut Vec<u8>) {
        if version == Version::V5 {
            put_section(out, |out| self.properties.encode(out));
        }
        put_text(out, self.topic.as_str());
        put_binary(out, self.payload);
    }
}
