//! Enhanced authentication (§4.12): what client and server say before CONNACK, and again later.
//! The hub's policy here knows one method, `M`: it answers `hello` with a challenge and lets in
//! who says `proof`.

use octopus_engine::{AuthExchange, AuthOutcome, AuthRequest, AuthStep};
use octopus_mqtt::{Auth, AuthProperties, Connect, ConnectProperties, Packet, ReasonCode, Version};
use octopus_sim::{Client, Node, NodeConfig, connect};

fn policy(request: &AuthRequest) -> AuthOutcome {
    let refused = AuthOutcome::Refused { reason: ReasonCode::NotAuthorized };
    let Some(AuthExchange { data, step, .. }) = &request.exchange else { return refused };
    match (step, &**data) {
        (AuthStep::Start | AuthStep::Again, b"hello") => {
            AuthOutcome::Continue { data: b"challenge"[..].into() }
        }
        (AuthStep::Continue, b"proof") => {
            AuthOutcome::Granted { user: None, acl: None, data: Some(b"welcome"[..].into()) }
        }
        _ => refused,
    }
}

fn node() -> Node {
    let mut node = Node::new(&NodeConfig { authenticate: true, ..NodeConfig::new(2) });
    node.hub.set_policy(policy);
    node
}

fn hello() -> Connect<'static> {
    let properties = ConnectProperties {
        authentication_method: Some("M"),
        authentication_data: Some(b"hello"),
        packet_size_max: Some(64),
        ..ConnectProperties::default()
    };
    Connect { properties, ..connect(Version::V5, "client", true) }
}

fn auth(reason: ReasonCode, method: &'static str, data: &'static [u8]) -> Packet<'static> {
    let properties = AuthProperties {
        authentication_method: Some(method),
        authentication_data: Some(data),
        ..AuthProperties::default()
    };
    Packet::Auth(Auth { reason, properties })
}

/// A client that has sent CONNECT and taken the challenge.
fn challenged(node: &mut Node) -> Client {
    let mut client = Client::open(node, Version::V5);
    client.send(node, &Packet::Connect(Box::new(hello())));
    expect_challenge(node, &mut client);
    client
}

/// "If the Server requires additional information to complete the authorization, it can send
/// an AUTH packet to the Client. This packet MUST contain a Reason Code of 0x18 (Continue
/// authentication)." [MQTT-4.12.0-2]
///
/// It has the method of CONNECT [MQTT-4.12.0-5], and neither Reason String nor User Property,
/// so it cannot grow past the client's Maximum Packet Size by them [MQTT-3.15.2-2],
/// [MQTT-3.15.2-3].
fn expect_challenge(node: &mut Node, client: &mut Client) {
    let received = client.expect(node);
    let Packet::Auth(auth) = received.packet() else { panic!("AUTH was expected") };
    assert_eq!(auth.reason, ReasonCode::ContinueAuthentication);
    assert_eq!(auth.properties.authentication_method, Some("M"));
    assert_eq!(auth.properties.authentication_data, Some(&b"challenge"[..]));
    assert!(auth.properties.reason_string.is_none() && auth.properties.user.is_empty());
    assert!(received.bytes.len() <= 64);
}

/// A client that is let in.
fn admitted(node: &mut Node) -> Client {
    let mut client = challenged(node);
    client.send(node, &auth(ReasonCode::ContinueAuthentication, "M", b"proof"));
    let received = client.expect(node);
    let Packet::ConnAck(connack) = received.packet() else { panic!("CONNACK was expected") };
    assert_eq!(connack.reason, ReasonCode::Success);
    assert_eq!(connack.properties.authentication_method, Some("M"));
    assert_eq!(connack.properties.authentication_data, Some(&b"welcome"[..]));
    client
}

#[test]
fn a_client_that_answers_the_challenge_is_let_in() {
    let mut node = node();
    let client = admitted(&mut node);
    assert!(!node.is_closed(client.socket));
}

