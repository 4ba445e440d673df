//! Plays one case against one broker: sends, expects, and says where the two differ.

use std::collections::{BTreeSet, HashMap, VecDeque};

use super::matching::{codes_of, matches, number_in};
use super::script::{Action, Case, Expected, Pattern, Step, Text};
use crate::harness::wire::{Packet, Value, Version, is_number};
use crate::harness::{Broker, ConnectionIndex, Received};

/// Topics of the messages that the runner sends itself, to know that what was sent before them
/// has been dealt with. No script uses them.
const FENCE: &str = "fence/";

/// One play of a case.
pub(crate) struct Runner<'a> {
    broker: &'a mut dyn Broker,
    version: Version,
    clients: HashMap<String, Client>,
    bound: HashMap<String, Packet>,
    fences: u32,
    /// What the case leaves in the broker.
    client_ids: BTreeSet<Vec<u8>>,
    spoken: HashMap<String, Version>,
    topics: BTreeSet<Vec<u8>>,
    /// Whether the broker retains messages at all, as it says in CONNACK.
    retains: bool,
    transcript: Vec<String>,
}

struct Client {
    connection: ConnectionIndex,
    version: Version,
    /// The Client Identifier of its CONNECT.
    id: Vec<u8>,
    bytes: Vec<u8>,
    /// Read while something else was waited for.
    early: VecDeque<Packet>,
    acknowledged: bool,
    closed: bool,
    /// It sent a DISCONNECT: nothing is due to it any more.
    parted: bool,
    next_packet_id: u16,
    /// Topic Aliases the server has set.
    aliases: HashMap<u64, Vec<u8>>,
}

enum Incoming {
    Packet(Packet),
    Closed,
    Nothing,
}

impl Incoming {
    fn describe(&self) -> String {
        match self {
            Self::Packet(packet) => packet.to_string(),
            Self::Closed => "the connection's end".into(),
            Self::Nothing => "nothing".into(),
        }
    }
}

impl<'a> Runner<'a> {
    pub(crate) fn new(broker: &'a mut dyn Broker, version: Version) -> Self {
        Self {
            broker,
            version,
            clients: HashMap::new(),
            bound: HashMap::new(),
            fences: 0,
            client_ids: BTreeSet::new(),
            spoken: HashMap::new(),
            topics: BTreeSet::new(),
            retains: true,
            transcript: Vec::new(),
        }
    }

    /// Plays the case, then empties the broker of what the case left in it.
    ///
    /// # Errors
    /// The step that failed, what was expected, what came, all packets until then, and the
    /// broker's log.
    pub(crate) fn play(&mut self, case: &Case) -> Result<(), String> {
        for step in &case.steps {
            self.step(step).map_err(|what| self.report(case, step.line, &what))?;
        }
        self.clean_up().map_err(|what| self.report(case, case.line, &what))
    }

