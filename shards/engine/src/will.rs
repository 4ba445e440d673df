//! The Will Message of a connection, kept with its session until it is sent or thrown away.

use octopus_mqtt::{MessageProperties, QoS, TopicName, Will as WillFields};

use crate::event::Instant;
use crate::message::Message;

/// Scope: session. Made at CONNECT, sent when the connection ends without a DISCONNECT
/// [MQTT-3.1.2-8], after its delay or with the session's end, whichever is first
/// [MQTT-3.1.3-9].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    pub topic: Box<str>,
    pub payload: Box<[u8]>,
    pub qos: QoS,
    pub retain: bool,
    /// Properties on the wire, without the expiry.
    pub properties: Box<[u8]>,
    /// Message Expiry Interval, seconds; counts from when the will is sent.
    pub expiry_s: Option<u32>,
    /// Will Delay Interval, seconds.
    pub delay_s: u32,
}

impl Will {
    pub(crate) fn new(fields: &WillFields<'_>) -> Self {
        let mut properties = Vec::new();
        fields.properties.message.encode_without_expiry(&mut properties);
        Self {
            topic: fields.topic.as_str().into(),
            payload: fields.payload.into(),
            qos: fields.qos,
            retain: fields.retain,
            properties: properties.into(),
            expiry_s: fields.properties.message.expiry_s,
            delay_s: fields.properties.delay_s.unwrap_or(0),
        }
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// The message to publish. Its expiry counts from now on (§3.1.3.2.4).
    pub(crate) fn message(&self, now: Instant) -> Message {
        let properties = MessageProperties {
            expiry_s: self.expiry_s,
            ..MessageProperties::decode_wire(&self.properties)
        };
        let topic = TopicName::assume_valid(&self.topic);
        Message::new(topic, &self.payload, self.qos, self.retain, &properties, now)
    }
}
