//! All tests of the whole: one binary, so that brokers are shared and nothing is linked twice.
//!
//! `abuse` attacks the broker, `auth` asks who is let in and what they may do, `conformance` plays
//! the specifications' scripts, `interop` runs clients that others wrote, `cluster` groups of
//! nodes with a Redis of their own, `doors` knocks at every kind of listener, `deploy` runs what
//! an operator is given, `ops` asks a broker what an operator asks, `tidy` holds the rules of the
//! house. `tests/run.sh` installs what these need.

mod abuse;
mod auth;
mod cluster;
mod conformance;
mod deploy;
mod doors;
mod harness;
mod interop;
mod ops;
mod tidy;

use std::process::ExitCode;
use std::sync::Arc;

use harness::pool::Pool;
use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Cases mostly wait for a broker, so more of them than there are cores run at a time.
    arguments.test_threads.get_or_insert(4);
    let pool = Arc::new(Pool::default());
    let mut trials = tidy::trials();
    trials.extend(conformance::trials(&pool));
    trials.extend(interop::trials());
    trials.extend(deploy::trials());
    trials.extend(doors::trials());
    trials.extend(ops::trials());
    trials.extend(cluster::trials());
    trials.extend(auth::trials());
    trials.extend(abuse::trials());
    let conclusion = libtest_mimic::run(&arguments, trials);
    pool.clear();
    conclusion.exit_code()
}
