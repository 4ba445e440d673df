//! Lawful packets of every type for every version, rich in fields.

use std::num::NonZeroU16;
use std::sync::LazyLock;

use octopus_mqtt::*;

pub(crate) const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

const USER: UserProperties<'static> =
    UserProperties::List(&[("region", "eu"), ("region", "us"), ("", "")]);

static PLAIN_FILTERS: LazyLock<Vec<SubscribeFilter<'static>>> = LazyLock::new(|| {
    let plain = |qos| SubscriptionOptions { qos, ..SubscriptionOptions::default() };
    vec![
        subscription("a/b", plain(QoS::AtMostOnce)),
        subscription("$share/group/#", plain(QoS::ExactlyOnce)),
    ]
});

static FILTERS: LazyLock<Vec<SubscribeFilter<'static>>> = LazyLock::new(|| {
    let everything = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::Never,
    };
    let shared = SubscriptionOptions {
        no_local: false,
        retain_handling: RetainHandling::OnlyIfNew,
        ..everything
    };
    vec![subscription("sport/+/player1", everything), subscription("$share/group/a/b", shared)]
});

static UNSUBSCRIBE_FILTERS: LazyLock<Vec<TopicFilter<'static>>> =
    LazyLock::new(|| vec![filter("a/b"), filter("+/#")]);

fn filter(text: &'static str) -> TopicFilter<'static> {
    TopicFilter::parse(text).unwrap()
}

fn subscription(text: &'static str, options: SubscriptionOptions) -> SubscribeFilter<'static> {
    SubscribeFilter { filter: filter(text), options }
}

pub(crate) fn id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

/// Everything a client or a server may send in `version`, at least one of each type.
pub(crate) fn samples(version: Version) -> Vec<Packet<'static>> {
    let mut all = connects(version);
    all.extend(connacks(version));
    all.extend(publishes(version));
    all.extend(acks(version));
    all.extend(subscriptions(version));
    all.extend([Packet::PingReq, Packet::PingResp]);
    all.extend(farewells(version));
    all
}

fn message() -> MessageProperties<'static> {
    MessageProperties {
        payload_is_utf8: Some(true),
        expiry_s: Some(u32::MAX),
        content_type: Some("text/plain"),
        response_topic: Some("reply/to"),
        correlation_data: Some(&[0, 1, 255]),
        user: USER,
    }
}

fn connects(version: Version) -> Vec<Packet<'static>> {
    let plain = Connect {
        version,
        clean_start: true,
        keep_alive_s: 60,
        client_id: "client",
        will: None,
        user_name: None,
        password: None,
        properties: ConnectProperties::default(),
    };
    let mut full = Connect {
        clean_start: false,
        keep_alive_s: u16::MAX,
        client_id: "",
        will: Some(Will {
            topic: TopicName::parse("will/ü").unwrap(),
            payload: b"gone",
            qos: QoS::ExactlyOnce,
            retain: true,
            properties: WillProperties::default(),
        }),
        user_name: Some("user"),
        password: Some(&[0, 0xff]),
        ..plain.clone()
    };
    let mut all = vec![plain.clone(), full.clone()];
    if version == Version::V5 {
        full.properties = ConnectProperties {
            session_expiry_s: Some(u32::MAX),
            receive_max: NonZeroU16::new(1),
            packet_size_max: Some(1),
            topic_alias_max: Some(0),
            request_response_information: Some(true),
            request_problem_information: Some(false),
            authentication_method: Some("SCRAM-SHA-256"),
            authentication_data: Some(b"n,,n=user"),
            user: USER,
        };
        let properties = WillProperties { delay_s: Some(7), message: message() };
        full.will = full.will.map(|will| Will { properties, ..will });
        all.extend([full, Connect { password: Some(b"token"), ..plain }]);
    }
    all.into_iter().map(|connect| Packet::Connect(Box::new(connect))).collect()
}

fn connacks(version: Version) -> Vec<Packet<'static>> {
    let accepted = ConnAck {
        session_present: version > Version::V3_1,
        reason: ReasonCode::Success,
        properties: ConnAckProperties::default(),
    };
    let refused =
        ConnAck { session_present: false, reason: ReasonCode::NotAuthorized, ..accepted.clone() };
    let mut all = vec![accepted.clone(), refused];
    if version == Version::V5 {
        let properties = ConnAckProperties {
            session_expiry_s: Some(10),
            receive_max: NonZeroU16::new(u16::MAX),
            qos_max: Some(1),
            retain_available: Some(false),
            packet_size_max: Some(u32::MAX),
            assigned_client_id: Some("assigned"),
            topic_alias_max: Some(32),
            reason_string: Some("welcome"),
            wildcard_subscription_available: Some(true),
            subscription_ids_available: Some(false),
            shared_subscription_available: Some(true),
            server_keep_alive_s: Some(30),
            response_information: Some("reply/"),
            server_reference: Some("other:1883"),
            authentication_method: Some("SCRAM-SHA-256"),
            authentication_data: Some(b"v="),
            user: USER,
        };
        all.push(ConnAck { properties, ..accepted });
    }
    all.into_iter().map(|connack| Packet::ConnAck(Box::new(connack))).collect()
}

