//! Several PUBLISH packets side by side that say the same but for their payloads: one topic,
//! QoS 0 or 1, no flags, no properties. A client that sends fast sends runs, and a run can go to
//! a subscriber of the same version as it came, but for its Packet Identifiers, without a look
//! at every packet's meaning.

use crate::frame::{Frame, PacketType};
use crate::reader::{Variable, variable};
use crate::writer::variable_len;
use crate::{PacketId, QoS, TopicName, Version, publish_flags};

/// The first byte of every packet of a run, by its QoS.
const FIRST: [u8; 2] = [first(QoS::AtMostOnce), first(QoS::AtLeastOnce)];
/// Type, Remaining Length of one byte, length of the topic: no packet of a run is shorter.
const SHORTEST: usize = 4;

/// At least two such packets, whole.
#[derive(Clone, Copy, Debug)]
pub struct PublishRun<'a> {
    bytes: &'a [u8],
    topic: TopicName<'a>,
    shape: RunShape,
}

/// What is known of a run beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunShape {
    /// Which version wrote the packets.
    pub version: Version,
    pub qos: QoS,
    /// Packets.
    pub count: usize,
    /// Bytes of the longest packet.
    pub packet_len_max: usize,
    /// Bytes of all payloads.
    pub payload_bytes: usize,
    /// All packets have one length.
    pub is_even: bool,
}

/// How many bytes a run of QoS 1 may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunBytesMax {
    /// If all its packets have one length.
    pub even: usize,
    /// If not; no more than the other.
    pub uneven: usize,
}

/// One packet of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunPacket<'a> {
    /// Of QoS 1.
    pub packet_id: Option<PacketId>,
    /// Where in the run the Packet Identifier stands, or would.
    pub packet_id_at: usize,
    /// Where in the run the payload begins.
    pub payload_at: usize,
    pub payload: &'a [u8],
}

/// What has to be known of a packet to see whether it goes on with a run: offsets in it.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Bytes of the whole packet.
    len: usize,
    /// The end of the topic, behind which a Packet Identifier stands.
    name_end: usize,
    payload_at: usize,
}

impl<'a> PublishRun<'a> {
    /// The run that begins with `frame`, which is at the front of `bytes`; `None` if the packet
    /// behind it belongs to another message, or is not all there.
    ///
    /// Cost: one comparison of bytes for each packet of the run. A packet that does not belong
    /// to it costs a look at its first bytes.
    ///
    /// - `packet_size_max`: a packet of more bytes ends the run.
    /// - `bytes_max`: for a run of QoS 1.
    #[inline]
    pub fn cut(
        bytes: &'a [u8],
        frame: &Frame<'a>,
        version: Version,
        packet_size_max: u32,
        bytes_max: RunBytesMax,
    ) -> Option<Self> {
        if bytes.get(frame.len) != Some(&frame.first) || !FIRST.contains(&frame.first) {
            return None;
        }
        let (bytes, uneven_max) = match frame.first == FIRST[0] {
            true => (bytes, bytes.len()),
            false => (&bytes[..bytes.len().min(bytes_max.even)], bytes_max.uneven),
        };
        let run = Self::measure(bytes, version, packet_size_max as usize, uneven_max)?;
        (run.shape.count > 1).then_some(run)
    }

