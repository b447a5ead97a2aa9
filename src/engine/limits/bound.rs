//! What one handler may start, and which of its steps wait for that: pure, with the time passed in.

use std::collections::{BTreeMap, VecDeque};

use tokio::time::Instant;

use super::super::config::{HandlerConfig, Rate};
use super::super::waiting::Waiting;
use super::breaker::Breaker;
use crate::step::CallbackToken;

/// What a step asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// To start an attempt.
    Start,
    /// To go on with an attempt, which counts as a run, and neither for the rate nor the breaker.
    GoOn,
}

pub(super) struct Bound {
    max_running: usize,
    rate: Option<Rate>,
    pub(super) breaker: Option<Breaker>,
    /// Nothing is started, by order.
    pub(super) held: bool,
    running: usize,
    /// Of these, attempts that are not begun yet.
    granted: usize,
    /// When each attempt within the rate's time was begun.
    begun: VecDeque<Instant>,
    /// How many messages each queue's open polls may bring.
    polled: BTreeMap<usize, usize>,
    starts: Waiting,
    go_on: Waiting,
    /// The step served last goes on with an attempt.
    went_on_last: bool,
}

impl Bound {
    /// `None` if the handler has no limits.
    pub(super) fn new(config: &HandlerConfig) -> Option<Self> {
        let limited =
            config.max_running.is_some() || config.rate.is_some() || config.breaker.is_some();
        limited.then(|| Self {
            max_running: config.max_running.unwrap_or(usize::MAX),
            rate: config.rate,
            breaker: config.breaker.map(Breaker::new),
            ..Self::unlimited()
        })
    }

    /// Of a handler that an order may hold.
    pub(super) fn unlimited() -> Self {
        Self {
            max_running: usize::MAX,
            rate: None,
            breaker: None,
            held: false,
            running: 0,
            granted: 0,
            begun: VecDeque::new(),
            polled: BTreeMap::new(),
            starts: Waiting::default(),
            go_on: Waiting::default(),
            went_on_last: false,
        }
    }

    /// Takes over other limits, which may be none any more.
    pub(super) fn reload(&mut self, config: &HandlerConfig) {
        self.max_running = config.max_running.unwrap_or(usize::MAX);
        self.rate = config.rate;
        self.breaker = match (self.breaker.take(), config.breaker) {
            (Some(breaker), Some(config)) => Some(breaker.with(config)),
            (_, config) => config.map(Breaker::new),
        };
    }

    /// How many more runs there may be.
    pub(super) fn room(&mut self, want: Want, now: Instant) -> usize {
        if self.held {
            return 0;
        }
        let free = self.max_running.saturating_sub(self.running);
        match want {
            Want::GoOn => free,
            Want::Start => {
                let breaker = self.breaker.as_ref().map_or(usize::MAX, |it| it.room(now));
                free.min(self.rate_room(now)).min(breaker)
            }
        }
    }

    fn rate_room(&mut self, now: Instant) -> usize {
        let Some(Rate { starts, per }) = self.rate else { return usize::MAX };
        while self.begun.front().is_some_and(|at| *at + per <= now) {
            self.begun.pop_front();
        }
        starts.saturating_sub(self.begun.len() + self.granted)
    }

    /// How many messages one more poll of the queue may bring: what may be started, without the
    /// steps that wait for it, and what other polls of the queue may bring.
    pub(super) fn poll_room(&mut self, queue: usize, now: Instant) -> usize {
        let polled = self.polled.get(&queue).copied().unwrap_or_default();
        self.room(Want::Start, now).saturating_sub(self.waiting() + polled)
    }

    pub(super) fn poll(&mut self, queue: usize, messages: usize) {
        *self.polled.entry(queue).or_default() += messages;
    }

    pub(super) fn polled(&mut self, queue: usize) {
        if let Some(messages) = self.polled.get_mut(&queue) {
            *messages -= 1;
        }
    }

