//! What brokers there are to compare and how each is started: the files in `bench/peers`.
//!
//! Such a file has lines `key: value` and, behind a line `---`, the text of a configuration
//! file. In both are replaced: `{port}` the port to listen on, `{http}` another free one,
//! `{dir}` a directory of the broker's own, `{threads}` how many threads it shall have, and in
//! the command `{config}` the configuration file. Words of the command and lines of the file
//! that begin with `{tls}` are there for scenarios over TLS only, those with `{plain}` for the
//! others only; `{certificate}` and `{key}` are PEM files.

use std::{fs, io, path::Path};

use crate::compare::{
    CompareOptions, certificate,
    scenario::{Scenario, Transport, fits},
};

/// A kind of broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Definition {
    pub name: String,
    command: String,
    /// The configuration file's text, if it takes one.
    config: Option<String>,
    /// Scenarios it cannot play, by pattern, and why.
    cannot: Vec<(String, String)>,
    /// Port and path of an HTTP API that tells a client's home by its Client Identifier.
    homes: Option<String>,
}

const KNOWN: &[(&str, &str)] = &[
    ("octopus", include_str!("../../peers/octopus.peer")),
    ("floor", include_str!("../../peers/floor.peer")),
    ("mosquitto", include_str!("../../peers/mosquitto.peer")),
    ("flashmq", include_str!("../../peers/flashmq.peer")),
    ("rumqttd", include_str!("../../peers/rumqttd.peer")),
    ("rmqtt", include_str!("../../peers/rmqtt.peer")),
    ("nanomq", include_str!("../../peers/nanomq.peer")),
];

/// What stands for itself in a broker's texts in one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill<'a> {
    pub port: u16,
    pub http: u16,
    pub dir: &'a Path,
    pub threads: usize,
    pub transport: Transport,
}

impl Fill<'_> {
    /// `None` for a word or line that is for another transport.
    fn line(&self, line: &str) -> Option<String> {
        let (ours, others) = match self.transport {
            Transport::Tcp => ("{plain}", "{tls}"),
            Transport::Tls => ("{tls}", "{plain}"),
        };
        let ours = line.strip_prefix(ours).unwrap_or(line);
        (!line.starts_with(others)).then(|| self.text(ours))
    }

    fn text(&self, text: &str) -> String {
        text.replace("{port}", &self.port.to_string())
            .replace("{certificate}", &certificate::path(self.dir).display().to_string())
            .replace("{key}", &certificate::key_path(self.dir).display().to_string())
            .replace("{http}", &self.http.to_string())
            .replace("{dir}", &self.dir.display().to_string())
            .replace("{threads}", &self.threads.to_string())
    }
}

/// The brokers that `options` name: those known, then others.
///
/// # Errors
/// If a name is unknown or a text is not name=value.
pub(crate) fn definitions(options: &CompareOptions) -> io::Result<Vec<Definition>> {
    let mut definitions = Vec::new();
    for name in options.broker.iter().filter(|name| *name != "none") {
        let (_, text) = KNOWN.iter().find(|(known, _)| known == name).ok_or_else(|| {
            let known: Vec<_> = KNOWN.iter().map(|(name, _)| *name).collect();
            io::Error::other(format!("no broker {name} is known, only {}", known.join(", ")))
        })?;
        definitions.push(Definition::read(name, text)?);
    }
    for peer in &options.peer {
        let (name, command) = named(peer)?;
        definitions.push(Definition::new(name, command.to_owned()));
    }
    for config in &options.config {
        let (name, path) = named(config)?;
        find(&mut definitions, name)?.config = Some(fs::read_to_string(path)?);
    }
    for program in &options.program {
        let (name, path) = named(program)?;
        find(&mut definitions, name)?.set_program(path);
    }
    Ok(definitions)
}

fn named(text: &str) -> io::Result<(&str, &str)> {
    let expected = || io::Error::other(format!("expected name=value instead of {text}"));
    text.split_once('=').ok_or_else(expected)
}

fn find<'a>(definitions: &'a mut [Definition], name: &str) -> io::Result<&'a mut Definition> {
    let unknown = || io::Error::other(format!("{name} is not among the brokers chosen"));
    definitions.iter_mut().find(|definition| definition.name == name).ok_or_else(unknown)
}

impl Definition {
    /// - `command`: as in a file of `bench/peers`.
    pub(crate) fn new(name: &str, command: String) -> Self {
        Self { name: name.to_owned(), command, ..Self::default() }
    }

