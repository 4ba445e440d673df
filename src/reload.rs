//! Reads the configuration again while the node runs: on SIGHUP, when its file changes, and when
//! an operator asks. Limits and bans are in force at once, for live clients as well where they
//! were not promised more; the log's level too. Everything else waits for a restart, and is named.
//!
//! A configuration that cannot be used leaves the old one in force; the log says why, and the
//! metrics that it is so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use octopus_engine::NewLimits;
use tokio::time::MissedTickBehavior;

use crate::auth::Auth;
use crate::certificates::Reloading;
use crate::config::{self, Config, Loaded, Sources, limits_per_shard, listener_rates_per_shard};
use crate::http::Reloaded;
use crate::hub::Hub;
use crate::log::LogFilter;
use crate::node::accept_limits;
use crate::stats::exposition::Exposition;
use crate::watched::{Change, LOOK_EVERY, Watched};

/// The one key that an operator may set in another way.
const LOG_LEVEL: &str = "log.level";

/// Cheap to clone. Scope: node.
#[derive(Clone)]
pub struct Reload {
    inner: Arc<Inner>,
}

/// Who is told what has changed.
pub struct Told {
    pub hub: Hub,
    pub auth: Auth,
    pub certificates: Reloading,
    pub log_filter: LogFilter,
}

struct Inner {
    sources: Sources,
    told: Told,
    state: Mutex<State>,
}

struct State {
    /// What the node goes by.
    config: Config,
    /// As it would be written, by key.
    values: BTreeMap<String, String>,
    reloads: u64,
    failures: u64,
    /// The sources as they are now cannot be used.
    is_broken: bool,
}

impl Reload {
    pub fn new(sources: Sources, loaded: &Loaded, told: Told) -> Self {
        let state = Mutex::new(State {
            config: loaded.config.clone(),
            values: values(loaded),
            reloads: 0,
            failures: 0,
            is_broken: false,
        });
        Self { inner: Arc::new(Inner { sources, told, state }) }
    }

    /// Reads everything again: the files that the configuration names, whatever becomes of
    /// itself, and the configuration.
    pub fn everything(&self) {
        self.read_files();
        // What is wrong is in the log.
        let _ = self.configuration();
    }

    /// As [`Self::everything`], but all or nothing.
    ///
    /// # Errors
    /// What is wrong with the configuration, a line each; nothing is applied then.
    pub fn if_all_is_well(&self) -> Result<Reloaded, String> {
        let reloaded = self.configuration()?;
        self.read_files();
        Ok(reloaded)
    }

    /// Both say in the log what came of it.
    fn read_files(&self) {
        self.inner.told.auth.reload();
        self.inner.told.certificates.reload();
    }

    /// Looks whether the configuration's file has changed, for as long as the process lives.
    pub async fn watch(self) {
        let Some(file) = self.inner.sources.file.clone() else { return };
        let mut file = Watched::just_read(file);
        // It may have changed between the start and this look.
        if self.differs() {
            let _ = self.configuration();
        }
        let mut clock = tokio::time::interval(LOOK_EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            clock.tick().await;
            if file.look() == Change::Done {
                file.mark_read();
                // What is wrong is in the log.
                let _ = self.configuration();
            }
        }
    }

    /// Whether the sources say something else than what the node goes by.
    fn differs(&self) -> bool {
        let loaded = config::load(self.inner.sources.clone());
        loaded.map_or(true, |loaded| values(&loaded) != self.state().values)
    }

    fn configuration(&self) -> Result<Reloaded, String> {
        let mut state = self.state();
        let loaded = config::load(self.inner.sources.clone());
        state.is_broken = loaded.is_err();
        match loaded {
            Ok(loaded) => {
                state.reloads += 1;
                let reloaded = self.apply(&mut state, &loaded);
                let Reloaded { applied, needs_restart } = &reloaded;
                tracing::info!(?applied, ?needs_restart, "configuration read again");
                Ok(reloaded)
            }
            Err(errors) => {
                state.failures += 1;
                let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
                for error in &lines {
                    tracing::error!(error, "configuration not usable; the old one stays in force");
                }
                Err(lines.join("\n"))
            }
        }
    }

    /// Puts in force what can be; tells what was, and what a restart would.
    fn apply(&self, state: &mut State, loaded: &Loaded) -> Reloaded {
        let has_other_listeners = names(&state.config) != names(&loaded.config);
        let is_live = |key: &str| match key.strip_prefix("listeners.") {
            Some(_) if has_other_listeners => false,
            _ => is_live(key),
        };
        let mut reloaded = Reloaded::default();
        for (key, value) in values(loaded) {
            if state.values.get(&key) == Some(&value) {
                continue;
            }
            if is_live(&key) {
                reloaded.applied.push(key.clone());
                state.values.insert(key, value);
            } else {
                reloaded.needs_restart.push(key);
            }
        }
        take_live(&mut state.config, &loaded.config, has_other_listeners);
        if self.set_log_level(&state.config) && !reloaded.applied.iter().any(|key| key == LOG_LEVEL)
        {
            reloaded.applied.push(LOG_LEVEL.to_owned());
        }
        self.tell(&state.config);
        reloaded
    }

