//! Counters and measurements, in Prometheus' terms.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

use crate::observe::labels::{Labels, code, outcome_labels, queue_label, step_labels, via_labels};
use crate::observe::ledger_size::LedgerSize;
use crate::observe::log::Dropped;
use crate::observe::process_stat::ProcessStat;
pub use crate::observe::queue_stat::Figures;
use crate::observe::queue_stat::QueueStat;

/// The type of [`Metrics::exposition`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A step takes from milliseconds (a lookup) to days (a training job, an approval).
const STEP_SECONDS: [f64; 16] = [
    0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 10_800.0, 21_600.0, 43_200.0,
    86_400.0, 259_200.0, 604_800.0,
];
/// From one network hop to the longest retention of a queue, 14 days.
const PICKUP_SECONDS: [f64; 14] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0, 3_600.0, 43_200.0, 345_600.0];
/// From a shared commit to a disk that is about to fail.
const COMMIT_SECONDS: [f64; 13] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// How a step may end: the label `outcome`.
const OUTCOMES: [&str; 6] =
    ["success", "failure", "deferred", "stopped", "settled_elsewhere", "answered_by_handler"];

type Histograms = Family<Labels<2>, Histogram, fn() -> Histogram>;

/// All metrics of one daemon. Every method is a few atomic operations after a lookup, fit for the
/// hot path. A queue is named by the last segment of its URL: names differ between accounts too.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Of the ledger's file, if it has one.
    pub ledger_size: LedgerSize,
    steps: Family<Labels<3>, Counter>,
    running: Family<Labels<2>, Gauge>,
    step_seconds: Histograms,
    pickup_seconds: Histograms,
    aws_requests: Family<Labels<3>, Counter>,
    timeouts: Family<Labels<1>, Counter>,
    queues: QueueStat,
    draining: Gauge,
    ready: Gauge,
    tasks: Gauge,
    messages_unreadable: Family<Labels<1>, Counter>,
    reports_not_found: Family<Labels<1>, Counter>,
    attempts: Family<Labels<2>, Counter>,
    retries: Family<Labels<2>, Counter>,
    verify_refusals: Family<Labels<1>, Counter>,
    heartbeats_failed: Family<Labels<1>, Counter>,
    stops: Family<Labels<2>, Counter>,
    stop_watch_interval: Gauge<f64, std::sync::atomic::AtomicU64>,
    ledger_commit: Histogram,
    ledger_failing: Gauge,
    reloaded: Gauge,
    clock_set: Counter,
    impaired: Family<Labels<1>, Gauge>,
    breaker_open: Family<Labels<1>, Gauge>,
    handler_paused: Family<Labels<1>, Gauge>,
}

