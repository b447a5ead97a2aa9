//! `/status`: the worker as a whole, in one object of bounded size.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::backlog::{Backlog, Backlogs, DeadLetters};
use crate::engine::{Ended, Monitor, QueueStatus, Unpolled};
use crate::observe::server::Check;

/// Before the engine runs there are only its checks. Times are by the wall clock, as in `/steps`.
pub(super) fn of(
    monitor: Option<&Monitor>,
    backlogs: &Backlogs,
    health: &[Check],
    readiness: &[Check],
) -> Value {
    let ok = |checks: &[Check]| checks.iter().all(|check| check.ok);
    // Until the engine is there, both say only that.
    let shown = if monitor.is_some() { health } else { &[] };
    let checks: Vec<&Check> = shown.iter().chain(readiness).collect();
    let mut status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "alive": ok(health),
        "ready": ok(readiness),
        "checks": checks,
    });
    let Some(monitor) = monitor else { return status };
    let queues = monitor.queues();
    status["worker"] = monitor.me().0.as_ref().into();
    status["now"] = json!(monitor.name(monitor.now()));
    status["draining"] = monitor.is_draining().into();
    status["queues"] = queues.iter().map(|it| queue(it, monitor, backlogs)).collect();
    let held = monitor.held().into_iter().filter(|(_, held)| *held);
    status["paused_handlers"] = held.map(|(handler, _)| handler).collect();
    status["workers"] = json!(backlogs.workers());
    status["endings"] = monitor.endings().iter().map(|it| ended(it, monitor)).collect();
    status
}

fn queue(queue: &QueueStatus, monitor: &Monitor, backlogs: &Backlogs) -> Value {
    let name = |at: Option<Timestamp>| at.map(|at| monitor.name(at));
    let [new, resumed] = queue.queued;
    json!({
        "name": queue.name,
        "url": queue.url,
        "running": queue.running,
        "concurrency": queue.concurrency,
        "queued": new + resumed + queue.limited,
        "unpolled": queue.unpolled.map(unpolled),
        "polled_seconds_ago": queue.polled_ago.map(seconds),
        "messages_held": queue.held,
        "deferred": queue.deferred,
        "owed": queue.stops_held,
        "oldest_owed": name(queue.oldest_stop),
        "unreported": queue.unreported,
        "oldest_unreported": name(queue.oldest_unreported),
        "without_message": queue.without_message,
        "backlog": backlogs.of(&queue.url).map(backlog),
    })
}

fn unpolled(why: Unpolled) -> &'static str {
    match why {
        Unpolled::ByOrder => "order",
        Unpolled::ByBreaker => "breaker",
        Unpolled::ByLimits => "limits",
    }
}

fn backlog(backlog: Backlog) -> Value {
    let age = seconds(Instant::now().duration_since(backlog.at));
    match backlog.counts {
        Err(error) => json!({ "seconds_old": age, "error": error }),
        Ok(counts) => {
            let dead = match counts.dead_letters {
                DeadLetters::NoQueue => "none".into(),
                DeadLetters::Unknown => Value::Null,
                DeadLetters::Count(count) => count.into(),
            };
            json!({
                "seconds_old": age,
                "visible": counts.visible,
                "in_flight": counts.in_flight,
                "delayed": counts.delayed,
                "dead_letters": dead,
            })
        }
    }
}

fn ended(ended: &Ended, monitor: &Monitor) -> Value {
    json!({
        "token": ended.token,
        "execution": ended.execution,
        "handler": ended.handler,
        "ending": ended.ending.as_str(),
        "reason": ended.reason,
        "first_seen": monitor.name(ended.first_seen),
        "at": monitor.name(ended.at),
    })
}

fn seconds(duration: Duration) -> u64 {
    duration.as_secs()
}
