//! What the specification forbids, in its own words, with the bytes that do it and the error
//! they get. Clauses stand bare for version 5 and with their version for the older ones.

use octopus_mqtt::DecodeError::*;
use octopus_mqtt::Version::{V3_1, V3_1_1, V5};
use octopus_mqtt::*;

struct Case {
    clause: &'static str,
    /// The words of the clause.
    words: &'static str,
    versions: &'static [Version],
    bytes: &'static [u8],
    error: DecodeError,
}

const ALL: &[Version] = &[V3_1, V3_1_1, V5];
const OLD: &[Version] = &[V3_1, V3_1_1];
const NEW: &[Version] = &[V5];
const SINCE_3_1_1: &[Version] = &[V3_1_1, V5];

fn read(bytes: &[u8], version: Version) -> Result<Packet<'_>, DecodeError> {
    let cut = frame(bytes, 256 * 1024)?.expect("a whole packet");
    assert_eq!(cut.len, bytes.len(), "the case is one packet: {bytes:02x?}");
    decode(cut, version)
}

#[track_caller]
fn check(cases: &[Case]) {
    for Case { clause, words, versions, bytes, error } in cases {
        for &version in *versions {
            let found = read(bytes, version);
            assert_eq!(found, Err(*error), "{clause} {words} {version:?} {bytes:02x?}");
        }
    }
}

#[test]
fn fixed_headers_against_the_specification_are_refused() {
    check(&[
        Case {
            clause: "§2.1.4",
            words: "the maximum number of bytes in the Remaining Length field is four",
            versions: ALL,
            bytes: &[0x30, 0x80, 0x80, 0x80, 0x80, 0x01],
            error: MalformedRemainingLength,
        },
        Case {
            clause: "MQTT-3.2.2-15",
            words: "The Client MUST NOT send packets exceeding Maximum Packet Size",
            versions: ALL,
            bytes: &[0x30, 0xff, 0xff, 0xff, 0x7f],
            error: PacketTooLarge,
        },
        Case {
            clause: "§2.1.2",
            words: "Reserved 0 Forbidden",
            versions: ALL,
            bytes: &[0x00, 0],
            error: UnknownPacketType,
        },
        Case {
            clause: "MQTT311-2.2.1",
            words: "Reserved 15 Forbidden",
            versions: OLD,
            bytes: &[0xf0, 0],
            error: UnknownPacketType,
        },
        Case {
            clause: "MQTT-2.1.3-1",
            words: "Where a flag bit is marked as Reserved it MUST be set to the value listed",
            versions: ALL,
            bytes: &[0xc1, 0],
            error: ReservedFlags,
        },
        Case {
            clause: "MQTT-3.6.1-1",
            words: "Bits 3,2,1 and 0 of the Fixed Header in the PUBREL packet MUST be set to 0,0,1,0",
            versions: ALL,
            bytes: &[0x60, 2, 0, 1],
            error: ReservedFlags,
        },
        Case {
            clause: "MQTT-3.8.1-1",
            words: "Bits 3,2,1 and 0 of the Fixed Header of the SUBSCRIBE packet MUST be 0,0,1,0",
            versions: SINCE_3_1_1,
            bytes: &[0x8a, 6, 0, 1, 0, 1, b'a', 0],
            error: ReservedFlags,
        },
        Case {
            clause: "MQTT-3.10.1-1",
            words: "Bits 3,2,1 and 0 of the Fixed Header of the UNSUBSCRIBE packet MUST be 0,0,1,0",
            versions: ALL,
            bytes: &[0xa0, 5, 0, 1, 0, 1, b'a'],
            error: ReservedFlags,
        },
        Case {
            clause: "MQTT-3.14.1-1",
            words: "reserved bits of DISCONNECT that are not all zero",
            versions: ALL,
            bytes: &[0xe2, 0],
            error: ReservedFlags,
        },
        Case {
            clause: "§3.12",
            words: "PINGREQ has no Variable Header and no Payload",
            versions: ALL,
            bytes: &[0xc0, 1, 0],
            error: TrailingBytes,
        },
    ]);
}

