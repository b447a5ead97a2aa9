//! Handlers that cannot work on this machine at present: no space, no descriptors, a missing
//! program.
//!
//! This is the worker's problem, and no step is charged with it. The handler's steps wait in line,
//! and one at a time is tried, as the back-off says. A queue that has another handler is polled as
//! usual, until many of its steps wait; a queue without another one is polled rarely, for one
//! message at a time. The impairment ends once a run gets under way, or if nothing has shown for a
//! while that it persists.

mod ailment;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::waiting::found;
use crate::seam::{Observation, Observer};
use crate::step::CallbackToken;
use ailment::Ailment;

/// The impaired handlers; cheap to clone.
#[derive(Clone)]
pub(crate) struct Impaired(Arc<Inner>);

struct Inner {
    table: Mutex<Table>,
    /// How many are impaired, so that the table is not locked while none is.
    ailing: AtomicUsize,
    /// A handler works again.
    over: Notify,
    /// A step may be due.
    news: Notify,
    observer: Arc<dyn Observer>,
}

#[derive(Default)]
struct Table {
    ailing: BTreeMap<String, Ailment>,
    /// Steps that waited for a handler that works again.
    released: VecDeque<CallbackToken>,
    trials: u64,
}

/// An impaired handler, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impairment {
    pub handler: String,
    /// `space`, `descriptors`, `memory`, `processes`, `io`, `program`, `working_dir`, `ledger`, or
    /// what a compiled-in handler reports.
    pub what: &'static str,
    pub error: String,
    pub since: Duration,
}

/// Whether a step may start its handler.
pub(crate) enum Admission {
    Free,
    /// It tests whether the handler works again.
    Trial(Trial),
    /// It waits in line.
    Wait(Hindrance),
}

/// What a step waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hindrance {
    pub(crate) what: &'static str,
    pub(crate) error: String,
    /// How long until the next test.
    pub(crate) wait: Duration,
}

/// A step's permit to test an impaired handler. If it is dropped, the next step tests as soon as
/// the back-off allows.
pub(crate) struct Trial {
    inner: Arc<Inner>,
    handler: String,
    number: u64,
}

impl Impaired {
    pub(crate) fn new(observer: Arc<dyn Observer>) -> Self {
        Self(Arc::new(Inner {
            table: Mutex::default(),
            ailing: AtomicUsize::new(0),
            over: Notify::new(),
            news: Notify::new(),
            observer,
        }))
    }

    /// Records that a handler could not work. Returns how long to wait before the next test.
    pub(crate) fn strike(&self, handler: &str, what: &'static str, error: &str) -> Duration {
        let wait = self.0.change(|table| {
            let ailment =
                table.ailing.entry(handler.to_owned()).or_insert_with(|| Ailment::new(what));
            if let Some(wait) = ailment.strike(what, error) {
                tracing::error!(
                    event = "handler_impaired",
                    handler,
                    what,
                    error,
                    failures = ailment.failures.count(),
                    again_in = ?wait,
                    "this machine keeps the handler from working; its steps wait and no attempt is \
                     counted"
                );
            }
            ailment.until - Instant::now()
        });
        // Spread out, so that they do not come back together.
        wait + wait.mul_f64(fastrand::f64() / 4.0)
    }

    /// A run of the handler that was begun then has produced a result, or is in progress.
    pub(crate) fn works(&self, handler: &str, begun: Instant) {
        if self.0.is_quiet() {
            return;
        }
        let over = self.0.change(|table| {
            table.ailing.get(handler).filter(|ailment| begun >= ailment.struck)?;
            table.release(handler)
        });
        if let Some(ailment) = over {
            tracing::info!(
                event = "handler_recovered",
                handler,
                what = ailment.what,
                after = ?ailment.since.elapsed(),
                "the handler works again"
            );
            self.0.over.notify_waiters();
        }
    }

    /// Whether a step of this queue may start the handler. Otherwise it joins the line, or keeps
    /// its place in it.
    pub(crate) fn enter(&self, handler: &str, queue: usize, token: &CallbackToken) -> Admission {
        if self.0.is_quiet() {
            return Admission::Free;
        }
        let mut table = self.0.lock();
        let number = table.trials;
        let Some(ailment) = table.ailing.get_mut(handler) else { return Admission::Free };
        if ailment.may_try() {
            ailment.waiting.remove(token);
            ailment.begin_trial(number);
            table.trials += 1;
            return Admission::Trial(Trial {
                inner: self.0.clone(),
                handler: handler.to_owned(),
                number,
            });
        }
        ailment.waiting.push(token, queue);
        let wait = ailment.until.saturating_duration_since(Instant::now());
        Admission::Wait(Hindrance { what: ailment.what, error: ailment.error.clone(), wait })
    }

    /// Puts a step in line whose run was hindered.
    pub(crate) fn hold(&self, handler: &str, queue: usize, token: &CallbackToken) {
        if let Some(ailment) = self.0.lock().ailing.get_mut(handler) {
            ailment.waiting.push(token, queue);
        }
    }