    /// When there may be more room, without anything else happening.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let window = self.rate.and_then(|rate| self.begun.front().map(|at| *at + rate.per));
        let breaker = self.breaker.as_ref().and_then(Breaker::due);
        [window, breaker].into_iter().flatten().filter(|due| *due > now).min()
    }

    /// When a waiting step may have its turn by time alone.
    pub(super) fn wakes(&self, now: Instant) -> Option<Instant> {
        self.due(now).filter(|_| !self.starts.is_empty())
    }

    /// Whether a step may run now; otherwise it joins its line, or keeps its place in it.
    pub(super) fn enter(
        &mut self,
        token: &CallbackToken,
        queue: usize,
        want: Want,
        now: Instant,
    ) -> bool {
        let other = if want == Want::Start { Want::GoOn } else { Want::Start };
        let passed = !self.line(other).is_empty() && self.room(other, now) > 0;
        let may = self.room(want, now) > 0 && self.line(want).is_empty() && !passed;
        if !may {
            self.line(want).push(token, queue);
        }
        may
    }

    /// The next step that may run. If both kinds may, they take turns: those that go on could
    /// otherwise starve the others, or be starved by them.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(CallbackToken, Want)> {
        let may =
            |bound: &mut Self, want| !bound.line(want).is_empty() && bound.room(want, now) > 0;
        let want = match (may(self, Want::Start), may(self, Want::GoOn)) {
            (false, false) => return None,
            (true, false) => Want::Start,
            (false, true) => Want::GoOn,
            (true, true) if self.went_on_last => Want::Start,
            (true, true) => Want::GoOn,
        };
        self.went_on_last = want == Want::GoOn;
        Some((self.line(want).pop()?, want))
    }

    /// The step is about to run. Returns whether it is the breaker's trial.
    pub(super) fn grant(&mut self, token: &CallbackToken, want: Want, now: Instant) -> bool {
        self.running += 1;
        if want == Want::GoOn {
            return false;
        }
        self.granted += 1;
        self.breaker.as_mut().is_some_and(|breaker| breaker.admit(token, now))
    }

    /// The attempt begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.granted -= 1;
        if self.rate.is_some() {
            self.begun.push_back(now);
        }
    }

    /// The attempt that began then does not count for the rate.
    pub(super) fn take_back(&mut self, begun: Instant) {
        if let Some(at) = self.begun.iter().rposition(|at| *at == begun) {
            self.begun.remove(at);
        }
    }

    /// What was granted is given back; `unused` if it was an attempt that did not begin.
    pub(super) fn give_back(&mut self, token: &CallbackToken, unused: bool) {
        self.running -= 1;
        if unused {
            self.granted -= 1;
            self.forgo(token);
        }
    }

    /// The step waits no more, and is no trial. Returns whether it did, or was.
    pub(super) fn leave(&mut self, token: &CallbackToken) -> bool {
        let waited = self.starts.remove(token) | self.go_on.remove(token);
        waited | self.forgo(token)
    }

    fn forgo(&mut self, token: &CallbackToken) -> bool {
        self.breaker.as_mut().is_some_and(|breaker| breaker.forgo(token))
    }

    /// How many steps wait.
    pub(super) fn waiting(&self) -> usize {
        self.starts.len() + self.go_on.len()
    }

    /// How many of them belong to the queue.
    pub(super) fn waiting_of(&self, queue: usize) -> usize {
        self.starts.of(queue) + self.go_on.of(queue)
    }

    const fn line(&mut self, want: Want) -> &mut Waiting {
        match want {
            Want::Start => &mut self.starts,
            Want::GoOn => &mut self.go_on,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn token(number: usize) -> CallbackToken {
        format!("{number:0>10}").parse().expect("a token")
    }

    fn bound(limits: &serde_json::Value) -> Bound {
        let mut config = limits.clone();
        config["type"] = "exec".into();
        Bound::new(&serde_json::from_value(config).expect("config")).expect("it has limits")
    }

    /// It starts at once, if it may.
    fn start(bound: &mut Bound, number: usize, now: Instant) -> bool {
        let may = bound.enter(&token(number), 0, Want::Start, now);
        if may {
            bound.grant(&token(number), Want::Start, now);
            bound.begin(now);
        }
        may
    }

    #[test]
    fn a_handler_without_limits_has_no_bound() {
        let config = serde_json::from_value(json!({"type": "exec"})).expect("config");
        assert!(Bound::new(&config).is_none());
    }

    #[test]
    fn no_window_of_the_rates_length_has_more_starts() {
        let (mut bound, now) = (bound(&json!({"rate": "2/1m"})), Instant::now());
        assert!(start(&mut bound, 0, now) && start(&mut bound, 1, now + 30 * SECOND));
        assert!(!start(&mut bound, 2, now + 59 * SECOND));
        assert_eq!(bound.wakes(now), Some(now + MINUTE));
        assert_eq!(bound.pop(now + 59 * SECOND), None);
        assert_eq!(bound.pop(now + MINUTE), Some((token(2), Want::Start)));
        bound.grant(&token(2), Want::Start, now + MINUTE);
        assert!(!bound.enter(&token(3), 0, Want::Start, now + MINUTE), "one is promised");
        bound.give_back(&token(2), true);
        assert_eq!(bound.pop(now + MINUTE), Some((token(3), Want::Start)), "and not used");
        assert!(bound.enter(&token(4), 0, Want::GoOn, now + MINUTE), "it does not count");
    }

    #[test]
    fn both_kinds_take_turns_and_none_overtakes() {
        let (mut bound, now) = (bound(&json!({"max_running": 1})), Instant::now());
        assert!(start(&mut bound, 0, now));
        for number in 1..5 {
            let want = if number < 3 { Want::Start } else { Want::GoOn };
            assert!(!bound.enter(&token(number), number % 2, want, now));
        }
        assert_eq!((bound.waiting(), bound.waiting_of(0), bound.waiting_of(1)), (4, 2, 2));
        bound.give_back(&token(0), false);
        assert!(!bound.enter(&token(9), 0, Want::GoOn, now), "others were first");
        bound.leave(&token(9));
        let mut order = Vec::new();
        while let Some((token, want)) = bound.pop(now) {
            bound.grant(&token, want, now);
            assert_eq!(bound.pop(now), None, "one at a time");
            bound.give_back(&token, want == Want::Start);
            order.push(token);
        }
        assert_eq!(order, [3, 1, 4, 2].map(token));
    }

    #[test]
    fn polls_bring_what_may_start() {
        let (mut bound, now) = (bound(&json!({"max_running": 3})), Instant::now());
        assert!(start(&mut bound, 0, now));
        assert_eq!(bound.poll_room(0, now), 2);
        bound.poll(0, 2);
        assert_eq!((bound.poll_room(0, now), bound.poll_room(1, now)), (0, 2));
        bound.polled(0);
        assert_eq!(bound.poll_room(0, now), 1);
        assert!(start(&mut bound, 1, now) && start(&mut bound, 2, now), "polls reserve nothing");
        assert!(!start(&mut bound, 3, now));
        bound.give_back(&token(0), false);
        assert_eq!(bound.poll_room(1, now), 0, "one waits for it");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Each op: time passes (0), a step comes (1 start, 2 goes on), one is served (3), a run
        /// ends (4), one that waits leaves (5).
        #[test]
        fn limits_hold_and_no_step_is_forgotten(
            most in 1..4_usize,
            starts in 1..4_usize,
            ops in prop::collection::vec((0..6_u8, any::<prop::sample::Index>()), 0..120),
        ) {
            let mut bound = bound(&json!({"max_running": most, "rate": format!("{starts}/10s")}));
            let mut now = Instant::now();
            let (mut begun, mut running) = (Vec::new(), Vec::new());
            let mut waiting: Vec<(CallbackToken, Want)> = Vec::new();
            for (number, (op, which)) in ops.into_iter().enumerate() {
                let mut runs = None;
                match op {
                    0 => now += SECOND * u32::try_from(which.index(9)).expect("small"),
                    1 | 2 => {
                        let want = if op == 1 { Want::Start } else { Want::GoOn };
                        if bound.enter(&token(number), 0, want, now) {
                            runs = Some((token(number), want));
                        } else {
                            waiting.push((token(number), want));
                        }
                    }
                    3 => {
                        runs = bound.pop(now);
                        if let Some(next) = &runs {
                            let first = waiting.iter().position(|(_, want)| *want == next.1);
                            prop_assert_eq!(&waiting.remove(first.expect("it waited")), next);
                        }
                    }
                    4 if !running.is_empty() => {
                        bound.give_back(&running.swap_remove(which.index(running.len())), false);
                    }
                    5 if !waiting.is_empty() => {
                        bound.leave(&waiting.remove(which.index(waiting.len())).0);
                    }
                    _ => {}
                }
                if let Some((token, want)) = runs {
                    bound.grant(&token, want, now);
                    if want == Want::Start {
                        bound.begin(now);
                        begun.push(now);
                    }
                    running.push(token);
                }
                let recent = begun.iter().filter(|at| **at + 10 * SECOND > now).count();
                prop_assert!(running.len() <= most && recent <= starts);
                prop_assert_eq!(bound.waiting(), waiting.len());
            }
            for token in running {
                bound.give_back(&token, false);
            }
            now += 20 * SECOND;
            while let Some((token, want)) = bound.pop(now) {
                bound.grant(&token, want, now);
                if want == Want::Start {
                    bound.begin(now);
                }
                bound.give_back(&token, false);
                now += 10 * SECOND;
            }
            prop_assert_eq!(bound.waiting(), 0);
        }
    }
}
