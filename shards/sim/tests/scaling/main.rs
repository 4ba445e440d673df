//! How a node's inner traffic and its replicas grow from 2 shards to 64, against what the design
//! says: with n shards, announcing a filter costs n - 1 envelopes, a barrier 2 (n - 1), a message
//! one for each other shard that wants it, and a filter n - 1 entries besides its subscribers'.
//! Looking for a retained message costs two, whatever n, and with a wildcard 2 (n - 1).
//!
//! The tables in `bench/results/*-scaling.md` are these: set `OCTOPUS_SIM_TABLE` to print them.

use octopus_engine::{ShardId, home_shard};
use octopus_mqtt::{
    Packet, QoS, Subscribe, SubscribeFilter, SubscribeFilters, SubscribeProperties,
    SubscriptionOptions, TopicFilter, Version,
};
use octopus_sim::{Client, Node, NodeConfig, Traffic};

const SHARDS: [u16; 6] = [2, 4, 8, 16, 32, 64];
const SEED: u64 = 1;

/// A client at home on `shard`, accepted there.
fn client_at(node: &mut Node, name: &str, shard: u16) -> Client {
    let shards = node.shard_count();
    let mut names = (0..).map(|n| format!("{name}-{n}"));
    let is_home = |name: &String| home_shard(name, shards, SEED) == ShardId(shard);
    let name = names.find(is_home).expect("there are many names");
    let mut client = Client::open_at(node, ShardId(shard), Version::V3_1_1);
    client.connect(node, &octopus_sim::connect(Version::V3_1_1, &name, true));
    client
}

/// One client on each shard.
fn clients(node: &mut Node, name: &str) -> Vec<Client> {
    (0..node.shard_count()).map(|shard| client_at(node, name, shard)).collect()
}

fn interest_entries(node: &Node) -> u64 {
    node.all_stats().iter().map(|stats| stats.interest).sum()
}

fn subscribe(client: &mut Client, node: &mut Node, filter: &str) {
    assert_eq!(client.subscribe(node, filter, QoS::AtMostOnce), 0);
}

/// One SUBSCRIBE to all of `filters`.
fn subscribe_all(client: &mut Client, node: &mut Node, filters: &[String]) {
    let options = SubscriptionOptions { qos: QoS::AtMostOnce, ..SubscriptionOptions::default() };
    let parse = |filter| TopicFilter::parse(filter).expect("a lawful filter");
    let filters: Vec<_> =
        filters.iter().map(|filter| SubscribeFilter { filter: parse(filter), options }).collect();
    let packet = Packet::Subscribe(Subscribe {
        packet_id: client.next_packet_id(),
        properties: SubscribeProperties::default(),
        filters: SubscribeFilters::List(&filters),
    });
    client.send(node, &packet);
    assert!(matches!(client.expect(node).packet(), Packet::SubAck(_)));
}

fn publish(client: &mut Client, node: &mut Node, topic: &str) {
    client.publish(node, topic, "payload", QoS::AtMostOnce);
}

/// A line for the results, if they are asked for.
#[expect(clippy::print_stdout, reason = "the table is asked for")]
fn note(line: &str) {
    if std::env::var_os("OCTOPUS_SIM_TABLE").is_some() {
        println!("{line}");
    }
}

#[test]
fn connecting_costs_the_mesh_nothing() {
    for shards in SHARDS {
        let mut node = Node::new(&NodeConfig { seed: SEED, ..NodeConfig::new(shards) });
        clients(&mut node, "idle");
        assert_eq!(node.take_traffic(), Traffic::default(), "{shards} shards");
    }
}

#[test]
fn a_filter_of_one_shard_costs_every_other_one_envelope_one_barrier_and_one_entry() {
    const FILTERS_EACH: u64 = 8;
    for shards in SHARDS {
        let mut node = Node::new(&NodeConfig { seed: SEED, ..NodeConfig::new(shards) });
        let mut replays = 0;
        for (shard, mut client) in (0..).zip(clients(&mut node, "own")) {
            for filter in (0..FILTERS_EACH).map(|n| format!("{shard}/{n}")) {
                subscribe(&mut client, &mut node, &filter);
                // The retained message, if there is one, is at the home of its topic.
                let is_elsewhere = home_shard(&filter, shards, SEED) != ShardId(shard);
                replays += if is_elsewhere { 2 } else { 0 };
            }
        }
        let others = u64::from(shards) - 1;
        let filters = FILTERS_EACH * u64::from(shards);
        let traffic = node.take_traffic();
        note(&format!(
            "filters | {shards} | {filters} | {traffic:?} | {}",
            interest_entries(&node)
        ));
        assert_eq!(traffic.interest, filters * others, "{shards} shards");
        assert_eq!(traffic.fences, filters * 2 * others, "{shards} shards");
        assert_eq!(interest_entries(&node), filters * others, "{shards} shards");
        assert_eq!(traffic.replays, replays, "{shards} shards");
        assert_eq!((traffic.messages, traffic.others), (0, 0), "{shards} shards");
    }
}

