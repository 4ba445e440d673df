//! Lists in pages: slices of one shard after the other until the page is full.
//!
//! A cursor is `shard.place`: the shard to go on with and its own cursor. A page looks at a
//! bounded number of slices, so it may be short, even empty, before the end; the end is where
//! no `next` is given. A sorted list is one page: the first of all, in that order.

use std::cmp::Ordering;

use octopus_engine::{Ask, ClientInfo, Found, ShardId};
use serde_json::{Value, json};

use super::{search, topic_filter};
use crate::http::{App, in_time, request::Asked, respond::Refused, view};

const LIMIT_DEFAULT: usize = 50;
const LIMIT_MAX: usize = 1000;
/// Slices one page may take.
const SLICES_MAX: usize = 64;
/// Slices a sorted list may take; two thousand sessions each.
const SORTED_SLICES_MAX: usize = 1024;

/// Whether sessions whose client is away are listed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum Which {
    Connected,
    All,
}

/// Where a page begins or ends.
struct Cursor {
    shard: u16,
    place: String,
}

impl Cursor {
    fn of(asked: &Asked) -> Result<Self, Refused> {
        let Some(text) = asked.parameter("cursor").filter(|text| !text.is_empty()) else {
            return Ok(Self { shard: 0, place: String::new() });
        };
        let wrong = || Refused::bad("cursor must be one that was given as next");
        let (shard, place) = text.split_once('.').ok_or_else(wrong)?;
        Ok(Self { shard: shard.parse().map_err(|_| wrong())?, place: place.to_owned() })
    }

    fn slot(&self) -> Result<u32, Refused> {
        if self.place.is_empty() {
            return Ok(0);
        }
        let wrong = |_| Refused::bad("cursor must be one that was given as next");
        self.place.parse().map_err(wrong)
    }

    /// Moves on behind a slice: within its shard, or to the beginning of the next.
    fn advance(&mut self, next: Option<String>) {
        match next {
            Some(place) => self.place = place,
            None => {
                self.shard += 1;
                self.place.clear();
            }
        }
    }

    fn is_at_end(&self, app: &App) -> bool {
        self.shard >= app.hub.shards()
    }

    fn next(&self, app: &App) -> Option<String> {
        (!self.is_at_end(app)).then(|| format!("{}.{}", self.shard, self.place))
    }
}

/// The page size asked for.
pub(super) fn limit(asked: &Asked) -> Result<usize, Refused> {
    let expected = format!("1 to {LIMIT_MAX}");
    match asked.parsed("limit", &expected)? {
        None => Ok(LIMIT_DEFAULT),
        Some(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(Refused::bad(format!("limit must be {expected}"))),
    }
}

async fn slice(app: &App, shard: u16, ask: Ask) -> Result<Found, Refused> {
    in_time(app.hub.query(ShardId(shard), ask)).await.ok_or_else(Refused::unavailable)
}

type Client = (ShardId, ClientInfo);

/// Clients or sessions, by place or sorted.
pub(super) async fn clients(asked: &Asked, app: &App, which: Which) -> Result<Value, Refused> {
    let limit = limit(asked)?;
    let mut cursor = Cursor::of(asked)?;
    let order = sorting(asked)?;
    let mut clients: Vec<Client> = Vec::new();
    let slices_max = if order.is_some() { SORTED_SLICES_MAX } else { SLICES_MAX };
    for _ in 0..slices_max {
        if cursor.is_at_end(app) || (order.is_none() && clients.len() >= limit) {
            break;
        }
        let wanted = if order.is_some() { LIMIT_MAX } else { limit - clients.len() };
        let ask = Ask::Clients { search: search(asked)?, from: cursor.slot()?, limit: wanted };
        let shard = cursor.shard;
        let Found::Clients { clients: found, next } = slice(app, shard, ask).await? else { break };
        let found = found.into_iter().filter(|c| which == Which::All || c.connection.is_some());
        clients.extend(found.map(|client| (ShardId(shard), client)));
        if let Some(order) = order {
            clients.sort_by(|(_, a), (_, b)| order(a, b));
            clients.truncate(limit);
        }
        cursor.advance(next.map(|slot| slot.to_string()));
    }
    let next = if order.is_some() { None } else { cursor.next(app) };
    let entries: Vec<_> = clients.iter().map(|(s, client)| view::client(app, *s, client)).collect();
    let name = if which == Which::All { "sessions" } else { "clients" };
    Ok(json!({ name: entries, "next": next }))
}

type Order = fn(&ClientInfo, &ClientInfo) -> Ordering;

/// How to sort, if asked for: names rise, figures fall.
fn sorting(asked: &Asked) -> Result<Option<Order>, Refused> {
    let Some(by) = asked.parameter("sort") else { return Ok(None) };
    let order: Order = match by {
        "client" => |a, b| a.client.cmp(&b.client),
        "queue" => |a, b| b.queue_count.cmp(&a.queue_count),
        "inflight" => |a, b| b.inflight_count.cmp(&a.inflight_count),
        "out" => |a, b| out_bytes(b).cmp(&out_bytes(a)),
        "subscriptions" => |a, b| b.subscription_count.cmp(&a.subscription_count),
        _ => {
            let text = "sort must be client, queue, inflight, out or subscriptions";
            return Err(Refused::bad(text));
        }
    };
    Ok(Some(order))
}

fn out_bytes(client: &ClientInfo) -> usize {
    client.connection.as_ref().map_or(0, |connection| connection.out_bytes)
}

pub(super) async fn subscriptions(asked: &Asked, app: &App) -> Result<Value, Refused> {
    let limit = limit(asked)?;
    let mut cursor = Cursor::of(asked)?;
    let contains = asked.parameter("contains").unwrap_or_default();
    let mut entries = Vec::new();
    for _ in 0..SLICES_MAX {
        if cursor.is_at_end(app) || entries.len() >= limit {
            break;
        }
        let (from, limit) = (cursor.slot()?, limit - entries.len());
        let ask = Ask::Subscriptions { contains: contains.into(), from, limit };
        let Found::Subscriptions { subscriptions, next } = slice(app, cursor.shard, ask).await?
        else {
            break;
        };
        entries.extend(subscriptions.iter().map(view::subscription));
        cursor.advance(next.map(|slot| slot.to_string()));
    }
    Ok(json!({ "subscriptions": entries, "next": cursor.next(app) }))
}

pub(super) async fn retained(asked: &Asked, app: &App) -> Result<Value, Refused> {
    let (limit, filter) = (limit(asked)?, topic_filter(asked)?);
    let mut cursor = Cursor::of(asked)?;
    let mut entries = Vec::new();
    for _ in 0..SLICES_MAX {
        if cursor.is_at_end(app) || entries.len() >= limit {
            break;
        }
        let after = (!cursor.place.is_empty()).then(|| cursor.place.as_str().into());
        let ask = Ask::Retained { filter: filter.into(), after, limit: limit - entries.len() };
        let Found::Retained { messages, next } = slice(app, cursor.shard, ask).await? else {
            break;
        };
        entries.extend(messages.iter().map(view::retained));
        cursor.advance(next.map(String::from));
    }
    Ok(json!({ "retained": entries, "next": cursor.next(app) }))
}
