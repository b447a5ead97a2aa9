//! What the ledger promises over each of its stores, as tests.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::Connection;
use tokio::time::advance;

use super::*;
use crate::lifecycle::Ending;
use crate::step::Message;

const LEASE: Duration = Duration::from_mins(1);

/// What the ledger said of itself: whether it fails.
#[derive(Default)]
struct Said(Mutex<Vec<bool>>);

impl Observer for Said {
    fn observe(&self, observation: Observation<'_>) {
        if let Observation::LedgerFailing(failing) = observation {
            self.0.lock().expect("no panic").push(failing);
        }
    }
}

fn ledger(store: impl Store + 'static) -> Ledger {
    Ledger::new(Arc::new(store), WorkerId("me".into()), LEASE, Arc::new(()))
}

fn sqlite(directory: &tempfile::TempDir) -> Sqlite {
    Sqlite::open(&directory.path().join("ledger.db"), Arc::new(())).expect("opens")
}

fn record(token: &str) -> Record {
    let mut step = Message::parse(include_str!("../../tests/fixtures/executing.json")).expect("message").step().clone();
    step.token = token.parse().expect("token");
    Record::of_message(step, "https://sqs.us-east-1.amazonaws.com/123456789012/q".into(), None, Timestamp::UNIX_EPOCH)
}

fn claimed_by(owner: &str) -> Record {
    Record { owner: Some(WorkerId(owner.into())), status: Status::Claimed, version: 1, ..record("abcdefghij") }
}

async fn written(ledger: &Ledger, record: Record) -> Record {
    match ledger.write(record).await.expect("written") {
        Written::Done(record) => *record,
        Written::Changed => panic!("changed"),
    }
}

#[tokio::test]
async fn a_record_is_read_as_it_was_written_and_written_only_over_what_was_read() {
    let directory = tempfile::tempdir().expect("directory");
    for ledger in [ledger(Memory::new()), ledger(sqlite(&directory))] {
        let first = written(&ledger, record("abcdefghij")).await;
        assert_eq!(first, Record { version: 1, ..record("abcdefghij") });
        let second = written(&ledger, Record { status: Status::Claimed, ..first.clone() }).await;
        assert_eq!(second.version, 2);
        for stale in [record("abcdefghij"), first] {
            assert_eq!(ledger.write(stale).await, Ok(Written::Changed));
        }
        assert_eq!(ledger.load(&second.token).await, Ok(Some(second)));
    }
    let read = read(&directory.path().join("ledger.db")).expect("a reader needs no lock");
    assert_eq!(read, [Ok(Record { version: 2, status: Status::Claimed, ..record("abcdefghij") })]);
}

#[tokio::test]
async fn records_are_listed_by_status_and_removed_once_settled_and_old() {
    let ledger = ledger(Memory::new());
    let settled_at = Some(Timestamp::UNIX_EPOCH);
    for token in ["settled000", "settled001"] {
        let ending = Some(Ending::Success);
        written(&ledger, Record { status: Status::Settled, ending, settled_at, ..record(token) }).await;
    }
    let kept = written(&ledger, Record { status: Status::Concluded, ..record("abcdefghij") }).await;
    assert_eq!(ledger.list(&[Status::Concluded]).await, Ok(vec![Ok(kept.clone())]));
    assert_eq!(ledger.purge(Timestamp::from_second(1).expect("time")).await, Ok(2));
    assert_eq!(ledger.list(&[]).await, Ok(vec![Ok(kept)]));
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_named_and_the_others_are_read() {
    let store = Memory::new();
    let ledger = ledger(store.clone());
    let good = written(&ledger, record("abcdefghij")).await;
    let token: CallbackToken = "spoilt0000".parse().expect("token");
    let spoilt =
        Row { token: token.clone(), version: 1, status: "claimed".into(), settled_at: None, body: "{}".into() };
    store.put(spoilt, None).await.expect("put");
    let list = ledger.list(&[]).await.expect("a list");
    assert!(matches!(&list[..], [Ok(record), Err(LedgerError::Corrupt { token: named, .. })]
        if *record == good && *named == token));
}

#[tokio::test]
async fn the_version_of_a_record_is_the_one_that_its_store_compares() {
    let store = Memory::new();
    let ledger = ledger(store.clone());
    let record = written(&ledger, record("abcdefghij")).await;
    let row = store.get(&record.token).await.expect("read").expect("there");
    store.put(Row { version: 7, ..row }, Some(1)).await.expect("put");
    assert_eq!(ledger.load(&record.token).await, Ok(Some(Record { version: 7, ..record })));
}

#[tokio::test]
async fn a_ledger_says_that_it_fails_and_that_it_recovered_once_each() {
    let directory = tempfile::tempdir().expect("directory");
    let said = Arc::new(Said::default());
    let ledger = Ledger::new(Arc::new(sqlite(&directory)), WorkerId("me".into()), LEASE, said.clone());
    let tables = Connection::open(directory.path().join("ledger.db")).expect("opens");
    tables.execute_batch("ALTER TABLE steps RENAME TO s; ALTER TABLE probe RENAME TO p").expect("renamed");
    for _ in 0..2 {
        assert!(ledger.write(record("abcdefghij")).await.is_err());
        ledger.probe().await;
        assert!(ledger.is_failing());
    }
    tables.execute_batch("ALTER TABLE p RENAME TO probe; ALTER TABLE s RENAME TO steps").expect("renamed");
    ledger.probe().await;
    assert!(!ledger.is_failing());
    written(&ledger, record("abcdefghij")).await;
    assert_eq!(*said.0.lock().expect("no panic"), [true, false]);
}

#[tokio::test(start_paused = true)]
async fn a_claim_of_another_worker_holds_until_it_was_seen_unchanged_for_a_whole_lease() {
    let now = Timestamp::UNIX_EPOCH;
    let in_seconds = |seconds| Lease::Until(now + jiff::SignedDuration::from_secs(seconds));
    let ledger = ledger(Memory::shared());
    let other = claimed_by("other");
    assert_eq!(ledger.foreign_lease(&other, now), in_seconds(60));
    advance(Duration::from_secs(20)).await;
    assert_eq!(ledger.foreign_lease(&other, now), in_seconds(40));
    let renewed = Record { version: 2, ..other };
    assert_eq!(ledger.foreign_lease(&renewed, now), in_seconds(60), "it was renewed");
    advance(LEASE).await;
    assert_eq!(ledger.foreign_lease(&renewed, now), Lease::Over);
}

#[tokio::test]
async fn only_another_worker_of_a_shared_ledger_can_hold_a_claim() {
    let now = Timestamp::UNIX_EPOCH;
    let directory = tempfile::tempdir().expect("directory");
    let shared = ledger(Memory::shared());
    assert!(shared.is_shared());
    assert_eq!(shared.foreign_lease(&claimed_by("me"), now), Lease::Over);
    assert_eq!(shared.foreign_lease(&record("abcdefghij"), now), Lease::Over, "nobody owns it");
    for ledger in [ledger(Memory::new()), ledger(sqlite(&directory))] {
        assert!(!ledger.is_shared());
        assert_eq!(ledger.foreign_lease(&claimed_by("other"), now), Lease::Over, "its owner is dead");
        assert_eq!((ledger.lease(), ledger.me().0.as_str()), (LEASE, "me"));
    }
}
