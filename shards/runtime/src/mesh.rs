//! The mesh: one inbox per shard and one for the hub. A shard or the hub pushes parcels into
//! another's inbox, in order, without ever waiting.
//!
//! Bounded without waiting: an inbox takes whatever is pushed, but counts it. A shard that sees
//! one of its peers more than [`BACKLOG_MAX`] behind stops reading its clients until the peer
//! has caught up to half of that, and goes on emptying its own inbox meanwhile. So no two peers
//! can wait for each other, nothing is lost, and an inbox grows past the mark only by what the
//! turns under way still produce.
//!
//! Why not a queue that refuses when full, with the rest kept at the sender: then a message
//! could be acknowledged while it still waits at its sender, and something caused by it could
//! overtake it on another way. Here a push has happened, in one global order per receiver,
//! before anything caused by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use crate::wake::Wake;

/// Envelopes in one inbox from which its senders stop reading their clients.
pub const BACKLOG_MAX: usize = 64 << 10;

/// Scope: one inbox, shared by its owner and all senders.
struct State {
    /// Envelopes pushed and not taken out yet.
    backlog_count: AtomicUsize,
    /// The owner is about to sleep, or sleeps, until `wake` is signalled.
    sleeping: AtomicBool,
    /// `None` for the hub, which waits in the queue itself.
    wake: Option<Wake>,
}

/// Pushes into one inbox.
pub(crate) struct Sender<P> {
    queue: flume::Sender<(usize, P)>,
    state: Arc<State>,
}

impl<P> Clone for Sender<P> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), state: Arc::clone(&self.state) }
    }
}

/// The receiving end, owned by one shard or the hub.
pub(crate) struct Inbox<P> {
    queue: flume::Receiver<(usize, P)>,
    state: Arc<State>,
}

/// An inbox. Its owner is signalled through `wake` when it sleeps, if there is one.
pub(crate) fn inbox<P>(wake: Option<Wake>) -> (Sender<P>, Inbox<P>) {
    let (sender, receiver) = flume::unbounded();
    let state = Arc::new(State {
        backlog_count: AtomicUsize::new(0),
        sleeping: AtomicBool::new(false),
        wake,
    });
    (Sender { queue: sender, state: Arc::clone(&state) }, Inbox { queue: receiver, state })
}

impl<P> Sender<P> {
    /// Pushes `parcel`, which holds `count` envelopes, and wakes its owner if that sleeps.
    /// A parcel for an owner that has ended is dropped.
    pub(crate) fn push(&self, count: usize, parcel: P) {
        self.state.backlog_count.fetch_add(count, Ordering::Relaxed);
        if self.queue.send((count, parcel)).is_err() {
            return;
        }
        // Pairs with the fence in `Inbox::falls_asleep`: either the owner sees this parcel, or
        // we see that it sleeps.
        fence(Ordering::SeqCst);
        if self.state.sleeping.load(Ordering::Relaxed)
            && self.state.sleeping.swap(false, Ordering::Relaxed)
            && let Some(wake) = &self.state.wake
        {
            wake.signal();
        }
    }

    /// Envelopes that wait in this inbox.
    pub(crate) fn backlog_count(&self) -> usize {
        self.state.backlog_count.load(Ordering::Relaxed)
    }
}

impl<P> Inbox<P> {
    /// The oldest parcel, if there is one.
    pub(crate) fn try_take(&self) -> Option<P> {
        self.queue.try_recv().ok().map(|counted| self.count(counted))
    }

    /// The oldest parcel, as soon as there is one; `None` when every sender is gone. Blocks.
    pub(crate) fn take(&self) -> Option<P> {
        self.queue.recv().ok().map(|counted| self.count(counted))
    }

    /// As [`Self::take`], without blocking. Loses nothing when dropped half-way.
    pub(crate) async fn take_async(&self) -> Option<P> {
        self.queue.recv_async().await.ok().map(|counted| self.count(counted))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Announces that the owner sleeps until it is signalled; false if a parcel is there
    /// already, in which case it must not.
    pub(crate) fn falls_asleep(&self) -> bool {
        self.state.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.is_empty() {
            return true;
        }
        self.wakes_up();
        false
    }

    /// From here on the owner looks by itself; nobody needs to signal.
    pub(crate) fn wakes_up(&self) {
        self.state.sleeping.store(false, Ordering::Relaxed);
    }

    pub(crate) fn wake(&self) -> Option<&Wake> {
        self.state.wake.as_ref()
    }

    fn count(&self, (count, parcel): (usize, P)) -> P {
        self.state.backlog_count.fetch_sub(count, Ordering::Relaxed);
        parcel
    }
}

/// Whether a shard reads its clients, by how far its peers are behind.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    held: bool,
}

impl Pressure {
    /// True while clients must not be read. `backlog_count` is the largest among the peers.
    pub(crate) fn update(&mut self, backlog_count: usize) -> bool {
        let mark = if self.held { BACKLOG_MAX / 2 } else { BACKLOG_MAX };
        self.held = backlog_count > mark;
        self.held
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parcels_of_one_sender_keep_their_order() {
        let (sender, inbox) = inbox(None);
        std::thread::scope(|scope| {
            scope.spawn(|| (0..100).for_each(|number| sender.push(1, number)));
            let taken: Vec<u32> = (0..100).map_while(|_| inbox.take()).collect();
            assert_eq!(taken, (0..100).collect::<Vec<_>>());
        });
        assert_eq!(sender.backlog_count(), 0);
    }

    #[test]
    fn a_push_after_falling_asleep_is_announced_and_one_before_keeps_awake() {
        let (sender, inbox) = inbox(None);
        assert!(inbox.falls_asleep());
        sender.push(1, ());
        assert!(!inbox.state.sleeping.load(Ordering::Relaxed), "the push took the flag down");
        assert!(!inbox.falls_asleep());
        assert!(inbox.try_take().is_some());
        assert!(inbox.falls_asleep());
    }

    #[test]
    fn two_peers_that_flood_each_other_neither_wait_nor_lose() {
        const EACH: usize = if cfg!(miri) { 200 } else { 3 * BACKLOG_MAX };
        let (to_left, left) = inbox(None);
        let (to_right, right) = inbox(None);
        // Pushes to the peer unless that is too far behind; always empties its own inbox.
        let shard = |inbox: &Inbox<usize>, peer: &Sender<usize>| {
            let (mut sent, mut taken, mut pressure) = (0, 0, Pressure::default());
            while sent < EACH || taken < EACH {
                if sent < EACH && !pressure.update(peer.backlog_count()) {
                    peer.push(1, sent);
                    sent += 1;
                }
                for expected in taken.. {
                    let Some(number) = inbox.try_take() else { break };
                    assert_eq!(number, expected);
                    taken += 1;
                }
                assert!(inbox.state.backlog_count.load(Ordering::Relaxed) <= BACKLOG_MAX + 1);
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| shard(&left, &to_right));
            scope.spawn(|| shard(&right, &to_left));
        });
        assert!(left.is_empty() && right.is_empty());
    }

    #[test]
    fn pressure_is_let_go_at_half_the_mark() {
        let mut pressure = Pressure::default();
        assert!(!pressure.update(BACKLOG_MAX));
        assert!(pressure.update(BACKLOG_MAX + 1));
        assert!(pressure.update(BACKLOG_MAX / 2 + 1));
        assert!(!pressure.update(BACKLOG_MAX / 2));
    }
}
