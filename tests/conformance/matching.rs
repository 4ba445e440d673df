//! Compares what a script says of a packet with the packet.

use super::script::{Pattern, Text};
use crate::harness::wire::{Packet, Value, is_property};

pub(super) fn number_in(pattern: &Pattern, name: &str) -> u64 {
    let field = pattern.fields.iter().find(|(field, _)| field == name);
    field.and_then(|(_, text)| text.number()).unwrap_or(0)
}

pub(super) fn codes_of(text: &Text) -> Vec<u8> {
    let codes = text.0.split(|byte| *byte == b',');
    codes.filter_map(|code| Some(Text(code.to_vec()).number()? as u8)).collect()
}

/// Compares what a script says of a packet with the packet.
///
/// What a script does not name must have its usual value where another one would tell a
/// subscriber something (DUP, QoS, RETAIN and all properties of a PUBLISH), and where it would
/// be a refusal (codes); else it does not matter.
pub(super) fn matches(pattern: &Pattern, packet: &Packet, id: Option<u64>) -> Result<(), String> {
    if pattern.name != packet.name {
        return Err(pattern.name.to_owned());
    }
    if id.is_some_and(|id| id != packet.number_of("id")) {
        return Err(format!("id={}", id.unwrap_or(0)));
    }
    for (index, (field, text)) in pattern.fields.iter().enumerate() {
        if field == "of" || text.is("any") {
            continue;
        }
        let nth = pattern.fields[..index].iter().filter(|(earlier, _)| earlier == field).count();
        let actual = packet.all(field).nth(nth);
        if text.is("some") && actual.is_some() {
            continue;
        }
        let wanted = || format!("{field}={}", text.0.escape_ascii());
        let equal = match actual {
            None => text.is("absent") || is_among(0, text),
            Some(Value::Bytes(bytes)) if field == "codes" => *bytes == codes_of(text),
            Some(Value::Bytes(bytes)) => *bytes == text.0,
            Some(Value::Number(number)) => is_among(*number, text),
        };
        if !equal {
            return Err(wanted());
        }
    }
    for (field, value) in &packet.fields {
        let named: Vec<&Text> = pattern
            .fields
            .iter()
            .filter(|(known, _)| known == field)
            .map(|(_, text)| text)
            .collect();
        let fits = match (packet.name, field.as_str()) {
            ("publish", "alias" | "by-alias") => true,
            ("publish", field) if is_property(field) => {
                named.len() >= packet.all(field).count() || named.iter().any(|text| text.is("any"))
            }
            _ if !named.is_empty() => true,
            ("publish", "dup" | "qos" | "retain") | ("connack", "code") => {
                *value == Value::Number(0)
            }
            ("puback" | "pubrec" | "pubrel" | "pubcomp", "code") => packet.number_of("code") < 0x80,
            _ => true,
        };
        if !fits {
            return Err(format!("no {field}"));
        }
    }
    Ok(())
}

/// `7`, `0x87`, `1..20`, or several with `|` between.
fn is_among(number: u64, text: &Text) -> bool {
    text.0.split(|byte| *byte == b'|').any(|choice| {
        let choice = String::from_utf8_lossy(choice).into_owned();
        let parse = |word: &str| Text(word.into()).number();
        match choice.split_once("..") {
            Some((low, high)) => {
                parse(low).is_some_and(|low| number >= low)
                    && parse(high).is_some_and(|high| number <= high)
            }
            None => parse(&choice) == Some(number),
        }
    })
}
