//! A run of PUBLISH packets and its packets one by one come to the same: the same bytes for
//! every client, the same counters.

use std::collections::{BTreeMap, VecDeque};

use octopus_engine::{
    ConnectionId, Envelope, Input, Instant, Ledger, Limits, ListenerId, LostCause, OutBuffer,
    Output, Peer, Pick, Remote, Shard, ShardConfig, ShardId, home_shard,
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
    clients: Vec<Client>,
}

/// What a client remembers.
#[derive(Clone, Default)]
struct Client {
    version: u8,
    connect: Vec<u8>,
    /// Of its connection, the last one if it is away.
    generation: u32,
    is_away: bool,
    /// Bytes that it has looked at.
    read: usize,
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

/// The Packet Identifiers of the PUBLISH packets of QoS 1 in what a client got, and of some of
/// QoS 2, for which PUBACK is the wrong answer.
fn identifiers(mut bytes: &[u8]) -> impl Iterator<Item = [u8; 2]> {
    std::iter::from_fn(move || {
        loop {
            let whole = octopus_mqtt::frame(bytes, u32::MAX).expect("packets")?;
            bytes = &bytes[whole.len..];
            if [0x32, 0x34].contains(&(whole.first & !0b1001)) {
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
        let shared_pick = random.pick(&[Pick::RoundRobin, Pick::LeastInflight]);
        let shard = |id| {
            let config = ShardConfig::new(ShardId(id), SHARDS, SEED);
            Shard::new(ShardConfig { limits: limits.clone(), shared_pick, ..config })
        };
        Self {
            shards: (0..SHARDS).map(shard).collect(),
            got: BTreeMap::new(),
            unread: Vec::new(),
            slow: (0..CLIENTS).map(|_| random.one_in(4)).collect(),
            runs_on_the_mesh: 0,
            clients: vec![Client::default(); CLIENTS as usize],
        }
    }

    fn connection(&self, slot: u32) -> ConnectionId {
        ConnectionId { slot, generation: self.clients[slot as usize].generation }
    }

    fn handle(&mut self, slot: u32, bytes: &[u8]) {
        let connection = self.connection(slot);
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
    fn acknowledge(&mut self, is_apart: bool, random: &mut Random) {
        for slot in 0..CLIENTS {
            let client = &mut self.clients[slot as usize];
            let got = self.got.get(&slot).map_or(&[][..], |got| &got[client.read..]);
            client.read += got.len();
            // One that gives its reason says the same and is never taken together with others.
            let is_long = is_apart && client.version == 5;
            let mut acks: Vec<Vec<u8>> = identifiers(got)
                .map(|id| match client.version == 5 && random.one_in(20) {
                    true => packet(0x40, &[id[0], id[1], 0x87]),
                    false if is_long => packet(0x40, &[id[0], id[1], 0]),
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

    fn connect(&mut self, slot: u32) {
        let client = &mut self.clients[slot as usize];
        (client.generation, client.is_away) = (client.generation + 1, false);
        let (connect, connection) = (client.connect.clone(), self.connection(slot));
        let remote = Remote { listener: ListenerId(0), address: None, certificate: None };
        self.shards[slot as usize % 2].handle(Input::Opened { connection, remote }, Instant(0));
        self.handle(slot, &connect);
        self.drain();
    }

    /// The client goes, or comes back to its session.
    fn go_or_come(&mut self, slot: u32) {
        if self.clients[slot as usize].is_away {
            return self.connect(slot);
        }
        self.clients[slot as usize].is_away = true;
        self.unread.retain(|(_, connection, _)| connection.slot != slot);
        let input = Input::Lost { connection: self.connection(slot), cause: LostCause::Error };
        self.shards[slot as usize % 2].handle(input, Instant(1));
        self.drain();
    }

    /// The client connects and subscribes as chance wants it.
    fn join(&mut self, slot: u32, subscribes: bool, random: &mut Random) {
        let version = random.pick(&[4, 4, 5]);
        let properties: &[u8] = match version {
            4 => &[],
            // Maximum Packet Size 30; Topic Alias Maximum 2.
            _ => random.pick(&[&[0], &[0], &[5, 0x27, 0, 0, 0, 30], &[3, 0x22, 0, 2]]),
        };
        let is_clean = version == 5 || random.one_in(2);
        let flags = [&b"\0\x04MQTT"[..], &[version, u8::from(is_clean) << 1, 0, 0]].concat();
        let connect = packet(0x10, &[&flags, properties, &text(&name(slot))].concat());
        self.clients[slot as usize] = Client { version, connect, ..Client::default() };
        self.connect(slot);
        if !subscribes {
            return;
        }
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
            let options = random.pick(&[0, 1, 2]) | u8::from(no_local) << 2;
            let body = [&[0, id], properties, &text(filter), &[options]].concat();
            self.handle(slot, &packet(0x82, &body));
        }
        self.drain();
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
fn publishes(version: u8, random: &mut Random) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for _ in 0..=random.below(4) {
        let topic = random.pick(&["t", "t", "t", "u", "nobody"]);
        let len = random.below(40);
        let qos = random.pick(&[0, 0, 1]);
        for _ in 0..=random.below(12) {
            let len = if random.one_in(6) { random.below(200) } else { len };
            let payload = vec![b'a' + random.below(26) as u8; len];
            let (first, identifier): (u8, &[u8]) = match random.below(20) {
                0 => (0x31, &[]),
                1 => (0x32, &[0, 1]),
                2 => (0x34, random.pick(&[&[0, 8], &[0, 9]])),
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
    // Where a few bytes decide what is dropped, acknowledgements must not be among them: there
    // who publishes does not subscribe.
    let is_narrow = random.one_in(2);
    let publishers = if is_narrow { CLIENTS / 2 } else { CLIENTS };
    let mut world = World::new(is_narrow, &mut random);
    for slot in 0..CLIENTS {
        world.join(slot, !is_narrow || slot >= publishers, &mut random);
    }
    for _ in 0..8 {
        let slot = random.below(publishers as usize) as u32;
        let packets = publishes(world.clients[slot as usize].version, &mut random);
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
            world.acknowledge(is_apart, &mut random);
        }
        if random.one_in(2) {
            world.go_or_come(random.below(CLIENTS as usize) as u32);
        }
    }
    let runs = world.runs_on_the_mesh;
    (world.outcome(), runs)
}

/// A world with two clients: the first publishes, the second has a session that lasts.
fn pair(out_bytes_max: usize) -> World {
    let mut world = World::new(false, &mut Random(1));
    for shard in &mut world.shards {
        let config = ShardConfig::new(ShardId(0), 1, SEED);
        let limits = Limits { out_bytes_max, ..Limits::default() };
        *shard = Shard::new(ShardConfig { limits, ..config });
    }
    world.slow.fill(false);
    // Both on the first shard, which is the only one of its node.
    for slot in [0, 2] {
        let connect = [&b"\0\x04MQTT\x04\0\0\0"[..], &text(&name(slot))].concat();
        let connect = packet(0x10, &connect);
        world.clients[slot as usize] = Client { version: 4, connect, ..Client::default() };
        world.connect(slot);
    }
    world.handle(2, &packet(0x82, &[&[0, 1][..], &text("t"), &[1]].concat()));
    world.drain();
    world
}

#[test]
fn a_run_larger_than_one_message_may_keep_is_sent_again_message_by_message() {
    let mut world = pair(1 << 20);
    let sent =
        |first: u8, id: u8| packet(first, &[&text("t")[..], &[0, id], &[b'a' + id; 600]].concat());
    let publishes: Vec<u8> = (1..=10).flat_map(|id| sent(0x32, id)).collect();
    world.handle(0, &publishes);
    world.drain();
    // Its first half is acknowledged.
    let acks: Vec<u8> = (1..=5).flat_map(|id| packet(0x40, &[0, id])).collect();
    world.handle(2, &acks);
    world.drain();
    assert_eq!(world.shards[0].stats().inflight, 5);
    let read = world.got[&2].len();
    world.go_or_come(2);
    world.go_or_come(2);
    let again: Vec<u8> = (6..=10).flat_map(|id| sent(0x3a, id)).collect();
    // Behind CONNACK.
    assert_eq!(world.got[&2][read + 4..], again);
}

#[test]
fn acknowledgements_of_what_was_not_sent_again_are_taken() {
    let mut world = pair(700);
    let publish = packet(0x32, &[&text("t")[..], &[0, 1], &[b'.'; 200]].concat());
    (0..10).for_each(|_| world.handle(0, &publish));
    world.drain();
    assert_eq!(world.shards[0].stats().inflight, 10);
    // It comes back, and reads nothing: what it had got is not all sent again.
    world.go_or_come(2);
    world.slow[2] = true;
    let before = world.shards[0].stats().publish_sent[1];
    world.go_or_come(2);
    let again = world.shards[0].stats().publish_sent[1] - before;
    assert!(again > 0 && again < 10, "{again} were sent again");
    let acks: Vec<u8> = (1..=10).flat_map(|id| packet(0x40, &[0, id])).collect();
    world.handle(2, &acks);
    world.drain();
    let stats = world.shards[0].stats();
    assert_eq!((stats.inflight, stats.ledger.delivered, stats.ledger.queued), (0, 10, 0));
    world.catch_up();
    world.handle(0, &publish);
    world.drain();
    assert_eq!(world.shards[0].stats().inflight, 1);
}

#[test]
fn a_run_of_the_longest_topic_crosses_shards() {
    let mut world = World::new(false, &mut Random(1));
    world.slow.fill(false);
    let topic = "x".repeat(65_535);
    for slot in [0, 1] {
        let connect = [&b"\0\x04MQTT\x04\x02\0\0"[..], &text(&name(slot))].concat();
        let connect = packet(0x10, &connect);
        world.clients[slot as usize] = Client { version: 4, connect, ..Client::default() };
        world.connect(slot);
    }
    world.handle(1, &packet(0x82, &[&[0, 1][..], &text("#"), &[0]].concat()));
    world.drain();
    let before = world.got[&1].len();
    // The length in three bytes.
    let body = [&text(&topic)[..], b"1"].concat();
    let len = body.len();
    let header = [0x30, len as u8 | 0x80, (len >> 7) as u8 | 0x80, (len >> 14) as u8];
    let publish = [&header[..], &body].concat();
    world.handle(0, &publish.repeat(3));
    world.drain();
    assert_eq!(world.runs_on_the_mesh, 1);
    assert!(world.got[&1][before..] == publish.repeat(3));
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
