//! What the README and SECURITY.md promise: every command is run, every test that is named
//! exists, both languages say the same.
//!
//! A fenced block says behind `sh` how it is run:
//!
//! | word | how |
//! |---|---|
//! | `runnable` | line by line against a live broker; each must succeed |
//! | `starts` | each line starts a broker that comes to listen and is then ended |
//! | `doors`, `doors-start`, `doors-use` | in a directory of its own: what is made first, a broker, what is done with it |
//! | `group`, `group-use` | brokers of one group with a Redis, and what is done with them |
//! | `bench` | against a live broker, by the load generator that was built with the tests |
//! | `build`, `elsewhere` | not here: it is how this binary came about, or needs root, a cluster or a container engine; what it names must exist |

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Failed;

use super::Test;
use super::tools::{Scratch, octopus, program, report, root, run, text};
use crate::harness::broker::{Process, free_port};

pub(super) fn tests() -> Vec<Test> {
    vec![
        ("readme_commands_work", runnable),
        ("readme_starts_are_starts", starts),
        ("readme_listeners_listen", doors),
        ("readme_group_is_one_broker", group),
        ("readme_benchmarks_pass", bench),
        ("readme_names_files_that_are_there", elsewhere),
        ("readme_is_the_same_in_both_languages", languages),
        ("readme_names_keys_that_exist", keys),
        ("security_names_tests_that_exist", security),
    ]
}

const README: &str = "README.md";

/// A fenced block: the word behind `sh`, and its lines.
struct Block {
    word: String,
    lines: Vec<String>,
}

fn blocks(path: &str) -> Result<Vec<Block>, Failed> {
    let text = text(path)?;
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(word) = line.strip_prefix("```") else { continue };
        let word = word.strip_prefix("sh ").unwrap_or_default().to_owned();
        let inside = lines.by_ref().take_while(|line| *line != "```").map(str::to_owned);
        blocks.push(Block { word, lines: inside.collect() });
    }
    Ok(blocks)
}

