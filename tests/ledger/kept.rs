//! Ledgers as each release of callbackd wrote them, kept in `tests/fixtures/ledger/VERSION`. To
//! keep those of a release, before it is tagged:
//!
//! ```text
//! cargo test --test ledger -- --ignored kept::keep
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use callbackd::ledger::{self, Ledger, Written, verify_file};
use callbackd::lifecycle::{
    Completed, Ending, Happened, Happening, Record, Status, Stop, WorkerId, complete,
};
use callbackd::outcome::{ClientRequestToken, Outcome, Outputs};
use callbackd::step::Message;
use serde_json::json;

use super::*;

/// One step in each state that a ledger holds.
const STATES: [(&str, Status); 6] = [
    ("claimed000", Status::Claimed),
    ("waiting000", Status::Waiting),
    ("deferred00", Status::Deferred),
    ("owed000000", Status::Owed),
    ("concluded0", Status::Concluded),
    ("settled000", Status::Settled),
];

/// What [`keep`] writes, and what later releases must read.
fn record(token: &str, status: Status) -> Record {
    let step = Message::parse(include_str!("../fixtures/executing.json")).expect("a message");
    let queue = "https://sqs.us-east-1.amazonaws.com/123456789012/q".parse().expect("a queue");
    let now: Timestamp = "2026-11-27T06:00:00.123456789Z".parse().expect("a time");
    let record = Record::of_message(step.step().clone(), queue, Some("job".into()), now);
    let mut record = Record { token: token.parse().expect("a token"), status, ..record };
    record.version = 1;
    record.history = [Happened::new(now, Happening::Claimed, None)].into_iter().collect();
    match status {
        Status::New => {}
        Status::Owed => record.stop_requested = Some(Stop::open(now)),
        Status::Claimed => {
            record.owner = Some(WorkerId("host/0000002a".into()));
            record.attempt = 2;
            record.checkpoint = Some(Arc::new(json!({ "job": "j-1" })));
        }
        Status::Waiting => {
            record.attempt = 1;
            record.not_before = Some(now);
            record.last_error = Some("no connection".to_owned());
        }
        Status::Deferred => {
            record.attempt = 1;
            record.deadline = Some("2036-11-27T06:00:00Z".parse().expect("a time"));
            record.key = Some("ORDER-17".parse().expect("a key"));
        }
        Status::Concluded | Status::Settled => {
            let outcome = Outcome::Success(Outputs::of([("rows", 17)]).expect("outputs"));
            record.client_request_token =
                Some(ClientRequestToken::of(&record.execution, &record.token, &outcome));
            record.outcome = Some(outcome);
            record.attempt = 1;
            record.ending = Some(Ending::Success);
            record.concluded_at = Some(now);
        }
    }
    if status == Status::Settled {
        record.settled_at = Some(now);
        record.arguments = Arc::default();
    }
    record
}

/// A step that waits for its next attempt, and is in no ledger.
#[cfg(feature = "dynamodb")]
pub fn waiting() -> Record {
    Record { version: 0, ..record("waiting000", Status::Waiting) }
}

fn expected() -> BTreeMap<String, Record> {
    STATES.map(|(token, status)| (token.to_owned(), record(token, status))).into()
}

fn releases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ledger");
    let all = fs::read_dir(root).expect("they are kept");
    all.map(|entry| entry.expect("an entry").path()).collect()
}

/// Everything in a ledger's file, by token.
fn held(path: &Path) -> BTreeMap<String, Record> {
    let mut records = BTreeMap::new();
    let each = |record: Result<Record, _>| {
        let record = record.expect("it is sound");
        records.insert(record.token.to_string(), record);
    };
    ledger::read(path, each).expect("it is read");
    records
}

/// The deferred step takes an answer, and nothing else changes.
async fn goes_on(store: Arc<dyn Store>) -> Record {
    let ledger = Ledger::beside(store);
    let token = "deferred00".parse().expect("a token");
    let record = ledger.load(&token).await.expect("it works").expect("it is there");
    let answer = Outcome::Success(Outputs::new());
    let Ok(Completed::Now(answered)) = complete(&record, answer, ledger.now()) else {
        panic!("it takes an answer: {record:?}")
    };
    let written = ledger.write(*answered, Commit::Now).await.expect("it works");
    let Written::Done(record) = written else { panic!("nothing else writes it") };
    assert_eq!((record.status, record.version), (Status::Concluded, 2));
    *record
}

#[tokio::test]
async fn the_file_of_each_release_is_read_as_it_was_and_goes_on() {
    let releases = releases();
    assert!(releases.iter().any(|kept| kept.ends_with(env!("CARGO_PKG_VERSION"))), "see keep()");
    for release in releases {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.db");
        fs::copy(release.join("ledger.db"), &path).expect("it is kept");
        let mut expected = expected();
        assert_eq!(held(&path), expected, "before a daemon has opened it: {release:?}");
        let store = Arc::new(Sqlite::open(&path, Arc::new(())).expect("it opens"));
        assert_eq!(held(&path), expected, "{release:?}");
        let answered = goes_on(store).await;
        expected.insert("deferred00".to_owned(), answered);
        assert_eq!(held(&path), expected, "{release:?}");
        let census = verify_file(&path, |flaw| panic!("{release:?}: {flaw:?}")).expect("read");
        assert_eq!(census.records, 6);
    }
}

#[cfg(feature = "dynamodb")]
#[tokio::test]
async fn the_items_of_each_release_are_read_as_they_were_and_go_on() {
    for release in releases() {
        let table = table::created().await;
        let items = fs::read(release.join("items.json")).expect("they are kept");
        let items: Vec<serde_json::Value> = serde_json::from_slice(&items).expect("JSON");
        for item in items {
            table::call("PutItem", &json!({ "TableName": table.name(), "Item": item })).await;
        }
        for (token, expected) in expected() {
            let found = ledger::find(&table, &expected.token).await.expect("it works");
            assert_eq!(found, Some(Ok(expected)), "{token} of {release:?}");
        }
        goes_on(Arc::new(table)).await;
    }
}

#[cfg(feature = "dynamodb")]
#[tokio::test]
#[ignore = "makes the fixtures of a release"]
async fn keep() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ledger.db");
    let store = Arc::new(Sqlite::open(&path, Arc::new(())).expect("it opens"));
    let ledger = Ledger::beside(store.clone());
    for (token, status) in STATES {
        let record = Record { version: 0, ..record(token, status) };
        let written = ledger.write(record, Commit::Now).await.expect("it works");
        assert!(matches!(written, Written::Done(_)));
    }
    let table = table::created().await;
    for (token, _) in STATES {
        let row = store.get(&token.parse().expect("a token")).await.expect("it works");
        let row = row.expect("it is there").expect("it is sound");
        assert_eq!(table.put(row, None, Commit::Now).await, Ok(Put::Done));
    }
    drop((ledger, store));
    let scanned = table::call("Scan", &json!({ "TableName": table.name() })).await;
    let items = scanned["Items"].as_array().expect("items");
    let kept = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/ledger")
        .join(env!("CARGO_PKG_VERSION"));
    fs::create_dir_all(&kept).expect("it is ours");
    fs::copy(&path, kept.join("ledger.db")).expect("it is ours");
    let json = serde_json::to_string_pretty(items).expect("JSON");
    fs::write(kept.join("items.json"), json + "\n").expect("it is ours");
}
