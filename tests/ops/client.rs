//! `octopus publish` and `octopus subscribe` where a name, a password or TLS is asked for.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Output};

use libtest_mimic::{Failed, Trial};

use super::{expect, success};
use crate::doors::certificates::Certificates;
use crate::harness::broker::{Process, free_port};

pub(super) fn trial() -> Trial {
    Trial::test("ops::client::it_shows_a_password_and_speaks_tls", shown_over_tls)
}

fn octopus(at: SocketAddr, arguments: &[&str]) -> Result<Output, Failed> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_octopus"));
    Ok(command.args(arguments).args(["--at", &at.to_string()]).output()?)
}

fn shown_over_tls() -> Result<(), Failed> {
    let files = Certificates::make()?;
    let accounts = files.file("accounts");
    let mut passwd = Command::new(env!("CARGO_BIN_EXE_octopus"));
    success(&passwd.args(["passwd", "-b", "right", &accounts, "roger"]).output()?)?;
    let (right, wrong) = (files.file("right"), files.file("wrong"));
    std::fs::write(&right, "right\n")?;
    std::fs::write(&wrong, "wrong\n")?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let broker = Process::start(&[
        "--broker.auth.enable=true".to_owned(),
        "--auth.chain=password_file".to_owned(),
        format!("--auth.password_file={accounts}"),
        "--listeners[0].name=tls".to_owned(),
        "--listeners[0].kind=tls".to_owned(),
        format!("--listeners[0].address={address}"),
        format!("--listeners[0].tls.certificate={}", files.file("server.pem")),
        format!("--listeners[0].tls.key={}", files.file("server.key")),
    ])?;
    let publish = ["publish", "kept", "hello", "--retain", "-q", "2"];
    let publish = |at, more: &[&str]| octopus(at, &[&publish[..], more].concat());
    let ca = files.file("ca.pem");
    success(&publish(broker.address, &["--user", "roger", "--password", "right"])?)?;
    for refused in [
        publish(broker.address, &["--user", "roger", "--password-file", &wrong])?,
        publish(broker.address, &[])?,
        // Somebody else's authority.
        publish(
            address,
            &["--user", "roger", "--password", "right", "--ca", &files.file("alice.pem")],
        )?,
        publish(address, &["--user", "roger", "--password", "right", "--ca", &right])?,
    ] {
        expect(!refused.status.success() && !refused.stderr.is_empty(), refused)?;
    }
    let tls = ["--user", "roger", "--password-file", &right, "--ca", &ca];
    success(&publish(address, &tls)?)?;
    let came =
        octopus(address, &[&["subscribe", "kept", "--count", "1", "-q", "1"][..], &tls].concat())?;
    expect(came.status.success() && came.stdout == b"kept hello\n", came)
}
