//! What the client did wrong, and what it is told: the one table.
//!
//! Before CONNACK a refusal becomes a CONNACK with a code where the version has one for it,
//! else the connection closes without a word. After CONNACK a version 5 client gets a
//! DISCONNECT with the Reason Code, an older one is closed [MQTT-4.13.1-1].

use std::borrow::Cow;

use octopus_mqtt::{DecodeError, ReasonCode, Version};

use crate::event::{DisconnectReason, LostCause};

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
    /// A Topic Alias above the maximum [MQTT-3.3.2-9].
    TopicAliasInvalid,
    /// A Topic Alias that stands for no topic, and no topic (§3.3.2.3.4).
    TopicAliasUnset,
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
    /// An answer that must be given is larger than the client takes [MQTT-3.1.2-24].
    AnswerTooLarge,
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
            Self::TopicAliasInvalid => (R::TopicAliasInvalid, "a Topic Alias above the maximum"),
            Self::TopicAliasUnset => (R::ProtocolError, "a Topic Alias that was never set"),
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
            Self::ConnectTimeout => (R::UnspecifiedError, NO_CONNECT),
            Self::TakenOver => (R::SessionTakenOver, "taken over by a newer connection"),
            Self::ClientIdInUse => {
                (R::ClientIdNotValid, "the Client Identifier is connected already")
            }
            Self::TooManySessions => (R::QuotaExceeded, "no room for another session"),
            Self::NoMemoryForNewcomers => (R::ServerBusy, "no memory for another session"),
            Self::OutOfMemory => (R::QuotaExceeded, "no memory for this"),
            Self::AnswerTooLarge => {
                (R::PacketTooLarge, "an answer larger than the client's Maximum Packet Size")
            }
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

/// The Reason String of an acknowledgement that says no.
pub(crate) fn explained(reason: ReasonCode) -> &'static str {
    use ReasonCode as R;
    match reason {
        R::NotAuthorized => "the rules for this client do not allow it",
        R::QuotaExceeded => "a limit of this server is reached",
        R::PacketIdNotFound => "nothing waits under this Packet Identifier",
        R::TopicFilterInvalid => "a filter of too many levels",
        other => other.name(),
    }
}

/// What is said of a client that sent no complete CONNECT in time.
const NO_CONNECT: &str = "no CONNECT in time";

macro_rules! connect_refused {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Why a connection ended before it had a session, as metrics tell it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum ConnectRefused { $($(#[$doc])* $name,)* }

        impl ConnectRefused {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The label in metrics.
            pub fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }
        }
    };
}

connect_refused! {
    /// Bytes that are no packet.
    Malformed = "malformed",
    Protocol = "protocol_error",
    Version = "unsupported_version",
    ClientId = "client_id",
    Credentials = "bad_credentials",
    NotAuthorized = "not_authorized",
    Banned = "banned",
    /// Too many ask at a time, or whoever decides cannot be reached.
    Busy = "busy",
    AuthenticationMethod = "authentication_method",
    /// As many sessions or connections as there may be.
    Quota = "quota",
    Late = "connect_timeout",
    Stopping = "stopping",
    /// The client closed, or the connection broke.
    Lost = "lost",
    /// Refused below MQTT.
    Layer = "layer",
    Other = "other",
}

impl ConnectRefused {
    pub(crate) fn of(reason: &DisconnectReason) -> Self {
        use ReasonCode as R;
        let code = match reason {
            DisconnectReason::Lost(LostCause::Layer) => return Self::Layer,
            DisconnectReason::Lost(_) | DisconnectReason::ByClient(_) => return Self::Lost,
            DisconnectReason::ByServer(_, text) if text == NO_CONNECT => return Self::Late,
            DisconnectReason::ByServer(code, _) => code,
        };
        match code {
            R::MalformedPacket | R::PacketTooLarge => Self::Malformed,
            R::ProtocolError => Self::Protocol,
            R::UnsupportedProtocolVersion => Self::Version,
            R::ClientIdNotValid => Self::ClientId,
            R::BadUserNameOrPassword => Self::Credentials,
            R::NotAuthorized => Self::NotAuthorized,
            R::Banned => Self::Banned,
            R::ServerBusy | R::ServerUnavailable => Self::Busy,
            R::BadAuthenticationMethod => Self::AuthenticationMethod,
            R::QuotaExceeded => Self::Quota,
            R::ServerShuttingDown | R::UseAnotherServer => Self::Stopping,
            _ => Self::Other,
        }
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_counted_under_what_the_client_did() {
        let of = |refusal: Refusal| {
            let (reason, text) = refusal.reason();
            ConnectRefused::of(&DisconnectReason::ByServer(reason, text)).label()
        };
        assert_eq!(of(Refusal::ConnectTimeout), "connect_timeout");
        assert_eq!(of(Refusal::FirstPacketNotConnect), "protocol_error");
        assert_eq!(of(Refusal::Told(ReasonCode::Banned)), "banned");
        assert_eq!(of(Refusal::Told(ReasonCode::UnspecifiedError)), "other");
        assert_eq!(of(Refusal::TooManySessions), "quota");
        let lost = DisconnectReason::Lost(LostCause::ClosedByPeer);
        assert_eq!(ConnectRefused::of(&lost), ConnectRefused::Lost);
    }
}
