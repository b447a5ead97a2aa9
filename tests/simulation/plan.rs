//! What one seed decides: the workers, their configuration, the pipelines, and all faults with
//! their times.

use std::ops::RangeInclusive;
use std::time::Duration;

use callbackd::local::faults::{EXECUTING_MESSAGE, STOPPING_MESSAGE};
use callbackd::local::undocumented::{
    AlreadyTerminal, FailedStep, FailureWhileStopping, LapsedReceipt, OldReceipt, RepeatedAnswer,
    RetriedToken, ReusedRequestToken, StoppingMessage, SuccessWhileStopping, TwiceInABatch,
    UnknownToken,
};
use callbackd::local::{Fault, Rule, Undocumented};
use fastrand::Rng;

use crate::hardship::{Hardship, Hardships};
use crate::network::Issuing;
use crate::script::{Cleanup, End, OnStop, Run, Script};
use crate::world::{QUEUE_URL, SECOND_URL};

/// Whether the configuration can say that several workers with ledgers of their own share a queue.
const KNOWS_EXCLUSIVE: bool = true;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fleet {
    Single,
    /// Two workers, each with a ledger of its own.
    Apart,
    /// Two workers that share one ledger.
    Sharing,
}

pub struct Plan {
    pub seed: u64,
    pub fleet: Fleet,
    pub config: String,
    pub scripts: Vec<Script>,
    pub executions: Vec<Execution>,
    pub undocumented: Undocumented,
    pub rules: Vec<Rule>,
    /// How long faults occur.
    pub faults: Duration,
    /// The fraction of all AWS calls that are affected.
    pub network: f64,
    pub disk: f64,
    pub issuing: Issuing,
    /// For each worker, how each of its lives is to end; the last ones go on.
    pub lives: Vec<Vec<Fate>>,
    pub jumps: Vec<(Duration, i64)>,
    pub revocations: Vec<Duration>,
    /// Handlers have far more time than the run; but once the faults are over all executions are
    /// stopped, without a message.
    pub stopped_in_the_end: bool,
    /// Unreadable messages, and when they are sent.
    pub unreadable: Vec<(Duration, String)>,
    /// What lasts, or comes from people and machines.
    pub hardships: Hardships,
    /// What the configuration bounds, for each of the two handlers.
    pub bounds: [Bounds; 2],
    pub verify: &'static str,
    /// The steps of the handler `kind` are answered by their own runs.
    pub answering: bool,
}

/// What a handler's steps are bounded by.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    pub time_limit: Duration,
    pub deferred_limit: Duration,
    pub attempts: u32,
}

/// How a life ends, and how long until the next one begins.
#[derive(Clone, Copy, Debug)]
pub struct Fate {
    pub end: Ends,
    pub pause: Duration,
}

#[derive(Clone, Copy, Debug)]
pub enum Ends {
    /// At the n-th boundary of an effect whose name begins so.
    AtEffect(&'static str, i64),
    After(Duration),
    /// It is told to drain; told twice, in a hurry.
    Drained {
        after: Duration,
        hurry: Option<Duration>,
    },
}

pub struct Execution {
    pub start: Duration,
    pub stop: Option<Duration>,
    /// Scripts, one a step.
    pub steps: Vec<usize>,
    /// Each after the one before it.
    pub chained: bool,
}

/// A seed's own chance.
pub struct Dice(pub Rng);

impl Dice {
    pub fn one_in(&mut self, n: u32) -> bool {
        self.0.u32(..n) == 0
    }

    pub fn number(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0.u64(range)
    }

