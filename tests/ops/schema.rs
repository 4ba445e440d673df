//! schemathesis asks the admin API what its OpenAPI document promises, and what it does not.

use std::path::Path;
use std::process::Command;

use libtest_mimic::{Failed, Trial};

use super::{Node, TOKEN, success};

/// Some four hundred requests, at every boundary the document draws; the same ones in every run.
const SEED: &str = "1";

/// What a network is, a pattern cannot say whole.
const EXCEPT: &str = "[[operations]]\n\
    include-operation-id = \"ban\"\n\
    checks.positive_data_acceptance.enabled = false\n";

pub(super) fn trial() -> Trial {
    Trial::test("ops::schema::the_admin_api_keeps_what_its_document_promises", promises)
}

fn promises() -> Result<(), Failed> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = root.join("target/venv/bin/schemathesis");
    if !program.exists() {
        return Err("tests/run.sh installs schemathesis".into());
    }
    let node = Node::start()?;
    node.leave_session("sleeper", "a/#")?;
    let mut command = Command::new(program);
    command.arg("run").arg(format!("http://{}/api/v1/openapi.json", node.http.address));
    command.arg("--header").arg(format!("Authorization: Bearer {TOKEN}"));
    command.args(["--phases", "coverage", "--seed", SEED, "--no-shrink", "--workers", "1"]);
    command.args(["--request-timeout", "5", "--no-color", "--warnings", "off"]);
    let scratch = std::env::temp_dir().join(format!("octopus-schema-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    std::fs::write(scratch.join("schemathesis.toml"), EXCEPT)?;
    let output = command.current_dir(&scratch).output();
    std::fs::remove_dir_all(&scratch)?;
    success(&output?)
}
