//! The one judge of all proofs: it observes what workers and their surroundings do, in order, and
//! names the promise that is broken.
//!
//! It does not know how a worker works. A model, a simulation and the built binary report what was
//! observed outside, and what a ledger holds; so what it finds is a defect wherever it is found. It
//! is a value: a model checker keeps one in each of its states.

#![allow(dead_code, reason = "each test target that includes this file uses its own part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;

/// A name of steps, messages and requests: numbers in a model, strings elsewhere.
pub trait Name: Clone + Ord + Hash + std::fmt::Debug {}
impl<T: Clone + Ord + Hash + std::fmt::Debug> Name for T {}

/// One life of a worker process, and the ledger that it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Worker {
    pub ledger: u8,
    pub process: u32,
}

/// What a message is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum About<N> {
    Work(N),
    Stop(N),
    Unreadable,
}

impl About<String> {
    /// What a message with this body is about, parsed independently of the worker.
    pub fn of(body: &str) -> Self {
        let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        match (body["token"].as_str(), body["pipelineExecutionArn"].as_str()) {
            (Some(token), Some(_)) if body["status"] == "Stopping" => Self::Stop(token.to_owned()),
            (Some(token), Some(_)) => Self::Work(token.to_owned()),
            _ => Self::Unreadable,
        }
    }
}

/// More equal messages than this cannot come from duplicates and lost replies.
const COPIES: usize = 200;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Seen<N> {
    /// SageMaker waits for an answer: for the first time, or again because the execution was
    /// retried and the token came back.
    Opened { token: N },
    /// SageMaker wants the step stopped, and waits for the answer to that.
    Stopping { token: N },
    /// SageMaker has stopped waiting, after any answer.
    Closed { token: N, succeeded: bool },
    /// A message is on the queue, from any sender.
    Sent { message: N, about: About<N> },
    /// A worker's deletion took effect.
    Deleted { message: N },
    /// The message is gone without a worker's doing: its retention is over, the redrive policy
    /// moved it, or the queue was purged.
    Lost { message: N },
    /// A message that neither a pipeline nor a worker has sent names the token, or an execution
    /// that is not the token's.
    Forged { message: N, token: N },
    /// How many attempts a step's handler is allowed.
    Allowed { token: N, attempts: u32 },
    /// The ledger holds the step, durably.
    Recorded { ledger: u8, token: N },
    /// A worker is about to ask its ledger for the step, to run it or to clean up after it.
    Claiming { worker: Worker, token: N },
    /// The ledger holds, durably, that the step is to be stopped.
    StopKnown { ledger: u8, token: N },
    /// The ledger takes a settled step up again: its token has come back.
    TakenUpAgain { ledger: u8, token: N },
    /// The ledger holds an outcome, durably.
    Concluded { ledger: u8, token: N },
    /// The ledger holds, durably, that someone else will complete the step.
    Deferred { ledger: u8, token: N },
    /// A handler's run began.
    Started { worker: Worker, token: N },
    /// A run is over; `own`: with a success or a failure of its own, not because it was told to end
    /// or may be tried again.
    Ended { worker: Worker, token: N, own: bool },
    /// A run was told that its pipeline is stopped.
    StopTold { worker: Worker, token: N },
    /// A run was told that its step has succeeded by someone else's answer.
    SuccessTold { worker: Worker, token: N },
    /// The run that is about to end counts as no attempt: it asked to be called again, or was given
    /// back.
    Free { worker: Worker, token: N },
    /// A handler's cleanup began.
    CleanupBegan { worker: Worker, token: N },
    /// A cleanup is over, however it ended.
    CleanupEnded { worker: Worker, token: N },
    /// SageMaker received a report. `request` names the whole of it: operation, outcome and client
    /// request token.
    Reported { worker: Worker, token: N, request: N, accepted: bool },
    /// A worker was told to end: it starts nothing any more.
    Draining { worker: Worker },
    /// The handler of the step is about to kill the worker that runs it.
    Kills { worker: Worker, token: N },
    /// A worker's process is gone, with all that ran in it.
    Died { worker: Worker },
    /// The ledger holds, durably, what the death of a worker makes of the attempt that it was at.
    Judged { ledger: u8, token: N, charged: bool },
    /// A run was told that its claim was lost. With a shared ledger, the next owner cannot
    /// distinguish that from a crash.
    Lapsed { ledger: u8, token: N },
}

