//! The server's side of a WebSocket (RFC 6455) with the sub-protocol `mqtt`.
//!
//! MQTT packets may lie across frames and side by side in one [MQTT-6.0.0-2], so payloads are
//! passed on as they arrive: of a frame under way only its head is held, whatever length it
//! announces.

mod handshake;

use std::sync::Arc;

use super::{Flow, Refusal};
use handshake::Request;

/// Opcodes (§5.2).
const CONTINUATION: u8 = 0;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// A head is two bytes, up to eight of length, four of mask.
const HEAD_BYTES_MAX: usize = 14;

/// Status codes of a Close frame (§7.4.1).
#[derive(Clone, Copy, Debug)]
enum Status {
    Normal = 1000,
    ProtocolError = 1002,
    Unsupported = 1003,
}

/// One WebSocket. Scope: connection.
#[derive(Debug, Default)]
pub struct WebSocket {
    /// The request while it is incomplete; `None` behind the handshake.
    request: Request,
    is_open: bool,
    /// `X-Forwarded-For`, as sent.
    forwarded_for: Option<Box<str>>,
    head: Vec<u8>,
    frame: Option<Frame>,
    /// The payload of a control frame under way: 125 bytes at most.
    control: Vec<u8>,
    /// A message's last frame has yet to come.
    in_message: bool,
    close_sent: bool,
}

/// The frame whose payload is arriving.
#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: u8,
    left: u64,
    mask: [u8; 4],
}

impl WebSocket {
    /// - `origins`: see [`super::Layers::origins`].
    pub fn new(origins: Arc<[Box<str>]>) -> Self {
        Self { request: Request::new(origins), ..Self::default() }
    }

