//! The state of the model: a queue, SageMaker, ledgers, workers, and the faults that are still to
//! come.

use callbackd::lifecycle::{Activity, Local, State, Status, WorkerId};
use jiff::Timestamp;

use crate::happening::{Happening, Standing};
use crate::judge::{self, Judge};
use crate::known::{Known, Limit, NOW};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub sagemaker: Standing,
    /// By the numbers below.
    pub queue: [Copy; 5],
    /// The forged message names another execution.
    pub foreign: bool,
    /// SageMaker permits no report.
    pub denying: bool,
    pub ledgers: Vec<Option<Known>>,
    pub workers: Vec<Worker>,
    /// A report of a worker that has died since, not yet at SageMaker.
    pub wire: Option<(judge::Worker, Report)>,
    pub budget: Budget,
    /// Runs that were started as attempts of their own, by ledger.
    pub attempts: [u32; 2],
    pub judge: Judge<u64>,
    pub broken: Option<Broken>,
}

/// The Executing message.
pub const WORK: usize = 0;
/// The Stopping message.
pub const STOP: usize = 1;
/// The Executing message's duplicate.
pub const DUPLICATE: usize = 2;
/// A Stopping message that SageMaker has not sent.
pub const FORGED: usize = 3;
/// The Executing message of a token that has come back.
pub const ANEW: usize = 4;

/// How often a message is received until the redrive policy may take it.
pub const REDRIVE: u8 = 2;
/// How often it was received when it counts as worn.
pub const WORN: u8 = 1;

/// Remaining faults, and optional events of a pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// The user stops the execution.
    pub stops: u8,
    /// The execution is ended by other means, or a step answered by someone else.
    pub endings: u8,
    pub duplicates: u8,
    pub crashes: u8,
    /// Lost replies, refusals for no reason, answers that are late or missing.
    pub replies: u8,
    /// SageMaker does not find what exists.
    pub lies: u8,
    /// Writes to a ledger that fail, without effect or after it.
    pub writes: u8,
    /// Messages that become visible although they are held.
    pub visibility: u8,
    /// Claims that could not be renewed in time.
    pub leases: u8,
    /// Workers that are frozen for longer than a lease, and then continue. Their runs may overlap
    /// with others'.
    pub freezes: u8,
    pub shutdowns: u8,
    /// Time limits, and limits of deferrals, that are reached.
    pub limits: u8,
    /// Messages that are purged, or whose retention is over.
    pub losses: u8,
    /// Messages that the redrive policy takes.
    pub redrives: u8,
    /// Stopping messages that SageMaker has not sent.
    pub forgeries: u8,
    /// Permissions to report that are withdrawn.
    pub denials: u8,
    /// Executions that are deleted.
    pub deletions: u8,
    /// Tokens that come back once they are settled.
    pub returns: u8,
    /// Runs that their machine keeps from working.
    pub hindrances: u8,
    /// Answers that someone gives through a ledger.
    pub answers: u8,
    /// Attempts that an operator wants at once.
    pub retries: u8,
}

impl Budget {
    /// `stops=1 crashes=2`: names as in [`Budget`]; what is not named does not happen.
    pub fn parse(text: &str) -> Self {
        let mut budget = Self::default();
        for word in text.split_whitespace() {
            let (name, count) = word.split_once('=').expect("a name and a count");
            *budget.of(name).expect("the name of a budget") = count.parse().expect("a count");
        }
        budget
    }

