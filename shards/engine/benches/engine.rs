//! What the engine's hot parts cost by themselves: looking a topic up among 10, 10 thousand and
//! a million filters, and taking one PUBLISH through a shard to its subscribers.
//!
//!   cargo bench -p octopus-engine

use divan::{Bencher, black_box};
use octopus_engine::{
    ConnectionId, Grant, Input, Instant, ListenerId, Output, Remote, SessionId, Shard, ShardConfig,
    ShardId, Subscriber, Subscriptions,
};
use octopus_mqtt::{QoS, TopicFilter, TopicName};

fn main() {
    divan::main();
}

const COUNTS: [u32; 3] = [10, 10_000, 1_000_000];

fn subscriptions(count: u32, filter: fn(u32) -> String) -> Subscriptions {
    let mut subscriptions = Subscriptions::new(1);
    let grant = Grant {
        qos: QoS::AtMostOnce,
        no_local: false,
        retain_as_published: false,
        subscription_id: 0,
    };
    for index in 0..count {
        let text = filter(index);
        let filter = TopicFilter::parse(&text).expect("a filter of this bench");
        subscriptions.subscribe(filter, Subscriber::Session(SessionId(index)), grant);
    }
    subscriptions
}

/// Looks random topics up, so that a large table does not sit in the cache.
fn look_up(bencher: Bencher<'_, '_>, count: u32, filter: fn(u32) -> String) {
    let subscriptions = subscriptions(count, filter);
    let topics: Vec<String> = (0..1024u32)
        .map(|n| format!("plant/hall/{}/status", n.wrapping_mul(2_654_435_761) % count))
        .collect();
    let mut next = 0;
    bencher.bench_local(|| {
        next = (next + 1) % topics.len();
        let topic = TopicName::parse(&topics[next]).expect("a topic of this bench");
        let mut found = 0;
        subscriptions.matching(topic, |_, _| found += 1);
        black_box(found)
    });
}

#[divan::bench(args = COUNTS)]
fn match_exact(bencher: Bencher<'_, '_>, count: u32) {
    look_up(bencher, count, |n| format!("plant/hall/{n}/status"));
}

#[divan::bench(args = COUNTS)]
fn match_plus(bencher: Bencher<'_, '_>, count: u32) {
    look_up(bencher, count, |n| format!("plant/hall/{n}/+"));
}

#[divan::bench(args = COUNTS)]
fn match_hash(bencher: Bencher<'_, '_>, count: u32) {
    look_up(bencher, count, |n| format!("plant/hall/{n}/#"));
}

/// A shard with one publisher (slot 0) and subscribers to `t`, all connected.
fn shard(subscribers: u32) -> Shard {
    let mut shard = Shard::new(ShardConfig::new(ShardId(0), 1, 1));
    for slot in 0..=subscribers {
        let connection = ConnectionId { slot, generation: 0 };
        let remote = Remote { listener: ListenerId(0), address: None, certificate: None };
        shard.handle(Input::Opened { connection, remote }, Instant(0));
        let mut bytes = vec![0x10, 16, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 4];
        bytes.extend_from_slice(&slot.to_be_bytes().map(|byte| b'a' + (byte & 15)));
        let high = (slot >> 4) as u8;
        bytes[14] = b'a' + (high & 15);
        if slot > 0 {
            bytes.extend_from_slice(&[0x82, 6, 0, 1, 0, 1, b't', 0]);
        }
        shard.handle(Input::Received { connection, bytes: &bytes }, Instant(0));
    }
    drain(&mut shard);
    shard
}

fn drain(shard: &mut Shard) {
    while let Some(output) = shard.poll() {
        if let Output::Write { connection, buffer } = output {
            shard.handle(Input::Written { connection, buffer }, Instant(0));
        }
    }
}

/// One QoS 0 PUBLISH of 64 bytes: decoded, matched, delivered, handed out and taken back.
#[divan::bench(args = [1, 10, 100])]
fn deliver(bencher: Bencher<'_, '_>, subscribers: u32) {
    let mut shard = shard(subscribers);
    let mut publish = vec![0x30, 67, 0, 1, b't'];
    publish.extend_from_slice(&[b'.'; 64]);
    let connection = ConnectionId { slot: 0, generation: 0 };
    bencher.bench_local(|| {
        shard.handle(Input::Received { connection, bytes: &publish }, Instant(0));
        drain(&mut shard);
    });
}
