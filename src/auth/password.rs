//! One stored password: argon2id as we write it, SCRAM keys, and mosquitto's two formats.
//!
//! Verifying takes milliseconds of CPU (but for `$6$`): call it on the hashing threads.

use std::num::NonZeroU32;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::rand::SecureRandom as _;
use ring::{digest, pbkdf2, rand};

use super::scram;

const SALT_LEN: usize = 16;
const HASH_LEN: usize = 32;
/// OWASP's first choice for argon2id: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// What a line of the file may ask for; above, it is refused when the file is read.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 32;
const ITERATIONS_MAX: u32 = 10_000_000;

/// Scope: one account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// `$argon2id$v=19$m=19456,t=2,p=1$salt$hash`, as RFC 9106's reference writes it.
    Argon2id { memory_kib: u32, passes: u32, lanes: u32, salt: Box<[u8]>, hash: Box<[u8]> },
    /// `$6$salt$hash`: one round of SHA-512 over password and salt, mosquitto before 2.0.
    Sha512 { salt: Box<[u8]>, hash: Box<[u8]> },
    /// `$7$iterations$salt$hash`: PBKDF2 with SHA-512, mosquitto from 2.0 on.
    Pbkdf2 { iterations: NonZeroU32, salt: Box<[u8]>, hash: Box<[u8]> },
    /// Keys of SCRAM-SHA-256; a plain password can be checked against them too.
    Scram(scram::Keys),
}

impl Stored {
    /// What no password is known for, and what costs as much to check as what [`hash`] makes.
    /// `None` if the system gives no random bytes.
    pub(crate) fn decoy() -> Option<Self> {
        let (salt, hash) = (random::<SALT_LEN>()?.into(), random::<HASH_LEN>()?.into());
        Some(Self::Argon2id { memory_kib: MEMORY_KIB, passes: PASSES, lanes: 1, salt, hash })
    }

    /// Reads what stands behind the colon of a password file; `None` if it is no hash known.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix('$')?.split('$');
        let kind = parts.next()?;
        let parts: Vec<&str> = parts.collect();
        match (kind, parts.as_slice()) {
            ("argon2id", ["v=19", costs, salt, hash]) => argon2id(costs, salt, hash),
            ("6", [salt, hash]) => Some(Self::Sha512 {
                salt: STANDARD.decode(salt).ok()?.into(),
                hash: of_len(STANDARD.decode(hash).ok()?, digest::SHA512_OUTPUT_LEN)?,
            }),
            ("7", [iterations, salt, hash]) => Some(Self::Pbkdf2 {
                iterations: bounded_iterations(iterations)?,
                salt: STANDARD.decode(salt).ok()?.into(),
                hash: of_len(STANDARD.decode(hash).ok()?, digest::SHA512_OUTPUT_LEN)?,
            }),
            ("scram-sha-256", [iterations, salt, stored, server]) => {
                let iterations = bounded_iterations(iterations)?;
                scram::Keys::parse(iterations, salt, stored, server).map(Self::Scram)
            }
            _ => None,
        }
    }

    /// Whether `password` is the one that was stored. Takes the same time for every wrong one.
    pub(crate) fn verify(&self, password: &[u8]) -> bool {
        match self {
            Self::Argon2id { memory_kib, passes, lanes, salt, hash } => {
                let found = argon2id_hash(password, salt, *memory_kib, *passes, *lanes, hash.len());
                found.is_some_and(|found| is_same(&found, hash))
            }
            Self::Sha512 { salt, hash } => {
                let mut context = digest::Context::new(&digest::SHA512);
                context.update(password);
                context.update(salt);
                is_same(context.finish().as_ref(), hash)
            }
            Self::Pbkdf2 { iterations, salt, hash } => {
                pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA512, *iterations, salt, password, hash)
                    .is_ok()
            }
            Self::Scram(keys) => keys.verify(password),
        }
    }
}

/// Hashes a new password with argon2id and a fresh salt, as a line of the file holds it.
///
/// # Errors
/// `None` if the system gives no random bytes or not enough memory.
pub(crate) fn hash(password: &[u8]) -> Option<String> {
    let salt = random::<SALT_LEN>()?;
    let hash = argon2id_hash(password, &salt, MEMORY_KIB, PASSES, 1, HASH_LEN)?;
    let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
    Some(format!("$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p=1${salt}${hash}"))
}

