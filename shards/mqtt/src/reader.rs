//! A cursor over the body of one packet: the data representations of §1.5.
//!
//! Every read either takes its bytes from the front or fails; nothing is copied.

use crate::{DecodeError, PacketId};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was not read yet.
    #[inline]
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// # Errors
    /// `TrailingBytes` if anything is left.
    #[inline]
    pub(crate) fn finish(self) -> Result<(), DecodeError> {
        if self.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    #[inline]
    pub(crate) fn packet_id(&mut self) -> Result<PacketId, DecodeError> {
        PacketId::new(self.u16()?).ok_or(DecodeError::ZeroPacketId)
    }

    /// A Variable Byte Integer (§1.5.5) in as few bytes as it needs [MQTT-1.5.5-1].
    #[inline]
    pub(crate) fn variable(&mut self) -> Result<u32, DecodeError> {
        let (value, len) = match variable(self.0) {
            Variable::Value { value, len } => (value, len),
            Variable::Incomplete => return Err(DecodeError::Truncated),
            Variable::TooLong => return Err(DecodeError::MalformedVariableByteInteger),
        };
        let taken = self.take(len)?;
        if len > 1 && taken.last() == Some(&0) {
            return Err(DecodeError::MalformedVariableByteInteger);
        }
        Ok(value)
    }

    /// Binary Data (§1.5.6): as many bytes as its two-byte length says.
    #[inline]
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }

    /// A UTF-8 Encoded String (§1.5.4) [MQTT-1.5.4-1], [MQTT-1.5.4-2].
    #[inline]
    pub(crate) fn text(&mut self) -> Result<&'a str, DecodeError> {
        let text = std::str::from_utf8(self.binary()?).map_err(|_| DecodeError::InvalidUtf8)?;
        if text.as_bytes().contains(&0) {
            return Err(DecodeError::NullCharacter);
        }
        Ok(text)
    }

    /// A UTF-8 String Pair (§1.5.7).
    #[inline]
    pub(crate) fn pair(&mut self) -> Result<(&'a str, &'a str), DecodeError> {
        Ok((self.text()?, self.text()?))
    }

    /// A property section (§2.2.2): its bytes without the Property Length.
    #[inline]
    pub(crate) fn section(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.variable()?;
        self.take(len as usize)
    }
}

/// What stands at the front of some bytes, read as a Variable Byte Integer.
pub(crate) enum Variable {
    Value {
        value: u32,
        len: usize,
    },
    /// It goes on past the end of the bytes.
    Incomplete,
    /// It goes on past its fourth byte.
    TooLong,
}

/// Reads a Variable Byte Integer (§1.5.5), in as many bytes as it came.
#[inline]
pub(crate) fn variable(bytes: &[u8]) -> Variable {
    match bytes.first() {
        Some(&byte) if byte < 0x80 => Variable::Value { value: u32::from(byte), len: 1 },
        Some(_) => long_variable(bytes),
        None => Variable::Incomplete,
    }
}

fn long_variable(bytes: &[u8]) -> Variable {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Variable::Value { value, len: index + 1 };
        }
    }
    if bytes.len() < 4 { Variable::Incomplete } else { Variable::TooLong }
}
