//! What is kept of a step under test.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::watch;

use crate::handler::{CheckpointError, CheckpointSink, Progress};
use crate::step::StepKey;

/// What the worker would keep of the step, and what the test observes.
pub(super) struct Kept {
    pub(super) attempt: AtomicU32,
    pub(super) claims: AtomicU64,
    pub(super) checkpoints: watch::Sender<Checkpoints>,
    pub(super) key: Mutex<Option<StepKey>>,
    pub(super) progress: watch::Sender<Vec<Progress>>,
    pub(super) hindrance: Mutex<Option<String>>,
    pub(super) log: Arc<Mutex<Vec<u8>>>,
    /// Removed at the end.
    pub(super) work_dir: Arc<Path>,
}

/// The saved ones in order, and how saving works at present.
#[derive(Default)]
pub(super) struct Checkpoints {
    pub(super) saved: Vec<Value>,
    /// The ledger fails this many more times.
    pub(super) refusals: usize,
    /// Nothing is saved while this holds.
    pub(super) held: bool,
    /// The save that reaches this number never returns: the process is dead.
    pub(super) last: Option<usize>,
}

impl Kept {
    /// Waits until the test lets something be saved, or refuses it.
    async fn accepted(&self) -> Result<(), CheckpointError> {
        // The sender is part of `self`, so this can only return once nothing is held.
        let _ = self.checkpoints.subscribe().wait_for(|checkpoints| !checkpoints.held).await;
        let mut refused = false;
        self.checkpoints.send_modify(|checkpoints| {
            refused = checkpoints.refusals > 0;
            checkpoints.refusals = checkpoints.refusals.saturating_sub(1);
        });
        if refused {
            return Err(CheckpointError::Failed("the test refuses it".to_owned()));
        }
        Ok(())
    }
}

impl CheckpointSink for Kept {
    fn save(&self, checkpoint: Value) -> BoxFuture<'_, Result<(), CheckpointError>> {
        Box::pin(async move {
            self.accepted().await?;
            let mut dead = false;
            self.checkpoints.send_modify(|checkpoints| {
                checkpoints.saved.push(checkpoint);
                dead = checkpoints.last.is_some_and(|last| checkpoints.saved.len() >= last);
            });
            if dead {
                std::future::pending::<()>().await;
            }
            Ok(())
        })
    }

    fn set_key(&self, key: StepKey) -> BoxFuture<'_, Result<(), CheckpointError>> {
        Box::pin(async move {
            self.accepted().await?;
            *locked(&self.key) = Some(key);
            Ok(())
        })
    }

    fn progress(&self, progress: Progress) {
        self.progress.send_modify(|all| all.push(progress));
    }

    fn hindered(&self, by: Option<(&'static str, &str)>) {
        *locked(&self.hindrance) = by.map(|(what, error)| format!("{what}: {error}"));
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Most handlers have created none.
        let _ = std::fs::remove_dir_all(&self.work_dir);
    }
}

/// Writes to the step's log.
pub(super) struct Lines(pub(super) Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        locked(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
