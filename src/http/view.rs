//! What the API shows, as JSON. Units and bounds are in the names.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use octopus_engine::{
    ClientDetail, ClientInfo, Dropped, Happened, Histogram, Hop, Incident, Message, Origin,
    PendingInfo, ShardId, Stats, Step, SubscriptionInfo, What,
};
use octopus_mqtt::Version;
use serde_json::{Map, Value, json};

use super::App;
use crate::process;

/// The node at a glance: totals, and each shard with its counters. Rates are the reader's to
/// make, from two readings.
pub(super) fn status(app: &App, shards: &[Stats]) -> Value {
    json!({
        "node": app.node,
        "group": app.group,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": app.started.elapsed().as_secs_f64(),
        "time_ms": millis(SystemTime::now()),
        "memory_bytes": process::memory_bytes(),
        "cpu_s": process::cpu_time().map(|time| time.as_secs_f64()),
        "latency": latency(shards),
        "shards": shards.iter().enumerate().map(|(id, stats)| shard(id, stats)).collect::<Vec<_>>(),
    })
}

/// A node's figures where there is no group that would tell them; without rates.
pub(super) fn own_figures(app: &App, shards: &[Stats]) -> Value {
    let sum = |of: fn(&Stats) -> u64| shards.iter().map(of).sum::<u64>();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": app.started.elapsed().as_secs(),
        "connections": sum(|stats| stats.connections),
        "sessions": sum(|stats| stats.sessions),
        "subscriptions": sum(|stats| stats.subscriptions),
        "received_per_s": null,
        "sent_per_s": null,
        "memory_bytes": process::memory_bytes(),
    })
}

fn shard(id: usize, stats: &Stats) -> Value {
    let dropped = Dropped::ALL
        .iter()
        .map(|reason| (reason.label().to_owned(), stats.ledger.dropped_for(*reason).into()));
    json!({
        "shard": id,
        "connections": stats.connections,
        "sessions": stats.sessions,
        "subscriptions": stats.subscriptions,
        "retained": stats.retained,
        "retained_bytes": stats.retained_bytes,
        "queued": stats.ledger.queued.saturating_sub(stats.inflight),
        "queued_bytes": stats.queue_bytes,
        "inflight": stats.inflight,
        "messages_received": stats.publish_received.iter().sum::<u64>(),
        "messages_sent": stats.publish_sent.iter().sum::<u64>(),
        "messages_dropped": dropped.collect::<Map<_, _>>(),
        "bytes_received": stats.bytes_received,
        "bytes_sent": stats.bytes_sent,
        "connects_accepted": stats.connects_accepted,
        "connects_refused": stats.connects_refused.iter().sum::<u64>(),
        "stall_max_us": stats.driver.stall_max_us,
        "busy_us": stats.driver.turns.sum_us(),
        "mesh_backlog": stats.driver.mesh_backlog,
        "ring_depth": stats.driver.ring_depth,
    })
}

/// Latencies of the node by hop, since its start: counts below powers of two for plots of
/// what is new, and quantiles of all.
fn latency(shards: &[Stats]) -> Value {
    let hops = Hop::ALL.iter().map(|hop| {
        let mut all = Histogram::default();
        shards.iter().for_each(|stats| all.add(&stats.latency[*hop as usize]));
        let below: Vec<_> = (0..=26).map(|power| all.count_below_power(power)).collect();
        let entry = json!({
            "count": all.count(),
            "p50_us": all.quantile_us(0.5),
            "p99_us": all.quantile_us(0.99),
            "below_2_power_us": below,
        });
        (hop.label().to_owned(), entry)
    });
    Value::Object(hops.collect())
}

pub(super) fn client(app: &App, shard: ShardId, client: &ClientInfo) -> Value {
    let connection = client.connection.as_ref().map(|connection| {
        let listener = app.listeners.get(usize::from(connection.listener.0));
        json!({
            "address": connection.address.map(|address| address.to_string()),
            "listener": listener.map(|listener| &listener.name),
            "version": version(connection.version),
            "user": connection.user,
            "keep_alive_s": connection.keep_alive_s,
            "silent_s": connection.silent.as_secs_f64(),
            "out_bytes": connection.out_bytes,
            "send_quota": connection.send_quota,
        })
    });
    json!({
        "client": client.client,
        "shard": shard.0,
        "connected": connection.is_some(),
        "connection": connection,
        "expiry_s": client.expiry_s,
        "subscription_count": client.subscription_count,
        "queue_count": client.queue_count,
        "queue_bytes": client.queue_bytes,
        "inflight_count": client.inflight_count,
        "incoming_count": client.incoming_count,
    })
}

pub(super) fn client_detail(app: &App, shard: ShardId, detail: &ClientDetail) -> Value {
    let mut value = client(app, shard, &detail.info);
    let subscriptions: Vec<_> = detail.subscriptions.iter().map(subscription).collect();
    let incidents = detail.incidents.iter();
    let incidents: Vec<_> =
        incidents.map(|found| incident(detail.now.since(found.at), shard, found)).collect();
    value["subscriptions"] = subscriptions.into();
    value["will_topic"] = json!(detail.will_topic);
    value["inflight"] = detail.inflight.iter().map(pending).collect();
    value["queue"] = detail.queue.iter().map(pending).collect();
    value["incidents"] = incidents.into();
    value
}