    /// The step no longer waits.
    pub(crate) fn leave(&self, handler: &str, token: &CallbackToken) {
        if self.0.is_quiet() {
            return;
        }
        if let Some(ailment) = self.0.lock().ailing.get_mut(handler) {
            ailment.waiting.remove(token);
        }
    }

    /// The next step that need not wait any more: its handler works again, or it is to test it.
    /// Cancel safe.
    pub(crate) async fn next(&self) -> (CallbackToken, Option<Trial>) {
        let look = || {
            self.lapse();
            self.next_now()
        };
        found(&self.0.news, look).await
    }

    /// Or when there may be one, or an impairment may lapse.
    fn next_now(&self) -> Result<(CallbackToken, Option<Trial>), Option<Instant>> {
        let mut table = self.0.lock();
        if let Some(token) = table.released.pop_front() {
            return Ok((token, None));
        }
        let number = table.trials;
        let due = table
            .ailing
            .iter_mut()
            .find(|(_, ailment)| ailment.may_try() && !ailment.waiting.is_empty());
        let Some((handler, ailment)) = due else {
            return Err(table.ailing.values().filter_map(Ailment::due).min());
        };
        let Some(token) = ailment.waiting.pop() else { return Err(None) };
        ailment.begin_trial(number);
        let trial = Trial { inner: self.0.clone(), handler: handler.clone(), number };
        table.trials += 1;
        Ok((token, Some(trial)))
    }

    /// Ends impairments that nothing has confirmed for a while.
    fn lapse(&self) {
        loop {
            let lapsed = |(handler, ailment): (&String, &Ailment)| {
                ailment.has_lapsed().then(|| handler.clone())
            };
            let Some(handler) = self.0.lock().ailing.iter().find_map(lapsed) else { return };
            if let Some(ailment) = self.0.change(|table| table.release(&handler)) {
                let (what, after) = (ailment.what, ailment.since.elapsed());
                tracing::info!(
                    event = "handler_assumed_recovered",
                    handler,
                    what,
                    ?after,
                    "the handler is assumed to work again: nothing has shown otherwise for a while"
                );
                self.0.over.notify_waiters();
            }
        }
    }

    /// Waits until a queue with these handlers may be polled. `true` if it is polled rarely: all
    /// its handlers are impaired, or `many` of its steps wait for one; granted once per wait.
    /// Otherwise cancel safe.
    pub(crate) async fn may_poll<'a>(
        &self,
        queue: usize,
        handlers: impl Iterator<Item = &'a str> + Clone,
        many: usize,
    ) -> bool {
        loop {
            let over = self.0.over.notified();
            let until = match self.poll_now(queue, handlers.clone(), many) {
                Ok(rarely) => return rarely,
                Err(until) => until,
            };
            tokio::select! {
                biased;
                () = over => {}
                () = sleep_until(until) => {}
            }
        }
    }

    /// Or when it may be polled.
    fn poll_now<'a>(
        &self,
        queue: usize,
        handlers: impl Iterator<Item = &'a str> + Clone,
        many: usize,
    ) -> Result<bool, Instant> {
        if self.0.is_quiet() {
            return Ok(false);
        }
        let now = Instant::now();
        let mut table = self.0.lock();
        let ailing = &mut table.ailing;
        let ail = |name: &str, ailing: &BTreeMap<String, Ailment>| ailing.contains_key(name);
        let some_work = handlers.clone().any(|name| !ail(name, ailing));
        let none_ails = !handlers.clone().any(|name| ail(name, ailing));
        let wait: usize = ailing.values().map(|ailment| ailment.waiting.of(queue)).sum();
        if none_ails || some_work && wait < many {
            return Ok(false);
        }
        let at = handlers
            .clone()
            .filter_map(|name| ailing.get(name))
            .map(|ailment| ailment.poll_at)
            .max();
        if let Some(at) = at.filter(|at| *at > now) {
            return Err(at);
        }
        for name in handlers {
            if let Some(ailment) = ailing.get_mut(name) {
                ailment.poll_at = now + ailment.wait;
            }
        }
        Ok(true)
    }

    pub(crate) fn list(&self) -> Vec<Impairment> {
        let told = |(handler, ailment): (&String, &Ailment)| Impairment {
            handler: handler.clone(),
            what: ailment.what,
            error: ailment.error.clone(),
            since: ailment.since.elapsed(),
        };
        self.0.lock().ailing.iter().map(told).collect()
    }
}

impl Inner {
    /// Changes the table, and notifies what waits for it.
    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.lock();
        let before = table.kinds();
        let changed = change(&mut table);
        self.ailing.store(table.ailing.len(), Ordering::SeqCst);
        for what in before.symmetric_difference(&table.kinds()) {
            self.observer.observe(Observation::Impaired { what, impaired: !before.contains(what) });
        }
        drop(table);
        self.news.notify_one();
        changed
    }

    fn is_quiet(&self) -> bool {
        self.ailing.load(Ordering::SeqCst) == 0
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn kinds(&self) -> BTreeSet<&'static str> {
        self.ailing.values().map(|ailment| ailment.what).collect()
    }

    /// Lets the steps continue that wait for the handler.
    fn release(&mut self, handler: &str) -> Option<Ailment> {
        let mut ailment = self.ailing.remove(handler)?;
        self.released.extend(std::iter::from_fn(|| ailment.waiting.pop()));
        Some(ailment)
    }
}

