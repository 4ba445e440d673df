//! SUBSCRIBE, UNSUBSCRIBE and what answers them (§3.8 to §3.11).
//!
//! Entries are checked once, when the packet is decoded, and read again from the packet's bytes
//! when they are used: a SUBSCRIBE of any length allocates nothing.

use crate::frame::PacketType;
use crate::reader::Reader;
use crate::writer::{put_packet, put_section, put_text};
use crate::{
    DecodeError, QoS, ReasonCode, ReasonProperties, RetainHandling, SubAck, Subscribe,
    SubscribeFilter, SubscribeFilters, SubscribeProperties, SubscriptionOptions, TopicFilter,
    Unsubscribe, UnsubscribeFilters, Version,
};

/// The Reason Codes of a SUBACK [MQTT-3.9.3-2].
const SUBACK_REASONS: &[u8] =
    &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8f, 0x91, 0x97, 0x9e, 0xa1, 0xa2];

/// The return codes of a SUBACK before version 5 [MQTT311-3.9.3-2].
const SUBACK_3_REASONS: &[u8] = &[0x00, 0x01, 0x02, 0x80];

/// The Reason Codes of an UNSUBACK [MQTT-3.11.3-2].
const UNSUBACK_REASONS: &[u8] = &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8f, 0x91];

pub(crate) fn decode_subscribe(
    body: &[u8],
    version: Version,
) -> Result<Subscribe<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let properties = match version {
        Version::V5 => SubscribeProperties::decode(reader.section()?)?,
        _ => SubscribeProperties::default(),
    };
    let bytes = reader.rest();
    if reader.is_empty() {
        return Err(DecodeError::EmptySubscribe);
    }
    while !reader.is_empty() {
        subscribe_entry(&mut reader, version)?;
    }
    Ok(Subscribe { packet_id, properties, filters: SubscribeFilters::Wire { bytes, version } })
}

fn subscribe_entry<'a>(
    reader: &mut Reader<'a>,
    version: Version,
) -> Result<SubscribeFilter<'a>, DecodeError> {
    let filter = TopicFilter::decode(reader.binary()?)?;
    let options = SubscriptionOptions::decode(reader.u8()?, version)?;
    if options.no_local && filter.shared().is_some() {
        return Err(DecodeError::SharedNoLocal);
    }
    Ok(SubscribeFilter { filter, options })
}

impl SubscriptionOptions {
    const NO_LOCAL: u8 = 0x04;
    const RETAIN_AS_PUBLISHED: u8 = 0x08;
    const RETAIN_HANDLING_SHIFT: u8 = 4;

    fn decode(bits: u8, version: Version) -> Result<Self, DecodeError> {
        let reserved = if version == Version::V5 { 0xc0 } else { 0xfc };
        if bits & reserved != 0 {
            return Err(DecodeError::ReservedSubscriptionOptions);
        }
        Ok(Self {
            qos: QoS::from_u8(bits & 0x03).ok_or(DecodeError::SubscriptionQoS3)?,
            no_local: bits & Self::NO_LOCAL != 0,
            retain_as_published: bits & Self::RETAIN_AS_PUBLISHED != 0,
            retain_handling: match bits >> Self::RETAIN_HANDLING_SHIFT {
                0 => RetainHandling::Always,
                1 => RetainHandling::OnlyIfNew,
                2 => RetainHandling::Never,
                _ => return Err(DecodeError::RetainHandling3),
            },
        })
    }

    fn encode(self, version: Version) -> u8 {
        let qos = self.qos as u8;
        if version < Version::V5 {
            return qos;
        }
        let when = |yes: bool, flag: u8| if yes { flag } else { 0 };
        qos | when(self.no_local, Self::NO_LOCAL)
            | when(self.retain_as_published, Self::RETAIN_AS_PUBLISHED)
            | (self.retain_handling as u8) << Self::RETAIN_HANDLING_SHIFT
    }
}

impl<'a> SubscribeFilters<'a> {
    /// The entries, in the order of the packet.
    pub fn iter(&self) -> impl Iterator<Item = SubscribeFilter<'a>> + Clone + use<'a> {
        let (mut reader, version, list): (_, _, &'a [_]) = match *self {
            Self::Wire { bytes, version } => (Reader::new(bytes), version, &[]),
            Self::List(list) => (Reader::new(&[]), Version::V5, list),
        };
        // Of checked bytes every entry is good; of others the first bad one ends the walk.
        std::iter::from_fn(move || subscribe_entry(&mut reader, version).ok())
            .fuse()
            .chain(list.iter().copied())
    }

