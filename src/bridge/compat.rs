//! The predecessor's JSON: Gson's defaults, fields in the order of its classes, enums by name,
//! payloads as lists of signed bytes, nulls left out. Pure, but for the two methods at the end
//! that hand it to the bridge.
//!
//! Its bridge knows no QoS but 0 and no RETAIN flag. A node of ours that is in the group is not
//! listened to here, because its messages come by our own way.

use std::fmt::Write as _;

use octopus_engine::{Envelope, Instant, Message, PeerSet, ShardId};
use octopus_mqtt::{MessageProperties, QoS, ReasonCode, TopicName};
use serde_json::Value;

use super::{members::id_of, run::Bridge, work::Op};

/// What another broker of the old kind, or anybody else, said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Publish { group: String, broker: String, topic: String, payload: Vec<u8> },
    Close { group: String, broker: String, client: String },
}

/// A message as the predecessor publishes it on `<GROUP>:PUB:BRIDGE`.
///
/// - `number`: counts the sender's messages.
pub fn write_publish(
    group: &str,
    broker: &str,
    number: u16,
    topic: &str,
    payload: &[u8],
) -> String {
    let mut out = identity(group, broker, number);
    let (broker, topic) = (quoted(broker), quoted(topic));
    let _ = write!(out, ",\"payload\":{{\"clientId\":{broker},\"messageId\":0,\"topic\":{topic},");
    out.push_str("\"QoS\":\"AT_MOST_ONCE\",\"payload\":");
    put_bytes(&mut out, payload);
    out.push_str(",\"type\":\"PUBLISH\"}}");
    out
}

/// A kick as the predecessor publishes it on `<GROUP>:CLOSE:BRIDGE`.
pub fn write_close(group: &str, broker: &str, number: u16, client: &str) -> String {
    let mut out = identity(group, broker, number);
    let _ = write!(out, ",\"clientToClose\":{}}}", quoted(client));
    out
}

/// A message for ordinary consumers of the mirror channel.
pub fn write_mirrored(message: &Message) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "{{\"topic\":{},\"QoS\":\"{}\",\"retain\":{},\"payload\":",
        quoted(message.topic().as_str()),
        qos_name(message.qos()),
        message.retain()
    );
    put_bytes(&mut out, message.payload());
    out.push('}');
    out
}

pub fn read_publish(json: &[u8]) -> Option<Said> {
    let whole: Value = serde_json::from_slice(json).ok()?;
    let (group, broker) = read_identity(&whole)?;
    let publish = &whole["payload"];
    let topic = publish["topic"].as_str()?;
    TopicName::parse(topic).ok()?;
    let payload = read_bytes(&publish["payload"])?;
    Some(Said::Publish { group, broker, topic: topic.to_owned(), payload })
}

pub fn read_close(json: &[u8]) -> Option<Said> {
    let whole: Value = serde_json::from_slice(json).ok()?;
    let (group, broker) = read_identity(&whole)?;
    Some(Said::Close { group, broker, client: whole["clientToClose"].as_str()?.to_owned() })
}

/// A value of the predecessor's `<GROUP>:RETAIN`.
pub fn read_retained(json: &[u8], now: Instant) -> Option<Message> {
    let whole: Value = serde_json::from_slice(json).ok()?;
    let topic = TopicName::parse(whole["topic"].as_str()?).ok()?;
    let qos = match whole["QoS"].as_str()? {
        "AT_MOST_ONCE" => QoS::AtMostOnce,
        "AT_LEAST_ONCE" => QoS::AtLeastOnce,
        "EXACTLY_ONCE" => QoS::ExactlyOnce,
        _ => return None,
    };
    let payload = read_bytes(&whole["payload"])?;
    Some(Message::new(topic, &payload, qos, true, &MessageProperties::default(), now))
}

/// What deletes a retained message.
pub fn empty(message: &Message, now: Instant) -> Message {
    let properties = MessageProperties::default();
    Message::new(message.topic(), b"", QoS::AtMostOnce, true, &properties, now)
}

