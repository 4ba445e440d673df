//! Answers that were given a moment ago, by a keyed hash of what was asked.
//!
//! Two generations: when the younger has its share the older is forgotten, so that memory is
//! bounded and no entry is searched for. What is kept cannot be turned back into a password.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ring::hmac;

use super::password::random;

/// A keyed hash of a question.
pub(crate) type CacheKey = [u8; 32];

/// Scope: node. `V` is what is remembered.
#[derive(Debug)]
pub(crate) struct Cache<V> {
    young: HashMap<CacheKey, (Instant, V)>,
    old: HashMap<CacheKey, (Instant, V)>,
    ttl: Duration,
    count_max: usize,
}

impl<V: Clone> Cache<V> {
    pub(crate) fn new(ttl: Duration, count_max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), ttl, count_max }
    }

    pub(crate) fn get(&self, key: &CacheKey, now: Instant) -> Option<V> {
        let (until, value) = self.young.get(key).or_else(|| self.old.get(key))?;
        (*until > now).then(|| value.clone())
    }

    pub(crate) fn put(&mut self, key: CacheKey, value: V, now: Instant) {
        if self.ttl.is_zero() || self.count_max == 0 {
            return;
        }
        if self.young.len() >= self.count_max.div_ceil(2) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, (now + self.ttl, value));
    }

    pub(crate) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
    }
}

/// Hashes questions with a key that is new in every process. Scope: node.
#[derive(Debug)]
pub(crate) struct Hasher(hmac::Key);

impl Hasher {
    /// `None` if the system gives no random bytes.
    pub(crate) fn new() -> Option<Self> {
        Some(Self(hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?)))
    }

    /// The parts in order; each with its length, so that none can run into the next.
    pub(crate) fn hash(&self, parts: &[&[u8]]) -> CacheKey {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("SHA-256 gives 32 bytes")
    }

    pub(crate) fn key(&self) -> &hmac::Key {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_forgotten_when_its_time_is_over() {
        let mut cache = Cache::new(Duration::from_secs(5), 10);
        let start = Instant::now();
        cache.put([1; 32], "yes", start);
        assert_eq!(cache.get(&[1; 32], start + Duration::from_secs(4)), Some("yes"));
        assert_eq!(cache.get(&[1; 32], start + Duration::from_secs(5)), None);
    }

    #[test]
    fn the_cache_stays_within_its_bound_and_keeps_the_newest() {
        let mut cache = Cache::new(Duration::from_secs(5), 10);
        let now = Instant::now();
        for n in 0..200 {
            cache.put([n; 32], n, now);
        }
        assert!(cache.young.len() + cache.old.len() <= 10);
        assert_eq!(cache.get(&[199; 32], now), Some(199));
        assert_eq!(cache.get(&[0; 32], now), None);
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let hasher = Hasher::new().expect("random bytes");
        assert_ne!(hasher.hash(&[b"ab", b"c"]), hasher.hash(&[b"a", b"bc"]));
        assert_ne!(hasher.hash(&[b"ab"]), Hasher::new().expect("random bytes").hash(&[b"ab"]));
    }
}
