//! The fuzzer's body: what must hold for any bytes whatever. Driven by the tests with made-up
//! and mutated input, and by cargo-fuzz for as long as one likes.

use crate::{Frame, Packet, Version, decode, frame};

/// Takes the first byte as the version and the rest as a stream of packets.
///
/// # Panics
/// If a frame claims bytes that are not there, if a packet that decodes does not encode to the
/// same packet again, or if anything panics on the way.
#[doc(hidden)]
pub fn fuzz_decode(bytes: &[u8]) {
    let Some((&selector, mut stream)) = bytes.split_first() else { return };
    let version = [Version::V3_1, Version::V3_1_1, Version::V5][usize::from(selector % 3)];
    while let Ok(Some(cut)) = frame(stream, u32::MAX) {
        assert!(cut.len <= stream.len(), "a frame of {} in {} bytes", cut.len, stream.len());
        assert!(cut.body.len() + 2 <= cut.len, "a frame without its header");
        check(cut, version);
        stream = &stream[cut.len..];
    }
}

fn check(cut: Frame<'_>, version: Version) {
    let Ok(packet) = decode(cut, version) else { return };
    let mut bytes = Vec::new();
    packet.encode(version, &mut bytes);
    let again = frame(&bytes, u32::MAX).expect("our own header").expect("our own packet is whole");
    assert_eq!(again.len, bytes.len(), "one packet was written");
    assert_eq!(decode(again, version).as_ref(), Ok(&packet), "it reads as it was written");
    match packet {
        Packet::Publish(publish) => {
            assert_eq!(publish.encoded_len(version), bytes.len());
            let mut message = publish.properties.message;
            let mut wire = Vec::new();
            message.encode(&mut wire);
            assert_eq!(message.encoded_len(), wire.len());
            message.expiry_s = None;
            wire.clear();
            message.encode_without_expiry(&mut wire);
            assert_eq!(crate::MessageProperties::decode_wire(&wire), message);
        }
        Packet::Subscribe(subscribe) => {
            assert_eq!(subscribe.filters.len(), subscribe.filters.iter().count());
            assert!(!subscribe.filters.is_empty());
        }
        Packet::Unsubscribe(unsubscribe) => assert!(!unsubscribe.filters.is_empty()),
        _ => {}
    }
}
