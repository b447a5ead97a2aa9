//! What the status server and the metrics show of the running worker.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::backlog::Backlogs;
use super::overview;
use crate::duration;
use crate::engine::{Monitor, QueueStatus, Spent, Tripped, Unpolled};
use crate::ledger::{Cursor, Filter};
use crate::lifecycle::{Record, Status as StepStatus, UnknownStatus};
use crate::observe::metrics::{Figures, Metrics};
use crate::observe::server::{Check, Problem, Source, Steps, StepsQuery};
use crate::seam::{Observation, Observer, Tracer};

/// A queue whose last successful poll is older than this is not being polled: a long poll takes 20
/// s, a failing one backs off.
pub(super) const POLLED_LATELY: Duration = Duration::from_mins(2);
/// Steps on a page of `/steps`, unless another number is requested.
const PAGE: usize = 500;
/// How many pages of the ledger are searched for one page of steps since some time, or with some
/// text.
const LOOKED: usize = 20;

/// Turns the observations of the engine and the clients into metrics.
pub(super) struct Counting {
    metrics: Arc<Metrics>,
    tracer: Arc<dyn Tracer>,
}

impl Counting {
    pub(super) fn observer(metrics: &Arc<Metrics>, tracer: Arc<dyn Tracer>) -> Arc<dyn Observer> {
        Arc::new(Self { metrics: metrics.clone(), tracer })
    }
}

impl Observer for Counting {
    fn tracer(&self) -> &dyn Tracer {
        &*self.tracer
    }

    fn observe(&self, observation: Observation<'_>) {
        let metrics = &self.metrics;
        match observation {
            Observation::AwsCall { service, operation, result } => {
                metrics.aws_request(service, operation, result);
            }
            Observation::AwsTimeout { operation } => metrics.timeout(operation),
            Observation::StepStarted { queue, handler, pickup } => {
                metrics.step_started(queue, handler, pickup);
            }
            Observation::StepIdle { queue, handler } => metrics.step_idle(queue, handler),
            Observation::StepEnded { queue, handler, outcome, took } => {
                metrics.step_ended(queue, handler, outcome, took);
            }
            Observation::Unreadable { queue } => metrics.message_unreadable(queue),
            Observation::ReportNotFound { queue } => metrics.report_not_found(queue),
            Observation::HeartbeatFailed { queue, messages } => {
                metrics.heartbeat_failed(queue, messages);
            }
            Observation::Attempt { queue, handler, first } => {
                metrics.attempt(queue, handler, first);
            }
            Observation::Refused { queue } => metrics.verify_refusal(queue),
            Observation::Stop { queue, via } => metrics.stop(queue, via),
            Observation::LedgerCommit { took } => metrics.ledger_committed(took),
            Observation::LedgerFailing(failing) => metrics.set_ledger_failing(failing),
            Observation::StopWatchInterval(interval) => metrics.set_stop_watch_interval(interval),
            Observation::Impaired { what, impaired } => metrics.set_impaired(what, impaired),
            Observation::ClockSet => metrics.clock_set(),
        }
    }
}

/// What the status server shows of the engine, once it exists.
#[derive(Default)]
pub(super) struct Status {
    monitor: OnceLock<Monitor>,
    backlogs: Arc<Backlogs>,
}

impl Status {
    /// Shows this engine from now on.
    pub(super) fn watch(&self, monitor: Monitor) -> Monitor {
        self.monitor.get_or_init(|| monitor).clone()
    }

    /// What SQS says of the queues, once someone looks at the page.
    pub(super) fn backlogs(&self) -> &Arc<Backlogs> {
        &self.backlogs
    }

    fn monitor(&self) -> Result<&Monitor, Problem> {
        self.monitor.get().ok_or_else(|| Problem::unavailable("the engine is being started"))
    }

    /// A slow start, with a large ledger or a slow network, is no reason for a restart.
    fn starting(ok: bool) -> Vec<Check> {
        vec![Check { name: "engine", ok, detail: "it is being started".to_owned() }]
    }
}

