//! `nginx.conf` in the real Nginx: balancing, the client's address by the PROXY protocol, many
//! clients, a reload, a dead broker.
//!
//! Behind it stand brokers with a `proxy_protocol` listener; as long as the broker has none,
//! stand-ins that read the header and answer CONNECT and PINGREQ.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use super::Test;
use super::tools::{Scratch, octopus, program, run, text};
use crate::harness::broker::{Process, free_port};

pub(super) fn tests() -> Vec<Test> {
    vec![
        ("nginx_takes_the_configuration", takes),
        ("nginx_shares_clients_out_and_tells_their_addresses", shares),
        ("nginx_gives_clients_to_the_broker_with_the_fewest", fewest),
        ("nginx_carries_2000_clients_through_a_reload", reload),
        ("nginx_leaves_a_dead_broker_out", dead),
        ("nginx_carries_messages_to_a_broker", message),
    ]
}

/// Whether the broker reads the header that Nginx sends.
fn proxy_protocol_is_known() -> Result<bool, Failed> {
    let help = run(Command::new(octopus()).arg("--help"))?;
    Ok(help.contains("proxy_protocol"))
}

/// A configuration without the keys of listeners that this broker does not have.
pub(super) fn as_far_as_known(configuration: &str) -> Result<String, Failed> {
    let known = proxy_protocol_is_known()?;
    let lines = configuration.lines();
    let lines = lines.filter(|line| known || !line.trim().starts_with("proxy_protocol:"));
    Ok(lines.map(|line| format!("{line}\n")).collect())
}

/// Nginx with our configuration, on free ports of the loopback.
struct Nginx {
    process: Process,
    address: SocketAddr,
    /// Its files lie there as long as it runs.
    _scratch: Scratch,
}

/// The configuration with these brokers, and where it listens.
fn rendered(brokers: [SocketAddr; 2], scratch: &Scratch) -> Result<(String, SocketAddr), Failed> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let pid = scratch.path().join("nginx.pid");
    let mut rendered = format!("daemon off;\n{}", text("deploy/nginx.conf")?);
    for (ours, here) in [
        ("octopus-broker1:20003", brokers[0].to_string()),
        ("octopus-broker2:20003", brokers[1].to_string()),
        ("listen 20000 ", format!("listen {address} ")),
        ("127.0.0.1:20004", format!("127.0.0.1:{}", free_port())),
        ("/tmp/nginx.pid", pid.to_string_lossy().into_owned()),
        // So that its start and reload can be waited for.
        ("error_log stderr warn;", "error_log stderr notice;".to_owned()),
    ] {
        assert!(rendered.contains(ours), "{ours} is not in nginx.conf");
        rendered = rendered.replace(ours, &here);
    }
    Ok((rendered, address))
}

fn command(configuration: &str, scratch: &Scratch) -> Result<Command, Failed> {
    let file = scratch.write("nginx.conf", configuration)?;
    let mut command = program("nginx");
    command.arg("-c").arg(file).args(["-e", "stderr"]);
    Ok(command)
}

impl Nginx {
    fn start(brokers: [SocketAddr; 2]) -> Result<Self, Failed> {
        Self::start_with(brokers, |configuration| configuration)
    }

    fn start_with(
        brokers: [SocketAddr; 2],
        change: impl FnOnce(String) -> String,
    ) -> Result<Self, Failed> {
        let scratch = Scratch::new("nginx")?;
        let (configuration, address) = rendered(brokers, &scratch)?;
        let process = Process::spawn(command(&change(configuration), &scratch)?, address)?;
        process.wait_for("start worker process ")?;
        Ok(Self { process, address, _scratch: scratch })
    }

    /// A client that has its CONNACK.
    fn client(&self, number: usize) -> Result<TcpStream, Failed> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let id = format!("client-{number}");
        let mut connect = b"\x10\x00\x00\x04MQTT\x04\x02\x00\x00".to_vec();
        connect.extend((id.len() as u16).to_be_bytes());
        connect.extend(id.bytes());
        connect[1] = u8::try_from(connect.len() - 2)?;
        stream.write_all(&connect)?;
        expect(&mut stream, [0x20, 2, 0, 0])?;
        Ok(stream)
    }
}

