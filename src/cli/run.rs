//! `callbackd run`: the worker.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use super::Failure;
use crate::config::{CheckedConfig, Mistakes};
use crate::daemon::{Control, Daemon, Reloads, Request};
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
    let (reloads, requests) = mpsc::channel(1);
    let drain = Arc::new(Notify::new());
    let control = Control { drain: drain.clone(), reloads: reloads.clone() };
    let mut drains = false;
    let stop = async || {
        loop {
            let asked = tokio::select! {
                asked = signals.next() => asked,
                // By a command that does not cut a drain short.
                () = drain.notified(), if !drains => {
                    tracing::info!(event = "asked_to_drain", "told to drain over the admin socket");
                    break;
                }
            };
            match asked {
                // If one is pending, it will read what this one would.
                Asked::Reload => drop(reloads.try_send(Request::default())),
                asked => {
                    tracing::info!(event = "told_to_stop", ?asked, "told to stop");
                    break;
                }
            }
        }
        drains = true;
    };
    let daemon = Daemon::new(loaded).reloads(Reloads::new(requests, load)).control(control);
    daemon.run(stop).await?;
    Ok(ExitCode::SUCCESS)
}
