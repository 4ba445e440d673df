//! The first moments of a node: when its door opens it knows the group, and the group knows it.

use std::{
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::Failed;

use super::group::Group;

type Case = fn() -> Result<(), Failed>;

pub(super) fn all() -> Vec<(&'static str, Case)> {
    vec![("nodes_that_start_together_do_not_wait_for_each_other", together)]
}

/// A node that is waited for in vain costs 5 s.
const START_MAX: Duration = Duration::from_secs(3);

fn together() -> Result<(), Failed> {
    for _ in 0..3 {
        let group = Group::new(&[])?;
        let begun = Instant::now();
        let started: Vec<_> = thread::scope(|scope| {
            let starting = ["A", "B", "C"].map(|id| scope.spawn(|| group.node(id)));
            starting.into_iter().map(|starting| starting.join()).collect()
        });
        let took = begun.elapsed();
        for node in started {
            let log = node.map_err(|_| "a start panicked")??.log();
            assert!(!log.contains("starting without"), "{log}");
        }
        assert!(took < START_MAX, "all listen after {took:?}");
    }
    Ok(())
}
