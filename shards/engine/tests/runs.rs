//! A run of PUBLISH packets and its packets one by one come to the same: the same bytes for
//! every client, the same counters.

use std::collections::{BTreeMap, VecDeque};

use octopus_engine::{
    ConnectionId, Envelope, Input, Instant, Ledger, Limits, ListenerId, OutBuffer, Output, Peer,
    Remote, Shard, ShardConfig, ShardId, home_shard,
};

const SHARDS: u16 = 2;
const CLIENTS: u32 = 8;
const SEED: u64 = 7;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

/// Two shards and clients on both; client `slot` lives on shard `slot % 2`.
struct World {
    shards: Vec<Shard>,
    got: BTreeMap<u32, Vec<u8>>,
    /// Buffers of clients that read slowly.
    unread: Vec<(usize, ConnectionId, OutBuffer)>,
    slow: Vec<bool>,
    runs_on_the_mesh: usize,
    /// Bytes that each client has looked at.
    read: Vec<usize>,
}

/// What a shard counted: the books, PUBLISH packets in and out by QoS, packets and payload bytes
/// in and out.
type Counted = (Ledger, [u64; 3], [u64; 3], [u64; 4]);

/// What a world comes to.
struct Outcome {
    got: BTreeMap<u32, Vec<u8>>,
    counted: Vec<Counted>,
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let len = body.len();
    let header = if len < 128 { vec![len as u8] } else { vec![len as u8 | 0x80, (len >> 7) as u8] };
    [&[first], &header[..], body].concat()
}

/// What a client got: acknowledgements, and all else. Between the two there is no order to keep.
fn told_apart(mut bytes: &[u8]) -> (Vec<&[u8]>, Vec<&[u8]>) {
    let packets = std::iter::from_fn(|| {
        let len = octopus_mqtt::frame(bytes, u32::MAX).expect("packets")?.len;
        bytes.split_off(..len)
    });
    packets.partition(|packet| packet[0] == 0x40)
}

