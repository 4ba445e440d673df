//! One value of the configuration: from text to its type and back.
//!
//! A [`Kind`] knows how a value is written, its unit and its range; a [`Field`] is the place in
//! [`Config`](super::Config) it is kept in. Every source (file, environment, flag) hands over
//! text, so that one set of rules holds for all three.

use std::{fmt::Write as _, time::Duration};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// How a value is written, and which values are taken.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A whole number from `min` to `max`, both included; `unit` is for the reader only.
    Count { min: u64, max: u64, unit: &'static str },
    /// `auto`, or a whole number from 1 to `max`.
    AutoOrCount { max: u64, unit: &'static str },
    /// Bytes, from `min` to `max`: `4096`, `64KiB`, `1MiB`, `2GiB`.
    Bytes { min: u64, max: u64 },
    /// A span of time, from `min` to `max`: `500ms`, `10s`, `5m`, `2h`, `7d`.
    Time { min: Duration, max: Duration },
    /// `true` or `false`; `yes`, `no`, `on` and `off` are read as well.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Text that `valid` accepts; `what` says in words what that is.
    Text { what: &'static str, valid: fn(&str) -> bool },
    /// Text that is never shown again.
    Secret,
    /// Texts that `valid` accepts, each; a YAML list, or one text with commas.
    List { what: &'static str, valid: fn(&str) -> bool },
}

/// A value, read and within its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Number(u64),
    Auto,
    Time(Duration),
    Switch(bool),
    Text(String),
    List(Vec<String>),
}

impl Kind {
    /// Reads `text`; `None` if it is not written as this kind is, or is out of range.
    pub(super) fn parse(&self, text: &str) -> Option<Value> {
        let text = text.trim();
        match *self {
            Self::Count { min, max, .. } => number(text, min, max),
            Self::AutoOrCount { .. } if text.eq_ignore_ascii_case("auto") => Some(Value::Auto),
            Self::AutoOrCount { max, .. } => number(text, 1, max),
            Self::Bytes { min, max } => {
                bytes(text).filter(|n| (min..=max).contains(n)).map(Value::Number)
            }
            Self::Time { min, max } => {
                time(text).filter(|t| (min..=max).contains(t)).map(Value::Time)
            }
            Self::Switch => switch(text).map(Value::Switch),
            Self::Choice(words) => words
                .iter()
                .find(|word| word.eq_ignore_ascii_case(text))
                .map(|word| Value::Text((*word).to_owned())),
            Self::Text { valid, .. } => valid(text).then(|| Value::Text(text.to_owned())),
            Self::Secret => Some(Value::Text(text.to_owned())),
            Self::List { valid, .. } => {
                let items: Vec<String> = text
                    .split(',')
                    .map(|item| item.trim().to_owned())
                    .filter(|item| !item.is_empty())
                    .collect();
                items.iter().all(|item| valid(item)).then_some(Value::List(items))
            }
        }
    }

    /// What a value of this kind is, in words: type, unit and range.
    pub(super) fn expected(&self) -> String {
        match *self {
            Self::Count { min, max, unit: "" } => format!("a whole number, {min} to {max}"),
            Self::Count { min, max, unit } => format!("a whole number of {unit}, {min} to {max}"),
            Self::AutoOrCount { max, unit } => format!("auto, or a number of {unit}, 1 to {max}"),
            Self::Bytes { min, max } => {
                format!("bytes as 4096, 64KiB, 1MiB or 2GiB, {} to {}", size(min), size(max))
            }
            Self::Time { min, max } => {
                format!("a time as 500ms, 10s, 5m, 2h or 7d, {} to {}", span(min), span(max))
            }
            Self::Switch => "true or false".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Text { what, .. } => what.to_owned(),
            Self::Secret => "text; never shown".to_owned(),
            Self::List { what, .. } => format!("a list, each {what}"),
        }
    }

    /// Writes `value` as [`Kind::parse`] reads it. A secret is written as stars.
    pub(super) fn show(&self, value: &Value) -> String {
        match (self, value) {
            (Self::Secret, Value::Text(text)) if !text.is_empty() => "***".to_owned(),
            (Self::Bytes { .. }, Value::Number(count)) => size(*count),
            (_, Value::Number(count)) => count.to_string(),
            (_, Value::Auto) => "auto".to_owned(),
            (_, Value::Time(time)) => span(*time),
            (_, Value::Switch(on)) => on.to_string(),
            (_, Value::Text(text)) => text.clone(),
            (_, Value::List(items)) => items.join(","),
        }
    }

    /// Whether a value may be echoed in an error.
    pub(super) fn is_secret(&self) -> bool {
        matches!(self, Self::Secret)
    }
}

fn number(text: &str, min: u64, max: u64) -> Option<Value> {
    let number = text.parse().ok()?;
    (min..=max).contains(&number).then_some(Value::Number(number))
}

/// Splits `text` behind its leading digits: the number, and the unit's letters.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    Some((digits.parse().ok()?, unit.trim_start()))
}

fn bytes(text: &str) -> Option<u64> {
    let (count, unit) = split_unit(text)?;
    let one = match unit {
        "" | "B" => 1,
        "KiB" => KIB,
        "MiB" => MIB,
        "GiB" => GIB,
        _ => return None,
    };
    count.checked_mul(one)
}

fn time(text: &str) -> Option<Duration> {
    let (count, unit) = split_unit(text)?;
    let seconds = match unit {
        "ms" => return Some(Duration::from_millis(count)),
        "" if count == 0 => 1,
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return None,
    };
    count.checked_mul(seconds).map(Duration::from_secs)
}

fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// `bytes` in the largest unit that holds it whole.
fn size(bytes: u64) -> String {
    match [(GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")]
        .into_iter()
        .find(|(one, _)| bytes >= *one && bytes.is_multiple_of(*one))
    {
        Some((one, unit)) => format!("{}{unit}", bytes / one),
        None => format!("{bytes}"),
    }
}

/// `time` in the largest unit that holds it whole.
fn span(time: Duration) -> String {
    let millis = time.as_millis();
    let mut text = String::new();
    let (count, unit) = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")]
        .into_iter()
        .find(|(one, _)| millis >= *one && millis.is_multiple_of(*one))
        .map_or((millis, "ms"), |(one, unit)| (millis / one, unit));
    let unit = if millis == 0 { "s" } else { unit };
    write!(text, "{count}{unit}").expect("a String takes all that is written");
    text
}

/// A place of the configuration that holds one value.
pub(super) trait Field {
    /// Stores `value`; `false`, and nothing stored, if the field cannot hold it.
    fn put(&mut self, value: Value) -> bool;
    /// What is stored.
    fn get(&self) -> Value;
}

/// An enum that is chosen by a word of [`Kind::Choice`].
pub(super) trait Word: Copy + PartialEq + 'static {
    /// Every case with its word; the words are those of the key's [`Kind::Choice`].
    const WORDS: &'static [(&'static str, Self)];
}

