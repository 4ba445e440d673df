//! Running it: what an operator takes from `deploy/` and from the README, as far as it can be
//! run without a container engine.

mod deploy;
mod promises;
mod tools;

use libtest_mimic::{Failed, Trial};

/// A test's name and what it does.
type Test = (&'static str, fn() -> Result<(), Failed>);

pub(crate) fn trials() -> Vec<Trial> {
    let tests = deploy::tests().into_iter().chain(promises::tests());
    tests.map(|(name, test)| Trial::test(format!("ops::{name}"), test)).collect()
}
