//! `/healthz`: the process lives. `/readyz`: it can serve; what is in the way if not.

/// Whether something the node needs is there now.
type Condition = Box<dyn Fn() -> bool + Send + Sync>;

/// What must hold for the node to be ready, beside that every shard answers. Scope: node.
#[derive(Default)]
pub struct Readiness {
    conditions: Vec<(&'static str, Condition)>,
}

impl Readiness {
    /// Adds a condition, such as the link to Redis; `holds` is asked at each request.
    pub fn require(
        &mut self,
        name: &'static str,
        holds: impl Fn() -> bool + Send + Sync + 'static,
    ) {
        self.conditions.push((name, Box::new(holds)));
    }

    /// The names of the conditions that do not hold now.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        let missing = self.conditions.iter().filter(|(_, holds)| !holds());
        missing.map(|(name, _)| *name).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;

    #[test]
    fn a_condition_counts_as_it_is_now() {
        let mut readiness = Readiness::default();
        let is_up = Arc::new(AtomicBool::new(false));
        let link = is_up.clone();
        readiness.require("redis", move || link.load(Ordering::Relaxed));
        assert_eq!(readiness.missing(), ["redis"]);
        is_up.store(true, Ordering::Relaxed);
        assert!(readiness.missing().is_empty());
    }
}
