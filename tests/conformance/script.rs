//! Reads the scripts: files of named cases that follow the specification's words.
//!
//! ```text
//! case a second CONNECT closes the connection
//! [MQTT-3.1.0-2] "MUST process a second CONNECT packet"
//! versions 3.1.1 5
//!   a connects
//!   a > connect id=a clean
//!   a < refused code=0x82
//! ```
//!
//! `language.md` beside this file explains every line.

use crate::harness::wire::{NAMES, Version};

/// One case of a script.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// The script's file name without its ending.
    pub file: String,
    /// A sentence: what the broker does.
    pub name: String,
    pub line: usize,
    pub versions: Vec<Version>,
    pub clauses: Vec<Quote>,
    /// Settings that the broker is started with, `key=value`.
    pub settings: Vec<String>,
    /// Runs only where time is virtual.
    pub sim_only: bool,
    /// Runs only against a process.
    pub live_only: bool,
    /// The number of the defect it guards against, of those the broker's predecessor had.
    pub seed_defect: Option<u32>,
    pub steps: Vec<Step>,
}

/// A clause and the words of it that a case proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quote {
    pub id: String,
    pub words: String,
}

impl Quote {
    /// `[MQTT-1.5.4-2] "words of the clause"`
    fn read(line: &str) -> Self {
        let (id, words) = line.trim().split_once(' ').unwrap_or((line, ""));
        let words = words.trim();
        let words = words.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        Self { id: id.to_owned(), words: words.unwrap_or_default().replace("\\\"", "\"") }
    }
}

/// One line of a case.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub line: usize,
    /// Only for these versions; empty for all.
    pub versions: Vec<Version>,
    pub action: Action,
}

#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// `a > packet …`
    Send { client: String, packet: Pattern },
    /// `a < packet …`
    Expect { client: String, expected: Expected },
    /// `any order { … }`: expectations that may be met in any order.
    AnyOrder(Vec<(String, Pattern)>),
    /// `a connects …` and the other exchanges that have a verb.
    Exchange { client: String, verb: String, fields: Pattern },
    /// `one of a b receives …`: exactly one of them does.
    OneOf { clients: Vec<String>, fields: Pattern },
    /// `a speaks 3.1.1`, whatever version the case is played in.
    Speaks { client: String, version: Version },
    /// `advance 15s`
    Advance(std::time::Duration),
}

#[derive(Clone, Debug)]
pub(crate) enum Expected {
    Packet(Pattern),
    /// Closed, after an error packet or without one.
    Closed,
    /// Closed for this reason: version 5 hears the code first, older versions only the close.
    Refused(Pattern),
    /// Nothing, also after all that others sent before has been dealt with.
    Nothing,
    /// Nothing before the answer to a ping.
    OnlyPingResp,
}

/// A packet with the fields that a script names.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    pub name: &'static str,
    pub fields: Vec<(String, Text)>,
    /// `as P`: the packet is called so from here on.
    pub bind: Option<String>,
}

/// The right side of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text(pub Vec<u8>);

impl Text {
    pub(crate) fn is(&self, word: &str) -> bool {
        self.0 == word.as_bytes()
    }

    /// As a number: decimal or `0x…`.
    pub(crate) fn number(&self) -> Option<u64> {
        let text = std::str::from_utf8(&self.0).ok()?;
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    }
}

const VERBS: [&str; 9] = [
    "opens",
    "connects",
    "disconnects",
    "cut",
    "subscribes",
    "unsubscribes",
    "publishes",
    "receives",
    "pings",
];

/// Reads one file.
///
/// # Errors
/// `file:line: what is wrong`.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = Vec::new();
    let mut block: Option<Vec<(String, Pattern)>> = None;
    for (index, raw) in text.lines().enumerate() {
        let line = index + 1;
        let fault = |what: String| format!("{file}.mqtt:{line}: {what}");
        if raw.starts_with("[MQTT") {
            let Some(case) = cases.last_mut() else { return Err(fault("a clause alone".into())) };
            case.clauses.push(Quote::read(raw));
            continue;
        }
        let words = words(raw).map_err(&fault)?;
        let Some(first) = words.first().map(Word::text) else { continue };
        if first == "case" {
            cases.push(Case::new(file, raw.trim()[4..].trim(), line));
            continue;
        }
        let Some(case) = cases.last_mut() else { return Err(fault("a step before a case".into())) };
        if raw.starts_with(char::is_whitespace) {
            case.step(line, &words, &mut block).map_err(&fault)?;
        } else {
            case.header(&first, &words).map_err(&fault)?;
        }
    }
    match block {
        Some(_) => Err(format!("{file}.mqtt: any order without its end")),
        None => Ok(cases),
    }
}

