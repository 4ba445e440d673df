//! What nodes write to each other, as bytes. Pure.
//!
//! A frame is a head (magic, version, kind, the sender's id and epoch, the number of its first
//! record) and records. Numbers are big-endian, texts carry their length. A reader of another
//! version refuses the frame as a whole. Nothing here panics on any bytes.

use octopus_engine::{Instant, Message, MessageParts};
use octopus_mqtt::{QoS, ReasonCode, TopicName};

const MAGIC: [u8; 2] = *b"oB";
const VERSION: u8 = 2;
/// Of a record, in its first byte: the message comes again. Older readers look past it.
const AGAIN: u8 = 16;

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// Not a frame of ours.
    NotAFrame,
    /// Of a version this node does not speak.
    Version(u8),
    /// It ends too early, or says something that cannot be.
    Malformed,
}

/// Who sent a frame, and which of its records it begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head<'a> {
    pub origin: &'a str,
    pub epoch: u64,
    /// Records of one lane are numbered from 1, per sender's epoch and receiver.
    pub first: u64,
    pub count: u32,
}

/// Wall clock and shard clock, read at one moment, to carry expiry times between nodes.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    pub now: Instant,
}

impl Clock {
    fn to_unix_ms(self, at: Instant) -> u64 {
        let ahead = at.since(self.now).as_millis() as u64;
        let behind = self.now.since(at).as_millis() as u64;
        (self.unix_ms + ahead).saturating_sub(behind).max(1)
    }

    fn to_instant(self, unix_ms: u64) -> Instant {
        let ahead_us = unix_ms.saturating_sub(self.unix_ms).saturating_mul(1000);
        let behind_us = self.unix_ms.saturating_sub(unix_ms).saturating_mul(1000);
        Instant(self.now.0.saturating_add(ahead_us).saturating_sub(behind_us))
    }
}

/// One thing a node tells another about the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// The sender's interest is to be read anew.
    Reload,
    /// Changes of its interest, oldest first; `true`: wanted.
    Interest(Vec<(Box<str>, bool)>),
    Kick {
        client: Box<str>,
        reason: ReasonCode,
    },
    /// The sender has taken in what the receiver wants, up to this change.
    Known {
        epoch: u64,
        number: u64,
    },
}

/// A message, and the shared group whose members here it is for.
#[derive(Clone, Debug)]
pub struct Record {
    pub group: Option<Box<str>>,
    pub message: Message,
}

/// Writes a frame around `records`, encoded by [`put_message`].
pub fn frame<'a>(head: &Head<'_>, records: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    put_head(&mut out, head);
    records.for_each(|record| out.extend_from_slice(record));
    out
}

fn put_head(out: &mut Vec<u8>, head: &Head<'_>) {
    out.extend_from_slice(&MAGIC);
    out.push(VERSION);
    put_text(out, head.origin);
    out.extend_from_slice(&head.epoch.to_be_bytes());
    out.extend_from_slice(&head.first.to_be_bytes());
    out.extend_from_slice(&head.count.to_be_bytes());
}

/// Encodes one record.
pub fn put_message(out: &mut Vec<u8>, message: &Message, group: Option<&str>, clock: Clock) {
    let flags =
        message.qos() as u8 | u8::from(message.retain()) << 2 | u8::from(group.is_some()) << 3;
    out.push(if message.is_again() { flags | AGAIN } else { flags });
    if let Some(group) = group {
        put_text(out, group);
    }
    out.extend_from_slice(&message.publisher().to_be_bytes());
    out.extend_from_slice(&message.id().to_be_bytes());
    let expires = message.expires_at().map_or(0, |at| clock.to_unix_ms(at));
    out.extend_from_slice(&expires.to_be_bytes());
    put_text(out, message.topic().as_str());
    put_bytes(out, message.properties());
    put_bytes(out, message.payload());
}

/// A record encoded by [`put_message`], of a message that may be there already.
pub fn again(record: &[u8]) -> Vec<u8> {
    let mut record = record.to_vec();
    if let Some(flags) = record.first_mut() {
        *flags |= AGAIN;
    }
    record
}

/// The shared group that a record encoded by [`put_message`] is for.
pub fn group_of(record: &[u8]) -> Option<&str> {
    let mut reader = Reader(record);
    match reader.u8().ok()? & 8 {
        0 => None,
        _ => reader.text().ok(),
    }
}

