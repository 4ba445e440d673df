//! Questions of the control plane about what lives on a shard, and their answers.
//!
//! Each is answered at once and looks at a bounded number of things ([`LOOKED_AT_MAX`]), so
//! that no question holds the shard up for more than about a millisecond. What does not fit is
//! told by a cursor to go on from. Between two slices sessions come and go; a slice shows what
//! is there when it is made.

use octopus_mqtt::{PacketId, QoS, TopicFilter, Version};

use crate::event::{Instant, ListenerId};
use crate::inflight::{Inflight, Sent};
use crate::message::Message;
use crate::recent::Incident;
use crate::session::{Queued, Session};
use crate::shard::Shard;
use crate::subscriptions::{SessionId, Subscriber};
use crate::trace::{TraceAsk, TraceSlice};

/// Sessions one slice looks at.
const LOOKED_AT_MAX: u32 = 2048;
/// Results of one slice.
const FOUND_MAX: usize = 256;
/// Messages shown of a session: as many in flight, and as many that wait.
const PENDING_MAX: usize = 100;

/// A question; the answer carries the same `id`.
#[derive(Clone, Debug)]
pub struct Query {
    pub id: u64,
    pub ask: Ask,
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub id: u64,
    pub found: Found,
}

#[derive(Clone, Debug)]
pub enum Ask {
    /// Sessions whose Client Identifier fits, from a cursor on; 0 is the beginning.
    Clients { search: Search, from: u32, limit: usize },
    /// One client with its subscriptions.
    Client { id: Box<str> },
    /// Subscriptions of the sessions from a cursor on, whose filter contains this text.
    Subscriptions { contains: Box<str>, from: u32, limit: usize },
    /// Retained messages at home here that match, behind a topic.
    Retained { filter: Box<str>, after: Option<Box<str>>, limit: usize },
    /// What went wrong lately for a client or a topic; empty: for all.
    Incidents { about: Box<str>, limit: usize },
    /// Begin, read or stop following messages.
    Trace(TraceAsk),
}

/// Which Client Identifiers are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Search {
    All,
    StartsWith(Box<str>),
    Contains(Box<str>),
}

/// What was found. `next`: the cursor to go on from; `None` at the end.
#[derive(Clone, Debug)]
pub enum Found {
    Clients { clients: Vec<ClientInfo>, next: Option<u32> },
    Client(Option<Box<ClientDetail>>),
    Subscriptions { subscriptions: Vec<SubscriptionInfo>, next: Option<u32> },
    Retained { messages: Vec<Message>, next: Option<Box<str>> },
    Incidents { incidents: Vec<Incident>, now: Instant },
    Trace(TraceSlice),
}

/// One session and, while its client is there, its connection.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    pub client: Box<str>,
    pub connection: Option<ConnectionInfo>,
    /// Session Expiry Interval, seconds; `None`: never.
    pub expiry_s: Option<u32>,
    pub subscription_count: usize,
    pub queue_count: usize,
    pub queue_bytes: usize,
    pub inflight_count: usize,
    /// QoS 2 messages received and not yet released.
    pub incoming_count: usize,
}

#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    pub address: Option<std::net::SocketAddr>,
    pub listener: ListenerId,
    pub version: Version,
    pub user: Option<Box<str>>,
    pub keep_alive_s: u16,
    /// Since something came from the client.
    pub silent: std::time::Duration,
    /// Bytes not yet taken by the kernel.
    pub out_bytes: usize,
    /// Messages of QoS 1 and 2 that may be in flight to it.
    pub send_quota: u16,
}

#[derive(Clone, Debug)]
pub struct ClientDetail {
    pub info: ClientInfo,
    /// As many as a slice holds.
    pub subscriptions: Vec<SubscriptionInfo>,
    pub will_topic: Option<Box<str>>,
    /// Sent and not finished, in the order sent; the first of them.
    pub inflight: Vec<PendingInfo>,
    /// What waits to be sent, in its order; the first of them.
    pub queue: Vec<PendingInfo>,
    pub incidents: Vec<Incident>,
    pub now: Instant,
}

