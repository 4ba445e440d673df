//! What the driver costs without a protocol: a relay that parses nothing, on the runtime's
//! ring and on a plain edge-triggered epoll loop, under the same load.
//!
//! `floor` runs every scenario on every server, interleaved, and prints a table; `floor
//! SCENARIO…` runs some; `floor mqtt PORT` is the ring relay for `octopus-bench compare`. The
//! server is a child process on the first allowed core, the load runs on the last. Results are
//! kept in `bench/results`.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

#[path = "../src/net.rs"]
#[expect(dead_code, reason = "the generator's sockets; a part of them is enough here")]
mod net;

mod load;
mod mqtt;
mod plain;
mod relay;
mod ring;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use load::{Load, Scenario};

const ROUNDS: usize = 3;
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURE: Duration = Duration::from_secs(3);
const SERVERS: [&str; 2] = ["epoll", "ring"];

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", kind, core] => serve(kind, core.parse()?),
        ["mqtt", port] => serve_mqtt(port.parse()?),
        ref wanted => compare(wanted),
    }
}

/// Serves on one core until standard input ends; prints its address first.
fn serve(kind: &str, core: usize) -> Result<(), Error> {
    pin(core)?;
    match kind {
        "epoll" => plain::spawn().map(|address| println!("{address}"))?,
        options => ring::spawn(options).map(|address| println!("{address}"))?,
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    std::process::exit(0);
}

/// Serves MQTT clients until it is killed, on the cores it was started on.
fn serve_mqtt(port: u16) -> Result<(), Error> {
    ring::spawn_mqtt(port)?;
    loop {
        std::thread::park();
    }
}

/// The first and the last core this process may use: the server's and the load's.
fn two_cores() -> Result<(usize, usize), Error> {
    let allowed = sched_getaffinity(None)?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
    let first = cores.next().ok_or("no core")?;
    Ok((first, cores.next_back().unwrap_or(first)))
}

fn pin(core: usize) -> Result<(), Error> {
    let mut one = CpuSet::new();
    one.set(core);
    Ok(sched_setaffinity(None, &one)?)
}

fn compare(wanted: &[&str]) -> Result<(), Error> {
    let servers = match std::env::var("FLOOR_SERVERS") {
        Ok(list) => list.split_whitespace().map(String::from).collect(),
        Err(_) => SERVERS.map(String::from).to_vec(),
    };
    let (server_core, load_core) = two_cores()?;
    pin(load_core)?;
    println!("| scenario | server | msg/s | CPU µs/msg | ratio to {} |", servers[0]);
    println!("|---|---|---|---|---|");
    for scenario in load::SCENARIOS {
        if !wanted.is_empty() && !wanted.contains(&scenario.name) {
            continue;
        }
        let mut results = vec![Vec::new(); servers.len()];
        for _ in 0..ROUNDS {
            for (server, results) in servers.iter().zip(&mut results) {
                results.push(measure(server, server_core, scenario)?);
            }
        }
        let medians: Vec<Figures> = results.into_iter().map(median).collect();
        for (server, figures) in servers.iter().zip(&medians) {
            println!(
                "| {} | {server} | {:.0} | {:.2} | {:.2} |",
                scenario.name,
                figures.rate,
                figures.cpu_us,
                figures.cpu_us / medians[0].cpu_us,
            );
        }
    }
    Ok(())
}

/// One run of one scenario.
#[derive(Clone, Copy)]
struct Figures {
    rate: f64,
    /// Server CPU per delivered message.
    cpu_us: f64,
}

/// The run with the middle CPU cost.
fn median(mut runs: Vec<Figures>) -> Figures {
    runs.sort_by(|left, right| left.cpu_us.total_cmp(&right.cpu_us));
    runs[runs.len() / 2]
}

fn measure(kind: &str, core: usize, scenario: &Scenario) -> Result<Figures, Error> {
    let server = Server::start(kind, core)?;
    let mut load = Load::connect(server.address, scenario)?;
    load.run(WARM_UP)?;
    load.reset();
    let (cpu_before, begin) = (server.cpu()?, Instant::now());
    load.run(MEASURE)?;
    let (cpu, elapsed) = (server.cpu()? - cpu_before, begin.elapsed());
    let delivered = load.delivered_count() as f64;
    drop(load);
    server.stop()?;
    Ok(Figures {
        rate: delivered / elapsed.as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / delivered,
    })
}

struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    fn start(kind: &str, core: usize) -> Result<Self, Error> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["serve", kind, &core.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().ok_or("no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        Ok(Self { process, address: line.trim().parse()? })
    }

    /// CPU time of all its threads so far.
    fn cpu(&self) -> Result<Duration, Error> {
        let mut total = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.process.id()))? {
            let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
            let on_cpu_ns: u64 = text.split_whitespace().next().ok_or("no schedstat")?.parse()?;
            total += on_cpu_ns;
        }
        Ok(Duration::from_nanos(total))
    }

    /// Closes its input, which ends it.
    fn stop(mut self) -> Result<(), Error> {
        drop(self.process.stdin.take());
        self.process.wait()?;
        Ok(())
    }
}
