//! A fixed script through one shard, for counting its instructions:
//!
//!   cargo build --release -p octopus-engine --example script
//!   valgrind --tool=callgrind target/release/examples/script 4 0     # version, QoS
//!   valgrind --tool=callgrind target/release/examples/script 4 0 50  # and subscribers
//!
//! One client publishes 64 bytes 20,000 times, or as often as makes so many deliveries; others
//! receive and acknowledge.

use octopus_engine::{
    ConnectionId, Input, Instant, ListenerId, Output, Remote, Shard, ShardConfig, ShardId,
};

const DELIVERIES: u32 = 20_000;

fn main() {
    let argument = |n| std::env::args().nth(n).and_then(|text| text.parse::<u8>().ok());
    let subscribers: u32 = argument(3).unwrap_or(1).into();
    let (version, qos) = (argument(1).unwrap_or(4), argument(2).unwrap_or(0));
    let mut shard = Shard::new(ShardConfig::new(ShardId(0), 1, 1));
    for slot in 0..=subscribers {
        open(&mut shard, slot, version);
    }
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    let subscribe = [&[0, 1][..], properties, &[0, 1, b't', qos]].concat();
    for slot in 1..=subscribers {
        receive(&mut shard, slot, &packet(0x82, &subscribe));
    }
    let identifier: &[u8] = if qos > 0 { &[0, 1] } else { &[] };
    let body = [&[0, 1, b't'][..], identifier, properties, &[b'.'; 64]].concat();
    let publish = packet(0x30 | qos << 1, &body);
    let messages = DELIVERIES / subscribers;
    for _ in 0..messages {
        receive(&mut shard, 0, &publish);
    }
    assert_eq!(shard.stats().ledger.delivered, u64::from(messages * subscribers));
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let len = u8::try_from(body.len()).expect("a short packet");
    [&[first, len], body].concat()
}

fn open(shard: &mut Shard, slot: u32, version: u8) {
    let connection = ConnectionId { slot, generation: 0 };
    let remote = Remote { listener: ListenerId(0), address: None, certificate: None };
    shard.handle(Input::Opened { connection, remote }, Instant(0));
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    let name = format!("{slot:03}");
    let name = [&[0, 3], name.as_bytes()].concat();
    let body = [b"\0\x04MQTT", &[version, 2, 0, 0][..], properties, &name].concat();
    receive(shard, slot, &packet(0x10, &body));
}

/// Takes bytes in, and what they lead to out; the subscriber acknowledges QoS 1 at once.
fn receive(shard: &mut Shard, slot: u32, bytes: &[u8]) {
    let connection = ConnectionId { slot, generation: 0 };
    shard.handle(Input::Received { connection, bytes }, Instant(0));
    while let Some(output) = shard.poll() {
        let Output::Write { connection, buffer } = output else { continue };
        let identifier = match buffer.bytes[..] {
            [0x32, _, 0, 1, b't', high, low, ..] => Some([high, low]),
            _ => None,
        };
        shard.handle(Input::Written { connection, buffer }, Instant(0));
        if let Some(identifier) = identifier {
            let bytes = packet(0x40, &identifier);
            shard.handle(Input::Received { connection, bytes: &bytes }, Instant(0));
        }
    }
}
