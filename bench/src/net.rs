//! Non-blocking sockets and the epoll set of one thread.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, recv, send,
        socket_with, sockopt,
    },
};

/// A readiness event: which registered socket, and whether it may be read or written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub index: usize,
    pub readable: bool,
    pub writable: bool,
    /// The peer has closed, or the socket failed: no further event will tell.
    pub closing: bool,
}

/// Sockets watched by one thread, edge-triggered: each is registered once for both directions
/// and must be read until short and written until full.
pub(crate) struct Poll {
    set: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    const EVENTS_PER_TURN: usize = 1024;

    pub(crate) fn new() -> io::Result<Self> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { set, events: Vec::with_capacity(Self::EVENTS_PER_TURN) })
    }

    pub(crate) fn add(&self, socket: &OwnedFd, index: usize) -> io::Result<()> {
        use epoll::EventFlags as Flags;
        let flags = Flags::IN | Flags::OUT | Flags::RDHUP | Flags::ET;
        Ok(epoll::add(&self.set, socket, epoll::EventData::new_u64(index as u64), flags)?)
    }

    /// Waits until a socket is ready or `timeout` has passed; returns how many events there are.
    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<usize> {
        self.events.clear();
        let timeout =
            Timespec { tv_sec: timeout.as_secs() as _, tv_nsec: timeout.subsec_nanos() as _ };
        match epoll::wait(
            &self.set,
            rustix::buffer::spare_capacity(&mut self.events),
            Some(&timeout),
        ) {
            Ok(count) => Ok(count),
            Err(Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Event number `at` of the last wait.
    pub(crate) fn event(&self, at: usize) -> Ready {
        use epoll::EventFlags as Flags;
        let event = self.events[at];
        let (data, flags) = (event.data, event.flags);
        let closing = flags.intersects(Flags::ERR | Flags::HUP | Flags::RDHUP);
        Ready {
            index: data.u64() as usize,
            readable: closing || flags.contains(Flags::IN),
            writable: closing || flags.contains(Flags::OUT),
            closing,
        }
    }
}

/// Sockets on one source address: below the usual ephemeral port range of 28,232.
const SOCKETS_PER_SOURCE: usize = 20_000;

/// Starts connecting socket number `number` of this process to `broker`.
///
/// Towards a loopback address each 20,000 sockets take their own source address 127.0.0.x, so
/// that ports do not run out.
///
/// # Errors
/// As `socket`, `bind` and `connect`; a connect still under way is none.
pub(crate) fn start_connect(broker: SocketAddr, number: usize) -> io::Result<OwnedFd> {
    let family = if broker.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    if let Some(source) = source_address(broker.ip(), number) {
        bind(&socket, &SocketAddr::new(source, 0))?;
    }
    match connect(&socket, &broker) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

fn source_address(broker: IpAddr, number: usize) -> Option<IpAddr> {
    let block = number / SOCKETS_PER_SOURCE;
    let IpAddr::V4(address) = broker else { return None };
    if block == 0 || !address.is_loopback() {
        return None;
    }
    Some(Ipv4Addr::new(127, 0, 0, 1 + block.min(200) as u8).into())
}

/// How a connect that was started has ended.
pub(crate) fn connect_result(socket: impl AsFd) -> io::Result<()> {
    Ok(sockopt::socket_error(socket)??)
}

/// Reads once; `None` if nothing is there, `Some(0)` at the end of the stream.
pub(crate) fn read(socket: impl AsFd, into: &mut [u8]) -> io::Result<Option<usize>> {
    match recv(socket, into, RecvFlags::empty()) {
        Ok((_, length)) => Ok(Some(length)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Writes once; `None` if the socket is full.
pub(crate) fn write(socket: impl AsFd, bytes: &[u8]) -> io::Result<Option<usize>> {
    match send(socket, bytes, SendFlags::NOSIGNAL) {
        Ok(length) => Ok(Some(length)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_sockets_take_a_new_source_address_every_20000() {
        let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
        assert_eq!(source_address(loopback, 19_999), None);
        assert_eq!(source_address(loopback, 20_000), Some(Ipv4Addr::new(127, 0, 0, 2).into()));
        assert_eq!(source_address(loopback, 65_000), Some(Ipv4Addr::new(127, 0, 0, 4).into()));
        assert_eq!(source_address(Ipv4Addr::new(10, 0, 0, 1).into(), 30_000), None);
    }
}
