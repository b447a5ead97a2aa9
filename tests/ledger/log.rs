//! What a store recovers from its log after the machine has failed: the commits up to some moment,
//! and never a mix.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use callbackd::ledger::Sqlite;
use callbackd::ledger::store::{self, Put, Row, Store};

use super::{everything, list, refusal, row, sqlite};

/// SQLite's log beside a ledger: a header, and frames of a header and a page each.
struct Log(Vec<u8>);

impl Log {
    const HEADER: usize = 32;
    const FRAME: usize = 24 + 4096;

    fn path(directory: &Path) -> PathBuf {
        directory.join("ledger.db-wal")
    }

    fn read(directory: &Path) -> Self {
        Self(fs::read(Self::path(directory)).expect("a store that is open has a log"))
    }

    /// The end of its last commit. What follows is from before a checkpoint, and has another salt.
    fn end(&self) -> usize {
        let salt = &self.0[16..24];
        let frames = self.0[Self::HEADER..].chunks_exact(Self::FRAME);
        Self::HEADER + frames.take_while(|frame| &frame[8..16] == salt).count() * Self::FRAME
    }
}

/// What a store held after each of its commits, and where in the log the commit ends.
type Commit = (usize, Vec<Row>);

/// Commits of several pages each: records are made, and written over.
async fn commit(
    store: &Sqlite,
    directory: &Path,
    versions: RangeInclusive<u64>,
    commits: &mut Vec<Commit>,
) {
    for version in versions {
        for token in ["first00000", "second0000", "third00000"] {
            let body = format!("{{\"v\":{version},\"arguments\":\"{}\"}}", token.repeat(700));
            let row = Row {
                body,
                ..row(token, version, if version % 3 == 0 { "concluded" } else { "claimed" })
            };
            let expected = version.checked_sub(1).filter(|before| *before > 0);
            assert_eq!(store.put(row, expected, store::Commit::Now).await, Ok(Put::Done));
            commits.push((Log::read(directory).end(), list(store, everything()).await));
        }
    }
}

/// Copies the files of an open store, as a machine that loses power leaves them.
fn leave(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().expect("directory");
    for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        fs::copy(from.join(name), to.path().join(name)).expect("copy");
    }
    to
}

#[tokio::test]
async fn of_a_log_that_is_cut_or_torn_all_commits_before_that_are_there_and_nothing_of_any_other() {
    let directory = tempfile::tempdir().expect("directory");
    let store = sqlite(directory.path());
    let mut commits = vec![(0, Vec::new())];
    for versions in [1..=4, 5..=8] {
        commit(&store, directory.path(), versions, &mut commits).await;
        let log = Log::read(directory.path());
        for at in (0..log.end()).step_by(4111) {
            let there = commits.iter().rfind(|(end, _)| *end <= at).map(|(_, rows)| rows);
            let mut torn = log.0.clone();
            torn[at..(at + 512).min(log.end())].fill(0xA5);
            for (what, bytes) in [("cut", &log.0[..at]), ("torn", &torn)] {
                let left = leave(directory.path());
                fs::write(Log::path(left.path()), bytes).expect("write");
                let rows = list(&sqlite(left.path()), everything()).await;
                assert!(
                    Some(&rows) == there,
                    "{what} at {at}: {:?}",
                    rows.iter().map(|row| row.head.version).collect::<Vec<_>>()
                );
            }
        }
        // All is folded back into the file, and the log begins anew over its old frames.
        let connection =
            rusqlite::Connection::open(directory.path().join("ledger.db")).expect("open");
        connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).expect("checkpoint");
        commits = vec![(0, list(&store, everything()).await)];
    }
}

#[tokio::test]
async fn a_file_that_is_cut_short_beside_its_log_is_made_whole_by_it_or_refused() {
    let directory = tempfile::tempdir().expect("directory");
    let store = sqlite(directory.path());
    let mut commits = Vec::new();
    commit(&store, directory.path(), 1..=2, &mut commits).await;
    let connection = rusqlite::Connection::open(directory.path().join("ledger.db")).expect("open");
    connection.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(())).expect("checkpoint");
    let mut refused = 0;
    // The log holds all that the file does, until the next commit.
    for begun_anew in [false, true] {
        if begun_anew {
            commit(&store, directory.path(), 3..=3, &mut commits).await;
        }
        let whole = fs::read(directory.path().join("ledger.db")).expect("read");
        for cut in (1000..whole.len()).step_by(1000) {
            let left = leave(directory.path());
            let path = left.path().join("ledger.db");
            fs::write(&path, &whole[..cut]).expect("write");
            match Sqlite::open(&path, Arc::new(())) {
                Err(error) => {
                    assert!(begun_anew, "cut at {cut}: {error}");
                    refused += 1;
                }
                Ok(store) => {
                    let rows = list(&store, everything()).await;
                    assert!(Some(&rows) == commits.last().map(|(_, rows)| rows), "cut at {cut}");
                }
            }
        }
    }
    assert!(refused > 0, "none was short of a page that its log has not");
}

#[tokio::test]
async fn an_empty_file_beside_a_log_is_refused_and_the_log_is_left_alone() {
    let directory = tempfile::tempdir().expect("directory");
    let store = sqlite(directory.path());
    commit(&store, directory.path(), 1..=1, &mut Vec::new()).await;
    let left = leave(directory.path());
    let path = left.path().join("ledger.db");
    fs::write(&path, "").expect("write");
    assert!(refusal(&path).contains("move the log away too"));
    fs::remove_file(&path).expect("remove");
    assert!(refusal(&path).contains("move the log away too"));
    assert!(Log::read(left.path()).0 == Log::read(directory.path()).0);
}
