//! Accepts connections on this shard's listening sockets, with back-off when descriptors run
//! out and a limit on connections.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use octopus_engine::{Instant, ListenerId};

use crate::census::{AcceptLimits, Full};
use crate::net::{Completion, Operation, Ring, Token};
use crate::stream::Layers;

/// Pause after a failed accept: descriptors or memory ran out, and both take a while.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// One log line per kind and this time, however many connections are turned away.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// One listening socket of this shard.
#[derive(Debug)]
struct Listening {
    id: ListenerId,
    socket: OwnedFd,
    armed: bool,
}

/// Scope: shard.
#[derive(Debug)]
pub(crate) struct Acceptor {
    listening: Vec<Listening>,
    /// By listener id.
    layers: HashMap<ListenerId, Layers>,
    no_layers: Layers,
    /// Of the node.
    limits: AcceptLimits,
    shards: u16,
    pace: Pace,
    retry_at: Option<Instant>,
    failure_count: u64,
    failures: Occasional,
    refusals: Occasional,
    paced_count: u64,
    paced: Occasional,
}

/// Counts events, and says when to log them.
#[derive(Debug, Default)]
pub(crate) struct Occasional {
    count: u64,
    quiet_until: Instant,
}

impl Occasional {
    /// Counts one more; returns how many came since the last time it did, or `None` while it
    /// is too early to log.
    pub(crate) fn note(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if now < self.quiet_until {
            return None;
        }
        self.quiet_until = now.after(LOG_EVERY);
        Some(std::mem::take(&mut self.count))
    }
}

/// How many connections a second are accepted. A tenth of a second's worth may come at once.
#[derive(Debug)]
struct Pace {
    /// 0: any number.
    rate_max: u32,
    /// When the rate would have allowed what came.
    due_us: u64,
}

impl Pace {
    const BURST_US: u64 = 100_000;

    fn count(&mut self, now: Instant) {
        if self.rate_max > 0 {
            let start = self.due_us.max(now.0.saturating_sub(Self::BURST_US));
            self.due_us = start + (1_000_000 / u64::from(self.rate_max)).max(1);
        }
    }

    /// When to go on, if more came than may.
    fn resume_at(&self, now: Instant) -> Option<Instant> {
        (self.due_us > now.0).then_some(Instant(self.due_us))
    }
}

impl Acceptor {
    pub(crate) fn new(
        sockets: impl IntoIterator<Item = (ListenerId, OwnedFd)>,
        layers: HashMap<ListenerId, Layers>,
        limits: AcceptLimits,
        shards: u16,
    ) -> Self {
        let listening = sockets
            .into_iter()
            .map(|(id, socket)| Listening { id, socket, armed: false })
            .collect();
        Self {
            listening,
            layers,
            no_layers: Layers::default(),
            pace: Pace { rate_max: Self::rate(&limits, shards), due_us: 0 },
            limits,
            shards,
            retry_at: None,
            failure_count: 0,
            failures: Occasional::default(),
            refusals: Occasional::default(),
            paced_count: 0,
            paced: Occasional::default(),
        }
    }

    /// This shard's part of what the node may accept in a second.
    fn rate(limits: &AcceptLimits, shards: u16) -> u32 {
        limits.rate_max.div_ceil(u32::from(shards.max(1)))
    }

    pub(crate) fn limits(&self) -> &AcceptLimits {
        &self.limits
    }

    /// Puts other limits in force. What waits for a slower pace goes on with the new one.
    pub(crate) fn set_limits(&mut self, limits: AcceptLimits) {
        self.pace = Pace { rate_max: Self::rate(&limits, self.shards), due_us: 0 };
        self.limits = limits;
    }

    /// Accepts on every socket where it does not already.
    pub(crate) fn arm(&mut self, ring: &mut Ring) {
        self.retry_at = None;
        for (slot, listening) in (0..).zip(&mut self.listening) {
            if !listening.armed {
                listening.armed = true;
                ring.accept(listening.socket.as_fd(), slot);
            }
        }
    }

    /// The layers of a listener's connections.
    pub(crate) fn layers(&self, listener: ListenerId) -> &Layers {
        self.layers.get(&listener).unwrap_or(&self.no_layers)
    }

    /// Accepts that failed so far.
    pub(crate) fn failure_count(&self) -> u64 {
        self.failure_count
    }