#[test]
fn strings_against_the_specification_are_refused() {
    check(&[
        Case {
            clause: "MQTT-1.5.4-1",
            words: "MUST NOT include encodings of code points between U+D800 and U+DFFF",
            versions: ALL,
            bytes: &[0x30, 6, 0, 3, 0xed, 0xa0, 0x80, 0],
            error: InvalidUtf8,
        },
        Case {
            clause: "MQTT-1.5.4-1",
            words: "the character data MUST be well-formed UTF-8 (an overlong form of '/')",
            versions: ALL,
            bytes: &[0x30, 5, 0, 2, 0xc0, 0xaf, 0],
            error: InvalidUtf8,
        },
        Case {
            clause: "MQTT-1.5.4-2",
            words: "MUST NOT include an encoding of the null character U+0000",
            versions: ALL,
            bytes: &[0x30, 6, 0, 3, b'a', 0, b'b', 0],
            error: NullCharacter,
        },
        Case {
            clause: "MQTT-4.7.3-2",
            words: "Topic Filters MUST NOT include the null character",
            versions: OLD,
            bytes: &[0x82, 7, 0, 1, 0, 2, b'a', 0, 0],
            error: NullCharacter,
        },
        Case {
            clause: "MQTT-1.5.4-2",
            words: "null character in a Client Identifier",
            versions: ALL,
            bytes: b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01\0",
            error: NullCharacter,
        },
        Case {
            clause: "§4.13.1",
            words: "a string longer than the packet",
            versions: ALL,
            bytes: &[0x30, 3, 0, 2, b'a'],
            error: Truncated,
        },
    ]);
}

#[test]
fn publishes_against_the_specification_are_refused() {
    check(&[
        Case {
            clause: "MQTT-3.3.1-4",
            words: "A PUBLISH Packet MUST NOT have both QoS bits set to 1",
            versions: ALL,
            bytes: &[0x36, 6, 0, 1, b'a', 0, 1, 0],
            error: QoS3,
        },
        Case {
            clause: "MQTT-3.3.1-2",
            words: "The DUP flag MUST be set to 0 for all QoS 0 messages",
            versions: SINCE_3_1_1,
            bytes: &[0x38, 4, 0, 1, b'a', 0],
            error: DupWithQoS0,
        },
        Case {
            clause: "MQTT-3.3.2-2",
            words: "The Topic Name in the PUBLISH packet MUST NOT contain wildcard characters",
            versions: ALL,
            bytes: &[0x30, 6, 0, 3, b'a', b'/', b'#', 0],
            error: WildcardInTopicName,
        },
        Case {
            clause: "MQTT-3.3.2-2",
            words: "(the other wildcard)",
            versions: ALL,
            bytes: &[0x30, 6, 0, 3, b'+', b'/', b'b', 0],
            error: WildcardInTopicName,
        },
        Case {
            clause: "MQTT311-4.7.3-1",
            words: "All Topic Names and Topic Filters MUST be at least one character long",
            versions: OLD,
            bytes: &[0x30, 3, 0, 0, 0],
            error: EmptyTopicName,
        },
        Case {
            clause: "§3.3.2.1",
            words: "a Protocol Error if the Topic Name is zero length and there is no Topic Alias",
            versions: NEW,
            bytes: &[0x30, 3, 0, 0, 0],
            error: NeitherTopicNorAlias,
        },
        Case {
            clause: "MQTT-3.3.2-8",
            words: "MUST NOT send a PUBLISH packet containing a Topic Alias which has the value 0",
            versions: NEW,
            bytes: &[0x30, 7, 0, 1, b'a', 3, 0x23, 0, 0],
            error: TopicAliasZero,
        },
        Case {
            clause: "MQTT-3.3.2-14",
            words: "The Response Topic MUST NOT contain wildcard characters",
            versions: NEW,
            bytes: &[0x30, 8, 0, 1, b'a', 4, 0x08, 0, 1, b'#'],
            error: ResponseTopicInvalid,
        },
        Case {
            clause: "MQTT-2.2.1-3",
            words: "it MUST assign it a non-zero Packet Identifier",
            versions: ALL,
            bytes: &[0x32, 6, 0, 1, b'a', 0, 0, 0],
            error: ZeroPacketId,
        },
        Case {
            clause: "MQTT-2.2.1-2",
            words: "a Packet Identifier is missing where QoS > 0",
            versions: ALL,
            bytes: &[0x32, 4, 0, 1, b'a', 0],
            error: Truncated,
        },
    ]);
}

