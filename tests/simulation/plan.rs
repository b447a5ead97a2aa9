//! What one seed decides: the workers, their configuration, the pipelines, and all that goes wrong and when.

use std::ops::RangeInclusive;
use std::time::Duration;

use callbackd::local::faults::{EXECUTING_MESSAGE, STOPPING_MESSAGE};
use callbackd::local::undocumented::{
    AlreadyTerminal, FailedStep, FailureWhileStopping, LapsedReceipt, OldReceipt, ReusedRequestToken, StoppingMessage,
    SuccessWhileStopping, UnknownToken,
};
use callbackd::local::{Fault, Rule, Undocumented};
use fastrand::Rng;

use crate::network::Issuing;
use crate::script::{Cleanup, End, OnStop, Run, Script};
use crate::world::QUEUE_URL;

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
    /// How long things go wrong.
    pub faults: Duration,
    /// Part of all AWS calls that something happens to.
    pub network: f64,
    pub disk: f64,
    pub issuing: Issuing,
    /// For each worker, how each of its lives is to end; the last ones go on.
    pub lives: Vec<Vec<Fate>>,
    pub jumps: Vec<(Duration, i64)>,
    pub revocations: Vec<Duration>,
    /// Handlers have far more time than the run; but once nothing goes wrong any more all executions are stopped, of which no message
    /// tells.
    pub stopped_in_the_end: bool,
    /// Messages that nobody can read, and when they come.
    pub unreadable: Vec<(Duration, String)>,
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
struct Dice(Rng);

impl Dice {
    fn one_in(&mut self, n: u32) -> bool {
        self.0.u32(..n) == 0
    }

    fn number(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0.u64(range)
    }

    fn seconds(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.0.u64(range.start() * 1_000..=range.end() * 1_000))
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.0.usize(..choices.len())]
    }
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let mut dice = Dice(Rng::with_seed(seed));
        let fleet = dice.pick(&[Fleet::Single, Fleet::Single, Fleet::Apart, Fleet::Sharing]);
        let faults = dice.seconds(30..=600);
        let window = faults.as_secs();
        let mut scripts = Vec::new();
        let executions = (0..dice.number(1..=4)).map(|_| execution(&mut dice, window, &mut scripts)).collect();
        let workers = if fleet == Fleet::Single { 1 } else { 2 };
        let lives = (0..workers).map(|_| lives(&mut dice, window)).collect();
        let jumps = if dice.one_in(4) {
            (0..dice.number(1..=2)).map(|_| (dice.seconds(0..=window), dice.0.i64(-7_200..=7_200))).collect()
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
        Self {
            seed,
            fleet,
            config: config(&mut dice, stopped_in_the_end),
            stopped_in_the_end,
            scripts,
            executions,
            undocumented: undocumented(&mut dice),
            rules: rules(&mut dice),
            faults,
            network: dice.pick(&[0.0, 0.02, 0.1, 0.3, 0.6]),
            disk: dice.pick(&[0.0, 0.0, 0.02, 0.1, 0.4]),
            issuing: Issuing { lifetime: dice.seconds(30..=3_600), trouble: dice.pick(&[0.0, 0.1, 0.5]) },
            lives,
            jumps,
            revocations,
            unreadable,
        }
    }

    /// One worker, one step, and nothing goes wrong.
    pub fn calm() -> Self {
        let run = Run { work: Duration::from_secs(30), checkpoints: 1, end: End::Success };
        let script = Script { runs: vec![run], on_stop: OnStop::Ends, cleanup: Cleanup::Works(Duration::ZERO) };
        let execution = Execution { start: Duration::from_secs(1), stop: None, steps: vec![0], chained: false };
        Self {
            fleet: Fleet::Single,
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
        let ends =
            [End::Success, End::Success, End::Failure, End::Retry, End::Retry, again, defer, End::Panic, End::Hang];
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

/// Longer than any run lasts, in seconds.
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
                    let most = if effect.is_empty() { dice.pick(&[3, 10, 60]) } else { 3 };
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
        reused_request_token: dice.pick(&[ReusedRequestToken::Refused, ReusedRequestToken::Replayed]),
        success_while_stopping: dice.pick(&[SuccessWhileStopping::Stopped, SuccessWhileStopping::Succeeded]),
        failure_while_stopping: dice.pick(&[FailureWhileStopping::Stopped, FailureWhileStopping::Failed]),
        failed_step: dice.pick(&[FailedStep::Drain, FailedStep::Continue, FailedStep::Cut]),
        stopping_message: dice.pick(&[
            StoppingMessage::Once,
            StoppingMessage::Once,
            StoppingMessage::Twice,
            StoppingMessage::Never,
        ]),
        stopping_delay: if dice.one_in(3) { dice.seconds(0..=120) } else { Duration::ZERO },
        old_receipt: dice.pick(&[OldReceipt::Ignored, OldReceipt::Deletes]),
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

fn config(dice: &mut Dice, stopped_in_the_end: bool) -> String {
    // By nothing else than a stop would a step end that long after.
    let (limit, deferred) = if stopped_in_the_end { (FAR..=FAR, FAR..=FAR) } else { (60..=600, 1..=3_600) };
    let visibility = dice.number(10..=60);
    let handlers: String = ["plain", "kind"]
        .map(|name| {
            format!(
                "[handlers.{name}]\ntype = \"scripted\"\ntime_limit = \"{}s\"\nmax_attempts = {}\nretry_delay = \"{}s\"\n\
                 retry_delay_max = \"60s\"\ndeferred_limit = \"{}s\"\nstop_grace = \"{}s\"\ncleanup_limit = \"{}s\"\non_stop = \"{}\"\n",
                dice.number(limit.clone()),
                dice.number(1..=4),
                dice.number(1..=30),
                dice.number(deferred.clone()),
                dice.number(0..=30),
                dice.number(5..=60),
                if name == "kind" { "success" } else { "failure" },
            )
        })
        .concat();
    format!(
        "[worker]\nid = \"sim\"\ndrain_timeout = \"{}s\"\n[aws]\nendpoint_url = \"http://world.invalid\"\nregion = \"us-east-1\"\n\
         [http]\nlisten = \"off\"\n[ledger]\ntype = \"memory\"\nlease = \"{}s\"\n\
         [[queues]]\nurl = \"{QUEUE_URL}\"\nhandler = \"plain\"\nconcurrency = {}\nvisibility_timeout = \"{visibility}s\"\n\
         repost_after = \"{}s\"\nstop_watch = \"{}s\"\nstop_takeover_after = \"{}s\"\nverify = \"{}\"\n\
         [[queues.routes]]\narguments = {{ kind = true }}\nhandler = \"kind\"\n{handlers}",
        dice.number(0..=60),
        dice.number(3..=30),
        dice.number(1..=6),
        visibility * dice.pick(&[1, 3, 200, 200, 200]),
        dice.pick(if stopped_in_the_end { &[1, 5, 10, 30] } else { &[0, 1, 5, 10, 30] }),
        dice.number(5..=300),
        dice.pick(&["redelivered", "always", "never"]),
    )
}
