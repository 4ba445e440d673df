//! Which property may stand in which packet, how often, and with which values: one function per
//! struct, one line per property.
//!
//! Each takes a property section without its length. An identifier that is not in the function
//! is not allowed in the packet.

use std::num::NonZeroU16;

use super::Property as P;
use super::{
    AuthProperties, ConnAckProperties, ConnectProperties, DisconnectProperties, MessageProperties,
    PublishProperties, ReasonProperties, SubscribeProperties, SubscriptionIds, UserProperties,
    WillProperties,
};
use crate::reader::Reader;
use crate::{DecodeError, TopicName};

impl<'a> ConnectProperties<'a> {
    pub(crate) fn decode(section: &'a [u8]) -> Result<Self, DecodeError> {
        let mut all = Self::default();
        each(section, |p, value| match p {
            P::SessionExpiryInterval => once(&mut all.session_expiry_s, p, value.u32()?),
            P::ReceiveMaximum => once(&mut all.receive_max, p, non_zero(p, value)?),
            P::MaximumPacketSize => once(&mut all.packet_size_max, p, packet_size(value)?),
            P::TopicAliasMaximum => once(&mut all.topic_alias_max, p, value.u16()?),
            P::RequestResponseInformation => {
                once(&mut all.request_response_information, p, boolean(p, value)?)
            }
            P::RequestProblemInformation => {
                once(&mut all.request_problem_information, p, boolean(p, value)?)
            }
            P::AuthenticationMethod => once(&mut all.authentication_method, p, value.text()?),
            P::AuthenticationData => once(&mut all.authentication_data, p, value.binary()?),
            P::UserProperty => user(&mut all.user, section, value),
            _ => Err(DecodeError::PropertyNotAllowed(p)),
        })?;
        if all.authentication_data.is_some() && all.authentication_method.is_none() {
            return Err(DecodeError::AuthenticationDataWithoutMethod);
        }
        Ok(all)
    }
}

impl<'a> WillProperties<'a> {
    pub(crate) fn decode(section: &'a [u8]) -> Result<Self, DecodeError> {
        let mut all = Self::default();
        each(section, |p, value| match p {
            P::WillDelayInterval => once(&mut all.delay_s, p, value.u32()?),
            _ => all.message.take(p, value, section),
        })?;
        Ok(all)
    }
}

impl<'a> ConnAckProperties<'a> {
    pub(crate) fn decode(section: &'a [u8]) -> Result<Self, DecodeError> {
        let mut all = Self::default();
        each(section, |p, value| match p {
            P::SessionExpiryInterval => once(&mut all.session_expiry_s, p, value.u32()?),
            P::ReceiveMaximum => once(&mut all.receive_max, p, non_zero(p, value)?),
            P::MaximumQoS => once(&mut all.qos_max, p, u8::from(boolean(p, value)?)),
            P::RetainAvailable => once(&mut all.retain_available, p, boolean(p, value)?),
            P::MaximumPacketSize => once(&mut all.packet_size_max, p, packet_size(value)?),
            P::AssignedClientIdentifier => once(&mut all.assigned_client_id, p, value.text()?),
            P::TopicAliasMaximum => once(&mut all.topic_alias_max, p, value.u16()?),
            P::ReasonString => once(&mut all.reason_string, p, value.text()?),
            P::WildcardSubscriptionAvailable => {
                once(&mut all.wildcard_subscription_available, p, boolean(p, value)?)
            }
            P::SubscriptionIdentifierAvailable => {
                once(&mut all.subscription_ids_available, p, boolean(p, value)?)
            }
            P::SharedSubscriptionAvailable => {
                once(&mut all.shared_subscription_available, p, boolean(p, value)?)
            }
            P::ServerKeepAlive => once(&mut all.server_keep_alive_s, p, value.u16()?),
            P::ResponseInformation => once(&mut all.response_information, p, value.text()?),
            P::ServerReference => once(&mut all.server_reference, p, value.text()?),
            P::AuthenticationMethod => once(&mut all.authentication_method, p, value.text()?),
            P::AuthenticationData => once(&mut all.authentication_data, p, value.binary()?),
            P::UserProperty => user(&mut all.user, section, value),
            _ => Err(DecodeError::PropertyNotAllowed(p)),
        })?;
        Ok(all)
    }
}

impl<'a> MessageProperties<'a> {
    /// Reads back what [`Self::encode_without_expiry`] (or `encode`) wrote: properties one after
    /// the other, without a length in front.
    ///
    /// For bytes of our own. Anything else does not panic, but gives only what stands before the
    /// first byte that makes no sense.
    pub fn decode_wire(bytes: &'a [u8]) -> Self {
        let mut all = Self::default();
        // What was read before an error is kept, by contract.
        let _ = each(bytes, |p, value| all.take(p, value, bytes));
        all
    }

    /// Takes one property that describes the message, whichever packet it stands in.
    fn take(&mut self, p: P, value: &mut Reader<'a>, section: &'a [u8]) -> Result<(), DecodeError> {
        match p {
            P::PayloadFormatIndicator => once(&mut self.payload_is_utf8, p, boolean(p, value)?),
            P::MessageExpiryInterval => once(&mut self.expiry_s, p, value.u32()?),
            P::ContentType => once(&mut self.content_type, p, value.text()?),
            P::ResponseTopic => once(&mut self.response_topic, p, response_topic(value)?),
            P::CorrelationData => once(&mut self.correlation_data, p, value.binary()?),
            P::UserProperty => user(&mut self.user, section, value),
            _ => Err(DecodeError::PropertyNotAllowed(p)),
        }
    }
}

