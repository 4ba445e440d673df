//! What systemd is told: that the node serves, that it ends, that it lives.
//!
//! Without `NOTIFY_SOCKET` in the environment (no systemd, or a unit without `Type=notify`)
//! nothing is sent and nothing is wrong.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time;

/// The node accepts connections; `status` is what `systemctl status` shows.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The node has begun to stop.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Feeds the watchdog while `answers` says that all shards answer, twice in the time that the
/// unit grants (`WatchdogSec`); returns at once if the unit has no watchdog.
///
/// A shard that hangs gives no answer: the watchdog is not fed and systemd restarts the node.
pub async fn watch(mut answers: impl AsyncFnMut() -> bool) {
    let Some(granted) = sd_notify::watchdog_enabled() else { return };
    let interval = granted / 2;
    let mut ticks = time::interval(interval);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match in_time(&mut answers, interval).await {
            true => send(&[NotifyState::Watchdog]),
            false => tracing::error!("a shard does not answer; systemd's watchdog is not fed"),
        }
    }
}

async fn in_time(answers: &mut impl AsyncFnMut() -> bool, max: Duration) -> bool {
    time::timeout(max, answers()).await.unwrap_or(false)
}

fn send(states: &[NotifyState<'_>]) {
    // Nobody to tell is the usual case and told by `Ok`; a socket that is gone cannot be helped.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd is not told");
    }
}
