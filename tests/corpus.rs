//! What the fuzzer has found worth keeping holds still, without the fuzzer: `tests/fuzz/run` looks for more.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "fuzz/properties.rs"]
mod properties;
#[cfg(feature = "aws")]
#[path = "fuzz/sdk.rs"]
mod sdk;

use std::fs;
use std::path::Path;

fn replay(target: &str, property: fn(&[u8]) -> bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut good = 0;
    let mut bad = 0;
    for entry in fs::read_dir(&folder).expect("a corpus") {
        let was_good = property(&fs::read(entry.unwrap().path()).unwrap());
        *if was_good { &mut good } else { &mut bad } += 1;
    }
    assert!(good > 0 && bad > 0, "{}: {good} good, {bad} bad", folder.display());
}

#[test]
fn message_bodies_are_read_or_refused() {
    replay("message", properties::message);
}

#[test]
fn configurations_are_good_or_every_mistake_is_told() {
    replay("configuration", properties::configuration);
}

#[test]
fn records_survive_being_written_and_whatever_happens_next() {
    replay("record", properties::record);
}

#[test]
fn step_outputs_are_taken_or_refused() {
    replay("outputs", properties::outputs);
}

#[cfg(feature = "aws")]
#[test]
fn answers_of_sagemaker_are_taken_for_what_they_say() {
    replay("answer", sdk::answer);
}
