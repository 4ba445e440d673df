//! The store in Redis: batches of operations, claims, adoption. What each key holds is in
//! `scripts`; what a crash may lose is in `store`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use octopus_engine::{
    Change, DeliveryItem, DeliveryRecord, DeliveryState, Grant, HeldRecord, Kept, RecordOp,
    SessionRecord,
};
use octopus_mqtt::{PacketId, QoS};
use octopus_runtime::HubSender;
use redis::{FromRedisValue, Script, Value};

use super::{Settings, codec, codec::Clock, scripts};
use crate::link::{Link, LinkError};

/// Between surrender and claim a session belongs to nobody; after this long others take it.
const LIMBO_MS: u64 = 5000;

/// What one claim came to.
#[derive(Debug)]
pub(super) enum Claimed {
    /// It was this node's before.
    Mine { epoch: u64 },
    /// It is now; this is what it was elsewhere, if it was.
    Taken { epoch: u64, found: Found },
    /// A live node has it and was asked to hand it over; the word names node and epoch.
    Held(String),
}

/// What a session was elsewhere.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// If it was.
    pub(super) record: Option<Box<SessionRecord>>,
    /// Messages were passed on to it.
    pub(super) is_passed: bool,
}

/// A session taken over from a node that is gone.
#[derive(Debug)]
pub(super) struct Orphan {
    pub(super) client_id: String,
    pub(super) epoch: u64,
    pub(super) found: Found,
}

/// What a node finds when it looks what others want of it.
#[derive(Debug)]
pub(super) struct Tended {
    /// Its lease holds.
    pub(super) is_live: bool,
    /// Nothing was taken from it that it has not heeded.
    pub(super) is_awake: bool,
    /// Entries found, to be forgotten with the next look.
    pub(super) count: usize,
    pub(super) wishes: Vec<Wish>,
}

/// What others asked of this node since it last looked.
#[derive(Debug)]
pub(super) enum Wish {
    HandOver {
        client_id: String,
        epoch: u64,
    },
    Lost {
        client_id: String,
        epoch: u64,
        /// Every node knows where the session is.
        is_known: bool,
    },
}

/// The group's sessions in Redis, as one owner sees them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Redis {
    link: Link,
    prefix: String,
    me: String,
    shards: HubSender,
    batch: Script,
    tend: Script,
    adopt: Script,
    gone: Script,
    passed: Script,
    begin: Script,
    /// The life of Redis as this node knows it; empty before it knows any.
    born: Arc<Mutex<String>>,
}

/// Fields and values.
type Hash = Vec<(Vec<u8>, Vec<u8>)>;

/// Operations to be carried out in one step, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    args: Vec<Vec<u8>>,
    count: usize,
}

