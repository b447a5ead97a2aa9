//! The programs that answer steps, each in turn on the same queue of the same endpoint, round after
//! round.

use std::io::IsTerminal;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::account::{Account, REPORT, until};
use crate::ledger;
use crate::machine::{self, Machine, Process};
use crate::options::Options;
use crate::table::{self, Figures, median};
use crate::venv::Venv;
use crate::worker::{Ledger, Setup, Worker, folder};

/// The first receives take this long: what a process does before and during its first poll is over
/// by then, and not counted.
const WARM_UP: Duration = Duration::from_millis(900);
const SETTLE: Duration = Duration::from_millis(600);
const LOOK: Duration = Duration::from_millis(5);

struct Contestant {
    name: String,
    concurrency: usize,
    steps: usize,
    who: Who,
    /// The contestant that its processor time is compared with.
    beside: usize,
    budget: Budget,
}

enum Who {
    Bare,
    Worker(Setup),
    /// A program that gets the endpoint, the queue and the concurrency, and more arguments.
    Script(Vec<String>),
}

enum Running {
    Worker(Worker),
    Other(Process),
}

/// Limits from the design, if there are any.
#[derive(Clone, Copy, Default)]
struct Budget {
    /// Of the processor time of the one beside it.
    ratio: Option<f64>,
    calls: Option<f64>,
}

/// What one run used, for each step.
struct Sample {
    microseconds: f64,
    calls: f64,
    commits: Option<f64>,
    per_second: f64,
}

impl Running {
    fn start(machine: &Machine, account: &Account, contestant: &Contestant) -> Self {
        let concurrency = contestant.concurrency.to_string();
        let about = [account.url(), account.queue.clone(), concurrency];
        Self::Other(Process::start(&mut match &contestant.who {
            Who::Worker(setup) => return Self::Worker(Worker::start(machine, account, setup)),
            Who::Bare => {
                let mut command = machine::this(machine.measured, &["bare"]);
                command.args(about);
                command
            }
            Who::Script(line) => {
                let mut command = machine::on_core(machine.measured, &line[0]);
                command.arg(&line[1]).args(about).args(&line[2..]).env("NODE_NO_WARNINGS", "1");
                command
            }
        }))
    }

    fn process(&mut self) -> &mut Process {
        match self {
            Self::Worker(worker) => &mut worker.process,
            Self::Other(process) => process,
        }
    }
}

const OURS_IN_MEMORY: Budget = Budget { ratio: Some(1.3), calls: Some(1.25) };
const OURS_ON_DISK: Budget = Budget { ratio: Some(1.8), calls: Some(1.25) };
const NONE: Budget = Budget { ratio: None, calls: None };

/// Steps that do nothing.
pub fn cost(machine: &Machine, options: &Options, figures: &mut Figures) {
    let steps = options.steps;
    let mut contestants = Vec::new();
    for concurrency in [10, 64] {
        let beside = contestants.len();
        let mut add = |name: &str, steps, who, budget| {
            contestants.push(Contestant {
                name: name.to_owned(),
                concurrency,
                steps,
                who,
                beside,
                budget,
            });
        };
        add("bare loop", steps, Who::Bare, NONE);
        let worker = |ledger| Who::Worker(Setup::new(ledger, concurrency, "nothing"));
        add("callbackd, memory", steps, worker(Ledger::Memory), OURS_IN_MEMORY);
        add("callbackd, SQLite", steps, worker(Ledger::Sqlite), OURS_ON_DISK);
        if concurrency == 10 {
            // They take so much longer that fewer are enough.
            add("boto3", steps / 5, boto3(&[]), NONE);
            if let Some(node) = node() {
                add("Node, sqs-consumer", steps / 5, node, NONE);
            }
        }
    }
    let samples = rounds(machine, options, &contestants);
    show("A step that does nothing", "bare loop", &contestants, &samples);
    let cpu = |at: usize| median(samples[at].iter().map(|sample| sample.microseconds));
    let named = |name: &str| contestants.iter().position(|contestant| contestant.name == name);
    for (name, least, budget) in [("boto3", 6.0, "≤ 1/6"), ("Node, sqs-consumer", 3.0, "≤ 1/3")]
    {
        let Some(at) = named(name) else { continue };
        for ours in [1, 2] {
            let ratio = cpu(at) / cpu(ours);
            println!(
                "  {} needs 1/{ratio:.1} of {name}'s processor time (budget {budget}: {})",
                contestants[ours].name,
                if ratio >= least { "kept" } else { "NOT kept" }
            );
        }
    }
    record("cost", &contestants, &samples, figures);
}

