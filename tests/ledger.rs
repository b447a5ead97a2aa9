//! The ledger's stores: one contract for all, and what a file must survive.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "ledger/bench.rs"]
mod bench;
#[cfg(feature = "dynamodb")]
#[allow(dead_code, reason = "not all of it is used here")]
#[path = "binary/http.rs"]
mod http;
#[path = "ledger/kept.rs"]
mod kept;
#[path = "ledger/log.rs"]
mod log;
#[cfg(feature = "dynamodb")]
#[allow(dead_code, reason = "only the server is used here")]
#[path = "binary/moto.rs"]
mod moto;
#[path = "ledger/shared.rs"]
mod shared;
#[cfg(feature = "dynamodb")]
#[path = "ledger/table.rs"]
mod table;
#[cfg(feature = "dynamodb")]
#[path = "support/venv.rs"]
mod venv;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use callbackd::ledger::store::{
    Age, Commit, Damaged, Head, PARTS, Put, Query, Row, Store, Writer, part,
};
use callbackd::ledger::{Memory, OpenError, Sqlite};
use callbackd::seam::{Observation, Observer};
use jiff::Timestamp;

fn row(token: &str, version: u64, status: &str) -> Row {
    let settled_at = (status == "settled").then_some(Timestamp::UNIX_EPOCH);
    let head = Head {
        token: token.parse().expect("token"),
        version,
        status: status.to_owned().into(),
        queue: "https://sqs.us-east-1.amazonaws.com/123456789012/q".into(),
        execution: "arn:aws:sagemaker:us-east-1:123456789012:pipeline/Churn/execution/abc".into(),
        handler: Some("train".into()),
        owner: Some("me".into()),
        due: Timestamp::from_millisecond(1234).ok(),
        flagged: true,
        settled_at,
        writer: Writer { id: Some("me".into()), correction: -5 },
    };
    let body = format!("{{\"v\":{version}}}");
    Row { head, body, arguments: Some("{}".into()), checkpoint: Some("7".into()) }
}

/// All rows that `query` asks for, page by page, as they are read one by one.
async fn list(store: &dyn Store, mut query: Query) -> Vec<Row> {
    let mut rows = Vec::new();
    loop {
        let page = store.page(query.clone()).await.expect("a page");
        let heads = store.outlines(query.clone()).await.expect("a page");
        assert_eq!(page.next, heads.next);
        assert_eq!(page.found.len(), heads.found.len());
        for (light, head) in page.found.into_iter().zip(heads.found) {
            let (light, head) = (light.expect("sound"), head.expect("sound"));
            let row = store.get(&head.token).await.expect("read").expect("there").expect("sound");
            assert_eq!(row.head, head);
            assert_eq!(light, Row { arguments: None, checkpoint: None, ..row.clone() });
            rows.push(row);
        }
        match page.next {
            Some(next) => query.after = Some(next),
            None => return rows,
        }
    }
}

fn everything() -> Query {
    Query { limit: Query::MAX_LIMIT, ..Query::default() }
}

fn with_status(statuses: &[&str]) -> Query {
    Query { statuses: statuses.iter().map(|status| (*status).to_owned()).collect(), ..everything() }
}

/// The content of a file, read while another process may have it open.
fn read(path: &Path) -> Result<Vec<Result<Row, Damaged>>, OpenError> {
    let mut rows = Vec::new();
    Sqlite::read(path, |row| rows.push(row)).map(|()| rows)
}

fn age(seconds: i64) -> Age {
    let named = Timestamp::from_second(seconds).expect("time");
    Age { named, me: "another".into(), moment: Timestamp::MIN }
}

#[derive(Default)]
struct Commits(AtomicUsize);

