//! The fuzzer's body for sequences of operations: several clients do whatever the bytes say,
//! lawful or not, and the node must neither panic nor lose count.

use std::time::Duration;

use octopus_engine::{Limits, QueueFull};
use octopus_mqtt::{
    AckKind, Auth, AuthProperties, Connect, ConnectProperties, Delivery, Disconnect,
    DisconnectProperties, MessageProperties, Packet, PacketId, Publish, PublishProperties, QoS,
    ReasonCode, ReasonProperties, RetainHandling, Subscribe, SubscribeFilter, SubscribeFilters,
    SubscribeProperties, SubscriptionOptions, TopicFilter, TopicName, Unsubscribe,
    UnsubscribeFilters, Version, Will, WillProperties, encode_ack,
};

use crate::node::{Node, NodeConfig};
use crate::socket::{Intake, SocketId};

const CLIENTS: usize = 6;
const TOPICS: [&str; 8] = ["a", "a/b", "a/b/c", "/", "a//c", "$x/a", "b", "b/a"];
const FILTERS: [&str; 12] = [
    "a",
    "a/b",
    "#",
    "+",
    "a/#",
    "+/b",
    "+/+/c",
    "$share/g/a",
    "$share/g/#",
    "$share/h/a/+",
    "$x/#",
    "a/b/#",
];
const CLIENT_IDS: [&str; 5] = ["", "one", "two", "three", "four"];

/// Interprets `bytes` as operations of a few clients on a node.
///
/// # Panics
/// If the node does, or if a ledger does not balance after any input.
pub fn fuzz_operations(bytes: &[u8]) {
    let mut input = Bytes(bytes);
    let mut node = Node::new(&config(&mut input));
    let mut clients: [Option<(SocketId, Version)>; CLIENTS] = [None; CLIENTS];
    while !input.is_empty() {
        let client = &mut clients[input.below(CLIENTS)];
        operation(&mut node, client, &mut input);
        if input.below(4) > 0 {
            node.settle();
        }
    }
    node.advance(Duration::from_secs(60));
    assert!(node.ledger_holds(), "the books balance at the end");
    assert!(node.memory_is_counted(), "what is kept is counted");
}

/// The bytes as choices; zeros when they are used up.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn next(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn below(&mut self, count: usize) -> usize {
        usize::from(self.next()) % count
    }

    fn flag(&mut self) -> bool {
        self.next() & 1 == 1
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn qos(&mut self) -> QoS {
        self.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
    }

    /// Few identifiers, so that they meet.
    fn packet_id(&mut self) -> PacketId {
        let id = self.pick(&[1, 2, 3, 4, 5, u16::MAX]);
        PacketId::new(id).expect("none of them is zero")
    }
}

fn config(input: &mut Bytes<'_>) -> NodeConfig {
    let limits = Limits {
        queue_count_max: input.pick(&[0, 1, 3, 1000]),
        queue_bytes_max: input.pick(&[0, 50, 1 << 20]),
        queue_full: input.pick(&[QueueFull::DropNewest, QueueFull::DropOldest]),
        inflight_count_max: input.pick(&[1, 2, 100]),
        receive_max: input.pick(&[1, 3, 100]),
        out_bytes_max: input.pick(&[1, 60, 1 << 20]),
        session_count_max: input.pick(&[1, 3, 1000]),
        subscription_count_max: input.pick(&[1, 1000]),
        retained_count_max: input.pick(&[0, 2, 1000]),
        retained_bytes_max: input.pick(&[10, 1 << 20]),
        retained_slice_count: input.pick(&[1, 64]),
        shared_payload_min: input.pick(&[1, 2048]),
        keep_alive_max_s: input.pick(&[0, 5]),
        memory_bytes_max: input.pick(&[1 << 50, 10_000]),
        ..Limits::default()
    };
    NodeConfig { limits, authenticate: input.flag(), ..NodeConfig::new(input.pick(&[1, 2, 3, 8])) }
}

fn operation(node: &mut Node, client: &mut Option<(SocketId, Version)>, input: &mut Bytes<'_>) {
    let open = client.filter(|&(socket, _)| !node.is_closed(socket));
    let Some((socket, version)) = open else {
        let version = input.pick(&[Version::V3_1, Version::V3_1_1, Version::V5]);
        let socket = node.open();
        *client = Some((socket, version));
        return connect(node, socket, version, input);
    };
    match input.below(20) {
        0 => connect(node, socket, version, input),
        1 => {
            node.cut(socket);
            *client = None;
        }
        2 => *client = None, // left open; its Client Identifier may come again
        3 => {
            let seconds = u64::from(input.next());
            node.advance(Duration::from_secs(seconds));
        }
        4 => {
            let intake = input.pick(&[Intake::AtOnce, Intake::Slow(3), Intake::Stopped]);
            node.set_intake(socket, intake);
        }
        5 => {
            let count = 1 + input.below(2) * 11;
            let garbage: Vec<u8> = (0..count).map(|_| input.next()).collect();
            node.send(socket, &garbage);
        }
        6..11 => publish(node, socket, version, input),
        11..15 => acknowledge(node, socket, version, input),
        15..17 => subscribe(node, socket, version, input),
        17 => unsubscribe(node, socket, version, input),
        18 => disconnect(node, socket, version, input),
        _ => auth(node, socket, version, input),
    }
}

fn send(node: &mut Node, socket: SocketId, version: Version, packet: &Packet<'_>) {
    let mut bytes = Vec::new();
    packet.encode(version, &mut bytes);
    node.send(socket, &bytes);
}

