//! Seeded runs. `OCTOPUS_SIM_SEEDS` sets how many seeds each test tries, `OCTOPUS_SIM_SEED`
//! the first one; to see one failure again: `OCTOPUS_SIM_SEED=<seed> OCTOPUS_SIM_SEEDS=1`.

mod operations;

use octopus_sim::{Options, run, shrink};

fn seeds() -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("OCTOPUS_SIM_SEED").unwrap_or(1);
    first..first + number("OCTOPUS_SIM_SEEDS").unwrap_or(60)
}

fn run_all(options: &Options) {
    let mut received = 0;
    for seed in seeds() {
        match run(seed, options) {
            Ok(report) => received += report.messages_received,
            Err(failure) => panic!("{}", shrink(seed, options).unwrap_or(failure)),
        }
    }
    assert!(received > 0, "no message arrived at all");
}

#[test]
fn one_shard_keeps_its_promises() {
    run_all(&Options::strict(1));
}

#[test]
fn two_shards_keep_their_promises() {
    run_all(&Options::strict(2));
}

#[test]
fn three_shards_keep_their_promises() {
    run_all(&Options::strict(3));
}

#[test]
fn eight_shards_keep_their_promises() {
    run_all(&Options::strict(8));
}

#[test]
fn what_is_lost_in_small_queues_is_counted() {
    run_all(&Options::lossy(1));
    run_all(&Options::lossy(3));
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let options = Options::strict(3);
    for seed in seeds().take(5) {
        let (first, second) = (run(seed, &options), run(seed, &options));
        assert_eq!(first.expect("it runs"), second.expect("it runs"));
    }
}
