//! `seccomp-octopus.json` in the kernel's hands: the broker serves under it, and what it leaves
//! out is refused. A container runtime would load the same rules through the same library.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use libtest_mimic::Failed;
use serde_yaml::Value;

use super::Test;
use super::tools::{all, octopus, program, root, run, text, yaml};
use crate::harness::broker::{Process, free_port};

pub(super) fn tests() -> Vec<Test> {
    vec![
        ("seccomp_profile_has_dockers_form", form),
        ("seccomp_profile_lets_the_broker_serve", serves),
        ("seccomp_profile_refuses_the_rest", refuses),
        ("without_io_uring_the_broker_says_what_is_in_the_way", without_io_uring),
        ("unit_allows_the_calls_that_the_broker_makes", unit),
    ]
}

const PROFILE: &str = "deploy/seccomp-octopus.json";

/// The fields of Docker's format, as far as this profile may use them: what other runtimes
/// ignore (`includes`, `excludes`) would mean something else there.
fn form() -> Result<(), Failed> {
    let profile = yaml(PROFILE)?;
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let known = ["names", "action", "args", "comment", "errnoRet"];
    for rule in profile["syscalls"].as_sequence().ok_or("no syscalls")? {
        for (key, _) in rule.as_mapping().ok_or("a rule is a mapping")? {
            assert!(key.as_str().is_some_and(|key| known.contains(&key)), "{key:?}");
        }
        let action = rule["action"].as_str().unwrap_or_default();
        assert!(["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"].contains(&action), "{action}");
        assert!(rule["names"].as_sequence().is_some_and(|names| !names.is_empty()));
    }
    let allowed = |name: &str| {
        let rules = profile["syscalls"].as_sequence().into_iter().flatten();
        let mut names = rules.filter(|rule| rule["action"] == "SCMP_ACT_ALLOW").flat_map(names_of);
        names.any(|allowed| allowed == name)
    };
    for name in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(allowed(name), "{name}");
    }
    for name in ["ptrace", "mount", "bpf", "unshare", "keyctl", "kill", "init_module", "setns"] {
        assert!(!allowed(name), "{name}");
    }
    Ok(())
}

fn names_of(rule: &Value) -> Vec<&str> {
    rule["names"].as_sequence().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// The command that loads the profile and becomes `arguments`.
fn under(profile: &str) -> Command {
    let mut command = Command::new("python3");
    command.arg(root().join("tests/deploy/under_seccomp.py")).arg(profile);
    command
}

fn serves() -> Result<(), Failed> {
    let profile = root().join(PROFILE);
    exchange(under(&profile.to_string_lossy()))
}

/// A message goes through a broker that is started by `command`.
fn exchange(mut command: Command) -> Result<(), Failed> {
    let port = free_port();
    command.arg(octopus()).arg(format!("--broker.port={port}"));
    command.args(["--broker.host=127.0.0.1", "--http.port=0", "--shards=2"]);
    let broker = Process::spawn(command, SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    broker.wait_for("listening on")?;
    let mut publish = Command::new("mosquitto_pub");
    let port = port.to_string();
    publish.args(["-p", &port, "-t", "kept", "-m", "hello", "-q", "1", "-r"]);
    run(&mut publish)?;
    let mut subscribe = Command::new("mosquitto_sub");
    subscribe.args(["-p", &port, "-t", "kept", "-C", "1", "-W", "10"]);
    assert_eq!(run(&mut subscribe)?.trim(), "hello");
    Ok(())
}

fn refuses() -> Result<(), Failed> {
    let profile = root().join(PROFILE).to_string_lossy().into_owned();
    for (name, arguments) in [
        ("a new namespace", vec!["unshare", "--user", "true"]),
        ("a packet socket", vec!["python3", "-c", "import socket; socket.socket(17, 3, 3)"]),
    ] {
        let output = under(&profile).args(&arguments).output()?;
        assert!(!output.status.success(), "{name}");
        let said = all(&output);
        assert!(said.contains("not permitted"), "{name}: {said}");
    }
    Ok(())
}

/// As under Docker's own profile.
fn without_io_uring() -> Result<(), Failed> {
    let profile = yaml(PROFILE)?;
    let rules = profile["syscalls"].as_sequence().into_iter().flatten();
    let names = rules.flat_map(names_of).filter(|name| !name.starts_with("io_uring"));
    let allow = format!("allow:{}", names.collect::<Vec<_>>().join(","));
    let mut command = under(&allow);
    command.arg(octopus()).args(["--broker.port=0", "--http.port=0"]);
    let output = command.output()?;
    assert!(!output.status.success());
    let said = all(&output);
    assert!(said.contains("io_uring") && said.contains("seccomp"), "{said}");
    Ok(())
}

/// The unit's `SystemCallFilter`, its sets written out by systemd itself.
fn unit() -> Result<(), Failed> {
    let mut names: Vec<String> = Vec::new();
    for line in text("deploy/octopus.service")?.lines() {
        let Some(filter) = line.strip_prefix("SystemCallFilter=") else { continue };
        let (remove, words) = match filter.strip_prefix('~') {
            Some(words) => (true, words),
            None => (false, filter),
        };
        for word in words.split_whitespace() {
            let calls = calls_of(word)?;
            match remove {
                true => names.retain(|name| !calls.contains(name)),
                false => names.extend(calls),
            }
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    exchange(under(&format!("allow:{}", names.join(","))))
}

/// The calls of a set such as `@system-service`, sets within it included; or the call itself.
fn calls_of(word: &str) -> Result<Vec<String>, Failed> {
    if !word.starts_with('@') {
        return Ok(vec![word.to_owned()]);
    }
    let listing = run(program("systemd-analyze").args(["--no-pager", "syscall-filter", word]))?;
    let mut calls = Vec::new();
    for line in listing.lines().map(str::trim).skip(1) {
        if !line.is_empty() && !line.starts_with('#') {
            calls.extend(calls_of(line)?);
        }
    }
    // Always part of an allow list, whether named or not.
    if word == "@system-service" {
        calls.extend(calls_of("@default")?);
    }
    Ok(calls)
}