impl Metrics {
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "one list of all metrics")]
    pub fn new() -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessStat::new()));
        let ours = registry.sub_registry_with_prefix("callbackd");
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        ours.register("build", "The build that runs", Info::new(version));
        ours.register_collector(Box::new(Dropped));

        let mut add = Add(ours);
        let metrics = Self {
            ledger_size: LedgerSize::register(add.0),
            queues: QueueStat::register(add.0),
            steps: add.plain("steps", "Finished steps, by how they ended", Family::default()),
            running: add.plain(
                "steps_running",
                "Runs and cleanups in progress on this worker",
                Family::default(),
            ),
            step_seconds: add.seconds(
                "step",
                "From the first start of a step's handler on this worker to the step's end",
                Family::new_with_constructor(|| Histogram::new(STEP_SECONDS)),
            ),
            pickup_seconds: add.seconds(
                "pickup",
                "From the sending of a step's message to the start of its handler",
                Family::new_with_constructor(|| Histogram::new(PICKUP_SECONDS)),
            ),
            aws_requests: add.plain(
                "aws_requests",
                "Calls to AWS, each attempt counted, by result",
                Family::default(),
            ),
            timeouts: add.plain(
                "timeouts",
                "Calls to AWS that exceeded callbackd's own time limit",
                Family::default(),
            ),
            draining: add.plain(
                "draining",
                "1 from the signal to stop, while no new steps are accepted",
                Gauge::default(),
            ),
            ready: add.plain("ready", "1 while /readyz answers 200", Gauge::default()),
            tasks: add.plain(
                "tasks",
                "Asynchronous tasks of this process that have not ended",
                Gauge::default(),
            ),
            messages_unreadable: add.plain(
                "messages_unreadable",
                "Received messages that are not of an accepted callback step, left to the queue's \
                 redrive policy",
                Family::default(),
            ),
            reports_not_found: add.plain(
                "reports_not_found",
                "Reports that were refused for a step that SageMaker does not find",
                Family::default(),
            ),
            attempts: add.plain(
                "attempts",
                "Attempts of steps that were started",
                Family::default(),
            ),
            retries: add.plain(
                "retries",
                "Attempts that were not a step's first",
                Family::default(),
            ),
            verify_refusals: add.plain(
                "verify_refusals",
                "Steps and stops that were refused after SageMaker was asked about them",
                Family::default(),
            ),
            heartbeats_failed: add.plain(
                "heartbeats_failed",
                "Messages that a heartbeat could not keep invisible",
                Family::default(),
            ),
            stops: add.plain(
                "stops",
                "Stops of pipelines that were noticed, by how they were noticed",
                Family::default(),
            ),
            stop_watch_interval: add.seconds(
                "stop_watch_interval",
                "How long the stop watch takes to ask about each execution once; it grows with \
                 their number",
                Gauge::default(),
            ),
            ledger_commit: add.seconds(
                "ledger_commit",
                "How long a commit to the ledger takes",
                Histogram::new(COMMIT_SECONDS),
            ),
            reloaded: add.plain(
                "config_last_reload_successful",
                "1 unless the last reload of the configuration was refused",
                Gauge::default(),
            ),
            ledger_failing: add.plain(
                "ledger_failing",
                "1 while the ledger cannot be written or read, or its file is gone, so no new step \
                 is accepted",
                Gauge::default(),
            ),
            impaired: add.plain(
                "impaired",
                "1 while this machine keeps handlers from working",
                Family::default(),
            ),
            breaker_open: add.plain(
                "breaker_open",
                "1 while no step of the handler is started, or one at a time, because its steps \
                 failed",
                Family::default(),
            ),
            handler_paused: add.plain(
                "handler_paused",
                "1 while no run of the handler is started, by `callbackd pause`",
                Family::default(),
            ),
            clock_set: add.plain(
                "clock_set",
                "How often the wall clock, or the time of a shared ledger's service, was set",
                Counter::default(),
            ),
            registry,
        };
        metrics.expect_kinds();
        metrics.reloaded(true);
        metrics
    }

    /// Makes series with known labels appear from the start, at zero.
    fn expect_kinds(&self) {
        for what in [
            "space",
            "descriptors",
            "memory",
            "processes",
            "io",
            "program",
            "working_dir",
            "ledger",
            "handler",
        ] {
            self.set_impaired(what, false);
        }
        for operation in [
            "ReceiveMessage",
            "ChangeMessageVisibilityBatch",
            "DeleteMessageBatch",
            "SendMessage",
            "SendPipelineExecutionStepSuccess",
            "SendPipelineExecutionStepFailure",
            "ListPipelineExecutionSteps",
            "DescribePipelineExecution",
            "AssumeRole",
        ] {
            drop(self.timeouts.get_or_create(&[("operation", operation.into())]));
        }
    }

    /// Makes a queue's series appear from the start, at zero: alerts miss series that are absent
    /// until something happens.
    pub fn expect_queue(&self, queue: &str) {
        let label = queue_label(queue);
        for counter in [
            &self.messages_unreadable,
            &self.reports_not_found,
            &self.verify_refusals,
            &self.heartbeats_failed,
        ] {
            drop(counter.get_or_create(&label));
        }
        for via in ["message", "watch", "ledger"] {
            drop(self.stops.get_or_create(&via_labels(queue, via)));
        }
        self.queues.set(queue, &Figures::default());
    }

    /// The same for a handler that a queue's steps may run.
    pub fn expect_handler(&self, queue: &str, handler: &str) {
        let labels = step_labels(queue, handler);
        drop(self.running.get_or_create(&labels));
        drop(self.attempts.get_or_create(&labels));
        drop(self.retries.get_or_create(&labels));
        drop(self.step_seconds.get_or_create(&labels));
        drop(self.pickup_seconds.get_or_create(&labels));
        self.queues.set_progress_age(queue, handler, None);
        for outcome in OUTCOMES {
            drop(self.steps.get_or_create(&outcome_labels(queue, handler, outcome)));
        }
    }

    /// A run or a cleanup begins. `pickup`: the time since the message was sent, for a step's first
    /// run.
    pub fn step_started(&self, queue: &str, handler: &str, pickup: Option<Duration>) {
        let labels = step_labels(queue, handler);
        self.running.get_or_create(&labels).inc();
        if let Some(pickup) = pickup {
            self.pickup_seconds.get_or_create(&labels).observe(pickup.as_secs_f64());
        }
    }

    /// An attempt of a step begins, the first or a later one.
    pub fn attempt(&self, queue: &str, handler: &str, first: bool) {
        let labels = step_labels(queue, handler);
        self.attempts.get_or_create(&labels).inc();
        if !first {
            self.retries.get_or_create(&labels).inc();
        }
    }

    /// The run or cleanup of [`Metrics::step_started`] is over.
    pub fn step_idle(&self, queue: &str, handler: &str) {
        self.running.get_or_create(&step_labels(queue, handler)).dec();
    }

    /// A step is finished: with one of [`OUTCOMES`].
    pub fn step_ended(&self, queue: &str, handler: &str, outcome: &str, took: Option<Duration>) {
        self.steps.get_or_create(&outcome_labels(queue, handler, outcome)).inc();
        if let Some(took) = took {
            let labels = step_labels(queue, handler);
            self.step_seconds.get_or_create(&labels).observe(took.as_secs_f64());
        }
    }

    /// A call to AWS returned. `result`: `ok`, or the code of its error.
    pub fn aws_request(&self, service: &'static str, operation: &'static str, result: &str) {
        let labels = [
            ("service", service.into()),
            ("operation", operation.into()),
            ("result", code(result)),
        ];
        self.aws_requests.get_or_create(&labels).inc();
    }

    /// Our own bound on a call to AWS fired.
    pub fn timeout(&self, operation: &'static str) {
        self.timeouts.get_or_create(&[("operation", operation.into())]).inc();
    }

    /// The current state of a queue.
    pub fn set_queue(&self, queue: &str, figures: &Figures) {
        self.queues.set(queue, figures);
    }

    /// Whether the worker drains, and whether it is ready.
    pub fn set_state(&self, draining: bool, ready: bool) {
        self.draining.set(draining.into());
        self.ready.set(ready.into());
    }

    pub fn set_tasks(&self, tasks: usize) {
        set(&self.tasks, tasks);
    }

    pub fn message_unreadable(&self, queue: &str) {
        self.messages_unreadable.get_or_create(&queue_label(queue)).inc();
    }

    /// A report was refused, and SageMaker does not find its step.
    pub fn report_not_found(&self, queue: &str) {
        self.reports_not_found.get_or_create(&queue_label(queue)).inc();
    }

    /// A step or a stop is refused, after SageMaker was asked about it.
    pub fn verify_refusal(&self, queue: &str) {
        self.verify_refusals.get_or_create(&queue_label(queue)).inc();
    }

    /// One call that could not keep this many messages invisible.
    pub fn heartbeat_failed(&self, queue: &str, messages: usize) {
        let failed = u64::try_from(messages).unwrap_or(u64::MAX);
        self.heartbeats_failed.get_or_create(&queue_label(queue)).inc_by(failed);
    }

    /// The clock that names times was set.
    pub fn clock_set(&self) {
        self.clock_set.inc();
    }

    /// Something keeps handlers from working, or no longer does.
    pub fn set_impaired(&self, what: &str, impaired: bool) {
        self.impaired.get_or_create(&[("what", what.to_owned().into())]).set(impaired.into());
    }

    /// Whether a handler is left alone because its steps failed.
    pub fn set_breaker(&self, handler: &str, open: bool) {
        self.breaker_open.get_or_create(&[("handler", handler.to_owned().into())]).set(open.into());
    }

    /// Whether no run of a handler is started, by order.
    pub fn set_handler_paused(&self, handler: &str, paused: bool) {
        let label = [("handler", handler.to_owned().into())];
        self.handler_paused.get_or_create(&label).set(paused.into());
    }

    /// A stop was noticed: by `message`, `watch` or `ledger`.
    pub fn stop(&self, queue: &str, via: &'static str) {
        self.stops.get_or_create(&via_labels(queue, via)).inc();
    }

    pub fn set_stop_watch_interval(&self, interval: Duration) {
        self.stop_watch_interval.set(interval.as_secs_f64());
    }

    pub fn ledger_committed(&self, took: Duration) {
        self.ledger_commit.observe(took.as_secs_f64());
    }

    /// A reload of the configuration has ended.
    pub fn reloaded(&self, taken_over: bool) {
        self.reloaded.set(taken_over.into());
    }

    pub fn set_ledger_failing(&self, failing: bool) {
        self.ledger_failing.set(failing.into());
    }

    /// All metrics as `OpenMetrics` text of [`CONTENT_TYPE`].
    ///
    /// # Errors
    /// None that is known: the text is written to memory.
    pub fn exposition(&self) -> Result<String, fmt::Error> {
        let mut out = String::with_capacity(16 * 1024);
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

struct Add<'a>(&'a mut Registry);

