//! What the bridge counts, and how it calls the other nodes. Scope: node; read by anybody,
//! written by the bridge alone.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use octopus_engine::NodeIndex;

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// Cheap to clone.
        #[derive(Clone, Debug, Default)]
        pub struct Counters(Arc<Values>);

        #[derive(Debug, Default)]
        struct Values {
            $($name: AtomicU64,)*
            /// By index; an index that is free keeps its last name.
            node_names: Mutex<Vec<String>>,
            waiting_count: AtomicU64,
            waiting_bytes: AtomicU64,
        }

        impl Counters {
            $($(#[doc = $doc])* pub fn $name(&self, count: u64) {
                self.0.$name.fetch_add(count, Ordering::Relaxed);
            })*

            /// Metric without `_total`, what it counts, and value of each.
            pub fn all(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((
                    concat!("octopus_bridge_", stringify!($name)),
                    concat!($($doc),*).trim_start(),
                    self.0.$name.load(Ordering::Relaxed),
                ),)*]
            }
        }
    };
}

impl Counters {
    /// From now on the shards know the node `name` by this index.
    pub(super) fn name_node(&self, index: NodeIndex, name: &str) {
        let mut names = self.0.node_names.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = usize::from(index.0);
        if names.len() <= slot {
            names.resize(slot + 1, String::new());
        }
        name.clone_into(&mut names[slot]);
    }

    pub(super) fn set_waiting(&self, count: usize, bytes: usize) {
        self.0.waiting_count.store(count as u64, Ordering::Relaxed);
        self.0.waiting_bytes.store(bytes as u64, Ordering::Relaxed);
    }

    /// Messages that wait to be written for other nodes, and their bytes.
    pub fn waiting(&self) -> (u64, u64) {
        let load = |of: &AtomicU64| of.load(Ordering::Relaxed);
        (load(&self.0.waiting_count), load(&self.0.waiting_bytes))
    }

    /// The node that the shards know by this index, or knew last.
    pub fn node_name(&self, index: NodeIndex) -> Option<String> {
        let names = self.0.node_names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(usize::from(index.0)).cloned()
    }
}

counters! {
    /// Messages written for other nodes, once per node.
    sent,
    /// Messages of other nodes taken in.
    received,
    /// Messages of other nodes that never came.
    gap,
    /// Messages that came again and were left out.
    duplicate,
    /// QoS 0 for other nodes dropped: Redis was away, or too much was waiting.
    dropped,
    /// QoS 1 and 2 not accepted from their publishers, for the same reasons.
    refused,
    /// QoS 1 and 2 acknowledged without Redis (`when_redis_is_away: degrade`).
    degraded,
    /// Messages for a node that left the group before it had them.
    node_gone,
    /// SUBACKs that did not wait any longer for a live node to know the subscription.
    unheard,
    /// Frames that could not be read.
    malformed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_a_name_and_says_what_it_counts() {
        let counters = Counters::default();
        counters.gap(3);
        let all = counters.all();
        let gap = all.iter().find(|(name, ..)| *name == "octopus_bridge_gap").expect("a counter");
        assert_eq!((gap.1, gap.2), ("Messages of other nodes that never came.", 3));
        assert!(all.iter().all(|(_, help, _)| help.ends_with('.')));
    }

    #[test]
    fn a_node_is_known_by_the_name_that_its_index_had_last() {
        let counters = Counters::default();
        counters.name_node(NodeIndex(1), "B2");
        counters.name_node(NodeIndex(1), "B3");
        assert_eq!(counters.node_name(NodeIndex(1)).as_deref(), Some("B3"));
        assert_eq!(counters.node_name(NodeIndex(2)), None);
    }
}
