//! Load generator for MQTT brokers; see `README.md` beside this crate.
#![forbid(unsafe_code)]

mod cli;
mod cluster;
mod compare;
mod connection;
mod context;
#[cfg(test)]
mod faulty;
mod net;
mod order;
mod plan;
mod publisher;
mod report;
mod run;
mod stamp;
mod stats;
mod subscriber;
mod system;
mod tls;
mod wire;
mod worker;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;

use crate::{
    cli::{Cli, Command},
    plan::Plan,
};

fn main() -> ExitCode {
    match execute(&Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nothing is left to tell if even this cannot be written.
            let _ = writeln!(io::stderr(), "octopus-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command; `false` if a promise was broken.
fn execute(command: &Command) -> io::Result<bool> {
    match command {
        Command::Compare(options) => return compare::compare(options),
        Command::Cluster(options) => return cluster::measure(options),
        _ => {}
    }
    let json = command.common().is_some_and(|common| common.run.json);
    let mut kept = true;
    for plan in Plan::of(command)? {
        let outcome = run::run(plan, &mut |_| {})?;
        kept &= outcome.broken.is_empty();
        let text = if json { outcome.to_json() } else { outcome.to_string() };
        writeln!(io::stdout(), "{text}")?;
    }
    Ok(kept)
}
