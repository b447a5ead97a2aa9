//! Bounds how many calls or cleanups of one kind a queue has in progress.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::grants::{Grants, Hook};
use super::line::Line;
use crate::step::CallbackToken;

/// A bound on one kind of work; cheap to clone.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    hook: Hook<Permit>,
}

#[derive(Default)]
struct State {
    limit: usize,
    busy: usize,
    waiting: Line,
    /// One thread is serving the line, and checks it again before it ends.
    serving: bool,
}

/// A step's permit to do its work; returned when dropped.
#[must_use = "a permit that is dropped is given back"]
pub(crate) struct Permit(Arc<Inner>);

impl Gate {
    /// A gate with `limit` permits, at least one.
    pub(crate) fn new(limit: usize) -> Self {
        let state = State { limit: limit.max(1), ..State::default() };
        Self(Arc::new(Inner { state: Mutex::new(state), hook: Hook::new() }))
    }

    /// Sets the receiver of permits for steps that had to wait; once, before any step waits.
    pub(crate) fn grants_to(&self, grants: Weak<dyn Grants<Permit>>) {
        self.0.hook.set(grants);
    }

    /// A permit, if one is free and no step waits. Otherwise the token joins the line, or keeps its
    /// place in it.
    pub(crate) fn enter(&self, token: &CallbackToken) -> Option<Permit> {
        let mut state = self.0.lock();
        if state.busy < state.limit && state.waiting.is_empty() {
            state.busy += 1;
            return Some(Permit(self.0.clone()));
        }
        state.waiting.push(token);
        None
    }

    /// Removes a token from the line. `false` if it is not in it: it never was, or it has just been
    /// granted a permit.
    pub(crate) fn leave(&self, token: &CallbackToken) -> bool {
        self.0.lock().waiting.remove(token)
    }

    /// Changes how many permits there are, at least one. Work beyond it goes on.
    pub(crate) fn resize(&self, limit: usize) {
        self.0.lock().limit = limit.max(1);
        self.0.serve();
    }

    pub(crate) fn waiting(&self) -> usize {
        self.0.lock().waiting.len()
    }

