//! A session that another node takes: one that lost it without handing it over wants what it is
//! subscribed to until every node knows where it is, and a client that comes back to where it was
//! handed over from gets it all the same.

use std::time::Duration;

use octopus_engine::{
    Adopted, Claimed, ConnectionId, Envelope, Grant, Input, Instant, ListenerId, Output, Peer,
    Recorded, Remote, SessionRecord, Shard, ShardConfig, ShardId,
};
use octopus_mqtt::QoS;

const FILTER: &str = "m/#";
const CONNECTION: ConnectionId = ConnectionId { slot: 0, generation: 1 };
/// Of the client `c`, whose session is to last.
const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x00\x00\x01c";

struct Bench {
    shard: Shard,
    now: Instant,
    /// Writes to clients.
    said: usize,
}

impl Bench {
    /// The session `c` under epoch 7, whose client is away.
    fn new() -> Self {
        let recorded = Recorded { sessions: true, subscriptions: true, messages: true };
        let config = ShardConfig { cluster: true, recorded, ..ShardConfig::new(ShardId(0), 1, 1) };
        let mut bench = Self { shard: Shard::new(config), now: Instant(1), said: 0 };
        let grant = Grant {
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            subscription_id: 0,
        };
        let subscriptions = vec![(FILTER.into(), grant)];
        let record = SessionRecord { expiry_s: u32::MAX, subscriptions, ..Default::default() };
        let adopted = Adopted { client_id: "c".into(), epoch: 7, record: Box::new(record) };
        let told = bench.hub(Envelope::Adopt(Box::new(adopted)));
        assert_eq!(told, [true]);
        bench
    }

    /// Whether it told the hub that it wants the filter, or does not any more.
    fn hub(&mut self, envelope: Envelope) -> Vec<bool> {
        self.handle(Input::Envelope { from: Peer::Hub, envelope })
    }

    fn wait(&mut self, time: Duration) -> Vec<bool> {
        self.now = self.now.after(time);
        self.handle(Input::Tick)
    }

    fn handle(&mut self, input: Input<'_>) -> Vec<bool> {
        let is_wanted = |envelope| match envelope {
            Envelope::Interest { filter, wanted } if &*filter == FILTER => Some(wanted),
            _ => None,
        };
        self.all_told(input).into_iter().filter_map(is_wanted).collect()
    }

    /// All that the hub is told.
    fn all_told(&mut self, input: Input<'_>) -> Vec<Envelope> {
        self.shard.handle(input, self.now);
        let mut told = Vec::new();
        while let Some(output) = self.shard.poll() {
            match output {
                Output::Send { to: Peer::Hub, envelope } => told.push(envelope),
                Output::Write { .. } => self.said += 1,
                _ => {}
            }
        }
        told
    }

    /// The client connects; what the hub is told of that.
    fn connect(&mut self) -> Vec<Envelope> {
        self.hub(Envelope::Lease { until: Instant(u64::MAX) });
        let (connection, bytes) = (CONNECTION, CONNECT);
        let remote = Remote { listener: ListenerId(0), address: None, certificate: None };
        self.all_told(Input::Opened { connection, remote });
        self.all_told(Input::Received { connection, bytes })
    }

    fn claimed(&mut self, epoch: u64, record: Option<Box<SessionRecord>>) -> Vec<Envelope> {
        let claimed = Claimed { connection: CONNECTION, client_id: "c".into(), epoch, record };
        let envelope = Envelope::Claimed(Box::new(claimed));
        self.all_told(Input::Envelope { from: Peer::Hub, envelope })
    }

    fn lose(&mut self) -> Vec<bool> {
        self.hub(Envelope::Disown { client_id: "c".into(), epoch: 7 })
    }

    fn know(&mut self, epoch: u64) -> Vec<bool> {
        self.hub(Envelope::Known { client_id: "c".into(), epoch })
    }
}

#[test]
fn it_wants_its_messages_until_every_node_knows_the_other() {
    let mut bench = Bench::new();
    assert!(bench.lose().is_empty());
    assert_eq!(bench.shard.stats().subscriptions, 0, "it counts where it is");
    assert!(bench.wait(Duration::from_secs(20)).is_empty());
    // That it is lost may be heard twice, and of another loss.
    assert!(bench.lose().is_empty() && bench.know(6).is_empty());
    assert!(bench.wait(Duration::from_secs(5)).is_empty());
    assert!(bench.know(7).is_empty(), "something may be under way between the shards");
    assert!(bench.lose().is_empty());
    assert_eq!(bench.wait(Duration::from_millis(200)), [false]);
}

#[test]
fn it_may_hear_that_every_node_knows_before_it_hears_that_it_lost_it() {
    let mut bench = Bench::new();
    assert!(bench.know(7).is_empty() && bench.lose().is_empty());
    assert_eq!(bench.shard.stats().sessions, 0);
    assert_eq!(bench.wait(Duration::from_millis(200)), [false]);
    assert!(bench.lose().is_empty());
}

#[test]
fn it_does_not_want_them_for_ever() {
    let mut bench = Bench::new();
    assert!(bench.lose().is_empty());
    assert_eq!(bench.wait(Duration::from_secs(31)), [false]);
}

#[test]
fn it_wants_them_for_itself_if_the_session_comes_back() {
    let mut bench = Bench::new();
    assert!(bench.lose().is_empty());
    let record = SessionRecord { expiry_s: u32::MAX, ..Default::default() };
    let adopted = Adopted { client_id: "c".into(), epoch: 9, record: Box::new(record) };
    assert_eq!(bench.hub(Envelope::Adopt(Box::new(adopted))), [false]);
    assert!(bench.know(7).is_empty() && bench.lose().is_empty());
    assert_eq!(bench.shard.stats().sessions, 1);
}

#[test]
fn of_two_losses_of_one_client_nothing_is_left() {
    let mut bench = Bench::new();
    assert!(bench.lose().is_empty());
    bench.connect();
    bench.claimed(9, None);
    assert_eq!((bench.said, bench.shard.stats().sessions), (1, 1));
    let lost = Envelope::Disown { client_id: "c".into(), epoch: 9 };
    let mut told = bench.hub(lost);
    for epoch in [9, 7] {
        told.extend(bench.know(epoch));
    }
    told.extend(bench.wait(Duration::from_millis(200)));
    assert_eq!(told, [false]);
}

#[test]
fn a_session_that_was_handed_over_while_the_hub_was_asked_for_it_is_asked_for_again() {
    let is_here = |told: Vec<Envelope>| match &told[..] {
        [Envelope::Claim(claim)] => claim.is_here,
        other => panic!("not one claim: {other:?}"),
    };
    let mut bench = Bench::new();
    assert!(is_here(bench.connect()));
    let evict = Envelope::Evict { client_id: "c".into(), epoch: 7 };
    let told = bench.all_told(Input::Envelope { from: Peer::Hub, envelope: evict });
    assert!(told.iter().any(|envelope| matches!(envelope, Envelope::Surrendered(_))));
    // It is answered as it was then: that it is here, or to another connection, with all it had.
    for record in [None, Some(Box::default())] {
        assert!(!is_here(bench.claimed(7, record)));
    }
    assert_eq!((bench.said, bench.shard.stats().sessions), (0, 0));
}
