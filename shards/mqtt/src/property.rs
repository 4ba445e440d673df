//! The properties of version 5 (§2.2.2.2), one struct per packet that carries them.
//!
//! Absent is `None`. A property that may not appear twice and does is a protocol error at
//! decoding, so these structs hold only lawful sets. Older versions leave all of them empty.
//!
//! `identifier` names the properties and walks encoded ones; `decode` and `encode` hold, struct
//! by struct, what may stand in which packet.

mod decode;
mod encode;
mod identifier;

use std::num::NonZeroU16;

pub(crate) use encode::{
    put_subscription_id, put_u16_property, put_u32_property, subscription_id_len,
};
pub use identifier::Property;
use identifier::{Occurrences, pair_in, variable_in};

/// User Properties: name and value pairs in order (§3.1.2.11.8 and its likes), kept as the
/// validated property bytes they came in, or as a list when we make them. Equal if they hold
/// the same pairs in the same order, however they are kept.
#[derive(Clone, Copy, Debug)]
pub enum UserProperties<'a> {
    /// A whole property section, already validated; the iterator picks the User Properties.
    Wire(&'a [u8]),
    List(&'a [(&'a str, &'a str)]),
}

impl<'a> UserProperties<'a> {
    /// Name and value, in order. A name may come more than once.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + Clone + use<'a> {
        let (section, list): (&'a [u8], &'a [_]) = match *self {
            Self::Wire(section) => (section, &[]),
            Self::List(list) => (&[], list),
        };
        Occurrences::new(Property::UserProperty, section)
            .filter_map(pair_in)
            .chain(list.iter().copied())
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::List(list) => list.is_empty(),
            Self::Wire(_) => self.iter().next().is_none(),
        }
    }
}

impl Default for UserProperties<'_> {
    fn default() -> Self {
        Self::List(&[])
    }
}

impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for UserProperties<'_> {}

/// Properties of CONNECT (§3.1.2.11).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectProperties<'a> {
    /// Seconds; absent means 0, `u32::MAX` never (§3.1.2.11.2).
    pub session_expiry_s: Option<u32>,
    pub receive_max: Option<NonZeroU16>,
    /// Bytes, the whole packet (§3.1.2.11.4); never zero.
    pub packet_size_max: Option<u32>,
    pub topic_alias_max: Option<u16>,
    pub request_response_information: Option<bool>,
    pub request_problem_information: Option<bool>,
    pub authentication_method: Option<&'a str>,
    pub authentication_data: Option<&'a [u8]>,
    pub user: UserProperties<'a>,
}

/// Properties of the Will Message (§3.1.3.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WillProperties<'a> {
    /// Seconds (§3.1.3.2.2).
    pub delay_s: Option<u32>,
    pub message: MessageProperties<'a>,
}

/// Properties of CONNACK (§3.2.2.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnAckProperties<'a> {
    pub session_expiry_s: Option<u32>,
    pub receive_max: Option<NonZeroU16>,
    pub qos_max: Option<u8>,
    pub retain_available: Option<bool>,
    pub packet_size_max: Option<u32>,
    pub assigned_client_id: Option<&'a str>,
    pub topic_alias_max: Option<u16>,
    pub reason_string: Option<&'a str>,
    pub wildcard_subscription_available: Option<bool>,
    pub subscription_ids_available: Option<bool>,
    pub shared_subscription_available: Option<bool>,
    pub server_keep_alive_s: Option<u16>,
    pub response_information: Option<&'a str>,
    pub server_reference: Option<&'a str>,
    pub authentication_method: Option<&'a str>,
    pub authentication_data: Option<&'a [u8]>,
    pub user: UserProperties<'a>,
}

/// What describes the Application Message itself and is forwarded with it, unaltered
/// [MQTT-3.3.2-4], [MQTT-3.3.2-15], [MQTT-3.3.2-16], [MQTT-3.3.2-17], [MQTT-3.3.2-20].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageProperties<'a> {
    /// `true`: the payload is declared to be UTF-8 text.
    pub payload_is_utf8: Option<bool>,
    /// Seconds; counts down while the message waits in the server [MQTT-3.3.2-6].
    pub expiry_s: Option<u32>,
    pub content_type: Option<&'a str>,
    pub response_topic: Option<&'a str>,
    pub correlation_data: Option<&'a [u8]>,
    pub user: UserProperties<'a>,
}

/// Properties of PUBLISH (§3.3.2.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties<'a> {
    pub message: MessageProperties<'a>,
    pub topic_alias: Option<NonZeroU16>,
    /// Only from server to client [MQTT-3.3.4-6].
    pub subscription_ids: SubscriptionIds<'a>,
}

/// Subscription Identifiers of a PUBLISH, 1 to 268,435,455 each. Equal if they hold the same
/// numbers in the same order.
#[derive(Clone, Copy, Debug)]
pub enum SubscriptionIds<'a> {
    /// A whole property section, already validated; the iterator picks the identifiers.
    Wire(&'a [u8]),
    List(&'a [u32]),
}

impl<'a> SubscriptionIds<'a> {
    pub fn iter(&self) -> impl Iterator<Item = u32> + Clone + use<'a> {
        let (section, list): (&'a [u8], &'a [u32]) = match *self {
            Self::Wire(section) => (section, &[]),
            Self::List(list) => (&[], list),
        };
        Occurrences::new(Property::SubscriptionIdentifier, section)
            .filter_map(variable_in)
            .chain(list.iter().copied())
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::List(list) => list.is_empty(),
            Self::Wire(_) => self.iter().next().is_none(),
        }
    }
}

impl Default for SubscriptionIds<'_> {
    fn default() -> Self {
        Self::List(&[])
    }
}

impl PartialEq for SubscriptionIds<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for SubscriptionIds<'_> {}

/// Reason String and User Properties: all that acknowledgements carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReasonProperties<'a> {
    pub reason_string: Option<&'a str>,
    pub user: UserProperties<'a>,
}

/// Properties of SUBSCRIBE and UNSUBSCRIBE (the latter has no identifier).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeProperties<'a> {
    pub subscription_id: Option<u32>,
    pub user: UserProperties<'a>,
}

/// Properties of DISCONNECT (§3.14.2.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DisconnectProperties<'a> {
    pub session_expiry_s: Option<u32>,
    pub reason_string: Option<&'a str>,
    pub server_reference: Option<&'a str>,
    pub user: UserProperties<'a>,
}

/// Properties of AUTH (§3.15.2.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthProperties<'a> {
    pub authentication_method: Option<&'a str>,
    pub authentication_data: Option<&'a [u8]>,
    pub reason_string: Option<&'a str>,
    pub user: UserProperties<'a>,
}
