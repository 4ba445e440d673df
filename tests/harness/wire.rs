//! Control packets as the test client writes and reads them: a name and a list of fields.
//!
//! This is not the broker's codec and shares no line with it, so that a mistake there cannot
//! hide itself by being made twice. It checks nothing when writing: a script may put any
//! property on any packet. Reading is strict about lengths and panics on no input.

/// The versions that a script can speak; the number is the Protocol Version of CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V3_1 = 3,
    V3_1_1 = 4,
    V5 = 5,
}

/// A field's value: a number, or the bytes of a string or of binary data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

/// A packet: its name in lower case, its fields in wire order, properties among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub name: &'static str,
    pub fields: Vec<(String, Value)>,
}

/// Names by packet type, 1 to 15.
pub(crate) const NAMES: [&str; 16] = [
    "reserved",
    "connect",
    "connack",
    "publish",
    "puback",
    "pubrec",
    "pubrel",
    "pubcomp",
    "subscribe",
    "suback",
    "unsubscribe",
    "unsuback",
    "pingreq",
    "pingresp",
    "disconnect",
    "auth",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Byte,
    Two,
    Four,
    VarInt,
    Data,
    Pair,
}

/// Every property: identifier, its name in scripts, its type (§2.2.2.2 of version 5).
const PROPERTIES: [(u8, &str, Kind); 27] = [
    (0x01, "payload-format", Kind::Byte),
    (0x02, "message-expiry", Kind::Four),
    (0x03, "content-type", Kind::Data),
    (0x08, "response-topic", Kind::Data),
    (0x09, "correlation-data", Kind::Data),
    (0x0b, "subscription-id", Kind::VarInt),
    (0x11, "session-expiry", Kind::Four),
    (0x12, "assigned-client-id", Kind::Data),
    (0x13, "server-keep-alive", Kind::Two),
    (0x15, "auth-method", Kind::Data),
    (0x16, "auth-data", Kind::Data),
    (0x17, "request-problem", Kind::Byte),
    (0x18, "delay", Kind::Four),
    (0x19, "request-response", Kind::Byte),
    (0x1a, "response-information", Kind::Data),
    (0x1c, "server-reference", Kind::Data),
    (0x1f, "reason-string", Kind::Data),
    (0x21, "receive-max", Kind::Two),
    (0x22, "alias-max", Kind::Two),
    (0x23, "alias", Kind::Two),
    (0x24, "qos-max", Kind::Byte),
    (0x25, "retain-available", Kind::Byte),
    (0x26, "user-property", Kind::Pair),
    (0x27, "packet-max", Kind::Four),
    (0x28, "wildcard-available", Kind::Byte),
    (0x29, "subscription-id-available", Kind::Byte),
    (0x2a, "shared-available", Kind::Byte),
];

/// Whether `field` is a property, of the packet or (with `will-` before it) of its will.
pub(crate) fn is_property(field: &str) -> bool {
    property(field).is_some()
}

/// Whether `field` of a packet called `packet` is a number on the wire.
pub(crate) fn is_number(packet: &str, field: &str) -> bool {
    if let Some((_, _, kind)) = property(field) {
        return !matches!(kind, Kind::Data | Kind::Pair);
    }
    match field {
        "id" => packet != "connect",
        "filter" | "topic" | "payload" | "codes" | "user" | "password" | "protocol" | "will"
        | "will-topic" => false,
        _ => true,
    }
}

fn property(field: &str) -> Option<&'static (u8, &'static str, Kind)> {
    let field = field.strip_prefix("will-").unwrap_or(field);
    PROPERTIES.iter().find(|(_, name, _)| *name == field)
}

