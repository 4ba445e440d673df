//! Following messages: which steps an operator sees, of whom, and for how long.

use std::time::Duration;

use octopus_engine::{
    Ask, Claimed, ConnectionId, Dropped, Envelope, Found, Happened, Input, Instant, ListenerId,
    NodeIndex, Origin, Output, Peer, Query, ReceiptId, Remote, Shard, ShardConfig, ShardId,
    TraceAsk,
};
use octopus_mqtt::{PacketId, QoS, ReasonCode};

const SUBSCRIBE_QOS1: &[u8] = b"\x82\x06\x00\x01\x00\x01t\x01";
const PUBLISH_QOS1: &[u8] = b"\x32\x07\x00\x01t\x00\x09hi";
const PUBACK_1: &[u8] = b"\x40\x02\x00\x01";

/// A shard with two clients: `p` publishes, `s` subscribes to `t`.
struct Bench {
    shard: Shard,
    now: Instant,
    found: Vec<Found>,
}

fn client(slot: u32) -> ConnectionId {
    ConnectionId { slot, generation: 1 }
}

impl Bench {
    fn new(cluster: bool) -> Self {
        let config = ShardConfig { cluster, ..ShardConfig::new(ShardId(0), 1, 1) };
        let mut bench = Self { shard: Shard::new(config), now: Instant(1), found: Vec::new() };
        if cluster {
            bench.hub(Envelope::Lease { until: Instant(u64::MAX) });
        }
        for (slot, name) in [(0, "p"), (1, "s")] {
            let (connection, remote) = (
                client(slot),
                Remote { listener: ListenerId(0), address: None, certificate: None },
            );
            bench.take(Input::Opened { connection, remote });
            bench.receive(
                slot,
                &[b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01", name.as_bytes()].concat(),
            );
            if cluster {
                let claimed =
                    Claimed { connection, client_id: name.into(), epoch: 1, record: None };
                bench.hub(Envelope::Claimed(Box::new(claimed)));
            }
        }
        bench
    }

    fn take(&mut self, input: Input<'_>) {
        self.shard.handle(input, self.now);
        while let Some(output) = self.shard.poll() {
            match output {
                Output::Write { connection, buffer } => {
                    self.shard.handle(Input::Written { connection, buffer }, self.now);
                }
                Output::Send { envelope: Envelope::Answer(answer), .. } => {
                    self.found.push(answer.found);
                }
                _ => {}
            }
        }
    }

    fn receive(&mut self, slot: u32, bytes: &[u8]) {
        self.take(Input::Received { connection: client(slot), bytes });
    }

    fn hub(&mut self, envelope: Envelope) {
        self.take(Input::Envelope { from: Peer::Hub, envelope });
    }

    fn start(&mut self, about: &str) {
        let ask = TraceAsk::Start { about: about.into(), lasts: Duration::from_secs(60) };
        self.hub(Envelope::Query(Box::new(Query { id: 1, ask: Ask::Trace(ask) })));
    }

    /// Whom and what every step is about.
    fn steps(&mut self) -> Vec<(String, Happened)> {
        let ask = Ask::Trace(TraceAsk::Read { after: 0, limit: 100 });
        self.hub(Envelope::Query(Box::new(Query { id: 2, ask })));
        match self.found.pop() {
            Some(Found::Trace(slice)) => {
                slice.steps.into_iter().map(|s| (s.client.into(), s.happened)).collect()
            }
            other => panic!("{other:?}"),
        }
    }
}

fn step(client: &str, happened: Happened) -> (String, Happened) {
    (client.to_owned(), happened)
}

const RECEIVED: Happened = Happened::Received { qos: QoS::AtLeastOnce, retain: false, bytes: 2 };
const ANSWERED: Happened = Happened::Answered { reason: ReasonCode::Success };

fn matched(subscribers: usize) -> Happened {
    Happened::Matched { origin: Origin::Client, subscribers }
}

#[test]
fn a_message_is_followed_from_its_publisher_to_its_subscribers_acknowledgement() {
    for about in ["t", "#", "p"] {
        let mut bench = Bench::new(false);
        bench.receive(1, SUBSCRIBE_QOS1);
        bench.start(about);
        bench.receive(0, PUBLISH_QOS1);
        bench.receive(1, PUBACK_1);
        let packet_id = PacketId::new(1);
        let sent = Happened::Sent { qos: QoS::AtLeastOnce, packet_id, again: false };
        let expected = [
            step("p", RECEIVED),
            step("", matched(1)),
            step("s", sent),
            step("p", ANSWERED),
            step("s", Happened::Acknowledged { reason: ReasonCode::Success }),
        ];
        assert_eq!(bench.steps(), expected, "{about}");
    }
}

#[test]
fn a_trace_of_a_subscriber_shows_what_it_gets_and_not_what_others_do() {
    let mut bench = Bench::new(false);
    bench.receive(1, SUBSCRIBE_QOS1);
    bench.start("s");
    bench.receive(0, PUBLISH_QOS1);
    bench.receive(0, b"\x30\x05\x00\x01xhi");
    let steps = bench.steps();
    assert!(matches!(&steps[..], [(who, Happened::Sent { .. })] if who == "s"), "{steps:?}");
}

#[test]
fn a_drop_says_why_and_what_waits_says_how_much_is_before_it() {
    let mut bench = Bench::new(false);
    bench.start("t");
    bench.receive(0, PUBLISH_QOS1);
    let dropped = step("p", Happened::Dropped(Dropped::NoSubscriber));
    let answered = step("p", Happened::Answered { reason: ReasonCode::NoMatchingSubscribers });
    let expected = [step("p", RECEIVED), step("", matched(0)), dropped, answered];
    assert_eq!(bench.steps(), expected);

    // A session that stays behind; then it ends for good with the message in its queue.
    bench.receive(1, b"\xe0\x00");
    let remote = Remote { listener: ListenerId(0), address: None, certificate: None };
    let connect = |bench: &mut Bench, slot, clean: u8| {
        bench.take(Input::Opened { connection: client(slot), remote: remote.clone() });
        let body = [b"\x10\x0d\x00\x04MQTT\x04", &[clean][..], b"\x00\x00\x00\x01s"].concat();
        bench.receive(slot, &body);
    };
    connect(&mut bench, 2, 0);
    bench.receive(2, SUBSCRIBE_QOS1);
    bench.receive(2, b"\xe0\x00");
    bench.start("t");
    bench.receive(0, PUBLISH_QOS1);
    connect(&mut bench, 3, 2);
    let expected = [
        step("p", RECEIVED),
        step("", matched(1)),
        step("s", Happened::Queued { count: 1 }),
        step("p", ANSWERED),
        step("s", Happened::Dropped(Dropped::SessionEnded)),
    ];
    assert_eq!(bench.steps(), expected);
}

#[test]
fn an_answer_that_waits_for_another_node_is_told_when_it_leaves() {
    let mut bench = Bench::new(true);
    let node = NodeIndex(3);
    bench.hub(Envelope::NodeInterest { node, filter: "t".into(), wanted: true });
    bench.start("t");
    bench.receive(0, PUBLISH_QOS1);
    let expected = [
        step("p", RECEIVED),
        step("", matched(0)),
        step("", Happened::Forwarded { shards: vec![], nodes: vec![node] }),
        step("p", Happened::AnswerWaits),
    ];
    assert_eq!(bench.steps(), expected);
    bench.hub(Envelope::Accepted { receipt: ReceiptId { shard: ShardId(0), serial: 1 } });
    assert_eq!(bench.steps().last(), Some(&step("p", ANSWERED)));
}

#[test]
fn nothing_is_kept_before_the_start_after_the_end_and_after_a_stop() {
    let mut bench = Bench::new(false);
    bench.receive(0, PUBLISH_QOS1);
    assert_eq!(bench.steps(), []);
    bench.start("t");
    bench.now = Instant(60_000_001);
    bench.receive(0, PUBLISH_QOS1);
    assert_eq!(bench.steps(), [], "it lasts 60 s");
    bench.start("t");
    bench.receive(0, PUBLISH_QOS1);
    assert_eq!(bench.steps().len(), 4);
    bench.hub(Envelope::Query(Box::new(Query { id: 3, ask: Ask::Trace(TraceAsk::Stop) })));
    bench.receive(0, PUBLISH_QOS1);
    assert_eq!(bench.steps(), []);
}
