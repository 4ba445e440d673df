//! TLS 1.2 and 1.3, the server's side, by rustls: records in, bytes out, and back.
//!
//! A client's certificate is asked for if there are authorities to check it against; revoked
//! ones are refused. Sessions are resumed by tickets, except where certificates are asked for:
//! a resumed session would not be held against the newest revocation list.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::{fmt, io};

use octopus_engine::LayerRefusal;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::X509Name;

use super::{Flow, Refusal};

/// The files of one listener's TLS, all PEM.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// The server's certificate, then those between it and its authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// The authorities of clients' certificates; `None`: none is asked for.
    pub client_ca: Option<PathBuf>,
    /// Whether a client must have one.
    pub require_client_certificate: bool,
    /// Revoked certificates; one list of each authority in clients' chains, or they are refused.
    pub crl: Option<PathBuf>,
    pub user_from: UserFrom,
}

/// Which part of a client's verified certificate says who it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserFrom {
    /// None: it lets the client in and names nobody.
    #[default]
    None,
    /// The common name, if there is exactly one.
    CommonName,
    /// The whole subject as RFC 4514 writes it, most specific part first: `CN=alice,O=example`.
    Subject,
}

/// Why a listener has no TLS; says which file and what is wrong with it.
#[derive(Debug)]
pub struct TlsError {
    file: PathBuf,
    cause: Box<str>,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.cause)
    }
}

impl std::error::Error for TlsError {}

/// What new connections of a listener are told: read when one is accepted, replaced by
/// [`Tls::reload`]. Scope: node.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    current: RwLock<Arc<InForce>>,
}

/// What the files said when they were read last.
#[derive(Debug)]
struct InForce {
    /// Counts the readings.
    edition: u64,
    server: Arc<ServerConfig>,
    /// `None`: no certificate is asked for.
    clients: Option<Arc<dyn ClientCertVerifier>>,
    /// When the server's certificate ends, seconds since 1970.
    not_after_s: i64,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// The first file that is missing, malformed, or does not fit the others.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let current = RwLock::new(Arc::new(read(&files, 0)?));
        Ok(Self { files, current })
    }

    /// Reads the files again, for connections that come from now on, and for those that are
    /// held against it (`Session::recheck`).
    ///
    /// # Errors
    /// As [`Self::load`]; what was read before stays in force.
    pub fn reload(&self) -> Result<(), TlsError> {
        let fresh = Arc::new(read(&self.files, self.in_force().edition + 1)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// What it is read from.
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// When the server's certificate ends, seconds since 1970.
    pub fn not_after_s(&self) -> i64 {
        self.in_force().not_after_s
    }

    fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The server's side of a new connection.
    ///
    /// # Errors
    /// If rustls has no use for the configuration; [`Self::load`] has checked it.
    pub(super) fn session(self: &Arc<Self>) -> Result<Session, Refusal> {
        let in_force = self.in_force();
        let connection = ServerConnection::new(Arc::clone(&in_force.server));
        let mut connection = connection.map_err(|_| Refusal::tls("no TLS session"))?;
        // The engine bounds what it sends; a buffer is sealed whole.
        connection.set_buffer_limit(None);
        Ok(Session { connection, tls: Arc::clone(self), edition: in_force.edition })
    }
}

fn read(files: &TlsFiles, edition: u64) -> Result<InForce, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| wrong(&files.certificate, error))?;
    let clients = files.client_ca.as_deref();
    let clients = clients.map(|authorities| verifier(files, authorities, provider)).transpose()?;
    let builder = match &clients {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
    };
    let chain: Vec<CertificateDer<'_>> = pems(&files.certificate)?;
    let not_after_s = chain.first().and_then(|own| X509Certificate::from_der(own).ok());
    let not_after_s = not_after_s.map_or(0, |(_, own)| own.validity().not_after.timestamp());
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unread(&files.key, error))?;
    let mut config =
        builder.with_single_cert(chain, key).map_err(|error| wrong(&files.certificate, error))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if files.client_ca.is_none() {
        config.ticketer = rustls::crypto::ring::Ticketer::new()
            .map_err(|error| wrong(&files.certificate, error))?;
    } else {
        config.send_tls13_tickets = 0;
    }
    Ok(InForce { edition, server: Arc::new(config), clients, not_after_s })
}

