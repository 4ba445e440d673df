//! Prometheus and Grafana's files: what promtool says of them, and whether every expression of
//! every dashboard and rule finds data in a Prometheus that scrapes running brokers, a Redis and
//! redis_exporter with our configuration.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use serde_yaml::Value;

use super::Test;
use super::compose;
use super::tools::{Scratch, files, get, octopus, program, report, root, run, text, yaml};
use crate::harness::broker::{Process, free_port};

pub(super) fn tests() -> Vec<Test> {
    vec![
        ("prometheus_takes_the_configuration_and_rules", promtool),
        ("every_alert_is_tested", alerts),
        ("dashboards_are_provisioned_whole", dashboards),
        ("every_metric_that_is_asked_for_is_there", expressions),
    ]
}

fn promtool() -> Result<(), Failed> {
    let directory = root().join("deploy/prometheus");
    for arguments in [
        &["check", "config", "prometheus.yml"][..],
        &["check", "rules", "rules.yml"],
        &["test", "rules", "rules.test.yml"],
    ] {
        run(Command::new("promtool").args(arguments).current_dir(&directory))?;
    }
    Ok(())
}

/// Each alert has a case in which it fires and one in which it does not, and says what to do.
fn alerts() -> Result<(), Failed> {
    let rules = yaml("deploy/prometheus/rules.yml")?;
    let tests = yaml("deploy/prometheus/rules.test.yml")?;
    let mut fires = BTreeSet::new();
    let mut silent = BTreeSet::new();
    for test in sequence(&tests["tests"]).flat_map(|test| sequence(&test["alert_rule_test"])) {
        let name = test["alertname"].as_str().unwrap_or_default();
        let expected = sequence(&test["exp_alerts"]).count();
        if expected > 0 {
            fires.insert(name)
        } else {
            silent.insert(name)
        };
    }
    let mut faults = Vec::new();
    for rule in sequence(&rules["groups"]).flat_map(|group| sequence(&group["rules"])) {
        let Some(name) = rule["alert"].as_str() else { continue };
        if !fires.contains(name) || !silent.contains(name) {
            faults.push(format!("{name} has no case, or only one"));
        }
        if rule["annotations"]["description"].is_null() || rule["labels"]["severity"].is_null() {
            faults.push(format!("{name} says too little"));
        }
    }
    report(&faults)
}

fn sequence(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_sequence().into_iter().flatten()
}

const DASHBOARDS: &str = "deploy/grafana/dashboards";

/// Panels have titles of their own, ask the provisioned source, and use variables that exist.
fn dashboards() -> Result<(), Failed> {
    let source = yaml("deploy/grafana/provisioning/datasources/prometheus.yml")?;
    let uid = source["datasources"][0]["uid"].as_str().ok_or("no uid")?;
    let mut uids = BTreeSet::new();
    for path in files(DASHBOARDS)? {
        let board = yaml(&path)?;
        assert!(uids.insert(board["uid"].as_str().unwrap_or_default().to_owned()), "{path}");
        let names: Vec<&str> =
            sequence(&board["templating"]["list"]).filter_map(|v| v["name"].as_str()).collect();
        let mut ids = BTreeSet::new();
        for panel in sequence(&board["panels"]) {
            let title = panel["title"].as_str().unwrap_or_default();
            assert!(!title.is_empty() && ids.insert(panel["id"].as_i64()), "{path}: {title}");
            let place = &panel["gridPos"];
            let end = place["x"].as_i64().unwrap_or(24) + place["w"].as_i64().unwrap_or(24);
            assert!(end <= 24, "{path}: {title} is beside the page");
            for target in sequence(&panel["targets"]) {
                assert_eq!(target["datasource"]["uid"], uid, "{path}: {title}");
                let expression = target["expr"].as_str().unwrap_or_default();
                for variable in variables(expression) {
                    let known = variable == "__rate_interval" || names.contains(&variable);
                    assert!(known, "{path}: {title}: ${variable}");
                }
            }
        }
    }
    assert_eq!(uids.len(), 2);
    Ok(())
}