    pub fn seconds(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.0.u64(range.start() * 1_000..=range.end() * 1_000))
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.0.usize(..choices.len())]
    }
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        Self::with(seed, None)
    }

    /// A seed's plan; with no other hardship than this one, and nothing beside it, where there is
    /// one.
    pub fn with(seed: u64, only: Option<Hardship>) -> Self {
        let mut dice = Dice(Rng::with_seed(seed));
        let fleet = dice.pick(&[Fleet::Single, Fleet::Single, Fleet::Apart, Fleet::Sharing]);
        let faults = dice.seconds(30..=600);
        let window = faults.as_secs();
        let mut scripts = Vec::new();
        let executions =
            (0..dice.number(1..=4)).map(|_| execution(&mut dice, window, &mut scripts)).collect();
        let workers = if fleet == Fleet::Single { 1 } else { 2 };
        let lives = (0..workers).map(|_| lives(&mut dice, window)).collect();
        let jumps = if dice.one_in(4) {
            (0..dice.number(1..=2))
                .map(|_| (dice.seconds(0..=window), dice.0.i64(-7_200..=7_200)))
                .collect()
        } else {
            Vec::new()
        };
        let revocations = if dice.one_in(4) { vec![dice.seconds(0..=window)] } else { Vec::new() };
        let unreadable = if dice.one_in(4) {
            let foreign = r#"{"token":"AAAAAAAAAA","pipelineExecutionArn":"arn:aws:sagemaker:us-east-1:999999999999:pipeline/p/execution/abc","status":"Executing"}"#;
            let body = dice.pick(&["", "{}", "not json", r#"{"token":"short"}"#, foreign]);
            vec![(dice.seconds(0..=window), body.to_owned())]
        } else {
            Vec::new()
        };
        let stopped_in_the_end = dice.one_in(4);
        let hardships = Hardships::of(seed, window, only);
        let Settings { mut config, bounds, verify } =
            settings(&mut dice, stopped_in_the_end, fleet, &hardships);
        // Not by the dice: all else is as without it.
        let answering = seed % 3 == 1;
        if answering {
            config =
                config.replace("[handlers.kind]\n", "[handlers.kind]\nanswers = \"handler\"\n");
        }
        let mut plan = Self {
            seed,
            fleet,
            config,
            bounds,
            verify,
            answering,
            stopped_in_the_end,
            scripts,
            executions,
            undocumented: undocumented(&mut dice),
            rules: rules(&mut dice),
            faults,
            network: dice.pick(&[0.0, 0.02, 0.1, 0.3, 0.6]),
            disk: dice.pick(&[0.0, 0.0, 0.02, 0.1, 0.4]),
            issuing: Issuing {
                lifetime: dice.seconds(30..=3_600),
                trouble: dice.pick(&[0.0, 0.1, 0.5]),
            },
            lives,
            jumps,
            revocations,
            unreadable,
            hardships: Hardships::default(),
        };
        plan.befall(hardships);
        plan
    }

    /// Adds the hardships, and removes the weather from those that come alone.
    fn befall(&mut self, hardships: Hardships) {
        if hardships.has(Hardship::Redrive) {
            self.faults = self.faults.max(Duration::from_secs(500));
        }
        if let Some(last) = hardships.spells.iter().map(|spell| spell.until).max() {
            self.faults = self.faults.max(last);
        }
        if let Some(lives) = hardships.lives(self.seed, self.faults.as_secs()) {
            for (number, each) in self.lives.iter_mut().enumerate() {
                // The second worker's are not at the same moments.
                *each = lives.iter().copied().skip(number).collect();
            }
        }
        if hardships.alone {
            (self.network, self.disk, self.issuing.trouble) = (0.0, 0.0, 0.0);
            (self.rules, self.jumps, self.revocations) = (Vec::new(), Vec::new(), Vec::new());
        }
        if let Some((start, takes, others)) = hardships.crashing {
            let first = self.scripts.len();
            let works = |work, end| Script {
                runs: vec![Run { work, checkpoints: 0, end }],
                on_stop: OnStop::Ends,
                cleanup: Cleanup::Works(Duration::ZERO),
            };
            self.scripts.push(works(takes, End::Crash));
            self.scripts.extend(others.map(|work| works(work, End::Success)));
            let steps = (first..self.scripts.len()).collect();
            self.executions.push(Execution { start, stop: None, steps, chained: false });
        }
        if hardships.received_twice {
            let twice = Rule { probability: 0.5, ..Rule::new("ReceiveMessage", Fault::Duplicate) };
            self.rules.push(twice);
        }
        if !hardships.retries.is_empty() {
            self.undocumented.retried_token = RetriedToken::Same;
            // Workers with a ledger each cannot know of one another's answers, which theirs may
            // repeat.
            let replayed = self.seed.is_multiple_of(4) && self.fleet != Fleet::Apart;
            self.undocumented.repeated_answer =
                if replayed { RepeatedAnswer::Replayed } else { RepeatedAnswer::Taken };
        }
        self.hardships = hardships;
    }

    /// Whether only the hardship itself delays a worker.
    pub fn is_prompt(&self) -> bool {
        self.hardships.alone
            || self.network == 0.0 && self.disk == 0.0 && self.hardships.of.is_empty()
    }

    /// One worker, one step, and nothing goes wrong.
    pub fn calm() -> Self {
        let run = Run { work: Duration::from_secs(30), checkpoints: 1, end: End::Success };
        let script = Script {
            runs: vec![run],
            on_stop: OnStop::Ends,
            cleanup: Cleanup::Works(Duration::ZERO),
        };
        let execution =
            Execution { start: Duration::from_secs(1), stop: None, steps: vec![0], chained: false };
        let mut dice = Dice(Rng::with_seed(0));
        let settings = settings(&mut dice, false, Fleet::Single, &Hardships::default());
        Self {
            fleet: Fleet::Single,
            config: settings.config,
            bounds: settings.bounds,
            verify: settings.verify,
            hardships: Hardships::default(),
            scripts: vec![script],
            executions: vec![execution],
            undocumented: Undocumented::default(),
            rules: Vec::new(),
            network: 0.0,
            disk: 0.0,
            issuing: Issuing { lifetime: Duration::from_secs(3_600), trouble: 0.0 },
            lives: vec![Vec::new()],
            jumps: Vec::new(),
            revocations: Vec::new(),
            unreadable: Vec::new(),
            stopped_in_the_end: false,
            answering: false,
            ..Self::of(0)
        }
    }
}

fn execution(dice: &mut Dice, window: u64, scripts: &mut Vec<Script>) -> Execution {
    let start = dice.seconds(0..=window / 2);
    let stop = dice.one_in(2).then(|| {
        let soon = dice.one_in(3);
        start + dice.seconds(if soon { 0..=2 } else { 0..=window / 2 })
    });
    let steps = (0..dice.number(1..=3)).map(|_| {
        scripts.push(script(dice));
        scripts.len() - 1
    });
    Execution { start, stop, steps: steps.collect(), chained: dice.one_in(2) }
}

fn script(dice: &mut Dice) -> Script {
    let runs = (0..dice.number(1..=4)).map(|_| {
        let long = dice.one_in(4);
        let again = End::Again(dice.seconds(1..=120));
        let soon = dice.one_in(2);
        let answered = dice.seconds(if soon { 0..=10 } else { 0..=600 });
        let defer = End::Defer((!dice.one_in(4)).then_some(answered));
        let ends = [
            End::Success,
            End::Success,
            End::Failure,
            End::Retry,
            End::Hindered,
            again,
            defer,
            End::Panic,
            End::Hang,
        ];
        Run {
            work: dice.seconds(if long { 60..=300 } else { 0..=20 }),
            checkpoints: dice.pick(&[0, 0, 1, 3]),
            end: dice.pick(&ends),
        }
    });
    let runs = runs.collect();
    let finishes = OnStop::Finishes(dice.seconds(0..=20));
    let works = Cleanup::Works(dice.seconds(0..=20));
    Script {
        runs,
        on_stop: dice.pick(&[OnStop::Ends, OnStop::Ends, finishes, OnStop::Ignores]),
        cleanup: dice.pick(&[works, works, works, Cleanup::Fails, Cleanup::Panics, Cleanup::Hangs]),
    }
}

/// Longer than any run, in seconds.
const FAR: u64 = 7 * 86_400;

/// Where lives end; rare ones by name.
const EFFECTS: [&str; 12] = [
    "",
    "",
    "",
    "put",
    "SendPipelineExecutionStepSuccess",
    "SendPipelineExecutionStepFailure",
    "DeleteMessageBatch",
    "ChangeMessageVisibilityBatch",
    "SendMessage",
    "ListPipelineExecutionSteps",
    "run",
    "cleanup",
];

fn lives(dice: &mut Dice, window: u64) -> Vec<Fate> {
    let count = dice.pick(&[0, 1, 1, 2, 3, 5]);
    (0..count)
        .map(|_| {
            let end = match dice.number(0..=3) {
                0 => {
                    let hurry = dice.one_in(3).then(|| dice.seconds(0..=30));
                    Ends::Drained { after: dice.seconds(1..=window), hurry }
                }
                1 => Ends::After(dice.seconds(0..=window)),
                _ => {
                    let effect = dice.pick(&EFFECTS);
                    // Before it, or after it.
                    let most = if effect.is_empty() { dice.pick(&[3, 10, 60]) } else { 2 };
                    Ends::AtEffect(effect, dice.0.i64(1..=most))
                }
            };
            Fate { end, pause: dice.seconds(0..=60) }
        })
        .collect()
}

fn undocumented(dice: &mut Dice) -> Undocumented {
    Undocumented {
        already_terminal: dice.pick(&[AlreadyTerminal::Conflict, AlreadyTerminal::Validation]),
        unknown_token: dice.pick(&[UnknownToken::ResourceNotFound, UnknownToken::Validation]),
        reused_request_token: dice
            .pick(&[ReusedRequestToken::Refused, ReusedRequestToken::Replayed]),
        success_while_stopping: dice
            .pick(&[SuccessWhileStopping::Stopped, SuccessWhileStopping::Succeeded]),
        failure_while_stopping: dice
            .pick(&[FailureWhileStopping::Stopped, FailureWhileStopping::Failed]),
        failed_step: dice.pick(&[FailedStep::Drain, FailedStep::Continue, FailedStep::Cut]),
        stopping_message: dice.pick(&[
            StoppingMessage::Once,
            StoppingMessage::Once,
            StoppingMessage::Twice,
            StoppingMessage::Never,
        ]),
        stopping_delay: if dice.one_in(3) { dice.seconds(0..=120) } else { Duration::ZERO },
        old_receipt: dice.pick(&[OldReceipt::Ignored, OldReceipt::Deletes]),
        twice_in_a_batch: dice.pick(&[
            TwiceInABatch::Refused,
            TwiceInABatch::Refused,
            TwiceInABatch::Done,
        ]),
        lapsed_receipt: dice.pick(&[LapsedReceipt::NotInFlight, LapsedReceipt::InvalidParameter]),
        ..Undocumented::default()
    }
}

/// What messages go through; calls have the weather.
fn rules(dice: &mut Dice) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut rule = |dice: &mut Dice, operation: &str, fault: Fault| {
        if dice.one_in(3) {
            rules.push(Rule { probability: dice.pick(&[0.1, 0.5]), ..Rule::new(operation, fault) });
        }
    };
    let late = |dice: &mut Dice| Fault::Latency { millis: dice.number(0..=120_000), acted: false };
    let fault = late(dice);
    rule(dice, EXECUTING_MESSAGE, fault);
    let fault = late(dice);
    rule(dice, STOPPING_MESSAGE, fault);
    rule(dice, EXECUTING_MESSAGE, Fault::Duplicate);
    rule(dice, STOPPING_MESSAGE, Fault::Duplicate);
    rule(dice, STOPPING_MESSAGE, Fault::Lose);
    rule(dice, "ReceiveMessage", Fault::Duplicate);
    rule(dice, "ReceiveMessage", Fault::Reorder);
    for batch in ["DeleteMessageBatch", "ChangeMessageVisibilityBatch"] {
        let first = usize::try_from(dice.number(1..=3)).expect("small");
        rule(dice, batch, Fault::FailEntries { first, code: "InternalError".to_owned() });
    }
    rules
}

