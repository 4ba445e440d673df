//! The rules of the house, as far as a program can hold them: who imports whom, where `unsafe`
//! may stand, how long files and lines are, what the top level holds.

mod imports;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Failed, Trial};

/// Lines of a Rust file, at most.
const FILE_LINES_MAX: usize = 800;
/// Characters of a line, at most; lines of tables and of scripts' clauses may be longer.
const LINE_CHARS_MAX: usize = 100;

/// What stands at the top, besides dot files.
const TOP_LEVEL: [&str; 18] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "README.zh.md",
    "bench",
    "build.rs",
    "clippy.toml",
    "config",
    "deny.toml",
    "deploy",
    "fuzz",
    "rust-toolchain.toml",
    "shards",
    "src",
    "target",
    "tests",
];

/// Words that belong to a place of work and not to the project. Written in parts, so that this
/// file may be looked through as well.
const FOREIGN_WORDS: [&str; 3] =
    [concat!("/wo", "rk/"), concat!("/tmp", "/bash_jobs"), concat!("/tmp", "/wt/")];

/// Leftovers that no commit has.
const LEFTOVERS: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("dbg", "!("),
    concat!("#[ig", "nore"),
    concat!("unimple", "mented!"),
];

/// A rule: its name as a test, and what is against it.
type Rule = (&'static str, fn() -> Vec<String>);

pub(crate) fn trials() -> Vec<Trial> {
    let rules: [Rule; 8] = [
        ("crates_import_only_whom_they_may", imports::manifests),
        ("modules_import_only_whom_they_may", imports::use_lines),
        ("unsafe_stands_in_the_runtime_only", unsafe_outside_runtime),
        ("every_unsafe_block_says_why_it_is_safe", unsafe_without_reason),
        ("no_file_is_too_long", long_files),
        ("no_line_is_too_long", long_lines),
        ("nothing_is_left_over", leftovers),
        ("the_top_level_is_what_it_was", top_level),
    ];
    let trial = |(name, rule): Rule| Trial::test(format!("tidy::{name}"), move || report(&rule()));
    rules.into_iter().map(trial).collect()
}

fn report(faults: &[String]) -> Result<(), Failed> {
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the project, as its path from the top and its text.
pub(crate) fn sources() -> Vec<(String, String)> {
    texts().into_iter().filter(|(path, _)| path.ends_with(".rs")).collect()
}

/// Every text file of the project, as its path from the top and its text.
fn texts() -> Vec<(String, String)> {
    let paths = tracked().unwrap_or_else(|| walk(root()));
    let mut texts: Vec<(String, String)> = paths
        .into_iter()
        .filter_map(|path| {
            let text = fs::read_to_string(root().join(&path)).ok()?;
            Some((path.to_string_lossy().into_owned(), text))
        })
        .collect();
    texts.sort();
    texts
}

/// What git knows of, new files included; `None` where this is no repository.
fn tracked() -> Option<Vec<PathBuf>> {
    let arguments = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(arguments).current_dir(root()).output().ok()?;
    let list = String::from_utf8(output.stdout).ok()?;
    let paths: Vec<PathBuf> = list.lines().map(PathBuf::from).collect();
    (output.status.success() && !paths.is_empty()).then_some(paths)
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            paths.extend(walk(&path));
        } else if let Ok(path) = path.strip_prefix(root()) {
            paths.push(path.to_owned());
        }
    }
    paths
}

/// Lines of code that hold the word, comments and strings left aside as far as a line shows.
fn code_lines<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let lines = text.lines().enumerate();
    lines.filter(move |(_, line)| {
        let code = line.split("//").next().unwrap_or_default();
        code.contains(word)
            && !code.contains(&format!("_{word}"))
            && !code.contains(&format!("{word}_"))
    })
}

fn unsafe_outside_runtime() -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        if path.starts_with("shards/runtime/") || path.starts_with("tests/tidy/") {
            continue;
        }
        for (index, line) in code_lines(&text, "unsafe") {
            faults.push(format!("{path}:{}: {}", index + 1, line.trim()));
        }
    }
    faults
}

fn unsafe_without_reason() -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        if !path.starts_with("shards/runtime/") {
            continue;
        }
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in code_lines(&text, "unsafe {") {
            let above = &lines[index.saturating_sub(8)..=index];
            if !above.iter().any(|line| line.contains("SAFETY:")) {
                faults.push(format!("{path}:{}: {}", index + 1, line.trim()));
            }
        }
    }
    faults
}

fn long_files() -> Vec<String> {
    let long = sources().into_iter().filter_map(|(path, text)| {
        let lines = text.lines().count();
        (lines > FILE_LINES_MAX).then(|| format!("{path}: {lines} lines"))
    });
    long.collect()
}

/// A word from this length is a key or a hash: it cannot be broken.
const DATA_CHARS_MIN: usize = 60;

fn long_lines() -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in texts() {
        if !["rs", "sh", "py", "mjs", "yml"].iter().any(|end| path.ends_with(end)) {
            continue;
        }
        for (index, line) in text.lines().enumerate() {
            let table = line.trim_start().trim_start_matches(['/', '!', '#']).trim_start();
            let table = table.trim_start_matches("words: ");
            // A string that is a line of its own is what somebody reads: broken, it is harder
            // to find.
            let is_data = line.split_whitespace().any(|word| word.len() > DATA_CHARS_MIN);
            let table = table.starts_with(['|', '"']) || line.contains("http") || is_data;
            if line.chars().count() > LINE_CHARS_MAX && !table {
                faults.push(format!("{path}:{}: {} characters", index + 1, line.chars().count()));
            }
        }
    }
    faults
}

fn leftovers() -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in texts() {
        for (index, line) in text.lines().enumerate() {
            let rust = if path.ends_with(".rs") { &LEFTOVERS[..] } else { &[] };
            for word in FOREIGN_WORDS.iter().chain(rust) {
                if line.contains(word) {
                    faults.push(format!("{path}:{}: {word}", index + 1));
                }
            }
        }
    }
    faults
}

fn top_level() -> Vec<String> {
    let entries = fs::read_dir(root()).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(&name.as_str())).collect()
}
