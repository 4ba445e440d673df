//! What each packet from a client does: one file per packet, methods on `Shard`.

mod ack;
mod auth;
mod claim;
mod connect;
mod disconnect;
pub(crate) mod publish;
mod subscribe;
mod unsubscribe;
