//! Why the worker cannot run.

use crate::observe::server;
use crate::{aws, ledger};

/// Why the worker cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    Open(#[from] ledger::OpenError),
    #[cfg(feature = "dynamodb")]
    #[error(transparent)]
    Table(#[from] aws::Unusable),
    #[error(transparent)]
    Endpoint(#[from] aws::NoEndpoint),
    #[error(transparent)]
    Bind(#[from] server::BindError),
    /// A part that must keep running has ended; the service manager restarts the daemon.
    #[error("internal error: {0}; this is a bug in callbackd, please report it")]
    Broken(String),
}

impl DaemonError {
    /// The name of the condition, which has a code.
    #[must_use]
    pub fn event(&self) -> &'static str {
        match self {
            Self::Open(error) => error.event(),
            #[cfg(feature = "dynamodb")]
            Self::Table(_) => "table_unusable",
            Self::Endpoint(error) => error.event(),
            Self::Bind(_) => "status_address_unusable",
            Self::Broken(_) => "worker_broken",
        }
    }

    /// Logs that a part has ended without which the worker cannot continue.
    pub(super) fn broken(what: String) -> Self {
        tracing::error!(
            event = "worker_broken",
            what,
            "internal error: this is a bug in callbackd, please report it; the worker exits, and \
             its steps are resumed from the ledger after a restart"
        );
        Self::Broken(what)
    }
}
