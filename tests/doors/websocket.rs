//! WebSockets byte by byte: what a real client's library would not send, or not on purpose.

use std::io::{Read, Write};
use std::net::TcpStream;

use libtest_mimic::Failed;

use super::{CONNACK, Door, Tests, connect_packet};
use crate::harness::wire::{Packet, Version};

pub(super) const TESTS: Tests = &[
    ("websocket_frames_may_cut_packets_anywhere_and_hold_several", frames_are_not_packets),
    ("websocket_pings_are_answered_between_the_frames_of_a_message", pings),
    ("websocket_text_frames_close_the_connection", text_frames_close),
    ("websocket_answers_name_the_sub_protocol_and_come_in_binary_frames", sub_protocol),
    ("websocket_requests_for_something_else_are_refused_and_counted", refused),
    ("websockets_of_pages_from_elsewhere_are_refused_where_origins_are_named", origins),
];

const REQUEST: &str = "GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqttv3.1, mqtt\r\n\r\n";

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;

/// The client's side of a WebSocket.
struct Socket {
    stream: TcpStream,
    /// The head of the answer to the handshake.
    head: String,
}

impl Socket {
    fn open(door: &Door) -> Result<Self, Failed> {
        let mut stream = door.connect()?;
        stream.write_all(REQUEST.as_bytes())?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        Ok(Self { stream, head: String::from_utf8(head)? })
    }

    fn send(&mut self, first: u8, payload: &[u8]) -> Result<(), Failed> {
        Ok(self.stream.write_all(&frame(first, payload)?)?)
    }

    /// The next frame: its first byte and its payload, which must be short and unmasked.
    fn receive(&mut self) -> Result<(u8, Vec<u8>), Failed> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head)?;
        assert!(head[1] < 126, "a short frame without a mask");
        let mut payload = vec![0; usize::from(head[1])];
        self.stream.read_exact(&mut payload)?;
        Ok((head[0], payload))
    }

    /// That nothing but the end comes any more.
    fn expect_close(mut self) -> Result<(), Failed> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest)?;
        assert!(rest.is_empty(), "{rest:?}");
        Ok(())
    }
}

/// A masked frame of up to 125 bytes.
fn frame(first: u8, payload: &[u8]) -> Result<Vec<u8>, Failed> {
    let mask = [0x11, 0x22, 0x33, 0x44];
    let mut frame = vec![first, 0x80 | u8::try_from(payload.len())?];
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    Ok(frame)
}

fn subscribe() -> Vec<u8> {
    let packet = Packet::new("subscribe").number("id", 7_u8).bytes("filter", "a");
    packet.number("options", 1_u8).encode(Version::V3_1_1)
}

fn frames_are_not_packets() -> Result<(), Failed> {
    let door = Door::open("ws", &[])?;
    let mut socket = Socket::open(&door)?;
    // One packet over three frames of one message, in the middle of its length field too.
    let connect = connect_packet("cut");
    socket.send(BINARY, &connect[..1])?;
    socket.send(CONTINUATION, &connect[1..5])?;
    socket.send(FIN | CONTINUATION, &connect[5..])?;
    assert_eq!(socket.receive()?, (FIN | BINARY, CONNACK.to_vec()));
    // Several packets in one frame, the last of them cut off, its rest in another message.
    let ping = Packet::new("pingreq").encode(Version::V3_1_1);
    let all = [&ping[..], &ping, &subscribe()].concat();
    let (first, rest) = all.split_at(all.len() - 1);
    socket.send(FIN | BINARY, first)?;
    socket.send(FIN | BINARY, rest)?;
    let mut came = Vec::new();
    while came.len() < 9 {
        let (first, payload) = socket.receive()?;
        assert_eq!(first, FIN | BINARY);
        came.extend(payload);
    }
    assert_eq!(came, [0xd0, 0, 0xd0, 0, 0x90, 3, 0, 7, 1]);
    // And two frames in one write, each a byte.
    let bytes = [frame(FIN | BINARY, &ping[..1])?, frame(FIN | BINARY, &ping[1..])?].concat();
    socket.stream.write_all(&bytes)?;
    assert_eq!(socket.receive()?, (FIN | BINARY, vec![0xd0, 0]));
    Ok(())
}

