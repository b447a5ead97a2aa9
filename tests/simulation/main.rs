//! The whole daemon with the real AWS SDK in a simulated world, in which one seed decides
//! everything: what fails, and when.
//!
//! The daemon is the real one from its configuration down to the SDK's HTTP connector; below it are
//! the local endpoint's services without their network, and above it handlers that follow a script.
//! Time is tokio's, paused: hours take milliseconds. First calls, writes, messages, credentials,
//! clocks and processes fail; then everything works, and nothing may be left over at the end.
//!
//! ```text
//! one seed, with its trace:
//! CALLBACKD_SEED=123 cargo test --test simulation -- --nocapture
//! seeds with a single hardship:
//! CALLBACKD_ONLY=forged CALLBACKD_SEEDS=100 cargo test --test simulation no_seed
//! a night of them:
//! CALLBACKD_SEEDS=100000 cargo test --release --test simulation
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test says what it expected"
)]

#[path = "../support/judge.rs"]
mod judge;

mod approval;
mod clocks;
mod dates;
mod disk;
mod hardship;
mod impatience;
mod life;
mod limits;
mod log;
mod network;
mod plan;
mod run;
mod script;
mod seeds;
mod tally;
mod weather;
mod worker;
mod world;

use plan::Plan;

#[test]
fn a_step_is_run_and_answered_and_its_message_deleted() {
    let story = run::run(Plan::calm());
    assert_eq!(story.broken, None, "{}", story.lines.join("\n"));
    assert_eq!(story.tally.of("step Succeeded"), 1);
    assert_eq!(story.tally.of("call: DeleteMessageBatch"), 1);
}

#[test]
fn the_same_seed_plays_the_same_story() {
    for seed in 0..8 {
        let (first, second) = (run::run(Plan::of(seed)), run::run(Plan::of(seed)));
        if first.hash != second.hash {
            let differs = first.lines.iter().zip(&second.lines).position(|(a, b)| a != b);
            let place = differs.unwrap_or(first.lines.len().min(second.lines.len()));
            panic!(
                "seed {seed} differs from line {place} on:\n{:?}\n{:?}",
                &first.lines[place.saturating_sub(3)..(place + 1).min(first.lines.len())],
                second.lines.get(place)
            );
        }
    }
}

#[test]
fn no_seed_breaks_a_promise() {
    seeds::play();
}
