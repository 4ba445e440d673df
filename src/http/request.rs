//! What a request says: its path in segments, its query, its body as JSON.

use std::str::FromStr;

use http_body_util::{BodyExt as _, Limited};
use hyper::{Method, StatusCode, body::Incoming, http};
use serde_json::Value;

use super::respond::Refused;

/// The largest body taken.
const BODY_BYTES_MAX: usize = 4 << 20;

/// A request taken apart.
pub(super) struct Asked {
    pub(super) method: Method,
    /// Decoded; a slash inside a segment was `%2F`.
    pub(super) segments: Vec<String>,
    query: Vec<(String, String)>,
    pub(super) body: Value,
}

impl Asked {
    /// Reads the body, if the method has one.
    pub(super) async fn read(head: http::request::Parts, body: Incoming) -> Result<Self, Refused> {
        let bad = |what: &str| Refused::new(StatusCode::BAD_REQUEST, what);
        let segments = head.uri.path().split('/').filter(|part| !part.is_empty());
        let segments: Option<Vec<_>> = segments.map(|part| decoded(part, Plus::Plain)).collect();
        let query = parse_query(head.uri.query().unwrap_or_default());
        let mut json = Value::Null;
        if matches!(head.method, Method::POST | Method::PUT) {
            let collected = Limited::new(body, BODY_BYTES_MAX).collect().await;
            let bytes = collected
                .map_err(|_| Refused::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"))?
                .to_bytes();
            if !bytes.is_empty() {
                json = serde_json::from_slice(&bytes)
                    .map_err(|error| bad(&format!("the body is no JSON: {error}")))?;
            }
        }
        let segments = segments.ok_or_else(|| bad("the path is not UTF-8"))?;
        let query = query.ok_or_else(|| bad("the query is not UTF-8"))?;
        Ok(Self { method: head.method, segments, query, body: json })
    }

    /// A parameter of the query.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// As [`Self::parameter`], parsed.
    ///
    /// # Errors
    /// 400, if it is there and is not what is `expected`.
    pub(super) fn parsed<T: FromStr>(
        &self,
        name: &str,
        expected: &str,
    ) -> Result<Option<T>, Refused> {
        let Some(text) = self.parameter(name) else { return Ok(None) };
        let wrong = || Refused::new(StatusCode::BAD_REQUEST, format!("{name} must be {expected}"));
        text.parse().map(Some).map_err(|_| wrong())
    }
}

/// What a plus sign stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Plus {
    /// Itself: in paths, where topics have it.
    Plain,
    /// A space: in queries.
    Space,
}

fn parse_query(query: &str) -> Option<Vec<(String, String)>> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decoded(name, Plus::Space)?, decoded(value, Plus::Space)?))
        })
        .collect()
}

/// Undoes percent-encoding; `None` if the result is not UTF-8.
fn decoded(text: &str, plus: Plus) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'%', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                bytes.push(hex(*high)? << 4 | hex(*low)?);
                rest = after;
            }
            (b'+', _) if plus == Plus::Space => bytes.push(b' '),
            _ => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|value| value as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_undone() {
        assert_eq!(decoded("a%2Fb+c%20d", Plus::Plain).as_deref(), Some("a/b+c d"));
        assert_eq!(decoded("a+b%2B", Plus::Space).as_deref(), Some("a b+"));
        assert_eq!(decoded("100%", Plus::Plain).as_deref(), Some("100%"));
        assert_eq!(decoded("%zz%+1", Plus::Plain).as_deref(), Some("%zz%+1"));
        assert_eq!(decoded("%ff", Plus::Plain), None);
    }

    #[test]
    fn a_query_is_pairs() {
        let query = parse_query("search=a%23&limit=5&flag&").expect("UTF-8");
        let expected = [("search", "a#"), ("limit", "5"), ("flag", "")];
        assert!(query.iter().map(|(n, v)| (n.as_str(), v.as_str())).eq(expected));
    }
}
