//! Ends the connections of somebody who was banned and whom nobody was asked about: clients that
//! came while everybody was let in.

use std::net::SocketAddr;

use octopus_engine::{Ask, ClientInfo, Found, Search, ShardId};
use octopus_mqtt::ReasonCode;

use super::ban::Target;
use crate::hub::Hub;

/// Sessions of one question.
const SLICE: usize = 256;

/// Goes through the clients of this node, a slice of a shard at a time.
pub async fn part_banned(hub: Hub, target: Target) {
    for shard in (0..hub.shards()).map(ShardId) {
        let mut from = Some(0);
        while let Some(at) = from {
            let ask = Ask::Clients { search: Search::All, from: at, limit: SLICE };
            let Some(Found::Clients { clients, next }) = hub.query(shard, ask).await else {
                return;
            };
            for client in clients.iter().filter(|client| is_meant(&target, client)) {
                hub.kick(&client.client, ReasonCode::Banned);
            }
            from = next;
        }
    }
}

fn is_meant(target: &Target, client: &ClientInfo) -> bool {
    let Some(connection) = &client.connection else { return false };
    match target {
        Target::Address(network) => {
            let address = connection.address.as_ref().map(SocketAddr::ip);
            address.is_some_and(|address| network.contains(address.to_canonical()))
        }
        Target::User(user) => connection.user.as_ref() == Some(user),
        Target::Client(id) => client.client == *id,
    }
}
