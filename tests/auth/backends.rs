//! Each backend with what stands behind it in earnest.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libtest_mimic::Failed;
use ring::signature::KeyPair as _;
use ring::{hmac, rand, signature};
use serde_json::{Value, json};

use super::client::{Card, Client};
use super::{Files, Test, VERSIONS, broker};
use crate::harness::broker::free_port;
use crate::harness::wire::Version;

pub(super) const TESTS: &[(&str, Test)] = &[
    ("wrong_and_missing_passwords_are_told_as_the_version_says", wrong_passwords),
    ("an_unknown_name_takes_as_long_as_a_wrong_password", unknown_names),
    ("accounts_of_mosquitto_passwd_get_in", mosquitto_accounts),
    ("who_no_backend_knows_is_let_in_only_if_configured", no_opinion),
    ("tokens_of_three_algorithms_get_in_with_their_rules", tokens),
    ("a_client_goes_when_its_token_ends", token_ends),
    ("an_http_endpoint_decides", http_decides),
    ("an_endpoint_is_asked_so_many_at_a_time_and_its_answers_are_remembered", bounded),
    ("a_slow_endpoint_holds_up_nobody_else", slow_endpoint),
    ("a_dead_endpoint_refuses_or_is_passed_over", dead_endpoint),
    ("a_flood_of_tokens_to_check_holds_up_nobody_who_is_connected", token_flood),
];

