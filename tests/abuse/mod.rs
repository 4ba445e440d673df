//! What attackers do, against the live broker: it stays within its memory, serves others
//! meanwhile, and gives every descriptor back.

mod floods;
mod memory;
mod probe;

use libtest_mimic::{Failed, Trial};

type Test = fn() -> Result<(), Failed>;

pub(crate) fn trials() -> Vec<Trial> {
    let tests = floods::TESTS.iter().chain(memory::TESTS);
    let trials = tests.map(|&(name, test)| Trial::test(format!("abuse::{name}"), test));
    trials.collect()
}
