//! Every order of events within small bounds, through the lifecycle as it ships: one worker, two with a ledger each, two that share one.
//!
//! Stateright explores all that can happen to one step: messages redelivered, reordered and visible although held, replies lost before and
//! after the effect, writes that are durable and fail, runs that end in every way, processes that die between any two effects, stops that
//! come early, late or without a message, executions that end by themselves, leases that lapse. `judge` says what is broken.
//!
//! That nothing hangs is shown thus: from every state that can be reached, a state of rest can be reached without any further fault. So no
//! state is a dead end, and no circle is without a way out; a worker that goes on (as its timers make it) comes to rest. Stateright's own
//! `eventually` is not used: it misses circles.
//!
//! `CALLBACKD_MODEL=large cargo test --no-default-features --release --test model` explores further.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]
#![allow(clippy::struct_excessive_bools, reason = "a state of the world is what is so and what is not")]

#[path = "../support/judge.rs"]
mod judge;
mod mutants;
mod queue;
mod reached;
mod record;
mod rest;
mod worker;
mod world;

use stateright::{Checker, Model, Property};
use worker::Mutant;
use world::{Action, Left, NOTHING, World};

#[derive(Clone)]
struct Setup {
    workers: u8,
    shared: bool,
    left: Left,
    mutant: Option<Mutant>,
    /// What is looked for, where that is the question.
    look_for: Option<fn(&World) -> bool>,
}

impl Model for Setup {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.workers, self.shared, self.left, self.mutant)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        // What is broken is broken: what follows says no more.
        if world.broken.is_none() && world.illegal.is_none() && self.within_attempts(world) {
            actions.extend(world.actions());
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        next.act(action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        if self.look_for.is_some() {
            return vec![Property::sometimes("it is reached", |setup: &Self, world: &World| {
                setup.look_for.is_some_and(|is_so| is_so(world))
            })];
        }
        vec![
            Property::always("no promise is broken", |_, world: &World| world.broken.is_none()),
            Property::always("every event fits", |_, world: &World| world.illegal.is_none()),
            Property::always("no step is run more often than it may be tried", |setup: &Self, world: &World| {
                setup.within_attempts(world)
            }),
        ]
    }
}

impl Setup {
    fn within_attempts(&self, world: &World) -> bool {
        let ledgers = if self.shared { 1 } else { u32::from(self.workers) };
        let again = u32::from(self.left.agains + self.left.shutdowns);
        u32::from(world.runs) <= ledgers * record::ATTEMPTS + again
    }

    fn explore(&self) -> impl Checker<Self> {
        self.clone().checker().threads(2).spawn_bfs().join()
    }

    /// Nothing is broken, and nothing hangs.
    fn holds(&self, name: &str) {
        let checker = self.explore();
        println!("{name}: {} states, {} steps deep", checker.unique_state_count(), checker.max_depth());
        if let Some((property, path)) = checker.discoveries().into_iter().next() {
            let last = path.last_state().clone();
            panic!("{name}: not so: {property}: {:?} {:?}\n{:#?}", last.broken, last.illegal, path.into_actions());
        }
        if let Some(world) = rest::without_a_way(self) {
            panic!("{name}: from here nothing comes to rest:\n{world:#?}");
        }
    }
}

const ONE: Setup = Setup { workers: 1, shared: false, left: NOTHING, mutant: None, look_for: None };
const TWO: Setup = Setup { workers: 2, ..ONE };
const SHARING: Setup = Setup { shared: true, ..TWO };

/// Whether the larger bounds are asked for.
fn large() -> bool {
    std::env::var("CALLBACKD_MODEL").is_ok_and(|size| size == "large")
}

#[test]
fn one_worker_breaks_no_promise_whatever_happens() {
    let left = Left { crashes: 1, losses: 1, stops: 1, ..NOTHING };
    Setup { left, ..ONE }.holds("one worker; a crash, a loss, a stop");
    let left = Left { lapses: 1, refusals: 1, endings: 1, agains: 1, ..NOTHING };
    Setup { left, ..ONE }.holds("one worker; a lapse, a refusal, an ending, a job not done yet");
    let left = Left { shutdowns: 1, stops: 1, time_limits: 1, ..NOTHING };
    Setup { left, ..ONE }.holds("one worker; a shutdown, a stop, a time limit");
    let left = Left { crashes: 2, ..NOTHING };
    Setup { left, ..ONE }.holds("one worker; two crashes");
    let left = Left { deferrals: 1, crashes: 1, stops: 1, ..NOTHING };
    Setup { left, ..ONE }.holds("one worker; a deferral, a crash, a stop");
}

#[test]
fn two_workers_with_a_ledger_each_break_no_promise_whatever_happens() {
    let left = Left { stops: 1, ..NOTHING };
    Setup { left, ..TWO }.holds("a ledger each; a stop");
    let left = Left { lapses: 1, ..NOTHING };
    Setup { left, ..TWO }.holds("a ledger each; a lapse");
    let left = Left { crashes: 1, endings: 1, ..NOTHING };
    Setup { left, ..TWO }.holds("a ledger each; a crash, an ending");
}

#[test]
fn two_workers_that_share_a_ledger_break_no_promise_whatever_happens() {
    let left = Left { stops: 1, losses: 1, ..NOTHING };
    Setup { left, ..SHARING }.holds("a shared ledger; a stop, a loss");
    let left = Left { crashes: 1, lapses: 1, ..NOTHING };
    Setup { left, ..SHARING }.holds("a shared ledger; a crash, a lapse");
    let left = Left { lapses: 1, renewals_failing: 1, endings: 1, ..NOTHING };
    Setup { left, ..SHARING }.holds("a shared ledger; a lapse, a renewal that fails, an ending");
    let left = Left { shutdowns: 1, lapses: 1, ..NOTHING };
    Setup { left, ..SHARING }.holds("a shared ledger; a shutdown, a lapse");
    let left = Left { deferrals: 1, stops: 1, endings: 1, ..NOTHING };
    Setup { left, ..SHARING }.holds("a shared ledger; a deferral, a stop, an ending");
}

#[test]
fn further_bounds_hold_too() {
    if !large() {
        return;
    }
    let left = Left { crashes: 2, losses: 2, stops: 1, lapses: 1, refusals: 1, time_limits: 1, ..NOTHING };
    Setup { left, ..ONE }.holds("one worker; two crashes, two losses, a stop, a lapse, a refusal, a time limit");
    let left = Left { crashes: 1, losses: 1, stops: 1, ..NOTHING };
    Setup { left, ..TWO }.holds("a ledger each; a crash, a loss, a stop");
    let left = Left { lapses: 1, endings: 1, stops: 1, ..NOTHING };
    Setup { left, ..TWO }.holds("a ledger each; a lapse, an ending, a stop");
    let left = Left { crashes: 1, lapses: 1, stops: 1, ..NOTHING };
    Setup { left, ..SHARING }.holds("a shared ledger; a crash, a lapse, a stop");
    let left = Left { renewals_failing: 1, lapses: 1, stops: 1, ..NOTHING };
    Setup { left, ..SHARING }.holds("a shared ledger; a renewal that fails, a lapse, a stop");
    let left = Left { shutdowns: 1, losses: 1, stops: 1, ..NOTHING };
    Setup { left, ..SHARING }.holds("a shared ledger; a shutdown, a loss, a stop");
}
