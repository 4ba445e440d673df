//! The node of a publisher dies, or stands still, while its messages are under way: the client
//! publishes at another node what it has no acknowledgement of, and nobody gets it twice.

use std::collections::{BTreeMap, BTreeSet};

use octopus_mqtt::{Delivery, Packet, PacketId, Publish, PublishProperties, QoS, TopicName};
use octopus_sim::Client;

use super::{Mishap, Wanderer, check_of, enter, rest};
use crate::world::World;

const NAME: &str = "roamer";
const TOPIC: &str = "m/roamer";
const SEEDS: u64 = 150;

/// A publisher of QoS 2 that has a session.
struct Roamer {
    client: Client,
    at: usize,
    count: usize,
    /// Not finished, oldest first: the message, and whether PUBREC was here.
    open: BTreeMap<PacketId, (usize, bool)>,
    acked: BTreeSet<usize>,
}

impl Roamer {
    fn new(world: &mut World) -> Self {
        let (client, _) = enter(world, 0, NAME);
        Self { client, at: 0, count: 0, open: BTreeMap::new(), acked: BTreeSet::new() }
    }

    fn publish(&mut self, world: &mut World) {
        self.count += 1;
        let packet_id = PacketId::new(self.count as u16).expect("not zero");
        self.open.insert(packet_id, (self.count, false));
        self.send(world, packet_id, false);
    }

    fn send(&mut self, world: &mut World, packet_id: PacketId, dup: bool) {
        let payload = format!("{NAME} {}", self.open[&packet_id].0);
        let packet = Packet::Publish(Publish {
            dup,
            retain: false,
            delivery: Delivery::ExactlyOnce(packet_id),
            topic: Some(TopicName::parse(TOPIC).expect("a topic")),
            properties: PublishProperties::default(),
            payload: payload.as_bytes(),
        });
        self.client.send(&mut world.nodes[self.at], &packet);
    }

    fn take(&mut self, world: &mut World) {
        let node = &mut world.nodes[self.at];
        while let Some(received) = self.client.next(node) {
            match received.packet() {
                Packet::PubRec(ack) if !ack.reason.is_error() => {
                    let Some(open) = self.open.get_mut(&ack.packet_id) else { continue };
                    open.1 = true;
                    self.acked.insert(open.0);
                    self.client.acknowledge(node, Packet::PubRel, ack.packet_id);
                }
                Packet::PubComp(ack) => drop(self.open.remove(&ack.packet_id)),
                Packet::Disconnect(_) => {}
                other => panic!("PUBREC or PUBCOMP was expected, not {other:?}"),
            }
        }
    }

    /// Goes on at another node, with what is not finished [MQTT-4.4.0-1].
    fn move_to(&mut self, world: &mut World, node: usize) {
        let (client, is_present) = enter(world, node, NAME);
        assert!(is_present, "the session was lost");
        (self.client, self.at) = (client, node);
        let open: Vec<_> = self.open.iter().map(|(id, (_, has_rec))| (*id, *has_rec)).collect();
        for (packet_id, has_rec) in open {
            match has_rec {
                true => self.client.acknowledge(&mut world.nodes[node], Packet::PubRel, packet_id),
                false => self.send(world, packet_id, true),
            }
        }
    }
}

fn traffic(world: &mut World, roamer: &mut Roamer, wanderer: &mut Wanderer) {
    for _ in 0..10 + world.random.below(20) {
        if world.random.chance(60) {
            roamer.publish(world);
        }
        let steps = world.random.below(12);
        world.run(steps);
        if world.random.chance(70) {
            roamer.take(world);
        }
        let count = world.random.below(4);
        wanderer.take(world, count);
    }
}

/// Its first node, and then its second, goes while it publishes; not the second, if that may have
/// been handed the subscriber's session a moment ago.
fn run(seed: u64, mishap: Mishap) {
    let mut world = World::new(seed, 3);
    let is_patient = seed.is_multiple_of(2);
    let place = world.random.below(3);
    let mut wanderer = Wanderer::at(&mut world, place, "m/#");
    let mut roamer = Roamer::new(&mut world);
    for node in [0, 1] {
        traffic(&mut world, &mut roamer, &mut wanderer);
        match mishap {
            Mishap::Death => world.kill(node),
            _ => world.pause(node),
        }
        if is_patient {
            // As in life: what the node sent to others is taken in before its client is there.
            world.run(1500);
        }
        let has_moved = wanderer.at == node;
        if has_moved {
            wanderer.move_to(&mut world, 2);
        }
        roamer.move_to(&mut world, node + 1);
        traffic(&mut world, &mut roamer, &mut wanderer);
        world.resume();
        if has_moved {
            break;
        }
    }
    rest(&mut world, &mut wanderer, &mut []);
    for _ in 0..60 {
        world.run(100);
        roamer.take(&mut world);
        wanderer.take(&mut world, usize::MAX);
    }
    assert!(roamer.open.is_empty(), "seed {seed}: {:?} not finished", roamer.open);
    assert_eq!(roamer.acked.len(), roamer.count, "seed {seed}");
    let first = check_of(seed, &wanderer, NAME, QoS::ExactlyOnce, &roamer.acked);
    let is_ordered = !is_patient || first.is_sorted();
    assert!(is_ordered, "seed {seed}: out of order: {first:?}");
}

#[test]
fn what_is_published_again_after_the_death_of_its_node_comes_once() {
    (0..SEEDS).for_each(|seed| run(seed, Mishap::Death));
}

#[test]
fn what_is_published_again_while_its_node_stands_still_comes_once() {
    (0..SEEDS).for_each(|seed| run(seed, Mishap::Pause));
}