/// What bounds the starts of a handler, if anything does.
fn limits(dice: &mut Dice) -> String {
    let mut limits = String::new();
    if dice.one_in(4) {
        limits.push_str(&format!("max_running = {}\n", dice.number(1..=3)));
    }
    if dice.one_in(4) {
        let (starts, seconds) = (dice.number(1..=3), dice.number(1..=30));
        limits.push_str(&format!("rate = \"{starts}/{seconds}s\"\n"));
    }
    if dice.one_in(4) {
        let (failures, seconds) = (dice.number(1..=3), dice.number(1..=60));
        limits
            .push_str(&format!("breaker = {{ failures = {failures}, pause = \"{seconds}s\" }}\n"));
    }
    limits
}

struct Settings {
    config: String,
    bounds: [Bounds; 2],
    verify: &'static str,
}

fn settings(
    dice: &mut Dice,
    stopped_in_the_end: bool,
    fleet: Fleet,
    hardships: &Hardships,
) -> Settings {
    // By nothing else than a stop would a step end that long after.
    let (limit, deferred) =
        if stopped_in_the_end { (FAR..=FAR, FAR..=FAR) } else { (60..=600, 1..=3_600) };
    let visibility = dice.number(10..=60);
    // The other decisions of a seed do not depend on these.
    let mut own = Dice(dice.0.clone());
    let mut bounds = [Bounds::default(); 2];
    let handlers: Vec<String> = ["plain", "kind"]
        .into_iter()
        .zip(&mut bounds)
        .map(|(name, bounds)| {
            bounds.time_limit = Duration::from_secs(dice.number(limit.clone()));
            bounds.attempts = u32::try_from(dice.number(1..=4)).expect("small");
            let retry_delay = dice.number(1..=30);
            bounds.deferred_limit = Duration::from_secs(dice.number(deferred.clone()));
            format!(
                "[handlers.{name}]\ntype = \"scripted\"\ntime_limit = \"{}s\"\nmax_attempts = \
                 {}\nretry_delay = \"{retry_delay}s\"\n\
                 retry_delay_max = \"60s\"\ndeferred_limit = \"{}s\"\nstop_grace = \
                 \"{}s\"\ncleanup_limit = \"{}s\"\non_stop = \"{}\"\n{}",
                bounds.time_limit.as_secs(),
                bounds.attempts,
                bounds.deferred_limit.as_secs(),
                dice.number(0..=30),
                dice.number(5..=60),
                if name == "kind" { "success" } else { "failure" },
                limits(&mut own),
            )
        })
        .collect();
    let worker = format!(
        "[worker]\nid = \"sim\"\ndrain_timeout = \"{}s\"\n[aws]\nendpoint_url = \
         \"http://world.invalid\"\nregion = \"us-east-1\"\n\
         [http]\nlisten = \"off\"\n[ledger]\ntype = \"memory\"\nlease = \"{}s\"\n",
        dice.number(0..=60),
        dice.number(3..=30)
    );
    let concurrency = dice.number(1..=6);
    let repost_after = visibility * dice.pick(&[1, 3, 200, 200, 200]);
    let stop_watch =
        dice.pick(if stopped_in_the_end { &[1, 5, 10, 30] } else { &[0, 1, 5, 10, 30] });
    let takeover = dice.number(5..=300);
    let verify = dice.pick(&["redelivered", "always", "never"]);
    let verify = hardships.verify().unwrap_or(verify);
    let exclusive =
        if KNOWS_EXCLUSIVE && fleet == Fleet::Apart { "exclusive = false\n" } else { "" };
    let queue = |url: &str| {
        format!(
            "[[queues]]\nurl = \"{url}\"\nhandler = \"plain\"\nconcurrency = \
             {concurrency}\nvisibility_timeout = \"{visibility}s\"\n\
             repost_after = \"{repost_after}s\"\nstop_watch = \
             \"{stop_watch}s\"\nstop_takeover_after = \"{takeover}s\"\n\
             verify = \"{verify}\"\n{exclusive}[[queues.routes]]\narguments = {{ kind = true \
             }}\nhandler = \"kind\"\n"
        )
    };
    let second = if hardships.second_queue { queue(SECOND_URL) } else { String::new() };
    Settings {
        config: format!("{worker}{}{second}{}", queue(QUEUE_URL), handlers.concat()),
        bounds,
        verify,
    }
}
