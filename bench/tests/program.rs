//! The program as it is called from a shell. That this is an integration test has Cargo build the
//! program with all other tests, where `tests/deploy` finds it.

use std::process::{Command, Output};

fn bench(arguments: &[&str]) -> Output {
    let mut program = Command::new(env!("CARGO_BIN_EXE_octopus-bench"));
    program.args(arguments).output().expect("the program was built with this test")
}

#[test]
fn the_code_tells_a_broken_promise_from_a_wrong_option() {
    // Nobody listens on port 1, which only root could.
    let refused = bench(&["conn", "-c", "3", "-d", "1", "--port", "1"]);
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8_lossy(&refused.stdout);
    assert!(told.contains("3 x Connection refused"), "{told}");
    assert!(told.contains("3 clients not connected"), "{told}");

    let wrong = bench(&["pub", "--qos", "3"]);
    assert_eq!(wrong.status.code(), Some(2));
    let told = String::from_utf8_lossy(&wrong.stderr);
    assert!(told.contains("'--qos <QOS>': expected 0, 1 or 2"), "{told}");
}
