//! Who may connect and do what.
//!
//! Shards ask through the hub; [`Service`] answers. A question is looked at in this order: the
//! ban list, the limits on connections, then the `chain` of backends; what the client may do
//! is its backend's rules, then those of the ACL file. Nothing here runs on a shard's thread,
//! and each question is a task of its own, so a slow backend holds up its own clients only.
//!
//! Read in this order: `service` (one question, one answer), `chain` (the backends in turn),
//! `credentials` (what is asked and said), the backends (`password_file` with `password`,
//! `jwt`, `http`, `redis`, `scram`), `acl` and `acl_file`, `registry` (live clients), `files`
//! (reloading), `ban` and `group_bans`, and what these stand on: `cache`, `hash_pool`, `address`.

mod acl;
mod acl_file;
mod address;
mod ban;
mod cache;
mod chain;
mod credentials;
mod file_error;
mod files;
mod group_bans;
mod hash_pool;
mod http;
mod jwt;
mod jwt_signature;
mod log;
pub mod passwd;
mod password;
mod password_file;
mod redis;
mod registry;
mod scram;
mod service;
mod stats;

pub use address::Network;
pub use ban::Target;
pub(crate) use service::is_needed;
pub use service::{Auth, Common, Service, StartError};
pub use stats::AuthStats;

/// The word of a listener's chain that lets everyone in.
pub(crate) const ANYONE: &str = "anyone";

/// The words of `auth.chain`.
pub(crate) const BACKENDS: &[&str] =
    &["anonymous", "password_file", "certificate", "jwt", "http", "redis", "scram"];