    /// Entries. Cost: a walk over them when they are on the wire.
    pub fn len(&self) -> usize {
        match self {
            Self::Wire { .. } => self.iter().count(),
            Self::List(list) => list.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl PartialEq for SubscribeFilters<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for SubscribeFilters<'_> {}

impl Subscribe<'_> {
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        put_packet(out, PacketType::Subscribe.first(), |out| {
            out.extend_from_slice(&self.packet_id.get().to_be_bytes());
            if version == Version::V5 {
                put_section(out, |out| self.properties.encode(out));
            }
            for SubscribeFilter { filter, options } in self.filters.iter() {
                put_text(out, filter.as_str());
                out.push(options.encode(version));
            }
        });
    }
}

pub(crate) fn decode_unsubscribe(
    body: &[u8],
    version: Version,
) -> Result<Unsubscribe<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let properties = match version {
        Version::V5 => SubscribeProperties::decode_unsubscribe(reader.section()?)?,
        _ => SubscribeProperties::default(),
    };
    let bytes = reader.rest();
    if reader.is_empty() {
        return Err(DecodeError::EmptyUnsubscribe);
    }
    while !reader.is_empty() {
        TopicFilter::decode(reader.binary()?)?;
    }
    Ok(Unsubscribe { packet_id, properties, filters: UnsubscribeFilters::Wire(bytes) })
}

impl<'a> UnsubscribeFilters<'a> {
    /// The Topic Filters, in the order of the packet.
    pub fn iter(&self) -> impl Iterator<Item = TopicFilter<'a>> + Clone + use<'a> {
        let (bytes, list): (&'a [u8], &'a [_]) = match *self {
            Self::Wire(bytes) => (bytes, &[]),
            Self::List(list) => (&[], list),
        };
        let mut reader = Reader::new(bytes);
        std::iter::from_fn(move || TopicFilter::decode(reader.binary().ok()?).ok())
            .fuse()
            .chain(list.iter().copied())
    }

    /// Entries. Cost: a walk over them when they are on the wire.
    pub fn len(&self) -> usize {
        match self {
            Self::Wire(_) => self.iter().count(),
            Self::List(list) => list.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

impl PartialEq for UnsubscribeFilters<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for UnsubscribeFilters<'_> {}

impl Unsubscribe<'_> {
    /// Appends it to `out`; a Subscription Identifier, which it cannot carry, is left out.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        let properties = SubscribeProperties { subscription_id: None, user: self.properties.user };
        put_packet(out, PacketType::Unsubscribe.first(), |out| {
            out.extend_from_slice(&self.packet_id.get().to_be_bytes());
            if version == Version::V5 {
                put_section(out, |out| properties.encode(out));
            }
            for filter in self.filters.iter() {
                put_text(out, filter.as_str());
            }
        });
    }
}

pub(crate) fn decode_suback(body: &[u8], version: Version) -> Result<SubAck<'_>, DecodeError> {
    let allowed = if version == Version::V5 { SUBACK_REASONS } else { SUBACK_3_REASONS };
    decode_reasons(body, version, allowed)
}

/// Before version 5 it is a Packet Identifier and nothing else.
pub(crate) fn decode_unsuback(body: &[u8], version: Version) -> Result<SubAck<'_>, DecodeError> {
    let unsuback = decode_reasons(body, version, UNSUBACK_REASONS)?;
    if version < Version::V5 && !unsuback.reasons.is_empty() {
        return Err(DecodeError::TrailingBytes);
    }
    Ok(unsuback)
}

fn decode_reasons<'a>(
    body: &'a [u8],
    version: Version,
    allowed: &[u8],
) -> Result<SubAck<'a>, DecodeError> {
    let mut reader = Reader::new(body);
    let packet_id = reader.packet_id()?;
    let properties = match version {
        Version::V5 => ReasonProperties::decode(reader.section()?)?,
        _ => ReasonProperties::default(),
    };
    let reasons = reader.rest();
    for &code in reasons {
        ReasonCode::decode(code, allowed)?;
    }
    Ok(SubAck { packet_id, properties, reasons })
}

impl SubAck<'_> {
    /// Appends it as a SUBACK. Before version 5 every error is 0x80, Failure
    /// [MQTT311-3.9.3-2].
    pub fn encode_suback(&self, version: Version, out: &mut Vec<u8>) {
        self.encode(PacketType::SubAck, version, out, |out| match version {
            Version::V5 => out.extend_from_slice(self.reasons),
            _ => out.extend(self.reasons.iter().map(|&code| code.min(FAILURE))),
        });
    }

    /// Appends it as an UNSUBACK, which before version 5 carries no codes.
    pub fn encode_unsuback(&self, version: Version, out: &mut Vec<u8>) {
        self.encode(PacketType::UnsubAck, version, out, |out| {
            if version == Version::V5 {
                out.extend_from_slice(self.reasons);
            }
        });
    }

    fn encode(
        &self,
        packet_type: PacketType,
        version: Version,
        out: &mut Vec<u8>,
        reasons: impl FnOnce(&mut Vec<u8>),
    ) {
        put_packet(out, packet_type.first(), |out| {
            out.extend_from_slice(&self.packet_id.get().to_be_bytes());
            if version == Version::V5 {
                put_section(out, |out| self.properties.encode(out));
            }
            reasons(out);
        });
    }
}

/// The one error a SUBACK knew before version 5.
const FAILURE: u8 = 0x80;
