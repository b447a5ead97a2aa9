//! Which steps the file may hold, in memory. Most steps that a queue brings are new, and then the
//! disk need not be read.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::file;
use crate::step::CallbackToken;

/// A Bloom filter over the tokens of all rows that ever existed. It never misses one; with a
/// million rows it takes one unknown token in five hundred for known, which costs a read.
pub(super) struct Known {
    path: PathBuf,
    set: Arc<Set>,
    /// Reads what the file held when it was opened; started by the first question, so that it
    /// delays no start.
    filling: OnceLock<Option<JoinHandle<()>>>,
}

struct Set {
    /// Memory that the system allocates only as it is written to.
    words: Mutex<Vec<u64>>,
    /// It contains everything that the file held.
    complete: AtomicBool,
    closed: AtomicBool,
}

const WORDS: usize = 1 << 18;
/// Words of one cache line, and their bits.
const LINE: usize = 8;
const BITS: u64 = 64 * LINE as u64;
const LINES: u64 = (WORDS / LINE) as u64;
const HASHES: u64 = 4;
/// Tokens that are read at a time.
const AT_ONCE: usize = 10_000;

impl Known {
    pub(super) fn of_file(path: &Path) -> Self {
        let set = Set {
            words: Mutex::new(vec![0; WORDS]),
            complete: AtomicBool::default(),
            closed: AtomicBool::default(),
        };
        Self { path: path.to_owned(), set: Arc::new(set), filling: OnceLock::new() }
    }

    /// From now on the file may hold the step.
    pub(super) fn add(&self, token: &CallbackToken) {
        self.set.add(token.as_str());
    }

    /// `false` only for a step that the file does not hold.
    pub(super) fn may_hold(&self, token: &CallbackToken) -> bool {
        if self.set.complete.load(Ordering::Acquire) {
            return self.set.may_hold(token.as_str());
        }
        self.filling.get_or_init(|| self.fill());
        true
    }

    /// Without the thread every step is looked up on the disk.
    fn fill(&self) -> Option<JoinHandle<()>> {
        let (path, set) = (self.path.clone(), self.set.clone());
        let fill = move || {
            let filled = file::beside(&path).map_err(|error| error.to_string());
            let filled = filled
                .and_then(|connection| set.fill(&connection).map_err(|error| error.to_string()));
            if let Err(error) = filled {
                tracing::debug!(
                    error,
                    "the ledger's steps could not be listed; each is looked up when its message \
                     arrives"
                );
            }
        };
        std::thread::Builder::new().name("ledger-known".to_owned()).spawn(fill).ok()
    }
}

impl Drop for Known {
    /// The writer must close the file last.
    fn drop(&mut self) {
        self.set.closed.store(true, Ordering::Release);
        if let Some(filling) = self.filling.take().flatten() {
            // The panic hook reports a panic.
            let _ = filling.join();
        }
    }
}

impl Set {
    fn fill(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut statement = connection
            .prepare("SELECT token FROM steps WHERE token > ?1 ORDER BY token LIMIT ?2")?;
        let mut after = String::new();
        while !self.closed.load(Ordering::Acquire) {
            let mut rows = statement.query((&after, AT_ONCE))?;
            let mut last = None;
            while let Some(row) = rows.next()? {
                let token: String = row.get(0)?;
                self.add(&token);
                last = Some(token);
            }
            match last {
                Some(last) => after = last,
                None => {
                    self.complete.store(true, Ordering::Release);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn add(&self, token: &str) {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        for (word, bit) in places(token) {
            words[word] |= bit;
        }
    }

    fn may_hold(&self, token: &str) -> bool {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        places(token).all(|(word, bit)| words[word] & bit != 0)
    }
}

/// All in one cache line: a question waits for memory once.
fn places(token: &str) -> impl Iterator<Item = (usize, u64)> {
    let mut hasher = DefaultHasher::new();
    token.hash(&mut hasher);
    let hash = hasher.finish();
    let first = usize::try_from(hash % LINES).unwrap_or_default() * LINE;
    // The bits above the line's number select the places in it, nine bits for each.
    (0..HASHES).map(move |number| {
        let bit = (hash >> (16 + 9 * number)) % BITS;
        (first + usize::try_from(bit / 64).unwrap_or_default(), 1 << (bit % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(number: u32) -> CallbackToken {
        format!("t{number:09}").parse().expect("a token")
    }

    #[test]
    fn what_the_file_held_and_what_was_added_is_known_and_hardly_anything_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger.db");
        let (connection, _lock) = file::open(&path).expect("it opens");
        let insert = "INSERT INTO steps (token, version, status, queue, execution, flagged, \
                      correction, rest, digest, body) \
                      VALUES (?1, 1, 'settled', '', '', 0, 0, '', '', '')";
        let transaction = connection.unchecked_transaction().expect("a transaction");
        for number in 0..25_000 {
            connection.execute(insert, [token(number).as_str()]).expect("inserted");
        }
        transaction.commit().expect("committed");

        let known = Known::of_file(&path);
        known.add(&token(1_000_000));
        assert!(known.may_hold(&token(2_000_000)), "nothing is known of the file yet");
        while !known.set.complete.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        assert!((0..25_000).chain([1_000_000]).all(|number| known.may_hold(&token(number))));
        let mistaken =
            (2_000_000..2_010_000).filter(|number| known.may_hold(&token(*number))).count();
        assert!(mistaken < 10, "{mistaken} of 10,000");
    }

    #[test]
    fn a_file_that_cannot_be_listed_may_hold_anything() {
        let directory = tempfile::tempdir().expect("a directory");
        let known = Known::of_file(&directory.path().join("absent/ledger.db"));
        assert!(known.may_hold(&token(1)));
        if let Some(Some(filling)) = known.filling.get() {
            while !filling.is_finished() {
                std::thread::yield_now();
            }
        }
        assert!(known.may_hold(&token(1)));
    }
}