/// The commands of all blocks with this word.
fn commands(word: &str) -> Result<Vec<String>, Failed> {
    let blocks = blocks(README)?.into_iter().filter(|block| block.word == word);
    let commands: Vec<String> = blocks.flat_map(|block| block.lines).collect();
    if commands.is_empty() { Err(format!("no block {word:?}").into()) } else { Ok(commands) }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Ports that the README names, and those that stand for them here.
struct Ports(Vec<(&'static str, String)>);

impl Ports {
    fn new(named: &[&'static str]) -> Self {
        Self(named.iter().map(|port| (*port, free_port().to_string())).collect())
    }

    fn of<'p>(&'p self, named: &'p str) -> &'p str {
        self.0.iter().find(|(port, _)| *port == named).map_or(named, |(_, here)| here)
    }

    fn put_into(&self, command: &str) -> String {
        self.0.iter().fold(command.to_owned(), |text, (port, here)| text.replace(port, here))
    }
}

/// How long a command may take.
const PATIENCE: &str = "timeout 300";

/// A shell that runs one command and ends it if it hangs.
fn bounded(scratch: &Scratch, command: &str) -> Result<Command, Failed> {
    shell(scratch, &format!("{PATIENCE} env {command}"))
}

/// A shell that becomes the command, finds the tested binary as `octopus`, and stands at the top
/// of the project.
fn shell(scratch: &Scratch, command: &str) -> Result<Command, Failed> {
    let link = scratch.path().join("octopus");
    if !link.exists() {
        std::os::unix::fs::symlink(octopus(), link)?;
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("bash");
    shell.args(["-c", &format!("exec env {command}")]);
    shell.env("PATH", format!("{}:{path}", scratch.path().display()));
    shell.env_remove("OCTOPUS_TEST_BROKER").current_dir(root());
    Ok(shell)
}

/// A broker with its pages, where the README's commands expect one.
fn live(scratch: &Scratch, ports: &Ports) -> Result<Process, Failed> {
    let (mqtt, http) = (ports.of("20000"), ports.of("20080"));
    let command = format!("octopus --shards=2 --broker.port={mqtt} --http.port={http}");
    let broker = Process::spawn(shell(scratch, &command)?, local(mqtt.parse()?))?;
    broker.wait_for("listening on")?;
    Ok(broker)
}

fn runnable() -> Result<(), Failed> {
    let (scratch, ports) = (Scratch::new("readme")?, Ports::new(&["20000", "20080"]));
    let _broker = live(&scratch, &ports)?;
    for command in commands("runnable")? {
        let mut shell = bounded(&scratch, &ports.put_into(&command))?;
        shell.env("OCTOPUS_BROKER_PORT", ports.of("20000"));
        shell.env("OCTOPUS_HTTP_PORT", ports.of("20080"));
        run(&mut shell).map_err(|fault| format!("{command}: {fault:?}"))?;
    }
    Ok(())
}

fn starts() -> Result<(), Failed> {
    for command in commands("starts")? {
        let scratch = Scratch::new("readme")?;
        let ports = Ports::new(&["20000", "20001", "20080", "20083", "1883"]);
        // Where neither the command nor its file says another port, it is the usual one.
        let command = ports.put_into(&command);
        let says = command.to_lowercase().contains("port=");
        let port =
            if says { String::new() } else { format!(" --broker.port={}", ports.of("20000")) };
        let mut shell = shell(&scratch, &format!("{command}{port}"))?;
        shell.env("OCTOPUS_HTTP_PORT", ports.of("20080"));
        let broker = Process::spawn(shell, local(0))?;
        broker.wait_for("listening on").map_err(|fault| format!("{command}: {fault}"))?;
        end(&broker)?;
    }
    Ok(())
}

/// Asks it to stop and waits until it has.
fn end(broker: &Process) -> Result<(), Failed> {
    run(Command::new("kill").args(["-TERM", &broker.id().to_string()]))?;
    broker.wait_for("stopped")?;
    Ok(())
}

fn doors() -> Result<(), Failed> {
    let scratch = Scratch::new("readme")?;
    let ports = Ports::new(&["20000", "20003", "20080", "8883", "8884", "8885"]);
    std::fs::create_dir(scratch.path().join("config"))?;
    scratch.write("config/listeners.yml", &ports.put_into(&text("config/listeners.yml")?))?;
    let here = |command: &str| -> Result<Command, Failed> {
        let mut shell = bounded(&scratch, &ports.put_into(command))?;
        shell.current_dir(scratch.path());
        Ok(shell)
    };
    for command in commands("doors")? {
        run(&mut here(&command)?)?;
    }
    let mut brokers = Vec::new();
    for command in commands("doors-start")? {
        // Not `bounded`: what is ended with the test would be the clock, not the broker.
        let mut shell = shell(&scratch, &ports.put_into(&command))?;
        shell.current_dir(scratch.path());
        shell.env("OCTOPUS_BROKER_PORT", ports.of("20000"));
        shell.env("OCTOPUS_HTTP_PORT", ports.of("20080"));
        let broker = Process::spawn(shell, local(0))?;
        broker.wait_for("listening on").map_err(|fault| format!("{command}: {fault}"))?;
        brokers.push(broker);
    }
    for command in commands("doors-use")? {
        run(&mut here(&command)?).map_err(|fault| format!("{command}: {fault:?}"))?;
    }
    Ok(())
}

fn group() -> Result<(), Failed> {
    let scratch = Scratch::new("readme")?;
    let ports = Ports::new(&["20001", "20002", "20081", "20082", "6379"]);
    let mut command = program("redis-server");
    command.args(["--port", ports.of("6379"), "--bind", "127.0.0.1", "--save", ""]);
    command.current_dir(scratch.path());
    let redis = Process::spawn(command, local(0))?;
    redis.wait_for("eady to accept connections")?;
    let mut brokers = Vec::new();
    for command in commands("group")? {
        let command = format!(
            "{} --redis.host=127.0.0.1 --redis.port={}",
            ports.put_into(&command),
            ports.of("6379")
        );
        let broker = Process::spawn(shell(&scratch, &command)?, local(0))?;
        broker.wait_for("listening on").map_err(|fault| format!("{command}: {fault}"))?;
        brokers.push(broker);
    }
    for command in commands("group-use")? {
        run(&mut bounded(&scratch, &ports.put_into(&command))?)?;
    }
    Ok(())
}

fn bench() -> Result<(), Failed> {
    let (scratch, ports) = (Scratch::new("readme")?, Ports::new(&["20000", "20080"]));
    let own = std::process::id().to_string();
    run(Command::new("prlimit").args(["--nofile=15000:", "--pid", &own]))?;
    let _broker = live(&scratch, &ports)?;
    // The loads are the README's, the program is the one built with the tests: what Cargo would
    // build for that package alone has its dependencies with other features, minutes of work.
    let program = octopus_bench()?;
    for command in commands("bench")? {
        let command = command
            .strip_prefix("cargo run --release --package octopus-bench --")
            .map(|load| format!("{}{load}", program.display()))
            .ok_or_else(|| format!("not a load: {command}"))?;
        let mut shell = bounded(&scratch, &format!("{command} --port {}", ports.of("20000")))?;
        run(&mut shell).map_err(|fault| format!("{command}: {fault:?}"))?;
    }
    Ok(())
}

/// The load generator, which `cargo test --workspace` puts beside the broker.
fn octopus_bench() -> Result<PathBuf, Failed> {
    let program = Path::new(env!("CARGO_BIN_EXE_octopus")).with_file_name("octopus-bench");
    if program.exists() {
        return Ok(program);
    }
    Err(format!("{} is not there; build it: cargo test --workspace --no-run", program.display())
        .into())
}

/// Paths within commands that are not run here, and the targets of links.
fn elsewhere() -> Result<(), Failed> {
    let mut faults = Vec::new();
    let commands = [commands("elsewhere")?, commands("build")?].concat();
    let words = commands.iter().flat_map(|command| command.split_whitespace());
    let paths = words.filter(|word| {
        ["config/", "deploy/", "tests/"].iter().any(|start| word.starts_with(start))
    });
    for path in paths {
        if !root().join(path).exists() {
            faults.push(format!("a command of {README}: {path}"));
        }
    }
    for page in ["README.md", "README.zh.md", "deploy/README.md", "deploy/SECURITY.md"] {
        let text = text(page)?;
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let directory = root().join(page);
            if !directory.parent().is_some_and(|directory| directory.join(link).exists()) {
                faults.push(format!("{page}: {link}"));
            }
        }
    }
    report(&faults)
}

/// The same headings in number, the same blocks, the same links in the same order.
fn languages() -> Result<(), Failed> {
    let (here, there) = (blocks(README)?, blocks("README.zh.md")?);
    assert_eq!(here.len(), there.len());
    for (here, there) in here.iter().zip(&there) {
        assert!(!here.word.is_empty(), "a block says how it is run: {:?}", here.lines);
        assert_eq!((&here.word, &here.lines), (&there.word, &there.lines));
    }
    let shape = |path: &str| -> Result<(usize, usize, Vec<String>), Failed> {
        let text = text(path)?;
        let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        let links = text.split("](").skip(2).filter_map(|rest| rest.split(')').next());
        Ok((count("## "), count("| "), links.map(str::to_owned).collect()))
    };
    assert_eq!(shape(README)?, shape("README.zh.md")?);
    Ok(())
}

/// Words in backticks that look like keys are keys.
fn keys() -> Result<(), Failed> {
    let help = run(Command::new(octopus()).arg("--help"))?;
    let text = text(README)?;
    let mut faults = Vec::new();
    for word in text.split('`').skip(1).step_by(2) {
        let key = word.split([':', '=', ' ']).next().unwrap_or_default().trim_start_matches("--");
        let begins = ["broker.", "limits.", "connections.", "http.", "stats.", "log.", "redis."];
        let is_key = begins.iter().any(|begin| key.starts_with(begin)) && !key.ends_with(".yml");
        if is_key && !help.contains(&format!("--{key}")) {
            faults.push(key.to_owned());
        }
    }
    report(&faults)
}

/// In SECURITY.md tests stand in backticks with `::` in them: those of this binary by their
/// names, or the beginnings of them; those of a crate by what the function is called.
fn security() -> Result<(), Failed> {
    let page = text("deploy/SECURITY.md")?;
    let own = run(Command::new(std::env::current_exe()?).arg("--list"))?;
    let mut functions = String::new();
    for directory in ["src", "shards", "bench"] {
        let sources = super::tools::files(directory)?;
        for path in sources.iter().filter(|path| path.ends_with(".rs")) {
            functions.push_str(&text(path)?);
        }
    }
    let named: Vec<&str> =
        page.split('`').skip(1).step_by(2).filter(|word| word.contains("::")).collect();
    assert!(named.len() > 10, "SECURITY.md names {} tests", named.len());
    let missing = named.iter().filter(|name| {
        let function = name.rsplit("::").next().unwrap_or_default();
        let of_crate = name.starts_with("octopus");
        !(of_crate && functions.contains(&format!("fn {function}()"))
            || !of_crate && own.lines().any(|line| line.starts_with(**name)))
    });
    report(&missing.map(|name| format!("no test {name}")).collect::<Vec<_>>())
}
