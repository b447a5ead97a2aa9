//! Keeps this worker's lease in a shared ledger: renews it, passes on what others have recorded for
//! its steps, and gives up all claims in time if it cannot be renewed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep_until, timeout_at};

use super::completed::flagged;
use super::shared::Shared;
use crate::clock::after;
use crate::ledger::{LedgerError, Renewed};
use crate::lifecycle::Event;

/// How late it is noticed that the lease has ended while the machine was suspended.
const LOOK: Duration = Duration::from_secs(1);

/// Keeps the lease until dropped.
pub(crate) async fn keep(shared: Arc<Shared>) {
    if !shared.ledger.is_shared() {
        return std::future::pending().await;
    }
    loop {
        match renewed(&shared).await {
            Ok(Renewed::Holds(stops)) => {
                for token in stops {
                    flagged(&shared, &token);
                }
            }
            Ok(Renewed::Lost) => lose(&shared, "another worker has taken over its steps"),
            Err(error) => {
                if let Some(more) = shared.said.again("unrenewed") {
                    tracing::warn!(
                        event = "lease_not_renewed",
                        %error,
                        more,
                        "the worker's lease in the ledger is not renewed; that is tried again"
                    );
                }
            }
        }
        let now = shared.clock.now();
        let next = match shared.ledger.renewal_due() {
            Some((_, lost)) if lost <= now => {
                lose(&shared, "it could not be renewed in time");
                now
            }
            Some((renew, lost)) => renew.min(lost),
            None => after(now, shared.ledger.lease() / 12),
        };
        // In small steps: tokio's timers do not count a suspension of the machine.
        let step = LOOK.min(shared.ledger.lease() / 12);
        while shared.clock.now() < next {
            sleep_until(shared.clock.instant(next.min(after(shared.clock.now(), step)))).await;
        }
    }
}

/// A renewal, for no longer than the claims last.
async fn renewed(shared: &Shared) -> Result<Renewed, LedgerError> {
    let lost = shared.ledger.renewal_due().map(|(_, lost)| lost);
    let until = lost.unwrap_or_else(|| after(shared.clock.now(), shared.ledger.lease() / 3));
    let renew = shared.ledger.renew(shared.watch.notice());
    match timeout_at(shared.clock.instant(until), renew).await {
        Ok(renewed) => renewed,
        Err(_) => Err(shared.ledger.renewal_late()),
    }
}

fn lose(shared: &Shared, why: &str) {
    tracing::error!(
        event = "lease_lost",
        why,
        "the worker's lease in the ledger is lost: its runs are cancelled, because other workers \
         may start their steps"
    );
    shared.ledger.lose_lease();
    shared.steps.tell_drivers(&Event::LeaseLost);
}
