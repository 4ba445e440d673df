//! What real clients saw, event by event: the ground on which promises are judged.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

/// What is published below is for one member of a shared group each.
pub(super) const TEAM: &str = "team";

/// A message as its payload tells it: who sent it, and as which of its messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Sent {
    pub(super) publisher: String,
    pub(super) topic: String,
    pub(super) qos: u8,
    /// Counts all of this publisher's messages.
    pub(super) number: u64,
}

impl Sent {
    pub(super) fn payload(&self) -> String {
        format!("{} {} {}", self.publisher, self.qos, self.number)
    }

    /// It is for a shared group.
    pub(super) fn is_shared(&self) -> bool {
        self.topic.starts_with(TEAM)
    }

    /// The message that came as `payload` on `topic`; `None` if no recorder sent it.
    pub(super) fn read(topic: &str, payload: &str) -> Option<Self> {
        let mut words = payload.split(' ');
        let publisher = words.next()?.to_owned();
        let (qos, number) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self { publisher, topic: topic.to_owned(), qos, number })
    }
}

/// What happened to a client. Connections are counted per client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// CONNACK: this node serves it from now on.
    Opened {
        connection: u32,
        node: String,
        is_present: bool,
    },
    Closed {
        connection: u32,
    },
    /// The node still served this connection when it got this PINGREQ.
    Answered {
        connection: u32,
        /// When PINGREQ was sent: what a cut wire held back proves nothing of the time after.
        asked: Duration,
    },
    Published(Sent),
    /// Published again on a new connection.
    Resent(Sent),
    /// PUBACK or PUBREC without an error.
    Acknowledged(Sent),
    Delivered {
        connection: u32,
        message: Sent,
    },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened { connection, node, is_present } => {
                write!(f, "opened {connection} on {node}, session present: {is_present}")
            }
            Self::Closed { connection } => write!(f, "closed {connection}"),
            Self::Answered { connection, asked } => {
                write!(f, "answered {connection}, asked at {:.3}", asked.as_secs_f32())
            }
            Self::Published(sent) => write!(f, "published {} {}", sent.topic, sent.payload()),
            Self::Resent(sent) => write!(f, "resent {} {}", sent.topic, sent.payload()),
            Self::Acknowledged(sent) => {
                write!(f, "acknowledged {} {}", sent.topic, sent.payload())
            }
            Self::Delivered { connection, message } => {
                write!(f, "delivered {connection} {} {}", message.topic, message.payload())
            }
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Event {
    /// Since the history began.
    pub(super) at: Duration,
    pub(super) client: String,
    pub(super) what: What,
}

/// All events of a run in the order they were seen. Cheap to clone.
#[derive(Clone)]
pub(super) struct History {
    begun: Instant,
    events: Arc<Mutex<Vec<Event>>>,
}

impl History {
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), events: Arc::default() }
    }

    pub(super) fn note(&self, client: &str, what: What) {
        let at = self.now();
        self.events().push(Event { at, client: client.to_owned(), what });
    }

    /// Since the history began.
    pub(super) fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(super) fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().expect("nobody panics between two events")
    }
}