    /// Takes bytes off the wire; appends payloads to `plain` and answers to `answer`.
    ///
    /// # Errors
    /// What is no WebSocket, or not one for MQTT; why is in `answer`, for the peer.
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        plain: &mut Vec<u8>,
        answer: &mut Vec<u8>,
    ) -> Result<Flow, Refusal> {
        if !self.is_open {
            let Some((accepted, rest)) = self.request.receive(bytes, answer)? else {
                return Ok(Flow::Going);
            };
            self.request = Request::default();
            self.forwarded_for = accepted.forwarded_for;
            self.is_open = true;
            bytes = rest;
        }
        while !bytes.is_empty() {
            let Some(frame) = self.frame else {
                bytes = self.receive_head(bytes, answer)?;
                // A frame without a payload is over with its head.
                if self.frame.is_some_and(|frame| frame.left == 0)
                    && self.end_frame(answer) == Flow::Ended
                {
                    return Ok(Flow::Ended);
                }
                continue;
            };
            let len = usize::try_from(frame.left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (payload, rest) = bytes.split_at(len);
            self.unmask(frame, payload, plain);
            bytes = rest;
            if self.frame.is_some_and(|frame| frame.left == 0)
                && self.end_frame(answer) == Flow::Ended
            {
                return Ok(Flow::Ended);
            }
        }
        Ok(Flow::Going)
    }

    /// Whether the handshake is done.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// `X-Forwarded-For` of the handshake, as sent: for who trusts the peer.
    pub fn forwarded_for(&self) -> Option<&str> {
        self.forwarded_for.as_deref()
    }

    /// The head of a binary frame of `len` bytes.
    pub fn frame_head(len: usize) -> Vec<u8> {
        head(BINARY, len)
    }

    /// Says goodbye, once.
    pub fn close(&mut self, answer: &mut Vec<u8>) {
        if self.is_open {
            self.send_close(Status::Normal, answer);
        }
    }

    /// Takes bytes of a frame's head; the rest.
    fn receive_head<'a>(
        &mut self,
        bytes: &'a [u8],
        answer: &mut Vec<u8>,
    ) -> Result<&'a [u8], Refusal> {
        let before = self.head.len();
        let take = bytes.len().min(HEAD_BYTES_MAX - before);
        self.head.extend_from_slice(&bytes[..take]);
        let Some((frame, used)) = self.parse_head(answer)? else { return Ok(&bytes[take..]) };
        self.frame = Some(frame);
        self.head.clear();
        Ok(&bytes[used - before..])
    }

    fn parse_head(&mut self, answer: &mut Vec<u8>) -> Result<Option<(Frame, usize)>, Refusal> {
        let [first, second, ref rest @ ..] = self.head[..] else { return Ok(None) };
        if let Err((status, refusal)) = self.check_head(first, second) {
            self.send_close(status, answer);
            return Err(refusal);
        }
        let (length_bytes, small) = match second & !MASKED {
            126 => (2, 0),
            127 => (8, 0),
            small => (0, u64::from(small)),
        };
        let Some((length, rest)) = rest.split_at_checked(length_bytes) else { return Ok(None) };
        let left = length.iter().fold(small, |sum, byte| sum << 8 | u64::from(*byte));
        let Some(mask) = rest.first_chunk::<4>() else { return Ok(None) };
        let opcode = first & 0x0f;
        if opcode < CLOSE {
            self.in_message = first & FIN == 0;
        }
        Ok(Some((Frame { opcode, left, mask: *mask }, 2 + length_bytes + 4)))
    }

    /// §5.2, §5.4, §5.5, [MQTT-6.0.0-1].
    fn check_head(&self, first: u8, second: u8) -> Result<(), (Status, Refusal)> {
        let opcode = first & 0x0f;
        let is_last = first & FIN != 0;
        let refuse = |text| Err((Status::ProtocolError, Refusal::frame(text)));
        match opcode {
            _ if first & 0x70 != 0 => refuse("reserved bits in a WebSocket frame"),
            _ if second & MASKED == 0 => refuse("an unmasked WebSocket frame"),
            CONTINUATION if !self.in_message => refuse("a continuation of no WebSocket message"),
            BINARY if self.in_message => refuse("a WebSocket message within another"),
            CLOSE | PING | PONG if !is_last => refuse("a fragmented WebSocket control frame"),
            CLOSE | PING | PONG if second & !MASKED > 125 => {
                refuse("a WebSocket control frame over 125 bytes")
            }
            CONTINUATION | BINARY | CLOSE | PING | PONG => Ok(()),
            1 => Err((Status::Unsupported, Refusal::frame("a WebSocket text frame"))),
            _ => refuse("an unknown WebSocket opcode"),
        }
    }

    fn unmask(&mut self, frame: Frame, payload: &[u8], plain: &mut Vec<u8>) {
        let target = if frame.opcode < CLOSE { plain } else { &mut self.control };
        let masked = payload.iter().zip(frame.mask.iter().cycle());
        target.extend(masked.map(|(byte, mask)| byte ^ mask));
        let mut mask = frame.mask;
        mask.rotate_left(payload.len() % 4);
        let left = frame.left - payload.len() as u64;
        self.frame = Some(Frame { left, mask, ..frame });
    }

    fn end_frame(&mut self, answer: &mut Vec<u8>) -> Flow {
        let opcode = self.frame.take().map(|frame| frame.opcode);
        let payload = std::mem::take(&mut self.control);
        match opcode {
            Some(PING) => {
                answer.extend(head(PONG, payload.len()));
                answer.extend(payload);
                Flow::Going
            }
            Some(CLOSE) => {
                self.send_close(Status::Normal, answer);
                Flow::Ended
            }
            _ => Flow::Going,
        }
    }

    fn send_close(&mut self, status: Status, answer: &mut Vec<u8>) {
        if !self.close_sent {
            self.close_sent = true;
            answer.extend(head(CLOSE, 2));
            answer.extend((status as u16).to_be_bytes());
        }
    }
}

/// The head of an unmasked frame that is a message of its own.
fn head(opcode: u8, len: usize) -> Vec<u8> {
    let mut head = vec![FIN | opcode];
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ ..126), _) => head.push(len),
        (_, Ok(len)) => {
            head.push(126);
            head.extend(len.to_be_bytes());
        }
        _ => {
            head.push(127);
            head.extend((len as u64).to_be_bytes());
        }
    }
    head
}

