//! One model client: what MQTT asks of a client, and freedom in everything else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;

use octopus_mqtt::{
    AckKind, Connect, ConnectProperties, Delivery, Disconnect, DisconnectProperties, Packet,
    PacketId, Publish, PublishProperties, QoS, ReasonCode, ReasonProperties, Subscribe,
    SubscribeFilter, SubscribeFilters, SubscribeProperties, SubscriptionOptions, TopicFilter,
    TopicName, Unsubscribe, UnsubscribeFilters, Version, Will, WillProperties, encode_ack,
};

use super::books::{Books, Fate, MessageId, NEVER, Sent, Step, Subscribed, payload_of};
use crate::client::{Client, Received};
use crate::node::Node;

/// A filter an actor subscribes to and from.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) filter: String,
    pub(super) qos: QoS,
    /// Never unsubscribed.
    pub(super) is_fixed: bool,
}

#[derive(Debug)]
pub(super) struct Actor {
    pub(super) index: usize,
    pub(super) client_id: String,
    pub(super) version: Version,
    pub(super) is_persistent: bool,
    pub(super) is_member: bool,
    pub(super) has_will: bool,
    pub(super) alias_max: u16,
    pub(super) receive_max: Option<NonZeroU16>,
    pub(super) topics: Vec<String>,
    pub(super) wishes: Vec<Wish>,
    pub(super) link: Option<Link>,
    /// Sockets this client left behind when it took itself over.
    pub(super) ghosts: Vec<Client>,
    /// The node said it has a session for us.
    has_session: bool,
    pub(super) went_away: bool,
    outgoing: VecDeque<Outgoing>,
    /// QoS 2 identifiers received and not released.
    incoming: BTreeSet<PacketId>,
    last_packet_id: u16,
}

/// One connection as its client sees it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: Client,
    pub(super) is_live: bool,
    pub(super) is_leaving: bool,
    /// Acknowledgements to send.
    pub(super) acks: VecDeque<(AckKind, PacketId)>,
    /// Will of this connection.
    will: Option<MessageId>,
    /// Wills of the connections this one takes over: sent when it is let in.
    taken_over: Vec<MessageId>,
    /// SUBSCRIBE packets without SUBACK: the wish.
    asked: BTreeMap<PacketId, usize>,
    aliases: BTreeMap<u16, String>,
}

#[derive(Clone, Copy, Debug)]
struct Outgoing {
    packet_id: PacketId,
    message: MessageId,
    is_released: bool,
}

impl Link {
    /// Whether a SUBSCRIBE for this wish waits for its SUBACK.
    pub(super) fn is_asking(&self, wish: usize) -> bool {
        self.asked.values().any(|&asked| asked == wish)
    }
}

impl Actor {
    pub(super) fn new(index: usize, client_id: String, version: Version) -> Self {
        Self {
            index,
            client_id,
            version,
            is_persistent: true,
            is_member: false,
            has_will: false,
            alias_max: 0,
            receive_max: None,
            topics: Vec::new(),
            wishes: Vec::new(),
            link: None,
            ghosts: Vec::new(),
            has_session: false,
            went_away: false,
            outgoing: VecDeque::new(),
            incoming: BTreeSet::new(),
            last_packet_id: 0,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.is_live)
    }

    /// Nothing is left to send or to wait for.
    pub(super) fn is_idle(&self) -> bool {
        let is_quiet = |link: &Link| link.is_live && link.acks.is_empty() && link.asked.is_empty();
        self.outgoing.is_empty() && self.link.as_ref().is_some_and(is_quiet)
    }

    pub(super) fn outgoing_count(&self) -> usize {
        self.outgoing.len()
    }

    // --- the connection ---

