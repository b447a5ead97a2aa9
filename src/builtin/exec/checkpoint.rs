//! The checkpoint of one run: `$STEP_CHECKPOINT`, saved as it changes and when the program has
//! ended.
//!
//! A file that is being written must not replace a good checkpoint: one that was renamed into place
//! counts at once, any other once it has not changed for a moment, an empty or missing one never.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::Saved;
use super::watch::{Notice, Notices};
use super::workspace::{CHECKPOINT, Found, Workspace};
use crate::backoff::Backoff;
use crate::handler::{Context, HandlerError, StopReason};

/// Keeps one run's checkpoint.
pub(super) struct Checkpoint<'a> {
    cx: &'a Context,
    workspace: &'a Workspace,
    saved: Saved,
    /// It was said that the file is missing or empty.
    told: bool,
    /// Why what the file holds cannot be kept.
    unkept: Option<String>,
    /// How often in a row it could not be read or saved.
    failures: u32,
}

/// How long a file must not have changed that is written in place.
const STILL: Duration = Duration::from_millis(50);
/// How soon what could not be saved is tried again.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// What came of a look at the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// What is worth it is in the ledger.
    Done,
    /// It was written while it was read.
    Moving,
    Failed,
}

impl<'a> Checkpoint<'a> {
    pub(super) fn new(cx: &'a Context, workspace: &'a Workspace, saved: Saved) -> Self {
        Self { cx, workspace, saved, told: false, unkept: None, failures: 0 }
    }

    /// Saves what the program writes, for as long as it is polled. Whatever is not saved when it is
    /// dropped, [`finish`](Self::finish) saves.
    pub(super) async fn keep(&mut self) {
        let notices = Notices::of(self.workspace.directory(), CHECKPOINT);
        // The program may have written before it was watched.
        let (mut due, mut seen) = (Some(Instant::now() + STILL), None);
        loop {
            let at = due.unwrap_or_else(Instant::now);
            let notice = tokio::select! {
                biased;
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
                    let look = if seen == Some(now) { self.look().await } else { Look::Moving };
                    seen = Some(now);
                    due = match look {
                        Look::Done => None,
                        Look::Moving => Some(Instant::now() + STILL),
                        Look::Failed => Some(Instant::now() + self.pause()),
                    };
                }
            }
        }
    }

    /// Saves what the program has left, for as long as it takes, or says why it cannot be kept. A
    /// claim that is lost ends it: the step is another's.
    pub(super) async fn finish(mut self) -> Option<String> {
        while self.look().await != Look::Done
            && self.cx.stop_reason() != Some(StopReason::LeaseLost)
        {
            sleep(self.pause()).await;
        }
        self.unkept
    }

    async fn look(&mut self) -> Look {
        let before = self.workspace.checkpoint_stamp();
        let found = self.workspace.read_checkpoint();
        if self.workspace.checkpoint_stamp() != before {
            return Look::Moving;
        }
        let content = match found {
            Ok(Found::Content(content)) => content,
            Ok(Found::Missing) => return self.without("missing"),
            Ok(Found::Empty) => return self.without("empty"),
            Err(error) => {
                if let Some(what) = error.trouble() {
                    self.cx.hindered_by(what, &error.to_string());
                    return self.failed(&error.to_string());
                }
                let unkept = format!("the checkpoint cannot be kept: {error}");
                if self.unkept.as_ref() != Some(&unkept) {
                    tracing::warn!("{unkept}; the last one that could be is");
                }
                self.unkept = Some(unkept);
                return Look::Done;
            }
        };
        self.unkept = None;
        if self.saved.file.as_ref() == Some(&content) {
            return self.done();
        }
        let next = Saved { file: Some(content), ..self.saved.clone() };
        match self.cx.save_checkpoint(&next).await {
            Ok(()) => {
                self.saved = next;
                self.workspace.is_kept(self.saved.file.as_ref());
                self.done()
            }
            Err(error) => self.failed(&error.to_string()),
        }
    }

    fn done(&mut self) -> Look {
        self.failures = 0;
        Look::Done
    }

    fn failed(&mut self, error: &str) -> Look {
        if self.failures == 0 {
            tracing::warn!(error, "the checkpoint could not be saved; it is tried again");
        }
        self.failures += 1;
        Look::Failed
    }

    /// There is nothing that could take the place of what is saved.
    fn without(&mut self, what: &str) -> Look {
        if self.saved.file.is_some() && !std::mem::replace(&mut self.told, true) {
            tracing::warn!("STEP_CHECKPOINT is {what}; the last checkpoint that was saved is kept");
        }
        self.done()
    }

    fn pause(&self) -> Duration {
        // One run waits for its own file: there are no others to keep apart from.
        AGAIN.after(self.failures, 1.0)
    }
}

/// Takes over what the run before wrote and its daemon could not save: durable when this returns.
pub(super) async fn recover(cx: &Context, saved: Saved) -> Result<Saved, HandlerError> {
    let Some(left) = saved.left_behind(cx) else { return Ok(saved) };
    let content = match left.read_checkpoint() {
        Ok(Found::Content(content)) if saved.file.as_ref() != Some(&content) => content,
        Ok(_) => return Ok(saved),
        Err(error) => {
            if let Some(what) = error.trouble() {
                return Err(HandlerError::host(
                    what,
                    format_args!("what the last run left cannot be read: {error}"),
                ));
            }
            tracing::warn!(%error, "the checkpoint that the last run left is passed over");
            return Ok(saved);
        }
    };
    let next = Saved { file: Some(content), ..saved };
    cx.save_checkpoint(&next).await?;
    left.is_kept(next.file.as_ref());
    tracing::info!("the checkpoint that the last run left is taken over");
    Ok(next)
}
