//! The file of a Unix socket: made with its permissions, taken over from a process that died,
//! removed at the end.
//!
//! Nobody can connect before `listen`, and that comes after the permissions. A file is replaced
//! only if it is a socket that nobody listens on; two nodes that look at the same moment take
//! turns by a lock on the directory.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};

/// A bound socket's file. Dropped, it is removed, unless another has taken its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

/// Listens on `path`, which gets the permissions `mode`. Other threads must not change the
/// process's umask meanwhile; none does.
///
/// # Errors
/// `AddrInUse` if a process listens there, `AlreadyExists` if the file is no socket, or what the
/// system has against it.
pub(crate) fn listen(path: &Path, mode: u32, backlog: i32) -> io::Result<(Socket, SocketFile)> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let turn = File::open(directory.unwrap_or(Path::new(".")))?;
    // Held by others for as long as this function takes; given back with the file.
    turn.lock()?;
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file =
        SocketFile { path: path.to_owned(), identity: identity(&fs::symlink_metadata(path)?) };
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(backlog)?;
    Ok((socket, file))
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => {
            let why = "a file that is no socket is there; remove it, or give another path";
            return Err(io::Error::new(ErrorKind::AlreadyExists, why));
        }
    }
    let knock = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A full backlog must not be waited for: who has one is there.
    knock.set_nonblocking(true)?;
    match knock.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "a socket that nobody listens on is replaced");
            fs::remove_file(path)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != ErrorKind::WouldBlock => Err(error),
        _ => Err(ErrorKind::AddrInUse.into()),
    }
}

/// Device and inode.
fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours =
            fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            // The next start replaces it.
            tracing::warn!(path = %self.path.display(), %error, "the socket cannot be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A path in a directory of its own, which is removed with it.
    struct Place(PathBuf);

    impl Place {
        fn new() -> Self {
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("octopus-unix-{}-{number}", std::process::id());
            let directory = std::env::temp_dir().join(name);
            fs::create_dir_all(&directory).unwrap();
            Self(directory.join("mqtt.sock"))
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.0.parent().unwrap());
        }
    }

    #[test]
    fn the_file_has_its_permissions_and_goes_at_the_end() {
        let place = Place::new();
        let (_socket, file) = listen(&place.0, 0o620, 8).unwrap();
        assert_eq!(fs::metadata(&place.0).unwrap().mode() & 0o7777, 0o620);
        UnixStream::connect(&place.0).unwrap();
        drop(file);
        assert!(!place.0.exists());
    }

    #[test]
    fn only_a_socket_that_nobody_listens_on_is_replaced() {
        let place = Place::new();
        let (live, file) = listen(&place.0, 0o600, 8).unwrap();
        let refused = listen(&place.0, 0o600, 8).expect_err("in use");
        assert_eq!(refused.kind(), ErrorKind::AddrInUse);
        drop(live);
        let (_live, _file) = listen(&place.0, 0o600, 8).expect("its owner is gone");
        drop(file);
        assert!(place.0.exists(), "it is another's by now");
    }

    #[test]
    fn other_files_are_left_alone() {
        let place = Place::new();
        fs::write(&place.0, "precious").unwrap();
        let refused = listen(&place.0, 0o600, 8).expect_err("no socket");
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&place.0).unwrap(), "precious");
    }
}
