//! Several nodes as one broker: a session wanders, nodes die, and what was acknowledged
//! arrives, once if it is QoS 2, in its order.

mod estate;
mod publisher;
mod redis;
mod world;

use std::collections::BTreeSet;
use std::time::Duration;

use octopus_mqtt::{Delivery, Packet, PacketId, QoS, ReasonCode, Version};
use octopus_sim::{Client, connect};
use world::World;

const CLIENT: &str = "wanderer";
const SEEDS: u64 = 150;
const STEPS_MAX: usize = 200_000;

/// Connects a client with a session to `node`, which has let it in when this returns.
fn enter(world: &mut World, node: usize, client_id: &str) -> (Client, bool) {
    let mut client = Client::open(&mut world.nodes[node], Version::V5);
    let packet = Packet::Connect(Box::new(connect(Version::V5, client_id, false)));
    client.send(&mut world.nodes[node], &packet);
    for _ in 0..STEPS_MAX {
        world.step();
        if let Some(received) = client.next(&mut world.nodes[node]) {
            match received.packet() {
                Packet::ConnAck(connack) if connack.reason == ReasonCode::Success => {
                    return (client, connack.session_present);
                }
                other => panic!("CONNACK was expected, not {other:?}"),
            }
        }
    }
    panic!("no CONNACK");
}

/// A persistent subscriber as its client sees it, across its connections.
struct Wanderer {
    client: Client,
    at: usize,
    /// QoS 2 identifiers received and not released.
    incoming: BTreeSet<PacketId>,
    got: Vec<(QoS, String)>,
}

impl Wanderer {
    fn new(world: &mut World) -> Self {
        Self::at(world, 0, "m/#")
    }

    fn at(world: &mut World, node: usize, filter: &str) -> Self {
        let (mut client, is_present) = enter(world, node, CLIENT);
        assert!(!is_present);
        // SUBACK comes when the other nodes know; it is taken as any packet.
        let len = filter.len() as u8;
        let subscribe = [&[0x82, len + 6, 0, 1, 0, 0, len], filter.as_bytes(), &[2]].concat();
        client.send_bytes(&mut world.nodes[node], &subscribe);
        world.run(400);
        Self { client, at: node, incoming: BTreeSet::new(), got: Vec::new() }
    }

    fn move_to(&mut self, world: &mut World, node: usize) {
        let (client, is_present) = enter(world, node, CLIENT);
        assert!(is_present, "the session was lost");
        (self.client, self.at) = (client, node);
    }

    /// Takes what came and answers it, or some of it.
    fn take(&mut self, world: &mut World, count: usize) {
        for _ in 0..count {
            let node = &mut world.nodes[self.at];
            let Some(received) = self.client.next(node) else { return };
            match received.packet() {
                Packet::Publish(publish) => {
                    let text = std::str::from_utf8(publish.payload).expect("text").to_owned();
                    match publish.delivery {
                        Delivery::AtMostOnce => {}
                        Delivery::AtLeastOnce(id) => {
                            self.got.push((QoS::AtLeastOnce, text));
                            self.client.acknowledge(node, Packet::PubAck, id);
                        }
                        Delivery::ExactlyOnce(id) => {
                            if self.incoming.insert(id) {
                                self.got.push((QoS::ExactlyOnce, text));
                            }
                            self.client.acknowledge(node, Packet::PubRec, id);
                        }
                    }
                }
                Packet::PubRel(ack) => {
                    self.incoming.remove(&ack.packet_id);
                    self.client.acknowledge(node, Packet::PubComp, ack.packet_id);
                }
                _ => {}
            }
        }
    }
}

/// A publisher of one QoS on one node.
struct Publisher {
    client: Client,
    at: usize,
    name: String,
    qos: QoS,
    sent: Vec<(PacketId, usize)>,
    count: usize,
    acked: BTreeSet<usize>,
}

impl Publisher {
    fn new(world: &mut World, at: usize, qos: QoS) -> Self {
        let name = format!("p{at}q{}", qos as u8);
        let mut client = Client::open(&mut world.nodes[at], Version::V5);
        let packet = Packet::Connect(Box::new(connect(Version::V5, &name, true)));
        client.send(&mut world.nodes[at], &packet);
        world.run(300);
        client.expect(&mut world.nodes[at]);
        Self { client, at, name, qos, sent: Vec::new(), count: 0, acked: BTreeSet::new() }
    }