/// What a batch came to, by the number of the operation.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) claims: Vec<(usize, Claimed)>,
    pub(super) refused: Vec<usize>,
    /// Redis has not what this node knew it to have; nothing was done.
    pub(super) is_lost: bool,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// - `forced`: take it even from this live owner, which did not answer in time.
    /// - `is_here`: this node has it in memory, if it is its own.
    /// - `known`: this owner was asked to hand it over already.
    /// - `is_early`: an owner without a lease may be about to take it again.
    pub(super) fn claim(
        &mut self,
        client_id: &str,
        forced: &str,
        is_here: bool,
        known: &str,
        is_early: bool,
    ) {
        self.begin(b'C', client_id, 0);
        self.text(forced);
        self.text(if is_here { "1" } else { "0" });
        self.text(known);
        self.text(u8::from(is_early));
    }

    pub(super) fn surrender(
        &mut self,
        client_id: &str,
        epoch: u64,
        record: Option<&SessionRecord>,
        clock: Clock,
    ) {
        self.begin(b'X', client_id, epoch);
        self.args.push(record.map(|r| codec::encode_session(r, clock)).unwrap_or_default());
    }

    pub(super) fn op(&mut self, op: &RecordOp, clock: Clock) {
        let letter = match &op.change {
            Change::Opened { .. } => b'O',
            Change::Away { .. } => b'A',
            Change::WillGone => b'W',
            Change::Ended => b'E',
            Change::Subscribed { .. } => b'S',
            Change::Unsubscribed { .. } => b'U',
            Change::Queued { .. } => b'Q',
            Change::Held(_) => b'H',
            Change::Unkept(_) => b'Y',
            Change::Arrived { .. } => b'V',
            Change::Published { .. } => b'P',
            Change::Released { .. } => b'R',
            Change::Got { .. } => b'G',
            Change::Done { .. } => b'D',
            Change::Known => b'K',
            Change::Passed { .. } => b'F',
            Change::Inherited { .. } => b'T',
            Change::Incoming { .. } => b'I',
            Change::IncomingReleased { .. } => b'J',
        };
        self.begin(letter, &op.client_id, op.epoch);
        match &op.change {
            Change::WillGone | Change::Ended | Change::Known => {}
            Change::Opened { expiry_s, will } => {
                self.text(expiry_s);
                let will = will.as_ref().map(|will| codec::encode_will(will, clock));
                self.args.push(will.unwrap_or_default());
            }
            Change::Away { expiry_s, ends_at, will_at } => {
                self.text(expiry_s);
                self.text(ends_at.map_or(0, |at| clock.wall_ms(at)));
                self.text(will_at.map_or(0, |at| clock.wall_ms(at)));
            }
            Change::Subscribed { filter, grant } => {
                self.text(filter);
                self.args.push(codec::encode_grant(*grant, clock));
            }
            Change::Unsubscribed { filter } => self.text(filter),
            Change::Queued { serial, item, kept } => {
                self.text(serial);
                self.args.push(codec::encode_item(item, clock));
                let message = &item.message;
                let is_once = item.group.is_some() && message.qos() == QoS::ExactlyOnce;
                let number = Some(message.id()).filter(|&number| is_once && number != 0);
                self.text(number.map_or_else(String::new, |number| number.to_string()));
                self.kept(*kept);
            }
            Change::Held(HeldRecord { place, item }) => {
                self.text(place);
                self.args.push(codec::encode_item(item, clock));
            }
            Change::Unkept(kept) => self.kept(*kept),
            Change::Arrived { is_told } => self.text(u8::from(*is_told)),
            Change::Published { serial, packet_id } => {
                self.text(serial);
                self.args.push(codec::encode_state(DeliveryState::Published(*packet_id)));
                self.text(packet_id.get());
            }
            Change::Released { serial, packet_id, number } => {
                self.text(serial);
                self.args.push(codec::encode_state(DeliveryState::Released(*packet_id)));
                let number = Some(*number).filter(|&number| number != 0);
                self.args.push(codec::encode_numbers(number.as_slice()));
            }
            Change::Got { numbers } => self.args.push(codec::encode_numbers(numbers)),
            Change::Done { serial } => self.text(serial),
            Change::Inherited { node } => self.text(node),
            Change::Passed { item } => {
                let item = item.as_ref().map(|item| codec::encode_item(item, clock));
                self.args.push(item.unwrap_or_default());
            }
            Change::Incoming { packet_id, number } => {
                self.text(packet_id.get());
                self.text(if *number == 0 { String::new() } else { number.to_string() });
            }
            Change::IncomingReleased { packet_id } => self.text(packet_id.get()),
        }
    }

    fn kept(&mut self, kept: Kept) {
        self.text(u8::from(kept.is_passed));
        self.text(kept.held.map_or_else(String::new, |place| place.to_string()));
    }

    /// Keeps its place among the operations.
    pub(super) fn nothing(&mut self) {
        self.begin(b'N', "", 0);
    }

    fn begin(&mut self, letter: u8, client_id: &str, epoch: u64) {
        self.count += 1;
        self.args.push(vec![letter]);
        self.text(client_id);
        self.text(epoch);
    }

    fn text(&mut self, text: impl ToString) {
        self.args.push(text.to_string().into_bytes());
    }
}

impl Redis {
    pub(super) fn new(link: Link, settings: &Settings, shards: HubSender) -> Self {
        let texts = scripts::Texts::new(settings.publish);
        Self {
            link,
            prefix: format!("{}:", settings.group_tag),
            me: settings.owner.clone(),
            shards,
            batch: Script::new(&texts.batch),
            tend: Script::new(&texts.tend),
            adopt: Script::new(&texts.adopt),
            gone: Script::new(&texts.gone),
            passed: Script::new(&texts.passed),
            begin: Script::new(&texts.begin),
            born: Arc::default(),
        }
    }

