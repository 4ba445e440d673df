//! A client in version 5 that goes on by itself: publishes at its pace, acknowledges what it
//! gets, resends what was not acknowledged, goes to another node when its own does not answer,
//! and notes all it sees. A thread of its own turns it.

use std::{
    cell::Cell,
    collections::{HashSet, VecDeque},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    link::Link,
    record::{History, Sent, TEAM, What},
};
use crate::harness::wire::Packet;

/// Between two turns of a client that has nothing to do.
const TURN: Duration = Duration::from_millis(2);
/// Between two messages of a publisher.
const PACE: Duration = Duration::from_millis(8);
/// Messages of a publisher under way.
const WINDOW: usize = 40;
/// A node that has not answered for this long is given up.
const NODE_PATIENCE: Duration = Duration::from_millis(1500);
/// Something is still to be done.
const UNSETTLED: u64 = u64::MAX;
/// Sessions outlive every run.
const EXPIRY_S: u32 = 600;

/// A node as clients reach it.
pub(super) type Door = (String, SocketAddr);

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// To two topics, QoS 0, 1 and 2 in turn.
    Publisher,
    /// Sets the same few retained messages as others of its kind.
    Retainer,
    Subscriber,
    /// To a shared group's topics, QoS 1 and 2 in turn.
    Employer,
    /// Of the shared group.
    Member,
}

impl Role {
    fn subscribes(self) -> bool {
        matches!(self, Self::Subscriber | Self::Member)
    }
}

enum Command {
    /// Publishes nothing new.
    Rest,
    /// The end of that.
    Resume,
    Leave,
    Return(usize),
}

pub(super) struct Actor {
    commands: Sender<Command>,
    /// Commands given.
    told: Cell<u64>,
    settled: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Actor {
    /// - `at`: the door it tries first.
    pub(super) fn start(
        id: &str,
        role: Role,
        doors: &[Door],
        at: usize,
        history: &History,
    ) -> Self {
        let (commands, orders) = channel();
        let settled = Arc::new(AtomicU64::new(UNSETTLED));
        let body = Body {
            id: id.to_owned(),
            role,
            doors: doors.to_vec(),
            at,
            history: history.clone(),
            settled: settled.clone(),
            obeyed: 0,
            is_away: false,
            is_resting: role.subscribes(),
            has_subscribed: false,
            links: Vec::new(),
            connections: 0,
            opened: 0,
            next_at: Instant::now(),
            number: 0,
            last_id: 0,
            unacknowledged: VecDeque::new(),
            incoming: HashSet::new(),
        };
        let thread = Some(thread::spawn(move || body.run(&orders)));
        Self { commands, told: Cell::new(0), settled, thread }
    }

    pub(super) fn rest(&self) {
        self.tell(Command::Rest);
    }

    pub(super) fn resume(&self) {
        self.tell(Command::Resume);
    }

    pub(super) fn leave(&self) {
        self.tell(Command::Leave);
    }

    pub(super) fn come_back(&self, door: usize) {
        self.tell(Command::Return(door));
    }

    /// It is where it was told to be, and nothing of it waits for an acknowledgement.
    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::SeqCst) == self.told.get()
    }

    fn tell(&self, command: Command) {
        self.told.set(self.told.get() + 1);
        // A client that has panicked is found out by what is missing in the history.
        let _ = self.commands.send(command);
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        drop(std::mem::replace(&mut self.commands, channel().0));
        if let Some(thread) = self.thread.take() {
            // It panics only with a message of its own, already printed.
            let _ = thread.join();
        }
    }
}

/// A message that waits for its acknowledgement.
struct Waiting {
    id: u64,
    message: Sent,
    /// PUBREC was here.
    is_released: bool,
}

struct Body {
    id: String,
    role: Role,
    doors: Vec<Door>,
    at: usize,
    history: History,
    /// How many commands were obeyed when all was done, or [`UNSETTLED`].
    settled: Arc<AtomicU64>,
    obeyed: u64,
    is_away: bool,
    is_resting: bool,
    has_subscribed: bool,
    /// The last one is the one in use; the others were not closed yet.
    links: Vec<Link>,
    connections: u32,
    /// The newest connection that a node has accepted.
    opened: u32,
    next_at: Instant,
    number: u64,
    last_id: u16,
    unacknowledged: VecDeque<Waiting>,
    /// QoS 2 identifiers received and not released.
    incoming: HashSet<u64>,
}

