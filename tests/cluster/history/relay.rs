//! A wire that can be cut: a port that leads to another one, until it is told not to.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// How often a wire that has nothing to carry looks whether it is cut or has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Scope: one port. Ends with its last clone, and all its connections with it.
pub(super) struct Relay {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Nothing gets through, and nobody is told: as in a network that drops all packets.
    is_cut: AtomicBool,
    has_ended: AtomicBool,
}

impl Relay {
    /// A port of the loopback that leads to `target`.
    pub(super) fn to(target: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        listener.set_nonblocking(true)?;
        let state = Arc::new(State::default());
        let shared = state.clone();
        thread::spawn(move || shared.accept(&listener, target));
        Ok(Self { port, state })
    }

    pub(super) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// From now on nothing gets through.
    pub(super) fn cut(&self) {
        self.state.is_cut.store(true, Ordering::SeqCst);
    }

    /// From now on everything gets through, what was held up first.
    pub(super) fn heal(&self) {
        self.state.is_cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.state.has_ended.store(true, Ordering::SeqCst);
    }
}

impl State {
    fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::SeqCst)
    }

    fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::SeqCst)
    }

    fn accept(self: Arc<Self>, listener: &TcpListener, target: SocketAddr) {
        while !self.has_ended() {
            match listener.accept() {
                Ok((near, _)) if !self.is_cut() => self.join(&near, target),
                // The kernel has accepted it all the same; here it hears nothing.
                Ok((near, _)) => {
                    let held = self.clone();
                    thread::spawn(move || held.join_later(&near, target));
                }
                Err(_) => thread::sleep(LOOK_INTERVAL),
            }
        }
    }

    fn join_later(self: &Arc<Self>, near: &TcpStream, target: SocketAddr) {
        while self.is_cut() && !self.has_ended() {
            thread::sleep(LOOK_INTERVAL);
        }
        self.join(near, target);
    }

    fn join(self: &Arc<Self>, near: &TcpStream, target: SocketAddr) {
        // Where nobody listens, the caller is told by the end of its connection.
        let Ok(far) = TcpStream::connect(target) else { return };
        for (from, to) in [(near, &far), (&far, near)] {
            let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
            let state = self.clone();
            thread::spawn(move || {
                // An error is the end of the connection, which both ends are told below.
                let _ = state.carry(&from, &to);
                let _ = from.shutdown(std::net::Shutdown::Both);
                let _ = to.shutdown(std::net::Shutdown::Both);
            });
        }
    }

    fn carry(&self, mut from: &TcpStream, mut to: &TcpStream) -> std::io::Result<()> {
        from.set_nodelay(true)?;
        from.set_nonblocking(false)?;
        from.set_read_timeout(Some(LOOK_INTERVAL * 10))?;
        let mut buffer = vec![0; 64 * 1024];
        while !self.has_ended() {
            let count = match from.read(&mut buffer) {
                Ok(count) => count,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    continue;
                }
                Err(error) => return Err(error),
            };
            while self.is_cut() && !self.has_ended() {
                thread::sleep(LOOK_INTERVAL);
            }
            if count == 0 {
                return Ok(());
            }
            to.write_all(&buffer[..count])?;
        }
        Ok(())
    }
}
