//! All that travels on the mesh: between shards, and between a shard and the hub.

use std::sync::Arc;

use octopus_mqtt::{ReasonCode, Version};

use crate::acl::Acl;
use crate::durable::{DeliveryItem, RecordOp, SessionRecord};
use crate::event::{ConnectionId, Instant, Remote};
use crate::interest::PeerSet;
use crate::memory::MemoryLevel;
use crate::message::Message;
use crate::query::{Answer, Query};
use crate::reconfigure::NewLimits;
use crate::run::MessageRun;
use crate::stats::Stats;
use crate::subscriptions::{Grant, SessionId};

/// One shard of this node, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// Another node of the group, as the hub numbers them: small, and used again when a node is
/// gone. Scope: node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(pub u16);

/// Who is at the other end of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    Shard(ShardId),
    /// The control plane: bridge, store, authentication, statistics.
    Hub,
}

/// What one peer tells another. Delivered in order per pair of peers, exactly once.
#[derive(Clone, Debug)]
pub enum Envelope {
    /// A message for this peer's own subscribers. From a shard: `Origin::Shard`.
    Publish(Message),
    /// Shard to shard: several messages to one topic, for this peer's own subscribers. None of
    /// them has a receipt.
    PublishRun(MessageRun),
    /// Shard to shard: as `Publish`; answer the receipt when it is safe here.
    PublishFor {
        message: Message,
        receipt: ReceiptId,
    },
    /// To the receipt's shard: this confirmation is in.
    Accepted {
        receipt: ReceiptId,
    },
    /// To the receipt's shard: this confirmation will never come.
    Refused {
        receipt: ReceiptId,
        reason: ReasonCode,
    },
    /// The sender has, or no longer has, a subscriber with this Topic Filter.
    Interest {
        filter: Box<str>,
        wanted: bool,
    },
    /// Answer with `Fenced` when all that came before is taken in: by this peer; by the hub, on
    /// every live node of the group, and this node has what the group retains.
    Fence {
        barrier: u64,
    },
    /// The answer to `Fence`.
    Fenced {
        barrier: u64,
    },
    /// Keep this as the retained message of its topic, or forget it if the payload is empty.
    Retain(Message),
    RetainedQuery(Box<RetainedQuery>),
    RetainedFound(Box<RetainedFound>),
    Group(Box<GroupEnvelope>),
    /// Shard to hub: may this client connect?
    Authenticate(Box<AuthRequest>),
    /// Hub to shard: the answer. One that was not asked for changes what a live connection
    /// may do, or ends it.
    Authenticated(Box<AuthAnswer>),
    /// Hub to shard: from now on ask before a client may connect, and tell who is connected.
    AskHub,
    /// Shard to hub, after `AskHub`: this client was let in before.
    Live(Box<AuthRequest>),
    /// Shard to hub, if it authenticates: a connection that `Authenticate` or `Live` named is
    /// gone.
    Parted {
        connection: ConnectionId,
    },
    /// Shard to hub: a client may connect; whose is its session?
    Claim(Box<Claim>),
    /// Hub to shard: it is this node's now.
    Claimed(Box<Claimed>),
    /// Hub to shard: it could not be claimed.
    ClaimRefused {
        connection: ConnectionId,
        reason: ReasonCode,
    },
    /// Hub to the home shard: another node claims this session. Answered by `Surrendered`.
    Evict {
        client_id: Box<str>,
        /// The ownership that ends.
        epoch: u64,
    },
    /// Shard to hub: the session has left this shard.
    Surrendered(Box<Surrendered>),
    /// Hub to the home shard: keep this session; its node is gone.
    Adopt(Box<Adopted>),
    /// Hub to the home shard: what the session's old node got for it since; `None` is the end.
    Pass {
        client_id: Box<str>,
        items: Vec<Option<DeliveryItem>>,
        /// It is all that was passed on before [`Change::Arrived`] was recorded without the old
        /// node's word.
        ///
        /// [`Change::Arrived`]: crate::Change::Arrived
        is_all: bool,
    },
    /// Shard to hub: a session was lost, and what waits for these of its receipts must not be
    /// sent to other nodes any more.
    LetGo {
        /// Serials of this shard's receipts, in order.
        receipts: Vec<u64>,
    },
    /// Hub to every shard: this node's inbox is trimmed up to the messages before this fence.
    Trimmed {
        barrier: u64,
    },
    /// Shard to hub: sessions here wait for what is in the inbox of this node, which they were
    /// taken from.
    Owed {
        node: Box<str>,
    },
    /// Hub to every shard: what follows of this round is for who waits for this node.
    LeftBegins {
        node: Box<str>,
        round: u64,
    },
    /// Shard to hub: everybody knows where this shard's sessions of that round are, and what was
    /// sent to that node only is in its inbox.
    Spread {
        round: u64,
    },
    /// Hub to shard: a message of that inbox.
    Left {
        round: u64,
        message: Message,
    },
    /// Hub to every shard: that was all.
    LeftEnds {
        round: u64,
    },
    /// Hub to the home shard: every node knows by now where the session went that this shard
    /// had under this epoch. If it was handed over, this comes behind all that they sent here
    /// before they knew; if it was lost, its new node has taken that.
    Known {
        epoch: u64,
        client_id: Box<str>,
    },
    /// Hub to the home shard: ownership up to this epoch was lost; forget the session, but for
    /// what it is subscribed to, until `Known`.
    Disown {
        client_id: Box<str>,
        epoch: u64,
    },
    /// Shard to hub: keep this change of a session.
    Record(Box<RecordOp>),
    /// Hub to shard: so many of the shard's `Record`s, counted from its start, are safe.
    Recorded {
        count: u64,
        /// Of these, the ones that were not kept because the session is another's.
        refused: Vec<u64>,
    },
    /// Hub to shard: what was recorded is lost; record anew all there is, between two `Restated`.
    Restate {
        /// Told apart from another loss meanwhile.
        round: u64,
    },
    /// Shard to hub: what comes between `is_over: false` and `true` says all that this shard has
    /// of sessions; what came before need not be kept.
    Restated {
        round: u64,
        is_over: bool,
    },
    /// Hub to shard: until then what the node owns is its own.
    Lease {
        until: Instant,
    },
    /// Hub to shard: route this as if a client of the shard had published it.
    Inject(Message),
    /// Hub to every shard: a message of this node alone (`$SYS`). It goes to the shard's own
    /// subscribers and never further; the shard its topic is at home on keeps it if it is to
    /// be retained. Nobody published it, so it is counted only as it is delivered.
    Local(Message),
    /// Hub to the client's home shard: end its connection with this reason.
    Kick {
        client: Box<str>,
        reason: ReasonCode,
    },
    /// Hub to every shard: this node of the group wants what `filter` matches, or no longer
    /// does.
    NodeInterest {
        node: NodeIndex,
        filter: Box<str>,
        wanted: bool,
    },
    /// Hub to every shard: this node has left the group.
    NodeGone {
        node: NodeIndex,
    },
    /// Shard to hub: for the subscribers of these nodes (a set of [`NodeIndex`] numbers).
    Bridge {
        message: Message,
        nodes: PeerSet,
        receipt: Option<ReceiptId>,
    },
    /// Shard to hub: to be retained on every node, this one excepted.
    Retained {
        message: Message,
        receipt: Option<ReceiptId>,
    },
    /// Home shard of a shared group to hub: what its members on this node are like now.
    GroupState {
        key: Box<str>,
        presence: Option<Presence>,
    },
    /// Hub to the home shard of a shared group: the same of another node.
    NodeGroup {
        node: NodeIndex,
        key: Box<str>,
        presence: Option<Presence>,
    },
    /// Home shard of a shared group to hub: this node's part of the group gets the message.
    BridgeGroup {
        node: NodeIndex,
        key: Arc<str>,
        message: Message,
        receipt: Option<ReceiptId>,
    },
    /// Hub to the home shard of a shared group: another node picked this node's part.
    GroupMessage {
        key: Box<str>,
        message: Message,
    },
    /// Hub to any shard: keep this as the retained message of its topic on this node, without
    /// telling the group.
    RetainHere(Message),
    /// Shard to shard: so much of my part of the memory budget is used.
    Memory {
        level: MemoryLevel,
    },
    /// Hub to shard: these limits are in force from now on.
    Limits(Box<NewLimits>),
    /// Hub to shard: send `Stats`.
    StatsWanted,
    /// Shard to hub.
    Stats(Box<Stats>),
    /// Hub to shard: a question about what lives there, answered by `Answer`.
    Query(Box<Query>),
    /// Shard to hub.
    Answer(Box<Answer>),
}

