//! The connections that were asked about and are not gone: who they are, what they rest on,
//! and how many each address and user has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use octopus_engine::{Acl, ConnectionId, ShardId};

use super::credentials::{Credentials, Grant};
use super::scram::Exchange;

/// A connection of this node.
pub(crate) type Key = (ShardId, ConnectionId);

/// One connection that waits for an answer or has got a yes. Scope: connection.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) who: Credentials,
    /// `None` as long as it is not let in.
    pub(crate) admitted: Option<Admitted>,
    /// SCRAM between its two messages.
    pub(crate) exchange: Option<Box<Exchange>>,
}

/// What a connection that was let in rests on.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) grant: Grant,
    pub(crate) acl: Option<Arc<Acl>>,
}

/// Scope: node.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    live: HashMap<Key, Live>,
    by_address: HashMap<IpAddr, u32>,
    by_user: HashMap<Box<str>, u32>,
}

impl Registry {
    /// Notes a connection that waits for its first answer. Its password is not kept.
    pub(crate) fn insert(&mut self, key: Key, who: &Credentials) {
        let who = Credentials { password: None, ..who.clone() };
        if let Some(address) = who.address {
            *self.by_address.entry(address).or_default() += 1;
        }
        self.live.insert(key, Live { who, admitted: None, exchange: None });
    }

    /// Forgets a connection that is gone.
    pub(crate) fn remove(&mut self, key: Key) -> Option<Live> {
        let live = self.live.remove(&key)?;
        if let Some(address) = &live.who.address {
            lower(&mut self.by_address, address);
        }
        if let (Some(user), Some(_)) = (&live.who.user, &live.admitted) {
            lower(&mut self.by_user, user);
        }
        Some(live)
    }

    /// Notes that a connection is let in, as `who`; `false` if it is gone already.
    pub(crate) fn admit(&mut self, key: Key, who: &Credentials, admitted: Admitted) -> bool {
        let Some(live) = self.live.get_mut(&key) else { return false };
        if let (Some(user), Some(_)) = (&live.who.user, &live.admitted) {
            lower(&mut self.by_user, user);
        }
        live.who.user.clone_from(&who.user);
        live.admitted = Some(admitted);
        if let Some(user) = &who.user {
            *self.by_user.entry(user.clone()).or_default() += 1;
        }
        true
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut Live> {
        self.live.get_mut(&key)
    }

    /// Every connection that is let in.
    pub(crate) fn admitted(&mut self) -> impl Iterator<Item = (Key, &Credentials, &mut Admitted)> {
        self.live.iter_mut().filter_map(|(key, live)| {
            live.admitted.as_mut().map(|admitted| (*key, &live.who, admitted))
        })
    }

    /// Those whose right has ended by `now`.
    pub(crate) fn expired(&self, now: SystemTime) -> Vec<Key> {
        let is_over = |live: &Live| {
            let grant = live.admitted.as_ref().map(|admitted| &admitted.grant);
            grant.and_then(|grant| grant.expires).is_some_and(|expires| expires <= now)
        };
        self.live.iter().filter(|(_, live)| is_over(live)).map(|(key, _)| *key).collect()
    }

    /// Connections from this address, waiting ones included.
    pub(crate) fn count_from(&self, address: IpAddr) -> u32 {
        self.by_address.get(&address).copied().unwrap_or(0)
    }

    /// Connections of this user that are let in.
    pub(crate) fn count_of(&self, user: &str) -> u32 {
        self.by_user.get(user).copied().unwrap_or(0)
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.live.is_empty() && self.by_address.is_empty() && self.by_user.is_empty()
    }
}

fn lower<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(slot: u32) -> Key {
        (ShardId(0), ConnectionId { slot, generation: 1 })
    }

    fn who(user: &str) -> Credentials {
        Credentials {
            user: Some(user.into()),
            address: "10.0.0.1".parse().ok(),
            password: Some(Box::from(*b"secret")),
            ..Credentials::default()
        }
    }

    fn admitted() -> Admitted {
        Admitted { grant: Grant::default(), acl: None }
    }

    #[test]
    fn counts_follow_connections() {
        let mut registry = Registry::default();
        let address = "10.0.0.1".parse().expect("an address");
        registry.insert(key(1), &who("a"));
        registry.insert(key(2), &who("a"));
        assert_eq!((registry.count_from(address), registry.count_of("a")), (2, 0));
        assert!(registry.admit(key(1), &who("a"), admitted()));
        assert!(registry.admit(key(2), &who("b"), admitted()), "known by another name");
        assert_eq!((registry.count_of("a"), registry.count_of("b")), (1, 1));
        assert!(registry.admit(key(2), &who("a"), admitted()), "re-authenticated");
        assert_eq!((registry.count_of("a"), registry.count_of("b")), (2, 0));
        assert!(registry.remove(key(1)).is_some() && registry.remove(key(2)).is_some());
        assert!(registry.is_empty());
    }

    #[test]
    fn who_is_gone_before_the_answer_is_not_let_in() {
        let mut registry = Registry::default();
        registry.insert(key(1), &who("a"));
        registry.remove(key(1));
        assert!(!registry.admit(key(1), &who("a"), admitted()));
        assert!(registry.is_empty());
    }

    #[test]
    fn passwords_are_not_kept() {
        let mut registry = Registry::default();
        registry.insert(key(1), &who("a"));
        assert!(registry.get_mut(key(1)).is_some_and(|live| live.who.password.is_none()));
    }
}
