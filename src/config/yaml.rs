//! A YAML file as a flat list of names and texts, each with its line.
//!
//! Two things the parsing library does not give are made here. Text: a value is handed on as it
//! was written (`0x10`, `1e3` and `on` may be passwords), so a scalar whose name is known is
//! asked for as text, not as whatever it looks like. Lines: only errors carry a place, so
//! `line` walks the file again to the key in question and fails there on purpose.
//! That is exact for every form YAML has, and costs one walk per line that is printed.

mod line;

use std::{fmt, fs, path::Path};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::error::ConfigError;

/// Larger files are no configuration.
const FILE_BYTES_MAX: usize = 1 << 20;

/// One file, as read.
#[derive(Debug)]
pub(super) struct YamlFile {
    name: String,
    text: String,
}

/// One step down from the top of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// One value of the file. `text` is `None` where nothing, or an empty list or map, was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: Vec<Step>,
    pub(super) text: Option<String>,
}

/// What the table says about a name: how its value is to be read.
#[derive(Debug)]
pub(super) enum Shape {
    /// One text; if it is not, this was expected.
    Text(String),
    /// A list of texts, or one with commas; if it is neither, this was expected.
    List(String),
    /// A group, or nothing known.
    Other,
}

impl Entry {
    /// The name with dots, as in `listeners.0.address`.
    pub(super) fn name(&self) -> String {
        dotted(&self.path)
    }
}

fn dotted(path: &[Step]) -> String {
    let parts: Vec<String> = path
        .iter()
        .map(|step| match step {
            Step::Key(key) => key.clone(),
            Step::Index(index) => index.to_string(),
        })
        .collect();
    parts.join(".")
}

impl YamlFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// `ConfigError::Unreadable` if it is missing, not text, or larger than 1 MiB.
    pub(super) fn open(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |cause: String| ConfigError::Unreadable { file: path.to_owned(), cause };
        let text = fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        if text.len() > FILE_BYTES_MAX {
            return Err(unreadable("larger than 1 MiB".to_owned()));
        }
        Ok(Self::new(path.display().to_string(), text))
    }

    /// A file of this name with this text.
    pub(super) fn new(name: String, text: String) -> Self {
        Self { name, text }
    }

    /// Every value of the first document, in the file's order. `shape` says how to read a name.
    ///
    /// # Errors
    /// `ConfigError::Malformed`: not YAML, a key given twice, or a list or map in place of a
    /// value.
    pub(super) fn entries(&self, shape: &dyn Fn(&str) -> Shape) -> Result<Vec<Entry>, ConfigError> {
        let mut entries = Vec::new();
        let Some(document) = serde_yaml::Deserializer::from_str(&self.text).next() else {
            return Ok(entries);
        };
        let walk = Walk { path: &[], shape, entries: &mut entries };
        match walk.deserialize(document) {
            Ok(()) => Ok(entries),
            Err(_) if self.is_blank() => Ok(Vec::new()),
            Err(error) => Err(self.malformed(&error)),
        }
    }

    /// Whether a second document follows the first one.
    pub(super) fn has_more_documents(&self) -> bool {
        serde_yaml::Deserializer::from_str(&self.text).nth(1).is_some()
    }

    /// The place of `path`'s key: `name:line`.
    pub(super) fn place(&self, path: &[Step]) -> String {
        let keys = path.iter().rposition(|step| matches!(step, Step::Key(_))).map_or(0, |i| i + 1);
        match line::line_of(&self.text, &path[..keys]) {
            Some(line) => format!("{}:{line}", self.name),
            None => self.name.clone(),
        }
    }

    fn is_blank(&self) -> bool {
        self.text.lines().all(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with('#') || line == "---"
        })
    }

    fn malformed(&self, error: &serde_yaml::Error) -> ConfigError {
        let cause = error.to_string();
        let (cause, place) = match error.location() {
            None => (cause.as_str(), self.name.clone()),
            Some(at) => {
                let end = format!(" at line {} column {}", at.line(), at.column());
                (
                    cause.strip_suffix(end.as_str()).unwrap_or(&cause),
                    format!("{}:{}", self.name, at.line()),
                )
            }
        };
        let tab = error.location().and_then(|at| self.text.lines().nth(at.line() - 1));
        let tab = tab.is_some_and(|line| line.trim_start_matches(' ').starts_with('\t'));
        let hint = if tab { "; indent with spaces, YAML takes no tabs" } else { "" };
        ConfigError::Malformed { place, cause: format!("{cause}{hint}") }
    }
}

/// Collects the values below `path`.
struct Walk<'a> {
    path: &'a [Step],
    shape: &'a dyn Fn(&str) -> Shape,
    entries: &'a mut Vec<Entry>,
}

impl Walk<'_> {
    fn add(self, text: Option<String>) {
        self.entries.push(Entry { path: self.path.to_vec(), text });
    }

    fn below<'a>(&'a mut self, path: &'a [Step]) -> Walk<'a> {
        Walk { path, shape: self.shape, entries: self.entries }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, document: D) -> Result<(), D::Error> {
        match (self.shape)(&dotted(self.path)) {
            Shape::Text(expected) => {
                let text = document.deserialize_option(Text { expected: &expected })?;
                self.add(text);
                Ok(())
            }
            Shape::List(expected) => {
                let text = document.deserialize_any(Text { expected: &expected })?;
                self.add(text);
                Ok(())
            }
            Shape::Other => document.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("keys and values")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut path = self.path.to_vec();
        let mut seen = Vec::new();
        while let Some(key) = map.next_key_seed(NewKey { seen: &seen })? {
            path.push(Step::Key(key.clone()));
            seen.push(key);
            map.next_value_seed(self.below(&path))?;
            path.pop();
        }
        if seen.is_empty() {
            self.add(None);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        let mut path = self.path.to_vec();
        path.push(Step::Index(0));
        let mut count = 0;
        while list.next_element_seed(self.below(&path))?.is_some() {
            count += 1;
            path.pop();
            path.push(Step::Index(count));
        }
        if count == 0 {
            self.add(None);
        }
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.add(Some(value.to_string()));
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.add(Some(value.to_string()));
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.add(Some(value.to_string()));
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.add(Some(value.to_string()));
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.add(Some(value.to_owned()));
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.add(None);
        Ok(())
    }
}

/// A key that its map does not have yet.
struct NewKey<'a> {
    seen: &'a [String],
}

