//! A client's end of TLS 1.3 over a non-blocking socket. For measuring: it trusts one authority
//! that it is given, and nobody else.

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

use crate::net;

/// What all clients of a run have in common.
pub(crate) type Config = Arc<ClientConfig>;

/// Clients that speak TLS 1.3 only, with servers that the authorities in `ca_file` (PEM) vouch
/// for.
///
/// # Errors
/// If the file cannot be read, or holds no certificate.
pub(crate) fn config(ca_file: &Path) -> io::Result<Config> {
    let explain = |cause: &dyn std::fmt::Display| {
        io::Error::other(format!("--ca-file {}: {cause}", ca_file.display()))
    };
    let file = File::open(ca_file).map_err(|error| explain(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_reader_iter(BufReader::new(file)) {
        roots
            .add(certificate.map_err(|error| explain(&error))?)
            .map_err(|error| explain(&error))?;
    }
    if roots.is_empty() {
        return Err(explain(&"no certificate in it"));
    }
    let versions = [&rustls::version::TLS13];
    let builder = ClientConfig::builder_with_protocol_versions(&versions);
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// One connection's TLS. Scope: connection.
pub(crate) struct Tls(ClientConnection);

impl Tls {
    /// # Errors
    /// If the configuration allows no handshake.
    pub(crate) fn new(config: &Config, server: SocketAddr) -> io::Result<Self> {
        let name = ServerName::from(IpAddr::from(server.ip()));
        ClientConnection::new(Arc::clone(config), name).map(Self).map_err(io::Error::other)
    }

    /// As [`net::read`], of plain bytes; carries the handshake on.
    pub(crate) fn read(&mut self, socket: &OwnedFd, into: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match self.0.reader().read(into) {
                Ok(length) => return Ok(Some(length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            match self.0.read_tls(&mut Wire(socket)) {
                Ok(0) => return Ok(Some(0)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
            self.0.process_new_packets().map_err(io::Error::other)?;
            self.push(socket)?;
        }
    }

    /// As [`net::write`]; what it takes may wait in it, see [`Self::is_waiting`].
    pub(crate) fn write(&mut self, socket: &OwnedFd, bytes: &[u8]) -> io::Result<Option<usize>> {
        if !self.push(socket)? {
            return Ok(None);
        }
        let length = self.0.writer().write(bytes)?;
        let is_out = self.push(socket)?;
        Ok((is_out || length > 0).then_some(length))
    }

    /// Records wait for room in the socket.
    pub(crate) fn is_waiting(&self) -> bool {
        self.0.wants_write()
    }

    /// Writes records; `false` if some are left.
    fn push(&mut self, socket: &OwnedFd) -> io::Result<bool> {
        while self.0.wants_write() {
            match self.0.write_tls(&mut Wire(socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// The socket as rustls wants it.
struct Wire<'s>(&'s OwnedFd);

impl Read for Wire<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        net::read(self.0, into)?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        net::write(self.0, bytes)?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
