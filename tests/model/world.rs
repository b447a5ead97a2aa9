//! The world of the model: one step, its messages, SageMaker, one or two workers, and what can happen next.

use std::hash::{DefaultHasher, Hash, Hasher};

use callbackd::lifecycle::{Answer, Arrival, End, Event, Here, Status, Via};
use callbackd::seam::{Ending as Closed, Standing};

use crate::judge::{About, Broken, Judge, Seen, Worker};
use crate::queue::{Place, Queue};
use crate::record::{Kept, Owner, success};
use crate::worker::{Mutant, Process, aborted};

/// The one step's token, for the judge.
pub const TOKEN: u64 = 0;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub queue: Queue,
    pub sagemaker: SageMaker,
    /// One for each worker, or one for all.
    pub ledgers: Vec<Option<Kept>>,
    pub shared: bool,
    /// The claim in the shared ledger has not been renewed for a whole lease.
    pub lease_over: bool,
    pub processes: Vec<Process>,
    pub left: Left,
    /// The next write is durable, and fails.
    pub acknowledgement_lost: bool,
    /// A run's driver read that another worker has flagged a stop.
    pub notice: bool,
    pub runs: u8,
    pub mutant: Option<Mutant>,
    pub judge: Judge<u64>,
    pub broken: Option<Broken<u64>>,
    pub illegal: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SageMaker {
    pub stopping: bool,
    pub closed: bool,
    /// The report that it took.
    pub taken: Option<u64>,
}

/// How often each may happen yet: what bounds the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    pub crashes: u8,
    /// Replies lost before or after the effect, of SageMaker, SQS or the ledger.
    pub losses: u8,
    /// Messages that become visible although they are held.
    pub lapses: u8,
    /// Reports refused although the step is open, and questions not answered.
    pub refusals: u8,
    pub stops: u8,
    /// Executions that end without an answer of ours.
    pub endings: u8,
    pub renewals_failing: u8,
    pub time_limits: u8,
    /// Runs that say that the job is not done yet.
    pub agains: u8,
    /// Runs that leave the step to somebody else.
    pub deferrals: u8,
    /// Processes that are told to stop.
    pub shutdowns: u8,
}

