//! The built binary under mixed load and faults for any length of time, and what grows meanwhile.
//!
//! ```text
//! cargo test --release --test soak -- --minutes 20
//! ```
//!
//! Two daemons work on a queue each, of a local endpoint with faults: one that is never restarted,
//! so that a leak shows, and one that is killed or stopped again and again. Steps of every kind
//! arrive continuously: short and long ones, failing and retrying, noisy, stopped early and late,
//! with their Stopping message or without; and unreadable messages. SQS, SageMaker or both are
//! unavailable now and then. The ledgers purge settled records early, so that they too reach their
//! final size.
//!
//! At the end every execution must have ended, each step's token must have been answered once, and
//! the [`judge`] must find no broken promise in all that the endpoint, ledgers, logs and programs
//! reported. For the daemon that was never restarted, nothing may have grown beyond what
//! [`samples::COLUMNS`] allows, and what it holds for steps must be gone with them. The samples are
//! written to the target directory, as CSV.
//!
//! Without arguments, as in `cargo test`, it runs for half a minute, which is too short to judge
//! slopes. It keeps some 8 KiB for each step.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]

#[path = "../support/account.rs"]
mod account;
#[allow(dead_code, reason = "the soak needs a part of them")]
#[path = "../binary/daemon.rs"]
mod daemon;
#[allow(dead_code, reason = "the soak needs a part of them")]
#[path = "../binary/http.rs"]
mod http;
#[path = "../support/judge.rs"]
mod judge;

mod history;
mod load;
mod samples;
mod stage;
mod verdict;
mod weather;

use std::process::ExitCode;
use std::time::Duration;

use stage::Stage;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// One execution begins in each.
const PACE: Duration = Duration::from_millis(400);
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
/// Beyond the longest step, back-off and visibility timeout together.
const PATIENCE: Duration = Duration::from_mins(3);
/// Connections that nobody has used for a minute are closed when the pool next looks, once a
/// minute.
const REST: Duration = Duration::from_secs(130);

/// How long things take: shorter where all of it is to be short.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Of the load.
    pub length: Duration,
    /// The weather comes again after it.
    pub cycle: Duration,
    /// The weather repeats after it.
    pub life: Duration,
    /// The longest life of the battered daemon.
    pub slow: Duration,
    /// What is settled is kept for so long, which is more than a message may take to come again.
    pub retention: Duration,
    /// Whether there is time to judge slopes, and to wait for idle connections to be closed.
    pub patient: bool,
}

/// In less, chance is steeper than any leak: of some hundred records that come and go in two
/// minutes, ten more or less are nothing.
const LONG_ENOUGH: Duration = Duration::from_mins(15);

impl Times {
    fn of(length: Duration) -> Self {
        let secs = Duration::from_secs;
        Self {
            length,
            cycle: secs(120).min(length / 3),
            life: secs(40).min(length / 3),
            slow: secs(25).min(length / 3),
            retention: (length / 6).clamp(secs(20), secs(120)),
            patient: length >= LONG_ENOUGH,
        }
    }

    /// How much more may be left at rest than if everything were waited for.
    pub fn leeway(&self) -> f64 {
        if self.patient { 1.0 } else { 2.0 }
    }
}

fn length() -> Result<Duration, String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().position(|argument| argument == "--minutes") {
        None => Ok(Duration::from_secs(20)),
        Some(at) => {
            let minutes = arguments.get(at + 1).and_then(|text| text.parse().ok());
            minutes
                .map(Duration::from_mins)
                .ok_or_else(|| "--minutes needs a whole number".to_owned())
        }
    }
}

fn main() -> ExitCode {
    // What `cargo test` says to every target: this one has nothing to list, and no filter selects a
    // part of it.
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let length = match length() {
        Ok(length) => length,
        Err(usage) => {
            eprintln!("soak: {usage}");
            return ExitCode::from(2);
        }
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(soak(Times::of(length)))
}

async fn soak(times: Times) -> ExitCode {
    let mut stage = Stage::set(times).await;
    println!("soaking for {} s in {}", times.length.as_secs(), stage.folder().display());
    let mut load = load::Load::new();
    let mut weather = weather::Weather::new(times);
    stage.wait_for_first_samples().await;
    let begun = Instant::now();
    let (mut sampled, mut dies) = (begun, Some(begun + times.life));
    let mut turn = interval(PACE);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while begun.elapsed() < times.length {
        weather.change(&stage, begun.elapsed());
        if weather.leaves_sagemaker() {
            load.more(&stage).await;
        }
        if sampled.elapsed() >= SAMPLE_EVERY {
            sampled = Instant::now();
            stage.sample(begun.elapsed()).await;
        }
        if stage.begin_a_life() {
            dies = Some(Instant::now() + times.life.mul_f64(fastrand::f64()));
        }
        if dies.is_some_and(|at| at <= Instant::now()) {
            dies = None;
            stage.end_a_life();
        }
        turn.tick().await;
    }
    stage.sample(begun.elapsed()).await;
    weather.clear(&stage);
    println!("{} executions begun; waiting for their end", load.begun);
    let mut over = false;
    let ended = Instant::now();
    while !over && ended.elapsed() < PATIENCE {
        sleep(Duration::from_millis(500)).await;
        stage.begin_a_life();
        stage.look();
        over = stage.is_over().await;
    }
    println!("after {} s", ended.elapsed().as_secs());
    let ended = Instant::now();
    while !stage.is_at_rest(begun.elapsed(), times.leeway()).await && ended.elapsed() < REST {
        sleep(Duration::from_millis(500)).await;
    }
    verdict::told(stage, &load, &weather, times, over).await
}
