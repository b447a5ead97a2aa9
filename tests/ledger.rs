//! The ledger's stores: one contract for all, and what a file must survive.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "ledger/log.rs"]
mod log;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use callbackd::ledger::{Memory, OpenError, Sqlite};
use callbackd::seam::{Observation, Observer, Put, Row, Store};
use jiff::Timestamp;

fn row(token: &str, version: u64, status: &str) -> Row {
    let settled_at = (status == "settled").then_some(Timestamp::UNIX_EPOCH);
    Row {
        token: token.parse().expect("token"),
        version,
        status: status.into(),
        settled_at,
        body: format!("{{\"v\":{version}}}"),
    }
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
    claim(&Memory::new()).await;
    let directory = tempfile::tempdir().expect("directory");
    claim(&sqlite(directory.path())).await;
}

#[tokio::test]
async fn what_was_put_is_there_and_a_stale_version_changes_nothing() {
    on_each_store(async |store| {
        let first = row("abcdefghij", 1, "claimed");
        assert_eq!(store.get(&first.token).await, Ok(None));
        assert_eq!(store.put(first.clone(), None).await, Ok(Put::Done));
        assert_eq!(store.put(row("abcdefghij", 1, "settled"), None).await, Ok(Put::Changed));
        assert_eq!(store.put(row("abcdefghij", 3, "settled"), Some(2)).await, Ok(Put::Changed));
        assert_eq!(store.get(&first.token).await, Ok(Some(first.clone())));
        let second = row("abcdefghij", 2, "concluded");
        assert_eq!(store.put(second.clone(), Some(1)).await, Ok(Put::Done));
        assert_eq!(store.get(&first.token).await, Ok(Some(second)));
        assert_eq!(store.put(row("missing000", 2, "claimed"), Some(1)).await, Ok(Put::Changed));
    })
    .await;
}

#[tokio::test]
async fn of_many_who_create_a_record_one_wins() {
    on_each_store(async |store| {
        let puts = (0..50).map(|_| store.put(row("abcdefghij", 1, "claimed"), None));
        let done = futures_util::future::join_all(puts).await.into_iter().filter(|put| *put == Ok(Put::Done)).count();
        assert_eq!(done, 1);
    })
    .await;
}

#[tokio::test]
async fn records_are_listed_by_status_and_purged_once_settled_and_old() {
    on_each_store(async |store| {
        for n in 0..1200 {
            store.put(row(&format!("set{n:07}"), 1, "settled"), None).await.expect("put");
        }
        store.put(row("abcdefghij", 1, "concluded"), None).await.expect("put");
        assert_eq!(store.list(&["concluded", "claimed"]).await.expect("list").len(), 1);
        assert_eq!(store.list(&[]).await.expect("list").len(), 1201);
        assert_eq!(store.purge(Timestamp::UNIX_EPOCH).await, Ok(0));
        assert_eq!(store.purge(Timestamp::from_second(1).expect("time")).await, Ok(1200));
        assert_eq!(store.list(&[]).await.expect("list").len(), 1);
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
                let token: String = std::iter::repeat_with(|| random.alphanumeric()).take(10).collect();
                let settled_at = Timestamp::from_second(round).ok();
                store.put(Row { settled_at, body: "x".repeat(1000), ..row(&token, 1, "settled") }, None)
            });
            futures_util::future::join_all(puts).await;
            // What came in the last round is kept.
            store.purge(Timestamp::from_second(round).expect("time")).await.expect("purged");
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
    let puts = (0..1000).map(|n| store.put(row(&format!("tok{n:07}"), 1, "claimed"), None));
    assert!(futures_util::future::join_all(puts).await.into_iter().all(|put| put == Ok(Put::Done)));
    let shared = commits.0.load(Ordering::SeqCst);
    assert!((1..=20).contains(&shared), "{shared} commits for 1,000 writes that waited together");
    assert_eq!(store.list(&["claimed"]).await.expect("list").len(), 1000);
    assert_eq!(commits.0.load(Ordering::SeqCst), shared, "to read commits nothing");
}

#[tokio::test]
async fn a_probe_is_a_write() {
    let directory = tempfile::tempdir().expect("directory");
    let store = sqlite(directory.path());
    let connection = rusqlite::Connection::open(directory.path().join("ledger.db")).expect("opens");
    let probed = || connection.query_row("SELECT count FROM probe", [], |row| row.get::<_, u64>(0)).expect("count");
    let before = probed();
    store.probe().await.expect("writes");
    assert_eq!(probed(), before + 1);
}

