//! Time and throughput of the codec: cutting frames, decoding and encoding the packets that the
//! data path is made of.

use std::{hint::black_box, num::NonZeroU16};

use divan::{Bencher, counter::ItemsCount};
use octopus_mqtt::{
    AckKind, Connect, ConnectProperties, Delivery, MessageProperties, Packet, PacketId, Publish,
    PublishProperties, QoS, ReasonCode, ReasonProperties, Subscribe, SubscribeFilter,
    SubscribeFilters, SubscribeProperties, SubscriptionOptions, TopicFilter, TopicName,
    UserProperties, Version, decode, encode_ack, frame,
};

const PACKET_SIZE_MAX: u32 = 1 << 20;
const TOPIC: &str = "sensors/building-7/floor-3/temperature";
const ID: PacketId = PacketId(NonZeroU16::MIN);

fn main() {
    divan::main();
}

/// The messages that are measured: as a sensor sends them, larger, and with all that version 5
/// lets a publisher say.
#[derive(Clone, Copy, Debug)]
enum Message {
    Small,
    SmallQoS1,
    SmallV5,
    PropertiesV5,
    Large,
}

const MESSAGES: [Message; 5] =
    [Message::Small, Message::SmallQoS1, Message::SmallV5, Message::PropertiesV5, Message::Large];

impl Message {
    fn version(self) -> Version {
        match self {
            Self::SmallV5 | Self::PropertiesV5 => Version::V5,
            Self::Small | Self::SmallQoS1 | Self::Large => Version::V3_1_1,
        }
    }

    fn publish(self) -> Publish<'static> {
        let message = match self {
            Self::PropertiesV5 => MessageProperties {
                payload_is_utf8: Some(true),
                expiry_s: Some(60),
                content_type: Some("application/json"),
                response_topic: Some("answers/42"),
                correlation_data: Some(&[7; 16]),
                user: UserProperties::List(&[("trace", "0af7651916cd43dd"), ("unit", "K")]),
            },
            _ => MessageProperties::default(),
        };
        Publish {
            dup: false,
            retain: false,
            delivery: match self {
                Self::SmallQoS1 => Delivery::AtLeastOnce(ID),
                _ => Delivery::AtMostOnce,
            },
            topic: Some(TopicName::parse(TOPIC).expect("a Topic Name")),
            properties: PublishProperties { message, ..PublishProperties::default() },
            payload: match self {
                Self::Large => &[b'x'; 4096],
                _ => &[b'x'; 64],
            },
        }
    }

    fn encoded(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.publish().encode(self.version(), &mut bytes);
        bytes
    }
}

/// Decodes all packets of `bytes` and returns how many they are.
fn decode_all(mut bytes: &[u8], version: Version) -> usize {
    let mut count = 0;
    while let Some(frame) = frame(bytes, PACKET_SIZE_MAX).expect("a whole frame") {
        black_box(decode(frame, version).expect("a lawful packet"));
        bytes = &bytes[frame.len..];
        count += 1;
    }
    count
}

fn bench_decode(bencher: Bencher<'_, '_>, bytes: &[u8], version: Version) {
    let count = decode_all(bytes, version);
    bencher.counter(ItemsCount::new(count)).bench_local(|| decode_all(black_box(bytes), version));
}

#[divan::bench(args = MESSAGES)]
fn decode_publish(bencher: Bencher<'_, '_>, message: Message) {
    bench_decode(bencher, &message.encoded(), message.version());
}

/// One large read from a busy publisher.
#[divan::bench(args = MESSAGES)]
fn decode_64_kib_of_publish(bencher: Bencher<'_, '_>, message: Message) {
    let packet = message.encoded();
    let bytes = packet.repeat((64 << 10) / packet.len());
    bench_decode(bencher, &bytes, message.version());
}

#[divan::bench(args = [Version::V3_1_1, Version::V5])]
fn decode_puback(bencher: Bencher<'_, '_>, version: Version) {
    let mut bytes = Vec::new();
    let none = ReasonProperties::default();
    encode_ack(AckKind::PubAck, ID, ReasonCode::Success, &none, version, &mut bytes);
    bench_decode(bencher, &bytes, version);
}

#[divan::bench(args = [Version::V3_1_1, Version::V5])]
fn decode_connect(bencher: Bencher<'_, '_>, version: Version) {
    let connect = Connect {
        version,
        clean_start: true,
        keep_alive_s: 60,
        client_id: "sensor-building-7-floor-3",
        will: None,
        user_name: Some("sensor"),
        password: Some(b"secret"),
        properties: ConnectProperties::default(),
    };
    let mut bytes = Vec::new();
    Packet::Connect(Box::new(connect)).encode(version, &mut bytes);
    bench_decode(bencher, &bytes, version);
}

#[divan::bench(args = [1, 10, 100])]
fn decode_subscribe(bencher: Bencher<'_, '_>, filters: usize) {
    let filter = TopicFilter::parse("sensors/+/floor-3/#").expect("a Topic Filter");
    let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..SubscriptionOptions::default() };
    let filters = vec![SubscribeFilter { filter, options }; filters];
    let properties = SubscribeProperties::default();
    let subscribe =
        Subscribe { packet_id: ID, properties, filters: SubscribeFilters::List(&filters) };
    let mut bytes = Vec::new();
    Packet::Subscribe(subscribe).encode(Version::V5, &mut bytes);
    bench_decode(bencher, &bytes, Version::V5);
}

#[divan::bench(args = MESSAGES)]
fn encode_publish(bencher: Bencher<'_, '_>, message: Message) {
    let publish = message.publish();
    let mut out = Vec::with_capacity(8192);
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| {
        out.clear();
        black_box(&publish).encode(message.version(), &mut out);
        black_box(out.len())
    });
}

#[divan::bench(args = [Version::V3_1_1, Version::V5])]
fn encode_puback(bencher: Bencher<'_, '_>, version: Version) {
    let none = ReasonProperties::default();
    let mut out = Vec::with_capacity(64);
    bencher.counter(ItemsCount::new(1usize)).bench_local(|| {
        out.clear();
        encode_ack(AckKind::PubAck, black_box(ID), ReasonCode::Success, &none, version, &mut out);
        black_box(out.len())
    });
}
