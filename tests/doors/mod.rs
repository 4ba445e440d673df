//! Listeners other than plain TCP, against the live broker with two shards, by clients that
//! others wrote: mosquitto's tools over TLS (one process per client, so that sessions move
//! between shards), openssl's, MQTT.js over WebSockets.

mod certificates;
mod identity;
mod unix;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};

use crate::harness::broker::{Process, free_port};
use certificates::Certificates;

type Test = fn() -> Result<(), Failed>;
type Tests = &'static [(&'static str, Test)];

pub(crate) fn trials() -> Vec<Trial> {
    let own: Tests = &[
        ("messages_pass_over_tls_1_2_and_1_3", tls),
        ("mutual_tls_takes_the_known_and_refuses_the_revoked", mutual),
        ("certificates_are_read_again_on_sighup", reload),
        ("half_open_tls_handshakes_are_closed_in_time", half_open),
        ("mqttjs_speaks_over_ws", || mqttjs("ws")),
        ("mqttjs_speaks_over_wss", || mqttjs("wss")),
    ];
    let all = [own, unix::TESTS, identity::TESTS];
    let tests = all.into_iter().flatten();
    tests.map(|&(name, test)| Trial::test(format!("doors::{name}"), test)).collect()
}

/// A broker with one more listener.
struct Door {
    broker: Process,
    address: SocketAddr,
    certificates: Certificates,
}

impl Door {
    fn open(kind: &str, settings: &[&str]) -> Result<Self, Failed> {
        Self::open_with(Certificates::make()?, kind, settings)
    }

    /// With files that are there already; `@/` in a setting stands for their directory.
    fn open_with(
        certificates: Certificates,
        kind: &str,
        settings: &[&str],
    ) -> Result<Self, Failed> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut all = vec![
            "--shards=2".to_owned(),
            "--listeners[0].name=door".to_owned(),
            format!("--listeners[0].kind={kind}"),
            format!("--listeners[0].address={address}"),
        ];
        if kind != "ws" {
            all.push(format!("--listeners[0].tls.certificate={}", certificates.file("server.pem")));
            all.push(format!("--listeners[0].tls.key={}", certificates.file("server.key")));
        }
        let directory = certificates.file("");
        all.extend(settings.iter().map(|setting| setting.replace("@/", &directory)));
        Ok(Self { broker: Process::start(&all)?, address, certificates })
    }

    /// One of mosquitto's tools, told the authority and, if there is one, a client's name.
    fn tool(&self, tool: &str, client: Option<&str>, arguments: &[&str]) -> Result<String, String> {
        let port = self.address.port().to_string();
        let mut command = Command::new(tool);
        command.args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "--cafile",
            &self.certificates.file("ca.pem"),
        ]);
        if let Some(client) = client {
            command.args(["--cert", &self.certificates.file(&format!("{client}.pem"))]);
            command.args(["--key", &self.certificates.file(&format!("{client}.key"))]);
        }
        let output = command.args(arguments).output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match output.status.success() {
            true => Ok(said),
            false => Err(format!("{said}{}", String::from_utf8_lossy(&output.stderr))),
        }
    }
}

fn tls() -> Result<(), Failed> {
    let door = Door::open("tls", &[])?;
    for version in ["tlsv1.2", "tlsv1.3"] {
        let secure = ["--tls-version", version, "-q", "2", "-t", "kept"];
        let payload = version.repeat(10_000);
        // Many clients of one session, so that it moves between shards with its TLS.
        for _ in 0..8 {
            let message = ["-r", "-i", "publisher", "-m", &payload];
            door.tool("mosquitto_pub", None, &[&secure[..], &message].concat())?;
            let wanted = ["-C", "1", "-W", "10", "-i", "subscriber"];
            let came = door.tool("mosquitto_sub", None, &[&secure[..], &wanted].concat())?;
            assert!(came == payload, "{version}: {} bytes came", came.len());
        }
    }
    Ok(())
}

const MUTUAL: [&str; 3] = [
    "--listeners[0].tls.client_ca=@/ca.pem",
    "--listeners[0].tls.require_client_certificate=true",
    "--listeners[0].tls.crl=@/crl.pem",
];

fn mutual() -> Result<(), Failed> {
    let door = Door::open("tls", &MUTUAL)?;
    let message = ["-t", "a", "-m", "b", "-q", "1", "-i"];
    let publish = |client, id| door.tool("mosquitto_pub", client, &[&message[..], &[id]].concat());
    publish(Some("alice"), "with")?;
    publish(Some("mallory"), "revoked").expect_err("revoked");
    publish(None, "without").expect_err("no certificate");
    let log = door.broker.log();
    assert!(log.contains("client=with") && !log.contains("client=revoked"), "{log}");
    assert!(!log.contains("client=without"), "{log}");
    Ok(())
}

fn reload() -> Result<(), Failed> {
    let door = Door::open("tls", &[])?;
    let message = ["-t", "a", "-m", "b", "-q", "1"];
    let hangup = || Command::new("kill").args(["-HUP", &door.broker.id().to_string()]).status();
    std::fs::write(door.certificates.file("server.pem"), "broken")?;
    hangup()?;
    door.broker.wait_for("the old certificates stay")?;
    door.tool("mosquitto_pub", None, &message)?;
    for suffix in ["pem", "key"] {
        let [from, to] = ["alice", "server"].map(|name| format!("{name}.{suffix}"));
        std::fs::copy(door.certificates.file(&from), door.certificates.file(&to))?;
    }
    hangup()?;
    door.broker.wait_for("certificates read again")?;
    door.tool("mosquitto_pub", None, &message).expect_err("alice is no server");
    Ok(())
}

fn half_open() -> Result<(), Failed> {
    let door = Door::open("tls", &["--limits.connect_timeout=1s"])?;
    let mut silent = TcpStream::connect(door.address)?;
    let mut half = TcpStream::connect(door.address)?;
    // The head of a handshake record that never comes.
    half.write_all(&[22, 3, 1, 2, 0, 1])?;
    for stream in [&mut silent, &mut half] {
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        // Closed, with or without a last word.
        stream.read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

fn mqttjs(kind: &str) -> Result<(), Failed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let modules = root.join("target/node/node_modules");
    if !modules.exists() {
        return Err("tests/run.sh installs MQTT.js".into());
    }
    let door = Door::open(kind, &[])?;
    let mut command = Command::new("node");
    command.arg(root.join("tests/doors/websocket.mjs"));
    command.arg(format!("{kind}://127.0.0.1:{}/mqtt", door.address.port()));
    command.arg(door.certificates.file("ca.pem")).arg(modules);
    let output = command.output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{output:?}\nthe broker's log:\n{}", door.broker.log()).into()),
    }
}
