//! What every test of a running broker needs: processes, connections and packets.

pub(crate) mod broker;
pub(crate) mod pool;
pub(crate) mod sim;
pub(crate) mod tcp;
pub(crate) mod wire;

use std::time::Duration;

/// A connection that a back end has opened; an index that grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConnectionIndex(pub usize);

/// What a client finds when it looks for bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Bytes(Vec<u8>),
    /// The broker closed the connection.
    Closed,
    /// Nothing came, and nothing will (simulated) or in all the time there was (live).
    Nothing,
}

/// Where a script's clients connect: a process, or engines under simulation.
///
/// Scope: one case. Every case finds the broker without sessions, subscriptions and retained
/// messages.
pub(crate) trait Broker {
    /// Opens a Network Connection.
    ///
    /// # Errors
    /// Says why the broker took none.
    fn open(&mut self) -> Result<ConnectionIndex, String>;

    /// Sends bytes. A connection that the broker has closed swallows them.
    fn send(&mut self, connection: ConnectionIndex, bytes: &[u8]);

    /// Waits for bytes or for the end of the connection, no longer than the back end's
    /// patience.
    fn receive(&mut self, connection: ConnectionIndex) -> Received;

    /// Ends the connection as a lost network does: without DISCONNECT.
    fn cut(&mut self, connection: ConnectionIndex);

    /// Lets time pass.
    fn advance(&mut self, time: Duration);

    /// What the broker logged, for the report of a failure.
    fn log(&self) -> String {
        String::new()
    }
}
