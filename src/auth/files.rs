//! What is read from files: accounts, rules and keys; read anew when a file changes, and kept
//! as it was when the new one is broken.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::acl::Policy;
use super::acl_file::{parse_mosquitto, parse_yaml};
use super::file_error::FileError;
use super::jwt::Jwt;
use super::password_file::Accounts;
use crate::config;

/// Files above this many bytes are refused.
const BYTES_MAX: u64 = 64 << 20;

/// What is in force now. Cheap to clone. Scope: node.
#[derive(Clone, Default)]
pub(crate) struct Files {
    pub(crate) accounts: Option<Arc<Accounts>>,
    pub(crate) policy: Option<Arc<Policy>>,
    pub(crate) jwt: Option<Arc<Jwt>>,
}

/// The files of the configuration, and how each looked when it was read last. Scope: node.
pub(crate) struct Sources {
    password_file: Option<Source>,
    acl_file: Option<Source>,
    key_file: Option<Source>,
    jwt: config::Jwt,
}

struct Source {
    path: PathBuf,
    /// When it was read last.
    seen: Option<Look>,
    /// A moment ago: a file is read when it has stopped changing, not half written.
    last: Option<Look>,
}

/// Enough to see that a file was written again.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Look {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

/// Which files to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Those that changed since they were read last.
    Changed,
    All,
}

/// What a reload came to.
#[derive(Debug, Default)]
pub(crate) struct Reloaded {
    pub(crate) read: u64,
    /// The files that stay as they were, and why.
    pub(crate) errors: Vec<(PathBuf, FileError)>,
}

impl Sources {
    pub(crate) fn new(config: &config::Auth) -> Self {
        let source = |path: &String| {
            (!path.is_empty()).then(|| Source { path: path.into(), seen: None, last: None })
        };
        Self {
            password_file: source(&config.password_file),
            acl_file: source(&config.acl_file),
            key_file: source(&config.jwt.key_file),
            jwt: config.jwt.clone(),
        }
    }

    /// Reads files into `files`. One that cannot be used leaves what was there. Blocks.
    pub(crate) fn reload(&mut self, files: &mut Files, which: Which) -> Reloaded {
        let mut reloaded = Reloaded::default();
        let accounts =
            read(&mut self.password_file, which, &mut reloaded, |_, text| Accounts::parse(text));
        files.accounts = accounts.map(Arc::new).or_else(|| files.accounts.take());
        let policy = read(&mut self.acl_file, which, &mut reloaded, policy);
        files.policy = policy.map(Arc::new).or_else(|| files.policy.take());
        let config = &self.jwt;
        let jwt =
            read(&mut self.key_file, which, &mut reloaded, |_, text| Jwt::new(config, Some(text)));
        files.jwt = jwt.map(Arc::new).or_else(|| files.jwt.take());
        if self.key_file.is_none() && files.jwt.is_none() {
            files.jwt = Jwt::new(config, None).ok().map(Arc::new);
        }
        reloaded
    }
}

fn policy(path: &Path, text: &str) -> Result<Policy, FileError> {
    let ending = path.extension().and_then(|ending| ending.to_str());
    match ending {
        Some("yml" | "yaml") => parse_yaml(text),
        _ => parse_mosquitto(text),
    }
}

fn read<T>(
    source: &mut Option<Source>,
    which: Which,
    reloaded: &mut Reloaded,
    parse: impl FnOnce(&Path, &str) -> Result<T, FileError>,
) -> Option<T> {
    let source = source.as_mut()?;
    let look = Look::at(&source.path);
    let is_settled = std::mem::replace(&mut source.last, look) == look;
    if which == Which::Changed && (look == source.seen || !is_settled) {
        return None;
    }
    source.seen = look;
    match text(&source.path).and_then(|text| parse(&source.path, &text)) {
        Ok(value) => {
            reloaded.read += 1;
            Some(value)
        }
        Err(error) => {
            reloaded.errors.push((source.path.clone(), error));
            None
        }
    }
}

fn text(path: &Path) -> Result<String, FileError> {
    if fs::metadata(path)?.len() > BYTES_MAX {
        return Err(FileError::content("larger than 64 MiB"));
    }
    Ok(fs::read_to_string(path)?)
}

impl Look {
    fn at(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = fs::metadata(path).ok()?;
        let modified = metadata.modified().ok();
        Some(Self { modified, len: metadata.len(), inode: metadata.ino() })
    }
}
