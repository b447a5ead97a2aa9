//! Leaves a handler alone whose steps keep failing: pure, with the time passed in.
//!
//! Attempts count, not failed steps: what fails together would be used up before its last attempts
//! had shown it. A step counts once, because one bad step that is tried again and again must not
//! stop the others.

use std::collections::BTreeSet;

use tokio::time::Instant;

use super::super::config::BreakerConfig;
use crate::step::CallbackToken;

pub(super) struct Breaker {
    config: BreakerConfig,
    /// The steps that have failed since one succeeded.
    failed: BTreeSet<CallbackToken>,
    open: Option<Open>,
}

/// Until `until` no step is started; then one at a time.
struct Open {
    since: Instant,
    until: Instant,
    tried: Option<(CallbackToken, Instant)>,
}

/// How a run of the handler has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Succeeded,
    Failed,
    /// The step's job is not done.
    GoesOn,
    /// It says nothing about the handler: it was told to end, or the machine was in the way.
    Void,
}

/// What a verdict has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// No step is started any more: so many have failed.
    Opened(usize),
    /// The step that was tried has failed too.
    Again,
    /// Steps are started as usual.
    Closed,
}

impl Breaker {
    pub(super) const fn new(config: BreakerConfig) -> Self {
        Self { config, failed: BTreeSet::new(), open: None }
    }

    /// The same, as it stands, with other settings. A pause that has begun keeps its length.
    pub(super) fn with(self, config: BreakerConfig) -> Self {
        Self { config, ..self }
    }

    /// How many steps may be started.
    pub(super) fn room(&self, now: Instant) -> usize {
        match &self.open {
            None => usize::MAX,
            Some(open) if now < open.until => 0,
            Some(Open { tried: None, .. }) => 1,
            // It may take days: the next one is not kept waiting for it.
            Some(Open { tried: Some((_, at)), .. }) => usize::from(now >= *at + self.config.pause),
        }
    }

    /// When there may be more room.
    pub(super) fn due(&self) -> Option<Instant> {
        let open = self.open.as_ref()?;
        Some(open.tried.as_ref().map_or(open.until, |(_, at)| *at + self.config.pause))
    }

    /// Until when no step is started.
    pub(super) fn pauses_until(&self, now: Instant) -> Option<Instant> {
        self.open.as_ref().map(|open| open.until).filter(|until| now < *until)
    }

