//! The fuzz body on made-up bytes, on damaged packets, on headers with plausible bodies and on
//! packets made of the dictionary's words; and what cargo-fuzz begins with, `tests/fuzz`.

use std::path::{Path, PathBuf};
use std::{env, fs};

use octopus_mqtt::{Property, Version, fuzz_decode};

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

/// Bodies out of the dictionary's words in a whole frame of version 5: what is lawful alone is
/// put together in every way.
#[test]
fn words_of_the_dictionary_never_panic() {
    let words: Vec<Vec<u8>> = dictionary().into_iter().map(|(_, word)| word).collect();
    let mut random = Random(0x0d1c_70a4);
    for _ in 0..40_000 {
        let before = random.below(12);
        let mut body: Vec<u8> = (0..before).map(|_| random.byte() % 8).collect();
        let section: Vec<u8> =
            (0..random.below(5)).flat_map(|_| words[random.below(words.len())].clone()).collect();
        body.push(section.len().min(127) as u8);
        body.extend(section);
        body.extend((0..random.below(6)).map(|_| random.byte() % 8));
        let len = body.len().min(127) as u8;
        fuzz_decode(&[&[selector(Version::V5), random.byte(), len][..], &body].concat());
    }
}

#[test]
fn the_dictionary_knows_every_property() {
    let words = dictionary();
    for property in (0..=u8::MAX).filter_map(Property::from_u8) {
        let name = format!("property_{}", property.name().to_lowercase().replace(' ', "_"));
        let word = words.iter().find(|(known, _)| *known == name);
        let word = word.map(|(_, word)| word).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(word[0], property as u8, "{name}");
    }
    let count = words.iter().filter(|(name, _)| name.starts_with("property_")).count();
    assert_eq!(count, (0..=u8::MAX).filter_map(Property::from_u8).count(), "no others");
}

/// Every sample in every version is a seed; `OCTOPUS_TEST_WRITE_SEEDS=1` puts them where
/// cargo-fuzz looks.
#[test]
fn seeds_pass_the_fuzz_body() {
    let corpus = fuzz_directory().join("corpus/decode");
    let is_wanted = env::var_os("OCTOPUS_TEST_WRITE_SEEDS").is_some();
    if is_wanted {
        fs::create_dir_all(&corpus).unwrap();
    }
    for version in VERSIONS {
        for (number, sample) in samples(version).iter().enumerate() {
            let mut seed = vec![selector(version)];
            sample.encode(version, &mut seed);
            fuzz_decode(&seed);
            if is_wanted {
                let name = format!("{}-{number:03}", version.level());
                fs::write(corpus.join(name), &seed).unwrap();
            }
        }
    }
}

fn fuzz_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz")
}

/// The words of `mqtt.dict` by their names.
fn dictionary() -> Vec<(String, Vec<u8>)> {
    let text = fs::read_to_string(fuzz_directory().join("mqtt.dict")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (name, word) = line.split_once('=').expect("name=\"word\"");
            (name.to_owned(), unescape(word.trim_matches('"')))
        })
        .collect()
}

/// `\xNN` and plain characters, as libFuzzer reads them.
fn unescape(word: &str) -> Vec<u8> {
    let mut parts = word.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    bytes
}
