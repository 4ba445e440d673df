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

mod acl;
mod barrier;
mod bridge;
mod connection;
mod durable;
mod envelope;
mod estate;
mod event;
mod filter_index;
mod group;
mod handle;
mod handover;
mod inflight;
mod interest;
mod latency;
mod limits;
mod memory;
mod message;
mod once;
mod query;
mod quiet;
mod rate;
mod receipt;
mod receive;
mod recent;
mod reconfigure;
mod refusal;
mod replay;
mod retained;
mod revoke;
mod route;
mod run;
mod session;
mod shard;
mod slots;
mod stats;
mod subscriptions;
mod template;
#[cfg(test)]
mod testing;
mod timer;
mod trace;
mod will;

pub use acl::{Acl, Action, Rule, Verdict};
pub use durable::{
    Change, DeliveryItem, DeliveryRecord, DeliveryState, HeldRecord, Kept, RecordOp, Recorded,
    SessionRecord,
};
pub use envelope::*;
pub use event::*;
pub use group::Pick;
pub use interest::*;
pub use latency::{Histogram, Hop};
pub use limits::*;
pub use memory::{MemoryLevel, MemoryStats};
pub use message::{Dropped, Message, MessageParts};
pub use once::GOT_MAX;
pub use query::*;
pub use recent::{Incident, What};
pub use reconfigure::NewLimits;
pub use refusal::ConnectRefused;
pub use retained::*;
pub use route::Origin;
pub use run::MessageRun;
pub use shard::{Shard, ShardConfig, home_shard};
pub use stats::{DriverStats, LISTENERS_COUNTED, LayerRefusal, Ledger, Stats};
pub use subscriptions::*;
pub use timer::*;
pub use trace::{Happened, Step, TraceAsk, TraceSlice};
pub use will::Will;
