//! Accepts connections on this shard's listening sockets, with back-off when descriptors run
//! out and a limit on connections.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use octopus_engine::{Instant, ListenerId};

use crate::net::{Completion, Operation, Ring, Token};

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
    /// Per node; more are closed at once.
    pub(crate) connection_count_max: usize,
    retry_at: Option<Instant>,
    failure_count: u64,
    failures: Occasional,
    refusals: Occasional,
}

/// Counts events, and says when to log them.
#[derive(Debug, Default)]
struct Occasional {
    count: u64,
    quiet_until: Instant,
}

impl Occasional {
    /// Counts one more; returns how many came since the last time it did, or `None` while it
    /// is too early to log.
    fn note(&mut self, now: Instant) -> Option<u64> {
        self.count += 1;
        if now < self.quiet_until {
            return None;
        }
        self.quiet_until = now.after(LOG_EVERY);
        Some(std::mem::take(&mut self.count))
    }
}

impl Acceptor {
    pub(crate) fn new(
        sockets: impl IntoIterator<Item = (ListenerId, OwnedFd)>,
        connection_count_max: usize,
    ) -> Self {
        let listening = sockets
            .into_iter()
            .map(|(id, socket)| Listening { id, socket, armed: false })
            .collect();
        Self {
            listening,
            connection_count_max,
            retry_at: None,
            failure_count: 0,
            failures: Occasional::default(),
            refusals: Occasional::default(),
        }
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

    /// Accepts that failed so far.
    pub(crate) fn failure_count(&self) -> u64 {
        self.failure_count
    }

    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Accepts again if a failure's pause is over.
    pub(crate) fn retry(&mut self, ring: &mut Ring, now: Instant) {
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
        if !completion.more() {
            let pause = if accepted.is_ok() { Duration::ZERO } else { RETRY_AFTER };
            self.retry_at = Some(now.after(pause));
        }
        accepted.map_err(|error| self.failed(&error, now)).ok().map(|socket| (id, socket))
    }

    /// Notes that a connection was over the limit and closed.
    pub(crate) fn refused(&mut self, now: Instant) {
        if let Some(count) = self.refusals.note(now) {
            let limit = self.connection_count_max;
            tracing::warn!(count, limit, "connections refused: the node's limit is reached");
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
    fn many_failures_are_one_log_line_a_second() {
        let mut failures = Occasional::default();
        assert_eq!(failures.note(Instant(0)), Some(1));
        assert_eq!(failures.note(Instant(1)), None);
        assert_eq!(failures.note(Instant(999_999)), None);
        assert_eq!(failures.note(Instant(1_000_000)), Some(3));
    }
}
