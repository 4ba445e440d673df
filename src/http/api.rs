//! The admin API under `/api/v1`: one function per resource. `openapi.json` beside this file
//! describes it; a test holds the two together.

mod bans;
mod list;
mod publish;
mod trace;

use hyper::{Method, StatusCode};
use octopus_engine::{Ask, Found, Instant, Message, Search, ShardId};
use octopus_mqtt::{MessageProperties, QoS, ReasonCode, TopicFilter, TopicName};
use serde_json::{Value, json};

pub use trace::Tracing;

use super::{
    App, in_time,
    request::Asked,
    respond::{self, Answer, Refused},
    view,
};

const OPENAPI: &str = include_str!("openapi.json");

/// Incidents of one answer.
const INCIDENTS_MAX: usize = 200;

pub(super) async fn answer(asked: &Asked, app: &App) -> Result<Answer, Refused> {
    let segments: Vec<&str> = asked.segments.iter().skip(2).map(String::as_str).collect();
    let methods =
        methods_of(&segments).ok_or_else(|| Refused::not_found("there is no such resource"))?;
    let method = if asked.method == Method::HEAD { &Method::GET } else { &asked.method };
    if !methods.contains(method) {
        let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
        let mut answer =
            Refused::new(StatusCode::METHOD_NOT_ALLOWED, format!("use {}", names.join(" or ")))
                .answer();
        if let Ok(allow) = names.join(", ").parse() {
            answer.headers_mut().insert(hyper::header::ALLOW, allow);
        }
        return Ok(answer);
    }
    if segments == ["openapi.json"] {
        return Ok(respond::with_type(StatusCode::OK, "application/json", OPENAPI));
    }
    let body = match (method, segments.as_slice()) {
        (_, ["status"]) => status(app).await?,
        (_, ["nodes"]) => nodes(app).await?,
        (_, ["listeners"]) => listeners(app).await?,
        (_, ["clients"]) => list::clients(asked, app, list::Which::Connected).await?,
        (_, ["sessions"]) => list::clients(asked, app, list::Which::All).await?,
        (&Method::DELETE, ["clients", client]) => kick(app, client).await?,
        (_, ["clients", client]) => client_detail(app, client).await?,
        (_, ["subscriptions"]) => list::subscriptions(asked, app).await?,
        (_, ["retained"]) => list::retained(asked, app).await?,
        (&Method::DELETE, ["retained", topic]) => delete_retained(app, topic).await?,
        (_, ["retained", topic]) => view::retained(&find_retained(app, topic).await?),
        (_, ["publish"]) => publish::publish(app, &asked.body)?,
        (_, ["incidents"]) => incidents(asked, app).await?,
        (&Method::POST, ["bans"]) => bans::add(app, &asked.body)?,
        (_, ["bans"]) => bans::list(app),
        (_, ["bans", target]) => bans::remove(app, target)?,
        (&Method::POST, ["trace"]) => trace::start(app, &asked.body).await?,
        (&Method::DELETE, ["trace"]) => trace::stop(app).await?,
        (_, ["trace"]) => trace::read(asked, app).await?,
        (&Method::PUT, ["log"]) => set_log(app, &asked.body)?,
        (_, ["log"]) => json!({ "level": log_level(app, None)? }),
        (_, ["config", "reload"]) => reload(app)?,
        _ => return Err(Refused::not_found("there is no such resource")),
    };
    Ok(respond::json(StatusCode::OK, &body))
}

