//! The connections of one shard, by slot. What an idle one costs the runtime is one
//! [`Connection`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use octopus_engine::{ConnectionId, ListenerId, ShardId};

use crate::net::WriteIndex;
use crate::stream::Stack;

/// One socket on this shard.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: OwnedFd,
    generation: u32,
    pub(crate) listener: ListenerId,
    /// A receive is in flight.
    pub(crate) receiving: bool,
    /// The engine does not want to read.
    pub(crate) paused: bool,
    /// It may still be handed over: accepted here, and not written to yet.
    pub(crate) fresh: bool,
    /// The write in flight.
    pub(crate) write: Option<WriteIndex>,
    pub(crate) phase: Phase,
    /// What lies between the socket and MQTT; nothing for plain TCP.
    pub(crate) stack: Option<Box<Stack>>,
}

/// How far a connection's life is. The engine knows it while it is `Open` only.
#[derive(Debug)]
pub(crate) enum Phase {
    /// The layers below MQTT are not through yet.
    Layers,
    Open,
    /// Ends when its requests have; reads nothing but the peer's end.
    Closing,
    /// Moves when its requests have ended.
    Leaving(Box<Leaving>),
}

#[derive(Debug)]
pub(crate) struct Leaving {
    pub(crate) to: ShardId,
    /// Plain bytes that the engine has not used.
    pub(crate) unread: Vec<u8>,
    /// Bytes behind them that have yet to go through the stack.
    pub(crate) raw: Vec<u8>,
}

impl Connection {
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open)
    }

    /// It is read, and not about to go.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Layers)
    }

    /// No request of it is in flight: its slot and socket may go.
    pub(crate) fn is_quiet(&self) -> bool {
        !self.receiving && self.write.is_none()
    }
}

/// Scope: shard.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    slots: Vec<Option<Connection>>,
    free: Vec<u32>,
    /// Counts every connection of this shard, so two users of a slot differ in it.
    generation: u32,
}

impl Connections {
    pub(crate) fn insert(
        &mut self,
        socket: OwnedFd,
        listener: ListenerId,
        fresh: bool,
    ) -> ConnectionId {
        self.generation = self.generation.wrapping_add(1);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("fewer connections than descriptors")
        });
        self.slots[slot as usize] = Some(Connection {
            socket,
            generation: self.generation,
            listener,
            receiving: false,
            paused: false,
            fresh,
            write: None,
            phase: Phase::Open,
            stack: None,
        });
        ConnectionId { slot, generation: self.generation }
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Connection> {
        let connection = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(connection)
    }

    /// The connection in a slot, whoever it is: for completions, since a slot is not reused
    /// while a request of its connection is in flight.
    pub(crate) fn at(&mut self, slot: u32) -> Option<(ConnectionId, &mut Connection)> {
        let connection = self.slots.get_mut(slot as usize)?.as_mut()?;
        Some((ConnectionId { slot, generation: connection.generation }, connection))
    }

    /// The connection that `id` names, unless it is gone.
    pub(crate) fn get(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let connection = self.slots.get_mut(id.slot as usize)?.as_mut()?;
        (connection.generation == id.generation).then_some(connection)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count() == 0
    }

    pub(crate) fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Slots, free ones included.
    pub(crate) fn slot_count(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.slots.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket() -> OwnedFd {
        std::fs::File::open("/dev/null").expect("/dev/null").into()
    }

    #[test]
    fn the_next_user_of_a_slot_has_another_generation() {
        let mut connections = Connections::default();
        let first = connections.insert(socket(), ListenerId(0), true);
        assert!(connections.remove(first.slot).is_some());
        assert!(connections.is_empty());
        let second = connections.insert(socket(), ListenerId(0), true);
        assert_eq!(first.slot, second.slot);
        assert!(connections.get(first).is_none());
        assert!(connections.get(second).is_some());
    }

    #[test]
    fn an_idle_connection_costs_less_than_100_bytes() {
        assert!(size_of::<Option<Connection>>() + size_of::<u32>() <= 64);
    }
}
