//! How the services are called: at a steady pace, slower when they throttle, and not at all once
//! the probe is interrupted.

use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::aws::probe::{Refusal, Services, Tried, Unserved};
use crate::backoff::{Backoff, Failures};

/// Makes the calls of one probe, one after another.
pub(super) struct Caller {
    services: Services,
    pace: Pace,
    interrupted: CancellationToken,
}

/// Why an experiment cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Setback {
    /// The user, or a signal, ends the probe.
    Interrupted,
    /// A call had no answer: what it did is unknown, so the experiment must begin again.
    Unanswered(String),
    /// A call that the experiment needs was refused.
    Refused(Refusal),
    /// Something did not happen in time.
    Late(String),
}

/// No rate limits are published for SageMaker's calls.
struct Pace {
    least: Duration,
    interval: Duration,
    next: Instant,
}

/// The longest time between two calls.
const SLOWEST: Duration = Duration::from_secs(30);
/// How often a throttled call is made; the last ones half a minute apart.
const THROTTLED_TRIES: u32 = 10;
/// How often a call that can be repeated is made.
const TRIES: u32 = 10;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));

impl Caller {
    pub(super) fn new(services: Services, least: Duration, interrupted: CancellationToken) -> Self {
        let pace = Pace { least, interval: least, next: Instant::now() };
        Self { services, pace, interrupted }
    }

    /// From now on `interrupted` interrupts, and nothing else.
    pub(super) fn heed(&mut self, interrupted: CancellationToken) {
        self.interrupted = interrupted;
    }

    /// Makes the call that an experiment is about: once, unless it was throttled. A refusal is the
    /// service's own; a denial is a setback, because permissions decide before the service does.
    pub(super) async fn observe<T>(
        &mut self,
        call: impl AsyncFn(&Services) -> Tried<T>,
    ) -> Result<Result<T, Refusal>, Setback> {
        match self.tried(&call).await? {
            Ok(answer) => Ok(Ok(answer)),
            Err(Unserved::Refused(refusal)) if refusal.is_denial => Err(Setback::Refused(refusal)),
            Err(Unserved::Refused(refusal)) => Ok(Err(refusal)),
            Err(Unserved::Throttled(detail) | Unserved::Unanswered(detail)) => {
                Err(Setback::Unanswered(detail))
            }
        }
    }

    /// Makes a call that an experiment needs, and that could not be repeated without changing what
    /// is observed.
    pub(super) async fn once<T>(
        &mut self,
        call: impl AsyncFn(&Services) -> Tried<T>,
    ) -> Result<T, Setback> {
        self.observe(call).await?.map_err(Setback::Refused)
    }

    /// Makes a call that can be repeated, until it is answered.
    pub(super) async fn ask<T>(
        &mut self,
        call: impl AsyncFn(&Services) -> Tried<T>,
    ) -> Result<T, Setback> {
        let mut failures = Failures::default();
        loop {
            match self.tried(&call).await? {
                Ok(answer) => return Ok(answer),
                Err(Unserved::Refused(refusal)) => return Err(Setback::Refused(refusal)),
                Err(Unserved::Throttled(detail) | Unserved::Unanswered(detail)) => {
                    if failures.count() + 1 >= TRIES {
                        return Err(Setback::Unanswered(detail));
                    }
                    self.pause(failures.another(BACKOFF, fastrand::f64())).await?;
                }
            }
        }
    }

    /// Waits.
    pub(super) async fn pause(&self, duration: Duration) -> Result<(), Setback> {
        self.until(Instant::now() + duration).await
    }

    async fn until(&self, time: Instant) -> Result<(), Setback> {
        tokio::select! {
            biased;
            () = self.interrupted.cancelled() => Err(Setback::Interrupted),
            () = sleep_until(time) => Ok(()),
        }
    }

    /// A call that has begun is awaited, because it may create something.
    async fn tried<T>(
        &mut self,
        call: &impl AsyncFn(&Services) -> Tried<T>,
    ) -> Result<Tried<T>, Setback> {
        let mut tries = 1;
        loop {
            self.until(self.pace.next).await?;
            let begun = Instant::now();
            let answer = call(&self.services).await;
            let is_throttled = matches!(answer, Err(Unserved::Throttled(_)));
            self.pace.adapt(begun, is_throttled);
            if !is_throttled || tries >= THROTTLED_TRIES {
                return Ok(answer);
            }
            tries += 1;
        }
    }
}

impl Pace {
    fn adapt(&mut self, begun: Instant, is_throttled: bool) {
        self.interval = if is_throttled {
            (self.interval * 2).clamp(Duration::from_secs(1), SLOWEST)
        } else {
            (self.interval / 2).max(self.least)
        };
        self.next = begun + self.interval;
    }
}

impl fmt::Display for Setback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupted => f.write_str("the probe was interrupted"),
            Self::Unanswered(detail) | Self::Late(detail) => f.write_str(detail),
            Self::Refused(refusal) if refusal.is_denial => {
                write!(f, "permissions decided before the service did: {refusal}")
            }
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn throttling_slows_the_calls_down_and_answers_speed_them_up_again() {
        let least = Duration::from_secs(1);
        let now = Instant::now();
        let mut pace = Pace { least, interval: least, next: now };
        let mut intervals = Vec::new();
        for is_throttled in [true, true, true, true, true, true, false, false] {
            pace.adapt(now, is_throttled);
            intervals.push(pace.interval.as_millis());
        }
        let slower = [2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 15_000, 7_500];
        assert_eq!(intervals, slower);
        for _ in 0..5 {
            pace.adapt(now, false);
        }
        assert_eq!(pace.interval, least);
    }
}
