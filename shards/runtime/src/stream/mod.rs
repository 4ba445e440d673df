//! What may lie between the socket and MQTT. Each layer is bytes in, bytes out, knows no
//! socket, and is usable alone; a [`Stack`] composes those of one connection, outermost first.
//!
//! Plain TCP has no stack, and a connection whose PROXY header is through gives its stack up.

pub mod proxy;
mod tls;
pub mod websocket;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use octopus_engine::{LayerRefusal, OutBuffer, Remote};

pub(crate) use tls::Checked;
pub use tls::{Tls, TlsError, TlsFiles, UserFrom};
use websocket::WebSocket;

/// Answers of the layers (handshakes, pongs) that wait for a peer which does not read them.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The layers of one listener. Scope: node.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    /// Every connection begins with a PROXY protocol header, version 1 or 2.
    pub proxy_protocol: bool,
    /// Proxies whose word about a client's address is taken. Empty: for the PROXY protocol,
    /// this machine and private networks; for `X-Forwarded-For`, nobody.
    pub trusted_proxies: Arc<[IpNet]>,
    pub tls: Option<Arc<Tls>>,
    pub websocket: bool,
    /// Where pages come from that may open a WebSocket, as a browser tells it; empty: from
    /// anywhere. Who tells nothing is no browser, and is let in.
    pub origins: Arc<[Box<str>]>,
}

/// A layer does not take what came: the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it is counted as.
    pub reason: LayerRefusal,
    /// For the log.
    pub why: &'static str,
}

impl Refusal {
    const fn proxy(why: &'static str) -> Self {
        Self { reason: LayerRefusal::ProxyHeader, why }
    }

    const fn tls(why: &'static str) -> Self {
        Self { reason: LayerRefusal::Tls, why }
    }

    const fn certificate(why: &'static str) -> Self {
        Self { reason: LayerRefusal::Certificate, why }
    }

    const fn upgrade(why: &'static str) -> Self {
        Self { reason: LayerRefusal::Upgrade, why }
    }

    const fn frame(why: &'static str) -> Self {
        Self { reason: LayerRefusal::Frame, why }
    }
}

/// Whether a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Going,
    /// The peer has ended it in order.
    Ended,
}

/// The layers of one connection. Scope: connection; moves between shards with its socket.
#[derive(Debug)]
pub struct Stack {
    remote: Remote,
    trusted_proxies: Arc<[IpNet]>,
    proxy: Option<proxy::Reader>,
    tls: Option<tls::Session>,
    websocket: Option<WebSocket>,
    /// The layers are to say goodbye behind what waits.
    is_closing: bool,
    /// Bytes of the layers' own, as they go to the wire.
    answer: Vec<u8>,
    /// A buffer of the engine's, behind a write of the layers' own.
    waiting: Option<OutBuffer>,
    /// The write in flight carries no buffer of the engine's.
    writes_answer: bool,
    refused: Option<Refusal>,
}

/// Reads a network, `10.0.0.0/8`, or one address.
pub fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

impl Layers {
    /// The stack of a new connection; `None` if bytes go through as they are.
    ///
    /// # Errors
    /// If the listener is for proxies and `remote` is not a trusted one.
    pub(crate) fn stack(&self, remote: &Remote) -> Result<Option<Box<Stack>>, Refusal> {
        if !self.proxy_protocol && self.tls.is_none() && !self.websocket {
            return Ok(None);
        }
        if self.proxy_protocol && !remote.address.is_none_or(|address| self.is_proxy(address.ip()))
        {
            let reason = LayerRefusal::UntrustedProxy;
            return Err(Refusal { reason, why: "not a trusted proxy" });
        }
        Ok(Some(Box::new(Stack {
            remote: remote.clone(),
            trusted_proxies: Arc::clone(&self.trusted_proxies),
            proxy: self.proxy_protocol.then(proxy::Reader::default),
            tls: self.tls.as_ref().map(|tls| tls.session()).transpose()?,
            websocket: self.websocket.then(|| WebSocket::new(Arc::clone(&self.origins))),
            is_closing: false,
            answer: Vec::new(),
            waiting: None,
            writes_answer: false,
            refused: None,
        })))
    }