fn expect<const LENGTH: usize>(stream: &mut TcpStream, wanted: [u8; LENGTH]) -> Result<(), Failed> {
    let mut came = [0; LENGTH];
    stream.read_exact(&mut came)?;
    if came == wanted { Ok(()) } else { Err(format!("{came:?} instead of {wanted:?}").into()) }
}

/// What stands behind Nginx.
enum Backend {
    Broker { process: Process, proxied: SocketAddr },
    StandIn { address: SocketAddr, clients: Arc<Mutex<Vec<SocketAddr>>> },
}

impl Backend {
    fn start() -> Result<Self, Failed> {
        if !proxy_protocol_is_known()? {
            return stand_in();
        }
        let proxied = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let process = Process::start(&[
            "--shards=2".to_owned(),
            "--listeners[0].name=proxied".to_owned(),
            "--listeners[0].proxy_protocol=true".to_owned(),
            format!("--listeners[0].address={proxied}"),
        ])?;
        Ok(Self::Broker { process, proxied })
    }

    fn address(&self) -> SocketAddr {
        match self {
            Self::Broker { proxied, .. } => *proxied,
            Self::StandIn { address, .. } => *address,
        }
    }

    /// The addresses of the clients that came, as told by the header.
    fn clients(&self) -> Vec<SocketAddr> {
        match self {
            Self::StandIn { clients, .. } => clients.lock().expect("no panic within").clone(),
            Self::Broker { process, .. } => {
                let log = process.log();
                let lines = log.lines().filter(|line| line.contains(" connected "));
                let words = lines.filter_map(|line| line.split("address=").nth(1));
                words.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
            }
        }
    }
}

fn stand_in() -> Result<Backend, Failed> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let clients = Arc::new(Mutex::new(Vec::new()));
    let known = Arc::clone(&clients);
    // Both threads end with their sockets, at the latest with the test's process.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let known = Arc::clone(&known);
            // A client that is gone ends its thread; there is nobody to tell.
            thread::spawn(move || drop(answer(stream, &known)));
        }
    });
    Ok(Backend::StandIn { address, clients })
}

/// Reads `PROXY TCP4 source destination port port`, then answers packets.
fn answer(mut stream: TcpStream, clients: &Mutex<Vec<SocketAddr>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut header = String::new();
    reader.read_line(&mut header)?;
    let words: Vec<&str> = header.split_whitespace().collect();
    if let ["PROXY", "TCP4", from, _, port, _] = words[..]
        && let Ok(client) = format!("{from}:{port}").parse()
    {
        clients.lock().expect("no panic within").push(client);
    }
    loop {
        let mut head = [0; 2];
        reader.read_exact(&mut head)?;
        let mut rest = vec![0; usize::from(head[1])];
        reader.read_exact(&mut rest)?;
        match head[0] {
            0x10 => stream.write_all(&[0x20, 2, 0, 0])?,
            0xc0 => stream.write_all(&[0xd0, 0])?,
            _ => return Ok(()),
        }
    }
}

fn takes() -> Result<(), Failed> {
    let scratch = Scratch::new("nginx")?;
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 20003));
    let (configuration, _) = rendered([anywhere; 2], &scratch)?;
    let said = run(command(&configuration, &scratch)?.arg("-t"))?;
    assert!(said.contains("test is successful"), "{said}");
    Ok(())
}

fn shares() -> Result<(), Failed> {
    let backends = [Backend::start()?, Backend::start()?];
    let nginx = Nginx::start([backends[0].address(), backends[1].address()])?;
    let clients: Vec<TcpStream> =
        (0..20).map(|number| nginx.client(number)).collect::<Result<_, _>>()?;
    check_shares(&backends, &clients, 8)
}

