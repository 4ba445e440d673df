//! Topic Names and Topic Filters (§4.7): parsed once, then the type is the proof.

use std::fmt;
use std::str::Split;

use crate::DecodeError;

/// A Topic Name: not empty, no wildcard, no U+0000, at most 65,535 bytes of UTF-8
/// [MQTT-3.3.2-2], [MQTT-4.7.3-1].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName<'a>(&'a str);

/// A Topic Filter: `#` only as the last level, wildcards alone in their level
/// [MQTT-4.7.1-1], [MQTT-4.7.1-2]. May be a shared one, `$share/{group}/{filter}` (§4.8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicFilter<'a>(&'a str);

/// Why a text is no Topic Name or no Topic Filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicError {
    EmptyTopicName,
    WildcardInTopicName,
    EmptyTopicFilter,
    /// `#` somewhere else than alone in the last level [MQTT-4.7.1-1].
    MisplacedMultiLevelWildcard,
    /// `+` beside other characters of its level [MQTT-4.7.1-2].
    MisplacedSingleLevelWildcard,
    /// No ShareName, or one with a wildcard [MQTT-4.8.2-1], [MQTT-4.8.2-2].
    ShareNameInvalid,
    /// `$share/{group}` without a filter [MQTT-4.8.2-2].
    ShareWithoutFilter,
    /// U+0000 [MQTT-4.7.3-2].
    NullCharacter,
    /// More than 65,535 bytes [MQTT-4.7.3-3].
    TooLong,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => f.write_str("topic longer than 65,535 bytes"),
            other => DecodeError::from(*other).fmt(f),
        }
    }
}

impl std::error::Error for TopicError {}

impl<'a> TopicName<'a> {
    /// # Errors
    /// `EmptyTopicName`, `WildcardInTopicName`, `NullCharacter` or `TooLong`.
    #[inline]
    pub fn parse(topic: &'a str) -> Result<Self, TopicError> {
        if topic.is_empty() || topic.len() > usize::from(u16::MAX) || has_special(topic.as_bytes())
        {
            return Err(name_error(topic));
        }
        Ok(Self(topic))
    }

    /// The Topic Name in the bytes of a length-prefixed string.
    #[inline]
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::InvalidUtf8)?;
        Ok(Self::parse(text)?)
    }

    /// Text that came out of a `TopicName` before, and was stored in between.
    #[inline]
    pub fn assume_valid(topic: &'a str) -> Self {
        debug_assert!(Self::parse(topic).is_ok(), "not taken from a Topic Name: {topic:?}");
        Self(topic)
    }

    #[inline]
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// The levels between the `/`, at least one; a level may be empty (§4.7.1.1).
    #[inline]
    pub fn levels(self) -> Split<'a, char> {
        self.0.split('/')
    }

    /// Begins with `$`: filters that begin with a wildcard do not match it [MQTT-4.7.2-1].
    #[inline]
    pub fn is_dollar(self) -> bool {
        self.0.starts_with('$')
    }
}

impl<'a> TopicFilter<'a> {
    /// # Errors
    /// All of [`TopicError`] but those about Topic Names.
    pub fn parse(filter: &'a str) -> Result<Self, TopicError> {
        if filter.len() > usize::from(u16::MAX) {
            return Err(TopicError::TooLong);
        }
        let Some(shared) = filter.strip_prefix(SHARE_PREFIX) else {
            check_filter(filter)?;
            return Ok(Self(filter));
        };
        let (group, inner) = match shared.split_once('/') {
            Some(parts) => parts,
            None => (shared, ""),
        };
        if group.is_empty() || group.contains(['+', '#']) {
            return Err(TopicError::ShareNameInvalid);
        }
        if group.contains('\0') {
            return Err(TopicError::NullCharacter);
        }
        if inner.is_empty() {
            return Err(TopicError::ShareWithoutFilter);
        }
        check_filter(inner)?;
        Ok(Self(filter))
    }