#[cfg(test)]
mod tests {
    use super::handshake::tests::REQUEST;
    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = head(first, payload.len());
        frame[0] = first;
        frame[1] |= MASKED;
        let mask = [1, 2, 3, 250];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    fn open() -> WebSocket {
        WebSocket { is_open: true, ..WebSocket::default() }
    }

    fn refused(bytes: &[u8]) -> Vec<u8> {
        let (mut plain, mut answer) = (Vec::new(), Vec::new());
        open().receive(bytes, &mut plain, &mut answer).expect_err("refused");
        assert!(plain.is_empty());
        answer
    }

    /// A packet across frames with a ping between them, two in one frame, an empty frame.
    fn stream() -> (Vec<u8>, Vec<u8>) {
        let long = vec![7; 300];
        let huge = vec![9; 70_000];
        let bytes = [
            masked(BINARY, b"ab"),
            masked(FIN | PING, b"hi"),
            masked(CONTINUATION, b""),
            masked(FIN | CONTINUATION, b"cd"),
            masked(FIN | BINARY, &long),
            masked(FIN | BINARY, b""),
            masked(FIN | PONG, b"unasked"),
            masked(FIN | BINARY, &huge),
        ];
        (bytes.concat(), [b"abcd".to_vec(), long, huge].concat())
    }

    #[test]
    fn payloads_come_out_however_frames_and_reads_cut_them() {
        let (bytes, expected) = stream();
        for size in [1, 2, 3, 7, 1000, bytes.len()] {
            let (mut socket, mut plain, mut answer) = (open(), Vec::new(), Vec::new());
            for part in bytes.chunks(size) {
                assert_eq!(socket.receive(part, &mut plain, &mut answer), Ok(Flow::Going));
            }
            assert!(plain == expected, "in parts of {size}");
            assert_eq!(answer, [&[0x8a, 2][..], b"hi"].concat());
        }
    }

    #[test]
    fn the_handshake_and_the_first_frame_may_come_together() {
        let (mut socket, mut plain, mut answer) = (WebSocket::default(), Vec::new(), Vec::new());
        let bytes = [REQUEST.as_bytes().to_vec(), masked(FIN | BINARY, b"connect")].concat();
        assert_eq!(socket.receive(&bytes, &mut plain, &mut answer), Ok(Flow::Going));
        assert!(socket.is_open() && answer.starts_with(b"HTTP/1.1 101 "));
        assert_eq!(plain, b"connect");
    }

    #[test]
    fn a_close_is_answered_once_and_ends_it() {
        let (mut socket, mut plain, mut answer) = (open(), Vec::new(), Vec::new());
        let close = masked(FIN | CLOSE, &1000_u16.to_be_bytes());
        assert_eq!(socket.receive(&close, &mut plain, &mut answer), Ok(Flow::Ended));
        socket.close(&mut answer);
        assert_eq!(answer, [0x88, 2, 0x03, 0xe8]);
    }

    #[test]
    fn what_breaks_the_rules_is_told_why() {
        let protocol_error = [0x88, 2, 0x03, 0xea];
        for bytes in [
            &[FIN | BINARY, 1, b'x'][..],
            &masked(FIN | BINARY | 0x40, b"x"),
            &masked(FIN | CONTINUATION, b"x"),
            &masked(PING, b"x"),
            &masked(FIN | PING, &[0; 126]),
            &masked(FIN | 3, b"x"),
            &[masked(BINARY, b""), masked(FIN | BINARY, b"x")].concat(),
        ] {
            assert_eq!(refused(bytes), protocol_error, "{bytes:?}");
        }
        assert_eq!(refused(&masked(FIN | 1, b"text")), [0x88, 2, 0x03, 0xeb]);
    }

    #[test]
    fn lengths_take_as_many_bytes_as_they_need() {
        assert_eq!(WebSocket::frame_head(125), [0x82, 125]);
        assert_eq!(WebSocket::frame_head(126), [0x82, 126, 0, 126]);
        assert_eq!(WebSocket::frame_head(65_535), [0x82, 126, 255, 255]);
        assert_eq!(WebSocket::frame_head(65_536), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
