//! Files of `deploy/`, programs, and a directory of one's own, for the tests beside this.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use libtest_mimic::Failed;
use serde_yaml::Value;

pub(super) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The text of a file, by its path from the top.
pub(super) fn text(path: &str) -> Result<String, Failed> {
    fs::read_to_string(root().join(path)).map_err(|error| format!("{path}: {error}").into())
}

/// A YAML or JSON file (JSON is YAML), by its path from the top.
pub(super) fn yaml(path: &str) -> Result<Value, Failed> {
    let text = text(path)?;
    let value: Value = serde_yaml::from_str(&text).map_err(|error| format!("{path}: {error}"))?;
    Ok(value)
}

/// Every file below a directory, as paths from the top, in order.
pub(super) fn files(directory: &str) -> Result<Vec<String>, Failed> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(directory))? {
        let entry = entry?;
        let path = format!("{directory}/{}", entry.file_name().to_string_lossy());
        match entry.file_type()?.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    found.sort();
    Ok(found)
}

/// A program that may stand where only root looks.
pub(crate) fn program(name: &str) -> Command {
    let aside = Path::new("/usr/sbin").join(name);
    let on_path = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join(name).exists())
    });
    if on_path { Command::new(name) } else { Command::new(aside) }
}

/// Runs a program to its end.
///
/// # Errors
/// What it said, if it failed.
pub(super) fn run(command: &mut Command) -> Result<String, Failed> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = all(&output);
    if output.status.success() { Ok(said) } else { Err(format!("{command:?}:\n{said}").into()) }
}

/// Both outputs of a program.
pub(super) fn all(output: &Output) -> String {
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    said
}

/// A directory of its own; gone when dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Result<Self, Failed> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("octopus-{name}-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf, Failed> {
        let path = self.0.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left lies in the system's directory for such things.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The body of a GET by HTTP/1.0.
///
/// # Errors
/// What came instead of status 200.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<String, Failed> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(format!("GET {path}: {head}\n{body}").into()),
    }
}

/// All that is wrong, as one failure.
pub(super) fn report(faults: &[String]) -> Result<(), Failed> {
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

/// The broker under test, as `harness::broker` picks it.
pub(super) fn octopus() -> PathBuf {
    match std::env::var_os("OCTOPUS_TEST_BROKER") {
        Some(program) => program.into(),
        None => env!("CARGO_BIN_EXE_octopus").into(),
    }
}