impl Envelope {
    /// As how many envelopes it counts in the inbox of a peer that is behind.
    pub fn weight(&self) -> usize {
        match self {
            Self::PublishRun(run) => run.count(),
            _ => 1,
        }
    }
}

/// A client that connects, or is connected, and needs its session. Scope: group.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The connection that waits, on the asking shard.
    pub connection: ConnectionId,
    pub client_id: Box<str>,
    pub clean_start: bool,
    /// This shard has the session, and had it claimed.
    pub is_here: bool,
    /// The session will outlive the connection.
    pub is_persistent: bool,
}

/// The hub's word on a [`Claim`].
#[derive(Clone, Debug)]
pub struct Claimed {
    pub connection: ConnectionId,
    pub client_id: Box<str>,
    /// Rises with every change of owner; 0: not claimed, but may go on without.
    pub epoch: u64,
    /// What the session was elsewhere; `None` if this node has it, or nobody.
    pub record: Option<Box<SessionRecord>>,
}

/// A session that another node gets.
#[derive(Clone, Debug)]
pub struct Surrendered {
    pub client_id: Box<str>,
    /// As in the `Evict` that asked for it.
    pub epoch: u64,
    /// `None` if there is none, or it ended with its connection.
    pub record: Option<Box<SessionRecord>>,
}