    fn is_proxy(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if self.trusted_proxies.is_empty() {
            return is_private(address);
        }
        contains(&self.trusted_proxies, address)
    }
}

fn contains(nets: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    nets.iter().any(|net| net.contains(&address))
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local(),
    }
}

impl Stack {
    /// Takes bytes off the wire; appends those of MQTT to `plain`. Answers are kept for
    /// [`Self::next_write`].
    ///
    /// # Errors
    /// If a layer refuses them; then, and on every later call.
    pub(crate) fn receive(&mut self, bytes: &[u8], plain: &mut Vec<u8>) -> Result<Flow, Refusal> {
        if let Some(refusal) = self.refused {
            return Err(refusal);
        }
        let flow = self.pass(bytes, plain);
        let is_flooded = self.answer.len() > ANSWER_BYTES_MAX;
        let unread = Refusal { reason: LayerRefusal::Unread, why: "answers are not read" };
        let flow = if is_flooded { Err(unread) } else { flow };
        self.refused = flow.err();
        flow
    }

    fn pass(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) -> Result<Flow, Refusal> {
        if let Some(proxy) = &mut self.proxy {
            let Some((source, rest)) = proxy.receive(bytes)? else { return Ok(Flow::Going) };
            self.set_address(source);
            self.proxy = None;
            bytes = rest;
        }
        let was_open = self.is_open();
        let flow = self.unwrap(bytes, plain)?;
        if !was_open && self.is_open() {
            // A handshake may take longer than the files stay as they are.
            self.recheck()?;
            self.learn();
        }
        Ok(flow)
    }

    /// Holds the client's certificate against files that were read since it came.
    ///
    /// # Errors
    /// If it does not hold any more.
    pub(crate) fn recheck(&mut self) -> Result<Checked, Refusal> {
        self.tls.as_mut().map_or(Ok(Checked::Before), tls::Session::recheck)
    }

    /// Through TLS and WebSocket, as far as there are any.
    fn unwrap(&mut self, bytes: &[u8], plain: &mut Vec<u8>) -> Result<Flow, Refusal> {
        match (&mut self.tls, &mut self.websocket) {
            (None, None) => {
                plain.extend_from_slice(bytes);
                Ok(Flow::Going)
            }
            (Some(tls), None) => tls.receive(bytes, plain, &mut self.answer),
            (None, Some(websocket)) => websocket.receive(bytes, plain, &mut self.answer),
            (Some(tls), Some(websocket)) => {
                let (mut frames, mut said) = (Vec::new(), Vec::new());
                let below = tls.receive(bytes, &mut frames, &mut self.answer)?;
                let above = websocket.receive(&frames, plain, &mut said);
                tls.seal(std::iter::once(&said[..]), &mut self.answer);
                Ok(if below == Flow::Ended { below } else { above? })
            }
        }
    }

    /// Takes what the handshakes tell of the peer.
    fn learn(&mut self) {
        self.remote.certificate = self.tls.as_ref().and_then(tls::Session::identity);
        let list = self.websocket.as_ref().and_then(WebSocket::forwarded_for);
        let told = list.and_then(|list| self.forwarded(list));
        self.set_address(told.map(|address| (address, 0).into()));
    }

    /// The last address of `X-Forwarded-For` that is not a trusted proxy's, if the peer is one.
    fn forwarded(&self, list: &str) -> Option<IpAddr> {
        let is_trusted = |address| contains(&self.trusted_proxies, address);
        self.remote.address.filter(|peer| is_trusted(peer.ip()))?;
        let mut addresses = list.rsplit(',').map(|word| word.trim().parse().ok());
        addresses.find(|address| address.is_none_or(|address| !is_trusted(address)))?
    }

    fn set_address(&mut self, told: Option<SocketAddr>) {
        self.remote.address = told.or(self.remote.address);
    }

