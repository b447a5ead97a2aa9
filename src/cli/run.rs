//! `callbackd run`: the worker.

use std::process::ExitCode;

use super::Failure;
use crate::config::CheckedConfig;
use crate::daemon::Daemon;
use crate::observe;
use crate::process::limits::raise_open_files;
use crate::process::signals::Signals;
use crate::process::{pages, secrecy};

pub(super) async fn run(loaded: CheckedConfig) -> Result<ExitCode, Failure> {
    observe::log::init(&loaded.config.log).map_err(Failure::Runtime)?;
    secrecy::keep();
    pages::keep_small();
    for warning in &loaded.warnings {
        tracing::warn!("configuration: {warning}");
    }
    raise_open_files(loaded.config.queues.iter().map(|queue| queue.concurrency).sum());
    let mut signals = Signals::listen().map_err(|error| {
        Failure::Runtime(format!("signal handlers could not be installed: {error}"))
    })?;
    let stop = async || {
        let asked = signals.next().await;
        tracing::info!(?asked, "told to stop");
    };
    Daemon::new(loaded).run(stop).await.map_err(Failure::runtime)?;
    Ok(ExitCode::SUCCESS)
}