impl Body {
    fn run(mut self, orders: &Receiver<Command>) {
        loop {
            loop {
                match orders.try_recv() {
                    Ok(command) => self.obey(&command),
                    Err(std::sync::mpsc::TryRecvError::Empty) => break,
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
                }
            }
            if !self.is_away {
                self.keep_connected();
            }
            self.publish();
            self.read();
            let is_where = if self.is_away { self.links.is_empty() } else { self.is_ready() };
            let is_settled = is_where && self.is_resting && self.unacknowledged.is_empty();
            let settled = if is_settled { self.obeyed } else { UNSETTLED };
            self.settled.store(settled, Ordering::SeqCst);
            thread::sleep(TURN);
        }
    }

    fn obey(&mut self, command: &Command) {
        self.obeyed += 1;
        match *command {
            Command::Rest => self.is_resting = true,
            Command::Resume => self.is_resting = self.role.subscribes(),
            Command::Leave => {
                self.is_away = true;
                if let Some(link) = self.current() {
                    // The session stays; the connection ends with an answer of the node.
                    link.send(&Packet::new("disconnect"));
                }
            }
            Command::Return(door) => {
                (self.is_away, self.at) = (false, door);
            }
        }
    }

    /// The newest connection, unless it has ended.
    fn current(&mut self) -> Option<&mut Link> {
        self.links.last_mut().filter(|link| link.number == self.connections)
    }

    fn is_open(&mut self) -> bool {
        self.current().is_some_and(|link| link.is_open)
    }

    fn is_ready(&mut self) -> bool {
        self.is_open() && (self.has_subscribed || !self.role.subscribes())
    }

    /// Connects if there is no connection, or none that answers.
    fn keep_connected(&mut self) {
        if let Some(link) = self.current() {
            let patience = if link.is_open { NODE_PATIENCE } else { NODE_PATIENCE * 2 };
            if link.heard_at.elapsed() <= patience {
                return;
            }
            // One that was open stays and is watched: nobody may serve it any more.
            link.has_ended |= !link.is_open;
            self.at = (self.at + 1) % self.doors.len();
        }
        self.connect();
    }

    /// Begins a new connection to the door it is at, or the next one that opens.
    fn connect(&mut self) {
        let (node, address) = &self.doors[self.at];
        let Ok(mut link) = Link::open(*address, node, self.connections + 1) else {
            self.at = (self.at + 1) % self.doors.len();
            return;
        };
        self.connections += 1;
        let connect = Packet::new("connect").number("clean", u64::from(self.connections == 1));
        let connect = connect.number("session-expiry", EXPIRY_S).bytes("id", self.id.as_str());
        link.send(&connect);
        self.links.push(link);
    }

    fn publish(&mut self) {
        let is_due = !self.is_resting && Instant::now() >= self.next_at;
        if !is_due || !self.is_open() || self.unacknowledged.len() >= WINDOW {
            return;
        }
        self.next_at = Instant::now() + PACE;
        self.number += 1;
        let (topic, qos) = match self.role {
            Role::Retainer => (format!("kept/{}", self.number % 5), 1),
            Role::Employer => (format!("{TEAM}/{}", self.id), (self.number % 2 + 1) as u8),
            _ => {
                let topic = format!("history/{}/{}", self.id, self.number / 3 % 2);
                (topic, (self.number % 3) as u8)
            }
        };
        let message = Sent { publisher: self.id.clone(), topic, qos, number: self.number };
        let mut id = 0;
        if qos > 0 {
            id = self.free_id();
            let message = message.clone();
            self.unacknowledged.push_back(Waiting { id, message, is_released: false });
        }
        self.history.note(&self.id, What::Published(message.clone()));
        self.send_publish(&message, id, 0);
    }

