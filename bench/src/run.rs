//! One run from the first connect to the last message: starts the threads, moves the phases on,
//! and ends whatever the broker does.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, atomic::Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use octopus_mqtt::QoS;

use crate::{
    context::{Phase, Progress, Shared},
    plan::Plan,
    report::{Measured, Outcome},
    stats::Stats,
    system,
    worker::Worker,
};

/// A moment at which an observer may look at the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Connected,
    MeasureStart,
    MeasureEnd,
}

/// Connecting is given up after this time without one more client connected.
const CONNECT_STALL: Duration = Duration::from_secs(15);
/// Waiting for what is under way ends after this time, even while something still comes.
const DRAIN_MAX: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(10);
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// Runs `plan` and tells what came of it. `observe` is called at each [`Mark`] in turn.
///
/// # Errors
/// If the machine refuses what a run needs: files, cores, threads. Whatever the broker does is
/// in the outcome.
pub(crate) fn run(plan: Plan, observe: &mut dyn FnMut(Mark)) -> io::Result<Outcome> {
    let open_files = system::raise_open_files();
    if plan.clients() as u64 + 64 > open_files {
        let clients = plan.clients();
        return Err(io::Error::other(format!(
            "{clients} clients need more open files than the {open_files} this process may have"
        )));
    }
    let plan = Arc::new(plan);
    let shared = Arc::new(Shared::new(&plan));
    let coordinator = Coordinator::new(&plan, &shared);
    let mut threads = Vec::new();
    for number in 0..plan.threads {
        let (plan, shared) = (Arc::clone(&plan), Arc::clone(&shared));
        threads.push(thread::Builder::new().name(format!("load-{number}")).spawn(move || {
            if !plan.cores.is_empty() {
                system::pin(&plan.cores)?;
            }
            Worker::new(&plan, &shared, number)?.run()
        })?);
    }
    let measured = coordinator.conduct(observe);
    let mut stats = Stats::new();
    for thread in threads {
        stats.merge(thread.join().map_err(|_| io::Error::other("a load thread panicked"))??);
    }
    Ok(Outcome::new(&plan, &measured, &stats))
}

struct Coordinator<'a> {
    plan: &'a Plan,
    shared: &'a Shared,
    shown_at: Instant,
    shown: Totals,
    shows: bool,
    start_ns: u64,
    cpu_before_ns: u64,
}

/// Sums over all threads.
#[derive(Clone, Copy, Default)]
struct Totals {
    settled: u64,
    open: u64,
    sent: u64,
    received: u64,
    acknowledged: u64,
    finished: u64,
}

impl<'a> Coordinator<'a> {
    fn new(plan: &'a Plan, shared: &'a Shared) -> Self {
        Self {
            plan,
            shared,
            shown_at: Instant::now(),
            shown: Totals::default(),
            shows: !plan.quiet && io::stderr().is_terminal(),
            start_ns: system::now_ns(),
            cpu_before_ns: system::own_cpu_ns(),
        }
    }

    fn conduct(mut self, observe: &mut dyn FnMut(Mark)) -> Measured {
        if self.plan.connect_phase() == Phase::Connect {
            self.wait_connected();
        }
        let connect_cpu_ns = system::own_cpu_ns() - self.cpu_before_ns;
        observe(Mark::Connected);
        if !self.plan.warmup.is_zero() {
            self.shared.enter(Phase::Warmup);
            self.wait("warm-up", self.plan.warmup);
        }

        observe(Mark::MeasureStart);
        let (begun, before, cpu_ns) = (Instant::now(), self.totals(), system::own_cpu_ns());
        let start_ns = system::now_ns();
        self.shared.enter(Phase::Measure);
        self.wait("measure", self.plan.duration);
        let (elapsed, after) = (begun.elapsed(), self.totals());
        observe(Mark::MeasureEnd);
        let cpu_ns = system::own_cpu_ns() - cpu_ns;

        self.shared.enter(Phase::Drain);
        self.drain();
        self.shared.enter(Phase::Stop);
        self.clear_line();
        Measured {
            connect_start_ns: self.start_ns,
            connect_cpu_ns,
            elapsed,
            start_ns,
            sent: after.sent - before.sent,
            received: after.received - before.received,
            load_cpu_ns: cpu_ns,
            open_at_end: after.open,
        }
    }