    /// Opens a connection and sends CONNECT; an older connection is left as it is, to be taken
    /// over.
    pub(super) fn connect(&mut self, node: &mut Node, books: &mut Books, now: Step) {
        let client = Client::open(node, self.version);
        let mut taken_over = Vec::new();
        if let Some(old) = self.link.take() {
            if let Some(will) = old.will {
                books.sent[will].fate = match books.sent[will].fate {
                    Fate::Armed if !old.is_leaving => {
                        taken_over.push(will);
                        Fate::Armed
                    }
                    _ => Fate::Maybe,
                };
            }
            self.ghosts.push(old.client);
            self.end_subscriptions(books, now);
        }
        let will = self.has_will.then(|| self.new_will(books, now));
        self.link = Some(Link {
            client,
            is_live: false,
            is_leaving: false,
            acks: VecDeque::new(),
            will,
            taken_over,
            asked: BTreeMap::new(),
            aliases: BTreeMap::new(),
        });
        let topic = self.will_topic();
        let payload = will.map(|id| payload_of(id, &topic));
        let is_v5 = self.version == Version::V5;
        let connect = Connect {
            version: self.version,
            clean_start: !self.is_persistent,
            keep_alive_s: 0,
            client_id: &self.client_id,
            will: payload.as_ref().map(|payload| Will {
                topic: TopicName::parse(&topic).expect("our own topic"),
                payload,
                qos: QoS::ExactlyOnce,
                retain: false,
                properties: WillProperties::default(),
            }),
            user_name: None,
            password: None,
            properties: ConnectProperties {
                session_expiry_s: (is_v5 && self.is_persistent).then_some(u32::MAX),
                receive_max: self.receive_max.filter(|_| is_v5),
                topic_alias_max: (is_v5 && self.alias_max > 0).then_some(self.alias_max),
                ..ConnectProperties::default()
            },
        };
        let packet = Packet::Connect(Box::new(connect));
        send(node, self.link.as_ref(), self.version, &packet);
    }

    fn will_topic(&self) -> String {
        format!("w/{}", self.client_id)
    }

    fn new_will(&self, books: &mut Books, now: Step) -> MessageId {
        books.send(Sent {
            topic: self.will_topic(),
            qos: QoS::ExactlyOnce,
            retain: false,
            is_deletion: false,
            sent_at: now,
            acked_at: NEVER,
            is_repeated: false,
            fate: Fate::Maybe,
        })
    }

    /// The connection ends on the client's side without a word.
    pub(super) fn cut(&mut self, node: &mut Node, books: &mut Books, now: Step) {
        if let Some(link) = &self.link {
            node.cut(link.client.socket);
        }
        self.part(books, now);
    }

    /// Says goodbye; the connection lasts until the node closes it.
    pub(super) fn disconnect(&mut self, node: &mut Node, books: &mut Books, now: Step) {
        if self.is_live() {
            self.end_subscriptions(books, now);
        }
        let Some(link) = self.link.as_mut().filter(|link| link.is_live) else { return };
        link.is_leaving = true;
        let properties = DisconnectProperties::default();
        let packet = Packet::Disconnect(Disconnect { reason: ReasonCode::Success, properties });
        send(node, Some(link), self.version, &packet);
    }

    /// Notices that the node closed the connection.
    pub(super) fn notice_close(&mut self, node: &Node, books: &mut Books, now: Step) -> bool {
        let Some(link) = &self.link else { return false };
        if !node.is_closed(link.client.socket) {
            return false;
        }
        if let Some(will) = link.will.filter(|_| link.is_leaving)
            && books.sent[will].fate == Fate::Armed
        {
            books.sent[will].fate = Fate::Forbidden;
        }
        self.part(books, now);
        true
    }

    fn part(&mut self, books: &mut Books, now: Step) {
        let Some(link) = self.link.take() else { return };
        self.went_away = true;
        if let Some(will) = link.will
            && books.sent[will].fate == Fate::Armed
        {
            books.sent[will].fate = if link.is_leaving { Fate::Maybe } else { Fate::Owed };
        }
        for will in link.taken_over {
            books.sent[will].fate = Fate::Maybe;
        }
        self.end_subscriptions(books, now);
    }

    /// A session that is not kept ends with its connection.
    fn end_subscriptions(&self, books: &mut Books, now: Step) {
        if self.is_persistent {
            return;
        }
        self.end_where(books, now, |_| true);
        self.forgo_where(books, |_| true);
    }

    fn end_where(&self, books: &mut Books, now: Step, is_meant: impl Fn(&str) -> bool) {
        let own = books.subscriptions.iter_mut().filter(|s| s.client == self.index);
        for subscription in own.filter(|s| s.until == NEVER && is_meant(&s.filter)) {
            subscription.until = now;
        }
    }

