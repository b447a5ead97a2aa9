//! The built binary under mixed load and faults for as long as wanted, and what grows meanwhile.
//!
//! ```text
//! cargo test --release --test soak -- --minutes 20
//! ```
//!
//! Two daemons work on a queue each, of a local endpoint that misbehaves: one that is never restarted, so that a leak shows, and one that is
//! killed or stopped again and again. Steps of every kind come all the while: short and long ones, failing and trying again, noisy, stopped
//! early and late, with their Stopping message or without; and messages that are none. SageMaker and SQS are gone for a while now and then.
//! In the end every step must be answered, the queues empty, and no program left; of the daemon that was never restarted, memory, file
//! descriptors, threads and series must not have grown beyond what [`verdict`] says. The samples are written to the target folder, as CSV.
//!
//! Without arguments, as in `cargo test`, it runs for half a minute, which is too short for slopes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]

#[allow(dead_code, reason = "the soak needs a part of them")]
#[path = "../binary/daemon.rs"]
mod daemon;
#[allow(dead_code, reason = "the soak needs a part of them")]
#[path = "../binary/http.rs"]
mod http;
mod load;
mod samples;
mod stage;
mod verdict;
mod weather;

use std::process::ExitCode;
use std::time::Duration;

use stage::Stage;
use tokio::time::{Instant, sleep};

/// How long one daemon lives before it is killed or stopped.
const LIFE: Duration = Duration::from_secs(20);
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
/// Beyond the longest step, back-off and visibility timeout together.
const PATIENCE: Duration = Duration::from_mins(5);

fn length() -> Result<Duration, String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().position(|argument| argument == "--minutes") {
        None => Ok(Duration::from_secs(30)),
        Some(at) => {
            let minutes = arguments.get(at + 1).and_then(|text| text.parse().ok());
            minutes.map(Duration::from_mins).ok_or_else(|| "--minutes needs a whole number".to_owned())
        }
    }
}

fn main() -> ExitCode {
    // What `cargo test` says to every target: this one has nothing to list, and no filter selects a part of it.
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
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(soak(length))
}

async fn soak(length: Duration) -> ExitCode {
    let mut stage = Stage::set().await;
    println!("soaking for {} s in {}", length.as_secs(), stage.folder().display());
    let mut load = load::Load::new();
    let mut weather = weather::Weather::new();
    let begun = Instant::now();
    let (mut sampled, mut born) = (begun, begun);
    while begun.elapsed() < length {
        weather.change(&stage, begun.elapsed());
        if weather.is_fair() {
            load.more(&stage).await;
        }
        if sampled.elapsed() >= SAMPLE_EVERY {
            sampled = Instant::now();
            stage.sample(begun.elapsed()).await;
        }
        if born.elapsed() >= LIFE {
            born = Instant::now();
            stage.end_a_life().await;
        }
        sleep(Duration::from_millis(200)).await;
    }
    weather.clear(&stage);
    println!("{} executions begun; waiting for their end", load.begun());
    let ended = Instant::now();
    while !(stage.all_ended(load.begun()) && stage.messages_left().await == Some(stage.told().unreadable))
        && ended.elapsed() < PATIENCE
    {
        sleep(Duration::from_millis(500)).await;
    }
    stage.sample(begun.elapsed()).await;
    verdict::told(stage, &load, &weather, length).await
}
