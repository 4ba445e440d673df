//! The MQTT language: packets, topics and reason codes of versions 3.1, 3.1.1 and 5.0.
//!
//! Pure: bytes in, values out, and back. No I/O, no clock, no threads, no allocation while
//! decoding: a decoded packet borrows from the bytes it was read from. There is one struct
//! per packet for all versions; what a version lacks is absent (`None`, empty) in the struct
//! and is not written.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used)]

mod packet;
mod property;
mod reason;
mod topic;

pub use packet::*;
pub use property::*;
pub use reason::ReasonCode;
pub use topic::*;
