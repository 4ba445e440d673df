//! The simulated back end: a script's clients are byte pipes to engines in this thread, and time
//! is what the script says.

use std::time::Duration;

use octopus_engine::{Limits, Pick};
use octopus_mqtt::QoS;
use octopus_sim::{Node, NodeConfig, SocketId};

use super::{Broker, ConnectionIndex, Received};

/// A node made for one case.
pub(crate) struct Simulated {
    node: Node,
    sockets: Vec<SocketId>,
}

impl Simulated {
    /// A node with these settings, `--key=value` as a process takes them; `None` if there is one
    /// among them that only a process has.
    pub(crate) fn new(shards: u16, settings: &[String]) -> Option<Self> {
        let mut config = NodeConfig::new(shards);
        for setting in settings {
            match setting.strip_prefix("--broker.shared_pick=") {
                Some(pick) => config.shared_pick = self::pick(pick)?,
                None => set(&mut config.limits, setting)?,
            }
        }
        Some(Self { node: Node::new(&config), sockets: Vec::new() })
    }
}

/// Puts one setting into the limits.
fn set(limits: &mut Limits, setting: &str) -> Option<()> {
    let (key, value) = setting.strip_prefix("--limits.")?.split_once('=')?;
    match key {
        "packet_size_max" => limits.packet_size_max = size(value)?,
        "connect_timeout" => {
            limits.connect_timeout = Duration::from_secs(value.strip_suffix('s')?.parse().ok()?);
        }
        "keep_alive_max_s" => limits.keep_alive_max_s = value.parse().ok()?,
        "inflight_count_max" => limits.inflight_count_max = value.parse().ok()?,
        "receive_max" => limits.receive_max = value.parse().ok()?,
        "topic_alias_max" => limits.topic_alias_max = value.parse().ok()?,
        "queue_count_max" => limits.queue_count_max = value.parse().ok()?,
        "subscription_count_max" => limits.subscription_count_max = value.parse().ok()?,
        "topic_levels_max" => limits.topic_levels_max = value.parse().ok()?,
        "retain_available" => limits.retain_available = value.parse().ok()?,
        "wildcard_available" => limits.wildcard_available = value.parse().ok()?,
        "shared_available" => limits.shared_available = value.parse().ok()?,
        "subscription_id_available" => limits.subscription_id_available = value.parse().ok()?,
        "qos_max" => {
            limits.qos_max = match value {
                "0" => QoS::AtMostOnce,
                "1" => QoS::AtLeastOnce,
                _ => QoS::ExactlyOnce,
            }
        }
        _ => return None,
    }
    Some(())
}

fn pick(value: &str) -> Option<Pick> {
    Some(match value {
        "round_robin" => Pick::RoundRobin,
        "random" => Pick::Random,
        "least_inflight" => Pick::LeastInflight,
        "sticky" => Pick::Sticky,
        "publisher" => Pick::Publisher,
        _ => return None,
    })
}

/// `1KiB` or a number of bytes.
fn size(value: &str) -> Option<u32> {
    match value.strip_suffix("KiB") {
        Some(number) => Some(number.parse::<u32>().ok()? * 1024),
        None => value.parse().ok(),
    }
}

impl Broker for Simulated {
    fn open(&mut self) -> Result<ConnectionIndex, String> {
        self.sockets.push(self.node.open());
        self.node.settle();
        Ok(ConnectionIndex(self.sockets.len() - 1))
    }

    fn send(&mut self, connection: ConnectionIndex, bytes: &[u8]) {
        self.node.send(self.sockets[connection.0], bytes);
        self.node.settle();
    }

    fn receive(&mut self, connection: ConnectionIndex) -> Received {
        let socket = self.sockets[connection.0];
        self.node.settle();
        let bytes = self.node.take_received(socket);
        if !bytes.is_empty() {
            Received::Bytes(bytes)
        } else if self.node.is_closed(socket) {
            Received::Closed
        } else {
            Received::Nothing
        }
    }

    fn cut(&mut self, connection: ConnectionIndex) {
        self.node.cut(self.sockets[connection.0]);
        self.node.settle();
    }

    fn advance(&mut self, time: Duration) {
        self.node.advance(time);
    }
}