    /// What these subscriptions have not brought yet need not come any more.
    fn forgo_where(&self, books: &mut Books, is_meant: impl Fn(&str) -> bool) {
        let own = books.subscriptions.iter_mut().filter(|s| s.client == self.index);
        for subscription in own.filter(|s| is_meant(&s.filter)) {
            subscription.is_gone = true;
        }
    }

    // --- what the client sends ---

    pub(super) fn publish(
        &mut self,
        node: &mut Node,
        books: &mut Books,
        now: Step,
        (topic, qos, retain, is_deletion): (String, QoS, bool, bool),
    ) {
        if !self.is_live() {
            return;
        }
        let fate = if qos == QoS::AtMostOnce { Fate::Maybe } else { Fate::Owed };
        let message = books.send(Sent {
            topic,
            qos,
            retain,
            is_deletion,
            sent_at: now,
            acked_at: NEVER,
            is_repeated: false,
            fate,
        });
        let packet_id = (qos > QoS::AtMostOnce).then(|| self.new_packet_id());
        if let Some(packet_id) = packet_id {
            self.outgoing.push_back(Outgoing { packet_id, message, is_released: false });
        }
        self.write_publish(node, books, message, packet_id, false);
    }

    /// Sends a PUBLISH once more that is not acknowledged.
    pub(super) fn repeat(&mut self, node: &mut Node, books: &mut Books, nth: usize) {
        let unreleased = self.outgoing.iter().filter(|outgoing| !outgoing.is_released);
        let Some(outgoing) = unreleased.cycle().nth(nth).copied() else { return };
        if self.is_live() {
            self.write_publish(node, books, outgoing.message, Some(outgoing.packet_id), true);
        }
    }

    fn write_publish(
        &self,
        node: &mut Node,
        books: &mut Books,
        message: MessageId,
        packet_id: Option<PacketId>,
        dup: bool,
    ) {
        let sent = &mut books.sent[message];
        sent.is_repeated |= dup;
        let payload = if sent.is_deletion { Vec::new() } else { payload_of(message, &sent.topic) };
        let delivery = match (sent.qos, packet_id) {
            (QoS::AtLeastOnce, Some(id)) => Delivery::AtLeastOnce(id),
            (QoS::ExactlyOnce, Some(id)) => Delivery::ExactlyOnce(id),
            _ => Delivery::AtMostOnce,
        };
        let packet = Packet::Publish(Publish {
            dup,
            retain: sent.retain,
            delivery,
            topic: Some(TopicName::parse(&sent.topic).expect("our own topic")),
            properties: PublishProperties::default(),
            payload: &payload,
        });
        send(node, self.link.as_ref(), self.version, &packet);
    }

    pub(super) fn subscribe(&mut self, node: &mut Node, books: &mut Books, now: Step, wish: usize) {
        if !self.is_live() {
            return;
        }
        let packet_id = self.new_packet_id();
        let Wish { filter, qos, .. } = self.wishes[wish].clone();
        // It takes the place of the one before; from here to SUBACK either may be in force.
        self.end_where(books, now, |other| other == filter);
        let Some(link) = self.link.as_mut() else { return };
        link.asked.insert(packet_id, wish);
        let entry = SubscribeFilter {
            filter: TopicFilter::parse(&filter).expect("our own filter"),
            options: SubscriptionOptions { qos, ..SubscriptionOptions::default() },
        };
        let subscription_id = (self.version == Version::V5 && wish % 2 == 1).then_some(wish as u32);
        let packet = Packet::Subscribe(Subscribe {
            packet_id,
            properties: SubscribeProperties { subscription_id, ..SubscribeProperties::default() },
            filters: SubscribeFilters::List(&[entry]),
        });
        send(node, Some(link), self.version, &packet);
    }

    pub(super) fn unsubscribe(
        &mut self,
        node: &mut Node,
        books: &mut Books,
        now: Step,
        wish: usize,
    ) {
        if !self.is_live() || self.wishes[wish].is_fixed {
            return;
        }
        let packet_id = self.new_packet_id();
        let filter = self.wishes[wish].filter.clone();
        self.end_where(books, now, |other| other == filter);
        self.forgo_where(books, |other| other == filter);
        let filters = [TopicFilter::parse(&filter).expect("our own filter")];
        let packet = Packet::Unsubscribe(Unsubscribe {
            packet_id,
            properties: SubscribeProperties::default(),
            filters: UnsubscribeFilters::List(&filters),
        });
        send(node, self.link.as_ref(), self.version, &packet);
    }