    fn measure(
        mut bytes: &'a [u8],
        version: Version,
        packet_size_max: usize,
        uneven_max: usize,
    ) -> Option<Self> {
        let (first, qos) = (*bytes.first()?, qos_of(*bytes.first()?));
        let (layout, name) = layout(bytes, first, version)?;
        let topic = TopicName::decode(name).ok()?;
        let mut shape = RunShape {
            version,
            qos,
            count: 0,
            packet_len_max: layout.len,
            payload_bytes: 0,
            is_even: true,
        };
        let (has_id, payload_at) = (qos == QoS::AtLeastOnce, layout.payload_at);
        let pattern = &bytes[..if has_id { layout.name_end } else { payload_at }];
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            // Most often the next packet is as long as the first, and then begins as that did.
            if rest.len() >= layout.len
                && begins_with(rest, pattern)
                && (!has_id || is_plain(&rest[layout.name_end..payload_at], qos, version))
            {
                shape.payload_bytes += layout.len - payload_at;
                at += layout.len;
            } else {
                let Some((next, _)) = self::layout(rest, first, version)
                    .filter(|(next, of)| *of == name && next.len <= packet_size_max)
                    .filter(|(next, _)| at + next.len <= uneven_max)
                else {
                    break;
                };
                shape.is_even = false;
                bytes = &bytes[..bytes.len().min(uneven_max)];
                shape.packet_len_max = shape.packet_len_max.max(next.len);
                shape.payload_bytes += next.len - next.payload_at;
                at += next.len;
            }
            shape.count += 1;
        }
        Some(Self { bytes: &bytes[..at], topic, shape })
    }

    /// The run that has this shape, from a copy of its bytes.
    ///
    /// # Panics
    /// If they are others: our own mistake.
    pub fn of(bytes: &'a [u8], shape: RunShape) -> Self {
        let found = layout(bytes, FIRST[shape.qos as usize], shape.version);
        let name = found.and_then(|(_, name)| str::from_utf8(name).ok());
        let topic = TopicName::assume_valid(name.expect("the bytes of a run"));
        Self { bytes, topic, shape }
    }

    /// Its packets as they came.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    #[inline]
    pub fn topic(&self) -> TopicName<'a> {
        self.topic
    }

    #[inline]
    pub fn shape(&self) -> RunShape {
        self.shape
    }

    /// Its packets in order.
    #[inline]
    pub fn packets(&self) -> RunPackets<'a> {
        let first = layout(self.bytes, FIRST[self.shape.qos as usize], self.shape.version);
        let (layout, _) = first.expect("a run begins with a packet");
        RunPackets { bytes: self.bytes, at: 0, layout, shape: self.shape }
    }

    /// Where in the run each Packet Identifier stands, in order.
    ///
    /// Cost: an addition a packet, if all have one length.
    #[inline]
    pub fn each_packet_id_at(&self, mut found: impl FnMut(usize)) {
        let packets = self.packets();
        if !self.shape.is_even {
            return packets.for_each(|packet| found(packet.packet_id_at));
        }
        let Layout { len, name_end, .. } = packets.layout;
        (0..self.shape.count).for_each(|index| found(index * len + name_end));
    }
}

/// The packets of a run; see [`PublishRun::packets`].
#[derive(Clone, Debug)]
pub struct RunPackets<'a> {
    bytes: &'a [u8],
    at: usize,
    layout: Layout,
    shape: RunShape,
}

impl<'a> Iterator for RunPackets<'a> {
    type Item = RunPacket<'a>;

    #[inline]
    fn next(&mut self) -> Option<RunPacket<'a>> {
        if !self.shape.is_even {
            let rest = self.bytes.get(self.at..)?;
            self.layout = layout(rest, FIRST[self.shape.qos as usize], self.shape.version)?.0;
        }
        let (at, Layout { len, name_end, payload_at }) = (self.at, self.layout);
        let packet = self.bytes.get(at..at + len)?;
        self.at += len;
        let is_identified = self.shape.qos == QoS::AtLeastOnce;
        Some(RunPacket {
            packet_id: if is_identified { packet_id(&packet[name_end..]) } else { None },
            packet_id_at: at + name_end,
            payload_at: at + payload_at,
            payload: &packet[payload_at..],
        })
    }
}

/// As `starts_with`. The beginnings of most packets fit in two words of one size, which takes less
/// than a call.
#[inline]
fn begins_with(bytes: &[u8], pattern: &[u8]) -> bool {
    match pattern.len() {
        4..8 => begins_with_words::<4>(bytes, pattern),
        8..16 => begins_with_words::<8>(bytes, pattern),
        16..=32 => begins_with_words::<16>(bytes, pattern),
        _ => bytes.starts_with(pattern),
    }
}

#[inline]
fn begins_with_words<const LEN: usize>(bytes: &[u8], pattern: &[u8]) -> bool {
    let Some(beginning) = bytes.get(..pattern.len()) else { return false };
    beginning.first_chunk::<LEN>() == pattern.first_chunk()
        && beginning.last_chunk::<LEN>() == pattern.last_chunk()
}

const fn first(qos: QoS) -> u8 {
    (PacketType::Publish as u8) << 4 | publish_flags(false, qos, false)
}

fn qos_of(first: u8) -> QoS {
    if first == FIRST[0] { QoS::AtMostOnce } else { QoS::AtLeastOnce }
}

#[inline]
fn packet_id(bytes: &[u8]) -> Option<PacketId> {
    let (id, _) = bytes.split_first_chunk()?;
    PacketId::new(u16::from_be_bytes(*id))
}

/// Whether nothing but a Packet Identifier, where there must be one, stands between topic and
/// payload.
#[inline]
fn is_plain(between: &[u8], qos: QoS, version: Version) -> bool {
    (qos == QoS::AtMostOnce || packet_id(between).is_some())
        && (version < Version::V5 || between.last() == Some(&0))
}

