//! The PROXY protocol, versions 1 (a line) and 2 (binary): the header by which a proxy tells
//! whose connection it forwards.
//!
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Refusal;

/// The longest line of version 1, with its line end (§2.1).
const LINE_BYTES_MAX: usize = 107;

/// What a header of version 2 begins with (§2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family, length.
const HEAD_BYTES: usize = 16;

/// Addresses and what a proxy adds to them; its own fields (TLS, namespaces) are far smaller.
const BODY_BYTES_MAX: usize = 4096;

/// Reads one header, however it is cut into pieces.
#[derive(Debug, Default)]
pub struct Reader {
    held: Vec<u8>,
}

/// What a header says of the client, and the bytes behind it.
pub type Through<'a> = (Option<SocketAddr>, &'a [u8]);

/// A complete header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client; `None` if the proxy speaks for itself or does not know.
    pub source: Option<SocketAddr>,
    /// Its length on the wire.
    len: usize,
}

impl Reader {
    /// Takes more bytes. Once the header is complete: see [`Through`].
    ///
    /// # Errors
    /// If this is no header, or one that is longer than any should be.
    pub fn receive<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<Through<'a>>, Refusal> {
        let before = self.held.len();
        let room = HEAD_BYTES + BODY_BYTES_MAX - before;
        self.held.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let header = parse(&self.held)?;
        Ok(header.map(|header| (header.source, &bytes[header.len - before..])))
    }
}

/// The header at the start of `bytes`; `None` while it is incomplete.
///
/// # Errors
/// As [`Reader::receive`].
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Refusal> {
    if starts_alike(bytes, b"PROXY ") {
        line(bytes)
    } else if starts_alike(bytes, SIGNATURE) {
        binary(bytes)
    } else {
        Err(Refusal::proxy("no PROXY protocol header"))
    }
}

/// Whether `bytes` begins with `start`, as far as it goes.
fn starts_alike(bytes: &[u8], start: &[u8]) -> bool {
    let len = bytes.len().min(start.len());
    bytes[..len] == start[..len]
}

fn line(bytes: &[u8]) -> Result<Option<Header>, Refusal> {
    let seen = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return match seen.len() {
            LINE_BYTES_MAX => Err(Refusal::proxy("a PROXY line over 107 bytes")),
            _ => Ok(None),
        };
    };
    let bad = Refusal::proxy("a malformed PROXY line");
    let text = std::str::from_utf8(&seen[..end]).map_err(|_| bad)?;
    let words: Vec<&str> = text.split(' ').collect();
    let source = match words[..] {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family @ ("TCP4" | "TCP6"), from, to, from_port, to_port] => {
            let ends = [(from, from_port), (to, to_port)];
            let [from, to] = ends.map(|(host, port)| Some((ip(family, host)?, decimal(port)?)));
            let (from, _) = from.zip(to).ok_or(bad)?;
            Some(from.into())
        }
        _ => return Err(bad),
    };
    Ok(Some(Header { source, len: end + 2 }))
}

fn ip(family: &str, text: &str) -> Option<IpAddr> {
    match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        _ => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
    }
}

