//! Lines about clients that were not let in, for people and for fail2ban: one line each, with
//! client, user and address, at most one a second for each address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use octopus_mqtt::ReasonCode;
use octopus_runtime::Plain;

use super::ban::Target;
use super::credentials::Credentials;

const EVERY: Duration = Duration::from_secs(1);
/// Addresses that are told apart; more than this in one second share one line.
const ADDRESSES_MAX: usize = 1000;

/// Scope: node.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    until: HashMap<Option<IpAddr>, Instant>,
    unsaid: u64,
    /// Of lines about bans.
    bans_until: Option<Instant>,
    bans_unsaid: u64,
}

impl Quiet {
    /// Logs a refusal, or counts it if one of this address was logged within the second.
    pub(crate) fn refused(&mut self, who: &Credentials, reason: ReasonCode, why: &str) {
        let Some(unsaid) = self.may_say(who.address, Instant::now()) else { return };
        let address = who.address.map(tracing::field::display);
        let user = who.user.as_deref();
        let (client, reason) = (&*who.client, reason.name());
        tracing::warn!(client, user, address, reason, why, unsaid, "authentication failed");
    }

    /// Logs a ban that the node set by itself, or counts it if one was logged within the second.
    pub(crate) fn banned(&mut self, target: &Target, time: Duration, why: &str) {
        let now = Instant::now();
        if self.bans_until.is_some_and(|until| until > now) {
            self.bans_unsaid += 1;
            return;
        }
        self.bans_until = Some(now + EVERY);
        let unsaid = std::mem::take(&mut self.bans_unsaid);
        let target = target.to_string();
        let target = tracing::field::display(Plain(&target));
        tracing::warn!(target, time_s = time.as_secs(), why, unsaid, "banned");
    }

    /// How many were left out since the last line, if one may be written now.
    fn may_say(&mut self, address: Option<IpAddr>, now: Instant) -> Option<u64> {
        if self.until.len() >= ADDRESSES_MAX {
            self.until.retain(|_, until| *until > now);
        }
        let is_quiet = self.until.get(&address).is_some_and(|until| *until > now);
        if is_quiet || self.until.len() >= ADDRESSES_MAX {
            self.unsaid += 1;
            return None;
        }
        self.until.insert(address, now + EVERY);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_line_a_second() {
        let mut quiet = Quiet::default();
        let now = Instant::now();
        let address = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        assert_eq!(quiet.may_say(address(1), now), Some(0));
        assert_eq!(quiet.may_say(address(1), now), None);
        assert_eq!(quiet.may_say(address(2), now), Some(1));
        assert_eq!(quiet.may_say(address(1), now + EVERY), Some(0));
    }

    #[test]
    fn a_flood_from_everywhere_does_not_fill_memory_or_log() {
        let mut quiet = Quiet::default();
        let now = Instant::now();
        let said = (0..100_000_u32)
            .filter(|n| quiet.may_say(Some(IpAddr::from(n.to_be_bytes())), now).is_some());
        assert_eq!(said.count(), ADDRESSES_MAX);
        assert!(quiet.until.len() <= ADDRESSES_MAX);
    }
}