/// The time of an answer must not tell who has an account.
fn unknown_names() -> Result<(), Failed> {
    let files = Files::new()?;
    let file = files.path("passwords");
    set(&file, "roger", "right", &[])?;
    let own = format!("--auth.password_file={}", file.display());
    let more = ["--auth.ban.failures_max=0", "--auth.timeout=1m", "--auth.cache.negative_ttl=1h"]
        .map(str::to_owned);
    let broker = broker(&[&[own][..], &more].concat())?;
    let take = |user: &str, password: &str| -> Result<Duration, Failed> {
        let start = Instant::now();
        let (_, code) = Client::connect(&broker, Version::V5, &Card::new("c", user, password))?;
        assert_eq!(code, 0x86, "{user}");
        Ok(start.elapsed())
    };
    let (mut known, mut unknown, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..9 {
        let password = format!("wrong-{round}");
        known.push(take("roger", &password)?);
        unknown.push(take("nobody", &password)?);
        again.push([take("roger", &password)?, take("nobody", &password)?]);
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let (known, unknown) = (median(&mut known), median(&mut unknown));
    assert!(unknown > known / 8 && known > unknown / 8, "known {known:?}, unknown {unknown:?}");
    // And both are remembered for a while.
    let mut of_unknown = again.iter().map(|[_, unknown]| *unknown).collect();
    assert!(median(&mut of_unknown) < unknown, "{again:?}, at first {unknown:?}");
    Ok(())
}

fn code(version: Version, v5: u64, v3: u64) -> u64 {
    if version == Version::V5 { v5 } else { v3 }
}

fn wrong_passwords() -> Result<(), Failed> {
    let files = Files::new()?;
    let file = files.path("passwords");
    set(&file, "roger", "right", &[])?;
    // A busy machine lets a nice thread wait.
    let own = format!("--auth.password_file={}", file.display());
    let broker = broker(&[own, "--auth.timeout=1m".to_owned()])?;
    for version in VERSIONS {
        for (card, expected) in [
            (Card::new("c", "roger", "right"), 0),
            (Card::new("c", "roger", "wrong"), code(version, 0x86, 4)),
            (Card::new("c", "roger", ""), code(version, 0x86, 4)),
            (Card::new("c", "nobody", "right"), code(version, 0x86, 4)),
            (Card { client: "c", ..Card::default() }, code(version, 0x87, 5)),
        ] {
            let (mut client, found) = Client::connect(&broker, version, &card)?;
            assert_eq!(found, expected, "{version:?} {card:?}");
            if expected != 0 {
                assert_eq!(client.next()?, None, "{version:?} {card:?}: closed");
            }
        }
    }
    let line = broker.wait_for("authentication failed")?;
    for field in ["127.0.0.1", "roger", "client"] {
        assert!(line.contains(field), "{line}");
    }
    assert!(!broker.log().contains("wrong\""), "no password in the log");
    Ok(())
}

/// `octopus passwd [options] -b password file user`.
pub(crate) fn set(
    file: &std::path::Path,
    user: &str,
    password: &str,
    options: &[&str],
) -> Result<(), Failed> {
    let file = file.display().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_octopus"));
    command.arg("passwd").args(options).args(["-b", password, &file, user]);
    let output = command.output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
    }
}

fn mosquitto_accounts() -> Result<(), Failed> {
    let files = Files::new()?;
    let file = files.path("passwords");
    let path = file.display().to_string();
    for (user, options) in [("seven", &["-c"][..]), ("six", &["-H", "sha512"])] {
        let mut command = Command::new("mosquitto_passwd");
        let status = command.args(options).args(["-b", &path, user, "hunter2"]).status()?;
        assert!(status.success(), "mosquitto_passwd {options:?}");
    }
    let text = fs::read_to_string(&file)?;
    assert!(text.contains("seven:$7$") && text.contains("six:$6$"), "{text}");
    set(&file, "ours", "hunter2", &[])?;
    set(&file, "scram", "hunter2", &["--scram"])?;
    let broker = broker(&[format!("--auth.password_file={path}")])?;
    for user in ["seven", "six", "ours", "scram"] {
        Client::let_in(&broker, Version::V5, &Card::new("c", user, "hunter2"))?;
        let (_, code) = Client::connect(&broker, Version::V5, &Card::new("c", user, "hunter3"))?;
        assert_eq!(code, 0x86, "{user}");
    }
    Ok(())
}

fn no_opinion() -> Result<(), Failed> {
    let chain = |words: &str, no_opinion: &str| {
        vec![format!("--auth.chain={words}"), format!("--auth.no_opinion={no_opinion}")]
    };
    let nobody = Card { client: "n", ..Card::default() };
    let known = Card::new("k", "somebody", "x");
    for (settings, nobody_code, known_code) in [
        (chain("anonymous", "deny"), 0, 0x86),
        (chain("certificate", "deny"), 0x87, 0x86),
        (chain("certificate", "allow"), 0, 0),
    ] {
        let broker = broker(&settings)?;
        for (card, expected) in [(&nobody, nobody_code), (&known, known_code)] {
            let (_, code) = Client::connect(&broker, Version::V5, card)?;
            assert_eq!(code, expected, "{settings:?} {card:?}");
        }
    }
    Ok(())
}

fn in_s(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    i64::try_from(now).unwrap_or(0) + seconds
}

/// A token: header and claims, signed by `sign`.
fn token(algorithm: &str, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(&json!({"alg": algorithm})), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn hs256(secret: &str, claims: &Value) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    token("HS256", claims, |message| hmac::sign(&key, message).as_ref().to_vec())
}

/// A key pair of openssl's making: what signs, and the public key in PEM.
fn rsa(files: &Files) -> Result<(signature::RsaKeyPair, String), Failed> {
    let private = files.path("rsa.der").display().to_string();
    let make = ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
    let mut openssl = Command::new("openssl");
    openssl.args(make).args(["-outform", "DER", "-out", &private]);
    assert!(openssl.stderr(Stdio::null()).status()?.success(), "openssl genpkey");
    let show = ["pkey", "-inform", "DER", "-in", &private, "-pubout"];
    let public = Command::new("openssl").args(show).output()?.stdout;
    let der = fs::read(&private)?;
    let pair = signature::RsaKeyPair::from_pkcs8(&der)
        .or_else(|_| signature::RsaKeyPair::from_der(&der))
        .map_err(|error| error.to_string())?;
    Ok((pair, String::from_utf8(public)?))
}

fn tokens() -> Result<(), Failed> {
    let files = Files::new()?;
    let random = rand::SystemRandom::new();
    let good = json!({"sub": "roger", "exp": in_s(600), "subs": ["a/%u/#"], "publ": ["b/%c"]});
    let expired = json!({"sub": "roger", "exp": in_s(-600)});
    let early = json!({"sub": "roger", "exp": in_s(600), "nbf": in_s(300)});

    let (pair, pem) = rsa(&files)?;
    let rs256 = |claims: &Value| {
        token("RS256", claims, |message| {
            let mut signature = vec![0; pair.public().modulus_len()];
            let padding = &signature::RSA_PKCS1_SHA256;
            pair.sign(padding, &random, message, &mut signature).expect("a good key");
            signature
        })
    };
    let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let pkcs8 =
        signature::EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(|_| "no key pair")?;
    let ec = signature::EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random)
        .map_err(|error| error.to_string())?;
    let es256 = |claims: &Value| {
        token("ES256", claims, |message| {
            ec.sign(&random, message).expect("a good key").as_ref().to_vec()
        })
    };
    let (x, y) = ec.public_key().as_ref()[1..].split_at(32);
    let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
    let jwks = json!({"keys": [{"kty": "EC", "crv": "P-256", "x": x, "y": y}]}).to_string();

    let hs256 = |claims: &Value| hs256("a secret of the test", claims);
    let of_pem = format!("--auth.jwt.key_file={}", files.write("key.pem", &pem)?.display());
    let of_jwks = format!("--auth.jwt.key_file={}", files.write("jwks.json", &jwks)?.display());
    let of_secret = "--auth.jwt.secret=a secret of the test".to_owned();
    type Sign<'a> = &'a dyn Fn(&Value) -> String;
    let cases: [(&str, String, Sign<'_>, Sign<'_>); 3] = [
        ("HS256", of_secret, &hs256, &es256),
        ("RS256", of_pem, &rs256, &hs256),
        ("ES256", of_jwks, &es256, &rs256),
    ];
    for (name, key, sign, other) in cases {
        let broker = broker(&["--auth.chain=jwt".to_owned(), key])?;
        let connect = |password: &str| {
            Client::connect(&broker, Version::V5, &Card::new("c", "ignored", password))
        };
        let (mut client, code) = connect(&sign(&good))?;
        assert_eq!(code, 0, "{name}");
        assert_eq!(client.subscribe("a/roger/x")?, 1, "{name}");
        assert_eq!(client.subscribe("a/ignored/x")?, 0x87, "{name}: the token's user counts");
        assert_eq!((client.publish("b/c", "")?, client.publish("b/d", "")?), (0x10, 0x87));
        for refused in [sign(&expired), sign(&early), other(&good), "no token".to_owned()] {
            assert_eq!(connect(&refused)?.1, 0x86, "{name}");
        }
    }
    Ok(())
}

