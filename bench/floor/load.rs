//! The load: clients on one thread, that keep a number of messages in flight or a rate.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use crate::Error;
use crate::net::{self, Poll};
use crate::relay::HELLO_BYTES;

/// One row of the table.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    groups: u32,
    subscribers_per_group: u32,
    message_bytes: usize,
    pace: Pace,
}

#[derive(Clone, Copy)]
enum Pace {
    /// As fast as this many messages per publisher in flight allow.
    Window(u64),
    /// Messages per second of all publishers together, in turn.
    Rate(u64),
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    pairs("pairs-16", Pace::Window(16)),
    pairs("pairs-1", Pace::Window(1)),
    pairs("pairs-20k/s", Pace::Rate(20_000)),
    pairs("pairs-1k/s", Pace::Rate(1000)),
    Scenario {
        name: "fan-out-500",
        groups: 1,
        subscribers_per_group: 500,
        message_bytes: 100,
        pace: Pace::Window(4),
    },
    Scenario {
        name: "pairs-4KiB",
        groups: 50,
        subscribers_per_group: 1,
        message_bytes: 4096,
        pace: Pace::Window(8),
    },
];

const fn pairs(name: &'static str, pace: Pace) -> Scenario {
    Scenario { name, groups: 50, subscribers_per_group: 1, message_bytes: 100, pace }
}

struct Client {
    socket: OwnedFd,
    group: usize,
}

/// What a group's publisher has sent and its subscribers have got, in messages.
#[derive(Clone, Copy, Default)]
struct Group {
    sent_count: u64,
    received_bytes: u64,
}

/// All clients of one run. Publishers first, by group.
pub(crate) struct Load {
    poll: Poll,
    clients: Vec<Client>,
    groups: Vec<Group>,
    subscribers_per_group: u64,
    message: Vec<u8>,
    pace: Pace,
    /// Publishers that may have room in their window.
    hungry: Vec<usize>,
    next_publisher: usize,
    received_bytes: u64,
    read_buffer: Vec<u8>,
}

impl Load {
    pub(crate) fn connect(server: SocketAddr, scenario: &Scenario) -> Result<Self, Error> {
        let mut load = Self {
            poll: Poll::new()?,
            clients: Vec::new(),
            groups: vec![Group::default(); scenario.groups as usize],
            subscribers_per_group: scenario.subscribers_per_group.into(),
            message: vec![b'.'; scenario.message_bytes],
            pace: scenario.pace,
            hungry: (0..scenario.groups as usize).collect(),
            next_publisher: 0,
            received_bytes: 0,
            read_buffer: vec![0; 256 << 10],
        };
        for group in 0..scenario.groups {
            load.add(server, b'p', group)?;
        }
        for group in 0..scenario.groups {
            for _ in 0..scenario.subscribers_per_group {
                load.add(server, b's', group)?;
            }
        }
        // The server reads the hellos in no order: give it the time to know every subscriber.
        std::thread::sleep(Duration::from_millis(100));
        Ok(load)
    }

    fn add(&mut self, server: SocketAddr, role: u8, group: u32) -> Result<(), Error> {
        let mut stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        let mut hello = [role; HELLO_BYTES];
        hello[1..].copy_from_slice(&group.to_le_bytes());
        stream.write_all(&hello)?;
        stream.set_nonblocking(true)?;
        let socket = OwnedFd::from(stream);
        self.poll.add(&socket, self.clients.len())?;
        self.clients.push(Client { socket, group: group as usize });
        Ok(())
    }

    pub(crate) fn reset(&mut self) {
        self.received_bytes = 0;
    }

    pub(crate) fn delivered_count(&self) -> u64 {
        self.received_bytes / self.message.len() as u64
    }

    pub(crate) fn run(&mut self, duration: Duration) -> Result<(), Error> {
        let begin = Instant::now();
        let mut paced_count = 0;
        while begin.elapsed() < duration {
            let timeout = match self.pace {
                Pace::Window(window) => {
                    self.fill(window)?;
                    Duration::from_millis(100)
                }
                Pace::Rate(rate) => {
                    let due = (begin.elapsed().as_secs_f64() * rate as f64) as u64;
                    while paced_count < due {
                        self.publish_next()?;
                        paced_count += 1;
                    }
                    let next = Duration::from_secs_f64((paced_count + 1) as f64 / rate as f64);
                    next.saturating_sub(begin.elapsed()).max(Duration::from_millis(1))
                }
            };
            for at in 0..self.poll.wait(timeout)? {
                self.read(self.poll.event(at).index)?;
            }
        }
        Ok(())
    }

    /// Sends until every hungry publisher's window is full, one write each.
    fn fill(&mut self, window: u64) -> Result<(), Error> {
        let delivery_bytes = self.message.len() as u64 * self.subscribers_per_group;
        for publisher in std::mem::take(&mut self.hungry) {
            let group = &mut self.groups[publisher];
            let in_flight = group.sent_count - group.received_bytes / delivery_bytes;
            let room = window.saturating_sub(in_flight);
            group.sent_count += room;
            let bytes = self.message.repeat(room as usize);
            write_whole(&self.clients[publisher].socket, &bytes)?;
        }
        Ok(())
    }

    fn publish_next(&mut self) -> Result<(), Error> {
        let publisher = self.next_publisher;
        self.next_publisher = (publisher + 1) % self.groups.len();
        write_whole(&self.clients[publisher].socket, &self.message)
    }

    fn read(&mut self, index: usize) -> Result<(), Error> {
        let client = &mut self.clients[index];
        loop {
            match net::read(&client.socket, &mut self.read_buffer)? {
                None => return Ok(()),
                Some(0) => return Err("the server closed a connection".into()),
                Some(length) => {
                    self.received_bytes += length as u64;
                    let group = &mut self.groups[client.group];
                    let delivery_bytes = self.message.len() as u64 * self.subscribers_per_group;
                    let before = group.received_bytes / delivery_bytes;
                    group.received_bytes += length as u64;
                    if group.received_bytes / delivery_bytes > before
                        && !self.hungry.contains(&client.group)
                    {
                        self.hungry.push(client.group);
                    }
                    if length < self.read_buffer.len() {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// The windows are smaller than the kernel's buffers, so a write that would block is a
/// mistake of the scenario.
fn write_whole(socket: &OwnedFd, bytes: &[u8]) -> Result<(), Error> {
    match net::write(socket, bytes)? {
        Some(length) if length == bytes.len() => Ok(()),
        _ => Err("the server does not read".into()),
    }
}
