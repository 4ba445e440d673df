//! How fast one client may send: messages and bytes per second, kept by reading it later.
//!
//! Nothing is dropped: what was read is handled, its cost is charged, and a client that is
//! ahead of its rate is not read again before time has caught up. A second's worth may come
//! at once.

use crate::event::Instant;
use crate::limits::Limits;

const NS_PER_S: u64 = 1_000_000_000;
const NS_PER_US: u64 = 1000;

/// What a connection has sent, as the time at which its rate would have allowed it. Scope:
/// connection.
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
        limits: &Limits,
        now: Instant,
    ) -> Option<Instant> {
        let message_rate = u64::from(limits.message_rate_max);
        let byte_rate = limits.byte_rate_max as u64;
        let now_ns = now.0.saturating_mul(NS_PER_US);
        advance(&mut self.messages_due_ns, messages, message_rate, now_ns);
        advance(&mut self.bytes_due_ns, bytes, byte_rate, now_ns);
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

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn limits(message_rate_max: u32, byte_rate_max: usize) -> Limits {
        Limits { message_rate_max, byte_rate_max, ..Limits::default() }
    }

    #[test]
    fn a_second_of_messages_is_free_and_then_the_rate_holds() {
        let limits = limits(10, 0);
        let mut meter = Meter::default();
        let start = Instant(5 * SECOND);
        assert_eq!(meter.charge(10, 9999, &limits, start), None);
        assert_eq!(meter.charge(5, 9999, &limits, start), Some(Instant(start.0 + SECOND / 2)));
        assert_eq!(meter.charge(0, 0, &limits, Instant(start.0 + SECOND / 2)), None);
    }

    #[test]
    fn the_slower_of_both_rates_decides() {
        let limits = limits(1000, 100);
        let mut meter = Meter::default();
        let resume = meter.charge(1, 300, &limits, Instant(SECOND));
        assert_eq!(resume, Some(Instant(3 * SECOND)));
    }

    #[test]
    fn no_rate_is_no_pause() {
        let mut meter = Meter::default();
        assert_eq!(meter.charge(u64::MAX, u64::MAX, &limits(0, 0), Instant(1)), None);
    }
}
