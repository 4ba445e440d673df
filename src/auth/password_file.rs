//! The password file: `user:hash` lines, ours and mosquitto's, read, looked up and edited.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use super::file_error::FileError;
use super::password::Stored;

/// All accounts of one file. Scope: node.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    by_user: HashMap<Box<str>, Account>,
    /// In no order that matters.
    all: Vec<Arc<Stored>>,
}

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    /// As it stands in the file; whoever came in by it goes when it changes.
    pub(crate) text: Box<str>,
    pub(crate) stored: Arc<Stored>,
}

impl Accounts {
    /// Reads the text of a file. Empty lines and lines with `#` in front are passed over.
    ///
    /// # Errors
    /// The first line that is no account, by its number.
    pub(crate) fn parse(text: &str) -> Result<Self, FileError> {
        let mut by_user = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let error = |cause| FileError::line(index + 1, cause);
            let (user, hash) = line.split_once(':').ok_or_else(|| error("expected user:hash"))?;
            if !is_user(user) {
                return Err(error("expected a user name before the colon"));
            }
            let stored = Stored::parse(hash).ok_or_else(|| {
                error("expected a hash of argon2id, SCRAM or mosquitto_passwd after the colon")
            })?;
            let account = Account { text: hash.into(), stored: Arc::new(stored) };
            if by_user.insert(user.into(), account).is_some() {
                return Err(error("this user stands in the file twice"));
            }
        }
        let all = by_user.values().map(|account: &Account| Arc::clone(&account.stored)).collect();
        Ok(Self { by_user, all })
    }

    pub(crate) fn get(&self, user: &str) -> Option<&Account> {
        self.by_user.get(user)
    }

    /// One of the accounts, the same for the same bytes; `None` if there are none.
    pub(crate) fn some(&self, bytes: &[u8; 32]) -> Option<&Arc<Stored>> {
        let number =
            bytes.iter().fold(0_usize, |sum, &byte| sum.rotate_left(8) ^ usize::from(byte));
        self.all.get(number.checked_rem(self.all.len())?)
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        self.by_user.len()
    }
}

/// Whether a name can stand in the file.
pub(crate) fn is_user(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('#') && !name.contains([':', '\n', '\r', '\0'])
}

/// Puts `hash` (or, if `None`, nothing) in place of `user`'s line, and leaves the others as
/// they are. The file is replaced as a whole, so that a reader finds the old or the new one.
/// Whether the user was there before.
///
/// # Errors
/// The system's.
pub(crate) fn edit(path: &Path, user: &str, hash: Option<&str>) -> io::Result<bool> {
    let (old, mode) = match fs::metadata(path) {
        Ok(metadata) => (fs::read_to_string(path)?, metadata.permissions().mode()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (String::new(), 0o600),
        Err(error) => return Err(error),
    };
    let mut new = String::with_capacity(old.len() + 128);
    let mut was_there = false;
    let own_line = |line: &str| line.split_once(':').is_some_and(|(name, _)| name == user);
    let replacement = hash.map(|hash| format!("{user}:{hash}\n")).unwrap_or_default();
    for line in old.lines() {
        if !own_line(line) {
            new.push_str(line);
            new.push('\n');
        } else if !std::mem::replace(&mut was_there, true) {
            new.push_str(&replacement);
        }
    }
    if !was_there {
        new.push_str(&replacement);
    }
    replace(path, &new, mode & 0o777)?;
    Ok(was_there)
}

fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = path.with_file_name(name);
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&beside)?;
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$6$u/XeDFYqWTGQPRO0$pBAHq8goyyKzOt16FnSc5esGMNjcuWKBo1tTWL7cPuEz6Wncd6T9B\
     9fK5IQH+K0UDY4IYBb/NWvNjzcESXjCEw==";

    #[test]
    fn a_file_is_read_with_its_comments() {
        let text = format!("# people\n\nroger:{HASH}\r\nanna with space:{HASH}\n");
        let accounts = Accounts::parse(&text).expect("a good file");
        assert_eq!(accounts.count(), 2);
        assert!(accounts.get("roger").is_some_and(|roger| roger.stored.verify(b"hunter2")));
        assert!(accounts.get("Roger").is_none());
    }

    #[test]
    fn the_example_is_good() {
        let text = include_str!("../../config/passwords.example");
        let accounts = Accounts::parse(text).expect("a good file");
        for user in ["roger", "sensor-1", "from-mosquitto"] {
            let account = accounts.get(user).expect(user);
            assert!(account.stored.verify(b"example") && !account.stored.verify(b"x"), "{user}");
        }
    }

    #[test]
    fn a_broken_line_is_named_by_its_number() {
        let twice = format!("a:{HASH}\na:{HASH}");
        for (text, line) in
            [("nocolon", 1), ("\n:x", 2), ("a:plain", 1), ("# fine\n\na:$9$x", 3), (&twice, 2)]
        {
            let error = Accounts::parse(text).expect_err(text).to_string();
            assert!(error.contains(&format!("line {line}")), "{text}: {error}");
            assert!(!error.contains("plain"), "the hash or password is not repeated");
        }
    }

    #[test]
    fn an_edit_touches_one_line_and_keeps_the_rights() {
        let directory = std::env::temp_dir().join(format!("octopus-passwd-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a place to write");
        let path = directory.join("passwords");
        assert!(!edit(&path, "a", Some("$1")).expect("made"));
        assert_eq!(fs::metadata(&path).expect("made").permissions().mode() & 0o777, 0o600);
        fs::write(&path, "# c\na:$1\nb:$2\n").expect("written");
        assert!(edit(&path, "a", Some("$3")).expect("changed"));
        assert!(!edit(&path, "c", Some("$4")).expect("added"));
        assert!(edit(&path, "b", None).expect("removed"));
        assert_eq!(fs::read_to_string(&path).expect("read"), "# c\na:$3\nc:$4\n");
        fs::remove_dir_all(&directory).expect("removed");
    }
}
