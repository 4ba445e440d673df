//! A client for scripts: encodes what it sends, keeps what it receives.

use std::collections::VecDeque;

use octopus_engine::ShardId;
use octopus_mqtt::{
    Ack, Connect, ConnectProperties, Delivery, Disconnect, DisconnectProperties, Packet, PacketId,
    Publish, PublishProperties, QoS, ReasonCode, ReasonProperties, Subscribe, SubscribeFilter,
    SubscribeFilters, SubscribeProperties, SubscriptionOptions, TopicFilter, TopicName,
    Unsubscribe, UnsubscribeFilters, Version, decode, frame,
};

use crate::node::Node;
use crate::socket::SocketId;

/// One packet as it came from the node, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    version: Version,
    /// Fixed header included.
    pub bytes: Vec<u8>,
}

impl Received {
    /// # Panics
    /// If the node sent bytes that are no packet: always worth a failed test.
    pub fn packet(&self) -> Packet<'_> {
        let cut = frame(&self.bytes, u32::MAX).expect("a header").expect("a whole packet");
        decode(cut, self.version).expect("the node sends lawful packets")
    }

    /// # Panics
    /// If it is another packet.
    pub fn publish(&self) -> Publish<'_> {
        match self.packet() {
            Packet::Publish(publish) => publish,
            other => panic!("PUBLISH was expected, not {other:?}"),
        }
    }

    /// Topic and payload of a PUBLISH, as text.
    ///
    /// # Panics
    /// If it is another packet, or either is absent or no text.
    pub fn message(&self) -> (&str, &str) {
        let Packet::Publish(publish) = self.packet() else {
            panic!("PUBLISH was expected, not {:?}", self.packet());
        };
        let topic = publish.topic.expect("a topic").as_str();
        (topic, std::str::from_utf8(publish.payload).expect("text"))
    }
}

/// A scripted client on one socket. Every method that sends lets the node settle after it.
#[derive(Debug)]
pub struct Client {
    pub socket: SocketId,
    pub version: Version,
    unread: Vec<u8>,
    received: VecDeque<Received>,
    last_packet_id: u16,
}

impl Client {
    /// Opens a socket and sends nothing.
    pub fn open(node: &mut Node, version: Version) -> Self {
        Self::on(node.open(), version)
    }

    /// Opens a socket that `shard` accepts.
    pub fn open_at(node: &mut Node, shard: ShardId, version: Version) -> Self {
        Self::on(node.open_at(shard), version)
    }

    /// A client on a socket that is open already.
    pub fn on(socket: SocketId, version: Version) -> Self {
        Self { socket, version, unread: Vec::new(), received: VecDeque::new(), last_packet_id: 0 }
    }

    /// A connected client with a clean session.
    pub fn clean(node: &mut Node, version: Version, client_id: &str) -> Self {
        let mut client = Self::open(node, version);
        client.connect(node, &connect(version, client_id, true));
        client
    }

    /// A connected client that keeps its session, and whether the node had one for it.
    pub fn persistent(node: &mut Node, version: Version, client_id: &str) -> (Self, bool) {
        let mut client = Self::open(node, version);
        let present = client.connect(node, &connect(version, client_id, false));
        (client, present)
    }

    /// Sends CONNECT and takes the CONNACK; tells whether a session was present.
    ///
    /// # Panics
    /// If the node answers with anything but success.
    pub fn connect(&mut self, node: &mut Node, connect: &Connect<'_>) -> bool {
        self.send(node, &Packet::Connect(Box::new(connect.clone())));
        let answer = self.expect(node);
        match answer.packet() {
            Packet::ConnAck(connack) if connack.reason == ReasonCode::Success => {
                connack.session_present
            }
            other => panic!("CONNACK was expected, not {other:?}"),
        }
    }

    pub fn send(&mut self, node: &mut Node, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        packet.encode(self.version, &mut bytes);
        self.send_bytes(node, &bytes);
    }

    pub fn send_bytes(&mut self, node: &mut Node, bytes: &[u8]) {
        node.send(self.socket, bytes);
        node.settle();
    }

    /// Sends SUBSCRIBE with one filter and takes the SUBACK: the Reason Code.
    pub fn subscribe(&mut self, node: &mut Node, filter: &str, qos: QoS) -> u8 {
        let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
        self.subscribe_with(node, filter, options)
    }

    /// As `subscribe`, with all options. What else comes before the SUBACK is kept.
    ///
    /// # Panics
    /// If no SUBACK comes.
    pub fn subscribe_with(
        &mut self,
        node: &mut Node,
        filter: &str,
        options: SubscriptionOptions,
    ) -> u8 {
        let filter = TopicFilter::parse(filter).expect("a lawful filter");
        let packet = Packet::Subscribe(Subscribe {
            packet_id: self.next_packet_id(),
            properties: SubscribeProperties::default(),
            filters: SubscribeFilters::List(&[SubscribeFilter { filter, options }]),
        });
        self.send(node, &packet);
        self.receive(node);
        let is_suback = |received: &Received| matches!(received.packet(), Packet::SubAck(_));
        let at = self.received.iter().position(is_suback).expect("SUBACK");
        let received = self.received.remove(at).expect("it was found");
        match received.packet() {
            Packet::SubAck(suback) => suback.reasons[0],
            _ => unreachable!("it was found as SUBACK"),
        }
    }

