//! JSON Web Tokens in place of the password: HS, RS, PS, ES and EdDSA, with a secret, a PEM
//! file or a JWKS file.
//!
//! The algorithm of a token must fit the kind of the key, so a public key is never taken for a
//! secret. `exp` must be there. Claims `publ`, `subs` and `all` are lists of Topic Filters that
//! the client may publish to, subscribe to, or both; `%u` and `%c` stand for its names.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use octopus_engine::{Action, Verdict};
use octopus_mqtt::{ReasonCode, TopicFilter};
use ring::digest;
use serde_json::{Map, Value};

use super::acl::Template;
use super::credentials::{Grant, Opinion, Proof};
use super::file_error::FileError;
use super::jwt_signature;
use crate::config;

/// Tokens above this many bytes are not looked at.
const TOKEN_BYTES_MAX: usize = 16 << 10;

/// One key that may have signed.
#[derive(Clone)]
struct Key {
    /// As JWKS names it; a token with another `kid` is not tried with it.
    id: Option<Box<str>>,
    key: DecodingKey,
    fingerprint: Box<str>,
}

/// Keys, and what a token must say. Scope: node; made anew on each reload.
#[derive(Clone)]
pub(crate) struct Jwt {
    keys: Vec<Key>,
    audience: Option<String>,
    issuer: Option<String>,
    user_claim: String,
    leeway: Duration,
}

impl Jwt {
    /// The keys of the configuration; `file` is the text of `auth.jwt.key_file`.
    ///
    /// # Errors
    /// That the file holds no key we know.
    pub(crate) fn new(config: &config::Jwt, file: Option<&str>) -> Result<Self, FileError> {
        jwt_signature::install();
        let mut keys = Vec::new();
        if !config.secret.is_empty() {
            let secret = config.secret.reveal().as_bytes();
            keys.push(Key::new(None, DecodingKey::from_secret(secret), secret));
        }
        if let Some(text) = file {
            keys.extend(keys_of(text)?);
        }
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        Ok(Self {
            keys,
            audience: given(&config.audience),
            issuer: given(&config.issuer),
            user_claim: config.user_claim.clone(),
            leeway: config.leeway,
        })
    }

    /// Whether a right that rests on this key still stands.
    pub(crate) fn has_key(&self, fingerprint: &str) -> bool {
        self.keys.iter().any(|key| &*key.fingerprint == fingerprint)
    }

    /// Checks a password that may be a token. CPU: up to a millisecond.
    pub(crate) fn check(&self, password: &[u8]) -> Opinion {
        let token = std::str::from_utf8(password).ok().filter(|t| t.len() <= TOKEN_BYTES_MAX);
        let Some((token, header)) = token.and_then(|t| Some((t, decode_header(t).ok()?))) else {
            return Opinion::None;
        };
        let mut validation = Validation::new(header.alg);
        validation.leeway = self.leeway.as_secs();
        validation.validate_nbf = true;
        validation.validate_aud = self.audience.is_some();
        if let Some(audience) = &self.audience {
            validation.set_audience(&[audience]);
        }
        let mut required = vec!["exp"];
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if self.audience.is_some() {
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        let fits = |key: &&Key| match (&key.id, &header.kid) {
            (Some(own), Some(named)) => **own == **named,
            _ => true,
        };
        let verified = self.keys.iter().filter(fits).find_map(|key| {
            let token = decode::<Map<String, Value>>(token, &key.key, &validation).ok()?;
            Some((key, token.claims))
        });
        match verified {
            Some((key, claims)) => self.grant(key, &claims),
            None => Opinion::Refused(ReasonCode::BadUserNameOrPassword),
        }
    }

    fn grant(&self, key: &Key, claims: &Map<String, Value>) -> Opinion {
        let user = claims.get(&self.user_claim).and_then(Value::as_str).map(Into::into);
        let until_s = claims.get("exp").and_then(Value::as_u64);
        let expires = until_s.and_then(|s| {
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(s))?.checked_add(self.leeway)
        });
        let proof = Proof::Key(key.fingerprint.clone());
        let is_unproven = user.is_none();
        Opinion::Granted(Grant { user, is_unproven, rules: rules_of(claims), expires, proof })
    }
}

impl Key {
    fn new(id: Option<Box<str>>, key: DecodingKey, material: &[u8]) -> Self {
        let fingerprint = digest::digest(&digest::SHA256, material);
        Self { id, key, fingerprint: URL_SAFE_NO_PAD.encode(fingerprint).into() }
    }
}

/// The claims' rules; `None` if there is no such claim. A claim that is there and holds no
/// usable filter allows nothing.
fn rules_of(claims: &Map<String, Value>) -> Option<Vec<Template>> {
    let lists = [("publ", Action::Publish), ("subs", Action::Subscribe), ("all", Action::Both)];
    let mut rules = None;
    for (name, action) in lists {
        let Some(list) = claims.get(name) else { continue };
        let rules: &mut Vec<Template> = rules.get_or_insert_default();
        let filters = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        let valid = filters.filter(|filter| TopicFilter::parse(filter).is_ok());
        rules.extend(valid.map(|filter| Template {
            verdict: Verdict::Allow,
            action,
            filter: filter.into(),
            substitutes: true,
        }));
    }
    rules
}

fn keys_of(text: &str) -> Result<Vec<Key>, FileError> {
    if text.trim_start().starts_with('{') {
        return keys_of_set(text);
    }
    let pem = text.as_bytes();
    let key = DecodingKey::from_rsa_pem(pem)
        .or_else(|_| DecodingKey::from_ec_pem(pem))
        .or_else(|_| DecodingKey::from_ed_pem(pem))
        .map_err(|_| {
            FileError::content("neither a JWKS nor a public key in PEM (RSA, EC, Ed25519)")
        })?;
    Ok(vec![Key::new(None, key, pem)])
}

