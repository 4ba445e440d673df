//! The command line: sub-commands, their flags, and the flags that set a key of the
//! configuration.
//!
//! Sub-commands are clap's. Any `--name` with a dot in it, and any key that has none
//! (`--shards`), is taken out before clap looks: `--broker.port=20001` and `--broker.port 20001`
//! set the key `broker.port`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Arg, ArgAction, ArgMatches, value_parser};

use crate::{
    auth::passwd::{Action, Kind, Passwd},
    config::{self, Flag},
    operate::Operation,
};

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    pub command: Command,
    /// `--config FILE`.
    pub config_file: Option<PathBuf>,
    /// Keys set on the command line, in their order.
    pub settings: Vec<Flag>,
}

/// The sub-commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// None: run the broker.
    Run,
    /// `check-config`: say whether the configuration is good, and what is in force.
    CheckConfig,
    /// `passwd`: edit a password file.
    Passwd(Passwd),
    /// What an operator asks of a node that runs.
    Operate(Operation),
}

const ABOUT: &str = "An MQTT broker: one thread per core, on io_uring";

const EXAMPLES: &str = "\
Examples:
  octopus                                   listen on 127.0.0.1:20000, keep all in memory
  octopus --broker.host 0.0.0.0             listen on every address of this machine
  octopus --config octopus.yml              take the configuration from a file
  octopus --config octopus.yml --broker.port=20001
                                            and change one key of it
  OCTOPUS_BROKER_PORT=20001 octopus         the same by the environment
  octopus check-config --config octopus.yml say what is wrong with it, or what is in force

Connect to it:
  mosquitto_sub -p 20000 -t 'hello/#' -v    in one terminal
  mosquitto_pub -p 20000 -t hello/world -m hi
                                            in another

Operate it:
  octopus status, octopus top               what it does
  octopus clients sensor, octopus client ID who is there
  octopus why a/b                           where messages to a topic or a client went
  octopus trace a/b                         what happens to them now, step by step
  http://127.0.0.1:20080/                   the same in a browser

Stop it: Ctrl-C or SIGTERM tells the clients and ends within 5 s; a second one ends at once.";

const KEYS: &str = "\
Keys of the configuration. Each is a flag, an environment variable (--broker.port is
OCTOPUS_BROKER_PORT) and a line of the file; the flag wins over the variable, the variable over
the file. Shown with their defaults:
";

/// Reads the command line; `arguments` begins with the program's name.
///
/// # Errors
/// What clap says: a wrong use, or the text of `--help` and `--version`.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let (arguments, settings) = split_settings(arguments);
    let matches = program().try_get_matches_from(arguments)?;
    let command = match matches.subcommand() {
        Some(("check-config", _)) => Command::CheckConfig,
        Some(("passwd", matches)) => Command::Passwd(passwd(matches)),
        Some((name, matches)) => operation(name, matches).map_or(Command::Run, Command::Operate),
        None => Command::Run,
    };
    Ok(Invocation { command, config_file: config_file(&matches), settings })
}

fn program() -> clap::Command {
    clap::Command::new("octopus")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .override_usage("octopus [COMMAND] [--config FILE] [--KEY=VALUE]...")
        .arg(
            Arg::new("config")
                .long("config")
                .value_name("FILE")
                .help("YAML file with the configuration [default: none; every key has a default]")
                .value_parser(value_parser!(PathBuf))
                .global(true),
        )
        .subcommand(
            clap::Command::new("check-config")
                .about("Check the configuration; print every key with its value and origin"),
        )
        .subcommand(passwd_command())
        .subcommands(operations())
        .after_help(format!("{EXAMPLES}\n\n`octopus --help` lists every key."))
        .after_long_help(format!("{EXAMPLES}\n\n{KEYS}\n{}", config::help()))
}

fn passwd_command() -> clap::Command {
    let switch = |name: &'static str, short, help: &'static str| {
        Arg::new(name).long(name).short(short).help(help).action(ArgAction::SetTrue)
    };
    clap::Command::new("passwd")
        .about("Add, change or delete an account of a password file")
        .override_usage("octopus passwd [--scram] [-b PASSWORD | --delete] FILE USER")
        .arg(Arg::new("file").required(true).value_parser(value_parser!(PathBuf)))
        .arg(Arg::new("user").required(true))
        .arg(
            Arg::new("batch")
                .short('b')
                .value_name("PASSWORD")
                .help("The password; else it is asked for, or read from standard input"),
        )
        .arg(switch("scram", 's', "Store keys for SCRAM-SHA-256; a plain password works as well"))
        .arg(switch("delete", 'D', "Delete the account").conflicts_with_all(["batch", "scram"]))
}

