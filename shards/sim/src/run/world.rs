//! The scheduler: chooses from the seed what happens next, brings everything to rest at the
//! end, and has the books checked.

use std::cell::RefCell;
use std::num::NonZeroU16;
use std::rc::Rc;
use std::time::Duration;

use octopus_engine::{Dropped, Limits, Pick, ShardId};
use octopus_mqtt::{QoS, Version};

use super::actor::{Actor, Wish};
use super::books::{Books, Fate, Step, message_id};
use super::{Counts, Options};
use crate::client::Client;
use crate::node::{Node, NodeConfig};
use crate::random::Random;
use crate::socket::{Intake, SocketId};

const GROUP: &str = "$share/g/t/#";
/// PUBLISH packets a publisher has out at a time.
const WINDOW: usize = 8;
/// Rounds of reading and acknowledging within which everything must come to rest.
const ROUNDS_MAX: usize = 2000;

pub(super) struct World {
    options: Options,
    node: Node,
    random: Random,
    books: Books,
    actors: Vec<Actor>,
    step: Step,
    connects: usize,
    trace: Rc<RefCell<String>>,
}

impl World {
    pub(super) fn new(seed: u64, options: Options, trace: Rc<RefCell<String>>) -> Self {
        let mut random = Random::new(seed);
        let config = NodeConfig {
            limits: limits(&mut random, options.is_lossy),
            seed: random.number(),
            authenticate: random.chance(30),
            shared_pick: random.pick(&[
                Pick::RoundRobin,
                Pick::Random,
                Pick::LeastInflight,
                Pick::Sticky,
                Pick::Publisher,
            ]),
            ..NodeConfig::new(options.shards)
        };
        trace.borrow_mut().push_str(&format!("{config:?}\n"));
        let mut world = Self {
            node: Node::new(&config),
            options,
            random,
            books: Books::default(),
            actors: Vec::new(),
            step: 0,
            connects: 0,
            trace,
        };
        world.people();
        world
    }

    pub(super) fn run(mut self) -> Result<Counts, String> {
        if self.options.is_lossy {
            self.come_to_rest()?;
        }
        for _ in 0..self.options.steps {
            self.step += 1;
            self.take_step()?;
        }
        self.come_to_rest()?;
        self.check_rest()?;
        let lost = self.check_books()?;
        self.check_retained()?;
        self.leave()?;
        let receipts = self.books.receipts.values();
        Ok(Counts {
            sent: self.books.sent.len(),
            received: receipts.map(|r| r.by_qos.iter().sum::<u32>() as usize).sum(),
            lost,
            connects: self.connects,
        })
    }

    // --- who takes part ---

    fn people(&mut self) {
        let Options { publishers, subscribers, members, watchers, is_lossy, .. } = self.options;
        for n in 0..publishers {
            let actor = self.actor(&format!("publisher-{n}"));
            actor.topics = (0..3).map(|k| format!("t/{n}/{k}")).collect();
            if actor.is_persistent && !is_lossy {
                actor.topics.push(format!("r/{n}"));
            }
        }
        for n in 0..subscribers {
            self.actor(&format!("subscriber-{n}")).wishes.clear();
            let wishes = self.wishes(publishers);
            self.last_actor().wishes = wishes;
        }
        for n in 0..members {
            let qos = self.random.pick(&[QoS::AtLeastOnce, QoS::ExactlyOnce]);
            let actor = self.actor(&format!("member-{n}"));
            (actor.is_member, actor.is_persistent, actor.has_will) = (true, true, false);
            actor.wishes = vec![Wish { filter: GROUP.into(), qos, is_fixed: false }];
        }
        for n in 0..watchers {
            let filter = self.random.pick(&["r/#", "r/+", "r/0"]).to_owned();
            let actor = self.actor(&format!("watcher-{n}"));
            actor.wishes = vec![Wish { filter, qos: QoS::AtLeastOnce, is_fixed: false }];
        }
    }

