//! Histories: real clients note what they see while a group suffers a mishap, and a checker
//! judges whether every promise was kept.
//!
//! Read in this order: `record` (what is noted), `check` (the promises, pure), `proofs` (that
//! the checker sees each broken one), `actor` and `link` (the clients), `relay` and `scene`
//! (three nodes, a Redis, and wires to cut), `faults` (the mishaps).

mod actor;
mod check;
mod faults;
mod link;
mod proofs;
mod record;
mod relay;
pub(super) mod scene;

use libtest_mimic::Failed;

type Case = fn() -> Result<(), Failed>;

pub(super) fn all() -> impl Iterator<Item = (&'static str, Case)> {
    proofs::all().into_iter().chain(faults::all())
}
