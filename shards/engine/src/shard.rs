//! One shard: takes inputs, gives outputs. (The dispatch lands in the next commits.)

use crate::{Input, Instant, Limits, Output, ShardId};

/// What a shard is told when it is made. Scope: shard.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    pub id: ShardId,
    /// Shards of this node, at least 1.
    pub shards: u16,
    pub limits: Limits,
    /// Seeds hashing and generated Client Identifiers; from the driver's randomness.
    pub seed: u64,
}

/// One shard's whole state. See [`Input`] and [`Output`] for the contract: handle one input,
/// then drain `poll` (or handle a batch, then drain: order is kept).
#[derive(Debug)]
pub struct Shard {
    config: ShardConfig,
}

impl Shard {
    pub fn new(config: ShardConfig) -> Self {
        Self { config }
    }

    /// Takes one input. Runs to its end, never waits, never panics on a client's bytes.
    pub fn handle(&mut self, _input: Input<'_>, _now: Instant) {
        let _ = &self.config;
    }

    /// The next thing to do outside, until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        None
    }

    /// When to call `handle(Input::Tick, …)` at the latest; `None` if no timer is armed.
    pub fn next_timeout(&self) -> Option<Instant> {
        None
    }
}