fn passwd(matches: &ArgMatches) -> Passwd {
    let password = matches.get_one::<String>("batch").cloned();
    let keys = if matches.get_flag("scram") { Kind::Scram } else { Kind::Argon2id };
    let action = match matches.get_flag("delete") {
        true => Action::Delete,
        false => Action::Set { password, keys },
    };
    Passwd {
        file: matches.get_one("file").cloned().unwrap_or_default(),
        user: matches.get_one("user").cloned().unwrap_or_default(),
        action,
    }
}

/// The sub-commands that talk to a running node.
fn operations() -> Vec<clap::Command> {
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).value_name(value).help(help).required(true)
    };
    let qos = Arg::new("qos").short('q').long("qos").value_name("0|1|2").default_value("0");
    let qos = qos.value_parser(value_parser!(u8).range(0..=2)).help("Quality of service");
    let at = Arg::new("at").long("at").value_name("HOST:PORT");
    let at = at.help("Where the broker listens [default: broker.host:broker.port]");
    let count = Arg::new("count").short('C').long("count").value_name("N");
    let count = count.value_parser(value_parser!(u64)).help("End after so many messages");
    let search = Arg::new("search").value_name("TEXT").help("Part of the Client Identifier");
    let all = ArgAction::SetTrue;
    let all = Arg::new("all").short('a').long("all").action(all).help("Those away as well");
    let retain = Arg::new("retain").short('r').long("retain").action(ArgAction::SetTrue);
    let seconds = Arg::new("rounds").short('n').long("rounds").value_name("N");
    let seconds = seconds.value_parser(value_parser!(u64)).help("End after so many readings");
    let seconds_to_trace = Arg::new("for").long("for").value_name("SECONDS").default_value("60");
    let seconds_to_trace = seconds_to_trace.value_parser(value_parser!(u64).range(1..=3600));
    let seconds_to_trace = seconds_to_trace.help("End after so long");
    let of = |name, about: &'static str| clap::Command::new(name).about(about);
    vec![
        of("status", "A running node at a glance"),
        of("clients", "List the clients of a running node").arg(search).arg(all),
        of("client", "One client: connection, subscriptions, queue, what went wrong").arg(text(
            "client",
            "ID",
            "Client Identifier",
        )),
        of("kick", "End a client's connection").arg(text("client", "ID", "Client Identifier")),
        of("top", "Live view: load and rates by shard, slow clients").arg(seconds),
        of("why", "Where did my message go: the last drops and refusals").arg(text(
            "about",
            "CLIENT-or-TOPIC",
            "Client Identifier or Topic Name",
        )),
        of("trace", "Follow messages step by step as they pass; Ctrl-C ends it")
            .arg(text("about", "CLIENT-or-TOPIC", "Client Identifier, Topic Name or Topic Filter"))
            .arg(seconds_to_trace),
        of("publish", "Publish one message by MQTT")
            .arg(text("topic", "TOPIC", "Topic Name"))
            .arg(text("payload", "MESSAGE", "Its payload"))
            .args([
                qos.clone(),
                retain.help("Keep it as the topic's retained message"),
                at.clone(),
            ]),
        of("subscribe", "Subscribe by MQTT and print what comes, one line each")
            .arg(text("filter", "FILTER", "Topic Filter"))
            .args([qos, count, at]),
    ]
}

fn operation(name: &str, matches: &ArgMatches) -> Option<Operation> {
    let text = |id: &str| matches.get_one::<String>(id).cloned();
    let qos = || matches.get_one::<u8>("qos").copied().unwrap_or(0);
    Some(match name {
        "status" => Operation::Status,
        "clients" => Operation::Clients { search: text("search"), all: matches.get_flag("all") },
        "client" => Operation::Client { client: text("client")? },
        "kick" => Operation::Kick { client: text("client")? },
        "top" => Operation::Top { rounds: matches.get_one("rounds").copied() },
        "why" => Operation::Why { about: text("about")? },
        "trace" => Operation::Trace {
            about: text("about")?,
            seconds: matches.get_one("for").copied().unwrap_or(60),
        },
        "publish" => Operation::Publish {
            at: text("at"),
            topic: text("topic")?,
            payload: text("payload")?,
            qos: qos(),
            retain: matches.get_flag("retain"),
        },
        "subscribe" => Operation::Subscribe {
            at: text("at"),
            filter: text("filter")?,
            qos: qos(),
            count: matches.get_one("count").copied(),
        },
        _ => return None,
    })
}

fn config_file(matches: &ArgMatches) -> Option<PathBuf> {
    let below = matches.subcommand().and_then(|(_, matches)| matches.get_one("config"));
    below.or_else(|| matches.get_one("config")).cloned()
}