pub const NOTHING: Left = Left {
    crashes: 0,
    losses: 0,
    lapses: 0,
    refusals: 0,
    stops: 0,
    endings: 0,
    renewals_failing: 0,
    time_limits: 0,
    agains: 0,
    shutdowns: 0,
    deferrals: 0,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    None,
    Before,
    After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ends {
    Success,
    Failure,
    Retry,
    Again,
    Deferred,
    Aborted,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Receive(usize, usize),
    Return(usize),
    Lapse(usize),
    Delete(usize, Loss),
    Report(usize, Loss),
    Refuse(usize),
    Answer(usize),
    NoAnswer(usize),
    Slot(usize),
    RunEnds(usize, Ends),
    CleanupEnds(usize, bool),
    GraceOver(usize),
    Woken(usize),
    TimeLimit(usize),
    Watch(usize),
    Sweep(usize),
    Renew(usize),
    RenewalFails(usize),
    LeaseOver,
    Tick,
    LoseAcknowledgement,
    Crash(usize),
    /// The process takes nothing new, and its run is told to end.
    ShutDown(usize),
    Halt(usize),
    Exit(usize),
    Restart(usize),
    Stop {
        told: bool,
    },
    Ending,
}

impl World {
    pub fn new(workers: u8, shared: bool, left: Left, mutant: Option<Mutant>) -> Self {
        let process = |worker| Process { owner: Owner { worker, process: 0 }, up: true, leaving: false, driver: None };
        let mut world = Self {
            queue: Queue::default(),
            sagemaker: SageMaker { stopping: false, closed: false, taken: None },
            ledgers: vec![None; if shared { 1 } else { workers.into() }],
            shared,
            lease_over: false,
            processes: (0..workers).map(process).collect(),
            left,
            acknowledgement_lost: false,
            notice: false,
            runs: 0,
            mutant,
            judge: Judge::default(),
            broken: None,
            illegal: None,
        };
        world.see(&Seen::Opened { token: TOKEN });
        world.send(About::Work(TOKEN));
        world
    }

    pub fn ledger_of(&self, w: usize) -> usize {
        if self.shared { 0 } else { w }
    }

    pub fn record(&self, w: usize) -> Option<&Kept> {
        self.ledgers[self.ledger_of(w)].as_ref()
    }

    /// Nothing waits, nothing is left over, nothing runs.
    pub fn is_at_rest(&self) -> bool {
        self.queue.is_empty() && self.judge.in_the_end().is_empty()
    }

    /// As it is, but from here on nothing goes wrong, nobody stops anything, and no execution ends by itself.
    pub fn healed(&self) -> Self {
        Self { left: NOTHING, acknowledgement_lost: false, ..self.clone() }
    }

    pub fn actions(&self) -> Vec<Action> {
        let mut next = Vec::new();
        for (m, message) in self.queue.messages.iter().enumerate() {
            match message.place {
                Place::Visible => {
                    next.extend(
                        (0..self.processes.len())
                            .filter(|w| self.processes[*w].receives())
                            .map(|w| Action::Receive(w, m)),
                    );
                }
                Place::Held { deleting, .. } => {
                    if self.left.lapses > 0 {
                        next.push(Action::Lapse(m));
                    }
                    if deleting {
                        next.push(Action::Delete(m, Loss::None));
                        if self.left.losses > 0 {
                            next.extend([Action::Delete(m, Loss::Before), Action::Delete(m, Loss::After)]);
                        }
                    }
                }
                Place::Returning => next.push(Action::Return(m)),
                Place::Gone => {}
            }
        }
        for w in 0..self.processes.len() {
            if self.processes[w].up {
                self.actions_of(w, &mut next);
            } else {
                next.push(Action::Restart(w));
            }
        }
        if self.lease_can_end() {
            next.push(Action::LeaseOver);
        }
        if self.ticks() {
            next.push(Action::Tick);
        }
        if self.left.losses > 0 && !self.acknowledgement_lost {
            next.push(Action::LoseAcknowledgement);
        }
        if self.left.stops > 0 && !self.sagemaker.closed {
            next.extend([Action::Stop { told: true }, Action::Stop { told: false }]);
        }
        if self.left.endings > 0 && !self.sagemaker.closed {
            next.push(Action::Ending);
        }
        next
    }

    fn actions_of(&self, w: usize, next: &mut Vec<Action>) {
        if self.left.crashes > 0 {
            next.push(Action::Crash(w));
        }
        if self.left.shutdowns > 0 && !self.processes[w].leaving {
            next.push(Action::ShutDown(w));
        }
        let Some(driver) = &self.processes[w].driver else {
            if self.processes[w].leaving {
                next.push(Action::Exit(w));
            } else if self.sweep_finds(w) {
                next.push(Action::Sweep(w));
            } else if (self.sagemaker.stopping || self.sagemaker.closed) && self.is_deferred(w) {
                next.push(Action::Watch(w));
            }
            return;
        };
        if self.processes[w].leaving {
            next.push(Action::Halt(w));
        }
        if driver.asking {
            next.push(Action::Answer(w));
            if self.left.refusals > 0 {
                next.push(Action::NoAnswer(w));
            }
        }
        if driver.awaits_slot {
            next.push(Action::Slot(w));
        }
        if driver.wake == Some(0) {
            next.push(Action::Woken(w));
        }
        if driver.reporting {
            next.push(Action::Report(w, Loss::None));
            if self.left.losses > 0 {
                next.extend([Action::Report(w, Loss::Before), Action::Report(w, Loss::After)]);
            }
            if self.left.refusals > 0 {
                next.push(Action::Refuse(w));
            }
        }
        if let Some(call) = driver.call {
            match (call.aborted, call.cleanup) {
                (true, _) => next.push(Action::RunEnds(w, Ends::Aborted)),
                (false, true) => next.extend([Action::CleanupEnds(w, true), Action::CleanupEnds(w, false)]),
                (false, false) => {
                    next.extend([Ends::Success, Ends::Failure, Ends::Retry].map(|end| Action::RunEnds(w, end)));
                    if self.left.agains > 0 {
                        next.push(Action::RunEnds(w, Ends::Again));
                    }
                    if self.left.deferrals > 0 {
                        next.push(Action::RunEnds(w, Ends::Deferred));
                    }
                    if self.left.time_limits > 0 && driver.here == Here::Running {
                        next.push(Action::TimeLimit(w));
                    }
                    if self.stop_reason(w).is_some() {
                        next.push(Action::GraceOver(w));
                    }
                }
            }
        }
        let works = matches!(driver.record.status, Status::New | Status::Claimed | Status::Waiting);
        let unflagged = driver.record.stop.is_none() && driver.here != Here::Nothing;
        if works && unflagged && (self.sagemaker.stopping || self.sagemaker.closed) {
            next.push(Action::Watch(w));
        }
        if self.shared && driver.record.owner == Some(self.processes[w].owner) {
            // A renewal that changes nothing is no step of the model.
            if !driver.fresh {
                next.push(Action::Renew(w));
            }
            if self.left.renewals_failing > 0 && driver.call.is_some() {
                next.push(Action::RenewalFails(w));
            }
        }
    }

    /// What `engine/recover` looks for, where no message need come.
    fn sweep_finds(&self, w: usize) -> bool {
        self.record(w).is_some_and(|record| match record.status {
            Status::Concluded => true,
            Status::Owed => record.stop.is_some_and(|stop| stop.age >= crate::record::TAKEOVER),
            _ => false,
        })
    }

    fn is_deferred(&self, w: usize) -> bool {
        self.record(w).is_some_and(|record| record.status == Status::Deferred)
    }

    /// A live owner gives its run up, in time, before its lease is over: that is what the driver's timers are for.
    fn lease_can_end(&self) -> bool {
        let owner = self.ledgers[0].as_ref().and_then(|record| record.owner);
        let Some(owner) = owner.filter(|_| self.shared && !self.lease_over) else { return false };
        let process = &self.processes[usize::from(owner.worker)];
        if !process.up || process.owner != owner {
            return true;
        }
        // Nobody renews it.
        let Some(driver) = &process.driver else { return true };
        let heedless = self.mutant == Some(Mutant::LostLeaseIgnored);
        driver.renewal_failed && (driver.call.is_none() || heedless)
    }

    fn ticks(&self) -> bool {
        let waits = |ticks: Option<u8>| ticks.is_some_and(|ticks| ticks > 0);
        let record = |record: &Kept| {
            waits(record.not_before)
                || record.stop.is_some_and(|stop| stop.age < crate::record::TAKEOVER && record.status == Status::Owed)
        };
        self.ledgers.iter().flatten().any(record)
            || self.processes.iter().filter_map(|process| process.driver.as_ref()).any(|driver| waits(driver.wake))
    }

    pub fn act(&mut self, action: Action) {
        match action {
            Action::Receive(w, m) => self.receive(w, m),
            Action::Return(m) => self.queue.messages[m].place = Place::Visible,
            Action::Lapse(m) => {
                self.left.lapses -= 1;
                self.queue.messages[m].place = Place::Visible;
            }
            Action::Delete(m, loss) => self.delete(m, loss),
            Action::Report(w, loss) => self.report(w, loss),
            Action::Refuse(w) => {
                self.left.refusals -= 1;
                self.driver(w).reporting = false;
                self.feed(w, &Event::ReportRefused("as the model wills".to_owned()));
            }
            Action::Answer(w) => {
                self.driver(w).asking = false;
                let standing = if self.sagemaker.closed {
                    Standing::Closed(Closed::Stopped)
                } else {
                    Standing::Open { stopping: self.sagemaker.stopping, queue_url: None }
                };
                self.feed(w, &Event::Answered(Answer::Standing(standing)));
            }
            Action::NoAnswer(w) => {
                self.left.refusals -= 1;
                self.driver(w).asking = false;
                self.feed(w, &Event::Answered(Answer::Unknown("throttled".to_owned())));
            }
            Action::Slot(w) => {
                self.driver(w).awaits_slot = false;
                self.feed(w, &Event::SlotFree);
            }
            Action::RunEnds(w, end) => self.run_ends(w, end),
            Action::CleanupEnds(w, well) => {
                self.call_ended(w, &Event::Cleaned(if well { Ok(()) } else { Err("it failed".to_owned()) }));
            }
            Action::GraceOver(w) => self.feed(w, &Event::GraceOver),
            Action::Woken(w) => {
                self.driver(w).wake = None;
                if self.shared {
                    let record = self.record(w).cloned().unwrap_or_else(Kept::of_message);
                    let driver = self.driver(w);
                    (driver.record, driver.fresh) = (record, true);
                }
                self.feed(w, &Event::Woken);
            }
            Action::TimeLimit(w) => {
                self.left.time_limits -= 1;
                self.driver(w).record.overdue = Some(true);
                self.feed(w, &Event::DeadlineReached);
            }
            Action::Watch(w) => {
                let event = if self.sagemaker.closed { Event::ExecutionEnded } else { Event::StopSeen(Via::Watch) };
                self.feed(w, &event);
            }
            Action::Sweep(w) => self.feed(w, &Event::Found),
            Action::Renew(w) => self.renew(w),
            Action::RenewalFails(w) => {
                self.left.renewals_failing -= 1;
                self.driver(w).renewal_failed = true;
                self.feed(w, &Event::LeaseLost);
            }
            Action::LeaseOver => self.lease_over = true,
            Action::Tick => self.tick(),
            Action::LoseAcknowledgement => {
                self.left.losses -= 1;
                self.acknowledgement_lost = true;
            }
            Action::Crash(w) => self.crash(w),
            Action::ShutDown(w) => {
                self.left.shutdowns -= 1;
                self.processes[w].leaving = true;
                self.tell(w, &Event::Drain);
                self.tell(w, &Event::Shutdown);
            }
            Action::Halt(w) => self.tell(w, &Event::Halt),
            Action::Exit(w) => self.exit(w),
            Action::Restart(w) => self.processes[w].up = true,
            Action::Stop { told } => {
                self.left.stops -= 1;
                self.sagemaker.stopping = true;
                if told {
                    self.send(About::Stop(TOKEN));
                }
            }
            Action::Ending => {
                self.left.endings -= 1;
                self.sagemaker.closed = true;
                self.see(&Seen::Closed { token: TOKEN });
            }
        }
        let told = |process: &Process| {
            process.driver.as_ref().is_some_and(|driver| driver.here == Here::Running && driver.record.stop.is_some())
        };
        if std::mem::take(&mut self.notice)
            && let Some(w) = self.processes.iter().position(told)
        {
            self.feed(w, &Event::StopSeen(Via::Ledger));
        }
    }

    fn receive(&mut self, w: usize, m: usize) {
        let message = &mut self.queue.messages[m];
        let redelivered = std::mem::replace(&mut message.received, true);
        message.place = Place::Held { by: u8::try_from(w).expect("few"), deleting: false };
        let arrival = match message.about {
            About::Stop(_) => Arrival::Stop,
            _ => Arrival::Work { redelivered },
        };
        self.feed(w, &Event::Delivered(arrival));
    }

    fn delete(&mut self, m: usize, loss: Loss) {
        if loss != Loss::None {
            self.left.losses -= 1;
        }
        if loss != Loss::Before {
            self.see(&Seen::Deleted { message: m as u64 });
            // Where the answer is lost, it is deleted once more, which changes nothing.
            self.queue.messages[m].place = Place::Gone;
        }
    }

    fn report(&mut self, w: usize, loss: Loss) {
        if loss != Loss::None {
            self.left.losses -= 1;
            if self.mutant == Some(Mutant::LostReplyForgotten) {
                self.driver(w).reporting = false;
            }
        }
        if loss == Loss::Before {
            return;
        }
        let random = if self.mutant == Some(Mutant::RandomClientToken) { u8::from(loss == Loss::After) } else { 0 };
        let record = &self.driver(w).record;
        let request = hash(&(&record.outcome, &record.client_request_token, random));
        let taken = !self.sagemaker.closed || self.sagemaker.taken == Some(request);
        if taken {
            self.sagemaker.closed = true;
            self.sagemaker.taken = Some(request);
        }
        let worker = self.worker(w);
        self.see(&Seen::Reported { worker, token: TOKEN, request, accepted: taken });
        if loss == Loss::None {
            self.driver(w).reporting = false;
            let refused = || Event::ReportRefused("already in a terminal status".to_owned());
            self.feed(w, &if taken { Event::ReportAccepted } else { refused() });
        }
    }

    fn run_ends(&mut self, w: usize, end: Ends) {
        let call = self.driver(w).call.expect("a call that ends");
        let worker = self.worker(w);
        if !call.cleanup {
            let own = matches!(end, Ends::Success | Ends::Failure);
            self.see(&Seen::Ended { worker, token: TOKEN, own });
        }
        let ended = |end| Event::Ended(end);
        let event = match end {
            Ends::Success => ended(success(call.number)),
            Ends::Failure => ended(End::Failure(format!("of run {}", call.number))),
            Ends::Retry => ended(End::Retry { after: None, error: "no route".to_owned() }),
            Ends::Again => {
                self.left.agains -= 1;
                ended(End::Again(std::time::Duration::from_hours(1)))
            }
            Ends::Deferred => {
                self.left.deferrals -= 1;
                ended(End::Deferred)
            }
            Ends::Aborted => aborted(call),
        };
        self.call_ended(w, &event);
    }

    fn renew(&mut self, w: usize) {
        let record = self.record(w).cloned().unwrap_or_else(Kept::of_message);
        let me = self.processes[w].owner;
        let driver = self.driver(w);
        let stopped = driver.record.stop.is_none() && record.stop.is_some() && driver.here == Here::Running;
        (driver.record, driver.fresh) = (record, true);
        if driver.record.owner != Some(me) {
            self.feed(w, &Event::LeaseLost);
            return;
        }
        self.feed(w, &Event::Renew);
        self.notice |= stopped;
    }

    fn tick(&mut self) {
        for record in self.ledgers.iter_mut().flatten() {
            record.tick();
        }
        for driver in self.processes.iter_mut().filter_map(|process| process.driver.as_mut()) {
            driver.record.tick();
            driver.wake = driver.wake.map(|ticks| ticks.saturating_sub(1));
        }
    }

    fn crash(&mut self, w: usize) {
        self.left.crashes -= 1;
        let worker = self.worker(w);
        self.see(&Seen::Died { worker });
        self.exit(w);
    }

    fn exit(&mut self, w: usize) {
        let process = &mut self.processes[w];
        process.owner.process += 1;
        (process.up, process.leaving, process.driver) = (false, false, None);
        self.queue.abandoned_by(w);
    }

    /// Tells the step's driver, if it has one.
    fn tell(&mut self, w: usize, event: &Event) {
        if self.processes[w].driver.is_some() {
            self.feed(w, event);
        }
    }

    fn send(&mut self, about: About<u64>) {
        let message = self.queue.send(about.clone());
        self.see(&Seen::Sent { message, about });
    }

    pub fn worker(&self, w: usize) -> Worker {
        let ledger = u8::try_from(self.ledger_of(w)).expect("few");
        let owner = self.processes[w].owner;
        Worker { ledger, process: u32::from(owner.worker) * 100 + owner.process }
    }

    pub fn started(&mut self, w: usize) {
        let worker = self.worker(w);
        self.see(&Seen::Started { worker, token: TOKEN });
    }

    pub fn cleaned(&mut self, w: usize) {
        let worker = self.worker(w);
        self.see(&Seen::Cleaned { worker, token: TOKEN });
    }

    /// A record is durable.
    pub fn recorded(&mut self, ledger: usize, record: &Kept) {
        let ledger = u8::try_from(ledger).expect("few");
        if record.stop.is_some() {
            self.see(&Seen::StopKnown { ledger, token: TOKEN });
        }
        if record.status == Status::Deferred {
            self.see(&Seen::Deferred { ledger, token: TOKEN });
        }
        if record.outcome.is_some() {
            self.see(&Seen::Concluded { ledger, token: TOKEN });
        }
    }

    fn see(&mut self, seen: &Seen<u64>) {
        if let Err(broken) = self.judge.see(seen) {
            self.broken.get_or_insert(broken);
        }
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