#[test]
fn connects_against_the_specification_are_refused() {
    check(&[
        Case {
            clause: "MQTT-3.1.2-1",
            words: "The protocol name MUST be the UTF-8 String \"MQTT\"",
            versions: ALL,
            bytes: b"\x10\x0c\0\x04mqtt\x04\x02\0\0\0\0",
            error: WrongProtocolName,
        },
        Case {
            clause: "MQTT-3.1.2-2",
            words: "the Protocol Version is not 5 and the Server does not want to accept it",
            versions: ALL,
            bytes: b"\x10\x0c\0\x04MQTT\x06\x02\0\0\0\0",
            error: UnsupportedVersion { level: 6 },
        },
        Case {
            clause: "MQTT311-3.1.2-2",
            words: "(the level of 3.1 with the name of 3.1.1)",
            versions: ALL,
            bytes: b"\x10\x0c\0\x04MQTT\x03\x02\0\0\0\0",
            error: UnsupportedVersion { level: 3 },
        },
        Case {
            clause: "MQTT-3.1.2-3",
            words: "The Server MUST validate that the reserved flag is set to 0",
            versions: ALL,
            bytes: b"\x10\x0c\0\x04MQTT\x04\x03\0\0\0\0",
            error: ConnectReservedFlag,
        },
        Case {
            clause: "MQTT-3.1.2-11",
            words: "If the Will Flag is set to 0, then the Will QoS MUST be set to 0",
            versions: ALL,
            bytes: b"\x10\x0c\0\x04MQTT\x04\x0a\0\0\0\0",
            error: WillFlagsWithoutWill,
        },
        Case {
            clause: "MQTT-3.1.2-13",
            words: "If the Will Flag is set to 0, then Will Retain MUST be set to 0",
            versions: ALL,
            bytes: b"\x10\x0d\0\x04MQTT\x05\x22\0\0\0\0\0",
            error: WillFlagsWithoutWill,
        },
        Case {
            clause: "MQTT-3.1.2-12",
            words: "the value of Will QoS can be 0, 1, or 2. A value of 3 is a Malformed Packet",
            versions: ALL,
            bytes: b"\x10\x0c\0\x04MQTT\x04\x1e\0\0\0\0",
            error: WillQoS3,
        },
        Case {
            clause: "MQTT311-3.1.2-22",
            words: "If the User Name Flag is set to 0, the Password Flag MUST be set to 0",
            versions: ALL,
            bytes: b"\x10\x0f\0\x04MQTT\x04\x42\0\0\0\0\0\x01p",
            error: PasswordWithoutUserName,
        },
        Case {
            clause: "MQTT311-3.1.3-10",
            words: "a will whose topic no PUBLISH could have",
            versions: ALL,
            bytes: b"\x10\x11\0\x04MQTT\x04\x06\0\0\0\0\0\x01#\0\0",
            error: WildcardInTopicName,
        },
        Case {
            clause: "MQTT-3.1.2-17",
            words: "If the User Name Flag is set to 1, a User Name MUST be present in the Payload",
            versions: ALL,
            bytes: b"\x10\x0c\0\x04MQTT\x04\x82\0\0\0\0",
            error: Truncated,
        },
        Case {
            clause: "MQTT-3.1.2-16",
            words: "If the User Name Flag is set to 0, a User Name MUST NOT be present",
            versions: ALL,
            bytes: b"\x10\x0f\0\x04MQTT\x04\x02\0\0\0\0\0\x01u",
            error: TrailingBytes,
        },
        Case {
            clause: "§3.1.2.11.10",
            words: "Protocol Error to include Authentication Data without Authentication Method",
            versions: ALL,
            bytes: b"\x10\x11\0\x04MQTT\x05\x02\0\0\x04\x16\0\x01x\0\0",
            error: AuthenticationDataWithoutMethod,
        },
        Case {
            clause: "MQTT-1.5.5-1",
            words: "The encoded value MUST use the minimum number of bytes",
            versions: ALL,
            bytes: b"\x10\x0e\0\x04MQTT\x05\x02\0\0\x80\0\0\0",
            error: MalformedVariableByteInteger,
        },
        Case {
            clause: "§1.5.5",
            words: "a Property Length of five bytes",
            versions: ALL,
            bytes: b"\x10\x11\0\x04MQTT\x05\x02\0\0\x80\x80\x80\x80\x01\0\0",
            error: MalformedVariableByteInteger,
        },
        Case {
            clause: "§4.13.1",
            words: "a Property Length longer than the packet",
            versions: ALL,
            bytes: b"\x10\x0d\0\x04MQTT\x05\x02\0\0\x09\0\0",
            error: Truncated,
        },
    ]);
}

