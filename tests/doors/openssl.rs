//! TLS by openssl's own client: versions, chains, and certificates that do not hold.

use std::io::{Read, Write};
use std::process::{ChildStdout, Command, Stdio};

use libtest_mimic::Failed;

use super::{CONNACK, Door, MUTUAL, Running, Tests, connect_packet};

pub(super) const TESTS: Tests = &[
    ("openssl_connects_by_tls_1_2_and_1_3_and_by_nothing_older", versions),
    ("openssl_is_refused_with_a_certificate_that_does_not_hold", certificates),
    ("openssl_resumes_a_session_only_where_no_certificate_is_asked_for", resumption),
];

/// `openssl s_client`, speaking MQTT through its pipes.
struct Client {
    running: Running,
    output: ChildStdout,
}

impl Client {
    fn command(door: &Door, name: Option<&str>) -> Command {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-verify_return_error", "-connect"]);
        command.arg(door.address.to_string());
        command.arg("-CAfile").arg(door.certificates.file("ca.pem"));
        if let Some(name) = name {
            command.arg("-cert").arg(door.certificates.file(&format!("{name}.pem")));
            command.arg("-key").arg(door.certificates.file(&format!("{name}.key")));
        }
        command
    }

    fn start(door: &Door, name: Option<&str>, flags: &[&str]) -> Result<Self, Failed> {
        let mut command = Self::command(door, name);
        command.arg("-quiet").args(flags);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        let mut client = Self { running: Running(child), output };
        let input = client.running.0.stdin.as_mut().ok_or("no input")?;
        // One that is refused at once is gone before it reads this; its end tells.
        let _ = input.write_all(&connect_packet("openssl"));
        Ok(client)
    }

    fn is_let_in(&mut self) -> Result<(), Failed> {
        let mut came = [0; CONNACK.len()];
        if self.output.read_exact(&mut came).is_ok() && came == CONNACK {
            return Ok(());
        }
        Err(format!("{came:?}: {}", self.said()?).into())
    }

    /// Ends without a byte of MQTT; what openssl says about it.
    fn expect_refusal(mut self) -> Result<String, Failed> {
        let mut came = Vec::new();
        self.output.read_to_end(&mut came)?;
        assert!(came.is_empty(), "{came:?} for one that must not come in");
        let said = self.said()?;
        assert!(!self.running.0.wait()?.success(), "{said}");
        Ok(said)
    }

    fn said(&mut self) -> Result<String, Failed> {
        let mut said = String::new();
        drop(self.running.0.stdin.take());
        self.running.0.stderr.take().ok_or("no errors")?.read_to_string(&mut said)?;
        Ok(said)
    }
}

fn versions() -> Result<(), Failed> {
    let door = Door::open("tls", &[])?;
    for version in ["-tls1_2", "-tls1_3"] {
        Client::start(&door, None, &[version])?.is_let_in()?;
    }
    for version in ["-tls1_1", "-tls1"] {
        let before = door.refused("tls")?;
        let old = Client::start(&door, None, &[version, "-cipher", "DEFAULT@SECLEVEL=0"])?;
        let said = old.expect_refusal()?;
        assert!(said.contains(" alert "), "{version}: {said}");
        door.is_refused_once_more("tls", before)?;
    }
    let other = door.certificates.file("other.pem");
    let said = Client::start(&door, None, &["-CAfile", &other])?.expect_refusal()?;
    assert!(said.contains("verify"), "a client that trusts another authority: {said}");
    Ok(())
}

fn certificates() -> Result<(), Failed> {
    let door = Door::open("tls", &MUTUAL)?;
    for version in ["-tls1_2", "-tls1_3"] {
        Client::start(&door, Some("alice"), &[version])?.is_let_in()?;
        for (name, reason, alert) in [
            (Some("mallory"), "certificate_revoked", "certificate revoked"),
            (Some("stranger"), "certificate", "unknown ca"),
            (None, "certificate", "certificate required"),
        ] {
            let before = door.refused(reason)?;
            let said = Client::start(&door, name, &[version])?.expect_refusal()?;
            door.is_refused_once_more(reason, before)?;
            // Before 1.3 the alert for no certificate at all is another one.
            let alerts = [alert, "handshake failure"];
            assert!(alerts.iter().any(|alert| said.contains(alert)), "{name:?} {version}: {said}");
        }
    }
    let log = door.broker.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("refused below MQTT")).collect();
    assert!(lines.iter().all(|line| line.contains("address=127.0.0.1:")), "{lines:?}");
    Ok(())
}

/// A client that resumes its session after the list has revoked it would not be held against it.
fn resumption() -> Result<(), Failed> {
    for (settings, name, is_resumed) in [(&[][..], None, true), (&MUTUAL, Some("alice"), false)] {
        let door = Door::open("tls", settings)?;
        let mut command = Client::command(&door, name);
        // Comes back five times with the session it got first.
        command.args(["-reconnect", "-tls1_2"]).stdin(Stdio::null());
        let said = String::from_utf8_lossy(&command.output()?.stdout).into_owned();
        assert!(said.contains("New, TLSv1.2"), "{said}");
        assert_eq!(said.contains("Reused, TLSv1.2"), is_resumed, "{said}");
    }
    Ok(())
}
