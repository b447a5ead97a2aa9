//! Compares the local endpoint with moto's server: both get the same requests, and every difference
//! is recorded with which one is right.
//!
//! `tests/conformance/sqs.py` and `sagemaker.py` do not know which one they ask. Differences are in
//! `tests/conformance/differences.toml` with both results; an unrecorded difference fails the test,
//! and so does a recorded one that no longer exists.

#![cfg(feature = "local")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what it expected")]

#[allow(dead_code, reason = "only the server is used here")]
#[path = "binary/http.rs"]
mod http;
#[allow(dead_code, reason = "only the server is used here")]
#[path = "binary/moto.rs"]
mod moto;
#[path = "support/venv.rs"]
mod venv;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;

use callbackd::local::undocumented::TwiceInABatch;
use callbackd::local::{Endpoint, Options, Undocumented};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;

use moto::Moto;
use venv::Venv;

/// The behaviour of an endpoint, by the name of the observation and, if it has several parts, of
/// the part.
type Observations = BTreeMap<String, Value>;

/// Differences that have one explanation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Explained {
    right: Right,
    /// What AWS publishes about it, or that it publishes nothing.
    why: String,
    differs: BTreeMap<String, Difference>,
}

/// The results of both; absent if there is no such result.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    ours: Value,
    moto: Value,
}

/// Which one behaves as AWS publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Right {
    Ours,
    Moto,
    /// What is published allows both.
    Both,
    /// Nothing is published.
    Unknown,
}

#[derive(Debug, Deserialize)]
struct List {
    sqs: Vec<Explained>,
    sagemaker: Vec<Explained>,
}

type Differences = BTreeMap<String, Difference>;

fn list() -> List {
    toml::from_str(include_str!("conformance/differences.toml")).expect("differences.toml")
}

fn differences(explained: Vec<Explained>) -> Differences {
    let mut all = Differences::new();
    for (name, difference) in explained.into_iter().flat_map(|explained| explained.differs) {
        assert!(all.insert(name.clone(), difference).is_none(), "{name} is listed twice");
    }
    all
}

/// Differences from the record.
fn undeclared(ours: &Observations, moto: &Observations, known: &Differences) -> Vec<String> {
    let mut wrong = Vec::new();
    let names: BTreeSet<&String> = ours.keys().chain(moto.keys()).chain(known.keys()).collect();
    for name in names {
        let (ours, moto) = (ours.get(name), moto.get(name));
        match known.get(name) {
            None if ours == moto => {}
            None => wrong.push(format!(
                "{name}: ours gives {ours:?}, moto {moto:?}, and no difference is listed"
            )),
            Some(_) if ours == moto => {
                wrong.push(format!("{name}: listed, but both give {ours:?}"));
            }
            Some(known) if ours == Some(&known.ours) && moto == Some(&known.moto) => {}
            Some(known) => wrong
                .push(format!("{name}: ours gives {ours:?}, moto {moto:?}; listed is {known:?}")),
        }
    }
    wrong
}

async fn observe(script: &str, url: &str) -> Observations {
    let python = tokio::task::spawn_blocking(Venv::ready).await.expect("a venv").python();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance").join(script);
    let output = Command::new(python)
        .arg("-B")
        .arg(script)
        .arg(url)
        .env_clear()
        .env("HOME", "/nonexistent")
        .output()
        .await
        .expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let observed: BTreeMap<String, Value> =
        serde_json::from_slice(&output.stdout).expect("observations");
    let mut flat = Observations::new();
    for (name, result) in observed {
        match result {
            Value::Object(parts) => {
                flat.extend(
                    parts.into_iter().map(|(part, result)| (format!("{name}: {part}"), result)),
                );
            }
            result => drop(flat.insert(name, result)),
        }
    }
    flat
}

async fn both(script: &str) -> (Observations, Observations) {
    let loopback = "127.0.0.1:0".parse().expect("an address");
    // Moto accepts a receipt handle twice when it sets visibilities, and refuses it when it
    // deletes.
    let undocumented =
        Undocumented { twice_in_a_batch: TwiceInABatch::Done, ..Undocumented::default() };
    let options = Options { undocumented, ..Options::default() };
    let endpoint = Endpoint::start(loopback, options).await.expect("a free port");
    // If moto cannot answer, it prints a traceback.
    let server =
        tokio::task::spawn_blocking(|| Moto::start(&[], Stdio::null())).await.expect("moto starts");
    let moto = format!("http://{}", server.address);
    let observed = tokio::join!(observe(script, endpoint.url()), observe(script, &moto));
    endpoint.shutdown().await;
    assert_eq!(observed.0["answers_beside_the_service_model"], json!([]));
    observed
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_sqs_differs_from_motos_only_where_it_is_explained() {
    let (ours, moto) = both("sqs.py").await;
    let wrong = undeclared(&ours, &moto, &differences(list().sqs));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_sagemaker_differs_from_motos_only_where_it_is_explained() {
    let (ours, moto) = both("sagemaker.py").await;
    let wrong = undeclared(&ours, &moto, &differences(list().sagemaker));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn where_moto_is_right_the_local_endpoint_only_lacks_something() {
    let List { sqs, sagemaker } = list();
    for explained in sqs.iter().chain(&sagemaker) {
        assert!(!explained.why.is_empty(), "{explained:?}");
        for (name, difference) in &explained.differs {
            let lacks = difference.ours.to_string().contains("UnknownOperationException");
            assert_eq!(
                explained.right == Right::Moto,
                lacks,
                "{name}: what is wrong is mended, not listed"
            );
        }
    }
}

#[test]
fn a_difference_is_known_only_as_it_is_listed() {
    let one = |result: &str| Observations::from([("a".to_owned(), Value::from(result))]);
    let known = |ours: &str, moto: &str| {
        let (ours, moto) = (Value::from(ours), Value::from(moto));
        BTreeMap::from([("a".to_owned(), Difference { ours, moto })])
    };
    assert!(undeclared(&one("x"), &one("x"), &BTreeMap::new()).is_empty());
    assert!(undeclared(&one("x"), &one("y"), &known("x", "y")).is_empty());
    for (ours, moto, known) in [
        (one("x"), one("y"), BTreeMap::new()),
        (one("x"), one("x"), known("x", "y")),
        (one("z"), one("y"), known("x", "y")),
        (one("x"), Observations::new(), BTreeMap::new()),
        (Observations::new(), Observations::new(), known("x", "y")),
    ] {
        assert_eq!(undeclared(&ours, &moto, &known).len(), 1, "{ours:?} {moto:?} {known:?}");
    }
}
