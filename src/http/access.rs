//! Who may use the admin API: who knows the token; without a token, programs of this machine.
//!
//! Without a token a browser on this machine could be led to the API by any web page. So the
//! `Host` must be this machine's address or name (a page cannot have another name resolve
//! here), and what changes something must be sent as JSON, which no page may do across origins
//! without asking first.

use std::net::{IpAddr, SocketAddr};

use hyper::{HeaderMap, Method, StatusCode, header};

/// The rule in force. Scope: node.
#[derive(Clone)]
pub struct Access {
    token: Option<Box<str>>,
}

impl Access {
    /// - `token`: empty means that there is none.
    pub fn new(token: &str) -> Self {
        Self { token: (!token.is_empty()).then(|| token.into()) }
    }

    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// # Errors
    /// The status and what to say.
    pub(super) fn check(
        &self,
        from: SocketAddr,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<(), (StatusCode, &'static str)> {
        if let Some(token) = &self.token {
            let given = text(headers, header::AUTHORIZATION).strip_prefix("Bearer ");
            return match given {
                Some(given) if is_same(given.trim().as_bytes(), token.as_bytes()) => Ok(()),
                _ => Err((StatusCode::UNAUTHORIZED, "the token of http.token is needed")),
            };
        }
        if !from.ip().to_canonical().is_loopback() {
            let text = "without http.token only this machine may use the API";
            return Err((StatusCode::FORBIDDEN, text));
        }
        if !is_this_machine(text(headers, header::HOST)) {
            return Err((StatusCode::FORBIDDEN, "the Host is not this machine's"));
        }
        let is_json = text(headers, header::CONTENT_TYPE).starts_with("application/json");
        if *method == Method::POST && !is_json {
            let text = "Content-Type must be application/json";
            return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, text));
        }
        Ok(())
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Compares in a time that does not depend on where the two differ.
fn is_same(given: &[u8], token: &[u8]) -> bool {
    let differing = given.iter().zip(token).fold(0, |sum, (a, b)| sum | (a ^ b));
    given.len() == token.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(access: &Access, from: &str, method: &Method, given: &[(&str, &str)]) -> u16 {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            let name = header::HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.insert(name, value.parse().expect("a value"));
        }
        let from = from.parse().expect("an address");
        access.check(from, method, &headers).map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    #[test]
    fn a_token_is_asked_of_everyone() {
        let access = Access::new("secret");
        let get = &Method::GET;
        assert_eq!(check(&access, "127.0.0.1:1", get, &[]), 401);
        for (given, status) in
            [("Bearer secret", 200), ("Bearer secreT", 401), ("Bearer ", 401), ("secret", 401)]
        {
            assert_eq!(check(&access, "8.8.8.8:1", get, &[("authorization", given)]), status);
        }
    }

    #[test]
    fn without_a_token_only_programs_of_this_machine_are_let_in() {
        let access = Access::new("");
        let host = ("host", "127.0.0.1:20080");
        assert_eq!(check(&access, "127.0.0.1:1", &Method::GET, &[host]), 200);
        assert_eq!(check(&access, "[::ffff:127.0.0.1]:1", &Method::GET, &[host]), 200);
        assert_eq!(check(&access, "10.0.0.1:1", &Method::GET, &[host]), 403);
        for other in ["evil.example:20080", "evil.example", ""] {
            assert_eq!(check(&access, "127.0.0.1:1", &Method::GET, &[("host", other)]), 403);
        }
        assert_eq!(check(&access, "[::1]:1", &Method::GET, &[("host", "[::1]:20080")]), 200);
        let form = ("content-type", "text/plain");
        assert_eq!(check(&access, "127.0.0.1:1", &Method::POST, &[host, form]), 415);
        let json = ("content-type", "application/json; charset=utf-8");
        assert_eq!(check(&access, "127.0.0.1:1", &Method::POST, &[host, json]), 200);
    }
}