impl Observer for Commits {
    fn observe(&self, observation: Observation<'_>) {
        if matches!(observation, Observation::LedgerCommit { .. }) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn sqlite(directory: &Path) -> Sqlite {
    Sqlite::open(&directory.join("ledger.db"), Arc::new(())).expect("opens")
}

async fn on_each_store(claim: impl AsyncFn(&dyn Store)) {
    on_each_local_store(&claim).await;
    #[cfg(feature = "dynamodb")]
    claim(&table::created().await).await;
}

async fn on_each_local_store(claim: impl AsyncFn(&dyn Store)) {
    claim(&Memory::new()).await;
    let directory = tempfile::tempdir().expect("directory");
    claim(&sqlite(directory.path())).await;
}

#[tokio::test]
async fn what_was_put_is_there_and_a_stale_version_changes_nothing() {
    on_each_store(async |store| {
        let first = row("abcdefghij", 1, "claimed");
        assert_eq!(store.get(&first.head.token).await, Ok(None));
        assert_eq!(store.put(first.clone(), None, Commit::Now).await, Ok(Put::Done));
        assert_eq!(
            store.put(row("abcdefghij", 1, "settled"), None, Commit::Now).await,
            Ok(Put::Changed)
        );
        assert_eq!(
            store.put(row("abcdefghij", 3, "settled"), Some(2), Commit::Now).await,
            Ok(Put::Changed)
        );
        assert_eq!(store.get(&first.head.token).await, Ok(Some(Ok(first.clone()))));
        let second = row("abcdefghij", 2, "concluded");
        assert_eq!(store.put(second.clone(), Some(1), Commit::Now).await, Ok(Put::Done));
        assert_eq!(store.get(&first.head.token).await, Ok(Some(Ok(second))));
        assert_eq!(
            store.put(row("missing000", 2, "claimed"), Some(1), Commit::Now).await,
            Ok(Put::Changed)
        );
    })
    .await;
}

#[tokio::test]
async fn of_many_who_create_a_record_one_wins() {
    on_each_store(async |store| {
        let of = |writer: usize| {
            let row = row("abcdefghij", 1, "claimed");
            let writer = Writer { id: Some(writer.to_string().into()), correction: 0 };
            Row { head: Head { writer, ..row.head }, ..row }
        };
        let puts = (0..50).map(|writer| store.put(of(writer), None, Commit::Now));
        let done = futures_util::future::join_all(puts)
            .await
            .into_iter()
            .filter(|put| *put == Ok(Put::Done))
            .count();
        assert_eq!(done, 1);
    })
    .await;
}

#[tokio::test]
async fn records_are_listed_by_status() {
    on_each_store(async |store| {
        settle_many(store).await;
        store.put(row("abcdefghij", 1, "concluded"), None, Commit::Now).await.expect("put");
        assert_eq!(list(store, with_status(&["concluded", "claimed"])).await.len(), 1);
        assert_eq!(list(store, everything()).await.len(), 1201);
    })
    .await;
}

#[tokio::test]
async fn what_is_not_settled_is_listed_once_each_in_pages_of_any_size() {
    on_each_store(async |store| {
        let rows = (0..60).map(|n| {
            let row = row(&format!("tok{n:07}"), 1, if n % 4 == 0 { "settled" } else { "claimed" });
            let due = (n % 3 > 0).then(|| Timestamp::from_second(n % 7)).and_then(Result::ok);
            Row { head: Head { due, ..row.head }, ..row }
        });
        for row in rows {
            store.put(row, None, Commit::Now).await.expect("put");
        }
        for limit in [1, 7, 44, 45, 46] {
            let query = Query { limit, ..with_status(&["claimed", "waiting"]) };
            let mut tokens: Vec<_> =
                list(store, query).await.into_iter().map(|row| row.head.token).collect();
            tokens.sort();
            tokens.dedup();
            assert_eq!(tokens.len(), 45, "in pages of {limit}");
        }
        let others = Query { handler: Some("other".into()), ..with_status(&["claimed"]) };
        assert_eq!(list(store, others).await, []);
        store.put(row("tok0000001", 2, "settled"), Some(1), Commit::Now).await.expect("put");
        assert_eq!(list(store, with_status(&["claimed"])).await.len(), 44);
    })
    .await;
}

#[tokio::test]
async fn arguments_of_the_largest_message_are_kept_as_long_as_the_step_needs_them() {
    on_each_store(async |store| {
        let (large, larger) = ("é\"€".repeat(150_000), "x".repeat(1 << 20));
        let mut of = row("abcdefghij", 1, "claimed");
        let token = of.head.token.clone();
        let mut expected = None;
        let mut put = async |mut row: Row| {
            row.head.version = expected.map_or(1, |version| version + 1);
            assert_eq!(store.put(row.clone(), expected, Commit::Now).await, Ok(Put::Done));
            expected = Some(row.head.version);
            assert_eq!(store.get(&token).await, Ok(Some(Ok(row))));
        };
        of.arguments = Some(large);
        put(of.clone()).await;
        put(Row { checkpoint: Some("8".into()), ..of.clone() }).await;
        let settled = Row { arguments: None, ..row("abcdefghij", 1, "settled") };
        put(settled.clone()).await;
        put(Row { arguments: Some(larger.clone()), ..of.clone() }).await;
        put(Row { arguments: Some("{}".into()), ..of }).await;
        put(Row { arguments: Some(larger), ..settled }).await;
        assert_eq!(list(store, everything()).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn each_step_is_in_one_part_and_what_is_due_is_listed_by_its_time() {
    on_each_store(async |store| {
        for number in 0..200 {
            let row = row(&format!("part{number:06}"), 1, "deferred");
            let due =
                (number % 2 == 0).then(|| Timestamp::from_second(number)).and_then(Result::ok);
            let row = Row { head: Head { due, ..row.head }, ..row };
            store.put(row, None, Commit::Now).await.expect("put");
        }
        let mut counts = [0, 0];
        for number in 0..PARTS {
            let all = Query { part: Some(number), limit: 3, ..with_status(&["deferred"]) };
            let due = Query { due: Timestamp::from_second(100).ok(), ..all.clone() };
            let [all, due] = [list(store, all).await, list(store, due).await];
            counts = [counts[0] + all.len(), counts[1] + due.len()];
            assert!(all.iter().all(|row| part(&row.head.token) == number));
            assert!(due.iter().all(|row| all.contains(row)));
        }
        assert_eq!(counts, [200, 51]);
        let due = Query { due: Timestamp::from_second(6).ok(), ..with_status(&["deferred"]) };
        assert_eq!(list(store, due).await.len(), 4, "of all parts");
    })
    .await;
}

async fn settle_many(store: &dyn Store) {
    for n in 0..1200 {
        let row = row(&format!("set{n:07}"), 1, "settled");
        store.put(row, None, Commit::Now).await.expect("put");
    }
}

#[cfg(feature = "dynamodb")]
#[tokio::test]
async fn a_table_is_created_once_and_then_used() {
    let table = table::planned().await;
    let error = table.open().await.expect_err("there is none").to_string();
    assert!(error.contains("callbackd ledger create"), "{error}");
    assert_eq!(table.create().await, Ok(callbackd::aws::Created::Table));
    assert_eq!(table.create().await, Ok(callbackd::aws::Created::Nothing));
    assert_eq!(table.open().await, Ok(()));
    assert_eq!(table.probe().await, Ok(()));
    assert_eq!(list(&table, everything()).await, [], "a probe is no step");
}

#[tokio::test]
async fn what_is_settled_is_purged_once_it_is_old() {
    on_each_local_store(async |store| {
        settle_many(store).await;
        store.put(row("abcdefghij", 1, "concluded"), None, Commit::Now).await.expect("put");
        assert_eq!(store.purge(age(0)).await, Ok(0));
        assert_eq!(store.purge(age(1)).await, Ok(1200));
        assert_eq!(list(store, everything()).await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_file_that_is_purged_as_fast_as_it_fills_keeps_its_size() {
    let size_after = async |rounds: i64| {
        let directory = tempfile::tempdir().expect("directory");
        let store = sqlite(directory.path());
        let mut random = fastrand::Rng::with_seed(1);
        for round in 0..rounds {
            let puts = (0..500).map(|_| {
                let token: String =
                    std::iter::repeat_with(|| random.alphanumeric()).take(10).collect();
                let settled_at = Timestamp::from_second(round).ok();
                let row = row(&token, 1, "settled");
                let row =
                    Row { head: Head { settled_at, ..row.head }, body: "x".repeat(1000), ..row };
                store.put(row, None, Commit::Now)
            });
            futures_util::future::join_all(puts).await;
            // What arrived in the last round is kept.
            store.purge(age(round)).await.expect("purged");
        }
        drop(store);
        fs::metadata(directory.path().join("ledger.db")).expect("the file").len()
    };
    let (soon, late) = (size_after(3).await, size_after(30).await);
    assert!(late <= soon * 5 / 4, "{soon} bytes after 3 rounds, {late} after 30");
}

#[tokio::test]
async fn many_waiting_writes_share_a_commit() {
    let directory = tempfile::tempdir().expect("directory");
    let commits = Arc::new(Commits::default());
    let store = Sqlite::open(&directory.path().join("ledger.db"), commits.clone()).expect("opens");
    let puts =
        (0..1000).map(|n| store.put(row(&format!("tok{n:07}"), 1, "claimed"), None, Commit::Now));
    assert!(futures_util::future::join_all(puts).await.into_iter().all(|put| put == Ok(Put::Done)));
    let shared = commits.0.load(Ordering::SeqCst);
    assert!((1..=20).contains(&shared), "{shared} commits for 1,000 writes that waited together");
    assert_eq!(list(&store, with_status(&["claimed"])).await.len(), 1000);
    assert_eq!(commits.0.load(Ordering::SeqCst), shared, "to read commits nothing");
}

#[tokio::test]
async fn a_probe_is_a_write() {
    let directory = tempfile::tempdir().expect("directory");
    let store = sqlite(directory.path());
    let connection = rusqlite::Connection::open(directory.path().join("ledger.db")).expect("opens");
    let probed = || {
        connection
            .query_row("SELECT count FROM probe WHERE id = 0", [], |row| row.get::<_, u64>(0))
            .expect("count")
    };
    store.probe().await.expect("writes");
    let before = probed();
    store.probe().await.expect("writes");
    assert_eq!(probed(), before + 1);
}

#[tokio::test]
async fn a_store_that_is_dropped_has_closed_its_file() {
    let directory = tempfile::tempdir().expect("directory");
    let store = sqlite(directory.path());
    store.put(row("abcdefghij", 1, "claimed"), None, Commit::Now).await.expect("put");
    let log = directory.path().join("ledger.db-wal");
    assert!(log.exists());
    drop(store);
    assert!(!log.exists(), "SQLite removes its log with the last connection");
}

#[tokio::test]
async fn a_second_worker_is_refused_the_file_and_a_reader_is_not() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("ledger.db");
    let store = sqlite(directory.path());
    store.put(row("abcdefghij", 1, "claimed"), None, Commit::Now).await.expect("put");
    let error = refusal(&path);
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    assert!(Sqlite::open(&path, Arc::new(())).is_err_and(|error| error.is_in_use()));
    assert_eq!(read(&path).expect("reads").len(), 1);
    drop(store);
    assert_eq!(read(&path).expect("reads").len(), 1);
    drop(sqlite(directory.path()));
    assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_second_worker_is_refused_the_file_under_every_name() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("ledger.db");
    let other = directory.path().join("other.db");
    std::os::unix::fs::symlink("ledger.db", &other).expect("a link");
    let store = sqlite(directory.path());
    assert!(Sqlite::open(&other, Arc::new(())).is_err_and(|error| error.is_in_use()));
    // Removing the file beside it does not help either.
    fs::remove_file(directory.path().join("ledger.db.lock")).expect("it is there");
    let error = refusal(&path);
    assert!(error.contains("another callbackd"), "{error}");
    drop(store);
    let store = Sqlite::open(&other, Arc::new(())).expect("opens");
    store.put(row("abcdefghij", 1, "claimed"), None, Commit::Now).await.expect("put");
    drop(store);
    assert_eq!(read(&path).expect("reads").len(), 1);
}

#[tokio::test]
async fn who_holds_a_lock_on_the_file_at_the_start_is_named() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("ledger.db");
    drop(sqlite(directory.path()));
    let script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], \
                  isolation_level=None)\nc.execute('BEGIN IMMEDIATE')\nprint('held', \
                  flush=True)\nsys.stdin.read()";
    let mut shell = Command::new("python3")
        .args(["-c", script])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python runs");
    let mut held = [0; 4];
    std::io::Read::read_exact(shell.stdout.as_mut().expect("a pipe"), &mut held)
        .expect("it holds the lock");
    let error = refusal(&path);
    assert!(
        error.contains(&format!("process {} (python", shell.id()))
            && error.contains("end that use of it"),
        "{error}"
    );
    drop(shell.stdin.take());
    shell.wait().expect("it ends");
    drop(Sqlite::open(&path, Arc::new(())).expect("opens"));
}

fn refusal(path: &Path) -> String {
    let _guard = tokio::runtime::Handle::try_current().ok();
    match Sqlite::open(path, Arc::new(())) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => told(&error, path),
    }
}

fn told(error: &OpenError, path: &Path) -> String {
    let text = error.to_string();
    assert!(text.contains(&path.display().to_string()), "{text}");
    text
}

#[tokio::test]
async fn a_file_that_is_no_ledger_of_ours_is_refused() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("ledger.db");
    let missing = directory.path().join("missing/ledger.db");
    assert!(refusal(&missing).contains("create "));
    assert!(Sqlite::open(&missing, Arc::new(())).is_err_and(|error| !error.is_in_use()));

    fs::write(&path, "hello, I am a text file; and a rather long one, so that it has a header")
        .expect("write");
    assert!(refusal(&path).contains("damaged or not a ledger"));
    fs::remove_file(&path).expect("remove");

    let connection = rusqlite::Connection::open(&path).expect("open");
    connection.execute_batch("CREATE TABLE songs (name TEXT)").expect("create");
    drop(connection);
    assert!(refusal(&path).contains("another program"));
    fs::remove_file(&path).expect("remove");

    drop(Sqlite::open(&path, Arc::new(())).expect("opens"));
    let connection = rusqlite::Connection::open(&path).expect("open");
    connection.pragma_update(None, "user_version", 99).expect("pragma");
    drop(connection);
    assert!(refusal(&path).contains("newer callbackd"));
}

#[tokio::test]
async fn a_torn_or_truncated_file_is_refused_and_never_half_read() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("ledger.db");
    let store = sqlite(directory.path());
    for n in 0..500 {
        store.put(row(&format!("tok{n:07}"), 1, "claimed"), None, Commit::Now).await.expect("put");
    }
    let records = list(&store, everything()).await;
    drop(store);
    let whole = fs::read(&path).expect("read");
    assert!(whole.len() > 8 * 4096);
    for cut in [10, 100, 4096, 4096 * 3 + 17, whole.len() - 4096, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).expect("write");
        assert!(refusal(&path).contains("truncated"), "cut at {cut}");
    }
    let mut refused = 0;
    for torn in (0..whole.len() - 512).step_by(1500) {
        let mut bytes = whole.clone();
        bytes[torn..torn + 512].fill(0xA5);
        fs::write(&path, &bytes).expect("write");
        // Else it would be refused as an older copy.
        let _ = fs::remove_file(directory.path().join("ledger.db.epoch"));
        match Sqlite::open(&path, Arc::new(())) {
            Err(_) => refused += 1,
            // Only free space was hit, or a text: that costs its row, and is reported.
            Ok(store) => {
                let mut found = Vec::new();
                for record in &records {
                    found.extend(store.get(&record.head.token).await.expect("read"));
                }
                let page = store.page(with_status(&["claimed"])).await.expect("a page");
                assert_eq!(
                    (found.len(), page.found.len()),
                    (records.len(), records.len()),
                    "torn at {torn}"
                );
                assert!(found.iter().flatten().all(|row| records.contains(row)), "torn at {torn}");
            }
        }
    }
    assert!(refused > whole.len() / 1500 / 3, "only {refused} refused");
    fs::write(&path, &whole).expect("write");
    let _ = fs::remove_file(directory.path().join("ledger.db.epoch"));
    assert_eq!(list(&sqlite(directory.path()), everything()).await.len(), 500);
}

#[tokio::test]
async fn what_a_file_lacks_is_taken_from_its_log() {
    let directory = tempfile::tempdir().expect("directory");
    let (path, log) = (directory.path().join("ledger.db"), directory.path().join("ledger.db-wal"));
    let store = sqlite(directory.path());
    for n in 0..50 {
        store.put(row(&format!("tok{n:07}"), 1, "claimed"), None, Commit::Now).await.expect("put");
    }
    let connection = rusqlite::Connection::open(&path).expect("open");
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).expect("checkpoint");
    let (whole, logged) = (fs::read(&path).expect("read"), fs::read(&log).expect("read"));
    drop((connection, store));
    // A machine that fails during a checkpoint leaves an incomplete file, and the log.
    fs::write(&path, &whole[..whole.len() - 4096]).expect("write");
    assert!(refusal(&path).contains("truncated"));
    fs::write(&log, logged).expect("write");
    assert_eq!(list(&sqlite(directory.path()), everything()).await.len(), 50);
}

/// Run by the tests below as a process of its own.
#[tokio::test]
#[ignore = "a process of another test's"]
async fn child() {
    let path = std::env::var_os("LEDGER").expect("LEDGER");
    let limit = std::env::var("LIMIT").ok().map(|limit| limit.parse::<u64>().expect("number"));
    let store = Sqlite::open(Path::new(&path), Arc::new(())).expect("opens");
    if let Some(limit) = limit {
        limit_files(limit);
        let mut n = 0;
        let failed = loop {
            n += 1;
            if let Err(error) =
                store.put(row(&format!("tok{n:07}"), 1, "claimed"), None, Commit::Now).await
            {
                break error.to_string();
            }
        };
        assert!(store.probe().await.is_err() || n > 1, "{failed}");
        limit_files(u64::MAX);
        store.probe().await.expect("recovers");
        store.put(row("recovered0", 1, "claimed"), None, Commit::Now).await.expect("recovers");
        println!("failed after {n}: {failed}");
        return;
    }
    for n in 0.. {
        store.put(row(&format!("tok{n:07}"), 1, "claimed"), None, Commit::Now).await.expect("put");
        println!("put {n}");
        std::io::stdout().flush().expect("flush");
    }
}

/// Writes beyond this many bytes of a file fail, as on a full disk.
fn limit_files(bytes: u64) {
    // The signal would end the process; the error is what is wanted.
    let ignore = nix::sys::signal::SigHandler::SigIgn;
    #[expect(unsafe_code, reason = "ignoring a signal runs no code of ours in a handler")]
    unsafe {
        nix::sys::signal::signal(nix::sys::signal::Signal::SIGXFSZ, ignore).expect("signal");
    }
    let resource = nix::sys::resource::Resource::RLIMIT_FSIZE;
    let (_, hard) = nix::sys::resource::getrlimit(resource).expect("limit");
    nix::sys::resource::setrlimit(resource, bytes.min(hard), hard).expect("limit");
}

fn child_process(path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env("LEDGER", path)
        .stdout(Stdio::piped());
    command
}

#[tokio::test]
async fn what_a_put_returned_is_there_after_a_kill() {
    use std::io::{BufRead, BufReader};
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("ledger.db");
    let mut child = child_process(&path).spawn().expect("spawn");
    let told = Mutex::new(0);
    for line in BufReader::new(child.stdout.take().expect("stdout")).lines() {
        if let Some(n) = line.expect("line").strip_prefix("put ") {
            *told.lock().unwrap() = n.parse::<usize>().expect("number") + 1;
        }
        if *told.lock().unwrap() >= 50 {
            break;
        }
    }
    child.kill().expect("kill");
    child.wait().expect("wait");
    // The lock went with the process, and every acknowledged put is there.
    let store = Sqlite::open(&path, Arc::new(())).expect("opens");
    assert!(list(&store, everything()).await.len() >= *told.lock().unwrap());
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_the_store_recovers_by_itself() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("ledger.db");
    let output = child_process(&path).env("LIMIT", "200000").output().expect("run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("failed after"), "{text}");
    let rows = read(&path).expect("reads");
    assert!(rows.iter().flatten().any(|row| row.head.token.as_str() == "recovered0"));
}

#[tokio::test]
async fn a_damaged_row_costs_that_row_and_nothing_else() {
    let changes = [
        "token = 'abcdefghik'",
        "version = 2",
        "status = 'waiting'",
        "queue = ''",
        "due = 7",
        "flagged = 0",
        "owner = NULL",
    ];
    let lights = [
        "writer = 'you'",
        "correction = 1",
        "body = '{\"v\":7}'",
        "body = CAST(x'ff' AS TEXT)",
        "settled_at = 1",
    ];
    let heavy = ["arguments = '[]'", "checkpoint = NULL"];
    for change in changes.iter().chain(&lights).chain(&heavy) {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("ledger.db");
        let store = sqlite(directory.path());
        for token in ["aaaaaaaaaa", "abcdefghij", "zzzzzzzzzz"] {
            store.put(row(token, 1, "claimed"), None, Commit::Now).await.expect("put");
        }
        drop(store);
        let connection = rusqlite::Connection::open(&path).expect("open");
        connection
            .execute(&format!("UPDATE steps SET {change} WHERE token = 'abcdefghij'"), [])
            .expect("changed");
        let token: String = connection
            .query_row("SELECT token FROM steps WHERE rowid = 2", [], |row| row.get(0))
            .expect("token");
        drop(connection);

        let store = sqlite(directory.path());
        let found = store.get(&token.parse().expect("token")).await.expect("read").expect("there");
        let damaged = found.expect_err("damaged");
        assert_eq!(damaged.token.as_deref(), Some(token.as_str()), "{change}");
        let query = || with_status(&["claimed", "waiting"]);
        let (page, heads) = (
            store.page(query()).await.expect("a page"),
            store.outlines(query()).await.expect("a page"),
        );
        for found in [
            read(&path).expect("reads").into_iter().map(Result::err).collect::<Vec<_>>(),
            page.found.into_iter().map(Result::err).collect(),
            heads.found.into_iter().map(Result::err).collect(),
        ] {
            assert_eq!(found.len(), 3, "{change}");
            assert_eq!((&found[0], &found[2]), (&None, &None), "{change}");
            // Large fields are checked when they are read.
            assert!(
                heavy.contains(change) || found[1].as_ref() == Some(&damaged),
                "{change}: {:?}",
                found[1]
            );
        }
    }
}

/// Holds the write lock of a ledger, like someone at a `sqlite3` prompt.
fn hold(path: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path).expect("open");
    connection.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    connection
}

#[tokio::test]
async fn while_another_process_holds_the_lock_writes_fail_soon_and_reads_go_on() {
    let directory = tempfile::tempdir().expect("directory");
    let store = sqlite(directory.path());
    let first = row("abcdefghij", 1, "claimed");
    store.put(first.clone(), None, Commit::Now).await.expect("put");
    let lock = hold(&directory.path().join("ledger.db"));
    let began = tokio::time::Instant::now();
    let puts =
        (0..2000).map(|n| store.put(row(&format!("tok{n:07}"), 1, "claimed"), None, Commit::Now));
    let reads = async {
        assert_eq!(list(&store, everything()).await, [first]);
        began.elapsed()
    };
    let (puts, read) = tokio::join!(futures_util::future::join_all(puts), reads);
    let took = began.elapsed();
    assert!(puts.iter().all(Result::is_err), "nothing is written");
    assert!(took < Duration::from_secs(4), "2,000 writes failed after {took:?}");
    assert!(read < took, "reads waited");
    drop(lock);
    store.put(row("tok0000001", 1, "claimed"), None, Commit::Now).await.expect("it recovers");
    assert_eq!(list(&store, everything()).await.len(), 2);
}

#[tokio::test]
async fn a_write_that_may_wait_rides_along_and_is_there_when_the_store_is_closed() {
    let directory = tempfile::tempdir().expect("directory");
    let commits = Arc::new(Commits::default());
    let store = Sqlite::open(&directory.path().join("ledger.db"), commits.clone()).expect("opens");
    let put = |token: &str, commit| store.put(row(token, 1, "settled"), None, commit);
    // A busy machine may take 20 ms between two of them, but not each time.
    let mut shared = false;
    for round in 0..20 {
        let before = commits.0.load(Ordering::SeqCst);
        let [first, second, now] =
            ["soon00", "soon01", "now000"].map(|name| format!("{name}{round:04}"));
        // Polled in this order, so that the patient ones wait when the other comes.
        let puts = tokio::join!(
            put(&first, Commit::Soon),
            put(&second, Commit::Soon),
            put(&now, Commit::Now)
        );
        assert_eq!(puts, (Ok(Put::Done), Ok(Put::Done), Ok(Put::Done)));
        shared |= commits.0.load(Ordering::SeqCst) == before + 1;
    }
    assert!(shared, "none rode along");
    assert_eq!(put("alone00000", Commit::Soon).await, Ok(Put::Done), "it does not wait for ever");

    let mut left = Box::pin(put("last000000", Commit::Soon));
    assert!(futures_util::poll!(left.as_mut()).is_pending());
    drop(left);
    drop(store);
    assert_eq!(read(&directory.path().join("ledger.db")).expect("reads").len(), 62);
}

/// What callbackd 0.1 wrote: everything is in the body, and the digest covers less.
const SCHEMA_1: &str = "
    CREATE TABLE steps (token TEXT NOT NULL PRIMARY KEY, version INTEGER NOT NULL, status TEXT NOT \
    NULL, settled_at INTEGER,
        body TEXT NOT NULL, digest TEXT NOT NULL) STRICT;
    CREATE INDEX steps_by_status ON steps (status, settled_at);
    CREATE TABLE probe (id INTEGER PRIMARY KEY, count INTEGER NOT NULL) STRICT;
    CREATE VIEW overview AS SELECT token, status, json_extract(body, '$.handler') AS handler FROM \
    steps;
    PRAGMA application_id = 1667394404; PRAGMA user_version = 1; PRAGMA journal_mode = WAL;
";

#[tokio::test]
async fn a_file_of_schema_1_is_read_and_brought_up_to_this_one() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("ledger.db");
    let old = rusqlite::Connection::open(&path).expect("open");
    old.execute_batch(SCHEMA_1).expect("tables");
    for line in include_str!("ledger/schema_1.txt").lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let settled_at: Option<i64> = columns[3].parse().ok();
        let values = rusqlite::params![
            columns[0], columns[1], columns[2], settled_at, columns[4], columns[5]
        ];
        old.execute("INSERT INTO steps VALUES (?1, ?2, ?3, ?4, ?5, ?6)", values).expect("a row");
    }
    old.execute("UPDATE steps SET version = 77 WHERE token = 'spoilt0000'", []).expect("damage");
    drop(old);

    let before = read(&path).expect("a reader cannot migrate");
    let store = sqlite(directory.path());
    let after = read(&path).expect("reads");
    assert_eq!(before.len(), 3);
    let damaged = |rows: &[Result<Row, Damaged>]| {
        rows.iter().filter_map(|row| row.as_ref().err()?.token.clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        (damaged(&before), damaged(&after)),
        (vec!["spoilt0000".to_owned()], vec!["spoilt0000".to_owned()])
    );
    let sound = |rows: Vec<Result<Row, Damaged>>| rows.into_iter().flatten().collect::<Vec<_>>();
    let rows = sound(after);
    assert_eq!(sound(before), rows);
    let waiting = &rows[0];
    assert_eq!(
        (waiting.head.token.as_str(), waiting.head.version, &*waiting.head.status),
        ("abcdefghij", 4, "waiting")
    );
    assert_eq!(waiting.head.handler.as_deref(), Some("train"));
    assert_eq!(waiting.head.due, "2026-07-29T10:00:00.124Z".parse().ok());
    assert!(waiting.head.flagged && waiting.head.writer == Writer::default());
    assert_eq!(waiting.checkpoint.as_deref(), Some("{\"job\":\"a\"}"));
    assert!(
        waiting
            .arguments
            .as_ref()
            .is_some_and(|arguments| !waiting.body.contains(arguments.as_str()))
    );
    assert_eq!(list(&store, with_status(&["settled"])).await, [rows[1].clone()]);
    let next = Row { head: Head { version: 5, ..waiting.head.clone() }, ..waiting.clone() };
    assert_eq!(store.put(next, Some(4), Commit::Now).await, Ok(Put::Done));
    drop(store);
    let version: i32 = rusqlite::Connection::open(&path)
        .expect("open")
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .expect("a version");
    assert_eq!(version, 3, "an older callbackd refuses it");
}

#[tokio::test]
async fn a_file_of_schema_2_is_only_said_to_be_of_this_one() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("ledger.db");
    let first = row("abcdefghij", 1, "claimed");
    assert_eq!(sqlite(directory.path()).put(first.clone(), None, Commit::Now).await, Ok(Put::Done));
    let version = |set: Option<i32>| {
        let connection = rusqlite::Connection::open(&path).expect("open");
        if let Some(version) = set {
            connection.pragma_update(None, "user_version", version).expect("pragma");
        }
        connection
            .pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0))
            .expect("a version")
    };
    assert_eq!(version(Some(2)), 2);
    let store = sqlite(directory.path());
    assert_eq!(store.get(&first.head.token).await, Ok(Some(Ok(first))));
    assert_eq!(version(None), 3, "an older callbackd refuses it");
}
