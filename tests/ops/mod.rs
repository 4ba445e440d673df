//! What an operator does with a running broker: metrics, health, the admin API, `$SYS`, the
//! sub-commands, the dashboard. Each test has a broker of its own, on two shards.

mod api;
mod bans;
mod client;
mod dashboard;
mod group;
pub(crate) mod http;
mod metrics;
mod mistakes;
mod schema;
mod sys;
mod trace;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use libtest_mimic::{Failed, Trial};

use crate::harness::broker::Process;
use http::Http;

type Test = fn(&Node) -> Result<(), Failed>;

const TOKEN: &str = "a-token-for-tests";

/// A broker with its HTTP server.
struct Node {
    broker: Process,
    http: Http,
}

impl Node {
    fn start() -> Result<Self, Failed> {
        Self::start_with(&[])
    }

    /// - `more`: settings beside the usual ones.
    fn start_with(more: &[String]) -> Result<Self, Failed> {
        let settings = [
            "--http.enable=true",
            "--http.port=0",
            &format!("--http.token={TOKEN}"),
            "--shards=2",
            "--stats.sys_interval=1s",
        ];
        let mut settings = settings.map(str::to_owned).to_vec();
        settings.extend_from_slice(more);
        let broker = Process::start(&settings)?;
        let line = broker.wait_for("dashboard: http://")?;
        let address = line.split("http://").nth(1).unwrap_or_default().trim_end_matches('/');
        let http = Http { address: address.parse()?, token: Some(TOKEN) };
        Ok(Self { broker, http })
    }

    /// Publishes lines as messages of QoS 1 to `topic`, and waits until the broker has them.
    fn publish(&self, topic: &str, lines: &str) -> Result<(), Failed> {
        let mut command = self.tool("mosquitto_pub");
        command.args(["-q", "1", "-l", "-t", topic]);
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        child.stdin.take().ok_or("no input")?.write_all(lines.as_bytes())?;
        success(&child.wait_with_output()?)
    }

    /// Leaves a session behind that keeps messages of QoS 1 for `filter`.
    fn leave_session(&self, client: &str, filter: &str) -> Result<(), Failed> {
        let mut command = self.tool("mosquitto_sub");
        // -E: end once subscribed.
        command.args(["-i", client, "-c", "-q", "1", "-t", filter, "-E"]);
        success(&command.output()?)
    }

    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.args(["-h", "127.0.0.1", "-p", &self.broker.address.port().to_string()]);
        command
    }

    /// A sub-command of the program under test.
    fn octopus(&self, arguments: &[&str]) -> Result<Output, Failed> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_octopus"));
        command.args(arguments).args([
            &format!("--http.port={}", self.http.address.port()),
            &format!("--http.token={TOKEN}"),
            &format!("--broker.port={}", self.broker.address.port()),
        ]);
        Ok(command.output()?)
    }
}

fn success(output: &Output) -> Result<(), Failed> {
    if output.status.success() {
        return Ok(());
    }
    let (told, error) = (&output.stdout, &output.stderr);
    Err(format!("{}{}", String::from_utf8_lossy(told), String::from_utf8_lossy(error)).into())
}

fn expect(holds: bool, what: impl std::fmt::Debug) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(format!("{what:?}").into()) }
}

pub(crate) fn trials() -> Vec<Trial> {
    let groups: [(&str, &[(&str, Test)]); 6] = [
        ("metrics", &metrics::TESTS),
        ("api", &api::TESTS),
        ("sys", &sys::TESTS),
        ("trace", &trace::TESTS),
        ("bans", &bans::TESTS),
        ("dashboard", &dashboard::TESTS),
    ];
    let all = groups.into_iter().flat_map(|(group, tests)| {
        tests.iter().map(move |(name, test)| {
            Trial::test(format!("ops::{group}::{name}"), || test(&Node::start()?))
        })
    });
    all.chain([
        dashboard::codec_trial(),
        dashboard::console_trial(),
        client::trial(),
        group::trial(),
        group::readiness_trial(),
        mistakes::trial(),
        schema::trial(),
    ])
    .collect()
}
