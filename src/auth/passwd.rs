//! `octopus passwd`: adds, changes and deletes accounts of a password file.

use std::io::{self, BufRead as _, IsTerminal as _};
use std::path::{Path, PathBuf};

use super::password;
use super::password_file::{edit, is_user};
use super::scram::Keys;

/// What the command is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passwd {
    pub file: PathBuf,
    pub user: String,
    pub action: Action,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Store a password; given, or else asked for.
    Set {
        password: Option<String>,
        keys: Kind,
    },
    Delete,
}

/// How a password is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Argon2id,
    /// Keys of SCRAM-SHA-256; they serve a plain password as well.
    Scram,
}

/// Carries it out; what to tell the user.
///
/// # Errors
/// What is in the way, in words.
pub fn run(passwd: &Passwd) -> Result<String, String> {
    let (file, user) = (&*passwd.file, &*passwd.user);
    if !is_user(user) {
        return Err(format!("{user:?} cannot be a user name: no ':' in it, no '#' in front"));
    }
    match &passwd.action {
        Action::Delete => delete(file, user),
        Action::Set { password, keys } => {
            let password = password.clone().map_or_else(ask, Ok)?;
            set(file, user, &password, *keys)
        }
    }
}

fn delete(file: &Path, user: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(file).map_err(|error| in_file(file, &error))?;
    if !text.lines().any(|line| line.split_once(':').is_some_and(|(name, _)| name == user)) {
        return Err(format!("{}: no user {user}", file.display()));
    }
    edit(file, user, None).map_err(|error| in_file(file, &error))?;
    Ok(format!("{}: {user} deleted\n", file.display()))
}

fn set(file: &Path, user: &str, password: &str, kind: Kind) -> Result<String, String> {
    if password.is_empty() {
        return Err("an empty password is not taken".to_owned());
    }
    let hash = match kind {
        Kind::Argon2id => password::hash(password.as_bytes()),
        Kind::Scram => Keys::of(password.as_bytes()).map(|keys| keys.to_text()),
    };
    let hash = hash.ok_or("the system gave no random bytes, or too little memory")?;
    let was_there = edit(file, user, Some(&hash)).map_err(|error| in_file(file, &error))?;
    let done = if was_there { "changed" } else { "added" };
    Ok(format!("{}: {user} {done}\n", file.display()))
}

fn in_file(file: &Path, error: &io::Error) -> String {
    format!("{}: {error}", file.display())
}

/// From a terminal twice and unseen; else the first line of standard input.
fn ask() -> Result<String, String> {
    let failed = |error: io::Error| format!("the password could not be read: {error}");
    if !io::stdin().is_terminal() {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map_err(failed)?;
        return Ok(line.trim_end_matches(['\n', '\r']).to_owned());
    }
    let first = rpassword::prompt_password("Password: ").map_err(failed)?;
    let second = rpassword::prompt_password("Again: ").map_err(failed)?;
    if first == second { Ok(first) } else { Err("the two are not the same".to_owned()) }
}
