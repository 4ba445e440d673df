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
    /// Gauge: files that cannot be used as they are now; what was read before is in force.
    pub files_broken: u64,
    /// Gauge: entries of the ban list.
    pub bans: u64,
}

impl AuthStats {
    /// Every plain counter: its metric, what it says, and the count.
    pub fn counters(&self) -> [(&'static str, &'static str, u64); 12] {
        [
            ("octopus_auth_cache_hits", "Answers taken from the cache.", self.cache_hits),
            ("octopus_auth_cache_misses", "Answers that were not in it.", self.cache_misses),
            ("octopus_auth_banned", "Connects refused: banned.", self.banned),
            ("octopus_auth_bans_for_failures", "Bans for failing.", self.bans_for_failures),
            ("octopus_auth_bans_for_flapping", "Bans for flapping.", self.bans_for_flapping),
            (
                "octopus_auth_over_address_limit",
                "Connects refused: as many from this address as may be.",
                self.over_address_limit,
            ),
            (
                "octopus_auth_over_user_limit",
                "Connects refused: as many of this user as may be.",
                self.over_user_limit,
            ),
            ("octopus_auth_revoked", "Clients disconnected by a reload.", self.revoked),
            ("octopus_auth_expired", "Clients whose right ran out.", self.expired),
            ("octopus_auth_acl_changed", "Clients that got other rules.", self.acl_changed),
            ("octopus_auth_reloads", "Files read.", self.reloads),
            ("octopus_auth_reload_failures", "Files not usable.", self.reload_failures),
        ]
    }

    pub(crate) fn count(&mut self, backend: &'static str, result: &'static str) {
        *self.outcomes.entry((backend, result)).or_default() += 1;
    }
}
