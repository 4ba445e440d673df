//! What a stranger is told who starts the broker wrongly: what, where, and how to mend it.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Output};

use libtest_mimic::{Failed, Trial};

use super::expect;
use crate::harness::broker::{Process, free_port};

pub(super) fn trial() -> Trial {
    Trial::test("ops::mistakes::each_is_told_with_its_place_and_remedy", mistakes)
}

/// Runs it in a directory of its own until it ends by itself, which a mistake makes it do.
fn octopus(directory: &std::path::Path, arguments: &[&str]) -> Result<Output, Failed> {
    let mut command = Command::new("timeout");
    command.arg("20").arg(env!("CARGO_BIN_EXE_octopus")).args(arguments);
    Ok(command.env_remove("OCTOPUS_TEST_BROKER").current_dir(directory).output()?)
}

fn mistakes() -> Result<(), Failed> {
    let directory = std::env::temp_dir().join(format!("octopus-mistakes-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let told = all(&directory);
    std::fs::remove_dir_all(&directory)?;
    told
}

fn all(directory: &std::path::Path) -> Result<(), Failed> {
    for (name, text) in [
        ("key.yml", "broker:\n  prot: 1883\n"),
        ("value.yml", "broker:\n  host: ::1\n  port: 99999\n"),
        ("tab.yml", "broker:\n\tport: 1883\n"),
    ] {
        std::fs::write(directory.join(name), text)?;
    }
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, taken))?;
    let (mqtt, http) = (format!("--broker.port={taken}"), format!("--http.port={taken}"));
    let nowhere = free_port();
    let (free, no_api) = ("--broker.port=0", format!("--http.port={nowhere}"));
    let at = format!("127.0.0.1:{nowhere}");
    let in_use = format!("127.0.0.1:{taken} is in use: another process listens there");
    let http_in_use = format!("http.port {taken}: in use");
    let cases: &[(&[&str], &[&str])] = &[
        (&["--config", "key.yml"], &["key.yml:2: broker.prot: no such key", "broker.port"]),
        (&["--config", "value.yml"], &["value.yml:3: broker.port:", "0 to 65535"]),
        (&["--config", "tab.yml"], &["tab.yml:2: ", "spaces, YAML takes no tabs"]),
        (&["--config", "none.yml"], &["none.yml: cannot be read: No such file"]),
        (&["--broker.port=many"], &["--broker.port", "a whole number, 0 to 65535"]),
        (&[&mqtt, "--http.enable=false"], &[&in_use, "--broker.port=20001"]),
        (&[free, &http], &[&http_in_use, "another port by http.port"]),
        (
            &[free, &no_api, "--broker.auth.enable=true", "--auth.password_file=none"],
            &["auth.password_file: none: No such file"],
        ),
        (&["status", &no_api], &[&at, "Connection refused", "is octopus running", "http.port"]),
        (&["publish", "a", "b", "--at", &at], &[&at, "Connection refused", "broker.port"]),
        (&["statsu"], &["unrecognized subcommand 'statsu'", "'status'"]),
    ];
    for (arguments, wanted) in cases {
        let output = octopus(directory, arguments)?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        expect(!output.status.success(), (arguments, &told))?;
        expect(output.status.code() != Some(124), ("it does not end", arguments, &told))?;
        for part in *wanted {
            expect(told.contains(part), (arguments, part, &told))?;
        }
    }
    drop(listener);
    // Its clients are served without Redis, and the log says which one is not there.
    let missing = Process::start(&[
        "--broker.group=GROUP1".to_owned(),
        "--redis.host=127.0.0.1".to_owned(),
        format!("--redis.port={nowhere}"),
    ])?;
    let wanted = format!("place=\"redis.host 127.0.0.1, redis.port {nowhere}\"");
    let told = missing.wait_for("Redis cannot be reached")?;
    expect(told.contains(&wanted), told)
}