    fn free_id(&mut self) -> u64 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            let id = u64::from(self.last_id);
            if self.unacknowledged.iter().all(|waiting| waiting.id != id) {
                return id;
            }
        }
    }

    fn send_publish(&mut self, message: &Sent, id: u64, dup: u64) {
        let retain = u64::from(self.role == Role::Retainer);
        let packet = Packet::new("publish").number("dup", dup).number("qos", message.qos);
        let packet = packet.number("retain", retain).bytes("topic", message.topic.as_str());
        let packet = if id > 0 { packet.number("id", id) } else { packet };
        let packet = packet.bytes("payload", message.payload());
        if let Some(link) = self.current() {
            link.send(&packet);
        }
    }

    // --- what comes ---

    fn read(&mut self) {
        let mut links = std::mem::take(&mut self.links);
        for link in &mut links {
            let is_newest = link.number == self.connections;
            link.ping(self.history.now());
            while let Some(packet) = link.step() {
                self.take(link, &packet, is_newest);
            }
            if link.has_ended {
                self.history.note(&self.id, What::Closed { connection: link.number });
            }
            if link.has_ended && is_newest && !self.is_away {
                self.at = (self.at + 1) % self.doors.len();
            }
        }
        links.retain(|link| !link.has_ended);
        self.links = links;
    }

    fn take(&mut self, link: &mut Link, packet: &Packet, is_newest: bool) {
        let id = packet.number_of("id");
        match packet.name {
            "connack" => self.opened(link, packet, is_newest),
            "pingresp" => self.answered(link),
            // A client that has gone elsewhere does not listen here any more.
            _ if link.number < self.opened => {}
            "publish" => self.delivered(link, packet),
            "pubrel" => {
                self.incoming.remove(&id);
                link.send(&Packet::new("pubcomp").number("id", id));
            }
            "puback" | "pubrec" => self.acknowledged(link, packet, id),
            "pubcomp" => self.unacknowledged.retain(|waiting| waiting.id != id),
            "suback" => self.has_subscribed = true,
            _ => {}
        }
    }

    fn answered(&self, link: &mut Link) {
        if let Some(asked) = link.answered() {
            self.history.note(&self.id, What::Answered { connection: link.number, asked });
        }
    }

    fn opened(&mut self, link: &mut Link, packet: &Packet, is_newest: bool) {
        if packet.number_of("code") != 0 {
            // Not now: the next try goes to another node.
            link.has_ended = true;
            return;
        }
        link.is_open = true;
        let is_present = packet.number_of("session") == 1;
        let (connection, node) = (link.number, link.node.clone());
        self.history.note(&self.id, What::Opened { connection, node, is_present });
        if !is_newest {
            return;
        }
        self.opened = link.number;
        if !is_present {
            self.unacknowledged.clear();
            self.incoming.clear();
            self.has_subscribed = false;
        }
        for waiting in &self.unacknowledged {
            if !waiting.is_released {
                self.history.note(&self.id, What::Resent(waiting.message.clone()));
            }
            link.send(&resent(waiting, self.role));
        }
        if self.role.subscribes() && !self.has_subscribed {
            // QoS 2, and nothing of what is retained already.
            const OPTIONS: u8 = 0x22;
            let shared = format!("$share/crew/{TEAM}/#");
            let filters = match self.role {
                Role::Member => vec![shared.as_str()],
                _ => vec!["history/#", "kept/#"],
            };
            let mut subscribe = Packet::new("subscribe").number("id", 1_u8);
            for filter in filters {
                subscribe = subscribe.bytes("filter", filter).number("options", OPTIONS);
            }
            link.send(&subscribe);
        }
    }

    fn delivered(&mut self, link: &mut Link, packet: &Packet) {
        let (id, qos) = (packet.number_of("id"), packet.number_of("qos"));
        let is_new = qos < 2 || self.incoming.insert(id);
        let topic = String::from_utf8_lossy(packet.bytes_of("topic"));
        let payload = String::from_utf8_lossy(packet.bytes_of("payload"));
        if let Some(message) = Sent::read(&topic, &payload).filter(|_| is_new) {
            let connection = link.number;
            self.history.note(&self.id, What::Delivered { connection, message });
        }
        match qos {
            1 => link.send(&Packet::new("puback").number("id", id)),
            2 => link.send(&Packet::new("pubrec").number("id", id)),
            _ => {}
        }
    }

    fn acknowledged(&mut self, link: &mut Link, packet: &Packet, id: u64) {
        let Some(waiting) = self.unacknowledged.iter_mut().find(|waiting| waiting.id == id) else {
            return;
        };
        let is_accepted = packet.number_of("code") < 0x80;
        if is_accepted && !waiting.is_released {
            let message = waiting.message.clone();
            self.history.note(&self.id, What::Acknowledged(message));
        }
        if is_accepted && packet.name == "pubrec" {
            waiting.is_released = true;
            link.send(&Packet::new("pubrel").number("id", id));
        } else {
            self.unacknowledged.retain(|waiting| waiting.id != id);
        }
    }
}

/// What is sent again on a new connection [MQTT-4.4.0-1].
fn resent(waiting: &Waiting, role: Role) -> Packet {
    if waiting.is_released {
        return Packet::new("pubrel").number("id", waiting.id);
    }
    let message = &waiting.message;
    let packet = Packet::new("publish").number("dup", 1_u8).number("qos", message.qos);
    let packet = packet.number("retain", u64::from(role == Role::Retainer));
    let packet = packet.bytes("topic", message.topic.as_str()).number("id", waiting.id);
    packet.bytes("payload", message.payload())
}
