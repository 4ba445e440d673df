//! The loads that brokers are compared on: each a command line of this program.

use std::io;

/// One load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scenario {
    pub name: &'static str,
    pub load: &'static str,
    /// A smaller load of the same kind.
    pub quick: &'static str,
    pub cores: Cores,
    /// Threads of the broker, where its number can be chosen.
    pub threads: usize,
    /// Where the clients of a pair are, for a broker that tells.
    pub place: Option<Place>,
    pub transport: Transport,
}

/// What is below MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Tls,
}

/// Which cores broker and generator have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cores {
    /// Each its own.
    Apart,
    /// Both all of them: what needs more than there are for the broker alone.
    Together,
}

/// Where the two clients of a pair are at home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    SameThread,
    AcrossThreads,
}

const fn scenario(name: &'static str, load: &'static str, quick: &'static str) -> Scenario {
    let (cores, transport) = (Cores::Apart, Transport::Tcp);
    Scenario { name, load, quick, cores, threads: 1, place: None, transport }
}

impl Scenario {
    const fn over_tls(self) -> Self {
        Self { transport: Transport::Tls, ..self }
    }

    const fn together(self, threads: usize, place: Option<Place>) -> Self {
        Self { cores: Cores::Together, threads, place, ..self }
    }

    /// Two threads of the broker on the cores it has apart from the load, be it one.
    const fn halved(self, place: Place) -> Self {
        Self { threads: 2, place: Some(place), ..self }
    }
}

const PAIRS: &str = "pairs -c 50 -q 0";
const PACED: &str = "pairs -c 50 -q 0 --rate 100000";

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario("pairs50-q0", "pairs -c 50 -q 0", "pairs -c 10 -q 0"),
    scenario("pairs50-q1", "pairs -c 50 -q 1", "pairs -c 10 -q 1"),
    scenario("pairs50-q2", "pairs -c 50 -q 2", "pairs -c 10 -q 2"),
    scenario("pairs50-q0-v5", "pairs -c 50 -q 0 -V 5", "pairs -c 10 -q 0 -V 5"),
    scenario("pairs50-q1-v5", "pairs -c 50 -q 1 -V 5", "pairs -c 10 -q 1 -V 5"),
    scenario("pairs50-q0-4k", "pairs -c 50 -q 0 -s 4096", "pairs -c 10 -q 0 -s 4096"),
    scenario("pairs50-q1-4k", "pairs -c 50 -q 1 -s 4096", "pairs -c 10 -q 1 -s 4096"),
    scenario("pairs50-q2-4k", "pairs -c 50 -q 2 -s 4096", "pairs -c 10 -q 2 -s 4096"),
    scenario("pairs50-q0-64k", "pairs -c 50 -q 0 -s 65536", "pairs -c 10 -q 0 -s 65536"),
    scenario("pairs50-q1-64k", "pairs -c 50 -q 1 -s 65536", "pairs -c 10 -q 1 -s 65536"),
    scenario("pairs50-q2-64k", "pairs -c 50 -q 2 -s 65536", "pairs -c 10 -q 2 -s 65536"),
    scenario("tls50-q0", "pairs -c 50 -q 0", "pairs -c 10 -q 0").over_tls(),
    scenario("tls50-q1", "pairs -c 50 -q 1", "pairs -c 10 -q 1").over_tls(),
    scenario("tls50-q0-4k", "pairs -c 50 -q 0 -s 4096", "pairs -c 10 -q 0 -s 4096").over_tls(),
    scenario("fanout500", "fanout -c 500", "fanout -c 50"),
    scenario("fanout5000", "fanout -c 5000", "fanout -c 500"),
    scenario("fanin100-q1", "fanin -c 100 -q 1", "fanin -c 10 -q 1"),
    scenario("rate5000", "pairs -c 50 --rate 5000", "pairs -c 10 --rate 5000"),
    scenario("rate1000", "pairs -c 50 --rate 1000", "pairs -c 10 --rate 1000"),
    scenario("idle10k", "idle -c 10000 --active 50 --rate 1000", "idle -c 500 --rate 1000"),
    scenario("memory15k", "conn -c 15000", "conn -c 500"),
    scenario("storm10k", "storm -c 10000", "storm -c 500"),
    scenario("shared50", "shared", "shared --publishers 5 --subscribers 5"),
    scenario("retained100k", "retained -c 100000 --keep", "retained -c 1000 --keep"),
    scenario("offline100k", "offline -c 200 --messages 500", "offline -c 20 --messages 50"),
    scenario(
        "many1k-exact",
        "subscriptions -c 1000 --each 1 --inflight 1000",
        "subscriptions -c 50 --each 1 --inflight 100",
    ),
    scenario(
        "many1m-exact",
        "subscriptions -c 1000 --each 1000 --inflight 1000",
        "subscriptions -c 50 --each 200 --inflight 100",
    ),
    scenario(
        "many1m-plus",
        "subscriptions -c 1000 --each 1000 --inflight 1000 --wildcard plus",
        "subscriptions -c 50 --each 200 --inflight 100 --wildcard plus",
    ),
    scenario(
        "many1m-hash",
        "subscriptions -c 1000 --each 1000 --inflight 1000 --wildcard hash",
        "subscriptions -c 50 --each 200 --inflight 100 --wildcard hash",
    ),
    scenario("threads1", PAIRS, PAIRS).together(1, None),
    scenario("threads2-same", PAIRS, PAIRS).together(2, Some(Place::SameThread)),
    scenario("threads2-across", PAIRS, PAIRS).together(2, Some(Place::AcrossThreads)),
    scenario("threads2-same-apart", PAIRS, PAIRS).halved(Place::SameThread),
    scenario("threads2-across-apart", PAIRS, PAIRS).halved(Place::AcrossThreads),
    scenario("threads1-rate", PACED, PACED).together(1, None),
    scenario("threads2-same-rate", PACED, PACED).together(2, Some(Place::SameThread)),
    scenario("threads2-across-rate", PACED, PACED).together(2, Some(Place::AcrossThreads)),
];

