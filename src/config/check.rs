//! Values that are fine alone and wrong together.

use std::collections::HashMap;

use octopus_runtime::stream::UserFrom;

use super::{Config, ConfigError, ListenerKind};
use crate::auth::ANYONE;

/// Everything in `config` that contradicts itself.
pub(super) fn check(config: &Config) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    let mut conflict = |key: &str, cause: String| {
        errors.push(ConfigError::Conflict { key: key.to_owned(), cause });
    };
    check_listeners(config, &mut conflict);
    check_redis(config, &mut conflict);
    check_auth(config, &mut conflict);
    check_certificates(config, &mut conflict);
    errors
}

fn check_listeners(config: &Config, conflict: &mut impl FnMut(&str, String)) {
    for (index, listener) in config.listeners.iter().enumerate() {
        let tls = &listener.tls;
        let is_tls = matches!(listener.kind, ListenerKind::Tls | ListenerKind::Wss);
        for (name, value, is_needed) in [
            ("name", &listener.name, true),
            ("address", &listener.address, true),
            ("tls.certificate", &tls.certificate, is_tls),
            ("tls.key", &tls.key, is_tls),
            ("tls.client_ca", &tls.client_ca, tls.require_client_certificate),
            ("tls.client_ca", &tls.client_ca, !tls.crl.is_empty()),
            ("tls.client_ca", &tls.client_ca, tls.user_from != UserFrom::None),
        ] {
            if is_needed && value.is_empty() {
                conflict(&format!("listeners.{index}.{name}"), "not given; it must be".to_owned());
            }
        }
    }
    for (index, listener) in config.listeners.iter().enumerate() {
        let (is_unix, address) = (listener.kind == ListenerKind::Unix, &listener.address);
        if !address.is_empty() && is_unix != listener.has_path() {
            let expected = if is_unix { "a path for kind unix" } else { "host:port for this kind" };
            let key = format!("listeners.{index}.address");
            conflict(&key, format!("{address:?}; expected {expected}"));
        }
    }
    let listeners = config.all_listeners();
    if listeners.is_empty() {
        conflict("broker.listen", "false, and `listeners` is empty; expected one listener".into());
    }
    let mut names = HashMap::new();
    let mut addresses = HashMap::new();
    for listener in listeners.iter().filter(|listener| !listener.address.is_empty()) {
        if names.insert(&listener.name, ()).is_some() {
            conflict("listeners", format!("two of them have the name {:?}", listener.name));
        }
        let any_port = listener.address.ends_with(":0");
        if let Some(other) = addresses.insert(&listener.address, &listener.name)
            && !any_port
        {
            let (name, address) = (&listener.name, &listener.address);
            conflict("listeners", format!("{name:?} and {other:?} have one address, {address}"));
        }
    }
}

/// A backend needs what it goes by.
fn check_auth(config: &Config, conflict: &mut impl FnMut(&str, String)) {
    let auth = &config.auth;
    let listeners = config.all_listeners();
    let asked: Vec<&String> =
        listeners.iter().flat_map(|listener| config.chain_of(listener)).collect();
    let has = |backend: &str| asked.iter().any(|name| *name == backend);
    let mut need = |backend: &str, key: &str, is_given: bool| {
        if has(backend) && !is_given {
            conflict(key, format!("not given; {backend} in auth.chain needs it"));
        }
    };
    need("password_file", "auth.password_file", !auth.password_file.is_empty());
    need("scram", "auth.password_file", !auth.password_file.is_empty());
    need("http", "auth.http.url", !auth.http.url.is_empty());
    let jwt = &auth.jwt;
    need("jwt", "auth.jwt.key_file", !jwt.key_file.is_empty() || !jwt.secret.is_empty());
    for (index, listener) in config.listeners.iter().enumerate() {
        let is_open = listener.chain.iter().any(|word| word == ANYONE);
        if is_open && listener.chain.len() > 1 {
            let key = format!("listeners.{index}.auth.chain");
            conflict(&key, format!("{ANYONE} and others; expected it alone"));
        }
    }
}

/// A name from a certificate is worth nothing if nobody looks at it.
fn check_certificates(config: &Config, conflict: &mut impl FnMut(&str, String)) {
    for (index, listener) in config.listeners.iter().enumerate() {
        let looks = config.chain_of(listener).iter().any(|name| name == "certificate");
        if listener.tls.user_from != UserFrom::None && !looks {
            let key = format!("listeners.{index}.tls.user_from");
            let cause = "given; expected certificate in the listener's auth.chain, or in that of \
                         all and broker.auth.enable";
            conflict(&key, cause.to_owned());
        }
    }
}

fn check_redis(config: &Config, conflict: &mut impl FnMut(&str, String)) {
    let redis = &config.redis;
    let (sentinels, cluster) = (!redis.sentinel.nodes.is_empty(), !redis.cluster.nodes.is_empty());
    if sentinels && redis.sentinel.master.is_empty() {
        conflict("redis.sentinel.master", "not given; redis.sentinel.nodes needs it".to_owned());
    }
    if sentinels && cluster {
        conflict("redis.cluster.nodes", "given with redis.sentinel.nodes; expected one".to_owned());
    }
    if cluster && redis.database != 0 {
        let cause = format!("{}; a Redis Cluster has database 0 only", redis.database);
        conflict("redis.database", cause);
    }
}