/// A message on its way to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingInfo {
    /// `None`: it waits in the queue.
    pub packet_id: Option<PacketId>,
    /// `None`: the client has it, PUBCOMP is awaited.
    pub message: Option<PendingMessage>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingMessage {
    pub topic: Box<str>,
    pub qos: QoS,
    pub retain: bool,
    pub payload_bytes: usize,
}

impl PendingMessage {
    fn of(queued: &Queued) -> Self {
        Self {
            topic: queued.message.topic().as_str().into(),
            qos: queued.qos,
            retain: queued.retain,
            payload_bytes: queued.message.payload().len(),
        }
    }
}

impl PendingInfo {
    fn sent(sent: &Inflight) -> Self {
        let message = match &sent.state {
            Sent::Published(queued) => Some(PendingMessage::of(queued)),
            Sent::Released => None,
        };
        Self { packet_id: Some(sent.packet_id), message }
    }

    fn waits(queued: &Queued) -> Self {
        Self { packet_id: None, message: Some(PendingMessage::of(queued)) }
    }
}

#[derive(Clone, Debug)]
pub struct SubscriptionInfo {
    pub client: Box<str>,
    /// With `$share/{group}/` in front, if it is a shared one.
    pub filter: Box<str>,
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub subscription_id: u32,
}

impl Search {
    fn fits(&self, client: &str) -> bool {
        match self {
            Self::All => true,
            Self::StartsWith(text) => client.starts_with(&**text),
            Self::Contains(text) => client.contains(&**text),
        }
    }
}

impl Shard {
    /// Answers a question of the control plane.
    pub(crate) fn answer(&mut self, ask: Ask) -> Found {
        match ask {
            Ask::Clients { search, from, limit } => self.find_clients(&search, from, limit),
            Ask::Client { id } => Found::Client(self.client_detail(&id).map(Box::new)),
            Ask::Subscriptions { contains, from, limit } => {
                self.find_subscriptions(&contains, from, limit)
            }
            Ask::Retained { filter, after, limit } => {
                self.list_retained(&filter, after.as_deref(), limit)
            }
            Ask::Incidents { about, limit } => Found::Incidents {
                incidents: self.recent.about(&about, limit.min(FOUND_MAX)),
                now: self.now,
            },
            Ask::Trace(ask) => Found::Trace(self.ask_trace(ask)),
        }
    }

    /// The sessions of a slice that begins at slot `from`, and where the slice ends.
    fn slice(&self, from: u32) -> (impl Iterator<Item = (u32, &Session)>, Option<u32>) {
        let end = self.sessions.slot_count().min(from.saturating_add(LOOKED_AT_MAX));
        let next = (end < self.sessions.slot_count()).then_some(end);
        let at = |slot| self.sessions.get(SessionId(slot)).map(|session| (slot, session));
        ((from..end).filter_map(at), next)
    }

    fn find_clients(&self, search: &Search, from: u32, limit: usize) -> Found {
        let limit = limit.clamp(1, FOUND_MAX);
        let mut clients = Vec::new();
        let (sessions, next) = self.slice(from);
        for (slot, session) in sessions.filter(|(_, session)| search.fits(&session.client_id)) {
            if clients.len() == limit {
                return Found::Clients { clients, next: Some(slot) };
            }
            clients.push(self.client_info(session));
        }
        Found::Clients { clients, next }
    }

