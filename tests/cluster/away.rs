//! While Redis is away: what cannot be promised is not acknowledged, or counted; whoever asks
//! is told that the node is not ready; afterwards all is as before.

use std::net::{Ipv4Addr, SocketAddr};

use libtest_mimic::Failed;
use rumqttc::QoS;

use super::{
    client::Client,
    group::{Group, wait},
    raw::Raw,
};
use crate::harness::broker::{Process, free_port};
use crate::ops::http::Http;

type Case = fn() -> Result<(), Failed>;

pub(super) fn all() -> Vec<(&'static str, Case)> {
    vec![
        ("without_redis_a_node_is_not_ready_and_with_it_again", readiness),
        ("without_redis_what_others_must_get_is_held_then_refused_with_0x97", held_then_refused),
        ("without_redis_more_than_may_be_held_is_refused_at_once", too_much),
        ("without_redis_and_degraded_it_is_acknowledged_counted_and_sent_later", degraded),
        ("without_redis_a_session_that_must_last_is_refused", session_refused),
    ]
}

/// Two nodes, a client on each: `far` on B has subscribed to `far/#`. Redis has just gone.
struct Cast {
    group: Group,
    a: Process,
    _b: Process,
    http: Http,
    raw: Raw,
    far: Client,
}

impl Cast {
    fn new(settings: &[&str]) -> Result<Self, Failed> {
        let mut group = Group::new(settings)?;
        let port = free_port();
        let page = ["--http.enable=true".to_owned(), format!("--http.port={port}")];
        let a = group.node_with("A", &page)?;
        let b = group.node("B")?;
        let far = Client::connect(&b, "far")?;
        far.subscribe("far/#")?;
        let (raw, code) = Raw::connect(&a, "raw", 0)?;
        assert_eq!(code, 0);
        group.redis.kill()?;
        a.wait_for("Redis is away")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Ok(Self { group, a, _b: b, http: Http { address, token: None }, raw, far })
    }

    fn count(&self, name: &str) -> Result<u64, Failed> {
        let page = self.http.get("/metrics")?.body;
        let line = page.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit(' ').next());
        Ok(value.ok_or_else(|| format!("no {name}"))?.parse::<f64>()? as u64)
    }
}

fn readiness() -> Result<(), Failed> {
    let mut cast = Cast::new(&[])?;
    let answer = cast.http.get("/readyz")?;
    assert_eq!((answer.status, answer.body.contains("redis")), (503, true), "{}", answer.body);
    assert_eq!(cast.http.get("/healthz")?.status, 200);
    cast.group.redis.revive()?;
    wait("it is ready again", || Ok(cast.http.get("/readyz")?.status == 200))
}

fn held_then_refused() -> Result<(), Failed> {
    let mut cast = Cast::new(&["--cluster.hold_time=1s"])?;
    cast.raw.publish("far/1", 1, "")?;
    let puback = cast.raw.next()?;
    assert_eq!(
        (puback.name, puback.number_of("id"), puback.number_of("code")),
        ("puback", 1, 0x97)
    );
    assert_eq!(cast.count("octopus_bridge_refused_total")?, 1);
    // What stays on this node is acknowledged at once.
    cast.raw.publish("near/1", 2, "")?;
    let puback = cast.raw.next()?;
    assert_eq!((puback.number_of("id"), puback.number_of("code") < 0x80), (2, true));
    Ok(())
}

fn too_much() -> Result<(), Failed> {
    let mut cast = Cast::new(&["--cluster.hold_time=5m", "--cluster.hold_count_max=3"])?;
    for id in 1..=4 {
        cast.raw.publish("far/1", id, "")?;
    }
    wait("the fourth is refused", || Ok(cast.count("octopus_bridge_refused_total")? == 1))?;
    cast.group.redis.revive()?;
    let codes: Vec<u64> = (0..4)
        .map(|_| cast.raw.next().map(|puback| puback.number_of("code")))
        .collect::<Result<_, _>>()?;
    assert_eq!(codes, [0, 0, 0, 0x97]);
    for _ in 0..3 {
        cast.far.next()?;
    }
    Ok(())
}

fn degraded() -> Result<(), Failed> {
    let mut cast = Cast::new(&["--cluster.when_redis_is_away=degrade"])?;
    cast.raw.publish("far/1", 1, "")?;
    let puback = cast.raw.next()?;
    assert_eq!((puback.number_of("id"), puback.number_of("code")), (1, 0));
    assert_eq!(cast.count("octopus_bridge_degraded_total")?, 1);
    let (_, code) = Raw::connect(&cast.a, "lasting", 600)?;
    assert_eq!(code, 0);
    cast.group.redis.revive()?;
    assert_eq!(cast.far.next()?.0, "far/1");
    Ok(())
}

fn session_refused() -> Result<(), Failed> {
    let mut cast = Cast::new(&[])?;
    assert_eq!(Raw::connect(&cast.a, "lasting", 600)?.1, 0x88);
    let near = Client::connect(&cast.a, "passing")?;
    near.subscribe("near")?;
    near.publish("near", QoS::AtLeastOnce, "1")?;
    assert_eq!(near.next()?.1, "1");
    cast.group.redis.revive()?;
    wait("it is let in again", || Ok(Raw::connect(&cast.a, "lasting", 600)?.1 == 0))
}
