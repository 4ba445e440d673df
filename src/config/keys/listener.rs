//! The keys of one listener.

use super::{
    Key, LISTENER_MESSAGES, Listener, NAME, TEXT, TIB, bytes, count, is_endpoint, is_host,
    is_network, key,
};
use crate::config::value::Kind;

const LISTENER_BACKENDS: Kind = Kind::List {
    what: "one of anyone, anonymous, password_file, certificate, jwt, http, redis, scram",
    valid: |word| word == crate::auth::ANYONE || crate::auth::BACKENDS.contains(&word),
};
const ORIGINS: Kind =
    Kind::List { what: "an origin as https://example.org:8443", valid: is_origin };
const NETWORKS: Kind =
    Kind::List { what: "an address or a network as 10.0.0.0/8", valid: is_network };
const ADDRESS: Kind = Kind::Text {
    what: "host:port, or for kind unix a path with a slash",
    valid: |text| is_endpoint(text) || (text.contains('/') && !text.contains('\0')),
};
const MODE: Kind = Kind::Text {
    what: "permissions in octal, 000 to 777",
    valid: |text| crate::config::parse_mode(text).is_some(),
};

/// The keys of each map in `listeners`.
pub(in crate::config) static LISTENER_KEYS: &[Key<Listener>] = &[
    key("name", NAME, "For logs and metrics; must be given.", |l| &mut l.name),
    key(
        "kind",
        Kind::Choice(&["tcp", "tls", "ws", "wss", "unix"]),
        "What is below MQTT: TCP, TLS, WebSocket, WebSocket over TLS, a Unix socket.",
        |l| &mut l.kind,
    ),
    key("address", ADDRESS, "Where to listen; must be given.", |l| &mut l.address),
    key(
        "socket_mode",
        MODE,
        "Permissions of a Unix socket's file; who may write to it may connect.",
        |l| &mut l.socket_mode,
    ),
    key("backlog", count(1, 65_535, "connections"), "As broker.backlog.", |l| &mut l.backlog),
    key("message_rate_max", LISTENER_MESSAGES, "As broker.message_rate_max.", |l| {
        &mut l.message_rate_max
    }),
    key("byte_rate_max", bytes(0, TIB), "As broker.byte_rate_max.", |l| &mut l.byte_rate_max),
    key(
        "connections_max",
        count(0, 16_000_000, "connections"),
        "Open connections of this listener; more are closed at once. 0: any number.",
        |l| &mut l.connections_max,
    ),
    key(
        "auth.chain",
        LISTENER_BACKENDS,
        "Who decides about clients of this listener, whatever broker.auth.enable says; anyone, alone, lets everyone in, as nobody. Empty: as for all.",
        |l| &mut l.chain,
    ),
    key(
        "proxy_protocol",
        Kind::Switch,
        "Whether connections begin with a PROXY protocol header (1 or 2) that names the client.",
        |l| &mut l.proxy_protocol,
    ),
    key(
        "trusted_proxies",
        NETWORKS,
        "Who may send that header; others are closed. Also believed about X-Forwarded-For of WebSockets. Empty: this machine and private networks, and no X-Forwarded-For.",
        |l| &mut l.trusted_proxies,
    ),
    key(
        "origins",
        ORIGINS,
        "Pages that may open a WebSocket here, by what browsers send as Origin; others are refused (403). Who sends none is no browser. Empty: any.",
        |l| &mut l.origins,
    ),
    key("tls.certificate", TEXT, "PEM file: the server's certificate and its chain.", |l| {
        &mut l.tls.certificate
    }),
    key("tls.key", TEXT, "PEM file: its private key.", |l| &mut l.tls.key),
    key(
        "tls.client_ca",
        TEXT,
        "PEM file: authorities of clients' certificates. Empty: none is asked for.",
        |l| &mut l.tls.client_ca,
    ),
    key(
        "tls.require_client_certificate",
        Kind::Switch,
        "Whether clients without a certificate are refused.",
        |l| &mut l.tls.require_client_certificate,
    ),
    key(
        "tls.crl",
        TEXT,
        "PEM file: revocation lists, one of every authority in clients' chains. Empty: none.",
        |l| &mut l.tls.crl,
    ),
    key(
        "tls.user_from",
        Kind::Choice(&["none", "cn", "subject"]),
        "What of a client's certificate is its user name, whatever its CONNECT says: nothing, the common name, or the subject as CN=alice,O=example. For certificate in auth.chain.",
        |l| &mut l.tls.user_from,
    ),
];

/// Scheme, host and port, nothing behind them.
fn is_origin(text: &str) -> bool {
    let host = text.split_once("://").map(|(_, host)| host);
    host.is_some_and(is_host)
}
