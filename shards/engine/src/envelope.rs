//! All that travels on the mesh: between shards, and between a shard and the hub.

use std::sync::Arc;

use octopus_mqtt::{ReasonCode, Version};

use crate::acl::Acl;
use crate::event::{ConnectionId, Remote};
use crate::message::Message;
use crate::stats::Stats;
use crate::subscriptions::{Grant, SessionId};

/// One shard of this node, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

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
    /// The sender has, or no longer has, a subscriber with this Topic Filter.
    Interest {
        filter: Box<str>,
        wanted: bool,
    },
    /// Answer with `Fenced` when all that came before is taken in.
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
    /// Shard to hub, if it authenticates: a connection that `Authenticate` named is gone.
    Parted {
        connection: ConnectionId,
    },
    /// Hub to shard: route this as if a client of the shard had published it.
    Inject(Message),
    /// Hub to the client's home shard: end its connection with this reason.
    Kick {
        client: Box<str>,
        reason: ReasonCode,
    },
    /// Hub to shard: send `Stats`.
    StatsWanted,
    /// Shard to hub.
    Stats(Box<Stats>),
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
    /// To the member: the group picked it for this message.
    Deliver { member: Member, grant: Grant, message: Message },
    /// To the home: the member could not keep this one; give it to another.
    Return { member: Member, message: Message },
    /// To the home: the member finished so many messages (for the least-in-flight pick).
    Done { member: Member, count: u32 },
}

/// Whether a member's client is there to take messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
