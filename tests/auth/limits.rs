//! Limits on connections, on what a client sends in a second, and on names used twice.

use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use super::client::{Card, Client, publish};
use super::{Test, wait};
use crate::harness::broker::Process;
use crate::harness::wire::Version;

pub(super) const TESTS: &[(&str, Test)] = &[
    ("an_address_and_a_user_have_so_many_connections_and_no_more", connections),
    ("a_client_above_its_rate_is_slowed_and_loses_nothing", rate),
    ("clients_of_a_listener_are_slowed_together_and_lose_nothing", listener_rate),
    ("the_newer_of_two_logins_is_refused_if_configured", duplicate),
    ("who_is_on_the_ban_list_is_not_let_in", banned),
    ("a_client_that_flaps_is_banned", flapping),
    ("accepting_keeps_its_pace", pace),
];

fn open(settings: &[&str]) -> Result<Process, Failed> {
    let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
    Ok(Process::start(&[&["--shards=2".to_owned()], &settings[..]].concat())?)
}

fn connections() -> Result<(), Failed> {
    for setting in ["--connections.per_address_max=2", "--connections.per_user_max=2"] {
        let broker = open(&[setting])?;
        let card = |client| Card::new(client, "roger", "");
        let first = Client::let_in(&broker, Version::V5, &card("1"))?;
        let _second = Client::let_in(&broker, Version::V5, &card("2"))?;
        let (_, code) = Client::connect(&broker, Version::V5, &card("3"))?;
        assert_eq!(code, 0x97, "{setting}");
        drop(first);
        wait("the place of who left is free", || {
            Ok(Client::connect(&broker, Version::V5, &card("4"))?.1 == 0)
        })?;
    }
    Ok(())
}

fn rate() -> Result<(), Failed> {
    let broker = open(&["--limits.message_rate_max=200"])?;
    let mut reader = Client::let_in(&broker, Version::V5, &Card::new("r", "", ""))?;
    reader.subscribe("t")?;
    let mut writer = Client::let_in(&broker, Version::V5, &Card::new("w", "", ""))?;
    let start = Instant::now();
    // The first second's worth is free, the rest takes two seconds.
    for index in 0..30 {
        for _ in 0..20 {
            writer.send(&publish("t", &index.to_string()))?;
        }
        // A round trip each, so that not all is read in one piece.
        writer.ping()?;
    }
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1500), "600 messages at 200 a second took {took:?}");
    for _ in 0..600 {
        reader.expect("publish")?;
    }
    Ok(())
}

/// Two clients share what their listener may take.
fn listener_rate() -> Result<(), Failed> {
    let broker = open(&["--broker.message_rate_max=400"])?;
    let mut reader = Client::let_in(&broker, Version::V5, &Card::new("r", "", ""))?;
    reader.subscribe("t/+")?;
    let start = Instant::now();
    std::thread::scope(|scope| {
        let writers: Vec<_> = ["a", "b"]
            .map(|id| {
                let broker = &broker;
                scope.spawn(move || -> Result<(), Failed> {
                    let card = Card::new(id, "", "");
                    let mut writer = Client::let_in(broker, Version::V5, &card)?;
                    for _ in 0..30 {
                        for _ in 0..20 {
                            writer.send(&publish(&format!("t/{id}"), "x"))?;
                        }
                        writer.ping()?;
                    }
                    Ok(())
                })
            })
            .into();
        writers.into_iter().try_for_each(|writer| writer.join().expect("no writer panics"))
    })?;
    // 400 a second in two parts, the first second of each free: with both writers on one shard
    // 1000 at 200 a second, else twice 400 at 200.
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1500), "1200 messages took {took:?}");
    for _ in 0..1200 {
        reader.expect("publish")?;
    }
    broker.wait_for("read more slowly")?;
    Ok(())
}

fn duplicate() -> Result<(), Failed> {
    let broker = open(&["--limits.duplicate_login=refuse_newer"])?;
    let card = Card::new("same", "", "");
    for (version, expected) in [(Version::V3_1_1, 2), (Version::V5, 0x85)] {
        let mut older = Client::let_in(&broker, version, &card)?;
        assert_eq!(Client::connect(&broker, version, &card)?.1, expected);
        older.ping()?;
        drop(older);
        wait("the name is free", || Ok(Client::connect(&broker, version, &card)?.1 == 0))?;
        wait("and again", || Ok(Client::connect(&broker, version, &card)?.1 == 0))?;
        wait("its last user is gone", || Ok(Client::connect(&broker, Version::V5, &card)?.1 == 0))?;
    }
    Ok(())
}

fn banned() -> Result<(), Failed> {
    let broker = open(&["--auth.ban.list=client:evil,user:eve,address:10.0.0.0/8"])?;
    for (card, expected) in [
        (Card::new("evil", "a", ""), 0x8a),
        (Card::new("c", "eve", ""), 0x8a),
        (Card::new("c", "a", ""), 0),
    ] {
        assert_eq!(Client::connect(&broker, Version::V5, &card)?.1, expected, "{card:?}");
    }
    let (_, code) = Client::connect(&broker, Version::V3_1_1, &Card::new("evil", "", ""))?;
    assert_eq!(code, 5, "not authorised, in the words of 3.1.1");
    let broker = open(&["--auth.ban.list=address:127.0.0.0/8"])?;
    assert_eq!(Client::connect(&broker, Version::V5, &Card::new("c", "", ""))?.1, 0x8a);
    Ok(())
}

fn flapping() -> Result<(), Failed> {
    let broker = open(&["--auth.ban.flaps_max=5"])?;
    let card = Card::new("restless", "", "");
    for round in 0..4 {
        assert_eq!(Client::connect(&broker, Version::V5, &card)?.1, 0, "{round}");
    }
    for _ in 0..2 {
        assert_eq!(Client::connect(&broker, Version::V5, &card)?.1, 0x8a);
    }
    assert_eq!(Client::connect(&broker, Version::V5, &Card::new("calm", "", ""))?.1, 0);
    Ok(())
}

fn pace() -> Result<(), Failed> {
    let broker = open(&["--connections.rate_max=100"])?;
    let start = Instant::now();
    for index in 0..150 {
        Client::let_in(&broker, Version::V5, &Card::new(&format!("c{index}"), "", ""))?;
    }
    let took = start.elapsed();
    assert!(took > Duration::from_millis(700), "150 connects at 100 a second took {took:?}");
    Ok(())
}
