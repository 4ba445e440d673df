//! `octopus publish` and `octopus subscribe`: the smallest client there can be, MQTT 3.1.1.

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
    num::NonZeroU16,
    process,
    time::{Duration, Instant},
};

use octopus_mqtt::{
    Ack, Connect, ConnectProperties, Delivery, Disconnect, DisconnectProperties, Packet, PacketId,
    Publish, PublishProperties, QoS, ReasonCode, ReasonProperties, Subscribe, SubscribeFilter,
    SubscribeFilters, SubscribeProperties, SubscriptionOptions, TopicFilter, TopicName, Version,
    decode, frame,
};

use super::{print, table::printable};
use crate::config::Config;

const VERSION: Version = Version::V3_1_1;
const KEEP_ALIVE_S: u16 = 60;
/// How long the broker may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest packet there is (§1.5.5).
const PACKET_SIZE_MAX: u32 = 268_435_460;

/// Where a client on this machine reaches the node that `config` describes.
pub(super) fn address(config: &Config) -> String {
    let host = match config.broker.host.as_str() {
        "0.0.0.0" => "127.0.0.1",
        "::" => "[::1]",
        host => host,
    };
    format!("{host}:{}", config.broker.port)
}

/// Publishes one message and waits until the broker has it, as far as `qos` lets one know.
pub(super) fn publish(
    at: &str,
    topic: &str,
    payload: &[u8],
    qos: u8,
    retain: bool,
) -> io::Result<()> {
    let topic = TopicName::parse(topic).map_err(|_| invalid("this is no topic name"))?;
    let mut client = Client::connect(at)?;
    let id = PacketId(NonZeroU16::MIN);
    let delivery = match qos {
        0 => Delivery::AtMostOnce,
        1 => Delivery::AtLeastOnce(id),
        _ => Delivery::ExactlyOnce(id),
    };
    let properties = PublishProperties::default();
    client.send(&Packet::Publish(Publish {
        dup: false,
        retain,
        delivery,
        topic: Some(topic),
        properties,
        payload,
    }))?;
    let mut finished = qos == 0;
    while !finished {
        let mut released = false;
        client.receive(|packet| match packet {
            Packet::PubAck(_) | Packet::PubComp(_) => finished = true,
            Packet::PubRec(_) => released = true,
            _ => {}
        })?;
        if released {
            client.send(&Packet::PubRel(ack(id)))?;
        }
    }
    client.disconnect()
}

/// Prints what comes, as `topic payload`, until `count` messages came.
pub(super) fn subscribe(at: &str, filter: &str, qos: u8, count: Option<u64>) -> io::Result<()> {
    let filter = TopicFilter::parse(filter).map_err(|_| invalid("this is no topic filter"))?;
    let qos = match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    };
    let mut client = Client::connect(at)?;
    let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
    client.send(&Packet::Subscribe(Subscribe {
        packet_id: PacketId(NonZeroU16::MIN),
        properties: SubscribeProperties::default(),
        filters: SubscribeFilters::List(&[SubscribeFilter { filter, options }]),
    }))?;
    let mut left = count;
    while left != Some(0) {
        let mut answers = Vec::new();
        let mut line = None;
        let mut refused = false;
        client.receive(|packet| match packet {
            Packet::SubAck(suback) => refused = suback.reasons.iter().any(|code| *code >= 0x80),
            Packet::Publish(publish) => {
                let topic = publish.topic.map_or("", |topic| topic.as_str()).to_owned();
                let payload = String::from_utf8_lossy(publish.payload);
                line = Some(format!("{} {}\n", printable(&topic), printable(&payload)));
                answers.extend(match publish.delivery {
                    Delivery::AtMostOnce => None,
                    Delivery::AtLeastOnce(id) => Some(Packet::PubAck(ack(id))),
                    Delivery::ExactlyOnce(id) => Some(Packet::PubRec(ack(id))),
                });
            }
            Packet::PubRel(release) => answers.push(Packet::PubComp(ack(release.packet_id))),
            _ => {}
        })?;
        if refused {
            return Err(io::Error::other("the broker refuses the subscription"));
        }
        answers.iter().try_for_each(|answer| client.send(answer))?;
        if let Some(line) = line {
            print(&line)?;
            left = left.map(|left| left - 1);
        }
    }
    client.disconnect()
}

fn ack(packet_id: PacketId) -> Ack<'static> {
    Ack { packet_id, reason: ReasonCode::Success, properties: ReasonProperties::default() }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.to_owned())
}

struct Client {
    stream: TcpStream,
    inbox: Vec<u8>,
    sent_at: Instant,
}

impl Client {
    fn connect(at: &str) -> io::Result<Self> {
        let explain = |error: io::Error| io::Error::new(error.kind(), format!("{at}: {error}"));
        let stream = TcpStream::connect(at).map_err(explain)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, inbox: Vec::new(), sent_at: Instant::now() };
        let client_id = format!("octopus-cli-{}", process::id());
        client.send(&Packet::Connect(Box::new(Connect {
            version: VERSION,
            clean_start: true,
            keep_alive_s: KEEP_ALIVE_S,
            client_id: &client_id,
            will: None,
            user_name: None,
            password: None,
            properties: ConnectProperties::default(),
        })))?;
        let mut refused = None;
        client.receive(|packet| {
            if let Packet::ConnAck(connack) = packet
                && connack.reason.is_error()
            {
                refused = Some(connack.reason.name());
            }
        })?;
        match refused {
            Some(reason) => Err(io::Error::other(format!("{at}: refused: {reason}"))),
            None => Ok(client),
        }
    }

    fn send(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let mut bytes = Vec::new();
        packet.encode(VERSION, &mut bytes);
        self.sent_at = Instant::now();
        self.stream.write_all(&bytes)
    }

    /// Waits for the next packet; pings while none comes.
    fn receive(&mut self, take: impl FnOnce(Packet<'_>)) -> io::Result<()> {
        let garbled = |error| io::Error::other(format!("the broker's bytes are no MQTT: {error}"));
        loop {
            if let Some(frame) = frame(&self.inbox, PACKET_SIZE_MAX).map_err(garbled)? {
                let len = frame.len;
                take(decode(frame, VERSION).map_err(garbled)?);
                self.inbox.drain(..len);
                return Ok(());
            }
            let mut bytes = [0; 16 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.inbox.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.ping()?,
                Err(error) => return Err(error),
            }
        }
    }

    fn ping(&mut self) -> io::Result<()> {
        if self.sent_at.elapsed() < Duration::from_secs(u64::from(KEEP_ALIVE_S) / 2) {
            return Ok(());
        }
        self.send(&Packet::PingReq)
    }

    fn disconnect(mut self) -> io::Result<()> {
        let properties = DisconnectProperties::default();
        self.send(&Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties }))
    }
}