fn connect(node: &mut Node, socket: SocketId, version: Version, input: &mut Bytes<'_>) {
    let will = input.flag().then(|| Will {
        topic: TopicName::assume_valid(input.pick(&TOPICS)),
        payload: b"will",
        qos: input.qos(),
        retain: input.flag(),
        properties: WillProperties {
            delay_s: Some(u32::from(input.next())),
            message: MessageProperties::default(),
        },
    });
    let properties = ConnectProperties {
        session_expiry_s: input.pick(&[None, Some(0), Some(5), Some(u32::MAX)]),
        receive_max: std::num::NonZeroU16::new(input.pick(&[0, 1, 3])),
        packet_size_max: input.pick(&[None, Some(1), Some(20)]),
        topic_alias_max: input.pick(&[None, Some(0), Some(1), Some(9)]),
        authentication_method: input.pick(&[None, None, Some("method")]),
        ..ConnectProperties::default()
    };
    let connect = Connect {
        version,
        clean_start: input.flag(),
        keep_alive_s: input.pick(&[0, 1, 100]),
        client_id: input.pick(&CLIENT_IDS),
        will,
        user_name: None,
        password: None,
        properties,
    };
    send(node, socket, version, &Packet::Connect(Box::new(connect)));
}

fn publish(node: &mut Node, socket: SocketId, version: Version, input: &mut Bytes<'_>) {
    const PAYLOAD: [u8; 40] = [b'x'; 40];
    let delivery = match input.qos() {
        QoS::AtMostOnce => Delivery::AtMostOnce,
        QoS::AtLeastOnce => Delivery::AtLeastOnce(input.packet_id()),
        QoS::ExactlyOnce => Delivery::ExactlyOnce(input.packet_id()),
    };
    let alias = std::num::NonZeroU16::new(input.pick(&[0, 0, 1, 32, 33]));
    let is_named = alias.is_none() || version != Version::V5 || input.flag();
    let message =
        MessageProperties { expiry_s: input.pick(&[None, Some(0), Some(2)]), ..Default::default() };
    let packet = Packet::Publish(Publish {
        dup: delivery != Delivery::AtMostOnce && input.flag(),
        retain: input.flag(),
        delivery,
        topic: is_named.then(|| TopicName::assume_valid(input.pick(&TOPICS))),
        properties: PublishProperties { message, topic_alias: alias, ..Default::default() },
        payload: &PAYLOAD[..input.below(PAYLOAD.len())],
    });
    send(node, socket, version, &packet);
}

fn acknowledge(node: &mut Node, socket: SocketId, version: Version, input: &mut Bytes<'_>) {
    let kind = input.pick(&[AckKind::PubAck, AckKind::PubRec, AckKind::PubRel, AckKind::PubComp]);
    let reason = match kind {
        AckKind::PubAck | AckKind::PubRec => {
            input.pick(&[ReasonCode::Success, ReasonCode::Success, ReasonCode::QuotaExceeded])
        }
        _ => input.pick(&[ReasonCode::Success, ReasonCode::PacketIdNotFound]),
    };
    let mut bytes = Vec::new();
    let none = ReasonProperties::default();
    encode_ack(kind, input.packet_id(), reason, &none, version, &mut bytes);
    node.send(socket, &bytes);
}

fn subscribe(node: &mut Node, socket: SocketId, version: Version, input: &mut Bytes<'_>) {
    let count = 1 + input.below(3);
    let filters: Vec<SubscribeFilter<'_>> = (0..count)
        .map(|_| SubscribeFilter {
            filter: TopicFilter::assume_valid(input.pick(&FILTERS)),
            options: SubscriptionOptions {
                qos: input.qos(),
                no_local: input.flag(),
                retain_as_published: input.flag(),
                retain_handling: input.pick(&[
                    RetainHandling::Always,
                    RetainHandling::OnlyIfNew,
                    RetainHandling::Never,
                ]),
            },
        })
        .collect();
    let packet = Packet::Subscribe(Subscribe {
        packet_id: input.packet_id(),
        properties: SubscribeProperties {
            subscription_id: input.pick(&[None, Some(1), Some(268_435_455)]),
            ..SubscribeProperties::default()
        },
        filters: SubscribeFilters::List(&filters),
    });
    send(node, socket, version, &packet);
}

fn unsubscribe(node: &mut Node, socket: SocketId, version: Version, input: &mut Bytes<'_>) {
    let filters = [TopicFilter::assume_valid(input.pick(&FILTERS))];
    let packet = Packet::Unsubscribe(Unsubscribe {
        packet_id: input.packet_id(),
        properties: SubscribeProperties::default(),
        filters: UnsubscribeFilters::List(&filters),
    });
    send(node, socket, version, &packet);
}

fn disconnect(node: &mut Node, socket: SocketId, version: Version, input: &mut Bytes<'_>) {
    let reason = input.pick(&[ReasonCode::Success, ReasonCode::DisconnectWithWill]);
    let properties = DisconnectProperties {
        session_expiry_s: input.pick(&[None, Some(0), Some(9), Some(u32::MAX)]),
        ..DisconnectProperties::default()
    };
    send(node, socket, version, &Packet::Disconnect(Disconnect { reason, properties }));
}

fn auth(node: &mut Node, socket: SocketId, version: Version, input: &mut Bytes<'_>) {
    let reason = input.pick(&[ReasonCode::ContinueAuthentication, ReasonCode::ReAuthenticate]);
    let properties = AuthProperties {
        authentication_method: input.pick(&[Some("method"), Some("other"), None]),
        ..AuthProperties::default()
    };
    send(node, socket, version, &Packet::Auth(Auth { reason, properties }));
}