#[test]
fn subscribes_against_the_specification_are_refused() {
    check(&[
        Case {
            clause: "MQTT-3.8.3-2",
            words: "The Payload MUST contain at least one Topic Filter and Options pair",
            versions: OLD,
            bytes: &[0x82, 2, 0, 1],
            error: EmptySubscribe,
        },
        Case {
            clause: "MQTT-3.8.3-2",
            words: "(version 5)",
            versions: NEW,
            bytes: &[0x82, 3, 0, 1, 0],
            error: EmptySubscribe,
        },
        Case {
            clause: "MQTT-3.10.3-2",
            words: "The Payload of an UNSUBSCRIBE packet MUST contain at least one Topic Filter",
            versions: OLD,
            bytes: &[0xa2, 2, 0, 1],
            error: EmptyUnsubscribe,
        },
        Case {
            clause: "MQTT-3.10.3-2",
            words: "(version 5)",
            versions: NEW,
            bytes: &[0xa2, 3, 0, 1, 0],
            error: EmptyUnsubscribe,
        },
        Case {
            clause: "MQTT311-3-8.3-4",
            words: "malformed if any of Reserved bits in the payload are non-zero",
            versions: OLD,
            bytes: &[0x82, 6, 0, 1, 0, 1, b'a', 0x04],
            error: ReservedSubscriptionOptions,
        },
        Case {
            clause: "MQTT-3.8.3-5",
            words: "malformed if any of Reserved bits in the Payload are non-zero",
            versions: NEW,
            bytes: &[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x40],
            error: ReservedSubscriptionOptions,
        },
        Case {
            clause: "§3.8.3.1",
            words: "It is a Protocol Error if the Maximum QoS field has the value 3",
            versions: OLD,
            bytes: &[0x82, 6, 0, 1, 0, 1, b'a', 0x03],
            error: SubscriptionQoS3,
        },
        Case {
            clause: "§3.8.3.1",
            words: "It is a Protocol Error to send a Retain Handling value of 3",
            versions: NEW,
            bytes: &[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x30],
            error: RetainHandling3,
        },
        Case {
            clause: "MQTT-3.8.3-4",
            words: "Protocol Error to set the No Local bit to 1 on a Shared Subscription",
            versions: NEW,
            bytes: b"\x82\x10\0\x01\0\0\x0a$share/g/a\x04",
            error: SharedNoLocal,
        },
        Case {
            clause: "MQTT-4.7.1-1",
            words: "the multi-level wildcard MUST be the last character of the Topic Filter",
            versions: OLD,
            bytes: b"\x82\x08\0\x01\0\x03#/a\0",
            error: MisplacedMultiLevelWildcard,
        },
        Case {
            clause: "MQTT-4.8.2-1",
            words: "MUST contain a ShareName that is at least one character long",
            versions: OLD,
            bytes: b"\x82\x0d\0\x01\0\x08$share//\0",
            error: ShareNameInvalid,
        },
        Case {
            clause: "MQTT-4.7.3-1",
            words: "All Topic Filters MUST be at least one character long",
            versions: OLD,
            bytes: &[0x82, 5, 0, 1, 0, 0, 0],
            error: EmptyTopicFilter,
        },
        Case {
            clause: "MQTT-2.2.1-3",
            words: "a non-zero Packet Identifier",
            versions: OLD,
            bytes: &[0x82, 6, 0, 0, 0, 1, b'a', 0],
            error: ZeroPacketId,
        },
    ]);
}