impl Case {
    fn new(file: &str, name: &str, line: usize) -> Self {
        Self {
            file: file.to_owned(),
            name: name.to_owned(),
            line,
            versions: vec![Version::V3_1_1, Version::V5],
            clauses: Vec::new(),
            settings: Vec::new(),
            sim_only: false,
            live_only: false,
            seed_defect: None,
            steps: Vec::new(),
        }
    }

    /// The case's name as part of a test's name.
    pub(crate) fn slug(&self) -> String {
        let letters = self.name.chars().map(|letter| match letter {
            letter if letter.is_alphanumeric() => letter.to_ascii_lowercase(),
            _ => ' ',
        });
        let words: Vec<String> =
            letters.collect::<String>().split_whitespace().map(str::to_owned).collect();
        let slug = words.join("_");
        self.seed_defect
            .map_or_else(|| slug.clone(), |number| format!("seed_defect_{number:02}_{slug}"))
    }

    fn header(&mut self, first: &str, words: &[Word]) -> Result<(), String> {
        let mut rest = words[1..].iter().map(Word::text);
        match first {
            "versions" => {
                self.versions = rest.map(|word| version(&word)).collect::<Result<_, _>>()?
            }
            "with" => self.settings.extend(rest.map(|setting| format!("--{setting}"))),
            "sim-only" => self.sim_only = true,
            "live-only" => self.live_only = true,
            "seed-defect" => {
                self.seed_defect = rest.next_back().and_then(|number| number.parse().ok());
            }
            _ => return Err(format!("{first:?} begins no line of a case's head")),
        }
        Ok(())
    }

    fn step(
        &mut self,
        line: usize,
        words: &[Word],
        block: &mut Option<Vec<(String, Pattern)>>,
    ) -> Result<(), String> {
        let texts: Vec<String> = words.iter().map(Word::text).collect();
        if let Some(lines) = block {
            if texts[0] == "}" {
                let action = Action::AnyOrder(block.take().unwrap_or_default());
                self.steps.push(Step { line, versions: Vec::new(), action });
                return Ok(());
            }
            if texts.get(1).is_none_or(|arrow| arrow != "<") {
                return Err("only expectations stand in any order".into());
            }
            lines.push((texts[0].clone(), pattern(&words[2..])?));
            return Ok(());
        }
        if texts.join(" ") == "any order {" {
            *block = Some(Vec::new());
            return Ok(());
        }
        let (versions, words) = match texts[0].strip_suffix(':') {
            Some(list) => (list.split(',').map(version).collect::<Result<_, _>>()?, &words[1..]),
            None => (Vec::new(), words),
        };
        self.steps.push(Step { line, versions, action: action(words)? });
        Ok(())
    }
}

fn action(words: &[Word]) -> Result<Action, String> {
    let texts: Vec<String> = words.iter().map(Word::text).collect();
    let client = texts.first().ok_or("an empty step")?.clone();
    let verb = texts.get(1).ok_or("a step of one word")?;
    match (client.as_str(), verb.as_str()) {
        ("one", "of") => {
            let split = texts.iter().position(|text| text == "receives");
            let split = split.ok_or("one of whom receives?")?;
            let fields = fields("exchange", &words[split + 1..])?;
            Ok(Action::OneOf { clients: texts[2..split].to_vec(), fields })
        }
        (_, "speaks") => {
            let version = version(texts.get(2).map_or("", String::as_str))?;
            Ok(Action::Speaks { client, version })
        }
        ("advance", time) => Ok(Action::Advance(duration(time)?)),
        (_, ">") => Ok(Action::Send { client, packet: pattern(&words[2..])? }),
        (_, "<") => {
            let expected = match texts[2..].join(" ").as_str() {
                "closed" => Expected::Closed,
                "nothing" => Expected::Nothing,
                "only pingresp" => Expected::OnlyPingResp,
                _ if texts[2] == "refused" => Expected::Refused(fields("refused", &words[3..])?),
                _ => Expected::Packet(pattern(&words[2..])?),
            };
            Ok(Action::Expect { client, expected })
        }
        (_, verb) if VERBS.contains(&verb) => Ok(Action::Exchange {
            client,
            verb: verb.to_owned(),
            fields: exchange(verb, &words[2..])?,
        }),
        (_, verb) => Err(format!("{verb:?} is nothing that a client does")),
    }
}

/// The fields of an exchange; what is subscribed to may stand without `filter=`.
fn exchange(verb: &str, words: &[Word]) -> Result<Pattern, String> {
    if !matches!(verb, "subscribes" | "unsubscribes") {
        return fields("exchange", words);
    }
    let named = ["id=", "subscription-id=", "user-property=", "filter=", "options=", "codes="];
    let words: Vec<Word> = words
        .iter()
        .map(|word| {
            let is_named = named.iter().any(|name| word.0.starts_with(name.as_bytes()));
            let prefix: &[u8] = if is_named { b"" } else { b"filter=" };
            Word([prefix, &word.0].concat())
        })
        .collect();
    fields("exchange", &words)
}

