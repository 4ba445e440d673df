//! Connections with a stream stack: bytes up through it, buffers down through it, and its own
//! answers in between. The engine hears of such a connection once its layers are through.

use octopus_engine::{Input, LostCause, OutBuffer, Remote};

use super::{ConnectionId, Driver, Instant, OwnedFd, Phase, Service};
use crate::connections::Connection;
use crate::stream::{Checked, Flow, Refusal};

/// Clients whose certificates are held against new files in one turn: some milliseconds of
/// signatures at the most.
const RECHECK_WORK: u32 = 8;
/// Connections looked at for that in one turn.
const RECHECK_LOOKS: u32 = 4096;

impl<S: Service> Driver<S> {
    /// A connection was accepted here: with its layers, or at once without.
    pub(super) fn admit(&mut self, socket: OwnedFd, remote: Remote) {
        let stack = match self.acceptor.layers(remote.listener).stack(&remote) {
            Ok(stack) => stack,
            Err(refusal) => {
                self.refused_by_layer(&remote, refusal);
                self.census.leave(remote.listener);
                return;
            }
        };
        let id = self.connections.insert(socket, remote.listener, true);
        match self.connections.get(id) {
            Some(connection) if stack.is_some() => {
                connection.stack = stack;
                connection.phase = Phase::Layers;
                let deadline = self.now.after(self.acceptor.limits().connect_timeout);
                self.opening.push_back((deadline, id));
            }
            _ => self.service.handle(Input::Opened { connection: id, remote }, self.now),
        }
        self.receive(id);
    }

    /// Takes bytes that arrived in `buffer` up through the connection's stack.
    pub(super) fn received_through_layers(&mut self, id: ConnectionId, buffer: u16, len: usize) {
        let mut plain = std::mem::take(&mut self.plain);
        let Some(connection) = self.connections.get(id) else { return };
        let Some(stack) = &mut connection.stack else { return };
        let flow = stack.receive(self.ring.bytes(buffer, len), &mut plain);
        self.pass_up(id, flow, &plain);
        plain.clear();
        self.plain = plain;
    }

    /// Takes bytes up that were read from a connection before it came here.
    pub(super) fn unread_through_layers(&mut self, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.connections.get(id) else { return };
        let Some(stack) = &mut connection.stack else { return };
        let mut plain = Vec::new();
        let flow = stack.receive(bytes, &mut plain);
        self.pass_up(id, flow, &plain);
    }

    fn pass_up(&mut self, id: ConnectionId, flow: Result<Flow, Refusal>, plain: &[u8]) {
        let Some(connection) = self.connections.get(id) else { return };
        let Some(stack) = &connection.stack else { return };
        if matches!(connection.phase, Phase::Layers) && stack.is_open() {
            connection.phase = Phase::Open;
            let remote = stack.remote().clone();
            self.service.handle(Input::Opened { connection: id, remote }, self.now);
        }
        if connection.is_open() && !plain.is_empty() {
            self.service.handle(Input::Received { connection: id, bytes: plain }, self.now);
        }
        if connection.fresh {
            self.drain();
        }
        self.write_answers(id);
        match flow {
            Ok(Flow::Going) => {}
            Ok(Flow::Ended) => self.lost(id, LostCause::ClosedByPeer),
            Err(refusal) => self.refuse(id, refusal),
        }
    }

    /// Ends a connection that one of its layers has refused.
    fn refuse(&mut self, id: ConnectionId, refusal: Refusal) {
        let remote = self.connections.get(id).and_then(|connection| {
            let stack = connection.stack.as_ref().filter(|_| connection.is_live())?;
            Some(stack.remote().clone())
        });
        if let Some(remote) = remote {
            self.refused_by_layer(&remote, refusal);
            self.lost(id, LostCause::Layer);
        }
    }

    /// Holds a client's certificate against files that were read again.
    pub(super) fn recheck(&mut self, id: ConnectionId) -> Checked {
        let connection = self.connections.get(id).filter(|connection| connection.is_live());
        let checked = connection.and_then(|connection| Some(connection.stack.as_mut()?.recheck()));
        match checked {
            None => Checked::Before,
            Some(Ok(checked)) => checked,
            Some(Err(refusal)) => {
                self.refuse(id, refusal);
                Checked::Now
            }
        }
    }

    /// Goes on with [`Self::recheck`] over all connections, some in each turn.
    pub(super) fn recheck_some(&mut self) {
        let Some(first) = self.recheck_from.take() else { return };
        let (mut work_count, end) = (0, self.connections.slot_count());
        for slot in first..end.min(first.saturating_add(RECHECK_LOOKS)) {
            if work_count == RECHECK_WORK {
                self.recheck_from = Some(slot);
                return;
            }
            if let Some((id, _)) = self.connections.at(slot) {
                work_count += u32::from(self.recheck(id) == Checked::Now);
            }
        }
        self.recheck_from = Some(first.saturating_add(RECHECK_LOOKS)).filter(|next| *next < end);
    }

    /// Begins the next write of a connection with layers, unless one is in flight.
    pub(super) fn write_answers(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.write.is_some() || matches!(connection.phase, Phase::Leaving(_)) {
            return;
        }
        if let Some(wire) = connection.stack.as_mut().and_then(|stack| stack.next_write()) {
            connection.write = Some(self.ring.begin_write(wire));
            self.writes.push(id);
        }
    }

    /// Closes connections whose layers took too long.
    pub(super) fn end_late_layers(&mut self) {
        while let Some((at, id)) = self.opening.front().copied()
            && at <= self.now
        {
            self.opening.pop_front();
            let connection = self.connections.get(id);
            let connection =
                connection.filter(|connection| matches!(connection.phase, Phase::Layers));
            if let Some(stack) = connection.and_then(|connection| connection.stack.as_ref()) {
                let (remote, late) = (stack.remote().clone(), stack.late());
                self.refused_by_layer(&remote, late);
                self.close(id);
            }
        }
    }

    /// Closes connections that the engine does not know yet.
    pub(super) fn end_all_layers(&mut self) {
        for (_, id) in std::mem::take(&mut self.opening) {
            if self.is_in_layers(id) {
                self.close(id);
            }
        }
    }

    pub(super) fn layers_due_at(&self) -> Option<Instant> {
        self.opening.front().map(|(at, _)| *at)
    }

    fn is_in_layers(&mut self, id: ConnectionId) -> bool {
        let connection = self.connections.get(id);
        connection.is_some_and(|connection| matches!(connection.phase, Phase::Layers))
    }

    /// Counts a refusal; of each reason one a second has a line in the log.
    pub(super) fn refused_by_layer(&mut self, remote: &Remote, refusal: Refusal) {
        let Refusal { reason, why } = refusal;
        self.tally.layer_refused(reason);
        let Some(count) = self.layer_refusals[reason as usize].note(self.now) else { return };
        let address = remote.address.as_ref().map(tracing::field::display);
        let (shard, listener, reason) = (self.id.0, remote.listener.0, reason.label());
        tracing::warn!(shard, listener, address, reason, why, count, "refused below MQTT");
    }
}

/// Takes a buffer of the engine's down through the connection's layers; what is to be written
/// now, unless it has to wait for a write of the layers' own.
pub(super) fn pass_down(connection: &mut Connection, buffer: OutBuffer) -> Option<OutBuffer> {
    let is_writing = connection.write.is_some();
    connection.stack.take_if(|stack| !is_writing && stack.is_spent());
    match &mut connection.stack {
        Some(stack) => stack.send(buffer, is_writing),
        None => Some(buffer),
    }
}