fn identity(group: &str, broker: &str, number: u16) -> String {
    format!(
        "{{\"identity\":{{\"clusterMessageId\":{number},\"group\":{},\"brokerId\":{}}}",
        quoted(group),
        quoted(broker)
    )
}

fn read_identity(whole: &Value) -> Option<(String, String)> {
    let identity = &whole["identity"];
    let text = |name: &str| identity[name].as_str().map(str::to_owned);
    Some((text("group")?, text("brokerId")?))
}

fn qos_name(qos: QoS) -> &'static str {
    match qos {
        QoS::AtMostOnce => "AT_MOST_ONCE",
        QoS::AtLeastOnce => "AT_LEAST_ONCE",
        QoS::ExactlyOnce => "EXACTLY_ONCE",
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn put_bytes(out: &mut String, bytes: &[u8]) {
    out.push('[');
    for (index, byte) in bytes.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        let _ = write!(out, "{}", byte.cast_signed());
    }
    out.push(']');
}

/// Signed bytes; unsigned ones are read as well. An absent payload is an empty one.
fn read_bytes(list: &Value) -> Option<Vec<u8>> {
    if list.is_null() {
        return Some(Vec::new());
    }
    let byte = |value: &Value| {
        let number = value.as_i64()?;
        let signed = i8::try_from(number).map(i8::cast_unsigned);
        signed.or_else(|_| u8::try_from(number)).ok()
    };
    list.as_array()?.iter().map(byte).collect()
}

/// Peers that are no nodes: what they want is told the shards like a node's interest.
#[derive(Debug, Default)]
pub struct Outside {
    /// The predecessor's brokers, that get everything.
    pub predecessors: Option<u16>,
    pub mirror: Option<u16>,
    number: u16,
}

impl Outside {
    fn next_number(&mut self) -> u16 {
        let number = self.number;
        self.number = (self.number + 1) % u16::MAX;
        number
    }
}

impl Bridge {
    /// Tells the shards what goes to whom outside the group's own nodes.
    pub(super) fn open_outside(&mut self) {
        if self.config.compat.enable {
            self.outside.predecessors = Some(self.add_outside(&["#".to_owned()]));
        }
        if !self.config.mirror.channel.is_empty() {
            let filters = self.config.mirror.filters.clone();
            self.outside.mirror = Some(self.add_outside(&filters));
        }
    }

    fn add_outside(&mut self, filters: &[String]) -> u16 {
        let index = self.indexes.acquire();
        let node = octopus_engine::NodeIndex(index);
        for filter in filters {
            let filter = filter.as_str().into();
            self.give_all(&Envelope::NodeInterest { node, filter, wanted: true });
        }
        index
    }

    /// Publishes what goes outside; `nodes` without those peers.
    pub(super) fn send_outside(&mut self, message: &Message, nodes: &mut PeerSet) {
        let (group, own) = (self.work.keys.group().to_owned(), self.work.members.id().to_owned());
        if let Some(index) = self.outside.predecessors.filter(|index| nodes.contains(*index)) {
            nodes.remove(index);
            let (number, topic) = (self.outside.next_number(), message.topic().as_str());
            let json = write_publish(&group, &own, number, topic, message.payload());
            self.publish(self.work.keys.old_publish(), json);
        }
        if let Some(index) = self.outside.mirror.filter(|index| nodes.contains(*index)) {
            nodes.remove(index);
            self.publish(self.config.mirror.channel.clone(), write_mirrored(message));
        }
    }

    pub(super) fn kick_predecessors(&mut self, client: &str) {
        if self.config.compat.enable {
            let (group, own) = (self.work.keys.group(), self.work.members.id());
            let json = write_close(group, own, self.outside.next_number(), client);
            self.publish(self.work.keys.old_close(), json);
        }
    }

    fn publish(&mut self, channel: String, json: String) {
        if !self.link.is_up() || self.waiting.len() >= self.config.hold_count_max as usize {
            return self.counters.dropped(1);
        }
        self.waiting.push_back(Op::Publish { channel, frame: json.into() });
    }

