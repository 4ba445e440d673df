//! Bytes become packets: what arrives on a connection is cut and handed to the handlers.

use bytes::Bytes;
use octopus_mqtt::{Frame, Packet, PublishRun, Version, decode, decode_publish, frame, packet_len};

use crate::connection::{Pause, Phase};
use crate::event::{ConnectionId, Output};
use crate::refusal::Refusal;
use crate::run;
use crate::shard::Shard;

/// Bytes that may wait behind a CONNECT the hub is asked about.
const WAITING_BYTES_MAX: usize = 64 << 10;

/// Memory for a packet that has not come to its end, in bytes for each byte that has come.
const GROWTH_MAX: usize = 4;

/// Which packets a connection may send now.
enum Stage {
    First,
    Auth,
    Connected,
}

impl Shard {
    pub(crate) fn received(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.last_received = self.now;
        let bytes_before = self.stats.bytes_received;
        self.stats.bytes_received += bytes.len() as u64;
        let published_before = self.stats.publish_received.iter().sum::<u64>();
        let rest = self.complete_packet(id, bytes);
        if !rest.is_empty() {
            let used = self.packets(id, rest);
            if used < rest.len()
                && let Some(connection) = self.connections.get_mut(id)
            {
                append(&mut connection.inbox, &rest[used..]);
            }
        }
        // What is handed off is taken back; of a CONNECT in pieces only the last one, for a
        // counter never falls.
        self.stats.bytes_received = self.stats.bytes_received.max(bytes_before);
        self.pause_if_waiting(id);
        let published = self.stats.publish_received.iter().sum::<u64>() - published_before;
        self.charge(id, published, bytes.len() as u64);
        if self.config.limits.memory_bytes_max > 0 {
            self.hold_back(id, published > 0);
        }
    }

    /// Completes what waits in the inbox, and handles it; the rest of `bytes` can be read where
    /// it lies.
    fn complete_packet<'b>(&mut self, id: ConnectionId, bytes: &'b [u8]) -> &'b [u8] {
        let Some(connection) = self.connections.get_mut(id) else { return &[] };
        if connection.inbox.is_empty() {
            return bytes;
        }
        // Before CONNACK all that came belongs together: it may be handed off.
        let is_connected = matches!(connection.phase, Phase::Connected { .. });
        let missing = match is_connected {
            true => missing_len(&connection.inbox, bytes),
            false => bytes.len(),
        };
        let (missing, rest) = bytes.split_at(missing);
        append(&mut connection.inbox, missing);
        let is_large = connection.inbox.len() >= self.config.limits.shared_payload_min;
        if is_connected && is_large && is_whole(&connection.inbox) {
            self.read_large_packet(id);
        } else {
            self.read_inbox(id);
        }
        // Of a connected client every whole packet is taken: nothing is left if anything follows.
        rest
    }

    /// Handles the one packet in the inbox; a message in it keeps its memory.
    fn read_large_packet(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let packet = Bytes::from(std::mem::take(&mut connection.inbox));
        self.packet = Some(packet.clone());
        self.packets(id, &packet);
        self.packet = None;
    }

    /// Handles the whole packets that wait in the inbox.
    pub(crate) fn read_inbox(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let mut inbox = std::mem::take(&mut connection.inbox);
        let used = self.packets(id, &inbox);
        if used < inbox.len()
            && let Some(connection) = self.connections.get_mut(id)
        {
            inbox.drain(..used);
            connection.inbox = inbox;
        }
    }

    fn pause_if_waiting(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if matches!(connection.phase, Phase::AwaitingAnswer(_) | Phase::AwaitingClaim(_))
            && connection.inbox.len() > WAITING_BYTES_MAX
            && connection.pause(Pause::AwaitingAnswer)
        {
            self.push(Output::PauseReading { connection: id });
        }
    }

    /// Handles the whole packets in `bytes` as long as the connection takes any; tells how
    /// many bytes are used up.
    fn packets(&mut self, id: ConnectionId, bytes: &[u8]) -> usize {
        let mut used = 0;
        // Up to here packets are taken one by one.
        let mut apart_until = 0;
        loop {
            let Some(connection) = self.connections.get(id) else { return bytes.len() };
            let version = connection.version;
            let packet_size_max = self.editions.get(connection.edition).packet_size_max;
            let stage = match connection.phase {
                Phase::Connected { .. } => Stage::Connected,
                Phase::AwaitingConnect => Stage::First,
                Phase::AwaitingAuth(_) => Stage::Auth,
                Phase::AwaitingAnswer(_) | Phase::AwaitingClaim(_) => return used,
                Phase::Closing => return bytes.len(),
            };
            let rest = &bytes[used..];
            let done = match frame(rest, packet_size_max) {
                Ok(None) => return used,
                Ok(Some(frame)) => {
                    if matches!(stage, Stage::Connected) && used >= apart_until {
                        let run = self.take_together(id, rest, &frame, version, packet_size_max);
                        if let Ok(len @ 1..) = run {
                            used += len;
                            continue;
                        }
                        apart_until = used + run.err().unwrap_or(0);
                    }
                    used += frame.len;
                    self.stats.packets_received += 1;
                    match stage {
                        Stage::Connected => self.packet(id, frame, version),
                        Stage::First => self.first_packet(id, frame, rest),
                        Stage::Auth => self.auth_packet(id, frame),
                    }
                }
                Err(error) => Err(error.into()),
            };
            if let Err(refusal) = done {
                self.refuse(id, refusal);
                return bytes.len();
            }
        }
    }

    /// Takes what begins with `frame` and can be taken together: how many bytes that was.
    ///
    /// # Errors
    /// So many bytes are a run, and must be taken apart.
    #[inline]
    fn take_together(
        &mut self,
        id: ConnectionId,
        bytes: &[u8],
        frame: &Frame<'_>,
        version: Version,
        packet_size_max: u32,
    ) -> Result<usize, usize> {
        if frame.first == run::PUBACK {
            return Ok(self.pubacks(id, bytes));
        }
        let bytes_max = run::acknowledged_bytes_max(frame.len);
        let run = PublishRun::cut(bytes, frame, version, packet_size_max, bytes_max);
        let Some(run) = run else { return Ok(0) };
        let len = run.bytes().len();
        if self.publish_run(id, run) { Ok(len) } else { Err(len) }
    }

    /// A packet between the challenge and CONNACK: nothing but AUTH [MQTT-3.1.2-30].
    fn auth_packet(&mut self, id: ConnectionId, frame: Frame<'_>) -> Result<(), Refusal> {
        match decode(frame, Version::V5)? {
            Packet::Auth(auth) => self.auth_before_connack(id, &auth),
            _ => Err(Refusal::UnexpectedPacket),
        }
    }

    fn packet(
        &mut self,
        id: ConnectionId,
        frame: Frame<'_>,
        version: Version,
    ) -> Result<(), Refusal> {
        const PUBLISH: u8 = 3;
        if frame.first >> 4 == PUBLISH {
            let publish = decode_publish(frame.first, frame.body, version)?;
            return self.publish(id, &publish);
        }
        match decode(frame, version)? {
            Packet::Connect(_) => Err(Refusal::SecondConnect),
            Packet::Publish(publish) => self.publish(id, &publish),
            Packet::PubAck(ack) => self.puback(id, &ack),
            Packet::PubRec(ack) => self.pubrec(id, &ack),
            Packet::PubRel(ack) => self.pubrel(id, &ack),
            Packet::PubComp(ack) => self.pubcomp(id, &ack),
            Packet::Subscribe(subscribe) => self.subscribe(id, &subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(id, &unsubscribe),
            Packet::PingReq => self.pingreq(id),
            Packet::Disconnect(disconnect) => self.disconnect(id, &disconnect),
            Packet::Auth(auth) => self.auth(id, &auth),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                Err(Refusal::UnexpectedPacket)
            }
        }
    }
}

