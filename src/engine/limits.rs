//! What bounds the runs of a handler on this worker, in all queues: how many there are at once, how
//! many attempts are started in which time, a breaker for a handler whose steps keep failing, and
//! an operator's order.
//!
//! A step waits for its handler before it waits for a slot of its queue, and keeps neither while it
//! waits for the other, so that no handler is held up by another one's steps. A queue without
//! another handler is polled for as many messages as may start; one with another handler as usual,
//! until many of its steps wait.
//!
//! A poll reserves nothing from the steps that are here, because it may bring nothing: the polls of
//! several queues of one handler may bring more than may start, once each.

mod bound;
mod breaker;
mod order;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::config::HandlerConfig;
use super::waiting::found;
use crate::step::CallbackToken;
use bound::Bound;
pub(crate) use bound::Want;
pub(crate) use breaker::Verdict;
use breaker::{Breaker, Change};

/// The limits of all handlers; cheap to clone.
#[derive(Clone)]
pub(crate) struct Limits(Arc<Inner>);

struct Inner {
    /// By handler; one without limits is not here.
    bounds: Mutex<Bounds>,
    /// No handler has had limits yet.
    none: AtomicBool,
    /// A waiting step may have its turn.
    news: Notify,
    /// A poll may bring more.
    room: Notify,
}

type Bounds = BTreeMap<String, Bound>;

/// Whether a step may run its handler.
pub(crate) enum Entry {
    Free,
    Granted(Berth),
    /// It waits in line.
    Wait,
}

/// A step's permit to run a handler that has limits; returned when dropped.
#[must_use = "a berth that is dropped is given back"]
pub(crate) struct Berth {
    inner: Arc<Inner>,
    handler: String,
    token: CallbackToken,
    want: Want,
    /// Whether the handler works again is seen by this step.
    trial: bool,
    /// When its run began.
    begun: Option<Instant>,
}

/// The leave of a poll to bring one message for a handler; returned when dropped.
pub(crate) struct Room {
    inner: Arc<Inner>,
    handler: String,
    queue: usize,
}

/// What a poll may bring.
pub(crate) struct Reserved {
    pub(crate) messages: usize,
    /// One for each message, if the queue's only handler has limits.
    pub(crate) rooms: Vec<Room>,
}

/// A handler that is left alone because its steps failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tripped {
    pub handler: String,
    pub since: Duration,
    /// How long no step is started yet; `None` while one at a time is tried.
    pub pauses_for: Option<Duration>,
}