fn keys_of_set(text: &str) -> Result<Vec<Key>, FileError> {
    let set: JwkSet = serde_json::from_str(text)
        .map_err(|error| FileError::content(format!("no JWKS: {error}")))?;
    let keys = set.keys.iter().filter_map(|jwk| {
        let material = serde_json::to_vec(&jwk.algorithm).ok()?;
        let id = jwk.common.key_id.as_deref().map(Into::into);
        Some(Key::new(id, DecodingKey::from_jwk(jwk).ok()?, &material))
    });
    let keys: Vec<Key> = keys.collect();
    if keys.is_empty() {
        return Err(FileError::content("a JWKS without a key we can use"));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmN\
     vbS9pc19yb290Ijp0cnVlfQ";

    /// RFC 7515, A.1 to A.3: header, signature, key; all for [`CLAIMS`].
    const RFC_7515: [(&str, &str, &str); 3] = [
        (
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            "{\"kty\":\"oct\",\"k\":\"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN\
             3Yj0iPS4hcgUuTwjAzZr1Z9CAow\"}",
        ),
        (
            "eyJhbGciOiJSUzI1NiJ9",
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt\
             _O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArL\
             IARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7no\
             OPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQ\
             Ge77Rw",
            "{\"kty\":\"RSA\",\"n\":\"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxH\
             mfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47\
             soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665x\
             smtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFk\
             MLs91kzk2PAcDTW9gb54h4FRWyuXpoQ\",\"e\":\"AQAB\"}",
        ),
        (
            "eyJhbGciOiJFUzI1NiJ9",
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU\
             1Q",
            "{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVE\
             U\",\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"}",
        ),
    ];

    /// The tokens of the RFC ran out in 2011.
    const SINCE_2011: Duration = Duration::from_secs(40 * 365 * 24 * 3600);

    fn jwt(keys: &str, change: impl FnOnce(&mut config::Jwt)) -> Jwt {
        let mut config =
            config::Jwt { leeway: SINCE_2011, user_claim: "iss".into(), ..config::Jwt::default() };
        change(&mut config);
        let file = format!(r#"{{"keys":[{keys}]}}"#);
        Jwt::new(&config, Some(&file)).expect("good keys")
    }

    fn token((header, signature, _): (&str, &str, &str)) -> String {
        format!("{header}.{CLAIMS}.{signature}")
    }

    fn is_refused(opinion: &Opinion) -> bool {
        matches!(opinion, Opinion::Refused(_))
    }

    #[test]
    fn the_examples_of_rfc_7515_are_granted_by_their_own_key_only() {
        for (index, example) in RFC_7515.into_iter().enumerate() {
            let Opinion::Granted(grant) = jwt(example.2, |_| ()).check(token(example).as_bytes())
            else {
                panic!("example {index}");
            };
            assert_eq!(grant.user.as_deref(), Some("joe"));
            assert!(grant.expires.is_some() && grant.rules.is_none());
            let other = RFC_7515[(index + 1) % 3].2;
            assert!(is_refused(&jwt(other, |_| ()).check(token(example).as_bytes())), "{index}");
            let mut bent = token(example);
            bent.replace_range(bent.len() - 9..bent.len() - 8, "_");
            assert!(is_refused(&jwt(example.2, |_| ()).check(bent.as_bytes())), "{index}");
        }
    }

    #[test]
    fn time_issuer_and_audience_are_checked() {
        let example = RFC_7515[0];
        let refused = |change: fn(&mut config::Jwt)| {
            is_refused(&jwt(example.2, change).check(token(example).as_bytes()))
        };
        assert!(refused(|config| config.leeway = Duration::ZERO), "expired");
        assert!(refused(|config| config.issuer = "jane".to_owned()));
        assert!(!refused(|config| config.issuer = "joe".to_owned()));
        assert!(refused(|config| config.audience = "octopus".to_owned()));
    }

    #[test]
    fn what_is_no_token_is_left_to_others() {
        let jwt = jwt(RFC_7515[0].2, |_| ());
        for other in ["", "secret", "a.b.c", "\u{0}"] {
            assert!(matches!(jwt.check(other.as_bytes()), Opinion::None), "{other}");
        }
    }

    #[test]
    fn a_token_without_signature_is_refused() {
        let none = format!("eyJhbGciOiJub25lIn0.{CLAIMS}.");
        let opinion = jwt(RFC_7515[0].2, |_| ()).check(none.as_bytes());
        assert!(!matches!(opinion, Opinion::Granted(_)));
    }

    #[test]
    fn claims_become_rules() {
        let claims = |text: &str| -> Option<Vec<String>> {
            let claims = serde_json::from_str(text).expect("JSON");
            let rules = rules_of(&claims)?;
            Some(rules.iter().map(|rule| format!("{:?} {}", rule.action, rule.filter)).collect())
        };
        assert_eq!(claims("{}"), None);
        assert_eq!(claims(r#"{"publ":"a"}"#), Some(vec![]), "there, and nothing in it");
        let found = claims(r##"{"publ":["a/%u"],"subs":["#","a/#/b",1],"all":["c"]}"##);
        assert_eq!(found, Some(vec!["Publish a/%u".into(), "Subscribe #".into(), "Both c".into()]));
    }

    #[test]
    fn a_file_without_a_key_is_refused() {
        let config = config::Jwt::default();
        for text in [
            "",
            "{}",
            r#"{"keys":[]}"#,
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        ] {
            assert!(Jwt::new(&config, Some(text)).is_err(), "{text}");
        }
    }
}