/// The names behind `$`.
fn variables(expression: &str) -> impl Iterator<Item = &str> {
    expression.split('$').skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

/// Expressions of dashboards, their variables' queries, and of rules, with where they stand.
fn all_expressions() -> Result<Vec<(String, String)>, Failed> {
    let mut all = Vec::new();
    for path in files(DASHBOARDS)? {
        let board = yaml(&path)?;
        for panel in sequence(&board["panels"]) {
            for target in sequence(&panel["targets"]) {
                let place = format!("{path}: {}", panel["title"].as_str().unwrap_or_default());
                all.push((place, target["expr"].as_str().unwrap_or_default().to_owned()));
            }
        }
        for variable in sequence(&board["templating"]["list"]) {
            let query = variable["definition"].as_str().unwrap_or_default();
            let inner = query.strip_prefix("label_values(").and_then(|q| q.rsplit_once(','));
            all.push((format!("{path}: a variable"), inner.ok_or("no query")?.0.to_owned()));
        }
    }
    let rules = yaml("deploy/prometheus/rules.yml")?;
    for rule in sequence(&rules["groups"]).flat_map(|group| sequence(&group["rules"])) {
        let name = rule["alert"].as_str().or_else(|| rule["record"].as_str()).unwrap_or_default();
        let expression = rule["expr"].as_str().unwrap_or_default();
        // An alert's threshold is not reached in health; its left side must be there.
        let left = expression.rsplit_once([' ', '\n']).filter(|_| rule["record"].is_null());
        let left = left.and_then(|(left, _)| left.trim_end().rsplit_once(' '));
        all.push((name.to_owned(), left.map_or(expression, |(left, _)| left).to_owned()));
    }
    Ok(all)
}

/// Two brokers that are busy, and whatever the stack has to watch them.
struct Stack {
    prometheus: SocketAddr,
    brokers: [Process; 2],
    _others: [Process; 3],
    _scratch: Scratch,
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl Stack {
    fn start() -> Result<Self, Failed> {
        let scratch = Scratch::new("prometheus")?;
        let pages = [local(free_port()), local(free_port())];
        let redis = redis(&scratch)?;
        let port = redis.address.port();
        let brokers = [broker("BROKER1", pages[0], port)?, broker("BROKER2", pages[1], port)?];
        let exporter = exporter(redis.address)?;
        let mut configuration = text("deploy/prometheus/prometheus.yml")?;
        for (ours, here) in [
            ("octopus-broker1:20080", pages[0].to_string()),
            ("octopus-broker2:20080", pages[1].to_string()),
            ("octopus-redis-exporter:9121", exporter.address.to_string()),
            ("interval: 5s", "interval: 1s".to_owned()),
            ("timeout: 4s", "timeout: 1s".to_owned()),
        ] {
            assert!(configuration.contains(ours), "{ours} is not in prometheus.yml");
            configuration = configuration.replace(ours, &here);
        }
        scratch.write("prometheus.yml", &configuration)?;
        scratch.write("rules.yml", &text("deploy/prometheus/rules.yml")?)?;
        let address = local(free_port());
        let mut command = Command::new("prometheus");
        command.arg(format!("--web.listen-address={address}"));
        command.arg("--config.file=prometheus.yml").arg("--storage.tsdb.path=data");
        command.current_dir(scratch.path());
        let prometheus = Process::spawn(command, address)?;
        prometheus.wait_for("Server is ready to receive web requests")?;
        let others = [redis, exporter, prometheus];
        Ok(Self { prometheus: address, brokers, _others: others, _scratch: scratch })
    }

    /// Some messages of each QoS through each broker.
    fn use_it(&self) -> Result<(), Failed> {
        for broker in &self.brokers {
            let port = broker.address.port().to_string();
            for qos in ["0", "1", "2"] {
                let arguments = ["-p", &port, "-t", "a/b", "-q", qos, "-m", "hello"];
                run(Command::new("mosquitto_pub").args(arguments))?;
            }
            let kept = ["-p", &port, "-t", "kept", "-r", "-m", "hello"];
            run(Command::new("mosquitto_pub").args(kept))?;
            let read = ["-p", &port, "-t", "kept", "-C", "1", "-W", "10"];
            run(Command::new("mosquitto_sub").args(read))?;
        }
        Ok(())
    }

    /// How many series the expression has now.
    fn series(&self, expression: &str) -> Result<usize, Failed> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = get(self.prometheus, &format!("/api/v1/query?query={encoded}"))?;
        let answer: Value = serde_yaml::from_str(&answer)?;
        assert_eq!(answer["status"], "success", "{expression}");
        Ok(sequence(&answer["data"]["result"]).count())
    }
}

/// A node of the stack's group; it writes the six keys itself.
fn broker(id: &str, page: SocketAddr, redis: u16) -> Result<Process, Failed> {
    let mut command = Command::new(octopus());
    let port = free_port();
    command.args(["--shards=2", "--http.host=127.0.0.1", &format!("--broker.port={port}")]);
    command.arg(format!("--http.port={}", page.port())).arg(format!("--broker.id={id}"));
    command.args(["--broker.group=GROUP1", "--redis.host=127.0.0.1", "--stats.interval=1s"]);
    command.arg(format!("--redis.port={redis}"));
    let broker = Process::spawn(command, local(port))?;
    broker.wait_for("listening on")?;
    Ok(broker)
}

/// A Redis for the group.
fn redis(scratch: &Scratch) -> Result<Process, Failed> {
    let address = local(free_port());
    let port = address.port().to_string();
    let mut command = program("redis-server");
    command.args(["--port", &port, "--bind", "127.0.0.1", "--save", ""]);
    command.current_dir(scratch.path());
    let redis = Process::spawn(command, address)?;
    redis.wait_for("eady to accept connections")?;
    Ok(redis)
}

/// redis_exporter as the stack starts it: by environment.
fn exporter(redis: SocketAddr) -> Result<Process, Failed> {
    let address = local(free_port());
    let keys: Vec<String> =
        compose::exported_keys()?.iter().map(|key| format!("db0={key}")).collect();
    let mut command = Command::new("prometheus-redis-exporter");
    command.env("REDIS_ADDR", format!("redis://{redis}"));
    command.env("REDIS_EXPORTER_CHECK_SINGLE_KEYS", keys.join(","));
    command.arg(format!("-web.listen-address={address}"));
    let exporter = Process::spawn(command, address)?;
    exporter.wait_for("Providing metrics at")?;
    Ok(exporter)
}

/// Long enough for the few scrapes that a rate needs; only a failure takes all of it.
const PATIENCE: Duration = Duration::from_secs(40);

fn expressions() -> Result<(), Failed> {
    let stack = Stack::start()?;
    let mut left: Vec<(String, String)> = all_expressions()?
        .into_iter()
        .map(|(place, expression)| {
            let expression = expression.replace("$__rate_interval", "10s");
            let names = ["$group", "$node", "$shard"];
            (place, names.iter().fold(expression, |text, name| text.replace(name, ".+")))
        })
        .collect();
    // Both brokers and the exporter.
    left.push(("targets".to_owned(), "count(up == 1) == 3".to_owned()));
    // What the brokers write of the group is what redis_exporter reads: two of them, in use.
    for name in compose::STATS {
        let used = if ["RECEIVED", "SENT", "RETAINED"].contains(&name) { "> 0" } else { ">= 0" };
        let series = format!("redis_key_value{{key=\"STATS:GROUP1:TOTAL_{name}\"}} {used}");
        left.push((format!("STATS keys: {name}"), series));
    }
    let deadline = Instant::now() + PATIENCE;
    while !left.is_empty() && Instant::now() < deadline {
        stack.use_it()?;
        let mut empty = Vec::new();
        for (place, expression) in left {
            if stack.series(&expression)? == 0 {
                empty.push((place, expression));
            }
        }
        left = empty;
        // Prometheus tells nobody when it has scraped, so it is asked again after a while.
        thread::sleep(Duration::from_millis(500));
    }
    let faults: Vec<String> =
        left.iter().map(|(place, expression)| format!("{place}: no data: {expression}")).collect();
    report(&faults)
}