#[tokio::test]
async fn a_store_that_is_dropped_has_closed_its_file() {
    let directory = tempfile::tempdir().expect("directory");
    let store = sqlite(directory.path());
    store.put(row("abcdefghij", 1, "claimed"), None).await.expect("put");
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
    store.put(row("abcdefghij", 1, "claimed"), None).await.expect("put");
    let error = refusal(&path);
    assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
    assert!(Sqlite::open(&path, Arc::new(())).is_err_and(|error| error.is_in_use()));
    assert_eq!(Sqlite::read(&path).expect("reads").len(), 1);
    drop(store);
    assert_eq!(Sqlite::read(&path).expect("reads").len(), 1);
    drop(sqlite(directory.path()));
    assert_eq!(fs::metadata(&path).expect("file").permissions().mode() & 0o777, 0o600);
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

    fs::write(&path, "hello, I am a text file; and a rather long one, so that it has a header").expect("write");
    assert!(refusal(&path).contains("damaged or no ledger"));
    fs::remove_file(&path).expect("remove");

    let connection = rusqlite::Connection::open(&path).expect("open");
    connection.execute_batch("CREATE TABLE songs (name TEXT)").expect("create");
    drop(connection);
    assert!(refusal(&path).contains("something else"));
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
        store.put(row(&format!("tok{n:07}"), 1, "claimed"), None).await.expect("put");
    }
    let records = store.list(&[]).await.expect("list");
    drop(store);
    let whole = fs::read(&path).expect("read");
    assert!(whole.len() > 8 * 4096);
    for cut in [10, 100, 4096, 4096 * 3 + 17, whole.len() - 4096, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).expect("write");
        assert!(refusal(&path).contains("cut short"), "cut at {cut}");
    }
    let mut refused = 0;
    for torn in (0..whole.len() - 512).step_by(1500) {
        let mut bytes = whole.clone();
        bytes[torn..torn + 512].fill(0xA5);
        fs::write(&path, &bytes).expect("write");
        match Sqlite::open(&path, Arc::new(())) {
            Err(_) => refused += 1,
            // Only free space was hit.
            Ok(store) => assert_eq!(store.list(&[]).await.expect("list"), records, "torn at {torn}"),
        }
    }
    assert!(refused > whole.len() / 1500 / 2, "only {refused} refused");
    fs::write(&path, &whole).expect("write");
    assert_eq!(sqlite(directory.path()).list(&[]).await.expect("list").len(), 500);
}

#[tokio::test]
async fn a_record_that_is_not_as_it_was_written_is_refused() {
    for change in ["token = 'abcdefghik'", "version = 2", "status = 'claimed'", "settled_at = 1", "body = '{\"v\":7}'"]
    {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("ledger.db");
        let store = sqlite(directory.path());
        store.put(row("abcdefghij", 1, "settled"), None).await.expect("put");
        let connection = rusqlite::Connection::open(&path).expect("open");
        connection.execute_batch(&format!("UPDATE steps SET {change}")).expect("changed");
        let error = store.list(&[]).await.expect_err("refused").to_string();
        assert!(error.contains("is not as it was written"), "{change}: {error}");
        let error = Sqlite::read(&path).expect_err("refused");
        assert!(told(&error, &path).contains("damaged"), "{change}: {error}");
    }
}

#[tokio::test]
async fn what_a_file_lacks_is_taken_from_its_log() {
    let directory = tempfile::tempdir().expect("directory");
    let (path, log) = (directory.path().join("ledger.db"), directory.path().join("ledger.db-wal"));
    let store = sqlite(directory.path());
    for n in 0..50 {
        store.put(row(&format!("tok{n:07}"), 1, "claimed"), None).await.expect("put");
    }
    let connection = rusqlite::Connection::open(&path).expect("open");
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).expect("checkpoint");
    let (whole, logged) = (fs::read(&path).expect("read"), fs::read(&log).expect("read"));
    drop((connection, store));
    // A machine that fails during a checkpoint leaves a file that is not whole, and the log.
    fs::write(&path, &whole[..whole.len() - 4096]).expect("write");
    assert!(refusal(&path).contains("cut short"));
    fs::write(&log, logged).expect("write");
    assert_eq!(sqlite(directory.path()).list(&[]).await.expect("list").len(), 50);
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
            if let Err(error) = store.put(row(&format!("tok{n:07}"), 1, "claimed"), None).await {
                break error.to_string();
            }
        };
        assert!(store.probe().await.is_err() || n > 1, "{failed}");
        limit_files(u64::MAX);
        store.probe().await.expect("recovers");
        store.put(row("recovered0", 1, "claimed"), None).await.expect("recovers");
        println!("failed after {n}: {failed}");
        return;
    }
    for n in 0.. {
        store.put(row(&format!("tok{n:07}"), 1, "claimed"), None).await.expect("put");
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
    command.args(["child", "--exact", "--ignored", "--nocapture"]).env("LEDGER", path).stdout(Stdio::piped());
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
    // The lock went with the process, and every put that was told is there.
    let store = Sqlite::open(&path, Arc::new(())).expect("opens");
    assert!(store.list(&[]).await.expect("list").len() >= *told.lock().unwrap());
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_the_store_recovers_by_itself() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("ledger.db");
    let output = child_process(&path).env("LIMIT", "200000").output().expect("run");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("failed after"), "{text}");
    let rows = Sqlite::read(&path).expect("reads");
    assert!(rows.iter().any(|row| row.token.as_str() == "recovered0"));
}
