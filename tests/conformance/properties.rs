//! §2.2.2.2 of version 5 as cases: every property in every packet a client sends, where it may
//! stand and where it may not, twice, and with values out of range; with the Reason Code that
//! ends the connection. What the codec says of the same table is in `shards/mqtt/tests`.

use super::script::{self, Case};
use crate::harness::wire::is_property;

/// Every property by its name in scripts, with a lawful value.
const LAWFUL: [(&str, &str); 27] = [
    ("payload-format", "1"),
    ("message-expiry", "10"),
    ("content-type", "c"),
    ("response-topic", "r"),
    ("correlation-data", "hex:00ff"),
    ("subscription-id", "128"),
    ("session-expiry", "0"),
    ("assigned-client-id", "i"),
    ("server-keep-alive", "1"),
    ("auth-method", "m"),
    ("auth-data", "d"),
    ("request-problem", "1"),
    ("delay", "1"),
    ("request-response", "1"),
    ("response-information", "r"),
    ("server-reference", "s"),
    ("reason-string", "r"),
    ("receive-max", "1"),
    ("alias-max", "1"),
    ("alias", "1"),
    ("qos-max", "1"),
    ("retain-available", "1"),
    ("user-property", "k:v"),
    ("packet-max", "1000"),
    ("wildcard-available", "1"),
    ("subscription-id-available", "1"),
    ("shared-available", "1"),
];

/// Values against the specification, and the code for them wherever the property may stand.
const UNLAWFUL: [(&str, &str, u8); 13] = [
    ("payload-format", "2", 0x82),
    ("request-problem", "2", 0x82),
    ("request-response", "2", 0x82),
    ("receive-max", "0", 0x82),
    ("packet-max", "0", 0x82),
    ("subscription-id", "0", 0x82),
    ("alias", "0", 0x94),
    ("response-topic", "r/+", 0x82),
    ("response-topic", "hex:ff", 0x81),
    ("content-type", "hex:ff", 0x81),
    ("reason-string", "hex:00", 0x81),
    ("user-property", "hex:ff3a61", 0x81),
    ("user-property", "hex:613a00", 0x81),
];

/// A packet with room for a property.
struct Place {
    name: &'static str,
    /// The packet as a script sends it; the property follows.
    packet: &'static str,
    /// Before the name of the property.
    prefix: &'static str,
    /// What comes if all is well.
    answer: &'static str,
    allowed: &'static [&'static str],
    /// Allowed by the table and refused for another reason of this broker's.
    refused: &'static [(&'static str, u8)],
}

const REASON: &[&str] = &["reason-string", "user-property"];

const PLACES: [Place; 11] = [
    Place {
        name: "CONNECT",
        packet: "connect id=$ clean",
        prefix: "",
        answer: "connack",
        allowed: &[
            "session-expiry",
            "receive-max",
            "packet-max",
            "alias-max",
            "request-response",
            "request-problem",
            "auth-method",
            "auth-data",
            "user-property",
        ],
        // Nobody authenticates here, and data without a method says nothing (§3.1.2.11.10).
        refused: &[("auth-method", 0x8c), ("auth-data", 0x82)],
    },
    Place {
        name: "the will",
        packet: "connect id=$ clean will-topic=w will=x",
        prefix: "will-",
        answer: "connack",
        allowed: &[
            "payload-format",
            "message-expiry",
            "content-type",
            "response-topic",
            "correlation-data",
            "user-property",
            "delay",
        ],
        refused: &[],
    },
    Place {
        name: "PUBLISH",
        packet: "publish q1 id=9 topic=x payload=p",
        prefix: "",
        answer: "puback id=9",
        allowed: &[
            "payload-format",
            "message-expiry",
            "content-type",
            "response-topic",
            "correlation-data",
            "user-property",
            "alias",
            "subscription-id",
        ],
        // Only a server sends it [MQTT-3.3.4-6].
        refused: &[("subscription-id", 0x82)],
    },
    Place {
        name: "PUBACK",
        packet: "puback id=9 code=0",
        prefix: "",
        answer: "only pingresp",
        allowed: REASON,
        refused: &[],
    },
    Place {
        name: "PUBREC",
        packet: "pubrec id=9 code=0",
        prefix: "",
        answer: "pubrel id=9 code=0x92",
        allowed: REASON,
        refused: &[],
    },
    Place {
        name: "PUBREL",
        packet: "pubrel id=9 code=0",
        prefix: "",
        answer: "pubcomp id=9 code=0x92",
        allowed: REASON,
        refused: &[],
    },
    Place {
        name: "PUBCOMP",
        packet: "pubcomp id=9 code=0",
        prefix: "",
        answer: "only pingresp",
        allowed: REASON,
        refused: &[],
    },
    Place {
        name: "SUBSCRIBE",
        packet: "subscribe id=9 filter=x@0",
        prefix: "",
        answer: "suback id=9 codes=0",
        allowed: &["subscription-id", "user-property"],
        refused: &[],
    },
    Place {
        name: "UNSUBSCRIBE",
        packet: "unsubscribe id=9 filter=x",
        prefix: "",
        answer: "unsuback id=9 codes=0x11",
        allowed: &["user-property"],
        refused: &[],
    },
    Place {
        name: "DISCONNECT",
        packet: "disconnect code=0",
        prefix: "",
        answer: "closed",
        allowed: &["session-expiry", "reason-string", "user-property", "server-reference"],
        refused: &[],
    },
    Place {
        name: "AUTH",
        packet: "auth code=0x18",
        prefix: "",
        answer: "closed",
        allowed: &["auth-method", "auth-data", "reason-string", "user-property"],
        // Lawful for those only whose CONNECT named a method [MQTT-4.12.0-7].
        refused: &[
            ("auth-method", 0x82),
            ("auth-data", 0x82),
            ("reason-string", 0x82),
            ("user-property", 0x82),
        ],
    },
];

