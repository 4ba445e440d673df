//! QoS 2 when a node dies: the intent is recorded before a message is routed, what comes again
//! has its old number, and who has that number leaves it out.

use octopus_engine::{
    Change, Claimed, ConnectionId, DeliveryItem, DeliveryRecord, DeliveryState, Envelope, Grant,
    Input, Instant, ListenerId, Message, MessageParts, NodeIndex, Output, Peer, ReceiptId,
    Recorded, Remote, SessionRecord, Shard, ShardConfig, ShardId,
};
use octopus_mqtt::{PacketId, QoS, ReasonCode, TopicName};

/// The session `c`, never ending, and nothing else.
const CONNECT_311: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x00\x00\x01c";
/// The same: Session Expiry Interval 0xffffffff.
const CONNECT_5: &[u8] = b"\x10\x13\x00\x04MQTT\x05\x00\x00\x00\x05\x11\xff\xff\xff\xff\x00\x01c";
const FAR_1: &[u8] = b"\x34\x07\x00\x03far\x00\x01";
const FAR_1_AGAIN: &[u8] = b"\x3c\x07\x00\x03far\x00\x01";
const FAR_2: &[u8] = b"\x34\x07\x00\x03far\x00\x02";

/// A shard of a node that records everything, with one client whose topic `far` another node
/// wants.
struct Bench {
    shard: Shard,
    client: ConnectionId,
    /// Records told to the hub.
    told: u64,
    now: Instant,
}

/// What came of one input.
#[derive(Debug, Default)]
struct Outcome {
    bytes: Vec<u8>,
    hub: Vec<Envelope>,
    is_closed: bool,
}

impl Outcome {
    fn changes(&self) -> Vec<&Change> {
        let ops = self.hub.iter().filter_map(|envelope| match envelope {
            Envelope::Record(op) => Some(&op.change),
            _ => None,
        });
        ops.collect()
    }

    /// Identifier and number of the one intent.
    fn intent(&self) -> (u16, u64) {
        match self.changes()[..] {
            [&Change::Incoming { packet_id, number }] => (packet_id.get(), number),
            ref other => panic!("not one intent: {other:?}"),
        }
    }

    /// What goes to the other node.
    fn bridged(&self) -> Vec<(&Message, ReceiptId)> {
        let bridged = self.hub.iter().filter_map(|envelope| match envelope {
            Envelope::Bridge { message, receipt: Some(receipt), .. } => Some((message, *receipt)),
            _ => None,
        });
        bridged.collect()
    }
}

impl Bench {
    fn new(connect: &[u8], record: Option<SessionRecord>) -> Self {
        let recorded = Recorded { sessions: true, subscriptions: true, messages: true };
        let config = ShardConfig { cluster: true, recorded, ..ShardConfig::new(ShardId(0), 1, 1) };
        let client = ConnectionId { slot: 0, generation: 0 };
        let mut bench = Self { shard: Shard::new(config), client, told: 0, now: Instant(1) };
        bench.hub(Envelope::Lease { until: Instant(1_000_000) });
        let (node, filter) = (NodeIndex(0), "far".into());
        bench.hub(Envelope::NodeInterest { node, filter, wanted: true });
        bench.connect(connect, record);
        bench
    }

    fn connect(&mut self, connect: &[u8], record: Option<SessionRecord>) -> Outcome {
        self.client.generation += 1;
        let remote = Remote { listener: ListenerId(0), address: None, certificate: None };
        self.handle(Input::Opened { connection: self.client, remote });
        self.client(connect);
        let (connection, client_id) = (self.client, "c".into());
        let claimed = Claimed { connection, client_id, epoch: 1, record: record.map(Box::new) };
        self.hub(Envelope::Claimed(Box::new(claimed)))
    }

    fn client(&mut self, bytes: &[u8]) -> Outcome {
        self.handle(Input::Received { connection: self.client, bytes })
    }

    fn hub(&mut self, envelope: Envelope) -> Outcome {
        self.handle(Input::Envelope { from: Peer::Hub, envelope })
    }

    fn handle(&mut self, input: Input<'_>) -> Outcome {
        self.shard.handle(input, self.now);
        let mut outcome = Outcome::default();
        while let Some(output) = self.shard.poll() {
            match output {
                Output::Write { connection, buffer } => {
                    buffer.pieces().for_each(|piece| outcome.bytes.extend_from_slice(piece));
                    self.shard.handle(Input::Written { connection, buffer }, self.now);
                }
                Output::Send { to: Peer::Hub, envelope } => {
                    self.told += u64::from(matches!(envelope, Envelope::Record(_)));
                    outcome.hub.push(envelope);
                }
                Output::Close { .. } => outcome.is_closed = true,
                _ => {}
            }
        }
        outcome
    }

