//! What an operator takes from `deploy/` and from the README: read and compared, and run against
//! the real programs as far as that goes without a container engine. deploy/README.md says what
//! is therefore not run.

mod compose;
mod files;
mod image;
mod nginx;
mod prometheus;
mod promises;
mod seccomp;
mod systemd;
pub(crate) mod tools;

use libtest_mimic::{Failed, Trial};

/// A test's name and what it does.
type Test = (&'static str, fn() -> Result<(), Failed>);

pub(crate) fn trials() -> Vec<Trial> {
    let groups = [
        files::tests(),
        image::tests(),
        compose::tests(),
        nginx::tests(),
        seccomp::tests(),
        prometheus::tests(),
        systemd::tests(),
        promises::tests(),
    ];
    let tests = groups.into_iter().flatten();
    tests.map(|(name, test)| Trial::test(format!("deploy::{name}"), test)).collect()
}
