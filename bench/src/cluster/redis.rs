//! A Redis server of our own, and what it says of itself.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::compare::broker::free_ports;

const READY_TIMEOUT: Duration = Duration::from_secs(5);
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(20);

/// A running server without any persistence; dropping it ends it.
pub(crate) struct Redis {
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl Redis {
    /// # Errors
    /// If it cannot be started or does not answer within five seconds.
    pub(crate) fn start(program: &Path) -> io::Result<Self> {
        let [port] = free_ports()?;
        let name = format!("octopus-bench-redis-{}-{port}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        fs::create_dir_all(&dir)?;
        let mut command = Command::new(program);
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--port").arg(port.to_string()).arg("--dir").arg(&dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let failed = |error| io::Error::other(format!("{}: {error}", program.display()));
        let redis = Self { child: command.spawn().map_err(failed)?, port, dir };
        let begun = Instant::now();
        while begun.elapsed() < READY_TIMEOUT {
            if redis.ask("PING").is_ok() {
                return Ok(redis);
            }
            thread::sleep(TICK);
        }
        Err(io::Error::other(format!("{} does not answer", program.display())))
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The answer to one command, its arguments quoted where they have spaces: the text of a
    /// line, a number or a bulk, or of an error.
    pub(crate) fn ask(&self, command: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let (kind, rest) = line.trim_end().split_at_checked(1).unwrap_or_default();
        let length: usize = match kind {
            "$" => rest.parse().unwrap_or(0),
            _ => return Ok(rest.to_owned()),
        };
        let mut text = vec![0; length];
        reader.read_exact(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// How often each command was called so far, those that scripts call among them.
    pub(crate) fn calls(&self) -> io::Result<BTreeMap<String, u64>> {
        Ok(calls(&self.ask("INFO commandstats")?))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Failures here mean that it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// `cmdstat_xadd:calls=12,usec=…` and so on.
fn calls(info: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    info.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_from_commandstats() {
        let info = "# Commandstats\r\ncmdstat_xadd:calls=12,usec=80\r\ncmdstat_config|get:calls=1,\r\nx\r\n";
        let found = calls(info);
        assert_eq!(found.get("xadd"), Some(&12));
        assert_eq!(found.get("config|get"), Some(&1));
        assert_eq!(found.len(), 2);
    }
}