/// Reads the packet at the front as one of a run; its topic beside it.
#[inline]
fn layout(bytes: &[u8], first: u8, version: Version) -> Option<(Layout, &[u8])> {
    if bytes.len() < SHORTEST || bytes[0] != first {
        return None;
    }
    let Variable::Value { value, len } = variable(&bytes[1..]) else { return None };
    let body_at = 1 + len;
    let packet = bytes.get(..body_at + value as usize)?;
    // Written in more bytes than it needs it cannot go on as it is.
    if len != variable_len(value as usize) {
        return None;
    }
    let (name_len, _) = packet.get(body_at..)?.split_first_chunk()?;
    let name_at = body_at + 2;
    let name_end = name_at + usize::from(u16::from_be_bytes(*name_len));
    let name = packet.get(name_at..name_end)?;
    let qos = qos_of(first);
    let payload_at = name_end + 2 * qos as usize + usize::from(version == Version::V5);
    let between = packet.get(name_end..payload_at)?;
    // Without a topic it is for an alias.
    let is_one = !name.is_empty() && is_plain(between, qos, version);
    is_one.then_some((Layout { len: packet.len(), name_end, payload_at }, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;

    const FIRST: u8 = super::FIRST[0];

    fn packet(version: Version, topic: &str, id: u16, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let properties = crate::PublishWire::default();
        let id = PacketId::new(id);
        let flags = if id.is_some() { 0b10 } else { 0 };
        crate::encode_publish_raw(&mut out, version, flags, topic, id, properties, payload.len());
        out.extend_from_slice(payload);
        out
    }

    fn cut(bytes: &[u8], version: Version) -> Option<PublishRun<'_>> {
        let first = frame(bytes, u32::MAX).expect("a frame").expect("whole");
        let bytes_max = RunBytesMax { even: 1000, uneven: 800 };
        PublishRun::cut(bytes, &first, version, 300, bytes_max)
    }

    fn payloads<'a>(run: &PublishRun<'a>) -> Vec<&'a [u8]> {
        run.packets().map(|packet| packet.payload).collect()
    }

    #[test]
    fn packets_of_one_topic_are_a_run_whatever_their_length() {
        for (version, id) in [
            (Version::V3_1, 0),
            (Version::V3_1_1, 0),
            (Version::V5, 0),
            (Version::V3_1_1, 7),
            (Version::V5, 7),
        ] {
            let all: [&[u8]; 5] = [b"1", b"2", b"", &[7; 200], b"3"];
            let mut bytes = Vec::new();
            for (at, payload) in (0..).zip(all) {
                bytes.extend(packet(version, "a/b", if id == 0 { 0 } else { id + at }, payload));
            }
            let len = bytes.len();
            bytes.extend(packet(version, "a/c", id, b"4"));
            let run = cut(&bytes, version).expect("a run");
            assert_eq!((run.shape().count, run.bytes().len()), (5, len));
            assert_eq!((run.shape().payload_bytes, run.topic().as_str()), (203, "a/b"));
            let copy = run.bytes().to_vec();
            for run in [run, PublishRun::of(&copy, run.shape())] {
                assert_eq!(run.topic().as_str(), "a/b");
                assert_eq!(payloads(&run), all);
                let mut places = Vec::new();
                run.each_packet_id_at(|at| places.push(at));
                assert!(run.packets().map(|packet| packet.packet_id_at).eq(places));
                for (at, packet) in (0..).zip(run.packets()) {
                    let expected = PacketId::new(if id == 0 { 0 } else { id + at });
                    assert_eq!(packet.packet_id, expected);
                    let behind_topic = &run.bytes()[packet.packet_id_at..];
                    assert!(
                        expected.is_none_or(|id| behind_topic.starts_with(&id.get().to_be_bytes()))
                    );
                    let there = &run.bytes()[packet.payload_at..][..packet.payload.len()];
                    assert_eq!(there, packet.payload);
                }
            }
        }
    }

    #[test]
    fn packets_of_one_length_are_told_apart_by_counting() {
        for version in [Version::V3_1_1, Version::V5] {
            let packets = (1..=9).map(|id| packet(version, "a", id, &[id as u8; 3]));
            let bytes: Vec<u8> = packets.flatten().collect();
            let run = cut(&bytes, version).expect("a run");
            assert_eq!(run.shape().count, 9);
            let mut places = Vec::new();
            run.each_packet_id_at(|at| places.push(at));
            assert!(run.packets().map(|packet| packet.packet_id_at).eq(places));
            let found = run.packets().map(|packet| (packet.packet_id, packet.payload.to_vec()));
            let expected = (1..=9).map(|id| (PacketId::new(id), vec![id as u8; 3]));
            assert!(found.eq(expected));
        }
    }

    #[test]
    fn a_run_of_qos_1_is_bounded_and_one_of_qos_0_is_not() {
        let version = Version::V3_1_1;
        let of = |id: u16| {
            let bytes: Vec<u8> = packet(version, "a", id, &[0; 93]).repeat(50);
            cut(&bytes, version).map(|run| run.shape.count)
        };
        assert_eq!(packet(version, "a", 1, &[0; 93]).len(), 100);
        assert_eq!((of(0), of(1)), (Some(50), Some(10)));
        // One byte more or less in the packet at this place.
        let uneven = |id: u16, at: usize, len: usize| {
            let lens = (0..50).map(|index| if index == at { len } else { 93 });
            let bytes = lens.map(|len| packet(version, "a", id, &vec![0; len]));
            let run = cut(&bytes.collect::<Vec<_>>().concat(), version).map(|run| run.shape);
            run.map(|shape| (shape.count, shape.is_even))
        };
        assert_eq!((uneven(0, 1, 94), uneven(0, 20, 94)), (Some((50, false)), Some((50, false))));
        assert_eq!((uneven(1, 1, 92), uneven(1, 1, 94)), (Some((8, false)), Some((7, false))));
        assert_eq!((uneven(1, 7, 93), uneven(1, 7, 92)), (Some((10, true)), Some((8, false))));
        assert_eq!((uneven(1, 8, 92), uneven(1, 9, 92)), (Some((8, true)), Some((9, true))));
    }

    #[test]
    fn beginnings_are_compared_to_their_last_byte() {
        let bytes: Vec<u8> = (0..50).collect();
        for len in 0..=40 {
            let pattern = &bytes[..len];
            assert!(begins_with(&bytes, pattern) && begins_with(pattern, pattern));
            assert!(len == 0 || !begins_with(&bytes[..len - 1], pattern));
            for at in 0..len {
                let mut other = bytes.clone();
                other[at] ^= 1;
                assert!(!begins_with(&other, pattern), "{at} of {len}");
            }
        }
    }

    #[test]
    fn an_identifier_of_zero_ends_a_run() {
        let version = Version::V3_1_1;
        let plain = packet(version, "a", 1, b"1");
        let mut none = plain.clone();
        none[5..7].fill(0);
        let run = |parts: &[&[u8]]| cut(&parts.concat(), version).map(|run| run.shape.count);
        assert_eq!(run(&[&plain, &plain, &none]), Some(2));
        assert_eq!(run(&[&none, &plain, &plain]), None);
        // Nor does it go on with another QoS.
        assert_eq!(run(&[&plain, &plain, &packet(version, "a", 0, b"1")]), Some(2));
    }

    #[test]
    fn what_says_more_than_its_payload_ends_a_run() {
        let version = Version::V3_1_1;
        let plain = packet(version, "a", 0, b"1");
        let with = |other: &[u8]| {
            cut(&[&plain, &plain, other].concat(), version).map(|run| run.shape.count)
        };
        assert_eq!(with(&plain), Some(3));
        for first in [FIRST | 1, FIRST | 0b10, FIRST | 0b1000, 0xc0] {
            let mut other = plain.clone();
            other[0] = first;
            assert_eq!(with(&other), Some(2), "{first:x}");
        }
        // Not whole, in pieces of any length.
        (0..plain.len()).for_each(|len| assert_eq!(with(&plain[..len]), Some(2), "{len}"));
        // Too large for this connection.
        assert_eq!(with(&packet(version, "a", 0, &[0; 300])), Some(2));
        // A Remaining Length in two bytes where one is enough.
        assert_eq!(with(&[FIRST, 0x84, 0, 0, 1, b'a', b'1']), Some(2));
        // One that is alone is none.
        assert!(cut(&plain, version).is_none());
        // A topic longer than the packet.
        assert_eq!(with(&[FIRST, 4, 0, 9, b'a', b'1']), Some(2));
    }

    #[test]
    fn properties_and_aliases_end_a_run() {
        let plain = packet(Version::V5, "a", 0, b"1");
        let with = |other: &[u8]| {
            cut(&[&plain, &plain, other].concat(), Version::V5).map(|run| run.shape.count)
        };
        assert_eq!(with(&plain), Some(3));
        assert_eq!(with(&[FIRST, 7, 0, 1, b'a', 3, 0x23, 0, 1]), Some(2));
        assert_eq!(with(&[FIRST, 6, 0, 0, 3, 0x23, 0, 1]), Some(2));
    }

    #[test]
    fn a_topic_that_is_none_begins_no_run() {
        for topic in [&b"a/+"[..], b"a\0b", b"\xff"] {
            let mut packet = vec![FIRST, 2 + topic.len() as u8, 0, topic.len() as u8];
            packet.extend_from_slice(topic);
            assert!(cut(&packet.repeat(3), Version::V3_1_1).is_none(), "{topic:?}");
        }
    }
}
