//! The state of the model: a queue, SageMaker, ledgers, workers, and the faults that are still to come.

use callbackd::lifecycle::{Here, State, Status, WorkerId};

use crate::happening::{Happening, Standing};
use crate::judge::{self, Judge};
use crate::known::{Known, Limit};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub sagemaker: Standing,
    /// The Executing message, the Stopping message, and the Executing message's duplicate.
    pub queue: [Copy; 3],
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

/// Faults, and turns that a pipeline may take or not, that are left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// The user stops the execution.
    pub stops: u8,
    /// The execution is ended by other means, or a deferred step completed by somebody else.
    pub endings: u8,
    /// SQS, or the pipeline's own sending, duplicates the Executing message.
    pub duplicates: u8,
    pub crashes: u8,
    /// Lost replies, refusals for no reason, answers that are late or missing.
    pub replies: u8,
    /// SageMaker does not find what there is.
    pub lies: u8,
    /// Writes to a ledger that fail, without effect or after it.
    pub writes: u8,
    /// Messages that become visible although they are held.
    pub visibility: u8,
    /// Claims that could not be renewed in time.
    pub leases: u8,
    /// Workers that stand still for longer than a lease, and then go on. Their runs may overlap with others'.
    pub freezes: u8,
    pub shutdowns: u8,
    /// Time limits, and limits of deferrals, that are reached.
    pub limits: u8,
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
    /// A stop was answered for a step that others may run, before they had their time for it.
    AnsweredBlindly,
    /// A driver left its step while the handler ran.
    Orphaned,
}

/// One message on the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Copy {
    /// Not sent, or deleted.
    Absent,
    Visible {
        received: bool,
    },
    /// Invisible; the worker has the newest receipt handle.
    InFlight {
        receiver: usize,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Worker {
    pub ledger: u8,
    /// Which process of the worker this is.
    pub life: u8,
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

/// What a worker has under way for the step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "timers are armed or not")]
pub struct Driver {
    pub known: Known,
    /// `known` is what the ledger holds.
    pub fresh: bool,
    /// The foreign claim in `known` has been seen unchanged for a whole lease.
    pub lapsed: bool,
    pub here: Here,
    pub work_seen: bool,
    pub refusals: u32,
    pub not_found: u32,
    pub messages: u8,
    pub call: Option<Call>,
    pub asks: Vec<Ask>,
    pub awaits_slot: bool,
    pub report: Option<Report>,
    pub wake: bool,
    pub grace: bool,
    pub renew: bool,
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
    Sent,
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
        Self { ledger, life: 0, phase: Phase::Running, held: 0, deleting: 0, driver: None }
    }
}

impl Driver {
    pub fn new(known: Known) -> Self {
        Self {
            known,
            fresh: true,
            lapsed: false,
            here: Here::Nothing,
            work_seen: false,
            refusals: 0,
            not_found: 0,
            messages: 0,
            call: None,
            asks: Vec::new(),
            awaits_slot: false,
            report: None,
            wake: false,
            grace: false,
            renew: false,
            stop_found: false,
            pending: None,
            phase: Phase::Running,
        }
    }

    /// What the lifecycle decides on.
    pub fn state(&self) -> State {
        State {
            record: self.known.record().clone(),
            here: self.here,
            work_seen: self.work_seen,
            refusals: self.refusals,
            not_found: self.not_found,
        }
    }
}

impl World {
    /// The ledger's name of the worker's present process.
    pub fn id(&self, worker: usize) -> WorkerId {
        WorkerId(format!("{worker}.{}", self.workers[worker].life))
    }

    pub fn judged(&self, worker: usize) -> judge::Worker {
        let Worker { ledger, life, .. } = self.workers[worker];
        judge::Worker { ledger, process: u32::from(life) * 8 + u32::try_from(worker).expect("few workers") }
    }

    pub fn stored(&self, worker: usize) -> Option<&Known> {
        self.ledgers[usize::from(self.workers[worker].ledger)].as_ref()
    }

    /// Nothing waits, nothing is left over, nothing runs, and nobody has anything under way.
    pub fn is_done(&self) -> bool {
        let idle = |worker: &Worker| worker.driver.is_none() && worker.deleting == 0;
        // A deferred step may wait, but neither for the answer to a stop nor beyond its limit, and not forgotten.
        let hopeless = |known: &Known| match known.record().status {
            Status::Deferred => !known.is_ahead(Limit::Deadline),
            status => status == Status::Settled,
        };
        let waits = match self.sagemaker {
            Standing::Open { stopping } => stopping || self.ledgers.iter().flatten().any(hopeless),
            Standing::Succeeded | Standing::Failed | Standing::Stopped => false,
        };
        self.broken.is_none() && !waits && self.workers.iter().all(idle) && self.judge.in_the_end().is_empty()
    }
}
