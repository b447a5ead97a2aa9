//! What an operator has the daemon do over its admin socket.

use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::reload::Request;
use super::status::Status;
use crate::engine::{Engine, Monitor, Retries, Unretried};
use crate::observe::admin::{self, Operator, Taken, Unfinished, UnfinishedStep};
use crate::observe::metrics::Metrics;
use crate::observe::server::Problem;
use crate::observe::socket::AdminSocket;

/// What the daemon's caller does for an operator.
pub struct Control {
    /// Notified when the daemon is to be drained: `stop` has to resolve then, but only if it has
    /// not before.
    pub drain: Arc<Notify>,
    /// Requests for what reads the configuration again.
    pub reloads: mpsc::Sender<Request>,
}

/// The daemon as an operator sees it.
pub(super) struct Desk {
    control: Control,
    monitor: Monitor,
    retries: Retries,
    drained: CancellationToken,
}

impl Desk {
    pub(super) fn new(control: Control, engine: &Engine, drained: CancellationToken) -> Self {
        Self { control, monitor: engine.monitor(), retries: engine.retries(), drained }
    }

    /// Serves the admin socket at `path` until `until` is cancelled; without a socket the daemon
    /// works as well.
    pub(super) fn open(
        self,
        path: &Path,
        status: Arc<Status>,
        metrics: Arc<Metrics>,
        until: CancellationToken,
    ) -> Option<JoinHandle<()>> {
        match AdminSocket::bind(path) {
            Ok(socket) => {
                let served = admin::serve(socket, status, metrics, Arc::new(self), until);
                Some(tokio::spawn(served))
            }
            Err(error) => {
                tracing::warn!(
                    event = "admin_socket_unavailable",
                    %error,
                    "there is no admin socket: drain by SIGTERM and reload by SIGHUP"
                );
                None
            }
        }
    }
}

impl Operator for Desk {
    fn drain(&self) {
        if !self.monitor.is_draining() {
            self.control.drain.notify_one();
        }
    }

    fn unfinished(&self) -> Unfinished {
        let now = self.monitor.now();
        let tokens = self.monitor.tokens();
        let step = |token| {
            let face = self.monitor.face(token)?;
            let started = face.started_at.map(|at| now.duration_since(at).as_secs());
            Some(UnfinishedStep {
                token: token.to_string(),
                activity: face.activity.map_or("none", |activity| activity.as_str()).to_owned(),
                seconds: started.and_then(|seconds| seconds.try_into().ok()),
            })
        };
        let first = tokens.iter().filter_map(step).take(Unfinished::LISTED).collect();
        Unfinished { steps: tokens.len(), first }
    }

    fn drained(&self) -> CancellationToken {
        self.drained.clone()
    }

    fn reload(&self) -> BoxFuture<'_, Result<Taken, Problem>> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            // Once it drains, nothing reads the configuration, nor the request.
            let drains = || Problem::unavailable("the daemon drains and reloads nothing any more");
            let request = Request::answered_to(answer);
            self.control.reloads.send(request).await.map_err(|_| drains())?;
            answered.await.map_err(|_| drains())?.map_err(Problem::bad)
        })
    }

    fn retry<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<(), Problem>> {
        Box::pin(async move {
            let token = token.parse().map_err(|error| Problem::bad(format!("{error}")))?;
            self.retries.retry(&token).await.map_err(|why| match why {
                Unretried::Unknown(_) => Problem::not_found(why.to_string()),
                Unretried::Ledger(_) | Unretried::Unanswered => {
                    Problem::unavailable(why.to_string())
                }
                Unretried::Refused(_) | Unretried::Paused(_) | Unretried::NotInHand => {
                    Problem::refused(why.to_string())
                }
            })
        })
    }
}
