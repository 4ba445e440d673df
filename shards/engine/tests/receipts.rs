//! Acknowledgements that wait for the hub, and what nodes are told.

use octopus_engine::{
    Claimed, ConnectionId, Envelope, Input, Instant, ListenerId, NodeIndex, Output, Peer,
    ReceiptId, Remote, Shard, ShardConfig, ShardId,
};
use octopus_mqtt::ReasonCode;

const CLIENT: ConnectionId = ConnectionId { slot: 0, generation: 1 };
const CONNECT_311: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c";
const CONNECT_5: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01c";

/// A session that outlives its connection.
const CONNECT_LASTING: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x00\x00\x01c";

/// A shard of a node in a group, with one client.
struct Bench(Shard);

impl Bench {
    fn new(connect: &[u8]) -> Self {
        let mut bench =
            Self(Shard::new(ShardConfig { cluster: true, ..ShardConfig::new(ShardId(0), 1, 1) }));
        let remote = Remote { listener: ListenerId(0), address: None, certificate: None };
        bench.0.handle(Input::Opened { connection: CLIENT, remote }, Instant(0));
        bench.hub(Envelope::Lease { until: Instant(u64::MAX) });
        bench.client(connect);
        let claimed = Claimed { connection: CLIENT, client_id: "c".into(), epoch: 1, record: None };
        bench.hub(Envelope::Claimed(Box::new(claimed)));
        bench
    }

    /// The client sends; what it gets, what the hub gets, whether the connection ends.
    fn client(&mut self, bytes: &[u8]) -> (Vec<u8>, Vec<Envelope>, bool) {
        self.0.handle(Input::Received { connection: CLIENT, bytes }, Instant(1));
        self.drain()
    }

    fn hub(&mut self, envelope: Envelope) -> (Vec<u8>, Vec<Envelope>, bool) {
        self.0.handle(Input::Envelope { from: Peer::Hub, envelope }, Instant(1));
        self.drain()
    }

    fn drain(&mut self) -> (Vec<u8>, Vec<Envelope>, bool) {
        let (mut bytes, mut envelopes, mut is_closed) = (Vec::new(), Vec::new(), false);
        while let Some(output) = self.0.poll() {
            match output {
                Output::Write { connection, buffer } => {
                    buffer.pieces().for_each(|piece| bytes.extend_from_slice(piece));
                    self.0.handle(Input::Written { connection, buffer }, Instant(1));
                }
                Output::Send { to: Peer::Hub, envelope } => envelopes.push(envelope),
                Output::Close { .. } => is_closed = true,
                _ => {}
            }
        }
        (bytes, envelopes, is_closed)
    }

    fn want(&mut self, filter: &str) {
        let (node, filter) = (NodeIndex(0), filter.into());
        self.hub(Envelope::NodeInterest { node, filter, wanted: true });
    }
}

fn receipt_in(envelopes: &[Envelope]) -> ReceiptId {
    match envelopes {
        [Envelope::Bridge { receipt: Some(receipt), .. }] => *receipt,
        other => panic!("not one message with a receipt: {other:?}"),
    }
}

#[test]
fn puback_waits_for_the_hub_and_later_ones_wait_behind_it() {
    let mut bench = Bench::new(CONNECT_311);
    bench.want("far");
    let (bytes, told, _) = bench.client(b"\x32\x07\x00\x03far\x00\x01");
    assert_eq!(bytes, b"");
    let receipt = receipt_in(&told);
    // Nobody else wants this one, but it was published later [MQTT-4.6.0-2].
    assert_eq!(bench.client(b"\x32\x08\x00\x04near\x00\x02").0, b"");
    let (bytes, ..) = bench.hub(Envelope::Accepted { receipt });
    assert_eq!(bytes, b"\x40\x02\x00\x01\x40\x02\x00\x02");
    assert_eq!(bench.client(b"\x32\x08\x00\x04near\x00\x03").0, b"\x40\x02\x00\x03");
}

