//! Listening sockets: one per shard and address (SO_REUSEPORT), so that the kernel spreads
//! connections over the shards. Unix has no such thing: there the shards share one socket.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use octopus_engine::ListenerId;
use socket2::{Domain, Protocol, Socket, Type};

use crate::StartError;
use crate::stream::Layers;
use crate::unix::{self, SocketFile};

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Port 0 takes a free one; [`crate::Node::addresses`] tells which.
    Tcp(SocketAddr),
    /// A socket's file and its permissions. The file is removed when the node stops.
    Unix { path: PathBuf, mode: u32 },
}

/// One configured listener. Scope: node.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Told to the engine with every connection that arrives here.
    pub id: ListenerId,
    pub address: Address,
    /// Connections that the kernel keeps until they are accepted, per shard.
    pub backlog: i32,
    /// What lies between the socket and MQTT.
    pub layers: Layers,
}

impl Address {
    /// `None` for a Unix socket.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix { .. } => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A bound listener: the address it got and one socket per shard.
pub(crate) struct Bound {
    pub(crate) address: Address,
    pub(crate) sockets: Vec<OwnedFd>,
    /// Of a Unix socket.
    pub(crate) file: Option<SocketFile>,
}

/// Binds `config` once per shard.
///
/// # Errors
/// `StartError::Bind` with the system's reason; in particular if another process listens
/// there, which SO_REUSEPORT alone would hide.
pub(crate) fn bind(config: &ListenerConfig, shards: u16) -> Result<Bound, StartError> {
    let bound = match &config.address {
        Address::Tcp(address) => bind_tcp(*address, config.backlog, shards),
        Address::Unix { path, mode } => {
            unix::listen(path, *mode, config.backlog).and_then(|(first, file)| {
                let mut sockets = Vec::new();
                for _ in 1..shards {
                    sockets.push(first.try_clone()?.into());
                }
                sockets.push(first.into());
                Ok(Bound { address: config.address.clone(), sockets, file: Some(file) })
            })
        }
    };
    bound.map_err(|cause| StartError::Bind { address: config.address.clone(), cause })
}

fn bind_tcp(address: SocketAddr, backlog: i32, shards: u16) -> io::Result<Bound> {
    if address.port() != 0 {
        drop(socket(address, Sharing::Alone)?);
    }
    let first = listen(address, backlog)?;
    let address = local_address(&first)?;
    let mut sockets = vec![OwnedFd::from(first)];
    for _ in 1..shards {
        sockets.push(listen(address, backlog)?.into());
    }
    Ok(Bound { address: address.into(), sockets, file: None })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    /// Fails if anybody listens on the address.
    Alone,
    /// Joins others of this user that listen on the address.
    BetweenShards,
}

fn listen(address: SocketAddr, backlog: i32) -> io::Result<Socket> {
    let socket = socket(address, Sharing::BetweenShards)?;
    // Accepted connections inherit it, so no call is spent on each.
    socket.set_tcp_nodelay(true)?;
    socket.listen(backlog)?;
    Ok(socket)
}

fn socket(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // So that a restart does not wait for connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two listeners.
        socket.set_only_v6(true)?;
    }
    if sharing == Sharing::BetweenShards {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(address: &str) -> ListenerConfig {
        let address = Address::Tcp(address.parse().unwrap());
        ListenerConfig { id: ListenerId(0), address, backlog: 16, layers: Layers::default() }
    }

    #[test]
    fn port_0_gives_every_shard_the_same_port() {
        let bound = bind(&config("127.0.0.1:0"), 3).unwrap();
        assert_eq!(bound.sockets.len(), 3);
        assert_ne!(bound.address.tcp().unwrap().port(), 0);
    }

    #[test]
    fn an_address_that_others_listen_on_is_refused_though_they_share_it() {
        let others = bind(&config("127.0.0.1:0"), 1).unwrap();
        let error = bind(&config(&others.address.to_string()), 1).err().expect("in use");
        let text = error.to_string();
        assert!(text.contains(&others.address.to_string()), "{text}");
        assert!(text.contains("in use"), "{text}");
    }
}
