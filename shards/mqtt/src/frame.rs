//! Cuts control packets out of a stream of bytes by their fixed header (§2.1).
//!
//! Knows no version: what the flags and the body mean is `decode`'s business.

use crate::DecodeError;
use crate::reader::{Variable, variable};

/// One whole control packet, not looked into yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The first byte: packet type and flags.
    pub first: u8,
    /// Variable header and payload: what the Remaining Length counts.
    pub body: &'a [u8],
    /// Bytes of the whole packet, fixed header included.
    pub len: usize,
}

/// The type of a control packet: the upper half of its first byte (§2.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    /// The type in the first byte of a packet; `None` for the forbidden type 0.
    #[inline]
    pub fn of(first: u8) -> Option<Self> {
        Some(match first >> 4 {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The first byte of a packet of this type other than PUBLISH, with the flags that §2.1.3
    /// prescribes.
    #[inline]
    pub(crate) const fn first(self) -> u8 {
        let flags = match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        };
        (self as u8) << 4 | flags
    }
}

impl Frame<'_> {
    /// The packet's type; `None` for the forbidden type 0.
    #[inline]
    pub fn packet_type(&self) -> Option<PacketType> {
        PacketType::of(self.first)
    }
}

/// Bytes of the control packet at the front of `bytes`, as its fixed header says; `None` if that
/// is not all there or cannot be one.
#[inline]
pub fn packet_len(bytes: &[u8]) -> Option<usize> {
    match variable(bytes.get(1..)?) {
        Variable::Value { value, len } => Some(1 + len + value as usize),
        Variable::Incomplete | Variable::TooLong => None,
    }
}

/// Cuts one control packet from the front of `bytes`; `None` if it is not all there yet. The
/// next one begins `len` bytes later.
///
/// A Remaining Length in more bytes than it needs is accepted: before version 5 nothing forbids
/// it, and the version is not known here.
///
/// # Errors
/// As soon as the length is known: `PacketTooLarge` if the whole packet has more than
/// `packet_size_max` bytes, `MalformedRemainingLength` if its length has more than four.
#[inline]
pub fn frame(bytes: &[u8], packet_size_max: u32) -> Result<Option<Frame<'_>>, DecodeError> {
    let Some((&first, after)) = bytes.split_first() else { return Ok(None) };
    let (remaining, header_len) = match variable(after) {
        Variable::Value { value, len } => (value as usize, 1 + len),
        Variable::Incomplete => return Ok(None),
        Variable::TooLong => return Err(DecodeError::MalformedRemainingLength),
    };
    let len = header_len + remaining;
    if len > packet_size_max as usize {
        return Err(DecodeError::PacketTooLarge);
    }
    Ok(bytes.get(header_len..len).map(|body| Frame { first, body, len }))
}
