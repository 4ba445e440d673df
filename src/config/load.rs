//! The sources of a configuration, in rising order: defaults, the file, the environment, flags.
//!
//! Every value of every source is checked, those that a later source replaces too, and all
//! that is wrong is told at once.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    Config, ConfigError, Warning,
    check::check,
    keys::{KEYS, Key, LISTENER_KEYS},
    names::{self, Found},
    value::{Kind, Value},
    yaml::{Entry, Shape, Step, YamlFile},
};

/// Where a configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    pub file: Option<PathBuf>,
    /// The process's environment, or as much of it as is to count.
    pub environment: Vec<(String, String)>,
    pub flags: Vec<Flag>,
}

/// One `--name=value` of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// Without the dashes.
    pub name: String,
    /// `None`: nothing followed; for a switch that means `true`.
    pub value: Option<String>,
}

/// A configuration that holds, and how it came about.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// What was ignored.
    pub warnings: Vec<Warning>,
    file: Option<YamlFile>,
    origins: BTreeMap<String, Origin>,
}

/// Where one value was given.
#[derive(Clone, Debug)]
enum Origin {
    File(Vec<Step>),
    Variable(String),
    Flag(String),
}

/// One line of `octopus check-config`.
#[derive(Debug, PartialEq, Eq)]
pub struct Effective {
    pub key: String,
    /// As it would be written in the file; a secret as stars.
    pub value: String,
    /// `file:line`, the flag or the variable; `None`: the default.
    pub place: Option<String>,
}

/// Reads, checks and joins all sources.
///
/// # Errors
/// Everything that is wrong, in the order of the sources; at least one.
pub fn load(sources: Sources) -> Result<Loaded, Vec<ConfigError>> {
    let file = sources.file.as_deref().map(YamlFile::open).transpose();
    let file = file.map_err(|error| vec![error])?;
    load_with(file, sources.environment, &sources.flags)
}

fn load_with(
    file: Option<YamlFile>,
    mut environment: Vec<(String, String)>,
    flags: &[Flag],
) -> Result<Loaded, Vec<ConfigError>> {
    environment.sort_by_cached_key(|(name, _)| (!name.starts_with("SPRING_"), name.clone()));
    let mut loader = Loader { file, environment, ..Loader::default() };
    loader.read_file();
    loader.read_environment();
    loader.read_flags(flags);
    if loader.errors.is_empty() {
        loader.errors = check(&loader.config);
    }
    let Loader { config, file, warnings, origins, errors, .. } = loader;
    match errors.is_empty() {
        true => Ok(Loaded { config, warnings, file, origins }),
        false => Err(errors),
    }
}

impl Loaded {
    /// Every key with the value in force and where it was given.
    pub fn effective(&self) -> Vec<Effective> {
        let mut config = self.config.clone();
        let mut lines: Vec<Effective> = KEYS
            .iter()
            .map(|key| self.line(key.name.to_owned(), &key.kind, &(key.field)(&mut config).get()))
            .collect();
        for (index, listener) in config.listeners.iter_mut().enumerate() {
            lines.extend(LISTENER_KEYS.iter().map(|key| {
                let name = format!("listeners.{index}.{}", key.name);
                self.line(name, &key.kind, &(key.field)(listener).get())
            }));
        }
        lines
    }

    fn line(&self, key: String, kind: &Kind, value: &Value) -> Effective {
        let place = self.origins.get(&key).map(|origin| place(self.file.as_ref(), origin));
        Effective { value: kind.show(value), place, key }
    }
}

fn place(file: Option<&YamlFile>, origin: &Origin) -> String {
    match (origin, file) {
        (Origin::File(path), Some(file)) => file.place(path),
        (Origin::File(_), None) => String::new(),
        (Origin::Variable(name), _) => name.clone(),
        (Origin::Flag(name), _) => format!("--{name}"),
    }
}

#[derive(Default)]
struct Loader {
    config: Config,
    file: Option<YamlFile>,
    /// The predecessor's names first, as ours win.
    environment: Vec<(String, String)>,
    origins: BTreeMap<String, Origin>,
    warnings: Vec<Warning>,
    errors: Vec<ConfigError>,
}

impl Loader {
    fn read_file(&mut self) {
        let Some(file) = &self.file else { return };
        let more_documents = file.has_more_documents();
        let mut entries = match file.entries(&shape) {
            Ok(entries) => entries,
            Err(error) => return self.errors.push(error),
        };
        if more_documents {
            self.warn(&Origin::File(Vec::new()), "---", "only the first document is read");
        }
        let of_predecessor = entries.iter().any(|entry| names::is_spring(&entry.name()));
        entries.sort_by_key(|entry| names::own_name(&entry.name()).is_none());
        for entry in entries {
            self.read_entry(entry, of_predecessor);
        }
    }

    fn read_entry(&mut self, Entry { path, text }: Entry, of_predecessor: bool) {
        let name = Entry { path: path.clone(), text: None }.name();
        let origin = Origin::File(path);
        let found = match names::find(&name) {
            Found::Unknown if of_predecessor && is_foreign_group(&name) => Found::Foreign,
            found => found,
        };
        let Some(text) = text else {
            if let Found::Unknown = found {
                self.unknown(&origin, name);
            }
            return;
        };
        match resolve(&name, text, &self.environment) {
            Ok(text) => self.set(found, origin, name, &text),
            Err(_) if matches!(found, Found::Foreign) => self.set(found, origin, name, ""),
            Err(variable) => {
                let place = self.place(&origin);
                self.errors.push(ConfigError::Unresolved { place, key: name, variable });
            }
        }
    }

