//! How a key may be spelled: in a file, as a flag, as an environment variable, by its own name
//! or by the predecessor's, and which key was meant if none has the name.
//!
//! Letter case, `-` and `_` within a name do not count, so `redis.cluster.maxRedirects` and
//! `redis.cluster.max-redirects` are the key `redis.cluster.max_redirects`.

use super::{
    Config, Listener, Nearest,
    keys::{KEYS, Key, LISTENER_KEYS, LISTENERS},
    value::Kind,
};

/// What a name stands for.
#[derive(Clone, Copy)]
pub(super) enum Found {
    Key(&'static Key<Config>),
    /// A key of the listener with this index.
    Listener(usize, &'static Key<Listener>),
    /// A group of keys, whole.
    Group,
    /// Of the predecessor's framework, and nothing to us.
    Foreign,
    Unknown,
}

impl Found {
    /// How the value is written, if this is a key.
    pub(super) fn kind(self) -> Option<Kind> {
        match self {
            Self::Key(key) => Some(key.kind),
            Self::Listener(_, key) => Some(key.kind),
            Self::Group | Self::Foreign | Self::Unknown => None,
        }
    }

    /// The key's own full name; empty if this is none.
    pub(super) fn name(self) -> String {
        match self {
            Self::Key(key) => key.name.to_owned(),
            Self::Listener(index, key) => format!("{LISTENERS}.{index}.{}", key.name),
            Self::Group | Self::Foreign | Self::Unknown => String::new(),
        }
    }
}

/// More listeners than anyone writes by hand.
const LISTENER_COUNT_MAX: usize = 256;

/// What the predecessor's framework called the groups: (its prefix, ours).
const PREDECESSOR: [(&str, &str); 3] =
    [("spring.octopus.", ""), ("spring.data.redis.", "redis."), ("spring.redis.", "redis.")];

/// Our own name for a predecessor's; `None` if `name` is none of its names.
pub(super) fn own_name(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    let (prefix, own) = PREDECESSOR.iter().find(|(prefix, _)| lower.starts_with(prefix))?;
    let rest = &name[prefix.len()..];
    let rest = if rest.eq_ignore_ascii_case("ssl.enabled") { "ssl" } else { rest };
    Some(format!("{own}{rest}"))
}

/// Whether `name` belongs to the predecessor's framework.
pub(super) fn is_spring(name: &str) -> bool {
    name.split('.').next().is_some_and(|first| first.eq_ignore_ascii_case("spring"))
}

/// What a name of a file or a flag stands for: `broker.port`, `listeners.0.address`,
/// `listeners[0].address`, `spring.octopus.broker.port`.
pub(super) fn find(name: &str) -> Found {
    match own_name(name) {
        Some(own) => match find_own(&own) {
            Found::Unknown => Found::Foreign,
            found => found,
        },
        None if is_spring(name) => Found::Foreign,
        None => find_own(name),
    }
}

fn find_own(name: &str) -> Found {
    let wanted = plain(name);
    if let Some(key) = KEYS.iter().find(|key| plain(key.name) == wanted) {
        return Found::Key(key);
    }
    if let Some((index, key)) = wanted.strip_prefix("listeners.").and_then(listener_key) {
        return Found::Listener(index, key);
    }
    let is_group = |key: &Key<Config>| {
        plain(key.name).strip_prefix(&wanted).is_some_and(|rest| rest.starts_with('.'))
    };
    match wanted == LISTENERS || is_listener(&wanted) || KEYS.iter().any(is_group) {
        true => Found::Group,
        false => Found::Unknown,
    }
}

/// `0.address`: the index and the key.
fn listener_key(rest: &str) -> Option<(usize, &'static Key<Listener>)> {
    let (index, name) = rest.split_once('.')?;
    let index = index.parse().ok().filter(|index| *index < LISTENER_COUNT_MAX)?;
    let key = LISTENER_KEYS.iter().find(|key| plain(key.name) == name)?;
    Some((index, key))
}

fn is_listener(name: &str) -> bool {
    name.strip_prefix("listeners.").is_some_and(|index| index.parse::<usize>().is_ok())
}

/// What an environment variable stands for; `None` if it is not for us. Our own variables begin
/// with `OCTOPUS_`, the predecessor's with `SPRING_OCTOPUS_`, `SPRING_REDIS_` or
/// `SPRING_DATA_REDIS_`.
pub(super) fn find_variable(variable: &str) -> Option<Found> {
    let (own, predecessor) = match variable.strip_prefix("OCTOPUS_") {
        Some(rest) => (rest.to_owned(), false),
        None => {
            let (prefix, own) = PREDECESSOR
                .iter()
                .map(|(prefix, own)| (in_environment(prefix), in_environment(own)))
                .find(|(prefix, _)| variable.starts_with(prefix))?;
            (format!("{own}{}", &variable[prefix.len()..]), true)
        }
    };
    let own = if predecessor && own == "REDIS_SSL_ENABLED" { "REDIS_SSL" } else { own.as_str() };
    if let Some(key) = KEYS.iter().find(|key| in_environment(key.name) == own) {
        return Some(Found::Key(key));
    }
    let listener = || {
        let (index, name) = own.strip_prefix("LISTENERS_")?.split_once('_')?;
        let key = LISTENER_KEYS.iter().find(|key| in_environment(key.name) == name)?;
        let index = index.parse().ok().filter(|index| *index < LISTENER_COUNT_MAX)?;
        Some(Found::Listener(index, key))
    };
    Some(listener().unwrap_or(Found::Unknown))
}

/// The variable, without its prefix, of the key `name`.
pub(super) fn in_environment(name: &str) -> String {
    name.to_ascii_uppercase().replace(['.', '-'], "_")
}

/// Whether a flag of this name (`broker.port`, without its dashes) sets a key, or was meant to.
pub fn is_setting(name: &str) -> bool {
    name.contains(['.', '[']) || !matches!(find(name), Found::Unknown | Found::Group)
}

/// Whether the key `name` takes `true` or `false`.
pub fn is_switch(name: &str) -> bool {
    matches!(find(name).kind(), Some(Kind::Switch))
}

/// Whether `text` is `true`, `false`, or another word for them.
pub fn is_switch_value(text: &str) -> bool {
    Kind::Switch.parse(text).is_some()
}

/// The key most like `name`.
pub(super) fn nearest(name: &str) -> Option<Nearest> {
    let wanted = plain(&own_name(name).unwrap_or_else(|| name.to_owned()));
    if wanted.starts_with("listeners.") {
        let last = wanted.rsplit('.').next().unwrap_or_default();
        return nearest_of(last, LISTENER_KEYS);
    }
    let ending = format!(".{wanted}");
    match KEYS.iter().find(|key| plain(key.name).ends_with(&ending)) {
        Some(key) => Some(Nearest { key: key.name, expected: key.kind.expected() }),
        None => nearest_of(&wanted, KEYS),
    }
}

fn nearest_of<T>(wanted: &str, keys: &'static [Key<T>]) -> Option<Nearest> {
    let distance = |key: &&Key<T>| strsim::damerau_levenshtein(&plain(key.name), wanted);
    let key = keys.iter().min_by_key(distance)?;
    Some(Nearest { key: key.name, expected: key.kind.expected() })
}

/// The keys directly below the group `name`, in words.
pub(super) fn below(name: &str) -> String {
    let wanted = plain(&own_name(name).unwrap_or_else(|| name.to_owned()));
    if wanted == LISTENERS {
        return "a list of maps".to_owned();
    }
    if is_listener(&wanted) {
        let names: Vec<&str> = LISTENER_KEYS.iter().map(|key| key.name).collect();
        return names.join(", ");
    }
    let mut names: Vec<&str> = KEYS
        .iter()
        .filter(|key| plain(key.name).starts_with(&format!("{wanted}.")))
        .filter_map(|key| key.name.split('.').nth(wanted.split('.').count()))
        .collect();
    names.dedup();
    names.join(", ")
}

/// `name` as it is compared.
fn plain(name: &str) -> String {
    name.replace('[', ".").replace(['-', '_', ']'], "").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(found: Found) -> String {
        match found {
            Found::Key(key) => key.name.to_owned(),
            Found::Listener(index, key) => format!("listeners.{index}.{}", key.name),
            Found::Group => "group".to_owned(),
            Found::Foreign => "foreign".to_owned(),
            Found::Unknown => "unknown".to_owned(),
        }
    }

    #[test]
    fn names_are_found_however_they_are_spelled() {
        for (name, expected) in [
            ("broker.port", "broker.port"),
            ("Broker.Port", "broker.port"),
            ("redis.cluster.maxRedirects", "redis.cluster.max_redirects"),
            ("redis.cluster.max-redirects", "redis.cluster.max_redirects"),
            ("spring.octopus.broker.storage.retain", "broker.storage.retain"),
            ("spring.redis.host", "redis.host"),
            ("spring.data.redis.sentinel.nodes", "redis.sentinel.nodes"),
            ("spring.data.redis.ssl.enabled", "redis.ssl"),
            ("spring.application.name", "foreign"),
            ("spring.redis.lettuce.pool.max-active", "foreign"),
            ("spring.octopus.broker.prot", "foreign"),
            ("spring.octopus.broker", "group"),
            ("broker", "group"),
            ("listeners", "group"),
            ("listeners.0", "group"),
            ("listeners[1].address", "listeners.1.address"),
            ("listeners.1.address", "listeners.1.address"),
            ("listeners.9999.address", "unknown"),
            ("broker.prot", "unknown"),
            ("shards", "shards"),
        ] {
            assert_eq!(name_of(find(name)), expected, "{name}");
        }
    }

    #[test]
    fn variables_are_the_names_in_capitals() {
        for (variable, expected) in [
            ("OCTOPUS_BROKER_PORT", Some("broker.port")),
            ("OCTOPUS_LIMITS_PACKET_SIZE_MAX", Some("limits.packet_size_max")),
            ("OCTOPUS_LISTENERS_1_ADDRESS", Some("listeners.1.address")),
            ("OCTOPUS_SHARDS", Some("shards")),
            ("OCTOPUS_BROKER_PROT", Some("unknown")),
            ("SPRING_OCTOPUS_BROKER_PORT", Some("broker.port")),
            ("SPRING_REDIS_HOST", Some("redis.host")),
            ("SPRING_DATA_REDIS_SSL_ENABLED", Some("redis.ssl")),
            ("SPRING_APPLICATION_NAME", None),
            ("HOME", None),
        ] {
            let found = find_variable(variable).map(name_of);
            assert_eq!(found.as_deref(), expected, "{variable}");
        }
    }

    #[test]
    fn no_two_keys_share_a_spelling() {
        for spell in [plain as fn(&str) -> String, in_environment] {
            let mut spellings: Vec<String> = KEYS.iter().map(|key| spell(key.name)).collect();
            spellings.sort();
            spellings.dedup();
            assert_eq!(spellings.len(), KEYS.len());
        }
    }

    #[test]
    fn the_nearest_key_is_the_one_meant() {
        for (name, expected) in [
            ("broker.prot", "broker.port"),
            ("port", "broker.port"),
            ("storage.retain", "broker.storage.retain"),
            ("broker.storage.retained", "broker.storage.retain"),
            ("limits.max_packet_size", "limits.packet_size_max"),
            ("redis.pasword", "redis.password"),
            ("shard", "shards"),
            ("log.lvl", "log.level"),
            ("listeners.0.adress", "address"),
        ] {
            assert_eq!(nearest(name).map(|near| near.key), Some(expected), "{name}");
        }
    }

    #[test]
    fn a_group_names_the_keys_below_it() {
        assert_eq!(below("broker.storage"), "retain, publish, subscription, session");
        assert_eq!(below("log"), "level, format");
        assert_eq!(below("spring.redis.sentinel"), "master, nodes, username, password");
    }
}