impl Source for Status {
    fn status(&self) -> Value {
        let (health, readiness) = (self.health(), self.readiness());
        overview::of(self.monitor.get(), &self.backlogs, &health, &readiness)
    }

    fn health(&self) -> Vec<Check> {
        let Some(monitor) = self.monitor.get() else { return Self::starting(true) };
        let stuck: Vec<String> = monitor
            .queues()
            .into_iter()
            .filter(|queue| !queue.turning)
            .map(|queue| queue.name)
            .collect();
        let detail = if stuck.is_empty() {
            "all pollers make progress".to_owned()
        } else {
            format!("stuck: {}", stuck.join(", "))
        };
        vec![Check { name: "engine", ok: stuck.is_empty(), detail }]
    }

    fn readiness(&self) -> Vec<Check> {
        let Some(monitor) = self.monitor.get() else { return Self::starting(false) };
        let ailment = monitor.ledger_ailment();
        let draining = monitor.is_draining();
        let queues = monitor.queues();
        let silent = silent(&queues);
        let tripped = tripped(monitor);
        let impaired: Vec<String> = monitor
            .impaired()
            .into_iter()
            .map(|it| format!("{}: {}: {}", it.handler, it.what, it.error))
            .collect();
        // An operator who removes a handler may want its steps to fail; the worker is ready for all
        // others.
        let missing: Vec<String> = monitor
            .missing()
            .into_iter()
            .map(|it| format!("{}: {}", it.handler, it.error))
            .collect();
        let well = if missing.is_empty() {
            "all handlers can work".to_owned()
        } else {
            missing.join("; ")
        };
        let told = |ok: bool, well: &str, ill: String| if ok { well.to_owned() } else { ill };
        vec![
            Check {
                name: "ledger",
                ok: ailment.is_none(),
                detail: ailment.map_or_else(
                    || "it works".to_owned(),
                    |ailment| format!("{ailment}; see the log"),
                ),
            },
            Check {
                name: "queues",
                ok: silent.is_empty(),
                detail: told(
                    silent.is_empty(),
                    &polled(&queues),
                    format!("not polled lately: {}; see the log", silent.join(", ")),
                ),
            },
            Check {
                name: "host",
                ok: impaired.is_empty(),
                detail: told(impaired.is_empty(), &well, impaired.join("; ")),
            },
            Check {
                name: "breakers",
                ok: tripped.is_empty(),
                detail: told(
                    tripped.is_empty(),
                    &started(monitor),
                    format!("{}; see the log", tripped.join("; ")),
                ),
            },
            Check {
                name: "running",
                ok: !draining,
                detail: told(!draining, "accepts new steps", "draining".to_owned()),
            },
        ]
    }

