//! A Unix socket as listener: mosquitto's tools through it, its file from start to end.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use libtest_mimic::Failed;

use super::Tests;
use crate::harness::broker::Process;

pub(super) const TESTS: Tests = &[
    ("messages_pass_over_a_unix_socket_and_its_file_goes_with_the_broker", messages),
    ("a_socket_that_a_dead_broker_left_is_replaced_and_a_live_one_is_not", stale),
];

/// A path for one test, in the directory for temporary files.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let name = format!("octopus-{name}-{}.sock", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn broker(&self) -> Result<Process, String> {
        Process::start(&[
            "--shards=2".to_owned(),
            "--listeners[0].name=local".to_owned(),
            "--listeners[0].kind=unix".to_owned(),
            "--listeners[0].socket_mode=0600".to_owned(),
            format!("--listeners[0].address={}", self.0.display()),
        ])
    }

    fn tool(&self, tool: &str, arguments: &[&str]) -> Result<String, Failed> {
        let output = Command::new(tool).arg("--unix").arg(&self.0).args(arguments).output()?;
        match output.status.success() {
            true => Ok(String::from_utf8(output.stdout)?.trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Gone already if all is well.
        let _ = fs::remove_file(&self.0);
    }
}

fn messages() -> Result<(), Failed> {
    let place = Place::new("messages");
    let broker = place.broker()?;
    assert_eq!(fs::metadata(&place.0)?.permissions().mode() & 0o777, 0o600);
    let payload = "kept".repeat(10_000);
    // Several identifiers, so that some are at home on the other shard.
    for number in 0..8 {
        let (publisher, subscriber) = (format!("p{number}"), format!("s{number}"));
        let message = ["-t", "kept", "-r", "-q", "2", "-m", &payload, "-i", &publisher];
        place.tool("mosquitto_pub", &message)?;
        let wanted = ["-t", "kept", "-q", "2", "-C", "1", "-W", "10", "-i", &subscriber];
        let came = place.tool("mosquitto_sub", &wanted)?;
        assert!(came == payload, "{} bytes came", came.len());
    }
    broker.signal("TERM")?;
    broker.wait_for("stopped")?;
    assert!(!place.0.exists(), "the file stayed");
    Ok(())
}

fn stale() -> Result<(), Failed> {
    let place = Place::new("stale");
    let first = place.broker()?;
    let refused = place.broker().err().ok_or("two brokers on one socket")?;
    assert!(refused.contains("in use"), "{refused}");
    place.tool("mosquitto_pub", &["-t", "a", "-m", "b", "-q", "1"])?;
    // Killed, so that it leaves its file behind.
    drop(first);
    // The kernel lets go of what lay in its rings a moment after the process.
    super::wait("nobody listens", || Ok(UnixStream::connect(&place.0).is_err()))?;
    assert!(place.0.exists(), "nothing left to replace");
    let _second = place.broker()?;
    place.tool("mosquitto_pub", &["-t", "a", "-m", "b", "-q", "1"]).map(drop)
}
