//! What an operator has the daemon do, over its admin socket or the status server.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::reload::Request;
use super::status::Status;
use crate::config::Config;
use crate::engine::{Answers, Engine, Monitor, PrintedLine, Retries, Unretried};
use crate::ledger::NotGiven;
use crate::observe::actions::Office;
use crate::observe::admin::{
    self, Answer, Completed, Log, LogLine, Operator, Paused, Taken, Thing, Unfinished,
    UnfinishedStep,
};
use crate::observe::caller::Caller;
use crate::observe::metrics::Metrics;
use crate::observe::server::Problem;
use crate::observe::socket::{AdminSocket, SocketError};
use crate::orders::{Kind, Names, Order, Orders, Sort};
use crate::outcome::{Outcome, Outputs, Reason};

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
    answers: Answers,
    drained: CancellationToken,
    orders: Option<Orders>,
    names: Names,
    /// Orders that are being carried out.
    taken: TaskTracker,
}

/// How long the daemon's end waits for orders, which wait for the ledger or a disk.
const LAST_ORDERS: Duration = Duration::from_secs(2);

impl Desk {
    /// Without `orders` nothing can be paused.
    pub(super) fn new(
        control: Control,
        engine: &Engine,
        drained: CancellationToken,
        orders: Option<Orders>,
        config: &Config,
    ) -> Self {
        let (monitor, retries, answers) = (engine.monitor(), engine.retries(), engine.answers());
        let (names, taken) = (config.names(), TaskTracker::new());
        Self { control, monitor, retries, answers, drained, orders, names, taken }
    }

    /// Takes orders in `office` from now on, and on the admin socket until `until` is cancelled;
    /// without a socket the daemon works as well.
    pub(super) fn open(
        self,
        config: &Config,
        office: Office,
        status: Arc<Status>,
        metrics: Arc<Metrics>,
        until: CancellationToken,
    ) -> JoinHandle<()> {
        let taken = self.taken.clone();
        office.open(Arc::new(self));
        let socket = config.admin_socket().and_then(|path| {
            let told = |error: &SocketError| {
                tracing::warn!(
                    event = "admin_socket_unavailable",
                    %error,
                    "there is no admin socket: drain by SIGTERM and reload by SIGHUP"
                );
            };
            AdminSocket::bind(&path).inspect_err(told).ok()
        });
        tokio::spawn(async move {
            match socket {
                Some(socket) => admin::serve(socket, status, metrics, office, until).await,
                None => until.cancelled().await,
            }
            taken.close();
            let _ = timeout(LAST_ORDERS, taken.wait()).await;
        })
    }
}

impl Operator for Desk {
    fn carry_out(&self, work: BoxFuture<'static, ()>) {
        self.taken.spawn(work);
    }

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

    fn complete<'a>(
        &'a self,
        token: &'a str,
        answer: Answer,
        by: Caller,
    ) -> BoxFuture<'a, Result<Completed, Problem>> {
        Box::pin(async move {
            let parsed = token.parse().map_err(|error| Problem::bad(format!("{error}")))?;
            let answer = outcome(answer)?;
            let given = self.answers.give(&parsed, &answer, &by.to_string()).await;
            let given = given.map_err(|why| match why {
                NotGiven::Unknown(_) => Problem::not_found(why.to_string()),
                NotGiven::Refused { .. } => Problem::refused(why.to_string()),
                NotGiven::Changing(_)
                | NotGiven::Unread(_)
                | NotGiven::Unwritten(_)
                | NotGiven::Untold(_) => Problem::unavailable(why.to_string()),
            })?;
            Ok(Completed { token: parsed.to_string(), before: given.before })
        })
    }

    fn log(&self, token: &str) -> Result<Log, Problem> {
        let parsed = token.parse().map_err(|error| Problem::bad(format!("{error}")))?;
        let line = |line: PrintedLine| LogLine {
            at: format!("{:.3}", self.monitor.name(line.at)),
            attempt: line.attempt,
            stream: line.stream.to_owned(),
            text: line.text.into(),
        };
        let lines = self.monitor.printed(&parsed).into_iter().map(line).collect();
        Ok(Log { token: parsed.to_string(), lines })
    }

    fn pause<'a>(
        &'a self,
        thing: Thing,
        name: &'a str,
        paused: Paused,
    ) -> BoxFuture<'a, Result<String, Problem>> {
        Box::pin(async move {
            let sort = match thing {
                Thing::Queue => Sort::Queue,
                Thing::Handler => Sort::Handler,
            };
            let about = self.names.meant(name, Some(sort));
            let about = about.map_err(|error| Problem::not_found(error.to_string()))?;
            let Some(orders) = self.orders.clone() else {
                return Err(Problem::refused(
                    "the ledger is in the worker's memory, and so nothing is kept of an order: \
                     use another ledger",
                ));
            };
            let kind = if paused.0 { Kind::Pause } else { Kind::Resume };
            let order = Order { about, order: kind, at: Timestamp::now() };
            let told = order.to_string();
            // A disk that hangs holds up nothing else.
            let given = spawn_blocking(move || orders.give(&order)).await;
            let given = given.map_err(|panic| Problem::unavailable(panic.to_string()))?;
            given.map_err(|error| {
                Problem::unavailable(format!("the order could not be written to {error}"))
            })?;
            Ok(told)
        })
    }
}

fn outcome(answer: Answer) -> Result<Outcome, Problem> {
    Ok(match answer {
        Answer::Failure(text) => Outcome::Failure(Reason::new(&text)),
        Answer::Outputs(outputs) => Outcome::Success(
            Outputs::from_json(outputs.get())
                .map_err(|error| Problem::bad(format!("outputs: {error}")))?,
        ),
    })
}