/// Makes `bytes` part of the packet in the inbox, in memory for just this packet if it is not
/// much longer than what of it has come: its length is the client's word.
fn append(inbox: &mut Vec<u8>, bytes: &[u8]) {
    let len = inbox.len() + bytes.len();
    let expected = match inbox.is_empty() {
        true => packet_len(bytes),
        false => packet_len(inbox),
    };
    if let Some(expected) = expected.filter(|&expected| expected >= len && inbox.capacity() < len) {
        inbox.reserve_exact(expected.min(GROWTH_MAX * len) - inbox.len());
    }
    inbox.extend_from_slice(bytes);
}

/// This is one packet and no more.
fn is_whole(inbox: &[u8]) -> bool {
    packet_len(inbox) == Some(inbox.len())
}

/// How many of `bytes` the packet that begins in `inbox` lacks; all of them if that cannot be
/// told or there are too few.
fn missing_len(inbox: &[u8], bytes: &[u8]) -> usize {
    const FIXED_HEADER_MAX: usize = 5;
    let mut header = [0; FIXED_HEADER_MAX];
    let known = header.iter_mut().zip(inbox.iter().chain(bytes));
    let len = known.map(|(to, from)| *to = *from).count();
    let missing = packet_len(&header[..len]).and_then(|len| len.checked_sub(inbox.len()));
    missing.map_or(bytes.len(), |missing| missing.min(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet of this many bytes in pieces of that many.
    fn in_pieces(len: usize, piece_len: usize) -> Vec<u8> {
        let body = len - 1 - 3;
        let header = [0x30, body as u8 | 0x80, (body >> 7) as u8 | 0x80, (body >> 14) as u8];
        let packet = [&header[..], &vec![b'.'; body]].concat();
        assert!(is_whole(&packet) && !is_whole(&packet[1..]));
        let mut inbox = Vec::new();
        for piece in packet.chunks(piece_len) {
            append(&mut inbox, piece);
            assert!(inbox.capacity() <= (GROWTH_MAX * inbox.len()).max(8));
        }
        assert_eq!(inbox, packet);
        inbox
    }

    #[test]
    fn a_packet_in_pieces_gets_memory_for_itself_and_no_more() {
        for piece_len in [7, 1000, 20_000, 65_000, 1 << 20] {
            assert_eq!(in_pieces(70_000, piece_len).capacity(), 70_000, "{piece_len}");
        }
    }

    #[test]
    fn memory_follows_what_has_come_not_what_was_announced() {
        let mut inbox = Vec::new();
        append(&mut inbox, &[0x30, 0xff, 0xff, 0xff, 0x7f]);
        assert!(inbox.capacity() < 100);
    }
}