#[test]
fn an_auth_without_continue_authentication_is_refused() {
    // "The Client responds to an AUTH packet from the Server by sending a further AUTH packet.
    // This packet MUST contain a Reason Code of 0x18 (Continue authentication)."
    // [MQTT-4.12.0-3]
    let mut node = node();
    let mut client = challenged(&mut node);
    client.send(&mut node, &auth(ReasonCode::ReAuthenticate, "M", b"proof"));
    expect_refusal(&mut node, &mut client, ReasonCode::ProtocolError);
}

#[test]
fn a_wrong_answer_is_refused_and_the_connection_closed() {
    // "The Server can reject the authentication at any point in this process. It MAY send a
    // CONNACK with a Reason Code of 0x80 or above as described in section 4.13, and MUST close
    // the Network Connection." [MQTT-4.12.0-4]
    let mut node = node();
    let mut client = challenged(&mut node);
    client.send(&mut node, &auth(ReasonCode::ContinueAuthentication, "M", b"guess"));
    expect_refusal(&mut node, &mut client, ReasonCode::NotAuthorized);
}

#[test]
fn another_method_than_that_of_connect_is_refused() {
    // "If the initial CONNECT packet included an Authentication Method property then all AUTH
    // packets, and any successful CONNACK packet MUST include an Authentication Method Property
    // with the same value as in the CONNECT packet." [MQTT-4.12.0-5]
    let mut node = node();
    let mut client = challenged(&mut node);
    client.send(&mut node, &auth(ReasonCode::ContinueAuthentication, "N", b"proof"));
    expect_refusal(&mut node, &mut client, ReasonCode::ProtocolError);
}

#[test]
fn nothing_but_auth_is_taken_before_connack() {
    // "If a Client sets an Authentication Method in the CONNECT, the Client MUST NOT send any
    // packets other than AUTH or DISCONNECT packets until it has received a CONNACK packet."
    // [MQTT-3.1.2-30]
    let mut node = node();
    let mut client = challenged(&mut node);
    client.send(&mut node, &Packet::PingReq);
    expect_refusal(&mut node, &mut client, ReasonCode::ProtocolError);
}

fn expect_refusal(node: &mut Node, client: &mut Client, reason: ReasonCode) {
    let received = client.expect(node);
    let Packet::ConnAck(connack) = received.packet() else { panic!("CONNACK was expected") };
    assert_eq!(connack.reason, reason);
    assert!(node.is_closed(client.socket));
}

#[test]
fn a_client_authenticates_again_and_stays() {
    let mut node = node();
    let mut client = admitted(&mut node);
    client.send(&mut node, &auth(ReasonCode::ReAuthenticate, "M", b"hello"));
    expect_challenge(&mut node, &mut client);
    client.send(&mut node, &auth(ReasonCode::ContinueAuthentication, "M", b"proof"));
    let received = client.expect(&mut node);
    let Packet::Auth(auth) = received.packet() else { panic!("AUTH was expected") };
    assert_eq!(auth.reason, ReasonCode::Success);
    assert_eq!(auth.properties.authentication_method, Some("M"));
    assert!(!node.is_closed(client.socket));
}

#[test]
fn a_client_that_fails_to_authenticate_again_is_disconnected() {
    // "If the re-authentication fails, the Client or Server SHOULD send DISCONNECT with an
    // appropriate Reason Code and MUST close the Network Connection." [MQTT-4.12.1-2]
    let mut node = node();
    let mut client = admitted(&mut node);
    client.send(&mut node, &auth(ReasonCode::ReAuthenticate, "M", b"guess"));
    let received = client.expect(&mut node);
    let Packet::Disconnect(disconnect) = received.packet() else {
        panic!("DISCONNECT was expected")
    };
    assert_eq!(disconnect.reason, ReasonCode::NotAuthorized);
    assert!(node.is_closed(client.socket));
}
