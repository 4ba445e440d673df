//! §2.2.2.2 as a table: which property may stand in which packet, how often, and with which
//! values. Every property is tried in every packet.

use octopus_mqtt::Property::*;
use octopus_mqtt::*;

/// Each property with a lawful value.
const LAWFUL: &[(Property, &[u8])] = &[
    (PayloadFormatIndicator, &[1]),
    (MessageExpiryInterval, &[0, 0, 0, 0]),
    (ContentType, &[0, 1, b'c']),
    (ResponseTopic, &[0, 1, b'r']),
    (CorrelationData, &[0, 1, 0]),
    (SubscriptionIdentifier, &[0x80, 1]),
    (SessionExpiryInterval, &[0, 0, 0, 0]),
    (AssignedClientIdentifier, &[0, 1, b'i']),
    (ServerKeepAlive, &[0, 0]),
    (AuthenticationMethod, &[0, 1, b'm']),
    (AuthenticationData, &[0, 0]),
    (RequestProblemInformation, &[0]),
    (WillDelayInterval, &[0, 0, 0, 1]),
    (RequestResponseInformation, &[1]),
    (ResponseInformation, &[0, 0]),
    (ServerReference, &[0, 1, b's']),
    (ReasonString, &[0, 1, b'r']),
    (ReceiveMaximum, &[0, 1]),
    (TopicAliasMaximum, &[0, 0]),
    (TopicAlias, &[0, 1]),
    (MaximumQoS, &[0]),
    (RetainAvailable, &[0]),
    (UserProperty, &[0, 1, b'k', 0, 1, b'v']),
    (MaximumPacketSize, &[0, 0, 0, 1]),
    (WildcardSubscriptionAvailable, &[1]),
    (SubscriptionIdentifierAvailable, &[1]),
    (SharedSubscriptionAvailable, &[1]),
];

const MESSAGE: &[Property] = &[
    PayloadFormatIndicator,
    MessageExpiryInterval,
    ContentType,
    ResponseTopic,
    CorrelationData,
    UserProperty,
];

/// A packet with room for a property section: what stands before it, what behind it, and the
/// properties that the table of §2.2.2.2 allows there.
struct Place {
    name: &'static str,
    first: u8,
    before: &'static [u8],
    after: &'static [u8],
    allowed: &'static [&'static [Property]],
}

const PLACES: &[Place] = &[
    Place {
        name: "CONNECT",
        first: 0x10,
        before: b"\0\x04MQTT\x05\x02\0\0",
        after: &[0, 0],
        allowed: &[&[
            SessionExpiryInterval,
            ReceiveMaximum,
            MaximumPacketSize,
            TopicAliasMaximum,
            RequestResponseInformation,
            RequestProblemInformation,
            AuthenticationMethod,
            AuthenticationData,
            UserProperty,
        ]],
    },
    Place {
        name: "Will",
        first: 0x10,
        before: b"\0\x04MQTT\x05\x06\0\0\0\0\0",
        after: &[0, 1, b'w', 0, 0],
        allowed: &[MESSAGE, &[WillDelayInterval]],
    },
    Place {
        name: "CONNACK",
        first: 0x20,
        before: &[0, 0],
        after: &[],
        allowed: &[&[
            SessionExpiryInterval,
            ReceiveMaximum,
            MaximumQoS,
            RetainAvailable,
            MaximumPacketSize,
            AssignedClientIdentifier,
            TopicAliasMaximum,
            ReasonString,
            UserProperty,
            WildcardSubscriptionAvailable,
            SubscriptionIdentifierAvailable,
            SharedSubscriptionAvailable,
            ServerKeepAlive,
            ResponseInformation,
            ServerReference,
            AuthenticationMethod,
            AuthenticationData,
        ]],
    },
    Place {
        name: "PUBLISH",
        first: 0x30,
        before: &[0, 1, b'a'],
        after: b"payload",
        allowed: &[MESSAGE, &[TopicAlias, SubscriptionIdentifier]],
    },
    Place { name: "PUBACK", first: 0x40, before: &[0, 1, 0], after: &[], allowed: REASON },
    Place { name: "PUBREC", first: 0x50, before: &[0, 1, 0], after: &[], allowed: REASON },
    Place { name: "PUBREL", first: 0x62, before: &[0, 1, 0], after: &[], allowed: REASON },
    Place { name: "PUBCOMP", first: 0x70, before: &[0, 1, 0], after: &[], allowed: REASON },
    Place {
        name: "SUBSCRIBE",
        first: 0x82,
        before: &[0, 1],
        after: &[0, 1, b'a', 0],
        allowed: &[&[SubscriptionIdentifier, UserProperty]],
    },
    Place { name: "SUBACK", first: 0x90, before: &[0, 1], after: &[0], allowed: REASON },
    Place {
        name: "UNSUBSCRIBE",
        first: 0xa2,
        before: &[0, 1],
        after: &[0, 1, b'a'],
        allowed: &[&[UserProperty]],
    },
    Place { name: "UNSUBACK", first: 0xb0, before: &[0, 1], after: &[0], allowed: REASON },
    Place {
        name: "DISCONNECT",
        first: 0xe0,
        before: &[0],
        after: &[],
        allowed: &[&[SessionExpiryInterval, ReasonString, UserProperty, ServerReference]],
    },
    Place {
        name: "AUTH",
        first: 0xf0,
        before: &[0x18],
        after: &[],
        allowed: &[&[AuthenticationMethod, AuthenticationData, ReasonString, UserProperty]],
    },
];