fn token_ends() -> Result<(), Failed> {
    let settings = ["--auth.chain=jwt", "--auth.jwt.secret=s", "--auth.jwt.leeway=0s"];
    let broker = broker(&settings.map(str::to_owned))?;
    let token = hs256("s", &json!({"sub": "roger", "exp": in_s(2)}));
    let mut client = Client::let_in(&broker, Version::V5, &Card::new("c", "", &token))?;
    let goodbye = client.expect("disconnect")?;
    assert_eq!(goodbye.number_of("code"), 0x87);
    Ok(())
}

/// An HTTP server that answers each question by `answer`, a thread each; its URL.
fn endpoint(
    answer: impl Fn(&Value) -> (u16, String) + Send + Sync + 'static,
) -> Result<String, Failed> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let url = format!("http://{}/auth", listener.local_addr()?);
    let answer = std::sync::Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = std::sync::Arc::clone(&answer);
            thread::spawn(move || {
                let mut reader = BufReader::new(&stream);
                let (mut length, mut line) = (0, String::new());
                while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
                    let header = line.to_ascii_lowercase();
                    if let Some(value) = header.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap_or(0);
                    }
                    line.clear();
                }
                let mut body = vec![0; length];
                if reader.read_exact(&mut body).is_err() {
                    return;
                }
                let (status, text) = answer(&serde_json::from_slice(&body).unwrap_or_default());
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", text.len());
                // The broker may have given up waiting.
                let _ = write!(&stream, "{head}connection: close\r\n\r\n{text}");
            });
        }
    });
    Ok(url)
}

fn http_decides() -> Result<(), Failed> {
    let url = endpoint(|question| {
        let text = match question["user"].as_str() {
            Some("good") if question["password"] == "p" && question["address"] == "127.0.0.1" => {
                json!({"result": "allow", "user": "better",
                    "acl": [{"verdict": "allow", "action": "subscribe", "topic": "x/%u/%c"}]})
            }
            Some("unknown") => json!({"result": "ignore"}),
            Some("broken") => json!({"result": 1}),
            Some("forbidden") => return (403, String::new()),
            _ => json!({"result": "deny"}),
        };
        (200, text.to_string())
    })?;
    let broker = broker(&["--auth.chain=http".to_owned(), format!("--auth.http.url={url}")])?;
    let card = |user| Card::new("c", user, "p");
    let mut client = Client::let_in(&broker, Version::V5, &card("good"))?;
    assert_eq!((client.subscribe("x/better/c")?, client.subscribe("x/good/c")?), (1, 0x87));
    for (user, expected) in
        [("bad", 0x86), ("forbidden", 0x86), ("unknown", 0x86), ("broken", 0x88)]
    {
        assert_eq!(Client::connect(&broker, Version::V5, &card(user))?.1, expected, "{user}");
    }
    Ok(())
}

