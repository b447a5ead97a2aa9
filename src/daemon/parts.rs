//! What the engine works with, made from the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::aws::{self, Sqs};
use crate::config::CheckedConfig;
#[cfg(debug_assertions)]
use crate::crash::Crash;
use crate::engine::{HandlerParts, QueueParts};
#[cfg(debug_assertions)]
use crate::ledger::Store;
use crate::observe::metrics::Metrics;
use crate::seam::Pipelines;

/// The queues as the engine works with them, and as they are asked for their backlog.
pub(super) async fn queues(
    loaded: &CheckedConfig,
    clients: &aws::Clients,
    metrics: &Metrics,
) -> Result<(Vec<QueueParts>, Vec<Sqs>), aws::NoEndpoint> {
    let (mut parts, mut asked) = (Vec::new(), Vec::new());
    for config in &loaded.config.queues {
        let (region, role) = (config.region.as_deref(), config.role());
        let queue = clients.queue(&config.url, region, role).await?;
        let region = region.or_else(|| config.url.region());
        let pipelines = clients.pipelines(region, role).await?;
        let mut elsewhere: BTreeMap<String, Arc<dyn Pipelines>> = BTreeMap::new();
        for (account, role) in config.accounts.iter() {
            if let Some(role) = role {
                elsewhere.insert(
                    account.to_owned(),
                    Arc::new(clients.pipelines(region, Some(role)).await?),
                );
            }
        }
        asked.push(queue.clone());
        let name = config.url.name().to_owned();
        metrics.expect_queue(&name);
        for handler in config.handlers() {
            metrics.expect_handler(&name, handler);
        }
        parts.push(QueueParts {
            account: config.url.account().to_owned(),
            region: pipelines.region().to_owned(),
            name,
            config: config.clone(),
            queue: Arc::new(queue),
            pipelines: Arc::new(pipelines),
            elsewhere,
        });
    }
    Ok((parts, asked))
}

pub(super) fn handlers(loaded: &CheckedConfig) -> BTreeMap<String, HandlerParts> {
    let parts = |(name, handler): (&String, &crate::handler::DynHandler)| {
        let config = loaded.config.handlers.get(name)?.clone();
        Some((name.clone(), HandlerParts { config, handler: handler.clone() }))
    };
    loaded.handlers.iter().filter_map(parts).collect()
}

/// Installs the crash that the environment requests.
#[cfg(debug_assertions)]
pub(super) fn may_crash(
    store: Arc<dyn Store>,
    queues: Vec<QueueParts>,
    handlers: BTreeMap<String, HandlerParts>,
) -> (Arc<dyn Store>, Vec<QueueParts>, BTreeMap<String, HandlerParts>) {
    let Some(crash) = Crash::planned(|name| std::env::var_os(name)) else {
        return (store, queues, handlers);
    };
    let queue = |parts: QueueParts| QueueParts {
        queue: crash.queue(parts.queue),
        pipelines: crash.pipelines(parts.pipelines),
        elsewhere: parts
            .elsewhere
            .into_iter()
            .map(|(account, other)| (account, crash.pipelines(other)))
            .collect(),
        ..parts
    };
    let handler =
        |parts: HandlerParts| HandlerParts { handler: crash.handler(parts.handler), ..parts };
    (
        crash.store(store),
        queues.into_iter().map(queue).collect(),
        handlers.into_iter().map(|(name, parts)| (name, handler(parts))).collect(),
    )
}
