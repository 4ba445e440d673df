//! The relay as a peer of `octopus-bench compare`: it says what a client must hear before it
//! sends, notes which topic the client is about, and from then on copies bytes without looking.
//!
//! One topic a connection, one publisher a topic: true of pairs and of fan-out. At QoS 1 and 2
//! the acknowledgements of a pair's subscriber go back to its publisher, so that a message is as
//! many packets in and out as at a broker.

use std::collections::HashMap;

use octopus_mqtt::{
    ConnAck, ConnAckProperties, Packet, PacketId, ReasonCode, ReasonProperties, SubAck, Version,
    decode, frame,
};

/// What the first packets of a connection say.
pub(crate) enum Hello {
    /// Answer with these bytes; more is to come.
    Answer(Vec<u8>),
    /// Answer with these bytes; it gets what is published to this group.
    Subscribe(u32, Vec<u8>),
    /// It publishes to this group, beginning with these very bytes.
    Publish(u32),
    /// Nothing that the relay can play.
    Unknown,
}

/// The largest packet there is (§1.5.5).
const PACKET_SIZE_MAX: u32 = 5 + 268_435_455;

/// Groups by topic, versions by connection.
#[derive(Default)]
pub(crate) struct Hellos {
    groups: HashMap<Vec<u8>, u32>,
    versions: HashMap<u32, Version>,
}

impl Hellos {
    /// Reads what connection `index` sent before it had a role. CONNECT and SUBSCRIBE come whole:
    /// the generator sends each alone.
    pub(crate) fn read(&mut self, index: u32, bytes: &[u8]) -> Hello {
        if bytes.first().is_some_and(|first| first >> 4 == 3) {
            return topic_of(bytes)
                .map_or(Hello::Unknown, |topic| Hello::Publish(self.group(topic)));
        }
        let version = self.versions.get(&index).copied().unwrap_or(Version::V3_1_1);
        let Ok(Some(frame)) = frame(bytes, PACKET_SIZE_MAX) else { return Hello::Unknown };
        match decode(frame, version) {
            Ok(Packet::Connect(connect)) => {
                self.versions.insert(index, connect.version);
                Hello::Answer(conn_ack(connect.version))
            }
            Ok(Packet::Subscribe(subscribe)) => {
                let Some(first) = subscribe.filters.iter().next() else { return Hello::Unknown };
                let group = self.group(first.filter.as_str().as_bytes());
                let granted = first.options.qos as u8;
                Hello::Subscribe(group, sub_ack(subscribe.packet_id, granted, version))
            }
            _ => Hello::Unknown,
        }
    }

    fn group(&mut self, topic: &[u8]) -> u32 {
        let next = self.groups.len() as u32;
        *self.groups.entry(topic.to_vec()).or_insert(next)
    }
}

/// The Topic Name of the PUBLISH that begins with `bytes`, of which the end may be missing.
fn topic_of(bytes: &[u8]) -> Option<&[u8]> {
    let length_bytes = bytes[1..].iter().take(4).position(|byte| byte & 0x80 == 0)? + 1;
    let (length, rest) = bytes[1 + length_bytes..].split_first_chunk::<2>()?;
    rest.get(..usize::from(u16::from_be_bytes(*length)))
}

fn conn_ack(version: Version) -> Vec<u8> {
    let packet = ConnAck {
        session_present: false,
        reason: ReasonCode::Success,
        properties: ConnAckProperties::default(),
    };
    encoded(&Packet::ConnAck(Box::new(packet)), version)
}

fn sub_ack(packet_id: PacketId, granted: u8, version: Version) -> Vec<u8> {
    let properties = ReasonProperties::default();
    encoded(&Packet::SubAck(SubAck { packet_id, properties, reasons: &[granted] }), version)
}

fn encoded(packet: &Packet<'_>, version: Version) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode(version, &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::Relay;

    const CONNECT: &[u8] = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01c";
    const SUBSCRIBE: &[u8] = b"\x82\x06\0\x07\0\x01t\x01";
    /// Topic t, Packet Identifier 1, payload hi; at QoS 1.
    const PUBLISH: &[u8] = b"\x32\x07\0\x01t\0\x01hi";

    fn written(relay: &mut Relay) -> Vec<(u32, Vec<u8>)> {
        std::iter::from_fn(|| {
            let (index, bytes) = relay.next_write()?;
            relay.written(index, Vec::new());
            Some((index, bytes))
        })
        .collect()
    }

    #[test]
    fn a_pair_hears_its_acknowledgements_and_then_each_other() {
        let mut relay = Relay::for_mqtt();
        for client in [0, 1] {
            relay.open(client);
            relay.received(client, CONNECT);
            assert_eq!(written(&mut relay), [(client, b"\x20\x02\0\0".to_vec())]);
        }
        relay.received(1, SUBSCRIBE);
        assert_eq!(written(&mut relay), [(1, b"\x90\x03\0\x07\x01".to_vec())]);
        // Cut anywhere: what follows is copied whatever it is.
        relay.received(0, &PUBLISH[..6]);
        relay.received(0, &PUBLISH[6..]);
        assert_eq!(written(&mut relay), [(1, PUBLISH.to_vec())]);
        let acknowledgement = b"\x40\x02\0\x01";
        relay.received(1, acknowledgement);
        assert_eq!(written(&mut relay), [(0, acknowledgement.to_vec())]);
    }

    #[test]
    fn a_topic_is_read_before_its_message_is_whole() {
        assert_eq!(topic_of(b"\x30\x80\x80\x04\0\x03a/bxxxx"), Some(&b"a/b"[..]));
        assert_eq!(topic_of(b"\x30\x80\x80\x04\0\x03a/"), None);
        assert_eq!(topic_of(b"\x30\x80\x80\x80\x80"), None);
    }
}