/// When one broker's clients have left, it gets all that come until both have as many; in turns
/// every other one would go to the other.
fn fewest() -> Result<(), Failed> {
    let backends = [Backend::start()?, Backend::start()?];
    let nginx = Nginx::start([backends[0].address(), backends[1].address()])?;
    let all = || [backends[0].clients(), backends[1].clients()];
    let clients: Vec<TcpStream> =
        (0..12).map(|number| nginx.client(number)).collect::<Result<_, _>>()?;
    let [first, second] = known_when(12, all);
    assert_eq!((first.len(), second.len()), (6, 6));
    let is_of_first =
        |client: &TcpStream| client.local_addr().is_ok_and(|address| first.contains(&address));
    let (left, stay): (Vec<_>, Vec<_>) = clients.into_iter().partition(is_of_first);
    drop(left);
    if let Backend::Broker { process, .. } = &backends[0] {
        let deadline = Instant::now() + Duration::from_secs(20);
        while process.log().matches(" disconnected ").count() < 6 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }
    let more: Vec<TcpStream> =
        (12..17).map(|number| nginx.client(number)).collect::<Result<_, _>>()?;
    let [first, second] = known_when(17, all);
    assert_eq!((first.len(), second.len()), (11, 6));
    drop((stay, more));
    Ok(())
}

/// What is known once it is about `count` clients: a broker's word about a client is read from
/// its log, which comes a moment after the client's CONNACK.
fn known_when(count: usize, look: impl Fn() -> [Vec<SocketAddr>; 2]) -> [Vec<SocketAddr>; 2] {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let known = look();
        if known[0].len() + known[1].len() >= count || Instant::now() > deadline {
            return known;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Each client is known by its own address at one broker, and each broker has `at_least`.
fn check_shares(
    backends: &[Backend; 2],
    clients: &[TcpStream],
    at_least: usize,
) -> Result<(), Failed> {
    let known = known_when(clients.len(), || [backends[0].clients(), backends[1].clients()]);
    for client in clients {
        let address = client.local_addr()?;
        let count = known.iter().flatten().filter(|known| **known == address).count();
        assert_eq!(count, 1, "{address} is known to {count} brokers");
    }
    let counts = [known[0].len(), known[1].len()];
    assert!(counts.iter().all(|count| *count >= at_least), "shared out as {counts:?}");
    Ok(())
}

fn reload() -> Result<(), Failed> {
    // Many systems start with 1,024; a process may have more if it asks.
    let own = std::process::id().to_string();
    run(Command::new("prlimit").args(["--nofile=10000:", "--pid", &own]))?;
    let backends = [Backend::start()?, Backend::start()?];
    let nginx = Nginx::start([backends[0].address(), backends[1].address()])?;
    let mut clients: Vec<TcpStream> =
        (0..2000).map(|number| nginx.client(number)).collect::<Result<_, _>>()?;
    check_shares(&backends, &clients, 950)?;
    run(Command::new("kill").args(["-HUP", &nginx.process.id().to_string()]))?;
    nginx.process.wait_for("gracefully shutting down")?;
    for client in &mut clients {
        client.write_all(&[0xc0, 0])?;
        expect(client, [0xd0, 0])?;
    }
    drop(nginx.client(2000)?);
    Ok(())
}

fn dead() -> Result<(), Failed> {
    let backend = Backend::start()?;
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let nginx = Nginx::start([nobody, backend.address()])?;
    let clients: Vec<TcpStream> =
        (0..10).map(|number| nginx.client(number)).collect::<Result<_, _>>()?;
    assert_eq!(known_when(clients.len(), || [backend.clients(), Vec::new()])[0].len(), 10);
    Ok(())
}

fn message() -> Result<(), Failed> {
    let broker = Process::start(&["--shards=2".to_owned()])?;
    // The plain listener of a real broker, so without the header.
    let plain = |configuration: String| configuration.replace("proxy_protocol on;", "");
    let nginx = Nginx::start_with([broker.address; 2], plain)?;
    let port = nginx.address.port().to_string();
    let publish = ["-p", &port, "-t", "kept", "-m", "hello", "-q", "2", "-r"];
    run(Command::new("mosquitto_pub").args(publish))?;
    let subscribe = ["-p", &port, "-t", "kept", "-C", "1", "-W", "10", "-q", "2"];
    assert_eq!(run(Command::new("mosquitto_sub").args(subscribe))?.trim(), "hello");
    Ok(())
}
