//! One client's Network Connection: socket, buffers, and where it stands.

use std::{fmt, io, os::fd::OwnedFd};

use octopus_mqtt::{
    Ack, AckKind, DecodeError, Delivery, Packet, QoS, ReasonCode, ReasonProperties, encode_ack,
};

use crate::{context::Context, net, publisher::Publisher, subscriber::Subscriber, tls::Tls, wire};

/// Scope: one client for the length of a run; nobody reconnects.
pub(crate) struct Connection {
    /// Number of the client in its run.
    pub number: usize,
    pub socket: OwnedFd,
    /// `None`: plain TCP.
    tls: Option<Box<Tls>>,
    pub state: State,
    pub role: Role,
    pub out: Vec<u8>,
    /// Bytes at the front of `out` that are sent.
    out_sent: usize,
    /// The beginning of a packet whose rest has not come.
    pub partial: Vec<u8>,
    /// When `connect` was called.
    pub started_ns: u64,
    /// When something was last sent.
    pub last_sent_ns: u64,
    /// The socket takes no more until it reports writable.
    pub write_blocked: bool,
    /// Stands in the list of connections to flush.
    pub is_dirty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Connecting,
    AwaitConnAck,
    AwaitSubAck,
    Ready,
}

pub(crate) enum Role {
    Publisher(Box<Publisher>),
    Subscriber { filter: String, check: Box<Subscriber> },
    Idle,
}

