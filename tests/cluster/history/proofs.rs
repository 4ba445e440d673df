//! That the checker sees each kind of broken promise, and none in a history that keeps all.

use std::time::Duration;

use libtest_mimic::Failed;

use super::{
    Case,
    check::{Broken, Retained, Rules, broken, retained_differ, stats_wrong},
    record::{Event, Sent, TEAM, What},
};

pub(super) fn all() -> Vec<(&'static str, Case)> {
    vec![
        ("checker_is_content_with_a_good_history", good),
        ("checker_sees_that_a_message_is_lost", lost),
        ("checker_does_not_ask_for_what_was_not_acknowledged", not_promised),
        ("checker_sees_that_a_subscriber_gets_nothing", silence),
        ("checker_sees_that_a_message_came_twice", twice),
        ("checker_sees_that_messages_changed_places", disorder),
        ("checker_sees_that_a_session_is_lost", session_lost),
        ("checker_sees_two_live_connections", two_live),
        ("checker_sees_that_retained_messages_differ", retained),
        ("checker_sees_that_counters_drift", stats),
    ]
}

const BOUND: Duration = Duration::from_secs(2);

/// A history of the publisher `p` and the persistent subscriber `s`.
#[derive(Default)]
struct Story(Vec<Event>);

impl Story {
    fn then(mut self, after_ms: u64, client: &str, what: What) -> Self {
        let last = self.0.last().map_or(Duration::ZERO, |event| event.at);
        let at = last + Duration::from_millis(after_ms);
        self.0.push(Event { at, client: client.to_owned(), what });
        self
    }

    fn opened(self, connection: u32, is_present: bool) -> Self {
        let node = format!("N{connection}");
        self.then(1, "s", What::Opened { connection, node, is_present })
    }

    fn published(self, qos: u8, number: u64) -> Self {
        self.then(1, "p", What::Published(sent(qos, number)))
    }

    fn acknowledged(self, qos: u8, number: u64) -> Self {
        let story = self.published(qos, number);
        story.then(1, "p", What::Acknowledged(sent(qos, number)))
    }

    fn delivered(self, connection: u32, qos: u8, number: u64) -> Self {
        let message = sent(qos, number);
        self.then(1, "s", What::Delivered { connection, message })
    }

    fn broken(&self) -> Vec<Broken> {
        self.broken_if(&[])
    }

    fn broken_if(&self, mishaps: &[Duration]) -> Vec<Broken> {
        let (subscribers, mishaps) = (vec!["s".to_owned()], mishaps.to_vec());
        broken(&self.0, &Rules { subscribers, takeover_max: BOUND, mishaps })
    }
}

fn sent(qos: u8, number: u64) -> Sent {
    Sent { publisher: "p".to_owned(), topic: "t".to_owned(), qos, number }
}

/// Three acknowledged messages, all delivered.
fn beginning() -> Story {
    let mut story = Story::default().opened(1, false);
    for (qos, number) in [(1, 1), (2, 2), (0, 3)] {
        story = match qos {
            0 => story.published(qos, number),
            _ => story.acknowledged(qos, number),
        };
        story = story.delivered(1, qos, number);
    }
    story
}

fn good() -> Result<(), Failed> {
    let story = beginning().opened(2, true).delivered(2, 1, 1);
    // QoS 1 comes again, the publisher's QoS 0 is lost, and what is behind it comes.
    let story = story.published(0, 4).acknowledged(1, 5).delivered(2, 1, 5);
    let story = story.then(10, "s", What::Closed { connection: 1 });
    assert_eq!(story.broken(), []);
    Ok(())
}

fn lost() -> Result<(), Failed> {
    for qos in [1, 2] {
        let story = beginning().acknowledged(qos, 4).acknowledged(1, 5).delivered(1, 1, 5);
        let lost = Broken::Lost { subscriber: "s".to_owned(), message: sent(qos, 4) };
        assert_eq!(story.broken(), [lost]);
    }
    Ok(())
}

fn not_promised() -> Result<(), Failed> {
    // Published and never acknowledged; acknowledged before the subscription was known.
    let story = Story::default().opened(1, false).acknowledged(1, 1);
    let story = story.acknowledged(1, 2).delivered(1, 1, 2).published(1, 3);
    assert_eq!(story.broken(), []);
    Ok(())
}

fn silence() -> Result<(), Failed> {
    let story = Story::default().opened(1, false).acknowledged(1, 1);
    let silence = Broken::Silence { subscriber: "s".to_owned(), publisher: "p".to_owned() };
    assert_eq!(story.broken(), [silence]);
    Ok(())
}

