//! The ban list: read, add to with an end or without, take off.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Value, json};

use super::App;
use crate::http::{Ban, BanError, respond::Refused};

/// A hundred years: more is without an end.
const SECONDS_MAX: u64 = 100 * 365 * 24 * 3600;

pub(super) fn list(app: &App) -> Value {
    let mut bans = (app.bans.list)();
    bans.sort_by(|a, b| a.target.cmp(&b.target));
    let entry = |ban: &Ban| {
        let ends_in_s = ban.left.map(|left| left.as_secs_f64());
        json!({ "target": ban.target, "ends_in_s": ends_in_s })
    };
    json!({ "bans": bans.iter().map(entry).collect::<Vec<_>>() })
}

pub(super) fn add(app: &App, body: &Value) -> Result<Value, Refused> {
    let target = body["target"].as_str().ok_or_else(|| Refused::bad("target must be text"))?;
    let seconds =
        match &body["seconds"] {
            Value::Null => None,
            number => Some(number.as_u64().filter(|s| (1..=SECONDS_MAX).contains(s)).ok_or_else(
                || Refused::bad(format!("seconds must be 1 to {SECONDS_MAX}, or left out")),
            )?),
        };
    (app.bans.add)(target, seconds.map(Duration::from_secs)).map_err(refused)?;
    tracing::info!(target, seconds, "banned by an operator");
    Ok(json!({ "banned": target, "seconds": seconds }))
}

pub(super) fn remove(app: &App, target: &str) -> Result<Value, Refused> {
    if !(app.bans.remove)(target) {
        return Err(Refused::not_found("this is not on the ban list"));
    }
    tracing::info!(target, "taken off the ban list by an operator");
    Ok(json!({ "unbanned": target }))
}

fn refused(error: BanError) -> Refused {
    match error {
        BanError::NoTarget => {
            Refused::bad("target must be address:NETWORK, user:NAME or client:ID")
        }
        BanError::ListFull => {
            Refused::new(StatusCode::CONFLICT, "the ban list is full; take others off first")
        }
    }
}
