//! What crosses between the nodes of a group, through the Redis they share.
//!
//! Read in this order: `keys` (names in Redis), `link` (the connection to it), `members` (who
//! is in the group).

pub mod keys;
pub mod link;
pub mod members;
pub mod outbox;
pub mod retained;
pub mod rules;
pub mod wire;
pub mod work;
