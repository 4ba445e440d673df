//! Listeners that each have their own limits and their own word on who is let in.

use std::net::{Ipv4Addr, SocketAddr};

use libtest_mimic::Failed;

use super::backends::set;
use super::client::{Card, Client};
use super::{Files, Test, broker, metric, metrics, wait};
use crate::harness::broker::free_port;
use crate::harness::wire::Version;

pub(super) const TESTS: &[(&str, Test)] = &[
    ("each_listener_decides_who_is_let_in", decides),
    ("a_listener_may_ask_though_the_node_does_not", asks),
    ("a_full_listener_turns_away_and_others_do_not", full),
];

const ADMINS: &str = "user admin\ntopic readwrite #\npattern readwrite open\n";

/// A place to listen, and the settings that make it listener `index`.
fn listener(index: usize, more: &[&str]) -> (SocketAddr, Vec<String>) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let key = |rest: &str| format!("--listeners[{index}].{rest}");
    let mut settings = vec![key(&format!("name=l{index}")), key(&format!("address={address}"))];
    settings.extend(more.iter().map(|setting| key(setting)));
    (address, settings)
}

/// The code of CONNACK.
fn code(address: SocketAddr, card: &Card<'_>) -> Result<u64, Failed> {
    let mut client = Client::open_at(address, Version::V5)?;
    Ok(client.ask(&card.connect(), "connack")?.number_of("code"))
}

fn decides() -> Result<(), Failed> {
    let files = Files::new()?;
    let (passwords, acl) = (files.path("passwords"), files.write("acl", ADMINS)?);
    set(&passwords, "admin", "secret", &[])?;
    let (open, open_settings) = listener(0, &["auth.chain=anyone"]);
    let (unnamed, unnamed_settings) = listener(1, &["auth.chain=anonymous"]);
    let own = vec![
        format!("--auth.password_file={}", passwords.display()),
        format!("--auth.acl_file={}", acl.display()),
    ];
    let broker = broker(&[own, open_settings, unnamed_settings].concat())?;
    let admin = Card::new("a", "admin", "secret");
    let wrong = Card::new("a", "admin", "wrong");
    let nobody = Card { client: "n", ..Card::default() };
    for (address, card, expected) in [
        (broker.address, &admin, 0),
        (broker.address, &wrong, 0x86),
        (broker.address, &nobody, 0x87),
        (open, &wrong, 0),
        (open, &nobody, 0),
        (unnamed, &nobody, 0),
        (unnamed, &admin, 0x86),
    ] {
        assert_eq!(code(address, card)?, expected, "{address} {card:?}");
    }
    // Who it says it is, is not believed where nobody asks for a proof.
    for (address, card, expected) in [(broker.address, &admin, 1), (open, &wrong, 0x87)] {
        let mut client = Client::open_at(address, Version::V5)?;
        client.ask(&card.connect(), "connack")?;
        assert_eq!(client.subscribe("secret")?, expected, "{address}");
        assert_eq!(client.subscribe("open")?, 1);
    }
    Ok(())
}

fn asks() -> Result<(), Failed> {
    let files = Files::new()?;
    let passwords = files.path("passwords");
    set(&passwords, "roger", "secret", &[])?;
    let (asking, settings) = listener(0, &["auth.chain=password_file"]);
    let own = vec![
        "--broker.auth.enable=false".to_owned(),
        format!("--auth.password_file={}", passwords.display()),
    ];
    let broker = broker(&[own, settings].concat())?;
    let wrong = Card::new("c", "roger", "wrong");
    assert_eq!(code(broker.address, &wrong)?, 0);
    assert_eq!(code(asking, &wrong)?, 0x86);
    assert_eq!(code(asking, &Card::new("c", "roger", "secret"))?, 0);
    Ok(())
}

fn full() -> Result<(), Failed> {
    let (narrow, settings) = listener(0, &["connections_max=2"]);
    let (http, with_metrics) = metrics();
    let own = vec!["--broker.auth.enable=false".to_owned()];
    let broker = broker(&[own, settings, with_metrics.into()].concat())?;
    let stay = |id: &str| -> Result<Client, Failed> {
        let mut client = Client::open_at(narrow, Version::V5)?;
        client.ask(&Card { client: id, ..Card::default() }.connect(), "connack")?;
        Ok(client)
    };
    let (first, _second) = (stay("1")?, stay("2")?);
    assert!(stay("3").is_err(), "a third is closed");
    Client::let_in(&broker, Version::V5, &Card::new("elsewhere", "", ""))?;
    let line = broker.wait_for("the listener's limit is reached")?;
    assert!(line.contains("listener=1") && line.contains("limit=2"), "{line}");
    assert!(metric(http, "octopus_sockets_refused_total")? >= 1.0);
    drop(first);
    wait("a place is free again", || Ok(stay("4").is_ok()))
}