/// Steps that are a program each.
pub fn exec(machine: &Machine, options: &Options, figures: &mut Figures) {
    let (steps, program) = ((options.steps / 10).max(10), "/bin/true");
    let handler = format!("type = \"exec\"\nsettings = {{ command = [\"{program}\"] }}");
    let ours = Setup { ledger: Ledger::Sqlite, concurrency: 10, handler };
    let contestant = |name: &str, who, budget| Contestant {
        name: name.to_owned(),
        concurrency: 10,
        steps,
        who,
        beside: 0,
        budget,
    };
    let contestants = [
        contestant("boto3 + subprocess", boto3(&[program]), NONE),
        contestant(
            "callbackd, exec, SQLite",
            Who::Worker(ours),
            Budget { ratio: Some(1.0), calls: Some(1.25) },
        ),
    ];
    let samples = rounds(machine, options, &contestants);
    show("A step that is /bin/true, its processes included", "boto3", &contestants, &samples);
    record("exec", &contestants, &samples, figures);
}

/// Whether a step costs more if the ledger holds many records.
pub fn flat(machine: &Machine, options: &Options, figures: &mut Figures) {
    let folder = folder();
    let few = options.records.min(100);
    let contestant = |records: usize, budget| {
        let file = folder.path().join(format!("{records}.db"));
        ledger::filled(&file, records);
        Contestant {
            name: format!("{records} settled records"),
            concurrency: 10,
            steps: options.steps,
            who: Who::Worker(Setup::new(Ledger::Filled(file), 10, "nothing")),
            beside: 0,
            budget,
        }
    };
    let contestants = [
        contestant(few, NONE),
        contestant(options.records, Budget { ratio: Some(1.2), calls: Some(1.25) }),
    ];
    let samples = rounds(machine, options, &contestants);
    show("A step beside what the ledger holds", "the first", &contestants, &samples);
    record("flat", &contestants, &samples, figures);
}

/// The samples of each contestant, one a round.
fn rounds(machine: &Machine, options: &Options, contestants: &[Contestant]) -> Vec<Vec<Sample>> {
    let mut samples: Vec<Vec<Sample>> = contestants.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        for (contestant, samples) in contestants.iter().zip(&mut samples) {
            progress(&format!(
                "round {round} of {}: {} at {}",
                options.rounds, contestant.name, contestant.concurrency
            ));
            samples.push(run(machine, contestant));
        }
    }
    progress("");
    samples
}

/// For a terminal; a log gets only the tables.
fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{text}");
    }
}

fn run(machine: &Machine, contestant: &Contestant) -> Sample {
    let account = Account::open(machine, None);
    account.start(contestant.steps);
    account.count_calls(WARM_UP);
    let mut running = Running::start(machine, &account, contestant);
    let process = running.process();
    let receives = || account.calls()["ReceiveMessage"];
    until("the first poll", LOOK, process, || receives() > 0);
    let polled = Instant::now();
    std::thread::sleep(SETTLE);
    let (before, early) = (process.cpu(), receives());
    account.count_calls(Duration::ZERO);

    let steps = contestant.steps as u64;
    until("all steps answered", LOOK, process, || account.calls()[REPORT] >= steps);
    until("all messages deleted", LOOK, process, || account.messages() == 0);
    let took = polled.elapsed().saturating_sub(WARM_UP).as_secs_f64();
    let used = process.cpu().saturating_sub(before);
    let calls: u64 = account.calls().values().sum();
    let commits = match &running {
        Running::Worker(worker) => worker.metric("callbackd_ledger_commit_seconds_count"),
        Running::Other(_) => None,
    };
    let each = |total: f64| total / steps as f64;
    Sample {
        microseconds: each(used.as_secs_f64() * 1e6),
        calls: each((calls + early) as f64),
        commits: commits.map(each),
        per_second: steps as f64 / took,
    }
}