    /// The Topic Filter in the bytes of a length-prefixed string.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::InvalidUtf8)?;
        Ok(Self::parse(text)?)
    }

    /// Text that came out of a `TopicFilter` before, and was stored in between.
    #[inline]
    pub fn assume_valid(filter: &'a str) -> Self {
        debug_assert!(Self::parse(filter).is_ok(), "not taken from a Topic Filter: {filter:?}");
        Self(filter)
    }

    #[inline]
    pub fn as_str(self) -> &'a str {
        self.0
    }

    /// The levels between the `/`, of a shared filter those of the whole text.
    #[inline]
    pub fn levels(self) -> Split<'a, char> {
        self.0.split('/')
    }

    /// The ShareName and the filter behind it, if this is a Shared Subscription (§4.8.2).
    pub fn shared(self) -> Option<(&'a str, Self)> {
        let (group, filter) = self.0.strip_prefix(SHARE_PREFIX)?.split_once('/')?;
        Some((group, Self(filter)))
    }

    pub fn has_wildcard(self) -> bool {
        self.0.contains(['+', '#'])
    }

    /// Whether a message on `topic` is for a subscription with this filter (§4.7); of a shared
    /// filter the part behind the ShareName counts. Cost: one pass over both, no allocation.
    pub fn matches(self, topic: TopicName<'_>) -> bool {
        let filter = self.shared().map_or(self, |(_, filter)| filter);
        if topic.is_dollar() && filter.0.starts_with(['+', '#']) {
            return false; // [MQTT-4.7.2-1]
        }
        let mut names = topic.levels();
        for level in filter.levels() {
            match (level, names.next()) {
                // The parent level is included: `sport/#` matches `sport`.
                ("#", _) => return true,
                ("+", Some(_)) => {}
                (level, Some(name)) if level == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }
}

const SHARE_PREFIX: &str = "$share/";

/// Whether a wildcard or U+0000 is among the bytes: eight at a time and without a branch between
/// them; the last eight may overlap those before.
#[inline]
fn has_special(bytes: &[u8]) -> bool {
    let Some(last) = bytes.last_chunk::<8>() else {
        return bytes.iter().any(|byte| matches!(byte, b'+' | b'#' | 0));
    };
    let (chunks, _) = bytes.as_chunks::<8>();
    let found = chunks.iter().fold(special_in(*last), |found, chunk| found | special_in(*chunk));
    found != 0
}

/// Non-zero if and only if one of the eight bytes is a wildcard or zero. `+` (0x2b) and `#`
/// (0x23) differ in one bit only: with that bit set, both are `+`.
#[inline]
fn special_in(bytes: [u8; 8]) -> u64 {
    const fn all(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    /// Non-zero if and only if one of the eight bytes is zero.
    const fn zeros(word: u64) -> u64 {
        word.wrapping_sub(all(0x01)) & !word & all(0x80)
    }
    let word = u64::from_ne_bytes(bytes);
    zeros(word) | zeros((word | all(b'+' ^ b'#')) ^ all(b'+'))
}

#[cold]
fn name_error(topic: &str) -> TopicError {
    if topic.is_empty() {
        TopicError::EmptyTopicName
    } else if topic.contains('\0') {
        TopicError::NullCharacter
    } else if topic.contains(['+', '#']) {
        TopicError::WildcardInTopicName
    } else {
        TopicError::TooLong
    }
}

/// The rules for a filter that is not shared, or the part of a shared one behind its ShareName.
fn check_filter(filter: &str) -> Result<(), TopicError> {
    if filter.is_empty() {
        return Err(TopicError::EmptyTopicFilter);
    }
    if !has_special(filter.as_bytes()) {
        return Ok(());
    }
    if filter.contains('\0') {
        return Err(TopicError::NullCharacter);
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        if level.contains('#') && (level != "#" || levels.peek().is_some()) {
            return Err(TopicError::MisplacedMultiLevelWildcard);
        }
        if level.contains('+') && level != "+" {
            return Err(TopicError::MisplacedSingleLevelWildcard);
        }
    }
    Ok(())
}
