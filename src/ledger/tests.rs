//! What the ledger promises with each of its stores.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;

use super::*;
use crate::lifecycle::{Ending, Stop};
use crate::step::Message;

const LEASE: Duration = Duration::from_mins(1);

/// What the ledger reported about itself: whether it fails.
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
    Ledger::new(Arc::new(store), WorkerId("me".into()), LEASE, steady(), Arc::new(()))
}

fn steady() -> Clock {
    Clock::starting_at(Timestamp::UNIX_EPOCH)
}

/// A machine whose wall clock is set by hand; no time passes on it.
#[derive(Clone, Default)]
struct Hands(Arc<Mutex<SignedDuration>>);

impl Hands {
    fn set(&self, by: SignedDuration) {
        *self.0.lock().expect("no panic") += by;
    }
}

impl crate::clock::Source for Hands {
    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    fn wall(&self) -> Timestamp {
        at(1_000_000) + *self.0.lock().expect("no panic")
    }
}

/// A worker of this name on a machine with these clocks, and its clock.
fn life(store: &Memory, name: &str, hands: &Hands) -> (Ledger, Clock) {
    let clock = Clock::of(Box::new(hands.clone()));
    (
        Ledger::new(
            Arc::new(store.clone()),
            WorkerId(name.into()),
            LEASE,
            clock.clone(),
            Arc::new(()),
        ),
        clock,
    )
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("time")
}

fn sqlite(directory: &tempfile::TempDir) -> Sqlite {
    Sqlite::open(&directory.path().join("ledger.db"), Arc::new(())).expect("opens")
}

/// A ledger in a directory of its own, and what it reports about itself.
fn on_disk() -> (tempfile::TempDir, Ledger, Arc<Said>) {
    let directory = tempfile::tempdir().expect("directory");
    let said = Arc::new(Said::default());
    let store = Arc::new(sqlite(&directory));
    let ledger = Ledger::new(store, WorkerId("me".into()), LEASE, steady(), said.clone());
    (directory, ledger, said)
}

fn record(token: &str) -> Record {
    let mut step = Message::parse(include_str!("../../tests/fixtures/executing.json"))
        .expect("message")
        .step()
        .clone();
    step.token = token.parse().expect("token");
    let queue = "https://sqs.us-east-1.amazonaws.com/123456789012/q".parse().expect("a queue");
    Record::of_message(step, queue, Some("train".into()), Timestamp::UNIX_EPOCH)
}

/// A record that has every possible time.
fn timed(token: &str) -> Record {
    Record {
        status: Status::Waiting,
        not_before: Some(at(1_000_002)),
        deadline: Some(at(1_000_003)),
        stop_requested: Some(Stop { at: at(1_000_004), closed: true, succeeded: true }),
        concluded_at: Some(at(1_000_005)),
        settled_at: Some(at(1_000_006)),
        first_seen: at(1_000_007),
        ..record(token)
    }
}

fn claimed_by(owner: &str) -> Record {
    Record {
        owner: Some(WorkerId(owner.into())),
        status: Status::Claimed,
        version: 1,
        ..record("abcdefghij")
    }
}

async fn written(ledger: &Ledger, record: Record) -> Record {
    match ledger.write(record, Commit::Now).await.expect("written") {
        Written::Done(record) => *record,
        Written::Changed => panic!("changed"),
    }
}

fn light(record: &Record) -> Record {
    Record { arguments: Arc::default(), checkpoint: None, ..record.clone() }
}

#[test]
fn a_trace_is_kept_and_one_that_cannot_be_read_does_not_damage_its_record() {
    let trace = "Root=1-5759e988-bd862e3fe1be46a994272793;Self=x".parse().ok();
    let record = Record { trace, ..record("abcdefghij") };
    let mut row = form::row(&record, Writer::default()).expect("a row");
    assert_eq!(form::record(row.clone()).expect("readable"), record);
    row.body = row.body.replace("Root=1-", "Root=9-");
    assert_eq!(form::record(row).expect("readable"), Record { trace: None, ..record });
}

