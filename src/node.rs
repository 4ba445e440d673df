//! From the configuration to running shards.

use std::{
    fmt, io,
    net::{SocketAddr, ToSocketAddrs as _},
    sync::Arc,
};

use octopus_engine::{ListenerId, Recorded, Shard, ShardConfig};

use octopus_runtime::stream::{self, Layers, Tls, TlsError, TlsFiles};
use octopus_runtime::{AcceptLimits, Address};

use crate::auth;
use crate::config::{
    Config, Listener, ListenerKind, Shards, Storage, limits_per_shard, listener_rates_per_shard,
};

pub use octopus_runtime::{Node, ShardFailed};

/// Why a node did not start; its text says what, where and how to mend it.
#[derive(Debug)]
pub enum StartError {
    /// A listener's host has no address.
    NoAddress { listener: String, address: String, cause: io::Error },
    /// A value that is right and that this version does not carry out.
    NotSupported { key: String, value: &'static str, supported: &'static str },
    /// A listener's certificates.
    Tls { listener: String, cause: TlsError },
    /// The shards, or what they need of the kernel.
    Runtime(octopus_runtime::StartError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress { listener, address, cause } => write!(
                f,
                "listener {listener}: {address} does not resolve ({cause}); give an address of \
                 this machine, or 0.0.0.0 for all of them"
            ),
            Self::NotSupported { key, value, supported } => {
                write!(f, "{key}: {value} is not supported by this version; use {supported}")
            }
            Self::Tls { listener, cause } => write!(f, "listener {listener}: {cause}"),
            Self::Runtime(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

impl From<octopus_runtime::StartError> for StartError {
    fn from(error: octopus_runtime::StartError) -> Self {
        Self::Runtime(error)
    }
}

/// Finds out what would keep the node from starting, before anything is done.
///
/// # Errors
/// What this version does not carry out, or what the kernel lacks.
pub fn check(config: &Config) -> Result<(), StartError> {
    refuse_unsupported(config)?;
    Ok(octopus_runtime::preflight()?)
}

/// Starts the shards; returns when all of them accept connections.
///
/// # Errors
/// What is in the way, with its remedy; nothing is left running then.
///
/// - `seed`: the same for all shards; decides where topics and clients are at home.
pub fn start(config: &Config, seed: u64) -> Result<Node, StartError> {
    let limits = config.limits.clone();
    let listeners = config.all_listeners();
    let authenticate = auth::is_needed(config);
    let cluster = !config.broker.group.is_empty();
    let storage = config.broker.storage;
    let recorded = Recorded {
        sessions: storage.session == Storage::Redis,
        subscriptions: storage.subscription == Storage::Redis,
        messages: storage.publish == Storage::Redis,
    };
    let given = |text: &str| (!text.is_empty()).then(|| text.into());
    let server_reference: Option<Box<str>> = given(&config.broker.server_reference);
    let response_information: Option<Box<str>> = given(&config.broker.response_information);
    let shared_pick = config.broker.shared_pick;
    let make = move |id, shards, seed| {
        let limits = limits_per_shard(&limits, shards);
        let listener_rates = listener_rates_per_shard(&listeners, shards);
        Shard::new(ShardConfig {
            limits,
            listener_rates,
            authenticate,
            cluster,
            recorded,
            shared_pick,
            server_reference: server_reference.clone(),
            response_information: response_information.clone(),
            ..ShardConfig::new(id, shards, seed)
        })
    };
    let node_config = octopus_runtime::NodeConfig { seed: Some(seed), ..node_config(config)? };
    Ok(octopus_runtime::start(&node_config, make)?)
}

/// Refuses what would be accepted and not done.
fn refuse_unsupported(config: &Config) -> Result<(), StartError> {
    let in_redis = config.broker.storage.named().into_iter().find(|(_, s)| *s == Storage::Redis);
    if let Some((kind, _)) = in_redis.filter(|_| config.broker.group.is_empty()) {
        let key = format!("broker.storage.{kind}");
        let supported = "local, or give broker.group";
        return Err(StartError::NotSupported { key, value: "redis", supported });
    }
    Ok(())
}

fn node_config(config: &Config) -> Result<octopus_runtime::NodeConfig, StartError> {
    let listeners = config.all_listeners();
    let listeners = (0..).zip(&listeners).map(|(id, listener)| listener_config(id, listener));
    Ok(octopus_runtime::NodeConfig {
        shards: match config.shards {
            Shards::Auto => None,
            Shards::Count(count) => Some(count),
        },
        listeners: listeners.collect::<Result<_, _>>()?,
        accept: accept_limits(config),
        ..octopus_runtime::NodeConfig::default()
    })
}

/// What bounds accepting, by this configuration.
pub fn accept_limits(config: &Config) -> AcceptLimits {
    let count = |max: u32| usize::try_from(max).unwrap_or(usize::MAX);
    let of_listener = |listener: Listener| match listener.connections_max {
        0 => usize::MAX,
        max => count(max),
    };
    AcceptLimits {
        connection_count_max: count(config.connections.count_max),
        by_listener: config.all_listeners().into_iter().map(of_listener).collect(),
        rate_max: config.connections.rate_max,
        connect_timeout: config.limits.connect_timeout,
    }
}

fn listener_config(
    id: u16,
    listener: &Listener,
) -> Result<octopus_runtime::ListenerConfig, StartError> {
    let address = match listener.kind {
        ListenerKind::Unix => Address::Unix {
            path: (&listener.address).into(),
            // Whether it is octal was checked when it was read.
            mode: listener.mode().unwrap_or_default(),
        },
        _ => Address::Tcp(resolve(&listener.address).map_err(|cause| StartError::NoAddress {
            listener: listener.name.clone(),
            address: listener.address.clone(),
            cause,
        })?),
    };
    Ok(octopus_runtime::ListenerConfig {
        id: ListenerId(id),
        address,
        backlog: i32::try_from(listener.backlog).unwrap_or(i32::MAX),
        layers: layers(listener)?,
    })
}

/// What lies between the listener's sockets and MQTT.
fn layers(listener: &Listener) -> Result<Layers, StartError> {
    let networks = listener.trusted_proxies.iter();
    let (is_tls, websocket) = match listener.kind {
        ListenerKind::Tcp | ListenerKind::Unix => (false, false),
        ListenerKind::Tls => (true, false),
        ListenerKind::Ws => (false, true),
        ListenerKind::Wss => (true, true),
    };
    let tls = is_tls.then(|| Tls::load(tls_files(listener)).map(Arc::new)).transpose();
    Ok(Layers {
        proxy_protocol: listener.proxy_protocol,
        // Whether they are networks was checked when they were read.
        trusted_proxies: networks.filter_map(|text| stream::network(text)).collect(),
        tls: tls.map_err(|cause| StartError::Tls { listener: listener.name.clone(), cause })?,
        websocket,
        origins: listener.origins.iter().map(|origin| origin.as_str().into()).collect(),
    })
}

fn tls_files(listener: &Listener) -> TlsFiles {
    let tls = &listener.tls;
    let given = |file: &String| (!file.is_empty()).then(|| file.into());
    TlsFiles {
        certificate: (&tls.certificate).into(),
        key: (&tls.key).into(),
        client_ca: given(&tls.client_ca),
        require_client_certificate: tls.require_client_certificate,
        crl: given(&tls.crl),
        user_from: tls.user_from,
    }
}

/// The address of `host:port`; of several, the first of IPv4, so that `localhost` is 127.0.0.1.
fn resolve(endpoint: &str) -> io::Result<SocketAddr> {
    let addresses: Vec<SocketAddr> = endpoint.to_socket_addrs()?.collect();
    let first_v4 = addresses.iter().find(|address| address.is_ipv4());
    let found = first_v4.or_else(|| addresses.first()).copied();
    found.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_resolved_in_their_order() {
        let mut config = Config::default();
        config.broker.host = "localhost".to_owned();
        let address = "[::1]:1883".to_owned();
        config.listeners.push(Listener { name: "six".into(), address, ..Listener::default() });
        let addresses: Vec<String> = node_config(&config)
            .expect("both resolve")
            .listeners
            .iter()
            .map(|listener| format!("{} {}", listener.id.0, listener.address))
            .collect();
        assert_eq!(addresses, ["0 127.0.0.1:20000", "1 [::1]:1883"]);
    }

    #[test]
    fn what_is_not_carried_out_is_refused_in_one_line() {
        let mut config = Config::default();
        config.broker.storage.session = Storage::Redis;
        let line = refuse_unsupported(&config).expect_err("not supported").to_string();
        assert_eq!(
            line,
            "broker.storage.session: redis is not supported by this version; use local, or give \
             broker.group"
        );
    }
}
