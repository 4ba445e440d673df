//! rumqttc, a client in Rust, in both versions.

use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use crate::harness::broker::Process;

type Test = fn(&Process) -> Result<(), Failed>;

/// How long what must come may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn tests() -> [(&'static str, Test); 7] {
    [
        ("messages_of_each_qos_arrive::v3_1_1", v4::each_qos),
        ("a_session_is_resumed::v3_1_1", v4::resume),
        ("messages_of_each_qos_arrive::v5", v5::each_qos),
        ("user_properties_arrive::v5", v5::properties),
        ("a_will_comes_with_its_properties::v5", v5::will),
        ("what_is_retained_waits::v5", v5::retained),
        ("a_group_gets_each_message_once::v5", v5::shared),
    ]
}

mod v4 {
    use rumqttc::{Client, Connection, Event, MqttOptions, Packet, Publish, QoS};

    use super::{Duration, Failed, Instant, PATIENCE, Process};

    fn open(broker: &Process, id: &str, clean: bool) -> (Client, Connection) {
        let mut options = MqttOptions::new(id, "127.0.0.1", broker.address.port());
        options.set_clean_session(clean).set_keep_alive(Duration::from_secs(30));
        Client::new(options, 100)
    }

    /// Turns the connection until `wanted` finds something.
    fn until<T>(
        connection: &mut Connection,
        wanted: impl Fn(&Packet) -> Option<T>,
    ) -> Result<T, Failed> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match connection.recv_timeout(PATIENCE) {
                Ok(Ok(Event::Incoming(packet))) => {
                    if let Some(found) = wanted(&packet) {
                        return Ok(found);
                    }
                }
                Ok(Ok(Event::Outgoing(_))) => {}
                other => return Err(format!("{other:?}").into()),
            }
        }
        Err("what was wanted did not come".into())
    }

    fn publish_in(packet: &Packet) -> Option<Publish> {
        match packet {
            Packet::Publish(publish) => Some(publish.clone()),
            _ => None,
        }
    }

    fn is_suback(packet: &Packet) -> Option<()> {
        matches!(packet, Packet::SubAck(_)).then_some(())
    }

    pub(super) fn each_qos(broker: &Process) -> Result<(), Failed> {
        let (client, mut connection) = open(broker, "both", true);
        client.subscribe("rust/#", QoS::ExactlyOnce)?;
        until(&mut connection, is_suback)?;
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            client.publish("rust/a", qos, false, "hello")?;
            let came = until(&mut connection, publish_in)?;
            if (came.qos, &came.topic[..], &came.payload[..]) != (qos, "rust/a", b"hello") {
                return Err(format!("{qos:?}: {came:?}").into());
            }
        }
        Ok(())
    }

    pub(super) fn resume(broker: &Process) -> Result<(), Failed> {
        let (client, mut connection) = open(broker, "sleeper", false);
        client.subscribe("sleep", QoS::AtLeastOnce)?;
        until(&mut connection, is_suback)?;
        drop((client, connection));
        let (publisher, mut turns) = open(broker, "publisher", true);
        publisher.publish("sleep", QoS::AtLeastOnce, false, "kept")?;
        until(&mut turns, |packet| matches!(packet, Packet::PubAck(_)).then_some(()))?;
        let (_client, mut connection) = open(broker, "sleeper", false);
        let came = until(&mut connection, publish_in)?;
        if &came.payload[..] == b"kept" { Ok(()) } else { Err(format!("{came:?}").into()) }
    }
}

mod v5 {
    use rumqttc::v5::mqttbytes::QoS;
    use rumqttc::v5::mqttbytes::v5::{
        LastWill, LastWillProperties, Packet, Publish, PublishProperties,
    };
    use rumqttc::v5::{Client, Connection, Event, MqttOptions};

    use super::{Duration, Failed, Instant, PATIENCE, Process};

    fn open(broker: &Process, id: &str) -> (Client, Connection) {
        let mut options = MqttOptions::new(id, "127.0.0.1", broker.address.port());
        options.set_keep_alive(Duration::from_secs(30));
        Client::new(options, 100)
    }

