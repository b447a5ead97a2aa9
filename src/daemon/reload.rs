//! Takes over settings of a changed configuration while the worker works.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;

use crate::config::{CheckedConfig, Config, Mistakes, Reloaded};
use crate::engine::Settings;
use crate::observe;
use crate::observe::admin::Taken;
use crate::observe::metrics::Metrics;
use crate::process::limits::raise_open_files;
use crate::process::systemd::Manager;

type Load = Arc<dyn Fn() -> Result<CheckedConfig, Mistakes> + Send + Sync>;

/// That the configuration is to be read again, and who is told what becomes of it.
#[derive(Default)]
pub struct Request(Option<oneshot::Sender<Result<Taken, String>>>);

impl Request {
    /// The answer is dropped, not sent, if nothing is reloaded any more.
    #[must_use]
    pub fn answered_to(answer: oneshot::Sender<Result<Taken, String>>) -> Self {
        Self(Some(answer))
    }
}

/// When the configuration is to be read again, and how.
pub struct Reloads {
    requests: mpsc::Receiver<Request>,
    load: Load,
}

impl Reloads {
    /// Reads it with `load` each time that a request arrives.
    pub fn new(
        requests: mpsc::Receiver<Request>,
        load: impl Fn() -> Result<CheckedConfig, Mistakes> + Send + Sync + 'static,
    ) -> Self {
        Self { requests, load: Arc::new(load) }
    }
}

/// What a reload changes.
pub(super) struct Reloading<'a> {
    reloads: Option<Reloads>,
    /// The configuration in force.
    config: Config,
    settings: Settings,
    metrics: &'a Metrics,
    manager: &'a Manager,
}

impl<'a> Reloading<'a> {
    pub(super) fn new(
        reloads: Option<Reloads>,
        config: &Config,
        settings: &Settings,
        metrics: &'a Metrics,
        manager: &'a Manager,
    ) -> Self {
        Self { reloads, config: config.clone(), settings: settings.clone(), metrics, manager }
    }

    /// Reloads at each request. Never returns.
    pub(super) async fn work(mut self) {
        let Some(mut reloads) = self.reloads.take() else { return std::future::pending().await };
        while let Some(Request(answer)) = reloads.requests.recv().await {
            self.manager.reloading().await;
            let load = reloads.load.clone();
            // A file on a disk that hangs holds up nothing else.
            let loaded = spawn_blocking(move || load()).await;
            let taken_over = match loaded {
                Ok(Ok(loaded)) => self.take_over(&loaded),
                Ok(Err(mistakes)) => Err(mistakes.to_string()),
                Err(panic) => Err(panic.to_string()),
            };
            if let Err(error) = &taken_over {
                tracing::error!(
                    event = "reload_refused",
                    error,
                    "the configuration is not reloaded: the old one stays in force"
                );
            }
            self.metrics.reloaded(taken_over.is_ok());
            self.manager.reloaded().await;
            if let Some(answer) = answer {
                // Its reader may be gone.
                let _ = answer.send(taken_over);
            }
        }
        std::future::pending::<()>().await;
    }

    /// Takes it over, as far as it can be.
    fn take_over(&mut self, loaded: &CheckedConfig) -> Result<Taken, String> {
        let Reloaded { config, changed, needs_restart } = self.config.reloaded(&loaded.config);
        observe::log::reload(&config.log)?;
        raise_open_files(config.queues.iter().map(|queue| queue.concurrency).sum());
        for queue in &config.queues {
            for handler in queue.handlers() {
                self.metrics.expect_handler(queue.url.name(), handler);
            }
        }
        self.settings.reload(&config.queues, &config.handlers);
        self.config = config;
        for warning in &loaded.warnings {
            tracing::warn!(event = "config_doubtful", "configuration: {warning}");
        }
        if !needs_restart.is_empty() {
            tracing::warn!(
                event = "reload_needs_restart",
                keys = needs_restart.join(", "),
                "these changes of the configuration take effect at the next start"
            );
        }
        tracing::info!(
            event = "config_reloaded",
            changed = changed.join(", "),
            "the configuration is reloaded"
        );
        Ok(Taken { changed, needs_restart, warnings: loaded.warnings.clone() })
    }
}
