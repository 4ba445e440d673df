//! Writes the properties of each packet, in the order of the specification's text.

use super::Property as P;
use super::{
    AuthProperties, ConnAckProperties, ConnectProperties, DisconnectProperties, MessageProperties,
    Occurrences, PublishProperties, ReasonProperties, SubscribeProperties, SubscriptionIds,
    UserProperties, WillProperties,
};
use crate::writer::{binary_len, put_binary, put_text, put_variable, text_len, variable_len};

impl ConnectProperties<'_> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u32_property(out, P::SessionExpiryInterval, self.session_expiry_s);
        put_u16_property(out, P::ReceiveMaximum, self.receive_max.map(|max| max.get()));
        put_u32_property(out, P::MaximumPacketSize, self.packet_size_max);
        put_u16_property(out, P::TopicAliasMaximum, self.topic_alias_max);
        put_bool_property(out, P::RequestResponseInformation, self.request_response_information);
        put_bool_property(out, P::RequestProblemInformation, self.request_problem_information);
        put_text_property(out, P::AuthenticationMethod, self.authentication_method);
        put_binary_property(out, P::AuthenticationData, self.authentication_data);
        self.user.encode(out);
    }
}

impl WillProperties<'_> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u32_property(out, P::WillDelayInterval, self.delay_s);
        self.message.encode(out);
    }
}

impl ConnAckProperties<'_> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u32_property(out, P::SessionExpiryInterval, self.session_expiry_s);
        put_u16_property(out, P::ReceiveMaximum, self.receive_max.map(|max| max.get()));
        put_bool_property(out, P::MaximumQoS, self.qos_max.map(|qos| qos != 0));
        put_bool_property(out, P::RetainAvailable, self.retain_available);
        put_u32_property(out, P::MaximumPacketSize, self.packet_size_max);
        put_text_property(out, P::AssignedClientIdentifier, self.assigned_client_id);
        put_u16_property(out, P::TopicAliasMaximum, self.topic_alias_max);
        put_text_property(out, P::ReasonString, self.reason_string);
        let wildcard = self.wildcard_subscription_available;
        put_bool_property(out, P::WildcardSubscriptionAvailable, wildcard);
        let identifiers = self.subscription_ids_available;
        put_bool_property(out, P::SubscriptionIdentifierAvailable, identifiers);
        put_bool_property(out, P::SharedSubscriptionAvailable, self.shared_subscription_available);
        put_u16_property(out, P::ServerKeepAlive, self.server_keep_alive_s);
        put_text_property(out, P::ResponseInformation, self.response_information);
        put_text_property(out, P::ServerReference, self.server_reference);
        put_text_property(out, P::AuthenticationMethod, self.authentication_method);
        put_binary_property(out, P::AuthenticationData, self.authentication_data);
        self.user.encode(out);
    }
}

impl MessageProperties<'_> {
    /// Appends them all, without a length in front.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_u32_property(out, P::MessageExpiryInterval, self.expiry_s);
        self.encode_without_expiry(out);
    }

    /// Appends all but the Message Expiry Interval, without a length in front: the part that
    /// stays the same however long the message waits. [`Self::decode_wire`] reads it back.
    pub fn encode_without_expiry(&self, out: &mut Vec<u8>) {
        put_bool_property(out, P::PayloadFormatIndicator, self.payload_is_utf8);
        put_text_property(out, P::ContentType, self.content_type);
        put_text_property(out, P::ResponseTopic, self.response_topic);
        put_binary_property(out, P::CorrelationData, self.correlation_data);
        self.user.encode(out);
    }

    /// Bytes that [`Self::encode`] appends.
    #[inline]
    pub fn encoded_len(&self) -> usize {
        let text = |text: Option<&str>| text.map_or(0, |text| 1 + text_len(text));
        self.payload_is_utf8.map_or(0, |_| 2)
            + self.expiry_s.map_or(0, |_| 5)
            + text(self.content_type)
            + text(self.response_topic)
            + self.correlation_data.map_or(0, |data| 1 + binary_len(data))
            + self.user.encoded_len()
    }
}

