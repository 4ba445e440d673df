//! Sessions as bytes: what stands in Redis, versioned, with moments by the wall clock.
//!
//! A shard counts moments from its node's start; in Redis they are milliseconds since 1970, so
//! that another node can read them. Every value begins with the version of this format; the
//! predecessor's JSON begins with a brace and so cannot be mistaken for one.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use octopus_engine::{
    DeliveryItem, DeliveryRecord, DeliveryState, Grant, Instant, Message, MessageParts,
    SessionRecord, Will,
};
use octopus_mqtt::{PacketId, QoS, TopicName};

/// The first byte of every value written now.
const VERSION: u8 = 1;

/// A node's moments and those of the wall clock, compared at one time: taken anew for each use,
/// so that a clock that was set does not split a node from its group for long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    now: Instant,
    wall_ms: u64,
}

impl Clock {
    /// - `now`: this moment, as the shards reckon it.
    pub(super) fn new(now: Instant) -> Self {
        Self { now, wall_ms: wall_now_ms() }
    }

    /// Milliseconds since 1970.
    pub(super) fn wall_ms(&self, at: Instant) -> u64 {
        (self.wall_ms + at.0 / 1000).saturating_sub(self.now.0 / 1000)
    }

    /// The moment of a number of milliseconds since 1970.
    pub(super) fn moment(&self, ms: u64) -> Instant {
        match ms.checked_sub(self.wall_ms) {
            Some(left) => self.now.after(Duration::from_millis(left)),
            None => Instant(self.now.0.saturating_sub((self.wall_ms - ms).saturating_mul(1000))),
        }
    }
}

fn wall_now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Appends fields.
struct Writer {
    out: Vec<u8>,
    clock: Clock,
}

impl Writer {
    fn new(clock: Clock) -> Self {
        Self { out: vec![VERSION], clock }
    }

    fn u8(&mut self, value: u8) {
        self.out.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.out.extend(value.to_be_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.out.extend(value.to_be_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.out.extend(value.to_be_bytes());
    }

    fn bytes(&mut self, value: &[u8]) {
        self.u32(value.len() as u32);
        self.out.extend(value);
    }

    /// Zero is none: nothing is due in 1970.
    fn moment(&mut self, at: Option<Instant>) {
        self.u64(at.map_or(0, |at| self.clock.wall_ms(at).max(1)));
    }
}

/// Takes fields off the front; every method is `None` where the bytes end too early.
struct Reader<'a> {
    bytes: &'a [u8],
    clock: Clock,
}

impl<'a> Reader<'a> {
    /// `None` if the bytes are of another version.
    fn new(bytes: &'a [u8], clock: Clock) -> Option<Self> {
        let bytes = bytes.strip_prefix(&[VERSION])?;
        Some(Self { bytes, clock })
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(*array)
    }

