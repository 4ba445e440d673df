//! The normative statements of both specifications, and the tests that prove each.
//!
//! A list holds, for every clause, its identifier, its words, and what covers it: the cases of
//! scripts that quote it (written by `OCTOPUS_TEST_WRITE_CLAUSES=1`, checked always), a Rust
//! test as `test: file: function`, `n/a:` and the reason why nothing can be tested here, or
//! `waits:` and what the broker must have first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use libtest_mimic::{Failed, Trial};

use super::directory;
use super::script::Case;

const LISTS: [&str; 2] = ["clauses-311.txt", "clauses-5.txt"];

/// One normative statement.
struct Clause {
    id: String,
    words: String,
    /// `case:`, `test:`, `n/a:` and `waits:` lines.
    status: Vec<String>,
}

pub(crate) fn trials(cases: &[Case]) -> Vec<Trial> {
    let covered = covered(cases);
    let quotes: Vec<(String, String, String)> = cases
        .iter()
        .flat_map(|case| {
            let place = format!("{}.mqtt:{}", case.file, case.line);
            let quotes = case.clauses.iter();
            quotes.map(move |quote| (place.clone(), quote.id.clone(), quote.words.clone()))
        })
        .collect();
    let names: Vec<String> =
        cases.iter().map(|case| format!("{}: {}", case.file, case.slug())).collect();
    vec![
        Trial::test("conformance::every_clause_is_covered", move || every_clause(&covered)),
        Trial::test("conformance::every_quotation_is_in_its_clause", move || quotations(&quotes)),
        Trial::test("conformance::no_two_cases_have_one_name", move || distinct(&names)),
        Trial::test("conformance::every_clause_id_in_the_code_exists", ids_in_code),
    ]
}

/// The cases that quote each clause, as `file: name`.
fn covered(cases: &[Case]) -> BTreeMap<String, BTreeSet<String>> {
    let mut covered: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for case in cases {
        for quote in &case.clauses {
            let names = covered.entry(quote.id.clone()).or_default();
            names.insert(format!("case: {}: {}", case.file, case.name));
        }
    }
    covered
}

fn every_clause(covered: &BTreeMap<String, BTreeSet<String>>) -> Result<(), Failed> {
    let mut faults = Vec::new();
    for list in LISTS {
        let (head, mut clauses) = read(list)?;
        let mut changed = false;
        for clause in &mut clauses {
            let wanted = covered.get(&clause.id).cloned().unwrap_or_default();
            let listed: BTreeSet<String> =
                clause.status.iter().filter(|line| line.starts_with("case: ")).cloned().collect();
            if wanted != listed {
                clause.status.retain(|line| !line.starts_with("case: "));
                clause.status.splice(0..0, wanted);
                changed = true;
            }
            faults.extend(fault(clause));
        }
        if changed && std::env::var_os("OCTOPUS_TEST_WRITE_CLAUSES").is_some() {
            write(list, &head, &clauses)?;
        } else if changed {
            faults.push(format!("{list} is out of date; OCTOPUS_TEST_WRITE_CLAUSES=1 writes it"));
        }
    }
    report(&faults)
}

fn fault(clause: &Clause) -> Option<String> {
    if clause.status.is_empty() {
        return Some(format!("{} is covered by no test", clause.id));
    }
    for line in &clause.status {
        let kinds = ["case: ", "test: ", "n/a: ", "waits: "];
        if !kinds.iter().any(|kind| line.starts_with(kind) && line.len() > kind.len()) {
            return Some(format!("{}: {line:?} is no status", clause.id));
        }
        if let Some(test) = line.strip_prefix("test: ")
            && !rust_test_exists(test)
        {
            return Some(format!("{}: there is no test {test}", clause.id));
        }
    }
    None
}

/// Whether `path/of/file.rs: name` is a function in that file.
fn rust_test_exists(test: &str) -> bool {
    let Some((file, name)) = test.split_once(": ") else { return false };
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(root.join(file)).is_ok_and(|text| text.contains(&format!("fn {name}(")))
}

fn quotations(quotes: &[(String, String, String)]) -> Result<(), Failed> {
    let mut words = BTreeMap::new();
    for list in LISTS {
        words.extend(read(list)?.1.into_iter().map(|clause| (clause.id, clause.words)));
    }
    let faults: Vec<String> = quotes
        .iter()
        .filter_map(|(place, id, quote)| match words.get(id) {
            None => Some(format!("{place}: there is no {id}")),
            Some(_) if quote.is_empty() => Some(format!("{place}: {id} without its words")),
            Some(words) if !words.contains(quote.as_str()) => {
                Some(format!("{place}: {id} does not say {quote:?}"))
            }
            Some(_) => None,
        })
        .collect();
    report(&faults)
}

fn distinct(names: &[String]) -> Result<(), Failed> {
    let mut seen = BTreeSet::new();
    let twice: Vec<String> =
        names.iter().filter(|name| !seen.insert(*name)).map(|name| name.to_owned()).collect();
    report(&twice)
}

/// Every identifier of a clause that a source file names is a clause of a list.
fn ids_in_code() -> Result<(), Failed> {
    let mut known = BTreeSet::new();
    for list in LISTS {
        known.extend(read(list)?.1.into_iter().map(|clause| clause.id));
    }
    let mut faults = Vec::new();
    for (path, text) in crate::tidy::sources() {
        for (index, line) in text.lines().enumerate() {
            let unknown = ids_in(line).into_iter().filter(|id| !known.contains(id));
            faults.extend(unknown.map(|id| format!("{path}:{}: there is no {id}", index + 1)));
        }
    }
    report(&faults)
}

/// The identifiers a line names: `[MQTT-3.1.0-1]`, also `[MQTT-3.3.4-2, -3]`.
fn ids_in(line: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for (start, _) in line.match_indices("[MQTT") {
        let Some(inner) = line[start + 1..].split(']').next() else { continue };
        let mut parts = inner.split(", ");
        let Some(first) = parts.next().filter(|id| id.contains(|c: char| c.is_ascii_digit()))
        else {
            continue;
        };
        let section = first.rsplit_once('-').map_or("", |(section, _)| section);
        ids.push(format!("[{first}]"));
        ids.extend(parts.map(|number| format!("[{section}{number}]")));
    }
    ids
}

fn report(faults: &[String]) -> Result<(), Failed> {
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}

/// A list's head (comments) and its clauses.
fn read(list: &str) -> Result<(String, Vec<Clause>), Failed> {
    let text = fs::read_to_string(directory().join(list))?;
    let (mut head, mut clauses) = (String::new(), Vec::<Clause>::new());
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("[MQTT") {
            let (id, words) = line.split_once(' ').unwrap_or((line, ""));
            let (id, words) = (id.to_owned(), words.to_owned());
            clauses.push(Clause { id, words, status: Vec::new() });
        } else if let Some(status) = line.strip_prefix("    ") {
            let clause = clauses.last_mut();
            clause
                .ok_or_else(|| format!("{list}:{}: no clause", index + 1))?
                .status
                .push(status.to_owned());
        } else if clauses.is_empty() {
            head.push_str(line);
            head.push('\n');
        }
    }
    Ok((head, clauses))
}

fn write(list: &str, head: &str, clauses: &[Clause]) -> Result<(), Failed> {
    let mut text = head.to_owned();
    for clause in clauses {
        text.push_str(&format!("{} {}\n", clause.id, clause.words));
        for line in &clause.status {
            text.push_str(&format!("    {line}\n"));
        }
    }
    Ok(fs::write(directory().join(list), text)?)
}
