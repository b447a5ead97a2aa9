//! The worker's state in one line, which `systemctl status` shows.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::status::{POLLED_LATELY, Status};
use crate::engine::{Monitor, Unpolled};
use crate::observe::server::{Check, Source};
use crate::process::systemd::Manager;

/// How often the line is compared with the last one; only a new one is sent.
const EVERY: Duration = Duration::from_secs(3);

/// Keeps the service manager informed, as long as it is polled. Never returns; without a manager it
/// only waits.
pub(super) async fn keep_told(manager: &Manager, monitor: &Monitor, status: &Status) {
    if !manager.is_there() {
        return std::future::pending().await;
    }
    let started = Instant::now();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = String::new();
    loop {
        ticks.tick().await;
        // The first poll of an idle queue takes 20 s: until then it is not late.
        let is_new = started.elapsed() < POLLED_LATELY;
        let ill = status.readiness().into_iter().filter(|check| {
            !check.ok && check.name != "running" && !(is_new && check.name == "queues")
        });
        let line = line(&Counts::of(monitor), &ill.collect::<Vec<_>>());
        if line != told {
            manager.status(&line).await;
            told = line;
        }
    }
}

/// What the line counts.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    draining: bool,
    queues: usize,
    /// Of these queues, those that `callbackd pause` paused.
    paused: usize,
    running: usize,
    /// Steps in hand that neither run nor have an outcome: for a slot, a retry or a poll.
    waiting: usize,
    deferred: usize,
    unreported: usize,
}

impl Counts {
    fn of(monitor: &Monitor) -> Self {
        let queues = monitor.queues();
        let running = queues.iter().map(|queue| queue.running).sum();
        let unreported = queues.iter().map(|queue| queue.unreported).sum();
        Self {
            draining: monitor.is_draining(),
            queues: queues.len(),
            paused: queues.iter().filter(|it| it.unpolled == Some(Unpolled::ByOrder)).count(),
            running,
            // The figures are not of one moment.
            waiting: monitor.steps().saturating_sub(running + unreported),
            deferred: queues.iter().map(|queue| queue.deferred).sum(),
            unreported,
        }
    }
}

/// Counts first: what impairs the worker may be long, and systemd's line is cut.
fn line(counts: &Counts, ill: &[Check]) -> String {
    let mut line = if counts.draining {
        "draining".to_owned()
    } else {
        let queues = if counts.queues == 1 { "queue" } else { "queues" };
        let paused = match counts.paused {
            0 => String::new(),
            paused => format!(" ({paused} paused)"),
        };
        format!("serving {} {queues}{paused}", counts.queues)
    };
    let steps: Vec<String> = [
        (counts.running, "running"),
        (counts.waiting, "waiting"),
        (counts.deferred, "deferred"),
        (counts.unreported, "unreported"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect();
    line.push_str(": ");
    line.push_str(&if steps.is_empty() { "no steps".to_owned() } else { steps.join(", ") });
    if !ill.is_empty() {
        let ill: Vec<String> =
            ill.iter().map(|check| format!("{}: {}", check.name, check.detail)).collect();
        line.push_str(&format!("; impaired: {}", ill.join("; ")));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_worker_says_that_it_has_nothing_to_do() {
        let idle = Counts { queues: 1, ..Counts::default() };
        assert_eq!(line(&idle, &[]), "serving 1 queue: no steps");
        let paused = Counts { queues: 2, paused: 1, ..Counts::default() };
        assert_eq!(line(&paused, &[]), "serving 2 queues (1 paused): no steps");
    }

    #[test]
    fn steps_are_counted_by_what_they_need() {
        let busy = Counts {
            queues: 2,
            running: 3,
            waiting: 12,
            deferred: 1,
            unreported: 2,
            ..Counts::default()
        };
        assert_eq!(
            line(&busy, &[]),
            "serving 2 queues: 3 running, 12 waiting, 1 deferred, 2 unreported"
        );
        let drain = Counts { draining: true, running: 1, ..busy };
        assert_eq!(line(&drain, &[]), "draining: 1 running, 12 waiting, 1 deferred, 2 unreported");
    }

    #[test]
    fn what_impairs_the_worker_is_named_after_the_counts() {
        let detail = "features: space: No space left on device".to_owned();
        let ill = [Check { name: "host", ok: false, detail }];
        let counts = Counts { queues: 1, waiting: 1, ..Counts::default() };
        assert_eq!(
            line(&counts, &ill),
            "serving 1 queue: 1 waiting; impaired: host: features: space: No space left on device"
        );
    }
}
