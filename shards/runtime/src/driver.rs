//! Drives one shard: takes what the ring and the mesh bring, feeds it to the service, carries
//! out what the service wants.
//!
//! One turn: reap completions, take parcels, let time pass, drain the service, push to the
//! mesh, then submit the writes and sleep. So whatever a turn sends to a peer is in the peer's
//! inbox before any byte of that turn reaches a client. Every loop in it is bounded: by what
//! was completed when the turn began, and by [`INBOX_BUDGET`].
//!
//! Connections whose listener has stream layers (PROXY protocol, TLS, WebSocket) pass through
//! `layers` on the way up and down; plain TCP pays one branch.

mod layers;

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use octopus_engine::{
    ConnectionId, Envelope, Input, Instant, LayerRefusal, ListenerId, LostCause, OutBuffer, Output,
    Peer, Remote, ShardId,
};
use octopus_mqtt::ReasonCode;
use socket2::SockRef;

use crate::accept::{Acceptor, Occasional};
use crate::census::{AcceptLimits, Census};
use crate::connections::{Connections, Leaving, Phase};
use crate::handoff::HandOff;
use crate::mesh::{Inbox, Pressure, Sender};
use crate::net::{Completion, Operation, Received, Ring, Sent, Token, WriteIndex};
use crate::notice;
use crate::service::Service;
use crate::tally::{Gauges, Tally};

/// Parcels taken from the inbox per turn.
const INBOX_BUDGET: usize = 64;

/// From Close, or from the loss of a peer, to the end of the socket at the latest: the time a
/// last write has to leave and its reader has to take it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a shard that holds its clients back looks whether its peers have caught up.
const PRESSURE_POLL: Duration = Duration::from_millis(1);

/// Time for the last completions after a stop's deadline.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(1);

/// What lies in a shard's inbox.
#[derive(Debug)]
pub(crate) enum Parcel {
    Envelopes {
        from: Peer,
        envelopes: Vec<Envelope>,
    },
    HandOff(Box<HandOff>),
    /// Certificates were read again: live clients are held against them.
    Recheck,
    /// These bound accepting from now on.
    Limits(AcceptLimits),
    Stop {
        reason: ReasonCode,
        deadline: Duration,
    },
}

/// What the hub finds in its inbox.
pub(crate) type HubParcel = (ShardId, Vec<Envelope>);

/// A shard's ends of the mesh.
pub(crate) struct MeshEnds {
    pub(crate) inbox: Inbox<Parcel>,
    /// By shard; its own included, for a service that sends to itself.
    pub(crate) shards: Vec<Sender<Parcel>>,
    pub(crate) hub: Sender<HubParcel>,
}

/// Scope: shard.
pub(crate) struct Driver<S> {
    id: ShardId,
    service: S,
    ring: Ring,
    mesh: MeshEnds,
    /// Envelopes of this turn by peer: the shards, then the hub.
    outgoing: Vec<Vec<Envelope>>,
    pressure: Pressure,
    /// Receive buffers kept from the kernel while the pressure is on.
    held: Vec<u16>,
    acceptor: Acceptor,
    tally: Tally,
    connections: Connections,
    /// Connections of the whole node.
    census: Arc<Census>,
    /// Writes of this turn, not yet submitted.
    writes: Vec<ConnectionId>,
    /// Receives that found no buffer, the longest waiting first.
    starved: VecDeque<ConnectionId>,
    /// Closing connections, soonest deadline first.
    closing: VecDeque<(Instant, ConnectionId)>,
    /// Connections in their layers, soonest deadline first.
    opening: VecDeque<(Instant, ConnectionId)>,
    /// By reason.
    layer_refusals: [Occasional; LayerRefusal::ALL.len()],
    /// The slot from which on clients' certificates have yet to be held against new files.
    recheck_from: Option<u32>,
    /// Scratch: what a stack makes of the bytes that arrived.
    plain: Vec<u8>,
    completions: Vec<Completion>,
    origin: std::time::Instant,
    now: Instant,
    sleep_max: Duration,
    /// Once stopping: when it must be over.
    stop_at: Option<Instant>,
}

/// What a driver is made of.
pub(crate) struct Parts<S> {
    pub(crate) id: ShardId,
    pub(crate) service: S,
    pub(crate) ring: Ring,
    pub(crate) mesh: MeshEnds,
    pub(crate) acceptor: Acceptor,
    pub(crate) census: Arc<Census>,
    /// The node's start: zero of every `Instant`.
    pub(crate) origin: std::time::Instant,
    pub(crate) sleep_max: Duration,
}