fn publishes(version: Version) -> Vec<Packet<'static>> {
    let plain = Publish {
        dup: false,
        retain: false,
        delivery: Delivery::AtMostOnce,
        topic: TopicName::parse("a/b").ok(),
        properties: PublishProperties::default(),
        payload: b"payload",
    };
    let repeated = Publish {
        dup: true,
        retain: true,
        delivery: Delivery::AtLeastOnce(id(1)),
        payload: &[],
        ..plain.clone()
    };
    let long = Publish {
        delivery: Delivery::ExactlyOnce(id(u16::MAX)),
        payload: &[7; 300],
        ..plain.clone()
    };
    let mut all = vec![plain.clone(), repeated, long];
    if version == Version::V5 {
        let properties = PublishProperties {
            message: message(),
            topic_alias: NonZeroU16::new(9),
            subscription_ids: SubscriptionIds::List(&[1, 127, 128, 268_435_455]),
        };
        all.push(Publish { topic: None, properties: properties.clone(), ..plain.clone() });
        all.push(Publish { properties, ..plain });
    }
    all.into_iter().map(Packet::Publish).collect()
}

fn acks(version: Version) -> Vec<Packet<'static>> {
    let plain = Ack {
        packet_id: id(0x1234),
        reason: ReasonCode::Success,
        properties: ReasonProperties::default(),
    };
    let mut all = vec![
        Packet::PubAck(plain.clone()),
        Packet::PubRec(plain.clone()),
        Packet::PubRel(plain.clone()),
        Packet::PubComp(plain.clone()),
    ];
    if version == Version::V5 {
        let properties = ReasonProperties { reason_string: Some("quota"), user: USER };
        let refused = Ack { reason: ReasonCode::QuotaExceeded, ..plain.clone() };
        let unknown = Ack { reason: ReasonCode::PacketIdNotFound, ..plain.clone() };
        all.extend([
            Packet::PubAck(refused.clone()),
            Packet::PubRec(Ack { properties: properties.clone(), ..refused }),
            Packet::PubRel(unknown.clone()),
            Packet::PubComp(Ack { properties: properties.clone(), ..unknown }),
            Packet::PubAck(Ack { properties, ..plain }),
        ]);
    }
    all
}

fn subscriptions(version: Version) -> Vec<Packet<'static>> {
    let v5 = version == Version::V5;
    let user = if v5 { USER } else { UserProperties::default() };
    let reason_string = v5.then_some("why");
    vec![
        Packet::Subscribe(Subscribe {
            packet_id: id(10),
            properties: SubscribeProperties { subscription_id: v5.then_some(16_384), user },
            filters: SubscribeFilters::List(if v5 { &FILTERS } else { &PLAIN_FILTERS }),
        }),
        Packet::SubAck(SubAck {
            packet_id: id(10),
            properties: ReasonProperties { reason_string, user },
            reasons: if v5 { &[0, 1, 2, 0x97] } else { &[0, 1, 2, 0x80] },
        }),
        Packet::Unsubscribe(Unsubscribe {
            packet_id: id(11),
            properties: SubscribeProperties { subscription_id: None, user },
            filters: UnsubscribeFilters::List(&UNSUBSCRIBE_FILTERS),
        }),
        Packet::UnsubAck(SubAck {
            packet_id: id(11),
            properties: ReasonProperties { reason_string, user },
            reasons: if v5 { &[0, 0x11] } else { &[] },
        }),
    ]
}

fn farewells(version: Version) -> Vec<Packet<'static>> {
    let plain =
        Disconnect { reason: ReasonCode::Success, properties: DisconnectProperties::default() };
    let mut all = vec![Packet::Disconnect(plain.clone())];
    if version == Version::V5 {
        let properties = DisconnectProperties {
            session_expiry_s: Some(0),
            reason_string: Some("moved"),
            server_reference: Some("elsewhere"),
            user: USER,
        };
        let method = AuthProperties {
            authentication_method: Some("SCRAM-SHA-256"),
            authentication_data: Some(b"r="),
            reason_string: Some("go on"),
            user: USER,
        };
        all.extend([
            Packet::Disconnect(Disconnect {
                reason: ReasonCode::DisconnectWithWill,
                ..plain.clone()
            }),
            Packet::Disconnect(Disconnect { properties, ..plain }),
            Packet::Auth(Auth {
                reason: ReasonCode::Success,
                properties: AuthProperties::default(),
            }),
            Packet::Auth(Auth { reason: ReasonCode::ContinueAuthentication, properties: method }),
        ]);
    }
    all
}
