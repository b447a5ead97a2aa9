//! The useful inputs that the fuzzer found still hold, without the fuzzer: `tests/fuzz/run` looks
//! for more.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "fuzz/properties.rs"]
mod properties;
#[cfg(feature = "aws")]
#[path = "fuzz/sdk.rs"]
mod sdk;

use std::fs;
use std::path::Path;

#[cfg(feature = "aws")]
use proptest::{collection, prelude::*, sample::select};

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

/// Answers of a service, or of anything in its place, in the form of the corpus.
#[cfg(feature = "aws")]
fn made_up() -> impl Strategy<Value = String> {
    let status =
        select(vec![200, 204, 301, 400, 401, 403, 404, 408, 413, 429, 500, 502, 503, 504, 599]);
    let code = select(vec![
        "ConflictException",
        "ResourceNotFound",
        "ValidationException",
        "ThrottlingException",
        "AccessDeniedException",
        "ns#ResourceNotFound:http://x/",
        "",
        "ü",
        "ReceiptHandleIsInvalid",
        "ExpiredTokenException",
    ]);
    let header = (
        select(vec!["x-amzn-errortype", "x-amzn-query-error", "content-type", "date"]),
        code.clone(),
    );
    let field = select(vec![
        "__type",
        "code",
        "message",
        "Message",
        "PipelineExecutionArn",
        "PipelineExecutionSteps",
        "NextToken",
    ]);
    let value = prop_oneof![
        code.prop_map(|code| serde_json::json!(code)),
        Just(serde_json::json!(null)),
        Just(serde_json::json!([])),
        Just(serde_json::json!({ "__type": "ConflictException" })),
        any::<u8>().prop_map(|number| serde_json::json!(number)),
    ];
    let object = collection::btree_map(field, value, 0..4)
        .prop_map(|fields| serde_json::json!(fields).to_string());
    let body = prop_oneof![4 => object.clone(), 1 => (object, any::<usize>()).prop_map(|(text, at)| {
        text.chars().take(at % (text.len() + 1)).collect()
    }), 1 => any::<String>(), 1 => Just("<html>Bad Gateway</html>".to_owned())];
    (status, collection::vec(header, 0..3), body).prop_map(|(status, headers, body)| {
        let headers: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        format!("{status}\n{}\n{body}", headers.concat())
    })
}

#[cfg(feature = "aws")]
proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn made_up_answers_of_sagemaker_are_taken_for_what_they_say(answer in made_up()) {
        sdk::answer(answer.as_bytes());
    }
}