impl Add<'_> {
    fn plain<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }

    fn seconds<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register_with_unit(name, help, Unit::Seconds, metric.clone());
        metric
    }
}

fn set(gauge: &Gauge<i64, AtomicI64>, value: usize) {
    gauge.inner().store(i64::try_from(value).unwrap_or(i64::MAX), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    #![expect(clippy::float_cmp, reason = "counts and whole seconds are exact")]

    use super::*;

    fn lines(metrics: &Metrics, of: &str) -> Vec<String> {
        let text = metrics.exposition().expect("it is written to memory");
        text.lines().filter(|line| line.starts_with(of)).map(str::to_owned).collect()
    }

    fn value(metrics: &Metrics, series: &str) -> f64 {
        let found = lines(metrics, &format!("{series} "));
        assert_eq!(found.len(), 1, "{series}: {found:?}");
        found[0].rsplit(' ').next().expect("a value").parse().expect("a number")
    }

    #[test]
    fn a_steps_life_is_counted_under_its_queue_and_handler() {
        let metrics = Metrics::new();
        metrics.step_started("q", "h", Some(Duration::from_millis(30)));
        assert_eq!(
            lines(&metrics, "callbackd_steps_running{"),
            ["callbackd_steps_running{queue=\"q\",handler=\"h\"} 1"]
        );
        metrics.step_idle("q", "h");
        metrics.step_ended("q", "h", "success", Some(Duration::from_hours(25)));
        assert_eq!(
            lines(&metrics, "callbackd_steps_total"),
            ["callbackd_steps_total{queue=\"q\",handler=\"h\",outcome=\"success\"} 1"]
        );
        assert_eq!(
            lines(&metrics, "callbackd_steps_running{"),
            ["callbackd_steps_running{queue=\"q\",handler=\"h\"} 0"]
        );
        assert_eq!(
            lines(&metrics, "callbackd_step_seconds_sum{")[0].rsplit(' ').next(),
            Some("90000.0")
        );
        assert_eq!(
            lines(&metrics, "callbackd_pickup_seconds_count{")[0].rsplit(' ').next(),
            Some("1")
        );
        let in_buckets = lines(&metrics, "callbackd_step_seconds_bucket{")
            .iter()
            .filter(|line| line.ends_with(" 1"))
            .count();
        assert_eq!(in_buckets, 3, "25 hours are below three days, a week and infinity");
    }

    #[test]
    fn what_is_expected_is_there_before_it_happens() {
        let metrics = Metrics::new();
        metrics.expect_queue("q");
        metrics.expect_handler("q", "h");
        assert_eq!(
            lines(&metrics, "callbackd_messages_unreadable_total{"),
            ["callbackd_messages_unreadable_total{queue=\"q\"} 0"]
        );
        for of_queue in [
            "reports_not_found_total",
            "verify_refusals_total",
            "heartbeats_failed_total",
            "concurrency",
            "last_poll_timestamp_seconds",
            "messages_held",
            "reports_pending",
            "oldest_unreported_seconds",
            "steps_deferred",
            "stops_held",
            "steps_without_message",
            "cleanups_waiting",
            "reports_waiting",
        ] {
            assert_eq!(
                value(&metrics, &format!("callbackd_{of_queue}{{queue=\"q\"}}")),
                0.0,
                "{of_queue}"
            );
        }
        assert_eq!(
            lines(&metrics, "callbackd_progress_age_seconds{"),
            ["callbackd_progress_age_seconds{queue=\"q\",handler=\"h\"} 0.0"]
        );
        assert_eq!(lines(&metrics, "callbackd_steps_queued{").len(), 3);
        assert_eq!(lines(&metrics, "callbackd_steps_total{").len(), OUTCOMES.len());
        assert_eq!(lines(&metrics, "callbackd_stops_total{").len(), 3);
        assert_eq!(value(&metrics, "callbackd_timeouts_total{operation=\"ReceiveMessage\"}"), 0.0);
        for single in [
            "callbackd_draining",
            "callbackd_ready",
            "callbackd_ledger_failing",
            "callbackd_clock_set_total",
            "callbackd_log_lines_dropped_total",
        ] {
            assert_eq!(value(&metrics, single), 0.0, "{single}");
        }
    }

    #[test]
    fn a_call_that_fails_counts_each_of_its_messages() {
        let metrics = Metrics::new();
        metrics.heartbeat_failed("q", 10);
        metrics.heartbeat_failed("q", 1);
        assert_eq!(value(&metrics, "callbackd_heartbeats_failed_total{queue=\"q\"}"), 11.0);
    }

    #[test]
    fn what_waits_is_as_many_as_was_last_told() {
        let metrics = Metrics::new();
        metrics.set_queue("q", &Figures { queued: [3, 4, 1], ..Figures::default() });
        metrics.set_queue("q", &Figures { queued: [0, 5, 0], ..Figures::default() });
        assert_eq!(value(&metrics, "callbackd_steps_queued{queue=\"q\",kind=\"new\"}"), 0.0);
        assert_eq!(value(&metrics, "callbackd_steps_queued{queue=\"q\",kind=\"resumed\"}"), 5.0);
    }

    #[test]
    fn the_age_of_progress_is_that_of_a_handler_and_0_if_none_runs() {
        let metrics = Metrics::new();
        let series = "callbackd_progress_age_seconds{queue=\"q\",handler=\"h\"}";
        for (age, shown) in [(Some(Duration::from_secs(90)), 90.0), (None, 0.0)] {
            let progress_ages = vec![("h".to_owned(), age)];
            metrics.set_queue("q", &Figures { progress_ages, ..Figures::default() });
            assert_eq!(value(&metrics, series), shown);
        }
    }

    #[test]
    fn an_attempt_that_is_not_the_first_is_a_retry() {
        let metrics = Metrics::new();
        for first in [true, false, false] {
            metrics.attempt("q", "h", first);
        }
        assert_eq!(value(&metrics, "callbackd_attempts_total{queue=\"q\",handler=\"h\"}"), 3.0);
        assert_eq!(value(&metrics, "callbackd_retries_total{queue=\"q\",handler=\"h\"}"), 2.0);
    }

    #[test]
    fn an_error_code_that_looks_like_none_becomes_no_label() {
        let metrics = Metrics::new();
        for result in ["ok", "ThrottlingException", "", "<html>\n", &"x".repeat(65)] {
            metrics.aws_request("sqs", "ReceiveMessage", result);
        }
        let mut counted = lines(&metrics, "callbackd_aws_requests_total{");
        counted.sort();
        let series = |result| {
            format!(
                "callbackd_aws_requests_total{{service=\"sqs\",operation=\"ReceiveMessage\",result=\"{result}\"}}"
            )
        };
        assert_eq!(
            counted,
            [
                format!("{} 1", series("ThrottlingException")),
                format!("{} 1", series("ok")),
                format!("{} 3", series("other"))
            ]
        );
    }
}
