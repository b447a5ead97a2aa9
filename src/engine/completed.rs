//! Notices deferred steps that were answered through the ledger, and has the answers reported; and
//! those that were forgotten, and lets go of them.
//!
//! A ledger of this worker's own tells whether another process has written to it, which only a
//! command does. The workers of a shared one are told with the renewals of their leases.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::dispatch::{send_or_start, tell, wake};
use super::driver::Origin;
use super::inbox::{Absent, Input};
use super::shared::Shared;
use crate::ledger::{Filter, LedgerError};
use crate::lifecycle::{Event, Status};
use crate::step::CallbackToken;

/// How late an answer is noticed. As long as nothing is deferred, nothing is asked.
const EVERY: Duration = Duration::from_secs(2);

/// Looks for answers in a ledger of this worker's own, until dropped.
pub(crate) async fn notice(shared: Arc<Shared>) {
    if shared.ledger.is_shared() {
        return std::future::pending().await;
    }
    let mut seen = None;
    loop {
        sleep(EVERY).await;
        if shared.lanes.iter().all(|lane| lane.deferred.len() == 0) {
            continue;
        }
        match look(&shared, seen).await {
            Ok(changes) => seen = Some(changes),
            // The ledger has logged it. The next look is for the same changes.
            Err(error) => tracing::debug!(%error, "answers could not be looked for"),
        }
    }
}

/// Has what was answered since the changes in `seen` reported, and lets go of what was forgotten;
/// returns the present ones.
async fn look(shared: &Arc<Shared>, seen: Option<u64>) -> Result<u64, LedgerError> {
    let changes = shared.ledger.changes_from_outside().await?;
    if seen == Some(changes) {
        return Ok(changes);
    }
    // Before the ledger is read: what is deferred meanwhile is in it.
    let mut forgotten: BTreeSet<CallbackToken> =
        shared.lanes.iter().flat_map(|lane| lane.deferred.tokens()).collect();
    let mut filter = Filter::of(&[Status::Concluded, Status::Deferred]);
    loop {
        let page = shared.ledger.outlines(filter.clone()).await?;
        for step in page.found.into_iter().flatten() {
            forgotten.remove(&step.token);
            // What this worker has concluded itself is being reported.
            let is_reported = shared.lanes.iter().any(|lane| lane.unreported.contains(&step.token));
            if step.status == Status::Concluded && !is_reported {
                read_again(shared, &step.token).await;
            }
        }
        match page.next {
            Some(next) => filter.after = Some(next),
            None => break,
        }
    }
    for token in &forgotten {
        read_again(shared, token).await;
    }
    Ok(changes)
}

async fn read_again(shared: &Arc<Shared>, token: &CallbackToken) {
    tell(shared, token, Input::Flagged);
    wake(shared, token, Input::Event(Event::Found), Absent::Start).await;
}

/// A step in the ledger has been changed by another worker, or by a command; or its execution is to
/// be asked about.
pub(crate) fn flagged(shared: &Arc<Shared>, token: &CallbackToken) {
    shared.watch.ask_again(token);
    // One with a driver reads its record again before it decides anything else.
    tell(shared, token, Input::Flagged);
    let found = Input::Event(Event::Found);
    // Every worker is told of it, and the one that watches the deferred step acts.
    if shared.lanes.iter().any(|lane| lane.deferred.contains(token)) {
        send_or_start(shared, token, found, Origin::Ledger);
    } else {
        tell(shared, token, found);
    }
}
