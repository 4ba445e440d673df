//! What a peer did wrong in the bytes it sent, and what the specification says about it.
//!
//! One closed enum. Whether the answer is a CONNACK, a DISCONNECT or a silent close is the
//! engine's decision; here is only the fact, its Reason Code and its clause.

use std::fmt;

use crate::{Property, ReasonCode, TopicError};

/// Why bytes are not a packet of the version spoken. Every one of these ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The Remaining Length goes on after its fourth byte.
    MalformedRemainingLength,
    /// The packet is larger than the receiver takes.
    PacketTooLarge,
    /// Packet type 0, or AUTH before version 5.
    UnknownPacketType,
    /// A reserved flag of the fixed header has the wrong value.
    ReservedFlags,
    /// The packet ends inside one of its fields.
    Truncated,
    /// The packet goes on after its last field.
    TrailingBytes,
    /// A string is not UTF-8.
    InvalidUtf8,
    /// A string contains U+0000.
    NullCharacter,
    /// A Variable Byte Integer longer than four bytes or than it need be.
    MalformedVariableByteInteger,
    ZeroPacketId,
    /// Both QoS bits of a PUBLISH are set.
    QoS3,
    /// DUP on a QoS 0 PUBLISH.
    DupWithQoS0,

    EmptyTopicName,
    WildcardInTopicName,
    /// Version 5: an empty Topic Name and no Topic Alias either.
    NeitherTopicNorAlias,
    TopicAliasZero,
    /// A Response Topic that is not a Topic Name.
    ResponseTopicInvalid,
    EmptyTopicFilter,
    /// `#` somewhere else than alone in the last level.
    MisplacedMultiLevelWildcard,
    /// `+` beside other characters of its level.
    MisplacedSingleLevelWildcard,
    /// `$share/` followed by no ShareName, or by one with a wildcard in it.
    ShareNameInvalid,
    /// `$share/{group}` without a Topic Filter behind it.
    ShareWithoutFilter,

    /// The Protocol Name is neither `MQTT` nor `MQIsdp`.
    WrongProtocolName,
    /// A known Protocol Name with a Protocol Version that does not belong to it.
    UnsupportedVersion {
        level: u8,
    },
    /// Bit 0 of the Connect Flags.
    ConnectReservedFlag,
    /// Will QoS or Will Retain without the Will Flag.
    WillFlagsWithoutWill,
    WillQoS3,
    /// Before version 5 only.
    PasswordWithoutUserName,
    /// Bits 7 to 1 of the Connect Acknowledge Flags.
    ConnAckReservedFlags,
    /// A refusing CONNACK that says Session Present.
    SessionPresentOnRefusal,
    /// A Reason Code (or return code) that this packet may not carry.
    ReasonCodeNotAllowed {
        code: u8,
    },

    EmptySubscribe,
    EmptyUnsubscribe,
    /// Reserved bits of the Subscription Options.
    ReservedSubscriptionOptions,
    SubscriptionQoS3,
    RetainHandling3,
    /// No Local on a Shared Subscription.
    SharedNoLocal,

    UnknownProperty {
        identifier: u8,
    },
    /// A property that does not belong to this packet.
    PropertyNotAllowed(Property),
    /// A property that may appear once and appears twice.
    DuplicateProperty(Property),
    /// A property with a value outside its range.
    PropertyValue(Property),
    AuthenticationDataWithoutMethod,
    /// An AUTH with properties, but not this one.
    MissingAuthenticationMethod,
}