/// A promise that is broken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Broken<N: std::fmt::Debug> {
    #[error("P1: a message of {0:?} was deleted while the step waited and no copy was left")]
    DeletedTooEarly(N),
    #[error("P2: {0:?} was reported before its outcome was durable")]
    ReportedUnfrozen(N),
    #[error("P2: one ledger sent two different reports of {0:?}")]
    TwoRequests(N),
    #[error("P2: SageMaker took two different reports of {0:?}")]
    TwoAnswers(N),
    #[error("P3: {0:?} was started although its ledger held that it is to be stopped")]
    StartedAfterStop(N),
    #[error("P3: the stop of {0:?} was answered without a cleanup")]
    NotCleaned(N),
    #[error("P3: {0:?} was cleaned up after somebody else had completed it")]
    CleanedAfterSuccess(N),
    #[error("P3: {0:?} was cleaned up by a worker that never ran it, long after it was closed")]
    CleanedAfterClose(N),
    #[error("P3: the run of {0:?} was told of its stop too late")]
    ToldLate(N),
    #[error("a stop of {0:?} was believed that SageMaker never asked for")]
    StoppedUnasked(N),
    #[error("a forged message of {0:?}, which SageMaker never gave out, was acted upon")]
    ForgeryBelieved(N),
    #[error("a forged message of {0:?} was deleted")]
    ForgeryDeleted(N),
    #[error("{0:?} was run more often than its attempts allow")]
    TooManyRuns(N),
    #[error("a crash counts against {0:?} that only the handler of another step can have caused")]
    Blamed(N),
    #[error("{0:?} kills its workers without end")]
    KillsOn(N),
    #[error("a run of {0:?} was started in a drain")]
    StartedInDrain(N),
    #[error("messages of {0:?} are copied without being deleted")]
    Multiplied(N),
    #[error("a limit of {0:?} acted before its time was over")]
    LimitEarly(N),
    #[error("a limit of {0:?} acted long after its time was over")]
    LimitLate(N),
    #[error("P4: two calls of a handler for {0:?} overlap in one ledger")]
    Overlap(N),
    #[error("P5: the unreadable message {0:?} was deleted")]
    UnreadableDeleted(N),
    #[error("P6: {0:?} was started although its ledger held its outcome")]
    ComputedAgain(N),
    #[error("in the end, SageMaker waits for {0:?} still")]
    Hung(N),
    #[error("in the end, a message of {0:?} is left on the queue")]
    MessageLeft(N),
    #[error("in the end, {0:?} runs still")]
    RunsStill(N),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Judge<N: Name> {
    steps: BTreeMap<N, Step<N>>,
    queue: BTreeMap<N, About<N>>,
    /// Messages on the queue that are forged, and the tokens that they name.
    forged: BTreeMap<N, N>,
    draining: BTreeSet<Worker>,
    /// Those that are killed by the handler of a step.
    killed: BTreeSet<Worker>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "what was seen of it, each by itself")]
struct Step<N> {
    /// SageMaker has given the token out.
    given_out: bool,
    open: bool,
    forged: bool,
    /// A message with which it is started was lost.
    lost: bool,
    attempts: Option<u32>,
    stopping: bool,
    /// A ledger holds a stop of the time before the token came back, and does not know that it did.
    stopped_before: bool,
    succeeded: bool,
    answer: Option<N>,
    /// Its token has come back.
    returned: bool,
    ledgers: BTreeMap<u8, InLedger<N>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "what was seen of it, each by itself")]
