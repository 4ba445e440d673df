//! Appends the data representations of §1.5 to a buffer.
//!
//! Small packets and property sections are written first and get their length put in front
//! afterwards, so that no second function has to predict it; only PUBLISH computes its length
//! up front.

/// The largest length that two bytes can say.
const PREFIXED_MAX: usize = u16::MAX as usize;

/// The part of a text that a two-byte length allows. What comes off the wire always fits; of
/// our own texts the rest is cut off at a character.
#[inline]
fn fitting(text: &str) -> &[u8] {
    if text.len() <= PREFIXED_MAX { text.as_bytes() } else { cut(text) }
}

#[cold]
fn cut(text: &str) -> &[u8] {
    let end = (0..=PREFIXED_MAX).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text.as_bytes()[..end]
}

/// Bytes that [`put_text`] appends.
#[inline]
pub(crate) fn text_len(text: &str) -> usize {
    2 + fitting(text).len()
}

#[inline]
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_binary(out, fitting(text));
}

/// Bytes that [`put_binary`] appends.
#[inline]
pub(crate) fn binary_len(bytes: &[u8]) -> usize {
    2 + bytes.len().min(PREFIXED_MAX)
}

/// Appends Binary Data; no more of it than a two-byte length can say.
#[inline]
pub(crate) fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(PREFIXED_MAX)];
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Bytes of `value` as a Variable Byte Integer, at most 268,435,455.
#[inline]
pub(crate) const fn variable_len(value: usize) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

/// Appends a Variable Byte Integer, at most 268,435,455 (§1.5.5).
#[inline]
pub(crate) fn put_variable(out: &mut Vec<u8>, value: u32) {
    if value < 0x80 {
        out.push(value as u8);
    } else {
        let (bytes, len) = variable_bytes(value as usize);
        out.extend_from_slice(&bytes[..len]);
    }
}

/// The bytes of a Variable Byte Integer and how many of them count.
#[inline]
fn variable_bytes(value: usize) -> ([u8; 4], usize) {
    debug_assert!(value <= 0x0fff_ffff, "{value} does not fit a Variable Byte Integer");
    let len = variable_len(value);
    let byte = |index: usize| {
        let more = if index + 1 < len { 0x80 } else { 0 };
        (value >> (7 * index)) as u8 & 0x7f | more
    };
    ([byte(0), byte(1), byte(2), byte(3)], len)
}

/// Appends a control packet: its first byte, the Remaining Length, and what `body` appends.
pub(crate) fn put_packet(out: &mut Vec<u8>, first: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(first);
    put_section(out, body);
}

/// Appends what `body` appends, with its length as a Variable Byte Integer in front.
pub(crate) fn put_section(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(0);
    body(out);
    let (bytes, len) = variable_bytes(out.len() - start - 1);
    out[start] = bytes[0];
    if len > 1 {
        out.splice(start + 1..start + 1, bytes[1..len].iter().copied());
    }
}