impl DecodeError {
    /// The Reason Code a version 5 peer is told (§4.13).
    pub fn reason(&self) -> ReasonCode {
        match self {
            Self::PacketTooLarge => ReasonCode::PacketTooLarge,
            Self::WrongProtocolName | Self::UnsupportedVersion { .. } => {
                ReasonCode::UnsupportedProtocolVersion
            }
            Self::EmptyTopicName | Self::WildcardInTopicName => ReasonCode::TopicNameInvalid,
            Self::EmptyTopicFilter
            | Self::MisplacedMultiLevelWildcard
            | Self::MisplacedSingleLevelWildcard
            | Self::ShareNameInvalid
            | Self::ShareWithoutFilter => ReasonCode::TopicFilterInvalid,
            Self::TopicAliasZero => ReasonCode::TopicAliasInvalid,
            Self::ZeroPacketId
            | Self::NeitherTopicNorAlias
            | Self::ResponseTopicInvalid
            | Self::SessionPresentOnRefusal
            | Self::ReasonCodeNotAllowed { .. }
            | Self::EmptySubscribe
            | Self::EmptyUnsubscribe
            | Self::SubscriptionQoS3
            | Self::RetainHandling3
            | Self::SharedNoLocal
            | Self::DuplicateProperty(_)
            | Self::PropertyValue(_)
            | Self::AuthenticationDataWithoutMethod
            | Self::MissingAuthenticationMethod => ReasonCode::ProtocolError,
            Self::MalformedRemainingLength
            | Self::UnknownPacketType
            | Self::ReservedFlags
            | Self::Truncated
            | Self::TrailingBytes
            | Self::InvalidUtf8
            | Self::NullCharacter
            | Self::MalformedVariableByteInteger
            | Self::QoS3
            | Self::DupWithQoS0
            | Self::ConnectReservedFlag
            | Self::WillFlagsWithoutWill
            | Self::WillQoS3
            | Self::PasswordWithoutUserName
            | Self::ConnAckReservedFlags
            | Self::ReservedSubscriptionOptions
            | Self::UnknownProperty { .. }
            | Self::PropertyNotAllowed(_) => ReasonCode::MalformedPacket,
        }
    }