struct InLedger<N> {
    /// Who runs it or cleans up after it.
    calls: BTreeSet<Worker>,
    /// Who asked for it while it drained.
    claimed_in_drain: BTreeSet<Worker>,
    recorded: bool,
    ran: bool,
    /// Runs that count as attempts, where those are bounded.
    runs: u32,
    /// How often its handler has killed a worker.
    kills: u32,
    /// A worker died in some other way.
    may_be_charged: bool,
    deferred: bool,
    stop_known: bool,
    concluded: bool,
    /// Who may answer a stop: the worker that cleaned up, or whose run had an outcome of its own.
    ended: Option<Worker>,
    request: Option<N>,
    /// What it sent before the token came back: a reply that was lost has it sent again.
    earlier: BTreeSet<N>,
    /// Before the token came back it had an outcome that it had yet to send.
    unsent: bool,
}

// Derived, it would ask for a default of the name too.
impl<N: Name> Default for Judge<N> {
    fn default() -> Self {
        let (draining, killed) = (BTreeSet::new(), BTreeSet::new());
        Self {
            steps: BTreeMap::new(),
            queue: BTreeMap::new(),
            forged: BTreeMap::new(),
            draining,
            killed,
        }
    }
}

impl<N> Default for Step<N> {
    fn default() -> Self {
        let (ledgers, attempts, answer) = (BTreeMap::new(), None, None);
        let (given_out, open, forged, lost) = (false, false, false, false);
        let (stopping, stopped_before, succeeded, returned) = (false, false, false, false);
        Self {
            given_out,
            open,
            forged,
            lost,
            attempts,
            stopping,
            stopped_before,
            succeeded,
            answer,
            returned,
            ledgers,
        }
    }
}

impl<N> Default for InLedger<N> {
    fn default() -> Self {
        let (calls, claimed_in_drain, runs, ran) = (BTreeSet::new(), BTreeSet::new(), 0, false);
        let (kills, may_be_charged) = (0, false);
        let (recorded, deferred, stop_known, concluded) = (false, false, false, false);
        let (ended, request, earlier, unsent) = (None, None, BTreeSet::new(), false);
        Self {
            calls,
            claimed_in_drain,
            recorded,
            ran,
            runs,
            kills,
            may_be_charged,
            deferred,
            stop_known,
            concluded,
            ended,
            request,
            earlier,
            unsent,
        }
    }
}

/// How many crashes a step that always kills its worker may share with others without being
/// charged.
const SPARED: u32 = 2;

