//! A whole node in one thread: many shards, virtual time, one seed. For tests only.
//!
//! [`Node`] runs up to 64 engines with the mesh between them, a stub of the hub, and sockets
//! that are byte pipes in memory. Scripts drive it with [`Client`]; [`run`] drives it with
//! model clients and a seeded scheduler and checks what MQTT promises; [`fuzz_operations`]
//! drives it with whatever bytes a fuzzer makes up.
//!
//! Nothing here reads a clock or asks the system for randomness: the same seed gives the same
//! run, byte for byte.
#![forbid(unsafe_code)]

mod client;
mod fuzz;
mod hub;
mod mesh;
mod node;
mod random;
mod run;
mod socket;

pub use client::{Client, Received, connect};
pub use fuzz::fuzz_operations;
pub use hub::{AuthPolicy, Hub};
pub use mesh::Traffic;
pub use node::{Node, NodeConfig};
pub use random::Random;
pub use run::{Failure, Options, Report, run, shrink};
pub use socket::{Intake, SocketId};
