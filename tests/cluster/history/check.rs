//! Whether a group kept its promises, from what its clients saw. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    time::Duration,
};

use super::record::{Event, Sent, What};

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// A persistent subscriber got nothing of a publisher at all, of a QoS.
    Silence { subscriber: String, publisher: String },
    /// Acknowledged, and not delivered to a persistent subscriber.
    Lost { subscriber: String, message: Sent },
    /// QoS 2, or QoS 0 on one connection.
    Twice { subscriber: String, message: Sent },
    /// `message` came first after one that was sent later.
    Disorder { subscriber: String, message: Sent, behind: u64 },
    /// A session that must live was not there any more.
    SessionLost { client: String, node: String, at: Duration },
    /// An older connection was served this long after a newer one was opened.
    TwoLive { client: String, connection: u32, late: Duration },
    /// One node's retained messages are not those of another.
    Retained { node: String, is: Retained, other: String, there: Retained },
    /// A counter of the group.
    Stats { name: String, is: u64, truth: u64 },
}

/// Topic -> payload.
pub(super) type Retained = BTreeMap<String, String>;

/// What is asked of a history.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    /// Their sessions are persistent, and all publishers' messages are for them; the shared
    /// group's messages for [`GROUP`].
    pub(super) subscribers: Vec<String>,
    /// After a newer connection's CONNACK an older one is served no longer than this.
    pub(super) takeover_max: Duration,
    /// When a node was killed, stopped or cut off. What a client had just published for a shared
    /// group then, and publishes again because the node could not say that it has it, may be there
    /// twice.
    pub(super) mishaps: Vec<Duration>,
}

/// How long before a mishap what was published is in doubt.
const DOUBT: Duration = Duration::from_secs(1);

impl Broken {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Silence { .. } => "silence",
            Self::Lost { .. } => "lost",
            Self::Twice { .. } => "twice",
            Self::Disorder { .. } => "disorder",
            Self::SessionLost { .. } => "session lost",
            Self::TwoLive { .. } => "two live connections",
            Self::Retained { .. } => "retained differ",
            Self::Stats { .. } => "stats wrong",
        }
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Every promise about messages and connections that `events` break.
pub(super) fn broken(events: &[Event], rules: &Rules) -> Vec<Broken> {
    let mut broken = lost(events, rules);
    broken.extend(twice(events, rules));
    broken.extend(disorder(events));
    broken.extend(sessions_lost(events));
    broken.extend(two_live(events, rules.takeover_max));
    broken
}

/// Who gets a message: its subscriber, or a shared group, which is one to its publishers.
fn receiver<'a>(client: &'a str, message: &Sent) -> &'a str {
    if message.is_shared() { GROUP } else { client }
}

/// The members of the shared group, together.
pub(super) const GROUP: &str = "the group";

/// Acknowledged messages above QoS 0 that a persistent subscriber did not get.
///
/// The promise begins with the first message of a publisher and QoS that the subscriber got:
/// before it, the publisher's node did not know of the subscription.
pub(super) fn lost(events: &[Event], rules: &Rules) -> Vec<Broken> {
    let mut got: HashMap<&str, HashSet<&Sent>> = HashMap::new();
    let mut first: HashMap<(&str, &str, u8), u64> = HashMap::new();
    for (client, _, message) in deliveries(events) {
        let receiver = receiver(client, message);
        got.entry(receiver).or_default().insert(message);
        let line = (receiver, &*message.publisher, message.qos);
        let first = first.entry(line).or_insert(u64::MAX);
        *first = message.number.min(*first);
    }
    let acknowledged = |is_shared: bool| -> BTreeSet<(&str, u8)> {
        let is_meant = |event: &Event| match &event.what {
            What::Acknowledged(message) if message.is_shared() == is_shared => Some(message.qos),
            _ => None,
        };
        events.iter().filter_map(|event| Some((&*event.client, is_meant(event)?))).collect()
    };
    let mut broken = Vec::new();
    for subscriber in &rules.subscribers {
        for (publisher, qos) in acknowledged(subscriber == GROUP) {
            if !first.contains_key(&(&**subscriber, publisher, qos)) {
                let (subscriber, publisher) = (subscriber.clone(), publisher.to_owned());
                broken.push(Broken::Silence { subscriber, publisher });
            }
        }
        for event in events {
            let What::Acknowledged(message) = &event.what else { continue };
            if message.is_shared() != (subscriber == GROUP) {
                continue;
            }
            let first = first.get(&(&**subscriber, &*message.publisher, message.qos));
            let is_promised = first.is_some_and(|&first| message.number > first);
            let has_come = got.get(&**subscriber).is_some_and(|got| got.contains(message));
            if is_promised && !has_come {
                let (subscriber, message) = (subscriber.clone(), message.clone());
                broken.push(Broken::Lost { subscriber, message });
            }
        }
    }
    broken
}