impl Limits {
    pub(crate) fn new<'a>(handlers: impl Iterator<Item = (&'a String, &'a HandlerConfig)>) -> Self {
        let bound = |(name, config): (&String, _)| Some((name.clone(), Bound::new(config)?));
        let bounds: Bounds = handlers.filter_map(bound).collect();
        let none = AtomicBool::new(bounds.is_empty());
        let (news, room) = (Notify::new(), Notify::new());
        Self(Arc::new(Inner { bounds: Mutex::new(bounds), none, news, room }))
    }

    /// Changes the limits of a handler.
    pub(crate) fn reload(&self, handler: &str, config: &HandlerConfig) {
        {
            let mut bounds = self.0.lock();
            match bounds.get_mut(handler) {
                Some(bound) => bound.reload(config),
                None => bounds.extend(Bound::new(config).map(|new| (handler.to_owned(), new))),
            }
            self.0.none.store(bounds.is_empty(), Ordering::SeqCst);
        }
        self.0.tell();
    }

    /// Whether a step of this queue may run the handler. Otherwise it joins the line, or keeps its
    /// place in it.
    pub(crate) fn enter(
        &self,
        handler: &str,
        queue: usize,
        token: &CallbackToken,
        want: Want,
    ) -> Entry {
        if self.0.is_none() {
            return Entry::Free;
        }
        let now = Instant::now();
        let mut bounds = self.0.lock();
        let Some(bound) = bounds.get_mut(handler) else { return Entry::Free };
        if !bound.enter(token, queue, want, now) {
            drop(bounds);
            // It may wait for a moment that nobody waits for yet.
            self.0.news.notify_one();
            return Entry::Wait;
        }
        Entry::Granted(self.granted(bound, handler, token, want, now))
    }

    fn granted(
        &self,
        bound: &mut Bound,
        handler: &str,
        token: &CallbackToken,
        want: Want,
        now: Instant,
    ) -> Berth {
        let trial = bound.grant(token, want, now);
        let (inner, handler, token) = (self.0.clone(), handler.to_owned(), token.clone());
        Berth { inner, handler, token, want, trial, begun: None }
    }

    /// The step waits no more for the handler, and does not try it.
    pub(crate) fn leave(&self, handler: &str, token: &CallbackToken) {
        if !self.0.is_none()
            && self.0.lock().get_mut(handler).is_some_and(|bound| bound.leave(token))
        {
            self.0.tell();
        }
    }

    /// The next step that may run. Cancel safe.
    pub(crate) async fn next(&self) -> (CallbackToken, Berth) {
        found(&self.0.news, || self.next_now()).await
    }

    /// Or when there may be one.
    fn next_now(&self) -> Result<(CallbackToken, Berth), Option<Instant>> {
        let now = Instant::now();
        let mut bounds = self.0.lock();
        for (handler, bound) in bounds.iter_mut() {
            if let Some((token, want)) = bound.pop(now) {
                let berth = self.granted(bound, handler, &token, want, now);
                return Ok((token, berth));
            }
        }
        Err(bounds.values().filter_map(|bound| bound.wakes(now)).min())
    }

    /// Waits until a queue with these handlers may bring messages that can start, and returns how
    /// many. `many` of its steps wait at most, if only some of its handlers are limited. Cancel
    /// safe.
    pub(crate) async fn room<'a>(
        &self,
        queue: usize,
        handlers: impl Iterator<Item = &'a str>,
        many: usize,
    ) -> usize {
        let handlers: BTreeSet<&str> = handlers.collect();
        self.until(|bounds, now| may_poll(bounds, queue, &handlers, many, now)).await
    }

    /// Waits until a queue may bring messages that cannot start, so that their stops are noticed:
    /// until fewer than `most` wait, and not while no handler of it starts anything because its
    /// steps failed. Cancel safe.
    pub(crate) async fn room_ahead<'a>(
        &self,
        queue: usize,
        handlers: impl Iterator<Item = &'a str>,
        most: usize,
    ) -> usize {
        let handlers: BTreeSet<&str> = handlers.collect();
        self.until(|bounds, now| {
            if let Some(until) = paused(bounds, &handlers, now) {
                return Err(Some(until));
            }
            let waiting = waiting(bounds, queue, &handlers);
            if waiting < most { Ok(most - waiting) } else { Err(None) }
        })
        .await
    }

    async fn until<T>(
        &self,
        mut look: impl FnMut(&mut Bounds, Instant) -> Result<T, Option<Instant>>,
    ) -> T {
        found(&self.0.room, || look(&mut self.0.lock(), Instant::now())).await
    }

    /// Reserves what a poll may bring: at most `most`, possibly nothing.
    pub(crate) fn reserve<'a>(
        &self,
        queue: usize,
        handlers: impl Iterator<Item = &'a str>,
        many: usize,
        most: usize,
    ) -> Reserved {
        if self.0.is_none() {
            return Reserved { messages: most, rooms: Vec::new() };
        }
        let handlers: BTreeSet<&str> = handlers.collect();
        let mut bounds = self.0.lock();
        let room = may_poll(&mut bounds, queue, &handlers, many, Instant::now()).unwrap_or(0);
        let messages = room.min(most);
        let Some((handler, bound)) = only(&mut bounds, &handlers) else {
            return Reserved { messages, rooms: Vec::new() };
        };
        bound.poll(queue, messages);
        let room = || Room { inner: self.0.clone(), handler: handler.to_owned(), queue };
        Reserved { messages, rooms: std::iter::repeat_with(room).take(messages).collect() }
    }

    /// A run of the handler, begun then, has ended.
    pub(crate) fn ended(
        &self,
        handler: &str,
        token: &CallbackToken,
        begun: Instant,
        verdict: Verdict,
    ) {
        let now = Instant::now();
        let change = self.change(handler, |bound| {
            let breaker = bound.breaker.as_mut()?;
            let pause = breaker.config().pause;
            Some((breaker.ended(token, begun, verdict, now)?, pause))
        });
        let Some((change, pause)) = change.flatten() else { return };
        let pause = crate::duration::text(pause);
        match change {
            Change::Opened(failed) => tracing::error!(
                event = "breaker_opened",
                handler,
                failed,
                pause,
                "attempts of so many steps have failed and none has succeeded: no step of the \
                 handler is started for the pause; `callbackd resume QUEUE` ends it"
            ),
            Change::Again => {
                tracing::warn!(
                    event = "breaker_reopened",
                    handler,
                    pause,
                    "the step that was tried has failed: another pause"
                );
            }
            Change::Closed => tracing::info!(
                event = "breaker_closed",
                handler,
                "a step of the handler has succeeded: its steps are started as usual"
            ),
        }
    }

    /// Ends the pauses of these handlers. Returns those that had one.
    pub(crate) fn close<'a>(&self, handlers: impl Iterator<Item = &'a str>) -> Vec<String> {
        let handlers: BTreeSet<&str> = handlers.collect();
        let close = |bound: &mut Bound| bound.breaker.as_mut().is_some_and(Breaker::close);
        let closed = |handler: &&str| self.change(handler, close).unwrap_or(false);
        handlers.into_iter().filter(closed).map(str::to_owned).collect()
    }

    /// The handlers with limits, each with the pause of its breaker if it has one.
    pub(crate) fn breakers(&self) -> Vec<(String, Option<Tripped>)> {
        let now = Instant::now();
        let told = |(handler, bound): (&String, &Bound)| {
            let tripped = bound.breaker.as_ref().and_then(|breaker| {
                let since = now - breaker.since()?;
                let pauses_for = breaker.pauses_until(now).map(|until| until - now);
                Some(Tripped { handler: handler.clone(), since, pauses_for })
            });
            (handler.clone(), tripped)
        };
        self.0.lock().iter().map(told).collect()
    }

    /// Whether a queue with these handlers is not polled because all of them are paused.
    pub(crate) fn is_paused<'a>(&self, handlers: impl Iterator<Item = &'a str>) -> bool {
        paused(&self.0.lock(), &handlers.collect(), Instant::now()).is_some()
    }

    /// Whether a queue with these handlers has no room for messages that can start.
    pub(crate) fn is_full<'a>(
        &self,
        queue: usize,
        handlers: impl Iterator<Item = &'a str>,
        many: usize,
    ) -> bool {
        let handlers = handlers.collect();
        may_poll(&mut self.0.lock(), queue, &handlers, many, Instant::now()).is_err()
    }

    /// How many steps of the queue wait for a limit.
    pub(crate) fn waiting(&self, queue: usize) -> usize {
        self.0.lock().values().map(|bound| bound.waiting_of(queue)).sum()
    }

    fn change<T>(&self, handler: &str, change: impl FnOnce(&mut Bound) -> T) -> Option<T> {
        if self.0.is_none() { None } else { self.0.change(handler, change) }
    }
}