    fn publish(&mut self, world: &mut World) {
        self.count += 1;
        let (topic, payload) =
            (format!("m/{}", self.name), format!("{} {}", self.name, self.count));
        let node = &mut world.nodes[self.at];
        let id = self.client.publish(node, &topic, &payload, self.qos).expect("not QoS 0");
        self.sent.push((id, self.count));
    }

    fn take(&mut self, world: &mut World) {
        let node = &mut world.nodes[self.at];
        while let Some(received) = self.client.next(node) {
            let (Packet::PubAck(ack) | Packet::PubRec(ack)) = received.packet() else { continue };
            let number = self.sent.iter().find(|(id, _)| *id == ack.packet_id).map(|sent| sent.1);
            if !ack.reason.is_error() {
                self.acked.extend(number);
                if self.qos == QoS::ExactlyOnce {
                    self.client.acknowledge(node, Packet::PubRel, ack.packet_id);
                }
            }
        }
    }
}

fn check(seed: u64, wanderer: &Wanderer, publishers: &[Publisher]) {
    for Publisher { name, qos, acked, .. } in publishers {
        let first = check_of(seed, wanderer, name, *qos, acked);
        assert!(first.is_sorted(), "seed {seed}: {name} out of order: {first:?}");
    }
}

/// Gives what came, in the order it first came.
fn check_of(
    seed: u64,
    wanderer: &Wanderer,
    name: &str,
    qos: QoS,
    acked: &BTreeSet<usize>,
) -> Vec<usize> {
    let own = wanderer
        .got
        .iter()
        .filter_map(|(_, text)| text.strip_prefix(name)?.trim_start().parse::<usize>().ok());
    let got: Vec<usize> = own.collect();
    let lost: Vec<_> = acked.iter().filter(|n| !got.contains(n)).collect();
    assert!(lost.is_empty(), "seed {seed}: {name} lost {lost:?} of {got:?}");
    let mut first = Vec::new();
    for &number in &got {
        let is_again = first.contains(&number);
        let is_once = qos == QoS::ExactlyOnce;
        assert!(!(is_again && is_once), "seed {seed}: {name} {number} came twice: {got:?}");
        if !is_again {
            first.push(number);
        }
    }
    first
}

/// What befalls the node the wanderer is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mishap {
    Nothing,
    /// It dies while messages are under way to it.
    Death,
    /// It stands still, and goes on when its sessions are another's.
    Pause,
}

fn run(seed: u64, moves: usize, mishap: Mishap) {
    const NODES: usize = 3;
    let mut world = World::new(seed, NODES);
    let mut wanderer = Wanderer::new(&mut world);
    // Publishers live on the node that is spared.
    let is_spared = mishap != Mishap::Nothing;
    let places: Vec<usize> = if is_spared { vec![2] } else { (0..NODES).collect() };
    let mut publishers = Vec::new();
    for &at in &places {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            publishers.push(Publisher::new(&mut world, at, qos));
        }
    }
    for turn in 0..moves {
        for _ in 0..world.random.below(60) {
            for publisher in &mut publishers {
                if world.random.chance(40) {
                    publisher.publish(&mut world);
                }
                publisher.take(&mut world);
            }
            let steps = world.random.below(30);
            world.run(steps);
            let count = world.random.below(4);
            wanderer.take(&mut world, count);
        }
        let at = wanderer.at;
        if turn == moves / 2 && at != 2 {
            // A session that is still being handed over is not yet all its new node's.
            settle(&mut world, &mut wanderer, &mut publishers);
            world.slow = [None, Some(0), Some(80)][seed as usize % 3];
            match mishap {
                Mishap::Nothing => {}
                Mishap::Death => world.kill(at),
                Mishap::Pause => world.pause(at),
            }
            traffic(&mut world, &mut publishers);
            wanderer.move_to(&mut world, 2);
            traffic(&mut world, &mut publishers);
            world.resume();
            traffic(&mut world, &mut publishers);
            world.slow = None;
            settle(&mut world, &mut wanderer, &mut publishers);
            continue;
        }
        if !world.is_live[at] {
            continue;
        }
        let next = (wanderer.at + 1 + world.random.below(NODES - 1)) % NODES;
        if world.is_live[next] {
            wanderer.move_to(&mut world, next);
        }
    }
    rest(&mut world, &mut wanderer, &mut publishers);
    check(seed, &wanderer, &publishers);
}