impl<N: Name> Judge<N> {
    /// Takes note of what happened.
    ///
    /// # Errors
    /// The promise that it breaks.
    pub fn see(&mut self, seen: &Seen<N>) -> Result<(), Broken<N>> {
        match seen {
            Seen::Opened { token } => {
                let step = self.step(token);
                if step.given_out && !step.open {
                    step.begin_anew();
                }
                (step.given_out, step.open) = (true, true);
            }
            Seen::Allowed { token, attempts } => self.step(token).attempts = Some(*attempts),
            Seen::Stopping { token } => self.step(token).stopping = true,
            Seen::Closed { token, succeeded } => {
                let step = self.step(token);
                step.open = false;
                step.succeeded |= succeeded;
            }
            Seen::Sent { message, about } => {
                self.queue.insert(message.clone(), about.clone());
                return self.sent(about);
            }
            Seen::Forged { message, token } => {
                self.step(token).forged = true;
                self.forged.insert(message.clone(), token.clone());
            }
            Seen::Lost { message } => {
                self.forged.remove(message);
                if let Some(About::Work(token)) = self.queue.remove(message) {
                    self.step(&token).lost = true;
                }
            }
            Seen::Deleted { message } => return self.deleted(message),
            Seen::Deferred { ledger, token } => self.in_ledger(*ledger, token).deferred = true,
            Seen::Recorded { ledger, token } => self.in_ledger(*ledger, token).recorded = true,
            Seen::StopKnown { ledger, token } => {
                self.in_ledger(*ledger, token).stop_known = true;
                return self.stop_believed(token);
            }
            Seen::TakenUpAgain { ledger, token } => {
                // What was written late about the time before says nothing about this one.
                if self.step(token).returned {
                    self.in_ledger(*ledger, token).stop_known = false;
                }
            }
            Seen::StopTold { token, .. } => return self.stop_believed(token),
            Seen::SuccessTold { token, .. } => return self.success_believed(token),
            Seen::Concluded { ledger, token } => self.in_ledger(*ledger, token).concluded = true,
            Seen::Claiming { worker, token } => {
                let draining = self.draining.contains(worker);
                let known = self.in_ledger(worker.ledger, token);
                if draining && !known.calls.contains(worker) {
                    known.claimed_in_drain.insert(*worker);
                }
            }
            Seen::Started { worker, token } => return self.started(*worker, token),
            Seen::Ended { worker, token, own } => {
                let known = self.in_ledger(worker.ledger, token);
                known.calls.remove(worker);
                known.claimed_in_drain.remove(worker);
                if *own {
                    known.ended = Some(*worker);
                }
            }
            Seen::Free { worker, token } => {
                let known = self.in_ledger(worker.ledger, token);
                known.runs = known.runs.saturating_sub(1);
            }
            Seen::CleanupBegan { worker, token } => return self.cleanup_began(*worker, token),
            Seen::CleanupEnded { worker, token } => {
                let known = self.in_ledger(worker.ledger, token);
                known.calls.remove(worker);
                known.ended = Some(*worker);
            }
            Seen::Reported { worker, token, request, accepted } => {
                return self.reported(*worker, token, request, *accepted);
            }
            Seen::Draining { worker } => drop(self.draining.insert(*worker)),
            Seen::Kills { worker, token } => return self.kills(*worker, token),
            Seen::Judged { ledger, token, charged } => {
                let known = self.in_ledger(*ledger, token);
                if !*charged {
                    known.runs = known.runs.saturating_sub(1);
                } else if known.kills == 0 && !known.may_be_charged {
                    return Err(Broken::Blamed(token.clone()));
                }
            }
            Seen::Lapsed { ledger, token } => self.in_ledger(*ledger, token).may_be_charged = true,
            Seen::Died { worker } => {
                self.draining.remove(worker);
                let killed = self.killed.remove(worker);
                for known in
                    self.steps.values_mut().filter_map(|step| step.ledgers.get_mut(&worker.ledger))
                {
                    known.may_be_charged |= !killed;
                    known.calls.remove(worker);
                    known.claimed_in_drain.remove(worker);
                    // What is not in the ledger died with it.
                    known.ended = known.ended.filter(|ended| known.concluded || ended != worker);
                }
            }
        }
        Ok(())
    }

    /// What is broken once faults have ended and the workers have had time: nothing waits, nothing
    /// is left over, nothing runs.
    pub fn in_the_end(&self) -> Vec<Broken<N>> {
        let steps = self.steps.iter().flat_map(|(token, step)| {
            let runs = step.ledgers.values().any(|known| !known.calls.is_empty());
            let hung = (step.open && !step.may_wait()).then(|| Broken::Hung(token.clone()));
            hung.into_iter().chain(runs.then(|| Broken::RunsStill(token.clone())))
        });
        let messages = self.queue.values().filter_map(|about| match about {
            About::Work(token) | About::Stop(token) => Some(Broken::MessageLeft(token.clone())),
            About::Unreadable => None,
        });
        steps.chain(messages).collect()
    }

    pub fn is_open(&self, token: &N) -> bool {
        self.open().any(|open| open == token)
    }

    /// The steps that SageMaker waits for.
    pub fn open(&self) -> impl Iterator<Item = &N> {
        self.steps.iter().filter(|(_, step)| step.open).map(|(token, _)| token)
    }

    /// The report that SageMaker took.
    pub fn answer(&self, token: &N) -> Option<&N> {
        self.steps.get(token)?.answer.as_ref()
    }