impl<'de> DeserializeSeed<'de> for NewKey<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<String, D::Error> {
        key.deserialize_str(self)
    }
}

impl Visitor<'_> for NewKey<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<String, E> {
        if self.seen.iter().any(|seen| seen == key) {
            return Err(E::custom(format_args!("{key}: given twice; expected once")));
        }
        Ok(key.to_owned())
    }
}

/// A value as it was written; a list becomes one text with commas.
struct Text<'a> {
    expected: &'a str,
}

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Option<String>, D::Error> {
        value.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_none<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<Self::Value, D::Error> {
        value.deserialize_str(self)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element_seed(Text { expected: self.expected })? {
            items.extend(item);
        }
        Ok(Some(items.join(",")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> YamlFile {
        YamlFile::new("test.yml".to_owned(), text.to_owned())
    }

    fn shape(name: &str) -> Shape {
        match name {
            "a.secret" => Shape::Text("a password".to_owned()),
            "a.list" => Shape::List("a list of names".to_owned()),
            _ => Shape::Other,
        }
    }

    fn flat(text: &str) -> Vec<(String, Option<String>)> {
        let entries = file(text).entries(&shape).expect("well-formed");
        entries.iter().map(|entry| (entry.name(), entry.text.clone())).collect()
    }

    #[test]
    fn known_texts_are_read_as_written() {
        for secret in ["0x10", "1e3", "on", "007", "1.10", "'null'"] {
            let text = format!("a: {{ secret: {secret} }}");
            let expected = secret.trim_matches('\'').to_owned();
            assert_eq!(flat(&text), [("a.secret".to_owned(), Some(expected))]);
        }
        assert_eq!(flat("a:\n  secret:\n"), [("a.secret".to_owned(), None)]);
        assert_eq!(flat("a:\n  secret: ''\n"), [("a.secret".to_owned(), Some(String::new()))]);
    }

    #[test]
    fn lists_of_texts_become_one_text_and_other_lists_are_numbered() {
        assert_eq!(flat("a:\n  list: [x, 1]\n"), [("a.list".to_owned(), Some("x,1".to_owned()))]);
        assert_eq!(flat("a:\n  list: x,y\n"), [("a.list".to_owned(), Some("x,y".to_owned()))]);
        let numbered = [
            ("l.0.k".to_owned(), Some("1".to_owned())),
            ("l.1.k".to_owned(), Some("true".to_owned())),
        ];
        assert_eq!(flat("l:\n  - k: 1\n  - {k: true}\n"), numbered);
    }

    #[test]
    fn a_file_without_a_value_is_empty() {
        for text in ["", "\n", "# nothing\n", "---\n"] {
            assert!(flat(text).iter().all(|(_, text)| text.is_none()), "{text:?}");
        }
    }

    #[test]
    fn every_key_knows_its_line_in_every_form() {
        let file = file(concat!(
            "# comment\n",
            "top: &anchor\n",
            "  one: |\n",
            "    two: not a key\n",
            "  two: [1,\n",
            "    {deep: 1}]\n",
            "\"quoted\": {x: 1,\n",
            "  y: 2}\n",
            "list:\n",
            "  - k: 1\n",
            "\n",
            "  - k: 2\n",
        ));
        let entries = file.entries(&|_| Shape::Other).expect("well-formed");
        let places: Vec<String> = entries
            .iter()
            .map(|entry| format!("{} {}", file.place(&entry.path), entry.name()))
            .collect();
        let expected = [
            "test.yml:3 top.one",
            "test.yml:5 top.two.0",
            "test.yml:6 top.two.1.deep",
            "test.yml:7 quoted.x",
            "test.yml:8 quoted.y",
            "test.yml:10 list.0.k",
            "test.yml:12 list.1.k",
        ];
        assert_eq!(places, expected);
    }

    #[test]
    fn malformed_files_tell_their_line() {
        for (text, expected) in [
            ("a: 1\nb: [\n", "test.yml:3: "),
            ("a: 1\na: 2\n", "test.yml:2: a: given twice; expected once"),
            (
                "a:\n  secret: [1]\n",
                "test.yml:2: a.secret: invalid type: sequence, expected a password",
            ),
            (
                "a:\n  list:\n    x: 1\n",
                "test.yml:3: a.list: invalid type: map, expected a list of names",
            ),
            ("\t- x", "test.yml:1: "),
        ] {
            let line = file(text).entries(&shape).expect_err(text).to_string();
            assert!(line.starts_with(expected), "{text:?} gave {line:?}");
        }
    }

    #[test]
    fn a_second_document_is_seen() {
        assert!(file("a: 1\n---\nb: 2\n").has_more_documents());
        assert!(!file("---\na: 1\n").has_more_documents());
    }
}
