//! One Network Connection: what is known of the client while its socket lives.
//!
//! An idle connection holds this struct and nothing else: both buffers are empty without
//! memory of their own, version 5 extras exist only for clients that asked for them.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use hashbrown::HashMap;
use octopus_mqtt::{AckKind, PacketId, ReasonCode, ReasonProperties, Version, encode_ack};

use crate::acl::Acl;
use crate::event::{ConnectionId, Instant, ListenerId, OutBuffer, Remote};
use crate::rate::Pace;
use crate::receipt::Owed;
use crate::refusal::explained;
use crate::slots::Slots;
use crate::subscriptions::SessionId;

/// Scope: connection.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) listener: ListenerId,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) phase: Phase,
    pub(crate) version: Version,
    /// Why it is not read at the moment; a set of [`Pause`].
    paused: u8,
    /// Session Expiry Interval in CONNECT was 0: DISCONNECT cannot lengthen it.
    pub(crate) is_expiry_fixed: bool,
    /// Request Problem Information in CONNECT was 1: acknowledgements that refuse are explained.
    /// It may stay away for the same, but there are clients that take no such acknowledgement.
    pub(crate) wants_problem_information: bool,
    /// Listed in `Shard::dirty`.
    pub(crate) is_dirty: bool,
    /// A `Write` is out; its size in bytes.
    pub(crate) writing: Option<NonZeroUsize>,
    /// Seconds; 0: no limit.
    pub(crate) keep_alive_s: u16,
    /// QoS 1 and 2 messages we may have in flight to this client.
    pub(crate) send_quota: u16,
    /// What it was told in CONNACK, by place in `Editions`.
    pub(crate) edition: u16,
    /// The client's Maximum Packet Size, bytes.
    pub(crate) packet_size_max: u32,
    pub(crate) last_received: Instant,
    /// Hash of the Client Identifier, for [`crate::Pick::Publisher`].
    pub(crate) publisher: u64,
    /// Bytes of an incomplete packet, or all bytes while the connection waits.
    pub(crate) inbox: Vec<u8>,
    /// Bytes to send with the next `Write`.
    pub(crate) out: OutBuffer,
    /// Bytes of shared chunks in `out`.
    pub(crate) shared_len: usize,
    /// What of its buffers is in the shard's count.
    counted: usize,
    pub(crate) user: Option<Box<str>>,
    pub(crate) acl: Option<Arc<Acl>>,
    pub(crate) extras: Option<Box<Extras>>,
    /// Made with the first bytes, if a rate is configured.
    pub(crate) pace: Option<Box<Pace>>,
    /// Acknowledgements that wait; `None` if none does.
    pub(crate) owed: Option<Box<Owed>>,
}

/// Where a connection stands between accept and close.
#[derive(Debug)]
pub(crate) enum Phase {
    /// Nothing but CONNECT is accepted [MQTT-3.1.0-1].
    AwaitingConnect,
    /// The hub is asked about this CONNECT.
    AwaitingAnswer(Box<Waiting>),
    /// The hub claims the session.
    AwaitingClaim(Box<Waiting>),
    /// Enhanced authentication: the client was challenged and answers with AUTH.
    AwaitingAuth(Box<Waiting>),
    /// The client has its CONNACK.
    Connected { session: SessionId },
    /// Last bytes go out, then it closes.
    Closing,
}

/// What is kept of a CONNECT until it can be answered. Scope: connection.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// Its body on the wire.
    pub(crate) connect: Box<[u8]>,
    /// The Client Identifier made for it.
    pub(crate) assigned: Option<Box<str>>,
    /// The last of an enhanced authentication.
    pub(crate) data: Option<Box<[u8]>>,
    /// Its session was here when the hub was asked for it.
    pub(crate) is_here: bool,
}

/// What only some clients have. Scope: connection.
#[derive(Debug, Default)]
pub(crate) struct Extras {
    /// Topics by alias, as the client defined them; index 0 is alias 1.
    pub(crate) aliases_in: Vec<Option<Box<str>>>,
    /// Aliases we defined towards the client.
    pub(crate) aliases_out: HashMap<Box<str>, u16>,
    /// How many of those the client allows.
    pub(crate) alias_out_max: u16,
    /// The Authentication Method of CONNECT, for re-authentication.
    pub(crate) method: Option<Box<str>>,
    /// A re-authentication is under way.
    pub(crate) is_authenticating: bool,
    /// The identity of the client's certificate.
    pub(crate) certificate: Option<Box<str>>,
}

