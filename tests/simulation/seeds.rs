//! Many seeds, on all cores, and their results.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;

use crate::hardship::Hardship;
use crate::plan::Plan;
use crate::run::run;
use crate::tally::Tally;
use crate::world::{LIVE, Story};

/// How many each test run plays.
const SEEDS: u64 = 300;
/// What some seed must have met, so that nothing is believed that was never tried.
const MET: [&str; 136] = [
    "fleet: one worker",
    "fleet: two workers, a ledger each",
    "fleet: two workers, one ledger",
    "fault: AccessDeniedException before",
    "fault: InternalFailure after",
    "fault: InternalFailure before",
    "fault: ResourceNotFound before",
    "fault: ServiceUnavailable after",
    "fault: ServiceUnavailable before",
    "fault: ThrottlingException before",
    "fault: body cut",
    "fault: an odd date",
    "fault: clock jump",
    "fault: duplicate ExecutingMessage",
    "fault: duplicate ReceiveMessage",
    "fault: duplicate StoppingMessage",
    "fault: fail_entries ChangeMessageVisibilityBatch",
    "fault: fail_entries DeleteMessageBatch",
    "fault: gateway after",
    "fault: gateway before",
    "fault: get fails before",
    "fault: keys revoked",
    "fault: latency ExecutingMessage",
    "fault: latency StoppingMessage",
    "fault: list fails before",
    "fault: lose StoppingMessage",
    "fault: no credentials",
    "fault: probe fails before",
    "fault: put fails after",
    "fault: put fails before",
    "fault: put is slow",
    "fault: reorder ReceiveMessage",
    "fault: reset after",
    "fault: reset before",
    "fault: slow after",
    "fault: slow before",
    "fault: slow body",
    "fault: stalled body",
    "crash: at any moment",
    "crash: ChangeMessageVisibilityBatch, after",
    "crash: ChangeMessageVisibilityBatch, before",
    "crash: DeleteMessageBatch, after",
    "crash: DeleteMessageBatch, before",
    "crash: ReceiveMessage, after",
    "crash: ReceiveMessage, before",
    "crash: SendMessage, after",
    "crash: SendMessage, before",
    "crash: SendPipelineExecutionStepFailure, after",
    "crash: SendPipelineExecutionStepFailure, before",
    "crash: SendPipelineExecutionStepSuccess, after",
    "crash: SendPipelineExecutionStepSuccess, before",
    "crash: cleanup, begun",
    "crash: cleanup, ended",
    "crash: put, after",
    "crash: put, before",
    "crash: run, begun",
    "crash: run, ended",
    "setting: breaker",
    "setting: max_running",
    "setting: rate",
    "path: a breaker opens",
    "path: a run told of lease_lost",
    "path: a run told of pipeline_stopped",
    "path: a run told of settled_elsewhere",
    "path: a run told of shutdown",
    "path: a run told of time_limit",
    "path: a signature of another time refused",
    "path: a run answers its step",
    "path: a step answered by its handler",
    "path: a renewal that is not accepted",
    "path: a renewal that tells of stops",
    "path: a worker is fenced",
    "fault: renew fails after",
    "fault: renew fails before",
    "fault: renew is slow",
    "fault: fence fails after",
    "fault: fence fails before",
    "path: a stale receipt refused",
    "path: a write lost to another",
    "path: all stopped without a message",
    "path: an answer refused",
    "path: an answer through the ledger is refused",
    "path: answered by somebody else",
    "path: answered through the ledger",
    "path: tried again at once",
    "path: a retry is refused",
    "path: checkpoint",
    "path: cleanup",
    "path: expired credentials refused",
    "path: hurried shutdown",
    "path: shutdown",
    "path: somebody else is too late",
    "path: the same answer again",
    "path: unreadable message",
    "path: written as deferred",
    "path: written as owed",
    "path: written as waiting",
    "run: again",
    "run: crash",
    "path: a crash is charged",
    "path: a crash is spared",
    "run: defer",
    "run: failure",
    "run: hang",
    "run: hindered",
    "run: panic",
    "run: retry",
    "run: success",
    "fault: a copy on another queue",
    "fault: a message expires",
    "fault: a message is given up",
    "fault: a message is purged",
    "fault: a token comes back",
    "fault: an empty listing",
    "fault: completed by others",
    "fault: forged OthersStop",
    "fault: forged OthersWork",
    "fault: forged UnknownStop",
    "fault: forged UnknownWork",
    "fault: suspended",
    "fault: the queue is purged",
    "fault: the wall clock is set by hours",
    "path: a run wants another in a drain",
    "spell: DeletesHang",
    "spell: Denied",
    "spell: LedgerRefuses",
    "spell: LedgerWaits",
    "spell: NotFound",
    "spell: Throttled",
    "spell: Unlisted",
    "call: DescribePipelineExecution",
    "call: ListPipelineExecutionSteps",
    "call: SendMessage",
    "step Failed",
    "step Stopped",
    "step Succeeded",
];
/// How many more are played at a time if something did not occur, and how many at most.
const MORE: u64 = 50;
const MOST: u64 = 1_200;
/// Lines of a failing seed's trace that are shown at once.
const SHOWN: usize = 300;

