//! The certificate of a broker that is measured over TLS: made by openssl for each of them, its
//! own authority, good for 127.0.0.1 and a day.

use std::{
    io,
    path::{Path, PathBuf},
    process::Command,
};

/// In a broker's directory.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join("certificate.pem")
}

/// In a broker's directory.
pub(crate) fn key_path(dir: &Path) -> PathBuf {
    dir.join("key.pem")
}

/// Writes both files.
///
/// # Errors
/// If openssl is not there, or says no.
pub(crate) fn make(dir: &Path) -> io::Result<()> {
    const ARGUMENTS: &str = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 \
        -subj /CN=octopus-bench -addext subjectAltName=IP:127.0.0.1 \
        -addext basicConstraints=critical,CA:FALSE";
    let mut command = Command::new("openssl");
    command.args(ARGUMENTS.split_whitespace());
    command.arg("-keyout").arg(key_path(dir)).arg("-out").arg(path(dir));
    let failed = |why: &dyn std::fmt::Display| io::Error::other(format!("openssl: {why}"));
    let output = command.output().map_err(|error| failed(&error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failed(&String::from_utf8_lossy(&output.stderr).trim()))
}
