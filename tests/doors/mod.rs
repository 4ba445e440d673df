//! Listeners other than plain TCP, against the live broker with two shards, by peers that others
//! wrote: mosquitto's tools over TLS (one process per client, so that sessions move between
//! shards), openssl's, HAProxy, MQTT.js over WebSockets under Node.js and in Chromium. Nginx
//! stands before the broker in `deploy`.

mod browser;
pub(crate) mod certificates;
mod identity;
mod openssl;
mod proxies;
mod reload;
mod slow;
mod unix;
mod websocket;

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::{Failed, Trial};

use crate::deploy::tools::get;
use crate::harness::broker::{Process, free_port};
use crate::harness::wire::{Packet, Version};
use certificates::Certificates;

type Test = fn() -> Result<(), Failed>;
type Tests = &'static [(&'static str, Test)];

pub(crate) fn trials() -> Vec<Trial> {
    let own: Tests = &[
        ("messages_pass_over_tls_1_2_and_1_3", tls),
        ("mutual_tls_takes_the_known_and_refuses_the_revoked", mutual),
        ("mqttjs_speaks_over_ws", || mqttjs("ws")),
        ("mqttjs_speaks_over_wss", || mqttjs("wss")),
    ];
    let all = [
        own,
        unix::TESTS,
        identity::TESTS,
        reload::TESTS,
        openssl::TESTS,
        proxies::TESTS,
        websocket::TESTS,
        slow::TESTS,
        browser::TESTS,
    ];
    let tests = all.into_iter().flatten();
    tests.map(|&(name, test)| Trial::test(format!("doors::{name}"), test)).collect()
}

/// How long what must come may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A broker with one more listener, and its metrics.
struct Door {
    broker: Process,
    address: SocketAddr,
    certificates: Certificates,
    http: SocketAddr,
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
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        all.push("--http.enable=true".to_owned());
        all.push(format!("--http.port={}", http.port()));
        Ok(Self { broker: Process::start(&all)?, address, certificates, http })
    }

    /// The sum of a metric's samples that have `label` among theirs.
    fn metric(&self, name: &str, label: &str) -> Result<f64, Failed> {
        let text = get(self.http, "/metrics")?;
        let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// Connections that ended below MQTT for this reason.
    fn refused(&self, reason: &str) -> Result<f64, Failed> {
        self.metric("octopus_layers_refused_total{", &format!("reason=\"{reason}\""))
    }

    /// One more connection than `before` was refused for this reason.
    fn is_refused_once_more(&self, reason: &str, before: f64) -> Result<(), Failed> {
        let what = format!("one more refused: {reason}");
        wait(&what, || Ok((self.refused(reason)? - before - 1.0).abs() < 0.5))
    }

    fn connect(&self) -> Result<TcpStream, Failed> {
        connect(self.address)
    }

    /// One of mosquitto's tools, told the authority and, if there is one, a client's name.
    fn tool(&self, tool: &str, client: Option<&str>, arguments: &[&str]) -> Result<String, String> {
        self.tool_at(self.address, tool, client, arguments)
    }

    /// As [`Self::tool`], by way of another address.
    fn tool_at(
        &self,
        address: SocketAddr,
        tool: &str,
        client: Option<&str>,
        arguments: &[&str],
    ) -> Result<String, String> {
        let port = address.port().to_string();
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

/// Where MQTT.js is.
fn modules() -> Result<PathBuf, Failed> {
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/node/node_modules");
    if modules.exists() { Ok(modules) } else { Err("tests/run.sh installs MQTT.js".into()) }
}

fn mqttjs(kind: &str) -> Result<(), Failed> {
    let modules = modules()?;
    let door = Door::open(kind, &[])?;
    let mut command = Command::new("node");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/doors/websocket.mjs"));
    command.arg(format!("{kind}://127.0.0.1:{}/mqtt", door.address.port()));
    command.arg(door.certificates.file("ca.pem")).arg(modules);
    let output = command.output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{output:?}\nthe broker's log:\n{}", door.broker.log()).into()),
    }
}

/// A connection that fails a test instead of hanging it.
fn connect(address: SocketAddr) -> Result<TcpStream, Failed> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// CONNECT of version 3.1.1 for a clean session.
fn connect_packet(id: &str) -> Vec<u8> {
    Packet::new("connect").number("clean", 1_u8).bytes("id", id).encode(Version::V3_1_1)
}

/// CONNACK that lets a client in.
const CONNACK: [u8; 4] = [0x20, 2, 0, 0];

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

/// A program that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may be gone already; then there is nothing to kill and only to wait.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
