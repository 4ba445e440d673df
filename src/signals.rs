//! The signals that ask the process to stop, or to read its files again.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT, SIGTERM and SIGHUP; caught from [`Signals::catch`] on.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Catches them from now on. Call it inside the control plane's runtime.
    ///
    /// # Errors
    /// The system's, if it has no room for a handler.
    pub fn catch() -> io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate())?, hangup })
    }

    /// Waits for the next one: the name of one that asks to stop, `None` for SIGHUP. Loses none
    /// when the future is dropped.
    pub async fn any(&mut self) -> Option<&'static str> {
        tokio::select! {
            _ = self.interrupt.recv() => Some("SIGINT"),
            _ = self.terminate.recv() => Some("SIGTERM"),
            _ = self.hangup.recv() => None,
        }
    }

    /// Waits for the next one that asks to stop: its name. Loses none when the future is dropped.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
