//! Seeded runs: model clients do what clients may do, a scheduler interleaves everything, and
//! the books say at the end whether every promise was kept.
//!
//! `actor` is one client with its state machines, `world` chooses what happens next, `books`
//! knows what was sent and must arrive.

mod actor;
mod books;
mod world;

use std::cell::RefCell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use world::World;

/// What kind of run it is.
#[derive(Clone, Debug)]
pub struct Options {
    /// 1 to 64.
    pub shards: u16,
    /// How many choices the scheduler makes before everything comes to rest.
    pub steps: usize,
    pub publishers: usize,
    pub subscribers: usize,
    /// Members of shared groups.
    pub members: usize,
    /// Clients that watch retained topics.
    pub watchers: usize,
    /// Tiny queues: messages are lost, and as many as are counted.
    pub is_lossy: bool,
}

impl Options {
    /// Queues that hold everything: nothing may be lost.
    pub fn strict(shards: u16) -> Self {
        Self {
            shards,
            steps: 4000,
            publishers: 3,
            subscribers: 4,
            members: 4,
            watchers: 2,
            is_lossy: false,
        }
    }

    /// Tiny queues and persistent sessions only: what is lost must be counted.
    pub fn lossy(shards: u16) -> Self {
        Self { members: 0, watchers: 0, is_lossy: true, ..Self::strict(shards) }
    }
}

/// What a run did that went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub seed: u64,
    pub messages_sent: usize,
    pub messages_received: usize,
    pub messages_lost: usize,
    pub connects: usize,
    /// One line for each choice and each packet a client received.
    pub trace: String,
}

/// What a run broke.
#[derive(Clone, Debug)]
pub struct Failure {
    pub seed: u64,
    pub shards: u16,
    pub what: String,
    /// The trace so far.
    pub trace: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LINES: usize = 60;
        writeln!(f, "seed {} on {} shards: {}", self.seed, self.shards, self.what)?;
        let lines: Vec<&str> = self.trace.lines().collect();
        let first = lines.len().saturating_sub(LINES);
        lines[first..].iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

impl std::error::Error for Failure {}

/// Runs one node with its clients from one seed.
///
/// # Errors
/// The first promise that was broken, or the panic that came first.
pub fn run(seed: u64, options: &Options) -> Result<Report, Box<Failure>> {
    let trace = Rc::new(RefCell::new(String::new()));
    let shared = trace.clone();
    let outcome =
        catch_unwind(AssertUnwindSafe(|| World::new(seed, options.clone(), shared).run()));
    let what = match outcome {
        Ok(Ok(counts)) => {
            return Ok(Report {
                seed,
                messages_sent: counts.sent,
                messages_received: counts.received,
                messages_lost: counts.lost,
                connects: counts.connects,
                trace: trace.take(),
            });
        }
        Ok(Err(what)) => what,
        Err(panic) => panic_text(&*panic),
    };
    Err(Box::new(Failure { seed, shards: options.shards, what, trace: trace.take() }))
}

/// The smallest number of steps with which this seed still fails, by halving; the failure of
/// that run. `None` if it does not fail.
pub fn shrink(seed: u64, options: &Options) -> Option<Box<Failure>> {
    let mut smallest = run(seed, options).err()?;
    let mut options = options.clone();
    let (mut good, mut bad) = (0, options.steps);
    while bad - good > 1 {
        options.steps = good + (bad - good) / 2;
        match run(seed, &options) {
            Ok(_) => good = options.steps,
            Err(failure) => {
                bad = options.steps;
                smallest = failure;
            }
        }
    }
    Some(smallest)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("panic: {}", text.unwrap_or("of another kind"))
}

/// What `World::run` counted.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    sent: usize,
    received: usize,
    lost: usize,
    connects: usize,
}
