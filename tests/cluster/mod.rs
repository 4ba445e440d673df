//! Groups of nodes, each a process, with a Redis of their own: what crosses, what survives,
//! what is refused.

mod arrival;
mod away;
mod bans;
mod cases;
mod client;
pub(crate) mod group;
mod history;
mod network;
mod raw;
mod sessions;
pub(crate) mod sharded;
mod starts;
mod subscriptions;

use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    let cases = cases::all().into_iter().chain(sessions::all()).chain(bans::all());
    let cases = cases.chain(subscriptions::all()).chain(away::all());
    let cases = cases.chain(history::all()).chain(network::all()).chain(sharded::all());
    let cases = cases.chain(starts::all()).chain(arrival::all());
    cases.map(|(name, case)| Trial::test(format!("cluster::{name}"), case)).collect()
}
