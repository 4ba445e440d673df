//! What this shard has to do with other nodes: whom it tells what its clients want, and what
//! it takes from the hub about them.
//!
//! Nodes are peers like other shards, numbered behind them, and all of them are reached through
//! the hub. Only what sessions want is told the group; shared subscriptions are told by their
//! own names, because of a group spread over nodes one member gets each message.
//!
//! Scope: shard.

use octopus_mqtt::TopicFilter;

use crate::envelope::{Envelope, NodeIndex, ShardId};
use crate::interest::{PeerIndex, PeerSet};
use crate::message::{Message, Parcel};
use crate::shard::Shard;
use crate::subscriptions::{FilterId, Subscriber};
use crate::trace::Happened;

impl Shard {
    /// The peer number of a node: behind all shards.
    fn peer_of(&self, node: NodeIndex) -> PeerIndex {
        self.config.shards + node.0
    }

    /// Tells the group if `subscriber` is the first session with this filter.
    pub(crate) fn tell_first(&mut self, filter: FilterId, subscriber: Subscriber) {
        if self.config.cluster
            && matches!(subscriber, Subscriber::Session(_))
            && self.subscriptions.session_count_to_2(filter) == 1
        {
            let filter = self.subscriptions.text(filter).into();
            self.send_hub(Envelope::Interest { filter, wanted: true });
        }
    }

    /// Tells the group if `subscriber`, just taken off, was the last session with this filter.
    ///
    /// - `text`: the filter, if nobody at all has it any more.
    pub(crate) fn tell_last(
        &mut self,
        filter: FilterId,
        subscriber: Subscriber,
        text: Option<&str>,
    ) {
        if !self.config.cluster || !matches!(subscriber, Subscriber::Session(_)) {
            return;
        }
        let filter = match text {
            Some(text) => text.into(),
            None if self.subscriptions.session_count_to_2(filter) == 0 => {
                self.subscriptions.text(filter).into()
            }
            None => return,
        };
        self.send_hub(Envelope::Interest { filter, wanted: false });
    }

    pub(crate) fn take_node_interest(&mut self, node: NodeIndex, filter: &str, wanted: bool) {
        let peer = self.peer_of(node);
        self.take_interest(filter, wanted, peer);
    }

    /// A node left the group: nothing is sent to it any more.
    pub(crate) fn forget_node(&mut self, node: NodeIndex) {
        self.interest.forget(self.peer_of(node));
        self.forget_node_in_groups(node);
    }

    /// Sends the message once to each interested peer; takes `peers` for scratch memory.
    pub(crate) fn forward_to(&mut self, parcel: &mut Parcel<'_>, peers: &PeerSet) -> usize {
        let mut reached = 0;
        let mut nodes = PeerSet::default();
        for peer in peers.iter() {
            reached += 1;
            self.stats.ledger.forward();
            if let Some(node) = peer.checked_sub(self.config.shards) {
                nodes.insert(node);
                continue;
            }
            let message = parcel.message().clone();
            let envelope = match self.confirmation() {
                None => Envelope::Publish(message),
                Some(receipt) => Envelope::PublishFor { message, receipt },
            };
            self.send(ShardId(peer), envelope);
        }
        if self.trace.is_on && reached > 0 {
            self.trace_forwarded(parcel, peers);
        }
        if !nodes.is_empty() {
            let (message, receipt) = (parcel.message().clone(), self.confirmation());
            self.send_hub(Envelope::Bridge { message, nodes, receipt });
        }
        reached
    }

    #[cold]
    #[inline(never)]
    fn trace_forwarded(&mut self, parcel: &Parcel<'_>, peers: &PeerSet) {
        let (mut shards, mut nodes) = (Vec::new(), Vec::new());
        for peer in peers.iter() {
            match peer.checked_sub(self.config.shards) {
                Some(node) => nodes.push(NodeIndex(node)),
                None => shards.push(ShardId(peer)),
            }
        }
        self.trace_step(None, parcel, Happened::Forwarded { shards, nodes });
    }

    /// Keeps a message retained on this node and, through the hub, on every other.
    pub(crate) fn retain_everywhere(&mut self, message: Message) {
        if self.config.cluster {
            let receipt = self.confirmation();
            self.send_hub(Envelope::Retained { message: message.clone(), receipt });
        }
        self.retain_at_home(message);
    }

    /// Tells the group what this node's part of a shared subscription is like, if it changed.
    pub(crate) fn tell_group_state(&mut self, key: &str) {
        if !self.config.cluster {
            return;
        }
        if let Some(presence) = self.groups.changed_presence(key) {
            self.send_hub(Envelope::GroupState { key: key.into(), presence });
        }
    }

    /// Another node picked this node's part of a shared group for a message.
    pub(crate) fn group_message(&mut self, key: &str, message: &Message) {
        if TopicFilter::parse(key).is_ok() {
            self.deliver_to_own_members(key, &mut message.parcel());
        }
    }
}
