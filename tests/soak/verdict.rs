//! What came of it all, told as a table, and whether that is as it should be.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use crate::load::Load;
use crate::samples::{COLUMNS, Sample, per_hour};
use crate::stage::Stage;
use crate::weather::Weather;

/// Slopes are of what follows the first third: caches, pools and the allocator's arenas have filled by then.
const WARM: usize = 3;
/// Below this, what an allocator does by the way is steeper than any leak.
const LONG_ENOUGH: Duration = Duration::from_mins(10);

/// What may grow in an hour, by column; none where growth is right. At the soak's load, some 4,000 steps pass in an hour, so
/// the bound on memory is one and a half KiB a step.
const MOST_PER_HOUR: [Option<f64>; COLUMNS.len()] =
    [Some(6.0 * 1024.0), Some(6.0 * 1024.0), Some(30.0), Some(6.0), Some(60.0), Some(30.0), None];
/// A settled step's record is kept for the retention; an hour is too short for it to be over.
const LEDGER_PER_STEP: f64 = 4.0;

pub async fn told(mut stage: Stage, load: &Load, weather: &Weather, length: Duration) -> ExitCode {
    let told = stage.told();
    let messages = stage.messages_left().await;
    let left: usize = stage
        .queues
        .iter()
        .filter_map(|queue| queue.daemon.as_ref())
        .map(|daemon| crate::samples::programs_of(daemon.pid()))
        .sum();
    let codes = stage.close().await;
    let mut wrong = Vec::new();
    let mut must = |is_so: bool, what: String| {
        if !is_so {
            wrong.push(what);
        }
    };

    println!("steps {} · answers {} · repeated {} · refused {}", told.steps, told.answers, told.repeated, told.refused);
    println!("executions begun {} · ended {:?}", load.begun(), told.ended);
    println!("lives {} · outages {} · faults {:?}", stage.lives, weather.outages, told.faults);
    println!("unreadable messages {} · messages left {messages:?}", told.unreadable);

    must(load.begun() > 0 && told.steps > 0, "nothing was done".to_owned());
    must(told.missed == 0, format!("{} events were not counted", told.missed));
    must(stage.all_ended(load.begun()), "an execution hangs".to_owned());
    must(told.answers == told.steps, format!("{} steps, {} answers", told.steps, told.answers));
    must(messages == Some(told.unreadable), "what is left is not what cannot be read".to_owned());
    must(left == 0, format!("{left} programs outlive their steps"));
    // Only a run that dies with its daemon before the ledger has word of it may leave its directory.
    let directories: usize = stage.queues.iter().map(crate::stage::Queue::directories_left).sum();
    println!("directories of programs left {directories}");
    let lives = usize::try_from(stage.lives).unwrap_or(usize::MAX);
    must(directories <= lives, format!("{directories} directories of programs left by {lives} lives"));
    must(codes.iter().all(|code| *code == Some(0)), format!("the daemons ended with {codes:?}"));

    let samples = stage.samples.of(0);
    let warm = &samples[samples.len() / WARM..];
    println!("\n{:<20}{:>12}{:>12}{:>14}", "never restarted", "at first", "at last", "per hour");
    for (column, (name, unit)) in COLUMNS.iter().enumerate() {
        let value = |sample: Option<&Sample>| sample.map_or(0.0, |sample| sample.values[column]);
        let slope = per_hour(warm, column);
        println!("{name:<20}{:>12.0}{:>12.0}{slope:>14.1} {unit}", value(warm.first()), value(warm.last()));
        if let Some(most) = MOST_PER_HOUR[column].filter(|_| length >= LONG_ENOUGH) {
            must(slope <= most, format!("{name}: {slope:.1} {unit} more in an hour, and not at most {most}"));
        }
    }
    let ledger = COLUMNS.len() - 1;
    // Half of the steps are of the other queue.
    let steps_per_hour =
        f64::from(u32::try_from(told.steps.max(2)).unwrap_or(u32::MAX)) / 2.0 / (length.as_secs_f64() / 3600.0);
    let per_step = per_hour(warm, ledger) / steps_per_hour;
    println!("ledger: {per_step:.2} KiB a step");
    must(length < LONG_ENOUGH || per_step <= LEDGER_PER_STEP, format!("{per_step:.2} KiB of ledger a step"));

    let csv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("soak.csv");
    fs::write(&csv, stage.samples.csv()).expect("the target folder is writable");
    println!("samples: {}", csv.display());
    if wrong.is_empty() {
        println!("all is well");
        return ExitCode::SUCCESS;
    }
    for what in wrong {
        eprintln!("not as it should be: {what}");
    }
    for queue in &stage.queues {
        eprintln!("the log is in {}", queue.log().display());
    }
    stage.keep();
    ExitCode::FAILURE
}
