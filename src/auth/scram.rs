//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side, for enhanced authentication.
//!
//! Without channel binding; names and passwords are taken as they come, not prepared by
//! SASLprep, which is the same for ASCII.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

use super::password::{is_same, random};

/// The Authentication Method as CONNECT names it.
pub(crate) const METHOD: &str = "SCRAM-SHA-256";
/// The client pays for each at every connect, a small device too; RFC 7677 asks for 4096.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(50_000).expect("not zero");
const KEY_LEN: usize = 32;
const SALT_LEN: usize = 16;
const NONCE_LEN: usize = 18;
/// A client's message is refused above this many bytes.
const MESSAGE_BYTES_MAX: usize = 1024;

/// What the server keeps of a password. Scope: one account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) iterations: NonZeroU32,
    pub(crate) salt: Box<[u8]>,
    stored: [u8; KEY_LEN],
    server: [u8; KEY_LEN],
}

/// The client's first message, read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClientFirst {
    pub(crate) user: String,
    nonce: String,
    /// The message without its GS2 header.
    bare: String,
    gs2_header: String,
}

/// An exchange that waits for the client's last message. Scope: one authentication.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) user: Box<str>,
    keys: Keys,
    /// `None` as proof: nobody of this name; the client learns it only at the end.
    is_known: bool,
    nonce: String,
    gs2_header: String,
    /// `client-first-message-bare,server-first-message`.
    transcript: String,
}

impl Keys {
    /// The keys of a new password, with a fresh salt.
    pub(crate) fn of(password: &[u8]) -> Option<Self> {
        Some(Self::derive(password, &random::<SALT_LEN>()?, ITERATIONS))
    }

    pub(crate) fn derive(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        let mut salted = [0; KEY_LEN];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password, &mut salted);
        let client = hmac(&salted, b"Client Key");
        Self {
            iterations,
            salt: salt.into(),
            stored: sha256(&client),
            server: hmac(&salted, b"Server Key"),
        }
    }

    pub(super) fn parse(
        iterations: NonZeroU32,
        salt: &str,
        stored: &str,
        server: &str,
    ) -> Option<Self> {
        let key = |text| STANDARD.decode(text).ok()?.try_into().ok();
        let salt = STANDARD.decode(salt).ok()?.into();
        Some(Self { iterations, salt, stored: key(stored)?, server: key(server)? })
    }

    /// As a line of the password file holds it.
    pub(crate) fn to_text(&self) -> String {
        let [salt, stored, server] =
            [&*self.salt, &self.stored, &self.server].map(|bytes| STANDARD.encode(bytes));
        format!("$scram-sha-256${}${salt}${stored}${server}", self.iterations)
    }

    /// Checks a plain password, as a CONNECT without enhanced authentication brings it.
    pub(super) fn verify(&self, password: &[u8]) -> bool {
        is_same(&Self::derive(password, &self.salt, self.iterations).stored, &self.stored)
    }
}

impl ClientFirst {
    /// Reads `n,,n=user,r=nonce`; `None` if it is not of this form or asks for channel binding.
    pub(crate) fn parse(data: &[u8]) -> Option<Self> {
        let text = text(data)?;
        let mut fields = text.splitn(3, ',');
        let (flag, identity, bare) = (fields.next()?, fields.next()?, fields.next()?);
        if !matches!(flag, "n" | "y") || !identity.is_empty() {
            return None;
        }
        let mut attributes = bare.split(',');
        let user = attributes.next()?.strip_prefix("n=")?;
        let nonce = attributes.next()?.strip_prefix("r=")?;
        let is_nonce = !nonce.is_empty() && nonce.bytes().all(|byte| byte.is_ascii_graphic());
        is_nonce.then_some(Self {
            user: unescape(user)?,
            nonce: nonce.to_owned(),
            bare: bare.to_owned(),
            gs2_header: format!("{flag},,"),
        })
    }
}

impl Exchange {
    /// The answer to the client's first message, and what to expect next. `keys` of `None`
    /// stands for an unknown user: the exchange goes on with `decoy` keys and fails at its end.
    pub(crate) fn begin(
        first: ClientFirst,
        keys: Option<Keys>,
        decoy: Keys,
    ) -> Option<(Self, Vec<u8>)> {
        let nonce = STANDARD.encode(random::<NONCE_LEN>()?);
        Some(Self::begin_with(first, keys, decoy, &nonce))
    }

    fn begin_with(
        first: ClientFirst,
        keys: Option<Keys>,
        decoy: Keys,
        own_nonce: &str,
    ) -> (Self, Vec<u8>) {
        let is_known = keys.is_some();
        let keys = keys.unwrap_or(decoy);
        let nonce = format!("{}{own_nonce}", first.nonce);
        let challenge =
            format!("r={nonce},s={},i={}", STANDARD.encode(&keys.salt), keys.iterations);
        let exchange = Self {
            user: first.user.into(),
            keys,
            is_known,
            nonce,
            gs2_header: first.gs2_header,
            transcript: format!("{},{challenge}", first.bare),
        };
        (exchange, challenge.into_bytes())
    }

