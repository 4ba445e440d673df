//! One thread's clients and the loop that serves them.
//!
//! A turn of the loop: wait, read every socket that has something, put due messages and refills
//! behind the acknowledgements already written, then one write per connection.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use crate::{
    connection::{Connection, Failure, Role, State},
    context::{Context, Phase, Shared},
    net::{self, Poll, Ready},
    plan::{Cause, Plan, Spread},
    publisher::Publisher,
    stats::Stats,
    subscriber::Subscriber,
    system,
    tls::Tls,
    wire,
};

/// One thread of a run.
pub(crate) struct Worker {
    context: Context,
    poll: Poll,
    /// In the order publishers, subscribers, idle; `None` once ended.
    connections: Vec<Option<Connection>>,
    /// Clients of this thread that are still to be connected, last first.
    waiting: Vec<usize>,
    failed: u64,
    ended: u64,
    buffer: Vec<u8>,
    dirty: Vec<usize>,
    /// Connections that had more to read than one turn's budget.
    unread: Vec<usize>,
    next_connect_ns: u64,
    next_housekeeping_ns: u64,
    schedule: Option<Schedule>,
}

/// Messages at a rate, handed to the publishers of this thread in turn.
struct Schedule {
    interval_ns: f64,
    start_ns: u64,
    count: u64,
}

impl Schedule {
    fn next_ns(&self) -> u64 {
        self.start_ns + (self.count as f64 * self.interval_ns) as u64
    }
}

const BUFFER_BYTES: usize = 256 << 10;
/// Reads of one connection in one turn, so that a flooded one does not starve the others.
const READS_PER_TURN: usize = 16;
/// How late a worker may notice a new phase.
const TURN_MAX: Duration = Duration::from_millis(20);
const HOUSEKEEPING_NS: u64 = 1_000_000_000;
/// From `connect` until CONNACK and SUBACK, and from one SUBACK to the next.
const READY_TIMEOUT_NS: u64 = 15_000_000_000;

impl Worker {
    /// # Errors
    /// If the epoll set cannot be made.
    pub(crate) fn new(plan: &Arc<Plan>, shared: &Arc<Shared>, worker: usize) -> io::Result<Self> {
        let clients = clients_of(plan, worker);
        let context = Context::new(plan, shared, worker);
        Ok(Self {
            context,
            poll: Poll::new()?,
            connections: Vec::with_capacity(clients.len()),
            waiting: clients.into_iter().rev().collect(),
            failed: 0,
            ended: 0,
            buffer: vec![0; BUFFER_BYTES],
            dirty: Vec::new(),
            unread: Vec::new(),
            next_connect_ns: 0,
            next_housekeeping_ns: 0,
            schedule: None,
        })
    }

    /// Serves the clients until the coordinator says stop, then disconnects them.
    ///
    /// # Errors
    /// If waiting for events fails; what happens to single connections is counted instead.
    pub(crate) fn run(mut self) -> io::Result<Stats> {
        while self.context.phase < Phase::Stop {
            self.follow_phase();
            self.open_connections();
            let events = self.poll.wait(self.timeout())?;
            self.context.now = system::now_ns();
            for at in 0..events {
                self.handle_ready(self.poll.event(at));
            }
            for index in std::mem::take(&mut self.unread) {
                self.serve(index, |connection, context, buffer| {
                    read(connection, context, buffer, Until::Empty)
                });
            }
            self.make_due();
            self.refill();
            self.flush();
            if self.context.now >= self.next_housekeeping_ns {
                self.keep_house();
            }
            self.show_progress();
        }
        Ok(self.finish())
    }

    fn follow_phase(&mut self) {
        let phase = self.context.shared.phase();
        if phase == self.context.phase {
            return;
        }
        self.context.phase = phase;
        self.context.now = system::now_ns();
        let replay_of = self.context.plan.replay.map(|replay| replay.caused_by);
        if phase == Phase::Measure && replay_of == Some(Cause::Subscribe) {
            self.serve_all(|connection, context| connection.subscribe(context));
        }
        if self.context.may_send() {
            self.start_schedule();
            self.context.freed.extend(0..self.publishers());
        }
    }