    fn of(&mut self, name: &str) -> Option<&mut u8> {
        Some(match name {
            "stops" => &mut self.stops,
            "endings" => &mut self.endings,
            "duplicates" => &mut self.duplicates,
            "crashes" => &mut self.crashes,
            "replies" => &mut self.replies,
            "lies" => &mut self.lies,
            "writes" => &mut self.writes,
            "visibility" => &mut self.visibility,
            "leases" => &mut self.leases,
            "freezes" => &mut self.freezes,
            "shutdowns" => &mut self.shutdowns,
            "limits" => &mut self.limits,
            "losses" => &mut self.losses,
            "redrives" => &mut self.redrives,
            "forgeries" => &mut self.forgeries,
            "denials" => &mut self.denials,
            "deletions" => &mut self.deletions,
            "returns" => &mut self.returns,
            "hindrances" => &mut self.hindrances,
            "answers" => &mut self.answers,
            "retries" => &mut self.retries,
            _ => return None,
        })
    }
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Broken {
    Promise(judge::Broken<u64>),
    /// The lifecycle refused an event that can happen.
    Illegal(String),
    TooManyAttempts,
    /// A crash counts against a step that another may have caused.
    Blamed,
    /// A stop was answered for a step that others may run, before they had time for it.
    AnsweredBlindly,
    /// A driver left its step while the handler ran.
    Orphaned,
    /// A step was started though neither a message nor SageMaker had said that it waits.
    StartedUnasked,
    /// A stop that is owed was answered without asking at that moment.
    AnsweredUnasked,
    /// Something is stopped without a stop, or for another reason than it is told.
    StoppedForNothing,
    /// A step that succeeded elsewhere was cleaned up after, although nothing of it ran.
    CleanedWhatSucceeded,
    /// A step was reported as a success although its handler is to answer.
    AnsweredForItsHandler,
    /// A step was to be started although its worker is shutting down.
    StartedTooLate,
    /// A message was replaced whose step is not recorded, or whose stop is unconfirmed.
    ReplacedTooEarly,
    /// A run was not told to end, because the ledger failed.
    ToldTooLate,
    /// A worker renewed its lease although another had taken over its step.
    RenewedTooLate,
}

/// One message on the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Copy {
    /// Not sent, or deleted.
    Absent,
    Visible {
        receives: u8,
    },
    /// Invisible; the worker has the newest receipt handle.
    InFlight {
        receiver: usize,
        receives: u8,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Worker {
    pub ledger: u8,
    /// Which process of the worker this is.
    pub life: u8,
    /// How often this process has lost its lease; it claims under another id each time.
    pub losses: u8,
    /// Another worker has removed its record in the ledger, which it will find out.
    pub fenced: bool,
    /// Others have seen its record unchanged for a whole lease while it stood still. It has not
    /// renewed it since.
    pub frozen: bool,
    /// Another worker has put the step into its set of stops, or someone has answered it in the
    /// worker's ledger.
    pub flagged: bool,
    pub phase: Phase,
    /// Messages kept invisible, as a set of their numbers.
    pub held: u8,
    /// Messages that are to be deleted.
    pub deleting: u8,
    pub driver: Option<Driver>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    Running,
    Draining,
    Stopping,
    Leaving,
    /// No process.
    Down,
}

/// What a worker is doing about the step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "timers are armed or not")]
pub struct Driver {
    pub known: Known,
    /// `known` is what the ledger holds.
    pub fresh: bool,
    /// The record of the foreign owner in `known` has been seen unchanged for a whole lease, or is
    /// gone.
    pub lapsed: bool,
    /// The foreign owner has renewed its record since that was seen.
    pub renewed: bool,
    /// `known` holds what is to be written as soon as the ledger takes it.
    pub along: bool,
    pub local: Local,
    /// A message, or SageMaker, has said to this driver that the step waits.
    pub told_open: bool,
    pub messages: u8,
    pub call: Option<Call>,
    pub asks: Vec<Ask>,
    pub awaits_slot: bool,
    pub report: Option<Report>,
    pub wake: bool,
    pub grace: bool,
    /// It has a claim that it can lose.
    pub claims: bool,
    /// The inbox holds word of a stop that was found in the ledger.
    pub stop_found: bool,
    /// What is told to the lifecycle again until the ledger takes what follows.
    pub pending: Option<Happening>,
    /// As the driver has heard.
    pub phase: Phase,
}

/// A handler's run or cleanup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    pub cleanup: bool,
    /// Its task is aborted and has not ended yet.
    pub aborted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    Sent {
        /// It is about the execution too.
        confirm: bool,
    },
    /// SageMaker has answered, and the answer is late.
    Answered(Standing),
}

/// The whole of a request that ends the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Report {
    pub request: u64,
    pub success: bool,
}

impl Worker {
    pub fn new(ledger: u8) -> Self {
        Self {
            ledger,
            life: 0,
            losses: 0,
            fenced: false,
            frozen: false,
            flagged: false,
            phase: Phase::Running,
            held: 0,
            deleting: 0,
            driver: None,
        }
    }
}

impl Driver {
    pub fn new(known: Known) -> Self {
        Self {
            known,
            fresh: true,
            lapsed: false,
            renewed: false,
            along: false,
            local: Local::NOTHING,
            told_open: false,
            messages: 0,
            call: None,
            asks: Vec::new(),
            awaits_slot: false,
            report: None,
            wake: false,
            grace: false,
            claims: false,
            stop_found: false,
            pending: None,
            phase: Phase::Running,
        }
    }

    /// What the lifecycle decides on.
    pub fn state(&self) -> State {
        State { record: self.known.record().clone(), local: self.local }
    }

