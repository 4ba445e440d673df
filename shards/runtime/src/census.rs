//! How many connections the node has, in all and by listener, against how many it may have.
//! Scope: node; the shards share one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use octopus_engine::ListenerId;

/// What bounds accepting. Scope: node; may change while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptLimits {
    /// Connections of all listeners and shards. More are closed as they come, and counted.
    pub connection_count_max: usize,
    /// Those of each listener, by its id; behind the end: any number.
    pub by_listener: Vec<usize>,
    /// Connections accepted a second, of all listeners and shards; more wait in the backlog.
    /// 0: any number.
    pub rate_max: u32,
    /// From accept until the layers below MQTT are through; the engine has its own for CONNECT.
    pub connect_timeout: Duration,
}

impl Default for AcceptLimits {
    fn default() -> Self {
        Self {
            connection_count_max: 1_000_000,
            by_listener: Vec::new(),
            rate_max: 0,
            connect_timeout: Duration::from_secs(10),
        }
    }
}

impl AcceptLimits {
    fn of_listener(&self, listener: ListenerId) -> usize {
        self.by_listener.get(usize::from(listener.0)).copied().unwrap_or(usize::MAX)
    }
}

/// Which count is full; the limit itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Node(usize),
    Listener(usize),
}

#[derive(Debug)]
pub(crate) struct Census {
    all: AtomicUsize,
    by_listener: Box<[AtomicUsize]>,
}

impl Census {
    pub(crate) fn new(listener_count: usize) -> Self {
        let by_listener = std::iter::repeat_with(AtomicUsize::default).take(listener_count);
        Self { all: AtomicUsize::default(), by_listener: by_listener.collect() }
    }

    /// Counts one more, unless that is more than may be.
    ///
    /// # Errors
    /// Which limit is reached; it is not counted then.
    pub(crate) fn enter(&self, listener: ListenerId, limits: &AcceptLimits) -> Result<(), Full> {
        if self.all.fetch_add(1, Ordering::Relaxed) >= limits.connection_count_max {
            self.all.fetch_sub(1, Ordering::Relaxed);
            return Err(Full::Node(limits.connection_count_max));
        }
        let own_max = limits.of_listener(listener);
        let own = self.by_listener.get(usize::from(listener.0));
        if own.is_some_and(|own| own.fetch_add(1, Ordering::Relaxed) >= own_max) {
            self.leave(listener);
            return Err(Full::Listener(own_max));
        }
        Ok(())
    }

    /// One that was counted is gone.
    pub(crate) fn leave(&self, listener: ListenerId) {
        self.all.fetch_sub(1, Ordering::Relaxed);
        if let Some(own) = self.by_listener.get(usize::from(listener.0)) {
            own.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_listener_leaves_room_for_others_and_a_full_node_for_nobody() {
        let limits = AcceptLimits {
            connection_count_max: 3,
            by_listener: vec![1],
            ..AcceptLimits::default()
        };
        let (first, second) = (ListenerId(0), ListenerId(1));
        let census = Census::new(2);
        assert_eq!(census.enter(first, &limits), Ok(()));
        assert_eq!(census.enter(first, &limits), Err(Full::Listener(1)));
        assert_eq!(census.enter(second, &limits), Ok(()));
        assert_eq!(census.enter(second, &limits), Ok(()));
        assert_eq!(census.enter(second, &limits), Err(Full::Node(3)));
        census.leave(first);
        assert_eq!(census.enter(first, &limits), Ok(()));
    }
}