/// What may be done with a resource; `None` if there is none.
fn methods_of(segments: &[&str]) -> Option<&'static [Method]> {
    const GET: &[Method] = &[Method::GET];
    const POST: &[Method] = &[Method::POST];
    const DELETE: &[Method] = &[Method::DELETE];
    const GET_POST: &[Method] = &[Method::GET, Method::POST];
    const GET_DELETE: &[Method] = &[Method::GET, Method::DELETE];
    const GET_POST_DELETE: &[Method] = &[Method::GET, Method::POST, Method::DELETE];
    const GET_PUT: &[Method] = &[Method::GET, Method::PUT];
    Some(match segments {
        ["openapi.json" | "status" | "nodes" | "listeners" | "clients" | "sessions"] => GET,
        ["subscriptions" | "retained" | "incidents"] => GET,
        ["clients" | "retained", _] => GET_DELETE,
        ["publish"] | ["config", "reload"] => POST,
        ["bans"] => GET_POST,
        ["bans", _] => DELETE,
        ["trace"] => GET_POST_DELETE,
        ["log"] => GET_PUT,
        _ => return None,
    })
}

async fn status(app: &App) -> Result<Value, Refused> {
    let shards = app.stats().await.ok_or_else(Refused::unavailable)?;
    Ok(view::status(app, &shards))
}

/// The nodes of the group, or this one alone; each with what it last told of itself.
async fn nodes(app: &App) -> Result<Value, Refused> {
    let group = app.nodes.as_ref().map(|nodes| nodes()).unwrap_or_default();
    let (own, others): (Vec<_>, Vec<_>) = group.into_iter().partition(|node| node.id == app.node);
    let figures = own.into_iter().map(|node| node.figures).find(|figures| !figures.is_null());
    let figures = match figures {
        Some(figures) => figures,
        None => view::own_figures(app, &app.stats().await.ok_or_else(Refused::unavailable)?),
    };
    let own = json!({ "id": app.node, "live": true, "self": true, "figures": figures });
    let others = others.into_iter().map(|node| {
        json!({ "id": node.id, "live": node.is_live, "self": false, "figures": node.figures })
    });
    let nodes: Vec<Value> = std::iter::once(own).chain(others).collect();
    Ok(json!({ "group": app.group, "nodes": nodes }))
}

async fn listeners(app: &App) -> Result<Value, Refused> {
    let shards = app.stats().await.ok_or_else(Refused::unavailable)?;
    let entries = app.listeners.iter().enumerate().map(|(index, listener)| {
        let of = |stats: &octopus_engine::Stats| {
            stats.connections_by_listener.get(index).copied().unwrap_or(0)
        };
        json!({
            "name": listener.name,
            "kind": listener.kind,
            "address": listener.address,
            "connections": shards.iter().map(of).sum::<u64>(),
        })
    });
    Ok(json!({ "listeners": entries.collect::<Vec<_>>() }))
}

/// Every shard's answer to one question.
async fn ask_all(app: &App, ask: &Ask) -> Result<Vec<(ShardId, Found)>, Refused> {
    let mut found = Vec::new();
    for shard in (0..app.hub.shards()).map(ShardId) {
        let answer = in_time(app.hub.query(shard, ask.clone())).await;
        found.push((shard, answer.ok_or_else(Refused::unavailable)?));
    }
    Ok(found)
}

async fn client_detail(app: &App, client: &str) -> Result<Value, Refused> {
    for (shard, found) in ask_all(app, &Ask::Client { id: client.into() }).await? {
        if let Found::Client(Some(detail)) = found {
            return Ok(view::client_detail(app, shard, &detail));
        }
    }
    Err(Refused::not_found("there is no such client"))
}

async fn kick(app: &App, client: &str) -> Result<Value, Refused> {
    for (_, found) in ask_all(app, &Ask::Client { id: client.into() }).await? {
        if let Found::Client(Some(detail)) = found
            && detail.info.connection.is_some()
        {
            app.hub.kick(client, ReasonCode::AdministrativeAction);
            tracing::info!(client, "kicked by an operator");
            return Ok(json!({ "kicked": client }));
        }
    }
    Err(Refused::not_found("no such client is connected"))
}

async fn find_retained(app: &App, topic: &str) -> Result<Message, Refused> {
    TopicName::parse(topic).map_err(|_| Refused::bad("this is no topic name"))?;
    let ask = Ask::Retained { filter: topic.into(), after: None, limit: 1 };
    for (_, found) in ask_all(app, &ask).await? {
        if let Found::Retained { messages, .. } = found
            && let Some(message) = messages.into_iter().next()
        {
            return Ok(message);
        }
    }
    Err(Refused::not_found("nothing is retained for this topic"))
}

