//! Accounts in a Redis, wherever `redis` in the configuration may say that it is.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use super::backends::set;
use super::client::{Card, Client};
use super::{Files, SETTINGS, Test, broker, wait};
use crate::cluster::group::Redis;
use crate::doors::certificates::Certificates;
use crate::harness::broker::{Process, free_port};
use crate::harness::wire::Version;

pub(super) const TESTS: &[(&str, Test)] = &[
    ("accounts_in_redis_get_in_with_their_rules", alone),
    ("accounts_in_a_redis_cluster_get_in_with_their_rules", in_a_cluster),
    ("accounts_in_a_redis_get_in_by_tls_and_so_does_the_group", by_tls),
    ("accounts_get_in_before_and_after_a_sentinel_fails_over", failed_over),
    ("a_redis_that_never_answers_holds_up_nobody_else", mute),
];

fn alone() -> Result<(), Failed> {
    let redis = Redis::start_alone(false)?;
    let mut connection = redis.own_connection()?;
    put_accounts(|hset| Ok(hset.query(&mut connection)?))?;
    accounts_work(&broker_at(&redis.settings())?)
}

/// In a Redis Cluster each account is somewhere else.
fn in_a_cluster() -> Result<(), Failed> {
    let redis = crate::cluster::sharded::start(0, false)?;
    put_accounts(|hset| {
        for server in redis.all() {
            if hset.query::<()>(&mut server.own_connection()?).is_ok() {
                return Ok(());
            }
        }
        Err("nobody takes the account".into())
    })?;
    accounts_work(&broker_at(&redis.settings())?)
}

/// The authority is one that the system does not know by itself.
fn by_tls() -> Result<(), Failed> {
    let certificates = Certificates::make()?;
    let port = free_port().to_string();
    let [ca, certificate, key] =
        ["ca.pem", "server.pem", "server.key"].map(|name| certificates.file(name));
    let redis = Redis::start_with(&[
        ["--tls-port", &port],
        ["--tls-ca-cert-file", &ca],
        ["--tls-cert-file", &certificate],
        ["--tls-key-file", &key],
        ["--tls-auth-clients", "no"],
    ])?;
    let mut connection = redis.own_connection()?;
    put_accounts(|hset| Ok(hset.query(&mut connection)?))?;
    let at = ["--redis.ssl=true", "--redis.host=127.0.0.1", "--broker.group=GROUP1"];
    let mut settings = [&SETTINGS[..], &CHAIN, &at].concat();
    let port = format!("--redis.port={port}");
    settings.push(&port);
    let settings: Vec<String> = settings.into_iter().map(str::to_owned).collect();
    let environment = [("SSL_CERT_FILE".to_owned(), ca)];
    let broker = Process::start_at(&[], &environment, &settings)?;
    broker.wait_for("Redis is reached")?;
    accounts_work(&broker)
}

fn failed_over() -> Result<(), Failed> {
    let (mut master, replica) = (Redis::start_alone(false)?, Redis::start_alone(false)?);
    replica.follow(&master)?;
    let sentinel = master.watched()?;
    let mut connection = master.own_connection()?;
    put_accounts(|hset| Ok(hset.query(&mut connection)?))?;
    redis::cmd("WAIT").arg(1).arg(0).query::<()>(&mut connection)?;
    let nodes = format!("--redis.sentinel.nodes=127.0.0.1:{}", sentinel.port());
    let broker = broker_at(&["--redis.sentinel.master=octopus".to_owned(), nodes])?;
    let client = Client::let_in(&broker, Version::V5, &Card::new("r", "roger", "right"))?;
    master.kill()?;
    // Nobody has asked for this one before.
    let card = Card::new("e", "eve", "right");
    wait("the replica's accounts are asked", || {
        let (_, code) = Client::connect(&broker, Version::V5, &card)?;
        assert!([0, 0x88].contains(&code), "{code:#x}");
        Ok(code == 0)
    })?;
    drop(client);
    accounts_work(&broker)
}

/// Gives `put` two accounts to write; their slots are far apart.
fn put_accounts(mut put: impl FnMut(&redis::Cmd) -> Result<(), Failed>) -> Result<(), Failed> {
    let files = Files::new()?;
    let file = files.path("passwords");
    set(&file, "roger", "right", &[])?;
    let line = fs::read_to_string(&file)?;
    let hash = line.trim().split_once(':').map(|(_, hash)| hash).ok_or("no hash")?;
    let rules = "read a/%u/#\nwrite b/%c";
    for user in ["roger", "eve"] {
        let mut hset = redis::cmd("HSET");
        hset.arg(format!("octopus:user:{user}")).arg(&["password_hash", hash, "acl", rules]);
        put(&hset)?;
    }
    Ok(())
}

/// A busy machine lets a nice thread wait that checks passwords.
const CHAIN: [&str; 2] = ["--auth.chain=redis", "--auth.timeout=1m"];

fn broker_at(redis: &[String]) -> Result<Process, Failed> {
    broker(&[&CHAIN.map(str::to_owned)[..], redis].concat())
}

/// Both users get in, with their rules, and nobody else.
fn accounts_work(broker: &Process) -> Result<(), Failed> {
    let card = |user, password| Card::new("c", user, password);
    let mut live = Client::let_in(broker, Version::V5, &card("roger", "right"))?;
    assert_eq!((live.subscribe("a/roger/x")?, live.subscribe("a/x")?), (1, 0x87));
    assert_eq!((live.publish("b/c", "")?, live.publish("a/roger/x", "")?), (0x10, 0x87));
    Client::let_in(broker, Version::V5, &card("eve", "right"))?;
    for (user, password) in [("roger", "wrong"), ("eve", "wrong"), ("nobody", "right")] {
        let (_, code) = Client::connect(broker, Version::V5, &card(user, password))?;
        assert_eq!(code, 0x86, "{user}");
    }
    Ok(())
}

/// A Redis that takes connections and says nothing.
fn mute() -> Result<(), Failed> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let files = Files::new()?;
    let file = files.path("passwords");
    set(&file, "roger", "right", &[])?;
    let broker = broker(&[
        "--auth.chain=password_file,redis".to_owned(),
        "--auth.timeout=2s".to_owned(),
        format!("--auth.password_file={}", file.display()),
        "--redis.host=127.0.0.1".to_owned(),
        format!("--redis.port={}", listener.local_addr()?.port()),
    ])?;
    let mut live = Client::let_in(&broker, Version::V5, &Card::new("roger", "roger", "right"))?;
    let mut waiting = Vec::new();
    for index in 0..20 {
        let id = format!("slow-{index}");
        let mut client = Client::open(&broker, Version::V5)?;
        client.send(&Card::new(&id, "stranger", &id).connect())?;
        waiting.push(client);
    }
    let start = Instant::now();
    Client::let_in(&broker, Version::V5, &Card::new("other", "roger", "right"))?;
    live.ping()?;
    assert!(start.elapsed() < Duration::from_secs(1), "a neighbour waited {:?}", start.elapsed());
    for client in &mut waiting {
        assert_eq!(client.expect("connack")?.number_of("code"), 0x88);
    }
    Ok(())
}