impl<'a> PublishProperties<'a> {
    pub(crate) fn decode(section: &'a [u8]) -> Result<Self, DecodeError> {
        let mut all = Self::default();
        each(section, |p, value| match p {
            P::TopicAlias => {
                let alias = NonZeroU16::new(value.u16()?).ok_or(DecodeError::TopicAliasZero)?;
                once(&mut all.topic_alias, p, alias)
            }
            P::SubscriptionIdentifier => {
                subscription_id(value)?;
                all.subscription_ids = SubscriptionIds::Wire(section);
                Ok(())
            }
            _ => all.message.take(p, value, section),
        })?;
        Ok(all)
    }
}

impl<'a> ReasonProperties<'a> {
    pub(crate) fn decode(section: &'a [u8]) -> Result<Self, DecodeError> {
        let mut all = Self::default();
        each(section, |p, value| match p {
            P::ReasonString => once(&mut all.reason_string, p, value.text()?),
            P::UserProperty => user(&mut all.user, section, value),
            _ => Err(DecodeError::PropertyNotAllowed(p)),
        })?;
        Ok(all)
    }
}

impl<'a> SubscribeProperties<'a> {
    pub(crate) fn decode(section: &'a [u8]) -> Result<Self, DecodeError> {
        let mut all = Self::default();
        each(section, |p, value| match p {
            P::SubscriptionIdentifier => once(&mut all.subscription_id, p, subscription_id(value)?),
            P::UserProperty => user(&mut all.user, section, value),
            _ => Err(DecodeError::PropertyNotAllowed(p)),
        })?;
        Ok(all)
    }

    /// UNSUBSCRIBE has User Properties only (§3.10.2.1).
    pub(crate) fn decode_unsubscribe(section: &'a [u8]) -> Result<Self, DecodeError> {
        let mut all = Self::default();
        each(section, |p, value| match p {
            P::UserProperty => user(&mut all.user, section, value),
            _ => Err(DecodeError::PropertyNotAllowed(p)),
        })?;
        Ok(all)
    }
}

impl<'a> DisconnectProperties<'a> {
    pub(crate) fn decode(section: &'a [u8]) -> Result<Self, DecodeError> {
        let mut all = Self::default();
        each(section, |p, value| match p {
            P::SessionExpiryInterval => once(&mut all.session_expiry_s, p, value.u32()?),
            P::ReasonString => once(&mut all.reason_string, p, value.text()?),
            P::ServerReference => once(&mut all.server_reference, p, value.text()?),
            P::UserProperty => user(&mut all.user, section, value),
            _ => Err(DecodeError::PropertyNotAllowed(p)),
        })?;
        Ok(all)
    }
}

impl<'a> AuthProperties<'a> {
    pub(crate) fn decode(section: &'a [u8]) -> Result<Self, DecodeError> {
        let mut all = Self::default();
        each(section, |p, value| match p {
            P::AuthenticationMethod => once(&mut all.authentication_method, p, value.text()?),
            P::AuthenticationData => once(&mut all.authentication_data, p, value.binary()?),
            P::ReasonString => once(&mut all.reason_string, p, value.text()?),
            P::UserProperty => user(&mut all.user, section, value),
            _ => Err(DecodeError::PropertyNotAllowed(p)),
        })?;
        if all.authentication_method.is_none() {
            return Err(DecodeError::MissingAuthenticationMethod);
        }
        Ok(all)
    }
}

/// Gives every property of a section to `take`, which must read its whole value.
#[inline]
fn each<'a>(
    section: &'a [u8],
    mut take: impl FnMut(P, &mut Reader<'a>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    let mut reader = Reader::new(section);
    while !reader.is_empty() {
        let property = reader.property()?;
        take(property, &mut reader)?;
    }
    Ok(())
}

#[inline]
fn once<T>(slot: &mut Option<T>, property: P, value: T) -> Result<(), DecodeError> {
    if slot.is_some() {
        return Err(DecodeError::DuplicateProperty(property));
    }
    *slot = Some(value);
    Ok(())
}

/// Checks one User Property; the struct keeps them all by keeping the section.
fn user<'a>(
    all: &mut UserProperties<'a>,
    section: &'a [u8],
    value: &mut Reader<'a>,
) -> Result<(), DecodeError> {
    value.pair()?;
    *all = UserProperties::Wire(section);
    Ok(())
}

/// A byte that must be 0 or 1.
fn boolean(property: P, value: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match value.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::PropertyValue(property)),
    }
}

fn non_zero(property: P, value: &mut Reader<'_>) -> Result<NonZeroU16, DecodeError> {
    NonZeroU16::new(value.u16()?).ok_or(DecodeError::PropertyValue(property))
}

fn packet_size(value: &mut Reader<'_>) -> Result<u32, DecodeError> {
    match value.u32()? {
        0 => Err(DecodeError::PropertyValue(P::MaximumPacketSize)),
        size => Ok(size),
    }
}

fn subscription_id(value: &mut Reader<'_>) -> Result<u32, DecodeError> {
    match value.variable()? {
        0 => Err(DecodeError::PropertyValue(P::SubscriptionIdentifier)),
        id => Ok(id),
    }
}

fn response_topic<'a>(value: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let text = value.text()?;
    TopicName::parse(text).map_err(|_| DecodeError::ResponseTopicInvalid)?;
    Ok(text)
}
