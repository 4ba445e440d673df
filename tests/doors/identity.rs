//! Who a client's certificate says it is, against what the client says itself.

use libtest_mimic::Failed;

use super::certificates::Certificates;
use super::{Door, MUTUAL, Tests};
use crate::auth::set_password;

pub(super) const TESTS: Tests = &[
    ("the_common_name_is_the_user_whatever_connect_says", || user("cn", "alice")),
    ("the_subject_is_the_user_whatever_connect_says", || user("subject", "CN=alice,O=test")),
    ("a_listener_that_goes_by_no_name_asks_for_a_password", || nobody("none")),
    ("a_banned_user_is_kept_out_by_the_name_of_its_certificate", banned),
];

/// A listener that takes names from certificates; its rules let alice and the account roger
/// each read a topic of their own.
fn open(user_from: &str) -> Result<Door, Failed> {
    open_with(user_from, &[])
}

fn open_with(user_from: &str, more: &[&str]) -> Result<Door, Failed> {
    let files = Certificates::make()?;
    set_password(files.file("passwords").as_ref(), "roger", "secret", &[])?;
    let rules = "user alice\ntopic read of/alice\nuser CN=alice,O=test\ntopic read of/alice\n\
                 user roger\ntopic read of/roger\npattern write of/#\n";
    std::fs::write(files.file("acl"), rules)?;
    let user_from = format!("--listeners[0].tls.user_from={user_from}");
    let own = [
        &*user_from,
        "--broker.auth.enable=true",
        // The password comes first, and is right; the certificate counts all the same.
        "--auth.chain=password_file,certificate",
        "--auth.password_file=@/passwords",
        "--auth.acl_file=@/acl",
    ];
    Door::open_with(files, "tls", &[&MUTUAL[..], &own, more].concat())
}

/// What it says in CONNECT is another name, or none.
fn banned() -> Result<(), Failed> {
    let door = open_with("cn", &["--auth.ban.list=user:alice"])?;
    let message = ["-V", "5", "-q", "1", "-m", "b", "-t", "of/alice"];
    for says in [&[][..], &AS_ROGER] {
        let arguments = [says, &message[..]].concat();
        door.tool("mosquitto_pub", Some("alice"), &arguments).expect_err("banned");
        door.tool("mosquitto_pub", Some("bob"), &arguments)?;
    }
    assert_eq!(door.metric("octopus_auth_banned_total", "")?, 2.0);
    Ok(())
}

const AS_ROGER: [&str; 4] = ["-u", "roger", "-P", "secret"];

fn user(user_from: &str, name: &str) -> Result<(), Failed> {
    let door = open(user_from)?;
    let keep = ["-q", "1", "-r", "-m", "kept", "-t"];
    for topic in ["of/alice", "of/roger"] {
        door.tool("mosquitto_pub", Some("alice"), &[&keep[..], &[topic]].concat())?;
    }
    for says in [&[][..], &AS_ROGER, &["-u", "roger", "-P", "wrong"], &["-u", "roger"]] {
        let wanted = ["-V", "5", "-C", "1", "-W", "10", "-t"];
        let read =
            |topic| door.tool("mosquitto_sub", Some("alice"), &[says, &wanted, &[topic]].concat());
        assert_eq!(read("of/alice")?, "kept", "{says:?}");
        let before = door.metric("octopus_subscribes_denied_total{", "")?;
        // mosquitto_sub 2.0 ends well though all it asked for is denied.
        assert_ne!(read("of/roger").ok().as_deref(), Some("kept"), "roger's, not alice's");
        assert_eq!(door.metric("octopus_subscribes_denied_total{", "")? - before, 1.0);
    }
    door.broker.wait_for(&format!("user=\"{name}\""))?;
    assert!(!door.broker.log().contains("user=\"roger\""), "{}", door.broker.log());
    Ok(())
}

fn nobody(user_from: &str) -> Result<(), Failed> {
    let door = open(user_from)?;
    let message = ["-q", "1", "-m", "b", "-t", "of/roger"];
    let publish =
        |says: &[&str]| door.tool("mosquitto_pub", Some("alice"), &[says, &message].concat());
    publish(&[]).expect_err("nobody");
    publish(&AS_ROGER)?;
    door.broker.wait_for("user=\"roger\"")?;
    Ok(())
}
