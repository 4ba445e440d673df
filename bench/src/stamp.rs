//! What the generator writes at the start of each payload: who sent it, as which message, when.
//!
//! The clock is the machine's monotonic one, so publishers and subscribers may be different
//! processes of one machine, not of two. A payload too short for a stamp carries none, and is
//! counted but not checked.

/// The head of a payload. Integers are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Which run of the generator; what is left in a broker from another run is not ours.
    pub run: u32,
    /// Which publisher of that run.
    pub publisher: u32,
    /// Counts that publisher's messages from 0.
    pub sequence: u32,
    /// Nanoseconds of the machine's monotonic clock.
    pub sent_ns: u64,
}

const MAGIC: [u8; 4] = *b"octB";

impl Stamp {
    /// Bytes of a stamp; the shortest payload that carries one.
    pub(crate) const LEN: usize = 24;

    /// Writes the stamp over the first [`Self::LEN`] bytes of `payload`; a shorter payload is
    /// left as it is.
    pub(crate) fn write(&self, payload: &mut [u8]) {
        let Some(head) = payload.first_chunk_mut::<{ Self::LEN }>() else { return };
        head[0..4].copy_from_slice(&MAGIC);
        head[4..8].copy_from_slice(&self.run.to_le_bytes());
        head[8..12].copy_from_slice(&self.publisher.to_le_bytes());
        head[12..16].copy_from_slice(&self.sequence.to_le_bytes());
        head[16..24].copy_from_slice(&self.sent_ns.to_le_bytes());
    }

    /// Reads the stamp of `payload`, if it carries one.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let head = payload.first_chunk::<{ Self::LEN }>()?;
        let (magic, rest) = head.split_first_chunk::<4>()?;
        let (run, rest) = rest.split_first_chunk::<4>()?;
        let (publisher, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<4>()?;
        let sent_ns = rest.first_chunk::<8>()?;
        (*magic == MAGIC).then_some(Self {
            run: u32::from_le_bytes(*run),
            publisher: u32::from_le_bytes(*publisher),
            sequence: u32::from_le_bytes(*sequence),
            sent_ns: u64::from_le_bytes(*sent_ns),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { run: 7, publisher: 3, sequence: 41, sent_ns: u64::MAX - 1 };

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        let mut payload = [b'x'; 64];
        STAMP.write(&mut payload);
        assert_eq!(Stamp::read(&payload), Some(STAMP));
        assert_eq!(payload[Stamp::LEN..], [b'x'; 64 - Stamp::LEN]);
    }

    #[test]
    fn a_short_or_foreign_payload_has_no_stamp() {
        let mut short = [0; Stamp::LEN - 1];
        STAMP.write(&mut short);
        assert_eq!(short, [0; Stamp::LEN - 1]);
        assert_eq!(Stamp::read(&short), None);
        assert_eq!(Stamp::read(&[0; 64]), None);
    }
}