    /// Whether the step may wait in the end, because a message of it was lost and none is left: no
    /// ledger has ever held it; or, with several ledgers on a queue, none holds more than that it
    /// is to be run.
    pub fn is_excused(&self, token: &N, several: bool) -> bool {
        let of_it = |about: &About<N>| matches!(about, About::Work(other) | About::Stop(other) if other == token);
        let Some(step) = self.steps.get(token) else { return false };
        let owed = |known: &InLedger<N>| known.deferred || known.stop_known || known.concluded;
        let owed =
            step.ledgers.values().any(|known| if several { owed(known) } else { known.recorded });
        step.lost && !owed && !self.queue.values().any(of_it)
    }

    /// Whether some worker of the ledger has run the step, cleaned up after it, or deferred it.
    pub fn has_run(&self, ledger: u8, token: &N) -> bool {
        let known = self.steps.get(token).and_then(|step| step.ledgers.get(&ledger));
        known.is_some_and(|known| known.ran || known.deferred)
    }

    /// Whether each of these ledgers has the step.
    pub fn is_recorded(&self, ledgers: &[u8], token: &N) -> bool {
        let step = self.steps.get(token);
        ledgers.iter().all(|ledger| {
            step.and_then(|step| step.ledgers.get(ledger)).is_some_and(|known| known.recorded)
        })
    }

    fn sent(&self, about: &About<N>) -> Result<(), Broken<N>> {
        match about {
            About::Work(token) | About::Stop(token)
                if self.queue.values().filter(|other| *other == about).count() > COPIES =>
            {
                Err(Broken::Multiplied(token.clone()))
            }
            _ => Ok(()),
        }
    }

    fn stop_believed(&mut self, token: &N) -> Result<(), Broken<N>> {
        let step = self.step(token);
        if step.given_out && step.open && !step.stopping && !step.stopped_before {
            return Err(Broken::StoppedUnasked(token.clone()));
        }
        Ok(())
    }

    fn success_believed(&mut self, token: &N) -> Result<(), Broken<N>> {
        let step = self.step(token);
        if step.open && !step.returned {
            return Err(Broken::StoppedUnasked(token.clone()));
        }
        Ok(())
    }

    /// No worker may act on a token that only a forger has used.
    fn given_out(&mut self, token: &N) -> Result<(), Broken<N>> {
        let step = self.step(token);
        if step.forged && !step.given_out {
            Err(Broken::ForgeryBelieved(token.clone()))
        } else {
            Ok(())
        }
    }

    fn deleted(&mut self, message: &N) -> Result<(), Broken<N>> {
        if let Some(token) = self.forged.remove(message) {
            // A copy that is left is as good to the queue's redrive policy.
            let copied = self.forged.values().any(|other| *other == token);
            return if copied { Ok(()) } else { Err(Broken::ForgeryDeleted(token)) };
        }
        // A message that was deleted before, or never was there: that changes nothing.
        let Some(about) = self.queue.remove(message) else { return Ok(()) };
        let token = match &about {
            About::Unreadable => return Err(Broken::UnreadableDeleted(message.clone())),
            About::Work(token) | About::Stop(token) => token,
        };
        let excused = |step: &Step<N>| match about {
            About::Work(_) => step.is_deferred(),
            // Of the time before the token came back.
            _ => step.returned && !step.stopping,
        };
        let waits = self.steps.get(token).is_some_and(|step| step.open && !excused(step));
        let copied = self.queue.values().any(|other| *other == about);
        if waits && !copied { Err(Broken::DeletedTooEarly(token.clone())) } else { Ok(()) }
    }

    fn started(&mut self, worker: Worker, token: &N) -> Result<(), Broken<N>> {
        self.given_out(token)?;
        let attempts = self.step(token).attempts;
        let known = self.in_ledger(worker.ledger, token);
        let broken = if known.concluded {
            Broken::ComputedAgain
        } else if known.stop_known {
            Broken::StartedAfterStop
        } else if !known.calls.is_empty() {
            Broken::Overlap
        } else if known.claimed_in_drain.contains(&worker) {
            Broken::StartedInDrain
        } else if attempts.is_some_and(|most| known.runs >= most) {
            Broken::TooManyRuns
        } else {
            known.calls.insert(worker);
            known.ran = true;
            known.runs += u32::from(attempts.is_some());
            return Ok(());
        };
        Err(broken(token.clone()))
    }