/// Traffic until the wanderer's session has arrived where it is.
fn settle(world: &mut World, wanderer: &mut Wanderer, publishers: &mut [Publisher]) {
    let arrived = world.nodes[wanderer.at].now().after(Duration::from_millis(1600));
    while world.nodes[wanderer.at].now() < arrived {
        world.run(800);
        for publisher in &mut *publishers {
            publisher.publish(world);
            publisher.take(world);
        }
        wanderer.take(world, 6);
    }
}

/// Messages while nobody takes any.
fn traffic(world: &mut World, publishers: &mut [Publisher]) {
    for _ in 0..world.random.below(20) {
        for publisher in &mut *publishers {
            publisher.publish(world);
            publisher.take(world);
        }
        let steps = world.random.below(60);
        world.run(steps);
    }
}

/// Until everything has arrived.
fn rest(world: &mut World, wanderer: &mut Wanderer, publishers: &mut [Publisher]) {
    for _ in 0..60 {
        world.run(400);
        wanderer.take(world, usize::MAX);
        publishers.iter_mut().for_each(|publisher| publisher.take(world));
    }
    assert!(world.is_quiet(), "something is still under way");
}

#[test]
fn a_session_wanders_between_nodes_and_loses_nothing() {
    (0..SEEDS).for_each(|seed| run(seed, 6, Mishap::Nothing));
}

#[test]
fn a_session_survives_the_death_of_its_node() {
    (0..SEEDS).for_each(|seed| run(seed, 5, Mishap::Death));
}

#[test]
fn a_session_leaves_a_node_that_stands_still() {
    (0..SEEDS).for_each(|seed| run(seed, 5, Mishap::Pause));
}

/// Which nodes die while a session is on its way from the first to the second, in turn.
#[derive(Clone, Copy, Debug)]
enum Deaths {
    /// The one it comes to, while messages are still passed on to it.
    New,
    /// The one that passes them on.
    Old,
    Both,
    /// The one it was on, and then the one that takes it over, before it has all.
    InTurn,
}

fn deaths_on_the_way(seed: u64, deaths: Deaths) {
    let mut world = World::new(seed, 3);
    let mut wanderer = Wanderer::new(&mut world);
    let mut publishers =
        [QoS::AtLeastOnce, QoS::ExactlyOnce].map(|qos| Publisher::new(&mut world, 2, qos));
    let go_on = |world: &mut World, wanderer: &mut Wanderer, publishers: &mut [Publisher]| {
        for _ in 0..world.random.below(3) {
            traffic(world, publishers);
            let count = world.random.below(8);
            wanderer.take(world, count);
        }
    };
    go_on(&mut world, &mut wanderer, &mut publishers);
    if matches!(deaths, Deaths::InTurn) {
        world.kill(0);
        go_on(&mut world, &mut wanderer, &mut publishers);
    }
    wanderer.move_to(&mut world, 1);
    go_on(&mut world, &mut wanderer, &mut publishers);
    if matches!(deaths, Deaths::Old | Deaths::Both) {
        world.kill(0);
        go_on(&mut world, &mut wanderer, &mut publishers);
    }
    if !matches!(deaths, Deaths::Old) {
        world.kill(1);
        go_on(&mut world, &mut wanderer, &mut publishers);
        wanderer.move_to(&mut world, 2);
    }
    go_on(&mut world, &mut wanderer, &mut publishers);
    // What a dead node does not say is waited for.
    (0..2).for_each(|_| settle(&mut world, &mut wanderer, &mut publishers));
    rest(&mut world, &mut wanderer, &mut publishers);
    check(seed, &wanderer, &publishers);
}

#[test]
fn a_session_survives_the_death_of_the_node_it_comes_to() {
    (0..SEEDS).for_each(|seed| deaths_on_the_way(seed, Deaths::New));
}

#[test]
fn a_session_survives_the_death_of_the_node_that_passes_on_to_it() {
    (0..SEEDS / 3).for_each(|seed| deaths_on_the_way(seed, Deaths::Old));
}

