//! The relay on the runtime's driver: what the broker stands on.

use std::net::SocketAddr;
use std::time::Duration;

use octopus_runtime::{
    Address, ConnectionId, Input, Instant, ListenerConfig, ListenerId, NodeConfig, OutBuffer,
    Output, Service, Tuning, start,
};

use crate::Error;
use crate::relay::Relay;

#[derive(Default)]
struct RingRelay {
    relay: Relay,
    /// Connections by slot.
    ids: Vec<ConnectionId>,
}

impl Service for RingRelay {
    fn handle(&mut self, input: Input<'_>, _now: Instant) {
        match input {
            Input::Received { connection, bytes } => self.relay.received(connection.slot, bytes),
            Input::Written { connection, buffer } => {
                self.relay.written(connection.slot, buffer.bytes);
            }
            Input::Opened { connection, .. } => {
                self.relay.open(connection.slot);
                if self.ids.len() <= connection.slot as usize {
                    self.ids.resize(connection.slot as usize + 1, connection);
                }
                self.ids[connection.slot as usize] = connection;
            }
            Input::Lost { connection, .. } => self.relay.close(connection.slot),
            Input::Envelope { .. } | Input::Tick | Input::Stop { .. } => {}
        }
    }

    fn poll(&mut self) -> Option<Output> {
        let (slot, bytes) = self.relay.next_write()?;
        let buffer = OutBuffer { bytes, shared: Vec::new() };
        Some(Output::Write { connection: self.ids[slot as usize], buffer })
    }

    fn next_timeout(&self) -> Option<Instant> {
        None
    }
}

/// Starts it on one shard; it lives as long as the process. `options` is `ring`, or `ring`
/// with settings to compare: `ring,buffers=64,bytes=16384`.
pub(crate) fn spawn(options: &str) -> Result<SocketAddr, Error> {
    let config = NodeConfig {
        shards: Some(1),
        listeners: vec![ListenerConfig {
            id: ListenerId(0),
            address: Address::Tcp("127.0.0.1:0".parse()?),
            backlog: 1024,
            layers: octopus_runtime::stream::Layers::default(),
        }],
        tuning: tuning(options)?,
        ..NodeConfig::default()
    };
    let node = start(&config, |_, _, _| RingRelay::default())?;
    let address = node.addresses()[0].tcp().ok_or("it listens on TCP")?;
    std::mem::forget(node);
    Ok(address)
}

fn tuning(options: &str) -> Result<Tuning, Error> {
    let mut tuning = Tuning::default();
    for option in options.split(',').skip(1) {
        match option.split_once('=').ok_or("an option is NAME=VALUE")? {
            ("entries", value) => tuning.ring_entries = value.parse()?,
            ("buffers", value) => tuning.receive_buffer_count = value.parse()?,
            ("bytes", value) => tuning.receive_buffer_bytes = value.parse()?,
            ("sleep-ms", value) => tuning.sleep_max = Duration::from_millis(value.parse()?),
            ("preempt-ms", value) => {
                tuning.preempt_timer = Duration::from_millis(value.parse()?);
            }
            (name, _) => return Err(format!("no option {name}").into()),
        }
    }
    Ok(tuning)
}
