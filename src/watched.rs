//! Files that others change under us: how one looked when it was read, and how it looks now.
//!
//! Looking is asking the system for time, length and inode: enough to see that a file was
//! written again, and cheap enough to do once a second. A file counts as changed when it has
//! stopped changing, so that none is read half written.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Between two looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One file. Scope: node.
#[derive(Debug)]
pub(crate) struct Watched {
    path: PathBuf,
    /// When it was read last.
    read: Option<Look>,
    /// When it was looked at last.
    seen: Option<Look>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

/// What a look at a file shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    None,
    /// It is another than at the last look; it may not be whole yet.
    Underway,
    /// It is another than when it was read.
    Done,
}

impl Watched {
    /// A file that was not read yet.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read: None, seen: None }
    }

    /// A file that was read a moment ago.
    pub(crate) fn just_read(path: impl Into<PathBuf>) -> Self {
        let mut watched = Self::new(path);
        watched.look();
        watched.mark_read();
        watched
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at it. A file that is gone is one that changed.
    pub(crate) fn look(&mut self) -> Change {
        let now = fs::metadata(&self.path).ok().map(|metadata| Look {
            modified: metadata.modified().ok(),
            len: metadata.len(),
            inode: metadata.ino(),
        });
        let is_settled = std::mem::replace(&mut self.seen, now) == now;
        match (now == self.read, is_settled) {
            (_, false) => Change::Underway,
            (true, true) => Change::None,
            (false, true) => Change::Done,
        }
    }

    /// Notes that it is read as it was at the last look, whatever comes of it: what is broken
    /// is read again when it changes, and not before.
    pub(crate) fn mark_read(&mut self) {
        self.read = self.seen;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_changed_once_it_stops_changing() {
        let path = std::env::temp_dir().join(format!("octopus-watched-{}", std::process::id()));
        fs::write(&path, "one").expect("written");
        let mut watched = Watched::just_read(&path);
        assert_eq!(watched.look(), Change::None);
        fs::write(&path, "the second").expect("written");
        assert_eq!(watched.look(), Change::Underway);
        assert_eq!(watched.look(), Change::Done);
        watched.mark_read();
        assert_eq!(watched.look(), Change::None);
        fs::remove_file(&path).expect("removed");
        assert_eq!((watched.look(), watched.look()), (Change::Underway, Change::Done));
    }
}
