use std::time::Duration;

use super::*;
use crate::config::{LogFormat, Shards, Storage};

fn sources(file: &str, environment: &[(&str, &str)], flags: &[&str]) -> LoadResult {
    let file = (!file.is_empty()).then(|| YamlFile::new("test.yml".into(), file.into()));
    let environment =
        environment.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect();
    let flags: Vec<Flag> = flags
        .iter()
        .map(|flag| match flag.split_once('=') {
            Some((name, value)) => Flag { name: name.into(), value: Some(value.into()) },
            None => Flag { name: (*flag).into(), value: None },
        })
        .collect();
    load_with(file, environment, &flags)
}

type LoadResult = Result<Loaded, Vec<ConfigError>>;

fn good(file: &str, environment: &[(&str, &str)], flags: &[&str]) -> Loaded {
    sources(file, environment, flags).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn errors(result: LoadResult) -> Vec<String> {
    let errors = result.expect_err("something is wrong with it");
    errors.iter().map(ToString::to_string).collect()
}

fn warnings(loaded: &Loaded) -> Vec<String> {
    loaded.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_given_is_the_defaults() {
    let loaded = good("", &[], &[]);
    assert_eq!(loaded.config.broker.port, 20000);
    assert_eq!(loaded.config.broker.storage.session, Storage::Local);
    assert!(loaded.effective().iter().all(|line| line.place.is_none()));
}

#[test]
fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
    let file = "broker:\n  port: 1\n  id: FILE\n  host: 10.0.0.1\n";
    let environment = [("OCTOPUS_BROKER_PORT", "2"), ("OCTOPUS_BROKER_ID", "ENVIRONMENT")];
    let loaded = good(file, &environment, &["broker.port=3"]);
    let broker = &loaded.config.broker;
    assert_eq!(
        (broker.port, broker.id.as_str(), broker.host.as_str()),
        (3, "ENVIRONMENT", "10.0.0.1")
    );
    let places: Vec<(String, String)> =
        loaded.effective().into_iter().filter_map(|line| Some((line.key, line.place?))).collect();
    let expected = [
        ("broker.id", "OCTOPUS_BROKER_ID"),
        ("broker.host", "test.yml:4"),
        ("broker.port", "--broker.port"),
    ];
    assert_eq!(places, expected.map(|(key, place)| (key.to_owned(), place.to_owned())));
}

#[test]
fn own_names_win_over_the_predecessors_of_the_same_source() {
    let own_first = "broker: {port: 1}\nspring: {octopus: {broker: {port: 2}}}\n";
    assert_eq!(good(own_first, &[], &[]).config.broker.port, 1);
    let environment = [("OCTOPUS_BROKER_PORT", "1"), ("SPRING_OCTOPUS_BROKER_PORT", "2")];
    assert_eq!(good("", &environment, &[]).config.broker.port, 1);
}

#[test]
fn values_have_their_units() {
    let file = "
limits: {packet_size_max: 64KiB, connect_timeout: 1500ms, queue_full: drop_oldest, qos_max: 1}
shards: 4
log: {level: 'info,octopus=debug', format: json}
";
    let config = good(file, &[], &["limits.session-expiry-max=30d"]).config;
    assert_eq!(config.limits.packet_size_max, 65_536);
    assert_eq!(config.limits.connect_timeout, Duration::from_millis(1500));
    assert_eq!(config.limits.queue_full, octopus_engine::QueueFull::DropOldest);
    assert_eq!(config.limits.qos_max, octopus_mqtt::QoS::AtLeastOnce);
    assert_eq!(config.limits.session_expiry_max, Duration::from_secs(30 * 86_400));
    assert_eq!(config.shards, Shards::Count(4));
    assert_eq!(config.log.format, LogFormat::Json);
}

/// As such files are: Spring's own keys, other groups, placeholders, both ways to nest.
const APPLICATION_YML: &str = "\
server:
  port: 8080
spring:
  application:
    name: ${spring.octopus.broker.group}-${spring.octopus.broker.id}
  aop:
    auto: true
  octopus:
    broker:
      group: GROUP1
      id: ${BROKER_ID:BROKER1}
      host: 0.0.0.0
      port: 20001
      storage:
        retain: redis
        publish: redis
        subscription: redis
        session: redis
      auth:
        enable: true
  redis:
    host: cache.example
    port: 6380
    database: 2
    password: 0123
    ssl: true
    timeout: 5000
    sentinel:
      master: mymaster
      nodes: a.example:26379, b.example:26379
    lettuce:
      pool:
        max-active: 8
logging:
  level:
    root: info
";

/// The predecessor let every user in that had a name; here it has to be said who is one.
const ACCOUNTS: &[&str] = &["auth.password_file=passwords"];

#[test]
fn authentication_without_accounts_is_told_before_the_start() {
    let found = errors(sources(APPLICATION_YML, &[], &[]));
    assert_eq!(found, ["auth.password_file: not given; password_file in auth.chain needs it"]);
}

#[test]
fn a_file_of_the_predecessor_is_read() {
    let loaded = good(APPLICATION_YML, &[("BROKER_ID", "BROKER7")], ACCOUNTS);
    let (broker, redis) = (&loaded.config.broker, &loaded.config.redis);
    assert_eq!((broker.group.as_str(), broker.id.as_str()), ("GROUP1", "BROKER7"));
    assert_eq!((broker.host.as_str(), broker.port), ("0.0.0.0", 20001));
    assert!(broker.auth.enable);
    assert!(broker.storage.named().iter().all(|(_, storage)| *storage == Storage::Redis));
    assert_eq!((redis.host.as_str(), redis.port, redis.database), ("cache.example", 6380, 2));
    assert_eq!((redis.password.reveal(), redis.ssl), ("0123", true));
    assert_eq!(redis.timeout, Duration::from_secs(5));
    assert_eq!(redis.sentinel.nodes, ["a.example:26379", "b.example:26379"]);
}

#[test]
fn what_a_file_of_the_predecessor_has_beside_is_warned_about() {
    let expected = [
        "test.yml:2: server.port: not a key of Octopus; ignored",
        "test.yml:5: spring.application.name: not a key of Octopus; ignored",
        "test.yml:7: spring.aop.auto: not a key of Octopus; ignored",
        "test.yml:33: spring.redis.lettuce.pool.max-active: not a key of Octopus; ignored",
        "test.yml:36: logging.level.root: not a key of Octopus; ignored",
    ];
    let mut warnings = warnings(&good(APPLICATION_YML, &[], ACCOUNTS));
    warnings.sort_by_key(|line| line.split(':').nth(1).and_then(|line| line.parse::<u32>().ok()));
    assert_eq!(warnings, expected);
}

#[test]
fn newer_names_and_dotted_names_of_the_predecessor_are_read() {
    let file = "
spring.octopus.broker.port: 20003
spring:
  data.redis:
    host: newer.example
    ssl:
      enabled: true
    cluster: {nodes: [a:1, b:2], max-redirects: 3}
";
    let config = good(file, &[], &["spring.octopus.broker.id=B9"]).config;
    assert_eq!((config.broker.port, config.broker.id.as_str()), (20003, "B9"));
    assert_eq!((config.redis.host.as_str(), config.redis.ssl), ("newer.example", true));
    assert_eq!(config.redis.cluster.nodes, ["a:1", "b:2"]);
    assert_eq!(config.redis.cluster.max_redirects, 3);
}

#[test]
fn a_placeholder_without_its_variable_is_an_error() {
    let file = "spring: {redis: {password: '${REDIS_PASSWORD}'}}";
    let expected = "test.yml:1: spring.redis.password: the environment has no REDIS_PASSWORD; \
                    expected it set, or a default as ${REDIS_PASSWORD:default}";
    assert_eq!(errors(sources(file, &[], &[])), [expected]);
    let config = good("redis: {password: '${REDIS_PASSWORD}'}", &[], &[]).config;
    assert_eq!(config.redis.password.reveal(), "${REDIS_PASSWORD}", "our own names take it as is");
}

#[test]
fn each_error_is_one_line_with_place_key_and_what_was_expected() {
    let table: &[(&str, &str)] = &[
        (
            "broker:\n  prot: 1\n",
            "test.yml:2: broker.prot: no such key; the nearest is broker.port (a whole number, 0 to 65535)",
        ),
        (
            "broker:\n\n  port: 70000\n",
            "test.yml:3: broker.port: \"70000\" is wrong; expected a whole number, 0 to 65535",
        ),
        (
            "broker:\n  storage: {retain: disk}\n",
            "test.yml:2: broker.storage.retain: \"disk\" is wrong; expected one of local, redis",
        ),
        (
            "limits: {connect_timeout: 10}",
            "test.yml:1: limits.connect_timeout: \"10\" is wrong; expected a time as 500ms, 10s, 5m, 2h or 7d, 1s to 1h",
        ),
        (
            "limits: {packet_size_max: 1GiB}",
            "test.yml:1: limits.packet_size_max: \"1GiB\" is wrong; expected bytes as 4096, 64KiB, 1MiB or 2GiB, 128 to 268435460",
        ),
        (
            "broker: 5",
            "test.yml:1: broker: a group of keys, not a value; expected group, id, listen, host, port, backlog, message_rate_max, byte_rate_max, storage, shared_pick, server_reference, response_information, auth below it",
        ),
        (
            "broker:\n  port: [1]\n",
            "test.yml:2: broker.port: invalid type: sequence, expected a whole number, 0 to 65535",
        ),
        ("broker:\n  port: 1\n  port: 2\n", "test.yml:3: broker: port: given twice; expected once"),
        ("colour: red", "test.yml:1: colour: no such key; the nearest is "),
        (
            "logging: {level: info}",
            "test.yml:1: logging.level: no such key; the nearest is log.level",
        ),
        ("brokr:\n", "test.yml:1: brokr: no such key; the nearest is broker."),
        (
            "listeners:\n  - name: a\n    adress: 1\n",
            "test.yml:3: listeners.0.adress: no such key; the nearest is address (host:port, or for kind unix a path with a slash)",
        ),
        (
            "listeners:\n  - name: a\n    address: nowhere\n",
            "test.yml:3: listeners.0.address: \"nowhere\" is wrong; expected host:port, or for kind unix a path with a slash",
        ),
        (
            "listeners: [x]",
            "test.yml:1: listeners.0: a group of keys, not a value; expected name, kind, address, socket_mode, backlog, message_rate_max, byte_rate_max, connections_max, auth.chain, proxy_protocol, trusted_proxies, origins, tls.certificate, tls.key, tls.client_ca, tls.require_client_certificate, tls.crl, tls.user_from below it",
        ),
        ("listeners:\n  - address: a:1\n", "listeners.0.name: not given; it must be"),
        (
            "listeners: [{name: a, kind: unix, address: 'a:1'}]",
            "listeners.0.address: \"a:1\"; expected a path for kind unix",
        ),
        (
            "listeners: [{name: a, kind: tls, address: 'a:1', tls: {user_from: cn, client_ca: a, certificate: a, key: a}}]",
            "listeners.0.tls.user_from: given; expected certificate in the listener's auth.chain, or in that of all and broker.auth.enable",
        ),
        (
            "listeners: [{name: a, address: /run/a}]",
            "listeners.0.address: \"/run/a\"; expected host:port for this kind",
        ),
        (
            "listeners:\n  - name: a\n    socket_mode: 0999\n",
            "test.yml:3: listeners.0.socket_mode: \"0999\" is wrong; expected permissions in octal, 000 to 777",
        ),
        (
            "listeners: [{name: a, address: '127.0.0.1:20000'}]",
            "listeners: \"a\" and \"default\" have one address, 127.0.0.1:20000",
        ),
        (
            "broker: {listen: false}",
            "broker.listen: false, and `listeners` is empty; expected one listener",
        ),
        (
            "redis: {sentinel: {nodes: 'a:1'}}",
            "redis.sentinel.master: not given; redis.sentinel.nodes needs it",
        ),
        (
            "redis: {sentinel: {nodes: 'a'}}",
            "test.yml:1: redis.sentinel.nodes: \"a\" is wrong; expected a list, each host:port",
        ),
        (
            "redis: {database: 1, cluster: {nodes: ['a:1']}}",
            "redis.database: 1; a Redis Cluster has database 0 only",
        ),
        (
            "log: {level: loud}",
            "test.yml:1: log.level: \"loud\" is wrong; expected error, warn, info, debug, trace, off, or a filter",
        ),
    ];
    for (file, expected) in table {
        let lines = errors(sources(file, &[], &[]));
        assert_eq!(lines.len(), 1, "{file:?} gave {lines:?}");
        assert!(lines[0].starts_with(expected), "{file:?} gave {lines:?}");
        assert!(!lines[0].contains('\n'), "{file:?} gave more than a line");
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once_with_the_source_it_is_in() {
    let file = "broker:\n  port: x\n  id: a b\n";
    let lines = errors(sources(file, &[("OCTOPUS_SHARDS", "0")], &["redis.port", "broker.prot=1"]));
    let expected = [
        "test.yml:2: broker.port: \"x\" is wrong; expected a whole number, 0 to 65535",
        "test.yml:3: broker.id: \"a b\" is wrong; expected 1 to 64 of letters, digits, '_', '-', '.'",
        "OCTOPUS_SHARDS: shards: \"0\" is wrong; expected auto, or a number of shards, 1 to 1024",
        "--redis.port: redis.port: no value; expected a whole number, 1 to 65535",
        "--broker.prot: broker.prot: no such key; the nearest is broker.port (a whole number, 0 to 65535)",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_secret_is_neither_shown_nor_echoed() {
    let loaded = good("redis: {password: hunter2}", &[], &[]);
    let line = loaded.effective().into_iter().find(|line| line.key == "redis.password");
    assert_eq!(line.map(|line| line.value).as_deref(), Some("***"));
    assert!(!format!("{loaded:?}", loaded = loaded.config).contains("hunter2"));
}

#[test]
fn variables_that_a_container_engine_sets_are_warned_about() {
    let environment =
        [("OCTOPUS_BROKER_PORT", "tcp://10.0.0.1:1883"), ("OCTOPUS_SERVICE_HOST", "10.0.0.1")];
    let loaded = good("", &environment, &[]);
    assert_eq!(loaded.config.broker.port, 20000);
    let expected = [
        "OCTOPUS_BROKER_PORT: tcp://10.0.0.1:1883: an address set for a service, not for us; ignored",
        "OCTOPUS_SERVICE_HOST: 10.0.0.1: no such key; ignored",
    ];
    assert_eq!(warnings(&loaded), expected);
}

#[test]
fn listeners_are_a_list_and_each_field_is_a_flag_and_a_variable() {
    let file = "listeners:\n  - name: lan\n    address: 10.0.0.1:1883\n    backlog: 5\n";
    let environment =
        [("OCTOPUS_LISTENERS_1_NAME", "wan"), ("OCTOPUS_LISTENERS_1_ADDRESS", "[::]:1883")];
    let config = good(file, &environment, &["listeners[0].address=10.0.0.2:1883"]).config;
    let found: Vec<(&str, &str, u32)> = config
        .listeners
        .iter()
        .map(|listener| (listener.name.as_str(), listener.address.as_str(), listener.backlog))
        .collect();
    assert_eq!(found, [("lan", "10.0.0.2:1883", 5), ("wan", "[::]:1883", 1024)]);
}

#[test]
fn a_missing_file_is_one_line() {
    let sources = Sources { file: Some("no/such.yml".into()), ..Sources::default() };
    let expected = "no/such.yml: cannot be read: No such file or directory (os error 2)";
    assert_eq!(errors(load(sources)), [expected]);
}