    /// Turns the connection until `wanted` finds something.
    fn until<T>(
        connection: &mut Connection,
        wanted: impl Fn(&Packet) -> Option<T>,
    ) -> Result<T, Failed> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match connection.recv_timeout(PATIENCE) {
                Ok(Ok(Event::Incoming(packet))) => {
                    if let Some(found) = wanted(&packet) {
                        return Ok(found);
                    }
                }
                Ok(Ok(Event::Outgoing(_))) => {}
                other => return Err(format!("{other:?}").into()),
            }
        }
        Err("what was wanted did not come".into())
    }

    fn publish_in(packet: &Packet) -> Option<Publish> {
        match packet {
            Packet::Publish(publish) => Some(publish.clone()),
            _ => None,
        }
    }

    fn is_suback(packet: &Packet) -> Option<()> {
        matches!(packet, Packet::SubAck(_)).then_some(())
    }

    pub(super) fn each_qos(broker: &Process) -> Result<(), Failed> {
        let (client, mut connection) = open(broker, "both");
        client.subscribe("rust/#", QoS::ExactlyOnce)?;
        until(&mut connection, is_suback)?;
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            client.publish("rust/a", qos, false, "hello")?;
            let came = until(&mut connection, publish_in)?;
            if (came.qos, &came.topic[..], &came.payload[..]) != (qos, b"rust/a", b"hello") {
                return Err(format!("{qos:?}: {came:?}").into());
            }
        }
        Ok(())
    }

    pub(super) fn properties(broker: &Process) -> Result<(), Failed> {
        let (client, mut connection) = open(broker, "both");
        client.subscribe("rust", QoS::AtLeastOnce)?;
        until(&mut connection, is_suback)?;
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let sent = PublishProperties {
            content_type: Some("text/plain".into()),
            user_properties: vec![pair("b", "1"), pair("a", "2"), pair("b", "3")],
            ..PublishProperties::default()
        };
        client.publish_with_properties("rust", QoS::AtLeastOnce, false, "hi", sent.clone())?;
        let came = until(&mut connection, publish_in)?.properties.unwrap_or_default();
        if came.user_properties == sent.user_properties && came.content_type == sent.content_type {
            Ok(())
        } else {
            Err(format!("{came:?}").into())
        }
    }

    pub(super) fn will(broker: &Process) -> Result<(), Failed> {
        let (client, mut watcher) = open(broker, "watcher");
        client.subscribe("will", QoS::AtLeastOnce)?;
        until(&mut watcher, is_suback)?;
        let mut options = MqttOptions::new("victim", "127.0.0.1", broker.address.port());
        let properties = LastWillProperties {
            delay_interval: None,
            payload_format_indicator: Some(1),
            message_expiry_interval: None,
            content_type: Some("text/plain".into()),
            response_topic: None,
            correlation_data: None,
            user_properties: Vec::new(),
        };
        let will = LastWill::new("will", "gone", QoS::AtLeastOnce, false, Some(properties));
        options.set_last_will(will);
        let (victim, mut turns) = Client::new(options, 10);
        until(&mut turns, |packet| matches!(packet, Packet::ConnAck(_)).then_some(()))?;
        drop((victim, turns));
        let came = until(&mut watcher, publish_in)?;
        let properties = came.properties.clone().unwrap_or_default();
        if &came.payload[..] == b"gone" && properties.content_type.as_deref() == Some("text/plain")
        {
            Ok(())
        } else {
            Err(format!("{came:?}").into())
        }
    }

    pub(super) fn retained(broker: &Process) -> Result<(), Failed> {
        let (client, mut connection) = open(broker, "both");
        client.publish("kept", QoS::AtLeastOnce, true, "kept")?;
        until(&mut connection, |packet| matches!(packet, Packet::PubAck(_)).then_some(()))?;
        client.subscribe("kept", QoS::AtLeastOnce)?;
        let came = until(&mut connection, publish_in)?;
        if came.retain && &came.payload[..] == b"kept" {
            Ok(())
        } else {
            Err(format!("{came:?}").into())
        }
    }

    pub(super) fn shared(broker: &Process) -> Result<(), Failed> {
        let mut members = ["one", "other"].map(|id| open(broker, id));
        for (client, connection) in &mut members {
            client.subscribe("$share/g/jobs", QoS::AtLeastOnce)?;
            until(connection, is_suback)?;
        }
        let (publisher, mut turns) = open(broker, "publisher");
        for number in 0..6 {
            publisher.publish("jobs", QoS::AtLeastOnce, false, number.to_string())?;
            until(&mut turns, |packet| matches!(packet, Packet::PubAck(_)).then_some(()))?;
        }
        let mut jobs = Vec::new();
        for (_, connection) in &mut members {
            for _ in 0..3 {
                jobs.push(String::from_utf8(until(connection, publish_in)?.payload.to_vec())?);
            }
        }
        jobs.sort();
        if jobs == ["0", "1", "2", "3", "4", "5"] {
            Ok(())
        } else {
            Err(format!("{jobs:?}").into())
        }
    }
}