    /// Sends one of the acknowledgements that wait, perhaps `times` times.
    pub(super) fn acknowledge(&mut self, node: &mut Node, nth: usize, times: usize) {
        let version = self.version;
        let Some(link) = self.link.as_mut().filter(|link| link.is_live) else { return };
        let Some((kind, packet_id)) = link.acks.remove(nth.min(link.acks.len().max(1) - 1)) else {
            return;
        };
        for _ in 0..times {
            let mut bytes = Vec::new();
            let none = ReasonProperties::default();
            encode_ack(kind, packet_id, ReasonCode::Success, &none, version, &mut bytes);
            node.send(link.client.socket, &bytes);
        }
    }

    fn new_packet_id(&mut self) -> PacketId {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            let id = PacketId::new(self.last_packet_id).expect("not zero");
            if self.outgoing.iter().all(|outgoing| outgoing.packet_id != id) {
                return id;
            }
        }
    }

    // --- what the client receives ---

    /// Looks at everything that came.
    pub(super) fn read(
        &mut self,
        node: &mut Node,
        books: &mut Books,
        now: Step,
        trace: &mut String,
    ) -> Result<(), String> {
        while let Some(received) = self.next(node) {
            trace.push_str(&format!("  {} < {}\n", self.client_id, summary(&received)));
            self.receive(node, books, now, &received)?;
        }
        Ok(())
    }

    fn next(&mut self, node: &mut Node) -> Option<Received> {
        let link = self.link.as_mut()?;
        link.client.read(node);
        link.client.pop()
    }

    fn receive(
        &mut self,
        node: &mut Node,
        books: &mut Books,
        now: Step,
        received: &Received,
    ) -> Result<(), String> {
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        match received.packet() {
            Packet::ConnAck(connack) if connack.reason == ReasonCode::Success => {
                self.let_in(node, books, now, connack.session_present)?;
            }
            Packet::Publish(publish) => self.receive_publish(books, &publish)?,
            Packet::PubAck(ack) => self.finish(books, now, ack.packet_id, QoS::AtLeastOnce),
            Packet::PubRec(ack) => {
                let same = |outgoing: &&mut Outgoing| outgoing.packet_id == ack.packet_id;
                if let Some(outgoing) = self.outgoing.iter_mut().find(same) {
                    outgoing.is_released = true;
                }
                link.acks.push_back((AckKind::PubRel, ack.packet_id));
            }
            Packet::PubComp(ack) => self.finish(books, now, ack.packet_id, QoS::ExactlyOnce),
            Packet::PubRel(ack) => {
                self.incoming.remove(&ack.packet_id);
                link.acks.push_back((AckKind::PubComp, ack.packet_id));
            }
            Packet::SubAck(suback) => {
                let wish = link.asked.remove(&suback.packet_id).ok_or("a SUBACK for nothing")?;
                let Wish { filter, qos, .. } = self.wishes[wish].clone();
                if suback.reasons != [qos as u8] {
                    return Err(format!("SUBACK {:?} for {filter}", suback.reasons));
                }
                let client = self.index;
                let subscribed =
                    Subscribed { client, filter, qos, from: now, until: NEVER, is_gone: false };
                books.subscriptions.push(subscribed);
            }
            Packet::UnsubAck(_) | Packet::PingResp | Packet::Disconnect(_) => {}
            other => return Err(format!("{} got {other:?}", self.client_id)),
        }
        Ok(())
    }

    fn let_in(
        &mut self,
        node: &mut Node,
        books: &mut Books,
        now: Step,
        present: bool,
    ) -> Result<(), String> {
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        link.is_live = true;
        // Version 3.1 cannot say so: its clients know by themselves.
        let present = if self.version == Version::V3_1 { self.has_session } else { present };
        if present && !self.is_persistent || !present && self.has_session {
            return Err(format!("{}: session present is {present}", self.client_id));
        }
        if let Some(will) = link.will {
            books.sent[will].fate = Fate::Armed;
        }
        for will in std::mem::take(&mut link.taken_over) {
            books.sent[will].fate = Fate::Owed;
        }
        self.has_session = self.is_persistent;
        if present {
            self.resume(node, books);
        } else {
            self.begin_anew(node, books, now);
        }
        Ok(())
    }

    /// Sends again what is not acknowledged, in order [MQTT-4.4.0-1].
    fn resume(&mut self, node: &mut Node, books: &mut Books) {
        for outgoing in self.outgoing.clone() {
            if outgoing.is_released {
                let Some(link) = self.link.as_mut() else { return };
                let (none, mut bytes) = (ReasonProperties::default(), Vec::new());
                let (id, success) = (outgoing.packet_id, ReasonCode::Success);
                encode_ack(AckKind::PubRel, id, success, &none, self.version, &mut bytes);
                node.send(link.client.socket, &bytes);
            } else {
                let id = Some(outgoing.packet_id);
                self.write_publish(node, books, outgoing.message, id, true);
            }
        }
    }

    /// The node knows nothing of us: QoS 1 goes out anew; of QoS 2 nobody can tell.
    fn begin_anew(&mut self, node: &mut Node, books: &mut Books, now: Step) {
        self.incoming.clear();
        books.forget_newest(self.index);
        for outgoing in std::mem::take(&mut self.outgoing) {
            let sent = &mut books.sent[outgoing.message];
            if outgoing.is_released {
                sent.acked_at = now;
            } else if sent.qos == QoS::ExactlyOnce {
                sent.fate = Fate::Maybe;
            } else {
                sent.is_repeated = true;
                let packet_id = self.new_packet_id();
                self.outgoing.push_back(Outgoing { packet_id, ..outgoing });
                self.write_publish(node, books, outgoing.message, Some(packet_id), false);
            }
        }
    }

    fn finish(&mut self, books: &mut Books, now: Step, id: PacketId, qos: QoS) {
        let same = |outgoing: &Outgoing| {
            outgoing.packet_id == id && books.sent[outgoing.message].qos == qos
        };
        if let Some(index) = self.outgoing.iter().position(same)
            && let Some(outgoing) = self.outgoing.remove(index)
        {
            books.sent[outgoing.message].acked_at = now;
        }
    }

    fn receive_publish(&mut self, books: &mut Books, publish: &Publish<'_>) -> Result<(), String> {
        let Some(link) = self.link.as_mut() else { return Ok(()) };
        let alias = publish.properties.topic_alias.map(NonZeroU16::get);
        let topic = match (publish.topic, alias) {
            (Some(topic), Some(alias)) => {
                if alias > self.alias_max {
                    return Err(format!("alias {alias} is above {}", self.alias_max));
                }
                link.aliases.insert(alias, topic.as_str().to_owned());
                topic.as_str().to_owned()
            }
            (Some(topic), None) => topic.as_str().to_owned(),
            (None, alias) => {
                let known = alias.and_then(|alias| link.aliases.get(&alias));
                known.ok_or("an unknown Topic Alias")?.clone()
            }
        };
        match publish.delivery {
            Delivery::AtMostOnce => {}
            Delivery::AtLeastOnce(id) => link.acks.push_back((AckKind::PubAck, id)),
            Delivery::ExactlyOnce(id) => {
                link.acks.push_back((AckKind::PubRec, id));
                if !self.incoming.insert(id) {
                    return if publish.dup { Ok(()) } else { Err(format!("{id:?} used twice")) };
                }
            }
        }
        if publish.payload.is_empty() {
            return Ok(());
        }
        let flags = (publish.retain, self.is_member);
        books.receive(self.index, &topic, publish.payload, publish.delivery.qos(), flags)
    }

    /// PUBLISH packets without an answer.
    pub(super) fn unreleased(&self) -> usize {
        self.outgoing.iter().filter(|outgoing| !outgoing.is_released).count()
    }
}

fn send(node: &mut Node, link: Option<&Link>, version: Version, packet: &Packet<'_>) {
    let Some(link) = link else { return };
    let mut bytes = Vec::new();
    packet.encode(version, &mut bytes);
    node.send(link.client.socket, &bytes);
}

/// One line about a packet.
fn summary(received: &Received) -> String {
    match received.packet() {
        Packet::Publish(p) => format!(
            "PUBLISH {:?} dup={} retain={} {:?}",
            p.delivery,
            p.dup,
            p.retain,
            String::from_utf8_lossy(&p.payload[..p.payload.len().min(24)])
        ),
        packet => format!("{packet:?} {}", received.bytes.len()),
    }
}
