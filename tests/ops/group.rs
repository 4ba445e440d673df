//! What one node of a group knows of the others.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use super::http::Http;
use super::{expect, success};
use crate::cluster::group::{Group, wait};
use crate::harness::broker::free_port;

pub(super) fn trial() -> Trial {
    Trial::test("ops::group::each_node_tells_the_figures_of_all", figures)
}

/// A balancer and an alert see at once that Redis is away, and that the process lives.
pub(super) fn readiness_trial() -> Trial {
    Trial::test("ops::group::a_node_without_its_redis_lives_and_is_not_ready", || {
        let mut group = Group::new(&["--http.enable=true"])?;
        let page = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let _node = group.node_with("ONE", &[format!("--http.port={}", page.port())])?;
        let http = Http { address: page, token: None };
        wait("it is ready", || Ok(http.get("/readyz")?.status == 200))?;
        let up = "octopus_redis_up 1\n";
        expect(http.get("/metrics")?.body.contains(up), "the gauge")?;
        group.redis.kill()?;
        wait("it is not ready", || {
            let answer = http.get("/readyz")?;
            Ok(answer.status == 503 && answer.body.contains("\"missing\":[\"redis\"]"))
        })?;
        expect(http.get("/healthz")?.status == 200, "it lives")?;
        expect(http.get("/metrics")?.body.contains("octopus_redis_up 0\n"), "the gauge")?;
        group.redis.revive()?;
        wait("it is ready again", || Ok(http.get("/readyz")?.status == 200))
    })
}

fn figures() -> Result<(), Failed> {
    let group = Group::new(&["--stats.interval=1s", "--http.enable=true"])?;
    let page = || SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let pages = [page(), page()];
    let http = |page: SocketAddr| format!("--http.port={}", page.port());
    let first = group.node_with("ONE", &[http(pages[0])])?;
    let mut second = Some(group.node_with("TWO", &[http(pages[1])])?);
    let port = |node: &crate::harness::broker::Process| node.address.port().to_string();
    let mut command = Command::new("mosquitto_sub");
    let arguments = ["-c", "-i", "away", "-q", "1", "-t", "g/#", "-E"];
    success(&command.args(["-p", &port(&first)]).args(arguments).output()?)?;
    // As the other node sees it, and as it sees itself.
    for page in [pages[1], pages[0]] {
        let http = Http { address: page, token: None };
        wait("the figures are told", || {
            let one = node(&http, "ONE")?;
            Ok(one["figures"]["sessions"] == 1
                && one["figures"]["subscriptions"] == 1
                && one["figures"]["version"] == env!("CARGO_PKG_VERSION")
                && one["figures"]["memory_bytes"].as_u64() > Some(1 << 20)
                && one["figures"]["received_per_s"].is_u64())
        })?;
    }
    let ask = Http { address: pages[0], token: None };
    wait("messages of the other are a rate", || {
        let mut command = Command::new("mosquitto_pub");
        command.args(["-p", &port(second.as_ref().ok_or("gone")?), "-t", "g/x", "-m", "x"]);
        success(&command.args(["--repeat", "20"]).output()?)?;
        Ok(node(&ask, "TWO")?["figures"]["received_per_s"].as_u64() > Some(0))
    })?;
    drop(second.take());
    wait("a node that is gone has no figures", || {
        let two = node(&ask, "TWO")?;
        Ok(two.is_null() || two["live"] == false && two["figures"].is_null())
    })
}

fn node(http: &Http, id: &str) -> Result<Value, Failed> {
    let nodes = http.api("nodes")?;
    expect(nodes["group"] == "GROUP1", &nodes)?;
    let mut all = nodes["nodes"].as_array().into_iter().flatten();
    Ok(all.find(|node| node["id"] == id).cloned().unwrap_or_default())
}
