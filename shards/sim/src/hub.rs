//! A stub of the hub: answers who may connect, keeps the statistics it was sent.

use std::collections::VecDeque;
use std::fmt;

use octopus_engine::{AuthAnswer, AuthOutcome, AuthRequest, Envelope, ShardId, Stats};

/// Decides about one client.
pub type AuthPolicy = Box<dyn FnMut(&AuthRequest) -> AuthOutcome>;

/// The control plane as far as the shards need it. Scope: node.
pub struct Hub {
    policy: AuthPolicy,
    /// What shards answered to `StatsWanted`, in order.
    pub stats: Vec<(ShardId, Stats)>,
    /// Everything else that shards sent, for a test that plays bridge and store.
    pub outbox: VecDeque<(ShardId, Envelope)>,
}

impl Hub {
    pub(crate) fn new() -> Self {
        let everybody =
            |_: &AuthRequest| AuthOutcome::Granted { user: None, acl: None, data: None };
        Self { policy: Box::new(everybody), stats: Vec::new(), outbox: VecDeque::new() }
    }

    /// Who may connect from now on.
    pub fn set_policy(&mut self, policy: impl FnMut(&AuthRequest) -> AuthOutcome + 'static) {
        self.policy = Box::new(policy);
    }

    /// Takes what a shard sent, and gives the answer to it if there is one.
    pub(crate) fn handle(&mut self, from: ShardId, envelope: Envelope) -> Option<Envelope> {
        match envelope {
            Envelope::Authenticate(request) => {
                let outcome = (self.policy)(&request);
                let answer = AuthAnswer { connection: request.connection, outcome };
                Some(Envelope::Authenticated(Box::new(answer)))
            }
            Envelope::Stats(stats) => {
                self.stats.push((from, *stats));
                None
            }
            other => {
                self.outbox.push_back((from, other));
                None
            }
        }
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("stats", &self.stats.len()).finish_non_exhaustive()
    }
}
