//! The state of each queue, as gauges that are set at each scrape. A queue is named by the last
//! segment of its URL.

use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// The kinds of steps that wait to be run.
const NEW: &str = "new";
const RESUMED: &str = "resumed";
const LIMITED: &str = "limited";
/// Why a queue is not polled.
const ORDER: &str = "order";
const BREAKER: &str = "breaker";

/// The state of one queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Steps that may run at once.
    pub concurrency: usize,
    /// Messages that heartbeats keep invisible.
    pub held: usize,
    /// Steps that wait for a slot: those that never ran, and those that resume; and steps that wait
    /// for a limit of their handler.
    pub queued: [usize; 3],
    /// Whether it is not polled by order, or because the steps of its handlers failed.
    pub paused: [bool; 2],
    /// Cleanups that wait for others to end.
    pub cleanups_waiting: usize,
    /// Outcomes that wait for other pending reports.
    pub reports_waiting: usize,
    /// Steps that are not resumed because their message has not come back and other workers may
    /// have it.
    pub without_message: usize,
    /// Outcomes that SageMaker has not accepted yet, and the age of the oldest.
    pub reports_pending: usize,
    pub oldest_unreported: Option<Duration>,
    /// Steps that wait for someone else to complete them.
    pub deferred: usize,
    /// Stops of steps that the ledger has never run, held until their steps are closed or answered.
    pub stops_held: usize,
    /// When a receive last succeeded, since the epoch.
    pub last_poll: Option<Duration>,
    /// By handler: how long ago the running step that has been silent for longest last made
    /// progress, if one runs.
    pub progress_ages: Vec<(String, Option<Duration>)>,
}

type Labels<const N: usize> = [(&'static str, String); N];
type Counts = Family<Labels<1>, Gauge>;
type Seconds = Family<Labels<1>, Gauge<f64, std::sync::atomic::AtomicU64>>;

#[derive(Debug)]
pub(super) struct QueueStat {
    concurrency: Counts,
    held: Counts,
    queued: Family<Labels<2>, Gauge>,
    paused: Family<Labels<2>, Gauge>,
    cleanups_waiting: Counts,
    reports_waiting: Counts,
    without_message: Counts,
    reports_pending: Counts,
    oldest_unreported: Seconds,
    deferred: Counts,
    stops_held: Counts,
    last_poll: Seconds,
    progress_age: Family<Labels<2>, Gauge<f64, std::sync::atomic::AtomicU64>>,
}

impl QueueStat {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let queued: Family<Labels<2>, Gauge> = Family::default();
        registry.register(
            "steps_queued",
            "Steps that wait for a slot, new or having run before, or for a limit of their handler",
            queued.clone(),
        );
        let paused: Family<Labels<2>, Gauge> = Family::default();
        registry.register(
            "queue_paused",
            "1 while the queue is not polled, by `callbackd pause` or because its steps failed",
            paused.clone(),
        );
        let mut counts = |name: &str, help: &str| {
            let family = Counts::default();
            registry.register(name, help, family.clone());
            family
        };
        let without_message = "Steps that no worker runs and whose message has not come back, on a \
                               queue that other workers also read";
        let concurrency =
            counts("concurrency", "Steps of the queue that may run on this worker at once");
        let held = counts("messages_held", "Messages that heartbeats keep invisible");
        let cleanups_waiting = counts("cleanups_waiting", "Cleanups that wait for others to end");
        let reports_waiting = counts(
            "reports_waiting",
            "Outcomes that wait for other pending reports before they are sent",
        );
        let without_message = counts("steps_without_message", without_message);
        let reports_pending =
            counts("reports_pending", "Outcomes that SageMaker has not accepted yet");
        let deferred =
            counts("steps_deferred", "Steps that wait for someone else to complete them");
        let stops_held = counts(
            "stops_held",
            "Stops of steps that this ledger has never run, held until they are answered",
        );
        let mut seconds = |name: &str, help: &str| {
            let family = Seconds::default();
            registry.register_with_unit(name, help, Unit::Seconds, family.clone());
            family
        };
        let oldest_unreported = seconds(
            "oldest_unreported",
            "The age of the oldest outcome that SageMaker has not accepted yet; 0 if there is none",
        );
        let last_poll = seconds(
            "last_poll_timestamp",
            "When a receive from the queue last succeeded, since the epoch; 0 if none has since \
             the start",
        );
        let progress_age = Family::default();
        registry.register_with_unit(
            "progress_age",
            "How long ago the running step that has been silent for longest last made progress, \
             or was started; 0 if none runs",
            Unit::Seconds,
            progress_age.clone(),
        );
        Self {
            concurrency,
            held,
            queued,
            paused,
            cleanups_waiting,
            reports_waiting,
            without_message,
            reports_pending,
            oldest_unreported,
            deferred,
            stops_held,
            last_poll,
            progress_age,
        }
    }

    pub(super) fn set(&self, queue: &str, figures: &Figures) {
        let label = [("queue", queue.to_owned())];
        for (family, count) in [
            (&self.concurrency, figures.concurrency),
            (&self.held, figures.held),
            (&self.cleanups_waiting, figures.cleanups_waiting),
            (&self.reports_waiting, figures.reports_waiting),
            (&self.without_message, figures.without_message),
            (&self.reports_pending, figures.reports_pending),
            (&self.deferred, figures.deferred),
            (&self.stops_held, figures.stops_held),
        ] {
            family.get_or_create(&label).set(whole(count));
        }
        for (kind, count) in [NEW, RESUMED, LIMITED].into_iter().zip(figures.queued) {
            let labels = [("queue", queue.to_owned()), ("kind", kind.to_owned())];
            self.queued.get_or_create(&labels).set(whole(count));
        }
        for (why, paused) in [ORDER, BREAKER].into_iter().zip(figures.paused) {
            let labels = [("queue", queue.to_owned()), ("why", why.to_owned())];
            self.paused.get_or_create(&labels).set(paused.into());
        }
        let seconds = |duration: Option<Duration>| duration.unwrap_or_default().as_secs_f64();
        self.oldest_unreported.get_or_create(&label).set(seconds(figures.oldest_unreported));
        self.last_poll.get_or_create(&label).set(seconds(figures.last_poll));
        for (handler, age) in &figures.progress_ages {
            self.set_progress_age(queue, handler, *age);
        }
    }

    pub(super) fn set_progress_age(&self, queue: &str, handler: &str, age: Option<Duration>) {
        let labels = [("queue", queue.to_owned()), ("handler", handler.to_owned())];
        self.progress_age.get_or_create(&labels).set(age.unwrap_or_default().as_secs_f64());
    }
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