#[test]
fn a_session_survives_the_death_of_both_nodes_it_is_between() {
    (0..SEEDS / 3).for_each(|seed| deaths_on_the_way(seed, Deaths::Both));
}

#[test]
fn a_session_survives_the_death_of_one_node_after_the_other() {
    (0..SEEDS / 3).for_each(|seed| deaths_on_the_way(seed, Deaths::InTurn));
}

/// The group is at home on one shard and its member on another: what is acknowledged is safe
/// there, or goes with the session.
fn death_of_a_member(seed: u64, group: &str) {
    let mut world = World::new(seed, 2);
    let mut wanderer = Wanderer::at(&mut world, 0, &format!("$share/{group}/m/#"));
    let mut publishers =
        [QoS::AtLeastOnce, QoS::ExactlyOnce].map(|qos| Publisher::new(&mut world, 0, qos));
    for _ in 0..20 {
        publishers.iter_mut().for_each(|publisher| publisher.publish(&mut world));
        let steps = world.random.below(20);
        world.run(steps);
        publishers.iter_mut().for_each(|publisher| publisher.take(&mut world));
    }
    world.kill(0);
    wanderer.move_to(&mut world, 1);
    rest(&mut world, &mut wanderer, &mut []);
    check(seed, &wanderer, &publishers);
}

#[test]
fn a_member_of_a_shared_group_has_what_was_acknowledged() {
    for group in ["a", "b", "c", "d"] {
        (0..SEEDS / 10).for_each(|seed| death_of_a_member(seed, group));
    }
}

/// A publisher's node learns where the session is a second after it moved. It was handed over,
/// or taken from a node that stood still.
fn move_unheard(seed: u64, is_taken: bool) {
    const UNHEARD_STEPS: usize = 12_000;
    let mut world = World::new(seed, 3);
    let mut wanderer = Wanderer::new(&mut world);
    let mut publishers =
        [QoS::AtLeastOnce, QoS::ExactlyOnce].map(|qos| Publisher::new(&mut world, 2, qos));
    world.run(400);
    world.is_deaf = Some((1, 2));
    if is_taken {
        world.pause(0);
    }
    wanderer.move_to(&mut world, 1);
    world.resume();
    world.run(UNHEARD_STEPS);
    for publisher in &mut publishers {
        (0..5).for_each(|_| publisher.publish(&mut world));
    }
    world.run(600);
    world.is_deaf = None;
    rest(&mut world, &mut wanderer, &mut publishers);
    check(seed, &wanderer, &publishers);
    assert_eq!(wanderer.got.len(), 10, "seed {seed}");
}

#[test]
fn a_session_is_passed_on_to_until_every_node_knows_where_it_is() {
    (0..SEEDS / 10).for_each(|seed| move_unheard(seed, false));
}

#[test]
fn a_node_that_lost_a_session_wants_its_messages_until_every_node_knows_where_it_is() {
    (0..SEEDS / 10).for_each(|seed| move_unheard(seed, true));
}

/// Redis takes so long that the new node does not wait for the old one's last word, though both
/// live: what was passed on and what is in the inbox come by two ways.
fn move_while_redis_is_slow(seed: u64) {
    let mut world = World::new(seed, 3);
    let mut wanderer = Wanderer::new(&mut world);
    let mut publishers = Vec::new();
    for at in [1, 2] {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            publishers.push(Publisher::new(&mut world, at, qos));
        }
    }
    traffic(&mut world, &mut publishers);
    for publisher in &mut publishers {
        (0..10).for_each(|_| publisher.publish(&mut world));
    }
    world.slow = Some(if seed.is_multiple_of(2) { 80 } else { 0 });
    wanderer.move_to(&mut world, 1);
    for _ in 0..10 {
        traffic(&mut world, &mut publishers);
        let count = world.random.below(8);
        wanderer.take(&mut world, count);
    }
    world.slow = None;
    (0..2).for_each(|_| settle(&mut world, &mut wanderer, &mut publishers));
    rest(&mut world, &mut wanderer, &mut publishers);
    check(seed, &wanderer, &publishers);
}

#[test]
fn a_session_moves_while_redis_is_slow() {
    (0..SEEDS / 5).for_each(move_while_redis_is_slow);
}