    /// Whether another one was in force: an operator may have set it without the file.
    fn set_log_level(&self, config: &Config) -> bool {
        let filter = &self.inner.told.log_filter;
        if filter.get() == config.log.level {
            return false;
        }
        let set = filter.set(&config.log.level);
        set.inspect_err(|error| tracing::error!(error, "log.level stays as it was")).is_ok()
    }

    fn tell(&self, config: &Config) {
        let Told { hub, auth, .. } = &self.inner.told;
        let shards = hub.shards();
        let limits = limits_per_shard(&config.limits, shards);
        let listener_rates = listener_rates_per_shard(&config.all_listeners(), shards);
        hub.reconfigure(&accept_limits(config), NewLimits { limits, listener_rates });
        auth.reconfigure(config);
    }

    /// What `/metrics` says of it.
    pub fn write(&self, text: &mut Exposition) {
        let (reloads, failures, is_broken) = {
            let state = self.state();
            (state.reloads, state.failures, state.is_broken)
        };
        text.counter("octopus_config_reloads", "Times the configuration was read again.");
        text.sample(&[], reloads as f64);
        text.counter("octopus_config_reload_failures", "Times it could not be used.");
        text.sample(&[], failures as f64);
        text.gauge("octopus_config_broken", "1: it cannot be used as it is, an older one is.");
        text.sample(&[], f64::from(u8::from(is_broken)));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a change of this key is in force without a restart.
fn is_live(key: &str) -> bool {
    let of_listener = key.strip_prefix("listeners.").and_then(|rest| rest.split_once('.'));
    match (of_listener, key) {
        (Some((_, own)), _) => {
            matches!(own, "message_rate_max" | "byte_rate_max" | "connections_max")
        }
        (None, LOG_LEVEL | "broker.message_rate_max" | "broker.byte_rate_max") => true,
        _ => ["limits.", "connections.", "auth.ban."].iter().any(|group| key.starts_with(group)),
    }
}

/// Puts into `config` what [`is_live`] of `new`.
fn take_live(config: &mut Config, new: &Config, has_other_listeners: bool) {
    config.limits = new.limits.clone();
    config.connections = new.connections.clone();
    config.auth.ban = new.auth.ban.clone();
    config.log.level.clone_from(&new.log.level);
    config.broker.message_rate_max = new.broker.message_rate_max;
    config.broker.byte_rate_max = new.broker.byte_rate_max;
    if has_other_listeners {
        return;
    }
    for (listener, new) in config.listeners.iter_mut().zip(&new.listeners) {
        listener.message_rate_max = new.message_rate_max;
        listener.byte_rate_max = new.byte_rate_max;
        listener.connections_max = new.connections_max;
    }
}

fn names(config: &Config) -> Vec<&str> {
    config.listeners.iter().map(|listener| listener.name.as_str()).collect()
}

fn values(loaded: &Loaded) -> BTreeMap<String, String> {
    loaded.effective().into_iter().map(|line| (line.key, line.value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(flags: &[(&str, &str)]) -> Loaded {
        let flags = flags
            .iter()
            .map(|&(name, value)| config::Flag { name: name.into(), value: Some(value.into()) });
        let flags = flags.collect();
        config::load(Sources { flags, ..Sources::default() }).expect("a good configuration")
    }

    /// What is called live is taken, and nothing else is: held together for every key.
    #[test]
    fn live_keys_and_what_is_taken_are_the_same() {
        let listener = [("listeners[0].name", "a"), ("listeners[0].address", "h:1")];
        let flags = [
            ("limits.packet_size_max", "4096"),
            ("connections.count_max", "7"),
            ("auth.ban.flaps_max", "3"),
            ("auth.ban.list", "user:eve"),
            ("log.level", "warn"),
            ("broker.message_rate_max", "5"),
            ("broker.byte_rate_max", "5"),
            ("listeners[0].message_rate_max", "5"),
            ("listeners[0].connections_max", "5"),
            ("broker.port", "5"),
            ("auth.timeout", "1s"),
            ("listeners[0].backlog", "5"),
        ];
        for flag in flags {
            let (old, new) = (loaded(&listener), loaded(&[&listener[..], &[flag]].concat()));
            let (before, after) = (values(&old), values(&new));
            let changed: Vec<&String> =
                after.keys().filter(|key| before.get(*key) != after.get(*key)).collect();
            let [key] = changed[..] else { panic!("{flag:?} changes {changed:?}") };
            let mut config = old.config.clone();
            take_live(&mut config, &new.config, false);
            let is_taken = format!("{config:?}") == format!("{:?}", new.config);
            assert_eq!(is_taken, is_live(key), "{key}");
        }
    }
}
