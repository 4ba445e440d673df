//! Certificates for one test, made by openssl: an authority, a server for 127.0.0.1, the clients
//! alice, bob and mallory, a list that revokes mallory's and one that revokes alice's as well;
//! and another authority with its client, the stranger.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use libtest_mimic::Failed;

/// A directory of files, removed when dropped.
pub(crate) struct Certificates {
    directory: PathBuf,
}

const CONFIGURATION: &str = "
[req]
distinguished_name = name
[name]
[ca]
default_ca = ours
[ours]
database = index.txt
crlnumber = crlnumber
default_md = sha256
default_crl_days = 30
[authority]
basicConstraints = critical, CA:true
keyUsage = keyCertSign, cRLSign
[server]
subjectAltName = IP:127.0.0.1
basicConstraints = CA:false
[client]
basicConstraints = CA:false
";

/// Made in this order, each with its key.
const SCRIPT: &str = "
set -e
new='openssl req -config c.cnf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes'
$new -x509 -days 30 -subj /CN=authority -extensions authority -keyout ca.key -out ca.pem
for name in server alice bob mallory; do
    $new -subj /O=test/CN=$name -keyout $name.key -out $name.csr
    kind=client
    [ $name != server ] || kind=server
    openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 \
        -extfile c.cnf -extensions $kind -out $name.pem
done
: > index.txt
echo 01 > crlnumber
ours='openssl ca -config c.cnf -cert ca.pem -keyfile ca.key'
$ours -revoke mallory.pem
$ours -gencrl -out crl.pem
$ours -revoke alice.pem
$ours -gencrl -out crl-alice.pem
$new -x509 -days 30 -subj /CN=other -extensions authority -keyout other.key -out other.pem
$new -subj /CN=alice -keyout stranger.key -out stranger.csr
openssl x509 -req -in stranger.csr -CA other.pem -CAkey other.key -CAcreateserial -days 30 \
    -extfile c.cnf -extensions client -out stranger.pem
";

impl Certificates {
    pub(crate) fn make() -> Result<Self, Failed> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("octopus-certificates-{}-{number}", std::process::id());
        let made = Self { directory: std::env::temp_dir().join(name) };
        fs::create_dir_all(&made.directory)?;
        fs::write(made.directory.join("c.cnf"), CONFIGURATION)?;
        let mut command = Command::new("sh");
        let output = command.args(["-c", SCRIPT]).current_dir(&made.directory).output()?;
        match output.status.success() {
            true => Ok(made),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned().into()),
        }
    }

    /// The path of a file; of an empty name, the directory with a slash behind it.
    pub(crate) fn file(&self, name: &str) -> String {
        self.directory.join(name).to_string_lossy().into_owned()
    }
}

impl Certificates {
    /// Puts a copy of `from` in the place of `to`, as careful tools do: whole, or not at all.
    pub(super) fn replace(&self, to: &str, from: &str) -> Result<(), Failed> {
        fs::copy(self.file(from), self.file("beside"))?;
        Ok(fs::rename(self.file("beside"), self.file(to))?)
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        // What cannot be removed is left to the system's cleaning.
        let _ = fs::remove_dir_all(&self.directory);
    }
}