    fn start_schedule(&mut self) {
        let plan = &self.context.plan;
        let share = self.publishers() as f64 / plan.publishers.max(1) as f64;
        let Some(rate) = plan.rate.map(|rate| rate * share).filter(|&rate| rate > 0.0) else {
            return;
        };
        let interval_ns = 1e9 / rate;
        let start_ns = self.context.now;
        self.schedule.get_or_insert(Schedule { interval_ns, start_ns, count: 0 });
    }

    /// Publishers of this thread: the first of its connections.
    fn publishers(&self) -> usize {
        share_of(self.context.plan.publishers, self.context.plan.threads, self.context.worker)
    }

    fn timeout(&self) -> Duration {
        if !self.context.freed.is_empty() || !self.unread.is_empty() {
            return Duration::ZERO;
        }
        let now = system::now_ns();
        let mut timeout = TURN_MAX;
        if self.credit_comes_from_elsewhere() {
            timeout = Duration::from_millis(1);
        }
        if let Some(schedule) = self.schedule.as_ref().filter(|_| self.context.may_send()) {
            timeout = timeout.min(Duration::from_nanos(schedule.next_ns().saturating_sub(now)));
        }
        if self.context.phase == self.context.plan.connect_phase()
            && !self.waiting.is_empty()
            && self.context.connecting < self.connect_window()
        {
            let wait_ns = self.next_connect_ns.saturating_sub(now);
            timeout = timeout.min(Duration::from_nanos(wait_ns));
        }
        timeout
    }

    /// Whether other threads' subscribers make room for our publishers; they cannot wake us.
    fn credit_comes_from_elsewhere(&self) -> bool {
        let plan = &self.context.plan;
        plan.threads > 1
            && matches!(plan.spread, Spread::All | Spread::Group)
            && self.publishers() > 0
            && self.context.may_send()
    }

    fn connect_window(&self) -> usize {
        self.context.plan.connect_window.div_ceil(self.context.plan.threads)
    }

    fn open_connections(&mut self) {
        while self.context.connecting < self.connect_window()
            && self.context.phase == self.context.plan.connect_phase()
        {
            let now = system::now_ns();
            let interval_ns = self.context.plan.connect_interval.as_nanos() as u64;
            if interval_ns > 0 && now < self.next_connect_ns {
                return;
            }
            let Some(number) = self.waiting.pop() else { return };
            self.next_connect_ns =
                self.next_connect_ns.max(now.saturating_sub(interval_ns)) + interval_ns;
            self.open(number, now);
        }
    }

    fn open(&mut self, number: usize, now: u64) {
        let plan = &self.context.plan;
        let index = self.connections.len();
        let node = plan.node_of(number);
        let opened = role_of(plan, number).map_err(Failure::Topic).and_then(|role| {
            let socket = net::start_connect(node, number)?;
            self.poll.add(&socket, index)?;
            let tls = plan.tls.as_ref().map(|config| Tls::new(config, node)).transpose()?;
            Ok(Connection::new(number, socket, tls, role, now))
        });
        match opened {
            Ok(connection) => {
                self.connections.push(Some(connection));
                self.context.connecting += 1;
            }
            Err(failure) => {
                self.connections.push(None);
                self.failed += 1;
                self.ended += 1;
                self.context.stats.count_error(failure.to_string());
            }
        }
    }

    fn handle_ready(&mut self, ready: Ready) {
        self.serve(ready.index, |connection, context, buffer| {
            if ready.writable && connection.write_blocked {
                connection.handle_writable(context)?;
            }
            let until = if ready.closing { Until::Empty } else { Until::Short };
            if ready.readable { read(connection, context, buffer, until) } else { Ok(true) }
        });
    }

