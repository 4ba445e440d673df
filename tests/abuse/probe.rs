//! A broker under attack, what it takes of the system, and a pair of clients that must not
//! notice.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use crate::harness::broker::Process;
use crate::harness::wire::{Packet, Version};

/// How long what must come may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A broker of two shards, with these settings beside.
pub(super) fn broker(settings: &[&str]) -> Result<Process, Failed> {
    let all = [&["--shards=2"], settings].concat();
    Ok(Process::start(&all.iter().map(|&setting| setting.to_owned()).collect::<Vec<_>>())?)
}

/// What a process has of the system.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    /// Resident memory, bytes.
    pub(super) resident: usize,
    pub(super) descriptors: usize,
}

impl Usage {
    pub(super) fn of(broker: &Process) -> Result<Self, Failed> {
        let directory = format!("/proc/{}", broker.id());
        let status = fs::read_to_string(format!("{directory}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next()).ok_or("no VmRSS")?;
        let descriptors = fs::read_dir(format!("{directory}/fd"))?.count();
        Ok(Self { resident: kib.parse::<usize>()? << 10, descriptors })
    }

    /// How much more memory `later` is.
    pub(super) fn growth(self, later: Self) -> usize {
        later.resident.saturating_sub(self.resident)
    }
}

/// Waits until the broker has as many descriptors as before, or fewer.
pub(super) fn descriptors_return(broker: &Process, before: Usage) -> Result<(), Failed> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = Usage::of(broker)?;
        if now.descriptors <= before.descriptors {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("descriptors: {before:?} before, {now:?} now").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A client of version 5, blocking.
pub(super) struct Client {
    pub(super) stream: TcpStream,
    inbox: Vec<u8>,
}

impl Client {
    pub(super) fn connect(broker: &Process, id: &str) -> Result<Self, Failed> {
        let (client, code) = Self::try_connect(broker, id)?;
        if code == 0 { Ok(client) } else { Err(format!("{id}: refused with {code:#x}").into()) }
    }

    /// The client and the code of its CONNACK.
    pub(super) fn try_connect(broker: &Process, id: &str) -> Result<(Self, u64), Failed> {
        let stream = broker.connect()?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self { stream, inbox: Vec::new() };
        let connect = Packet::new("connect").number("clean", 1_u8).bytes("id", id);
        client.send(&connect)?;
        let code = client.expect("connack")?.number_of("code");
        Ok((client, code))
    }

    /// A client with a session that waits for it, subscribed with QoS 1, and gone.
    pub(super) fn leave_session(broker: &Process, id: &str, filter: &str) -> Result<(), Failed> {
        let mut client = Self::resume(broker, id)?;
        let packet = Packet::new("subscribe").number("id", 1_u8).bytes("filter", filter);
        client.send(&packet.number("options", 1_u8))?;
        client.expect("suback").map(drop)
    }

    /// Connects to a session that outlives the connection.
    pub(super) fn resume(broker: &Process, id: &str) -> Result<Self, Failed> {
        let stream = broker.connect()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self { stream, inbox: Vec::new() };
        let packet = Packet::new("connect").number("session-expiry", 600_u32).bytes("id", id);
        client.send(&packet)?;
        match client.expect("connack")?.number_of("code") {
            0 => Ok(client),
            code => Err(format!("{id}: refused with {code:#x}").into()),
        }
    }

    pub(super) fn send(&mut self, packet: &Packet) -> Result<(), Failed> {
        Ok(self.stream.write_all(&packet.encode(Version::V5))?)
    }

    pub(super) fn expect(&mut self, name: &str) -> Result<Packet, Failed> {
        match self.next()? {
            Some(packet) if packet.name == name => Ok(packet),
            other => Err(format!("expected {name}, got {other:?}").into()),
        }
    }

    /// The next packet; `None` once the broker has closed.
    pub(super) fn next(&mut self) -> Result<Option<Packet>, Failed> {
        loop {
            if let Some((packet, used)) = Packet::decode(&self.inbox, Version::V5)? {
                self.inbox.drain(..used);
                return Ok(Some(packet));
            }
            let mut bytes = vec![0; 64 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(count) => self.inbox.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

pub(super) fn publish(topic: &str, payload: impl Into<Vec<u8>>) -> Packet {
    Packet::new("publish").bytes("topic", topic).bytes("payload", payload)
}

/// Two clients that talk.
pub(super) struct Pair {
    reader: Client,
    writer: Client,
}

impl Pair {
    pub(super) fn new(broker: &Process) -> Result<Self, Failed> {
        let mut reader = Client::connect(broker, "well-behaved-reader")?;
        let filter = Packet::new("subscribe").number("id", 1_u8).bytes("filter", "pair");
        reader.send(&filter.number("options", 1_u8))?;
        reader.expect("suback")?;
        Ok(Self { reader, writer: Client::connect(broker, "well-behaved-writer")? })
    }

    /// One message of QoS 1 from one to the other; how long it took.
    pub(super) fn talk(&mut self) -> Result<Duration, Failed> {
        let start = Instant::now();
        self.writer.send(&publish("pair", "hello").number("qos", 1_u8).number("id", 1_u8))?;
        let came = self.reader.expect("publish")?;
        let took = start.elapsed();
        let id = came.number_of("id");
        self.reader.send(&Packet::new("puback").number("id", id))?;
        self.writer.expect("puback")?;
        Ok(took)
    }

    /// Talks for a while; none of the messages may take longer than two seconds. Where the budget
    /// is all but used up, publishers are read once a second only.
    pub(super) fn is_served(&mut self) -> Result<(), Failed> {
        for _ in 0..20 {
            let took = self.talk()?;
            assert!(took < Duration::from_secs(2), "a message took {took:?} during the attack");
        }
        Ok(())
    }
}