fn show(title: &str, beside: &str, contestants: &[Contestant], samples: &[Vec<Sample>]) {
    let line = |at: usize| {
        let Contestant { name, concurrency, beside, budget, .. } = &contestants[at];
        let of = |figure: &dyn Fn(&Sample) -> f64| median(samples[at].iter().map(figure));
        // Round by round, because the other load of the machine changes from one to the next.
        let ratios = samples[at]
            .iter()
            .zip(&samples[*beside])
            .map(|(ours, theirs)| ours.microseconds / theirs.microseconds);
        let (ratio, calls) = (median(ratios), of(&|sample| sample.calls));
        let commits = samples[at][0].commits.filter(|commits| *commits > 0.0);
        let commits =
            commits.map(|_| format!("{:.2}", of(&|sample| sample.commits.unwrap_or(f64::NAN))));
        let bound = |bound: Option<f64>, is: f64| match bound {
            Some(bound) if is <= bound => format!("≤ {bound:.2}"),
            Some(bound) => format!("≤ {bound:.2} !"),
            None => String::new(),
        };
        vec![
            name.clone(),
            concurrency.to_string(),
            format!("{:.0} µs", of(&|sample| sample.microseconds)),
            format!("{ratio:.2}"),
            bound(budget.ratio, ratio),
            format!("{calls:.3}"),
            bound(budget.calls, calls),
            commits.unwrap_or_default(),
            format!("{:.0}", of(&|sample| sample.per_second)),
        ]
    };
    let lines: Vec<_> = (0..contestants.len()).map(line).collect();
    let ratio = format!("× {beside}");
    let heads = ["", "at", "CPU a step", &ratio, "budget", "calls", "budget", "commits", "steps/s"];
    table::print(
        &format!("{title} (medians of {} rounds; ! is over budget)", samples[0].len()),
        &heads,
        &lines,
    );
}

fn record(part: &str, contestants: &[Contestant], samples: &[Vec<Sample>], figures: &mut Figures) {
    for (contestant, samples) in contestants.iter().zip(samples) {
        let all = |figure: &dyn Fn(&Sample) -> f64| samples.iter().map(figure).collect::<Vec<_>>();
        let values = json!({
            "cpu_microseconds": all(&|sample| sample.microseconds),
            "calls": all(&|sample| sample.calls),
            "commits": all(&|sample| sample.commits.unwrap_or(0.0)),
            "steps_per_second": all(&|sample| sample.per_second),
        });
        figures.add(part, &format!("{} at {}", contestant.name, contestant.concurrency), values);
    }
}

fn boto3(more: &[&str]) -> Who {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/boto3_loop.py");
    let line = [Venv::ready().python(), script].map(|path| path.display().to_string());
    Who::Script(line.into_iter().chain(more.iter().map(|&text| text.to_owned())).collect())
}

/// The common Node library, if Node, npm and its registry are available. Installed once, in the
/// target directory.
fn node() -> Option<Who> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/node");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("node");
    let install = || {
        std::fs::create_dir_all(&folder).ok()?;
        for file in ["package.json", "package-lock.json", "consumer.mjs"] {
            std::fs::copy(from.join(file), folder.join(file)).ok()?;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--loglevel=error", "--no-audit", "--no-fund"]).current_dir(&folder);
        npm.status().ok()?.success().then_some(())
    };
    if install().is_none() {
        println!("Node's sqs-consumer is left out: node, npm or its registry is not there");
        return None;
    }
    let script = folder.join("consumer.mjs").display().to_string();
    Some(Who::Script(vec!["node".to_owned(), script]))
}
