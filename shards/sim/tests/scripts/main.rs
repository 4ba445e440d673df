//! Hand-written scripts against a simulated node: what the simulation once found, and the
//! node's own contract.

mod node;
mod shared;
