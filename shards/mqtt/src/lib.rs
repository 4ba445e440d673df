//! The MQTT language: packets, topics and reason codes of versions 3.1, 3.1.1 and 5.0.
//!
//! Pure: bytes in, values out, and back. No I/O, no clock, no threads, no allocation while
//! decoding: a decoded packet borrows from the bytes it was read from. There is one struct
//! per packet for all versions; what a version lacks is absent (`None`, empty) in the struct
//! and is not written.
//!
//! In: [`frame`] cuts a packet from a stream, then [`decode`] reads any of them; the hot and the
//! first packet have [`decode_publish`] and [`decode_connect`] of their own. Out: every packet
//! appends itself to a `Vec<u8>`; [`encode_ack`] and [`encode_publish_raw`] do so without a
//! packet being built.
#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used)]

mod frame;
mod packet;
mod property;
mod reason;
mod topic;

mod ack;
mod codec;
mod connack;
mod connect;
mod disconnect;
mod publish;
mod run;
mod subscribe;

mod error;
mod fuzz;
mod reader;
mod writer;

pub use ack::{AckKind, PLAIN_ACK_BYTES, encode_ack, plain_ack};
pub use codec::{PINGREQ, PINGRESP, decode};
pub use connect::decode_connect;
pub use error::DecodeError;
pub use frame::{Frame, PacketType, frame, packet_len};
#[doc(hidden)]
pub use fuzz::fuzz_decode;
pub use packet::*;
pub use property::*;
pub use publish::{PublishWire, decode_publish, encode_publish_raw, publish_flags};
pub use reason::ReasonCode;
pub use run::{PublishRun, RunBytesMax, RunPacket, RunPackets, RunShape};
pub use topic::*;
