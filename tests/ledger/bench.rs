//! What claim, conclude and settle cost on this machine, at full durability. It prints and judges
//! nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use callbackd::clock::Clock;
use callbackd::ledger::{Commit, Filter, Ledger, Sqlite, Written};
use callbackd::lifecycle::{Record, Status, WorkerId};
use callbackd::step::Message;
use jiff::Timestamp;
use tokio::time::Instant;

use super::Commits;

const STEPS: usize = 6000;

fn record(n: usize) -> Record {
    let mut step =
        Message::parse(include_str!("../fixtures/executing.json")).expect("message").step().clone();
    // As SageMaker draws them: in no order.
    let mut random = fastrand::Rng::with_seed(u64::try_from(n).expect("small"));
    let token: String = std::iter::repeat_with(|| random.alphanumeric()).take(10).collect();
    step.token = token.parse().expect("token");
    let queue =
        "https://sqs.us-east-1.amazonaws.com/123456789012/q".parse().expect("a queue's URL");
    Record::of_message(step, queue, Some("train".into()), Timestamp::UNIX_EPOCH)
}

async fn write(ledger: &Ledger, record: Record, commit: Commit) -> Record {
    match ledger.write(record, commit).await.expect("written") {
        Written::Done(record) => *record,
        Written::Changed => panic!("changed"),
    }
}

/// Claim, conclude, settle.
async fn live(ledger: &Ledger, n: usize, last: Commit) {
    let record = record(n);
    assert!(ledger.load(&record.token).await.expect("read").is_none());
    let owner = Some(ledger.me().clone());
    let claimed =
        write(ledger, Record { status: Status::Claimed, owner, attempt: 1, ..record }, Commit::Now)
            .await;
    let concluded =
        write(ledger, Record { status: Status::Concluded, ..claimed }, Commit::Now).await;
    let settled_at = Some(Timestamp::UNIX_EPOCH);
    write(ledger, Record { status: Status::Settled, settled_at, owner: None, ..concluded }, last)
        .await;
}

fn ledger(store: Sqlite) -> Ledger {
    let clock = Clock::starting_at(Timestamp::UNIX_EPOCH);
    Ledger::new(Arc::new(store), WorkerId("me".into()), Duration::from_mins(1), clock, Arc::new(()))
}

fn cpu() -> Duration {
    let usage =
        nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).expect("usage");
    let of = |time: nix::sys::time::TimeVal| {
        Duration::new(
            time.tv_sec().unsigned_abs(),
            u32::try_from(time.tv_usec()).expect("small") * 1000,
        )
    };
    of(usage.user_time()) + of(usage.system_time())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn steps_a_second() {
    for (concurrency, last) in
        [1, 10, 64, 256].into_iter().flat_map(|many| [(many, Commit::Now), (many, Commit::Soon)])
    {
        let steps = if concurrency == 1 { STEPS / 6 } else { STEPS };
        let directory = tempfile::tempdir().expect("directory");
        let commits = Arc::new(Commits::default());
        let store =
            Sqlite::open(&directory.path().join("ledger.db"), commits.clone()).expect("opens");
        let ledger = Arc::new(ledger(store));
        let (began, used) = (Instant::now(), cpu());
        let workers = (0..concurrency).map(|worker| {
            let ledger = ledger.clone();
            tokio::spawn(async move {
                for n in (worker..steps).step_by(concurrency) {
                    live(&ledger, n, last).await;
                }
            })
        });
        for worker in workers.collect::<Vec<_>>() {
            worker.await.expect("no panic");
        }
        let (took, used) = (began.elapsed(), cpu().saturating_sub(used));
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let count = steps as f64;
        println!(
            "{concurrency:>4} at once, settled {last:?}: {:>6.0} steps/s, {:.2} commits/step, \
             {:>4.0} us CPU/step",
            count / took.as_secs_f64(),
            f64::from(u32::try_from(commits.0.load(Ordering::SeqCst)).expect("small")) / count,
            used.as_secs_f64() * 1e6 / count,
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn lists() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("ledger.db");
    let store = Sqlite::open(&path, Arc::new(())).expect("opens");
    let ledger = ledger(store);
    let make = async |count: usize, status: Status, bytes: usize| {
        let numbers: Vec<usize> = (0..count).collect();
        for some in numbers.chunks(500) {
            let write = |n: &usize| {
                let arguments = Arc::new(serde_json::json!({ "text": "x".repeat(bytes) }));
                let settled_at = (status == Status::Settled).then_some(Timestamp::UNIX_EPOCH);
                let record = Record { status, arguments, settled_at, ..record(*n + count) };
                write(&ledger, record, Commit::Now)
            };
            futures_util::future::join_all(some.iter().map(write)).await;
        }
    };
    make(4000, Status::Waiting, 100_000).await;
    let began = Instant::now();
    let page = ledger.page(Filter { limit: 500, ..Filter::default() }).await.expect("a page");
    println!("a page of {} of 4,000 rows of 100 kB: {:?}", page.found.len(), began.elapsed());
    make(100_000, Status::Settled, 10).await;
    let began = Instant::now();
    let mut filter = Filter::of(&[Status::Waiting, Status::Claimed]);
    let (mut found, mut pages) = (0, 0);
    loop {
        let page = ledger.outlines(filter.clone()).await.expect("a page");
        (found, pages) = (found + page.found.len(), pages + 1);
        match page.next {
            Some(next) => filter.after = Some(next),
            None => break,
        }
    }
    println!(
        "outlines of {found} unsettled beside 100,000 settled, in {pages} pages: {:?}",
        began.elapsed()
    );
    let began = Instant::now();
    let none = Filter { handler: Some("none".into()), ..Filter::of(&[]) };
    assert!(ledger.page(none).await.expect("a page").found.is_empty());
    println!("a page of a filter that nothing of 104,000 matches: {:?}", began.elapsed());
    drop(ledger);
    let began = Instant::now();
    let opened = Sqlite::open(&path, Arc::new(())).expect("opens");
    println!(
        "opening that file of {} MiB: {:?}",
        std::fs::metadata(&path).expect("the file").len() >> 20,
        began.elapsed()
    );
    drop(opened);
    let few = rusqlite::Connection::open(&path).expect("opens");
    few.execute_batch("DELETE FROM steps WHERE status = 'waiting'; VACUUM").expect("done");
    drop(few);
    let began = Instant::now();
    drop(Sqlite::open(&path, Arc::new(())).expect("opens"));
    let bytes = std::fs::metadata(&path).expect("the file").len();
    println!(
        "opening and closing it with 100,000 settled alone, of {} MiB: {:?}",
        bytes >> 20,
        began.elapsed()
    );
}
