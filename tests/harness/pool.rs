//! Running brokers to borrow: one per set of settings at a time for each borrower.

use std::collections::HashMap;
use std::sync::Mutex;

use super::broker::Process;

/// Brokers that nobody uses at the moment, by their settings.
#[derive(Default)]
pub(crate) struct Pool {
    idle: Mutex<HashMap<Vec<String>, Vec<Process>>>,
}

impl Pool {
    /// An idle broker with these settings, or a new one.
    ///
    /// # Errors
    /// What the broker printed, if it does not start.
    pub(crate) fn borrow(&self, settings: &[String]) -> Result<Process, String> {
        let idle =
            self.idle.lock().expect("no borrower panics here").get_mut(settings).and_then(Vec::pop);
        idle.map_or_else(|| Process::start(settings), Ok)
    }

    /// Takes a broker back that holds nothing any more. One that may is dropped instead.
    pub(crate) fn give_back(&self, settings: &[String], broker: Process) {
        let mut idle = self.idle.lock().expect("no borrower panics here");
        idle.entry(settings.to_vec()).or_default().push(broker);
    }

    /// Ends all idle brokers.
    pub(crate) fn clear(&self) {
        self.idle.lock().expect("no borrower panics here").clear();
    }
}
