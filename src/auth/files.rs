//! What is read from files: accounts, rules and keys; read anew when a file changes, and kept
//! as it was when the new one is broken.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::acl::Policy;
use super::acl_file::{parse_mosquitto, parse_yaml};
use super::file_error::FileError;
use super::jwt::Jwt;
use super::password_file::Accounts;
use crate::config;
use crate::watched::{Change, Watched};

/// Files above this many bytes are refused.
const BYTES_MAX: u64 = 64 << 20;

/// What is in force now. Cheap to clone. Scope: node.
#[derive(Clone, Default)]
pub(crate) struct Files {
    pub(crate) accounts: Option<Arc<Accounts>>,
    pub(crate) policy: Option<Arc<Policy>>,
    pub(crate) jwt: Option<Arc<Jwt>>,
}

/// The files of the configuration. Scope: node.
pub(crate) struct Sources {
    password_file: Option<Source>,
    acl_file: Option<Source>,
    key_file: Option<Source>,
    jwt: config::Jwt,
}

struct Source {
    file: Watched,
    /// It cannot be used as it is now.
    is_broken: bool,
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
    /// Files that are not in force as they are now.
    pub(crate) broken: u64,
}

impl Sources {
    pub(crate) fn new(config: &config::Auth) -> Self {
        let source = |path: &String| {
            (!path.is_empty()).then(|| Source { file: Watched::new(path), is_broken: false })
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
        let all = [&self.password_file, &self.acl_file, &self.key_file];
        let broken = all.into_iter().flatten().filter(|source| source.is_broken);
        reloaded.broken = broken.count() as u64;
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
    let change = source.file.look();
    if which == Which::All || change == Change::Done {
        source.file.mark_read();
        let path = source.file.path();
        let outcome = text(path).and_then(|text| parse(path, &text));
        source.is_broken = outcome.is_err();
        match outcome {
            Ok(value) => {
                reloaded.read += 1;
                return Some(value);
            }
            Err(error) => reloaded.errors.push((path.to_owned(), error)),
        }
    }
    None
}

fn text(path: &Path) -> Result<String, FileError> {
    if fs::metadata(path)?.len() > BYTES_MAX {
        return Err(FileError::content("larger than 64 MiB"));
    }
    Ok(fs::read_to_string(path)?)
}
