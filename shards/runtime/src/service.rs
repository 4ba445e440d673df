//! What a driver drives: anything that takes inputs and gives outputs as an engine does.

use octopus_engine::{Input, Instant, Output, Shard};

/// One shard's mind as the driver sees it. The broker's is [`Shard`]; the relay in
/// `bench/floor` is another, to measure what the driver costs without a protocol.
///
/// The driver hands in all that a turn brought before it asks for outputs. Only for a
/// connection that was accepted here and not written to yet it asks after each `Received`, so
/// `Output::HandOff` comes before a connection's first `Write` or not at all.
pub trait Service {
    /// Takes one input.
    fn handle(&mut self, input: Input<'_>, now: Instant);

    /// The next thing to do outside, until `None`.
    fn poll(&mut self) -> Option<Output>;

    /// When to pass `Input::Tick` at the latest.
    fn next_timeout(&self) -> Option<Instant>;
}

impl Service for Shard {
    fn handle(&mut self, input: Input<'_>, now: Instant) {
        Self::handle(self, input, now);
    }

    fn poll(&mut self) -> Option<Output> {
        Self::poll(self)
    }

    fn next_timeout(&self) -> Option<Instant> {
        Self::next_timeout(self)
    }
}