/// A session to keep for a client that may come.
#[derive(Clone, Debug)]
pub struct Adopted {
    pub client_id: Box<str>,
    pub epoch: u64,
    pub record: Box<SessionRecord>,
}

/// Asks the shard that keeps a part of the retained messages for a slice of them.
#[derive(Clone, Debug)]
pub struct RetainedQuery {
    pub replay: ReplayId,
    pub filter: Box<str>,
    /// The topic the last slice ended with.
    pub after: Option<Box<str>>,
    pub limit: usize,
}

/// A slice of retained messages.
#[derive(Clone, Debug)]
pub struct RetainedFound {
    pub replay: ReplayId,
    pub messages: Vec<Message>,
    /// Where to go on; `None` when this shard has no more.
    pub next: Option<Box<str>>,
}

/// A message that waits to be acknowledged, by the shard that took it from its publisher.
/// Unique on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReceiptId {
    pub shard: ShardId,
    pub serial: u64,
}

/// One replay of retained messages to one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayId {
    pub session: SessionRef,
    pub serial: u64,
}

/// A session on its home shard; `serial` tells two users of one slot apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionRef {
    pub id: SessionId,
    pub serial: u32,
}

/// A member of a shared group: a session on a shard of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    pub shard: ShardId,
    pub session: SessionRef,
}

/// What member shards and the home shard of a shared group tell each other.
#[derive(Clone, Debug)]
pub struct GroupEnvelope {
    /// The shared subscription as a whole, `$share/{group}/{filter}`.
    pub key: Arc<str>,
    pub event: GroupEvent,
}

#[derive(Clone, Debug)]
pub enum GroupEvent {
    /// To the home: this member subscribed, or changed its grant. Answered by `Fenced` once
    /// every shard has the group's interest.
    Join { member: Member, grant: Grant, presence: Presence, barrier: u64 },
    /// To the home: this member unsubscribed or its session ended.
    Leave { member: Member },
    /// To the home: the member's client came or went.
    Presence { member: Member, presence: Presence },
    /// To the member: the group picked it for this message; answer the receipt when it is safe.
    Deliver { member: Member, grant: Grant, message: Message, receipt: Option<ReceiptId> },
    /// To the home: the member could not keep this one; give it to another.
    Return { member: Member, message: Message, receipt: Option<ReceiptId> },
    /// To the home: the member finished so many messages (for the least-in-flight pick).
    Done { member: Member, count: u32 },
}

/// Whether a member's client is there to take messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Presence {
    Online,
    /// Away, with a session that waits for it.
    Offline,
}

/// A client that wants to connect, as the hub's authentication sees it.
#[derive(Clone, Debug)]
pub struct AuthRequest {
    /// The connection that waits, on the asking shard.
    pub connection: ConnectionId,
    pub remote: Remote,
    pub version: Version,
    pub client_id: Box<str>,
    pub user_name: Option<Box<str>>,
    pub password: Option<Box<[u8]>>,
    /// Enhanced authentication (§4.12): the method and this step's data.
    pub exchange: Option<AuthExchange>,
}

#[derive(Clone, Debug)]
pub struct AuthExchange {
    pub method: Box<str>,
    pub data: Box<[u8]>,
    /// What step of the exchange this is.
    pub step: AuthStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthStep {
    /// The data of CONNECT.
    Start,
    /// The data of an AUTH with Continue authentication.
    Continue,
    /// The data of an AUTH with Re-authenticate, on a live connection.
    Again,
}

/// The hub's word on an [`AuthRequest`].
#[derive(Clone, Debug)]
pub struct AuthAnswer {
    pub connection: ConnectionId,
    pub outcome: AuthOutcome,
}

#[derive(Clone, Debug)]
pub enum AuthOutcome {
    Granted {
        /// The user the client is known as, if it is not the User Name it sent.
        user: Option<Box<str>>,
        /// What it may do; `None`: everything.
        acl: Option<Arc<Acl>>,
        /// Last data of an enhanced authentication, for CONNACK or AUTH.
        data: Option<Box<[u8]>>,
    },
    /// Enhanced authentication goes on: send this to the client in an AUTH.
    Continue {
        data: Box<[u8]>,
    },
    Refused {
        reason: ReasonCode,
    },
    /// Unasked, to a live connection: from now on it may do this; `None`: everything.
    /// Subscriptions that are no longer allowed end.
    Changed {
        acl: Option<Arc<Acl>>,
    },
}