fn twice() -> Result<(), Failed> {
    let twice = |qos| Broken::Twice {
        subscriber: "s".to_owned(),
        message: sent(qos, if qos == 2 { 2 } else { 3 }),
    };
    assert_eq!(beginning().delivered(1, 2, 2).broken(), [twice(2)]);
    // Also by way of another node.
    assert_eq!(beginning().opened(2, true).delivered(2, 2, 2).broken(), [twice(2)]);
    assert_eq!(beginning().delivered(1, 0, 3).broken(), [twice(0)]);
    // Also if its publisher had to publish it again when a node was killed.
    let at = |ms| [Duration::from_millis(ms)];
    let again = beginning().then(1, "p", What::Resent(sent(2, 2))).delivered(1, 2, 2);
    assert_eq!(again.broken_if(&at(20)), [twice(2)]);
    // For a shared group it may be there twice, if it was just under way then.
    let message = || Sent { topic: format!("{TEAM}/p"), ..sent(2, 4) };
    let delivered =
        |story: Story| story.then(1, "s", What::Delivered { connection: 1, message: message() });
    let shared = delivered(beginning().then(1, "p", What::Published(message())));
    let twice = [Broken::Twice { subscriber: "s".to_owned(), message: message() }];
    assert_eq!(delivered(shared).broken_if(&at(20)), twice);
    let shared = delivered(beginning().then(1, "p", What::Published(message())));
    let again = delivered(shared.then(1, "p", What::Resent(message())));
    assert_eq!(again.broken_if(&at(20)), []);
    for mishap in [at(1), at(2000)] {
        assert_eq!(again.broken_if(&mishap), twice);
    }
    Ok(())
}

fn disorder() -> Result<(), Failed> {
    let story = beginning().acknowledged(1, 4).acknowledged(1, 5);
    let story = story.delivered(1, 1, 5).delivered(1, 1, 4);
    let broken = Broken::Disorder { subscriber: "s".to_owned(), message: sent(1, 4), behind: 5 };
    assert_eq!(story.broken(), [broken]);
    // Messages of another QoS may come in between, and QoS 1 may come again.
    let story = beginning().acknowledged(1, 4).acknowledged(2, 5);
    let story = story.delivered(1, 2, 5).delivered(1, 1, 4).delivered(1, 1, 1);
    assert_eq!(story.broken(), []);
    Ok(())
}

fn session_lost() -> Result<(), Failed> {
    let found = beginning().opened(2, false).broken();
    assert!(matches!(&found[..], [Broken::SessionLost { node, .. }] if node == "N2"), "{found:?}");
    Ok(())
}

fn two_live() -> Result<(), Failed> {
    let answered = |asked_ms| {
        let moved = beginning().opened(2, true);
        let opened = moved.0.last().map_or(Duration::ZERO, |event| event.at);
        let asked = opened + Duration::from_millis(asked_ms);
        moved.then(5000, "s", What::Answered { connection: 1, asked }).broken()
    };
    assert_eq!(answered(1900), []);
    let late = answered(2100);
    assert!(matches!(late[..], [Broken::TwoLive { connection: 1, .. }]), "{late:?}");
    // It need not have been closed, only not be served: the client may be unable to hear.
    let closed = beginning().opened(2, true).then(9000, "s", What::Closed { connection: 1 });
    assert_eq!(closed.broken(), []);
    Ok(())
}

fn retained() -> Result<(), Failed> {
    let has = |text: &str| Retained::from([("r".to_owned(), text.to_owned())]);
    let nodes = |b: Retained| [("A".to_owned(), has("1")), ("B".to_owned(), b)];
    assert_eq!(retained_differ(&nodes(has("1"))), []);
    for other in [has("2"), Retained::new()] {
        let found = retained_differ(&nodes(other.clone()));
        assert!(
            matches!(&found[..], [Broken::Retained { node, is, .. }] if node == "B" && *is == other)
        );
    }
    Ok(())
}

fn stats() -> Result<(), Failed> {
    assert_eq!(stats_wrong(&[("CONNECTION", 3, 3)]), []);
    let wrong = Broken::Stats { name: "CONNECTION".to_owned(), is: 4, truth: 3 };
    assert_eq!(stats_wrong(&[("CONNECTION", 4, 3), ("TOPICS", 1, 1)]), [wrong]);
    Ok(())
}
