//! A flood of wrong passwords, while a pair of clients talks.
//!
//! `OCTOPUS_FLOOD_COUNT` sets how many (the figure in bench/results is for 20,000 and an
//! optimised broker); here it is a check that the pair is served at all and loses nothing.

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

const COUNT: u64 = 600;
/// Clients that try at the same time.
const THREADS: u64 = 16;
/// Generous, for machines that run much else; the measured figure is in bench/results.
const P99_MAX: Duration = Duration::from_millis(300);

fn wrong_passwords() -> Result<(), Failed> {
    let count = std::env::var("OCTOPUS_FLOOD_COUNT").ok().and_then(|text| text.parse().ok());
    let (count, settings): (u64, Option<String>) =
        (count.unwrap_or(COUNT), std::env::var("OCTOPUS_FLOOD_SETTINGS").ok());
    let files = Files::new()?;
    let file = files.path("passwords");
    set(&file, "roger", "right", &[])?;
    let own = format!("--auth.password_file={}", file.display());
    let more = settings.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned);
    let broker = broker(&[own].into_iter().chain(more).collect::<Vec<_>>())?;
    let mut reader = Client::let_in(&broker, Version::V5, &Card::new("r", "roger", "right"))?;
    let mut writer = Client::let_in(&broker, Version::V5, &Card::new("w", "roger", "right"))?;
    reader.subscribe("t")?;
    let quiet = talk(&mut reader, &mut writer, || (), &mut |sent| sent < 300)?;

    let tried = AtomicU64::new(0);
    let refused = Arc::new(AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    let (start, mut took) = (Instant::now(), Duration::ZERO);
    let loud = thread::scope(|scope| {
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
        let watch = scope.spawn(|| {
            let is_fine = attackers.into_iter().all(|attacker| attacker.join().is_ok());
            is_over.store(true, Ordering::Relaxed);
            is_fine
        });
        let pause = || thread::sleep(Duration::from_millis(1));
        let mut goes_on = |_| !is_over.load(Ordering::Relaxed);
        let loud = talk(&mut reader, &mut writer, pause, &mut goes_on);
        took = start.elapsed();
        assert!(watch.join().is_ok_and(|is_fine| is_fine), "no attacker panics");
        loud
    })?;
    assert_eq!(refused.load(Ordering::Relaxed), count, "every one is refused");
    if std::env::var_os("OCTOPUS_FLOOD_COUNT").is_some() {
        let line =
            format!("{count} wrong passwords in {took:.1?}; pair: before {quiet}, during {loud}\n");
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes())?;
    }
    assert!(loud.p99 < P99_MAX, "before {quiet}, during {loud}");
    Ok(())
}

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

/// One message at a time, as long as `goes_on` says of their number.
fn talk(
    reader: &mut Client,
    writer: &mut Client,
    pause: impl Fn(),
    goes_on: &mut dyn FnMut(usize) -> bool,
) -> Result<Delays, Failed> {
    let mut delays = Vec::new();
    while delays.is_empty() || goes_on(delays.len()) {
        let start = Instant::now();
        writer.send(&publish("t", "hello"))?;
        reader.expect("publish")?;
        delays.push(start.elapsed());
        pause();
    }
    delays.sort_unstable();
    let at = |part: usize| delays[(delays.len() - 1) * part / 100];
    Ok(Delays { count: delays.len(), p50: at(50), p99: at(99), max: at(100) })
}