    /// How many permits are taken.
    #[cfg(test)]
    fn busy(&self) -> usize {
        self.0.lock().busy
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives free permits to the steps that wait.
    fn serve(self: &Arc<Self>) {
        if std::mem::replace(&mut self.lock().serving, true) {
            return;
        }
        while let Some(token) = self.next() {
            self.hook.give(token, Permit(self.clone()));
        }
    }

    /// Moves the head of the line to a free permit.
    fn next(&self) -> Option<CallbackToken> {
        let mut state = self.lock();
        let next = if state.busy < state.limit { state.waiting.pop() } else { None };
        state.busy += usize::from(next.is_some());
        state.serving = next.is_some();
        next
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.lock().busy -= 1;
        self.0.serve();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// Steps that keep what they are granted, except those whose token ends with one of `refuse`.
    #[derive(Default)]
    struct Steps {
        granted: Mutex<Vec<(CallbackToken, Permit)>>,
        refuse: Vec<char>,
    }

    impl Grants<Permit> for Steps {
        fn granted(&self, token: CallbackToken, permit: Permit) {
            assert!(!token.as_str().ends_with('P'), "a step that panics");
            if !token.as_str().ends_with(self.refuse.as_slice()) {
                self.granted.lock().unwrap().push((token, permit));
            }
        }
    }

    impl Steps {
        fn take(&self) -> Vec<(CallbackToken, Permit)> {
            std::mem::take(&mut self.granted.lock().unwrap())
        }
    }

    fn gate(limit: usize, refuse: &[char]) -> (Gate, Arc<Steps>) {
        let steps = Arc::new(Steps { refuse: refuse.to_vec(), ..Steps::default() });
        let gate = Gate::new(limit);
        let grants: Arc<dyn Grants<Permit>> = steps.clone();
        gate.grants_to(Arc::downgrade(&grants));
        (gate, steps)
    }

    fn token(name: &str) -> CallbackToken {
        format!("{name:0>10}").parse().unwrap()
    }

    fn names(granted: &[(CallbackToken, Permit)]) -> Vec<&str> {
        granted.iter().map(|(token, _)| token.as_str().trim_start_matches('0')).collect()
    }

    #[test]
    fn whoever_waits_is_granted_a_permit_in_turn() {
        let (gate, steps) = gate(1, &[]);
        let first = gate.enter(&token("a"));
        for name in ["b", "c", "d", "b"] {
            assert!(gate.enter(&token(name)).is_none());
        }
        assert!(gate.leave(&token("c")));
        assert_eq!((gate.busy(), gate.waiting()), (1, 2));
        drop(first);
        let second = steps.take();
        assert_eq!(names(&second), ["b"]);
        assert!(!gate.leave(&token("b")));
        drop(second);
        assert_eq!(names(&steps.take()), ["d"]);
        assert_eq!((gate.busy(), gate.waiting()), (0, 0));
    }

    #[test]
    fn a_permit_that_nobody_keeps_goes_on_to_the_next_without_recursion() {
        let (gate, steps) = gate(1, &['x', 'P']);
        let first = gate.enter(&token("first"));
        for at in 0..100_000 {
            assert!(gate.enter(&token(&format!("{at}x"))).is_none());
        }
        assert!(gate.enter(&token("P")).is_none());
        assert!(gate.enter(&token("last")).is_none());
        drop(first);
        assert_eq!(names(&steps.take()), ["last"]);
        assert_eq!((gate.busy(), gate.waiting()), (0, 0));
    }

    #[test]
    fn a_panic_gives_the_permit_back() {
        let (gate, steps) = gate(1, &[]);
        let permit = gate.enter(&token("a"));
        assert!(gate.enter(&token("P")).is_none());
        assert!(gate.enter(&token("b")).is_none());
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
            let _permit = permit;
            panic!("a step that panics");
        }));
        assert!(ended.is_err());
        assert_eq!(names(&steps.take()), ["b"]);
    }

    #[test]
    fn the_gate_may_be_used_from_within_a_grant() {
        struct Again(Gate, Mutex<Vec<Permit>>);
        impl Grants<Permit> for Again {
            fn granted(&self, token: CallbackToken, permit: Permit) {
                if token.as_str().ends_with('a') {
                    drop(permit);
                    assert!(self.0.enter(&"00000again".parse().unwrap()).is_none());
                } else {
                    self.1.lock().unwrap().push(permit);
                }
            }
        }
        let gate = Gate::new(1);
        let again = Arc::new(Again(gate.clone(), Mutex::default()));
        let grants: Arc<dyn Grants<Permit>> = again.clone();
        gate.grants_to(Arc::downgrade(&grants));
        let first = gate.enter(&token("first"));
        assert!(gate.enter(&token("a")).is_none());
        assert!(gate.enter(&token("b")).is_none());
        drop(first);
        assert_eq!((gate.busy(), gate.waiting()), (1, 1));
        assert_eq!(again.1.lock().unwrap().len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Each op: enter a step (0 to 2: it keeps its permit, refuses it, or asks twice), end a
        /// piece of work (3), or leave (4).
        #[test]
        fn a_gate_serves_in_turn_and_never_beyond_its_limit(
            limit in 1..4_usize,
            ops in prop::collection::vec((0..5_u8, any::<prop::sample::Index>()), 0..100),
        ) {
            let (gate, steps) = gate(limit, &['x']);
            let mut waiting: VecDeque<CallbackToken> = VecDeque::new();
            let mut busy = Vec::new();
            for (number, (op, which)) in ops.into_iter().enumerate() {
                match op {
                    0..=2 => {
                        let token = token(&format!("{number}{}", if op == 1 { "x" } else { "" }));
                        let permit = gate.enter(&token);
                        prop_assert_eq!(permit.is_some(), busy.len() < limit);
                        match permit {
                            Some(permit) => busy.push(permit),
                            None => {
                                waiting.push_back(token.clone());
                                prop_assert!(op != 2 || gate.enter(&token).is_none());
                            }
                        }
                    }
                    3 if !busy.is_empty() => {
                        drop(busy.swap_remove(which.index(busy.len())));
                        let next = std::iter::from_fn(|| waiting.pop_front()).find(|t| !t.as_str().ends_with('x'));
                        let granted = steps.take();
                        let tokens: Vec<_> = granted.iter().map(|(token, _)| token.clone()).collect();
                        prop_assert_eq!(tokens, Vec::from_iter(next));
                        busy.extend(granted.into_iter().map(|(_, permit)| permit));
                    }
                    4 if !waiting.is_empty() => {
                        let token = waiting.remove(which.index(waiting.len()));
                        prop_assert!(token.is_some_and(|token| gate.leave(&token)));
                    }
                    _ => {}
                }
                prop_assert!(busy.len() == limit || waiting.is_empty());
                prop_assert_eq!((gate.busy(), gate.waiting()), (busy.len(), waiting.len()));
            }
        }
    }
}