/// How many messages a queue with these handlers may bring, or when it may bring some.
fn may_poll(
    bounds: &mut Bounds,
    queue: usize,
    handlers: &BTreeSet<&str>,
    many: usize,
    now: Instant,
) -> Result<usize, Option<Instant>> {
    if let Some((_, bound)) = only(bounds, handlers) {
        let room = bound.poll_room(queue, now);
        return if room > 0 { Ok(room) } else { Err(bound.due(now)) };
    }
    let mut some = false;
    for handler in handlers {
        some |= bounds.get_mut(*handler).is_none_or(|bound| bound.poll_room(queue, now) > 0);
    }
    let waiting = waiting(bounds, queue, handlers);
    if some && waiting < many {
        return Ok(many - waiting);
    }
    Err(handlers.iter().filter_map(|handler| bounds.get(*handler)?.due(now)).min())
}

/// The only handler of a queue, if it has limits.
fn only<'a, 'b>(
    bounds: &'b mut Bounds,
    handlers: &BTreeSet<&'a str>,
) -> Option<(&'a str, &'b mut Bound)> {
    let (1, Some(handler)) = (handlers.len(), handlers.first()) else { return None };
    bounds.get_mut(*handler).map(|bound| (*handler, bound))
}

fn waiting(bounds: &Bounds, queue: usize, handlers: &BTreeSet<&str>) -> usize {
    let bounds = handlers.iter().filter_map(|handler| bounds.get(*handler));
    bounds.map(|bound| bound.waiting_of(queue)).sum()
}

