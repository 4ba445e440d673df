//! The dashboard in a headless browser, and its MQTT codec under Node.js. With
//! `OCTOPUS_SCREENSHOTS` set to a directory, pictures of every view are left there.

use std::path::Path;
use std::process::Command;

use libtest_mimic::{Failed, Trial};

use super::{Node, TOKEN, Test, expect, success};
use crate::harness::broker::free_port;

pub(super) const TESTS: [(&str, Test); 1] = [("it_loads_without_an_error", loads)];

/// The page says what went wrong in the browser's log.
fn loads(node: &Node) -> Result<(), Failed> {
    let profile = std::env::temp_dir().join(format!("octopus-dashboard-{}", std::process::id()));
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("http://{}/#clients", node.http.address))
        .output()?;
    std::fs::remove_dir_all(&profile)?;
    let page = String::from_utf8_lossy(&output.stdout);
    let log = String::from_utf8_lossy(&output.stderr);
    // Without the token the API refuses, which is the one line allowed.
    let said = log.lines().filter(|line| line.contains("CONSOLE"));
    let errors: Vec<&str> = said.filter(|line| !line.contains("401 (Unauthorized)")).collect();
    expect(errors.is_empty(), errors)?;
    expect(
        page.contains("id=\"login\" aria-labelledby=\"login-title\" open"),
        "the token's dialog",
    )?;
    expect(page.contains("<a href=\"#clients\" aria-current=\"page\">"), "the view of the address")
}

/// A person with a keyboard and one who listens, on a broker with a WebSocket listener: see
/// `browser.mjs`.
pub(super) fn console_trial() -> Trial {
    Trial::test("ops::dashboard::every_view_is_usable_by_keyboard_and_by_ear", || {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let modules = root.join("target/node/node_modules");
        if !modules.join("axe-core").exists() {
            return Err("tests/run.sh installs axe-core".into());
        }
        let port = free_port();
        let node = Node::start_with(&[
            "--listeners[0].name=web".to_owned(),
            "--listeners[0].kind=ws".to_owned(),
            format!("--listeners[0].address=127.0.0.1:{port}"),
        ])?;
        node.leave_session("sleeper", "queued/#")?;
        node.publish("queued/a", "x\n")?;
        let mut command = Command::new("node");
        command.arg(root.join("tests/ops/browser.mjs")).arg(modules);
        command.arg(format!("http://{}/", node.http.address)).arg(TOKEN);
        command.arg(format!("ws://127.0.0.1:{port}/mqtt"));
        command.arg(node.broker.address.port().to_string());
        success(&command.output()?)
    })
}

/// The console's codec against known bytes.
pub(super) fn codec_trial() -> Trial {
    Trial::test("ops::dashboard::the_consoles_codec_speaks_mqtt", || {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let codec = root.join("src/http/dashboard/mqtt.js");
        let script = root.join("tests/ops/codec.mjs");
        success(&Command::new("node").arg(script).arg(codec).output()?)
    })
}
