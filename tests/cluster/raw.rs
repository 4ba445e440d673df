//! A client of which a test sees each packet the moment it comes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use libtest_mimic::Failed;

use crate::harness::broker::Process;
use crate::harness::wire::{Packet, Version};

/// A client of version 5, packet by packet.
pub(super) struct Raw {
    stream: TcpStream,
    inbox: Vec<u8>,
}

impl Raw {
    /// Connects with a new session; the code of CONNACK.
    pub(super) fn connect(node: &Process, id: &str, expiry_s: u32) -> Result<(Self, u64), Failed> {
        Self::open(node, id, expiry_s, true)
    }

    pub(super) fn open(
        node: &Process,
        id: &str,
        expiry_s: u32,
        clean: bool,
    ) -> Result<(Self, u64), Failed> {
        let stream = node.connect()?;
        stream.set_read_timeout(Some(Duration::from_secs(15)))?;
        let mut raw = Self { stream, inbox: Vec::new() };
        let packet = Packet::new("connect").number("clean", u8::from(clean)).bytes("id", id);
        raw.send(&packet.number("session-expiry", expiry_s))?;
        let connack = raw.next()?;
        Ok((raw, connack.number_of("code")))
    }

    pub(super) fn send(&mut self, packet: &Packet) -> Result<(), Failed> {
        Ok(self.stream.write_all(&packet.encode(Version::V5))?)
    }

    /// Publishes with QoS 1; does not wait.
    pub(super) fn publish(&mut self, topic: &str, id: u64, text: &str) -> Result<(), Failed> {
        let packet = Packet::new("publish").number("qos", 1_u8).bytes("topic", topic);
        self.send(&packet.number("id", id).bytes("payload", text))
    }

    /// Subscribes with QoS 1 and waits for SUBACK.
    pub(super) fn subscribe(&mut self, filters: &[String]) -> Result<(), Failed> {
        let mut packet = Packet::new("subscribe").number("id", 1_u8);
        for filter in filters {
            packet = packet.bytes("filter", filter.as_str()).number("options", 1_u8);
        }
        self.send(&packet)?;
        self.next_of("suback").map(drop)
    }

    /// The next packet of this kind; others are let go.
    pub(super) fn next_of(&mut self, name: &str) -> Result<Packet, Failed> {
        loop {
            let packet = self.next()?;
            if packet.name == name {
                return Ok(packet);
            }
        }
    }

    pub(super) fn next(&mut self) -> Result<Packet, Failed> {
        let mut bytes = [0; 1024];
        loop {
            if let Some((packet, len)) = Packet::decode(&self.inbox, Version::V5)? {
                self.inbox.drain(..len);
                return Ok(packet);
            }
            match self.stream.read(&mut bytes)? {
                0 => return Err("closed".into()),
                count => self.inbox.extend_from_slice(&bytes[..count]),
            }
        }
    }
}
