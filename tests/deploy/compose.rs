//! `docker-compose.yml`: the predecessor's services and ports, what every service must have, and
//! that what it names in other files is there.

use libtest_mimic::Failed;
use serde_yaml::Value;

use super::Test;
use super::tools::{root, text};

pub(super) fn tests() -> Vec<Test> {
    vec![
        ("stack_has_the_predecessors_services_and_ports", services),
        ("stack_hardens_and_bounds_every_service", hardened),
        ("stack_mounts_what_is_there", mounts),
        ("stack_asks_for_the_six_stats_keys", stats_keys),
        ("stack_agrees_with_the_files_that_name_its_services", names),
    ]
}

/// The file with its anchors and `<<` carried out.
fn stack() -> Result<Value, Failed> {
    let mut stack: Value = serde_yaml::from_str(&text("deploy/docker-compose.yml")?)?;
    // `<<` within what is merged itself needs a second round.
    stack.apply_merge()?;
    stack.apply_merge()?;
    Ok(stack)
}

fn each() -> Result<Vec<(String, Value)>, Failed> {
    let stack = stack()?;
    let services = stack["services"].as_mapping().ok_or("no services")?.clone();
    let named =
        services.into_iter().filter_map(|(name, value)| Some((name.as_str()?.to_owned(), value)));
    Ok(named.collect())
}

fn list(value: &Value) -> impl Iterator<Item = &str> {
    value.as_sequence().into_iter().flatten().filter_map(Value::as_str)
}

fn services() -> Result<(), Failed> {
    let stack = stack()?;
    for (name, port) in [
        ("octopus-nginx", "20000"),
        ("octopus-broker1", "20001"),
        ("octopus-broker2", "20002"),
        ("octopus-redis", "6379"),
        ("octopus-prometheus", "9090"),
        ("octopus-prometheus-redis_exporter", "9121"),
        ("octopus-grafana", "3000"),
    ] {
        let published = list(&stack["services"][name]["ports"]).collect::<Vec<_>>();
        assert_eq!(published.len(), 1, "{name}");
        assert!(published[0].ends_with(&format!(":{port}:{port}")), "{name}: {published:?}");
        let loopback = published[0].starts_with("127.0.0.1:")
            || published[0].starts_with("${OCTOPUS_PUBLISH:-127.0.0.1}:");
        assert!(loopback, "{name} is published to others unasked");
    }
    Ok(())
}

fn hardened() -> Result<(), Failed> {
    for (name, service) in each()? {
        let image = service["image"].as_str().unwrap_or_default();
        let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
        assert!(tag.matches('.').count() >= 2, "{name}: {image} is not pinned");
        assert_eq!(service["restart"], "unless-stopped", "{name}");
        assert_eq!(service["read_only"], true, "{name}");
        assert!(list(&service["cap_drop"]).eq(["ALL"]), "{name}");
        let no_more = list(&service["security_opt"]).any(|o| o == "no-new-privileges:true");
        assert!(no_more, "{name}");
        let user = service["user"].as_str().unwrap_or_default().split(':').next();
        assert!(user.and_then(|id| id.parse().ok()).is_some_and(|id: u32| id > 0), "{name}");
        assert!(!service["healthcheck"]["test"].is_null(), "{name}");
        let limits = &service["deploy"]["resources"]["limits"];
        assert!(!limits["memory"].is_null() && !limits["cpus"].is_null(), "{name}");
    }
    let stack = stack()?;
    for name in ["octopus-broker1", "octopus-broker2"] {
        let service = &stack["services"][name];
        let seccomp = list(&service["security_opt"]).any(|o| o == "seccomp:./seccomp-octopus.json");
        assert!(seccomp, "{name} needs io_uring");
        for limit in ["nofile", "memlock"] {
            assert!(!service["ulimits"][limit]["hard"].is_null(), "{name}: {limit}");
        }
    }
    Ok(())
}

