//! What a driver counts about its own work. Plain integers, read by asking: they ride on the
//! service's answer to `StatsWanted`. Scope: shard.

use std::time::Duration;

use octopus_engine::{DriverStats, Instant, LayerRefusal};

/// The longest stall is that of the current span of this length and the one before.
const SPAN: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct Tally {
    stats: DriverStats,
    /// The longest turn of the current span and of the one before.
    longest: [Duration; 2],
    span_ends_at: Instant,
}

/// What only the driver's parts know at the moment of asking.
pub(crate) struct Gauges {
    pub(crate) sockets: usize,
    pub(crate) accept_errors: u64,
    pub(crate) accepts_paced: u64,
    pub(crate) ring_depth: usize,
    pub(crate) mesh_backlog: usize,
}

impl Tally {
    /// A turn that began at `now` is over; it kept everybody else waiting for `busy`.
    pub(crate) fn turn(&mut self, now: Instant, busy: Duration, is_held: bool) {
        self.stats.turns.record(busy);
        if now >= self.span_ends_at {
            self.span_ends_at = now.after(SPAN);
            self.longest = [Duration::ZERO, self.longest[0]];
        }
        self.longest[0] = self.longest[0].max(busy);
        self.stats.pressure_turns += u64::from(is_held);
    }

    pub(crate) fn accepted(&mut self) {
        self.stats.accepted += 1;
    }

    pub(crate) fn refused(&mut self) {
        self.stats.accept_refused += 1;
    }

    /// A connection ended below MQTT.
    pub(crate) fn layer_refused(&mut self, reason: LayerRefusal) {
        self.stats.layer_refused[reason as usize] += 1;
    }

    /// All figures now.
    pub(crate) fn read(&mut self, gauges: &Gauges) -> DriverStats {
        let longest = self.longest[0].max(self.longest[1]);
        self.stats.stall_max_us = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
        self.stats.sockets = gauges.sockets as u64;
        self.stats.accept_errors = gauges.accept_errors;
        self.stats.accepts_paced = gauges.accepts_paced;
        self.stats.ring_depth = gauges.ring_depth as u64;
        self.stats.mesh_backlog = gauges.mesh_backlog as u64;
        self.stats.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_turn_is_told_for_at_least_30_and_at_most_60_seconds() {
        let mut tally = Tally::default();
        let gauges = Gauges {
            sockets: 2,
            accept_errors: 0,
            accepts_paced: 0,
            ring_depth: 3,
            mesh_backlog: 0,
        };
        let mut told = Vec::new();
        for (second, us) in [(1, 700), (2, 20), (31, 20), (45, 20), (62, 20)] {
            tally.turn(Instant(second * 1_000_000), Duration::from_micros(us), second == 2);
            told.push(tally.read(&gauges).stall_max_us);
        }
        assert_eq!(told, [700, 700, 700, 700, 20]);
        let stats = tally.read(&gauges);
        assert_eq!((stats.turns.count(), stats.pressure_turns), (5, 1));
        assert_eq!((stats.sockets, stats.ring_depth), (2, 3));
    }
}