    fn read(name: &str, text: &str) -> io::Result<Self> {
        let (head, config) = match text.split_once("\n---\n") {
            Some((head, config)) => (head, Some(config.to_owned())),
            None => (text, None),
        };
        let mut definition = Self { name: name.into(), config, ..Self::default() };
        for line in head.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            let wrong = || io::Error::other(format!("peer {name}: what is {line}?"));
            let (key, value) = line.split_once(": ").ok_or_else(wrong)?;
            match key {
                "command" => definition.command = value.into(),
                "homes" => definition.homes = Some(value.into()),
                "cannot" => {
                    let (pattern, reason) = value.split_once(": ").ok_or_else(wrong)?;
                    definition.cannot.push((pattern.into(), reason.into()));
                }
                _ => return Err(wrong()),
            }
        }
        Ok(definition)
    }

    fn set_program(&mut self, path: &str) {
        let arguments = self.command.split_once(' ').map_or("", |(_, arguments)| arguments);
        self.command = format!("{path} {arguments}");
    }

    /// Why this broker cannot play `scenario`, if it cannot.
    pub(crate) fn cannot(&self, scenario: &Scenario) -> Option<&str> {
        let found = self.cannot.iter().find(|(pattern, _)| fits(pattern, scenario.name));
        let found = found.map(|(_, reason)| reason.as_str());
        let needs_tls = scenario.transport == Transport::Tls;
        found.or_else(|| (needs_tls && !self.has_tls()).then_some("nothing is told of its TLS"))
    }

    fn has_tls(&self) -> bool {
        let texts = [Some(&self.command), self.config.as_ref()];
        texts.into_iter().flatten().any(|text| text.contains("{tls}"))
    }

    /// Program and arguments; `config` is where [`Self::config`] was written.
    pub(crate) fn words(&self, fill: &Fill<'_>, config: &Path) -> Vec<String> {
        let config = config.display().to_string();
        let word = |word: &str| Some(fill.line(word)?.replace("{config}", &config));
        self.command.split_whitespace().filter_map(word).collect()
    }

    /// The configuration file's text, if it takes one.
    pub(crate) fn config(&self, fill: &Fill<'_>) -> Option<String> {
        let config = self.config.as_ref()?;
        Some(config.lines().filter_map(|line| fill.line(line)).map(|line| line + "\n").collect())
    }

    /// Port and path of the API that tells a client's home, if there is one.
    pub(crate) fn homes(&self, fill: &Fill<'_>) -> Option<String> {
        self.homes.as_ref().map(|homes| fill.text(homes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::scenario::SCENARIOS;

    fn fill(transport: Transport) -> Fill<'static> {
        Fill { port: 1883, http: 8080, dir: Path::new("/own"), threads: 2, transport }
    }

    fn words(definition: &Definition) -> Vec<String> {
        definition.words(&fill(Transport::Tcp), Path::new("/own/config"))
    }

    #[test]
    fn every_known_broker_is_lawful_and_says_only_of_real_scenarios_what_it_cannot() {
        for (name, text) in KNOWN {
            let broker = Definition::read(name, text).expect(name);
            for transport in [Transport::Tcp, Transport::Tls] {
                let line = broker.words(&fill(transport), Path::new("/own/config")).join(" ");
                assert!(!line.is_empty() && !line.contains('{'), "{name}: {line}");
                let names_files = broker.config(&fill(transport)).unwrap_or_default();
                let is_over_tls = names_files.contains("/own/key.pem");
                let is_plain = line.contains("--broker.port=1883");
                let wanted = transport == Transport::Tls && broker.has_tls();
                assert_eq!(is_over_tls && !is_plain, wanted, "{name}: {line}");
            }
            for (pattern, _) in &broker.cannot {
                let is_real = SCENARIOS.iter().any(|scenario| fits(pattern, scenario.name));
                assert!(is_real, "{name} cannot {pattern}, which is no scenario");
            }
        }
    }

    #[test]
    fn a_command_is_filled_in_with_ports_directory_threads_and_file() {
        let text =
            "# Why\ncommand: b -c {config} --data={dir} {port} {http} {threads}\n---\np {port}\n";
        let mut broker = Definition::read("x", text).expect("lawful");
        let expected = ["b", "-c", "/own/config", "--data=/own", "1883", "8080", "2"];
        assert_eq!(words(&broker), expected);
        assert_eq!(broker.config.as_deref(), Some("p {port}\n"));
        broker.set_program("/else/where");
        assert_eq!(words(&broker)[..2], ["/else/where", "-c"]);
    }

    #[test]
    fn what_a_broker_cannot_has_its_reason_by_pattern() {
        let text = "command: b\ncannot: fanin*: bytes would mix\n";
        let broker = Definition::read("x", text).expect("lawful");
        let cannot = |name: &str| {
            let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).expect(name);
            broker.cannot(scenario)
        };
        assert_eq!(cannot("fanin100-q1"), Some("bytes would mix"));
        assert_eq!(cannot("fanout500"), None);
        assert_eq!(cannot("tls50-q0"), Some("nothing is told of its TLS"));
        assert!(Definition::read("x", "command b").is_err());
        assert!(Definition::read("x", "cannot: everything").is_err());
    }

    #[test]
    fn words_and_lines_are_for_both_transports_or_for_one() {
        let text = "command: b {plain}{port} {tls}{key} x\n---\nall\n{tls}c {certificate}\n\
            {plain}none\n";
        let broker = Definition::read("x", text).expect("lawful");
        assert!(broker.has_tls());
        assert_eq!(words(&broker), ["b", "1883", "x"]);
        assert_eq!(broker.config(&fill(Transport::Tcp)).as_deref(), Some("all\nnone\n"));
        let over_tls = fill(Transport::Tls);
        assert_eq!(broker.words(&over_tls, Path::new("/"))[1], "/own/key.pem");
        let config = broker.config(&over_tls);
        assert_eq!(config.as_deref(), Some("all\nc /own/certificate.pem\n"));
    }

    #[test]
    fn a_peer_is_a_name_and_a_command() {
        assert_eq!(named("x=y --z=1").ok(), Some(("x", "y --z=1")));
        assert!(named("x").is_err());
    }
}