/// The Packet Identifiers of the PUBLISH packets of QoS 1 in what a client got.
fn identifiers(mut bytes: &[u8]) -> impl Iterator<Item = [u8; 2]> {
    std::iter::from_fn(move || {
        loop {
            let whole = octopus_mqtt::frame(bytes, u32::MAX).expect("packets")?;
            bytes = &bytes[whole.len..];
            if whole.first & !0b1001 == 0x32 {
                let name_len = usize::from(u16::from_be_bytes([whole.body[0], whole.body[1]]));
                return Some([whole.body[2 + name_len], whole.body[3 + name_len]]);
            }
        }
    })
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

/// A Client Identifier that is at home on the client's shard.
fn name(slot: u32) -> String {
    let names = (0..).map(|n| format!("c{slot}-{n}"));
    let is_home = |name: &String| u32::from(home_shard(name, SHARDS, SEED).0) == slot % 2;
    names.into_iter().find(is_home).expect("one in two is")
}

impl World {
    fn new(is_narrow: bool, random: &mut Random) -> Self {
        let limits = Limits {
            out_bytes_max: if is_narrow { 700 } else { 1 << 20 },
            inflight_count_max: random.pick(&[1000, 9]),
            queue_count_max: random.pick(&[1000, 12]),
            shared_payload_min: random.pick(&[2048, 60]),
            ..Limits::default()
        };
        let shard = |id| {
            let config = ShardConfig::new(ShardId(id), SHARDS, SEED);
            Shard::new(ShardConfig { limits: limits.clone(), ..config })
        };
        Self {
            shards: (0..SHARDS).map(shard).collect(),
            got: BTreeMap::new(),
            unread: Vec::new(),
            slow: (0..CLIENTS).map(|_| random.one_in(4)).collect(),
            runs_on_the_mesh: 0,
            read: vec![0; CLIENTS as usize],
        }
    }

    fn handle(&mut self, slot: u32, bytes: &[u8]) {
        let connection = ConnectionId { slot, generation: 1 };
        self.shards[slot as usize % 2].handle(Input::Received { connection, bytes }, Instant(1));
    }

    /// Carries out what the shards want until they want nothing more.
    fn drain(&mut self) {
        let mut mesh = VecDeque::new();
        loop {
            for at in 0..self.shards.len() {
                while let Some(output) = self.shards[at].poll() {
                    match output {
                        Output::Write { connection, buffer } => {
                            let got = self.got.entry(connection.slot).or_default();
                            buffer.pieces().for_each(|piece| got.extend_from_slice(piece));
                            if self.slow[connection.slot as usize] {
                                self.unread.push((at, connection, buffer));
                            } else {
                                let input = Input::Written { connection, buffer };
                                self.shards[at].handle(input, Instant(1));
                            }
                        }
                        Output::Send { to: Peer::Shard(to), envelope } => {
                            let is_run = matches!(envelope, Envelope::PublishRun(_));
                            self.runs_on_the_mesh += usize::from(is_run);
                            mesh.push_back((ShardId(at as u16), to, envelope));
                        }
                        Output::HandOff { connection, .. } => panic!("{connection:?} moved"),
                        _ => {}
                    }
                }
            }
            if mesh.is_empty() {
                return;
            }
            for (from, to, envelope) in mesh.drain(..) {
                let input = Input::Envelope { from: Peer::Shard(from), envelope };
                self.shards[usize::from(to.0)].handle(input, Instant(1));
            }
        }
    }

    /// Clients acknowledge what they got of QoS 1 since the last time: all of it, or not all, or
    /// in another order, or a message with an error.
    fn acknowledge(&mut self, versions: &[u8], is_apart: bool, random: &mut Random) {
        for slot in 0..CLIENTS {
            let got = self.got.get(&slot).map_or(&[][..], |got| &got[self.read[slot as usize]..]);
            self.read[slot as usize] += got.len();
            let mut acks: Vec<Vec<u8>> = identifiers(got)
                .map(|id| match versions[slot as usize] == 5 && random.one_in(20) {
                    true => packet(0x40, &[id[0], id[1], 0x87]),
                    false => packet(0x40, &id),
                })
                .collect();
            match random.below(5) {
                0 => acks.reverse(),
                1 => acks.truncate(random.below(20)),
                _ => {}
            }
            match is_apart {
                true => acks.iter().for_each(|ack| self.handle(slot, ack)),
                false => self.handle(slot, &acks.concat()),
            }
        }
        self.drain();
    }

    /// Slow clients read what they were sent so far.
    fn catch_up(&mut self) {
        for (at, connection, buffer) in std::mem::take(&mut self.unread) {
            self.shards[at].handle(Input::Written { connection, buffer }, Instant(1));
        }
        self.drain();
    }

    /// The client connects and subscribes as chance wants it; says its version.
    fn join(&mut self, slot: u32, random: &mut Random) -> u8 {
        let version = random.pick(&[4, 4, 5]);
        let connection = ConnectionId { slot, generation: 1 };
        let remote = Remote { listener: ListenerId(0), address: None, certificate: None };
        self.shards[slot as usize % 2].handle(Input::Opened { connection, remote }, Instant(0));
        let properties: &[u8] = match version {
            4 => &[],
            // Maximum Packet Size 30; Topic Alias Maximum 2.
            _ => random.pick(&[&[0], &[0], &[5, 0x27, 0, 0, 0, 30], &[3, 0x22, 0, 2]]),
        };
        let flags = [&b"\0\x04MQTT"[..], &[version, 2, 0, 0]].concat();
        self.handle(slot, &packet(0x10, &[&flags, properties, &text(&name(slot))].concat()));
        // Between a shared subscription and others of the same client there is no order to keep.
        let filters: &[&str] = match random.below(5) {
            0 => &["$share/g/t"],
            1 => &["$share/h/+"],
            _ => &["t", "t", "t", "u", "+"],
        };
        for id in 1..=random.below(3) as u8 {
            let filter = random.pick(filters);
            let properties: &[u8] = match version {
                4 => &[],
                _ if random.one_in(4) => &[2, 0x0b, 9],
                _ => &[0],
            };
            let no_local = version == 5 && !filter.starts_with('$') && random.one_in(2);
            let options = random.pick(&[0, 1]) | u8::from(no_local) << 2;
            let body = [&[0, id], properties, &text(filter), &[options]].concat();
            self.handle(slot, &packet(0x82, &body));
        }
        self.drain();
        version
    }

    fn outcome(mut self) -> Outcome {
        self.catch_up();
        let counted = |shard: &Shard| {
            let stats = shard.stats();
            assert!(stats.ledger.holds());
            let bytes = [
                stats.packets_received,
                stats.packets_sent,
                stats.publish_bytes_received,
                stats.publish_bytes_sent,
            ];
            (stats.ledger, stats.publish_received, stats.publish_sent, bytes)
        };
        Outcome { counted: self.shards.iter().map(counted).collect(), got: self.got }
    }
}

/// What a client publishes at once: mostly runs.
fn publishes(version: u8, has_qos_1: bool, random: &mut Random) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for _ in 0..=random.below(4) {
        let topic = random.pick(&["t", "t", "t", "u", "nobody"]);
        let len = random.below(40);
        let qos = if has_qos_1 { random.pick(&[0, 0, 1]) } else { 0 };
        for _ in 0..=random.below(12) {
            let len = if random.one_in(6) { random.below(200) } else { len };
            let payload = vec![b'a' + random.below(26) as u8; len];
            let (first, identifier): (u8, &[u8]) = match random.below(20) {
                0 => (0x31, &[]),
                1 if has_qos_1 => (0x32, &[0, 1]),
                _ if qos == 1 => (0x32, random.pick(&[&[0, 2], &[0, 3], &[7, 7]])),
                _ => (0x30, &[]),
            };
            let properties: &[u8] = match version {
                4 => &[],
                _ if random.one_in(10) => &[3, 0x23, 0, 1],
                // Payload Format Indicator.
                _ if random.one_in(10) => &[2, 0x01, 0],
                _ => &[0],
            };
            let body = [&text(topic), identifier, properties, &payload].concat();
            packets.push(packet(first, &body));
        }
    }
    packets
}

