//! What the client did wrong, and what it is told: the one table.
//!
//! Before CONNACK a refusal becomes a CONNACK with a code where the version has one for it,
//! else the connection closes without a word. After CONNACK a version 5 client gets a
//! DISCONNECT with the Reason Code, an older one is closed [MQTT-4.13.1-1].

use std::borrow::Cow;

use octopus_mqtt::{DecodeError, ReasonCode, Version};

/// Why we end a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The bytes are no packet.
    Decode(DecodeError),
    /// The first packet is not CONNECT [MQTT-3.1.0-1].
    FirstPacketNotConnect,
    /// A second CONNECT [MQTT-3.1.0-2].
    SecondConnect,
    /// A packet that only a server sends, or an AUTH without enhanced authentication.
    UnexpectedPacket,
    /// An AUTH with another Authentication Method than CONNECT [MQTT-4.12.0-5].
    AuthenticationMethodChanged,
    /// A Subscription Identifier in a client's PUBLISH [MQTT-3.3.4-6].
    SubscriptionIdInPublish,
    /// More QoS 1 and 2 messages unacknowledged than Receive Maximum [MQTT-3.3.4-9].
    ReceiveMaximumExceeded,
    /// A Topic Alias of zero, above the maximum, or never defined [MQTT-3.3.2-8, -9].
    TopicAliasInvalid,
    /// A Topic Name or Filter of more levels than allowed.
    TooManyLevels,
    /// QoS above Maximum QoS [MQTT-3.2.2-11].
    QoSNotSupported,
    /// RETAIN where it is not available [MQTT-3.2.2-14].
    RetainNotSupported,
    /// An empty Client Identifier with a session to keep [MQTT311-3.1.3-8].
    ClientIdRejected,
    /// Session Expiry in DISCONNECT after zero in CONNECT (§3.14.2.2.2).
    SessionExpiryFromZero,
    /// Nothing for 1.5 times Keep Alive [MQTT-3.1.2-22].
    KeepAliveTimeout,
    /// No complete CONNECT in time.
    ConnectTimeout,
    /// Another connection came with the same Client Identifier [MQTT-3.1.4-3].
    TakenOver,
    /// The Client Identifier is connected, and the older connection stays.
    ClientIdInUse,
    /// This node keeps as many sessions as it may.
    TooManySessions,
    /// Memory runs short: no newcomers.
    NoMemoryForNewcomers,
    /// Memory has run out: what came is not taken.
    OutOfMemory,
    /// Authentication said no, or an operator did.
    Told(ReasonCode),
}

impl Refusal {
    /// The Reason Code of version 5 and a text for the log and the Reason String.
    pub(crate) fn reason(self) -> (ReasonCode, Cow<'static, str>) {
        use ReasonCode as R;
        let (reason, text) = match self {
            Self::Decode(error) => return (error.reason(), error.to_string().into()),
            Self::FirstPacketNotConnect => (R::ProtocolError, "the first packet is not CONNECT"),
            Self::SecondConnect => (R::ProtocolError, "a second CONNECT"),
            Self::UnexpectedPacket => (R::ProtocolError, "a packet clients do not send here"),
            Self::AuthenticationMethodChanged => {
                (R::ProtocolError, "another Authentication Method than in CONNECT")
            }
            Self::SubscriptionIdInPublish => {
                (R::ProtocolError, "a Subscription Identifier in a client's PUBLISH")
            }
            Self::ReceiveMaximumExceeded => {
                (R::ReceiveMaximumExceeded, "more messages in flight than Receive Maximum")
            }
            Self::TopicAliasInvalid => (R::TopicAliasInvalid, "an unknown Topic Alias"),
            Self::TooManyLevels => (R::TopicNameInvalid, "a topic of too many levels"),
            Self::QoSNotSupported => (R::QoSNotSupported, "a QoS above Maximum QoS"),
            Self::RetainNotSupported => (R::RetainNotSupported, "RETAIN is not available"),
            Self::ClientIdRejected => {
                (R::ClientIdNotValid, "an empty Client Identifier needs Clean Session")
            }
            Self::SessionExpiryFromZero => {
                (R::ProtocolError, "a Session Expiry Interval after zero in CONNECT")
            }
            Self::KeepAliveTimeout => (R::KeepAliveTimeout, "nothing within 1.5 x Keep Alive"),
            Self::ConnectTimeout => (R::UnspecifiedError, "no CONNECT in time"),
            Self::TakenOver => (R::SessionTakenOver, "taken over by a newer connection"),
            Self::ClientIdInUse => {
                (R::ClientIdNotValid, "the Client Identifier is connected already")
            }
            Self::TooManySessions => (R::QuotaExceeded, "no room for another session"),
            Self::NoMemoryForNewcomers => (R::ServerBusy, "no memory for another session"),
            Self::OutOfMemory => (R::QuotaExceeded, "no memory for this"),
            Self::Told(reason) => (reason, reason.name()),
        };
        (reason, text.into())
    }

    /// Whether a refusal of CONNECT is answered with a CONNACK. A packet that is no CONNECT of
    /// a version we know is not [MQTT311-3.1.4-1]; a wrong version is, even for 3.1.1
    /// [MQTT311-3.1.2-2].
    pub(crate) fn is_told_in_connack(self, version: Version) -> bool {
        match self {
            Self::Decode(DecodeError::UnsupportedVersion { .. }) => true,
            Self::Decode(_) => version == Version::V5,
            Self::FirstPacketNotConnect | Self::ConnectTimeout => false,
            _ => true,
        }
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}
