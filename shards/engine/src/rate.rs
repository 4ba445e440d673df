//! How fast one client, and all clients of one listener together, may send: messages and bytes
//! per second, kept by reading later.
//!
//! Nothing is dropped: what was read is handled, its cost is charged, and a client that is
//! ahead of its rate, or whose listener is, is not read again before time has caught up. A
//! second's worth may come at once. Clients of one listener wait in the order in which they
//! sent, because each is read again when its own bytes are paid for.

use crate::connection::Pause;
use crate::event::{ConnectionId, Instant, Notice, Output, SlowedBy};
use crate::limits::Rate;
use crate::shard::{Shard, Timer};

const NS_PER_S: u64 = 1_000_000_000;
const NS_PER_US: u64 = 1000;

/// What was sent, as the time at which the rate would have allowed it. Scope: connection, or
/// one listener's connections on this shard.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    messages_due_ns: u64,
    bytes_due_ns: u64,
}

impl Meter {
    /// Charges what came at `now`; the moment to read again, if that is later than `now`.
    pub(crate) fn charge(
        &mut self,
        messages: u64,
        bytes: u64,
        rate: Rate,
        now: Instant,
    ) -> Option<Instant> {
        let now_ns = now.0.saturating_mul(NS_PER_US);
        advance(&mut self.messages_due_ns, messages, u64::from(rate.messages), now_ns);
        advance(&mut self.bytes_due_ns, bytes, rate.bytes as u64, now_ns);
        let due_ns = self.messages_due_ns.max(self.bytes_due_ns);
        (due_ns > now_ns).then(|| Instant(due_ns.div_ceil(NS_PER_US)))
    }
}

/// Moves `due_ns` on by the time that `count` takes at `rate` per second (0: any rate).
fn advance(due_ns: &mut u64, count: u64, rate: u64, now_ns: u64) {
    if rate == 0 {
        return;
    }
    let cost = u128::from(count) * u128::from(NS_PER_S) / u128::from(rate);
    let start = (*due_ns).max(now_ns.saturating_sub(NS_PER_S));
    *due_ns = start.saturating_add(u64::try_from(cost).unwrap_or(u64::MAX));
}

/// One client's meter, and when it may be read again. Scope: connection.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    meter: Meter,
    resume_at: Instant,
}

/// The meters of the listeners that have a rate, by listener. Scope: shard.
#[derive(Debug, Default)]
pub(crate) struct ListenerMeters(Vec<(Rate, Meter)>);

impl ListenerMeters {
    pub(crate) fn new(rates: &[Rate]) -> Self {
        if rates.iter().all(|rate| rate.is_any()) {
            return Self::default();
        }
        Self(rates.iter().map(|&rate| (rate, Meter::default())).collect())
    }
}

impl Shard {
    /// Charges a connection, and its listener, for what it sent; reads it later if one of them
    /// is ahead of its rate.
    pub(crate) fn charge(&mut self, id: ConnectionId, messages: u64, bytes: u64) {
        let (rate, now) = (self.config.limits.client_rate(), self.now);
        if rate.is_any() && self.listener_meters.0.is_empty() {
            return;
        }
        let Some(connection) = self.connections.get_mut(id) else { return };
        let listener = connection.listener;
        let pace = connection.pace.get_or_insert_default();
        let own = pace.meter.charge(messages, bytes, rate, now);
        let meters = &mut self.listener_meters.0;
        let common = meters
            .get_mut(usize::from(listener.0))
            .and_then(|(rate, meter)| meter.charge(messages, bytes, *rate, now));
        let Some(resume_at) = own.max(common) else { return };
        pace.resume_at = resume_at;
        self.timers.arm(resume_at, Timer::Rate(id));
        if connection.pause(Pause::Rate) {
            self.push(Output::PauseReading { connection: id });
        }
        let by = if own >= common { SlowedBy::Client } else { SlowedBy::Listener };
        self.stats.slowed(listener, by);
        self.tell_slowed(id, by);
    }

    pub(crate) fn resume_rate(&mut self, id: ConnectionId) {
        let now = self.now;
        let Some(connection) = self.connections.get_mut(id) else { return };
        let is_due = connection.pace.as_ref().is_none_or(|pace| pace.resume_at <= now);
        if is_due && connection.resume(Pause::Rate) {
            self.push(Output::ResumeReading { connection: id });
        }
    }

    fn tell_slowed(&mut self, id: ConnectionId, by: SlowedBy) {
        let Some(more) = self.quiet.slowed.may_say(self.now) else { return };
        let Some(connection) = self.connections.get(id) else { return };
        let (address, listener) = (connection.address, connection.listener);
        let session = connection.session().and_then(|session| self.sessions.get(session));
        let client = session.map_or_else(Box::default, |session| session.client_id.clone());
        self.notice(Notice::Slowed { client, address, listener, by, more });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn rate(messages: u32, bytes: usize) -> Rate {
        Rate { messages, bytes }
    }

    #[test]
    fn a_second_of_messages_is_free_and_then_the_rate_holds() {
        let mut meter = Meter::default();
        let start = Instant(5 * SECOND);
        assert_eq!(meter.charge(10, 9999, rate(10, 0), start), None);
        let half_later = Instant(start.0 + SECOND / 2);
        assert_eq!(meter.charge(5, 9999, rate(10, 0), start), Some(half_later));
        assert_eq!(meter.charge(0, 0, rate(10, 0), half_later), None);
    }

    #[test]
    fn the_slower_of_both_rates_decides() {
        let mut meter = Meter::default();
        let resume = meter.charge(1, 300, rate(1000, 100), Instant(SECOND));
        assert_eq!(resume, Some(Instant(3 * SECOND)));
    }

    #[test]
    fn no_rate_is_no_pause() {
        let mut meter = Meter::default();
        assert_eq!(meter.charge(u64::MAX, u64::MAX, rate(0, 0), Instant(1)), None);
    }
}
