//! The results as a table, and whether they are as they should be.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use crate::Times;
use crate::load::Load;
use crate::samples::{COLUMNS, Column, Sample, per_hour};
use crate::stage::{Queue, Stage};
use crate::weather::Weather;

/// Slopes are of what follows the first third: caches, pools and the allocator's arenas have filled
/// by then, and the ledger is as full as its retention lets it be.
const WARM: usize = 3;
/// Of each kind of breach; one defect may show in every step.
const SHOWN: usize = 20;

/// `over`: whether everything came to its end in time.
pub async fn told(
    mut stage: Stage,
    load: &Load,
    weather: &Weather,
    times: Times,
    over: bool,
) -> ExitCode {
    let messages = stage.messages_left().await;
    let unsettled = stage.unsettled();
    let codes = stage.close().await;
    let mut wrong = Vec::new();

    let folders: Vec<&Path> = stage.queues.iter().map(Queue::folder).collect();
    let mut history = stage.history();
    let (mut broken, judged) = history.judge(&folders);
    let (begun, steps) = (history.begun(), history.steps());
    println!("{begun} executions begun, {:?}; {judged} events judged", history.endings());
    let answers = history.answers();
    println!(
        "{steps} steps, {answers} answers, {} sent again, {} refused",
        history.repeated, history.refused
    );
    println!("{} lives, {} outages, faults {:?}", stage.lives, weather.outages, history.faults);
    println!("{} messages that cannot be read, {messages:?} left", history.unreadable);

    let mut must = |is_so: bool, what: String| {
        if !is_so {
            wrong.push(what);
        }
    };
    must(over, "not everything came to its end".to_owned());
    must(
        load.begun > 0 && begun >= load.begun,
        format!("{begun} executions were begun, and not {}", load.begun),
    );
    must(history.missed == 0, format!("{} events were not heard", history.missed));
    must(
        messages == Some(history.unreadable),
        "what is left is not what cannot be read".to_owned(),
    );
    must(unsettled == Some(0), format!("{unsettled:?} steps are not settled in their ledgers"));
    must(codes.iter().all(|code| *code == Some(0)), format!("the daemons ended with {codes:?}"));
    must(stage.crashes.is_empty(), format!("unasked, daemons ended with {:?}", stage.crashes));
    // Only a run that dies with its daemon before the ledger has word of it may leave its
    // directory.
    let directories: usize = stage.queues.iter().map(Queue::directories_left).sum();
    let lives = usize::try_from(stage.lives).unwrap_or(usize::MAX);
    must(
        directories <= lives,
        format!("{directories} directories of programs left by {lives} lives"),
    );
    drop(history);
    broken.truncate(SHOWN);
    wrong.append(&mut broken);
    wrong.append(&mut table(stage.samples.of(0), stage.rest.as_ref(), times));

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
    eprintln!("the logs are in {}", stage.folder().display());
    stage.keep();
    ExitCode::FAILURE
}

/// Prints what became of each column of the daemon that was never restarted, and returns what is
/// wrong with it.
fn table(samples: &[Sample], rest: Option<&Sample>, times: Times) -> Vec<String> {
    let warm = &samples[samples.len() / WARM..];
    let (Some(before), [first, .., last], Some(rest)) = (samples.first(), warm, rest) else {
        return vec!["the daemon that is never restarted does not answer".to_owned()];
    };
    let mut wrong = Vec::new();
    let heads =
        ["before", "warm", "most", "at last", "at rest"].map(|head| format!("{head:>9}")).concat();
    println!("\n{:<18}{heads}{:>10}{:>9}", "never restarted", "per hour", "allowed");
    for (at, column) in COLUMNS.iter().enumerate() {
        let Column { name, unit, growth, left } = column;
        let most = warm.iter().map(|sample| sample.values[at]).fold(0.0, f64::max);
        let [before, first, last, rest] =
            [before, first, last, rest].map(|sample| sample.values[at]);
        let values =
            [before, first, most, last, rest].map(|value| format!("{value:>9.0}")).concat();
        let slope = per_hour(warm, at);
        println!("{name:<18}{values}{slope:>10.1}{growth:>9.0} {unit}");
        if times.patient && slope > *growth {
            wrong.push(format!(
                "{name}: {slope:.1} {unit} more in an hour, and not at most {growth}"
            ));
        }
        if !column.is_back(before, rest, times.leeway()) {
            let left = left.unwrap_or_default() * times.leeway();
            wrong.push(format!(
                "{name}: {before} before the load and {rest} after it, and not at most {left} more"
            ));
        }
    }
    if !times.patient {
        println!("(too short to judge the slopes)");
    }
    println!();
    wrong
}
