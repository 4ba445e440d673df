//! The specifications as tests: every case of every script, for each version it speaks of and
//! against each back end, and the proof that no normative statement is without a case.

mod clauses;
mod live;
mod matching;
mod properties;
mod runner;
mod script;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use libtest_mimic::{Failed, Trial};

use crate::harness::pool::Pool;
use crate::harness::sim::Simulated;
use crate::harness::tcp::Tcp;
use crate::harness::wire::Version;
use runner::Runner;
use script::Case;

/// Shards of the nodes that every case runs on.
const SHARDS: [u16; 2] = [1, 2];

/// All tests of this part.
pub(crate) fn trials(pool: &Arc<Pool>) -> Vec<Trial> {
    let cases = match cases() {
        Ok(cases) => cases,
        Err(what) => {
            return vec![Trial::test(
                "conformance::scripts_are_readable",
                move || Err(what.into()),
            )];
        }
    };
    let mut trials = clauses::trials(&cases);
    trials.extend(live::trials());
    for case in cases {
        let case = Arc::new(case);
        for &version in &case.versions {
            for shards in SHARDS {
                trials.extend(simulated(&case, version, shards));
                if !case.sim_only {
                    trials.push(live(pool, &case, version, shards));
                }
            }
        }
    }
    trials
}

/// One case against a process.
fn live(pool: &Arc<Pool>, case: &Arc<Case>, version: Version, shards: u16) -> Trial {
    let (pool, play) = (Arc::clone(pool), Arc::clone(case));
    let name = name(case, version, &format!("live_{shards}"));
    Trial::test(name, move || {
        let mut settings = play.settings.clone();
        settings.push(format!("--shards={shards}"));
        let broker = pool.borrow(&settings)?;
        Runner::new(&mut Tcp::new(&broker), version).play(&play).map_err(Failed::from)?;
        pool.give_back(&settings, broker);
        Ok(())
    })
}

/// One case against engines under simulation, if they have all that its settings ask for.
fn simulated(case: &Arc<Case>, version: Version, shards: u16) -> Option<Trial> {
    Simulated::new(shards, &case.settings)?;
    if case.live_only {
        return None;
    }
    let play = Arc::clone(case);
    let name = name(case, version, &format!("sim_{shards}"));
    Some(Trial::test(name, move || {
        let mut broker = Simulated::new(shards, &play.settings).ok_or("settings have changed")?;
        Ok(Runner::new(&mut broker, version).play(&play)?)
    }))
}

/// `conformance::qos2::publish_again_before_pubrel::v5::live_1`
fn name(case: &Case, version: Version, back_end: &str) -> String {
    let version = match version {
        Version::V3_1 => "v3_1",
        Version::V3_1_1 => "v3_1_1",
        Version::V5 => "v5",
    };
    format!("conformance::{}::{}::{version}::{back_end}", case.file, case.slug())
}

/// Where the scripts and the lists of clauses are.
fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

/// The cases of all scripts, in order of file names, and those made from tables.
fn cases() -> Result<Vec<Case>, String> {
    let entries = fs::read_dir(directory()).map_err(|error| error.to_string())?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "mqtt"));
    paths.sort();
    let mut cases = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        let file = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        cases.extend(script::parse(&file, &text)?);
    }
    cases.extend(properties::cases()?);
    Ok(cases)
}