/// Many subscribers with one filter are one interest of their shard, and one entry on each.
#[test]
fn a_filter_that_all_shards_have_is_one_entry_on_each() {
    for shards in SHARDS {
        let mut node = Node::new(&NodeConfig { seed: SEED, ..NodeConfig::new(shards) });
        for round in ["first", "second", "third"] {
            for mut client in clients(&mut node, round) {
                subscribe(&mut client, &mut node, "hot/#");
            }
        }
        let (all, others) = (u64::from(shards), u64::from(shards) - 1);
        let traffic = node.take_traffic();
        note(&format!("hot filter | {shards} | {traffic:?} | {}", interest_entries(&node)));
        assert_eq!(traffic.interest, all * others, "{shards} shards");
        assert_eq!(traffic.replays, 3 * all * 2 * others, "{shards} shards");
        assert_eq!(interest_entries(&node), all, "{shards} shards");
    }
}

/// The cost of a pair across shards does not know how many shards there are.
#[test]
fn a_message_travels_once_to_the_one_shard_that_wants_it() {
    for shards in SHARDS {
        let mut node = Node::new(&NodeConfig { seed: SEED, ..NodeConfig::new(shards) });
        let mut publisher = client_at(&mut node, "publisher", 0);
        let mut subscribers = clients(&mut node, "subscriber");
        for (shard, subscriber) in subscribers.iter_mut().enumerate() {
            subscribe(subscriber, &mut node, &format!("pair/{shard}"));
        }
        node.take_traffic();
        (0..shards).for_each(|to| publish(&mut publisher, &mut node, &format!("pair/{to}")));
        let traffic = node.take_traffic();
        note(&format!("pairs | {shards} | {shards} messages | {traffic:?}"));
        assert_eq!(traffic.messages, u64::from(shards) - 1, "{shards} shards");
        assert_eq!((traffic.interest, traffic.fences, traffic.others), (0, 0, 0));
        for subscriber in &mut subscribers {
            assert_eq!(subscriber.take_messages(&mut node).len(), 1);
        }
    }
}

#[test]
fn a_hot_topic_costs_one_envelope_for_each_other_shard_however_many_subscribe() {
    const SUBSCRIBERS_EACH: usize = 4;
    const MESSAGES: u64 = 10;
    for shards in SHARDS {
        let mut node = Node::new(&NodeConfig { seed: SEED, ..NodeConfig::new(shards) });
        let mut subscribers = Vec::new();
        for round in 0..SUBSCRIBERS_EACH {
            subscribers.extend(clients(&mut node, &format!("subscriber-{round}")));
        }
        for subscriber in &mut subscribers {
            subscribe(subscriber, &mut node, "hot");
        }
        let mut publisher = client_at(&mut node, "publisher", 0);
        node.take_traffic();
        (0..MESSAGES).for_each(|_| publish(&mut publisher, &mut node, "hot"));
        let traffic = node.take_traffic();
        note(&format!("hot topic | {shards} | {MESSAGES} messages | {traffic:?}"));
        assert_eq!(traffic.messages, MESSAGES * (u64::from(shards) - 1), "{shards} shards");
        for subscriber in &mut subscribers {
            assert_eq!(subscriber.take_messages(&mut node).len() as u64, MESSAGES);
        }
    }
}

/// What a filter costs the whole node is what it costs its home (150 bytes, and the session's
/// own note of it) and 50 bytes for each other shard: the part that grows.
#[test]
fn memory_grows_with_filters_times_shards_as_predicted() {
    const FILTERS: usize = 1024;
    const BURST: usize = 4;
    const HOME_BYTES_MAX: usize = 400;
    const REPLICA_BYTES_MAX: usize = 50;
    for shards in SHARDS {
        let mut node = Node::new(&NodeConfig { seed: SEED, ..NodeConfig::new(shards) });
        let mut clients = clients(&mut node, "many");
        let each = FILTERS / clients.len();
        let mut subscribe_each = |node: &mut Node, prefix: &str, count: usize| {
            for (shard, client) in clients.iter_mut().enumerate() {
                let filter = |n| format!("{prefix}/hall-{shard}/sensor-{n}/status");
                let filters: Vec<_> = (0..count).map(filter).collect();
                filters.chunks(BURST).for_each(|some| subscribe_all(client, node, some));
            }
        };
        // The queues are as large as they get before counting: they stay, whatever comes.
        subscribe_each(&mut node, "first", BURST);
        let counted = allocation_counter::measure(|| subscribe_each(&mut node, "plant", each));
        let bytes = usize::try_from(counted.bytes_current).expect("filters take memory");
        let per_filter = bytes / FILTERS;
        let bound = HOME_BYTES_MAX + REPLICA_BYTES_MAX * (usize::from(shards) - 1);
        note(&format!("memory | {shards} | {FILTERS} filters | {per_filter} bytes each"));
        assert!(per_filter <= bound, "{shards} shards: {per_filter} bytes, not {bound}");
        let filters = FILTERS + BURST * usize::from(shards);
        assert_eq!(interest_entries(&node), (filters * (usize::from(shards) - 1)) as u64);
    }
}