impl Trial {
    /// The handler is being started. Its result is awaited no longer than an impairment lasts
    /// without a sign of it.
    pub(crate) fn begins(&self) {
        self.change(Ailment::trial_begins);
    }

    fn change(&self, change: impl FnOnce(&mut Ailment)) {
        if let Some(ailment) =
            self.inner.lock().ailing.get_mut(&self.handler).filter(|it| it.is_tried_by(self.number))
        {
            change(ailment);
        }
        self.inner.news.notify_one();
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.change(Ailment::end_trial);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn token(number: usize) -> CallbackToken {
        format!("{number:0>10}").parse().expect("a token")
    }

    fn impaired() -> Impaired {
        Impaired::new(Arc::new(()))
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_fail_together_count_once_and_what_gets_under_way_ends_it() {
        let impaired = impaired();
        assert!(!impaired.may_poll(0, ["a"].into_iter(), 10).await, "nothing is known");
        let first = impaired.strike("a", "space", "disk full");
        for _ in 0..50 {
            assert!(
                impaired.strike("a", "space", "disk full") <= Duration::from_secs(1).mul_f64(1.25)
            );
        }
        assert!(!impaired.may_poll(0, ["b"].into_iter(), 10).await, "another handler works");
        assert!(
            !impaired.may_poll(0, ["a", "b"].into_iter(), 10).await,
            "and so does one of these"
        );
        let begun = Instant::now();
        assert!(impaired.may_poll(0, ["a"].into_iter(), 10).await);
        assert!(begun.elapsed() <= first);
        for _ in 0..9 {
            advance(MINUTE).await;
            impaired.strike("a", "space", "disk full");
        }
        assert_eq!(impaired.list()[0].what, "space");
        let waiting = impaired.may_poll(0, ["a"].into_iter(), 10);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        impaired.works("a", begun);
        assert!(futures_util::poll!(&mut waiting).is_pending(), "a run begun before says nothing");
        impaired.works("a", Instant::now());
        assert!(!waiting.await && impaired.list().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_a_time_tries_in_turn_and_the_others_go_on_once_it_is_over() {
        let impaired = impaired();
        impaired.strike("a", "program", "absent");
        for number in 0..3 {
            assert!(matches!(impaired.enter("a", 0, &token(number)), Admission::Wait(_)));
        }
        impaired.leave("a", &token(1));
        assert!(
            impaired.next().now_or_never().is_none(),
            "nobody tries before the back-off says so"
        );
        let (first, trial) = impaired.next().await;
        assert_eq!(first, token(0));
        assert!(impaired.next().now_or_never().is_none());
        assert!(
            matches!(impaired.enter("a", 0, &token(0)), Admission::Wait(_)),
            "who tries again waits in turn"
        );
        drop(trial);
        let (second, trial) = impaired.next().await;
        assert_eq!(second, token(2), "one that came to nothing makes room for the next");
        trial.expect("it is to try").begins();
        impaired.strike("a", "program", "absent");
        assert!(impaired.next().now_or_never().is_none());
        impaired.works("a", Instant::now());
        let (last, trial) = impaired.next().await;
        assert!(last == token(0) && trial.is_none() && impaired.list().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn it_lapses_without_a_sign_but_not_before_one_who_waits_has_tried() {
        let impaired = impaired();
        impaired.strike("a", "program", "absent");
        assert!(impaired.next().now_or_never().is_none());
        advance(ailment::LAPSE).await;
        assert!(impaired.next().now_or_never().is_none());
        assert!(impaired.list().is_empty());

        impaired.strike("a", "program", "absent");
        for number in 0..2 {
            impaired.enter("a", 0, &token(number));
        }
        advance(10 * MINUTE).await;
        let (_, trial) = impaired.next().await;
        let trial = trial.expect("it is to try");
        advance(10 * MINUTE).await;
        assert!(impaired.next().now_or_never().is_none(), "it waits for a slot");
        trial.begins();
        let begun = Instant::now();
        let (last, free) = impaired.next().await;
        assert!(last == token(1) && free.is_none() && begun.elapsed() == ailment::LAPSE);
        drop(trial);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_on_which_many_wait_for_one_handler_is_polled_rarely_though_another_works() {
        let impaired = impaired();
        impaired.strike("a", "program", "absent");
        for number in 0..10 {
            impaired.enter("a", number % 2, &token(number));
        }
        assert_eq!(impaired.poll_now(0, ["a", "b"].into_iter(), 6), Ok(false));
        assert!(impaired.poll_now(0, ["a", "b"].into_iter(), 5).is_err());
        advance(MINUTE).await;
        assert_eq!(impaired.poll_now(0, ["a", "b"].into_iter(), 5), Ok(true));
        assert!(impaired.poll_now(0, ["a", "b"].into_iter(), 5).is_err());
        for number in 0..10 {
            impaired.leave("a", &token(number));
        }
        assert_eq!(impaired.poll_now(0, ["a", "b"].into_iter(), 5), Ok(false));
    }
}
