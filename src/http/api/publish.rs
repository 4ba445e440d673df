//! A message of the operator's: what its JSON says, checked as a client's would be.

use octopus_engine::{Instant, Message};
use octopus_mqtt::{MessageProperties, QoS, TopicName, UserProperties};
use serde_json::{Value, json};

use super::App;
use crate::http::{respond::Refused, view};

/// The longest text of a packet (§1.5.4).
const TEXT_BYTES_MAX: usize = 65_535;

pub(super) fn publish(app: &App, body: &Value) -> Result<Value, Refused> {
    let topic = body["topic"].as_str().ok_or_else(|| Refused::bad("topic must be text"))?;
    let topic = TopicName::parse(topic).map_err(|_| Refused::bad("topic is no topic name"))?;
    let payload = payload(body)?;
    let qos = match &body["qos"] {
        Value::Null => QoS::AtMostOnce,
        number => match number.as_u64() {
            Some(0) => QoS::AtMostOnce,
            Some(1) => QoS::AtLeastOnce,
            Some(2) => QoS::ExactlyOnce,
            _ => return Err(Refused::bad("qos must be 0, 1 or 2")),
        },
    };
    let retain = boolean(body, "retain")?.unwrap_or(false);
    let given @ (Value::Null | Value::Object(_)) = &body["properties"] else {
        return Err(Refused::bad("properties must be an object"));
    };
    let correlation_data = base64(given, "correlation_data_base64")?;
    let user = user_properties(given)?;
    let properties = MessageProperties {
        payload_is_utf8: boolean(given, "payload_is_utf8")?,
        expiry_s: seconds(given, "message_expiry_s")?,
        content_type: text(given, "content_type")?,
        response_topic: response_topic(given)?,
        correlation_data: correlation_data.as_deref(),
        user: UserProperties::List(&user),
    };
    app.hub.publish(Message::new(topic, &payload, qos, retain, &properties, Instant::default()));
    Ok(json!({ "published": topic.as_str(), "bytes": payload.len() }))
}

fn payload(body: &Value) -> Result<Vec<u8>, Refused> {
    let bytes = base64(body, "payload_base64")?;
    let text = match &body["payload"] {
        Value::Null => "",
        Value::String(text) => text,
        _ => return Err(Refused::bad("payload must be text; for bytes there is payload_base64")),
    };
    Ok(bytes.unwrap_or_else(|| text.as_bytes().to_vec()))
}

fn boolean(object: &Value, name: &str) -> Result<Option<bool>, Refused> {
    match &object[name] {
        Value::Null => Ok(None),
        Value::Bool(is_so) => Ok(Some(*is_so)),
        _ => Err(Refused::bad(format!("{name} must be true or false"))),
    }
}

fn seconds(object: &Value, name: &str) -> Result<Option<u32>, Refused> {
    let wrong = || Refused::bad(format!("{name} must be 0 to {}", u32::MAX));
    match &object[name] {
        Value::Null => Ok(None),
        number => {
            let number = number.as_u64().and_then(|number| u32::try_from(number).ok());
            number.map(Some).ok_or_else(wrong)
        }
    }
}

fn base64(object: &Value, name: &str) -> Result<Option<Vec<u8>>, Refused> {
    match &object[name] {
        Value::Null => Ok(None),
        text => {
            let bytes = text.as_str().and_then(view::from_base64);
            bytes.map(Some).ok_or_else(|| Refused::bad(format!("{name} is no base64")))
        }
    }
}

/// Text as a packet may have it [MQTT-1.5.4-2].
fn text<'b>(object: &'b Value, name: &str) -> Result<Option<&'b str>, Refused> {
    match &object[name] {
        Value::Null => Ok(None),
        value => as_text(value, name).map(Some),
    }
}

fn as_text<'b>(value: &'b Value, name: &str) -> Result<&'b str, Refused> {
    let text = value.as_str().filter(|text| text.len() <= TEXT_BYTES_MAX && !text.contains('\0'));
    let wrong = || format!("{name} must be text of at most {TEXT_BYTES_MAX} bytes, without NUL");
    text.ok_or_else(|| Refused::bad(wrong()))
}

fn response_topic(object: &Value) -> Result<Option<&str>, Refused> {
    let topic = text(object, "response_topic")?;
    if topic.is_some_and(|topic| TopicName::parse(topic).is_err()) {
        return Err(Refused::bad("response_topic is no topic name"));
    }
    Ok(topic)
}

/// Pairs of name and value; a name may come more than once.
fn user_properties(object: &Value) -> Result<Vec<(&str, &str)>, Refused> {
    const NAME: &str = "user_properties";
    let wrong = || Refused::bad(format!("{NAME} must be a list of [name, value]"));
    let pairs = match &object[NAME] {
        Value::Null => return Ok(Vec::new()),
        pairs => pairs.as_array().ok_or_else(wrong)?,
    };
    pairs
        .iter()
        .map(|pair| match pair.as_array().map(Vec::as_slice) {
            Some([name, value]) => Ok((as_text(name, NAME)?, as_text(value, NAME)?)),
            _ => Err(wrong()),
        })
        .collect()
}