const REASON: &[&[Property]] = &[&[ReasonString, UserProperty]];

impl Place {
    fn allows(&self, property: Property) -> bool {
        self.allowed.iter().any(|some| some.contains(&property))
    }

    /// The error that a packet with these properties gets, if any.
    fn error(&self, properties: &[(Property, &[u8])]) -> Option<DecodeError> {
        let mut section = Vec::new();
        for (property, value) in properties {
            section.push(*property as u8);
            section.extend_from_slice(value);
        }
        self.raw_error(&section)
    }

    fn raw_error(&self, section: &[u8]) -> Option<DecodeError> {
        let len = [u8::try_from(section.len()).unwrap()];
        let body = [self.before, &len, section, self.after].concat();
        let frame = Frame { first: self.first, body: &body, len: body.len() + 2 };
        decode(frame, Version::V5).err()
    }
}

fn lawful(property: Property) -> (Property, &'static [u8]) {
    *LAWFUL.iter().find(|(found, _)| *found == property).unwrap()
}

/// What must stand beside a property for the packet to be complete (§3.1.2.11.10,
/// §3.15.2.2.2).
fn beside(place: &Place, property: Property) -> Vec<(Property, &'static [u8])> {
    let needed = property == AuthenticationData || place.name == "AUTH";
    if needed && property != AuthenticationMethod && place.allows(AuthenticationMethod) {
        vec![lawful(AuthenticationMethod)]
    } else {
        Vec::new()
    }
}

#[test]
fn the_table_knows_every_property() {
    let known: Vec<Property> = (0..=u8::MAX).filter_map(Property::from_u8).collect();
    assert_eq!(known, LAWFUL.iter().map(|(property, _)| *property).collect::<Vec<_>>());
}

#[test]
fn a_property_stands_only_where_the_table_allows_it() {
    for place in PLACES {
        for &(property, value) in LAWFUL {
            let mut section = beside(place, property);
            section.push((property, value));
            let expected =
                (!place.allows(property)).then_some(DecodeError::PropertyNotAllowed(property));
            assert_eq!(place.error(&section), expected, "{} {}", place.name, property.name());
        }
    }
}

#[test]
fn a_property_given_twice_is_refused_but_for_the_repeatable_two() {
    for place in PLACES {
        for &(property, value) in LAWFUL.iter().filter(|(property, _)| place.allows(*property)) {
            let mut section = beside(place, property);
            section.extend([(property, value); 2]);
            let repeatable = property == UserProperty
                || (property == SubscriptionIdentifier && place.name == "PUBLISH");
            let expected = (!repeatable).then_some(DecodeError::DuplicateProperty(property));
            assert_eq!(place.error(&section), expected, "{} {}", place.name, property.name());
        }
    }
}

