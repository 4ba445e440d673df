//! One PUBLISH encoded once per (version, QoS, RETAIN) and copied to every subscriber.
//!
//! Only the Packet Identifier differs between subscribers; it is patched in place. Payloads
//! from `limits.shared_payload_min` bytes on are not copied but shared by reference.

use bytes::Bytes;
use octopus_mqtt::{PacketId, PublishWire, QoS, Version, encode_publish_raw};

use crate::connection::Connection;
use crate::event::Instant;
use crate::message::Parcel;

const VARIANTS: usize = 12;

/// The encoded forms of the message that is being routed. Scope: shard, one message.
#[derive(Debug, Default)]
pub(crate) struct Templates {
    made: u16,
    variants: [Template; VARIANTS],
    properties: Vec<u8>,
}

/// One encoded PUBLISH.
#[derive(Debug, Default)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    packet_id_at: usize,
    payload: Option<Bytes>,
}

impl Templates {
    /// Forgets the last message.
    pub(crate) fn reset(&mut self) {
        self.made = 0;
    }

    /// The form for subscribers of this version, QoS and RETAIN flag.
    pub(crate) fn form(
        &mut self,
        parcel: &mut Parcel<'_>,
        (version, qos, retain): (Version, QoS, bool),
        shared_payload_min: usize,
        now: Instant,
    ) -> &Template {
        let is_v5 = version == Version::V5;
        let index = usize::from(is_v5) * 6 + qos as usize * 2 + usize::from(retain);
        let template = &mut self.variants[index];
        if self.made & (1 << index) == 0 {
            self.made |= 1 << index;
            self.properties.clear();
            if is_v5 {
                parcel.encode_properties(&mut self.properties);
            }
            let expiry_s = parcel.expiry_s(now);
            let wire =
                PublishWire { expiry_s, message: &self.properties, ..PublishWire::default() };
            template.encode(parcel, (version, qos, retain), wire, shared_payload_min);
        }
        template
    }
}

impl Template {
    fn encode(
        &mut self,
        parcel: &mut Parcel<'_>,
        (version, qos, retain): (Version, QoS, bool),
        wire: PublishWire<'_>,
        shared_payload_min: usize,
    ) {
        self.bytes.clear();
        self.payload = None;
        let placeholder = (qos != QoS::AtMostOnce).then_some(PacketId(std::num::NonZeroU16::MIN));
        let flags = (qos as u8) << 1 | u8::from(retain);
        self.packet_id_at = encode_publish_raw(
            &mut self.bytes,
            version,
            flags,
            parcel.topic.as_str(),
            placeholder,
            wire,
            parcel.payload.len(),
        );
        if parcel.payload.len() < shared_payload_min {
            self.bytes.extend_from_slice(parcel.payload);
        } else {
            self.payload = Some(parcel.message().payload_shared());
        }
    }

    /// Bytes of the whole packet.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.payload.as_ref().map_or(0, Bytes::len)
    }

    /// Appends the packet to what the connection sends next.
    pub(crate) fn append_to(&self, connection: &mut Connection, packet_id: Option<PacketId>) {
        let out = &mut connection.out;
        let start = out.bytes.len();
        out.bytes.extend_from_slice(&self.bytes);
        if let Some(id) = packet_id {
            let at = start + self.packet_id_at;
            out.bytes[at..at + 2].copy_from_slice(&id.get().to_be_bytes());
        }
        if let Some(payload) = &self.payload {
            connection.shared_len += payload.len();
            out.shared.push((out.bytes.len(), payload.clone()));
        }
    }
}
