//! The opening handshake (RFC 6455, §4.2): one HTTP request, one answer.

use std::sync::Arc;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::stream::Refusal;

/// Where MQTT is spoken.
const PATH: &str = "/mqtt";
/// The sub-protocol [MQTT-6.0.0-3].
const PROTOCOL: &str = "mqtt";
/// Browsers send cookies along.
const REQUEST_BYTES_MAX: usize = 16 << 10;
const FIELD_COUNT_MAX: usize = 64;
/// §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A request as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Request {
    held: Vec<u8>,
    /// See [`crate::stream::Layers::origins`].
    origins: Arc<[Box<str>]>,
}

/// What is kept of a request that was taken.
pub(super) struct Accepted {
    pub(super) forwarded_for: Option<Box<str>>,
}

type Answer = (&'static str, Refusal);

impl Request {
    pub(super) fn new(origins: Arc<[Box<str>]>) -> Self {
        Self { held: Vec::new(), origins }
    }

    /// Takes more of it. Once it is complete: what it says, and the bytes behind it; the answer
    /// is appended to `answer`.
    pub(super) fn receive<'a>(
        &mut self,
        bytes: &'a [u8],
        answer: &mut Vec<u8>,
    ) -> Result<Option<(Accepted, &'a [u8])>, Refusal> {
        let before = self.held.len();
        let take = bytes.len().min(REQUEST_BYTES_MAX - before);
        self.held.extend_from_slice(&bytes[..take]);
        // Parsed once its end is there, so that a slow sender costs no more than its bytes.
        let from = before.saturating_sub(3);
        let end = self.held[from..].windows(4).position(|window| window == b"\r\n\r\n");
        let result = match end {
            Some(end) => parse(&self.held[..from + end + 4], &self.origins)
                .map(|(accepted, text)| Some((accepted, text, from + end + 4 - before))),
            None if self.held.len() == REQUEST_BYTES_MAX => Err((
                "431 Request Header Fields Too Large",
                Refusal::upgrade("a WebSocket request over 16 KiB"),
            )),
            None => Ok(None),
        };
        match result {
            Ok(None) => Ok(None),
            Ok(Some((accepted, text, used))) => {
                answer.extend(text.as_bytes());
                Ok(Some((accepted, &bytes[used..])))
            }
            Err((status, refusal)) => {
                let text = format!(
                    "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\
                     Sec-WebSocket-Version: 13\r\n\r\n"
                );
                answer.extend(text.as_bytes());
                Err(refusal)
            }
        }
    }
}

fn parse(bytes: &[u8], origins: &[Box<str>]) -> Result<(Accepted, String), Answer> {
    let bad = |text| ("400 Bad Request", Refusal::upgrade(text));
    let mut fields = [httparse::EMPTY_HEADER; FIELD_COUNT_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let parsed = request.parse(bytes);
    if !parsed.is_ok_and(|status| status.is_complete()) {
        return Err(bad("a malformed HTTP request"));
    }
    if request.path.and_then(|path| path.split('?').next()) != Some(PATH) {
        return Err(("404 Not Found", Refusal::upgrade("a WebSocket request for another path")));
    }
    let all = |name: &'static str| {
        let fields = request.headers.iter();
        let named = fields.filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.filter_map(|field| std::str::from_utf8(field.value).ok())
    };
    let lists = |name, word: &str| {
        let mut words = all(name).flat_map(|value| value.split(','));
        words.any(|given| given.trim().eq_ignore_ascii_case(word))
    };
    let upgrades = lists("Upgrade", "websocket") && lists("Connection", "upgrade");
    if request.method != Some("GET") || request.version != Some(1) || !upgrades {
        return Err((
            "426 Upgrade Required",
            Refusal::upgrade("an HTTP request without an upgrade"),
        ));
    }
    if !lists("Sec-WebSocket-Version", "13") {
        return Err(("426 Upgrade Required", Refusal::upgrade("an unknown WebSocket version")));
    }
    if !lists("Sec-WebSocket-Protocol", PROTOCOL) {
        return Err(bad("a WebSocket without the sub-protocol mqtt"));
    }
    let key = all("Sec-WebSocket-Key").next().unwrap_or_default().trim();
    if BASE64_STANDARD.decode(key).map(|key| key.len()) != Ok(16) {
        return Err(bad("a malformed WebSocket key"));
    }
    let is_welcome = |origin: &str| origins.iter().any(|own| own.eq_ignore_ascii_case(origin));
    if !origins.is_empty() && !all("Origin").all(|origin| is_welcome(origin.trim())) {
        return Err(("403 Forbidden", Refusal::upgrade("a WebSocket of a page from elsewhere")));
    }
    let forwarded: Vec<&str> = all("X-Forwarded-For").collect();
    let forwarded_for = (!forwarded.is_empty()).then(|| forwarded.join(",").into());
    Ok((Accepted { forwarded_for }, switching(key)))
}

