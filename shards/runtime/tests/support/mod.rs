//! A service to test the driver with: the first byte of a connection says what it does.

use std::collections::{HashMap, VecDeque};
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use octopus_runtime::{
    Address, ConnectionId, Input, Instant, ListenerConfig, ListenerId, Node, NodeConfig, OutBuffer,
    Output, Service, ShardId, start, stream::Layers,
};

/// Bytes of one write of a bulk connection: some copied, most shared.
const BULK_COPIED: usize = 1000;
const BULK_SHARED: usize = 99_000;
pub(crate) const BULK_WRITE: usize = BULK_COPIED + BULK_SHARED;

#[derive(Default)]
struct Connection {
    mode: Option<u8>,
    /// Bytes to send once the write in flight is done.
    queued: Vec<u8>,
    writing: bool,
    /// Bulk writes still to do.
    bulk_count: u32,
}

/// - `e`: answers with the shard's number, then every byte that follows;
/// - `h` and a digit: hands over to that shard with the bytes that follow;
/// - `b` and a digit: sends `BULK_WRITE` bytes 10^digit times;
/// - `p`: stops reading for 50 ms, answers with the count of bytes known then, then as `e`;
/// - `c`: answers `bye` and closes;
/// - `x`: panics.
pub(crate) struct Scripted {
    shard: ShardId,
    connections: HashMap<ConnectionId, Connection>,
    paused: VecDeque<(Instant, ConnectionId)>,
    outputs: VecDeque<Output>,
}

impl Scripted {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self {
            shard,
            connections: HashMap::new(),
            paused: VecDeque::new(),
            outputs: VecDeque::new(),
        }
    }

    fn received(&mut self, id: ConnectionId, bytes: &[u8], now: Instant) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        match (connection.mode, bytes) {
            (None, [b'e', rest @ ..]) => {
                connection.mode = Some(b'e');
                connection.queued.push(b'0' + self.shard.0 as u8);
                connection.queued.extend(rest);
            }
            (None, [b'h', digit, rest @ ..]) => {
                self.connections.remove(&id);
                let (to, unread) = (ShardId(u16::from(digit - b'0')), rest.to_vec());
                self.outputs.push_back(Output::HandOff { connection: id, to, unread });
                return;
            }
            (None, [b'b', digit, ..]) => {
                connection.mode = Some(b'b');
                connection.bulk_count = 10_u32.pow(u32::from(digit - b'0'));
            }
            (None, [b'p', ..]) => {
                connection.mode = Some(b'p');
                self.outputs.push_back(Output::PauseReading { connection: id });
                self.paused.push_back((now.after(Duration::from_millis(50)), id));
            }
            (None, [b'c', ..]) => {
                let buffer = OutBuffer { bytes: b"bye".to_vec(), shared: Vec::new() };
                self.outputs.push_back(Output::Write { connection: id, buffer });
                self.outputs.push_back(Output::Close { connection: id });
                self.connections.remove(&id);
                return;
            }
            (None, [b'x', ..]) => panic!("asked to"),
            (Some(b'e'), bytes) => connection.queued.extend(bytes),
            _ => {}
        }
        self.write(id, OutBuffer::default());
    }

    fn write(&mut self, id: ConnectionId, mut buffer: OutBuffer) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if connection.writing {
            return;
        }
        if connection.bulk_count > 0 {
            connection.bulk_count -= 1;
            buffer.bytes.resize(BULK_COPIED, b'b');
            let chunk = bytes::Bytes::from(vec![b's'; BULK_SHARED]);
            buffer.shared.push((BULK_COPIED / 2, chunk));
        } else if connection.queued.is_empty() {
            return;
        } else {
            std::mem::swap(&mut buffer.bytes, &mut connection.queued);
        }
        connection.writing = true;
        self.outputs.push_back(Output::Write { connection: id, buffer });
    }
}

impl Service for Scripted {
    fn handle(&mut self, input: Input<'_>, now: Instant) {
        match input {
            Input::Opened { connection, .. } => {
                self.connections.insert(connection, Connection::default());
            }
            Input::Received { connection, bytes } => self.received(connection, bytes, now),
            Input::Written { connection, buffer } => {
                assert!(buffer.is_empty());
                if let Some(known) = self.connections.get_mut(&connection) {
                    known.writing = false;
                }
                self.write(connection, buffer);
            }
            Input::Lost { connection, .. } => {
                self.connections.remove(&connection);
            }
            Input::Stop { .. } => {
                for (id, connection) in self.connections.drain() {
                    if !connection.writing {
                        let buffer = OutBuffer { bytes: b"stop".to_vec(), shared: Vec::new() };
                        self.outputs.push_back(Output::Write { connection: id, buffer });
                    }
                    self.outputs.push_back(Output::Close { connection: id });
                }
            }
            Input::Envelope { .. } | Input::Tick => {}
        }
        while let Some((at, id)) = self.paused.front().copied()
            && at <= now
        {
            self.paused.pop_front();
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.mode = Some(b'e');
                self.outputs.push_back(Output::ResumeReading { connection: id });
            }
        }
    }

    fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.paused.front().map(|(at, _)| *at)
    }
}

pub(crate) fn config(shards: u16) -> NodeConfig {
    let address = Address::Tcp("127.0.0.1:0".parse().expect("an address"));
    NodeConfig {
        shards: Some(shards),
        listeners: vec![ListenerConfig {
            id: ListenerId(0),
            address,
            backlog: 128,
            layers: Layers::default(),
        }],
        ..NodeConfig::default()
    }
}

pub(crate) fn node(config: &NodeConfig) -> Node {
    start(config, |shard, _, _| Scripted::new(shard)).expect("the node starts")
}

/// Reads once. A signal that another thread's executor asked for is no answer.
pub(crate) fn read_once(client: &mut TcpStream, bytes: &mut [u8]) -> usize {
    loop {
        match client.read(bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => return read.expect("bytes, or an orderly end"),
        }
    }
}

/// Where the node's first listener is.
pub(crate) fn address(node: &Node) -> SocketAddr {
    node.addresses()[0].tcp().expect("it listens on TCP")
}

/// A client that fails a test instead of hanging it.
pub(crate) fn client(node: &Node) -> TcpStream {
    let client = TcpStream::connect(address(node)).expect("the node accepts");
    client.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
    client
}