/// A packet's name and its fields.
fn pattern(words: &[Word]) -> Result<Pattern, String> {
    let name = words.first().ok_or("no packet")?.text();
    if name == "raw" {
        let hex: String = words[1..].iter().map(Word::text).collect();
        return Ok(Pattern {
            name: "raw",
            fields: vec![("bytes".into(), Text(unhex(&hex)?))],
            bind: None,
        });
    }
    let known = NAMES.iter().find(|known| **known == name);
    fields(known.ok_or_else(|| format!("{name:?} is no packet"))?, &words[1..])
}

fn fields(name: &'static str, words: &[Word]) -> Result<Pattern, String> {
    let mut pattern = Pattern { name, fields: Vec::new(), bind: None };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (field, value) = match word.split() {
            Some(pair) => pair,
            None => match word.text().as_str() {
                "as" => {
                    pattern.bind = Some(words.next().ok_or("as whom?")?.text());
                    continue;
                }
                qos @ ("q0" | "q1" | "q2") => ("qos".into(), Text(qos.as_bytes()[1..].to_vec())),
                flag if flag.starts_with(char::is_uppercase) => {
                    ("of".into(), Text(flag.as_bytes().to_vec()))
                }
                flag => (flag.to_owned(), Text(b"1".to_vec())),
            },
        };
        if field == "filter" {
            push_filter(&mut pattern, &value)?;
        } else {
            pattern.fields.push((field, value));
        }
    }
    Ok(pattern)
}

/// `x/+@1,nl,rap,rh=2`: a Topic Filter and its Subscription Options.
fn push_filter(pattern: &mut Pattern, value: &Text) -> Result<(), String> {
    let at = value.0.iter().rposition(|byte| *byte == b'@');
    let (filter, options) = value.0.split_at(at.unwrap_or(value.0.len()));
    pattern.fields.push(("filter".into(), Text(filter.to_vec())));
    if options.is_empty() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&options[1..]).into_owned();
    let mut bits = 0_u64;
    for option in text.split(',') {
        bits |= match option {
            "nl" => 4,
            "rap" => 8,
            "rh=0" => 0,
            "rh=1" => 0x10,
            "rh=2" => 0x20,
            qos => Text(qos.into()).number().ok_or_else(|| format!("no option {qos:?}"))?,
        };
    }
    pattern.fields.push(("options".into(), Text(bits.to_string().into_bytes())));
    Ok(())
}

fn version(word: &str) -> Result<Version, String> {
    match word {
        "3.1" => Ok(Version::V3_1),
        "3.1.1" => Ok(Version::V3_1_1),
        "5" => Ok(Version::V5),
        _ => Err(format!("{word:?} is no version")),
    }
}

fn duration(word: &str) -> Result<std::time::Duration, String> {
    let (number, unit) = match word.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (word.strip_suffix('s').unwrap_or(word), 1000),
    };
    let number: u64 = number.parse().map_err(|_| format!("{word:?} is no time"))?;
    Ok(std::time::Duration::from_millis(number * unit))
}

fn unhex(digits: &str) -> Result<Vec<u8>, String> {
    let fault = || format!("{digits:?} are no bytes");
    if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return Err(fault());
    }
    (0..digits.len() / 2)
        .map(|index| u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).map_err(|_| fault()))
        .collect()
}

/// A word of a line: bytes, since a script may write any.
struct Word(Vec<u8>);

impl Word {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    /// `field=value`, the value spelled out: `hex:00ff`, `100*x`, or itself.
    fn split(&self) -> Option<(String, Text)> {
        let equals = self.0.iter().position(|byte| *byte == b'=')?;
        let field = String::from_utf8_lossy(&self.0[..equals]).into_owned();
        let value = &self.0[equals + 1..];
        if let Some(bytes) = value.strip_prefix(b"hex:")
            && let Ok(bytes) = unhex(&String::from_utf8_lossy(bytes))
        {
            return Some((field, Text(bytes)));
        }
        if let Some(star) = value.iter().position(|byte| *byte == b'*')
            && let Some(times) = Text(value[..star].to_vec()).number()
        {
            return Some((field, Text(value[star + 1..].repeat(times as usize))));
        }
        Some((field, Text(value.to_vec())))
    }
}

/// Splits a line at spaces, outside of quotation marks; `#` alone begins a comment.
fn words(line: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quoted = false;
    let mut bytes = line.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            b' ' | b'\t' if !quoted => words.extend(word.take().map(Word)),
            b'#' if !quoted && word.is_none() && bytes.peek().is_none_or(|next| *next == b' ') => {
                break;
            }
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word.map(Word));
    if quoted { Err("a quotation without its end".into()) } else { Ok(words) }
}
