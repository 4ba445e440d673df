//! What the node counts, merged from its shards, and the places it is told.

pub mod sys;
mod total;

pub use total::Total;