#[test]
fn qos_0_and_what_no_node_wants_wait_for_nothing() {
    let mut bench = Bench::new(CONNECT_311);
    bench.want("far");
    let (_, told, _) = bench.client(b"\x30\x05\x00\x03far");
    assert!(matches!(&told[..], [Envelope::Bridge { receipt: None, .. }]), "{told:?}");
    let (bytes, told, _) = bench.client(b"\x32\x08\x00\x04near\x00\x02");
    assert_eq!((&bytes[..], told.len()), (&b"\x40\x02\x00\x02"[..], 0));
}

#[test]
fn a_refusal_is_told_in_version_5_and_ends_the_connection_before_it() {
    let reason = ReasonCode::QuotaExceeded;
    let mut bench = Bench::new(CONNECT_5);
    bench.want("far");
    let (_, told, _) = bench.client(b"\x32\x08\x00\x03far\x00\x01\x00");
    let receipt = receipt_in(&told);
    let (bytes, _, is_closed) = bench.hub(Envelope::Refused { receipt, reason });
    // PUBACK of packet 1 with the reason; behind it a text for people (Reason String).
    assert_eq!((bytes[0], &bytes[2..5], is_closed), (0x40, &b"\x00\x01\x97"[..], false));

    let mut bench = Bench::new(CONNECT_311);
    bench.want("far");
    let (_, told, _) = bench.client(b"\x32\x07\x00\x03far\x00\x01");
    let receipt = receipt_in(&told);
    let (bytes, _, is_closed) = bench.hub(Envelope::Refused { receipt, reason });
    assert_eq!((&bytes[..], is_closed), (&b""[..], true));
}

#[test]
fn a_qos_2_message_sent_again_is_not_routed_and_not_acknowledged_early() {
    let mut bench = Bench::new(CONNECT_311);
    bench.want("far");
    let (_, told, _) = bench.client(b"\x34\x07\x00\x03far\x00\x01");
    let receipt = receipt_in(&told);
    let (bytes, told, _) = bench.client(b"\x3c\x07\x00\x03far\x00\x01");
    assert_eq!((&bytes[..], told.len()), (&b""[..], 0));
    assert_eq!(bench.hub(Envelope::Accepted { receipt }).0, b"\x50\x02\x00\x01");
    assert_eq!(bench.client(b"\x3c\x07\x00\x03far\x00\x01").0, b"\x50\x02\x00\x01");
}

#[test]
fn a_session_is_handed_over_when_all_that_its_client_published_is_confirmed() {
    let evict = || Envelope::Evict { client_id: "c".into(), epoch: 1 };
    let is_handed_over = |told: &[Envelope]| {
        let is_it = |envelope: &&Envelope| {
            matches!(envelope, Envelope::Surrendered(its)
            if its.epoch == 1 && its.record.is_some())
        };
        told.iter().filter(is_it).count()
    };
    let reason = ReasonCode::QuotaExceeded;
    for is_last_refused in [false, true] {
        let mut bench = Bench::new(CONNECT_LASTING);
        bench.want("far");
        let first = receipt_in(&bench.client(b"\x32\x07\x00\x03far\x00\x01").1);
        let last = receipt_in(&bench.client(b"\x34\x07\x00\x03far\x00\x02").1);
        // Asked once more, because the wish stands in Redis until it is granted.
        for is_closed in [true, false] {
            let (_, told, closed) = bench.hub(evict());
            assert_eq!((is_handed_over(&told), closed), (0, is_closed), "{told:?}");
        }
        let (_, told, _) = bench.hub(Envelope::Accepted { receipt: first });
        assert_eq!(is_handed_over(&told), 0, "{told:?}");
        let (_, told, _) = bench.hub(match is_last_refused {
            false => Envelope::Accepted { receipt: last },
            true => Envelope::Refused { receipt: last, reason },
        });
        assert_eq!(is_handed_over(&told), 1, "{told:?}");
    }
    // With nothing under way it goes at once.
    let mut bench = Bench::new(CONNECT_LASTING);
    let (_, told, _) = bench.hub(evict());
    assert_eq!(is_handed_over(&told), 1, "{told:?}");
}