impl<S: Service> Driver<S> {
    pub(crate) fn new(parts: Parts<S>) -> Self {
        let peers = parts.mesh.shards.len() + 1;
        let mut driver = Self {
            id: parts.id,
            service: parts.service,
            ring: parts.ring,
            mesh: parts.mesh,
            outgoing: std::iter::repeat_with(Vec::new).take(peers).collect(),
            pressure: Pressure::default(),
            held: Vec::new(),
            acceptor: parts.acceptor,
            tally: Tally::default(),
            connections: Connections::default(),
            census: parts.census,
            writes: Vec::new(),
            starved: VecDeque::new(),
            closing: VecDeque::new(),
            opening: VecDeque::new(),
            layer_refusals: Default::default(),
            recheck_from: None,
            plain: Vec::new(),
            completions: Vec::new(),
            origin: parts.origin,
            now: Instant::default(),
            sleep_max: parts.sleep_max,
            stop_at: None,
        };
        driver.watch();
        driver.acceptor.arm(&mut driver.ring);
        driver
    }

    /// One turn of the loop; false when the shard has stopped.
    ///
    /// # Errors
    /// If the ring itself fails; the shard cannot go on then.
    pub(crate) fn turn(&mut self) -> io::Result<bool> {
        self.sleep()?;
        self.read_clock();
        self.reap();
        self.take_parcels();
        self.pass_time();
        self.drain();
        self.flush_mesh();
        self.submit_writes();
        self.relieve();
        let busy = self.origin.elapsed().saturating_sub(self.now.since(Instant::default()));
        self.tally.turn(self.now, busy, self.pressure.is_held());
        Ok(!self.has_stopped())
    }

    /// Submits, and sleeps until something comes or is due.
    fn sleep(&mut self) -> io::Result<()> {
        let timeout = self.sleep_time();
        if timeout.is_zero() || !self.mesh.inbox.falls_asleep() {
            return self.ring.wait(Duration::ZERO);
        }
        let woken = self.ring.wait(timeout);
        self.mesh.inbox.wakes_up();
        woken
    }

    fn sleep_time(&self) -> Duration {
        if !self.mesh.inbox.is_empty() || self.recheck_from.is_some() {
            return Duration::ZERO;
        }
        let due = [
            self.service.next_timeout(),
            self.closing.front().map(|(at, _)| *at),
            self.layers_due_at(),
            self.acceptor.retry_at(),
            self.stop_at,
        ];
        let due = due.into_iter().flatten().map(|at| at.since(self.now)).min();
        let limit = if self.pressure.is_held() { PRESSURE_POLL } else { self.sleep_max };
        due.map_or(limit, |due| due.min(limit))
    }

    fn read_clock(&mut self) {
        self.now = Instant::default().after(self.origin.elapsed());
    }

    fn reap(&mut self) {
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.completions(&mut completions);
        for completion in completions.drain(..) {
            match completion.token.operation {
                Operation::Receive => self.received(completion),
                Operation::Send => self.sent(completion),
                Operation::Accept => self.accepted(completion),
                Operation::Wake if !completion.more() && self.stop_at.is_none() => self.watch(),
                Operation::CancelReceive if completion.missed() => self.cancel_missed(completion),
                Operation::Wake | Operation::CancelReceive | Operation::Cancel => {}
            }
        }
        self.completions = completions;
    }

    fn watch(&mut self) {
        if let Some(wake) = self.mesh.inbox.wake() {
            self.ring.watch(wake.as_fd());
        }
    }

    fn accepted(&mut self, completion: Completion) {
        let Some((listener, socket)) = self.acceptor.accepted(completion, self.now) else { return };
        if let Err(full) = self.census.enter(listener, self.acceptor.limits()) {
            self.acceptor.refused(listener, full, self.now);
            self.tally.refused();
            return;
        }
        self.tally.accepted();
        let remote = remote(&socket, listener);
        self.admit(socket, remote);
    }

    /// Asks for bytes, unless they are on their way or not wanted.
    fn receive(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.is_live() && !connection.receiving && !connection.paused {
            connection.receiving = true;
            self.ring.receive(connection.socket(), id.slot);
        }
    }

