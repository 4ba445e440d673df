//! Every packet in every version: what was written is what is read.

use octopus_mqtt::*;

use crate::samples::{VERSIONS, id, samples};

fn encoded(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    packet.encode(version, &mut out);
    out
}

#[test]
fn every_packet_reads_as_it_was_written() {
    for version in VERSIONS {
        for sample in samples(version) {
            let bytes = encoded(&sample, version);
            let cut = frame(&bytes, u32::MAX).unwrap().unwrap();
            assert_eq!(cut.len, bytes.len(), "{version:?} {sample:?}");
            assert_eq!(decode(cut, version).as_ref(), Ok(&sample), "{version:?}");
        }
    }
}

#[test]
fn every_packet_type_has_a_sample() {
    for version in VERSIONS {
        let mut types: Vec<u8> =
            samples(version).iter().map(|sample| encoded(sample, version)[0] >> 4).collect();
        types.sort_unstable();
        types.dedup();
        let last = if version == Version::V5 { 15 } else { 14 };
        assert_eq!(types, (1..=last).collect::<Vec<u8>>(), "{version:?}");
    }
}

#[test]
fn a_packet_is_cut_only_when_it_is_whole() {
    for version in VERSIONS {
        for sample in samples(version) {
            let mut bytes = encoded(&sample, version);
            for end in 0..bytes.len() {
                assert_eq!(frame(&bytes[..end], u32::MAX), Ok(None), "{sample:?} at {end}");
            }
            let len = bytes.len();
            bytes.extend_from_slice(&PINGREQ);
            assert_eq!(frame(&bytes, u32::MAX).unwrap().unwrap().len, len);
        }
    }
}

#[test]
fn a_body_cut_short_anywhere_is_never_the_same_packet() {
    for version in VERSIONS {
        for sample in samples(version) {
            let bytes = encoded(&sample, version);
            let cut = frame(&bytes, u32::MAX).unwrap().unwrap();
            for end in 0..cut.body.len() {
                let short = Frame { body: &cut.body[..end], ..cut };
                assert_ne!(decode(short, version).as_ref(), Ok(&sample), "at {end}");
            }
        }
    }
}

#[test]
fn a_publish_knows_its_length_before_it_is_written() {
    for version in VERSIONS {
        for sample in samples(version) {
            let Packet::Publish(publish) = &sample else { continue };
            assert_eq!(publish.encoded_len(version), encoded(&sample, version).len());
        }
    }
}

#[test]
fn lengths_around_each_variable_byte_step_come_back() {
    for len in [0, 119, 120, 121, 122, 123, 16_370, 16_375, 16_376, 16_380, 2_097_140, 2_097_150] {
        let payload = vec![b'x'; len];
        for version in VERSIONS {
            let publish = Publish {
                dup: false,
                retain: false,
                delivery: Delivery::AtMostOnce,
                topic: TopicName::parse("a/b").ok(),
                properties: PublishProperties::default(),
                payload: &payload,
            };
            let sample = Packet::Publish(publish.clone());
            let bytes = encoded(&sample, version);
            assert_eq!(publish.encoded_len(version), bytes.len());
            let cut = frame(&bytes, u32::MAX).unwrap().unwrap();
            assert_eq!((cut.len, decode(cut, version)), (bytes.len(), Ok(sample)));
        }
    }
}

#[test]
fn a_long_property_section_gets_its_length_in_front() {
    let reason = "r".repeat(65_535);
    for len in [0, 100, 127, 128, 16_383, 16_384, 65_535] {
        let properties = ReasonProperties {
            reason_string: Some(&reason[..len]),
            user: UserProperties::default(),
        };
        let sample =
            Packet::PubAck(Ack { packet_id: id(1), reason: ReasonCode::Success, properties });
        let bytes = encoded(&sample, Version::V5);
        let cut = frame(&bytes, u32::MAX).unwrap().unwrap();
        assert_eq!(decode(cut, Version::V5), Ok(sample));
    }
}