#[test]
fn the_hub_is_told_of_the_first_and_the_last_session_with_a_filter() {
    let mut bench = Bench::new(CONNECT_311);
    let subscribe = b"\x82\x08\x00\x01\x00\x03a/b\x01";
    let (_, told, _) = bench.client(subscribe);
    assert!(
        matches!(
            &told[..],
            [Envelope::Interest { filter, wanted: true }, Envelope::Fence { .. }]
                if **filter == *"a/b"
        ),
        "{told:?}"
    );
    let (_, told, _) = bench.client(subscribe);
    assert!(matches!(&told[..], [Envelope::Fence { .. }]), "{told:?}");
    let (_, told, _) = bench.client(b"\xa2\x07\x00\x02\x00\x03a/b");
    assert!(matches!(&told[..], [Envelope::Interest { wanted: false, .. }]), "{told:?}");
    // A shared subscription is told by its own name.
    let (_, told, _) = bench.client(b"\x82\x11\x00\x03\x00\x0c$share/g/a/b\x01");
    assert!(
        matches!(
            &told[..],
            [Envelope::GroupState { presence: Some(_), .. }, Envelope::Fence { .. }]
        ),
        "{told:?}"
    );
}

#[test]
fn suback_waits_until_the_hub_says_that_the_group_knows() {
    let mut bench = Bench::new(CONNECT_311);
    let (bytes, told, _) = bench.client(b"\x82\x08\x00\x01\x00\x03a/b\x01");
    let Some(&Envelope::Fence { barrier }) = told.last() else { panic!("no fence: {told:?}") };
    assert_eq!(bytes, b"");
    assert_eq!(bench.hub(Envelope::Fenced { barrier }).0, b"\x90\x03\x00\x01\x01");
}

#[test]
fn a_client_that_does_not_wait_for_its_subacks_is_not_read_for_a_while() {
    let mut bench = Bench::new(CONNECT_311);
    let mut barriers = Vec::new();
    let mut outputs = Vec::new();
    for id in 1..=64_u8 {
        let bytes = [0x82, 8, 0, id, 0, 3, b'a', b'/', id.max(b'0'), 1];
        bench.0.handle(Input::Received { connection: CLIENT, bytes: &bytes }, Instant(1));
        while let Some(output) = bench.0.poll() {
            match output {
                Output::Send { envelope: Envelope::Fence { barrier }, .. } => {
                    barriers.push(barrier);
                }
                other => outputs.push(other),
            }
        }
    }
    let is_paused = |o: &Output| matches!(o, Output::PauseReading { connection: CLIENT });
    assert_eq!(outputs.iter().filter(|o| is_paused(o)).count(), 1);
    let mut is_resumed = false;
    for barrier in barriers {
        let (from, envelope) = (Peer::Hub, Envelope::Fenced { barrier });
        bench.0.handle(Input::Envelope { from, envelope }, Instant(1));
        while let Some(output) = bench.0.poll() {
            is_resumed |= matches!(output, Output::ResumeReading { connection: CLIENT });
        }
    }
    assert!(is_resumed);
}

#[test]
fn what_was_recorded_and_is_lost_is_recorded_anew() {
    let mut bench = Bench::new(CONNECT_5);
    bench.client(b"\x82\x09\x00\x01\x00\x00\x03a/b\x01");
    let (_, told, _) = bench.hub(Envelope::Restate { round: 3 });
    assert!(
        matches!(
            &told[..],
            [
                Envelope::Restated { round: 3, is_over: false },
                Envelope::Record(op),
                Envelope::Restated { round: 3, is_over: true },
            ] if matches!(op.change, octopus_engine::Change::Opened { .. }) && op.epoch == 1
        ),
        "{told:?}"
    );
}
