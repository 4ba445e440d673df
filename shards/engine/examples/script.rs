//! A fixed script through one shard, for counting its instructions (`bench/instructions.sh`):
//!
//!   cargo build --release -p octopus-engine --example script
//!   valgrind --tool=callgrind target/release/examples/script 4 0      # version, QoS
//!   valgrind --tool=callgrind target/release/examples/script 5 1 100  # to 100 subscribers
//!   valgrind --tool=callgrind target/release/examples/script 4 0 1 50 # 50 packets at once
//!
//! One client publishes 64 bytes until 20,000 messages are delivered; every client answers
//! what it gets at once, as its QoS demands.

use octopus_engine::{
    ConnectionId, Input, Instant, ListenerId, Output, Remote, Shard, ShardConfig, ShardId,
};

const DELIVERIES: u32 = 20_000;
const PUBLISHER: u32 = 0;

fn main() {
    let argument = |n| std::env::args().nth(n).and_then(|text| text.parse::<u8>().ok());
    let (version, qos) = (argument(1).unwrap_or(4), argument(2).unwrap_or(0));
    let subscribers = u32::from(argument(3).unwrap_or(1)).max(1);
    let mut shard = Shard::new(ShardConfig::new(ShardId(0), 1, 1));
    let properties: &[u8] = if version == 5 { &[0] } else { &[] };
    let subscribe = [&[0, 1][..], properties, &[0, 1, b't', qos]].concat();
    open(&mut shard, PUBLISHER, version);
    for slot in 1..=subscribers {
        open(&mut shard, slot, version);
        receive(&mut shard, slot, &packet(0x82, &subscribe));
    }
    let identifier: &[u8] = if qos > 0 { &[0, 1] } else { &[] };
    let body = [&[0, 1, b't'][..], identifier, properties, &[b'.'; 64]].concat();
    let publish = packet(0x30 | qos << 1, &body);
    let together = argument(4).map_or(1, u32::from).max(1);
    let publish = publish.repeat(together as usize);
    for _ in 0..DELIVERIES / subscribers / together {
        receive(&mut shard, PUBLISHER, &publish);
    }
    let ledger = shard.stats().ledger;
    assert_eq!((ledger.delivered, ledger.queued), (DELIVERIES.into(), 0));
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
    let body =
        [b"\0\x04MQTT", &[version, 2, 0, 0][..], properties, &[0, 3], name.as_bytes()].concat();
    receive(shard, slot, &packet(0x10, &body));
}

/// Takes bytes in and what they lead to out, until nobody has anything to say.
fn receive(shard: &mut Shard, slot: u32, bytes: &[u8]) {
    let connection = ConnectionId { slot, generation: 0 };
    shard.handle(Input::Received { connection, bytes }, Instant(0));
    while let Some(output) = shard.poll() {
        let Output::Write { connection, buffer } = output else { continue };
        let answers: Vec<u8> = packets(&buffer.bytes).filter_map(answer).flatten().collect();
        shard.handle(Input::Written { connection, buffer }, Instant(0));
        if !answers.is_empty() {
            shard.handle(Input::Received { connection, bytes: &answers }, Instant(0));
        }
    }
}

/// The packets in `bytes`, each of less than 128 bytes.
fn packets(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let len = 2 + usize::from(*bytes.get(1)?);
        bytes.split_off(..len)
    })
}

/// What a client says to this packet.
fn answer(bytes: &[u8]) -> Option<[u8; 4]> {
    let (first, identifier) = match *bytes {
        [0x32, _, 0, 1, b't', high, low, ..] => (0x40, [high, low]), // PUBLISH, PUBACK
        [0x34, _, 0, 1, b't', high, low, ..] => (0x50, [high, low]), // PUBLISH, PUBREC
        [0x50, _, high, low, ..] => (0x62, [high, low]),             // PUBREC, PUBREL
        [0x62, _, high, low, ..] => (0x70, [high, low]),             // PUBREL, PUBCOMP
        _ => return None,
    };
    Some([first, 2, identifier[0], identifier[1]])
}