#[test]
fn a_text_of_our_own_that_is_too_long_is_cut_at_a_character() {
    let reason = "ü".repeat(40_000);
    let properties =
        ReasonProperties { reason_string: Some(&reason), user: UserProperties::default() };
    let sample = Packet::PubAck(Ack { packet_id: id(1), reason: ReasonCode::Success, properties });
    let bytes = encoded(&sample, Version::V5);
    let Ok(Packet::PubAck(ack)) = decode(frame(&bytes, u32::MAX).unwrap().unwrap(), Version::V5)
    else {
        panic!("a PUBACK")
    };
    assert_eq!(ack.properties.reason_string, Some(&reason[..65_534]));
}

#[test]
fn acknowledgements_take_the_shortest_form() {
    let cases: &[(AckKind, ReasonCode, Version, &[u8])] = &[
        (AckKind::PubAck, ReasonCode::Success, Version::V3_1_1, &[0x40, 2, 1, 2]),
        (AckKind::PubAck, ReasonCode::QuotaExceeded, Version::V3_1_1, &[0x40, 2, 1, 2]),
        (AckKind::PubRec, ReasonCode::Success, Version::V5, &[0x50, 2, 1, 2]),
        (AckKind::PubRel, ReasonCode::Success, Version::V5, &[0x62, 2, 1, 2]),
        (AckKind::PubComp, ReasonCode::PacketIdNotFound, Version::V5, &[0x70, 3, 1, 2, 0x92]),
    ];
    for &(kind, reason, version, expected) in cases {
        let mut out = Vec::new();
        encode_ack(kind, id(0x0102), reason, &ReasonProperties::default(), version, &mut out);
        assert_eq!(out, expected);
    }
}

#[test]
fn what_an_old_version_cannot_say_is_left_out() {
    let cases: Vec<(Packet<'_>, &[u8])> = vec![
        (
            Packet::ConnAck(Box::new(ConnAck {
                session_present: true,
                reason: ReasonCode::ServerBusy,
                properties: ConnAckProperties {
                    reason_string: Some("later"),
                    ..ConnAckProperties::default()
                },
            })),
            &[0x20, 2, 0, 3],
        ),
        (
            Packet::SubAck(SubAck {
                packet_id: id(1),
                properties: ReasonProperties::default(),
                reasons: &[2, 0x87, 0x8f],
            }),
            &[0x90, 5, 0, 1, 2, 0x80, 0x80],
        ),
        (
            Packet::UnsubAck(SubAck {
                packet_id: id(1),
                properties: ReasonProperties::default(),
                reasons: &[0, 0x11],
            }),
            &[0xb0, 2, 0, 1],
        ),
        (
            Packet::Disconnect(Disconnect {
                reason: ReasonCode::ServerShuttingDown,
                properties: DisconnectProperties::default(),
            }),
            &[0xe0, 0],
        ),
        (
            Packet::Auth(Auth {
                reason: ReasonCode::Success,
                properties: AuthProperties::default(),
            }),
            &[],
        ),
    ];
    for (packet, expected) in cases {
        assert_eq!(encoded(&packet, Version::V3_1_1), expected, "{packet:?}");
    }
}

#[test]
fn refusals_have_a_return_code_in_old_versions() {
    let cases = [
        (ReasonCode::Success, 0),
        (ReasonCode::UnsupportedProtocolVersion, 1),
        (ReasonCode::ClientIdNotValid, 2),
        (ReasonCode::ServerUnavailable, 3),
        (ReasonCode::ServerBusy, 3),
        (ReasonCode::QuotaExceeded, 3),
        (ReasonCode::BadUserNameOrPassword, 4),
        (ReasonCode::NotAuthorized, 5),
    ];
    for (reason, code) in cases {
        assert_eq!(reason.connack_3(), code, "{reason:?}");
    }
}