async fn delete_retained(app: &App, topic: &str) -> Result<Value, Refused> {
    let message = find_retained(app, topic).await?;
    let none = MessageProperties::default();
    let (qos, retain, now) = (QoS::AtMostOnce, true, Instant::default());
    app.hub.publish(Message::new(message.topic(), &[], qos, retain, &none, now));
    tracing::info!(topic, "retained message deleted by an operator");
    Ok(json!({ "deleted": topic }))
}

async fn incidents(asked: &Asked, app: &App) -> Result<Value, Refused> {
    let about = asked.parameter("about").unwrap_or_default();
    let limit = list::limit(asked)?.min(INCIDENTS_MAX);
    let mut all = Vec::new();
    for (shard, found) in ask_all(app, &Ask::Incidents { about: about.into(), limit }).await? {
        let Found::Incidents { incidents, now } = found else { continue };
        all.extend(incidents.into_iter().map(|incident| (now.since(incident.at), shard, incident)));
    }
    all.sort_by_key(|(age, ..)| *age);
    all.truncate(limit);
    let entries = all.iter().map(|(age, shard, incident)| view::incident(*age, *shard, incident));
    Ok(json!({ "about": about, "incidents": entries.collect::<Vec<_>>() }))
}

fn log_level(app: &App, new: Option<&str>) -> Result<String, Refused> {
    (app.log_level)(new).map_err(Refused::bad)
}

fn set_log(app: &App, body: &Value) -> Result<Value, Refused> {
    let level = body["level"].as_str().ok_or_else(|| Refused::bad("level must be text"))?;
    let level = log_level(app, Some(level))?;
    tracing::info!(level, "log level set by an operator");
    Ok(json!({ "level": level }))
}

fn reload(app: &App) -> Result<Value, Refused> {
    let done = (app.reload)().map_err(|error| Refused::new(StatusCode::CONFLICT, error))?;
    Ok(json!({ "applied": done.applied, "needs_restart": done.needs_restart }))
}

/// What a search asks for: all, a beginning, or a part of the Client Identifier.
fn search(asked: &Asked) -> Result<Search, Refused> {
    let text = asked.parameter("search").unwrap_or_default();
    match (text, asked.parameter("match").unwrap_or("contains")) {
        ("", "contains" | "prefix") => Ok(Search::All),
        (text, "contains") => Ok(Search::Contains(text.into())),
        (text, "prefix") => Ok(Search::StartsWith(text.into())),
        _ => Err(Refused::bad("match must be contains or prefix")),
    }
}

fn topic_filter(asked: &Asked) -> Result<&str, Refused> {
    let filter = asked.parameter("filter").unwrap_or("#");
    let parsed =
        TopicFilter::parse(filter).map_err(|_| Refused::bad("filter is no topic filter"))?;
    match parsed.shared() {
        None => Ok(filter),
        Some(_) => Err(Refused::bad("filter must not be a shared one")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_names_every_resource_and_method_and_no_other() {
        let description: Value = serde_json::from_str(OPENAPI).expect("JSON");
        let paths = description["paths"].as_object().expect("paths");
        let mut described = 0;
        for (path, operations) in paths {
            let path = path.strip_prefix("/api/v1/").expect("under /api/v1");
            let segments: Vec<&str> = path.split('/').collect();
            let methods = methods_of(&segments).expect(path);
            for method in methods {
                let name = method.as_str().to_lowercase();
                assert!(operations.get(&name).is_some(), "{name} {path}");
                described += 1;
            }
            let count = operations.as_object().expect("operations").keys();
            assert_eq!(count.filter(|key| *key != "parameters").count(), methods.len(), "{path}");
        }
        assert_eq!(described, 23);
    }
}
