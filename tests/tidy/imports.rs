//! Who may import whom: the table of the house, held against manifests and `use` lines.

use std::fs;

use super::{root, sources};

/// A crate of ours: its manifest, its sources, and the crates of ours it may name.
struct Crate {
    manifest: &'static str,
    sources: &'static str,
    may: &'static [&'static str],
    never: &'static [&'static str],
}

const OURS: [&str; 5] =
    ["octopus-mqtt", "octopus-engine", "octopus-runtime", "octopus-sim", "octopus-bench"];

/// Things of the outside that pure crates have nothing to do with.
const IMPURE: [&str; 13] = [
    "std::time::SystemTime",
    "std::time::Instant",
    "std::fs",
    "std::thread",
    "std::env",
    "std::process",
    "std::net::Tcp",
    "std::net::Udp",
    "tokio",
    "glommio",
    "serde",
    "redis",
    "rand::",
];

const HOUSE: [Crate; 6] = [
    Crate {
        manifest: "shards/mqtt/Cargo.toml",
        sources: "shards/mqtt/src/",
        may: &[],
        never: &IMPURE,
    },
    Crate {
        manifest: "shards/engine/Cargo.toml",
        sources: "shards/engine/src/",
        may: &["octopus-mqtt"],
        never: &IMPURE,
    },
    Crate {
        manifest: "shards/runtime/Cargo.toml",
        sources: "shards/runtime/src/",
        may: &["octopus-engine", "octopus-mqtt"],
        never: &["redis"],
    },
    Crate {
        manifest: "shards/sim/Cargo.toml",
        sources: "shards/sim/src/",
        may: &["octopus-engine", "octopus-mqtt"],
        never: &["std::time::SystemTime", "std::time::Instant", "std::thread", "glommio"],
    },
    Crate {
        manifest: "Cargo.toml",
        sources: "src/",
        may: &["octopus-runtime", "octopus-engine", "octopus-mqtt"],
        never: &["glommio", "octopus_sim"],
    },
    Crate {
        manifest: "bench/Cargo.toml",
        sources: "bench/src/",
        // The runtime for `bench/floor` only, which measures it without a protocol.
        may: &["octopus-mqtt", "octopus-runtime"],
        never: &["octopus_engine::", "octopus_runtime::", "octopus::"],
    },
];

/// Inside `engine`: leaves never import the dispatch, handlers never import each other. Inside
/// `src/`: the parts that `hub` joins never import each other.
const PARTS: [(&str, &[&str], &str); 2] = [
    (
        "shards/engine/src/handle/",
        &["connect", "publish", "ack", "subscribe", "unsubscribe", "disconnect", "auth"],
        "crate::handle::",
    ),
    ("src/", &["bridge", "store", "stats", "auth", "http"], "crate::"),
];

/// Crates of ours that stand in `[dependencies]` and may not.
pub(super) fn manifests() -> Vec<String> {
    let mut faults = Vec::new();
    for house in HOUSE {
        let Ok(text) = fs::read_to_string(root().join(house.manifest)) else {
            faults.push(format!("{} is not there", house.manifest));
            continue;
        };
        for name in dependencies(&text) {
            if OURS.contains(&name.as_str()) && !house.may.contains(&name.as_str()) {
                faults.push(format!("{} depends on {name}", house.manifest));
            }
        }
    }
    faults
}

/// Names in `[dependencies]`; what only tests use is not the crate's business.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim() == "[dependencies]";
        } else if inside {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            names.push(name.to_owned());
        }
    }
    names
}

/// Names that a crate or a part of one may not say.
pub(super) fn use_lines() -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        let Some(house) = HOUSE.iter().find(|house| path.starts_with(house.sources)) else {
            continue;
        };
        let never = house.never.iter().map(|name| (*name).to_owned());
        let mut never: Vec<String> = never.chain(neighbours(&path)).collect();
        if is_leaf_of_engine(&path) {
            never.push("crate::shard::".into());
        }
        for (index, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for name in &never {
                if names(code, name) {
                    faults.push(format!("{path}:{}: {name}", index + 1));
                }
            }
        }
    }
    faults
}

/// Whether the line says this name, and not one that only ends like it.
fn names(code: &str, name: &str) -> bool {
    code.match_indices(name).any(|(start, _)| {
        let before = code[..start].chars().next_back();
        let after = code[start + name.len()..].chars().next();
        let word = |letter: Option<char>| {
            letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
        };
        let quoted = code[..start].matches('"').count() % 2 == 1;
        let open = name.ends_with("::") || name.ends_with("Tcp") || name.ends_with("Udp");
        !word(before) && (open || !word(after)) && !quoted
    })
}

/// The parts beside the one that this file belongs to.
fn neighbours(path: &str) -> Vec<String> {
    for (directory, parts, prefix) in PARTS {
        let Some(rest) = path.strip_prefix(directory) else { continue };
        let part = rest.split(['/', '.']).next().unwrap_or_default();
        if parts.contains(&part) {
            let others = parts.iter().filter(|other| **other != part);
            return others.map(|other| format!("{prefix}{other}::")).collect();
        }
    }
    Vec::new()
}

fn is_leaf_of_engine(path: &str) -> bool {
    let leaves = [
        "message.rs",
        "timer.rs",
        "limits.rs",
        "interest.rs",
        "retained.rs",
        "subscriptions.rs",
        "shared.rs",
        "will.rs",
        "acl.rs",
        "stats.rs",
    ];
    path.strip_prefix("shards/engine/src/").is_some_and(|file| leaves.contains(&file))
}