    fn received(&mut self, completion: Completion) {
        let slot = completion.token.slot;
        let Some((id, connection)) = self.connections.at(slot) else { return };
        connection.receiving = completion.more();
        match completion.received() {
            Received::Bytes { buffer, len } => {
                let (fresh, has_layers) = (connection.fresh, connection.stack.is_some());
                let bytes = self.ring.bytes(buffer, len);
                match &mut connection.phase {
                    Phase::Open | Phase::Layers if has_layers => {
                        self.received_through_layers(id, buffer, len);
                    }
                    Phase::Open | Phase::Layers => {
                        let input = Input::Received { connection: id, bytes };
                        self.service.handle(input, self.now);
                    }
                    Phase::Leaving(leaving) if has_layers => leaving.raw.extend_from_slice(bytes),
                    Phase::Leaving(leaving) => leaving.unread.extend_from_slice(bytes),
                    Phase::Closing => {}
                }
                self.give_back(buffer);
                // The service may have let go of it: what this turn still brings must not go
                // there any more but along with the hand-off.
                if fresh {
                    self.drain();
                }
            }
            Received::NoBuffers => {
                self.starved.push_back(id);
                return self.settle(id);
            }
            Received::End => self.lost(id, LostCause::ClosedByPeer),
            Received::Failed(error) => {
                tracing::debug!(slot, %error, "receive failed");
                self.lost(id, LostCause::Error);
            }
            Received::Cancelled => {}
        }
        if !completion.more() {
            self.receive(id);
            self.settle(id);
        }
    }

    fn give_back(&mut self, buffer: u16) {
        if self.pressure.is_held() {
            self.held.push(buffer);
        } else {
            self.ring.give_back(buffer);
        }
    }

    fn sent(&mut self, completion: Completion) {
        let slot = completion.token.slot;
        let Some((id, connection)) = self.connections.at(slot) else { return };
        let Some(write) = connection.write else { return };
        match self.ring.sent(completion, write) {
            Sent::Part => self.ring.send(connection.socket(), slot, write),
            Sent::All => self.written(id, write),
            Sent::Failed(error) => {
                tracing::debug!(slot, %error, "send failed");
                connection.write = None;
                connection.stack = None;
                self.ring.finish_write(write);
                self.lost(id, LostCause::Error);
                self.shut(id, Shutdown::Both);
                self.settle(id);
            }
        }
    }

    /// All of a write is with the kernel. If that was the last one, the peer is told, and its
    /// own end ends the connection.
    fn written(&mut self, id: ConnectionId, write: WriteIndex) {
        let Some(connection) = self.connections.get(id) else { return };
        connection.write = None;
        let buffer = self.ring.finish_write(write);
        let is_engines = connection.stack.as_ref().is_none_or(|stack| !stack.writes_answer());
        if connection.is_open() && is_engines {
            self.service.handle(Input::Written { connection: id, buffer }, self.now);
        }
        self.write_answers(id);
        let Some(connection) = self.connections.get(id) else { return };
        let is_closing = matches!(connection.phase, Phase::Closing);
        if is_closing && connection.write.is_none() && connection.receiving {
            self.shut(id, Shutdown::Write);
        }
        self.settle(id);
    }

