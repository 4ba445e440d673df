//! HAProxy before the broker, in TCP mode: its PROXY protocol in both versions, before MQTT and
//! before TLS; and who else may speak to such a listener.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use libtest_mimic::Failed;

use super::{CONNACK, Door, Tests, connect, connect_packet, wait};
use crate::deploy::tools::program;
use crate::harness::broker::{Process, free_port};

pub(super) const TESTS: Tests = &[
    ("haproxy_tells_the_clients_address_in_both_versions", both_versions),
    ("haproxy_tells_the_address_before_tls", before_tls),
    ("a_rule_for_an_address_goes_by_what_haproxy_tells", rules),
    ("who_sends_no_proxy_header_or_may_not_is_refused_and_counted", refused),
];

/// HAProxy with one way in for each version of the header, to a listener of the door's.
struct HaProxy {
    _process: Process,
    ways: [(&'static str, SocketAddr); 2],
}

impl HaProxy {
    fn start(door: &Door, server: SocketAddr) -> Result<Self, Failed> {
        let ways = ["send-proxy", "send-proxy-v2"]
            .map(|header| (header, SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))));
        let mut text =
            "global\n  log stdout format raw local0\ndefaults\n  mode tcp\n  log global\n  \
            timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
                .to_owned();
        for (header, address) in ways {
            text.push_str(&format!(
                "listen {header}\n  bind {address}\n  server broker {server} {header}\n"
            ));
        }
        let file = door.certificates.file("haproxy.cfg");
        std::fs::write(&file, text)?;
        let mut command = program("haproxy");
        command.args(["-db", "-f", &file]);
        let process = Process::spawn(command, ways[0].1)?;
        let this = Self { _process: process, ways };
        for (_, address) in ways {
            wait("HAProxy listens", || Ok(TcpStream::connect(address).is_ok()))?;
        }
        Ok(this)
    }
}

/// A client that has its CONNACK.
fn client(address: SocketAddr, id: &str) -> Result<TcpStream, Failed> {
    let mut stream = connect(address)?;
    stream.write_all(&connect_packet(id))?;
    let mut came = CONNACK;
    stream.read_exact(&mut came)?;
    assert_eq!(came, CONNACK);
    Ok(stream)
}

fn both_versions() -> Result<(), Failed> {
    let door = Door::open("tcp", &["--listeners[0].proxy_protocol=true"])?;
    let haproxy = HaProxy::start(&door, door.address)?;
    for (header, address) in haproxy.ways {
        // Several, so that some are handed to the other shard.
        for number in 0..8 {
            let id = format!("{header}-{number}");
            let client = client(address, &id)?;
            let line = door.broker.wait_for(&format!("client={id} "))?;
            let told = format!("address={} ", client.local_addr()?);
            assert!(line.contains(&told), "{told}: {line}");
        }
    }
    Ok(())
}

fn before_tls() -> Result<(), Failed> {
    let door = Door::open("tls", &["--listeners[0].proxy_protocol=true"])?;
    let haproxy = HaProxy::start(&door, door.address)?;
    for (header, address) in haproxy.ways {
        let from = ["-A", "127.0.0.9", "-t", "kept", "-q", "2", "-r", "-m", "hi", "-i", header];
        door.tool_at(address, "mosquitto_pub", None, &from)?;
        let line = door.broker.wait_for(&format!("client={header} "))?;
        assert!(line.contains("address=127.0.0.9:"), "{line}");
    }
    Ok(())
}

fn rules() -> Result<(), Failed> {
    let files = super::Certificates::make()?;
    let rules = "otherwise: deny\nrules:\n  \
        - {verdict: allow, action: subscribe, address: 127.0.0.9, topics: ['a']}\n  \
        - {verdict: allow, action: publish, topics: ['a']}\n";
    std::fs::write(files.file("acl.yml"), rules)?;
    let settings = ["--listeners[0].proxy_protocol=true", "--auth.acl_file=@/acl.yml"];
    let door = Door::open_with(files, "tls", &settings)?;
    let haproxy = HaProxy::start(&door, door.address)?;
    let address = haproxy.ways[1].1;
    door.tool_at(address, "mosquitto_pub", None, &["-t", "a", "-r", "-q", "1", "-m", "kept"])?;
    let read = ["-t", "a", "-C", "1", "-W", "10"];
    let from = |client| {
        door.tool_at(address, "mosquitto_sub", None, &[&["-A", client], &read[..]].concat())
    };
    assert_eq!(from("127.0.0.9")?, "kept");
    // mosquitto_sub 2.0 ends well though all it asked for is denied.
    assert_ne!(from("127.0.0.8").ok().as_deref(), Some("kept"), "another address");
    assert_eq!(door.metric("octopus_subscribes_denied_total{", "")?, 1.0);
    Ok(())
}

/// Whether the broker closes without an answer.
fn is_closed(stream: &mut TcpStream) -> Result<(), Failed> {
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => Err(format!("not closed: {other:?}").into()),
    }
}

fn refused() -> Result<(), Failed> {
    let elsewhere = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let door = Door::open(
        "tcp",
        &[
            "--listeners[0].proxy_protocol=true",
            "--listeners[1].name=elsewhere",
            &format!("--listeners[1].address={elsewhere}"),
            "--listeners[1].proxy_protocol=true",
            "--listeners[1].trusted_proxies=10.0.0.0/8",
        ],
    )?;
    let header = b"PROXY TCP4 192.0.2.7 10.0.0.1 5 1883\r\n";
    let wrong = b"PROXY TCP4 192.0.2.7 10.0.0.1 99999 1883\r\n";
    for (address, sent, reason) in [
        (door.address, &connect_packet("a")[..], "proxy_header"),
        (door.address, wrong, "proxy_header"),
        (elsewhere, header, "untrusted_proxy"),
    ] {
        let before = door.refused(reason)?;
        let mut stream = connect(address)?;
        // It may be closed already.
        let _ = stream.write_all(sent);
        is_closed(&mut stream)?;
        door.is_refused_once_more(reason, before)?;
    }
    for reason in ["reason=\"proxy_header\"", "reason=\"untrusted_proxy\""] {
        let line = door.broker.wait_for(reason)?;
        assert!(line.contains("address=127.0.0.1:"), "{line}");
    }
    Ok(())
}