    /// A new client with a nature of its own.
    fn actor(&mut self, client_id: &str) -> &mut Actor {
        let random = &mut self.random;
        let version = random.pick(&[Version::V3_1, Version::V3_1_1, Version::V5, Version::V5]);
        let mut actor = Actor::new(self.actors.len(), client_id.to_owned(), version);
        actor.is_persistent = self.options.is_lossy || random.chance(70);
        actor.has_will = !self.options.is_lossy && random.chance(50);
        actor.alias_max = random.pick(&[0, 0, 1, 5]);
        actor.receive_max = NonZeroU16::new(random.pick(&[0, 1, 2, 10]));
        self.actors.push(actor);
        self.last_actor()
    }

    fn last_actor(&mut self) -> &mut Actor {
        self.actors.last_mut().expect("one was made")
    }

    /// Filters that overlap, and mostly the wills.
    fn wishes(&mut self, publishers: usize) -> Vec<Wish> {
        let is_lossy = self.options.is_lossy;
        let count = 1 + self.random.below(3);
        let mut wishes: Vec<Wish> = Vec::new();
        for _ in 0..count {
            let (p, k) = (self.random.below(publishers), self.random.below(3));
            let choices = [
                "t/#".into(),
                "t/+/1".into(),
                format!("t/{p}/#"),
                format!("t/{p}/{k}"),
                "+/+/+".into(),
            ];
            let filter = choices[self.random.below(choices.len())].clone();
            let lowest = usize::from(is_lossy);
            let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce]
                [lowest + self.random.below(3 - lowest)];
            if wishes.iter().all(|wish| wish.filter != filter) {
                wishes.push(Wish { filter, qos, is_fixed: is_lossy });
            }
        }
        if !is_lossy && self.random.chance(70) {
            wishes.push(Wish { filter: "w/+".into(), qos: QoS::ExactlyOnce, is_fixed: true });
        }
        wishes
    }

    // --- what happens next ---

    fn take_step(&mut self) -> Result<(), String> {
        match self.random.below(100) {
            0..70 => self.node_step(),
            70..71 => self.pass_time(),
            _ => return self.actor_step(),
        }
        Ok(())
    }

    fn say(&self, line: std::fmt::Arguments<'_>) {
        self.trace.borrow_mut().push_str(&format!("{} {line}\n", self.step));
    }

    fn pass_time(&mut self) {
        let next = self.node.next_timeout();
        let at = match next {
            Some(next) if self.random.chance(30) => next,
            _ => self.node.now().after(Duration::from_millis(self.random.number() % 2000)),
        };
        self.say(format_args!("time {}", at.0));
        self.node.set_now(at);
        self.node.tick();
    }

    /// One thing that the node, the mesh or the network could do now.
    fn node_step(&mut self) {
        let shards: Vec<ShardId> = (0..self.node.shard_count()).map(ShardId).collect();
        let sockets: Vec<SocketId> = self.sockets();
        let is_ready = |socket| self.node.shard_of(socket).is_none_or(|s| self.node.is_ready(s));
        let mut choices: Vec<Choice> = Vec::new();
        for &shard in &shards {
            if self.node.has_outputs(shard) {
                choices.push(Choice::CarryOut(shard));
            }
            if self.node.has_envelope(shard) && self.node.is_ready(shard) {
                choices.push(Choice::Envelope(shard));
            }
        }
        if self.node.has_hub_work() {
            choices.push(Choice::Hub);
        }
        for socket in sockets.into_iter().filter(|&socket| is_ready(socket)) {
            if self.node.is_readable(socket) {
                choices.push(Choice::Bytes(socket));
            }
            if self.node.is_writable(socket) {
                choices.push(Choice::Write(socket));
            }
        }
        if choices.is_empty() {
            return;
        }
        let choice = self.random.pick(&choices);
        self.say(format_args!("{choice:?}"));
        match choice {
            Choice::CarryOut(shard) if self.random.chance(50) => {
                self.node.carry_out_all(shard);
            }
            Choice::CarryOut(shard) => {
                self.node.carry_out(shard);
            }
            Choice::Envelope(shard) => {
                self.node.take_envelope(shard);
            }
            Choice::Hub => {
                self.node.serve_hub();
            }
            Choice::Bytes(socket) => {
                let count = self.random.pick(&[1, 7, 40, usize::MAX, usize::MAX, usize::MAX]);
                self.node.take_bytes(socket, count);
            }
            Choice::Write(socket) => {
                self.node.take_write(socket);
            }
        }
    }

    fn sockets(&self) -> Vec<SocketId> {
        let links = self.actors.iter().filter_map(|actor| actor.link.as_ref());
        let ghosts = self.actors.iter().flat_map(|actor| &actor.ghosts);
        links.map(|link| link.client.socket).chain(ghosts.map(|ghost| ghost.socket)).collect()
    }

    /// One thing that a client could do now.
    fn actor_step(&mut self) -> Result<(), String> {
        let Self { node, books, step, .. } = self;
        let index = self.random.below(self.actors.len());
        let actor = &mut self.actors[index];
        let now = *step;
        {
            let mut trace = self.trace.borrow_mut();
            actor.read(node, books, now, &mut trace)?;
            if actor.notice_close(node, books, now) {
                trace.push_str(&format!("{now} {} sees its connection closed\n", actor.client_id));
            }
        }
        if actor.link.is_none() {
            if self.random.chance(30) {
                self.connects += 1;
                self.trace.borrow_mut().push_str(&format!("{now} {} connects\n", actor.client_id));
                actor.connect(node, books, now);
            }
            return Ok(());
        }
        let deed = self.random.below(100);
        self.trace.borrow_mut().push_str(&format!("{now} {} does {deed}\n", actor.client_id));
        match deed {
            0..15 => {
                for _ in 0..actor.link.as_ref().map_or(0, |link| link.acks.len()) {
                    actor.acknowledge(node, 0, 1);
                }
            }
            15..40 => {
                let nth = if self.random.chance(20) { self.random.below(8) } else { 0 };
                let times = if self.random.chance(10) { 2 } else { 1 };
                actor.acknowledge(node, nth, times);
            }
            40..75 if !actor.topics.is_empty() => {
                for _ in 0..self.random.pick(&[1, 1, 2, 5]) {
                    self.publish(index);
                }
            }
            75..88 if !actor.wishes.is_empty() => {
                let wish = self.random.below(actor.wishes.len());
                let is_pending = actor.link.as_ref().is_some_and(|link| link.is_asking(wish));
                // A fixed wish is asked for once: asking again would leave a gap in the books.
                let is_had =
                    actor.wishes[wish].is_fixed && books.has(index, &actor.wishes[wish].filter);
                if is_had || is_pending {
                    return Ok(());
                }
                if self.random.chance(85) {
                    actor.subscribe(node, books, now, wish);
                } else {
                    actor.unsubscribe(node, books, now, wish);
                }
            }
            88..90 if actor.unreleased() > 0 => {
                let nth = self.random.below(4);
                actor.repeat(node, books, nth);
            }
            90..92 => actor.cut(node, books, now),
            92..93 => actor.disconnect(node, books, now),
            93..94 if actor.is_live() => {
                self.connects += 1;
                actor.connect(node, books, now);
            }
            94..97 => {
                let intake = self.random.pick(&[
                    Intake::AtOnce,
                    Intake::Slow(5),
                    Intake::Slow(100),
                    Intake::Stopped,
                ]);
                if let Some(link) = &actor.link {
                    node.set_intake(link.client.socket, intake);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn publish(&mut self, index: usize) {
        let actor = &mut self.actors[index];
        if actor.outgoing_count() >= WINDOW {
            return;
        }
        let topic = actor.topics[self.random.below(actor.topics.len())].clone();
        let retain = topic.starts_with("r/");
        let is_deletion = retain && self.random.chance(10);
        let qos = if retain || self.options.is_lossy {
            QoS::ExactlyOnce // routed once, whatever happens to the publisher
        } else {
            self.random.pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
        };
        let what = (topic, qos, retain, is_deletion);
        actor.publish(&mut self.node, &mut self.books, self.step, what);
    }

    // --- the end ---

    /// Everybody connects, takes everything and acknowledges it, until nothing happens.
    fn come_to_rest(&mut self) -> Result<(), String> {
        self.say(format_args!("comes to rest"));
        for _ in 0..ROUNDS_MAX {
            self.step += 1;
            let Self { node, books, step, .. } = self;
            let mut is_idle = true;
            for actor in &mut self.actors {
                actor.read(node, books, *step, &mut self.trace.borrow_mut())?;
                actor.notice_close(node, books, *step);
                if actor.link.is_none() {
                    self.connects += 1;
                    actor.connect(node, books, *step);
                }
                if let Some(link) = &actor.link {
                    node.set_intake(link.client.socket, Intake::AtOnce);
                    for _ in 0..link.acks.len() {
                        actor.acknowledge(node, 0, 1);
                    }
                }
                let wants = self.options.is_lossy && actor.is_live();
                let wishes = if wants { actor.wishes.len() } else { 0 };
                for wish in 0..wishes {
                    let is_asked = actor.link.as_ref().is_some_and(|link| link.is_asking(wish));
                    if !is_asked && !books.has(actor.index, &actor.wishes[wish].filter) {
                        actor.subscribe(node, books, *step, wish);
                        is_idle = false;
                    }
                }
                is_idle &= actor.is_idle();
            }
            node.advance(Duration::from_millis(50));
            if is_idle && !self.has_unread() {
                return Ok(());
            }
        }
        let busy = self.actors.iter().find(|actor| !actor.is_idle());
        Err(format!("does not come to rest: {busy:?}"))
    }

    fn has_unread(&mut self) -> bool {
        let Self { node, actors, .. } = self;
        actors
            .iter()
            .filter_map(|a| a.link.as_ref())
            .any(|link| node.has_received(link.client.socket))
    }

    /// Nothing waits, and nobody is connected twice.
    fn check_rest(&mut self) -> Result<(), String> {
        // Connections whose client takes nothing linger twice two seconds.
        self.node.advance(Duration::from_secs(5));
        for (shard, stats) in self.node.all_stats().iter().enumerate() {
            if stats.ledger.queued != 0 {
                return Err(format!("shard {shard} still owes {:?}", stats.ledger));
            }
        }
        let connections: u64 = self.node.all_stats().iter().map(|stats| stats.connections).sum();
        if connections != self.actors.len() as u64 {
            return Err(format!("{connections} connections of {} clients", self.actors.len()));
        }
        for actor in &self.actors {
            if actor.ghosts.iter().any(|ghost| !ghost.is_closed(&self.node)) {
                return Err(format!("{} is connected twice", actor.client_id));
            }
        }
        Ok(())
    }

    /// Everything arrived as promised; how many messages were lost with a count.
    fn check_books(&mut self) -> Result<usize, String> {
        let is_member = |actor: &&Actor| actor.is_member;
        let members: Vec<usize> = self.actors.iter().filter(is_member).map(|a| a.index).collect();
        let is_calm = self.actors.iter().filter(is_member).all(|actor| !actor.went_away);
        self.books.check_group(&members, is_calm, self.step)?;
        let mut missing = Vec::new();
        for actor in self.actors.iter().filter(|actor| !actor.is_member) {
            let own = self.books.check_client(actor.index, self.step)?;
            missing.extend(own.into_iter().map(|id| (actor.index, id)));
        }
        let stats = self.node.all_stats();
        let dropped = |reason| stats.iter().map(|s| s.ledger.dropped_for(reason)).sum::<u64>();
        let counted = dropped(Dropped::QueueFull) + dropped(Dropped::TooLarge);
        if missing.len() as u64 != counted {
            let details: Vec<_> = missing
                .iter()
                .take(5)
                .map(|&(client, id)| (client, &self.books.sent[id]))
                .collect();
            return Err(format!(
                "{} messages are missing and {counted} were dropped: {details:?} {:?}",
                missing.len(),
                self.books.subscriptions_of(missing.first().map_or(0, |first| first.0)),
            ));
        }
        if !self.options.is_lossy && counted > 0 {
            return Err(format!("{counted} messages were dropped with room for all"));
        }
        Ok(missing.len())
    }

    /// A late subscriber gets the last value of each retained topic, once.
    fn check_retained(&mut self) -> Result<(), String> {
        for version in [Version::V3_1_1, Version::V5] {
            let mut late = Client::clean(&mut self.node, version, "late");
            late.subscribe(&mut self.node, "r/#", QoS::AtMostOnce);
            self.node.advance(Duration::from_millis(50));
            let mut found: Vec<(String, Option<usize>)> = late
                .take_messages(&mut self.node)
                .into_iter()
                .map(|(topic, payload)| (topic, message_id(payload.as_bytes())))
                .collect();
            found.sort();
            let wanted = self.books.retained().into_iter();
            let wanted: Vec<_> = wanted.map(|(topic, id)| (topic.to_owned(), Some(id))).collect();
            if found != wanted {
                return Err(format!("retained are {found:?}, not {wanted:?}"));
            }
            late.disconnect(&mut self.node);
        }
        Ok(())
    }

    /// Everybody ends its session; nothing of them remains.
    fn leave(&mut self) -> Result<(), String> {
        self.say(format_args!("everybody leaves"));
        for actor in &self.actors {
            let mut client = Client::clean(&mut self.node, actor.version, &actor.client_id);
            client.disconnect(&mut self.node);
        }
        let mut client = Client::clean(&mut self.node, Version::V5, "eraser");
        let topics: Vec<String> = self.books.retained().into_keys().map(str::to_owned).collect();
        for topic in topics {
            client.retain(&mut self.node, &topic, "");
        }
        client.disconnect(&mut self.node);
        self.node.advance(Duration::from_secs(3));
        for (shard, stats) in self.node.all_stats().iter().enumerate() {
            let gauges = [
                ("connections", stats.connections),
                ("sessions", stats.sessions),
                ("subscriptions", stats.subscriptions),
                ("filters", stats.filters),
                ("interest", stats.interest),
                ("retained", stats.retained),
                ("retained bytes", stats.retained_bytes),
                ("queued", stats.ledger.queued),
            ];
            if let Some((name, count)) = gauges.iter().find(|(_, count)| *count != 0) {
                return Err(format!("shard {shard} still has {count} {name}"));
            }
        }
        let armed = self.books.sent.iter().filter(|sent| sent.fate == Fate::Armed).count();
        if armed > self.actors.len() {
            return Err(format!("{armed} wills are armed"));
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Choice {
    CarryOut(ShardId),
    Envelope(ShardId),
    Hub,
    Bytes(SocketId),
    Write(SocketId),
}

/// Small enough for everything to happen, large enough that strict runs lose nothing.
fn limits(random: &mut Random, is_lossy: bool) -> Limits {
    let mut limits = Limits {
        out_bytes_max: random.pick(&[100, 1000, 1 << 20]),
        inflight_count_max: random.pick(&[1, 3, 128]),
        retained_slice_count: random.pick(&[1, 2, 64]),
        shared_payload_min: random.pick(&[1, 40, 2048]),
        memory_bytes_max: 1 << 50,
        ..Limits::default()
    };
    if is_lossy {
        limits.queue_count_max = random.pick(&[1, 3, 10]);
        limits.queue_bytes_max = random.pick(&[60, 300, 1 << 20]);
        limits.queue_full = random
            .pick(&[octopus_engine::QueueFull::DropNewest, octopus_engine::QueueFull::DropOldest]);
    }
    limits
}