    fn steps(&self, query: StepsQuery) -> BoxFuture<'_, Result<Steps, Problem>> {
        Box::pin(async move {
            let monitor = self.monitor()?;
            let since = query
                .since
                .as_deref()
                .map(|text| moment(text, monitor.name(monitor.now())).map_err(Problem::bad))
                .transpose()?;
            if let Some(record) = whole_token(monitor, &query).await? {
                return Ok(Steps { rows: vec![row(monitor, &record)], next: None });
            }
            let narrow = since.is_some() || query.search.is_some();
            let mut filter = filter(query)?;
            let asked = filter.limit;
            let mut rows = Vec::new();
            for _ in 0..LOOKED {
                let page = monitor
                    .page(filter.clone())
                    .await
                    .map_err(|error| Problem::unavailable(error.to_string()))?;
                for found in page.found {
                    match found {
                        Ok(record)
                            if since
                                .is_some_and(|since| newest(&monitor.named(&record)) < since) => {}
                        Ok(record) => rows.push(row(monitor, &record)),
                        Err(damaged) => {
                            rows.push(
                                json!({ "token": damaged.token, "error": damaged.to_string() }),
                            );
                        }
                    }
                }
                filter.limit = asked - rows.len();
                filter.after = page.next;
                // In the other cases a short page is still a page.
                if filter.after.is_none() || filter.limit == 0 || !narrow {
                    break;
                }
            }
            Ok(Steps { rows, next: filter.after.map(|next| next.0) })
        })
    }

    fn step<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Value, Problem>> {
        Box::pin(async move {
            let monitor = self.monitor()?;
            let token = token.parse().map_err(|error| Problem::bad(format!("{error}")))?;
            match monitor.record(&token).await {
                Ok(Some(record)) => Ok(described(monitor, &record)),
                Ok(None) => Err(Problem::not_found(format!("the ledger has no step {token}"))),
                Err(error) => Err(Problem::unavailable(error.to_string())),
            }
        })
    }

    fn refresh(&self, metrics: &Metrics) {
        let Some(monitor) = self.monitor.get() else { return };
        let ready = self.readiness().iter().all(|check| check.ok);
        metrics.set_state(monitor.is_draining(), ready);
        metrics.set_tasks(Handle::current().metrics().num_alive_tasks());
        let now = monitor.now();
        let since_epoch = monitor.name(now).duration_since(Timestamp::UNIX_EPOCH);
        for queue in monitor.queues() {
            let age = |at: Timestamp| Duration::try_from(now.duration_since(at)).ok();
            let moment = |ago: Duration| Duration::try_from(since_epoch).ok()?.checked_sub(ago);
            let figures = Figures {
                concurrency: queue.concurrency,
                held: queue.held,
                queued: [queue.queued[0], queue.queued[1], queue.limited],
                paused: [Unpolled::ByOrder, Unpolled::ByBreaker]
                    .map(|why| queue.unpolled == Some(why)),
                cleanups_waiting: queue.cleanups_waiting,
                reports_waiting: queue.reports_waiting,
                without_message: queue.without_message,
                reports_pending: queue.unreported,
                oldest_unreported: queue.oldest_unreported.and_then(age),
                deferred: queue.deferred,
                stops_held: queue.stops_held,
                last_poll: queue.polled_ago.and_then(moment),
                progress_ages: queue
                    .progress
                    .into_iter()
                    .map(|(handler, since)| (handler, since.and_then(age)))
                    .collect(),
            };
            metrics.set_queue(&queue.name, &figures);
        }
        for (handler, tripped) in monitor.breakers() {
            metrics.set_breaker(&handler, tripped.is_some());
        }
        for (handler, held) in monitor.held() {
            metrics.set_handler_paused(&handler, held);
        }
    }
}

/// The step whose token is searched for: a list might read the whole ledger to find it.
async fn whole_token(monitor: &Monitor, query: &StepsQuery) -> Result<Option<Record>, Problem> {
    let token = query.search.as_ref().and_then(|text| text.parse().ok());
    let Some(token) = token.filter(|_| query.after.is_none()) else { return Ok(None) };
    let found = monitor.record(&token).await;
    found.map_err(|error| Problem::unavailable(error.to_string()))
}

/// The queues that should have been polled lately and were not.
fn silent(queues: &[QueueStatus]) -> Vec<String> {
    queues
        .iter()
        .filter(|queue| {
            queue.polled_ago.is_none_or(|ago| ago > POLLED_LATELY)
                && queue.running < queue.concurrency
                && queue.unpolled.is_none()
        })
        .map(|queue| match queue.bodies_spent {
            Some(Spent { by_queue, by_all, limit }) => format!(
                "{} (the arguments of its steps take {}, of {} in all queues, which is more \
                 than {})",
                queue.name,
                mebibytes(by_queue),
                mebibytes(by_all),
                mebibytes(limit)
            ),
            None => queue.name.clone(),
        })
        .collect()
}