    pub fn activity(&self) -> Activity {
        self.local.activity
    }

    /// It only waits for the answer of the step's handler.
    fn awaits_an_answer(&self) -> bool {
        self.known.record().status == Status::Deferred
            && self.activity() == Activity::Sleeping
            && self.wake
            && self.messages == 0
            && self.pending.is_none()
    }

    /// Whether the deadline ends anything here, and is reached.
    pub fn is_overdue(&self) -> bool {
        self.state().deadline().is_some_and(|deadline: Timestamp| deadline <= NOW)
    }
}

impl Copy {
    pub fn is_held_by(self, worker: usize) -> bool {
        matches!(self, Self::InFlight { receiver, .. } if receiver == worker)
    }

    pub fn receives(self) -> u8 {
        match self {
            Self::Absent => 0,
            Self::Visible { receives } | Self::InFlight { receives, .. } => receives,
        }
    }
}

impl World {
    /// The id under which the worker claims the step now.
    pub fn id(&self, worker: usize) -> WorkerId {
        WorkerId(format!("{}{}", self.process(worker), self.workers[worker].losses).into())
    }

    /// What all ids of the worker's present process begin with.
    fn process(&self, worker: usize) -> String {
        format!("{worker}.{}.", self.workers[worker].life)
    }

    pub fn is_of_process(&self, worker: usize, id: &WorkerId) -> bool {
        id.0.starts_with(&self.process(worker))
    }

    /// The worker whose present process has claimed under this id.
    pub fn alive(&self, id: &WorkerId) -> Option<usize> {
        let all = 0..self.workers.len();
        all.into_iter().find(|worker| {
            self.workers[*worker].phase != Phase::Down && self.is_of_process(*worker, id)
        })
    }

    /// The live worker whose record is watched because it has the claim that `worker` knows of.
    pub fn owner(&self, worker: usize) -> Option<usize> {
        let known = self.workers[worker].driver.as_ref()?.known.record();
        let owner = known.owner.as_ref()?;
        self.alive(owner).filter(|alive| *alive != worker && self.id(*alive) == *owner)
    }

    /// Another worker has taken the step over while the handler runs here.
    pub fn was_taken_over(&self, worker: usize) -> bool {
        let runs = self.workers[worker]
            .driver
            .as_ref()
            .is_some_and(|driver| driver.call.is_some_and(|call| !call.cleanup) && driver.claims);
        let taken = self.stored(worker).map(Known::record).is_some_and(|record| {
            record.status == Status::Claimed
                && record.owner.as_ref().is_some_and(|owner| !self.is_of_process(worker, owner))
        });
        runs && taken
    }

    /// No one can reach the run of a frozen worker, or before it had time to end since that worker
    /// has learnt of its fence.
    pub fn may_overlap(&self) -> bool {
        self.workers.iter().any(|worker| {
            let ends = |driver: &Driver| {
                !driver.claims && driver.call.is_some_and(|call| driver.grace || call.aborted)
            };
            worker.frozen || worker.driver.as_ref().is_some_and(ends)
        })
    }

    pub fn judged(&self, worker: usize) -> judge::Worker {
        let Worker { ledger, life, .. } = self.workers[worker];
        judge::Worker {
            ledger,
            process: u32::from(life) * 8 + u32::try_from(worker).expect("few workers"),
        }
    }

    pub fn stored(&self, worker: usize) -> Option<&Known> {
        self.ledgers[usize::from(self.workers[worker].ledger)].as_ref()
    }

    /// Nothing waits, nothing is left over, nothing runs, and no worker has an activity.
    pub fn is_done(&self) -> bool {
        let idle = |worker: &Worker| {
            let rests = worker.driver.as_ref().is_none_or(Driver::awaits_an_answer);
            rests && worker.deleting == 0 && worker.held == 0
        };
        // A deferred step may wait, but not for the answer to a stop, not beyond its limit, and not
        // forgotten.
        let hopeless = |known: &Known| match known.record().status {
            Status::Deferred => !known.is_ahead(Limit::Deadline),
            status => status == Status::Settled,
        };
        let waits = match self.sagemaker {
            Standing::Open { stopping } => stopping || self.ledgers.iter().flatten().any(hopeless),
            Standing::Succeeded | Standing::Failed | Standing::Stopped | Standing::Gone => false,
        };
        self.broken.is_none()
            && !waits
            && self.workers.iter().all(idle)
            && self.judge.in_the_end().is_empty()
    }
}
