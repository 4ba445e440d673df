//! What a subscription costs in memory, counted where it is allocated.

use octopus_engine::{
    Grant, Instant, Interest, PeerIndex, SessionId, Subscriber, Subscriptions, Wheel,
};
use octopus_mqtt::{QoS, TopicFilter};

const COUNT: u32 = 100_000;

/// The filter with this number.
type Text = fn(u32) -> String;

/// Bytes that `make` keeps allocated in what it returns.
fn bytes_kept<T>(make: impl FnOnce() -> T) -> usize {
    let mut kept = None;
    let counted = allocation_counter::measure(|| kept = Some(make()));
    drop(kept);
    usize::try_from(counted.bytes_current).expect("what is kept was allocated")
}

fn subscribe_all(text: Text) -> usize {
    bytes_kept(|| {
        let mut subscriptions = Subscriptions::new(7);
        let grant = Grant {
            qos: QoS::AtLeastOnce,
            no_local: false,
            retain_as_published: false,
            subscription_id: 0,
        };
        for index in 0..COUNT {
            let text = text(index);
            let filter = TopicFilter::parse(&text).expect("a valid filter");
            subscriptions.subscribe(filter, Subscriber::Session(SessionId(index)), grant);
        }
        assert_eq!(subscriptions.subscription_count(), COUNT as usize);
        subscriptions
    })
}

/// Every filter is wanted by one of 80 peers.
fn announce_all(text: Text) -> usize {
    bytes_kept(|| {
        let mut interest = Interest::new(7);
        for index in 0..COUNT {
            let text = text(index);
            let filter = TopicFilter::parse(&text).expect("a valid filter");
            interest.add(filter, (index % 80) as PeerIndex);
        }
        interest
    })
}

/// One test, for the count is one for the whole process.
#[test]
fn a_subscription_is_at_most_150_bytes_at_home_and_50_on_a_replica() {
    let texts: [(&str, Text); 5] = [
        ("exact", |index| format!("plant/hall-{}/sensor-{index}/status", index % 100)),
        ("plus", |index| format!("plant/hall-{}/sensor-{index}/+", index % 100)),
        ("multi", |index| format!("plant/hall-{}/sensor-{index}/#", index % 100)),
        ("shared prefix", |index| format!("plant/+/sensor-{index}")),
        ("literal levels behind", |index| format!("plant/+/sensor-{index}/status")),
    ];
    for (name, text) in texts {
        let home = subscribe_all(text) / COUNT as usize;
        let replica = announce_all(text) / COUNT as usize;
        assert!(home <= 150, "{name}: {home} bytes at home");
        assert!(replica <= 50, "{name}: {replica} bytes on a replica");
    }

    let one_filter = subscribe_all(|_| "news/#".to_owned()) / COUNT as usize;
    assert!(one_filter <= 50, "one filter, many subscribers: {one_filter} bytes");

    let timer = bytes_kept(|| {
        let mut wheel = Wheel::new(Instant(0));
        for index in 0..COUNT {
            wheel.arm(Instant(u64::from(index) * 1000), u64::from(index));
        }
        wheel
    });
    assert!(timer / COUNT as usize <= 32, "a timer: {} bytes", timer / COUNT as usize);
}
