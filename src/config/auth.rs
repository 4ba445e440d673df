//! The section `auth`: who may connect and what they may do.

use std::time::Duration;

use super::value::{Secret, Word};

/// Scope: one node. In force if `broker.auth.enable` is; bans, limits and the ACL file always.
#[derive(Clone, Debug)]
pub struct Auth {
    /// The backends, in the order they are asked.
    pub chain: Vec<String>,
    /// What happens to a client that no backend knows.
    pub no_opinion: NoOpinion,
    /// What happens when a backend fails or does not answer in time.
    pub on_error: OnError,
    /// For one backend's answer.
    pub timeout: Duration,
    /// Questions under way to the HTTP endpoint, and to Redis.
    pub concurrency_max: u16,
    /// Threads that check passwords.
    pub hash_threads: u16,
    /// Empty: none.
    pub password_file: String,
    /// Empty: none; clients may do all but write to `$` topics.
    pub acl_file: String,
    pub cache: AuthCache,
    pub jwt: Jwt,
    pub http: AuthHttp,
    pub redis: AuthRedis,
    pub ban: Ban,
}

/// What happens to a client that no backend knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoOpinion {
    #[default]
    Deny,
    Allow,
}

/// What follows when a backend could not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// The next backend is asked.
    Next,
    /// The client is refused (0x88).
    #[default]
    Refuse,
}

/// How long answers are remembered.
#[derive(Clone, Debug)]
pub struct AuthCache {
    /// A yes.
    pub ttl: Duration,
    /// A no.
    pub negative_ttl: Duration,
    /// Of each.
    pub count_max: usize,
}

/// JSON Web Tokens.
#[derive(Clone, Debug)]
pub struct Jwt {
    /// For HS256, HS384 and HS512; empty: none.
    pub secret: Secret,
    /// PEM or JWKS; empty: none.
    pub key_file: String,
    /// Empty: any, or none.
    pub audience: String,
    /// Empty: any, or none.
    pub issuer: String,
    pub user_claim: String,
    /// How far clocks may differ.
    pub leeway: Duration,
}

/// The HTTP endpoint.
#[derive(Clone, Debug, Default)]
pub struct AuthHttp {
    pub url: String,
}

/// Accounts in Redis, the one of the section `redis`.
#[derive(Clone, Debug)]
pub struct AuthRedis {
    /// What stands before `:<user>` in the keys.
    pub prefix: String,
}

/// Who is kept out.
#[derive(Clone, Debug)]
pub struct Ban {
    /// Failures of one address within `window` that ban it; 0: never.
    pub failures_max: u32,
    /// Connects of one Client Identifier within `window` that ban it; 0: never.
    pub flaps_max: u32,
    pub window: Duration,
    /// For how long.
    pub time: Duration,
    /// Always banned: `address:<address or network>`, `user:<name>`, `client:<id>`.
    pub list: Vec<String>,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            chain: vec!["password_file".to_owned()],
            no_opinion: NoOpinion::default(),
            on_error: OnError::default(),
            timeout: Duration::from_secs(5),
            concurrency_max: 64,
            hash_threads: 1,
            password_file: String::new(),
            acl_file: String::new(),
            cache: AuthCache::default(),
            jwt: Jwt::default(),
            http: AuthHttp::default(),
            redis: AuthRedis::default(),
            ban: Ban::default(),
        }
    }
}

impl Default for AuthCache {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(30),
            negative_ttl: Duration::from_secs(5),
            count_max: 10_000,
        }
    }
}

impl Default for Jwt {
    fn default() -> Self {
        Self {
            secret: Secret::default(),
            key_file: String::new(),
            audience: String::new(),
            issuer: String::new(),
            user_claim: "sub".to_owned(),
            leeway: Duration::from_secs(5),
        }
    }
}

impl Default for AuthRedis {
    fn default() -> Self {
        Self { prefix: "octopus:user".to_owned() }
    }
}

impl Default for Ban {
    fn default() -> Self {
        Self {
            failures_max: 20,
            flaps_max: 0,
            window: Duration::from_secs(60),
            time: Duration::from_secs(300),
            list: Vec::new(),
        }
    }
}

impl Word for NoOpinion {
    const WORDS: &'static [(&'static str, Self)] = &[("deny", Self::Deny), ("allow", Self::Allow)];
}

impl Word for OnError {
    const WORDS: &'static [(&'static str, Self)] =
        &[("next", Self::Next), ("refuse", Self::Refuse)];
}