/// QoS 2 messages that came twice, and QoS 0 messages that came twice on one connection.
///
/// A message for a shared group that was in doubt when it was published again is excused: another
/// member may have got it the first time.
fn twice(events: &[Event], rules: &Rules) -> Vec<Broken> {
    let is_in_doubt =
        |at: Duration| rules.mishaps.iter().any(|&mishap| at <= mishap && mishap - at <= DOUBT);
    let mut in_doubt = HashSet::new();
    let mut resent = HashSet::new();
    for event in events {
        match &event.what {
            What::Published(message) if message.is_shared() && is_in_doubt(event.at) => {
                in_doubt.insert(message);
            }
            What::Resent(message) if in_doubt.contains(message) => {
                resent.insert(message);
            }
            _ => {}
        }
    }
    let mut seen = HashSet::new();
    let mut broken = Vec::new();
    for (subscriber, connection, message) in deliveries(events) {
        let connection = if message.qos == 0 { connection } else { 0 };
        let may_repeat = message.qos == 1 || resent.contains(message);
        let receiver = receiver(subscriber, message);
        if !may_repeat && !seen.insert((receiver, connection, message)) {
            let (subscriber, message) = (subscriber.to_owned(), message.clone());
            broken.push(Broken::Twice { subscriber, message });
        }
    }
    broken
}

/// Messages whose first delivery came after that of one sent later: by publisher, topic and QoS,
/// for QoS 0 by connection too. The members of a shared group have no order among them.
fn disorder(events: &[Event]) -> Vec<Broken> {
    let mut seen = HashSet::new();
    let mut last: HashMap<_, u64> = HashMap::new();
    let mut broken = Vec::new();
    for (subscriber, connection, message) in deliveries(events) {
        let connection = if message.qos == 0 { connection } else { 0 };
        if message.is_shared() || !seen.insert((subscriber, connection, message)) {
            continue;
        }
        let line = (subscriber, connection, &message.publisher, &message.topic, message.qos);
        let last = last.entry(line).or_default();
        if message.number < *last {
            let (subscriber, message) = (subscriber.to_owned(), message.clone());
            broken.push(Broken::Disorder { subscriber, message, behind: *last });
        }
        *last = message.number.max(*last);
    }
    broken
}

/// Sessions that were there once and then were not.
fn sessions_lost(events: &[Event]) -> Vec<Broken> {
    let mut known = HashSet::new();
    let mut broken = Vec::new();
    for event in events {
        if let What::Opened { node, is_present, .. } = &event.what
            && !known.insert(&event.client)
            && !is_present
        {
            let (client, node) = (event.client.clone(), node.clone());
            broken.push(Broken::SessionLost { client, node, at: event.at });
        }
    }
    broken
}

/// Older connections that were served although a newer one was, with the last time they were.
fn two_live(events: &[Event], bound: Duration) -> Vec<Broken> {
    let mut opened: HashMap<&str, Vec<(u32, Duration)>> = HashMap::new();
    let mut late: BTreeMap<(&str, u32), Duration> = BTreeMap::new();
    for event in events {
        match event.what {
            What::Opened { connection, .. } => {
                opened.entry(&event.client).or_default().push((connection, event.at));
            }
            What::Answered { connection, asked } => {
                let newer = opened.get(&*event.client).into_iter().flatten();
                let newer = newer.filter(|(newer, _)| *newer > connection);
                let after = newer.map(|(_, at)| asked.saturating_sub(*at)).max();
                if let Some(after) = after.filter(|after| *after > bound) {
                    late.insert((&event.client, connection), after);
                }
            }
            _ => {}
        }
    }
    late.into_iter()
        .map(|((client, connection), late)| Broken::TwoLive {
            client: client.to_owned(),
            connection,
            late,
        })
        .collect()
}

/// Nodes whose retained messages differ from those of the first.
pub(super) fn retained_differ(nodes: &[(String, Retained)]) -> Vec<Broken> {
    let Some(((first, expected), others)) = nodes.split_first() else { return Vec::new() };
    let differ = others.iter().filter(|(_, is)| is != expected);
    differ
        .map(|(node, is)| Broken::Retained {
            node: node.clone(),
            is: is.clone(),
            other: first.clone(),
            there: expected.clone(),
        })
        .collect()
}

/// Counters that are not what they count; each as its name, what it says, and the truth.
pub(super) fn stats_wrong(counters: &[(&str, u64, u64)]) -> Vec<Broken> {
    let wrong = counters.iter().filter(|(_, is, truth)| is != truth);
    wrong.map(|&(name, is, truth)| Broken::Stats { name: name.to_owned(), is, truth }).collect()
}

fn deliveries(events: &[Event]) -> impl Iterator<Item = (&str, u32, &Sent)> {
    events.iter().filter_map(|event| match &event.what {
        What::Delivered { connection, message } => Some((&*event.client, *connection, message)),
        _ => None,
    })
}
