//! SCRAM-SHA-256 from the client's side, written from RFC 5802 and not from ours.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libtest_mimic::Failed;
use ring::{digest, hmac, pbkdf2};

use super::backends::set;
use super::client::{Card, Client};
use super::{Files, Test, broker};
use crate::harness::broker::Process;
use crate::harness::wire::{Packet, Version};

pub(super) const TESTS: &[(&str, Test)] = &[
    ("the_password_gets_in_and_the_server_proves_itself", gets_in),
    ("a_wrong_password_an_unknown_user_and_another_method_are_refused", refused),
    ("a_live_client_authenticates_again", again),
    ("another_user_may_not_take_over_by_authenticating_again", other_again),
];

const METHOD: &str = "SCRAM-SHA-256";

fn start() -> Result<(Process, Files), Failed> {
    let files = Files::new()?;
    let file = files.path("passwords");
    set(&file, "roger", "pencil", &["--scram"])?;
    set(&file, "anna", "eraser", &["--scram"])?;
    let settings =
        ["--auth.chain=scram".to_owned(), format!("--auth.password_file={}", file.display())];
    Ok((broker(&settings)?, files))
}

/// One exchange, from the client's side.
struct Scram {
    password: String,
    bare: String,
    nonce: String,
}

impl Scram {
    fn new(user: &str, password: &str) -> Self {
        let nonce = "fyko+d2lbbFgONRv9qkxdawL".to_owned();
        Self { password: password.to_owned(), bare: format!("n={user},r={nonce}"), nonce }
    }

    fn first(&self) -> String {
        format!("n,,{}", self.bare)
    }

    /// The client's last message and what the server's must be.
    fn last(&self, challenge: &str) -> Result<(String, String), Failed> {
        let mut fields = challenge.split(',');
        let mut field = |name: &str| fields.next().and_then(|field| field.strip_prefix(name));
        let nonce = field("r=").ok_or("no nonce")?;
        assert!(nonce.starts_with(&self.nonce) && nonce.len() > self.nonce.len() + 10);
        let salt = STANDARD.decode(field("s=").ok_or("no salt")?)?;
        let iterations: NonZeroU32 = field("i=").ok_or("no iterations")?.parse()?;
        assert!(iterations.get() >= 4096, "RFC 7677 asks for 4096");
        let mut salted = [0; 32];
        let password = self.password.as_bytes();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password, &mut salted);
        let without_proof = format!("c=biws,r={nonce}");
        let message = format!("{},{challenge},{without_proof}", self.bare);
        let client_key = sign(&salted, "Client Key");
        let stored = digest::digest(&digest::SHA256, &client_key);
        let signature = sign(stored.as_ref(), &message);
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        let server = sign(&sign(&salted, "Server Key"), &message);
        let last = format!("{without_proof},p={}", STANDARD.encode(proof));
        Ok((last, format!("v={}", STANDARD.encode(server))))
    }
}

fn sign(key: &[u8], message: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
}

fn connect(method: &str, data: &str) -> Packet {
    let card = Card { client: "c", ..Card::default() };
    card.connect().bytes("auth-method", method).bytes("auth-data", data)
}

fn auth(code: u8, data: &str) -> Packet {
    let packet = Packet::new("auth").number("code", code);
    packet.bytes("auth-method", METHOD).bytes("auth-data", data)
}

fn data_of(packet: &Packet) -> Result<String, Failed> {
    Ok(String::from_utf8(packet.bytes_of("auth-data").to_vec())?)
}

/// A client that got in, having checked the server.
fn let_in(broker: &Process, user: &str, password: &str) -> Result<Client, Failed> {
    let scram = Scram::new(user, password);
    let mut client = Client::open(broker, Version::V5)?;
    let challenge = client.ask(&connect(METHOD, &scram.first()), "auth")?;
    assert_eq!(challenge.number_of("code"), 0x18);
    let (last, proof) = scram.last(&data_of(&challenge)?)?;
    let connack = client.ask(&auth(0x18, &last), "connack")?;
    assert_eq!(connack.number_of("code"), 0, "{user}");
    assert_eq!(connack.bytes_of("auth-method"), METHOD.as_bytes());
    assert_eq!(data_of(&connack)?, proof, "the server knows the keys");
    Ok(client)
}

fn gets_in() -> Result<(), Failed> {
    let (broker, _files) = start()?;
    let_in(&broker, "roger", "pencil")?.ping()
}

fn refused() -> Result<(), Failed> {
    let (broker, _files) = start()?;
    for (user, password) in [("roger", "crayon"), ("nobody", "pencil")] {
        let scram = Scram::new(user, password);
        let mut client = Client::open(&broker, Version::V5)?;
        let challenge = client.ask(&connect(METHOD, &scram.first()), "auth")?;
        let (last, _) = scram.last(&data_of(&challenge)?)?;
        let connack = client.ask(&auth(0x18, &last), "connack")?;
        assert_eq!(connack.number_of("code"), 0x87, "{user}");
        assert_eq!(client.next()?, None, "{user}: closed");
    }
    for (method, data, code) in [("PLAIN", "x", 0x8c), (METHOD, "nonsense", 0x87)] {
        let mut client = Client::open(&broker, Version::V5)?;
        let connack = client.ask(&connect(method, data), "connack")?;
        assert_eq!(connack.number_of("code"), code, "{method}");
    }
    Ok(())
}

fn again() -> Result<(), Failed> {
    let (broker, _files) = start()?;
    let mut client = let_in(&broker, "roger", "pencil")?;
    let scram = Scram::new("roger", "pencil");
    let challenge = client.ask(&auth(0x19, &scram.first()), "auth")?;
    client.ping()?;
    let (last, proof) = scram.last(&data_of(&challenge)?)?;
    let done = client.ask(&auth(0x18, &last), "auth")?;
    assert_eq!((done.number_of("code"), data_of(&done)?), (0, proof));
    client.ping()?;
    let scram = Scram::new("roger", "crayon");
    let challenge = client.ask(&auth(0x19, &scram.first()), "auth")?;
    let (last, _) = scram.last(&data_of(&challenge)?)?;
    let goodbye = client.ask(&auth(0x18, &last), "disconnect")?;
    assert_eq!(goodbye.number_of("code"), 0x87);
    Ok(())
}

fn other_again() -> Result<(), Failed> {
    let (broker, _files) = start()?;
    let mut client = let_in(&broker, "roger", "pencil")?;
    let scram = Scram::new("anna", "eraser");
    let goodbye = client.ask(&auth(0x19, &scram.first()), "disconnect")?;
    assert_eq!(goodbye.number_of("code"), 0x87);
    Ok(())
}
