//! Runs of the generator against a broker that errs on purpose: what it does wrong must be found.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use clap::Parser;
use octopus_mqtt::{
    AckKind, Delivery, Packet, ReasonCode, ReasonProperties, SubAck, Version, encode_ack,
};

use crate::{cli::Cli, plan::Plan, report::Outcome, run::run, wire};

/// What the broker does with the tenth message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Lose,
    Repeat,
    /// Delivers it after the eleventh.
    Overtake,
    Close,
}

const TENTH: usize = 10;

/// A broker for one publisher and one subscriber. Ends with its connections.
struct Broker {
    fault: Fault,
    messages: usize,
    held: Vec<u8>,
    subscriber: Option<TcpStream>,
}

fn start(fault: Fault) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("a bound socket").port();
    let broker = Broker { fault, messages: 0, held: Vec::new(), subscriber: None };
    let broker = Arc::new(Mutex::new(broker));
    thread::spawn(move || {
        for stream in listener.incoming().take(2).flatten() {
            let broker = Arc::clone(&broker);
            thread::spawn(move || serve(stream, &broker));
        }
    });
    port
}

fn serve(mut stream: TcpStream, broker: &Mutex<Broker>) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..length]);
        let mut used = 0;
        while let Ok(Some((packet, length))) = wire::next_packet(&bytes[used..], Version::V3_1_1) {
            let whole = &bytes[used..used + length];
            let mut broker = broker.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(answer) = broker.answer(&packet, whole, &stream) else { return };
            if stream.write_all(&answer).is_err() {
                return;
            }
            used += length;
        }
        bytes.drain(..used);
    }
}

impl Broker {
    /// What the sender is told; `None` closes its connection.
    fn answer(&mut self, packet: &Packet<'_>, whole: &[u8], from: &TcpStream) -> Option<Vec<u8>> {
        let mut answer = Vec::new();
        match packet {
            Packet::Connect(_) => answer.extend([0x20, 2, 0, 0]),
            Packet::Subscribe(subscribe) => {
                self.subscriber = from.try_clone().ok();
                let properties = ReasonProperties::default();
                let packet_id = subscribe.packet_id;
                Packet::SubAck(SubAck { packet_id, properties, reasons: &[1] })
                    .encode(Version::V3_1_1, &mut answer);
            }
            Packet::Publish(publish) => {
                let out = self.deliveries(whole)?;
                self.subscriber.as_mut()?.write_all(&out).ok()?;
                if let Delivery::AtLeastOnce(id) = publish.delivery {
                    let none = ReasonProperties::default();
                    let (kind, success) = (AckKind::PubAck, ReasonCode::Success);
                    encode_ack(kind, id, success, &none, Version::V3_1_1, &mut answer);
                }
            }
            _ => {}
        }
        Some(answer)
    }

    fn deliveries(&mut self, publish: &[u8]) -> Option<Vec<u8>> {
        self.messages += 1;
        if self.messages != TENTH {
            return Some([publish, &std::mem::take(&mut self.held)].concat());
        }
        match self.fault {
            Fault::None => Some(publish.to_vec()),
            Fault::Lose => Some(Vec::new()),
            Fault::Repeat => Some(publish.repeat(2)),
            Fault::Overtake => {
                self.held = publish.to_vec();
                Some(Vec::new())
            }
            Fault::Close => None,
        }
    }
}

fn outcome(fault: Fault, options: &str) -> Outcome {
    let line = format!(
        "b pairs -c 1 -L 100 --warmup 0 --drain 0.2 -d 20 --quiet -p {} {options}",
        start(fault)
    );
    let cli = Cli::try_parse_from(line.split(' ')).expect("a lawful line");
    let plan = Plan::of(&cli.command).expect("an address").remove(0);
    run(plan, &mut |_| {}).expect("a machine that allows two sockets")
}

#[test]
fn a_faultless_broker_keeps_all_promises() {
    for options in ["-q 0", "-q 1", "-q 1 --rate 500", "-q 0 -s 3", "-q 1 -s 70000"] {
        let outcome = outcome(Fault::None, options);
        assert_eq!(outcome.broken, Vec::<String>::new(), "{options}");
        assert_eq!((outcome.sent, outcome.received), (100, 100), "{options}");
    }
}

#[test]
fn a_lost_message_is_counted_and_above_qos_0_breaks_the_promise() {
    assert_eq!(outcome(Fault::Lose, "-q 0").lost, 1);
    assert_eq!(outcome(Fault::Lose, "-q 1").broken, ["1 messages lost"]);
}

#[test]
fn a_repeated_message_is_allowed_at_qos_1_only() {
    assert_eq!(outcome(Fault::Repeat, "-q 0").broken, ["1 duplicates"]);
    let outcome = outcome(Fault::Repeat, "-q 1");
    assert_eq!((outcome.duplicates, outcome.broken.len()), (1, 0));
}

#[test]
fn an_overtaken_message_is_out_of_order_and_not_lost() {
    let outcome = outcome(Fault::Overtake, "-q 1");
    assert_eq!(
        (outcome.broken.as_slice(), outcome.lost),
        (&["1 messages out of order".into()][..], 0)
    );
}

#[test]
fn a_broker_that_closes_ends_the_run_with_an_error() {
    let outcome = outcome(Fault::Close, "-q 1");
    // Closed or reset: the broker leaves bytes unread.
    assert_eq!(outcome.errors.values().sum::<u64>(), 1, "{:?}", outcome.errors);
    assert!(outcome.broken.iter().any(|broken| broken.ends_with("not acknowledged")));
}

#[test]
fn a_broker_that_is_not_there_fails_every_client() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let port = listener.local_addr().expect("a bound socket").port();
    drop(listener);
    let line = format!("b conn -c 3 -d 5 --quiet -p {port}");
    let cli = Cli::try_parse_from(line.split(' ')).expect("a lawful line");
    let plan = Plan::of(&cli.command).expect("an address").remove(0);
    let outcome = run(plan, &mut |_| {}).expect("a machine that allows three sockets");
    assert_eq!(outcome.broken, ["3 errors", "3 clients not connected"]);
}
