//! Who is let in and what they may do, against the live broker: each backend with what stands
//! behind it in earnest (mosquitto's tool, an HTTP server, Redis, openssl), refusals as both
//! versions tell them, reloading, and floods.

mod acl;
mod backends;
mod client;
mod flood;
mod limits;
mod listeners;
mod reconfigure;
mod redis;
mod reload;
mod scram;
mod told;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use libtest_mimic::{Failed, Trial};

use crate::deploy::tools::get;
use crate::harness::broker::{Process, free_port};
use crate::harness::wire::Version;

pub(crate) use backends::set as set_password;

type Test = fn() -> Result<(), Failed>;

/// How long what must come may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The versions whose words for a refusal differ.
const VERSIONS: [Version; 2] = [Version::V3_1_1, Version::V5];

pub(crate) fn trials() -> Vec<Trial> {
    let groups: [(&str, &[(&str, Test)]); 10] = [
        ("backends", backends::TESTS),
        ("redis", redis::TESTS),
        ("acl", acl::TESTS),
        ("scram", scram::TESTS),
        ("reload", reload::TESTS),
        ("limits", limits::TESTS),
        ("listeners", listeners::TESTS),
        ("reconfigure", reconfigure::TESTS),
        ("told", told::TESTS),
        ("flood", flood::TESTS),
    ];
    let trials = groups.into_iter().flat_map(|(group, tests)| {
        tests.iter().map(move |&(name, test)| Trial::test(format!("auth::{group}::{name}"), test))
    });
    trials.collect()
}

/// A directory of one test, gone when dropped.
struct Files(PathBuf);

impl Files {
    fn new() -> Result<Self, Failed> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("octopus-auth-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory)?;
        Ok(Self(directory))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file as editors do: the new one takes the place of the old.
    fn write(&self, name: &str, text: &str) -> Result<PathBuf, Failed> {
        let (path, beside) = (self.path(name), self.path("new"));
        fs::write(&beside, text)?;
        fs::rename(beside, &path)?;
        Ok(path)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // What cannot be removed is in the directory for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A broker of two shards that authenticates.
const SETTINGS: [&str; 2] = ["--broker.auth.enable=true", "--shards=2"];

/// A broker with [`SETTINGS`], and with these beside.
fn broker(settings: &[String]) -> Result<Process, Failed> {
    Ok(Process::start(&[&SETTINGS.map(str::to_owned)[..], settings].concat())?)
}

/// The settings that give a broker metrics, and where they are.
fn metrics() -> (SocketAddr, [String; 2]) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    (address, ["--http.enable=true".to_owned(), format!("--http.port={}", address.port())])
}

/// The sum of a metric's samples; `name` with `_total`, without labels.
fn metric(http: SocketAddr, name: &str) -> Result<f64, Failed> {
    let text = get(http, "/metrics")?;
    let is_it =
        |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    let values = text.lines().filter(is_it).filter_map(|line| line.rsplit(' ').next());
    Ok(values.filter_map(|value| value.parse::<f64>().ok()).sum())
}

/// Deletes an account with the program under test.
fn passwd_delete(file: &str, user: &str) -> Result<(), Failed> {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_octopus"));
    let output = command.args(["passwd", "--delete", file, user]).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
    }
}

/// Waits until `is_so`, looking often.
fn wait(what: &str, mut is_so: impl FnMut() -> Result<bool, Failed>) -> Result<(), Failed> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        if Instant::now() > deadline {
            return Err(format!("not within {PATIENCE:?}: {what}").into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
