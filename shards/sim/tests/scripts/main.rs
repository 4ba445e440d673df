//! Hand-written scripts against a simulated node: what the simulation once found, and the
//! node's own contract.

mod authentication;
mod memory;
mod node;
mod rates;
mod revoke;
mod shared;
