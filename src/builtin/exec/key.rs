//! `$STEP_KEY`: what the program calls its step, for those who answer it.
//!
//! It is saved while the program runs, so that the step has its key before anyone is asked for an
//! answer, and once more when the program has ended.

use std::time::Duration;

use tokio::time::sleep;

use super::watch::Notices;
use super::workspace::{KEY, Workspace};
use crate::backoff::{Backoff, Failures};
use crate::handler::{Context, KeyError, StopReason};

/// How long the program has for the rest of a line that it writes in place.
const STILL: Duration = Duration::from_millis(50);
/// How soon a key that could not be read or saved is tried again.
const AGAIN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// Saves one run's key.
pub(super) struct Key<'a> {
    cx: &'a Context,
    workspace: &'a Workspace,
    saved: Option<String>,
}

impl<'a> Key<'a> {
    pub(super) fn new(cx: &'a Context, workspace: &'a Workspace) -> Self {
        Self { cx, workspace, saved: None }
    }

    /// Saves what the program writes, as long as it is polled.
    pub(super) async fn keep(&mut self) {
        let notices = Notices::of(&self.workspace.files(), KEY);
        // The program may have written before the watch began.
        loop {
            // What is wrong with it is told once the program has ended.
            let _ = self.save().await;
            notices.next().await;
            sleep(STILL).await;
        }
    }

    /// Saves what the program left, however long that takes, or returns why it cannot be saved.
    pub(super) async fn finish(mut self) -> Option<String> {
        let mut failures = Failures::default();
        loop {
            match self.save().await {
                Ok(()) => return None,
                Err(Unsaved::Unfit(why)) => return Some(why),
                Err(Unsaved::Now) if self.cx.stop_reason() == Some(StopReason::LeaseLost) => {
                    return None;
                }
                Err(Unsaved::Now) => sleep(failures.another(AGAIN, 1.0)).await,
            }
        }
    }

    async fn save(&mut self) -> Result<(), Unsaved> {
        let key = match self.workspace.key() {
            Ok(Some(key)) if self.saved.as_ref() != Some(&key) => key,
            Ok(_) => return Ok(()),
            Err(error) => match error.trouble() {
                Some(what) => {
                    self.cx.hindered_by(what, &error.to_string());
                    return Err(Unsaved::Now);
                }
                None => return Err(Unsaved::Unfit(error.to_string())),
            },
        };
        match self.cx.set_key(&key).await {
            Ok(()) => self.saved = Some(key),
            Err(KeyError::Invalid(error)) => {
                return Err(Unsaved::Unfit(format!("STEP_KEY: {error}")));
            }
            Err(error @ KeyError::Failed(_)) => {
                // The engine warns of a ledger that does not accept a record.
                tracing::debug!(%error, "the step's key is saved later");
                return Err(Unsaved::Now);
            }
        }
        Ok(())
    }
}

/// Why a key is not saved.
enum Unsaved {
    /// The same may work later.
    Now,
    /// It never can be.
    Unfit(String),
}
