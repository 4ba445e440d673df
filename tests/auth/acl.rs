//! What a client may do, and how it is told that it may not.

use libtest_mimic::Failed;

use super::client::{Card, Client, code_of, publish};
use super::{Files, Test, VERSIONS, broker};
use crate::harness::broker::Process;
use crate::harness::wire::{Packet, Version};

pub(super) const TESTS: &[(&str, Test)] = &[
    ("a_denied_publish_is_acknowledged_as_the_version_demands", denied_publish),
    ("a_denied_subscribe_is_refused", denied_subscribe),
    ("a_will_that_may_not_be_published_is_refused_with_its_connect", denied_will),
    ("dollar_topics_are_written_only_if_a_rule_names_them", dollar_topics),
    ("names_are_put_into_rules", names),
    ("rules_hold_for_an_open_broker_too", open_broker),
];

const RULES: &str = "\
otherwise: deny
rules:
  - {verdict: allow, topics: ['open/#', 'own/%u/%c/#']}
  - {verdict: allow, user: admin, topics: ['$SYS/#', 'all/#']}
";

fn settings(files: &Files) -> Result<Vec<String>, Failed> {
    let acl = files.write("acl.yml", RULES)?;
    Ok(vec!["--broker.auth.enable=false".to_owned(), format!("--auth.acl_file={}", acl.display())])
}

/// Anyone may connect under any name; the rules hold all the same.
fn start() -> Result<(Process, Files), Failed> {
    let files = Files::new()?;
    let settings = settings(&files)?;
    Ok((broker(&settings)?, files))
}

fn denied_publish() -> Result<(), Failed> {
    let (broker, _files) = start()?;
    for version in VERSIONS {
        let mut reader = Client::let_in(&broker, version, &Card::new("r", "u", ""))?;
        assert_eq!(reader.subscribe("open/#")?, 1);
        let mut client = Client::let_in(&broker, version, &Card::new("c", "u", ""))?;
        let denied = if version == Version::V5 { 0x87 } else { 0 };
        assert_eq!(client.publish("closed/x", "secret")?, denied, "{version:?} QoS 1");
        let exactly_once = publish("closed/x", "secret").number("qos", 2_u8).number("id", 3_u8);
        let pubrec = client.ask(&exactly_once, "pubrec")?;
        assert_eq!(code_of(&pubrec), denied, "{version:?} QoS 2");
        client.send(&publish("closed/x", "secret"))?;
        client.ping()?;
        assert_eq!(client.publish("open/x", "said")?, 0);
        let came = reader.expect("publish")?;
        assert_eq!(came.bytes_of("payload"), b"said", "{version:?}: only what is allowed");
    }
    Ok(())
}

fn denied_subscribe() -> Result<(), Failed> {
    let (broker, _files) = start()?;
    for version in VERSIONS {
        let mut client = Client::let_in(&broker, version, &Card::new("c", "u", ""))?;
        let denied = if version == Version::V5 { 0x87 } else { 0x80 };
        for filter in ["#", "closed/x", "+/x", "$SYS/#", "$share/g/closed/#", "own/u/+/#"] {
            assert_eq!(client.subscribe(filter)?, denied, "{version:?} {filter}");
        }
        for filter in ["open/+", "$share/g/open/#", "own/u/c/#"] {
            assert_eq!(client.subscribe(filter)?, 1, "{version:?} {filter}");
        }
    }
    Ok(())
}

fn denied_will() -> Result<(), Failed> {
    let (broker, _files) = start()?;
    for (version, code) in [(Version::V3_1_1, 5), (Version::V5, 0x87)] {
        let with_will = |topic: &str| {
            Card::new("w", "u", "").connect().bytes("will-topic", topic).bytes("will", "gone")
        };
        let mut client = Client::open(&broker, version)?;
        let connack = client.ask(&with_will("closed/x"), "connack")?;
        assert_eq!(connack.number_of("code"), code, "{version:?}");
        assert_eq!(client.next()?, None, "and closed");
        let mut client = Client::open(&broker, version)?;
        let connack = client.ask(&with_will("open/x"), "connack")?;
        assert_eq!(connack.number_of("code"), 0, "{version:?}");
    }
    Ok(())
}

fn dollar_topics() -> Result<(), Failed> {
    let (broker, _files) = start()?;
    let mut client = Client::let_in(&broker, Version::V5, &Card::new("c", "u", ""))?;
    assert_eq!(client.publish("$SYS/broker/uptime", "0")?, 0x87);
    let mut admin = Client::let_in(&broker, Version::V5, &Card::new("a", "admin", ""))?;
    assert_ne!(admin.publish("$SYS/broker/uptime", "0")?, 0x87);
    let without_rules = Process::start(&[])?;
    let mut client = Client::let_in(&without_rules, Version::V5, &Card::new("c", "u", ""))?;
    assert_eq!(client.publish("$SYS/broker/uptime", "0")?, 0x87);
    Ok(())
}

fn names() -> Result<(), Failed> {
    let (broker, _files) = start()?;
    let mut client = Client::let_in(&broker, Version::V5, &Card::new("c", "u", ""))?;
    assert_eq!(client.publish("own/u/d/x", "")?, 0x87);
    assert_ne!(client.publish("own/u/c/x", "")?, 0x87);
    let mut evil = Client::let_in(&broker, Version::V5, &Card::new("#", "+", ""))?;
    assert_eq!(evil.subscribe("own/+/#")?, 0x87);
    assert_eq!(evil.publish("own/u/c/x", "")?, 0x87);
    Ok(())
}

fn open_broker() -> Result<(), Failed> {
    let (broker, _files) = start()?;
    let nobody = Card { client: "n", ..Card::default() };
    let mut client = Client::let_in(&broker, Version::V3_1_1, &nobody)?;
    assert_eq!(client.subscribe("all/#")?, 0x80);
    assert_eq!(client.subscribe("open/#")?, 1);
    client.send(&Packet::new("disconnect"))
}
