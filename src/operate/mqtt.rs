//! `octopus publish` and `octopus subscribe`: the smallest client there can be, MQTT 3.1.1.

use std::{
    fs,
    io::{self, Read, Write},
    net::TcpStream,
    num::NonZeroU16,
    path::Path,
    process,
    sync::Arc,
    time::{Duration, Instant},
};

use octopus_mqtt::{
    Ack, Connect, ConnectProperties, Delivery, Disconnect, DisconnectProperties, Packet, PacketId,
    Publish, PublishProperties, QoS, ReasonCode, ReasonProperties, Subscribe, SubscribeFilter,
    SubscribeFilters, SubscribeProperties, SubscriptionOptions, TopicFilter, TopicName, Version,
    decode, frame,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

use super::{Door, print, table::printable};
use crate::config::Config;

const VERSION: Version = Version::V3_1_1;
const KEEP_ALIVE_S: u16 = 60;
/// How long the broker may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest packet there is (§1.5.5).
const PACKET_SIZE_MAX: u32 = 268_435_460;

/// Where a client on this machine reaches the node that `config` describes.
fn address(config: &Config) -> String {
    let host = match config.broker.host.as_str() {
        "0.0.0.0" => "127.0.0.1",
        "::" => "[::1]",
        host => host,
    };
    format!("{host}:{}", config.broker.port)
}

/// Publishes one message and waits until the broker has it, as far as `qos` lets one know.
pub(super) fn publish(
    mut client: Client,
    topic: &str,
    payload: &[u8],
    qos: u8,
    retain: bool,
) -> io::Result<()> {
    let topic = TopicName::parse(topic).map_err(|_| invalid("this is no topic name"))?;
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
pub(super) fn subscribe(
    mut client: Client,
    filter: &str,
    qos: u8,
    count: Option<u64>,
) -> io::Result<()> {
    let filter = TopicFilter::parse(filter).map_err(|_| invalid("this is no topic filter"))?;
    let qos = match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    };
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

/// The password of the flags: the one given, or the first line of its file.
fn password(door: &Door) -> io::Result<Option<String>> {
    let Some(path) = &door.password_file else { return Ok(door.password.clone()) };
    let text = fs::read_to_string(path).map_err(|error| {
        io::Error::new(error.kind(), format!("--password-file {}: {error}", path.display()))
    })?;
    Ok(Some(text.lines().next().unwrap_or_default().to_owned()))
}

/// TLS over `socket`; the broker's certificate must be of an authority in `file`.
fn tls(
    at: &str,
    file: &Path,
    socket: TcpStream,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let explain = |what: String| invalid(&format!("--ca {}: {what}", file.display()));
    let mut authorities = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(file).map_err(|error| explain(error.to_string()))?;
    for certificate in found {
        let certificate = certificate.map_err(|error| explain(error.to_string()))?;
        authorities.add(certificate).map_err(|error| explain(error.to_string()))?;
    }
    let host = at.rsplit_once(':').map_or(at, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| invalid(&format!("{host} is no name that a certificate can be for")))?;
    let config = ClientConfig::builder().with_root_certificates(authorities).with_no_client_auth();
    let client = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(client, socket))
}

fn ack(packet_id: PacketId) -> Ack<'static> {
    Ack { packet_id, reason: ReasonCode::Success, properties: ReasonProperties::default() }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.to_owned())
}

/// A connection to a broker, with or without TLS.
trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

pub(super) struct Client {
    stream: Box<dyn Stream>,
    inbox: Vec<u8>,
    sent_at: Instant,
}

impl Client {
    /// Connects as `door` says; waits for CONNACK.
    ///
    /// # Errors
    /// Why it cannot be reached, or what it says of us.
    pub(super) fn connect(door: &Door, config: &Config) -> io::Result<Self> {
        let at = &door.at.clone().unwrap_or_else(|| address(config));
        let explain = |error: io::Error| io::Error::new(error.kind(), format!("{at}: {error}"));
        let socket = TcpStream::connect(at).map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => io::Error::new(
                error.kind(),
                format!("{at}: {error}; nobody listens there: see --at, broker.host, broker.port"),
            ),
            _ => explain(error),
        })?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &door.ca_file {
            Some(file) => Box::new(tls(at, file, socket)?),
            None => Box::new(socket),
        };
        let mut client = Self { stream, inbox: Vec::new(), sent_at: Instant::now() };
        let client_id = format!("octopus-cli-{}", process::id());
        let password = password(door)?;
        client.send(&Packet::Connect(Box::new(Connect {
            version: VERSION,
            clean_start: true,
            keep_alive_s: KEEP_ALIVE_S,
            client_id: &client_id,
            will: None,
            user_name: door.user.as_deref(),
            password: password.as_deref().map(str::as_bytes),
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