/// Reads a frame of messages.
pub fn messages(bytes: &[u8], clock: Clock) -> Result<(Head<'_>, Vec<Record>), WireError> {
    let mut reader = Reader(bytes);
    let head = reader.head()?;
    // A record takes at least 31 bytes; a count that promises more is not believed.
    let mut records = Vec::with_capacity((head.count as usize).min(bytes.len() / 31 + 1));
    for _ in 0..head.count {
        records.push(reader.record(clock)?);
    }
    reader.end()?;
    Ok((head, records))
}

/// What the store writes into an inbox behind all that was sent to a session that was here, when
/// every node knows where it is now: the epoch it had here, and its client. `None`: a frame.
pub fn read_known(bytes: &[u8]) -> Option<(u64, &str)> {
    let about = bytes.strip_prefix(b"known ")?;
    let (epoch, client_id) = std::str::from_utf8(about).ok()?.split_once(' ')?;
    Some((epoch.parse().ok()?, client_id))
}

/// Encodes a control frame.
pub fn control(head: &Head<'_>, control: &Control) -> Vec<u8> {
    let mut out = Vec::new();
    put_head(&mut out, head);
    match control {
        Control::Reload => out.push(0),
        Control::Interest(changes) => {
            out.push(1);
            out.extend_from_slice(&(changes.len() as u32).to_be_bytes());
            for (filter, wanted) in changes {
                out.push(u8::from(*wanted));
                put_text(&mut out, filter);
            }
        }
        Control::Kick { client, reason } => {
            out.push(2);
            out.push(*reason as u8);
            put_text(&mut out, client);
        }
        Control::Known { epoch, number } => {
            out.push(3);
            out.extend_from_slice(&epoch.to_be_bytes());
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
    out
}

/// Reads a control frame.
pub fn read_control(bytes: &[u8]) -> Result<(Head<'_>, Control), WireError> {
    let mut reader = Reader(bytes);
    let head = reader.head()?;
    let control = match reader.u8()? {
        0 => Control::Reload,
        1 => {
            let count = reader.u32()? as usize;
            let mut changes = Vec::with_capacity(count.min(bytes.len() / 3 + 1));
            for _ in 0..count {
                let wanted = reader.u8()? != 0;
                changes.push((reader.text()?.into(), wanted));
            }
            Control::Interest(changes)
        }
        2 => {
            let reason = ReasonCode::from_u8(reader.u8()?).ok_or(WireError::Malformed)?;
            Control::Kick { reason, client: reader.text()?.into() }
        }
        3 => Control::Known { epoch: reader.u64()?, number: reader.u64()? },
        _ => return Err(WireError::Malformed),
    };
    reader.end()?;
    Ok((head, control))
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // MQTT's own texts are at most 65,535 bytes, a shared group's key a little more.
    put_bytes(out, text.as_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(WireError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(WireError::Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(u8::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_be_bytes)
    }

    fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    fn text(&mut self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::Malformed)
    }

    fn head(&mut self) -> Result<Head<'a>, WireError> {
        if self.array::<2>().map_err(|_| WireError::NotAFrame)? != MAGIC {
            return Err(WireError::NotAFrame);
        }
        match self.u8()? {
            VERSION => {}
            other => return Err(WireError::Version(other)),
        }
        let origin = self.text()?;
        let (epoch, first, count) = (self.u64()?, self.u64()?, self.u32()?);
        Ok(Head { origin, epoch, first, count })
    }

    fn record(&mut self, clock: Clock) -> Result<Record, WireError> {
        let flags = self.u8()?;
        let qos = match flags & 3 {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            2 => QoS::ExactlyOnce,
            _ => return Err(WireError::Malformed),
        };
        let group = match flags & 8 {
            0 => None,
            _ => Some(self.text()?.into()),
        };
        let (publisher, id, expires) = (self.u64()?, self.u64()?, self.u64()?);
        let topic = TopicName::parse(self.text()?).map_err(|_| WireError::Malformed)?;
        let (properties, payload) = (self.bytes()?, self.bytes()?);
        let message = Message::from_parts(&MessageParts {
            topic,
            payload,
            qos,
            retain: flags & 4 != 0,
            properties,
            expires_at: (expires != 0).then(|| clock.to_instant(expires)),
            received_at: clock.now,
            publisher,
            id,
            is_again: flags & AGAIN != 0,
        });
        Ok(Record { group, message })
    }

    fn end(&self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use octopus_mqtt::MessageProperties;

    use super::*;

    const HEAD: Head<'_> = Head { origin: "BROKER1", epoch: 7, first: 41, count: 2 };

    fn clock(unix_ms: u64, now_us: u64) -> Clock {
        Clock { unix_ms, now: Instant(now_us) }
    }

    fn message(topic: &str, expiry_s: Option<u32>) -> Message {
        let properties = MessageProperties {
            expiry_s,
            content_type: Some("text/plain"),
            ..MessageProperties::default()
        };
        let topic = TopicName::parse(topic).expect("a topic");
        Message::new(topic, b"payload", QoS::ExactlyOnce, true, &properties, Instant(5_000_000))
    }

    fn sample() -> Vec<u8> {
        let (mut plain, mut shared) = (Vec::new(), Vec::new());
        put_message(&mut plain, &message("a/b", Some(10)), None, clock(1_000_000, 5_000_000));
        let key = Some("$share/g/a/#");
        put_message(&mut shared, &message("a/c", None), key, clock(1_000_000, 5_000_000));
        frame(&HEAD, [&plain[..], &shared[..]].into_iter())
    }

    #[test]
    fn messages_arrive_as_they_were_sent() {
        let bytes = sample();
        let (head, records) = messages(&bytes, clock(1_002_000, 77_000_000)).expect("a frame");
        assert_eq!(head, HEAD);
        let first = &records[0].message;
        assert_eq!(first.topic().as_str(), "a/b");
        assert_eq!(first.payload(), b"payload");
        assert_eq!((first.qos(), first.retain()), (QoS::ExactlyOnce, true));
        assert_eq!(first.properties(), message("x", None).properties());
        assert_eq!(records[0].group, None);
        assert_eq!(records[1].group.as_deref(), Some("$share/g/a/#"));
    }

    #[test]
    fn what_is_known_is_read_and_is_no_frame() {
        assert_eq!(read_known(b"known 17 a b"), Some((17, "a b")));
        assert_eq!(read_known(b"known 17"), None);
        assert_eq!(read_known(b"known x a"), None);
        assert_eq!(read_known(&sample()), None);
    }

    #[test]
    fn a_record_that_is_written_again_says_so() {
        let mut record = Vec::new();
        let clock = clock(1_000_000, 5_000_000);
        put_message(&mut record, &message("a/b", None), None, clock);
        let of = |record: &[u8]| {
            let bytes = frame(&Head { count: 1, ..HEAD }, std::iter::once(record));
            messages(&bytes, clock).expect("a frame").1.remove(0).message
        };
        assert!(!of(&record).is_again());
        let again = of(&again(&record));
        assert!(again.is_again() && again.retain() && again.qos() == QoS::ExactlyOnce);
        let mut twice = Vec::new();
        put_message(&mut twice, &again, None, clock);
        assert!(of(&twice).is_again());
    }

    #[test]
    fn an_expiry_keeps_its_moment_on_another_clock() {
        let bytes = sample();
        let (_, records) = messages(&bytes, clock(1_002_000, 77_000_000)).expect("a frame");
        // Ten seconds from 1,000,000 ms is eight seconds from 1,002,000 ms.
        assert_eq!(records[0].message.expires_at(), Some(Instant(85_000_000)));
        assert_eq!(records[1].message.expires_at(), None);
    }

    #[test]
    fn control_frames_arrive_as_they_were_sent() {
        for told in [
            Control::Reload,
            Control::Interest(vec![("a/#".into(), true), ("+".into(), false)]),
            Control::Kick { client: "c".into(), reason: ReasonCode::SessionTakenOver },
            Control::Known { epoch: 3, number: 17 },
        ] {
            let bytes = control(&HEAD, &told);
            assert_eq!(read_control(&bytes), Ok((HEAD, told)));
        }
    }

    #[test]
    fn another_version_is_refused_as_a_whole() {
        let mut bytes = sample();
        bytes[2] = 3;
        assert_eq!(messages(&bytes, clock(0, 0)).err(), Some(WireError::Version(3)));
        assert_eq!(messages(b"{}", clock(0, 0)).err(), Some(WireError::NotAFrame));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let good = sample();
        for len in 0..good.len() {
            assert!(messages(&good[..len], clock(0, 0)).is_err(), "cut at {len}");
        }
        let mut state = 1_u64;
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..4 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = (state >> 24) as u8;
            }
            // Any answer will do.
            let _ = messages(&bytes, clock(0, 0));
            let _ = read_control(&bytes);
        }
    }
}
