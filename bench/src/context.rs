//! What a run's threads share, and what the clients of one thread see of their surroundings.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU64, Ordering::Relaxed},
};

use crate::{plan::Plan, stats::Stats, system};

/// Where a run stands. The coordinator moves it on, workers follow within a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    Connect,
    Warmup,
    Measure,
    /// Nothing new is sent; what is under way may arrive.
    Drain,
    Stop,
}

/// What all threads of a run share.
pub(crate) struct Shared {
    phase: AtomicU8,
    pub progress: Vec<Progress>,
    /// By publisher: messages its subscribers in this process have taken.
    delivered: Vec<AtomicU64>,
}

/// A worker's counts as the coordinator sees them, at most a turn old.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Progress {
    /// Clients that came as far as they should, or failed on the way.
    pub settled: AtomicU64,
    pub open: AtomicU64,
    pub sent: AtomicU64,
    pub received: AtomicU64,
    pub acknowledged: AtomicU64,
    /// Publishers that have reached the run's limit, or ended.
    pub finished: AtomicU64,
}

impl Shared {
    pub(crate) fn new(plan: &Plan) -> Self {
        let credited = if plan.deliveries_per_message() > 0 { plan.publishers } else { 0 };
        Self {
            phase: AtomicU8::new(Phase::Connect as u8),
            progress: (0..plan.threads).map(|_| Progress::default()).collect(),
            delivered: (0..credited).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Connect,
            1 => Phase::Warmup,
            2 => Phase::Measure,
            3 => Phase::Drain,
            _ => Phase::Stop,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }
}

/// What the handlers of one thread's connections see of their surroundings.
pub(crate) struct Context {
    pub plan: Arc<Plan>,
    pub stats: Stats,
    pub phase: Phase,
    /// Monotonic clock, read once per turn and per read.
    pub now: u64,
    /// Connects under way.
    pub connecting: usize,
    /// Clients that connected and, if they should, subscribed.
    pub ready: u64,
    pub acknowledged: u64,
    pub shared: Arc<Shared>,
    /// Connections of this thread whose publisher may have more room now.
    pub freed: Vec<usize>,
    /// Number of this thread.
    pub worker: usize,
}

impl Context {
    pub(crate) fn new(plan: &Arc<Plan>, shared: &Arc<Shared>, worker: usize) -> Self {
        Self {
            plan: Arc::clone(plan),
            stats: Stats::new(),
            phase: Phase::Connect,
            now: system::now_ns(),
            connecting: 0,
            ready: 0,
            acknowledged: 0,
            shared: Arc::clone(shared),
            freed: Vec::new(),
            worker,
        }
    }

    /// Whether publishers publish.
    pub(crate) fn may_send(&self) -> bool {
        matches!(self.phase, Phase::Warmup | Phase::Measure)
    }

    /// Messages of `publisher` that subscribers of this process have taken.
    #[inline]
    pub(crate) fn delivered(&self, publisher: u32) -> u64 {
        self.shared.delivered.get(publisher as usize).map_or(0, |count| count.load(Relaxed))
    }

    /// A subscriber has taken a message of `publisher`, which may therefore send more.
    #[inline]
    pub(crate) fn count_delivery(&mut self, publisher: u32) {
        let publisher = publisher as usize;
        let Some(count) = self.shared.delivered.get(publisher) else { return };
        count.fetch_add(1, Relaxed);
        let threads = self.plan.threads;
        let connection = publisher / threads;
        if publisher % threads == self.worker && self.freed.last() != Some(&connection) {
            self.freed.push(connection);
        }
    }

    /// A message was acknowledged `after_ns` after it was sent.
    pub(crate) fn count_acknowledged(&mut self, after_ns: u64) {
        self.acknowledged += 1;
        if self.phase == Phase::Measure {
            self.stats.acknowledge.record_ns(after_ns);
        }
    }
}
