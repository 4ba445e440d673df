//! What a client that says nothing costs in memory, counted where it is allocated.

use octopus_engine::{
    ConnectionId, Input, Instant, ListenerId, Output, Remote, Shard, ShardConfig, ShardId,
};

const COUNT: u32 = 15_000;

fn open(shard: &mut Shard, slot: u32) {
    let connection = ConnectionId { slot, generation: 0 };
    let address = Some("192.0.2.1:40000".parse().expect("an address"));
    let remote = Remote { listener: ListenerId(0), address, certificate: None };
    // Three milliseconds apart, as a machine may accept them.
    let now = Instant(u64::from(slot) * 3000);
    shard.handle(Input::Opened { connection, remote }, now);
    let name = format!("device-{slot:09}");
    let head = b"\x10\x1c\0\x04MQTT\x04\x02\0\x3c\0\x10";
    send(shard, slot, &[head, name.as_bytes()].concat(), now);
}

fn subscribe(shard: &mut Shard, slot: u32) {
    let filter = format!("device/{slot:09}");
    let bytes = [&[0x82, 21, 0, 1, 0, 16][..], filter.as_bytes(), &[0]].concat();
    send(shard, slot, &bytes, Instant(u64::from(COUNT) * 3000));
}

/// Takes bytes in, and says of all that comes out that it is done.
fn send(shard: &mut Shard, slot: u32, bytes: &[u8], now: Instant) {
    let connection = ConnectionId { slot, generation: 0 };
    shard.handle(Input::Received { connection, bytes }, now);
    while let Some(output) = shard.poll() {
        if let Output::Write { connection, buffer } = output {
            shard.handle(Input::Written { connection, buffer }, now);
        }
    }
}

/// Bytes each client keeps allocated after `each` was done for all of them.
fn bytes_each(mut each: impl FnMut(u32)) -> u64 {
    let counted = allocation_counter::measure(|| (0..COUNT).for_each(&mut each));
    u64::try_from(counted.bytes_current).expect("nothing is given back") / u64::from(COUNT)
}

#[test]
fn an_idle_client_is_at_most_430_bytes_and_a_subscription_of_it_200() {
    let mut shard = Shard::new(ShardConfig::new(ShardId(0), 1, 1));
    let connected = bytes_each(|slot| open(&mut shard, slot));
    let subscribed = bytes_each(|slot| subscribe(&mut shard, slot));
    let stats = shard.stats();
    assert_eq!((stats.connections, stats.subscriptions), (COUNT.into(), COUNT.into()));
    assert!(connected <= 430, "connected: {connected} bytes");
    assert!(subscribed <= 200, "subscribed: {subscribed} bytes");
}