    /// All that was told so far is safe.
    fn safe(&mut self) -> Outcome {
        let (count, refused) = (self.told, Vec::new());
        self.hub(Envelope::Recorded { count, refused })
    }

    /// Another node's message comes.
    fn deliver(&mut self, number: u64, is_again: bool) -> Outcome {
        self.hub(Envelope::Publish(message(number, is_again)))
    }

    /// How many messages came to the client by now, all of them safe and out of the inbox.
    fn taken(&mut self) -> Vec<u8> {
        self.hub(Envelope::Fence { barrier: self.told + 1 });
        let mut bytes = self.safe().bytes;
        bytes.extend(self.hub(Envelope::Trimmed { barrier: self.told + 1 }).bytes);
        bytes
    }
}

fn message(number: u64, is_again: bool) -> Message {
    Message::from_parts(&MessageParts {
        topic: TopicName::parse("t").expect("a topic"),
        payload: b"x",
        qos: QoS::ExactlyOnce,
        retain: true,
        properties: b"",
        expires_at: None,
        received_at: Instant(1),
        publisher: 7,
        id: number,
        is_again,
    })
}

fn item(number: u64) -> DeliveryItem {
    DeliveryItem {
        message: message(number, false),
        qos: QoS::ExactlyOnce,
        retain: false,
        subscription_ids: Vec::new(),
        group: None,
    }
}

fn id(id: u16) -> PacketId {
    PacketId::new(id).expect("not zero")
}

/// A session that another node left.
fn record() -> SessionRecord {
    SessionRecord { expiry_s: u32::MAX, ..SessionRecord::default() }
}

/// The same, subscribed to `t`.
fn subscriber() -> SessionRecord {
    let grant = Grant {
        qos: QoS::ExactlyOnce,
        no_local: false,
        retain_as_published: false,
        subscription_id: 0,
    };
    SessionRecord { subscriptions: vec![("t".into(), grant)], ..record() }
}

// --- who publishes ---

#[test]
fn a_message_is_routed_when_its_intent_is_safe_and_acknowledged_when_all_have_confirmed() {
    let mut bench = Bench::new(CONNECT_311, None);
    bench.safe();
    let told = bench.client(FAR_1);
    let (packet_id, number) = told.intent();
    assert_eq!((packet_id, told.hub.len(), told.bytes.len()), (1, 1, 0));
    assert_ne!(number, 0);
    let routed = bench.safe();
    assert_eq!(routed.bytes, b"");
    let [(message, receipt)] = routed.bridged()[..] else { panic!("{routed:?}") };
    assert_eq!((message.id(), message.is_again()), (number, false));
    // That it is done is told, and not waited for.
    let done = bench.hub(Envelope::Accepted { receipt });
    assert_eq!((done.intent(), &done.bytes[..]), ((1, 0), &b"\x50\x02\x00\x01"[..]));
    let again = bench.client(FAR_1_AGAIN);
    assert_eq!((again.hub.len(), &again.bytes[..]), (0, &b"\x50\x02\x00\x01"[..]));
    assert!(matches!(
        bench.client(b"\x62\x02\x00\x01").changes()[..],
        [Change::IncomingReleased { packet_id }] if *packet_id == id(1)
    ));
}

#[test]
fn messages_are_routed_in_the_order_they_were_published() {
    let mut bench = Bench::new(CONNECT_311, None);
    bench.safe();
    let numbers = [bench.client(FAR_1).intent().1, bench.client(FAR_2).intent().1];
    // Also if the hub tells of one at a time.
    let (count, refused) = (bench.told - 1, Vec::new());
    let first = bench.hub(Envelope::Recorded { count, refused });
    assert_eq!(first.bridged().len(), 1);
    let second = bench.safe();
    let routed: Vec<u64> =
        [first, second].iter().flat_map(Outcome::bridged).map(|(m, _)| m.id()).collect();
    assert_eq!(routed, numbers);
}

