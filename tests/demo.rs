//! The first command that anyone runs: it ends by itself, shows what it did, and says whether all
//! promises were kept.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Command, Output};

fn demo(command: &mut Command) -> (Output, String) {
    let output = command.arg("demo").output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output, text)
}

#[test]
fn the_demo_ends_by_itself_with_all_as_promised() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_callbackd"));
    // It must ignore the user's AWS settings.
    command
        .env("AWS_PROFILE", "nonsense")
        .env("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        .env("HTTP_PROXY", "http://127.0.0.1:9");
    command.env("HOME", "/nowhere").env("AWS_REGION", "mars-north-1");
    let (output, text) = demo(&mut command);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let mut rest = text.as_str();
    for line in [
        "Executing message for extract",
        "extract: the step is started",
        "extract: success accepted",
        "train: training on 1200 rows",
        "train Succeeded: accuracy=0.92 model=s3://models/demo-1200",
        "register Succeeded: registered=s3://models/demo-1200",
        "the execution is Succeeded",
        "someone stops the execution",
        "Stopping message for train",
        "cancelling job-of-",
        "train Stopped: the pipeline was stopped",
        "the execution is Stopped",
        "5 of 5 tokens got exactly one accepted answer",
        "All as promised",
    ] {
        let at = rest.find(line).unwrap_or_else(|| panic!("no {line:?} (any more) in\n{text}"));
        rest = &rest[at..];
    }
    assert!(!text.contains('\u{1b}'), "colours where nobody sees them");
    assert!(!text.contains("NOT PROMISED"), "{text}");
}

#[test]
fn without_a_place_for_its_programs_it_fails_and_says_so() {
    let directory = tempfile::tempdir().expect("directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_callbackd"));
    // Its programs need a directory; without one nothing can be shown.
    let (output, _) = demo(command.env("TMPDIR", directory.path().join("missing")));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no temporary directory"));
}
