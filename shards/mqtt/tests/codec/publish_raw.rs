//! Templates for many subscribers: what `encode_publish_raw` writes is what a `Publish` writes.

use std::num::NonZeroU16;

use octopus_mqtt::*;

use crate::samples::{VERSIONS, id, samples};

/// Writes `publish` by way of a template.
fn by_template(publish: &Publish<'_>, version: Version, out: &mut Vec<u8>) -> usize {
    let mut message = Vec::new();
    publish.properties.message.encode_without_expiry(&mut message);
    let subscription_ids: Vec<u32> = publish.properties.subscription_ids.iter().collect();
    let properties = PublishWire {
        alias: publish.properties.topic_alias,
        expiry_s: publish.properties.message.expiry_s,
        subscription_ids: &subscription_ids,
        message: &message,
    };
    let flags = publish_flags(publish.dup, publish.delivery.qos(), publish.retain);
    let topic = publish.topic.map_or("", TopicName::as_str);
    let packet_id = publish.delivery.packet_id();
    let payload = publish.payload;
    let at = encode_publish_raw(out, version, flags, topic, packet_id, properties, payload.len());
    assert!(packet_id.is_some() || at == out.len());
    out.extend_from_slice(payload);
    at
}

#[test]
fn a_template_reads_as_the_packet_it_stands_for() {
    for version in VERSIONS {
        for sample in samples(version) {
            let Packet::Publish(publish) = &sample else { continue };
            // Something stands in the buffer already, as in a connection's out buffer.
            let mut out = PINGRESP.to_vec();
            by_template(publish, version, &mut out);
            let bytes = &out[PINGRESP.len()..];
            let cut = frame(bytes, u32::MAX).unwrap().unwrap();
            assert_eq!((cut.len, decode(cut, version)), (bytes.len(), Ok(sample.clone())));
            assert_eq!(publish.encoded_len(version), bytes.len());
        }
    }
}

#[test]
fn the_packet_identifier_can_be_written_over_at_its_offset() {
    for version in VERSIONS {
        for sample in samples(version) {
            let Packet::Publish(publish) = sample else { continue };
            if publish.delivery.packet_id().is_none() {
                continue;
            }
            let mut out = PINGRESP.to_vec();
            let at = by_template(&publish, version, &mut out);
            out[at..at + 2].copy_from_slice(&0xabcd_u16.to_be_bytes());
            let cut = frame(&out[PINGRESP.len()..], u32::MAX).unwrap().unwrap();
            let patched = decode_publish(cut.first, cut.body, version).unwrap();
            assert_eq!(patched.delivery.packet_id(), Some(id(0xabcd)));
            assert_eq!(patched.payload, publish.payload);
        }
    }
}

#[test]
fn an_old_version_gets_no_properties() {
    let properties = PublishWire {
        alias: NonZeroU16::new(1),
        expiry_s: Some(1),
        subscription_ids: &[1],
        message: &[1, 1],
    };
    let mut out = Vec::new();
    encode_publish_raw(&mut out, Version::V3_1_1, 1, "a/b", None, properties, 2);
    assert_eq!(out, [0x31, 7, 0, 3, b'a', b'/', b'b']);
}

#[test]
fn message_properties_come_back_from_their_stored_form_without_the_expiry() {
    let message = MessageProperties {
        payload_is_utf8: Some(false),
        expiry_s: Some(5),
        content_type: Some("c"),
        response_topic: Some("r"),
        correlation_data: Some(b"d"),
        user: UserProperties::List(&[("k", "v")]),
    };
    let mut stored = Vec::new();
    message.encode_without_expiry(&mut stored);
    let back = MessageProperties::decode_wire(&stored);
    assert_eq!(back, MessageProperties { expiry_s: None, ..message });
}
