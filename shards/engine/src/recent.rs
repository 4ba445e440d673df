//! What went wrong lately, for the question "where did my message go": the last drops,
//! refusals and broken connections of this shard.
//!
//! A bounded ring. The same thing again is counted, not kept again; and at most
//! [`PER_SECOND_MAX`] new things are kept in a second, so that a storm of drops costs a
//! counter each. Scope: shard.

use std::collections::VecDeque;
use std::time::Duration;

use octopus_mqtt::ReasonCode;

use crate::event::{DisconnectReason, Instant, LostCause};
use crate::message::Dropped;

/// Incidents kept.
const KEPT_MAX: usize = 1024;
/// Incidents kept per second.
const PER_SECOND_MAX: u32 = 64;

/// Something that did not go as a client or an operator may have wished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// When it happened last.
    pub at: Instant,
    /// Whom it happened to; empty if no Client Identifier is known.
    pub client: Box<str>,
    /// Topic Name or Topic Filter, or empty.
    pub topic: Box<str>,
    pub what: What,
    /// How often it happened in a row.
    pub count: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A message did not reach `client`; for `no_subscriber` and `not_authorized` the client
    /// is its publisher.
    Dropped(Dropped),
    /// A subscription was refused.
    SubscriptionRefused(ReasonCode),
    /// The connection was refused, or ended without the client's wish.
    Ended(DisconnectReason),
}

impl What {
    /// The reason in words.
    pub fn reason(&self) -> String {
        match self {
            Self::Dropped(reason) => reason.label().to_owned(),
            Self::SubscriptionRefused(code) => code.name().to_owned(),
            Self::Ended(DisconnectReason::ByClient(code)) => code.name().to_owned(),
            Self::Ended(DisconnectReason::ByServer(code, why)) => {
                format!("{} ({why})", code.name())
            }
            Self::Ended(DisconnectReason::Lost(LostCause::ClosedByPeer)) => {
                "closed by peer".to_owned()
            }
            Self::Ended(DisconnectReason::Lost(LostCause::Error)) => "connection error".to_owned(),
            Self::Ended(DisconnectReason::Lost(LostCause::Layer)) => {
                "stream layer error".to_owned()
            }
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Recent {
    ring: VecDeque<Incident>,
    second_ends_at: Instant,
    kept_this_second: u32,
}

impl Recent {
    pub(crate) fn note(&mut self, now: Instant, client: &str, topic: &str, what: What) {
        if let Some(last) = self.ring.back_mut()
            && last.what == what
            && *last.client == *client
            && *last.topic == *topic
        {
            last.at = now;
            last.count += 1;
            return;
        }
        if now >= self.second_ends_at {
            self.second_ends_at = now.after(Duration::from_secs(1));
            self.kept_this_second = 0;
        }
        if self.kept_this_second == PER_SECOND_MAX {
            return;
        }
        self.kept_this_second += 1;
        if self.ring.len() == KEPT_MAX {
            self.ring.pop_front();
        }
        let (client, topic) = (client.into(), topic.into());
        self.ring.push_back(Incident { at: now, client, topic, what, count: 1 });
    }

    /// The newest incidents with this Client Identifier or topic; all if `about` is empty.
    pub(crate) fn about(&self, about: &str, limit: usize) -> Vec<Incident> {
        let is_meant = |incident: &&Incident| {
            about.is_empty() || *incident.client == *about || *incident.topic == *about
        };
        self.ring.iter().rev().filter(is_meant).take(limit).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DROP: What = What::Dropped(Dropped::QueueFull);

    #[test]
    fn the_same_again_is_counted_and_a_storm_is_sampled() {
        let mut recent = Recent::default();
        for us in 0..1000 {
            recent.note(Instant(us), "slow", "a/b", DROP);
        }
        let found = recent.about("slow", 10);
        assert_eq!((found.len(), found[0].count, found[0].at), (1, 1000, Instant(999)));
        for us in 0..1000 {
            recent.note(Instant(us), &format!("c{us}"), "a/b", DROP);
        }
        assert_eq!(recent.about("a/b", 1000).len(), PER_SECOND_MAX as usize);
        recent.note(Instant(2_000_000), "late", "x", DROP);
        assert_eq!(recent.about("", 1)[0].client, "late".into());
        assert_eq!(recent.about("nobody", 10), []);
    }

    #[test]
    fn the_oldest_gives_way() {
        let mut recent = Recent::default();
        for second in 0..2000_u64 {
            recent.note(Instant(second * 1_000_000), &second.to_string(), "t", DROP);
        }
        assert_eq!(recent.about("", 5000).len(), KEPT_MAX);
        assert!(recent.about("0", 1).is_empty() && !recent.about("1999", 1).is_empty());
    }
}