/// A reason not to read from a connection.
#[derive(Clone, Copy, Debug)]
#[repr(u8)]
pub(crate) enum Pause {
    /// It does not take what we send.
    SlowReader = 1,
    /// Its CONNECT waits for the hub, and enough bytes wait behind it.
    AwaitingAnswer = 2,
    /// As many of its messages as we take at a time wait to be acknowledged.
    AwaitingReceipts = 4,
    /// It, or its listener, is ahead of its rate.
    Rate = 8,
    /// It publishes, and memory is scarce.
    Memory = 16,
    /// As many of its SUBSCRIBEs as we take at a time wait to be acknowledged.
    AwaitingSubAcks = 32,
}

impl Connection {
    pub(crate) fn new(id: ConnectionId, remote: Remote, now: Instant) -> Self {
        let Remote { listener, address, certificate } = remote;
        Self {
            id,
            listener,
            address,
            phase: Phase::AwaitingConnect,
            version: Version::V3_1_1,
            paused: 0,
            is_expiry_fixed: false,
            wants_problem_information: false,
            is_dirty: false,
            writing: None,
            keep_alive_s: 0,
            send_quota: 0,
            edition: 0,
            packet_size_max: u32::MAX,
            last_received: now,
            publisher: 0,
            inbox: Vec::new(),
            out: OutBuffer::default(),
            shared_len: 0,
            counted: 0,
            user: None,
            acl: None,
            extras: certificate.map(|identity| {
                Box::new(Extras { certificate: Some(identity), ..Extras::default() })
            }),
            pace: None,
            owed: None,
        }
    }

    pub(crate) fn session(&self) -> Option<SessionId> {
        match self.phase {
            Phase::Connected { session } => Some(session),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn manner(&self) -> Manner {
        Manner {
            version: self.version,
            packet_size_max: self.packet_size_max as usize,
            wants_problem_information: self.wants_problem_information,
        }
    }

    pub(crate) fn remote(&self) -> Remote {
        let certificate = self.extras.as_ref().and_then(|extras| extras.certificate.clone());
        Remote { listener: self.listener, address: self.address, certificate }
    }

    /// Bytes not yet taken by the kernel.
    pub(crate) fn out_len(&self) -> usize {
        self.out.bytes.len() + self.shared_len + self.writing.map_or(0, NonZeroUsize::get)
    }

    pub(crate) fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }

    /// Notes a reason not to read; `true` if reading stops with it.
    pub(crate) fn pause(&mut self, why: Pause) -> bool {
        let was_reading = self.paused == 0;
        self.paused |= why as u8;
        was_reading
    }

    /// Takes a reason back; `true` if reading starts again.
    pub(crate) fn resume(&mut self, why: Pause) -> bool {
        let was_paused = self.paused != 0;
        self.paused &= !(why as u8);
        was_paused && self.paused == 0
    }
}

/// How one client is answered. Scope: connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) version: Version,
    /// Bytes; larger answers the client does not take [MQTT-3.1.2-24].
    pub(crate) packet_size_max: usize,
    wants_problem_information: bool,
}

