//! A ban that one node sets holds on all of them, and ends on all of them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use libtest_mimic::Failed;

use super::group::{Group, wait};
use crate::harness::broker::Process;
use crate::harness::wire::{Packet, Version};

type Case = fn() -> Result<(), Failed>;

pub(super) fn all() -> Vec<(&'static str, Case)> {
    vec![("a_ban_holds_on_every_node_and_ends_on_every_node", ban)]
}

/// Connects with this password; the stream and the code of CONNACK.
fn connect(node: &Process, id: &str, password: &str) -> Result<(TcpStream, u64), Failed> {
    let mut stream = node.connect()?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let packet = Packet::new("connect").number("clean", 1_u8).bytes("id", id);
    let packet = packet.bytes("user", "roger").bytes("password", password);
    stream.write_all(&packet.encode(Version::V5))?;
    let (mut inbox, mut bytes) = (Vec::new(), [0; 1024]);
    loop {
        if let Some((packet, _)) = Packet::decode(&inbox, Version::V5)? {
            return Ok((stream, packet.number_of("code")));
        }
        match stream.read(&mut bytes)? {
            0 => return Err("closed without a CONNACK".into()),
            count => inbox.extend_from_slice(&bytes[..count]),
        }
    }
}

/// The strict node bans this machine's address for failing; the open one, which asks nobody who
/// connects, refuses who comes and lets them in again in time. Who is connected stays, until a
/// ban comes that is for everyone.
fn ban() -> Result<(), Failed> {
    let group = Group::new(&["--auth.ban.failures_max=3", "--auth.ban.time=4s"])?;
    let open = group.node("OPEN")?;
    let chain = "--auth.chain=certificate".to_owned();
    let strict = group.node_with("STRICT", &["--broker.auth.enable=true".to_owned(), chain])?;
    let (mut live, code) = connect(&open, "live", "any")?;
    assert_eq!(code, 0, "nobody is banned yet");
    for _ in 0..3 {
        assert_eq!(connect(&strict, "wrong", "wrong")?.1, 0x86);
    }
    assert_eq!(connect(&strict, "wrong", "wrong")?.1, 0x8a, "banned where it failed");
    wait("the other node bans it too", || Ok(connect(&open, "new", "any")?.1 == 0x8a))?;
    live.write_all(&Packet::new("pingreq").encode(Version::V5))?;
    let mut pong = [0; 2];
    live.read_exact(&mut pong)?;
    assert_eq!(pong, [0xd0, 0], "a neighbour's failures end nobody who is connected");
    wait("the ban is over", || Ok(connect(&open, "new", "any")?.1 == 0))?;

    // As another node writes it.
    let mut redis = group.redis.connection()?;
    let mut change = |command: &str, arguments: &[&str]| -> Result<(), Failed> {
        let key = group.redis.key("GROUP1:V2:BANS");
        redis::cmd(command).arg(&key).arg(arguments).query::<()>(&mut redis)?;
        Ok(redis::cmd("INCR").arg(format!("{key}:VERSION")).query::<()>(&mut redis)?)
    };
    change("HSET", &["user:roger", "0 everyone"])?;
    let mut rest = Vec::new();
    live.read_to_end(&mut rest)?;
    let goodbye = Packet::decode(&rest, Version::V5)?.ok_or("no goodbye")?.0;
    assert_eq!((goodbye.name, goodbye.number_of("code")), ("disconnect", 0x8a));
    assert_eq!(connect(&open, "new", "any")?.1, 0x8a);
    change("HDEL", &["user:roger"])?;
    wait("it is taken off everywhere", || Ok(connect(&open, "new", "any")?.1 == 0))
}