fn pings() -> Result<(), Failed> {
    let door = Door::open("ws", &[])?;
    let mut socket = Socket::open(&door)?;
    let connect = connect_packet("ping");
    socket.send(BINARY, &connect[..3])?;
    socket.send(FIN | PING, b"are you there?")?;
    assert_eq!(socket.receive()?, (FIN | PONG, b"are you there?".to_vec()));
    socket.send(FIN | PONG, b"nobody asked")?;
    socket.send(FIN | CONTINUATION, &connect[3..])?;
    assert_eq!(socket.receive()?, (FIN | BINARY, CONNACK.to_vec()));
    socket.send(FIN | CLOSE, &1000_u16.to_be_bytes())?;
    assert_eq!(socket.receive()?, (FIN | CLOSE, 1000_u16.to_be_bytes().to_vec()));
    socket.expect_close()
}

fn text_frames_close() -> Result<(), Failed> {
    let door = Door::open("ws", &[])?;
    let before = door.refused("websocket_frame")?;
    let mut socket = Socket::open(&door)?;
    socket.send(FIN | BINARY, &connect_packet("text"))?;
    assert_eq!(socket.receive()?, (FIN | BINARY, CONNACK.to_vec()));
    let ping = Packet::new("pingreq").encode(Version::V3_1_1);
    socket.send(FIN | TEXT, &ping)?;
    assert_eq!(socket.receive()?, (FIN | CLOSE, 1003_u16.to_be_bytes().to_vec()));
    socket.expect_close()?;
    door.is_refused_once_more("websocket_frame", before)
}

fn sub_protocol() -> Result<(), Failed> {
    let door = Door::open("ws", &[])?;
    let mut socket = Socket::open(&door)?;
    assert!(socket.head.starts_with("HTTP/1.1 101 "), "{}", socket.head);
    let named: Vec<&str> = socket
        .head
        .lines()
        .filter_map(|line| line.strip_prefix("Sec-WebSocket-Protocol: "))
        .collect();
    assert_eq!(named, ["mqtt"]);
    socket.send(FIN | BINARY, &connect_packet("binary"))?;
    assert_eq!(socket.receive()?.0, FIN | BINARY);
    Ok(())
}

fn refused() -> Result<(), Failed> {
    let door = Door::open("ws", &[])?;
    for (from, to, status) in [
        ("/mqtt", "/", "404 Not Found"),
        ("mqttv3.1, mqtt", "mqttv3.1", "400 Bad Request"),
        ("Sec-WebSocket-Protocol: mqttv3.1, mqtt\r\n", "", "400 Bad Request"),
        ("Upgrade: websocket\r\n", "", "426 Upgrade Required"),
        ("Version: 13", "Version: 8", "426 Upgrade Required"),
    ] {
        let before = door.refused("websocket_upgrade")?;
        let mut stream = door.connect()?;
        stream.write_all(REQUEST.replace(from, to).as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{to}: {answer}");
        door.is_refused_once_more("websocket_upgrade", before)?;
    }
    let line = door.broker.wait_for("reason=\"websocket_upgrade\"")?;
    assert!(line.contains("address=127.0.0.1:"), "{line}");
    Ok(())
}

fn origins() -> Result<(), Failed> {
    let door = Door::open("ws", &["--listeners[0].origins=https://good.example"])?;
    for (origin, status) in [
        ("", "101 Switching Protocols"),
        ("Origin: https://good.example\r\n", "101 Switching Protocols"),
        ("Origin: https://evil.example\r\n", "403 Forbidden"),
    ] {
        let mut stream = door.connect()?;
        let request = REQUEST.replace("Host: a\r\n", &format!("Host: a\r\n{origin}"));
        stream.write_all(request.as_bytes())?;
        let mut head = [0; 40];
        stream.read_exact(&mut head)?;
        let head = String::from_utf8_lossy(&head);
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{origin}: {head}");
    }
    assert_eq!(door.refused("websocket_upgrade")?, 1.0);
    Ok(())
}