/// Until when none of the handlers starts anything because its steps failed.
fn paused(bounds: &Bounds, handlers: &BTreeSet<&str>, now: Instant) -> Option<Instant> {
    let until = |handler| bounds.get(handler)?.breaker.as_ref()?.pauses_until(now);
    let all: Option<Vec<Instant>> = handlers.iter().copied().map(until).collect();
    all?.into_iter().min()
}

impl Inner {
    fn is_none(&self) -> bool {
        self.none.load(Ordering::SeqCst)
    }

    fn change<T>(&self, handler: &str, change: impl FnOnce(&mut Bound) -> T) -> Option<T> {
        let changed = self.lock().get_mut(handler).map(change);
        self.tell();
        changed
    }

    fn tell(&self) {
        self.news.notify_one();
        self.room.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Bounds> {
        self.bounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Berth {
    /// The handler is being started.
    pub(crate) fn begins(&mut self) {
        let now = Instant::now();
        if self.begun.replace(now).is_none() && self.want == Want::Start {
            self.inner.change(&self.handler, |bound| bound.begin(now));
            if self.trial {
                tracing::info!(
                    event = "breaker_tried",
                    handler = self.handler,
                    "the handler is tried with one step"
                );
            }
        }
    }

    /// This machine kept the run from working: it does not count for the rate.
    pub(crate) fn was_hindered(&self) {
        if let Some(at) = self.begun.filter(|_| self.want == Want::Start) {
            self.inner.change(&self.handler, |bound| bound.take_back(at));
        }
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        let unused = self.begun.is_none() && self.want == Want::Start;
        self.inner.change(&self.handler, |bound| bound.give_back(&self.token, unused));
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.inner.change(&self.handler, |bound| bound.polled(self.queue));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use serde_json::json;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn token(number: usize) -> CallbackToken {
        format!("{number:0>10}").parse().expect("a token")
    }

    /// Of the handler `a`; `b` has none.
    fn limits(limits: &serde_json::Value) -> Limits {
        let config = |limits: &serde_json::Value| -> HandlerConfig {
            let mut config = limits.clone();
            config["type"] = "exec".into();
            serde_json::from_value(config).expect("config")
        };
        let handlers = [("a".to_owned(), config(limits)), ("b".to_owned(), config(&json!({})))];
        Limits::new(handlers.iter().map(|(name, config)| (name, config)))
    }

    fn berth(entry: Entry) -> Option<Berth> {
        match entry {
            Entry::Granted(berth) => Some(berth),
            Entry::Free | Entry::Wait => None,
        }
    }

    fn enter(limits: &Limits, queue: usize, number: usize) -> Option<Berth> {
        berth(limits.enter("a", queue, &token(number), Want::Start))
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_machine_kept_from_working_does_not_count_for_the_rate() {
        let limits = limits(&json!({"rate": "2/1h"}));
        for number in 0..5 {
            let mut berth = enter(&limits, 0, number).expect("nothing counts yet");
            berth.begins();
            berth.was_hindered();
        }
        for number in 5..7 {
            enter(&limits, 0, number).expect("two may start").begins();
        }
        assert!(enter(&limits, 0, 7).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_berth_that_is_given_back_goes_to_the_next_in_line_of_any_queue() {
        let limits = limits(&json!({"max_running": 1}));
        assert!(matches!(limits.enter("b", 0, &token(9), Want::Start), Entry::Free));
        let first = enter(&limits, 0, 0).expect("it is free");
        assert!(enter(&limits, 0, 1).is_none() && enter(&limits, 1, 2).is_none());
        assert_eq!((limits.waiting(0), limits.waiting(1)), (1, 1));
        limits.leave("a", &token(1));
        let next = limits.next();
        tokio::pin!(next);
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(first);
        let (second, _berth) = next.await;
        assert_eq!(second, token(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_lets_the_next_step_start_when_its_time_has_come() {
        let limits = limits(&json!({"rate": "1/1m"}));
        let began = Instant::now();
        enter(&limits, 0, 0).expect("it is free").begins();
        assert!(enter(&limits, 0, 1).is_none());
        let (next, berth) = limits.next().await;
        assert!(next == token(1) && began.elapsed() == MINUTE);
        drop(berth);
        assert_eq!(limits.room(0, ["a"].into_iter(), 10).await, 1, "it was not used");
        assert_eq!(began.elapsed(), MINUTE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_with_one_handler_brings_what_may_start_and_another_one_more() {
        let limits = limits(&json!({"max_running": 2}));
        let reserved = limits.reserve(0, ["a"].into_iter(), 10, 10);
        assert_eq!((reserved.messages, reserved.rooms.len()), (2, 2));
        assert_eq!(limits.reserve(0, ["a"].into_iter(), 10, 10).messages, 0);
        assert_eq!(limits.reserve(1, ["a"].into_iter(), 10, 10).messages, 2, "once each");
        assert_eq!(limits.reserve(0, ["b"].into_iter(), 10, 10).messages, 10);
        let room = limits.room(0, ["a"].into_iter(), 10);
        tokio::pin!(room);
        assert!(futures_util::poll!(&mut room).is_pending());
        drop(reserved);
        assert_eq!(room.await, 2);

        let _berths = [enter(&limits, 0, 0), enter(&limits, 0, 1)];
        for number in 2..7 {
            assert!(enter(&limits, 0, number).is_none());
        }
        assert_eq!(limits.room(0, ["a", "b"].into_iter(), 10).now_or_never(), Some(5));
        assert!(limits.room(0, ["a", "b"].into_iter(), 5).now_or_never().is_none(), "many wait");
        assert!(limits.is_full(0, ["a", "b"].into_iter(), 5));
        assert_eq!(limits.room_ahead(0, ["a"].into_iter(), 10).now_or_never(), Some(5));
        assert!(limits.room_ahead(0, ["a"].into_iter(), 5).now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_by_time_for_one_step_or_by_order_for_all() {
        let limits = limits(&json!({"breaker": {"failures": 2, "pause": "5m"}}));
        let began = Instant::now();
        let fail = |number| limits.ended("a", &token(number), Instant::now(), Verdict::Failed);
        fail(0);
        assert_eq!(limits.breakers(), [("a".to_owned(), None)]);
        fail(1);
        assert!(limits.is_paused(["a"].into_iter()));
        assert!(!limits.is_paused(["a", "b"].into_iter()), "one of them works");
        assert!(limits.room_ahead(0, ["a"].into_iter(), 10).now_or_never().is_none());
        for number in 2..5 {
            assert!(enter(&limits, 0, number).is_none());
        }
        assert!(berth(limits.enter("a", 0, &token(9), Want::GoOn)).is_some(), "it is under way");
        let (tried, mut trial) = limits.next().await;
        assert!(tried == token(2) && began.elapsed() == 5 * MINUTE);
        trial.begins();
        assert!(limits.next().now_or_never().is_none());
        let tripped = limits.breakers()[0].1.clone().expect("it is not over");
        assert_eq!((tripped.since, tripped.pauses_for), (5 * MINUTE, None));
        fail(2);
        drop(trial);
        assert!(limits.next().now_or_never().is_none());
        assert_eq!(limits.close(["a", "a", "b"].into_iter()), ["a"]);
        let mut goes_on = Vec::new();
        while let Some(next) = limits.next().now_or_never() {
            goes_on.push(next);
        }
        assert_eq!(goes_on.len(), 2);
        assert!(limits.close(["a"].into_iter()).is_empty());
    }
}
