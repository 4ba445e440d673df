//! What no script can say, on two shards: the picks of a shared subscription that go by chance or
//! by the publisher, over many messages, and what clients are told when the broker is stopped.
//! The picks that can be foretold are in `shared.mqtt`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};

use crate::harness::broker::Process;
use crate::harness::wire::{Packet, Version};

const PATIENCE: Duration = Duration::from_secs(20);
const MEMBERS: usize = 4;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("conformance::live::chance_spares_no_member_and_keeps_no_turns", random),
        Trial::test("conformance::live::a_publisher_keeps_its_member", publisher),
        Trial::test("conformance::live::a_planned_stop_names_another_server", elsewhere),
        Trial::test("conformance::live::a_planned_stop_says_so", stopping),
    ]
}

fn random() -> Result<(), Failed> {
    let picks = play("random", &["p"], 200)?;
    let members: Vec<usize> = picks.into_values().collect();
    for member in 0..MEMBERS {
        let count = members.iter().filter(|&&picked| picked == member).count();
        // 50 each, and six standard deviations of patience.
        assert!((13..=87).contains(&count), "member {member} got {count} of {members:?}");
    }
    let turns = members.windows(MEMBERS + 1).filter(|picks| picks[0] == picks[MEMBERS]).count();
    assert!(turns < 120, "{turns} of {} picks repeat with the turn", members.len());
    Ok(())
}

fn publisher() -> Result<(), Failed> {
    let publishers = ["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9"];
    let picks = play("publisher", &publishers, 10)?;
    let mut of: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for (payload, &member) in &picks {
        let publisher = payload.split(' ').next().unwrap_or_default();
        of.entry(publisher).or_default().insert(member);
    }
    assert!(of.values().all(|members| members.len() == 1), "one publisher, one member: {of:?}");
    let all: BTreeSet<usize> = of.values().flatten().copied().collect();
    assert!(all.len() > 1, "ten publishers are not all one member's: {of:?}");
    Ok(())
}

fn elsewhere() -> Result<(), Failed> {
    let disconnect = told(&["--broker.server_reference=other.example:1883".to_owned()])?;
    assert_eq!(disconnect.number_of("code"), 0x9c, "Use another server: {disconnect}");
    assert_eq!(disconnect.bytes_of("server-reference"), b"other.example:1883");
    Ok(())
}

fn stopping() -> Result<(), Failed> {
    let disconnect = told(&[])?;
    assert_eq!(disconnect.number_of("code"), 0x8b, "Server shutting down: {disconnect}");
    assert_eq!(disconnect.get("server-reference"), None);
    Ok(())
}

/// What a client of version 5 is told when the broker is asked to end.
fn told(settings: &[String]) -> Result<Packet, Failed> {
    let broker = Process::start(&[&["--shards=2".to_owned()], settings].concat())?;
    let mut client = Client::connect(&broker, "client")?;
    broker.signal("TERM")?;
    let came = client.next()?;
    assert_eq!(came.name, "disconnect", "{came}");
    assert!(client.next().is_err(), "and nothing after it");
    Ok(came)
}

/// Each of the publishers sends `count` messages to one group; which member got which, by
/// `publisher number`.
fn play(pick: &str, publishers: &[&str], count: usize) -> Result<BTreeMap<String, usize>, Failed> {
    let settings = ["--shards=2".to_owned(), format!("--broker.shared_pick={pick}")];
    let broker = Process::start(&settings)?;
    let (sender, received) = mpsc::channel();
    for member in 0..MEMBERS {
        let mut client = Client::connect(&broker, &format!("member{member}"))?;
        let subscribe = Packet::new("subscribe").number("id", 1_u8).bytes("filter", "$share/g/x");
        client.ask(&subscribe.number("options", 1_u8), "suback")?;
        let sender = sender.clone();
        thread::spawn(move || client.receive(member, &sender));
    }
    for publisher in publishers {
        let mut client = Client::connect(&broker, publisher)?;
        for number in 0..count {
            let publish = Packet::new("publish").number("qos", 1_u8).number("id", 1_u8);
            let payload = format!("{publisher} {number:03}");
            client.ask(&publish.bytes("topic", "x").bytes("payload", payload), "puback")?;
        }
    }
    collect(&received, publishers.len() * count)
}

fn collect(
    received: &Receiver<(String, usize)>,
    count: usize,
) -> Result<BTreeMap<String, usize>, Failed> {
    let mut picks = BTreeMap::new();
    while picks.len() < count {
        let (payload, member) = received.recv_timeout(PATIENCE)?;
        let before = picks.insert(payload.clone(), member);
        assert_eq!(before, None, "{payload} went to two members");
    }
    Ok(picks)
}

struct Client {
    stream: TcpStream,
    inbox: Vec<u8>,
}

impl Client {
    fn connect(broker: &Process, id: &str) -> Result<Self, Failed> {
        let stream = broker.connect()?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self { stream, inbox: Vec::new() };
        client.ask(&Packet::new("connect").number("clean", 1_u8).bytes("id", id), "connack")?;
        Ok(client)
    }

    fn send(&mut self, packet: &Packet) -> Result<(), Failed> {
        Ok(self.stream.write_all(&packet.encode(Version::V5))?)
    }

    fn ask(&mut self, packet: &Packet, answer: &str) -> Result<Packet, Failed> {
        self.send(packet)?;
        let came = self.next()?;
        if came.name == answer { Ok(came) } else { Err(format!("{answer} wanted: {came}").into()) }
    }

    fn next(&mut self) -> Result<Packet, Failed> {
        loop {
            if let Some((packet, used)) = Packet::decode(&self.inbox, Version::V5)? {
                self.inbox.drain(..used);
                return Ok(packet);
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes)? {
                0 => return Err("closed".into()),
                count => self.inbox.extend_from_slice(&bytes[..count]),
            }
        }
    }

    /// Acknowledges and passes on what comes, until the broker or the test is gone.
    fn receive(mut self, member: usize, to: &Sender<(String, usize)>) {
        while let Ok(packet) = self.next() {
            let payload = String::from_utf8_lossy(packet.bytes_of("payload")).into_owned();
            let puback = Packet::new("puback").number("id", packet.number_of("id"));
            if self.send(&puback).is_err() || to.send((payload, member)).is_err() {
                return;
            }
        }
    }
}