    fn client_info(&self, session: &Session) -> ClientInfo {
        let connection = session.connection.and_then(|id| self.connections.get(id));
        let deliveries = session.peek_deliveries();
        ClientInfo {
            client: session.client_id.clone(),
            connection: connection.map(|connection| ConnectionInfo {
                address: connection.address,
                listener: connection.listener,
                version: connection.version,
                user: connection.user.clone(),
                keep_alive_s: connection.keep_alive_s,
                silent: self.now.since(connection.last_received),
                out_bytes: connection.out_len(),
                send_quota: connection.send_quota,
            }),
            expiry_s: (session.expiry_s != crate::session::NEVER).then_some(session.expiry_s),
            subscription_count: session.subscription_count(),
            queue_count: deliveries.map_or(0, |d| d.queue.len()),
            queue_bytes: deliveries.map_or(0, |d| d.queue_bytes),
            inflight_count: deliveries.map_or(0, |d| d.inflight.len()),
            incoming_count: deliveries.map_or(0, |d| d.incoming_count()),
        }
    }

    fn client_detail(&self, client: &str) -> Option<ClientDetail> {
        const INCIDENTS_MAX: usize = 20;
        let session = self.sessions.find(client).and_then(|id| self.sessions.get(id))?;
        let will = session.will.as_ref();
        let deliveries = session.peek_deliveries();
        let inflight = deliveries.into_iter().flat_map(|d| d.inflight.each());
        let queue = deliveries.into_iter().flat_map(|d| d.queue.iter());
        Some(ClientDetail {
            info: self.client_info(session),
            subscriptions: self.subscriptions_of(session).take(FOUND_MAX).collect(),
            will_topic: will.map(|will| will.topic().into()),
            inflight: inflight.take(PENDING_MAX).map(|sent| PendingInfo::sent(&sent)).collect(),
            queue: queue.take(PENDING_MAX).map(PendingInfo::waits).collect(),
            incidents: self.recent.about(client, INCIDENTS_MAX),
            now: self.now,
        })
    }

    fn subscriptions_of<'s>(
        &'s self,
        session: &'s Session,
    ) -> impl Iterator<Item = SubscriptionInfo> + 's {
        let info = |filter: &str, grant: crate::subscriptions::Grant| SubscriptionInfo {
            client: session.client_id.clone(),
            filter: filter.into(),
            qos: grant.qos,
            no_local: grant.no_local,
            retain_as_published: grant.retain_as_published,
            subscription_id: grant.subscription_id,
        };
        let subscriber = Subscriber::Session(session.id.id);
        let own = session.subscriptions.iter().filter_map(move |&filter| {
            let grant = self.subscriptions.grant(filter, subscriber)?;
            Some(info(self.subscriptions.text(filter), grant))
        });
        let shared = session.peek_deliveries().into_iter().flat_map(|d| &d.shared);
        own.chain(shared.map(move |shared| info(&shared.key, shared.grant)))
    }

    /// A slice ends between sessions: one with more than fit is shown up to the limit.
    fn find_subscriptions(&self, contains: &str, from: u32, limit: usize) -> Found {
        let limit = limit.clamp(1, FOUND_MAX);
        let mut subscriptions = Vec::new();
        let (sessions, next) = self.slice(from);
        let mut looked_at = 0;
        for (slot, session) in sessions {
            if subscriptions.len() >= limit || looked_at >= LOOKED_AT_MAX as usize {
                return Found::Subscriptions { subscriptions, next: Some(slot) };
            }
            let own = self.subscriptions_of(session).take(LOOKED_AT_MAX as usize);
            let own = own.inspect(|_| looked_at += 1);
            subscriptions.extend(own.filter(|s| s.filter.contains(contains)).take(limit));
        }
        Found::Subscriptions { subscriptions, next }
    }

    fn list_retained(&self, filter: &str, after: Option<&str>, limit: usize) -> Found {
        let mut messages = Vec::new();
        let next = TopicFilter::parse(filter).ok().and_then(|filter| {
            self.retained.matching(filter, after, limit.clamp(1, FOUND_MAX), &mut messages)
        });
        messages.retain(|message| !message.is_expired(self.now));
        Found::Retained { messages, next }
    }
}