    /// Where the specification of version 5 forbids it: a normative statement where one is
    /// numbered, else the section. `MQTT311-` marks a rule that only the older versions have.
    pub fn clause(&self) -> &'static str {
        match self {
            Self::MalformedRemainingLength => "§2.1.4",
            Self::PacketTooLarge => "MQTT-3.2.2-15",
            Self::UnknownPacketType => "§2.1.2",
            Self::ReservedFlags => "MQTT-2.1.3-1",
            Self::Truncated | Self::TrailingBytes => "§4.13.1",
            Self::InvalidUtf8 => "MQTT-1.5.4-1",
            Self::NullCharacter => "MQTT-1.5.4-2",
            Self::MalformedVariableByteInteger => "MQTT-1.5.5-1",
            Self::ZeroPacketId => "MQTT-2.2.1-3",
            Self::QoS3 => "MQTT-3.3.1-4",
            Self::DupWithQoS0 => "MQTT-3.3.1-2",
            Self::EmptyTopicName | Self::EmptyTopicFilter => "MQTT-4.7.3-1",
            Self::WildcardInTopicName => "MQTT-3.3.2-2",
            Self::NeitherTopicNorAlias => "§3.3.2.1",
            Self::TopicAliasZero => "MQTT-3.3.2-8",
            Self::ResponseTopicInvalid => "MQTT-3.3.2-14",
            Self::MisplacedMultiLevelWildcard => "MQTT-4.7.1-1",
            Self::MisplacedSingleLevelWildcard => "MQTT-4.7.1-2",
            Self::ShareNameInvalid => "MQTT-4.8.2-1",
            Self::ShareWithoutFilter => "MQTT-4.8.2-2",
            Self::WrongProtocolName => "MQTT-3.1.2-1",
            Self::UnsupportedVersion { .. } => "MQTT-3.1.2-2",
            Self::ConnectReservedFlag => "MQTT-3.1.2-3",
            Self::WillFlagsWithoutWill => "MQTT-3.1.2-11",
            Self::WillQoS3 => "MQTT-3.1.2-12",
            Self::PasswordWithoutUserName => "MQTT311-3.1.2-22",
            Self::ConnAckReservedFlags => "MQTT-3.2.2-1",
            Self::SessionPresentOnRefusal => "MQTT-3.2.2-6",
            Self::ReasonCodeNotAllowed { .. } => "§2.4",
            Self::EmptySubscribe => "MQTT-3.8.3-2",
            Self::EmptyUnsubscribe => "MQTT-3.10.3-2",
            Self::ReservedSubscriptionOptions => "MQTT-3.8.3-5",
            Self::SubscriptionQoS3 | Self::RetainHandling3 => "§3.8.3.1",
            Self::SharedNoLocal => "MQTT-3.8.3-4",
            Self::UnknownProperty { .. } | Self::PropertyNotAllowed(_) => "§2.2.2.2",
            Self::DuplicateProperty(property) | Self::PropertyValue(property) => property.section(),
            Self::AuthenticationDataWithoutMethod => "§3.1.2.11.10",
            Self::MissingAuthenticationMethod => "§3.15.2.2.2",
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MalformedRemainingLength => "Remaining Length longer than four bytes",
            Self::PacketTooLarge => "packet larger than allowed",
            Self::UnknownPacketType => "unknown packet type",
            Self::ReservedFlags => "reserved flags of the fixed header",
            Self::Truncated => "packet ends inside a field",
            Self::TrailingBytes => "bytes after the last field",
            Self::InvalidUtf8 => "string is not UTF-8",
            Self::NullCharacter => "string contains U+0000",
            Self::MalformedVariableByteInteger => "malformed Variable Byte Integer",
            Self::ZeroPacketId => "Packet Identifier 0",
            Self::QoS3 => "PUBLISH with QoS 3",
            Self::DupWithQoS0 => "DUP on a QoS 0 PUBLISH",
            Self::EmptyTopicName => "empty Topic Name",
            Self::WildcardInTopicName => "wildcard in a Topic Name",
            Self::NeitherTopicNorAlias => "neither Topic Name nor Topic Alias",
            Self::TopicAliasZero => "Topic Alias 0",
            Self::ResponseTopicInvalid => "Response Topic is not a Topic Name",
            Self::EmptyTopicFilter => "empty Topic Filter",
            Self::MisplacedMultiLevelWildcard => "'#' not alone in the last level",
            Self::MisplacedSingleLevelWildcard => "'+' not alone in its level",
            Self::ShareNameInvalid => "invalid ShareName",
            Self::ShareWithoutFilter => "Shared Subscription without a Topic Filter",
            Self::WrongProtocolName => "unknown Protocol Name",
            Self::UnsupportedVersion { level } => {
                return write!(f, "unsupported Protocol Version {level}");
            }
            Self::ConnectReservedFlag => "reserved Connect Flag is set",
            Self::WillFlagsWithoutWill => "Will QoS or Will Retain without Will Flag",
            Self::WillQoS3 => "Will QoS 3",
            Self::PasswordWithoutUserName => "Password without User Name",
            Self::ConnAckReservedFlags => "reserved Connect Acknowledge Flags",
            Self::SessionPresentOnRefusal => "Session Present on a refusing CONNACK",
            Self::ReasonCodeNotAllowed { code } => {
                return write!(f, "Reason Code {code:#04x} not allowed in this packet");
            }
            Self::EmptySubscribe => "SUBSCRIBE without a Topic Filter",
            Self::EmptyUnsubscribe => "UNSUBSCRIBE without a Topic Filter",
            Self::ReservedSubscriptionOptions => "reserved bits of the Subscription Options",
            Self::SubscriptionQoS3 => "subscription with Maximum QoS 3",
            Self::RetainHandling3 => "Retain Handling 3",
            Self::SharedNoLocal => "No Local on a Shared Subscription",
            Self::UnknownProperty { identifier } => {
                return write!(f, "unknown property {identifier:#04x}");
            }
            Self::PropertyNotAllowed(property) => {
                return write!(f, "{} not allowed in this packet", property.name());
            }
            Self::DuplicateProperty(property) => {
                return write!(f, "{} given twice", property.name());
            }
            Self::PropertyValue(property) => {
                return write!(f, "{} out of range", property.name());
            }
            Self::AuthenticationDataWithoutMethod => "Authentication Data without Method",
            Self::MissingAuthenticationMethod => "AUTH without Authentication Method",
        })
    }
}

impl std::error::Error for DecodeError {}

impl From<TopicError> for DecodeError {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::EmptyTopicName => Self::EmptyTopicName,
            TopicError::WildcardInTopicName => Self::WildcardInTopicName,
            TopicError::EmptyTopicFilter => Self::EmptyTopicFilter,
            TopicError::MisplacedMultiLevelWildcard => Self::MisplacedMultiLevelWildcard,
            TopicError::MisplacedSingleLevelWildcard => Self::MisplacedSingleLevelWildcard,
            TopicError::ShareNameInvalid => Self::ShareNameInvalid,
            TopicError::ShareWithoutFilter => Self::ShareWithoutFilter,
            TopicError::NullCharacter => Self::NullCharacter,
            // A length prefix of two bytes cannot say more; only text of our own can be longer.
            TopicError::TooLong => Self::PacketTooLarge,
        }
    }
}
