//! What authentication counts. Scope: node; read by [`super::Auth::stats`].

use std::collections::BTreeMap;

/// Counters that only rise, and gauges where it says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthStats {
    /// Answers by backend and result (`granted`, `refused`, `no_opinion`, `failed`, `busy`).
    /// Backend `chain` is what was told in the end.
    pub outcomes: BTreeMap<(&'static str, &'static str), u64>,
    /// Answers taken from the cache, and not.
    pub cache_hits: u64,
    pub cache_misses: u64,
    /// Connects refused because their client was banned.
    pub banned: u64,
    /// Bans set for failing to authenticate, and for flapping.
    pub bans_for_failures: u64,
    pub bans_for_flapping: u64,
    /// Connects refused because their address, or their user, has as many as it may.
    pub over_address_limit: u64,
    pub over_user_limit: u64,
    /// Live clients disconnected because their right ended: revoked by a reload, or expired.
    pub revoked: u64,
    pub expired: u64,
    /// Live clients whose rules a reload changed.
    pub acl_changed: u64,
    /// Files read anew, and files that could not be used.
    pub reloads: u64,
    pub reload_failures: u64,
    /// Gauge: entries of the ban list.
    pub bans: u64,
}

impl AuthStats {
    pub(crate) fn count(&mut self, backend: &'static str, result: &'static str) {
        *self.outcomes.entry((backend, result)).or_default() += 1;
    }
}
