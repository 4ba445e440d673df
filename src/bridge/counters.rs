//! What the bridge counts. Scope: node; read by anybody, written by the bridge alone.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Cheap to clone.
        #[derive(Clone, Debug, Default)]
        pub struct Counters(Arc<Values>);

        #[derive(Debug, Default)]
        struct Values { $($name: AtomicU64,)* }

        impl Counters {
            $($(#[$doc])* pub fn $name(&self, count: u64) {
                self.0.$name.fetch_add(count, Ordering::Relaxed);
            })*

            /// Name, as in metrics, and value of each.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((
                    concat!("bridge_", stringify!($name), "_total"),
                    self.0.$name.load(Ordering::Relaxed),
                ),)*]
            }
        }
    };
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
    /// Frames that could not be read.
    malformed,
}
