//! The writing thread: all waiting jobs go into one transaction, so that one flush of the disk
//! serves them all.

use std::time::Duration;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::time::Instant;

use super::inbox::{Haste, Inbox, Job, Respond};
use crate::ledger::store::StoreError;
use crate::seam::{Observation, Observer};

/// Jobs in one transaction: some milliseconds of work beside the flush.
const FOLDED: usize = 512;
/// How long a commit waits for more jobs, if the last one had several: less than a flush takes.
const COMPANY: Duration = Duration::from_micros(300);

/// Serves jobs until no more can come.
pub(super) fn serve(connection: &Connection, inbox: &Inbox, observer: &dyn Observer) {
    let mut expected = 0;
    while let Some(jobs) = inbox.take(FOLDED) {
        // Nothing is written, so nothing is committed.
        if jobs.iter().all(|job| job.haste == Haste::Look) {
            for job in jobs {
                (job.act)(Ok(connection))(None);
            }
            continue;
        }
        let began = Instant::now();
        let mut fold = Fold::default();
        let failure = fold
            .write(connection, jobs, inbox, expected)
            .err()
            .map(|error| StoreError(error.to_string()));
        observer.observe(Observation::LedgerCommit { took: began.elapsed() });
        expected = fold.urgent;
        for answer in fold.answers {
            answer(failure.as_ref());
        }
    }
}

/// The jobs of one commit.
#[derive(Default)]
struct Fold {
    answers: Vec<Respond>,
    /// How many of them are urgent.
    urgent: usize,
}

impl Fold {
    /// Commits `jobs`, and those that arrive in time. As many as last time are `expected`; a single
    /// one expects no other.
    fn write(
        &mut self,
        connection: &Connection,
        jobs: Vec<Job>,
        inbox: &Inbox,
        expected: usize,
    ) -> rusqlite::Result<()> {
        let transaction =
            match Transaction::new_unchecked(connection, TransactionBehavior::Immediate) {
                Ok(transaction) => transaction,
                Err(error) => {
                    // Another process holds the lock. Jobs that came meanwhile need not wait for it
                    // once more.
                    let jobs = jobs.into_iter().chain(inbox.more(usize::MAX, 0, Instant::now()));
                    let failure = StoreError(error.to_string());
                    self.answers.extend(jobs.map(|job| (job.act)(Err(&failure))));
                    return Err(error);
                }
            };
        self.perform(&transaction, jobs);
        let until = Instant::now() + COMPANY;
        while self.answers.len() < FOLDED {
            let company = if expected > 1 { expected.saturating_sub(self.urgent) } else { 0 };
            let jobs = inbox.more(FOLDED - self.answers.len(), company, until);
            if jobs.is_empty() {
                break;
            }
            self.perform(&transaction, jobs);
        }
        transaction.commit()
    }

    fn perform(&mut self, transaction: &Transaction<'_>, jobs: Vec<Job>) {
        for job in jobs {
            self.urgent += usize::from(job.is_urgent());
            // If the disk is full, SQLite rolls back by itself; later statements would be committed
            // one by one.
            let broken = transaction
                .is_autocommit()
                .then(|| StoreError("the transaction was rolled back".to_owned()));
            self.answers.push((job.act)(broken.as_ref().map_or(Ok(&**transaction), Err)));
        }
    }
}