#[test]
fn acknowledgements_against_the_specification_are_refused() {
    check(&[
        Case {
            clause: "MQTT311-3.4.2",
            words: "the variable header of PUBACK is a Packet Identifier",
            versions: OLD,
            bytes: &[0x40, 3, 0, 1, 0],
            error: TrailingBytes,
        },
        Case {
            clause: "MQTT-2.2.1-5",
            words: "the Packet Identifier of the PUBLISH, which is never 0",
            versions: ALL,
            bytes: &[0x40, 2, 0, 0],
            error: ZeroPacketId,
        },
        Case {
            clause: "MQTT-3.4.2-1",
            words: "MUST use one of the PUBACK Reason Codes",
            versions: NEW,
            bytes: &[0x40, 3, 0, 1, 0x92],
            error: ReasonCodeNotAllowed { code: 0x92 },
        },
        Case {
            clause: "MQTT-3.6.2-1",
            words: "MUST use one of the PUBREL Reason Codes",
            versions: NEW,
            bytes: &[0x62, 3, 0, 1, 0x80],
            error: ReasonCodeNotAllowed { code: 0x80 },
        },
        Case {
            clause: "§4.13.1",
            words: "bytes behind the properties",
            versions: NEW,
            bytes: &[0x40, 5, 0, 1, 0, 0, 0],
            error: TrailingBytes,
        },
        Case {
            clause: "MQTT-3.2.2-1",
            words: "Bits 7-1 of the Connect Acknowledge Flags are reserved and MUST be set to 0",
            versions: &[V3_1_1],
            bytes: &[0x20, 2, 2, 0],
            error: ConnAckReservedFlags,
        },
        Case {
            clause: "MQTT-3.2.2-6",
            words: "a non-zero Reason Code MUST set Session Present to 0",
            versions: NEW,
            bytes: &[0x20, 3, 1, 0x87, 0],
            error: SessionPresentOnRefusal,
        },
        Case {
            clause: "MQTT311-3.2.2-6",
            words: "return codes 6-255 are reserved for future use",
            versions: OLD,
            bytes: &[0x20, 2, 0, 6],
            error: ReasonCodeNotAllowed { code: 6 },
        },
        Case {
            clause: "MQTT311-3.9.3-2",
            words: "SUBACK return codes other than 0x00, 0x01, 0x02 and 0x80 are reserved",
            versions: OLD,
            bytes: &[0x90, 3, 0, 1, 3],
            error: ReasonCodeNotAllowed { code: 3 },
        },
        Case {
            clause: "MQTT311-3.11",
            words: "The UNSUBACK Packet has no payload",
            versions: OLD,
            bytes: &[0xb0, 3, 0, 1, 0],
            error: TrailingBytes,
        },
        Case {
            clause: "MQTT311-3.14",
            words: "DISCONNECT has no variable header and no payload",
            versions: OLD,
            bytes: &[0xe0, 1, 0],
            error: TrailingBytes,
        },
        Case {
            clause: "MQTT-3.14.2-1",
            words: "MUST use one of the DISCONNECT Reason Codes",
            versions: NEW,
            bytes: &[0xe0, 1, 0x01],
            error: ReasonCodeNotAllowed { code: 1 },
        },
        Case {
            clause: "§3.15.2.2.2",
            words: "It is a Protocol Error to omit the Authentication Method",
            versions: NEW,
            bytes: &[0xf0, 2, 0x18, 0],
            error: MissingAuthenticationMethod,
        },
    ]);
}

#[test]
fn version_3_1_is_read_as_leniently_as_it_asks_for() {
    let repeated_pubrel = read(&[0x6a, 2, 0, 1], V3_1);
    assert!(matches!(repeated_pubrel, Ok(Packet::PubRel(_))), "DUP marks a repeated PUBREL");

    let dup_without_meaning = read(&[0x38, 3, 0, 1, b'a'], V3_1);
    assert!(matches!(dup_without_meaning, Ok(Packet::Publish(Publish { dup: true, .. }))));

    // "Server implementations must allow for the possibility that the User Name flag is set,
    // but the User Name string is missing."
    let connect = decode_connect(b"\0\x06MQIsdp\x03\xc2\0\0\0\x01c").unwrap();
    assert_eq!((connect.version, connect.user_name, connect.password), (V3_1, None, None));
}

#[test]
fn a_remaining_length_longer_than_need_be_is_accepted() {
    assert_eq!(read(&[0xc0, 0x80, 0x00], V3_1_1), Ok(Packet::PingReq));
}

#[test]
fn a_packet_too_large_is_refused_before_it_has_arrived() {
    assert_eq!(frame(&[0x30, 0xff, 0x7f], 16_386), Ok(None));
    assert_eq!(frame(&[0x30, 0xff, 0x7f], 16_385), Err(PacketTooLarge));
    assert_eq!(frame(&[0xc0, 0], 2).map(|cut| cut.is_some()), Ok(true), "the limit itself is in");
}

#[test]
fn a_password_alone_is_lawful_in_version_5() {
    let connect = decode_connect(b"\0\x04MQTT\x05\x42\0\0\0\0\0\0\x01p").unwrap();
    assert_eq!((connect.user_name, connect.password), (None, Some(&b"p"[..])));
}

#[test]
fn each_kind_of_error_has_its_reason_code() {
    let cases = [
        (Truncated, ReasonCode::MalformedPacket),
        (ReservedFlags, ReasonCode::MalformedPacket),
        (PropertyNotAllowed(Property::TopicAlias), ReasonCode::MalformedPacket),
        (DuplicateProperty(Property::TopicAlias), ReasonCode::ProtocolError),
        (EmptySubscribe, ReasonCode::ProtocolError),
        (WildcardInTopicName, ReasonCode::TopicNameInvalid),
        (MisplacedSingleLevelWildcard, ReasonCode::TopicFilterInvalid),
        (TopicAliasZero, ReasonCode::TopicAliasInvalid),
        (PacketTooLarge, ReasonCode::PacketTooLarge),
        (WrongProtocolName, ReasonCode::UnsupportedProtocolVersion),
    ];
    for (error, reason) in cases {
        assert_eq!(error.reason(), reason, "{error}");
        assert!(!error.clause().is_empty());
        assert!(!error.to_string().is_empty());
    }
}
