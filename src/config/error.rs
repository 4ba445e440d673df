//! What is wrong with a configuration: one line each, with the place, the key, what was expected
//! and, for a key nobody knows, the nearest one.

use std::{fmt, path::PathBuf};

/// Where a key or value was written, ready to print: `octopus.yml:12`, `--broker.port` or
/// `OCTOPUS_BROKER_PORT`.
pub type Place = String;

/// One thing that is wrong. [`fmt::Display`] gives its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// The file cannot be read at all.
    Unreadable { file: PathBuf, cause: String },
    /// The file is not YAML, or a list or map stands where a value belongs.
    Malformed { place: Place, cause: String },
    /// No key has this name.
    UnknownKey { place: Place, key: String, nearest: Option<Nearest> },
    /// The name is that of a group of keys, and a value was given to it.
    Group { place: Place, key: String, below: String },
    /// The value is not what the key takes. `value` is `None` if it must not be echoed.
    WrongValue { place: Place, key: String, value: Option<String>, expected: String },
    /// A flag stands without its value.
    NoValue { place: Place, key: String, expected: String },
    /// The value names an environment variable that is not set.
    Unresolved { place: Place, key: String, variable: String },
    /// Two values, each fine, that exclude each other; or one that is missing.
    Conflict { key: String, cause: String },
}

/// A key that exists and resembles the one given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    /// Its full name.
    pub key: &'static str,
    /// What it takes, in words.
    pub expected: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, cause } => {
                write!(f, "{}: cannot be read: {cause}", file.display())
            }
            Self::Malformed { place, cause } => write!(f, "{place}: {cause}"),
            Self::UnknownKey { place, key, nearest: None } => {
                write!(f, "{place}: {key}: no such key; expected a key of `octopus --help`")
            }
            Self::UnknownKey { place, key, nearest: Some(Nearest { key: near, expected }) } => {
                write!(f, "{place}: {key}: no such key; the nearest is {near} ({expected})")
            }
            Self::Group { place, key, below } => {
                write!(f, "{place}: {key}: a group of keys, not a value; expected {below} below it")
            }
            Self::WrongValue { place, key, value: Some(value), expected } => {
                write!(f, "{place}: {key}: {value:?} is wrong; expected {expected}")
            }
            Self::WrongValue { place, key, value: None, expected } => {
                write!(f, "{place}: {key}: the value is wrong; expected {expected}")
            }
            Self::NoValue { place, key, expected } => {
                write!(f, "{place}: {key}: no value; expected {expected}")
            }
            Self::Unresolved { place, key, variable } => {
                write!(
                    f,
                    "{place}: {key}: the environment has no {variable}; expected it set, or a default as ${{{variable}:default}}"
                )
            }
            Self::Conflict { key, cause } => write!(f, "{key}: {cause}"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Something to tell and go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    pub place: Place,
    pub key: String,
    pub cause: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.key, self.cause)
    }
}
