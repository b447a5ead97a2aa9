//! The time of a service, learned from the dates of its answers.
//!
//! Workers that share what a service stores name moments by the service's time, because their own
//! wall clocks differ. An answer's date was named between the request and the answer, so it bounds
//! how far that time is ahead of the clock that never goes back. What is taken for true stays so
//! until more of the last answers have another time in common: a single odd date is outvoted, and
//! times do not jitter. It does not matter whether the local wall clock is wrong, or is set.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::{Machine, Source, shifted};

/// How many answers are compared.
const KEPT: usize = 5;
/// The least time between two of them, once there are that many: what is wrong for a moment does
/// not fill them all.
const SPACE: Duration = Duration::from_secs(5);
/// Answers that took longer say too little.
const SLOW: Duration = Duration::from_secs(2);
/// A date is in whole seconds, rounded down.
const RESOLUTION: SignedDuration = SignedDuration::from_secs(1);
/// How far the hosts of a service may be apart, and how old a date that a host names again.
const APART: SignedDuration = SignedDuration::from_millis(500);

/// The clocks of a machine, with a service's time in place of what the wall clock shows. Until the
/// service has named a time, it is the wall clock. Cheap to clone.
#[derive(Clone)]
pub struct ServiceClock(Arc<Heard>);

struct Heard {
    machine: Box<dyn Source>,
    answers: Mutex<Answers>,
}

#[derive(Default)]
struct Answers {
    kept: VecDeque<Ahead>,
    kept_at: Duration,
    /// What is taken for true.
    ahead: Option<SignedDuration>,
}

/// How far the service's time since 1970 is ahead of the machine's [elapsed](Source::elapsed) time,
/// at least and at most.
#[derive(Clone, Copy)]
struct Ahead {
    least: SignedDuration,
    most: SignedDuration,
}

impl ServiceClock {
    /// With the other clock of this machine.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self::on(Box::new(Machine(Instant::now())))
    }

    #[must_use]
    pub fn on(machine: Box<dyn Source>) -> Self {
        Self(Arc::new(Heard { machine, answers: Mutex::default() }))
    }

    /// Takes in the date of an answer that has just come, to a request that was sent when this much
    /// time had [elapsed](Source::elapsed).
    pub fn hear(&self, date: Timestamp, sent: Duration) {
        let now = self.elapsed();
        if now.saturating_sub(sent) > SLOW {
            return;
        }
        let mut answers = self.answers();
        if answers.kept.len() == KEPT {
            if now.saturating_sub(answers.kept_at) < SPACE {
                return;
            }
            answers.kept.pop_front();
        }
        answers.kept.push_back(Ahead::of(date, sent, now));
        answers.kept_at = now;
        answers.judge();
    }

    /// Whether the service has named a time.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.answers().ahead.is_some()
    }

    fn answers(&self) -> MutexGuard<'_, Answers> {
        self.0.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answers {
    /// Adopts the middle of what the most answers have in common, if fewer allow what was taken for
    /// true until now.
    fn judge(&mut self) {
        let allowing = |ahead| self.kept.iter().filter(move |answer| answer.allows(ahead));
        // What some have in common begins where one of them begins.
        let least = self.kept.iter().map(|answer| answer.least);
        let Some(least) = least.max_by_key(|least| allowing(*least).count()) else { return };
        let before = self.ahead.map_or(0, |ahead| allowing(ahead).count());
        if allowing(least).count() > before
            && let Some(most) = allowing(least).map(|answer| answer.most).min()
        {
            self.ahead = Some(least.saturating_add(most.saturating_sub(least) / 2));
        }
    }
}

impl Source for ServiceClock {
    fn elapsed(&self) -> Duration {
        self.0.machine.elapsed()
    }

    fn wall(&self) -> Timestamp {
        let Some(ahead) = self.answers().ahead else { return self.0.machine.wall() };
        shifted(Timestamp::UNIX_EPOCH, ahead.saturating_add(signed(self.elapsed())))
    }

    fn name(&self) -> &'static str {
        "the time of the ledger's service"
    }
}

impl std::fmt::Debug for ServiceClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceClock").field("ahead", &self.answers().ahead).finish_non_exhaustive()
    }
}

impl Ahead {
    fn of(date: Timestamp, sent: Duration, received: Duration) -> Self {
        let date = date.duration_since(Timestamp::UNIX_EPOCH);
        Self {
            least: date.saturating_sub(signed(received)).saturating_sub(APART),
            most: date.saturating_sub(signed(sent)).saturating_add(RESOLUTION + APART),
        }
    }

    fn allows(&self, ahead: SignedDuration) -> bool {
        (self.least..=self.most).contains(&ahead)
    }
}

