//! A ledger that a command changes while workers may have it open.
//!
//! A command claims nothing. It writes a record on the condition that no one has since it was read,
//! as workers do among themselves, and they notice: a worker with a ledger of its own sees that
//! another process has written to it, and one that shares a table is told with its next renewal.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{Ledger, LedgerError, OpenError, Sqlite, Store};
use crate::clock::Clock;
use crate::lifecycle::WorkerId;
use crate::step::CallbackToken;

/// A command has no claims, so it needs no lease; this only bounds how long it may wait.
const LEASE: Duration = Duration::from_mins(1);

/// Opens a SQLite ledger for single writes, which a daemon may have open at the same time.
///
/// # Errors
/// [`OpenError`] if it cannot be written.
pub fn open_beside(path: &Path) -> Result<Arc<dyn Store>, OpenError> {
    Ok(Arc::new(Sqlite::open_beside(path)?))
}

/// Opens a SQLite ledger even if it is an older copy, which is the ledger from now on. No daemon
/// may have it open.
///
/// # Errors
/// [`OpenError`] if it cannot be used.
pub fn accept(path: &Path) -> Result<Arc<dyn Store>, OpenError> {
    Ok(Arc::new(Sqlite::accept(path)?))
}

impl Ledger {
    /// The ledger of a command, which reads and writes single records.
    #[must_use]
    pub fn beside(store: Arc<dyn Store>) -> Self {
        let me = WorkerId(format!("command/{:08x}", fastrand::u32(..)).into());
        let clock = store.clock().unwrap_or_else(Clock::of_this_machine);
        Self::new(store, me, LEASE, clock, Arc::new(()))
    }

    /// The time of its records.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Tells the workers of a shared ledger, with their next renewals, that a command has changed a
    /// step.
    ///
    /// # Errors
    /// [`LedgerError::Store`] if not all of them are told.
    pub async fn announce(&self, token: &CallbackToken) -> Result<(), LedgerError> {
        let Some(workers) = self.store.workers() else { return Ok(()) };
        for member in workers.all().await? {
            workers.flag(&member.id, token).await?;
        }
        Ok(())
    }

    /// A number that is another one once a command has changed a step of a ledger that is not
    /// shared.
    ///
    /// # Errors
    /// [`LedgerError::Store`].
    pub(crate) async fn changes_from_outside(&self) -> Result<u64, LedgerError> {
        Ok(self.store.changes_from_outside().await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Commit, Memory, Renewed, Written};
    use crate::lifecycle::{Completed, Record, Status, complete};
    use crate::outcome::{Outcome, Outputs};
    use crate::step::Message;

    fn deferred() -> Record {
        let step = Message::parse(include_str!("../../tests/fixtures/executing.json"))
            .expect("message")
            .step()
            .clone();
        let queue = "https://sqs.us-east-1.amazonaws.com/123456789012/q".parse().expect("a queue");
        let record = Record::of_message(step, queue, Some("h".into()), Timestamp::UNIX_EPOCH);
        Record { status: Status::Deferred, key: Some("ORDER-17".parse().expect("a key")), ..record }
    }

    async fn answered(ledger: &Ledger, token: &CallbackToken) -> Written {
        let record = ledger.load(token).await.expect("it works").expect("it is there");
        let answer = Outcome::Success(Outputs::new());
        let Ok(Completed::Now(record)) = complete(&record, answer, ledger.now()) else {
            panic!("it takes an answer")
        };
        ledger.write(*record, Commit::Now).await.expect("it works")
    }

    #[tokio::test]
    async fn a_daemon_that_has_the_file_open_sees_what_a_command_writes_and_that_it_did() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.db");
        let absent = open_beside(&path).err().expect("no file").to_string();
        assert!(absent.contains("does not exist"), "{absent}");
        let store = Arc::new(Sqlite::open(&path, Arc::new(())).expect("it opens"));
        let me = WorkerId("me".into());
        let daemon = Ledger::new(store, me, LEASE, Clock::of_this_machine(), Arc::new(()));
        let Ok(Written::Done(step)) = daemon.write(deferred(), Commit::Now).await else {
            panic!("it is written")
        };
        let before = daemon.changes_from_outside().await.expect("it works");
        let Ok(Written::Done(step)) = daemon.write(*step, Commit::Now).await else {
            panic!("it is written")
        };
        let own = daemon.changes_from_outside().await.expect("it works");
        assert_eq!(own, before, "what it writes itself is no news");

        let command = Ledger::beside(open_beside(&path).expect("it opens beside the daemon"));
        assert!(matches!(answered(&command, &step.token).await, Written::Done(_)));
        drop(command);
        assert_ne!(daemon.changes_from_outside().await.expect("it works"), before);
        let read = daemon.load(&step.token).await.expect("it works").expect("it is there");
        assert_eq!((read.status, read.owner), (Status::Concluded, None));
        assert_eq!(read.key, step.key);
        let late = daemon.write(*step, Commit::Now).await;
        assert_eq!(late, Ok(Written::Changed), "the first answer counts");
        assert!(path.with_extension("db-wal").exists(), "the daemon's log is left to the daemon");
    }

    #[tokio::test(start_paused = true)]
    async fn the_workers_of_a_shared_ledger_are_told_with_their_next_renewals() {
        let store = Memory::shared();
        let worker = |name: &str| {
            let clock = Clock::starting_at(Timestamp::UNIX_EPOCH);
            let (store, id) = (Arc::new(store.clone()), WorkerId(name.into()));
            Ledger::new(store, id, LEASE, clock, Arc::new(()))
        };
        let workers = [worker("first"), worker("second")];
        for ledger in &workers {
            assert_eq!(ledger.renew(String::new()).await, Ok(Renewed::Holds(vec![])));
        }
        let Ok(Written::Done(step)) = workers[0].write(deferred(), Commit::Now).await else {
            panic!("it is written")
        };
        let command = Ledger::beside(Arc::new(store.clone()));
        assert!(matches!(answered(&command, &step.token).await, Written::Done(_)));
        command.announce(&step.token).await.expect("it works");
        for ledger in &workers {
            assert_eq!(
                ledger.renew(String::new()).await,
                Ok(Renewed::Holds(vec![step.token.clone()]))
            );
        }
        assert_eq!(command.changes_from_outside().await, Ok(0), "they are told instead");
    }
}
