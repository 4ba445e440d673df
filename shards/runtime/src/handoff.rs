//! A connection on its way from the shard that accepted it to its session's home shard.

use std::os::fd::OwnedFd;

use octopus_engine::ListenerId;

use crate::stream::Stack;

/// The socket and every byte read from it that nobody has used. Losing one closes the socket.
#[derive(Debug)]
pub(crate) struct HandOff {
    pub(crate) socket: OwnedFd,
    pub(crate) listener: ListenerId,
    /// In the order they arrived, ahead of all that the socket still holds.
    pub(crate) unread: Vec<u8>,
    /// Its layers below MQTT, which know its remote end.
    pub(crate) stack: Option<Box<Stack>>,
    /// Behind `unread`: bytes that have yet to go through the stack.
    pub(crate) raw: Vec<u8>,
}