impl Packet {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, fields: Vec::new() }
    }

    /// Appends a field.
    pub(crate) fn with(mut self, field: &str, value: Value) -> Self {
        self.fields.push((field.to_owned(), value));
        self
    }

    /// Appends a number.
    pub(crate) fn number(self, field: &str, value: impl Into<u64>) -> Self {
        self.with(field, Value::Number(value.into()))
    }

    /// Appends bytes.
    pub(crate) fn bytes(self, field: &str, value: impl Into<Vec<u8>>) -> Self {
        self.with(field, Value::Bytes(value.into()))
    }

    /// All values of a field, in order.
    pub(crate) fn all<'a>(&'a self, field: &'a str) -> impl Iterator<Item = &'a Value> {
        self.fields.iter().filter(move |(name, _)| name == field).map(|(_, value)| value)
    }

    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.fields.iter().find(|(name, _)| name == field).map(|(_, value)| value)
    }

    /// The field as a number, zero if it is absent.
    pub(crate) fn number_of(&self, field: &str) -> u64 {
        match self.get(field) {
            Some(Value::Number(number)) => *number,
            _ => 0,
        }
    }

    /// The field as bytes, empty if it is absent.
    pub(crate) fn bytes_of(&self, field: &str) -> &[u8] {
        match self.get(field) {
            Some(Value::Bytes(bytes)) => bytes,
            _ => &[],
        }
    }

    /// The packet on the wire. A `raw` packet is its bytes.
    pub(crate) fn encode(&self, version: Version) -> Vec<u8> {
        if self.name == "raw" {
            return self.bytes_of("bytes").to_vec();
        }
        let kind = NAMES.iter().position(|name| *name == self.name).expect("a packet name");
        let mut flags = match self.name {
            "pubrel" | "subscribe" | "unsubscribe" => 2,
            "publish" => {
                self.number_of("dup") << 3 | self.number_of("qos") << 1 | self.number_of("retain")
            }
            _ => 0,
        };
        if self.get("flags").is_some() {
            flags = self.number_of("flags");
        }
        let body = self.body(version);
        let mut out = vec![(kind << 4) as u8 | flags as u8];
        put_varint(&mut out, body.len() as u64);
        out.extend(body);
        out
    }

    fn body(&self, version: Version) -> Vec<u8> {
        let mut out = Vec::new();
        match self.name {
            "connect" => self.connect_body(version, &mut out),
            "publish" => {
                put_data(&mut out, self.bytes_of("topic"));
                if self.number_of("qos") > 0 || self.get("id").is_some() {
                    put_u16(&mut out, self.number_of("id"));
                }
                self.put_properties(version, "", &mut out);
                out.extend(self.bytes_of("payload"));
            }
            "subscribe" | "unsubscribe" => {
                put_u16(&mut out, self.number_of("id"));
                self.put_properties(version, "", &mut out);
                for (field, value) in &self.fields {
                    match (field.as_str(), value) {
                        ("filter", Value::Bytes(filter)) => put_data(&mut out, filter),
                        ("options", Value::Number(options)) => out.push(*options as u8),
                        _ => {}
                    }
                }
            }
            "puback" | "pubrec" | "pubrel" | "pubcomp" => {
                put_u16(&mut out, self.number_of("id"));
                self.put_code(version, &mut out);
            }
            "disconnect" | "auth" => self.put_code(version, &mut out),
            _ => {}
        }
        out
    }

    /// Reason Code and properties, left out as far as version 5 lets one leave them out.
    fn put_code(&self, version: Version, out: &mut Vec<u8>) {
        let properties = self.fields.iter().any(|(field, _)| is_property(field));
        if version == Version::V5 && (self.get("code").is_some() || properties) {
            out.push(self.number_of("code") as u8);
            if properties {
                self.put_properties(version, "", out);
            }
        }
    }

    fn connect_body(&self, version: Version, out: &mut Vec<u8>) {
        let name: &[u8] = match self.get("protocol") {
            Some(_) => self.bytes_of("protocol"),
            None if version == Version::V3_1 => b"MQIsdp",
            None => b"MQTT",
        };
        put_data(out, name);
        let level = self.get("level").map_or(version as u64, |_| self.number_of("level"));
        out.push(level as u8);
        let present = |field: &str| u64::from(self.get(field).is_some());
        let mut flags = self.number_of("clean") << 1
            | present("will-topic") << 2
            | self.number_of("will-qos") << 3
            | self.number_of("will-retain") << 5
            | present("password") << 6
            | present("user") << 7;
        if self.get("connect-flags").is_some() {
            flags = self.number_of("connect-flags");
        }
        out.push(flags as u8);
        put_u16(out, self.number_of("keepalive"));
        self.put_properties(version, "", out);
        put_data(out, self.bytes_of("id"));
        if self.get("will-topic").is_some() {
            self.put_properties(version, "will-", out);
            put_data(out, self.bytes_of("will-topic"));
            put_data(out, self.bytes_of("will"));
        }
        for field in ["user", "password"] {
            if self.get(field).is_some() {
                put_data(out, self.bytes_of(field));
            }
        }
    }

    fn put_properties(&self, version: Version, prefix: &str, out: &mut Vec<u8>) {
        if version != Version::V5 {
            return;
        }
        let mut section = Vec::new();
        for (field, value) in &self.fields {
            let Some(field) = field.strip_prefix(prefix) else { continue };
            let Some((id, _, kind)) = PROPERTIES.iter().find(|(_, name, _)| *name == field) else {
                continue;
            };
            section.push(*id);
            match (kind, value) {
                (Kind::Byte, Value::Number(number)) => section.push(*number as u8),
                (Kind::Two, Value::Number(number)) => put_u16(&mut section, *number),
                (Kind::Four, Value::Number(number)) => {
                    section.extend((*number as u32).to_be_bytes());
                }
                (Kind::VarInt, Value::Number(number)) => put_varint(&mut section, *number),
                (Kind::Pair, Value::Bytes(bytes)) => {
                    let colon = bytes.iter().position(|byte| *byte == b':').unwrap_or(bytes.len());
                    put_data(&mut section, &bytes[..colon]);
                    put_data(&mut section, bytes.get(colon + 1..).unwrap_or(&[]));
                }
                (_, Value::Bytes(bytes)) => put_data(&mut section, bytes),
                (_, Value::Number(_)) => panic!("{field} wants text"),
            }
        }
        put_varint(out, section.len() as u64);
        out.extend(section);
    }

    /// The first packet of `bytes` and its length; `None` while it is not all there.
    ///
    /// # Errors
    /// Says what in the packet is against the specification.
    pub(crate) fn decode(bytes: &[u8], version: Version) -> Result<Option<(Self, usize)>, String> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let mut header = Reader { bytes: &bytes[1..] };
        let Some(length) = header.length()? else { return Ok(None) };
        let start = bytes.len() - header.bytes.len();
        let Some(body) = bytes.get(start..start + length) else { return Ok(None) };
        let mut packet = Self::new(NAMES[usize::from(first >> 4)]);
        let flags = first & 15;
        match packet.name {
            "publish" => {
                for (field, value) in
                    [("dup", flags >> 3), ("qos", flags >> 1 & 3), ("retain", flags & 1)]
                {
                    packet = packet.number(field, value);
                }
            }
            "pubrel" if flags == 2 => {}
            _ if flags == 0 && packet.name != "pubrel" => {}
            name => return Err(format!("{name} with fixed header flags {flags:04b}")),
        }
        packet.read_body(&mut Reader { bytes: body }, version)?;
        Ok(Some((packet, start + length)))
    }

    fn read_body(&mut self, body: &mut Reader<'_>, version: Version) -> Result<(), String> {
        let v5 = version == Version::V5;
        match self.name {
            "connack" => {
                self.push("session", body.uint(1)?);
                self.push("code", body.uint(1)?);
                self.read_properties(body, version)?;
            }
            "publish" => {
                let topic = body.data()?;
                self.fields.push(("topic".into(), Value::Bytes(topic)));
                if self.number_of("qos") > 0 {
                    self.push("id", body.uint(2)?);
                }
                self.read_properties(body, version)?;
                let payload = std::mem::take(&mut body.bytes).to_vec();
                self.fields.push(("payload".into(), Value::Bytes(payload)));
            }
            "puback" | "pubrec" | "pubrel" | "pubcomp" => {
                self.push("id", body.uint(2)?);
                self.read_code(body, version)?;
            }
            "suback" | "unsuback" => {
                self.push("id", body.uint(2)?);
                self.read_properties(body, version)?;
                if self.name == "suback" || v5 {
                    let codes = std::mem::take(&mut body.bytes).to_vec();
                    self.fields.push(("codes".into(), Value::Bytes(codes)));
                }
            }
            "pingresp" => {}
            "disconnect" | "auth" if v5 => self.read_code(body, version)?,
            name => return Err(format!("a server sends no {name}")),
        }
        if body.bytes.is_empty() {
            Ok(())
        } else {
            Err(format!("{} bytes too many in {}", body.bytes.len(), self.name))
        }
    }

    fn push(&mut self, field: &str, number: u64) {
        self.fields.push((field.to_owned(), Value::Number(number)));
    }

    fn read_code(&mut self, body: &mut Reader<'_>, version: Version) -> Result<(), String> {
        let short = body.bytes.is_empty();
        self.push("code", if short { 0 } else { body.uint(1)? });
        if body.bytes.is_empty() { Ok(()) } else { self.read_properties(body, version) }
    }

    fn read_properties(&mut self, body: &mut Reader<'_>, version: Version) -> Result<(), String> {
        if version != Version::V5 {
            return Ok(());
        }
        let length = body.length()?.ok_or("cut short in a property length")?;
        let mut section = Reader { bytes: body.take(length)? };
        while !section.bytes.is_empty() {
            let id = section.uint(1)? as u8;
            let Some((_, name, kind)) = PROPERTIES.iter().find(|(known, ..)| *known == id) else {
                return Err(format!("unknown property 0x{id:02x}"));
            };
            let value = match kind {
                Kind::Byte => Value::Number(section.uint(1)?),
                Kind::Two => Value::Number(section.uint(2)?),
                Kind::Four => Value::Number(section.uint(4)?),
                Kind::VarInt => {
                    Value::Number(section.length()?.ok_or("cut short in a number")? as u64)
                }
                Kind::Data => Value::Bytes(section.data()?),
                Kind::Pair => {
                    let mut pair = section.data()?;
                    pair.push(b':');
                    pair.extend(section.data()?);
                    Value::Bytes(pair)
                }
            };
            let again = self.get(name).is_some();
            if again && !matches!(*name, "user-property" | "subscription-id") {
                return Err(format!("{name} twice"));
            }
            self.fields.push(((*name).to_owned(), value));
        }
        Ok(())
    }
}

