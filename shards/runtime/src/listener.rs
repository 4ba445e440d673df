//! Listening sockets: one per shard and address (SO_REUSEPORT), so that the kernel spreads
//! connections over the shards.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use octopus_engine::ListenerId;
use socket2::{Domain, Protocol, Socket, Type};

use crate::StartError;
use crate::stream::Layers;

/// One configured listener. Scope: node.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Told to the engine with every connection that arrives here.
    pub id: ListenerId,
    /// Port 0 takes a free one; [`crate::Node::addresses`] tells which.
    pub address: SocketAddr,
    /// Connections that the kernel keeps until they are accepted, per shard.
    pub backlog: i32,
    /// What lies between the socket and MQTT.
    pub layers: Layers,
}

/// A bound listener: the address it got and one socket per shard.
pub(crate) struct Bound {
    pub(crate) address: SocketAddr,
    pub(crate) sockets: Vec<OwnedFd>,
}

/// Binds `config` once per shard.
///
/// # Errors
/// `StartError::Bind` with the system's reason; in particular if another process listens
/// there, which SO_REUSEPORT alone would hide.
pub(crate) fn bind(config: &ListenerConfig, shards: u16) -> Result<Bound, StartError> {
    let refuse = |cause| StartError::Bind { address: config.address, cause };
    if config.address.port() != 0 {
        drop(socket(config.address, Sharing::Alone).map_err(refuse)?);
    }
    let first = listen(config.address, config.backlog).map_err(refuse)?;
    let address = local_address(&first).map_err(refuse)?;
    let mut sockets = vec![OwnedFd::from(first)];
    for _ in 1..shards {
        sockets.push(listen(address, config.backlog).map_err(refuse)?.into());
    }
    Ok(Bound { address, sockets })
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

    fn config(address: SocketAddr) -> ListenerConfig {
        ListenerConfig { id: ListenerId(0), address, backlog: 16, layers: Layers::default() }
    }

    #[test]
    fn port_0_gives_every_shard_the_same_port() {
        let bound = bind(&config("127.0.0.1:0".parse().unwrap()), 3).unwrap();
        assert_eq!(bound.sockets.len(), 3);
        assert_ne!(bound.address.port(), 0);
    }

    #[test]
    fn an_address_that_others_listen_on_is_refused_though_they_share_it() {
        let others = bind(&config("127.0.0.1:0".parse().unwrap()), 1).unwrap();
        let error = bind(&config(others.address), 1).err().expect("in use");
        let text = error.to_string();
        assert!(text.contains(&others.address.to_string()), "{text}");
        assert!(text.contains("in use"), "{text}");
    }
}
