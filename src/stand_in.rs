//! Stands in for the crate `octopus_runtime`, with its names and signatures, until that crate is
//! merged. Opens nothing and carries nothing.
#![allow(dead_code, unreachable_pub, reason = "the names are those of another crate")]

use std::{convert::Infallible, fmt, net::SocketAddr, time::Duration};

use octopus_engine::{ListenerId, ShardId};
use octopus_mqtt::ReasonCode;

#[derive(Clone, Debug, Default)]
pub struct NodeConfig {
    pub shards: Option<u16>,
    pub listeners: Vec<ListenerConfig>,
    pub connection_count_max: usize,
    pub seed: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct ListenerConfig {
    pub id: ListenerId,
    pub address: SocketAddr,
    pub backlog: i32,
}

#[derive(Debug)]
pub struct StartError(Infallible);

impl fmt::Display for StartError {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {}
    }
}

#[derive(Debug)]
pub struct ShardFailed(Infallible);

impl fmt::Display for ShardFailed {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {}
    }
}

pub fn preflight() -> Result<(), StartError> {
    Ok(())
}

pub struct Node {
    addresses: Vec<SocketAddr>,
    shards: u16,
}

pub fn start<S, F>(config: &NodeConfig, make: F) -> Result<Node, StartError>
where
    F: Fn(ShardId, u16, u64) -> S + Clone + Send + 'static,
{
    drop(make);
    let addresses = config.listeners.iter().map(|listener| listener.address).collect();
    Ok(Node { addresses, shards: config.shards.unwrap_or(1) })
}

impl Node {
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub fn shards(&self) -> u16 {
        self.shards
    }

    pub fn stop(&self, _: ReasonCode, _: Duration) {}

    pub async fn failed(&self) -> ShardFailed {
        std::future::pending().await
    }

    pub fn join(self) -> Result<(), ShardFailed> {
        Ok(())
    }
}