    /// Sends UNSUBSCRIBE; the UNSUBACK is among what is received.
    pub fn unsubscribe(&mut self, node: &mut Node, filter: &str) {
        let filter = TopicFilter::parse(filter).expect("a lawful filter");
        let packet = Packet::Unsubscribe(Unsubscribe {
            packet_id: self.next_packet_id(),
            properties: SubscribeProperties::default(),
            filters: UnsubscribeFilters::List(&[filter]),
        });
        self.send(node, &packet);
    }

    /// Sends PUBLISH; acknowledgements are among what is received. Gives the identifier used.
    pub fn publish(
        &mut self,
        node: &mut Node,
        topic: &str,
        payload: &str,
        qos: QoS,
    ) -> Option<PacketId> {
        self.publish_with(node, topic, payload, qos, false)
    }

    /// Sends PUBLISH with the RETAIN flag, at QoS 0.
    pub fn retain(&mut self, node: &mut Node, topic: &str, payload: &str) {
        self.publish_with(node, topic, payload, QoS::AtMostOnce, true);
    }

    fn publish_with(
        &mut self,
        node: &mut Node,
        topic: &str,
        payload: &str,
        qos: QoS,
        retain: bool,
    ) -> Option<PacketId> {
        let delivery = match qos {
            QoS::AtMostOnce => Delivery::AtMostOnce,
            QoS::AtLeastOnce => Delivery::AtLeastOnce(self.next_packet_id()),
            QoS::ExactlyOnce => Delivery::ExactlyOnce(self.next_packet_id()),
        };
        let packet = Packet::Publish(Publish {
            dup: false,
            retain,
            delivery,
            topic: Some(TopicName::parse(topic).expect("a lawful topic")),
            properties: PublishProperties::default(),
            payload: payload.as_bytes(),
        });
        self.send(node, &packet);
        delivery.packet_id()
    }

    /// Sends PUBACK, PUBREC, PUBREL or PUBCOMP with success.
    pub fn acknowledge(
        &mut self,
        node: &mut Node,
        packet: fn(Ack<'static>) -> Packet<'static>,
        packet_id: PacketId,
    ) {
        let properties = ReasonProperties::default();
        self.send(node, &packet(Ack { packet_id, reason: ReasonCode::Success, properties }));
    }

    pub fn disconnect(&mut self, node: &mut Node) {
        let properties = DisconnectProperties::default();
        let packet = Disconnect { reason: ReasonCode::Success, properties };
        self.send(node, &Packet::Disconnect(packet));
    }

    /// Goes away without a word.
    pub fn cut(&mut self, node: &mut Node) {
        node.cut(self.socket);
        node.settle();
    }

    /// The next packet, if one came.
    pub fn next(&mut self, node: &mut Node) -> Option<Received> {
        self.receive(node);
        self.received.pop_front()
    }

    /// The next packet.
    ///
    /// # Panics
    /// If none came.
    pub fn expect(&mut self, node: &mut Node) -> Received {
        self.next(node).expect("a packet from the node")
    }

    /// All packets that came.
    pub fn take_all(&mut self, node: &mut Node) -> Vec<Received> {
        self.receive(node);
        self.received.drain(..).collect()
    }

    /// Topic and payload of every PUBLISH that came; other packets are thrown away.
    pub fn take_messages(&mut self, node: &mut Node) -> Vec<(String, String)> {
        let all = self.take_all(node);
        let publishes = all.iter().filter(|r| matches!(r.packet(), Packet::Publish(_)));
        publishes
            .map(Received::message)
            .map(|(topic, payload)| (topic.to_owned(), payload.to_owned()))
            .collect()
    }

    pub fn is_closed(&self, node: &Node) -> bool {
        node.is_closed(self.socket)
    }

    pub fn next_packet_id(&mut self) -> PacketId {
        self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
        PacketId::new(self.last_packet_id).expect("not zero")
    }

    /// Takes in what the node sent, without letting it run.
    pub(crate) fn read(&mut self, node: &mut Node) {
        self.unread.extend(node.take_received(self.socket));
        let mut used = 0;
        while let Some(cut) = frame(&self.unread[used..], u32::MAX).expect("a lawful header") {
            let bytes = self.unread[used..used + cut.len].to_vec();
            used += cut.len;
            self.received.push_back(Received { version: self.version, bytes });
        }
        self.unread.drain(..used);
    }

    pub(crate) fn pop(&mut self) -> Option<Received> {
        self.received.pop_front()
    }

    fn receive(&mut self, node: &mut Node) {
        node.settle();
        self.read(node);
    }
}

/// A CONNECT with nothing but a Client Identifier. A session to keep never expires.
pub fn connect(version: Version, client_id: &str, is_clean: bool) -> Connect<'_> {
    let session_expiry_s = (version == Version::V5 && !is_clean).then_some(u32::MAX);
    Connect {
        version,
        clean_start: is_clean,
        keep_alive_s: 0,
        client_id,
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties { session_expiry_s, ..ConnectProperties::default() },
    }
}
