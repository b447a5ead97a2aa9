//! Runs `outside/claims.py`: the built binary on moto's SQS and a scripted SageMaker.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/venv.rs"]
mod venv;

use std::path::Path;
use std::process::Command;

#[test]
fn what_is_claimed_holds_seen_from_outside() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside/claims.py");
    let ended = Command::new(venv::Venv::ready().python())
        .arg(script)
        .env("CALLBACKD_BINARY", env!("CARGO_BIN_EXE_callbackd"))
        .status()
        .expect("python runs");
    assert!(ended.success(), "some claims do not hold; see above");
}
