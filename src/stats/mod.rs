//! What the node counts, merged from its shards, and the places it is told.

pub mod exposition;
pub mod group;
pub mod metrics;
pub mod sys;
mod total;

pub use group::{Figures, GroupFigures, GroupStats};
pub use metrics::Metrics;
pub use total::Total;
