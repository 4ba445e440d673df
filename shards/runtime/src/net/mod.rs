//! Sockets on the shard's own ring: accept, receive, send, wake-ups. Bytes in, bytes out; who
//! the bytes are for is the driver's business.
//!
//! All `unsafe` about the ring is here: [`Ring`] owns every byte the kernel may touch while a
//! request is in flight, so its methods are safe to call.

mod buffers;
mod ring;
mod writes;

pub(crate) use ring::{Completion, Operation, Received, Ring, Sent, Token, build};
pub(crate) use writes::WriteIndex;