/// Bytes nobody can guess; `None` if the system has none.
pub(crate) fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    rand::SystemRandom::new().fill(&mut bytes).ok()?;
    Some(bytes)
}

/// Compares without telling by its time where the difference is.
pub(crate) fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differing = one.iter().zip(other).fold(0, |differing, (a, b)| differing | (a ^ b));
    one.len() == other.len() && std::hint::black_box(differing) == 0
}

fn argon2id(costs: &str, salt: &str, hash: &str) -> Option<Stored> {
    let mut costs = costs.split(',').map(|cost| cost.split_once('='));
    let mut next = |name: &str| match costs.next()?? {
        (found, number) if found == name => number.parse::<u32>().ok(),
        _ => None,
    };
    let (memory_kib, passes, lanes) = (next("m")?, next("t")?, next("p")?);
    let salt: Box<[u8]> = STANDARD_NO_PAD.decode(salt).ok()?.into();
    let hash: Box<[u8]> = STANDARD_NO_PAD.decode(hash).ok()?.into();
    let fits = memory_kib <= MEMORY_KIB_MAX && passes <= PASSES_MAX && salt.len() >= 8;
    Params::new(memory_kib, passes, lanes, Some(hash.len())).ok()?;
    fits.then_some(Stored::Argon2id { memory_kib, passes, lanes, salt, hash })
}

fn argon2id_hash(
    password: &[u8],
    salt: &[u8],
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    len: usize,
) -> Option<Vec<u8>> {
    let params = Params::new(memory_kib, passes, lanes, Some(len)).ok()?;
    let mut hash = vec![0; len];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into(password, salt, &mut hash).ok()?;
    Some(hash)
}

fn bounded_iterations(text: &str) -> Option<NonZeroU32> {
    text.parse::<NonZeroU32>().ok().filter(|iterations| iterations.get() <= ITERATIONS_MAX)
}

fn of_len(bytes: Vec<u8>, len: usize) -> Option<Box<[u8]>> {
    (bytes.len() == len).then(|| bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines that mosquitto_passwd 2.0 wrote for the password `hunter2`.
    const MOSQUITTO: [&str; 2] = [
        "$7$101$7hmZYoQPdTq9toEm$ho+LP9d4MdsqFOhB7eOAzRyHBnKsyvwyLfrl/Z2IpLym2+nojU65JMSQ/ISIL1wgXW56bbJ6pKRr8HUmYABS0w==",
        "$6$u/XeDFYqWTGQPRO0$pBAHq8goyyKzOt16FnSc5esGMNjcuWKBo1tTWL7cPuEz6Wncd6T9B9fK5IQH+K0UDY4IYBb/NWvNjzcESXjCEw==",
    ];

    #[test]
    fn what_mosquitto_passwd_wrote_is_verified() {
        for line in MOSQUITTO {
            let stored = Stored::parse(line).expect(line);
            assert!(stored.verify(b"hunter2"), "{line}");
            assert!(!stored.verify(b"hunter3") && !stored.verify(b""), "{line}");
        }
    }

    #[test]
    fn what_we_wrote_is_verified_and_salted() {
        let (one, other) = (hash(b"secret").expect("hashed"), hash(b"secret").expect("hashed"));
        assert_ne!(one, other);
        let stored = Stored::parse(&one).expect("our own format");
        assert!(stored.verify(b"secret") && !stored.verify(b"Secret"));
    }

    #[test]
    fn what_is_no_hash_or_costs_too_much_is_refused() {
        for text in [
            "",
            "secret",
            "$",
            "$5$x$y",
            "$7$0$AAAA$AAAA",
            "$7$101$7hmZYoQPdTq9toEm$AAAA",
            "$7$99999999$7hmZYoQPdTq9toEm$AAAA",
            "$argon2id$v=19$m=4000000,t=2,p=1$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA",
            "$argon2id$v=16$m=19456,t=2,p=1$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA",
            "$argon2i$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$c29tZWhhc2hzb21laGFzaA",
        ] {
            assert_eq!(Stored::parse(text), None, "{text}");
        }
    }
}