    /// Since when it is open, or tries one step at a time.
    pub(super) fn since(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.since)
    }

    /// A step is about to be started, for which there was room. Returns whether it is a trial.
    pub(super) fn admit(&mut self, token: &CallbackToken, now: Instant) -> bool {
        if let Some(open) = &mut self.open {
            open.tried = Some((token.clone(), now));
        }
        self.open.is_some()
    }

    /// The step is not started, or its end says nothing. Returns whether it was the trial.
    pub(super) fn forgo(&mut self, token: &CallbackToken) -> bool {
        let is_it = |(tried, _): &mut (CallbackToken, Instant)| tried == token;
        self.open.as_mut().and_then(|open| open.tried.take_if(is_it)).is_some()
    }

    /// A run that was begun then has ended.
    pub(super) fn ended(
        &mut self,
        token: &CallbackToken,
        begun: Instant,
        verdict: Verdict,
        now: Instant,
    ) -> Option<Change> {
        match (verdict, &mut self.open) {
            (Verdict::GoesOn, _) => None,
            (Verdict::Void, _) => {
                self.forgo(token);
                None
            }
            (Verdict::Succeeded, None) => {
                self.failed.clear();
                None
            }
            // What was begun before it opened is not known to be of the same kind.
            (Verdict::Succeeded, Some(open)) if begun < open.since => None,
            (Verdict::Succeeded, Some(_)) => {
                self.close();
                Some(Change::Closed)
            }
            (Verdict::Failed, Some(open)) if begun < open.until => None,
            (Verdict::Failed, Some(open)) => {
                (open.until, open.tried) = (now + self.config.pause, None);
                Some(Change::Again)
            }
            (Verdict::Failed, None) => {
                self.failed.insert(token.clone());
                let count = self.failed.len();
                (count >= self.config.failures).then(|| {
                    let until = now + self.config.pause;
                    self.open = Some(Open { since: now, until, tried: None });
                    Change::Opened(count)
                })
            }
        }
    }

    /// Returns whether it was open.
    pub(super) fn close(&mut self) -> bool {
        self.failed.clear();
        self.open.take().is_some()
    }

    pub(super) const fn config(&self) -> &BreakerConfig {
        &self.config
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PAUSE: Duration = Duration::from_mins(5);
    const SECOND: Duration = Duration::from_secs(1);

    fn token(number: usize) -> CallbackToken {
        format!("{number:0>10}").parse().expect("a token")
    }

    fn breaker() -> (Breaker, Instant) {
        (Breaker::new(BreakerConfig { failures: 3, pause: PAUSE }), Instant::now())
    }

    /// It has opened at the returned moment.
    fn open() -> (Breaker, Instant) {
        let (mut breaker, now) = breaker();
        for number in 0..3 {
            breaker.ended(&token(number), now, Verdict::Failed, now);
        }
        assert_eq!(breaker.room(now), 0);
        (breaker, now)
    }

    #[test]
    fn different_steps_that_fail_open_it_unless_one_succeeds_in_between() {
        let (mut breaker, now) = breaker();
        for _ in 0..10 {
            assert_eq!(breaker.ended(&token(0), now, Verdict::Failed, now), None, "one bad step");
        }
        assert_eq!(breaker.ended(&token(1), now, Verdict::Failed, now), None);
        assert_eq!(breaker.ended(&token(2), now, Verdict::Succeeded, now), None);
        for (number, verdict) in [(3, Verdict::Failed), (4, Verdict::Void), (5, Verdict::GoesOn)] {
            assert_eq!(breaker.ended(&token(number), now, verdict, now), None);
        }
        assert_eq!(breaker.ended(&token(6), now, Verdict::Failed, now), None);
        assert_eq!((breaker.room(now), breaker.due()), (usize::MAX, None));
        let change = breaker.ended(&token(7), now, Verdict::Failed, now);
        assert_eq!(change, Some(Change::Opened(3)));
        assert_eq!((breaker.room(now), breaker.due()), (0, Some(now + PAUSE)));
    }

    #[test]
    fn after_the_pause_one_step_at_a_time_is_tried_until_one_succeeds() {
        let (mut breaker, opened) = open();
        let later = opened + PAUSE;
        assert_eq!(breaker.room(later - SECOND), 0);
        assert_eq!(breaker.room(later), 1);
        assert!(breaker.admit(&token(4), later));
        assert_eq!(breaker.room(later + SECOND), 0, "one is tried");
        breaker.forgo(&token(5));
        assert_eq!(breaker.room(later + SECOND), 0, "another one has no say");
        breaker.ended(&token(4), later, Verdict::GoesOn, later + SECOND);
        assert_eq!(breaker.room(later + SECOND), 0, "its job is not done");
        let failed = later + 2 * SECOND;
        let change = breaker.ended(&token(4), later, Verdict::Failed, failed);
        assert_eq!(change, Some(Change::Again));
        assert_eq!(breaker.pauses_until(failed), Some(failed + PAUSE));
        let again = failed + PAUSE;
        assert!(breaker.admit(&token(6), again));
        breaker.ended(&token(6), again, Verdict::Void, again);
        assert_eq!(breaker.room(again), 1, "one that says nothing makes room for the next");
        assert!(breaker.admit(&token(7), again));
        assert_eq!(
            breaker.ended(&token(7), again, Verdict::Succeeded, again),
            Some(Change::Closed)
        );
        assert_eq!((breaker.room(again), breaker.since()), (usize::MAX, None));
        assert!(!breaker.admit(&token(8), again));
    }

    #[test]
    fn a_trial_that_takes_long_lets_the_next_one_try() {
        let (mut breaker, opened) = open();
        let began = opened + PAUSE;
        breaker.admit(&token(4), began);
        assert_eq!(breaker.room(began + PAUSE - SECOND), 0);
        assert_eq!(breaker.due(), Some(began + PAUSE));
        assert_eq!(breaker.room(began + PAUSE), 1);
    }

    #[test]
    fn runs_that_were_begun_before_it_opened_say_nothing_more() {
        let (mut breaker, opened) = open();
        let before = opened - SECOND;
        for verdict in [Verdict::Failed, Verdict::Succeeded] {
            assert_eq!(breaker.ended(&token(9), before, verdict, opened + SECOND), None);
        }
        assert_eq!(breaker.pauses_until(opened), Some(opened + PAUSE));
        assert!(breaker.close() && !breaker.close());
        assert_eq!(breaker.ended(&token(9), opened, Verdict::Failed, opened), None, "from zero");
    }
}