impl PublishProperties<'_> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.message.encode(out);
        put_u16_property(out, P::TopicAlias, self.topic_alias.map(|alias| alias.get()));
        self.subscription_ids.encode(out);
    }

    #[inline]
    pub(crate) fn encoded_len(&self) -> usize {
        self.message.encoded_len()
            + self.topic_alias.map_or(0, |_| 3)
            + self.subscription_ids.encoded_len()
    }
}

impl ReasonProperties<'_> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_text_property(out, P::ReasonString, self.reason_string);
        self.user.encode(out);
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.reason_string.is_none() && self.user.is_empty()
    }
}

impl MessageProperties<'_> {
    /// Whether there is nothing to forward: always so before version 5.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.payload_is_utf8.is_none()
            && self.expiry_s.is_none()
            && self.content_type.is_none()
            && self.response_topic.is_none()
            && self.correlation_data.is_none()
            && self.user.is_empty()
    }
}

impl SubscribeProperties<'_> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        if let Some(id) = self.subscription_id {
            put_subscription_id(out, id);
        }
        self.user.encode(out);
    }
}

impl DisconnectProperties<'_> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_u32_property(out, P::SessionExpiryInterval, self.session_expiry_s);
        put_text_property(out, P::ReasonString, self.reason_string);
        put_text_property(out, P::ServerReference, self.server_reference);
        self.user.encode(out);
    }
}

impl AuthProperties<'_> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_text_property(out, P::AuthenticationMethod, self.authentication_method);
        put_binary_property(out, P::AuthenticationData, self.authentication_data);
        put_text_property(out, P::ReasonString, self.reason_string);
        self.user.encode(out);
    }
}

impl UserProperties<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Wire(section) => {
                for value in Occurrences::new(P::UserProperty, section) {
                    out.push(P::UserProperty as u8);
                    out.extend_from_slice(value);
                }
            }
            Self::List(list) => {
                for (name, value) in list {
                    out.push(P::UserProperty as u8);
                    put_text(out, name);
                    put_text(out, value);
                }
            }
        }
    }

    #[inline]
    fn encoded_len(&self) -> usize {
        match *self {
            Self::Wire(section) => {
                Occurrences::new(P::UserProperty, section).map(|value| 1 + value.len()).sum()
            }
            Self::List(list) => {
                list.iter().map(|(name, value)| 1 + text_len(name) + text_len(value)).sum()
            }
        }
    }
}

impl SubscriptionIds<'_> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|id| put_subscription_id(out, id));
    }

    #[inline]
    fn encoded_len(&self) -> usize {
        self.iter().map(subscription_id_len).sum()
    }
}

/// Appends a Subscription Identifier, its Property Identifier included.
#[inline]
pub(crate) fn put_subscription_id(out: &mut Vec<u8>, id: u32) {
    out.push(P::SubscriptionIdentifier as u8);
    put_variable(out, id);
}

/// Bytes that [`put_subscription_id`] appends.
#[inline]
pub(crate) fn subscription_id_len(id: u32) -> usize {
    1 + variable_len(id as usize)
}

fn put_bool_property(out: &mut Vec<u8>, property: P, value: Option<bool>) {
    if let Some(value) = value {
        out.extend_from_slice(&[property as u8, u8::from(value)]);
    }
}

#[inline]
pub(crate) fn put_u16_property(out: &mut Vec<u8>, property: P, value: Option<u16>) {
    if let Some(value) = value {
        let [high, low] = value.to_be_bytes();
        out.extend_from_slice(&[property as u8, high, low]);
    }
}

#[inline]
pub(crate) fn put_u32_property(out: &mut Vec<u8>, property: P, value: Option<u32>) {
    if let Some(value) = value {
        let [a, b, c, d] = value.to_be_bytes();
        out.extend_from_slice(&[property as u8, a, b, c, d]);
    }
}

fn put_text_property(out: &mut Vec<u8>, property: P, value: Option<&str>) {
    if let Some(value) = value {
        out.push(property as u8);
        put_text(out, value);
    }
}

fn put_binary_property(out: &mut Vec<u8>, property: P, value: Option<&[u8]>) {
    if let Some(value) = value {
        out.push(property as u8);
        put_binary(out, value);
    }
}
