//! What a subscription costs in memory: on the shard that holds it, and on one that only knows
//! that another shard wants it. Counted where it is allocated, at the number of filters where
//! the hash table under both has just doubled, which is where each costs most.

use octopus_engine::{Grant, Interest, SessionId, Subscriber, Subscriptions};
use octopus_mqtt::{QoS, TopicFilter};

/// One more than 2^14 buckets hold.
const COUNT: u32 = (1 << 14) / 8 * 7 + 1;

/// Makes the filter with a number.
type Form = fn(u32) -> String;

const FORMS: [(&str, Form); 4] = [
    ("exact", |n| format!("plant/hall/{n:06}/status")),
    ("plus at the end", |n| format!("plant/hall/{n:06}/+")),
    ("plus within", |n| format!("plant/+/{n:06}/status")),
    ("hash", |n| format!("plant/hall/{n:06}/#")),
];

fn bytes_each(mut each: impl FnMut(u32)) -> u64 {
    let counted = allocation_counter::measure(|| (0..COUNT).for_each(&mut each));
    u64::try_from(counted.bytes_current).expect("nothing is given back") / u64::from(COUNT)
}

fn with_filter(form: Form, number: u32, act: impl FnOnce(TopicFilter<'_>)) {
    act(TopicFilter::parse(&form(number)).expect("a filter of this test"));
}

#[test]
fn a_subscription_is_at_most_150_bytes_where_it_is_held() {
    let grant = Grant {
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        subscription_id: 0,
    };
    for (name, form) in FORMS {
        let mut subscriptions = Subscriptions::new(1);
        let bytes = bytes_each(|number| {
            with_filter(form, number, |filter| {
                let subscriber = Subscriber::Session(SessionId(number));
                subscriptions.subscribe(filter, subscriber, grant);
            });
        });
        assert_eq!(subscriptions.subscription_count(), COUNT as usize);
        note(name, "held", bytes);
        assert!(bytes <= 150, "{name}: {bytes} bytes");
    }
}

#[test]
fn a_subscription_is_at_most_50_bytes_where_it_is_replicated() {
    for (name, form) in FORMS {
        let mut interest = Interest::new(1);
        let bytes = bytes_each(|number| {
            with_filter(form, number, |filter| interest.add(filter, (number % 3) as u16));
        });
        note(name, "replicated", bytes);
        assert!(bytes <= 50, "{name}: {bytes} bytes");
    }
}

/// A line for the results, if they are asked for.
#[expect(clippy::print_stdout, reason = "the table is asked for")]
fn note(name: &str, part: &str, bytes: u64) {
    if std::env::var_os("OCTOPUS_SIM_TABLE").is_some() {
        println!("{part} | {name} | {bytes}");
    }
}
