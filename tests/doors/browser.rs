//! MQTT.js in a page, in headless Chromium, over a secure WebSocket.
//!
//! The page comes from a small server here. Chromium is told the one key of the broker's
//! certificate that it is to trust; every other check of TLS and WebSocket is its own.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use libtest_mimic::Failed;

use super::{Door, Running, Tests, modules};

pub(super) const TESTS: Tests = &[("mqttjs_speaks_over_wss_from_a_page_in_chromium", page)];

/// A browser takes a while to start.
const BROWSER_PATIENCE: Duration = Duration::from_secs(60);

/// Serves the page and MQTT.js; what the page says in the end comes out of the channel.
fn serve(
    page: Vec<u8>,
    script: Vec<u8>,
) -> Result<(std::net::SocketAddr, mpsc::Receiver<String>), Failed> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let (sender, receiver) = mpsc::channel();
    // Ends with the test's process; a browser that goes away in the middle is no fault.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let first = lines.next().unwrap_or_default();
            // The rest of the head, so that nothing unread resets the connection.
            lines.find(String::is_empty);
            let path = first.split_whitespace().nth(1).unwrap_or_default();
            let (kind, body): (&str, &[u8]) = match path {
                "/" => ("text/html", &page),
                "/mqtt.min.js" => ("text/javascript", &script),
                _ => ("text/plain", b""),
            };
            if let Some(told) = path.strip_prefix("/done?") {
                let _ = sender.send(told.to_owned());
            }
            let length = body.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
                 Connection: close\r\n\r\n"
            );
            let _ = (&stream).write_all(head.as_bytes()).and_then(|()| (&stream).write_all(body));
        }
    });
    Ok((address, receiver))
}

/// The hash of the server's public key, as Chromium wants it.
fn key_hash(door: &Door) -> Result<String, Failed> {
    let script = "openssl x509 -in \"$1\" -pubkey -noout | openssl pkey -pubin -outform der |
        openssl dgst -sha256 -binary | openssl base64 -A";
    let mut command = Command::new("sh");
    let output =
        command.args(["-c", script, "sh", &door.certificates.file("server.pem")]).output()?;
    Ok(String::from_utf8(output.stdout)?)
}

fn page() -> Result<(), Failed> {
    let door = Door::open("wss", &[])?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read(root.join("tests/doors/page.html"))?;
    let script = fs::read(modules()?.join("mqtt/dist/mqtt.min.js"))?;
    let (address, told) = serve(page, script)?;
    let mut command = Command::new("chromium");
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", door.certificates.file("profile")))
        .arg(format!("--ignore-certificate-errors-spki-list={}", key_hash(&door)?))
        .args(["--enable-logging=stderr", "--remote-debugging-port=0"])
        .arg(format!("http://{address}/#wss://127.0.0.1:{}/mqtt", door.address.port()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(door.certificates.file("chromium.log"))?);
    let _browser = Running(command.spawn()?);
    let answer = told.recv_timeout(BROWSER_PATIENCE);
    if answer.as_deref() == Ok("well") {
        return Ok(());
    }
    let log = fs::read_to_string(door.certificates.file("chromium.log"))?;
    Err(format!("{answer:?}\n{log}\nthe broker's log:\n{}", door.broker.log()).into())
}