    /// Lets `act` work on one connection, then sees to what is left: more to read, something to
    /// write, more to publish, or the end.
    fn serve(
        &mut self,
        index: usize,
        act: impl FnOnce(&mut Connection, &mut Context, &mut Vec<u8>) -> Result<bool, Failure>,
    ) {
        let Some(connection) = &mut self.connections[index] else { return };
        match act(connection, &mut self.context, &mut self.buffer) {
            Ok(read_all) => {
                if !read_all {
                    self.unread.push(index);
                }
                let has_more = !connection.out.is_empty() || connection.is_waiting();
                if has_more && !connection.is_dirty {
                    connection.is_dirty = true;
                    self.dirty.push(index);
                }
                if matches!(connection.role, Role::Publisher(_)) {
                    self.context.freed.push(index);
                }
            }
            Err(failure) => self.end(index, &failure),
        }
    }

    fn serve_all(&mut self, act: impl Fn(&mut Connection, &mut Context) -> Result<(), Failure>) {
        for index in 0..self.connections.len() {
            self.serve(index, |connection, context, _| act(connection, context).map(|()| true));
        }
    }

    /// Counts the failure and forgets the connection.
    fn end(&mut self, index: usize, failure: &Failure) {
        let Some(connection) = self.connections[index].take() else { return };
        self.context.stats.count_error(failure.to_string());
        self.take_in(&connection);
        if matches!(connection.state, State::Connecting | State::AwaitConnAck) {
            self.context.connecting -= 1;
        }
        if connection.state != State::Ready {
            self.failed += 1;
        }
    }

    /// Hands each message that is due to the next publisher.
    fn make_due(&mut self) {
        let publishers = self.publishers();
        if !self.context.may_send() {
            return;
        }
        let Some(schedule) = &mut self.schedule else { return };
        while schedule.next_ns() <= self.context.now {
            let (due_ns, index) = (schedule.next_ns(), schedule.count as usize % publishers);
            schedule.count += 1;
            if let Some(Connection { role: Role::Publisher(publisher), .. }) =
                &mut self.connections[index]
            {
                publisher.make_due(due_ns);
                self.context.freed.push(index);
            }
        }
    }

    /// Lets publishers that may have room publish.
    fn refill(&mut self) {
        if self.credit_comes_from_elsewhere() {
            self.context.freed.extend(0..self.publishers());
        }
        let mut freed = std::mem::take(&mut self.context.freed);
        for index in freed.drain(..) {
            let Some(Some(connection)) = self.connections.get_mut(index) else { continue };
            if connection.state != State::Ready || connection.write_blocked {
                continue;
            }
            let Role::Publisher(publisher) = &mut connection.role else { continue };
            publisher.fill(&mut connection.out, &mut self.context);
            if !connection.out.is_empty() && !connection.is_dirty {
                connection.is_dirty = true;
                self.dirty.push(index);
            }
        }
        self.context.freed = freed;
    }