    /// The outermost layer that is not through, as what makes the connection late.
    pub(crate) fn late(&self) -> Refusal {
        let reason = if self.proxy.is_some() {
            LayerRefusal::ProxyLate
        } else if self.tls.as_ref().is_some_and(|tls| !tls.is_open()) {
            LayerRefusal::TlsLate
        } else {
            LayerRefusal::UpgradeLate
        };
        Refusal { reason, why: "not through within limits.connect_timeout" }
    }

    /// Whether all is known about the peer that the layers can tell, and none has refused it.
    pub(crate) fn is_open(&self) -> bool {
        self.refused.is_none()
            && self.proxy.is_none()
            && self.tls.as_ref().is_none_or(tls::Session::is_open)
            && self.websocket.as_ref().is_none_or(WebSocket::is_open)
    }

    /// Whether bytes go through it as they are from now on, both ways.
    pub(crate) fn is_spent(&self) -> bool {
        self.proxy.is_none() && self.tls.is_none() && self.websocket.is_none()
    }

    /// Who is there, as far as the layers have told.
    pub(crate) fn remote(&self) -> &Remote {
        &self.remote
    }

    /// Takes a buffer of the engine's down to the wire, behind the answers that wait; keeps it
    /// if a write of the layers' own `is_writing`.
    pub(crate) fn send(&mut self, buffer: OutBuffer, is_writing: bool) -> Option<OutBuffer> {
        if is_writing {
            self.waiting = Some(buffer);
            return None;
        }
        self.writes_answer = false;
        Some(self.seal(buffer))
    }

    /// What goes out next, once no write is in flight.
    pub(crate) fn next_write(&mut self) -> Option<OutBuffer> {
        if let Some(buffer) = self.waiting.take() {
            return self.send(buffer, false);
        }
        if std::mem::take(&mut self.is_closing) {
            self.say_goodbye();
        }
        if self.answer.is_empty() {
            return None;
        }
        self.writes_answer = true;
        Some(OutBuffer { bytes: std::mem::take(&mut self.answer), shared: Vec::new() })
    }

    /// Whether the write in flight carries no buffer of the engine's.
    pub(crate) fn writes_answer(&self) -> bool {
        self.writes_answer
    }

    /// Ends every layer in order: their last words follow what waits.
    pub(crate) fn close(&mut self) {
        self.is_closing = true;
    }

    fn say_goodbye(&mut self) {
        let mut said = Vec::new();
        if let Some(websocket) = &mut self.websocket {
            websocket.close(&mut said);
        }
        match &mut self.tls {
            Some(tls) => {
                tls.seal(std::iter::once(&said[..]), &mut self.answer);
                tls.close(&mut self.answer);
            }
            None => self.answer.extend(said),
        }
    }

    fn seal(&mut self, mut buffer: OutBuffer) -> OutBuffer {
        let mut wire = std::mem::take(&mut self.answer);
        let frame = self.websocket.as_ref().map(|_| WebSocket::frame_head(buffer.len()));
        let frame = frame.unwrap_or_default();
        if let Some(tls) = &mut self.tls {
            tls.seal(std::iter::once(&frame[..]).chain(buffer.pieces()), &mut wire);
            return OutBuffer { bytes: wire, shared: Vec::new() };
        }
        wire.extend(frame);
        prepend(&wire, &mut buffer);
        buffer
    }
}

/// Puts `head` in front of `buffer`.
fn prepend(head: &[u8], buffer: &mut OutBuffer) {
    if !head.is_empty() {
        buffer.bytes.splice(..0, head.iter().copied());
        buffer.shared.iter_mut().for_each(|(offset, _)| *offset += head.len());
    }
}

#[cfg(test)]
mod tests {
    use octopus_engine::ListenerId;

    use super::*;

    fn remote(address: &str) -> Remote {
        let address = Some(address.parse().unwrap());
        Remote { listener: ListenerId(0), address, certificate: None }
    }