    pub(super) fn clock(&self) -> Clock {
        Clock::new(self.shards.now())
    }

    /// The channel on which others call this node.
    pub(super) fn channel(&self) -> String {
        format!("{}V2:STORE:{}", self.prefix, self.me)
    }

    /// Carries a batch out; the operations before an error may have been carried out.
    pub(super) async fn run(&self, batch: &Batch) -> Result<Outcome, LinkError> {
        let mut call = self.batch.prepare_invoke();
        call.arg(&self.prefix).arg(&self.me).arg(self.born());
        for arg in &batch.args {
            call.arg(arg);
        }
        let rows: Vec<Vec<Value>> = self.link.script(&mut call).await?;
        let mut outcome = Outcome::default();
        for row in rows {
            let mut row = row.into_iter();
            let Some(number) = row.next().and_then(number) else {
                outcome.is_lost = true;
                continue;
            };
            let number = number as usize;
            let word = row.next().map(bytes).unwrap_or_default();
            let more = row.next().map(bytes).unwrap_or_default();
            let epoch = parse(&more);
            match &word[..] {
                b"mine" => outcome.claims.push((number, Claimed::Mine { epoch })),
                b"held" => {
                    let owner = String::from_utf8_lossy(&more).into_owned();
                    outcome.claims.push((number, Claimed::Held(owner)));
                }
                b"taken" => {
                    let found = self.found(row);
                    outcome.claims.push((number, Claimed::Taken { epoch, found }));
                }
                _ => outcome.refused.push(number),
            }
        }
        Ok(outcome)
    }