    /// The connection ended by itself: the engine is told, if it still cares.
    fn lost(&mut self, id: ConnectionId, cause: LostCause) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.is_open() {
            self.service.handle(Input::Lost { connection: id, cause }, self.now);
        }
        self.close(id);
    }

    /// Ends a connection that the engine has forgotten: at once, or after the write in flight.
    fn close(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if !connection.is_live() {
            return;
        }
        connection.phase = Phase::Closing;
        if let Some(stack) = &mut connection.stack {
            stack.close();
            self.write_answers(id);
        }
        let Some(connection) = self.connections.get(id) else { return };
        if connection.write.is_none() {
            self.shut(id, Shutdown::Both);
        } else {
            self.closing.push_back((self.now.after(CLOSE_TIMEOUT), id));
        }
        self.settle(id);
    }

    fn shut(&mut self, id: ConnectionId, how: Shutdown) {
        if let Some(connection) = self.connections.get(id) {
            // Fails only if the peer was faster, and then there is nothing left to shut.
            let _ = SockRef::from(&connection.socket).shutdown(how);
        }
    }

    /// Moves or frees a connection whose requests have ended, if it is about to go.
    fn settle(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.is_live() || !connection.is_quiet() {
            return;
        }
        let Some(connection) = self.connections.remove(id.slot) else { return };
        match connection.phase {
            Phase::Leaving(leaving) => {
                let Some(peer) = self.mesh.shards.get(usize::from(leaving.to.0)) else { return };
                let Leaving { unread, raw, .. } = *leaving;
                let (socket, listener) = (connection.socket, connection.listener);
                let stack = connection.stack;
                let handoff = HandOff { socket, listener, unread, stack, raw };
                peer.push(1, Parcel::HandOff(Box::new(handoff)));
            }
            Phase::Open | Phase::Layers | Phase::Closing => {
                self.census.leave(connection.listener);
            }
        }
    }

    fn take_parcels(&mut self) {
        for _ in 0..INBOX_BUDGET {
            let Some(parcel) = self.mesh.inbox.try_take() else { return };
            match parcel {
                Parcel::Envelopes { from, envelopes } => {
                    for envelope in envelopes {
                        self.service.handle(Input::Envelope { from, envelope }, self.now);
                    }
                }
                Parcel::HandOff(handoff) => self.arrive(*handoff),
                Parcel::Recheck => self.recheck_from = Some(0),
                Parcel::Limits(limits) => self.acceptor.set_limits(limits),
                Parcel::Stop { reason, deadline } => self.stop(reason, deadline),
            }
        }
    }

    /// Takes in a connection that another shard accepted.
    fn arrive(&mut self, handoff: HandOff) {
        if self.stop_at.is_some() {
            return self.census.leave(handoff.listener);
        }
        let HandOff { socket, listener, unread, mut stack, raw } = handoff;
        let told = stack.as_ref().map(|stack| stack.remote().clone());
        let remote = told.unwrap_or_else(|| remote(&socket, listener));
        // On its way it was in no shard's hands when all were told to look at certificates.
        if let Some(Err(refusal)) = stack.as_mut().map(|stack| stack.recheck()) {
            self.refused_by_layer(&remote, refusal);
            return self.census.leave(listener);
        }
        let id = self.connections.insert(socket, listener, false);
        if let Some(connection) = self.connections.get(id) {
            connection.stack = stack;
        }
        self.service.handle(Input::Opened { connection: id, remote }, self.now);
        if !unread.is_empty() {
            self.service.handle(Input::Received { connection: id, bytes: &unread }, self.now);
        }
        self.unread_through_layers(id, &raw);
        self.receive(id);
    }

    fn pass_time(&mut self) {
        if self.service.next_timeout().is_some_and(|at| at <= self.now) {
            self.service.handle(Input::Tick, self.now);
        }
        while let Some((at, id)) = self.closing.front().copied()
            && at <= self.now
        {
            self.closing.pop_front();
            self.shut(id, Shutdown::Both);
        }
        self.end_late_layers();
        self.recheck_some();
        if self.stop_at.is_none() {
            self.acceptor.retry(&mut self.ring, self.now);
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.service.poll() {
            match output {
                Output::Write { connection, buffer } => self.begin_write(connection, buffer),
                Output::Send { to, envelope } => self.send(to, envelope),
                Output::PauseReading { connection } => self.pause(connection),
                Output::ResumeReading { connection } => self.resume(connection),
                Output::Close { connection } => self.close(connection),
                Output::HandOff { connection, to, unread } => {
                    self.leave(connection, Leaving { to, unread, raw: Vec::new() });
                }
                Output::Notice(notice) => notice::log(self.id, &notice),
            }
        }
    }

    fn begin_write(&mut self, id: ConnectionId, buffer: OutBuffer) {
        let Some(connection) = self.connections.get(id) else { return };
        if !connection.is_open() {
            return;
        }
        connection.fresh = false;
        let buffer = if connection.stack.is_none() {
            debug_assert!(connection.write.is_none(), "one write per connection at a time");
            buffer
        } else {
            let Some(wire) = layers::pass_down(connection, buffer) else { return };
            wire
        };
        connection.write = Some(self.ring.begin_write(buffer));
        self.writes.push(id);
    }

    fn send(&mut self, to: Peer, mut envelope: Envelope) {
        if let Envelope::Stats(stats) = &mut envelope {
            stats.driver = self.tally.read(&self.gauges());
        }
        let peer = match to {
            Peer::Shard(shard) => usize::from(shard.0),
            Peer::Hub => self.mesh.shards.len(),
        };
        // A retained message must be at its home before any other shard sees it published, or a
        // client there could subscribe and get the one before. So it goes ahead, behind all
        // that came before it.
        let goes_ahead = matches!(envelope, Envelope::Retain(_));
        if goes_ahead {
            self.flush_mesh();
        }
        self.outgoing[peer].push(envelope);
        if goes_ahead {
            self.flush_mesh();
        }
    }

    fn gauges(&self) -> Gauges {
        let backlogs = self.mesh.shards.iter().map(Sender::backlog_count);
        Gauges {
            sockets: self.connections.count(),
            accept_errors: self.acceptor.failure_count(),
            accepts_paced: self.acceptor.paced_count(),
            ring_depth: self.ring.in_flight_count(),
            mesh_backlog: backlogs.chain([self.mesh.hub.backlog_count()]).max().unwrap_or(0),
        }
    }

    fn pause(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        connection.paused = true;
        if connection.receiving {
            self.ring.cancel(Token::new(Operation::Receive, id.slot));
        }
    }

    /// If the receive that `pause` cancelled has not ended yet, its end starts the next one.
    fn resume(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        connection.paused = false;
        self.receive(id);
    }

    /// Cancels again if the receive still goes on and still should not.
    fn cancel_missed(&mut self, completion: Completion) {
        let slot = completion.token.slot;
        let Some((_, connection)) = self.connections.at(slot) else { return };
        let unwanted = match connection.phase {
            Phase::Open | Phase::Layers => connection.paused,
            Phase::Leaving(_) => true,
            Phase::Closing => false,
        };
        if connection.receiving && unwanted {
            self.ring.cancel(Token::new(Operation::Receive, slot));
        }
    }

    fn leave(&mut self, id: ConnectionId, leaving: Leaving) {
        let Some(connection) = self.connections.get(id) else { return };
        connection.phase = Phase::Leaving(Box::new(leaving));
        if connection.receiving {
            self.ring.cancel(Token::new(Operation::Receive, id.slot));
        }
        self.settle(id);
    }

    /// One parcel per peer and turn.
    fn flush_mesh(&mut self) {
        let mut backlog_count = 0;
        let (hub, shards) = self.outgoing.split_last_mut().expect("the hub is always there");
        for (envelopes, peer) in shards.iter_mut().zip(&self.mesh.shards) {
            if !envelopes.is_empty() {
                let envelopes = std::mem::take(envelopes);
                let from = Peer::Shard(self.id);
                let weight = envelopes.iter().map(Envelope::weight).sum();
                peer.push(weight, Parcel::Envelopes { from, envelopes });
                backlog_count = backlog_count.max(peer.backlog_count());
            }
        }
        if !hub.is_empty() {
            self.mesh.hub.push(hub.len(), (self.id, std::mem::take(hub)));
            backlog_count = backlog_count.max(self.mesh.hub.backlog_count());
        }
        if self.pressure.is_held() {
            let shards = self.mesh.shards.iter().map(Sender::backlog_count);
            backlog_count = shards.chain([self.mesh.hub.backlog_count()]).max().unwrap_or(0);
        }
        self.pressure.update(backlog_count);
    }

    fn submit_writes(&mut self) {
        for id in self.writes.drain(..) {
            if let Some(connection) = self.connections.get(id)
                && let Some(write) = connection.write
            {
                self.ring.send(connection.socket(), id.slot, write);
            }
        }
    }

    /// Lets clients be read again, once no peer is far behind: buffers first, then the
    /// receives that ran out of them.
    fn relieve(&mut self) {
        if self.pressure.is_held() {
            return;
        }
        for buffer in self.held.drain(..) {
            self.ring.give_back(buffer);
        }
        while let Some(id) = self.starved.pop_front() {
            self.receive(id);
        }
    }

    fn stop(&mut self, reason: ReasonCode, deadline: Duration) {
        if self.stop_at.is_some() {
            return;
        }
        self.stop_at = Some(self.now.after(deadline));
        self.acceptor.stop(&mut self.ring);
        self.end_all_layers();
        self.service.handle(Input::Stop { reason }, self.now);
    }

    fn has_stopped(&self) -> bool {
        self.stop_at.is_some_and(|at| at <= self.now || self.connections.is_empty())
    }

    /// After the last turn: ends every request that is left, so that the ring can give its
    /// memory back.
    ///
    /// # Errors
    /// If the ring itself fails.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.ring.cancel(Token::new(Operation::Wake, 0));
        for connection in self.connections.iter() {
            let _ = SockRef::from(&connection.socket).shutdown(Shutdown::Both);
        }
        let end = std::time::Instant::now() + ABANDON_TIMEOUT;
        while self.ring.in_flight_count() > 0 && std::time::Instant::now() < end {
            self.ring.wait(Duration::from_millis(10))?;
            self.completions.clear();
            self.ring.completions(&mut self.completions);
        }
        Ok(())
    }
}

/// Who is at the other end, as the socket tells.
fn remote(socket: &OwnedFd, listener: ListenerId) -> Remote {
    let address = SockRef::from(socket).peer_addr().ok().and_then(|peer| peer.as_socket());
    Remote { listener, address, certificate: None }
}