#[test]
fn a_body_that_repeats_what_lies_beside_it_is_read() {
    let record = Record { last_error: Some("no luck".to_owned()), ..record("abcdefghij") };
    let row = form::row(&record, Writer::default()).expect("a row");
    assert!(!row.body.contains("abcdefghij"), "{}", row.body);
    let body = serde_json::to_string(&record).expect("as schema 2 has it");
    for row in [row.clone(), Row { body, ..row }] {
        assert_eq!(form::record(row), Ok(record.clone()));
    }
}

#[tokio::test]
async fn a_record_is_read_as_it_was_written_and_written_only_over_what_was_read() {
    let directory = tempfile::tempdir().expect("directory");
    let checkpoint = Some(serde_json::json!({ "job": "a" }).into());
    for ledger in [ledger(Memory::new()), ledger(sqlite(&directory))] {
        let first = written(&ledger, record("abcdefghij")).await;
        assert_eq!(first, Record { version: 1, ..record("abcdefghij") });
        let second = written(
            &ledger,
            Record { status: Status::Claimed, checkpoint: checkpoint.clone(), ..first.clone() },
        )
        .await;
        assert_eq!(second.version, 2);
        for stale in [record("abcdefghij"), first] {
            assert_eq!(ledger.write(stale, Commit::Soon).await, Ok(Written::Changed));
        }
        assert_eq!(ledger.load(&second.token).await, Ok(Some(second)));
    }
    let mut all = Vec::new();
    read(&directory.path().join("ledger.db"), |record| all.push(record))
        .expect("a reader needs no lock");
    assert_eq!(
        all,
        [Ok(Record { version: 2, status: Status::Claimed, checkpoint, ..record("abcdefghij") })]
    );
}

#[test]
fn a_checkpoint_is_refused_that_the_store_has_no_room_for() {
    let checkpoint = serde_json::json!("x".repeat(98));
    assert_eq!(ledger(Memory::new()).refuses(&checkpoint), None);
    let refused = |room| ledger(Memory::new().with_room(room)).refuses(&checkpoint);
    assert_eq!(refused(100), None);
    let wants = "the checkpoint has 100 bytes, and the ledger keeps at most 99";
    assert_eq!(refused(99).as_deref(), Some(wants));
}

#[tokio::test]
async fn records_are_listed_in_pages_by_status_pipeline_and_handler() {
    let directory = tempfile::tempdir().expect("directory");
    for ledger in [ledger(Memory::new()), ledger(sqlite(&directory))] {
        let mut all = Vec::new();
        for n in 0..25 {
            let status = if n % 5 == 0 { Status::Settled } else { Status::Waiting };
            let handler = (n % 2 == 0).then(|| "train".into());
            let key = (n == 7).then(|| "Order-%\"7".parse().expect("a key"));
            let record = Record { handler, status, key, ..timed(&format!("token{n:05}")) };
            all.push(written(&ledger, record).await);
        }
        let pages = async |mut filter: Filter| {
            let mut pages = vec![];
            loop {
                let page = ledger.page(filter.clone()).await.expect("a page");
                pages.push(
                    page.found.into_iter().map(|found| found.expect("sound")).collect::<Vec<_>>(),
                );
                match page.next {
                    Some(next) => filter.after = Some(next),
                    None => return pages,
                }
            }
        };
        let some = |wanted: &dyn Fn(&Record) -> bool| {
            all.iter().filter(|record| wanted(record)).map(light).collect::<Vec<_>>()
        };
        let ten = Filter { limit: 10, ..Filter::default() };
        let of_all = pages(ten.clone()).await;
        assert_eq!(of_all.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10, 5]);
        assert_eq!(of_all.concat(), some(&|_| true));
        let waiting = Filter { limit: 10, ..Filter::of(&[Status::Waiting, Status::Claimed]) };
        let of_waiting = pages(waiting).await;
        assert_eq!(
            of_waiting.iter().map(Vec::len).collect::<Vec<_>>(),
            [10, 10],
            "no empty page follows"
        );
        assert_eq!(of_waiting.concat(), some(&|record| record.status == Status::Waiting));
        let train = Filter { handler: Some("train".into()), ..ten.clone() };
        assert_eq!(pages(train).await.concat(), some(&|record| record.handler.is_some()));
        let pipeline = all[0].execution.pipeline().to_ascii_uppercase();
        assert_eq!(
            pages(Filter { pipeline: Some(pipeline), ..ten.clone() }).await.concat(),
            some(&|_| true)
        );
        assert_eq!(
            pages(Filter { pipeline: Some("ml-pipeline".into()), ..ten.clone() }).await.concat(),
            []
        );
        let found = async |text: &str| {
            pages(Filter { search: Some(text.to_owned()), ..ten.clone() }).await.concat()
        };
        let (last, pipeline) = (&all[24], all[0].execution.pipeline().to_ascii_uppercase());
        assert_eq!(found(&last.token.as_str().to_uppercase()).await, [light(last)]);
        assert_eq!(found(&pipeline).await, some(&|_| true));
        assert_eq!(found("execution").await, [], "only the pipeline's name is searched");
        assert_eq!(found("oRDER-%\"").await, some(&|record| record.token.as_str() == "token00007"));

        let outlines = ledger.outlines(Filter::of(&[Status::Waiting])).await.expect("a page");
        assert_eq!((outlines.found.len(), &outlines.next), (20, &None));
        let (first, of) = (outlines.found[0].clone().expect("sound"), &all[1]);
        let expected = Outline {
            token: of.token.clone(),
            version: 1,
            status: Status::Waiting,
            queue: of.queue.clone(),
            execution: of.execution.clone(),
            handler: None,
            owner: None,
            writer: Some("me".into()),
            due: Some(at(1_000_002)),
            flagged: true,
        };
        assert_eq!(first, expected);
    }
}

