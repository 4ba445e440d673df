//! Clients that others wrote, against the live broker, in versions 3.1.1 and 5: mosquitto's
//! tools, paho-mqtt (Python), MQTT.js and rumqttc. `tests/run.sh` installs them.

mod mosquitto;
mod rumqttc;

use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Failed, Trial};

use crate::harness::broker::Process;

/// What every client library plays, in each version.
const SCENARIOS: [&str; 5] = ["qos", "retained", "will", "resume", "shared"];

/// What only version 5 has.
const SCENARIOS_5: [&str; 5] = ["properties", "will_properties", "options", "flow", "request"];

/// The versions, as the scripts are told.
const VERSIONS: [&str; 2] = ["3.1.1", "5"];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in VERSIONS {
        let more = if version == "5" { &SCENARIOS_5[..] } else { &[] };
        for &scenario in SCENARIOS.iter().chain(more) {
            for client in ["paho", "mqttjs"] {
                let name = format!("interop::{client}::{scenario}::{}", label(version));
                trials.push(Trial::test(name, move || script(client, version, scenario)));
            }
        }
        for (name, test) in mosquitto::tests() {
            let name = format!("interop::mosquitto::{name}::{}", label(version));
            trials.push(Trial::test(name, move || test(&broker()?, version)));
        }
    }
    for (name, test) in mosquitto::tests_5() {
        let name = format!("interop::mosquitto::{name}::v5");
        trials.push(Trial::test(name, move || test(&broker()?, "5")));
    }
    for (name, test) in rumqttc::tests() {
        let name = format!("interop::rumqttc::{name}");
        trials.push(Trial::test(name, move || test(&broker()?)));
    }
    trials
}

fn label(version: &str) -> String {
    format!("v{}", version.replace('.', "_"))
}

/// A broker of two shards, so that clients of one test meet across them.
fn broker() -> Result<Process, Failed> {
    Ok(Process::start(&["--shards=2".to_owned()])?)
}

/// Runs a client script; it says itself what went wrong.
fn script(client: &str, version: &str, scenario: &str) -> Result<(), Failed> {
    let broker = broker()?;
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
    let (program, file) = match client {
        "paho" => (installed("venv/bin/python")?, scripts.join("with_paho.py")),
        _ => (PathBuf::from("node"), scripts.join("with_mqttjs.mjs")),
    };
    let mut command = Command::new(program);
    command.arg(file).arg("127.0.0.1").arg(broker.address.port().to_string());
    command.arg(version).arg(scenario);
    if client == "mqttjs" {
        command.arg(installed("node/node_modules")?);
    }
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{said}{complained}the broker's log:\n{}", broker.log()).into())
}

/// What `tests/run.sh` put under `target/`.
fn installed(path: &str) -> Result<PathBuf, Failed> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target").join(path);
    if path.exists() {
        Ok(path)
    } else {
        Err(format!("{} is not there; tests/run.sh installs it", path.display()).into())
    }
}
