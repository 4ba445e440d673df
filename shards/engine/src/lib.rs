//! One shard's mind: everything a shard knows and decides about MQTT, as a pure state machine.
//!
//! [`Shard`] takes an [`Input`] and the time, and gives [`Output`]s until there are none; that
//! is the whole contract. No I/O, no clock, no threads, no randomness of its own: the same
//! inputs give the same outputs, byte for byte, so a whole node can be simulated from a seed.
//!
//! Read in this order: `event` and `envelope` (all that goes in and out), `shard` (the
//! dispatch), `connection` and `session` (what is kept per client), `handle/*` (one client
//! packet each), `route` (where one message goes), then the tables.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used)]

mod envelope;
mod event;
mod limits;
mod message;
mod shard;

pub use envelope::*;
pub use event::*;
pub use limits::*;
pub use message::*;
pub use shard::{Shard, ShardConfig};