    fn wait_connected(&mut self) {
        let clients = self.plan.clients() as u64;
        let (mut settled, mut moved_at) = (0, Instant::now());
        while settled < clients {
            thread::sleep(TICK);
            let totals = self.totals();
            if totals.settled != settled {
                (settled, moved_at) = (totals.settled, Instant::now());
            }
            let patience = CONNECT_STALL + self.plan.connect_interval;
            if moved_at.elapsed() > patience {
                return;
            }
            self.show("connect", settled as f64 / clients as f64, &totals);
        }
    }

    /// Waits for `duration`, or until there is nothing more to wait for.
    fn wait(&mut self, what: &str, duration: Duration) {
        let begun = Instant::now();
        loop {
            let totals = self.totals();
            let elapsed = begun.elapsed();
            if elapsed >= duration || self.is_over(&totals) {
                return;
            }
            let share = elapsed.as_secs_f64() / duration.as_secs_f64();
            self.show(what, share, &totals);
            thread::sleep(TICK.min(duration - elapsed));
        }
    }

    fn is_over(&self, totals: &Totals) -> bool {
        let limit_reached =
            self.plan.limit.is_some() && totals.finished == self.plan.publishers as u64;
        let replayed = self.plan.replay.is_some_and(|replay| totals.received >= replay.count);
        let all_gone = totals.settled > 0 && totals.open == 0;
        all_gone || limit_reached || replayed
    }

    /// Waits for what is under way, as long as any of it still comes.
    fn drain(&mut self) {
        let begun = Instant::now();
        let (mut moved_at, mut before) = (begun, u64::MAX);
        loop {
            let totals = self.totals();
            let under_way = self.under_way(&totals);
            if under_way != before {
                (before, moved_at) = (under_way, Instant::now());
            }
            let given_up = moved_at.elapsed() > self.plan.drain || begun.elapsed() > DRAIN_MAX;
            // A turn's delay: the counts of the last messages are shown when the turn is over.
            let settled = under_way == 0 && moved_at.elapsed() >= 4 * TICK;
            if settled || given_up || totals.open == 0 {
                return;
            }
            self.show("drain", 1.0, &totals);
            thread::sleep(TICK);
        }
    }

    /// Deliveries and acknowledgements that are still to come.
    fn under_way(&self, totals: &Totals) -> u64 {
        let deliveries = totals.sent * self.plan.deliveries_per_message() as u64;
        let acknowledged = self.plan.publishers > 0 && self.plan.qos > QoS::AtMostOnce;
        let waiting = if acknowledged { totals.sent - totals.acknowledged } else { 0 };
        deliveries.saturating_sub(totals.received) + waiting
    }

    fn totals(&self) -> Totals {
        let sum = |count: fn(&Progress) -> u64| self.shared.progress.iter().map(count).sum();
        Totals {
            settled: sum(|progress| progress.settled.load(Relaxed)),
            open: sum(|progress| progress.open.load(Relaxed)),
            // Acknowledgements and receipts before what they answer: no count runs ahead.
            acknowledged: sum(|progress| progress.acknowledged.load(Relaxed)),
            received: sum(|progress| progress.received.load(Relaxed)),
            sent: sum(|progress| progress.sent.load(Relaxed)),
            finished: sum(|progress| progress.finished.load(Relaxed)),
        }
    }

    fn show(&mut self, what: &str, share: f64, totals: &Totals) {
        let since = self.shown_at.elapsed();
        if !self.shows || since < PROGRESS_INTERVAL {
            return;
        }
        let per_s = |now: u64, then: u64| (now - then) as f64 / since.as_secs_f64();
        let bar = "#".repeat((share.clamp(0.0, 1.0) * 30.0) as usize);
        let line = format!(
            "\r{what:<8} [{bar:<30}] {:>6} open  {:>9.0} sent/s  {:>9.0} received/s\x1b[K",
            totals.open,
            per_s(totals.sent, self.shown.sent),
            per_s(totals.received, self.shown.received),
        );
        // Progress is a courtesy; a closed terminal must not end a run.
        let _ = io::stderr().write_all(line.as_bytes());
        (self.shown_at, self.shown) = (Instant::now(), *totals);
    }

    fn clear_line(&self) {
        if self.shows {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}