#[test]
fn nothing_of_this_happens_to_a_session_that_is_not_recorded() {
    // Clean Session, and no Session Expiry Interval.
    let mut bench = Bench::new(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c", None);
    let told = bench.client(FAR_1);
    let [(_, receipt)] = told.bridged()[..] else { panic!("{told:?}") };
    assert!(told.changes().is_empty());
    let accepted = bench.hub(Envelope::Accepted { receipt });
    assert_eq!((accepted.hub.len(), &accepted.bytes[..]), (0, &b"\x50\x02\x00\x01"[..]));
}

#[test]
fn what_another_node_cut_off_is_published_again_under_its_number() {
    let intents = vec![(id(1), 77)];
    let cut = SessionRecord { intents, incoming: vec![id(2)], ..record() };
    let mut bench = Bench::new(CONNECT_311, Some(cut));
    bench.safe();
    // This one was done.
    assert_eq!(bench.client(FAR_2).bytes, b"\x50\x02\x00\x02");
    let told = bench.client(FAR_1_AGAIN);
    assert_eq!((told.intent(), told.bytes.len()), ((1, 77), 0));
    // Once more while it is under way: nothing comes of it.
    let more = bench.client(FAR_1_AGAIN);
    assert_eq!((more.hub.len(), more.bytes.len()), (0, 0));
    let routed = bench.safe();
    let [(message, receipt)] = routed.bridged()[..] else { panic!("{routed:?}") };
    assert_eq!((message.id(), message.is_again()), (77, true));
    let done = bench.hub(Envelope::Accepted { receipt });
    assert_eq!((done.intent(), &done.bytes[..]), ((1, 0), &b"\x50\x02\x00\x01"[..]));
    assert_eq!(bench.client(FAR_1_AGAIN).bytes, b"\x50\x02\x00\x01");
}

#[test]
fn the_client_may_release_what_was_not_told_to_be_done() {
    let cut = SessionRecord { intents: vec![(id(1), 77)], ..record() };
    let mut bench = Bench::new(CONNECT_5, Some(cut));
    bench.safe();
    bench.client(b"\x62\x02\x00\x01");
    // PUBCOMP, Success; then it is a new message.
    assert_eq!(bench.safe().bytes, b"\x70\x02\x00\x01");
    assert_ne!(bench.client(b"\x34\x08\x00\x03far\x00\x01\x00").intent().1, 77);
}

#[test]
fn an_intent_that_is_refused_is_not_routed() {
    let mut bench = Bench::new(CONNECT_311, None);
    bench.safe();
    bench.client(FAR_1);
    let (count, refused) = (bench.told, vec![bench.told]);
    let outcome = bench.hub(Envelope::Recorded { count, refused });
    assert!(outcome.bridged().is_empty() && outcome.is_closed, "{outcome:?}");
}

#[test]
fn a_session_that_was_lost_routes_nothing_any_more() {
    let mut bench = Bench::new(CONNECT_311, None);
    bench.safe();
    bench.client(FAR_1);
    bench.hub(Envelope::Disown { client_id: "c".into(), epoch: 1 });
    assert!(bench.safe().bridged().is_empty());
}

#[test]
fn nothing_is_routed_without_a_lease_and_all_of_it_when_it_comes_again() {
    for is_lost in [false, true] {
        let mut bench = Bench::new(CONNECT_311, None);
        bench.safe();
        let numbers = [bench.client(FAR_1).intent().1, bench.client(FAR_2).intent().1];
        bench.now = Instant(2_000_000);
        let (count, refused) = (bench.told - 1, Vec::new());
        let outcome = bench.hub(Envelope::Recorded { count, refused });
        assert!(outcome.bridged().is_empty() && outcome.is_closed, "{outcome:?}");
        // It came back meanwhile, and published them again: that changes nothing.
        bench.connect(CONNECT_311, None);
        assert!(bench.client(FAR_1_AGAIN).changes().is_empty());
        if is_lost {
            bench.hub(Envelope::Disown { client_id: "c".into(), epoch: 1 });
        }
        let mut routed = bench.hub(Envelope::Lease { until: Instant(9_000_000) });
        routed.hub.extend(bench.safe().hub);
        let routed: Vec<u64> = routed.bridged().iter().map(|(m, _)| m.id()).collect();
        assert_eq!(routed, if is_lost { &[][..] } else { &numbers });
    }
}

#[test]
fn a_session_is_handed_over_when_what_it_intends_is_confirmed() {
    let mut bench = Bench::new(CONNECT_311, None);
    bench.safe();
    bench.client(FAR_1);
    let is_surrendered =
        |outcome: &Outcome| outcome.hub.iter().any(|e| matches!(e, Envelope::Surrendered(_)));
    assert!(!is_surrendered(&bench.hub(Envelope::Evict { client_id: "c".into(), epoch: 1 })));
    let routed = bench.safe();
    let [(_, receipt)] = routed.bridged()[..] else { panic!("{routed:?}") };
    let confirmed = bench.hub(Envelope::Accepted { receipt });
    let surrendered = confirmed.hub.iter().find_map(|envelope| match envelope {
        Envelope::Surrendered(surrendered) => surrendered.record.as_ref(),
        _ => None,
    });
    let record = surrendered.expect("it is handed over");
    assert_eq!((&record.incoming[..], record.intents.len()), (&[id(1)][..], 0));
}

#[test]
fn a_message_that_is_refused_is_a_new_one_once_its_client_knows() {
    let reason = ReasonCode::QuotaExceeded;
    let far_1 = b"\x34\x08\x00\x03far\x00\x01\x00";
    let mut bench = Bench::new(CONNECT_5, None);
    bench.safe();
    let number = bench.client(far_1).intent().1;
    let routed = bench.safe();
    let [(_, receipt)] = routed.bridged()[..] else { panic!("{routed:?}") };
    let refused = bench.hub(Envelope::Refused { receipt, reason });
    assert_eq!((refused.bytes[0], refused.bytes[4]), (0x50, 0x97));
    assert!(matches!(refused.changes()[..], [Change::IncomingReleased { .. }]), "{refused:?}");
    assert_ne!(bench.client(far_1).intent().1, number);

    // Before version 5 it cannot be told, and publishes the same one again.
    let mut bench = Bench::new(CONNECT_311, None);
    bench.safe();
    let number = bench.client(FAR_1).intent().1;
    let routed = bench.safe();
    let [(_, receipt)] = routed.bridged()[..] else { panic!("{routed:?}") };
    let refused = bench.hub(Envelope::Refused { receipt, reason });
    assert!(refused.is_closed && refused.bytes.is_empty(), "{refused:?}");
    bench.connect(CONNECT_311, None);
    assert_eq!(bench.client(FAR_1_AGAIN).intent().1, number);
}

#[test]
fn intents_and_numbers_are_told_anew_when_redis_has_lost_them() {
    let known = SessionRecord { intents: vec![(id(1), 77)], got: vec![5, 7], ..record() };
    let mut bench = Bench::new(CONNECT_311, Some(known));
    let told = bench.hub(Envelope::Restate { round: 3 });
    let changes = told.changes();
    let intents = changes.iter().filter_map(|change| match change {
        Change::Incoming { packet_id, number } => Some((packet_id.get(), *number)),
        _ => None,
    });
    assert_eq!(intents.collect::<Vec<_>>(), [(1, 77)]);
    let is_got =
        |change: &&&Change| matches!(change, Change::Got { numbers } if *numbers == [5, 7]);
    assert_eq!(changes.iter().filter(is_got).count(), 1, "{changes:?}");
}

// --- who receives ---

#[test]
fn what_comes_again_is_left_out_wherever_the_session_has_it() {
    let delivery =
        |serial, state, number| DeliveryRecord { serial, state, item: Some(item(number)) };
    let has = SessionRecord {
        deliveries: vec![
            delivery(1, DeliveryState::Published(id(1)), 11),
            delivery(2, DeliveryState::Queued, 13),
        ],
        got: vec![15],
        last_packet_id: 1,
        ..subscriber()
    };
    let mut bench = Bench::new(CONNECT_311, Some(has));
    bench.taken();
    for number in [11, 13, 15] {
        let told = bench.deliver(number, true);
        assert!(told.changes().is_empty(), "{number}: {told:?}");
    }
    // What is new is new, also if it comes again; but then only once, by whatever way.
    assert_eq!(bench.deliver(17, true).changes().len(), 2);
    for is_again in [true, false] {
        assert!(bench.deliver(17, is_again).changes().is_empty());
    }
    assert_eq!(bench.deliver(19, false).changes().len(), 2);
    assert!(bench.shard.stats().ledger.holds());
}

#[test]
fn what_the_client_said_pubrec_to_is_remembered_and_recorded() {
    let mut bench = Bench::new(CONNECT_311, Some(subscriber()));
    bench.taken();
    bench.deliver(21, false);
    let came = bench.taken();
    assert_eq!(came, b"\x34\x06\x00\x01t\x00\x01x");
    let told = bench.client(b"\x50\x02\x00\x01");
    assert!(matches!(told.changes()[..], [Change::Released { number: 21, .. }]), "{told:?}");
    bench.safe();
    assert!(bench.deliver(21, true).changes().is_empty());
    bench.client(b"\x70\x02\x00\x01");
    assert!(bench.deliver(21, true).changes().is_empty());
    // It goes with the session.
    let left = bench.hub(Envelope::Evict { client_id: "c".into(), epoch: 1 });
    let record = left.hub.into_iter().find_map(|envelope| match envelope {
        Envelope::Surrendered(surrendered) => surrendered.record,
        _ => None,
    });
    assert_eq!(record.expect("it is handed over").got, [21]);
}

#[test]
fn a_session_remembers_so_many_numbers_and_no_more() {
    let max = octopus_engine::GOT_MAX as u64;
    let got = (0..max).map(|n| 2 * n + 1).collect();
    let mut bench = Bench::new(CONNECT_311, Some(SessionRecord { got, ..subscriber() }));
    bench.taken();
    bench.deliver(2 * max + 1, false);
    bench.taken();
    bench.client(b"\x50\x02\x00\x01");
    assert!(bench.deliver(3, true).changes().is_empty());
    assert!(!bench.deliver(1, true).changes().is_empty());
}

#[test]
fn what_comes_by_way_of_an_older_node_is_taken_for_coming_again() {
    let has = SessionRecord { got: vec![15], left: vec!["n".into()], ..subscriber() };
    let mut bench = Bench::new(CONNECT_311, Some(has));
    bench.taken();
    bench.hub(Envelope::LeftBegins { node: "n".into(), round: 1 });
    for (number, is_new) in [(15, false), (17, true)] {
        let left = bench.hub(Envelope::Left { round: 1, message: message(number, false) });
        assert_eq!(left.changes().len(), if is_new { 2 } else { 0 }, "{number}");
    }
    bench.hub(Envelope::LeftEnds { round: 1 });
    // Directly, and passed on too late.
    assert_eq!(bench.deliver(19, false).changes().len(), 2);
    let items = [15, 17, 19, 21].map(|number| Some(item(number))).into();
    let passed = bench.hub(Envelope::Pass { client_id: "c".into(), items, is_all: false });
    let (unkept, delivered): (Vec<&Change>, Vec<_>) =
        passed.changes().into_iter().partition(|change| matches!(change, Change::Unkept(_)));
    assert_eq!((unkept.len(), delivered.len()), (3, 2), "{passed:?}");
}

#[test]
fn a_shared_group_and_what_is_retained_are_not_left_out() {
    let mut has = SessionRecord { got: vec![15], ..subscriber() };
    has.subscriptions.push(("$share/g/t".into(), has.subscriptions[0].1));
    let mut bench = Bench::new(CONNECT_311, Some(has));
    bench.taken();
    assert!(bench.deliver(15, true).changes().is_empty());
    let (key, message) = ("$share/g/t".into(), message(15, true));
    let shared = bench.hub(Envelope::GroupMessage { key, message: message.clone() });
    assert_eq!(shared.changes().len(), 2, "{shared:?}");
    // What the group gave it is not its own.
    bench.client(b"\x50\x02\x00\x01");
    assert_eq!(bench.deliver(17, true).changes().len(), 2);

    bench.hub(Envelope::RetainHere(message));
    let mut told = bench.client(b"\x82\x06\x00\x01\x00\x01t\x02").hub;
    let Some(&Envelope::Fence { barrier }) = told.last() else { panic!("no fence: {told:?}") };
    told.extend(bench.hub(Envelope::Fenced { barrier }).hub);
    told.extend(bench.safe().hub);
    let is_replay = |envelope: &Envelope| {
        let Envelope::Record(op) = envelope else { return false };
        matches!(&op.change, Change::Queued { item, .. } if item.message.id() == 15)
    };
    assert!(told.iter().any(is_replay), "{told:?}");
}

#[test]
fn a_session_that_holds_all_it_may_goes_on_arriving() {
    let (passed_by, left) = (Some("old".into()), vec!["dead".into()]);
    let mut bench =
        Bench::new(CONNECT_311, Some(SessionRecord { passed_by, left, ..subscriber() }));
    bench.taken();
    let held_max = u64::from(octopus_engine::Limits::default().queue_count_max);
    let mut queued = 0;
    for number in 1..=held_max {
        let told = bench.deliver(number, false);
        let is_queued = |change: &&&Change| matches!(change, Change::Queued { .. });
        queued += told.changes().iter().filter(is_queued).count() as u64;
    }
    assert_eq!(queued, held_max, "what was held is not delivered");
    // Passed on as well, and then no more: what the dead node left is still to come.
    let items = vec![Some(item(1)), None];
    let told = bench.hub(Envelope::Pass { client_id: "c".into(), items, is_all: false });
    assert!(matches!(told.changes()[..], [Change::Unkept(_), Change::Arrived { is_told: true }]));
    let is_owed =
        |envelope: &Envelope| matches!(envelope, Envelope::Owed { node } if **node == *"dead");
    assert!(told.hub.iter().any(is_owed), "{told:?}");
}