/// What clients' certificates are held against.
fn verifier(
    files: &TlsFiles,
    authorities: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in pems::<CertificateDer<'_>>(authorities)? {
        roots.add(certificate).map_err(|error| wrong(authorities, error))?;
    }
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if let Some(crl) = &files.crl {
        verifier = verifier.with_crls(pems::<CertificateRevocationListDer<'_>>(crl)?);
    }
    if !files.require_client_certificate {
        verifier = verifier.allow_unauthenticated();
    }
    verifier.build().map_err(|error| wrong(authorities, error))
}

fn pems<T: PemObject>(file: &Path) -> Result<Vec<T>, TlsError> {
    let all = T::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<T>, _>>);
    match all.map_err(|error| unread(file, error))? {
        none if none.is_empty() => Err(unread(file, pem::Error::NoItemsFound)),
        some => Ok(some),
    }
}

fn unread(file: &Path, error: pem::Error) -> TlsError {
    let cause = match error {
        pem::Error::NoItemsFound => "nothing in it that is wanted; PEM is".into(),
        pem::Error::Io(error) => error.to_string().into(),
        error => error.to_string().into(),
    };
    TlsError { file: file.to_owned(), cause }
}

fn wrong(file: &Path, error: impl fmt::Display) -> TlsError {
    TlsError { file: file.to_owned(), cause: error.to_string().into() }
}

/// Whether a certificate took work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checked {
    Now,
    /// It was held against the same files before, or there is none.
    Before,
}

/// One connection's TLS. Scope: connection.
#[derive(Debug)]
pub(super) struct Session {
    connection: ServerConnection,
    /// Its listener's.
    tls: Arc<Tls>,
    /// Of the files that its certificate was held against last.
    edition: u64,
}

impl Session {
    /// Takes records; appends what they carry to `plain` and what is to be answered (handshake,
    /// alerts) to `wire`.
    ///
    /// # Errors
    /// What breaks the protocol; the alert is in `wire`.
    pub(super) fn receive(
        &mut self,
        mut records: &[u8],
        plain: &mut Vec<u8>,
        wire: &mut Vec<u8>,
    ) -> Result<Flow, Refusal> {
        let mut is_over = false;
        while !records.is_empty() && !is_over {
            let taken = self.connection.read_tls(&mut records);
            taken.map_err(|_| Refusal::tls("a TLS record that is not taken"))?;
            let state = self.connection.process_new_packets();
            let state = state.inspect_err(|error| tracing::debug!(%error, "TLS"));
            is_over = state.as_ref().is_ok_and(|state| state.peer_has_closed());
            let outcome = state.map(drop).map_err(|error| refusal(&error));
            self.flush(wire);
            outcome?;
            match self.connection.reader().read_to_end(plain) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Refusal::tls("TLS ended in the middle")),
            }
        }
        Ok(if is_over { Flow::Ended } else { Flow::Going })
    }

    /// Appends the records that carry `pieces` to `wire`.
    pub(super) fn seal<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>, wire: &mut Vec<u8>) {
        let slices: Vec<io::IoSlice<'_>> =
            pieces.filter(|piece| !piece.is_empty()).map(io::IoSlice::new).collect();
        // All at once, so that records are full; without a limit all of it is taken.
        let _ = self.connection.writer().write_vectored(&slices);
        self.flush(wire);
    }

    /// Says goodbye.
    pub(super) fn close(&mut self, wire: &mut Vec<u8>) {
        self.connection.send_close_notify();
        self.flush(wire);
    }

    pub(super) fn is_open(&self) -> bool {
        !self.connection.is_handshaking()
    }

    /// Holds the client's certificate against the files in force, unless it was already.
    ///
    /// Cost: a signature to check for each certificate of the chain.
    ///
    /// # Errors
    /// If it does not hold any more: revoked, expired, or of an authority that is gone.
    pub(super) fn recheck(&mut self) -> Result<Checked, Refusal> {
        let in_force = self.tls.in_force();
        // In the middle of a handshake there is nothing to hold; its end asks again.
        if self.edition == in_force.edition || !self.is_open() {
            return Ok(Checked::Before);
        }
        self.edition = in_force.edition;
        let chain = self.connection.peer_certificates().and_then(<[_]>::split_first);
        let (Some((own, between)), Some(clients)) = (chain, &in_force.clients) else {
            return Ok(Checked::Before);
        };
        let holds = clients.verify_client_cert(own, between, UnixTime::now());
        holds.map(|_| Checked::Now).map_err(|error| refusal(&error))
    }

    /// Whom the verified certificate names, by what the listener goes by.
    pub(super) fn identity(&self) -> Option<Box<str>> {
        let certificate = self.connection.peer_certificates()?.first()?;
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let name = match self.tls.files.user_from {
            UserFrom::None => return None,
            UserFrom::CommonName => common_name(certificate.subject())?,
            UserFrom::Subject => distinguished_name(certificate.subject())?,
        };
        // No user could be given such a name in a file.
        (!name.is_empty() && !name.contains(char::is_control)).then(|| name.into())
    }

    fn flush(&mut self, wire: &mut Vec<u8>) {
        while self.connection.wants_write() {
            // Writing to memory does not fail.
            if self.connection.write_tls(wire).is_err() {
                return;
            }
        }
    }
}