#[test]
fn a_value_outside_its_range_is_refused() {
    let unlawful: &[(Property, &[u8], DecodeError)] = &[
        (PayloadFormatIndicator, &[2], DecodeError::PropertyValue(PayloadFormatIndicator)),
        (RequestProblemInformation, &[2], DecodeError::PropertyValue(RequestProblemInformation)),
        (RequestResponseInformation, &[9], DecodeError::PropertyValue(RequestResponseInformation)),
        (MaximumQoS, &[2], DecodeError::PropertyValue(MaximumQoS)),
        (RetainAvailable, &[2], DecodeError::PropertyValue(RetainAvailable)),
        (
            WildcardSubscriptionAvailable,
            &[2],
            DecodeError::PropertyValue(WildcardSubscriptionAvailable),
        ),
        (
            SubscriptionIdentifierAvailable,
            &[2],
            DecodeError::PropertyValue(SubscriptionIdentifierAvailable),
        ),
        (
            SharedSubscriptionAvailable,
            &[2],
            DecodeError::PropertyValue(SharedSubscriptionAvailable),
        ),
        (ReceiveMaximum, &[0, 0], DecodeError::PropertyValue(ReceiveMaximum)),
        (MaximumPacketSize, &[0, 0, 0, 0], DecodeError::PropertyValue(MaximumPacketSize)),
        (SubscriptionIdentifier, &[0], DecodeError::PropertyValue(SubscriptionIdentifier)),
        (SubscriptionIdentifier, &[0x80, 0], DecodeError::MalformedVariableByteInteger),
        (TopicAlias, &[0, 0], DecodeError::TopicAliasZero),
        (ResponseTopic, &[0, 0], DecodeError::ResponseTopicInvalid),
        (ResponseTopic, &[0, 3, b'a', b'/', b'+'], DecodeError::ResponseTopicInvalid),
        (ContentType, &[0, 1, 0xff], DecodeError::InvalidUtf8),
        (ContentType, &[0, 1, 0], DecodeError::NullCharacter),
        (ReasonString, &[0, 1, 0xff], DecodeError::InvalidUtf8),
        (UserProperty, &[0, 1, 0xff, 0, 0], DecodeError::InvalidUtf8),
        (UserProperty, &[0, 0, 0, 1, 0], DecodeError::NullCharacter),
        (UserProperty, &[0, 0], DecodeError::Truncated),
        (SessionExpiryInterval, &[0, 0], DecodeError::Truncated),
    ];
    for place in PLACES {
        for &(property, value, error) in unlawful {
            if !place.allows(property) {
                continue;
            }
            let section = [(property, value)];
            assert_eq!(place.error(&section), Some(error), "{} {section:?}", place.name);
        }
    }
}

#[test]
fn an_identifier_no_one_knows_is_refused() {
    for place in PLACES {
        for identifier in (0..=u8::MAX).filter(|id| Property::from_u8(*id).is_none()) {
            let expected = Some(DecodeError::UnknownProperty { identifier });
            assert_eq!(place.raw_error(&[identifier, 0]), expected, "{}", place.name);
        }
    }
}

#[test]
fn repeatable_properties_keep_their_order_among_others() {
    let section = [
        (SubscriptionIdentifier, &[7][..]),
        (UserProperty, &[0, 1, b'b', 0, 0]),
        (ContentType, &[0, 1, b'c']),
        (UserProperty, &[0, 1, b'a', 0, 1, b'v']),
        (SubscriptionIdentifier, &[0xff, 0xff, 0xff, 0x7f]),
        (TopicAlias, &[0, 3]),
    ];
    let mut bytes = vec![0, 1, b't', 0];
    for (property, value) in section {
        bytes.push(property as u8);
        bytes.extend_from_slice(value);
    }
    bytes[3] = (bytes.len() - 4) as u8;
    let properties = decode_publish(0x30, &bytes, Version::V5).unwrap().properties;
    let user: Vec<_> = properties.message.user.iter().collect();
    assert_eq!(user, [("b", ""), ("a", "v")]);
    assert_eq!(properties.subscription_ids.iter().collect::<Vec<_>>(), [7, 268_435_455]);
    assert_eq!(properties.message.user, UserProperties::List(&[("b", ""), ("a", "v")]));
    assert!(!properties.subscription_ids.is_empty());
}

#[test]
fn properties_that_never_were_ours_read_up_to_the_first_nonsense() {
    assert_eq!(MessageProperties::decode_wire(&[]), MessageProperties::default());
    let properties = MessageProperties::decode_wire(&[1, 1, 0xee, 0, 0]);
    assert_eq!(properties.payload_is_utf8, Some(true));
    assert_eq!(properties.content_type, None);
}
