//! A client that says what it wants to the letter, and hears every answer.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use libtest_mimic::Failed;

use super::PATIENCE;
use crate::harness::broker::Process;
use crate::harness::wire::{Packet, Value, Version};

pub(super) struct Client {
    stream: TcpStream,
    version: Version,
    inbox: Vec<u8>,
}

/// What a client brings to be let in.
#[derive(Clone, Debug, Default)]
pub(super) struct Card<'a> {
    pub(super) client: &'a str,
    pub(super) user: Option<&'a str>,
    pub(super) password: Option<&'a str>,
}

impl<'a> Card<'a> {
    pub(super) fn new(client: &'a str, user: &'a str, password: &'a str) -> Self {
        Self { client, user: Some(user), password: Some(password) }
    }

    /// CONNECT of a clean session without Keep Alive.
    pub(super) fn connect(&self) -> Packet {
        let packet = Packet::new("connect").number("clean", 1_u8).bytes("id", self.client);
        let packet = match self.user {
            Some(user) => packet.bytes("user", user),
            None => packet,
        };
        match self.password {
            Some(password) => packet.bytes("password", password),
            None => packet,
        }
    }
}

impl Client {
    pub(super) fn open(broker: &Process, version: Version) -> Result<Self, Failed> {
        Self::open_at(broker.address, version)
    }

    /// At a listener other than the first.
    pub(super) fn open_at(address: SocketAddr, version: Version) -> Result<Self, Failed> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, version, inbox: Vec::new() })
    }

    /// Connects; the client and the code of its CONNACK.
    pub(super) fn connect(
        broker: &Process,
        version: Version,
        card: &Card<'_>,
    ) -> Result<(Self, u64), Failed> {
        let mut client = Self::open(broker, version)?;
        let connack = client.ask(&card.connect(), "connack")?;
        Ok((client, connack.number_of("code")))
    }

    /// A client that must be let in.
    pub(super) fn let_in(
        broker: &Process,
        version: Version,
        card: &Card<'_>,
    ) -> Result<Self, Failed> {
        match Self::connect(broker, version, card)? {
            (client, 0) => Ok(client),
            (_, code) => Err(format!("{card:?}: refused with {code:#x}").into()),
        }
    }

    pub(super) fn send(&mut self, packet: &Packet) -> Result<(), Failed> {
        Ok(self.stream.write_all(&packet.encode(self.version))?)
    }

    /// Sends, and waits for the answer of that name.
    pub(super) fn ask(&mut self, packet: &Packet, answer: &str) -> Result<Packet, Failed> {
        self.send(packet)?;
        self.expect(answer)
    }

    pub(super) fn expect(&mut self, name: &str) -> Result<Packet, Failed> {
        match self.next()? {
            Some(packet) if packet.name == name => Ok(packet),
            other => Err(format!("expected {name}, got {other:?}").into()),
        }
    }

    /// The next packet; `None` once the broker has closed.
    pub(super) fn next(&mut self) -> Result<Option<Packet>, Failed> {
        loop {
            if let Some((packet, used)) = Packet::decode(&self.inbox, self.version)? {
                self.inbox.drain(..used);
                return Ok(Some(packet));
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(count) => self.inbox.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Subscribes; the code of SUBACK.
    pub(super) fn subscribe(&mut self, filter: &str) -> Result<u8, Failed> {
        let packet = Packet::new("subscribe").number("id", 7_u8).bytes("filter", filter);
        let suback = self.ask(&packet.number("options", 1_u8), "suback")?;
        suback.bytes_of("codes").first().copied().ok_or_else(|| "a SUBACK without codes".into())
    }

    /// Publishes with QoS 1; the code of PUBACK, 0 where the version has none.
    pub(super) fn publish(&mut self, topic: &str, payload: &str) -> Result<u64, Failed> {
        let packet = publish(topic, payload).number("qos", 1_u8).number("id", 9_u8);
        Ok(code_of(&self.ask(&packet, "puback")?))
    }

    /// That the broker answers, and so has done all that came before.
    pub(super) fn ping(&mut self) -> Result<(), Failed> {
        self.ask(&Packet::new("pingreq"), "pingresp").map(drop)
    }
}

pub(super) fn publish(topic: &str, payload: &str) -> Packet {
    Packet::new("publish").bytes("topic", topic).bytes("payload", payload)
}

/// The code of a packet; 0 if it stands for itself.
pub(super) fn code_of(packet: &Packet) -> u64 {
    match packet.get("code") {
        Some(Value::Number(code)) => *code,
        _ => 0,
    }
}