fn common_name(subject: &X509Name<'_>) -> Option<String> {
    let mut names = subject.iter_common_name();
    let name = names.next()?.as_str().ok()?;
    names.next().is_none().then(|| name.to_owned())
}

/// The subject as RFC 4514 writes it; `None` if it holds what is no text or has no short name.
fn distinguished_name(subject: &X509Name<'_>) -> Option<String> {
    let mut relative: Vec<String> = Vec::new();
    for parts in subject.iter() {
        let mut text = Vec::new();
        for part in parts.iter() {
            let kind = match oid2abbrev(part.attr_type(), oid_registry()).ok()? {
                // As openssl and mosquitto write it.
                "Email" => "emailAddress",
                kind => kind,
            };
            text.push(format!("{kind}={}", escaped(part.as_str().ok()?)));
        }
        relative.push(text.join("+"));
    }
    relative.reverse();
    Some(relative.join(","))
}

/// A value of a distinguished name (RFC 4514, §2.4), so that none can pass for two.
fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::new();
    for (place, letter) in value.chars().enumerate() {
        let is_special = ",+\"\\<>;".contains(letter)
            || (place == 0 && letter == '#')
            || ((place == 0 || place == last) && letter == ' ');
        if is_special {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}

fn refusal(error: &rustls::Error) -> Refusal {
    use rustls::CertificateError::Revoked;
    use rustls::Error::{
        AlertReceived, InvalidCertificate, InvalidMessage, NoCertificatesPresented,
        PeerIncompatible,
    };
    Refusal::tls(match error {
        InvalidCertificate(Revoked) => {
            return Refusal { reason: LayerRefusal::Revoked, why: "a revoked certificate" };
        }
        InvalidCertificate(_) => return Refusal::certificate("a certificate that does not hold"),
        NoCertificatesPresented => return Refusal::certificate("no certificate"),
        AlertReceived(_) => "a TLS alert of the peer's",
        InvalidMessage(_) => "no TLS",
        PeerIncompatible(_) => "TLS without common ground",
        _ => "TLS refused",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_a_name_cannot_pass_for_two() {
        for (value, text) in [
            ("alice", "alice"),
            ("eve,CN=alice", "eve\\,CN=alice"),
            ("a+b=c", "a\\+b=c"),
            (" # ", "\\ #\\ "),
            ("#1", "\\#1"),
            ("a\\,b", "a\\\\\\,b"),
            ("", ""),
        ] {
            assert_eq!(escaped(value), text, "{value:?}");
        }
    }
}