    /// Pauses because more came than the rate allows, so far.
    pub(crate) fn paced_count(&self) -> u64 {
        self.paced_count
    }

    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Stops accepting while more came than the rate allows; what waits is in the backlog.
    pub(crate) fn keep_pace(&mut self, ring: &mut Ring, now: Instant) {
        let Some(resume_at) = self.pace.resume_at(now) else { return };
        for (slot, listening) in (0..).zip(&self.listening) {
            if listening.armed && self.retry_at != Some(resume_at) {
                ring.cancel(Token::new(Operation::Accept, slot));
            }
        }
        self.note_paced(resume_at, now);
        self.retry_at = Some(resume_at);
    }

    /// Counts a pause when it begins.
    fn note_paced(&mut self, resume_at: Instant, now: Instant) {
        if self.retry_at == Some(resume_at) {
            return;
        }
        self.paced_count += 1;
        if let Some(count) = self.paced.note(now) {
            let limit = self.pace.rate_max;
            tracing::warn!(count, limit, "connections wait: more come a second than may");
        }
    }

    /// Accepts again if a failure's pause is over.
    pub(crate) fn retry(&mut self, ring: &mut Ring, now: Instant) {
        self.keep_pace(ring, now);
        if self.retry_at.is_some_and(|at| at <= now) {
            self.arm(ring);
        }
    }

    /// The connection that a completion brings, if it brings one.
    pub(crate) fn accepted(
        &mut self,
        completion: Completion,
        now: Instant,
    ) -> Option<(ListenerId, OwnedFd)> {
        let accepted = completion.accepted();
        // Gone after `stop`: a connection that came just before is closed.
        let listening = self.listening.get_mut(completion.token.slot as usize)?;
        listening.armed = completion.more();
        let id = listening.id;
        if accepted.is_ok() {
            self.pace.count(now);
        }
        if !completion.more() {
            let is_held_back = self.pace.resume_at(now).is_some();
            let pause = if accepted.is_ok() || is_held_back { Duration::ZERO } else { RETRY_AFTER };
            self.retry_at = Some(now.after(pause));
            if accepted.is_err() && is_held_back {
                // Cancelled by `keep_pace`.
                return None;
            }
        }
        accepted.map_err(|error| self.failed(&error, now)).ok().map(|socket| (id, socket))
    }

    /// Notes that a connection was over a limit and closed.
    pub(crate) fn refused(&mut self, listener: ListenerId, full: Full, now: Instant) {
        let Some(count) = self.refusals.note(now) else { return };
        let listener = listener.0;
        match full {
            Full::Node(limit) => {
                tracing::warn!(count, limit, "connections refused: the node's limit is reached");
            }
            Full::Listener(limit) => {
                let what = "connections refused: the listener's limit is reached";
                tracing::warn!(count, listener, limit, "{what}");
            }
        }
    }

    fn failed(&mut self, error: &io::Error, now: Instant) {
        self.failure_count += 1;
        if let Some(count) = self.failures.note(now) {
            tracing::warn!(count, %error, "connections cannot be accepted; trying again");
        }
    }

    /// Accepts nothing any more and closes the sockets.
    pub(crate) fn stop(&mut self, ring: &mut Ring) {
        self.retry_at = None;
        for (slot, listening) in (0..).zip(self.listening.drain(..)) {
            if listening.armed {
                ring.cancel(Token::new(Operation::Accept, slot));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_allows_a_burst_and_then_its_rate() {
        let mut pace = Pace { rate_max: 100, due_us: 0 };
        let start = Instant(1_000_000);
        for _ in 0..10 {
            assert_eq!(pace.resume_at(start), None);
            pace.count(start);
        }
        pace.count(start);
        assert_eq!(pace.resume_at(start), Some(start.after(Duration::from_millis(10))));
        assert_eq!(pace.resume_at(start.after(Duration::from_millis(10))), None);
    }

    #[test]
    fn many_failures_are_one_log_line_a_second() {
        let mut failures = Occasional::default();
        assert_eq!(failures.note(Instant(0)), Some(1));
        assert_eq!(failures.note(Instant(1)), None);
        assert_eq!(failures.note(Instant(999_999)), None);
        assert_eq!(failures.note(Instant(1_000_000)), Some(3));
    }
}