    fn born(&self) -> String {
        self.born.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gets to know the life of Redis; whether it lost what it had in the one known before.
    /// `None`: this node's lease does not hold.
    ///
    /// - `lease`: for so long clients wait whose sessions may still be told by their nodes.
    pub(super) async fn begin(&self, lease: Duration) -> Result<Option<bool>, LinkError> {
        let before = self.born();
        let mut call = self.begin.prepare_invoke();
        call.arg(&self.prefix).arg(&self.me).arg(&before).arg(lease.as_millis() as u64);
        let born: String = self.link.script(&mut call).await?;
        if born.is_empty() {
            return Ok(None);
        }
        let has_lost = !before.is_empty() && born != before;
        *self.born.lock().unwrap_or_else(PoisonError::into_inner) = born;
        Ok(Some(has_lost))
    }

    /// Looks what others ask of this node.
    ///
    /// - `fence_after`: how long from now its sessions are its own.
    /// - `has_heeded`: what others asked when it was not awake is done.
    /// - `count`: what the last look found; it found it if its answer came.
    pub(super) async fn tend(
        &self,
        fence_after: Duration,
        has_heeded: bool,
        count: usize,
    ) -> Result<Tended, LinkError> {
        let mut call = self.tend.prepare_invoke();
        call.arg(&self.prefix).arg(&self.me);
        call.arg(fence_after.as_millis() as u64).arg(u8::from(has_heeded)).arg(count);
        let (is_live, is_awake, entries): (u8, u8, Vec<Vec<u8>>) =
            self.link.script(&mut call).await?;
        Ok(Tended {
            is_live: is_live == 1,
            is_awake: is_awake == 1,
            count: entries.len(),
            wishes: entries.iter().filter_map(|entry| wish(entry)).collect(),
        })
    }

    /// What was passed on to a session since it was last asked; `None` is the end of it.
    ///
    /// - `look`: another number each time, but the same again behind an error.
    pub(super) async fn passed(
        &self,
        client_id: &str,
        look: u64,
    ) -> Result<Vec<Option<DeliveryItem>>, LinkError> {
        let mut call = self.passed.prepare_invoke();
        call.arg(&self.prefix).arg(&self.me).arg(client_id).arg(look);
        let items: Vec<Vec<u8>> = self.link.script(&mut call).await?;
        let clock = self.clock();
        let read = |item: Vec<u8>| match item.is_empty() {
            true => Some(None),
            false => codec::decode_item(&item, clock).map(Some),
        };
        Ok(items.into_iter().filter_map(read).collect())
    }

    /// Owners that are gone.
    pub(super) async fn gone(&self) -> Result<Vec<String>, LinkError> {
        let mut call = self.gone.prepare_invoke();
        call.arg(&self.prefix).arg(&self.me);
        self.link.script(&mut call).await
    }

    /// Takes up to `count` sessions of an owner that is gone; none: nothing is left of it.
    pub(super) async fn adopt(&self, owner: &str, count: usize) -> Result<Vec<Orphan>, LinkError> {
        let mut call = self.adopt.prepare_invoke();
        call.arg(&self.prefix).arg(&self.me).arg(owner).arg(count).arg(LIMBO_MS);
        let rows: Vec<Vec<Value>> = self.link.script(&mut call).await?;
        let orphan = |row: Vec<Value>| {
            let mut row = row.into_iter();
            let client_id = String::from_utf8(bytes(row.next()?)).ok()?;
            let epoch = parse(&bytes(row.next()?));
            Some(Orphan { client_id, epoch, found: self.found(row) })
        };
        Ok(rows.into_iter().filter_map(orphan).collect())
    }

    /// The session that three hashes and a list say, and whether messages wait for it.
    fn found(&self, mut state: impl Iterator<Item = Value>) -> Found {
        let mut hash = || state.next().map(pairs).unwrap_or_default();
        let record = self.record(&hash(), hash(), hash());
        let got = state.next().map(numbers).unwrap_or_default();
        let record = record.map(|record| Box::new(SessionRecord { got, ..*record }));
        Found { record, is_passed: state.next().and_then(number) == Some(1) }
    }

    /// `None` if there is none in them.
    fn record(&self, session: &Hash, sub: Hash, messages: Hash) -> Option<Box<SessionRecord>> {
        let clock = self.clock();
        if session.is_empty() && sub.is_empty() && messages.is_empty() {
            return None;
        }
        let field = |name: &str| {
            let found = session.iter().find(|(field, _)| field == name.as_bytes());
            found.map(|(_, value)| value.as_slice())
        };
        let left = field("left").map(String::from_utf8_lossy).unwrap_or_default();
        let left = left.lines().map(Into::into).collect();
        let passed_by = field("passing").map(String::from_utf8_lossy);
        let passed_by = passed_by.map(|by| if by == self.me { "".into() } else { (&*by).into() });
        if let Some(record) =
            field("handover").and_then(|bytes| codec::decode_session(bytes, clock))
        {
            return Some(Box::new(SessionRecord { left, passed_by, ..record }));
        }
        let moment = |name| match field(name).map(parse) {
            None | Some(0) => None,
            Some(ms) => Some(clock.moment(ms)),
        };
        let expiry_s = match field("expiry") {
            Some(expiry) => parse(expiry) as u32,
            None if field("epoch").is_some() => 0,
            // The predecessor kept subscriptions without a session, for ever.
            None => u32::MAX,
        };
        let mut record = SessionRecord {
            expiry_s,
            ends_at: moment("ends"),
            will_at: moment("will_at"),
            will: field("will").and_then(|w| codec::decode_will(w, clock)).map(Box::new),
            subscriptions: subscriptions(sub, clock),
            left,
            passed_by,
            ..SessionRecord::default()
        };
        if session.is_empty() && record.subscriptions.is_empty() {
            return None;
        }
        read_messages(messages, &mut record, clock);
        Some(Box::new(record))
    }
}

fn subscriptions(hash: Hash, clock: Clock) -> Vec<(Box<str>, Grant)> {
    let read = |(filter, value): (Vec<u8>, Vec<u8>)| {
        let filter = String::from_utf8(filter).ok()?;
        let grant = codec::decode_grant(&value, clock).or_else(|| predecessor_grant(&value))?;
        Some((filter.into(), grant))
    };
    let mut subscriptions: Vec<_> = hash.into_iter().filter_map(read).collect();
    subscriptions.sort_by(|a: &(Box<str>, _), b| a.0.cmp(&b.0));
    subscriptions
}

/// The predecessor's `{"clientId":"c","topic":"a/+","QoS":"AT_MOST_ONCE"}`.
fn predecessor_grant(value: &[u8]) -> Option<Grant> {
    let text = std::str::from_utf8(value).ok().filter(|text| text.starts_with('{'))?;
    let qos = match text.rsplit_once("\"QoS\":\"")?.1.split('"').next()? {
        "AT_MOST_ONCE" => QoS::AtMostOnce,
        "AT_LEAST_ONCE" => QoS::AtLeastOnce,
        "EXACTLY_ONCE" => QoS::ExactlyOnce,
        _ => return None,
    };
    Some(Grant { qos, no_local: false, retain_as_published: false, subscription_id: 0 })
}

/// Messages by their serials, and the identifiers in use.
fn read_messages(hash: Hash, record: &mut SessionRecord, clock: Clock) {
    let mut items = std::collections::BTreeMap::<u32, (DeliveryState, Option<_>)>::new();
    for (field, value) in hash {
        let Ok(field) = String::from_utf8(field) else { continue };
        if field == "last" {
            record.last_packet_id = parse(&value) as u16;
        } else if let Some(id) = field.strip_prefix('i') {
            record.incoming.extend(id.parse().ok().and_then(PacketId::new));
        } else if let Some(place) = field.strip_prefix('h').and_then(|place| place.parse().ok()) {
            let item = codec::decode_item(&value, clock);
            record.held.extend(item.map(|item| HeldRecord { place, item }));
        } else if let Some(id) = field.strip_prefix('n') {
            let id = id.parse().ok().and_then(PacketId::new);
            record.intents.extend(id.map(|id| (id, parse(&value))));
        } else if let Some(serial) = field.strip_suffix('s').and_then(|s| s.parse().ok()) {
            let entry = items.entry(serial).or_insert((DeliveryState::Queued, None));
            entry.0 = codec::decode_state(&value).unwrap_or(DeliveryState::Queued);
        } else if let Ok(serial) = field.parse() {
            let entry = items.entry(serial).or_insert((DeliveryState::Queued, None));
            entry.1 = codec::decode_item(&value, clock);
        }
    }
    record.held.sort_unstable_by_key(|held| held.place);
    // Serials wrap: the oldest is the one behind the widest gap.
    let serials: Vec<u32> = items.keys().copied().collect();
    let is_wrapped = serials.first().zip(serials.last()).is_some_and(|(a, b)| b - a > u32::MAX / 2);
    let half = u32::MAX / 2;
    let mut deliveries: Vec<DeliveryRecord> = items
        .into_iter()
        .map(|(serial, (state, item))| DeliveryRecord { serial, state, item })
        .collect();
    deliveries.sort_by_key(|delivery| {
        let is_queued = delivery.state == DeliveryState::Queued;
        (is_queued, is_wrapped && delivery.serial < half, delivery.serial)
    });
    record.deliveries = deliveries;
}

fn wish(entry: &[u8]) -> Option<Wish> {
    let text = std::str::from_utf8(entry).ok()?;
    let mut words = text.splitn(3, ' ');
    let (kind, epoch, client_id) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
    let client_id = client_id.to_owned();
    match kind {
        "E" => Some(Wish::HandOver { client_id, epoch }),
        "D" | "K" => Some(Wish::Lost { client_id, epoch, is_known: kind == "K" }),
        _ => None,
    }
}

fn number(value: Value) -> Option<u64> {
    u64::from_redis_value(value).ok()
}

fn bytes(value: Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes,
        Value::Int(number) => number.to_string().into_bytes(),
        _ => Vec::new(),
    }
}

/// A list as LRANGE gives it inside a script.
fn numbers(value: Value) -> Vec<u64> {
    let Value::Array(values) = value else { return Vec::new() };
    let number = |value| codec::decode_numbers(&bytes(value)).unwrap_or_default();
    values.into_iter().flat_map(number).collect()
}

/// A decimal number; 0 for anything else.
fn parse(text: &[u8]) -> u64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A hash as HGETALL gives it inside a script: a flat list.
fn pairs(value: Value) -> Hash {
    let flat = match value {
        Value::Array(values) => values,
        Value::Map(pairs) => return pairs.into_iter().map(|(k, v)| (bytes(k), bytes(v))).collect(),
        _ => return Vec::new(),
    };
    let mut flat = flat.into_iter().map(bytes);
    std::iter::from_fn(|| Some((flat.next()?, flat.next()?))).collect()
}
