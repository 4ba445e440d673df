//! The image as it runs: the Dockerfile's last stage and the stack's service, started as a
//! container runtime would, but for its image's own Debian. The root has the binary and the
//! libraries it asks for, nothing else; a full build is `image.sh` beside this.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use libtest_mimic::Failed;

use super::Test;
use super::tools::{Scratch, octopus, root, run, text, yaml};
use crate::harness::broker::{Process, free_port};

pub(super) fn tests() -> Vec<Test> {
    vec![("image_serves_read_only_without_rights_and_under_its_profile", serves)]
}

/// The words behind a step of the Dockerfile's last stage.
fn step(word: &str) -> Result<String, Failed> {
    let text = text("deploy/Dockerfile")?.replace("\\\n", " ");
    let (_, last) = text.rsplit_once("\nFROM ").ok_or("no last stage")?;
    let found = last.lines().find_map(|line| line.strip_prefix(&format!("{word} ")));
    Ok(found.ok_or_else(|| format!("no {word}"))?.to_owned())
}

/// A root with the program where the image has it, and what the loader needs.
fn image(scratch: &Scratch) -> Result<std::path::PathBuf, Failed> {
    let image = scratch.path().join("image");
    for directory in ["usr/local/bin", "proc", "sys", "tmp", "etc/octopus", "var/lib/octopus"] {
        fs::create_dir_all(image.join(directory))?;
    }
    fs::write(image.join("etc/octopus/octopus.yml"), "")?;
    fs::copy(octopus(), image.join("usr/local/bin/octopus"))?;
    let libraries = run(Command::new("ldd").arg(octopus()))?;
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let place = image.join(library.trim_start_matches('/'));
        fs::create_dir_all(place.parent().unwrap_or(&image))?;
        fs::copy(library, place)?;
    }
    Ok(image)
}

/// The command that runs `arguments` in the image, with the Dockerfile's environment.
fn inside(image: &Path, arguments: &[String]) -> Result<Command, Failed> {
    let is_root = run(Command::new("id").arg("-u"))?.trim() == "0";
    let mut command = Command::new(if is_root { "python3" } else { "unshare" });
    if !is_root {
        command.args(["--user", "--map-root-user", "python3"]);
    }
    // It imports the file beside it, and shall leave nothing there.
    command.arg("-B").arg(root().join("tests/deploy/in_image.py")).arg(image);
    command.arg(root().join("deploy/seccomp-octopus.json"));
    let configuration = root().join("deploy/octopus.yml");
    command.arg(format!("{}:/etc/octopus/octopus.yml", configuration.display()));
    command.arg(step("WORKDIR")?).arg(step("USER")?);
    command.arg("/usr/local/bin/octopus").args(arguments);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    for pair in step("ENV")?.split_whitespace() {
        let (name, value) = pair.split_once('=').ok_or("ENV is NAME=VALUE")?;
        command.env(name, value);
    }
    Ok(command)
}

fn serves() -> Result<(), Failed> {
    let scratch = Scratch::new("image")?;
    let image = image(&scratch)?;
    let stack = yaml("deploy/docker-compose.yml")?;
    let words = stack["x-broker"]["command"].as_sequence().ok_or("no command")?;
    let mut arguments: Vec<String> =
        words.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect();
    assert_eq!(step("ENTRYPOINT")?, r#"["/usr/local/bin/octopus"]"#);
    let (mqtt, proxied, http) = (free_port(), free_port(), free_port());
    // There is no Redis, and the ports of the stack may be taken.
    for setting in [
        "--broker.group=".to_owned(),
        "--broker.storage.retain=local".to_owned(),
        "--broker.storage.publish=local".to_owned(),
        "--broker.storage.subscription=local".to_owned(),
        "--broker.storage.session=local".to_owned(),
        format!("--broker.port={mqtt}"),
        format!("--listeners[0].address=0.0.0.0:{proxied}"),
        format!("--http.port={http}"),
    ] {
        arguments.push(setting);
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, mqtt));
    let broker = Process::spawn(inside(&image, &arguments)?, address)?;
    broker.wait_for(&format!("listening on 0.0.0.0:{mqtt}"))?;
    let status = fs::read_to_string(format!("/proc/{}/status", broker.id()))?;
    for (name, wanted) in [
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ] {
        let value = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        assert_eq!(value.map(str::trim), Some(wanted), "{name}");
    }
    let port = mqtt.to_string();
    let publish = ["-p", &port, "-t", "kept", "-m", "hello", "-q", "1", "-r"];
    run(Command::new("mosquitto_pub").args(publish))?;
    // The health check, as the image says it.
    let check = text("deploy/Dockerfile")?;
    assert!(check.contains(r#"CMD ["/usr/local/bin/octopus", "status"]"#));
    let status = ["status".to_owned(), format!("--http.port={http}")];
    let told = run(&mut inside(&image, &status)?)?;
    assert!(told.contains("shard"), "{told}");
    Ok(())
}
