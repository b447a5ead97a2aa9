//! `callbackd run`: the worker.

use std::process::ExitCode;

use tokio::sync::mpsc;

use super::Failure;
use crate::config::{CheckedConfig, Mistakes};
use crate::daemon::{Daemon, Reloads};
use crate::observe;
use crate::process::limits::raise_open_files;
use crate::process::signals::{Asked, Signals};
use crate::process::{pages, secrecy};

/// Runs the worker with the configuration that `load` reads, and that it reads again at `SIGHUP`.
pub(super) async fn run(
    load: impl Fn() -> Result<CheckedConfig, Mistakes> + Send + Sync + 'static,
) -> Result<ExitCode, Failure> {
    let loaded = load()?;
    observe::log::init(&loaded.config.log).map_err(Failure::Runtime)?;
    secrecy::keep();
    pages::keep_small();
    for warning in &loaded.warnings {
        tracing::warn!(event = "config_doubtful", "configuration: {warning}");
    }
    raise_open_files(loaded.config.queues.iter().map(|queue| queue.concurrency).sum());
    let mut signals = Signals::listen().map_err(|error| {
        Failure::Runtime(format!("signal handlers could not be installed: {error}"))
    })?;
    let (reload, requests) = mpsc::channel(1);
    let stop = async || {
        loop {
            match signals.next().await {
                // If one is pending, it will read what this one would.
                Asked::Reload => drop(reload.try_send(())),
                asked => {
                    tracing::info!(event = "told_to_stop", ?asked, "told to stop");
                    break;
                }
            }
        }
    };
    let daemon = Daemon::new(loaded).reloads(Reloads::new(requests, load));
    daemon.run(stop).await?;
    Ok(ExitCode::SUCCESS)
}
