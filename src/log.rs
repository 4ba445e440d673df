//! Where log lines go: standard error, as text or as JSON, one line each.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::config::{Log, LogFormat};

/// Starts the log. Only the first call of a process counts.
pub fn start(log: &Log) {
    let filter = EnvFilter::try_new(&log.level).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match log.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
    };
    // A second start, as in a test process, finds the first one's log in place; that one stays.
    drop(started);
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
    fn a_level_and_a_filter_are_taken_and_a_misspelled_level_is_not() {
        for good in ["info", "WARN", "off", "info,octopus_runtime=debug", "octopus::bridge=trace"] {
            assert!(is_filter(good), "{good}");
        }
        for bad in ["", "inof", "info,", "octopus=loud", "=debug"] {
            assert!(!is_filter(bad), "{bad}");
        }
    }
}
