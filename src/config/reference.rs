//! What is generated from the table of keys: `config/octopus.yml` and the key list of `--help`.

use std::fmt::Write as _;

use super::{
    Config,
    keys::{KEYS, Key, LISTENER_KEYS, LISTENERS, LISTENERS_HELP},
    value::Kind,
};

const WIDTH: usize = 100;

const HEAD: &str = "\
# Every key of Octopus with its default. Above each: what it is for, its unit and its range.
#
#   octopus --config config/octopus.yml
#   octopus check-config --config config/octopus.yml
#
# A key may also be given in the environment (OCTOPUS_BROKER_PORT=20001) and, above all, as a flag
# (--broker.port=20001). Files, flags and variables written for the Java Octopus are read too:
# spring.octopus.broker.port, --spring.octopus.broker.port, SPRING_OCTOPUS_BROKER_PORT, and
# spring.redis or spring.data.redis for what is `redis` here.
";

const LISTENERS_EXAMPLE: &str = "\
# listeners:
#   - name: lan
#     address: 192.168.1.2:1883
";

/// The text of `config/octopus.yml`.
pub fn example_file() -> String {
    let mut config = Config::default();
    let mut text = HEAD.to_owned();
    let mut groups: Vec<&str> = Vec::new();
    for key in KEYS {
        let mut parts: Vec<&str> = key.name.split('.').collect();
        let name = parts.pop().unwrap_or_default();
        open_groups(&mut text, &mut groups, &parts);
        let indent = "  ".repeat(parts.len());
        let value = yaml_value(&key.kind, &default_of(key, &mut config));
        comment(&mut text, &indent, key.help);
        comment(&mut text, &indent, &format!("Takes {}.", key.kind.expected()));
        line(&mut text, &format!("{indent}{name}: {value}"));
    }
    line(&mut text, "");
    listeners(&mut text);
    text
}

fn open_groups<'a>(text: &mut String, open: &mut Vec<&'a str>, wanted: &[&'a str]) {
    let common = open.iter().zip(wanted).take_while(|(a, b)| a == b).count();
    open.truncate(common);
    for group in &wanted[common..] {
        if open.is_empty() {
            line(text, "");
        }
        line(text, &format!("{}{group}:", "  ".repeat(open.len())));
        open.push(group);
    }
    if wanted.is_empty() {
        line(text, "");
    }
}

fn listeners(text: &mut String) {
    comment(text, "", &format!("{LISTENERS_HELP}:"));
    for key in LISTENER_KEYS {
        comment(text, "", &format!("  {:<9} {}", key.name, described(key)));
    }
    text.push_str(LISTENERS_EXAMPLE);
    line(text, &format!("{LISTENERS}: []"));
}

fn described<T>(key: &Key<T>) -> String {
    format!("{} ({})", key.help, key.kind.expected())
}

fn default_of<T>(key: &Key<T>, target: &mut T) -> String {
    key.kind.show(&(key.field)(target).get())
}

/// `value` so that YAML reads the same text back.
fn yaml_value(kind: &Kind, value: &str) -> String {
    match kind {
        Kind::List { .. } => format!("[{value}]"),
        _ if value.is_empty() => "\"\"".to_owned(),
        _ => value.to_owned(),
    }
}

/// Writes `what` as comment lines, broken at spaces.
fn comment(text: &mut String, indent: &str, what: &str) {
    let mut current = format!("{indent}#");
    for word in what.split(' ') {
        if current.len() + 1 + word.len() > WIDTH {
            line(text, &current);
            current = format!("{indent}#");
        }
        current.push(' ');
        current.push_str(word);
    }
    line(text, &current);
}

fn line(text: &mut String, line: &str) {
    text.push_str(line.trim_end());
    text.push('\n');
}

/// The list of keys in `octopus --help`: each with its default and what it takes.
pub fn help() -> String {
    let mut config = Config::default();
    let mut text = String::new();
    for key in KEYS {
        let default = default_of(key, &mut config);
        let default = if default.is_empty() { "\"\"" } else { &default };
        entry(&mut text, &format!("--{} {default}", key.name), &described(key));
    }
    for key in LISTENER_KEYS {
        entry(&mut text, &format!("--{LISTENERS}.<index>.{}", key.name), &described(key));
    }
    text
}

fn entry(text: &mut String, flag: &str, what: &str) {
    writeln!(text, "  {flag}\n          {what}").expect("a String takes all that is written");
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::config::{Sources, load};

    fn in_config(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
    }

    fn committed() -> PathBuf {
        in_config("octopus.yml")
    }

    #[test]
    fn the_committed_file_is_what_the_table_says() {
        let generated = example_file();
        if std::env::var_os("OCTOPUS_WRITE_CONFIG").is_some() {
            std::fs::write(committed(), &generated).expect("config/ can be written");
        }
        let text = std::fs::read_to_string(committed()).expect("config/octopus.yml is there");
        let hint = "run OCTOPUS_WRITE_CONFIG=1 cargo test -p octopus the_committed_file";
        assert!(text == generated, "config/octopus.yml is out of date; {hint}");
    }

    #[test]
    fn the_committed_file_changes_no_default() {
        let sources = Sources { file: Some(committed()), ..Sources::default() };
        let loaded = load(sources).expect("the file is good");
        assert_eq!(format!("{:?}", loaded.config), format!("{:?}", Config::default()));
        assert_eq!(loaded.warnings, []);
        let given = loaded.effective().into_iter().filter(|line| line.place.is_some()).count();
        let lists = KEYS.iter().filter(|key| matches!(key.kind, Kind::List { .. })).count();
        assert!(given >= KEYS.len() - lists, "only {given} of {} keys are in it", KEYS.len());
    }

    #[test]
    fn the_cluster_example_is_good() {
        let sources = Sources { file: Some(in_config("cluster.yml")), ..Sources::default() };
        let loaded = load(sources).expect("the file is good");
        assert_eq!((loaded.config.broker.group.as_str(), loaded.warnings.len()), ("GROUP1", 0));
    }

    #[test]
    fn the_listeners_example_is_good() {
        let sources = Sources { file: Some(in_config("listeners.yml")), ..Sources::default() };
        let loaded = load(sources).expect("the file is good");
        assert_eq!((loaded.config.listeners.len(), loaded.warnings.len()), (5, 0));
    }

    #[test]
    fn help_names_every_key() {
        let help = help();
        assert!(KEYS.iter().all(|key| help.contains(&format!("--{} ", key.name))));
    }
}
