//! `/healthz`: the process lives. `/readyz`: it can serve; what is in the way if not.

use tokio::sync::watch;

/// What must hold for the node to be ready, beside that every shard answers. Scope: node.
#[derive(Default)]
pub struct Readiness {
    conditions: Vec<(&'static str, watch::Receiver<bool>)>,
}

impl Readiness {
    /// Adds a condition, such as the link to Redis; the other end says whether it holds.
    pub fn require(&mut self, name: &'static str, holds: watch::Receiver<bool>) {
        self.conditions.push((name, holds));
    }

    /// The names of the conditions that do not hold now.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let missing = self.conditions.iter().filter(|(_, holds)| !*holds.borrow());
        missing.map(|(name, _)| *name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_counts_as_it_is_now() {
        let mut readiness = Readiness::default();
        let (sender, receiver) = watch::channel(false);
        readiness.require("redis", receiver);
        assert_eq!(readiness.missing(), ["redis"]);
        sender.send_replace(true);
        assert!(readiness.missing().is_empty());
    }
}