    /// Checks the client's proof; the server's own, if the client has shown that it knows the
    /// password.
    pub(crate) fn finish(self, data: &[u8]) -> Option<Vec<u8>> {
        let (without_proof, proof) = text(data)?.rsplit_once(",p=")?;
        let mut attributes = without_proof.split(',');
        let binding = STANDARD.decode(attributes.next()?.strip_prefix("c=")?).ok()?;
        let nonce = attributes.next()?.strip_prefix("r=")?;
        if binding != self.gs2_header.as_bytes() || nonce != self.nonce {
            return None;
        }
        let message = format!("{},{without_proof}", self.transcript);
        let signature = hmac(&self.keys.stored, message.as_bytes());
        let proof: [u8; KEY_LEN] = STANDARD.decode(proof).ok()?.try_into().ok()?;
        let mut client_key = [0; KEY_LEN];
        for (key, (a, b)) in client_key.iter_mut().zip(proof.iter().zip(&signature)) {
            *key = a ^ b;
        }
        let is_right = is_same(&sha256(&client_key), &self.keys.stored) && self.is_known;
        let server = hmac(&self.keys.server, message.as_bytes());
        is_right.then(|| format!("v={}", STANDARD.encode(server)).into_bytes())
    }
}

/// Keys that fit no password, the same each time for one user, so that a name that exists
/// cannot be told from one that does not.
pub(crate) fn decoy(user: &str, secret: &hmac::Key) -> Keys {
    let salt = hmac::sign(secret, user.as_bytes());
    Keys {
        iterations: ITERATIONS,
        salt: salt.as_ref()[..SALT_LEN].into(),
        stored: [0; KEY_LEN],
        server: [0; KEY_LEN],
    }
}

fn text(data: &[u8]) -> Option<&str> {
    let is_short = data.len() <= MESSAGE_BYTES_MAX;
    std::str::from_utf8(data).ok().filter(|_| is_short)
}

/// `=2C` is a comma and `=3D` an equals sign; nothing else may follow `=`.
fn unescape(name: &str) -> Option<String> {
    let mut parts = name.split('=');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        match (part.get(..2)?, &part[2..]) {
            ("2C", rest) => plain.extend([",", rest]),
            ("3D", rest) => plain.extend(["=", rest]),
            _ => return None,
        }
    }
    (!plain.is_empty()).then_some(plain)
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; KEY_LEN] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    tag.as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

fn sha256(bytes: &[u8]) -> [u8; KEY_LEN] {
    let hash = digest::digest(&digest::SHA256, bytes);
    hash.as_ref().try_into().expect("SHA-256 gives 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk\
     4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &[u8] = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn keys() -> Keys {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("of the RFC");
        Keys::derive(b"pencil", &salt, NonZeroU32::new(4096).expect("not zero"))
    }

    fn exchange(keys: Option<Keys>) -> (Exchange, Vec<u8>) {
        let decoy = decoy("user", &hmac::Key::new(hmac::HMAC_SHA256, b"secret"));
        let first = ClientFirst::parse(FIRST).expect("of the RFC");
        Exchange::begin_with(first, keys, decoy, SERVER_NONCE)
    }

    #[test]
    fn the_example_of_rfc_7677_is_played_to_the_letter() {
        let (exchange, challenge) = exchange(Some(keys()));
        assert_eq!(challenge, SERVER_FIRST.as_bytes());
        assert_eq!(exchange.finish(FINAL.as_bytes()).as_deref(), Some(SERVER_FINAL));
    }

    #[test]
    fn a_wrong_proof_nonce_or_binding_is_refused() {
        let tampered = [
            FINAL.replace("p=dHz", "p=dHy"),
            FINAL.replace("lF$k0", "lF$k1"),
            FINAL.replace("c=biws", "c=eSws"),
            FINAL.replace(",p=", ",x="),
            String::new(),
        ];
        for text in tampered {
            let (exchange, _) = exchange(Some(keys()));
            assert_eq!(exchange.finish(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn an_unknown_user_is_challenged_and_then_refused() {
        let (exchange, challenge) = exchange(None);
        assert!(challenge.starts_with(b"r=rOprNGfwEbeRWgbNEkqO"));
        assert_eq!(exchange.finish(FINAL.as_bytes()), None);
    }

    #[test]
    fn a_first_message_is_read_or_refused() {
        let user = |text: &str| ClientFirst::parse(text.as_bytes()).map(|first| first.user);
        assert_eq!(user("y,,n=a=2Cb=3Dc,r=x").as_deref(), Some("a,b=c"));
        for bad in
            ["", "p=tls-unique,,n=a,r=x", "n,a=b,n=a,r=x", "n,,n=,r=x", "n,,n=a=2,r=x", "n,,n=a,r="]
        {
            assert_eq!(user(bad), None, "{bad}");
        }
    }

    #[test]
    fn keys_survive_the_file_and_check_plain_passwords() {
        let text = keys().to_text();
        let stored = super::super::password::Stored::parse(&text).expect("our own format");
        assert_eq!(stored, super::super::password::Stored::Scram(keys()));
        assert!(stored.verify(b"pencil") && !stored.verify(b"pen"));
    }
}
