//! Jobs that wait for a thread of the store: urgent ones, and patient ones that may wait for
//! others.

use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::ledger::store::StoreError;

/// Answers once it is known whether the transaction was committed.
pub(super) type Respond = Box<dyn FnOnce(Option<&StoreError>)>;
/// Performs the job, or is told why it is not performed.
type Act = Box<dyn FnOnce(Result<&Connection, &StoreError>) -> Respond + Send>;

/// What a job shares its commit with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Haste {
    /// Those that wait with it.
    Urgent,
    /// It may wait for another job.
    Patient,
    /// It is urgent, and writes nothing that would have to be committed.
    Look,
}

/// Something to do on a connection.
pub(super) struct Job {
    pub(super) haste: Haste,
    pub(super) act: Act,
}

/// Jobs from many tasks for one thread.
pub(super) struct Inbox {
    state: Mutex<State>,
    ready: Condvar,
    room: Semaphore,
}

#[derive(Default)]
struct State {
    jobs: Vec<Job>,
    /// How many of them are urgent.
    urgent: usize,
    thread: Thread,
    closed: bool,
}

/// What the thread sleeps for, so that it is woken once and for nothing less.
#[derive(Clone, Copy, Default)]
enum Thread {
    #[default]
    Awake,
    /// Any job; if it is patient, the thread then respects that.
    ForAny,
    /// An urgent job.
    ForUrgent,
    /// This many jobs.
    ForCompany(usize),
}

/// The maximum number of waiting jobs; further callers wait for room.
const ROOM: usize = 4096;
/// How long a patient job waits for another.
const PATIENCE: Duration = Duration::from_millis(20);

impl Job {
    pub(super) fn is_urgent(&self) -> bool {
        self.haste != Haste::Patient
    }
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), ready: Condvar::new(), room: Semaphore::new(ROOM) }
    }

    /// Adds a job; `false` if it will not be performed.
    pub(super) async fn push(&self, job: Job) -> bool {
        match self.room.acquire().await {
            Ok(room) => room.forget(),
            Err(_) => return false,
        }
        let mut state = self.lock();
        if state.closed {
            return false;
        }
        state.urgent += usize::from(job.is_urgent());
        state.jobs.push(job);
        let wake = match state.thread {
            Thread::Awake => false,
            Thread::ForAny => true,
            Thread::ForUrgent => state.urgent > 0,
            Thread::ForCompany(count) => state.jobs.len() >= count,
        };
        if wake {
            state.thread = Thread::Awake;
            self.ready.notify_one();
        }
        true
    }

    /// Waits for jobs and takes up to `most`; `None` once it is closed and empty.
    pub(super) fn take(&self, most: usize) -> Option<Vec<Job>> {
        let mut patient_since = None;
        let mut state = self.lock();
        loop {
            if state.urgent > 0 || (state.closed && !state.jobs.is_empty()) {
                return Some(self.some(state, most));
            }
            if state.closed {
                return None;
            }
            state = if state.jobs.is_empty() {
                state.thread = Thread::ForAny;
                self.ready.wait(state).unwrap_or_else(PoisonError::into_inner)
            } else {
                let waited = patient_since.get_or_insert_with(Instant::now).elapsed();
                if waited >= PATIENCE {
                    return Some(self.some(state, most));
                }
                state.thread = Thread::ForUrgent;
                self.sleep(state, PATIENCE.saturating_sub(waited))
            };
            state.thread = Thread::Awake;
        }
    }

    /// What has arrived meanwhile, up to `most`; waits until there are `company`, but not beyond
    /// `until`.
    pub(super) fn more(&self, most: usize, company: usize, until: Instant) -> Vec<Job> {
        let mut state = self.lock();
        while state.jobs.len() < company && !state.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state.thread = Thread::ForCompany(company);
            state = self.sleep(state, left);
            state.thread = Thread::Awake;
        }
        self.some(state, most)
    }

    /// Accepts no more jobs; waiting ones are still performed.
    pub(super) fn close(&self) {
        self.room.close();
        self.lock().closed = true;
        self.ready.notify_one();
    }

    /// The thread has ended: waiting callers are released. Returns whether it was meant to end.
    pub(super) fn abandon(&self) -> bool {
        self.room.close();
        let mut state = self.lock();
        let jobs = mem::take(&mut state.jobs);
        let closed = mem::replace(&mut state.closed, true);
        drop(state);
        drop(jobs);
        closed
    }

    fn some(&self, mut state: MutexGuard<'_, State>, most: usize) -> Vec<Job> {
        let rest = if state.jobs.len() > most { state.jobs.split_off(most) } else { Vec::new() };
        let jobs = mem::replace(&mut state.jobs, rest);
        state.urgent = state.jobs.iter().filter(|job| job.is_urgent()).count();
        drop(state);
        self.room.add_permits(jobs.len());
        jobs
    }

    fn sleep<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        self.ready.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