/// Plays the script of this seed; packets come as they may on TCP, or one by one.
fn play(seed: u64, is_apart: bool) -> (Outcome, usize) {
    let mut random = Random(seed);
    // Where a few bytes decide what is dropped, acknowledgements must not be among them.
    let is_narrow = random.one_in(2);
    let mut world = World::new(is_narrow, &mut random);
    let versions: Vec<u8> = (0..CLIENTS).map(|slot| world.join(slot, &mut random)).collect();
    for _ in 0..6 {
        let slot = random.below(CLIENTS as usize) as u32;
        let packets = publishes(versions[slot as usize], !is_narrow, &mut random);
        let bytes = packets.concat();
        let cut = random.below(bytes.len());
        if is_apart {
            packets.iter().for_each(|packet| world.handle(slot, packet));
        } else {
            world.handle(slot, &bytes[..cut]);
            world.handle(slot, &bytes[cut..]);
        }
        world.drain();
        if random.one_in(2) {
            world.catch_up();
        }
        if random.one_in(2) {
            world.acknowledge(&versions, is_apart, &mut random);
        }
    }
    let runs = world.runs_on_the_mesh;
    (world.outcome(), runs)
}

#[test]
fn a_run_is_its_packets_one_by_one() {
    let (mut runs, mut dropped, mut delivered) = (0, 0, 0);
    for seed in 0..2000 {
        let (together, crossed) = play(seed, false);
        let (apart, none) = play(seed, true);
        assert_eq!(together.counted, apart.counted, "seed {seed}");
        for (slot, bytes) in &apart.got {
            let is_same = told_apart(&together.got[slot]) == told_apart(bytes);
            assert!(is_same, "seed {seed}: client {slot} got something else");
        }
        assert_eq!(none, 0);
        runs += crossed;
        for (ledger, ..) in &together.counted {
            dropped += ledger.dropped_total();
            delivered += ledger.delivered;
        }
    }
    // The scripts do what they are for.
    assert!(runs > 1000, "{runs} runs crossed shards");
    assert!(dropped > 1000 && delivered > 100_000, "{dropped} dropped, {delivered} delivered");
}