/// A message on its way to a client; without a message it is the client's, but for PUBCOMP.
fn pending(pending: &PendingInfo) -> Value {
    let message = pending.message.as_ref();
    json!({
        "packet_id": pending.packet_id.map(|id| id.get()),
        "topic": message.map(|message| &message.topic),
        "qos": message.map_or(2, |message| message.qos as u8),
        "retain": message.is_some_and(|message| message.retain),
        "bytes": message.map(|message| message.payload_bytes),
    })
}

fn version(version: Version) -> &'static str {
    match version {
        Version::V3_1 => "3.1",
        Version::V3_1_1 => "3.1.1",
        Version::V5 => "5.0",
    }
}

pub(super) fn subscription(subscription: &SubscriptionInfo) -> Value {
    json!({
        "client": subscription.client,
        "filter": subscription.filter,
        "qos": subscription.qos as u8,
        "no_local": subscription.no_local,
        "retain_as_published": subscription.retain_as_published,
        "subscription_id": (subscription.subscription_id != 0)
            .then_some(subscription.subscription_id),
    })
}

/// A message with its payload: as text where it is UTF-8, else in base64.
pub(super) fn retained(message: &Message) -> Value {
    let payload = message.payload();
    let text = std::str::from_utf8(payload).ok();
    json!({
        "topic": message.topic().as_str(),
        "qos": message.qos() as u8,
        "bytes": payload.len(),
        "payload": text,
        "payload_base64": text.is_none().then(|| to_base64(payload)),
    })
}

/// - `age`: since it happened last.
pub(super) fn incident(age: Duration, shard: ShardId, incident: &Incident) -> Value {
    let kind = match &incident.what {
        What::Dropped(_) => "dropped",
        What::SubscriptionRefused(_) => "subscription_refused",
        What::Ended(_) => "connection_ended",
    };
    json!({
        "time_ms": millis(SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH)),
        "age_s": age.as_secs_f64(),
        "shard": shard.0,
        "kind": kind,
        "reason": incident.what.reason(),
        "client": (!incident.client.is_empty()).then_some(&incident.client),
        "topic": (!incident.topic.is_empty()).then_some(&incident.topic),
        "count": incident.count,
    })
}

/// One step of a message. - `age`: since it happened.
pub(super) fn step(app: &App, age: Duration, shard: ShardId, step: &Step) -> Value {
    let mut value = happened(app, &step.happened);
    value["time_ms"] = millis(SystemTime::now().checked_sub(age).unwrap_or(UNIX_EPOCH)).into();
    value["shard"] = shard.0.into();
    value["client"] = json!((!step.client.is_empty()).then_some(&step.client));
    value["topic"] = json!(step.topic);
    value
}

fn happened(app: &App, happened: &Happened) -> Value {
    match happened {
        Happened::Received { qos, retain, bytes } => {
            json!({ "step": "received", "qos": *qos as u8, "retain": retain, "bytes": bytes })
        }
        Happened::Matched { origin, subscribers } => {
            let origin = match origin {
                Origin::Client => "client",
                Origin::Shard => "shard",
                Origin::Node => "node",
            };
            json!({ "step": "matched", "origin": origin, "subscribers": subscribers })
        }
        Happened::Forwarded { shards, nodes } => {
            let shards: Vec<u16> = shards.iter().map(|shard| shard.0).collect();
            let name = |index| app.node_names.as_ref().and_then(|names| names(index));
            let nodes = nodes.iter().map(|&index| name(index).unwrap_or_default());
            json!({ "step": "forwarded", "shards": shards, "nodes": nodes.collect::<Vec<_>>() })
        }
        Happened::Queued { count } => json!({ "step": "queued", "queue_count": count }),
        Happened::Sent { qos, packet_id, again } => {
            let packet_id = packet_id.map(|id| id.get());
            let qos = *qos as u8;
            json!({ "step": "sent", "qos": qos, "packet_id": packet_id, "again": again })
        }
        Happened::Acknowledged { reason } => {
            json!({ "step": "acknowledged", "reason": reason.name() })
        }
        Happened::AnswerWaits => json!({ "step": "answer_waits" }),
        Happened::Answered { reason } => json!({ "step": "answered", "reason": reason.name() }),
        Happened::Dropped(reason) => json!({ "step": "dropped", "reason": reason.label() }),
    }
}

fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn to_base64(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let padded =
            [three[0], three.get(1).copied().unwrap_or(0), three.get(2).copied().unwrap_or(0)];
        let bits = u32::from_be_bytes([0, padded[0], padded[1], padded[2]]);
        for index in 0..4 {
            let digit = (bits >> (18 - 6 * index)) as usize & 63;
            text.push(if index <= three.len() { BASE64[digit] as char } else { '=' });
        }
    }
    text
}

/// `None` if `text` is no base64 with padding.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let digits = text.trim_end_matches('=');
    if text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for digit in digits.bytes() {
        let value = BASE64.iter().position(|&known| known == digit)?;
        bits = bits << 6 | value as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_goes_there_and_back() {
        let known =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (bytes, text) in known {
            assert_eq!(to_base64(bytes.as_bytes()), text);
            assert_eq!(from_base64(text).as_deref(), Some(bytes.as_bytes()));
        }
        for bad in ["Zg=", "Z===", "Zm9v!===", "Zg==Zg=="] {
            assert_eq!(from_base64(bad), None, "{bad}");
        }
    }
}