impl Manner {
    /// The Reason String that goes with this code, if the client asked for problem information
    /// [MQTT-3.1.2-29].
    pub(crate) fn reason_string(self, reason: ReasonCode) -> ReasonProperties<'static> {
        let is_told = reason.is_error() && self.wants_problem_information;
        let reason_string = (is_told && self.version == Version::V5).then(|| explained(reason));
        ReasonProperties { reason_string, ..ReasonProperties::default() }
    }

    /// Appends what `encode` makes of the Reason String, or without it if it makes the packet
    /// too large [MQTT-3.4.2-2], [MQTT-3.9.2-1]. `false`, and nothing is appended, if the packet
    /// is too large all the same.
    pub(crate) fn put(
        self,
        out: &mut Vec<u8>,
        reason: ReasonCode,
        encode: impl Fn(&mut Vec<u8>, ReasonProperties<'_>),
    ) -> bool {
        let start = out.len();
        let told = self.reason_string(reason);
        for properties in [told, ReasonProperties::default()] {
            encode(out, properties);
            if out.len() - start <= self.packet_size_max {
                return true;
            }
            out.truncate(start);
        }
        false
    }

    /// Appends an acknowledgement. The smallest fit whoever could take a CONNACK.
    #[inline]
    pub(crate) fn put_ack(
        self,
        out: &mut Vec<u8>,
        kind: AckKind,
        packet_id: PacketId,
        reason: ReasonCode,
    ) {
        if reason.is_error() {
            return self.put_refusal(out, kind, packet_id, reason);
        }
        encode_ack(kind, packet_id, reason, &ReasonProperties::default(), self.version, out);
    }

    #[cold]
    fn put_refusal(self, out: &mut Vec<u8>, kind: AckKind, id: PacketId, reason: ReasonCode) {
        self.put(out, reason, |out, properties| {
            encode_ack(kind, id, reason, &properties, self.version, out);
        });
    }
}

/// Whether DISCONNECT with this reason keeps the will from being sent [MQTT-3.1.2-10].
pub(crate) fn discards_will(reason: ReasonCode) -> bool {
    reason == ReasonCode::Success
}

/// The connections of a shard by slot. Scope: shard.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    slots: Slots<Connection>,
    len: usize,
    /// Bytes in all buffers, as last counted.
    buffered: usize,
}

impl Connections {
    /// # Panics
    /// If the driver opens a slot that is in use: our own mistake, not a client's.
    pub(crate) fn insert(&mut self, connection: Connection) {
        let slot = connection.id.slot;
        assert!(self.slots.get(slot).is_none(), "the driver opened slot {slot} twice");
        self.slots.insert(slot, connection);
        self.len += 1;
    }

    pub(crate) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let connection = self.slots.get_mut(id.slot)?;
        (connection.id == id).then_some(connection)
    }

    pub(crate) fn get(&self, id: ConnectionId) -> Option<&Connection> {
        let connection = self.slots.get(id.slot)?;
        (connection.id == id).then_some(connection)
    }

    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        self.get(id)?;
        let removed = self.slots.take(id.slot)?;
        self.len -= 1;
        self.buffered -= removed.counted;
        Some(removed)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that wait in connections' buffers in either direction.
    pub(crate) fn buffered(&self) -> usize {
        self.buffered
    }

    /// Counts a connection's buffers anew.
    pub(crate) fn recount(&mut self, id: ConnectionId) {
        let Some(connection) = self.get_mut(id) else { return };
        let before = connection.counted;
        connection.counted = connection.inbox.len() + connection.out_len();
        let now = connection.counted;
        self.buffered = self.buffered - before + now;
    }

    pub(crate) fn is_counted(&self) -> bool {
        let counted = self.slots.iter().map(|connection| connection.counted).sum::<usize>();
        self.slots.iter().count() == self.len && counted == self.buffered
    }

    pub(crate) fn ids(&self) -> Vec<ConnectionId> {
        self.slots.iter().map(|connection| connection.id).collect()
    }
}

impl Connection {
    /// The Topic Alias to use for `topic` towards this client, and whether the client knows
    /// it already. Short topics are not worth the three bytes an alias costs.
    pub(crate) fn alias_for(&mut self, topic: &str) -> (Option<std::num::NonZeroU16>, bool) {
        const WORTH_IT: usize = 4;
        let Some(extras) = self.extras.as_mut().filter(|extras| extras.alias_out_max > 0) else {
            return (None, false);
        };
        if let Some(&alias) = extras.aliases_out.get(topic) {
            return (std::num::NonZeroU16::new(alias), true);
        }
        let next = extras.aliases_out.len() as u16 + 1;
        if topic.len() < WORTH_IT || next > extras.alias_out_max {
            return (None, false);
        }
        extras.aliases_out.insert(topic.into(), next);
        (std::num::NonZeroU16::new(next), false)
    }
}
