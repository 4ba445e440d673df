//! The one door to the codec: the packets a client sends, ready made, and those it gets.

use std::num::NonZeroU16;

use octopus_mqtt::{
    Connect, ConnectProperties, DecodeError, Delivery, Disconnect, DisconnectProperties, Packet,
    PacketId, Publish, PublishProperties, QoS, ReasonCode, Subscribe, SubscribeFilter,
    SubscribeFilters, SubscribeProperties, SubscriptionOptions, TopicError, TopicFilter, TopicName,
    Version, decode, frame,
};

use crate::{plan::Plan, stamp::Stamp};

/// The largest packet there is (§1.5.5); the generator itself sets no limit.
const PACKET_SIZE_MAX: u32 = 5 + 268_435_455;

/// Seconds a version 5 broker shall keep a session that is asked to be kept.
const SESSION_EXPIRY_S: u32 = 3600;

/// Cuts and decodes the packet at the front of `bytes`, with its length; `None` if it is not
/// all there.
pub(crate) fn next_packet(
    bytes: &[u8],
    version: Version,
) -> Result<Option<(Packet<'_>, usize)>, DecodeError> {
    let Some(frame) = frame(bytes, PACKET_SIZE_MAX)? else { return Ok(None) };
    Ok(Some((decode(frame, version)?, frame.len)))
}

/// Appends the CONNECT of client number `number`.
pub(crate) fn connect(plan: &Plan, number: usize, out: &mut Vec<u8>) {
    let client_id = plan.client_ids.get(number).unwrap_or(&plan.client_id);
    let client_id = client_id.replace("%i", &number.to_string());
    let client_id = client_id.replace("%r", &format!("{:08x}", plan.run));
    let keeps = plan.version == Version::V5 && !plan.clean_start;
    let packet = Connect {
        version: plan.version,
        clean_start: plan.clean_start,
        keep_alive_s: plan.keep_alive_s,
        client_id: &client_id,
        will: None,
        user_name: plan.username.as_deref(),
        password: plan.password.as_deref().map(str::as_bytes),
        properties: ConnectProperties {
            session_expiry_s: keeps.then_some(SESSION_EXPIRY_S),
            ..ConnectProperties::default()
        },
    };
    Packet::Connect(Box::new(packet)).encode(plan.version, out);
}

/// Appends a SUBSCRIBE to `filters`.
///
/// # Errors
/// If one of them is no Topic Filter.
pub(crate) fn subscribe(
    filters: &[String],
    qos: QoS,
    version: Version,
    out: &mut Vec<u8>,
) -> Result<(), TopicError> {
    let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
    let filters: Result<Vec<_>, _> = filters
        .iter()
        .map(|filter| Ok(SubscribeFilter { filter: TopicFilter::parse(filter)?, options }))
        .collect();
    let packet = Subscribe {
        packet_id: PacketId(NonZeroU16::MIN),
        properties: SubscribeProperties::default(),
        filters: SubscribeFilters::List(&filters?),
    };
    Packet::Subscribe(packet).encode(version, out);
    Ok(())
}

/// Appends a PINGREQ.
pub(crate) fn ping(version: Version, out: &mut Vec<u8>) {
    Packet::PingReq.encode(version, out);
}

/// Appends a normal DISCONNECT.
pub(crate) fn disconnect(version: Version, out: &mut Vec<u8>) {
    let properties = DisconnectProperties::default();
    Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties }).encode(version, out);
}

/// An encoded PUBLISH of which only Packet Identifier and stamp change from one message to the
/// next, so that sending is one copy.
#[derive(Debug)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    packet_id_at: Option<usize>,
    payload_at: usize,
}

impl Template {
    /// # Errors
    /// If `topic` is no Topic Name.
    pub(crate) fn new(plan: &Plan, topic: &str) -> Result<Self, TopicError> {
        let id = PacketId(NonZeroU16::MIN);
        let delivery = match plan.qos {
            QoS::AtMostOnce => Delivery::AtMostOnce,
            QoS::AtLeastOnce => Delivery::AtLeastOnce(id),
            QoS::ExactlyOnce => Delivery::ExactlyOnce(id),
        };
        let packet = Publish {
            dup: false,
            retain: plan.retain,
            delivery,
            topic: Some(TopicName::parse(topic)?),
            properties: PublishProperties::default(),
            payload: &plan.payload,
        };
        let mut bytes = Vec::new();
        Packet::Publish(packet).encode(plan.version, &mut bytes);
        let payload_at = bytes.len() - plan.payload.len();
        // Packet Identifier, then the length of no properties in version 5 (§3.3.2).
        let property_bytes = usize::from(plan.version == Version::V5);
        let packet_id_at = (plan.qos > QoS::AtMostOnce).then(|| payload_at - property_bytes - 2);
        Ok(Self { bytes, packet_id_at, payload_at })
    }

    /// Appends the PUBLISH with this Packet Identifier, unused at QoS 0, and this stamp.
    #[inline]
    pub(crate) fn append(&self, packet_id: u16, stamp: &Stamp, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        if let Some(at) = self.packet_id_at {
            out[start + at..start + at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
        stamp.write(&mut out[start + self.payload_at..]);
    }
}
