//! The relay on a plain edge-triggered epoll loop with coalesced writes: the yardstick.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::Error;
use crate::net::{self, Poll, Ready};
use crate::relay::Relay;

const LISTENER: usize = usize::MAX;

struct Client {
    socket: OwnedFd,
    /// The write that is out and how much of it the kernel took.
    write: Option<(Vec<u8>, usize)>,
}

struct Loop {
    poll: Poll,
    listener: TcpListener,
    /// What the poll watches.
    _listener_fd: OwnedFd,
    relay: Relay,
    clients: Vec<Option<Client>>,
    read_buffer: Vec<u8>,
}

/// Starts it on a thread of its own; it lives as long as the process.
pub(crate) fn spawn() -> Result<SocketAddr, Error> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || Loop::new(listener)?.run());
    Ok(address)
}

impl Loop {
    fn new(listener: TcpListener) -> std::io::Result<Self> {
        let poll = Poll::new()?;
        let listener_fd = OwnedFd::from(listener.try_clone()?);
        poll.add(&listener_fd, LISTENER)?;
        Ok(Self {
            poll,
            listener,
            _listener_fd: listener_fd,
            relay: Relay::default(),
            clients: Vec::new(),
            read_buffer: vec![0; 64 << 10],
        })
    }

    fn run(&mut self) -> std::io::Result<()> {
        loop {
            let count = self.poll.wait(Duration::from_millis(100))?;
            for at in 0..count {
                let ready = self.poll.event(at);
                match ready.index {
                    LISTENER => self.accept()?,
                    index => self.ready(index, ready),
                }
            }
            while let Some((index, bytes)) = self.relay.next_write() {
                if let Some(client) = &mut self.clients[index as usize] {
                    client.write = Some((bytes, 0));
                }
                self.write(index as usize);
            }
        }
    }

    fn accept(&mut self) -> std::io::Result<()> {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let index = self.clients.iter().position(Option::is_none).unwrap_or_else(|| {
                self.clients.push(None);
                self.clients.len() - 1
            });
            let socket = OwnedFd::from(stream);
            self.poll.add(&socket, index)?;
            self.clients[index] = Some(Client { socket, write: None });
            self.relay.open(index as u32);
        }
        Ok(())
    }

    fn ready(&mut self, index: usize, ready: Ready) {
        if ready.readable {
            self.read(index);
        }
        if ready.writable {
            self.write(index);
        }
    }

    fn read(&mut self, index: usize) {
        while let Some(client) = &mut self.clients[index] {
            match net::read(&client.socket, &mut self.read_buffer) {
                Ok(Some(length @ 1..)) => {
                    self.relay.received(index as u32, &self.read_buffer[..length]);
                    // A short read has emptied the socket; the next edge tells of more.
                    if length < self.read_buffer.len() {
                        return;
                    }
                }
                Ok(None) => return,
                Ok(Some(_)) | Err(_) => {
                    self.clients[index] = None;
                    self.relay.close(index as u32);
                }
            }
        }
    }

    fn write(&mut self, index: usize) {
        let Some(client) = &mut self.clients[index] else { return };
        let Some((bytes, sent)) = &mut client.write else { return };
        while *sent < bytes.len() {
            match net::write(&client.socket, &bytes[*sent..]) {
                Ok(Some(length)) => *sent += length,
                // Full: the next edge goes on. Failed: the read side will see it.
                Ok(None) | Err(_) => return,
            }
        }
        let mut spare = std::mem::take(bytes);
        spare.clear();
        client.write = None;
        self.relay.written(index as u32, spare);
    }
}
