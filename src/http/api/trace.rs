//! Follows the messages of one client or topic: begins, reads and ends the trace of all shards.
//!
//! There is one trace at a time on a node, and it ends by itself. A cursor has each shard's
//! number of the last step read, so that a reader comes back for what is new.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use octopus_engine::{Ask, Found, ShardId, TraceAsk, TraceSlice};
use serde_json::{Value, json};

use super::{App, ask_all, list};
use crate::http::{in_time, request::Asked, respond::Refused, view};
use hyper::StatusCode;

const SECONDS_DEFAULT: u64 = 60;
const SECONDS_MAX: u64 = 3600;
/// The longest Client Identifier or Topic Name there can be.
const ABOUT_BYTES_MAX: usize = 65_535;

/// The trace that is under way, or was last. Scope: node.
#[derive(Debug, Default)]
pub struct Tracing(Mutex<Option<Running>>);

#[derive(Clone, Debug)]
struct Running {
    about: String,
    ends_at: Instant,
}

impl Tracing {
    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the one place; refused while somebody else has it.
    fn begin(&self, about: &str, lasts: Duration) -> Result<(), Refused> {
        let now = Instant::now();
        let mut running = self.running();
        if let Some(other) = running.as_ref().filter(|running| running.ends_at > now) {
            let left_s = (other.ends_at - now).as_secs() + 1;
            let text = format!(
                "a trace of {} is under way, for {left_s} s still; stop it (DELETE) or wait",
                other.about
            );
            return Err(Refused::new(StatusCode::CONFLICT, text));
        }
        *running = Some(Running { about: about.to_owned(), ends_at: now + lasts });
        Ok(())
    }
}

pub(super) async fn start(app: &App, body: &Value) -> Result<Value, Refused> {
    let about = body["about"].as_str().unwrap_or_default();
    if about.is_empty() || about.len() > ABOUT_BYTES_MAX {
        return Err(Refused::bad("about must be a Client Identifier, a topic or a filter"));
    }
    let seconds = match &body["seconds"] {
        Value::Null => Some(SECONDS_DEFAULT),
        number => number.as_u64().filter(|seconds| (1..=SECONDS_MAX).contains(seconds)),
    };
    let wrong = || Refused::bad(format!("seconds must be 1 to {SECONDS_MAX}"));
    let lasts = Duration::from_secs(seconds.ok_or_else(wrong)?);
    app.trace.begin(about, lasts)?;
    ask_all(app, &Ask::Trace(TraceAsk::Start { about: about.into(), lasts })).await?;
    tracing::info!(about, seconds = lasts.as_secs(), "an operator follows messages");
    Ok(json!({ "about": about, "seconds": lasts.as_secs() }))
}

pub(super) async fn stop(app: &App) -> Result<Value, Refused> {
    let stopped = app.trace.running().take();
    ask_all(app, &Ask::Trace(TraceAsk::Stop)).await?;
    Ok(json!({ "stopped": stopped.map(|running| running.about) }))
}

pub(super) async fn read(asked: &Asked, app: &App) -> Result<Value, Refused> {
    let (limit, mut cursor) = (list::limit(asked)?, cursor(asked, app)?);
    let running = app.trace.running().clone();
    let mut steps = Vec::new();
    let mut missed = 0;
    for (shard, after) in (0..).map(ShardId).zip(&mut cursor) {
        let ask = Ask::Trace(TraceAsk::Read { after: *after, limit });
        let answer = in_time(app.hub.query(shard, ask)).await;
        let Found::Trace(TraceSlice { steps: found, now }) =
            answer.ok_or_else(Refused::unavailable)?
        else {
            continue;
        };
        if let Some(last) = found.last() {
            missed += (last.serial - *after).saturating_sub(found.len() as u64);
            *after = last.serial;
        }
        steps.extend(found.into_iter().map(|step| (now.since(step.at), shard, step)));
    }
    // Oldest first; steps of one shard stay in their order.
    steps.sort_by_key(|(age, ..)| std::cmp::Reverse(*age));
    let steps: Vec<Value> =
        steps.iter().map(|(age, shard, step)| view::step(app, *age, *shard, step)).collect();
    let next: Vec<String> = cursor.iter().map(u64::to_string).collect();
    let now = Instant::now();
    let left = running.as_ref().map(|running| running.ends_at.saturating_duration_since(now));
    Ok(json!({
        "about": running.as_ref().map(|running| &running.about),
        "ends_in_s": left.map_or(0.0, |left| left.as_secs_f64()),
        "steps": steps,
        "missed": missed,
        "next": next.join("."),
    }))
}

/// The number of the last step read, of each shard.
fn cursor(asked: &Asked, app: &App) -> Result<Vec<u64>, Refused> {
    let shards = usize::from(app.hub.shards());
    let Some(text) = asked.parameter("cursor").filter(|text| !text.is_empty()) else {
        return Ok(vec![0; shards]);
    };
    let numbers: Option<Vec<u64>> = text.split('.').map(|part| part.parse().ok()).collect();
    let numbers = numbers.filter(|numbers| numbers.len() == shards);
    numbers.ok_or_else(|| Refused::bad("cursor must be one that was given as next"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_trace_at_a_time_until_it_ends() {
        let tracing = Tracing::default();
        tracing.begin("a", Duration::ZERO).expect("nobody else has it");
        tracing.begin("b", Duration::from_secs(9)).expect("the first is over");
        let refused = tracing.begin("c", Duration::from_secs(1)).expect_err("b is under way");
        assert_eq!(refused.status, StatusCode::CONFLICT);
    }
}