fn signed(time: Duration) -> SignedDuration {
    SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::tests::Hands;
    use crate::clock::{Clock, Set, after};

    const MINUTE: SignedDuration = SignedDuration::from_mins(1);
    const ROUND_TRIP: Duration = Duration::from_millis(20);
    /// How exactly the service's time is known.
    const EXACT: SignedDuration = SignedDuration::from_millis(1_100);

    /// A service, and a machine whose wall clock shows what it may.
    struct Scene {
        hands: Hands,
        clock: ServiceClock,
        service: Timestamp,
    }

    impl Scene {
        fn new() -> Self {
            let hands = Hands::default();
            let clock = ServiceClock::on(Box::new(hands.clone()));
            let service = "2030-01-01T12:00:00.9Z".parse().expect("a time");
            Self { hands, clock, service }
        }

        fn now(&self) -> Timestamp {
            after(self.service, self.hands.elapsed())
        }

        /// The service answers, with its time off by this much.
        fn answers(&self, off: SignedDuration) {
            let sent = self.hands.elapsed();
            self.hands.pass(ROUND_TRIP / 2);
            let date =
                Timestamp::from_second(shifted(self.now(), off).as_second()).expect("a time");
            self.hands.pass(ROUND_TRIP / 2);
            self.clock.hear(date, sent);
        }

        /// It does so again and again, with time between.
        fn answers_for(&self, count: u32, off: SignedDuration) {
            for _ in 0..count {
                self.hands.pass(SPACE);
                self.answers(off);
            }
        }

        fn shows_the_service_s_time(&self, off: SignedDuration) -> bool {
            let apart = self.clock.wall().duration_since(shifted(self.now(), off));
            apart.abs() <= EXACT
        }
    }

    #[test]
    fn the_wall_clock_counts_until_the_service_has_named_a_time_and_not_after_that() {
        let scene = Scene::new();
        scene.hands.set(-5 * MINUTE);
        assert_eq!(scene.clock.wall(), scene.hands.wall());
        assert!(!scene.clock.is_told());
        scene.answers(SignedDuration::ZERO);
        assert!(scene.clock.is_told());
        let clock = Clock::of(Box::new(scene.clock.clone()));
        for set in [10 * MINUTE, -20 * MINUTE] {
            scene.hands.set(set);
            scene.hands.pass(Duration::from_hours(1));
            assert!(scene.shows_the_service_s_time(SignedDuration::ZERO));
            assert_eq!(clock.look(), None, "a wall clock that is set changes nothing");
        }
    }

    #[test]
    fn one_odd_date_is_outvoted_wherever_it_comes() {
        for off in
            [MINUTE, -5 * MINUTE, SignedDuration::from_hours(24 * 365 * 60), -MINUTE * 30_000_000]
        {
            for odd in 0..8 {
                let scene = Scene::new();
                for at in 0..8 {
                    scene.hands.pass(SPACE);
                    scene.answers(if at == odd { off } else { SignedDuration::ZERO });
                    let known = at >= 2 || odd > 0;
                    assert!(!known || scene.shows_the_service_s_time(SignedDuration::ZERO), "{at}");
                }
            }
        }
    }

    #[test]
    fn two_answers_that_agree_are_believed_against_any_that_do_not() {
        let scene = Scene::new();
        for off in [MINUTE, -MINUTE, MINUTE * 2, SignedDuration::ZERO] {
            scene.answers_for(1, off);
            assert!(scene.shows_the_service_s_time(MINUTE), "the first is as good as any other");
        }
        scene.answers_for(1, SignedDuration::ZERO);
        assert!(scene.shows_the_service_s_time(SignedDuration::ZERO));
    }

    #[test]
    fn what_is_wrong_for_a_moment_is_outvoted_however_often_it_is_told() {
        let scene = Scene::new();
        scene.answers_for(5, SignedDuration::ZERO);
        (0..100).for_each(|_| scene.answers(MINUTE));
        assert!(scene.shows_the_service_s_time(SignedDuration::ZERO));
    }

    #[test]
    fn another_time_is_taken_for_true_once_most_answers_name_it_and_is_told_as_a_set_clock() {
        let scene = Scene::new();
        scene.answers_for(5, SignedDuration::ZERO);
        let clock = Clock::of(Box::new(scene.clock.clone()));
        let limit = after(clock.now(), Duration::from_hours(1));
        scene.answers_for(2, MINUTE);
        assert_eq!(clock.look(), None);
        scene.answers_for(1, MINUTE);
        assert!(scene.shows_the_service_s_time(MINUTE));
        let Some(Set(by)) = clock.look() else { panic!("it is not noticed") };
        assert!((by - MINUTE).abs() <= EXACT, "{by}");
        assert_eq!(clock.since(limit), Duration::ZERO, "what was left of a limit stays left");
        assert_eq!(limit.duration_since(clock.now()).as_secs(), 3_600 - 15 - 1);
    }

    #[test]
    fn the_network_s_delay_is_no_time_and_a_slow_answer_says_nothing() {
        for delays in [[1_900, 0], [0, 1_900]] {
            let scene = Scene::new();
            let [there, back] = delays.map(Duration::from_millis);
            for _ in 0..5 {
                let sent = scene.hands.elapsed();
                scene.hands.pass(there);
                let date = Timestamp::from_second(scene.now().as_second()).expect("a time");
                scene.hands.pass(back);
                scene.clock.hear(date, sent);
            }
            let apart = scene.clock.wall().duration_since(scene.now());
            assert!(apart.abs() < SignedDuration::from_secs(2), "{apart}");
            scene.hands.pass(SPACE);
            let sent = scene.hands.elapsed();
            scene.hands.pass(SLOW + ROUND_TRIP);
            (0..5).for_each(|_| scene.clock.hear(Timestamp::UNIX_EPOCH, sent));
            assert!(scene.clock.wall() > scene.service);
        }
    }

    #[test]
    fn a_suspended_machine_finds_the_service_s_time_when_it_wakes() {
        let scene = Scene::new();
        scene.answers(SignedDuration::ZERO);
        scene.hands.pass(Duration::from_hours(72));
        assert!(scene.shows_the_service_s_time(SignedDuration::ZERO));
    }
}