/// Files beside the stack exist; volumes are declared.
fn mounts() -> Result<(), Failed> {
    let stack = stack()?;
    for (name, service) in each()? {
        for volume in list(&service["volumes"]) {
            let source = volume.split(':').next().unwrap_or_default();
            match source.strip_prefix("./") {
                Some(path) => {
                    assert!(root().join("deploy").join(path).exists(), "{name}: {volume}");
                    assert!(volume.ends_with(":ro"), "{name}: {volume} can be written");
                }
                None => assert!(!stack["volumes"][source].is_null(), "{name}: {volume}"),
            }
        }
    }
    Ok(())
}

pub(super) const STATS: [&str; 6] =
    ["TOPICS", "SUBSCRIPTIONS", "RETAINED", "SENT", "RECEIVED", "CONNECTION"];

/// What redis_exporter is told to read, without the database's number.
pub(super) fn exported_keys() -> Result<Vec<String>, Failed> {
    let stack = stack()?;
    let environment = &stack["services"]["octopus-prometheus-redis_exporter"]["environment"];
    let keys = environment["REDIS_EXPORTER_CHECK_SINGLE_KEYS"].as_str().ok_or("no keys")?;
    Ok(keys
        .split(',')
        .filter_map(|key| key.trim().strip_prefix("db0="))
        .map(String::from)
        .collect())
}

fn stats_keys() -> Result<(), Failed> {
    let configuration: Value = serde_yaml::from_str(&text("deploy/octopus.yml")?)?;
    let group = configuration["broker"]["group"].as_str().ok_or("no group")?;
    let wanted: Vec<String> =
        STATS.iter().map(|what| format!("STATS:{group}:TOTAL_{what}")).collect();
    assert_eq!(exported_keys()?, wanted);
    Ok(())
}

/// Nginx, Prometheus and Grafana ask for services and ports that are there.
fn names() -> Result<(), Failed> {
    let stack = stack()?;
    let nginx = text("deploy/nginx.conf")?;
    let prometheus: Value = serde_yaml::from_str(&text("deploy/prometheus/prometheus.yml")?)?;
    let configuration: Value = serde_yaml::from_str(&text("deploy/octopus.yml")?)?;
    let proxied = configuration["listeners"][0]["address"].as_str().unwrap_or_default();
    let port = proxied.rsplit(':').next().unwrap_or_default();
    let targets: Vec<&str> =
        list(&prometheus["scrape_configs"][0]["static_configs"][0]["targets"]).collect();
    for (index, broker) in ["octopus-broker1", "octopus-broker2"].iter().enumerate() {
        let service = &stack["services"][*broker];
        assert!(nginx.contains(&format!("server {broker}:{port} ")), "{broker} in nginx.conf");
        assert_eq!(targets[index], format!("{broker}:20080"));
        let published = list(&service["ports"]).next().unwrap_or_default();
        let own = service["environment"]["OCTOPUS_BROKER_PORT"].as_str().unwrap_or_default();
        assert!(published.ends_with(&format!(":{own}")), "{broker}: {published}, {own}");
    }
    let exporter = &stack["services"]["octopus-prometheus-redis_exporter"];
    let alias = list(&exporter["networks"]["octopus"]["aliases"]).next().unwrap_or_default();
    let asked = list(&prometheus["scrape_configs"][1]["static_configs"][0]["targets"]).next();
    assert_eq!(asked, Some(&*format!("{alias}:9121")));
    assert_eq!(configuration["redis"]["host"], "octopus-redis");
    let source = text("deploy/grafana/provisioning/datasources/prometheus.yml")?;
    assert!(source.contains("http://octopus-prometheus:9090"));
    let check = list(&stack["services"]["octopus-nginx"]["healthcheck"]["test"]).last();
    assert!(check.is_some_and(|check| check.contains(" 20004 ")), "{check:?}");
    assert!(nginx.contains("listen 127.0.0.1:20004;"));
    Ok(())
}