    fn proxied(trusted: &[&str]) -> Layers {
        let trusted_proxies = trusted.iter().map(|net| net.parse().unwrap()).collect();
        Layers { proxy_protocol: true, trusted_proxies, ..Layers::default() }
    }

    #[test]
    fn plain_tcp_has_no_stack() {
        assert!(Layers::default().stack(&remote("192.0.2.1:1")).unwrap().is_none());
    }

    #[test]
    fn only_trusted_proxies_may_tell_addresses() {
        for (trusted, peer, may) in [
            (&[][..], "127.0.0.1:1", true),
            (&[], "[::ffff:10.1.2.3]:1", true),
            (&[], "[fd00::1]:1", true),
            (&[], "192.0.2.1:1", false),
            (&["192.0.2.0/24"], "192.0.2.1:1", true),
            (&["192.0.2.0/24"], "[::ffff:192.0.2.1]:1", true),
            (&["192.0.2.0/24"], "127.0.0.1:1", false),
        ] {
            assert_eq!(proxied(trusted).stack(&remote(peer)).is_ok(), may, "{trusted:?} {peer}");
        }
    }

    #[test]
    fn the_address_is_told_and_the_stack_is_spent() {
        let mut stack = proxied(&[]).stack(&remote("127.0.0.1:1")).unwrap().expect("layers");
        let mut plain = Vec::new();
        assert_eq!(stack.receive(b"PROXY TCP4 192.0.2.7 ", &mut plain), Ok(Flow::Going));
        assert!(!stack.is_open());
        let rest = b"10.0.0.1 5 1883\r\n\x10\x0c";
        assert_eq!(stack.receive(rest, &mut plain), Ok(Flow::Going));
        assert!(stack.is_open() && stack.is_spent());
        assert_eq!(stack.remote(), &remote("192.0.2.7:5"));
        assert_eq!(plain, b"\x10\x0c");
    }

    #[test]
    fn forwarded_addresses_are_taken_from_trusted_proxies_only() {
        for (trusted, list, told) in [
            (&["10.0.0.0/8"][..], "192.0.2.7", Some("192.0.2.7")),
            (&["10.0.0.0/8"], "203.0.113.1, 192.0.2.7,10.0.0.9", Some("192.0.2.7")),
            (&["10.0.0.0/8"], "192.0.2.7, nonsense", None),
            (&["10.0.0.0/8"], "10.0.0.9", None),
            (&["172.16.0.0/12"], "192.0.2.7", None),
            (&[], "192.0.2.7", None),
        ] {
            let layers = Layers { proxy_protocol: false, websocket: true, ..proxied(trusted) };
            let stack = layers.stack(&remote("10.0.0.1:1")).unwrap().expect("layers");
            let told = told.map(|told| told.parse().unwrap());
            assert_eq!(stack.forwarded(list), told, "{trusted:?} {list}");
        }
    }

    #[test]
    fn a_buffer_is_one_frame_and_its_shared_parts_stay_shared() {
        let layers = Layers { websocket: true, ..Layers::default() };
        let mut stack = layers.stack(&remote("10.0.0.1:1")).unwrap().expect("layers");
        let shared = vec![(2, bytes::Bytes::from_static(b"shared"))];
        let buffer = OutBuffer { bytes: b"abcd".to_vec(), shared };
        let wire = stack.send(buffer, false).expect("nothing to wait for");
        let pieces: Vec<&[u8]> = wire.pieces().collect();
        assert_eq!(pieces, [&b"\x82\x0aab"[..], b"shared", b"cd"]);
    }

    #[test]
    fn a_refused_connection_stays_refused() {
        let mut stack = proxied(&[]).stack(&remote("127.0.0.1:1")).unwrap().expect("layers");
        let mut plain = Vec::new();
        stack.receive(b"\x10\x0c", &mut plain).expect_err("no header");
        stack.receive(b"PROXY UNKNOWN\r\n", &mut plain).expect_err("refused already");
        assert!(plain.is_empty());
    }
}
