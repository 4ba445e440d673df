//! The node: engines, the mesh between them, sockets and time.
//!
//! A shard takes its turns as in the real driver: inputs, then its outputs are carried out in
//! order before the next turn begins. The mesh is one inbox per receiver, in the order of
//! pushing. Every step is a method of its own, so that a scheduler can interleave them;
//! [`Node::settle`] takes them all until nothing is left to do.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use octopus_engine::{
    ConnectionId, Envelope, Input, Instant, Limits, ListenerId, LostCause, Notice, Output, Peer,
    Pick, Rate, Recorded, Remote, Shard, ShardConfig, ShardId, Stats,
};
use octopus_mqtt::ReasonCode;

use crate::hub::Hub;
use crate::socket::{Intake, Socket, SocketId, Writing};

/// How long a closed connection may still take its last bytes, as in the real driver.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a node is made of.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// 1 to 64.
    pub shards: u16,
    pub limits: Limits,
    /// Of one shard, by listener; all of a node's sockets come from listener 0.
    pub listener_rates: Vec<Rate>,
    /// Keys hashing: decides which shard is whose home.
    pub seed: u64,
    /// Ask the hub's policy before a client may connect.
    pub authenticate: bool,
    pub shared_pick: Pick,
    /// The node belongs to a group, whose hub the test plays.
    pub cluster: bool,
    pub recorded: Recorded,
}

impl NodeConfig {
    /// A node with default limits that lets everybody in.
    pub fn new(shards: u16) -> Self {
        Self {
            shards,
            // A budget that nobody uses up, so that what is counted for it can be looked at.
            limits: Limits { memory_bytes_max: 1 << 50, ..Limits::default() },
            listener_rates: Vec::new(),
            seed: 1,
            authenticate: false,
            shared_pick: Pick::default(),
            cluster: false,
            recorded: Recorded::default(),
        }
    }
}

/// One node in one thread.
#[derive(Debug)]
pub struct Node {
    seats: Vec<Seat>,
    sockets: Vec<Socket>,
    hub_inbox: VecDeque<(ShardId, Envelope)>,
    pub hub: Hub,
    now: Instant,
    opened: usize,
    notices: Vec<(ShardId, Notice)>,
}

/// One shard and what lies around it.
#[derive(Debug)]
struct Seat {
    engine: Shard,
    inbox: VecDeque<(Peer, Envelope)>,
    /// Drained from the engine, not yet carried out.
    outputs: VecDeque<Output>,
    is_drained: bool,
    slots: Vec<Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    generation: u32,
    socket: Option<SocketId>,
}

impl Node {
    /// # Panics
    /// If `config.shards` is not 1 to 64.
    pub fn new(config: &NodeConfig) -> Self {
        assert!((1..=64).contains(&config.shards), "1 to 64 shards");
        let seat = |id| Seat {
            engine: Shard::new(ShardConfig {
                limits: config.limits.clone(),
                listener_rates: config.listener_rates.clone(),
                authenticate: config.authenticate,
                shared_pick: config.shared_pick,
                cluster: config.cluster,
                recorded: config.recorded,
                ..ShardConfig::new(ShardId(id), config.shards, config.seed)
            }),
            inbox: VecDeque::new(),
            outputs: VecDeque::new(),
            is_drained: true,
            slots: Vec::new(),
        };
        Self {
            seats: (0..config.shards).map(seat).collect(),
            sockets: Vec::new(),
            hub_inbox: VecDeque::new(),
            hub: Hub::new(),
            now: Instant::default(),
            opened: 0,
            notices: Vec::new(),
        }
    }