impl<T: Word> Field for T {
    fn put(&mut self, value: Value) -> bool {
        let Value::Text(text) = value else { return false };
        let found = Self::WORDS.iter().find(|(word, _)| *word == text);
        found.map(|(_, case)| *self = *case).is_some()
    }

    fn get(&self) -> Value {
        let word = Self::WORDS.iter().find(|(_, case)| case == self).map_or("", |(word, _)| word);
        Value::Text(word.to_owned())
    }
}

macro_rules! number_fields {
    ($($number:ty),*) => {$(
        impl Field for $number {
            fn put(&mut self, value: Value) -> bool {
                let Value::Number(number) = value else { return false };
                Self::try_from(number).map(|number| *self = number).is_ok()
            }

            fn get(&self) -> Value {
                Value::Number(u64::try_from(*self).unwrap_or(u64::MAX))
            }
        }
    )*};
}
number_fields!(u16, u32, usize);

macro_rules! fields {
    ($($field:ty => $case:ident),*) => {$(
        impl Field for $field {
            fn put(&mut self, value: Value) -> bool {
                let Value::$case(value) = value else { return false };
                *self = value;
                true
            }

            fn get(&self) -> Value {
                Value::$case(self.clone())
            }
        }
    )*};
}
fields!(bool => Switch, Duration => Time, String => Text, Vec<String> => List);

/// A password: kept, compared, sent where it belongs, and never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The password itself, to be sent to whoever asks for it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether none was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Field for Secret {
    fn put(&mut self, value: Value) -> bool {
        self.0.put(value)
    }

    fn get(&self) -> Value {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_binary_suffixes_only() {
        let kind = Kind::Bytes { min: 1, max: GIB };
        for (text, expected) in [
            ("1", Some(1)),
            ("64KiB", Some(64 << 10)),
            ("1 MiB", Some(1 << 20)),
            ("1GiB", Some(1 << 30)),
            ("2GiB", None),
            ("0", None),
            ("1MB", None),
            ("1.5MiB", None),
            ("-1", None),
            ("MiB", None),
            ("99999999999999999999GiB", None),
            ("18446744073709551615GiB", None),
        ] {
            assert_eq!(kind.parse(text), expected.map(Value::Number), "{text}");
        }
    }

    #[test]
    fn times_need_their_unit() {
        let kind = Kind::Time { min: Duration::ZERO, max: Duration::from_secs(8 * 86_400) };
        for (text, expected_ms) in [
            ("500ms", Some(500)),
            ("10s", Some(10_000)),
            ("5m", Some(300_000)),
            ("2h", Some(7_200_000)),
            ("7d", Some(604_800_000)),
            ("0", Some(0)),
            ("10", None),
            ("9d", None),
            ("10 parsecs", None),
        ] {
            let expected = expected_ms.map(|ms| Value::Time(Duration::from_millis(ms)));
            assert_eq!(kind.parse(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        let time = Kind::Time { min: Duration::ZERO, max: Duration::MAX };
        for text in ["0s", "1ms", "1500ms", "90s", "2m", "36h", "2d"] {
            assert_eq!(time.show(&time.parse(text).expect(text)), text);
        }
        let bytes = Kind::Bytes { min: 0, max: u64::MAX };
        for text in ["0", "1023", "1KiB", "1025", "3MiB", "2GiB"] {
            assert_eq!(bytes.show(&bytes.parse(text).expect(text)), text);
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(Kind::Secret.show(&Value::Text("hunter2".into())), "***");
        assert_eq!(format!("{:?}", Secret("hunter2".into())), "Secret");
    }

    #[test]
    fn a_list_is_one_text_with_commas() {
        let kind = Kind::List { what: "a word", valid: |item| !item.contains(' ') };
        let list = Value::List(vec!["a:1".into(), "b:2".into()]);
        assert_eq!(kind.parse("a:1, b:2,"), Some(list));
        assert_eq!(kind.parse("a b"), None);
    }
}
