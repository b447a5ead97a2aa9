//! A fleet on one table, at scale: whole daemons with the real AWS SDK, a simulated SQS, SageMaker
//! and DynamoDB, and paused time.
//!
//! Workers hold steps for hours while everything that happens to a fleet happens to it: a rolling
//! redeploy, a Spot wave that takes a third, a table that throttles, a SageMaker that is down for
//! an hour. No promise may be broken, and what the fleet asks of each service is counted. The
//! figures are counts, so they are the same on any machine.
//!
//! ```text
//! all of it at full size, told as it goes:
//! CALLBACKD_SCALE=200x100000 cargo test --test scale no_promise -- --nocapture
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test says what it expected"
)]
#![allow(clippy::cast_precision_loss, reason = "no count here comes near 2^52")]

#[path = "../simulation/clocks.rs"]
mod clocks;
#[path = "../simulation/log.rs"]
mod log;

mod capacity;
mod figures;
mod job;
mod meter;
mod network;
mod run;
mod steps;
mod table;
mod units;
mod worker;
mod world;

use std::time::Duration;

use figures::Figures;
use run::Size;
use steps::Kind;
use worker::Settings;

/// Names the size of the fleet: workers, an `x`, held steps; and, after another `x`, how many steps
/// a worker runs at once.
const SIZE: &str = "CALLBACKD_SCALE";

/// So many held steps meet the whole capacity of a new table, fewer a part of it, so that a small
/// fleet is throttled too in its redeploy and its Spot wave.
const THROTTLES: f64 = 75_000.0;

/// Renewals of a worker with the default lease, 60 s: one each 20 s.
const RENEWALS: u64 = 180;

fn size() -> Size {
    let text = std::env::var(SIZE).unwrap_or_else(|_| "6x300".to_owned());
    let numbers: Result<Vec<usize>, _> = text.split('x').map(str::parse).collect();
    let numbers = numbers.expect("numbers, with an x between them");
    let (workers, held) = (u32::try_from(numbers[0]).expect("few workers"), numbers[1]);
    // No worker is ever full: one that is holds up to ten more steps until it has room, and after a
    // redeploy most steps are with few workers.
    let enough = (held + 1_000).min(100_000);
    let full = held > 5_000;
    let minutes =
        |full_size: u64, small: u64| Duration::from_mins(if full { full_size } else { small });
    Size {
        workers,
        held,
        settings: Settings {
            concurrency: numbers.get(2).copied().unwrap_or(enough),
            // So that a simulated hour of so many steps has fewer heartbeats and looks.
            visibility_timeout: minutes(15, 2),
            stop_watch: minutes(120, 5),
        },
        filling: minutes(10, 2),
        steady: minutes(20, 10),
        replaced: workers.div_ceil(10),
        throttled: minutes(10, 5),
        outage: minutes(60, 60),
        ends: minutes(30, 5),
        short_every: Duration::from_secs(10),
        pause: minutes(5, 5),
        early: if full { 25 } else { 10 },
        capacity: (held as f64 / THROTTLES).min(1.0),
    }
}

#[test]
fn no_promise_of_a_fleet_is_broken_by_everything_that_happens_to_one() {
    let story = run::everything(size());
    let figures = Figures::of(&story);
    eprintln!("{figures}");
    let broken = story.world.steps(|steps| steps.broken().to_vec());
    assert!(broken.is_empty(), "{} times: {:?}", broken.len(), &broken[..broken.len().min(5)]);
    assert!(story.world.steps(|steps| steps.all_answered_once()));
    for phase in ["redeploy", "Spot wave"] {
        let throttled = Figures::throttled(&story, phase);
        assert!(throttled > 0, "{phase}: the table had enough for everything");
    }
    assert!(story.taken >= story.size.held / 3, "the wave took {} steps", story.taken);
    let piled = story.piled as u64;
    assert!(2 * piled * story.size.early >= story.size.held as u64, "{piled} outcomes piled up");
    let reads = figures.reads_while_quiet;
    assert!(reads <= READS_OF_A_MOVED_STEP, "{reads} reads of a held step in an hour");
    // Each of them is tried again within a minute, at a time of its own.
    let (herd, even) = (figures.peak_after_the_outage, piled.div_ceil(30));
    assert!(herd <= 4 * even + 10, "{herd} reports in a second, of {piled} outcomes");
}

#[test]
fn a_short_step_takes_three_writes() {
    let (workers, steps) = (4, 200);
    let world = run::answering(workers, Kind::Short, steps);
    let (writes, _) = world.meter(|meter| meter.of_kind(Kind::Short.name()));
    assert_eq!(world.steps(|answered| answered.count()), steps);
    assert!(writes <= 3 * steps as u64, "{writes} writes of {steps} steps");
}

#[test]
fn a_held_step_writes_nothing_however_many_are_held() {
    let workers = 6;
    let [few, many] = [10, 1_000].map(|steps| {
        let (world, window) = run::holding(workers, steps);
        world.meter(|meter| {
            let items = ["DynamoDB PutItem", "DynamoDB DeleteItem"];
            let steps: u64 = items.iter().map(|operation| meter.total(operation, &window)).sum();
            (steps, meter.total("DynamoDB UpdateItem", &window))
        })
    });
    for (steps, renewals) in [few, many] {
        assert_eq!(steps, 0, "writes of an hour");
        let most = RENEWALS * u64::from(workers);
        assert!((most / 2..=most).contains(&renewals), "{renewals} renewals, not {most}");
    }
    assert_eq!(few.1, many.1, "renewals do not depend on what is held");
}

#[test]
fn a_full_worker_keeps_no_steps_from_one_that_has_room() {
    run::crowded();
}

#[test]
fn an_idle_fleet_reads_little() {
    let workers = 50;
    let (world, window) = run::idle(workers);
    let (reads, writes) = world.meter(|meter| {
        let reads = ["DynamoDB Query", "DynamoDB GetItem", "DynamoDB Scan"];
        let reads: u64 = reads.iter().map(|operation| meter.total(operation, &window)).sum();
        (reads, meter.total("DynamoDB UpdateItem", &window))
    });
    let each = |count: u64| count.div_ceil(u64::from(workers));
    eprintln!(
        "an idle worker of {workers}: {} reads, {} writes an hour",
        each(reads),
        each(writes)
    );
    assert!(each(reads) <= READS, "{} reads of a worker in an hour", each(reads));
    assert!(each(writes) <= RENEWALS, "{} writes of a worker in an hour", each(writes));
}

/// Of a step that has moved and hour, at the small size: who holds a fresh copy of its message
/// reads it ever more rarely, and the workers' own reads are divided by few steps.
const READS_OF_A_MOVED_STEP: f64 = 20.0;

/// Of an idle worker among 50 and hour: it lists the workers each 90 s, and what is due in its one
/// or two of the 64 parts of the ledger each 15 minutes.
const READS: u64 = 50;