    fn u8(&mut self) -> Option<u8> {
        Some(u8::from_be_bytes(self.array()?))
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.array()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.array()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        let (taken, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(taken)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    fn moment(&mut self) -> Option<Option<Instant>> {
        let ms = self.u64()?;
        Some((ms > 0).then(|| self.clock.moment(ms)))
    }

    fn qos(&mut self) -> Option<QoS> {
        match self.u8()? {
            0 => Some(QoS::AtMostOnce),
            1 => Some(QoS::AtLeastOnce),
            2 => Some(QoS::ExactlyOnce),
            _ => None,
        }
    }
}

/// A will as a value.
pub(super) fn encode_will(will: &Will, clock: Clock) -> Vec<u8> {
    let mut writer = Writer::new(clock);
    writer.bytes(will.topic.as_bytes());
    writer.bytes(&will.payload);
    writer.u8(will.qos as u8);
    writer.u8(will.retain.into());
    writer.bytes(&will.properties);
    writer.u32(will.expiry_s.map_or(0, |s| s.saturating_add(1)));
    writer.u32(will.delay_s);
    writer.out
}

pub(super) fn decode_will(bytes: &[u8], clock: Clock) -> Option<Will> {
    let mut reader = Reader::new(bytes, clock)?;
    let topic = reader.text()?;
    TopicName::parse(topic).ok()?;
    Some(Will {
        topic: topic.into(),
        payload: reader.bytes()?.into(),
        qos: reader.qos()?,
        retain: reader.u8()? != 0,
        properties: reader.bytes()?.into(),
        expiry_s: reader.u32()?.checked_sub(1),
        delay_s: reader.u32()?,
    })
}

/// What a subscription grants, as a value.
pub(super) fn encode_grant(grant: Grant, clock: Clock) -> Vec<u8> {
    let mut writer = Writer::new(clock);
    writer.u8(grant.qos as u8);
    writer.u8(u8::from(grant.no_local) | u8::from(grant.retain_as_published) << 1);
    writer.u32(grant.subscription_id);
    writer.out
}

pub(super) fn decode_grant(bytes: &[u8], clock: Clock) -> Option<Grant> {
    let mut reader = Reader::new(bytes, clock)?;
    let qos = reader.qos()?;
    let flags = reader.u8()?;
    Some(Grant {
        qos,
        no_local: flags & 1 != 0,
        retain_as_published: flags & 2 != 0,
        subscription_id: reader.u32()?,
    })
}

/// A queued message as a value.
pub(super) fn encode_item(item: &DeliveryItem, clock: Clock) -> Vec<u8> {
    let mut writer = Writer::new(clock);
    put_item(&mut writer, item);
    writer.out
}

pub(super) fn decode_item(bytes: &[u8], clock: Clock) -> Option<DeliveryItem> {
    take_item(&mut Reader::new(bytes, clock)?)
}

fn put_item(writer: &mut Writer, item: &DeliveryItem) {
    let message = &item.message;
    writer.u8(item.qos as u8);
    writer.u8(item.retain.into());
    writer.u16(item.subscription_ids.len() as u16);
    item.subscription_ids.iter().for_each(|&id| writer.u32(id));
    writer.bytes(item.group.as_deref().unwrap_or_default().as_bytes());
    writer.bytes(message.topic().as_str().as_bytes());
    writer.bytes(message.properties());
    writer.bytes(message.payload());
    writer.u8(message.qos() as u8);
    writer.u8(message.retain().into());
    writer.moment(message.expires_at());
    writer.u64(message.publisher());
    writer.u64(message.id());
    if message.is_again() {
        // Who does not know of it does not read so far.
        writer.u8(1);
    }
}

fn take_item(reader: &mut Reader<'_>) -> Option<DeliveryItem> {
    let (qos, retain) = (reader.qos()?, reader.u8()? != 0);
    let count = reader.u16()?;
    let subscription_ids = (0..count).map(|_| reader.u32()).collect::<Option<_>>()?;
    let group = reader.text()?;
    let topic = reader.text()?;
    let (properties, payload) = (reader.bytes()?, reader.bytes()?);
    let message = Message::from_parts(&MessageParts {
        topic: TopicName::parse(topic).ok()?,
        properties,
        payload,
        qos: reader.qos()?,
        retain: reader.u8()? != 0,
        expires_at: reader.moment()?,
        received_at: reader.clock.now,
        publisher: reader.u64()?,
        id: reader.u64()?,
        is_again: reader.u8().is_some_and(|again| again != 0),
    });
    let group = (!group.is_empty()).then(|| group.into());
    Some(DeliveryItem { message, qos, retain, subscription_ids, group })
}

/// Where a delivery stands: a letter and the identifier.
pub(super) fn encode_state(state: DeliveryState) -> Vec<u8> {
    let (letter, id) = match state {
        DeliveryState::Queued => (b'q', 0),
        DeliveryState::Published(id) => (b'p', id.get()),
        DeliveryState::Released(id) => (b'r', id.get()),
    };
    let [high, low] = id.to_be_bytes();
    vec![letter, high, low]
}

pub(super) fn decode_state(bytes: &[u8]) -> Option<DeliveryState> {
    let &[letter, high, low] = bytes else { return None };
    let id = PacketId::new(u16::from_be_bytes([high, low]));
    match letter {
        b'q' => Some(DeliveryState::Queued),
        b'p' => Some(DeliveryState::Published(id?)),
        b'r' => Some(DeliveryState::Released(id?)),
        _ => None,
    }
}

/// A whole session on its way from one node to another.
pub(super) fn encode_session(record: &SessionRecord, clock: Clock) -> Vec<u8> {
    let mut writer = Writer::new(clock);
    writer.u32(record.expiry_s);
    // In the format's first days: that it is passed on.
    writer.u8(1);
    writer.moment(record.ends_at);
    writer.moment(record.will_at);
    let will = record.will.as_ref().map(|will| encode_will(will, clock));
    writer.bytes(will.as_deref().unwrap_or_default());
    writer.u16(record.last_packet_id);
    writer.u32(record.incoming.len() as u32);
    record.incoming.iter().for_each(|id| writer.u16(id.get()));
    writer.u32(record.subscriptions.len() as u32);
    for (filter, grant) in &record.subscriptions {
        writer.bytes(filter.as_bytes());
        writer.bytes(&encode_grant(*grant, clock));
    }
    writer.u32(record.deliveries.len() as u32);
    for delivery in &record.deliveries {
        writer.u32(delivery.serial);
        writer.bytes(&encode_state(delivery.state));
        let item = delivery.item.as_ref().map(|item| encode_item(item, clock));
        writer.bytes(item.as_deref().unwrap_or_default());
    }
    writer.u32(record.intents.len() as u32);
    for &(packet_id, number) in &record.intents {
        writer.u16(packet_id.get());
        writer.u64(number);
    }
    writer.bytes(&encode_numbers(&record.got));
    writer.out
}

pub(super) fn decode_session(bytes: &[u8], clock: Clock) -> Option<SessionRecord> {
    let mut reader = Reader::new(bytes, clock)?;
    let expiry_s = reader.u32()?;
    reader.u8()?;
    let mut record = SessionRecord {
        expiry_s,
        ends_at: reader.moment()?,
        will_at: reader.moment()?,
        ..SessionRecord::default()
    };
    let will = reader.bytes()?;
    if !will.is_empty() {
        record.will = Some(Box::new(decode_will(will, clock)?));
    }
    record.last_packet_id = reader.u16()?;
    for _ in 0..reader.u32()? {
        record.incoming.push(PacketId::new(reader.u16()?)?);
    }
    for _ in 0..reader.u32()? {
        let filter = reader.text()?.into();
        record.subscriptions.push((filter, decode_grant(reader.bytes()?, clock)?));
    }
    for _ in 0..reader.u32()? {
        let serial = reader.u32()?;
        let state = decode_state(reader.bytes()?)?;
        let item = reader.bytes()?;
        let item = if item.is_empty() { None } else { Some(decode_item(item, clock)?) };
        record.deliveries.push(DeliveryRecord { serial, state, item });
    }
    if reader.bytes.is_empty() {
        // It was written before there was more.
        return Some(record);
    }
    for _ in 0..reader.u32()? {
        record.intents.push((PacketId::new(reader.u16()?)?, reader.u64()?));
    }
    record.got = decode_numbers(reader.bytes()?)?;
    Some(record)
}

/// Numbers of messages, eight bytes each.
pub(super) fn encode_numbers(numbers: &[u64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

pub(super) fn decode_numbers(bytes: &[u8]) -> Option<Vec<u64>> {
    let (numbers, rest) = bytes.as_chunks();
    rest.is_empty().then(|| numbers.iter().map(|number| u64::from_be_bytes(*number)).collect())
}

#[cfg(test)]
mod tests {
    use octopus_mqtt::MessageProperties;

    use super::*;

    fn id(id: u16) -> PacketId {
        PacketId::new(id).expect("not zero")
    }

    fn session(clock: Clock) -> SessionRecord {
        let topic = TopicName::parse("a/b").expect("a topic");
        let properties = MessageProperties { expiry_s: Some(60), ..MessageProperties::default() };
        let message = Message::new(topic, b"hi", QoS::ExactlyOnce, true, &properties, clock.now);
        let item = DeliveryItem {
            message,
            qos: QoS::AtLeastOnce,
            retain: true,
            subscription_ids: vec![1, 268_435_455],
            group: Some("$share/g/a/b".into()),
        };
        let grant = Grant {
            qos: QoS::ExactlyOnce,
            no_local: true,
            retain_as_published: false,
            subscription_id: 9,
        };
        let will = Will {
            topic: "w".into(),
            payload: [1, 2][..].into(),
            qos: QoS::AtMostOnce,
            retain: true,
            properties: [][..].into(),
            expiry_s: Some(0),
            delay_s: 5,
        };
        SessionRecord {
            expiry_s: 100,
            ends_at: Some(clock.now.after(Duration::from_secs(50))),
            will: Some(Box::new(will)),
            will_at: None,
            subscriptions: vec![("a/+".into(), grant)],
            deliveries: vec![
                DeliveryRecord { serial: 1, state: DeliveryState::Released(id(7)), item: None },
                DeliveryRecord {
                    serial: 2,
                    state: DeliveryState::Published(id(8)),
                    item: Some(item.clone()),
                },
                DeliveryRecord { serial: 3, state: DeliveryState::Queued, item: Some(item) },
            ],
            incoming: vec![id(1), id(65535)],
            intents: vec![(id(2), 77)],
            got: vec![5, u64::MAX],
            last_packet_id: 8,
            ..SessionRecord::default()
        }
    }

    #[test]
    fn a_session_is_read_as_it_was_written() {
        let clock = Clock::new(Instant(5_000_000_000));
        let before = session(clock);
        let bytes = encode_session(&before, clock);
        let after = decode_session(&bytes, clock).expect("our own bytes");
        assert_eq!(encode_session(&after, clock), bytes);
        assert_eq!(after.will, before.will);
        assert_eq!(after.subscriptions, before.subscriptions);
        assert_eq!(after.incoming, before.incoming);
        assert_eq!((&after.intents, &after.got), (&before.intents, &before.got));
        let states = |record: &SessionRecord| {
            record.deliveries.iter().map(|d| (d.serial, d.state)).collect::<Vec<_>>()
        };
        assert_eq!(states(&after), states(&before));
        let item = after.deliveries[1].item.as_ref().expect("it has one");
        assert_eq!((item.message.payload(), item.message.qos()), (&b"hi"[..], QoS::ExactlyOnce));
        assert_eq!(item.subscription_ids, [1, 268_435_455]);
        let left = |at: Option<Instant>| at.expect("set").since(clock.now).as_secs_f32().round();
        assert!((left(after.ends_at) - 50.0).abs() < 2.0);
        assert!((left(item.message.expires_at()) - 60.0).abs() < 2.0);
    }

    #[test]
    fn bytes_that_are_cut_short_are_no_session() {
        let clock = Clock::new(Instant(5_000_000_000));
        let bytes = encode_session(&session(clock), clock);
        // What was written before there were numbers ends here.
        let old_len = bytes.len() - 4 - 10 - 4 - 16;
        for end in (0..bytes.len()).filter(|&end| end != old_len) {
            assert!(decode_session(&bytes[..end], clock).is_none(), "{end} bytes");
        }
        let old = decode_session(&bytes[..old_len], clock).expect("an older session");
        assert_eq!((old.deliveries.len(), old.intents.len(), old.got.len()), (3, 0, 0));
        assert!(decode_session(b"{\"clientId\":1}", clock).is_none());
    }

    #[test]
    fn a_message_that_comes_again_is_read_so_and_by_older_readers_as_any() {
        let clock = Clock::new(Instant(5_000_000_000));
        let mut item = session(clock).deliveries[2].item.clone().expect("it has one");
        let plain = encode_item(&item, clock);
        assert!(decode_item(&plain, clock).is_some_and(|item| !item.message.is_again()));
        let message = &item.message;
        item.message = Message::from_parts(&MessageParts {
            topic: message.topic(),
            payload: message.payload(),
            qos: message.qos(),
            retain: message.retain(),
            properties: message.properties(),
            expires_at: message.expires_at(),
            received_at: message.received_at(),
            publisher: message.publisher(),
            id: message.id(),
            is_again: true,
        });
        let again = encode_item(&item, clock);
        assert_eq!(again[..plain.len()], plain);
        assert!(decode_item(&again, clock).is_some_and(|item| item.message.is_again()));
    }

    #[test]
    fn moments_of_another_node_are_the_same_by_the_wall_clock() {
        let there = Clock::new(Instant(5_000_000_000));
        let here = Clock::new(Instant(70_000_000));
        let at = there.now.after(Duration::from_secs(30));
        let moved = here.moment(there.wall_ms(at));
        assert!(moved.since(here.now).abs_diff(Duration::from_secs(30)).as_millis() < 50);
    }
}
