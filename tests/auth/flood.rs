//! A flood of wrong passwords, while a pair of clients talks.
//!
//! There are more attackers than passwords may wait to be checked: so the hashing thread is always
//! busy, and who finds its queue full is told to come later. `OCTOPUS_FLOOD_COUNT` sets another
//! number, and has the figures printed, for bench/results.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Failed;

use super::backends::set;
use super::client::{Card, Client, publish};
use super::{Files, Test, broker};
use crate::harness::wire::Version;

pub(super) const TESTS: &[(&str, Test)] =
    &[("a_pair_is_served_while_wrong_passwords_pour_in", wrong_passwords)];

const COUNT: u64 = 20_000;
/// Clients that try at the same time; 32 passwords may wait.
const THREADS: u64 = 64;
/// A machine that runs much else may be late by more than two threads can show.
const ATTEMPTS: usize = 3;
/// What the broker may take. What the machine takes from everybody meanwhile is measured beside
/// it, by two threads that do the same without a broker.
const P99_MAX: Duration = Duration::from_millis(20);

fn wrong_passwords() -> Result<(), Failed> {
    let asked = std::env::var("OCTOPUS_FLOOD_COUNT").ok().and_then(|text| text.parse().ok());
    // With bans all but a few are refused unasked; without, passwords are checked all the time.
    for settings in ["", "--auth.ban.failures_max=0"] {
        let mut figures = Vec::new();
        for _ in 0..ATTEMPTS {
            let flood = flood(asked.unwrap_or(COUNT), settings)?;
            if asked.is_some() {
                std::io::stderr().write_all(format!("{settings}: {flood}\n").as_bytes())?;
            }
            if flood.loud.p99 < P99_MAX + 2 * flood.machine.p99 {
                figures.clear();
                break;
            }
            figures.push(flood.to_string());
        }
        assert!(figures.is_empty(), "{settings}: {figures:#?}");
    }
    Ok(())
}

/// What came of one flood.
struct Flood {
    count: u64,
    took: Duration,
    /// The pair before and during it, and what the machine alone took of a message.
    quiet: Delays,
    loud: Delays,
    machine: Delays,
}

impl std::fmt::Display for Flood {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, took, quiet, loud, machine } = self;
        write!(
            f,
            "{count} wrong passwords in {took:.1?}; pair: before {quiet}, during {loud}; \
             without a broker {machine}"
        )
    }
}

fn flood(count: u64, settings: &str) -> Result<Flood, Failed> {
    let files = Files::new()?;
    let file = files.path("passwords");
    set(&file, "roger", "right", &[])?;
    let own = [format!("--auth.password_file={}", file.display()), "--log.level=error".to_owned()];
    let more = settings.split_whitespace().map(str::to_owned);
    let broker = broker(&own.into_iter().chain(more).collect::<Vec<_>>())?;
    let mut reader = Client::let_in(&broker, Version::V5, &Card::new("r", "roger", "right"))?;
    let mut writer = Client::let_in(&broker, Version::V5, &Card::new("w", "roger", "right"))?;
    reader.subscribe("t")?;
    let quiet = talk(&mut reader, &mut writer, &mut |sent| sent < 300)?;

    let tried = AtomicU64::new(0);
    let refused = Arc::new(AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    let start = Instant::now();
    let (loud, machine) = thread::scope(|scope| {
        let attackers: Vec<_> = (0..THREADS)
            .map(|_| {
                scope.spawn(|| {
                    while let index = tried.fetch_add(1, Ordering::Relaxed)
                        && index < count
                    {
                        let (id, password) = (format!("x{index}"), format!("wrong-{index}"));
                        let card = Card::new(&id, "roger", &password);
                        let answer = Client::connect(&broker, Version::V5, &card);
                        let is_refused = answer.map_or(true, |(_, code)| code != 0);
                        refused.fetch_add(u64::from(is_refused), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            attackers.into_iter().for_each(|attacker| attacker.join().expect("no panic"));
            is_over.store(true, Ordering::Relaxed);
        });
        let goes_on = || !is_over.load(Ordering::Relaxed);
        let machine = scope.spawn(move || echo(&goes_on).map_err(|fault| format!("{fault:?}")));
        let loud = talk(&mut reader, &mut writer, &mut |_| goes_on());
        (loud, machine.join())
    });
    let (loud, machine) = (loud?, machine.map_err(|_| "the echo panicked")??);
    let took = start.elapsed();
    assert_eq!(refused.load(Ordering::Relaxed), count, "every one is refused");
    Ok(Flood { count, took, quiet, loud, machine })
}

/// How long a byte takes to another thread and back by the loopback: what a message would take
/// if the broker took nothing.
fn echo(goes_on: &dyn Fn() -> bool) -> Result<Delays, Failed> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut near = TcpStream::connect(listener.local_addr()?)?;
    let (mut far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let mirror = thread::spawn(move || {
        let mut byte = [0];
        // Until the other end is gone.
        while far.read_exact(&mut byte).and_then(|()| far.write_all(&byte)).is_ok() {}
    });
    let mut delays = Vec::new();
    while delays.is_empty() || goes_on() {
        let start = Instant::now();
        near.write_all(&[1])?;
        near.read_exact(&mut [0])?;
        delays.push(start.elapsed());
        thread::sleep(PAUSE);
    }
    drop(near);
    mirror.join().map_err(|_| "the mirror panicked")?;
    Ok(Delays::of(delays))
}

/// Between two messages.
const PAUSE: Duration = Duration::from_millis(1);

/// How long messages took from one client to the other.
struct Delays {
    count: usize,
    p50: Duration,
    p99: Duration,
    max: Duration,
}

impl std::fmt::Display for Delays {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, p50, p99, max } = self;
        write!(f, "{count} messages p50 {p50:.1?} p99 {p99:.1?} max {max:.1?}")
    }
}

impl Delays {
    fn of(mut delays: Vec<Duration>) -> Self {
        delays.sort_unstable();
        let at = |part: usize| delays[(delays.len() - 1) * part / 100];
        Self { count: delays.len(), p50: at(50), p99: at(99), max: at(100) }
    }
}

/// One message at a time, as long as `goes_on` says of their number.
fn talk(
    reader: &mut Client,
    writer: &mut Client,
    goes_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Delays, Failed> {
    let mut delays = Vec::new();
    while delays.is_empty() || goes_on(delays.len()) {
        let start = Instant::now();
        writer.send(&publish("t", "hello"))?;
        reader.expect("publish")?;
        delays.push(start.elapsed());
        thread::sleep(PAUSE);
    }
    Ok(Delays::of(delays))
}
