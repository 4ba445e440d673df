//! What sessions' old nodes pass on to them, from Redis to the shards, in order.
//!
//! Whoever passes something on calls the session's node (`pass <client>`). A look takes all there
//! is; it stays in Redis until the shard has recorded it. If the answer is lost, the next look
//! finds the same, and what came since. While a claim of the client is under way nothing is looked
//! for: its answer may make another session of it, to which all that is not recorded is passed
//! again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use octopus_engine::{Change, Envelope, RecordOp};
use tokio::sync::mpsc;

use super::{RETRY_INTERVAL, Shared};

/// Calls that are answered together.
const CALLS_MAX: usize = 1024;

/// Claims of one client that are under way.
#[derive(Default)]
pub(super) struct Claiming {
    count: usize,
    /// What is to be looked for when they are answered.
    call: Option<Call>,
}

/// Something was passed on to this client's session.
pub(super) struct Call {
    client_id: Box<str>,
    /// Its shard waits for the answer: see [`Envelope::Pass`].
    is_last: bool,
}

impl Call {
    pub(super) fn new(client_id: &str) -> Self {
        Self { client_id: client_id.into(), is_last: false }
    }

    /// What was passed on before this change was recorded comes before anything else.
    pub(super) fn behind(op: &RecordOp) -> Option<Self> {
        let is_last = matches!(op.change, Change::Arrived { is_told: false });
        is_last.then(|| Self { client_id: op.client_id.clone(), is_last })
    }
}

impl Shared {
    pub(super) fn look_for_passed(&self, call: Call) {
        // The task that takes it ends with the store.
        let _ = self.passes.send(call);
    }

    pub(super) fn begin_claim(&self, client_id: &str) {
        let mut claiming = self.claiming.lock().unwrap_or_else(PoisonError::into_inner);
        claiming.entry(client_id.into()).or_default().count += 1;
    }

    pub(super) fn end_claim(&self, client_id: &str) {
        let mut claiming = self.claiming.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(claims) = claiming.get_mut(client_id) else { return };
        claims.count -= 1;
        if claims.count == 0
            && let Some(call) = claiming.remove(client_id).and_then(|claims| claims.call)
        {
            self.look_for_passed(call);
        }
    }

    /// Gives the call back unless it is to wait for a claim of its client.
    pub(super) fn unless_claiming(&self, call: Call) -> Option<Call> {
        let mut claiming = self.claiming.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(claims) = claiming.get_mut(&call.client_id) else { return Some(call) };
        let is_last = call.is_last || claims.call.as_ref().is_some_and(|call| call.is_last);
        claims.call = Some(Call { is_last, ..call });
        None
    }
}

/// Hands sessions what their old nodes passed on, in order. Runs until it is aborted.
pub(super) async fn pass(shared: Arc<Shared>, mut passes: mpsc::UnboundedReceiver<Call>) {
    let mut calls = Vec::new();
    let mut last_look = 0;
    // Looks whose answers were lost: what these found comes first.
    let mut unanswered = HashMap::new();
    loop {
        // What is left of the last turn is looked for again, whether others call or not.
        let patience = if calls.is_empty() { Duration::MAX } else { RETRY_INTERVAL };
        let _ = tokio::time::timeout(patience, passes.recv_many(&mut calls, CALLS_MAX)).await;
        // A session is called once for each message, and one look finds all of them.
        let mut clients = BTreeMap::<Box<str>, bool>::new();
        for Call { client_id, is_last } in calls.drain(..) {
            *clients.entry(client_id).or_default() |= is_last;
        }
        for (client_id, is_last) in clients {
            if !shared.link.is_up() {
                calls.push(Call { client_id, is_last });
                continue;
            }
            let call = shared.unless_claiming(Call { client_id, is_last });
            let Some(Call { client_id, is_last }) = call else { continue };
            last_look += 1;
            let look = *unanswered.entry(client_id.clone()).or_insert(last_look);
            match shared.redis.passed(&client_id, look).await {
                Ok(items) => {
                    unanswered.remove(&client_id);
                    if is_last || !items.is_empty() {
                        let home = client_id.clone();
                        let envelope = Envelope::Pass { client_id, items, is_all: is_last };
                        shared.send_home(&home, envelope);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "what was passed on waits in Redis");
                    calls.push(Call { client_id, is_last });
                }
            }
        }
    }
}
