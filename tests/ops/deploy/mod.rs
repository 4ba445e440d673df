//! What stands in `deploy/`: read and compared here, and run against the real programs.
//! No container engine is needed; deploy/README.md says what is therefore not run.

mod compose;
mod files;
mod nginx;
mod prometheus;
mod seccomp;
mod systemd;

use super::Test;

pub(super) fn tests() -> Vec<Test> {
    let mut tests = files::tests();
    tests.extend(compose::tests());
    tests.extend(nginx::tests());
    tests.extend(seccomp::tests());
    tests.extend(prometheus::tests());
    tests.extend(systemd::tests());
    tests
}
