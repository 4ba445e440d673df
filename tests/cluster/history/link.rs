//! One connection of a client, read without waiting.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use crate::harness::wire::{Packet, Version};

/// A node behind a cut wire does not even accept.
const CONNECT_PATIENCE: Duration = Duration::from_millis(200);
/// A write that takes longer has nobody at its other end.
const WRITE_PATIENCE: Duration = Duration::from_millis(200);
/// Between two PINGREQ: how closely it is watched whether the node serves the connection.
const PING_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Link {
    stream: TcpStream,
    pub(super) node: String,
    /// Counts the connections of the client.
    pub(super) number: u32,
    pub(super) is_open: bool,
    pub(super) has_ended: bool,
    /// When the node last said something.
    pub(super) heard_at: Instant,
    pinged_at: Instant,
    /// When each PINGREQ was sent that was not answered yet, in the history's time.
    pings: VecDeque<Duration>,
    bytes: Vec<u8>,
}

impl Link {
    pub(super) fn open(address: SocketAddr, node: &str, number: u32) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_PATIENCE))?;
        let now = Instant::now();
        Ok(Self {
            stream,
            node: node.to_owned(),
            number,
            is_open: false,
            has_ended: false,
            heard_at: now,
            pinged_at: now,
            pings: VecDeque::new(),
            bytes: Vec::new(),
        })
    }

    /// Sends; what cannot be sent ends the link.
    pub(super) fn send(&mut self, packet: &Packet) {
        let bytes = packet.encode(Version::V5);
        let sent = self.stream.set_nonblocking(false);
        let sent = sent.and_then(|()| self.stream.write_all(&bytes));
        self.has_ended |= sent.is_err();
    }

    /// Sends a PINGREQ now and then.
    pub(super) fn ping(&mut self, now: Duration) {
        if self.is_open && self.pinged_at.elapsed() >= PING_INTERVAL {
            self.pinged_at = Instant::now();
            self.pings.push_back(now);
            self.send(&Packet::new("pingreq"));
        }
    }

    /// When the PINGREQ was sent that was answered now.
    pub(super) fn answered(&mut self) -> Option<Duration> {
        self.pings.pop_front()
    }

    /// The next packet, if one is here.
    pub(super) fn step(&mut self) -> Option<Packet> {
        self.receive();
        match Packet::decode(&self.bytes, Version::V5) {
            Ok(Some((packet, length))) => {
                self.bytes.drain(..length);
                Some(packet)
            }
            Ok(None) => None,
            Err(error) => panic!("{} sent what nobody may: {error}", self.node),
        }
    }

    fn receive(&mut self) {
        let mut buffer = [0; 16 * 1024];
        let read = self.stream.set_nonblocking(true).and_then(|()| self.stream.read(&mut buffer));
        match read {
            Ok(0) => self.has_ended = true,
            Ok(count) => {
                self.heard_at = Instant::now();
                self.bytes.extend_from_slice(&buffer[..count]);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.has_ended = true,
        }
    }
}