/// Plays one seed of the environment's choice, or as many as it says, and fails with the first that
/// breaks a promise.
pub fn play() {
    if let Some(seed) = number("CALLBACKD_SEED") {
        // The trace as it happens, and between its lines the daemon's log.
        LIVE.store(true, Ordering::SeqCst);
        let story = run(Plan::with(seed, only()));
        eprintln!("\n{}", story.tally);
        assert_eq!(story.broken, None, "seed {seed}");
        return;
    }
    let mut seeds = number("CALLBACKD_SEEDS").unwrap_or(SEEDS);
    let (mut tally, mut failed) = play_all(0..seeds);
    // What is rare may take more of them.
    let whole = seeds >= SEEDS && only().is_none();
    while whole && failed.is_none() && !missed(&tally).is_empty() && seeds < MOST {
        let (more, broken) = play_all(seeds..seeds + MORE);
        tally.add(&more);
        (seeds, failed) = (seeds + MORE, broken);
    }
    eprintln!("{seeds} seeds:\n{tally}");
    if whole && failed.is_none() {
        let missed = missed(&tally);
        assert!(missed.is_empty(), "no seed came across {missed:?}");
    }
    if let Some((seed, story)) = failed {
        let from = story.lines.len().saturating_sub(SHOWN);
        panic!(
            "{}\n\nseed {seed}: {}\nreplay it with: CALLBACKD_SEED={seed} cargo test --test \
             simulation no_seed -- --nocapture",
            story.lines[from..].join("\n"),
            story.broken.unwrap_or_default()
        );
    }
}

/// What should have occurred and has not.
fn missed(tally: &Tally) -> Vec<String> {
    let hardships = Hardship::all().map(|hardship| format!("hardship: {}", hardship.name()));
    let all = MET.iter().map(|what| (*what).to_owned()).chain(hardships);
    all.filter(|what| tally.of(what) == 0).collect()
}

fn play_all(seeds: Range<u64>) -> (Tally, Option<(u64, Story)>) {
    let next = AtomicU64::new(seeds.start);
    let (tally, failed) = (Mutex::new(Tally::default()), OnceLock::new());
    let (only, all) = (only(), std::env::var_os("CALLBACKD_ALL").is_some());
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while all || failed.get().is_none() {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds.end {
                        return;
                    }
                    let story = run(Plan::with(seed, only));
                    tally.lock().expect("not poisoned").add(&story.tally);
                    if let Some(broken) = &story.broken {
                        eprintln!("seed {seed}: {broken}");
                        // Two at once: one of them will do.
                        let _ = failed.set((seed, story));
                    }
                }
            });
        }
    });
    (tally.into_inner().expect("not poisoned"), failed.into_inner())
}

/// The one hardship that is asked for.
fn only() -> Option<Hardship> {
    let name = std::env::var("CALLBACKD_ONLY").ok()?;
    let found = Hardship::all().find(|hardship| hardship.name() == name);
    Some(found.unwrap_or_else(|| {
        panic!("{name} is none of {:?}", Hardship::all().map(Hardship::name).collect::<Vec<_>>())
    }))
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}
