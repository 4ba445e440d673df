//! The first moments of a node: when its door opens it knows the group, and the group knows it.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Failed;

use super::{
    client::Client,
    group::{Group, wait},
};
use crate::harness::{
    broker::free_port,
    wire::{Packet, Version},
};

type Case = fn() -> Result<(), Failed>;

pub(super) fn all() -> Vec<(&'static str, Case)> {
    vec![
        ("nodes_that_start_together_do_not_wait_for_each_other", together),
        ("a_node_in_the_place_of_one_that_left_waits_for_nobody", replaced),
        ("qos_0_published_as_the_door_opens_is_heard_on_other_nodes", at_the_door),
    ]
}

/// A node that is waited for in vain costs 5 s.
const START_MAX: Duration = Duration::from_secs(3);

/// No node gives up waiting, and the fastest start of three, on a machine that may be busy, is one
/// without a wait.
fn together() -> Result<(), Failed> {
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        let group = Group::new(&[])?;
        let begun = Instant::now();
        let started: Vec<_> = thread::scope(|scope| {
            let starting = ["A", "B", "C"].map(|id| scope.spawn(|| group.node(id)));
            starting.into_iter().map(|starting| starting.join()).collect()
        });
        fastest = fastest.min(begun.elapsed());
        for node in started {
            let log = node.map_err(|_| "a start panicked")??.log();
            assert!(!log.contains("starting without"), "{log}");
        }
    }
    assert!(fastest < START_MAX, "all listen after {fastest:?} at best");
    Ok(())
}

/// The one that left has a session that must last, so it is not forgotten at once.
fn replaced() -> Result<(), Failed> {
    let kept = ["--broker.storage.session=redis", "--broker.storage.subscription=redis"];
    let group = Group::new(&[&kept[..], &["--cluster.lease=10s"]].concat())?;
    let old = group.node("OLD")?;
    Client::open(&old, "lasting", false)?.subscribe("a")?;
    old.signal("TERM")?;
    let mut redis = group.redis.connection()?;
    wait("it has left", || {
        let lease = group.redis.key("GROUP1:NODE:OLD");
        Ok(!redis::cmd("EXISTS").arg(lease).query::<bool>(&mut redis)?)
    })?;
    let listed: u64 =
        redis::cmd("HLEN").arg(group.redis.key("GROUP1:V2:NODES")).query(&mut redis)?;
    assert_eq!(listed, 1, "it is forgotten, and the test shows nothing");
    let new = group.node("NEW")?;
    let client = Client::connect(&new, "passing")?;
    let begun = Instant::now();
    client.subscribe("b")?;
    assert!(begun.elapsed() < START_MAX, "SUBACK after {:?}", begun.elapsed());
    Ok(())
}

/// CONNECT and PUBLISH in one write, by a client that is at the door before it opens.
fn at_the_door() -> Result<(), Failed> {
    let group = Group::new(&[])?;
    let near = group.node("NEAR")?;
    let subscriber = Client::connect(&near, "s")?;
    subscriber.subscribe("first/#")?;
    let connect = Packet::new("connect").number("clean", 1_u8).bytes("id", "p");
    let mut nodes = Vec::new();
    for round in 0..4 {
        let topic = format!("first/{round}");
        let publish = Packet::new("publish").bytes("topic", topic.as_str());
        let bytes = [&connect, &publish].map(|packet| packet.encode(Version::V5)).concat();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let port = [format!("--broker.port={}", address.port())];
        let node = thread::scope(|scope| {
            let starting = scope.spawn(|| group.node_with(&format!("NODE{round}"), &port));
            let mut stream = None;
            wait("the door is there", || {
                stream = TcpStream::connect(address).ok();
                Ok(stream.is_some())
            })?;
            let mut stream = stream.ok_or("no stream")?;
            stream.write_all(&bytes)?;
            assert_eq!(subscriber.next()?.0, topic);
            Ok::<_, Failed>(starting.join().map_err(|_| "the start panicked")??)
        });
        nodes.push(node?);
    }
    Ok(())
}
