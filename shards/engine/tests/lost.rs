//! A node that lost a session to another, which it did not hand it over to, wants what the session
//! is subscribed to until every node knows where it is.

use std::time::Duration;

use octopus_engine::{
    Adopted, Envelope, Grant, Input, Instant, Output, Peer, Recorded, SessionRecord, Shard,
    ShardConfig, ShardId,
};
use octopus_mqtt::QoS;

const FILTER: &str = "m/#";

struct Bench {
    shard: Shard,
    now: Instant,
}

impl Bench {
    /// The session `c` under epoch 7, whose client is away.
    fn new() -> Self {
        let recorded = Recorded { sessions: true, subscriptions: true, messages: true };
        let config = ShardConfig { cluster: true, recorded, ..ShardConfig::new(ShardId(0), 1, 1) };
        let mut bench = Self { shard: Shard::new(config), now: Instant(1) };
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
        self.shard.handle(input, self.now);
        let mut told = Vec::new();
        while let Some(output) = self.shard.poll() {
            if let Output::Send { to: Peer::Hub, envelope: Envelope::Interest { filter, wanted } } =
                output
            {
                assert_eq!(&*filter, FILTER);
                told.push(wanted);
            }
        }
        told
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
