//! The fuzz body on made-up bytes, on damaged packets and on headers with plausible bodies.

use octopus_mqtt::{Version, fuzz_decode};

use crate::samples::{VERSIONS, samples};

/// Marsaglia's xorshift: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }

    fn byte(&mut self) -> u8 {
        (self.next() >> 32) as u8
    }
}

fn selector(version: Version) -> u8 {
    version.level() - Version::V3_1.level()
}

#[test]
fn made_up_bytes_never_panic() {
    let mut random = Random(0x0c70_9005);
    for _ in 0..20_000 {
        let len = random.below(64);
        let bytes: Vec<u8> = (0..len).map(|_| random.byte()).collect();
        fuzz_decode(&bytes);
    }
}

#[test]
fn made_up_bodies_in_a_whole_frame_never_panic() {
    let mut random = Random(0x00b0_d1e5);
    for _ in 0..40_000 {
        let len = random.below(40);
        let first = random.byte();
        let mut bytes = vec![random.byte(), first, len as u8];
        // Small bytes are lengths, identifiers and flags more often than large ones.
        bytes.extend((0..len).map(|_| random.byte() % 48));
        fuzz_decode(&bytes);
    }
}

#[test]
fn damaged_packets_never_panic() {
    let mut random = Random(0x0da3_a6ed);
    for version in VERSIONS {
        for sample in samples(version) {
            let mut whole = vec![selector(version)];
            sample.encode(version, &mut whole);
            fuzz_decode(&whole);
            for _ in 0..600 {
                let mut bytes = whole.clone();
                for _ in 0..=random.below(3) {
                    damage(&mut bytes, &mut random);
                }
                fuzz_decode(&bytes);
            }
        }
    }
}

/// One change: a byte replaced, a bit turned, a byte gone, a byte more, a piece repeated (and the
/// one-byte Remaining Length set right again, so that the damage gets past the frame).
fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len());
    match random.below(5) {
        0 => bytes[at] = random.byte(),
        1 => bytes[at] ^= 1 << random.below(8),
        2 if bytes.len() > 4 => drop(bytes.remove(at)),
        3 => bytes.insert(at, random.byte() % 48),
        _ => {
            let end = (at + 1 + random.below(12)).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            bytes.splice(at..at, piece);
        }
    }
    if (3..0x83).contains(&bytes.len()) && random.below(4) != 0 {
        bytes[2] = (bytes.len() - 3) as u8;
    }
}