fn decimal(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn binary(bytes: &[u8]) -> Result<Option<Header>, Refusal> {
    let Some((head, rest)) = bytes.split_at_checked(HEAD_BYTES) else { return Ok(None) };
    let body_len = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if body_len > BODY_BYTES_MAX {
        return Err(Refusal::proxy("a PROXY header over 4096 bytes"));
    }
    let is_forwarded = match head[12] {
        0x20 => false,
        0x21 => true,
        _ => return Err(Refusal::proxy("a PROXY header of unknown version or command")),
    };
    let Some(body) = rest.get(..body_len) else { return Ok(None) };
    let source = match head[13] {
        _ if !is_forwarded => None,
        0x11 => Some(v4(body).ok_or(Refusal::proxy("a PROXY header without its addresses"))?),
        0x21 => Some(v6(body).ok_or(Refusal::proxy("a PROXY header without its addresses"))?),
        // Unspecified, Unix, or a datagram's: the connection counts, its address does not.
        _ => None,
    };
    Ok(Some(Header { source, len: HEAD_BYTES + body_len }))
}

/// Source and destination address, source and destination port.
fn v4(body: &[u8]) -> Option<SocketAddr> {
    let address: [u8; 4] = body.get(..4)?.try_into().ok()?;
    let ports: [u8; 4] = body.get(8..12)?.try_into().ok()?;
    Some((address, u16::from_be_bytes([ports[0], ports[1]])).into())
}

fn v6(body: &[u8]) -> Option<SocketAddr> {
    let address: [u8; 16] = body.get(..16)?.try_into().ok()?;
    let ports: [u8; 4] = body.get(32..36)?.try_into().ok()?;
    Some((address, u16::from_be_bytes([ports[0], ports[1]])).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary_header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    fn v4_body() -> Vec<u8> {
        let mut body = vec![192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x07, 0x5b];
        // A field of a type nobody knows.
        body.extend([0xee, 0, 2, 1, 2]);
        body
    }

    fn v6_body() -> Vec<u8> {
        let mut body = "2001:db8::7".parse::<Ipv6Addr>().unwrap().octets().to_vec();
        body.extend([0; 16]);
        body.extend([0x30, 0x39, 0x07, 0x5b]);
        body
    }

    fn good() -> Vec<(Vec<u8>, Option<&'static str>)> {
        vec![
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 1883\r\n".to_vec(), Some("192.0.2.7:12345")),
            (b"PROXY TCP6 2001:db8::7 ::1 12345 1883\r\n".to_vec(), Some("[2001:db8::7]:12345")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (binary_header(0x21, 0x11, &v4_body()), Some("192.0.2.7:12345")),
            (binary_header(0x21, 0x21, &v6_body()), Some("[2001:db8::7]:12345")),
            (binary_header(0x21, 0x00, b""), None),
            (binary_header(0x21, 0x31, &[0; 216]), None),
            (binary_header(0x20, 0x11, &v4_body()), None),
        ]
    }

    #[test]
    fn a_header_is_read_whole_with_the_bytes_behind_it() {
        for (mut bytes, source) in good() {
            bytes.extend(b"\x10\x0c\r\n");
            let (told, rest) = Reader::default().receive(&bytes).unwrap().expect("complete");
            assert_eq!(told.map(|address| address.to_string()).as_deref(), source);
            assert_eq!(rest, b"\x10\x0c\r\n");
        }
    }

    #[test]
    fn a_header_is_read_byte_by_byte() {
        for (bytes, source) in good() {
            let mut reader = Reader::default();
            let (last, first) = bytes.split_last().unwrap();
            for byte in first {
                assert_eq!(reader.receive(&[*byte]).unwrap(), None);
            }
            let (told, rest) =
                reader.receive(std::slice::from_ref(last)).unwrap().expect("complete");
            assert_eq!(told.map(|address| address.to_string()).as_deref(), source);
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
        for bytes in [&b"\x10"[..], b"PROXX", b"\r\n\r\r", b"GET / HTTP/1.1\r\n"] {
            parse(bytes).expect_err("no header");
        }
    }

    #[test]
    fn malformed_headers_are_refused() {
        for line in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 12345\r\n",
            "PROXY TCP4 ::1 10.0.0.1 12345 1883\r\n",
            "PROXY TCP6 192.0.2.7 10.0.0.1 12345 1883\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 65536 1883\r\n",
            "PROXY TCP4 192.0.2.7 10.0.0.1 +1 1883\r\n",
            "PROXY TCP4  192.0.2.7 10.0.0.1 12345 1883\r\n",
            "PROXY UDP4 192.0.2.7 10.0.0.1 12345 1883\r\n",
        ] {
            parse(line.as_bytes()).expect_err(line);
        }
        parse(&binary_header(0x31, 0x11, &v4_body())).expect_err("version 3");
        parse(&binary_header(0x22, 0x11, &v4_body())).expect_err("an unknown command");
        parse(&binary_header(0x21, 0x11, &[0; 11])).expect_err("too short for its family");
        parse(&binary_header(0x21, 0x21, &[0; 35])).expect_err("too short for its family");
    }

    #[test]
    fn over_long_headers_are_refused_before_they_are_complete() {
        let line = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 93]].concat();
        assert_eq!(parse(&line[..106]).unwrap(), None);
        parse(&line).expect_err("107 bytes and no end");
        parse(&binary_header(0x21, 0x11, &[0; 4097])[..16]).expect_err("4097 bytes announced");
    }
}
