//! Where log lines go: standard error, as text or as JSON, one line each.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{
    EnvFilter, Registry, filter::LevelFilter, fmt, layer::SubscriberExt as _, reload,
    util::SubscriberInitExt as _,
};

use crate::config::{Log, LogFormat};

/// Reads and changes what is logged while the process runs. Cheap to clone.
#[derive(Clone)]
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl LogFilter {
    /// The filter in force.
    pub fn get(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Logs by this filter from now on.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn set(&self, text: &str) -> Result<(), String> {
        if !is_filter(text) {
            return Err(format!("{text:?} is no level and no filter such as info,octopus=debug"));
        }
        let filter = EnvFilter::try_new(text).map_err(|error| error.to_string())?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }
}

/// Starts the log. Only the first call of a process counts.
pub fn start(log: &Log) -> LogFilter {
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let log_lines = fmt::layer().with_writer(io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    let started = match log.format {
        LogFormat::Text => {
            registry.with(log_lines.with_ansi(io::stderr().is_terminal())).try_init()
        }
        LogFormat::Json => {
            registry.with(log_lines.json().flatten_event(true).with_current_span(false)).try_init()
        }
    };
    // A second start, as in a test process, finds the first one's log in place; that one stays.
    drop(started);
    LogFilter(handle)
}

/// Whether `text` is a level (`info`), or a filter with levels per target
/// (`info,octopus_runtime=debug`).
pub fn is_filter(text: &str) -> bool {
    let level = |text: &str| !text.is_empty() && text.parse::<LevelFilter>().is_ok();
    let directive = |part: &str| match part.rsplit_once('=') {
        Some((target, text)) => !target.is_empty() && level(text),
        None => level(part),
    };
    text.split(',').all(|part| directive(part.trim())) && EnvFilter::try_new(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_can_be_changed_while_running() {
        let log = Log { level: "warn".to_owned(), format: LogFormat::Text };
        let filter = start(&log);
        assert_eq!(filter.get(), "warn");
        filter.set("info,octopus=debug").expect("a filter");
        assert!(filter.get().contains("octopus=debug"));
        assert!(filter.set("loud").is_err());
    }

    #[test]
    fn a_level_and_a_filter_are_taken_and_a_misspelled_level_is_not() {
        for good in ["info", "WARN", "off", "info,octopus_runtime=debug", "octopus::bridge=trace"] {
            assert!(is_filter(good), "{good}");
        }
        for bad in ["", "inof", "info,", "octopus=loud", "=debug"] {
            assert!(!is_filter(bad), "{bad}");
        }
    }
}
