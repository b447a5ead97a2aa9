//! The ledger seen from outside: where it is, how long it takes to open, and how large its file is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::DaemonError;
use crate::aws;
use crate::ledger::{self, Progress, Sqlite, Store};
use crate::observe::metrics::Metrics;
use crate::process::systemd::Manager;
use crate::seam::Observer;

/// Most files are open long before this; for the others systemd is asked for more time.
const SOON: Duration = Duration::from_secs(5);
/// How often the file is measured.
const EVERY: Duration = Duration::from_secs(15);

/// Opens the ledger. A large file is checked first, which may take longer than the service manager
/// waits for a start.
pub(super) async fn open(
    config: &ledger::Config,
    clients: &aws::Clients,
    observer: Arc<dyn Observer>,
    manager: &Manager,
) -> Result<Arc<dyn Store>, DaemonError> {
    #[cfg(feature = "dynamodb")]
    if config.kind == ledger::Kind::Dynamodb {
        let table = clients.table(&config.table, config.retention).await?.for_lease(config.lease);
        Box::pin(table.open()).await?;
        tracing::info!(
            event = "table_opened",
            table = table.name(),
            region = table.region(),
            "the ledger is in DynamoDB"
        );
        return Ok(Arc::new(table));
    }
    #[cfg(not(feature = "dynamodb"))]
    let _ = clients;
    let progress = Progress::default();
    let (config, telling) = (config.clone(), progress.clone());
    let path = config.path.clone();
    let mut opening = spawn_blocking(move || ledger::open(&config, observer, &telling));
    let opened = if let Ok(opened) = timeout(SOON, &mut opening).await {
        opened
    } else {
        tracing::info!(
            event = "ledger_check_started",
            path = %path.display(),
            bytes = Sqlite::sizes(&path).0,
            "the ledger is checked before it is used"
        );
        let before = AtomicU64::new(u64::MAX);
        let goes_on = || {
            let now = progress.load(Ordering::Relaxed);
            before.swap(now, Ordering::Relaxed) != now
        };
        tokio::select! {
            biased;
            opened = &mut opening => opened,
            () = manager.keep_extending(goes_on) => return Err(DaemonError::Broken("the wait for \
                systemd ended".to_owned())),
        }
    };
    Ok(opened.map_err(|error| DaemonError::Broken(error.to_string()))??)
}

/// Measures the file until `until` is cancelled.
pub(super) async fn measure(path: PathBuf, metrics: Arc<Metrics>, until: CancellationToken) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while until.run_until_cancelled(ticks.tick()).await.is_some() {
        let path = path.clone();
        // A disk that hangs blocks only this thread.
        let sizes = until.run_until_cancelled(spawn_blocking(move || Sqlite::sizes(&path))).await;
        if let Some(Ok((file, log))) = sizes {
            metrics.ledger_size.set(file, log);
        }
    }
}