    fn flush(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            let Some(connection) = &mut self.connections[index] else { continue };
            connection.is_dirty = false;
            if let Err(failure) = connection.flush(self.context.now) {
                self.end(index, &failure);
                continue;
            }
            match &connection.role {
                Role::Publisher(publisher) if publisher.wants_more && !connection.write_blocked => {
                    self.context.freed.push(index);
                }
                _ => {}
            }
        }
        self.dirty = dirty;
    }

    /// Once a second: pings, clients that never get ready, publishers held up by losses.
    fn keep_house(&mut self) {
        let now = self.context.now;
        self.next_housekeeping_ns = now + HOUSEKEEPING_NS;
        let ping_after_ns = u64::from(self.context.plan.keep_alive_s) * 750_000_000;
        self.serve_all(|connection, context| {
            if connection.state != State::Ready {
                let in_time = now < connection.moved_ns + READY_TIMEOUT_NS;
                return if in_time { Ok(()) } else { Err(Failure::TimedOut) };
            }
            if ping_after_ns > 0 && now > connection.last_sent_ns + ping_after_ns {
                wire::ping(context.plan.version, &mut connection.out);
            }
            if let Role::Publisher(publisher) = &mut connection.role {
                publisher.forgive_stall(context);
            }
            Ok(())
        });
    }

    fn show_progress(&self) {
        let progress = &self.context.shared.progress[self.context.worker];
        let open = self.connections.len() as u64 - self.ended;
        progress.settled.store(self.context.ready + self.failed, Relaxed);
        progress.open.store(open, Relaxed);
        progress.sent.store(self.context.stats.sent, Relaxed);
        progress.received.store(self.context.stats.received, Relaxed);
        progress.acknowledged.store(self.context.acknowledged, Relaxed);
        if self.context.plan.limit.is_some() {
            progress.finished.store(self.finished_publishers() as u64, Relaxed);
        }
    }

    /// Publishers that will send no more: at the run's limit, or ended.
    fn finished_publishers(&self) -> usize {
        let is_finished = |connection: &Connection| match &connection.role {
            Role::Publisher(publisher) => publisher.is_finished(),
            _ => false,
        };
        let publishers = self.connections.iter().take(self.publishers());
        publishers.filter(|connection| connection.as_ref().is_none_or(is_finished)).count()
    }

    fn take_in(&mut self, connection: &Connection) {
        let stats = &mut self.context.stats;
        self.ended += 1;
        stats.unacknowledged += connection.unacknowledged(self.context.plan.qos) as u64;
        if let Role::Subscriber(subscriber) = &connection.role {
            stats.missing += subscriber.missing();
        }
    }

    fn finish(mut self) -> Stats {
        self.context.now = system::now_ns();
        for index in 0..self.connections.len() {
            let Some(mut connection) = self.connections[index].take() else { continue };
            wire::disconnect(self.context.plan.version, &mut connection.out);
            // The run is over: a broker that does not take the goodbye is no failure.
            let _ = connection.flush(self.context.now);
            self.take_in(&connection);
        }
        self.context.stats
    }
}

/// When a socket is known to have no more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// A read came back short: what comes later makes a new event.
    Short,
    /// A read found nothing. Needed once the peer has closed: its end of stream may stand right
    /// behind what a short read returned, and no event follows.
    Empty,
}

/// Reads until the socket has no more, or the turn's budget is used up (`Ok(false)`).
fn read(
    connection: &mut Connection,
    context: &mut Context,
    buffer: &mut Vec<u8>,
    until: Until,
) -> Result<bool, Failure> {
    for _ in 0..READS_PER_TURN {
        let begun = connection.partial.len();
        if buffer.len() < begun + BUFFER_BYTES {
            buffer.resize(begun + BUFFER_BYTES, 0);
        }
        let Some(length) = connection.read(&mut buffer[begun..])? else {
            return Ok(true);
        };
        if length == 0 {
            return Err(Failure::Closed);
        }
        buffer[..begun].copy_from_slice(&connection.partial);
        let filled = begun + length;
        context.now = system::now_ns();
        let used = connection.handle_bytes(&buffer[..filled], context)?;
        connection.partial.clear();
        connection.partial.extend_from_slice(&buffer[used..filled]);
        if filled < buffer.len() && until == Until::Short && connection.reads_all_at_once() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How many of `count` clients thread `worker` of `threads` has.
fn share_of(count: usize, threads: usize, worker: usize) -> usize {
    (count + threads - 1 - worker) / threads
}

/// The numbers of a thread's clients: of each role every `threads`-th, so that the two of a
/// pair are together.
fn clients_of(plan: &Plan, worker: usize) -> Vec<usize> {
    let starts = [0, plan.publishers, plan.publishers + plan.subscribers];
    let counts = [plan.publishers, plan.subscribers, plan.idle];
    let roles = starts.into_iter().zip(counts);
    roles.flat_map(|(start, count)| (start + worker..start + count).step_by(plan.threads)).collect()
}

fn role_of(plan: &Plan, number: usize) -> Result<Role, String> {
    let Some(beyond) = number.checked_sub(plan.publishers) else {
        return Ok(Role::Publisher(Box::new(Publisher::new(plan, number)?)));
    };
    if beyond < plan.subscribers {
        return Ok(Role::Subscriber(Box::new(Subscriber::new(beyond))));
    }
    Ok(Role::Idle)
}