fn bounded() -> Result<(), Failed> {
    const AT_A_TIME: usize = 2;
    let counts: &'static [AtomicUsize; 3] = Box::leak(Box::default());
    let [all, now, most] = counts;
    let url = endpoint(move |_| {
        all.fetch_add(1, Ordering::Relaxed);
        most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(50));
        now.fetch_sub(1, Ordering::Relaxed);
        (200, json!({"result": "allow"}).to_string())
    })?;
    let broker = broker(&[
        "--auth.chain=http".to_owned(),
        format!("--auth.http.url={url}"),
        format!("--auth.concurrency_max={AT_A_TIME}"),
        "--auth.cache.ttl=1h".to_owned(),
    ])?;
    for _ in 0..2 {
        let mut waiting = Vec::new();
        for index in 0..10 {
            let id = format!("c{index}");
            let mut client = Client::open(&broker, Version::V5)?;
            client.send(&Card::new(&id, "roger", "p").connect())?;
            waiting.push(client);
        }
        for client in &mut waiting {
            assert_eq!(client.expect("connack")?.number_of("code"), 0);
        }
    }
    assert_eq!(all.load(Ordering::Relaxed), 10, "the second time all are remembered");
    assert_eq!(most.load(Ordering::Relaxed), AT_A_TIME);
    Ok(())
}

/// While twenty clients wait for an endpoint that never answers, one whose account is in the
/// password file gets in at once, and a connected one is served as ever.
fn slow_endpoint() -> Result<(), Failed> {
    let (_hold, never) = mpsc::channel::<()>();
    let never = std::sync::Mutex::new(never);
    let url = endpoint(move |_| {
        // Ends when the test does.
        let _ = never.lock().map(|never| never.recv());
        (200, String::new())
    })?;
    let files = Files::new()?;
    let file = files.path("passwords");
    set(&file, "roger", "right", &[])?;
    let broker = broker(&[
        "--auth.chain=password_file,http".to_owned(),
        "--auth.timeout=4s".to_owned(),
        format!("--auth.password_file={}", file.display()),
        format!("--auth.http.url={url}"),
    ])?;
    let roger = Card::new("roger", "roger", "right");
    let mut live = Client::let_in(&broker, Version::V5, &roger)?;
    let mut waiting = Vec::new();
    for index in 0..20 {
        let id = format!("slow-{index}");
        let mut client = Client::open(&broker, Version::V5)?;
        client.send(&Card::new(&id, "stranger", &id).connect())?;
        waiting.push(client);
    }
    let start = Instant::now();
    Client::let_in(&broker, Version::V5, &Card::new("other", "roger", "right"))?;
    live.ping()?;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "a neighbour waited {took:?}");
    for client in &mut waiting {
        assert_eq!(client.expect("connack")?.number_of("code"), 0x88);
    }
    let took = start.elapsed();
    assert!(took > Duration::from_secs(3), "answered after {took:?}, before the endpoint's time");
    Ok(())
}

fn dead_endpoint() -> Result<(), Failed> {
    let url = format!("--auth.http.url=http://127.0.0.1:{}/", free_port());
    for (on_error, expected) in [("refuse", 0x88), ("next", 0)] {
        let broker = broker(&[
            "--auth.chain=http,anonymous".to_owned(),
            format!("--auth.on_error={on_error}"),
            url.clone(),
        ])?;
        let nobody = Card { client: "n", ..Card::default() };
        assert_eq!(Client::connect(&broker, Version::V5, &nobody)?.1, expected, "{on_error}");
    }
    Ok(())
}

/// Signatures are checked off the shards: a live client is answered while many wait.
fn token_flood() -> Result<(), Failed> {
    // A ban would turn them away before they are checked.
    let settings = ["--auth.chain=jwt", "--auth.jwt.secret=s", "--auth.ban.failures_max=0"];
    let broker = broker(&settings.map(str::to_owned))?;
    let good = hs256("s", &json!({"sub": "roger", "exp": in_s(600)}));
    let mut live = Client::let_in(&broker, Version::V5, &Card::new("live", "", &good))?;
    // Long claims take long to check.
    let wrong = hs256("other", &json!({"sub": "x".repeat(40_000), "exp": in_s(600)}));
    let mut waiting = Vec::new();
    for index in 0..100 {
        let mut client = Client::open(&broker, Version::V5)?;
        let id = format!("t{index}");
        client.send(&Card::new(&id, "", &format!("{wrong}{index}")).connect())?;
        waiting.push(client);
    }
    let start = Instant::now();
    live.ping()?;
    assert!(start.elapsed() < Duration::from_secs(1), "a ping took {:?}", start.elapsed());
    for client in &mut waiting {
        let code = client.expect("connack")?.number_of("code");
        assert!([0x86, 0x89].contains(&code), "{code:#x}");
    }
    live.ping()
}