    fn read_environment(&mut self) {
        for (variable, text) in std::mem::take(&mut self.environment) {
            let Some(found) = names::find_variable(&variable) else { continue };
            let origin = Origin::Variable(variable.clone());
            if text.starts_with("tcp://") {
                // Kubernetes sets OCTOPUS_BROKER_PORT so for a service named octopus-broker.
                self.warn(&origin, &text, "an address set for a service, not for us; ignored");
            } else if let Found::Unknown = found {
                self.warn(&origin, &text, "no such key; ignored");
            } else {
                self.set(found, origin, variable, &text);
            }
        }
    }

    fn read_flags(&mut self, flags: &[Flag]) {
        for Flag { name, value } in flags {
            let found = names::find(name);
            let origin = Origin::Flag(name.clone());
            match (value, found.kind()) {
                (Some(text), _) => self.set(found, origin, name.clone(), text),
                (None, Some(Kind::Switch) | None) => self.set(found, origin, name.clone(), "true"),
                (None, Some(kind)) => {
                    let (place, expected) = (self.place(&origin), kind.expected());
                    self.errors.push(ConfigError::NoValue { place, key: found.name(), expected });
                }
            }
        }
    }

    /// Stores one value, or says what is wrong with it. `name` is as written.
    fn set(&mut self, found: Found, origin: Origin, name: String, text: &str) {
        match found {
            Found::Key(key) => self.store(key, found, origin, text, |config| config),
            Found::Listener(index, key) => {
                if self.config.listeners.len() <= index {
                    self.config.listeners.resize_with(index + 1, Default::default);
                }
                self.store(key, found, origin, text, |config| &mut config.listeners[index]);
            }
            Found::Group => {
                let (place, below) = (self.place(&origin), names::below(&name));
                self.errors.push(ConfigError::Group { place, key: name, below });
            }
            Found::Foreign => self.warn(&origin, &name, "not a key of Octopus; ignored"),
            Found::Unknown => self.unknown(&origin, name),
        }
    }

    fn store<T>(
        &mut self,
        key: &Key<T>,
        found: Found,
        origin: Origin,
        text: &str,
        target: impl Fn(&mut Config) -> &mut T,
    ) {
        let value = key.kind.parse(text);
        let stored = value.is_some_and(|value| (key.field)(target(&mut self.config)).put(value));
        if stored {
            self.origins.insert(found.name(), origin);
            return;
        }
        let value = (!key.kind.is_secret()).then(|| text.to_owned());
        let (place, expected) = (self.place(&origin), key.kind.expected());
        self.errors.push(ConfigError::WrongValue { place, key: found.name(), value, expected });
    }

    fn unknown(&mut self, origin: &Origin, key: String) {
        let (place, nearest) = (self.place(origin), names::nearest(&key));
        self.errors.push(ConfigError::UnknownKey { place, key, nearest });
    }

    fn warn(&mut self, origin: &Origin, key: &str, cause: &str) {
        let place = self.place(origin);
        self.warnings.push(Warning { place, key: key.to_owned(), cause: cause.to_owned() });
    }

    fn place(&self, origin: &Origin) -> String {
        place(self.file.as_ref(), origin)
    }
}

/// How the file is to be read at `name`.
fn shape(name: &str) -> Shape {
    match names::find(name).kind() {
        None => Shape::Other,
        // `ssl: true` once, `ssl: {enabled: true}` in newer versions of the framework.
        Some(Kind::Switch) if names::is_spring(name) => Shape::Other,
        Some(kind @ Kind::List { .. }) => Shape::List(kind.expected()),
        Some(kind) => Shape::Text(kind.expected()),
    }
}

/// Whether `name` stands in a group that is none of ours, such as `logging` or `server`.
fn is_foreign_group(name: &str) -> bool {
    let group = name.split('.').next().unwrap_or_default();
    matches!(names::find(group), Found::Unknown)
}

/// `text` as the predecessor's framework reads it: `${NAME}` and `${NAME:default}` come from the
/// environment, and a bare number in place of a time is in milliseconds. Our own names take
/// `text` as it is.
///
/// # Errors
/// The name of a variable that is not set.
fn resolve(name: &str, text: String, environment: &[(String, String)]) -> Result<String, String> {
    if !names::is_spring(name) {
        return Ok(text);
    }
    let mut resolved = String::new();
    let mut rest = text.as_str();
    while let Some((before, (placeholder, after))) =
        rest.split_once("${").and_then(|(before, tail)| Some((before, tail.split_once('}')?)))
    {
        let (variable, default) = match placeholder.split_once(':') {
            Some((variable, default)) => (variable, Some(default)),
            None => (placeholder, None),
        };
        let set = environment.iter().find(|(name, _)| name == variable);
        let value = set.map(|(_, value)| value.as_str()).or(default);
        resolved.push_str(before);
        resolved.push_str(value.ok_or_else(|| variable.to_owned())?);
        rest = after;
    }
    resolved.push_str(rest);
    let is_time = matches!(names::find(name).kind(), Some(Kind::Time { .. }));
    if is_time && !resolved.is_empty() && resolved.bytes().all(|b| b.is_ascii_digit()) {
        resolved.push_str("ms");
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests;