/// As a script writes it, for failure messages.
impl std::fmt::Display for Packet {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name)?;
        for (field, value) in &self.fields {
            match value {
                Value::Number(number) => write!(out, " {field}={number}")?,
                Value::Bytes(bytes) if field == "codes" => write!(out, " {field}={bytes:?}")?,
                Value::Bytes(bytes) if bytes.len() > 60 => {
                    write!(out, " {field}=({} bytes)", bytes.len())?;
                }
                Value::Bytes(bytes) => write!(out, " {field}={}", bytes.escape_ascii())?,
            }
        }
        Ok(())
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        if length > self.bytes.len() {
            return Err(format!("{length} bytes wanted, {} left", self.bytes.len()));
        }
        let (taken, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        Ok(taken)
    }

    fn uint(&mut self, size: usize) -> Result<u64, String> {
        Ok(self.take(size)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn data(&mut self) -> Result<Vec<u8>, String> {
        let length = self.uint(2)? as usize;
        Ok(self.take(length)?.to_vec())
    }

    /// A Variable Byte Integer; `None` if it is not all there.
    fn length(&mut self) -> Result<Option<usize>, String> {
        let mut number = 0;
        for index in 0..4 {
            let Some(byte) = self.bytes.get(index) else { return Ok(None) };
            number |= usize::from(byte & 127) << (7 * index);
            if byte & 128 == 0 {
                if *byte == 0 && index > 0 {
                    return Err("a length in more bytes than it needs".into());
                }
                self.bytes = &self.bytes[index + 1..];
                return Ok(Some(number));
            }
        }
        Err("a length of five bytes".into())
    }
}

fn put_u16(out: &mut Vec<u8>, number: u64) {
    out.extend((number as u16).to_be_bytes());
}

fn put_data(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u16(out, bytes.len() as u64);
    out.extend(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    loop {
        let byte = (number & 127) as u8;
        number >>= 7;
        if number == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 128);
    }
}