/// Why a connection ended before the run did.
#[derive(Debug)]
pub(crate) enum Failure {
    Io(io::Error),
    /// The broker closed.
    Closed,
    TimedOut,
    Decode(DecodeError),
    Refused(ReasonCode),
    SubscriptionRefused(u8),
    PublishRefused(ReasonCode),
    Disconnected(ReasonCode),
    UnexpectedPacket,
    /// Topic or filter that cannot be written.
    Topic(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Closed => f.write_str("closed by the broker"),
            Self::TimedOut => f.write_str("not ready in time"),
            Self::Decode(error) => write!(f, "malformed packet: {error}"),
            Self::Refused(reason) => write!(f, "connection refused: {}", reason.name()),
            Self::SubscriptionRefused(code) => write!(f, "subscription refused: {code:#04x}"),
            Self::PublishRefused(reason) => write!(f, "publish refused: {}", reason.name()),
            Self::Disconnected(reason) => write!(f, "disconnected: {}", reason.name()),
            Self::UnexpectedPacket => f.write_str("unexpected packet"),
            Self::Topic(what) => f.write_str(what),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Connection {
    pub(crate) fn new(
        number: usize,
        socket: OwnedFd,
        tls: Option<Tls>,
        role: Role,
        now: u64,
    ) -> Self {
        Self {
            number,
            socket,
            tls: tls.map(Box::new),
            state: State::Connecting,
            role,
            out: Vec::new(),
            out_sent: 0,
            partial: Vec::new(),
            started_ns: now,
            last_sent_ns: now,
            write_blocked: true,
            is_dirty: false,
        }
    }

    /// The socket may be written: the connect has ended, or there is room again.
    pub(crate) fn handle_writable(&mut self, context: &Context) -> Result<(), Failure> {
        if self.state == State::Connecting {
            net::connect_result(&self.socket)?;
            wire::connect(&context.plan, self.number, &mut self.out);
            self.state = State::AwaitConnAck;
        }
        self.write_blocked = false;
        Ok(())
    }

    /// Takes all whole packets at the front of `bytes` and returns how many bytes they were.
    pub(crate) fn handle_bytes(
        &mut self,
        bytes: &[u8],
        context: &mut Context,
    ) -> Result<usize, Failure> {
        let mut at = 0;
        loop {
            let next = wire::next_packet(&bytes[at..], context.plan.version);
            let Some((packet, length)) = next.map_err(Failure::Decode)? else { return Ok(at) };
            self.handle_packet(&packet, context)?;
            at += length;
        }
    }

    /// Appends the SUBSCRIBE and waits for its SUBACK.
    pub(crate) fn subscribe(&mut self, context: &Context) -> Result<(), Failure> {
        let Role::Subscriber { filter, .. } = &self.role else { return Ok(()) };
        let plan = &context.plan;
        wire::subscribe(filter, plan.qos, plan.version, &mut self.out)
            .map_err(|error| Failure::Topic(format!("filter {filter}: {error}")))?;
        self.state = State::AwaitSubAck;
        Ok(())
    }

    /// Bytes that were taken wait in TLS.
    pub(crate) fn is_waiting(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_waiting())
    }

    /// A read that finds less than it has room for has emptied the socket.
    pub(crate) fn reads_all_at_once(&self) -> bool {
        self.tls.is_none()
    }

    /// Reads once; `None` if nothing is there, `Some(0)` at the end of the stream.
    pub(crate) fn read(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        match &mut self.tls {
            None => net::read(&self.socket, into),
            Some(tls) => tls.read(&self.socket, into),
        }
    }

    fn write(&mut self) -> io::Result<Option<usize>> {
        let bytes = &self.out[self.out_sent..];
        match &mut self.tls {
            None => net::write(&self.socket, bytes),
            Some(tls) => tls.write(&self.socket, bytes),
        }
    }

    /// Writes what is in the out buffer, as far as the socket takes it.
    pub(crate) fn flush(&mut self, now: u64) -> Result<(), Failure> {
        while (self.out_sent < self.out.len() || self.is_waiting()) && !self.write_blocked {
            match self.write()? {
                Some(length) => self.out_sent += length,
                None => self.write_blocked = true,
            }
            self.last_sent_ns = now;
        }
        if self.out_sent == self.out.len() {
            self.out.clear();
            self.out_sent = 0;
        }
        Ok(())
    }

    fn handle_packet(&mut self, packet: &Packet<'_>, context: &mut Context) -> Result<(), Failure> {
        match packet {
            Packet::Publish(publish) => {
                let Role::Subscriber { check, .. } = &mut self.role else {
                    return Err(Failure::UnexpectedPacket);
                };
                check.receive(publish.payload, context);
                match publish.delivery {
                    Delivery::AtMostOnce => {}
                    Delivery::AtLeastOnce(id) => self.acknowledge(AckKind::PubAck, id, context),
                    Delivery::ExactlyOnce(id) => self.acknowledge(AckKind::PubRec, id, context),
                }
                Ok(())
            }
            Packet::PubAck(ack) | Packet::PubComp(ack) => self.handle_completion(ack, context),
            Packet::PubRec(ack) if ack.reason.is_error() => self.handle_completion(ack, context),
            Packet::PubRec(ack) => {
                self.acknowledge(AckKind::PubRel, ack.packet_id, context);
                Ok(())
            }
            Packet::PubRel(ack) => {
                self.acknowledge(AckKind::PubComp, ack.packet_id, context);
                Ok(())
            }
            Packet::ConnAck(ack) if self.state == State::AwaitConnAck => {
                if ack.reason != ReasonCode::Success {
                    return Err(Failure::Refused(ack.reason));
                }
                let receive_max = ack.properties.receive_max.map_or(u16::MAX, |max| max.get());
                self.handle_accepted(receive_max, context)
            }
            Packet::SubAck(ack) if self.state == State::AwaitSubAck => {
                match ack.reasons.iter().find(|&&code| code >= 0x80) {
                    Some(&code) => Err(Failure::SubscriptionRefused(code)),
                    None => {
                        self.become_ready(context);
                        Ok(())
                    }
                }
            }
            Packet::Disconnect(disconnect) => Err(Failure::Disconnected(disconnect.reason)),
            Packet::PingResp => Ok(()),
            _ => Err(Failure::UnexpectedPacket),
        }
    }

    fn handle_accepted(&mut self, receive_max: u16, context: &mut Context) -> Result<(), Failure> {
        context.stats.connect.record_ns(context.now.saturating_sub(self.started_ns));
        context.connecting -= 1;
        match &mut self.role {
            Role::Subscriber { .. } if context.plan.replay.is_none() => {
                return self.subscribe(context);
            }
            Role::Publisher(publisher) => publisher.limit_inflight(receive_max),
            Role::Subscriber { .. } | Role::Idle => {}
        }
        self.become_ready(context);
        Ok(())
    }

    fn become_ready(&mut self, context: &mut Context) {
        if context.plan.replay.is_none() || self.state == State::AwaitConnAck {
            context.ready += 1;
            context.stats.last_ready_ns = context.now;
        }
        self.state = State::Ready;
    }

    fn handle_completion(&mut self, ack: &Ack<'_>, context: &mut Context) -> Result<(), Failure> {
        let Role::Publisher(publisher) = &mut self.role else {
            return Err(Failure::UnexpectedPacket);
        };
        let sent_ns = publisher.complete(ack.packet_id).ok_or(Failure::UnexpectedPacket)?;
        if ack.reason.is_error() {
            context.stats.count_error(Failure::PublishRefused(ack.reason).to_string());
        }
        context.count_acknowledged(context.now.saturating_sub(sent_ns));
        Ok(())
    }

    #[inline]
    fn acknowledge(&mut self, kind: AckKind, id: octopus_mqtt::PacketId, context: &Context) {
        let (version, none) = (context.plan.version, ReasonProperties::default());
        encode_ack(kind, id, ReasonCode::Success, &none, version, &mut self.out);
    }

    /// Messages above QoS 0 that this client still waits for acknowledgement of.
    pub(crate) fn unacknowledged(&self, qos: QoS) -> usize {
        match &self.role {
            Role::Publisher(publisher) if qos > QoS::AtMostOnce => publisher.unacknowledged(),
            _ => 0,
        }
    }
}
