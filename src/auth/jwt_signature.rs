//! The check of a token's signature: jsonwebtoken says what to check, ring checks it.
//!
//! Its own two back ends are another C library, and one with a known weakness in RSA; ring is
//! here for TLS already. Tokens are checked only, so there is nothing that signs.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey};
use ring::hmac;
use ring::signature::VerificationAlgorithm;
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

/// Tells jsonwebtoken who checks; once per process is enough.
pub(super) fn install() {
    // Only the first call counts, and each brings the same.
    let _ = PROVIDER.install_default();
}

fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let (family, check) = check_of(*algorithm).ok_or(ErrorKind::UnsupportedAlgorithm)?;
    if key.family() != family {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    Ok(Box::new(Verifier { algorithm: *algorithm, check, key: key.clone() }))
}

/// How the signatures of an algorithm are checked.
enum Check {
    Hmac(hmac::Algorithm),
    Rsa(&'static RsaParameters),
    Point(&'static dyn VerificationAlgorithm),
}

fn check_of(algorithm: Algorithm) -> Option<(AlgorithmFamily, Check)> {
    use {Algorithm as A, AlgorithmFamily as F, Check as C};
    Some(match algorithm {
        A::HS256 => (F::Hmac, C::Hmac(hmac::HMAC_SHA256)),
        A::HS384 => (F::Hmac, C::Hmac(hmac::HMAC_SHA384)),
        A::HS512 => (F::Hmac, C::Hmac(hmac::HMAC_SHA512)),
        A::RS256 => (F::Rsa, C::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256)),
        A::RS384 => (F::Rsa, C::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384)),
        A::RS512 => (F::Rsa, C::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512)),
        A::PS256 => (F::Rsa, C::Rsa(&signature::RSA_PSS_2048_8192_SHA256)),
        A::PS384 => (F::Rsa, C::Rsa(&signature::RSA_PSS_2048_8192_SHA384)),
        A::PS512 => (F::Rsa, C::Rsa(&signature::RSA_PSS_2048_8192_SHA512)),
        A::ES256 => (F::Ec, C::Point(&signature::ECDSA_P256_SHA256_FIXED)),
        A::ES384 => (F::Ec, C::Point(&signature::ECDSA_P384_SHA384_FIXED)),
        A::EdDSA => (F::Ed, C::Point(&signature::ED25519)),
        _ => return None,
    })
}

struct Verifier {
    algorithm: Algorithm,
    check: Check,
    key: DecodingKey,
}

impl ::signature::Verifier<Vec<u8>> for Verifier {
    fn verify(&self, message: &[u8], tag: &Vec<u8>) -> std::result::Result<(), ::signature::Error> {
        let result = match (&self.check, self.key.kind()) {
            (Check::Hmac(algorithm), DecodingKeyKind::SecretOrDer(secret)) => {
                hmac::verify(&hmac::Key::new(*algorithm, secret), message, tag)
            }
            (Check::Rsa(parameters), DecodingKeyKind::RsaModulusExponent { n, e }) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, tag)
            }
            (Check::Rsa(parameters), DecodingKeyKind::SecretOrDer(der)) => {
                UnparsedPublicKey::new(*parameters, der).verify(message, tag)
            }
            (Check::Point(algorithm), DecodingKeyKind::SecretOrDer(point)) => {
                UnparsedPublicKey::new(*algorithm, point).verify(message, tag)
            }
            _ => return Err(::signature::Error::new()),
        };
        result.map_err(|_| ::signature::Error::new())
    }
}

impl JwtVerifier for Verifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