/// A case for each packet; a bystander is served on throughout.
///
/// # Errors
/// What in the cases cannot be read.
pub(super) fn cases() -> Result<Vec<Case>, String> {
    let unknown = LAWFUL.iter().find(|(name, _)| !is_property(name));
    if let Some((name, _)) = unknown {
        return Err(format!("{name} is no property"));
    }
    let texts: Vec<String> = PLACES.iter().map(Place::case).collect();
    script::parse("properties", &texts.concat())
}

impl Place {
    fn case(&self) -> String {
        let mut case = Script {
            place: self,
            text: format!(
                "case each property of {} stands where it may\nversions 5\n\
                 [MQTT-4.13.1-1] \"it MUST close the Network Connection\"\n  \
                 w connects\n  w subscribes still@1\n",
                self.name
            ),
            clients: 0,
        };
        for (property, value) in LAWFUL {
            let refused = self.refused.iter().find(|(name, _)| *name == property);
            let is_allowed = self.allowed.contains(&property);
            let code = match refused {
                Some((_, code)) => Some(*code),
                None => (!is_allowed).then_some(0x81),
            };
            case.send(&[(property, value)], code);
            if is_allowed && property != "user-property" && refused.is_none() {
                case.send(&[(property, value); 2], Some(0x82));
            }
        }
        case.send(&[("user-property", "k:v"); 2], self.code_of("user-property"));
        for (property, value, code) in UNLAWFUL {
            if self.allowed.contains(&property) && self.code_of(property).is_none() {
                case.send(&[(property, value)], Some(code));
            }
        }
        case.text.push_str(
            "  p connects\n  p publishes q1 topic=still payload=here\n  \
             w receives q1 topic=still payload=here\n",
        );
        case.text
    }

    /// The code that an allowed property is refused with all the same.
    fn code_of(&self, property: &str) -> Option<u8> {
        match self.refused.iter().find(|(name, _)| *name == property) {
            Some((_, code)) => Some(*code),
            None => (!self.allowed.contains(&property)).then_some(0x81),
        }
    }
}

struct Script<'a> {
    place: &'a Place,
    text: String,
    clients: usize,
}

impl Script<'_> {
    /// Another client sends the packet with these properties; `code`: the one it is refused with.
    fn send(&mut self, properties: &[(&str, &str)], code: Option<u8>) {
        self.clients += 1;
        let client = format!("c{}", self.clients);
        if !self.place.packet.starts_with("connect") {
            self.text.push_str(&format!("  {client} connects\n"));
        }
        let packet = self.place.packet.replace('$', &client);
        self.text.push_str(&format!("  {client} > {packet}"));
        for (property, value) in properties {
            self.text.push_str(&format!(" {}{property}={value}", self.place.prefix));
        }
        let answer = match code {
            Some(code) => format!("refused code={code:#04x}"),
            None => self.place.answer.to_owned(),
        };
        self.text.push_str(&format!("\n  {client} < {answer}\n"));
    }
}