    fn report(&self, case: &Case, line: usize, what: &str) -> String {
        let log = self.broker.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(20)..];
        format!(
            "{}.mqtt:{line}: {what}\n  case: {}\n{}\n  the broker's log ends:\n    {}",
            case.file,
            case.name,
            self.transcript.join("\n"),
            tail.join("\n    ")
        )
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        if !step.versions.is_empty() && !step.versions.contains(&self.version) {
            return Ok(());
        }
        match &step.action {
            Action::Send { client, packet } => self.send_pattern(client, packet),
            Action::Expect { client, expected } => match expected {
                Expected::Packet(pattern) => self.expect(client, pattern).map(drop),
                Expected::Closed => self.expect_closed(client),
                Expected::Refused(pattern) => self.expect_refused(client, pattern),
                Expected::Nothing => self.expect_nothing(client),
                Expected::OnlyPingResp => self.ping(client),
            },
            Action::AnyOrder(patterns) => self.expect_any_order(patterns),
            Action::Exchange { client, verb, fields } => self.exchange(client, verb, fields),
            Action::OneOf { clients, fields } => self.one_receives(clients, fields),
            Action::Speaks { client, version } => {
                self.spoken.insert(client.clone(), *version);
                Ok(())
            }
            Action::Advance(time) => {
                self.broker.advance(*time);
                Ok(())
            }
        }
    }

    fn exchange(&mut self, client: &str, verb: &str, fields: &Pattern) -> Result<(), String> {
        match verb {
            "opens" => self.open(client),
            "connects" => self.connect(client, fields),
            "disconnects" => {
                self.send_pattern(client, &named("disconnect", fields))?;
                self.expect_closed(client)
            }
            "cut" => {
                let client = self.client(client)?;
                client.closed = true;
                let connection = client.connection;
                self.broker.cut(connection);
                Ok(())
            }
            "subscribes" => self.subscribe(client, fields),
            "unsubscribes" => {
                let id = self.send_numbered(client, named("unsubscribe", fields))?;
                self.wait_for(client, "unsuback", id).map(drop)
            }
            "publishes" => self.publish(client, fields),
            "receives" => self.receive(client, fields),
            _ => self.ping(client),
        }
    }

    fn open(&mut self, name: &str) -> Result<(), String> {
        let client = Client {
            connection: self.broker.open()?,
            version: self.spoken.get(name).copied().unwrap_or(self.version),
            id: Vec::new(),
            bytes: Vec::new(),
            early: VecDeque::new(),
            acknowledged: false,
            closed: false,
            parted: false,
            next_packet_id: 1000,
            aliases: HashMap::new(),
        };
        self.clients.insert(name.to_owned(), client);
        Ok(())
    }

    /// `a connects`: CONNECT on a new connection, and its CONNACK. The client's name is its
    /// identifier; `persistent` asks for a session that outlives the connection.
    fn connect(&mut self, name: &str, fields: &Pattern) -> Result<(), String> {
        self.open(name)?;
        let mut connect = named("connect", fields);
        let mut connack = named("connack", fields);
        connack.fields.retain(|(field, _)| matches!(field.as_str(), "session" | "code"));
        connect.bind = None;
        connect.fields.retain(|(field, _)| field != "session");
        let has = |field: &str| fields.fields.iter().any(|(known, _)| known == field);
        let mut add = |field: &str, text: &str| {
            if !has(field) {
                connect.fields.push((field.to_owned(), Text(text.into())));
            }
        };
        add("id", name);
        add("clean", if has("persistent") { "0" } else { "1" });
        if has("persistent") {
            add("session-expiry", "1000");
        }
        connect.fields.retain(|(field, _)| field != "persistent");
        self.send_pattern(name, &connect)?;
        self.expect(name, &connack).map(drop)
    }

    fn subscribe(&mut self, name: &str, fields: &Pattern) -> Result<(), String> {
        let mut subscribe = named("subscribe", fields);
        subscribe.fields.retain(|(field, _)| field != "codes");
        let mut wanted: Vec<u8> = fields
            .fields
            .iter()
            .filter(|(field, _)| field == "options")
            .filter_map(|(_, text)| Some((text.number()? & 3) as u8))
            .collect();
        if let Some((_, codes)) = fields.fields.iter().find(|(field, _)| field == "codes") {
            wanted = codes_of(codes);
        }
        let id = self.send_numbered(name, subscribe)?;
        let suback = self.wait_for(name, "suback", id)?;
        if suback.bytes_of("codes") == wanted {
            Ok(())
        } else {
            Err(format!("codes {wanted:?} wanted, {suback} came"))
        }
    }

    /// `a publishes q2 …`: the PUBLISH and its whole handshake.
    fn publish(&mut self, name: &str, fields: &Pattern) -> Result<(), String> {
        let publish = named("publish", fields);
        let qos = number_in(&publish, "qos");
        if qos == 0 {
            return self.send_pattern(name, &publish);
        }
        let id = self.send_numbered(name, publish)?;
        if qos == 1 {
            return self.wait_for(name, "puback", id).map(drop);
        }
        self.wait_for(name, "pubrec", id)?;
        self.send(name, &Packet::new("pubrel").number("id", id))?;
        self.wait_for(name, "pubcomp", id).map(drop)
    }

    /// `a receives q2 …`: the PUBLISH, and its whole handshake.
    fn receive(&mut self, name: &str, fields: &Pattern) -> Result<(), String> {
        let publish = self.expect(name, &named("publish", fields))?;
        let id = publish.number_of("id");
        match publish.number_of("qos") {
            0 => Ok(()),
            1 => self.send(name, &Packet::new("puback").number("id", id)),
            _ => {
                self.send(name, &Packet::new("pubrec").number("id", id))?;
                self.wait_for(name, "pubrel", id)?;
                self.send(name, &Packet::new("pubcomp").number("id", id))
            }
        }
    }

    fn ping(&mut self, name: &str) -> Result<(), String> {
        self.send(name, &Packet::new("pingreq"))?;
        match self.read(name)? {
            Incoming::Packet(packet) if packet.name == "pingresp" => Ok(()),
            other => Err(format!("{name}: pingresp wanted, {} came", other.describe())),
        }
    }

    /// Nothing comes, also not late.
    fn expect_nothing(&mut self, name: &str) -> Result<(), String> {
        if !self.client(name)?.acknowledged {
            return match self.read(name)? {
                Incoming::Nothing => Ok(()),
                other => Err(format!("{name}: nothing wanted, {} came", other.describe())),
            };
        }
        match self.settle(name)?.first() {
            None => Ok(()),
            Some(packet) => Err(format!("{name}: nothing wanted, {packet} came")),
        }
    }

    /// Exactly one of several clients receives the message.
    fn one_receives(&mut self, clients: &[String], fields: &Pattern) -> Result<(), String> {
        let mut receivers = Vec::new();
        for name in clients {
            let came = self.settle(name)?;
            if !came.is_empty() {
                receivers.push(name.clone());
            }
            self.client(name)?.early.extend(came);
        }
        match receivers.as_slice() {
            [one] => self.receive(one, fields),
            _ => Err(format!("one of {clients:?} was to receive, and these did: {receivers:?}")),
        }
    }

    /// Reads all that comes until everything that others sent before has been dealt with: every
    /// other client sends a message to this one, and messages of one client keep their order.
    fn settle(&mut self, name: &str) -> Result<Vec<Packet>, String> {
        let others: Vec<String> = self
            .clients
            .iter()
            .filter(|(other, client)| *other != name && client.acknowledged && !client.closed)
            .map(|(other, _)| other.clone())
            .collect();
        let mut came = Vec::new();
        if !others.is_empty() {
            self.fences += 1;
            let topic = format!("{FENCE}{}", self.fences).into_bytes();
            let subscribe = Packet::new("subscribe").number("id", 65_001_u16);
            let subscribe = subscribe.bytes("filter", topic.clone()).number("options", 0_u8);
            self.send(name, &subscribe)?;
            self.read_until(name, &mut came, |packet| packet.name == "suback")?;
            for other in others {
                self.send(&other, &Packet::new("publish").bytes("topic", topic.clone()))?;
                self.read_until(name, &mut came, |packet| packet.bytes_of("topic") == topic)?;
            }
            let unsubscribe = Packet::new("unsubscribe").number("id", 65_002_u16);
            self.send(name, &unsubscribe.bytes("filter", topic))?;
            self.read_until(name, &mut came, |packet| packet.name == "unsuback")?;
        }
        self.send(name, &Packet::new("pingreq"))?;
        self.read_until(name, &mut came, |packet| packet.name == "pingresp")?;
        Ok(came)
    }

    fn read_until(
        &mut self,
        name: &str,
        came: &mut Vec<Packet>,
        is_it: impl Fn(&Packet) -> bool,
    ) -> Result<(), String> {
        loop {
            match self.read_any(name)? {
                Incoming::Packet(packet) if is_it(&packet) => return Ok(()),
                Incoming::Packet(packet)
                    if packet.bytes_of("topic").starts_with(FENCE.as_bytes()) => {}
                Incoming::Packet(packet) => came.push(packet),
                other => {
                    return Err(format!("{name}: an answer wanted, {} came", other.describe()));
                }
            }
        }
    }

    fn expect(&mut self, name: &str, pattern: &Pattern) -> Result<Packet, String> {
        let packet = match self.read(name)? {
            Incoming::Packet(packet) => packet,
            other => {
                return Err(format!("{name}: {} wanted, {} came", pattern.name, other.describe()));
            }
        };
        let id = self.referred_id(pattern)?;
        matches(pattern, &packet, id)
            .map_err(|what| format!("{name}: {what} wanted, {packet} came"))?;
        if let Some(bind) = &pattern.bind {
            self.bound.insert(bind.clone(), packet.clone());
        }
        Ok(packet)
    }

    fn expect_any_order(&mut self, patterns: &[(String, Pattern)]) -> Result<(), String> {
        let mut left: Vec<&(String, Pattern)> = patterns.iter().collect();
        while let Some((name, _)) = left.first() {
            let Incoming::Packet(packet) = self.read(name)? else {
                return Err(format!("{name}: {} more wanted, nothing came", left.len()));
            };
            let mut found = None;
            for (index, (client, pattern)) in left.iter().enumerate() {
                let id = self.referred_id(pattern)?;
                if client == name && matches(pattern, &packet, id).is_ok() {
                    found = Some(index);
                    break;
                }
            }
            let index = found.ok_or_else(|| format!("{name}: {packet} came and is not wanted"))?;
            if let Some(bind) = &left.remove(index).1.bind {
                self.bound.insert(bind.clone(), packet);
            }
        }
        Ok(())
    }

    fn expect_closed(&mut self, name: &str) -> Result<(), String> {
        if !self.client(name)?.acknowledged {
            return self.expect_refused_connect(name);
        }
        let client = self.client(name)?;
        let may_be_told = client.version == Version::V5 && !client.parted;
        loop {
            match self.read(name)? {
                Incoming::Closed => return Ok(()),
                Incoming::Packet(packet)
                    if may_be_told
                        && matches!(packet.name, "disconnect" | "connack")
                        && packet.number_of("code") >= 0x80 => {}
                other => return Err(format!("{name}: its end wanted, {} came", other.describe())),
            }
        }
    }

    /// Closed before it was let in. Where the version is in doubt, so is the form of a CONNACK;
    /// that it says no is certain.
    fn expect_refused_connect(&mut self, name: &str) -> Result<(), String> {
        loop {
            let client = self.client(name)?;
            let bytes = &client.bytes;
            let answer = client.version == Version::V5 && bytes.first() == Some(&0x20);
            if !bytes.is_empty() && (!answer || bytes.get(3) == Some(&0)) {
                return Err(format!("{name}: its end wanted, {bytes:02x?} came"));
            }
            let connection = client.connection;
            match self.broker.receive(connection) {
                Received::Bytes(bytes) => self.client(name)?.bytes.extend(bytes),
                Received::Nothing => return Err(format!("{name}: its end wanted, nothing came")),
                Received::Closed => {
                    self.client(name)?.closed = true;
                    return Ok(());
                }
            }
        }
    }

    fn expect_refused(&mut self, name: &str, pattern: &Pattern) -> Result<(), String> {
        if self.client(name)?.version == Version::V5 {
            let acknowledged = self.client(name)?.acknowledged;
            let kind = if acknowledged { "disconnect" } else { "connack" };
            self.expect(name, &named(kind, pattern))?;
        }
        match self.read(name)? {
            Incoming::Closed => Ok(()),
            other => Err(format!("{name}: its end wanted, {} came", other.describe())),
        }
    }

    /// Waits for the answer with this identifier; what comes before it is kept for later.
    fn wait_for(&mut self, name: &str, kind: &str, id: u64) -> Result<Packet, String> {
        let mut early = VecDeque::new();
        let answer = loop {
            match self.read(name)? {
                Incoming::Packet(packet) if packet.name == kind && packet.number_of("id") == id => {
                    break packet;
                }
                Incoming::Packet(packet) if packet.name == "publish" => early.push_back(packet),
                other => {
                    return Err(format!("{name}: {kind} {id} wanted, {} came", other.describe()));
                }
            }
        };
        early.append(&mut self.client(name)?.early);
        self.client(name)?.early = early;
        Ok(answer)
    }

    fn send_numbered(&mut self, name: &str, mut pattern: Pattern) -> Result<u64, String> {
        if !pattern.fields.iter().any(|(field, _)| field == "id") {
            let client = self.client(name)?;
            client.next_packet_id += 1;
            let id = client.next_packet_id.to_string().into_bytes();
            pattern.fields.push(("id".into(), Text(id)));
        }
        self.send_pattern(name, &pattern)?;
        Ok(number_in(&pattern, "id"))
    }

    fn send_pattern(&mut self, name: &str, pattern: &Pattern) -> Result<(), String> {
        let packet = self.packet(pattern)?;
        let absent = self.clients.get(name).is_none_or(|client| client.closed);
        if absent && matches!(packet.name, "connect" | "raw") {
            self.open(name)?;
        }
        if let Some(bind) = &pattern.bind {
            self.bound.insert(bind.clone(), packet.clone());
        }
        self.remember(name, &packet)?;
        self.send(name, &packet)
    }

    /// Notes what this packet can leave behind in the broker.
    fn remember(&mut self, name: &str, packet: &Packet) -> Result<(), String> {
        match packet.name {
            "connect" => {
                self.client(name)?.id = packet.bytes_of("id").to_vec();
                if packet.number_of("will-retain") == 1 {
                    self.topics.insert(packet.bytes_of("will-topic").to_vec());
                }
            }
            "publish" if packet.number_of("retain") == 1 => {
                self.topics.insert(packet.bytes_of("topic").to_vec());
            }
            _ => {}
        }
        Ok(())
    }

    fn send(&mut self, name: &str, packet: &Packet) -> Result<(), String> {
        let client = self.client(name)?;
        client.parted |= packet.name == "disconnect";
        let (connection, bytes) = (client.connection, packet.encode(client.version));
        self.transcript.push(format!("    {name} > {packet}"));
        self.broker.send(connection, &bytes);
        Ok(())
    }

    /// A packet to send, out of a script's words.
    fn packet(&self, pattern: &Pattern) -> Result<Packet, String> {
        let mut packet = Packet::new(pattern.name);
        for (field, text) in &pattern.fields {
            if field == "id-of" {
                let bound = self.bound_packet(text)?;
                packet = packet.bytes("id", bound.bytes_of("assigned-client-id"));
            } else if field == "of" {
                packet = packet.number("id", self.bound_id(text)?);
            } else if pattern.name != "raw" && is_number(pattern.name, field) {
                let number = text.number().ok_or_else(|| format!("{field} wants a number"))?;
                packet = packet.number(field, number);
            } else {
                packet = packet.bytes(field, text.0.clone());
            }
        }
        Ok(packet)
    }

    fn referred_id(&self, pattern: &Pattern) -> Result<Option<u64>, String> {
        let of = pattern.fields.iter().find(|(field, _)| field == "of");
        of.map(|(_, text)| self.bound_id(text)).transpose()
    }

    fn bound_id(&self, name: &Text) -> Result<u64, String> {
        Ok(self.bound_packet(name)?.number_of("id"))
    }

    fn bound_packet(&self, name: &Text) -> Result<&Packet, String> {
        let name = String::from_utf8_lossy(&name.0).into_owned();
        self.bound.get(&name).ok_or_else(|| format!("no packet is called {name}"))
    }

    fn client(&mut self, name: &str) -> Result<&mut Client, String> {
        self.clients.get_mut(name).ok_or_else(|| format!("{name} has no connection"))
    }

    /// The next packet that is none of our fences.
    fn read(&mut self, name: &str) -> Result<Incoming, String> {
        loop {
            match self.read_any(name)? {
                Incoming::Packet(packet)
                    if packet.name == "publish"
                        && packet.bytes_of("topic").starts_with(FENCE.as_bytes()) => {}
                incoming => return Ok(incoming),
            }
        }
    }

    fn read_any(&mut self, name: &str) -> Result<Incoming, String> {
        loop {
            let client = self.client(name)?;
            if let Some(packet) = client.early.pop_front() {
                return Ok(Incoming::Packet(packet));
            }
            if let Some((mut packet, length)) = Packet::decode(&client.bytes, client.version)? {
                client.bytes.drain(..length);
                client.resolve_alias(&mut packet)?;
                self.transcript.push(format!("    {name} < {packet}"));
                self.note_connack(name, &packet)?;
                return Ok(Incoming::Packet(packet));
            }
            let connection = client.connection;
            match self.broker.receive(connection) {
                Received::Bytes(bytes) => self.client(name)?.bytes.extend(bytes),
                Received::Nothing => return Ok(Incoming::Nothing),
                Received::Closed => {
                    let client = self.client(name)?;
                    client.closed = true;
                    if !client.bytes.is_empty() {
                        return Err(format!("{name}: closed within a packet"));
                    }
                    return Ok(Incoming::Closed);
                }
            }
        }
    }

    fn note_connack(&mut self, name: &str, packet: &Packet) -> Result<(), String> {
        if packet.name != "connack" || packet.number_of("code") != 0 {
            return Ok(());
        }
        self.retains &= packet.get("retain-available") != Some(&Value::Number(0));
        let client = self.client(name)?;
        client.acknowledged = true;
        let assigned = packet.bytes_of("assigned-client-id");
        let id = if assigned.is_empty() { client.id.clone() } else { assigned.to_vec() };
        self.client_ids.insert(id);
        Ok(())
    }

    /// Ends the sessions the case began and removes the messages it retained.
    fn clean_up(&mut self) -> Result<(), String> {
        self.version = Version::V3_1_1;
        self.spoken.clear();
        let names: Vec<String> = self.clients.keys().cloned().collect();
        for name in names {
            if !self.client(&name)?.closed {
                let connection = self.client(&name)?.connection;
                self.broker.cut(connection);
            }
        }
        let ids = std::mem::take(&mut self.client_ids);
        let none = Pattern { name: "exchange", fields: Vec::new(), bind: None };
        for id in ids.into_iter().filter(|id| !id.is_empty()) {
            let mut fields = none.clone();
            fields.fields.push(("id".into(), Text(id)));
            self.connect("cleaner", &fields)?;
            self.exchange("cleaner", "disconnects", &none)?;
        }
        let topics = std::mem::take(&mut self.topics);
        if topics.is_empty() || !self.retains {
            return Ok(());
        }
        self.connect("cleaner", &none)?;
        for topic in topics.iter().filter(|topic| is_topic_name(topic)) {
            let publish = Packet::new("publish").bytes("topic", topic.clone());
            self.send("cleaner", &publish.number("retain", 1_u8))?;
        }
        self.ping("cleaner")?;
        self.exchange("cleaner", "disconnects", &none)
    }
}

impl Client {
    /// Puts the topic in for an alias, as a client does.
    fn resolve_alias(&mut self, packet: &mut Packet) -> Result<(), String> {
        let alias = packet.number_of("alias");
        if packet.name != "publish" || alias == 0 {
            return Ok(());
        }
        if !packet.bytes_of("topic").is_empty() {
            self.aliases.insert(alias, packet.bytes_of("topic").to_vec());
            return Ok(());
        }
        let topic = self.aliases.get(&alias).ok_or_else(|| format!("alias {alias} is not set"))?;
        for (field, value) in &mut packet.fields {
            if field == "topic" {
                *value = Value::Bytes(topic.clone());
            }
        }
        // Kept for scripts that ask whether the alias stood for the topic.
        packet.fields.push(("by-alias".into(), Value::Number(1)));
        Ok(())
    }
}

fn is_topic_name(topic: &[u8]) -> bool {
    let lawful = std::str::from_utf8(topic).is_ok_and(|topic| !topic.contains('\0'));
    lawful && !topic.is_empty() && !topic.iter().any(|byte| matches!(byte, b'+' | b'#'))
}

fn named(name: &'static str, fields: &Pattern) -> Pattern {
    Pattern { name, ..fields.clone() }
}
