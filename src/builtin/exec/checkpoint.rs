//! The checkpoint of one run: `$STEP_CHECKPOINT`, saved when it changes and when the program has
//! ended.
//!
//! A half-written file must not replace a good checkpoint: a file that was renamed into place
//! counts at once, any other once it has not changed for a moment, an empty or missing one never.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::Saved;
use super::watch::{Notice, Notices};
use super::workspace::{CHECKPOINT, Found, Workspace};
use crate::backoff::{Backoff, Failures};
use crate::handler::{CheckpointError, Context, StopReason};

/// Saves one run's checkpoint.
pub(super) struct Checkpoint<'a> {
    cx: &'a Context,
    workspace: &'a Workspace,
    saved: Saved,
    /// It was logged that the file is missing or empty.
    told: bool,
    /// Why the content of the file cannot be saved.
    unkept: Option<String>,
    /// How many consecutive times it could not be read or saved.
    failures: Failures,
}

/// How long a file that is written in place must not have changed.
const STILL: Duration = Duration::from_millis(50);
/// How soon a failed save is tried again.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// When to look at the file again; `None` if the ledger has everything worth saving.
type LookAgain = Option<Duration>;

impl<'a> Checkpoint<'a> {
    pub(super) fn new(cx: &'a Context, workspace: &'a Workspace, saved: Saved) -> Self {
        Self { cx, workspace, saved, told: false, unkept: None, failures: Failures::default() }
    }

    /// Saves what the program writes, until `over` and the save under way has ended. What is not
    /// saved then, or when it is dropped, [`finish`](Self::finish) saves.
    pub(super) async fn keep(&mut self, over: &Notify) {
        let notices = Notices::of(&self.workspace.files(), CHECKPOINT);
        // The program may have written before the watch began.
        let (mut due, mut seen) = (Some(Instant::now() + STILL), None);
        loop {
            let at = due.unwrap_or_else(Instant::now);
            let notice = tokio::select! {
                biased;
                () = over.notified() => return,
                notice = notices.next() => Some(notice),
                () = sleep_until(at), if due.is_some() => None,
            };
            match notice {
                Some(Notice::Replaced) => {
                    seen = Some(self.workspace.checkpoint_stamp());
                    due = Some(Instant::now());
                }
                Some(Notice::Written) => {
                    seen = Some(self.workspace.checkpoint_stamp());
                    due = Some(Instant::now() + STILL);
                }
                None => {
                    let now = self.workspace.checkpoint_stamp();
                    let again = if seen == Some(now) { self.look().await } else { Some(STILL) };
                    seen = Some(now);
                    due = again.map(|wait| Instant::now() + wait);
                }
            }
        }
    }

    /// Saves what the program left, however long that takes, or returns why it cannot be saved. A
    /// lost claim ends it: the step belongs to another worker.
    pub(super) async fn finish(mut self) -> Option<String> {
        while let Some(wait) = self.look().await {
            if self.cx.stop_reason() == Some(StopReason::LeaseLost) {
                break;
            }
            sleep(wait).await;
        }
        self.unkept
    }

    async fn look(&mut self) -> LookAgain {
        let before = self.workspace.checkpoint_stamp();
        let found = self.workspace.read_checkpoint();
        if self.workspace.checkpoint_stamp() != before {
            // It was written to while it was read.
            return Some(STILL);
        }
        let content = match found {
            Ok(Found::Content(content)) => content,
            Ok(Found::Missing) => return self.without("missing"),
            Ok(Found::Empty) => return self.without("empty"),
            Err(error) => {
                if let Some(what) = error.trouble() {
                    self.cx.hindered_by(what, &error.to_string());
                    return Some(self.failed(&error.to_string()));
                }
                return self.unkept(format!("the checkpoint cannot be kept: {error}"));
            }
        };
        if self.saved.file.as_ref() == Some(&content) {
            return self.kept();
        }
        let next = Saved::by(&self.workspace.name(), content);
        match self.cx.save_checkpoint(&next).await {
            Ok(()) => {
                self.saved = next;
                self.workspace.is_kept(self.saved.file.as_ref());
                self.kept()
            }
            Err(error @ CheckpointError::Unfit(_)) => self.unkept(error.to_string()),
            Err(error) => {
                self.unkept = None;
                Some(self.failed(&error.to_string()))
            }
        }
    }

    /// What the file holds now can never be saved.
    fn unkept(&mut self, why: String) -> LookAgain {
        if self.unkept.as_ref() != Some(&why) {
            tracing::warn!(event = "checkpoint_unfit", "{why}; one that was saved before is kept");
        }
        self.unkept = Some(why);
        None
    }

    fn kept(&mut self) -> LookAgain {
        self.unkept = None;
        self.done()
    }

    fn done(&mut self) -> LookAgain {
        self.failures.end();
        None
    }

    fn failed(&mut self, error: &str) -> Duration {
        if self.failures.count() == 0 {
            // The engine warns of a ledger that does not accept a record.
            tracing::debug!(error, "the checkpoint could not be saved; it is tried again");
        }
        // A run waits only for its own file, so there is nothing to spread out.
        self.failures.another(AGAIN, 1.0)
    }

    /// Nothing that could replace the saved checkpoint.
    fn without(&mut self, what: &str) -> LookAgain {
        if self.saved.file.is_some() && !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                event = "checkpoint_withdrawn",
                "STEP_CHECKPOINT is {what}; the last checkpoint that was saved is kept"
            );
        }
        self.done()
    }
}
