//! What a driver counts about its own work. Plain integers, read by asking: they ride on the
//! service's answer to `StatsWanted`. Scope: shard.

use std::time::Duration;

use octopus_engine::DriverStats;

#[derive(Debug, Default)]
pub(crate) struct Tally {
    stats: DriverStats,
}

/// What only the driver's parts know at the moment of asking.
pub(crate) struct Gauges {
    pub(crate) sockets: usize,
    pub(crate) accept_errors: u64,
    pub(crate) ring_depth: usize,
    pub(crate) mesh_backlog: usize,
}

impl Tally {
    /// A turn is over that kept everybody else waiting for `busy`.
    pub(crate) fn turn(&mut self, busy: Duration, is_held: bool) {
        self.stats.turns.record(busy);
        let us = u64::try_from(busy.as_micros()).unwrap_or(u64::MAX);
        self.stats.stall_max_us = self.stats.stall_max_us.max(us);
        self.stats.pressure_turns += u64::from(is_held);
    }

    pub(crate) fn accepted(&mut self) {
        self.stats.accepted += 1;
    }

    pub(crate) fn refused(&mut self) {
        self.stats.accept_refused += 1;
    }

    /// All figures now; the longest stall begins anew.
    pub(crate) fn read(&mut self, gauges: &Gauges) -> DriverStats {
        self.stats.sockets = gauges.sockets as u64;
        self.stats.accept_errors = gauges.accept_errors;
        self.stats.ring_depth = gauges.ring_depth as u64;
        self.stats.mesh_backlog = gauges.mesh_backlog as u64;
        let stats = self.stats.clone();
        self.stats.stall_max_us = 0;
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_turn_is_told_once() {
        let mut tally = Tally::default();
        let gauges = Gauges { sockets: 2, accept_errors: 0, ring_depth: 3, mesh_backlog: 0 };
        tally.turn(Duration::from_micros(700), false);
        tally.turn(Duration::from_micros(20), true);
        let first = tally.read(&gauges);
        assert_eq!((first.stall_max_us, first.turns.count(), first.pressure_turns), (700, 2, 1));
        assert_eq!((first.sockets, first.ring_depth), (2, 3));
        assert_eq!(tally.read(&gauges).stall_max_us, 0);
    }
}