/// The scenarios whose name fits one of `patterns`.
///
/// # Errors
/// If a pattern fits none.
pub(crate) fn chosen(patterns: &[String]) -> io::Result<Vec<&'static Scenario>> {
    for pattern in patterns {
        if !SCENARIOS.iter().any(|scenario| fits(pattern, scenario.name)) {
            return Err(io::Error::other(format!("no scenario is named {pattern}; try list")));
        }
    }
    let fits_any = |name| patterns.iter().any(|pattern| fits(pattern, name));
    Ok(SCENARIOS.iter().filter(|scenario| fits_any(scenario.name)).collect())
}

/// Whether `name` is `pattern`, where each `*` stands for any text.
pub(crate) fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            (0..=rest.len()).any(|at| rest.get(at..).is_some_and(|rest| fits(tail, rest)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{cli::Cli, plan::Plan};

    #[test]
    fn each_scenario_is_a_lawful_command_line() {
        for scenario in SCENARIOS {
            for load in [scenario.load, scenario.quick] {
                let line = format!("octopus-bench {load}");
                let cli = Cli::try_parse_from(line.split(' ')).expect(load);
                assert!(!Plan::of(&cli.command).expect(load).is_empty(), "{load}");
            }
        }
    }

    #[test]
    fn patterns_choose_by_name() {
        let names = |patterns: &[&str]| -> Vec<_> {
            let patterns: Vec<_> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            chosen(&patterns).map_or(vec![], |found| found.iter().map(|s| s.name).collect())
        };
        assert_eq!(names(&["*"]).len(), SCENARIOS.len());
        assert_eq!(names(&["rate*", "pairs50-q2"]), ["pairs50-q2", "rate5000", "rate1000"]);
        assert_eq!(names(&["fan*0-q1"]), ["fanin100-q1"]);
        assert!(names(&["nothing*"]).is_empty());
    }
}
