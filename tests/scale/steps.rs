//! What becomes of each step: a simpler judge than that of the simulation, which holds a fleet's
//! hundred thousand steps.

use std::collections::{HashMap, HashSet};

/// What a step's handler does, by its pipeline's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It works for a second.
    Short,
    /// It starts a job, and waits for its end, for hours.
    Held,
    /// It asks to be called again, a few times.
    Polling,
    /// Someone else completes it.
    Deferred,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With an outcome, or a deferral.
    Done,
    /// It asked to be called again.
    Again,
    /// It was told to, because its worker shut down or had lost its lease.
    GivenBack,
    /// With its worker.
    Killed,
}

#[derive(Default)]
struct Step {
    held: bool,
    /// By which life.
    running: Option<u32>,
    last: Option<(u32, Ended)>,
    checkpoint: Option<u64>,
    runs: u32,
    answers: u32,
    closed: bool,
}

#[derive(Default)]
pub struct Steps {
    each: HashMap<String, Step>,
    running: HashMap<u32, HashSet<String>>,
    dead: HashSet<u32>,
    broken: Vec<String>,
    open: usize,
    held: Held,
    /// Of runs after the first, by what explains them.
    pub explained: HashMap<&'static str, u64>,
    pub resumed: u64,
    /// One in so many held steps has a job that ends early.
    pub early: u64,
}

#[derive(Default)]
struct Held {
    /// Not done.
    open: usize,
    running: usize,
    /// Done, and not answered.
    unreported: usize,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Short, Self::Held, Self::Polling, Self::Deferred];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Held => "held",
            Self::Polling => "polling",
            Self::Deferred => "deferred",
        }
    }
}

impl Steps {
    /// A step of an execution with this ARN waits for an answer.
    pub fn opened(&mut self, token: &str, execution: &str) {
        let held = execution.contains(&format!(":pipeline/{}/", Kind::Held.name()));
        self.open += 1;
        self.held.open += usize::from(held);
        self.each.insert(token.to_owned(), Step { held, ..Step::default() });
    }

    pub fn began(&mut self, life: u32, token: &str, checkpoint: Option<u64>) {
        let dead = &self.dead;
        let Some(step) = self.each.get_mut(token) else {
            return self.broken.push(format!("{token} was never opened"));
        };
        if let Some(other) = step.running.filter(|other| !dead.contains(other)) {
            self.broken.push(format!("{token} runs in {life} and in {other}"));
        }
        if step.closed {
            self.broken.push(format!("{token} runs although it is answered"));
        }
        // One more may be durable, if its worker was killed before it was told so.
        if step.checkpoint.is_some() && checkpoint != step.checkpoint {
            let (had, has) = (step.checkpoint, checkpoint);
            self.broken
                .push(format!("{token} had the checkpoint {had:?}, and resumes from {has:?}"));
        }
        step.runs += 1;
        self.resumed += u64::from(checkpoint.is_some());
        let why = match step.last {
            None => None,
            Some((_, Ended::Again)) => Some("asked to be called again"),
            Some((_, Ended::GivenBack)) => Some("was given back"),
            Some((_, Ended::Killed)) => Some("its worker was killed"),
            Some((last, Ended::Done)) if dead.contains(&last) => {
                Some("its worker was killed before the outcome was durable")
            }
            Some((_, Ended::Done)) => {
                return self.broken.push(format!("{token} is run again after its outcome"));
            }
        };
        if let Some(why) = why {
            *self.explained.entry(why).or_default() += 1;
        }
        step.running = Some(life);
        self.held.running += usize::from(step.held);
        self.running.entry(life).or_default().insert(token.to_owned());
    }

    /// A checkpoint is durable.
    pub fn saved(&mut self, token: &str, checkpoint: u64) {
        if let Some(step) = self.each.get_mut(token) {
            step.checkpoint = Some(checkpoint);
        }
    }

    /// Nothing if the life is over: it has been told.
    pub fn ended(&mut self, life: u32, token: &str, how: Ended) {
        let running = self.running.get_mut(&life).is_some_and(|tokens| tokens.remove(token));
        if running {
            self.end(life, token, how);
        }
    }

    fn end(&mut self, life: u32, token: &str, how: Ended) {
        let Some(step) = self.each.get_mut(token) else { return };
        (step.running, step.last) = (None, Some((life, how)));
        if step.held {
            self.held.running -= 1;
            if how == Ended::Done {
                self.held.open -= 1;
                self.held.unreported += 1;
            }
        }
    }

    /// A worker's process is gone.
    pub fn died(&mut self, life: u32) {
        self.dead.insert(life);
        for token in self.running.remove(&life).unwrap_or_default() {
            self.end(life, &token, Ended::Killed);
        }
    }

    pub fn answered(&mut self, token: &str) {
        if let Some(step) = self.each.get_mut(token) {
            step.answers += 1;
            if step.answers > 1 {
                self.broken.push(format!("{token} is answered {} times", step.answers));
            }
        }
    }

    pub fn closed(&mut self, token: &str, status: &str) {
        let Some(step) = self.each.get_mut(token) else { return };
        step.closed = true;
        self.open -= 1;
        self.held.unreported -= usize::from(step.held);
        if status != "Succeeded" {
            self.broken.push(format!("{token} has {status}"));
        }
    }

    /// How many steps there were.
    pub fn count(&self) -> usize {
        self.each.len()
    }

    /// How many wait for an answer.
    pub fn open(&self) -> usize {
        self.open
    }

    /// How many held ones run nowhere although they are not done.
    pub fn left_alone(&self) -> usize {
        self.held.open - self.held.running
    }

    /// Some of those.
    pub fn forsaken(&self) -> Vec<&str> {
        let forsaken = |(_, step): &(&String, &Step)| {
            let done = matches!(step.last, Some((_, Ended::Done)));
            step.held && !step.closed && step.running.is_none() && !done
        };
        self.each.iter().filter(forsaken).map(|(token, _)| token.as_str()).take(3).collect()
    }

    /// How many held ones are done, and not answered.
    pub fn unreported(&self) -> usize {
        self.held.unreported
    }

    /// How many run in a life.
    pub fn running_in(&self, life: u32) -> usize {
        self.running.get(&life).map_or(0, HashSet::len)
    }

    /// How many held ones run.
    pub fn held_running(&self) -> usize {
        self.held.running
    }

    pub fn broken(&self) -> &[String] {
        &self.broken
    }

    /// Whether every step was answered exactly once.
    pub fn all_answered_once(&self) -> bool {
        self.each.values().all(|step| step.closed && step.answers == 1)
    }
}
