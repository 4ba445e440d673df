//! JSON Web Tokens in place of the password: HS, RS, PS, ES and EdDSA, with a secret, a PEM
//! file or a JWKS file.
//!
//! The algorithm of a token must fit the kind of the key, so a public key is never taken for a
//! secret. `exp` must be there. Claims `publ`, `subs` and `all` are lists of Topic Filters that
//! the client may publish to, subscribe to, or both; `%u` and `%c` stand for its names.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use octopus_engine::{Action, Verdict};
use octopus_mqtt::{ReasonCode, TopicFilter};
use serde_json::{Map, Value};

use super::acl::Template;
use super::credentials::{Grant, Opinion, Proof};
use super::file_error::FileError;
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