    pub fn shard_count(&self) -> u16 {
        self.seats.len() as u16
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    // --- the client's end of sockets ---

    /// Opens a connection; shards take their turns in accepting.
    pub fn open(&mut self) -> SocketId {
        let shard = ShardId((self.opened % self.seats.len()) as u16);
        self.open_at(shard)
    }

    /// Opens a connection that `shard` accepts.
    pub fn open_at(&mut self, shard: ShardId) -> SocketId {
        self.opened += 1;
        let socket = SocketId(self.sockets.len());
        let connection = self.take_slot(shard, socket);
        self.sockets.push(Socket::new(shard, connection));
        self.handle(shard, Input::Opened { connection, remote: remote() });
        socket
    }

    /// Puts bytes on their way to the node.
    pub fn send(&mut self, socket: SocketId, bytes: &[u8]) {
        let socket = &mut self.sockets[socket.0];
        if socket.at.is_some() {
            socket.inbound.extend_from_slice(bytes);
        }
    }

    /// What the node sent and the client has not looked at.
    pub fn take_received(&mut self, socket: SocketId) -> Vec<u8> {
        std::mem::take(&mut self.sockets[socket.0].outbound)
    }

    /// Whether bytes wait for the client.
    pub(crate) fn has_received(&self, socket: SocketId) -> bool {
        !self.sockets[socket.0].outbound.is_empty()
    }

    /// Whether the node closed the connection, or it was cut.
    pub fn is_closed(&self, socket: SocketId) -> bool {
        self.sockets[socket.0].is_closed
    }

    /// Whether the node reads from the connection (back-pressure stops it).
    pub fn is_paused(&self, socket: SocketId) -> bool {
        self.sockets[socket.0].is_paused
    }

    pub fn set_intake(&mut self, socket: SocketId, intake: Intake) {
        self.sockets[socket.0].intake = intake;
    }

    /// The client's end goes away without a word; bytes on their way in either direction are
    /// lost.
    pub fn cut(&mut self, socket: SocketId) {
        let end = &mut self.sockets[socket.0];
        end.inbound.clear();
        end.writing = None;
        end.is_closed = true;
        let Some((shard, connection)) = end.at.take() else { return };
        let is_known = end.closes_by.take().is_none();
        self.free_slot(shard, connection);
        if is_known {
            self.handle(shard, Input::Lost { connection, cause: LostCause::ClosedByPeer });
        }
    }

    /// The shard that has the connection now.
    pub fn shard_of(&self, socket: SocketId) -> Option<ShardId> {
        self.sockets[socket.0].at.map(|(shard, _)| shard)
    }

    // --- time ---

    /// Lets `duration` pass, firing timers in order on the way and settling after each.
    pub fn advance(&mut self, duration: Duration) {
        self.advance_to(self.now.after(duration));
    }

    /// Lets time pass until `at`.
    pub fn advance_to(&mut self, at: Instant) {
        self.settle();
        while let Some(next) = self.next_timeout()
            && next <= at
        {
            self.now = self.now.max(next);
            self.tick();
            self.settle();
        }
        self.now = self.now.max(at);
        self.tick();
        self.settle();
    }

    /// The earliest timer of a shard or of a closing socket.
    pub fn next_timeout(&self) -> Option<Instant> {
        let shards = self.seats.iter().filter_map(|seat| seat.engine.next_timeout());
        shards.chain(self.sockets.iter().filter_map(|socket| socket.closes_by)).min()
    }

    /// Moves the clock without letting anybody notice yet.
    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Every shard looks at the clock.
    pub(crate) fn tick(&mut self) {
        for id in 0..self.sockets.len() {
            if self.sockets[id].closes_by.is_some_and(|by| by <= self.now) {
                self.finish_close(SocketId(id));
            }
        }
        for shard in 0..self.shard_count() {
            self.handle(ShardId(shard), Input::Tick);
        }
    }

    // --- the node as a whole ---

    /// Runs until nothing is left to do without time passing or a client doing something.
    ///
    /// # Panics
    /// If the ledger of a shard does not balance.
    pub fn settle(&mut self) {
        while self.settle_once() {}
    }

    fn settle_once(&mut self) -> bool {
        let mut is_busy = false;
        for shard in (0..self.shard_count()).map(ShardId) {
            is_busy |= self.carry_out_all(shard);
            is_busy |= self.take_envelope(shard);
        }
        is_busy |= self.serve_hub();
        for socket in (0..self.sockets.len()).map(SocketId) {
            is_busy |= self.take_bytes(socket, usize::MAX);
            is_busy |= self.take_write(socket);
        }
        is_busy
    }

    /// The node stops: clients are told and closed.
    pub fn stop(&mut self, reason: ReasonCode) {
        for shard in 0..self.shard_count() {
            self.handle(ShardId(shard), Input::Stop { reason });
        }
        self.settle();
    }

    /// Puts an envelope of the hub into a shard's inbox.
    pub fn send_from_hub(&mut self, to: ShardId, envelope: Envelope) {
        self.seats[usize::from(to.0)].inbox.push_back((Peer::Hub, envelope));
    }

    pub fn stats(&self, shard: ShardId) -> Stats {
        self.seats[usize::from(shard.0)].engine.stats()
    }

    pub fn all_stats(&self) -> Vec<Stats> {
        self.seats.iter().map(|seat| seat.engine.stats()).collect()
    }

    /// Whether invariant 5 holds on every shard.
    pub fn ledger_holds(&self) -> bool {
        self.seats.iter().all(|seat| seat.engine.stats().ledger.holds())
    }

    /// Whether every shard counts the memory it uses as a walk over everything finds it.
    pub fn memory_is_counted(&self) -> bool {
        self.seats.iter().all(|seat| seat.engine.memory_is_counted())
    }

    /// What operators would read, since the last call.
    pub fn take_notices(&mut self) -> Vec<(ShardId, Notice)> {
        std::mem::take(&mut self.notices)
    }

    // --- single steps, for a scheduler ---

    /// Whether the shard's turn is over and it may take inputs.
    pub(crate) fn is_ready(&self, shard: ShardId) -> bool {
        self.seats[usize::from(shard.0)].outputs.is_empty()
    }

    pub(crate) fn has_outputs(&self, shard: ShardId) -> bool {
        let seat = &self.seats[usize::from(shard.0)];
        !seat.is_drained || !seat.outputs.is_empty()
    }

    pub(crate) fn has_envelope(&self, shard: ShardId) -> bool {
        !self.seats[usize::from(shard.0)].inbox.is_empty()
    }

    pub(crate) fn has_hub_work(&self) -> bool {
        !self.hub_inbox.is_empty()
    }

    pub(crate) fn is_readable(&self, socket: SocketId) -> bool {
        self.sockets[socket.0].is_readable()
    }

    pub(crate) fn is_writable(&self, socket: SocketId) -> bool {
        self.sockets[socket.0].is_writable()
    }

    /// The shard's next output is carried out; `false` if there is none.
    pub(crate) fn carry_out(&mut self, shard: ShardId) -> bool {
        let seat = &mut self.seats[usize::from(shard.0)];
        if seat.outputs.is_empty() {
            let drained = std::iter::from_fn(|| seat.engine.poll()).collect();
            seat.outputs = in_flush_order(drained);
            seat.is_drained = true;
        }
        let Some(output) = seat.outputs.pop_front() else { return false };
        self.apply(shard, output);
        true
    }

    pub(crate) fn carry_out_all(&mut self, shard: ShardId) -> bool {
        let mut is_busy = false;
        while self.carry_out(shard) {
            is_busy = true;
        }
        is_busy
    }

    /// The shard takes the next envelope from its inbox; `false` if there is none.
    pub(crate) fn take_envelope(&mut self, shard: ShardId) -> bool {
        let Some((from, envelope)) = self.seats[usize::from(shard.0)].inbox.pop_front() else {
            return false;
        };
        self.handle(shard, Input::Envelope { from, envelope });
        true
    }

    /// The hub answers the oldest envelope it has.
    pub(crate) fn serve_hub(&mut self) -> bool {
        let Some((from, envelope)) = self.hub_inbox.pop_front() else { return false };
        if let Some(answer) = self.hub.handle(from, envelope) {
            self.send_from_hub(from, answer);
        }
        true
    }

    /// The socket's shard reads up to `count` bytes; `false` if there are none to read.
    pub(crate) fn take_bytes(&mut self, socket: SocketId, count: usize) -> bool {
        let end = &mut self.sockets[socket.0];
        let Some((shard, connection)) = end.at.filter(|_| end.is_readable()) else { return false };
        let count = count.min(end.inbound.len());
        let rest = end.inbound.split_off(count);
        let bytes = std::mem::replace(&mut end.inbound, rest);
        self.handle(shard, Input::Received { connection, bytes: &bytes });
        true
    }

    /// The client takes from the `Write` that is out; `false` if it takes nothing.
    pub(crate) fn take_write(&mut self, socket: SocketId) -> bool {
        let end = &mut self.sockets[socket.0];
        if !end.is_writable() {
            return false;
        }
        let count = match end.intake {
            Intake::AtOnce => usize::MAX,
            Intake::Slow(count) => count.max(1),
            Intake::Stopped => return false,
        };
        let Some(buffer) = end.take(count) else { return true };
        if end.closes_by.is_some() {
            self.finish_close(socket);
        } else if let Some((shard, connection)) = end.at {
            self.handle(shard, Input::Written { connection, buffer });
        }
        true
    }

    fn handle(&mut self, shard: ShardId, input: Input<'_>) {
        let now = self.now;
        let seat = &mut self.seats[usize::from(shard.0)];
        seat.engine.handle(input, now);
        seat.is_drained = false;
        let ledger = seat.engine.stats().ledger;
        assert!(ledger.holds(), "the ledger of shard {} does not balance: {ledger:?}", shard.0);
    }

    fn apply(&mut self, shard: ShardId, output: Output) {
        match output {
            Output::Write { connection, buffer } => {
                let Some(socket) = self.socket_at(shard, connection) else { return };
                let bytes: Vec<u8> = buffer.pieces().flatten().copied().collect();
                let end = &mut self.sockets[socket.0];
                assert!(end.writing.is_none(), "two writes are out for one connection");
                assert!(!bytes.is_empty(), "a write of nothing");
                end.writing = Some(Writing { buffer, bytes, taken: 0 });
            }
            Output::PauseReading { connection } => self.set_paused(shard, connection, true),
            Output::ResumeReading { connection } => self.set_paused(shard, connection, false),
            Output::Close { connection } => self.close(shard, connection),
            Output::HandOff { connection, to, unread } => {
                self.hand_off(shard, connection, to, unread);
            }
            Output::Send { to: Peer::Hub, envelope } => self.hub_inbox.push_back((shard, envelope)),
            Output::Send { to: Peer::Shard(to), envelope } => {
                assert_ne!(to, shard, "a shard sends nothing to itself");
                let inbox = &mut self.seats[usize::from(to.0)].inbox;
                inbox.push_back((Peer::Shard(shard), envelope));
            }
            Output::Notice(notice) => self.notices.push((shard, *notice)),
        }
    }

    fn set_paused(&mut self, shard: ShardId, connection: ConnectionId, is_paused: bool) {
        if let Some(socket) = self.socket_at(shard, connection) {
            self.sockets[socket.0].is_paused = is_paused;
        }
    }

    fn close(&mut self, shard: ShardId, connection: ConnectionId) {
        let Some(socket) = self.socket_at(shard, connection) else { return };
        let end = &mut self.sockets[socket.0];
        end.inbound.clear();
        end.closes_by = Some(self.now.after(CLOSE_TIMEOUT));
        if end.writing.is_none() {
            self.finish_close(socket);
        }
    }

    fn finish_close(&mut self, socket: SocketId) {
        let end = &mut self.sockets[socket.0];
        end.is_closed = true;
        end.closes_by = None;
        end.writing = None;
        end.inbound.clear();
        if let Some((shard, connection)) = end.at.take() {
            self.free_slot(shard, connection);
        }
    }

    fn hand_off(&mut self, from: ShardId, connection: ConnectionId, to: ShardId, unread: Vec<u8>) {
        let Some(socket) = self.socket_at(from, connection) else { return };
        self.free_slot(from, connection);
        let connection = self.take_slot(to, socket);
        let end = &mut self.sockets[socket.0];
        assert!(end.writing.is_none(), "handed off with a write out");
        end.at = Some((to, connection));
        end.is_paused = false;
        end.inbound.splice(0..0, unread);
        self.handle(to, Input::Opened { connection, remote: remote() });
    }

    fn take_slot(&mut self, shard: ShardId, socket: SocketId) -> ConnectionId {
        let slots = &mut self.seats[usize::from(shard.0)].slots;
        let free = slots.iter().position(|slot| slot.socket.is_none());
        let index = free.unwrap_or_else(|| {
            slots.push(Slot { generation: 0, socket: None });
            slots.len() - 1
        });
        slots[index] = Slot { generation: slots[index].generation + 1, socket: Some(socket) };
        ConnectionId { slot: index as u32, generation: slots[index].generation }
    }

    fn free_slot(&mut self, shard: ShardId, connection: ConnectionId) {
        let slot = &mut self.seats[usize::from(shard.0)].slots[connection.slot as usize];
        if slot.generation == connection.generation {
            slot.socket = None;
        }
    }

    fn socket_at(&self, shard: ShardId, connection: ConnectionId) -> Option<SocketId> {
        let slot = self.seats[usize::from(shard.0)].slots.get(connection.slot as usize)?;
        slot.socket.filter(|_| slot.generation == connection.generation)
    }
}

/// The order in which the real driver carries out one turn: one parcel for each peer, then what
/// concerns connections. A `Retain` is pushed at once, behind all that came before it to
/// anybody: so nobody sees the live message before the retained one is at its home, nor finds
/// the retained one while an older live message is still to come.
fn in_flush_order(outputs: Vec<Output>) -> VecDeque<Output> {
    let mut flushed = VecDeque::with_capacity(outputs.len());
    let mut parcels: BTreeMap<Peer, Vec<Output>> = BTreeMap::new();
    let mut others = Vec::new();
    for output in outputs {
        let Output::Send { to, envelope } = &output else {
            others.push(output);
            continue;
        };
        let (to, is_retain) = (*to, matches!(envelope, Envelope::Retain(_)));
        parcels.entry(to).or_default().push(output);
        if is_retain {
            let own = parcels.remove(&to).unwrap_or_default();
            flushed.extend(std::mem::take(&mut parcels).into_values().flatten());
            flushed.extend(own);
        }
    }
    flushed.extend(parcels.into_values().flatten());
    flushed.extend(others);
    flushed
}

fn remote() -> Remote {
    Remote { listener: ListenerId(0), address: None, certificate: None }
}

#[cfg(test)]
mod tests {
    use octopus_engine::home_shard;
    use octopus_mqtt::{QoS, Version};