/// Takes the flags that set keys out of `arguments`; nothing behind `--` is one.
fn split_settings(arguments: impl IntoIterator<Item = OsString>) -> (Vec<OsString>, Vec<Flag>) {
    let mut rest = Vec::new();
    let mut settings = Vec::new();
    let mut arguments = arguments.into_iter().peekable();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            rest.push(argument);
            rest.extend(arguments.by_ref());
            break;
        }
        let Some((name, value)) = as_setting(&argument) else {
            rest.push(argument);
            continue;
        };
        let value = value.or_else(|| {
            let follows = arguments.next_if(|next| is_value_of(&name, next))?;
            Some(follows.to_string_lossy().into_owned())
        });
        settings.push(Flag { name, value });
    }
    (rest, settings)
}

/// `--name` or `--name=value`, if it sets a key.
fn as_setting(argument: &OsString) -> Option<(String, Option<String>)> {
    let argument = argument.to_string_lossy();
    let flag = argument.strip_prefix("--")?;
    let (name, value) = match flag.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (flag, None),
    };
    config::is_setting(name).then(|| (name.to_owned(), value))
}

/// Whether the argument behind the flag `name` is its value. A switch may stand alone, so a
/// word that is no value of a switch is left to stand for itself.
fn is_value_of(name: &str, next: &OsString) -> bool {
    let next = next.to_string_lossy();
    !next.starts_with("--") && (!config::is_switch(name) || config::is_switch_value(&next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invocation(line: &str) -> Invocation {
        let arguments = std::iter::once("octopus").chain(line.split_whitespace());
        parse(arguments.map(OsString::from)).expect(line)
    }

    fn flag(name: &str, value: Option<&str>) -> Flag {
        Flag { name: name.to_owned(), value: value.map(str::to_owned) }
    }

    #[test]
    fn nothing_given_runs_the_broker() {
        let expected = Invocation { command: Command::Run, config_file: None, settings: vec![] };
        assert_eq!(invocation(""), expected);
    }

    #[test]
    fn the_file_may_stand_before_or_behind_the_sub_command() {
        for line in ["--config a.yml check-config", "check-config --config=a.yml"] {
            let found = invocation(line);
            assert_eq!(found.command, Command::CheckConfig, "{line}");
            assert_eq!(found.config_file, Some(PathBuf::from("a.yml")), "{line}");
        }
    }

    #[test]
    fn keys_are_flags_in_both_forms_anywhere() {
        let line = "--broker.port=20001 check-config --shards 2 --redis.password --config a.yml \
                    --spring.octopus.broker.id B2 --listeners[0].address=[::1]:1";
        let found = invocation(line);
        let expected = [
            flag("broker.port", Some("20001")),
            flag("shards", Some("2")),
            flag("redis.password", None),
            flag("spring.octopus.broker.id", Some("B2")),
            flag("listeners[0].address", Some("[::1]:1")),
        ];
        assert_eq!(found.settings, expected);
        assert_eq!(found.config_file, Some(PathBuf::from("a.yml")));
    }

    #[test]
    fn a_switch_may_stand_alone() {
        let found = invocation("--broker.auth.enable check-config --redis.ssl false");
        let expected = [flag("broker.auth.enable", None), flag("redis.ssl", Some("false"))];
        assert_eq!(found.settings, expected);
        assert_eq!(found.command, Command::CheckConfig);
    }

    #[test]
    fn passwd_takes_a_file_a_user_and_how() {
        let Command::Passwd(found) = invocation("passwd -b x --scram f u").command else {
            panic!("another command");
        };
        let action = Action::Set { password: Some("x".to_owned()), keys: Kind::Scram };
        assert_eq!(found, Passwd { file: "f".into(), user: "u".to_owned(), action });
        let Command::Passwd(found) = invocation("passwd f u -D").command else {
            panic!("another command");
        };
        assert_eq!(found.action, Action::Delete);
    }

    #[test]
    fn operations_take_what_they_are_about() {
        let found = invocation("why a/b --http.port 20081");
        assert_eq!(found.command, Command::Operate(Operation::Why { about: "a/b".to_owned() }));
        assert_eq!(found.settings, [flag("http.port", Some("20081"))]);
        let Command::Operate(Operation::Publish { topic, payload, qos, retain, .. }) =
            invocation("publish -q 1 --retain a/b hello").command
        else {
            panic!("not a publish");
        };
        assert_eq!((&*topic, &*payload, qos, retain), ("a/b", "hello", 1, true));
    }

    #[test]
    fn an_unknown_flag_or_command_is_refused() {
        for line in ["--nonsense", "nonsense", "--config"] {
            let arguments = ["octopus", line].map(OsString::from);
            assert!(parse(arguments).is_err(), "{line}");
        }
    }

    #[test]
    fn help_teaches_how_to_connect_and_names_the_keys() {
        let help = program().render_long_help().to_string();
        for part in ["mosquitto_sub -p 20000", "check-config", "--broker.storage.session local"] {
            assert!(help.contains(part), "{part}");
        }
        program().debug_assert();
    }
}
