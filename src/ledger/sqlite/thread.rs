//! A thread that exclusively uses one connection: it ends when it is closed, and any other end is
//! reported.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};

use super::inbox::{Haste, Inbox, Job, Respond};
use crate::ledger::store::StoreError;

/// Where threads report that they have ended, and why.
pub(super) type Ended = Arc<watch::Sender<Option<String>>>;

/// A thread and its waiting jobs. Dropping it performs them all, closes the connection and joins
/// the thread.
pub(super) struct Thread {
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
}

impl Thread {
    /// Starts a thread that serves its inbox until that is closed.
    pub(super) fn start(
        name: &'static str,
        connection: Connection,
        ended: Ended,
        serve: impl FnOnce(Connection, &Inbox) + Send + 'static,
    ) -> std::io::Result<Self> {
        let inbox = Arc::new(Inbox::new());
        let work = inbox.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let end = catch_unwind(AssertUnwindSafe(|| serve(connection, &work)));
            let closed = work.abandon();
            if let Err(panic) = &end {
                ended.send_replace(Some(format!(
                    "the thread {name} panicked: {}",
                    text_of(panic.as_ref())
                )));
            } else if !closed {
                ended.send_replace(Some(format!("the thread {name} has ended")));
            }
        })?;
        Ok(Self { inbox, thread: Some(thread) })
    }

    /// Has the thread perform a job, and waits for the answer.
    pub(super) fn ask<T, A>(
        &self,
        haste: Haste,
        act: A,
    ) -> impl Future<Output = Result<T, StoreError>> + use<T, A>
    where
        T: Send + 'static,
        A: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let act = move |connection: Result<&Connection, &StoreError>| -> Respond {
            let result = connection
                .map_err(StoreError::clone)
                .and_then(|connection| perform(act, connection));
            Box::new(move |failure| {
                // The caller may have gone.
                let _ = reply.send(failure.map_or(result, |failure| Err(failure.clone())));
            })
        };
        let (inbox, job) = (self.inbox.clone(), Job { haste, act: Box::new(act) });
        async move {
            let gone = || StoreError("the ledger's thread has ended".to_owned());
            if !inbox.push(job).await {
                return Err(gone());
            }
            answer.await.map_err(|_| gone())?
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.inbox.close();
        if let Some(thread) = self.thread.take() {
            // A panic was reported where it was caught.
            let _ = thread.join();
        }
    }
}

/// A job that panics fails alone: SQLite is called only by whole statements, so the transaction is
/// intact.
fn perform<T>(
    act: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    connection: &Connection,
) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(|| act(connection))) {
        Ok(result) => result.map_err(|error| StoreError(error.to_string())),
        Err(panic) => {
            let detail = text_of(panic.as_ref());
            tracing::error!(
                event = "ledger_broken",
                detail,
                "internal error in the ledger: this is a bug in callbackd, please report it"
            );
            Err(StoreError(format!("internal error: {detail}")))
        }
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(
        serve: impl FnOnce(Connection, &Inbox) + Send + 'static,
    ) -> (Thread, watch::Receiver<Option<String>>) {
        let (ended, seen) = watch::channel(None);
        let connection = Connection::open_in_memory().expect("memory");
        (Thread::start("ledger", connection, Arc::new(ended), serve).expect("a thread"), seen)
    }

    #[expect(clippy::needless_pass_by_value, reason = "as a thread takes it")]
    fn answers(connection: Connection, inbox: &Inbox) {
        while let Some(jobs) = inbox.take(1) {
            for job in jobs {
                (job.act)(Ok(&connection))(None);
            }
        }
    }

    #[tokio::test]
    async fn a_job_that_panics_fails_alone() {
        let (thread, seen) = started(answers);
        let failed =
            thread.ask(Haste::Urgent, |_| -> rusqlite::Result<()> { panic!("on purpose") }).await;
        assert_eq!(failed, Err(StoreError("internal error: on purpose".to_owned())));
        assert_eq!(thread.ask(Haste::Urgent, |_| Ok(7)).await, Ok(7));
        drop(thread);
        assert!(seen.has_changed().is_err(), "a thread that was closed has nothing to say");
    }

    #[tokio::test]
    async fn a_thread_that_ends_by_itself_says_so_and_lets_go_of_who_waits() {
        let (thread, mut seen) = started(|_, inbox| {
            inbox.take(1);
        });
        let gone = Err(StoreError("the ledger's thread has ended".to_owned()));
        assert_eq!(thread.ask(Haste::Urgent, |_| Ok(())).await, gone);
        let said = seen.wait_for(Option::is_some).await.expect("said").clone();
        assert_eq!(said.as_deref(), Some("the thread ledger has ended"));
        assert_eq!(thread.ask(Haste::Urgent, |_| Ok(())).await, gone);
    }

    #[tokio::test]
    async fn a_thread_that_panics_says_with_what() {
        let (_thread, mut seen) = started(|_, _| panic!("out of luck"));
        let said = seen.wait_for(Option::is_some).await.expect("said").clone();
        assert_eq!(said.as_deref(), Some("the thread ledger panicked: out of luck"));
    }
}