fn switching(key: &str) -> String {
    let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat());
    let accept = BASE64_STANDARD.encode(hash);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\n\
        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: other, mqtt\r\n\
        X-Forwarded-For: 192.0.2.7, 10.0.0.1\r\n\r\n";

    fn refused(request: &str) -> String {
        let mut answer = Vec::new();
        let outcome = Request::default().receive(request.as_bytes(), &mut answer);
        assert!(outcome.is_err(), "{request}");
        let answer = String::from_utf8(answer).unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    #[test]
    fn the_answer_is_the_specifications() {
        let mut answer = Vec::new();
        let bytes = [REQUEST.as_bytes(), b"rest"].concat();
        let mut request = Request::default();
        let (accepted, rest) = request.receive(&bytes, &mut answer).unwrap().expect("complete");
        assert_eq!(accepted.forwarded_for.as_deref(), Some("192.0.2.7, 10.0.0.1"));
        assert_eq!(rest, b"rest");
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(answer.contains("Sec-WebSocket-Protocol: mqtt\r\n"));
    }

    #[test]
    fn a_request_may_come_byte_by_byte() {
        let (mut request, mut answer) = (Request::default(), Vec::new());
        for (position, byte) in REQUEST.bytes().enumerate() {
            let is_complete = request.receive(&[byte], &mut answer).unwrap().is_some();
            assert_eq!(is_complete, position + 1 == REQUEST.len());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
    }

    #[test]
    fn other_requests_are_refused_with_the_reason() {
        for (from, to, status) in [
            ("/mqtt", "/", "404 Not Found"),
            ("GET", "POST", "426 Upgrade Required"),
            ("WebSocket\r\n", "h2c\r\n", "426 Upgrade Required"),
            ("Version: 13", "Version: 8", "426 Upgrade Required"),
            ("other, mqtt", "other", "400 Bad Request"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "short", "400 Bad Request"),
            ("Host: a", "Host", "400 Bad Request"),
        ] {
            assert_eq!(refused(&REQUEST.replace(from, to)), format!("HTTP/1.1 {status}"));
        }
    }

    #[test]
    fn a_page_from_elsewhere_is_refused_where_origins_are_named() {
        let origins: Arc<[Box<str>]> = Arc::new(["https://good.example".into()]);
        for (origin, named, free) in [
            ("", true, true),
            ("Origin: https://good.example\r\n", true, true),
            ("Origin: HTTPS://good.example\r\n", true, true),
            ("Origin: https://evil.example\r\n", false, true),
            ("Origin: https://good.example.evil.example\r\n", false, true),
            ("Origin: null\r\n", false, true),
            ("Origin: https://good.example\r\nOrigin: https://evil.example\r\n", false, true),
        ] {
            let request = REQUEST.replace("Host: a\r\n", &format!("Host: a\r\n{origin}"));
            let is_taken = |origins: &Arc<[Box<str>]>| {
                let mut request_of = Request::new(Arc::clone(origins));
                request_of.receive(request.as_bytes(), &mut Vec::new()).is_ok()
            };
            assert_eq!(is_taken(&origins), named, "{origin}");
            assert_eq!(is_taken(&Arc::default()), free, "{origin}");
        }
    }

    #[test]
    fn an_over_long_request_is_refused() {
        let line = format!("HTTP/1.1\r\nCookie: {}", "x".repeat(REQUEST_BYTES_MAX));
        let status = refused(&REQUEST.replace("HTTP/1.1", &line));
        assert_eq!(status, "HTTP/1.1 431 Request Header Fields Too Large");
    }
}
