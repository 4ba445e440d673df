//! One struct per control packet, the same for every version of the protocol.
//!
//! A packet borrows from the bytes it was decoded from, and encodes into a `Vec<u8>`. Fields
//! that a version does not have are `None` or empty after decoding, and are left out when
//! encoding for that version.

use std::num::NonZeroU16;

use crate::{
    AuthProperties, ConnAckProperties, ConnectProperties, DisconnectProperties, PublishProperties,
    ReasonCode, ReasonProperties, SubscribeProperties, TopicFilter, TopicName, WillProperties,
};

/// The version a Network Connection speaks, from the Protocol Name and Protocol Version of
/// its CONNECT. Scope: connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Version {
    /// MQTT 3.1, Protocol Name `MQIsdp`.
    V3_1 = 3,
    /// MQTT 3.1.1.
    V3_1_1 = 4,
    /// MQTT 5.0.
    V5 = 5,
}

impl Version {
    /// The Protocol Version byte of CONNECT.
    #[inline]
    pub fn level(self) -> u8 {
        self as u8
    }

    /// The Protocol Name of CONNECT.
    pub fn protocol_name(self) -> &'static str {
        match self {
            Self::V3_1 => "MQIsdp",
            Self::V3_1_1 | Self::V5 => "MQTT",
        }
    }

    /// How people call it, for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::V3_1 => "3.1",
            Self::V3_1_1 => "3.1.1",
            Self::V5 => "5.0",
        }
    }
}

/// Quality of Service (§4.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum QoS {
    #[default]
    AtMostOnce = 0,
    AtLeastOnce = 1,
    ExactlyOnce = 2,
}

impl QoS {
    /// The QoS with this value, 0 to 2.
    #[inline]
    pub fn from_u8(qos: u8) -> Option<Self> {
        match qos {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// A Packet Identifier: never zero [MQTT-2.2.1-3]. Scope: session, one space per direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PacketId(pub NonZeroU16);

impl PacketId {
    /// `None` for 0.
    #[inline]
    pub fn new(id: u16) -> Option<Self> {
        NonZeroU16::new(id).map(Self)
    }

    #[inline]
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

/// Any control packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    Connect(Box<Connect<'a>>),
    ConnAck(Box<ConnAck<'a>>),
    Publish(Publish<'a>),
    PubAck(Ack<'a>),
    PubRec(Ack<'a>),
    PubRel(Ack<'a>),
    PubComp(Ack<'a>),
    Subscribe(Subscribe<'a>),
    SubAck(SubAck<'a>),
    Unsubscribe(Unsubscribe<'a>),
    UnsubAck(SubAck<'a>),
    PingReq,
    PingResp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

/// CONNECT (§3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    pub version: Version,
    /// Clean Session of 3.1.1, Clean Start of 5.0.
    pub clean_start: bool,
    /// Seconds; 0 turns the mechanism off.
    pub keep_alive_s: u16,
    /// May be empty: the server assigns one [MQTT-3.1.3-6].
    pub client_id: &'a str,
    pub will: Option<Will<'a>>,
    pub user_name: Option<&'a str>,
    pub password: Option<&'a [u8]>,
    pub properties: ConnectProperties<'a>,
}

/// The Will Message inside a CONNECT (§3.1.2.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    pub topic: TopicName<'a>,
    pub payload: &'a [u8],
    pub qos: QoS,
    pub retain: bool,
    pub properties: WillProperties<'a>,
}

/// CONNACK (§3.2). `reason` is written as the 3.1.1 return code for older clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnAck<'a> {
    pub session_present: bool,
    pub reason: ReasonCode,
    pub properties: ConnAckProperties<'a>,
}

/// PUBLISH (§3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    pub dup: bool,
    pub retain: bool,
    /// The QoS together with the Packet Identifier it needs.
    pub delivery: Delivery,
    /// `None` only in version 5 with a Topic Alias (§3.3.2.3.4).
    pub topic: Option<TopicName<'a>>,
    pub properties: PublishProperties<'a>,
    pub payload: &'a [u8],
}

/// QoS and Packet Identifier of a PUBLISH: a QoS 0 has none, the others always have one
/// [MQTT-2.2.1-2].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    AtMostOnce,
    AtLeastOnce(PacketId),
    ExactlyOnce(PacketId),
}

impl Delivery {
    #[inline]
    pub fn qos(self) -> QoS {
        match self {
            Self::AtMostOnce => QoS::AtMostOnce,
            Self::AtLeastOnce(_) => QoS::AtLeastOnce,
            Self::ExactlyOnce(_) => QoS::ExactlyOnce,
        }
    }

    #[inline]
    pub fn packet_id(self) -> Option<PacketId> {
        match self {
            Self::AtMostOnce => None,
            Self::AtLeastOnce(id) | Self::ExactlyOnce(id) => Some(id),
        }
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP (§3.4 to §3.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    pub packet_id: PacketId,
    pub reason: ReasonCode,
    pub properties: ReasonProperties<'a>,
}

/// SUBSCRIBE (§3.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    pub packet_id: PacketId,
    pub properties: SubscribeProperties<'a>,
    /// At least one [MQTT-3.8.3-2].
    pub filters: SubscribeFilters<'a>,
}

/// One entry of a SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscribeFilter<'a> {
    pub filter: TopicFilter<'a>,
    pub options: SubscriptionOptions,
}

/// Subscription Options (§3.8.3.1); of 3.1.1 only the QoS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// Maximum QoS at which the server may send.
    pub qos: QoS,
    /// Do not send back what this client published itself.
    pub no_local: bool,
    /// Keep the RETAIN flag as published when forwarding.
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
}

/// When retained messages are sent upon a SUBSCRIBE (§3.8.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum RetainHandling {
    #[default]
    Always = 0,
    OnlyIfNew = 1,
    Never = 2,
}

/// SUBACK or UNSUBACK (§3.9, §3.11): one Reason Code per filter, in order. UNSUBACK of 3.1.1
/// carries none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubAck<'a> {
    pub packet_id: PacketId,
    pub properties: ReasonProperties<'a>,
    /// As on the wire; `ReasonCode as u8`.
    pub reasons: &'a [u8],
}

/// UNSUBSCRIBE (§3.10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    pub packet_id: PacketId,
    pub properties: SubscribeProperties<'a>,
    /// At least one [MQTT-3.10.3-2].
    pub filters: UnsubscribeFilters<'a>,
}

/// DISCONNECT (§3.14). Older versions have no fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnect<'a> {
    pub reason: ReasonCode,
    pub properties: DisconnectProperties<'a>,
}

/// AUTH (§3.15), version 5 only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    pub reason: ReasonCode,
    pub properties: AuthProperties<'a>,
}

/// The entries of a SUBSCRIBE, checked once: a validated slice of the packet when decoded, a
/// list when we make the packet ourselves (clients, tests). Equal if they hold the same entries
/// in the same order.
#[derive(Clone, Copy, Debug)]
pub enum SubscribeFilters<'a> {
    Wire { bytes: &'a [u8], version: Version },
    List(&'a [SubscribeFilter<'a>]),
}

/// The entries of an UNSUBSCRIBE; see [`SubscribeFilters`].
#[derive(Clone, Copy, Debug)]
pub enum UnsubscribeFilters<'a> {
    Wire(&'a [u8]),
    List(&'a [TopicFilter<'a>]),
}