    pub(super) fn heard_predecessor(&mut self, said: Option<Said>) {
        let is_meant = |group: &str, broker: &str| {
            group == self.work.keys.group()
                && broker != self.work.members.id()
                && !self.nodes.keys().any(|name| id_of(name) == broker)
        };
        match said {
            Some(Said::Publish { group, broker, topic, payload }) if is_meant(&group, &broker) => {
                let Ok(topic) = TopicName::parse(&topic) else { return };
                let (qos, now) = (QoS::AtMostOnce, self.sender.now());
                let properties = MessageProperties::default();
                let message = Message::new(topic, &payload, qos, false, &properties, now);
                let mut shards = PeerSet::default();
                self.wanted.shards_for(topic, &mut shards);
                for shard in shards.iter() {
                    self.give(ShardId(shard), Envelope::Publish(message.clone()));
                }
            }
            Some(Said::Close { group, broker, client }) if is_meant(&group, &broker) => {
                let reason = ReasonCode::SessionTakenOver;
                self.give_all(&Envelope::Kick { client: client.into(), reason });
            }
            Some(_) => {}
            None => self.counters.malformed(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the Java Octopus wrote it.
    const PUBLISHED: &str = concat!(
        r#"{"identity":{"clusterMessageId":7,"group":"GROUP1","brokerId":"BROKER1"},"#,
        r#""payload":{"clientId":"BROKER1","messageId":0,"topic":"a/b","QoS":"AT_MOST_ONCE","#,
        r#""payload":[104,105],"type":"PUBLISH"}}"#,
    );
    const CLOSED: &str = concat!(
        r#"{"identity":{"clusterMessageId":0,"group":"GROUP1","brokerId":"BROKER1"},"#,
        r#""clientToClose":"c1"}"#,
    );

    #[test]
    fn a_recorded_message_is_read_and_written_byte_for_byte() {
        let expected = Said::Publish {
            group: "GROUP1".into(),
            broker: "BROKER1".into(),
            topic: "a/b".into(),
            payload: b"hi".to_vec(),
        };
        assert_eq!(read_publish(PUBLISHED.as_bytes()), Some(expected));
        assert_eq!(write_publish("GROUP1", "BROKER1", 7, "a/b", b"hi"), PUBLISHED);
    }

    #[test]
    fn a_recorded_kick_is_read_and_written_byte_for_byte() {
        let (group, broker) = ("GROUP1".into(), "BROKER1".into());
        let expected = Said::Close { group, broker, client: "c1".into() };
        assert_eq!(read_close(CLOSED.as_bytes()), Some(expected));
        assert_eq!(write_close("GROUP1", "BROKER1", 0, "c1"), CLOSED);
    }

    #[test]
    fn bytes_above_127_are_signed() {
        let json = write_publish("G", "B", 0, "t", &[0, 127, 128, 255]);
        assert!(json.contains("[0,127,-128,-1]"), "{json}");
        let Some(Said::Publish { payload, .. }) = read_publish(json.as_bytes()) else {
            panic!("not read: {json}")
        };
        assert_eq!(payload, [0, 127, 128, 255]);
    }

    #[test]
    fn a_retained_message_of_the_predecessor_is_read() {
        let json = br#"{"topic":"a/b","QoS":"AT_LEAST_ONCE","payload":[-61,-92]}"#;
        let message = read_retained(json, Instant(1)).expect("it is good");
        assert_eq!(message.topic().as_str(), "a/b");
        assert_eq!(message.payload(), "ä".as_bytes());
        assert_eq!((message.qos(), message.retain()), (QoS::AtLeastOnce, true));
    }

    #[test]
    fn what_is_not_of_the_format_is_refused() {
        let wildcard = concat!(
            r#"{"identity":{"group":"G","brokerId":"B"},"#,
            r#""payload":{"topic":"a/+","payload":[1]}}"#,
        );
        for bad in ["", "{}", "[]", wildcard] {
            assert_eq!(read_publish(bad.as_bytes()), None, "{bad}");
        }
    }
}