/// What is said of queues that are all polled, or not for a good reason. An operator who pauses a
/// queue does not want the worker restarted.
fn polled(queues: &[QueueStatus]) -> String {
    let paused = queues.iter().filter(|queue| queue.unpolled == Some(Unpolled::ByOrder));
    let paused: Vec<&str> = paused.map(|queue| queue.name.as_str()).collect();
    if paused.is_empty() {
        return "all queues are polled".to_owned();
    }
    format!("paused by `callbackd pause`: {}; all others are polled", paused.join(", "))
}

/// What is said of handlers that are all started, or not by order.
fn started(monitor: &Monitor) -> String {
    let held = monitor.held().into_iter().filter(|(_, held)| *held);
    let held: Vec<String> = held.map(|(handler, _)| handler).collect();
    if held.is_empty() {
        return "no handler is left alone".to_owned();
    }
    format!("paused by `callbackd pause`: {}; no other is left alone", held.join(", "))
}

/// The handlers of which no step is started because their steps failed. One that is tried again,
/// one step at a time, works as far as is known.
fn tripped(monitor: &Monitor) -> Vec<String> {
    let of_one = |(handler, tripped): (String, Option<Tripped>)| {
        let left = Duration::from_secs(tripped?.pauses_for?.as_secs());
        Some(format!(
            "{handler}: its steps failed, and none is started for {}",
            duration::text(left)
        ))
    };
    monitor.breakers().into_iter().filter_map(of_one).collect()
}

/// Everything known about a step, with its times by the wall clock.
fn described(monitor: &Monitor, record: &Record) -> Value {
    let face = monitor.face(&record.token).unwrap_or_default();
    let named = monitor.named(record);
    let mut row = serde_json::to_value(&named).unwrap_or_default();
    row["history"] = json!(named.history);
    row["activity"] = face.activity.map_or(Value::Null, |activity| activity.as_str().into());
    row["started_at"] = json!(face.started_at.map(|at| monitor.name(at)));
    let progress = face.progress.as_ref();
    row["progress"] = json!(progress.map(|it| &it.progress));
    row["progressed_at"] = json!(progress.map(|it| monitor.name(it.at)));
    row
}

/// The same without fields that may be large.
fn row(monitor: &Monitor, record: &Record) -> Value {
    let mut row = described(monitor, record);
    if let Some(row) = row.as_object_mut() {
        row.remove("arguments");
        row.remove("checkpoint");
        row.remove("history");
    }
    row
}

fn mebibytes(bytes: usize) -> String {
    format!("{} MiB", bytes >> 20)
}

/// When something last happened to a step.
pub(crate) fn newest(record: &Record) -> Timestamp {
    let later = [record.concluded_at, record.settled_at].into_iter().flatten().max();
    later.map_or(record.first_seen, |later| later.max(record.first_seen))
}

/// Parses a time, or how long ago, of a condition `since`.
pub(crate) fn moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let ago = |ago| now.checked_sub(SignedDuration::try_from(ago).ok()?).ok();
    text.parse().ok().or_else(|| duration::parse(text).ok().and_then(ago)).ok_or_else(|| {
        "`since` is a time, as 2026-11-20T09:30:00Z, or how long ago, as 90s, 1h or 2d".to_owned()
    })
}

fn filter(query: StepsQuery) -> Result<Filter, Problem> {
    let limit = query.limit.unwrap_or(PAGE);
    if !(1..=Filter::MAX_LIMIT).contains(&limit) {
        return Err(Problem::bad(format!("`limit` is 1 to {}, not {limit}", Filter::MAX_LIMIT)));
    }
    let statuses: Result<Vec<StepStatus>, Problem> =
        query.status.iter().flat_map(|statuses| statuses.split(',')).map(status).collect();
    Ok(Filter {
        statuses: statuses?,
        pipeline: query.pipeline,
        handler: query.handler,
        search: query.search,
        after: query.after.map(Cursor),
        limit,
        ..Filter::default()
    })
}

fn status(name: &str) -> Result<StepStatus, Problem> {
    name.parse().map_err(|error: UnknownStatus| Problem::bad(error.to_string()))
}