    use super::*;
    use crate::client::Client;

    /// A name with `prefix` that is at home on this shard of three.
    fn name_at(prefix: &str, shard: u16) -> String {
        let mut names = (0..).map(|n| format!("{prefix}-{n}"));
        names.find(|name| home_shard(name, 3, 1) == ShardId(shard)).expect("there are many")
    }

    /// If the live message could be seen before the retained one is at its home, somebody who
    /// subscribes next to one who saw it would get the old value, and never the new one.
    #[test]
    fn a_retained_message_is_at_its_home_before_anybody_sees_it() {
        let mut node = Node::new(&NodeConfig::new(3));
        let topic = name_at("topic", 2);
        let mut publisher = Client::clean(&mut node, Version::V5, &name_at("publisher", 0));
        let mut early = Client::clean(&mut node, Version::V5, &name_at("early", 1));
        let mut late = Client::clean(&mut node, Version::V5, &name_at("late", 1));
        publisher.retain(&mut node, &topic, "old");
        early.subscribe(&mut node, &topic, QoS::AtMostOnce);
        early.take_all(&mut node);
        // One turn of the publisher's shard, of which only the first parcel went out.
        let bytes = {
            let mut bytes = vec![0x31, (2 + topic.len() + 1 + 3) as u8, 0, topic.len() as u8];
            bytes.extend_from_slice(topic.as_bytes());
            bytes.extend_from_slice(b"\0new");
            bytes
        };
        node.send(publisher.socket, &bytes);
        node.take_bytes(publisher.socket, usize::MAX);
        node.carry_out(ShardId(0));
        let others = [ShardId(1), ShardId(2)];
        for shard in others {
            while node.take_envelope(shard) {}
            node.carry_out_all(shard);
        }
        let held = std::mem::take(&mut node.seats[0].outputs);
        late.subscribe(&mut node, &topic, QoS::AtMostOnce);
        node.seats[0].outputs = held;
        let seen = late.take_messages(&mut node);
        assert_eq!(seen.last().map(|(_, payload)| &**payload), Some("new"), "{seen:?}");
    }
}
