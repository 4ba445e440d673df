//! The live back end: a script's clients are TCP connections to a broker's process.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use super::broker::Process;
use super::{Broker, ConnectionIndex, Received};

/// How long a client waits for what the script says must come. Only a failure takes this long.
const PATIENCE: Duration = Duration::from_secs(5);

/// The connections of one case to one broker.
pub(crate) struct Tcp<'a> {
    broker: &'a Process,
    streams: Vec<TcpStream>,
}

impl<'a> Tcp<'a> {
    pub(crate) fn new(broker: &'a Process) -> Self {
        Self { broker, streams: Vec::new() }
    }
}

impl Broker for Tcp<'_> {
    fn open(&mut self) -> Result<ConnectionIndex, String> {
        let stream = self.broker.connect().map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
        self.streams.push(stream);
        Ok(ConnectionIndex(self.streams.len() - 1))
    }

    fn send(&mut self, connection: ConnectionIndex, bytes: &[u8]) {
        // An error means that the broker has closed; the next `receive` says so.
        let _ = self.streams[connection.0].write_all(bytes);
    }

    fn receive(&mut self, connection: ConnectionIndex) -> Received {
        let mut bytes = vec![0; 64 * 1024];
        match self.streams[connection.0].read(&mut bytes) {
            Ok(0) => Received::Closed,
            Ok(count) => {
                bytes.truncate(count);
                Received::Bytes(bytes)
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => Received::Nothing,
                _ => Received::Closed,
            },
        }
    }

    fn cut(&mut self, connection: ConnectionIndex) {
        // It may have been closed by the broker already.
        let _ = self.streams[connection.0].shutdown(Shutdown::Both);
    }

    fn advance(&mut self, time: Duration) {
        thread::sleep(time);
    }

    fn log(&self) -> String {
        self.broker.log()
    }
}