    fn kills(&mut self, worker: Worker, token: &N) -> Result<(), Broken<N>> {
        self.killed.insert(worker);
        let attempts = self.step(token).attempts;
        let known = self.in_ledger(worker.ledger, token);
        known.kills += 1;
        let ends = attempts.is_none_or(|most| known.kills <= most + SPARED);
        if ends { Ok(()) } else { Err(Broken::KillsOn(token.clone())) }
    }

    fn cleanup_began(&mut self, worker: Worker, token: &N) -> Result<(), Broken<N>> {
        self.given_out(token)?;
        let step = self.step(token);
        let completed = step.succeeded && !step.stopping;
        let known = step.ledgers.entry(worker.ledger).or_default();
        if known.deferred && completed {
            return Err(Broken::CleanedAfterSuccess(token.clone()));
        }
        if !known.calls.is_empty() {
            return Err(Broken::Overlap(token.clone()));
        }
        known.calls.insert(worker);
        known.ran = true;
        Ok(())
    }

    fn reported(
        &mut self,
        worker: Worker,
        token: &N,
        request: &N,
        accepted: bool,
    ) -> Result<(), Broken<N>> {
        self.given_out(token)?;
        let step = self.step(token);
        let known = step.ledgers.entry(worker.ledger).or_default();
        if !known.concluded && std::mem::take(&mut known.unsent) {
            known.earlier.insert(request.clone());
        }
        if !known.concluded && known.earlier.contains(request) {
            step.open &= !accepted;
            return Ok(());
        }
        if !known.concluded {
            return Err(Broken::ReportedUnfrozen(token.clone()));
        }
        if known.request.as_ref().is_some_and(|before| before != request) {
            return Err(Broken::TwoRequests(token.clone()));
        }
        if known.stop_known && known.ended.is_none() {
            return Err(Broken::NotCleaned(token.clone()));
        }
        known.request = Some(request.clone());
        let step = self.step(token);
        if accepted {
            // Ledgers that do not know of each other count a token's returns differently, and name
            // equal answers differently then.
            let excused = step.returned && step.ledgers.len() > 1;
            if !excused && step.answer.as_ref().is_some_and(|before| before != request) {
                return Err(Broken::TwoAnswers(token.clone()));
            }
            step.answer = Some(request.clone());
            step.open = false;
        }
        Ok(())
    }

    fn step(&mut self, token: &N) -> &mut Step<N> {
        self.steps.entry(token.clone()).or_default()
    }

    fn in_ledger(&mut self, ledger: u8, token: &N) -> &mut InLedger<N> {
        self.step(token).ledgers.entry(ledger).or_default()
    }
}

impl<N: Name> Step<N> {
    /// Nothing that happened before counts any more, but runs go on until they are told.
    fn begin_anew(&mut self) {
        self.returned = true;
        self.stopped_before =
            self.ledgers.values().any(|known| known.stop_known && !known.concluded);
        (self.stopping, self.succeeded, self.lost, self.answer) = (false, false, false, None);
        for known in self.ledgers.values_mut() {
            let calls = std::mem::take(&mut known.calls);
            let mut earlier = std::mem::take(&mut known.earlier);
            // Another worker, with a ledger of its own, answered first.
            let unsent = known.unsent || known.concluded && known.request.is_none();
            earlier.extend(known.request.take());
            *known = InLedger { calls, earlier, unsent, ..InLedger::default() };
        }
    }

    fn is_deferred(&self) -> bool {
        self.ledgers.values().any(|known| known.deferred)
    }

    /// A deferred step may wait for someone else, but neither for the answer to a stop nor for an
    /// existing outcome.
    fn may_wait(&self) -> bool {
        let told = self.ledgers.values().any(|known| known.stop_known || known.concluded);
        self.is_deferred() && !told && !self.stopping
    }
}