#[tokio::test]
async fn what_is_settled_is_removed_when_it_is_old() {
    let directory = tempfile::tempdir().expect("directory");
    for ledger in [ledger(Memory::new()), ledger(sqlite(&directory))] {
        for (token, second) in [("settled000", 0), ("settled001", 1)] {
            let ending = Some(Ending::Success);
            written(
                &ledger,
                Record {
                    status: Status::Settled,
                    ending,
                    settled_at: Some(at(second)),
                    ..record(token)
                },
            )
            .await;
        }
        let kept =
            written(&ledger, Record { status: Status::Concluded, ..record("abcdefghij") }).await;
        assert_eq!(ledger.purge(at(1)).await, Ok(1));
        assert_eq!(ledger.purge(at(2)).await, Ok(1));
        assert_eq!(
            ledger.page(Filter::of(&[])).await,
            Ok(Page { found: vec![Ok(light(&kept))], next: None })
        );
    }
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_told_once_and_the_others_are_read() {
    let store = Memory::new();
    let ledger = ledger(store.clone());
    let good = written(&ledger, record("abcdefghij")).await;
    let row = store.get(&good.token).await.expect("read").expect("there").expect("sound");
    let token: CallbackToken = "spoilt0000".parse().expect("token");
    let head = Head { token: token.clone(), version: 1, ..row.head.clone() };
    store.put(Row { head, body: "{}".into(), ..row }, None, Commit::Now).await.expect("put");
    for _ in 0..2 {
        let page = ledger.page(Filter::of(&[])).await.expect("a page");
        assert!(matches!(&page.found[..], [Ok(record), Err(Damaged { token: Some(named), .. })]
            if *record == light(&good) && named == token.as_str()));
        assert!(matches!(ledger.load(&token).await, Err(LedgerError::Damaged(_))));
    }
    assert_eq!(ledger.damaged(), 1);
}

#[tokio::test]
async fn the_version_of_a_record_is_the_one_that_its_store_compares() {
    let store = Memory::new();
    let ledger = ledger(store.clone());
    let record = written(&ledger, record("abcdefghij")).await;
    let row = store.get(&record.token).await.expect("read").expect("there").expect("sound");
    let row = Row { head: Head { version: 7, ..row.head }, ..row };
    store.put(row, Some(1), Commit::Now).await.expect("put");
    assert_eq!(ledger.load(&record.token).await, Ok(Some(Record { version: 7, ..record })));
}

const DAY: SignedDuration = SignedDuration::from_hours(24);

#[tokio::test]
async fn a_record_of_this_life_is_read_as_written_however_the_clock_is_set() {
    let (store, hands) = (Memory::new(), Hands::default());
    let (ledger, clock) = life(&store, "first", &hands);
    let before = written(&ledger, timed("before0000")).await;
    hands.set(DAY * 2);
    assert!(clock.look().is_some());
    let after = written(&ledger, timed("after00000")).await;
    hands.set(-DAY * 3);
    assert!(clock.look().is_some());
    for record in [before, after] {
        assert_eq!(ledger.load(&record.token).await, Ok(Some(record)));
    }
    let outlines = ledger.outlines(Filter::of(&[])).await.expect("a page");
    assert!(
        outlines.found.iter().all(|outline| outline
            .as_ref()
            .is_ok_and(|outline| outline.due == Some(at(1_000_002))))
    );
}

#[tokio::test]
async fn what_is_due_is_found_by_the_clock_as_it_is_set() {
    let (store, hands) = (Memory::new(), Hands::default());
    let (ledger, clock) = life(&store, "first", &hands);
    for set in [DAY * 2, -DAY * 4] {
        hands.set(set);
        assert!(clock.look().is_some());
        let record = written(&ledger, timed(&format!("token{:05}", set.as_hours().abs()))).await;
        for (before, due) in [(DAY, 0), (SignedDuration::ZERO, 1)] {
            let due_then = record.deadline.map(|at| at + DAY / 2 - before);
            let filter = Filter { due: due_then, ..Filter::of(&[]) };
            let outlines = ledger.outlines(filter.clone()).await.expect("a page").found;
            let is_this = |token: &CallbackToken| *token == record.token;
            let found = outlines.iter().flatten().filter(|one| is_this(&one.token)).count();
            let records = ledger.page(filter).await.expect("a page").found;
            let read = records.iter().flatten().filter(|one| is_this(&one.token)).count();
            assert_eq!([found, read], [due; 2], "{set}");
        }
    }
}

#[tokio::test]
async fn a_write_sees_by_itself_that_the_clock_was_set() {
    let (store, hands) = (Memory::new(), Hands::default());
    let (ledger, clock) = life(&store, "first", &hands);
    hands.set(DAY * 2);
    let deadline = written(&ledger, timed("abcdefghij")).await.deadline;
    assert_eq!(clock.correction(), DAY * 2);
    let (next, _) = life(&store, "second", &hands);
    let record =
        next.load(&"abcdefghij".parse().expect("token")).await.expect("read").expect("there");
    assert_eq!(record.deadline, deadline.map(|at| clock.name(at)));
}

#[tokio::test]
async fn what_was_renamed_is_right_for_the_next_life_and_what_is_settled_stays() {
    let (store, hands) = (Memory::new(), Hands::default());
    let (ledger, clock) = life(&store, "first", &hands);
    for n in 0..250 {
        written(&ledger, timed(&format!("token{n:05}"))).await;
    }
    let settled = written(&ledger, Record { status: Status::Settled, ..timed("settled000") }).await;
    assert_eq!(ledger.rename().await, Ok(0), "all bear the names of now");
    hands.set(DAY * 2);
    clock.look();
    assert_eq!(ledger.rename().await, Ok(250));
    assert_eq!(ledger.rename().await, Ok(0));
    let token = "token00007".parse().expect("token");
    let record = ledger.load(&token).await.expect("read").expect("there");
    assert_eq!(
        record,
        Record { version: 1, ..timed("token00007") },
        "whoever holds it need not read it again"
    );

    let (next, _) = life(&store, "second", &hands);
    let found = next.load(&token).await.expect("read").expect("there");
    let mut expected = record;
    form::shift(&mut expected, DAY * 2);
    assert_eq!(found, expected, "two days ahead, as this life's own time is");
    assert_eq!(next.load(&settled.token).await, Ok(Some(settled)), "it counts by the wall clock");
}

#[tokio::test]
async fn a_record_of_an_earlier_life_counts_by_the_wall_clock() {
    let (store, hands) = (Memory::new(), Hands::default());
    let deadline = written(&life(&store, "first", &hands).0, timed("abcdefghij")).await.deadline;
    let (next, clock) = life(&store, "second", &hands);
    hands.set(DAY);
    clock.look();
    let record =
        next.load(&"abcdefghij".parse().expect("token")).await.expect("read").expect("there");
    assert_eq!(record.deadline.map(|at| clock.name(at)), deadline);
}

#[tokio::test]
async fn a_clock_that_was_set_forward_removes_nothing_early() {
    let directory = tempfile::tempdir().expect("directory");
    let stores: [Arc<dyn Store>; 2] = [Arc::new(Memory::new()), Arc::new(sqlite(&directory))];
    for store in stores {
        let hands = Hands::default();
        let clock = Clock::of(Box::new(hands.clone()));
        let ledger = Ledger::new(store, WorkerId("me".into()), LEASE, clock.clone(), Arc::new(()));
        let settled_at = Some(at(1_000_000));
        written(&ledger, Record { status: Status::Settled, settled_at, ..record("settled000") })
            .await;
        hands.set(DAY * 20);
        clock.look();
        assert_eq!(ledger.purge(clock.now() - DAY * 14).await, Ok(0));
        assert_eq!(ledger.purge(clock.now() + DAY).await, Ok(1));
    }
}

#[tokio::test]
async fn a_ledger_says_that_it_fails_and_that_it_recovered_once_each() {
    let (directory, ledger, said) = on_disk();
    let tables = Connection::open(directory.path().join("ledger.db")).expect("opens");
    tables
        .execute_batch("ALTER TABLE steps RENAME TO s; ALTER TABLE probe RENAME TO p")
        .expect("renamed");
    for _ in 0..2 {
        assert!(ledger.write(record("abcdefghij"), Commit::Now).await.is_err());
        ledger.probe().await;
        assert!(ledger.is_failing());
    }
    tables
        .execute_batch("ALTER TABLE p RENAME TO probe; ALTER TABLE s RENAME TO steps")
        .expect("renamed");
    ledger.probe().await;
    assert!(!ledger.is_failing());
    written(&ledger, record("abcdefghij")).await;
    assert_eq!(*said.0.lock().expect("no panic"), [true, false]);
}

#[tokio::test]
async fn a_ledger_that_cannot_be_read_fails_though_it_can_be_written() {
    let (directory, ledger, said) = on_disk();
    let known = written(&ledger, record("abcdefghij")).await;
    let tables = Connection::open(directory.path().join("ledger.db")).expect("opens");
    tables.execute_batch("ALTER TABLE steps RENAME TO s").expect("renamed");
    for _ in 0..2 {
        assert!(
            ledger.load(&known.token).await.is_err() && ledger.page(Filter::of(&[])).await.is_err()
        );
        ledger.probe().await;
        assert_eq!(ledger.ailment(), Some("it cannot be read"));
    }
    tables.execute_batch("ALTER TABLE s RENAME TO steps").expect("renamed");
    ledger.probe().await;
    assert!(!ledger.is_failing());
    assert_eq!(*said.0.lock().expect("no panic"), [true, false]);
}

#[tokio::test]
async fn a_ledger_whose_file_is_moved_removed_or_replaced_fails_until_it_is_back() {
    let directory = tempfile::tempdir().expect("directory");
    let ledger = ledger(sqlite(&directory));
    let place = |name: &str| directory.path().join(name);
    for name in ["ledger.db", "ledger.db-wal"] {
        fs::rename(place(name), place("elsewhere")).expect("it is there");
        ledger.look().await;
        assert!(
            ledger.ailment().is_some_and(|ails| ails.contains("moved, removed or replaced")),
            "{name}"
        );
        fs::copy(place("elsewhere"), place(name)).expect("it is readable");
        ledger.probe().await;
        assert!(ledger.is_failing(), "a copy is another file");
        fs::rename(place("elsewhere"), place(name)).expect("it is there");
        ledger.probe().await;
        assert!(!ledger.is_failing(), "{name}");
    }
}

#[tokio::test]
async fn only_another_worker_of_a_shared_ledger_can_hold_a_claim() {
    let directory = tempfile::tempdir().expect("directory");
    let shared = ledger(Memory::shared());
    assert!(shared.is_shared());
    assert_eq!(shared.foreign_lease(&claimed_by("me")), Lease::Over);
    assert_eq!(shared.foreign_lease(&record("abcdefghij")), Lease::Over, "nobody owns it");
    for ledger in [ledger(Memory::new()), ledger(sqlite(&directory))] {
        assert!(!ledger.is_shared());
        assert_eq!(ledger.foreign_lease(&claimed_by("other")), Lease::Over, "its owner is dead");
        assert_eq!((ledger.lease(), ledger.me()), (LEASE, WorkerId("me".into())));
    }
}
