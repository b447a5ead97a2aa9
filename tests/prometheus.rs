//! `/metrics`, read by Prometheus' own parser, and what is built on it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/exposition.rs"]
mod exposition;
#[path = "prometheus/promtool.rs"]
mod promtool;
#[path = "support/venv.rs"]
mod venv;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use callbackd::observe::metrics::{Figures, Metrics};
use serde_json::{Value, json};

use venv::Venv;

fn parsed(exposition: &str) -> Value {
    read_by_python("parse.py", exposition)
}

/// What a script in `tests/prometheus` makes of a text.
fn read_by_python(script: &str, text: &str) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/prometheus").join(script);
    let mut python = Command::new(Venv::ready().python())
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Python runs");
    let mut stdin = python.stdin.take().expect("it is piped");
    stdin.write_all(text.as_bytes()).expect("it reads to the end");
    drop(stdin);
    let output = python.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

/// Whatever a queue or a handler is called.
const ODD: &str = "a \"quoted\\ name\nof two lines, ünd {more}";

fn used() -> Metrics {
    let metrics = Metrics::new();
    metrics.expect_queue("q");
    metrics.expect_handler("q", ODD);
    metrics.step_started("q", ODD, Some(Duration::from_millis(3)));
    metrics.step_started("q", ODD, None);
    metrics.step_idle("q", ODD);
    metrics.step_ended("q", ODD, "success", Some(Duration::from_secs(30 * 24 * 60 * 60)));
    metrics.aws_request("sqs", "ReceiveMessage", "ok");
    metrics.timeout("ReceiveMessage");
    metrics.attempt("q", ODD, true);
    metrics.attempt("q", ODD, false);
    metrics.verify_refusal("q");
    metrics.set_state(true, false);
    metrics.set_queue(
        "q",
        &Figures {
            concurrency: 16,
            held: 100_000,
            queued: [5, 6, 10],
            paused: [true, false],
            cleanups_waiting: 7,
            reports_waiting: 8,
            without_message: 4,
            reports_pending: 2,
            oldest_unreported: Some(Duration::from_secs(7)),
            deferred: 3,
            stops_held: 9,
            last_poll: Some(Duration::from_millis(1_700_000_000_500)),
            progress_ages: vec![(ODD.to_owned(), Some(Duration::from_secs(1800)))],
        },
    );
    metrics.set_breaker(ODD, true);
    metrics.set_handler_paused(ODD, true);
    metrics.set_tasks(12);
    metrics.message_unreadable("q");
    metrics.heartbeat_failed("q", 10);
    metrics.report_not_found("q");
    metrics.clock_set();
    metrics.stop("q", "watch");
    metrics.set_stop_watch_interval(Duration::from_millis(1500));
    metrics.ledger_committed(Duration::from_micros(120));
    metrics.set_ledger_failing(true);
    metrics
}

#[test]
fn every_metric_has_the_name_and_the_labels_that_dashboards_rely_on() {
    let samples = parsed(&used().exposition().expect("it is written to memory"));
    let handler = json!({ "queue": "q", "handler": ODD });
    for (name, labels, value) in [
        (
            "callbackd_steps_total",
            json!({ "queue": "q", "handler": ODD, "outcome": "success" }),
            1.0,
        ),
        ("callbackd_steps_running", handler.clone(), 1.0),
        ("callbackd_progress_age_seconds", handler.clone(), 1800.0),
        ("callbackd_attempts_total", handler.clone(), 2.0),
        ("callbackd_retries_total", handler.clone(), 1.0),
        ("callbackd_step_seconds_count", handler.clone(), 1.0),
        ("callbackd_step_seconds_sum", handler.clone(), 2_592_000.0),
        ("callbackd_pickup_seconds_count", handler, 1.0),
        (
            "callbackd_aws_requests_total",
            json!({ "service": "sqs", "operation": "ReceiveMessage", "result": "ok" }),
            1.0,
        ),
        ("callbackd_timeouts_total", json!({ "operation": "ReceiveMessage" }), 1.0),
        ("callbackd_reports_pending", json!({ "queue": "q" }), 2.0),
        ("callbackd_steps_deferred", json!({ "queue": "q" }), 3.0),
        ("callbackd_messages_held", json!({ "queue": "q" }), 100_000.0),
        ("callbackd_concurrency", json!({ "queue": "q" }), 16.0),
        ("callbackd_oldest_unreported_seconds", json!({ "queue": "q" }), 7.0),
        ("callbackd_last_poll_timestamp_seconds", json!({ "queue": "q" }), 1_700_000_000.5),
        ("callbackd_stops_held", json!({ "queue": "q" }), 9.0),
        ("callbackd_verify_refusals_total", json!({ "queue": "q" }), 1.0),
        ("callbackd_draining", json!({}), 1.0),
        ("callbackd_ready", json!({}), 0.0),
        ("callbackd_log_lines_dropped_total", json!({}), 0.0),
        ("callbackd_tasks", json!({}), 12.0),
        ("callbackd_messages_unreadable_total", json!({ "queue": "q" }), 1.0),
        ("callbackd_heartbeats_failed_total", json!({ "queue": "q" }), 10.0),
        ("callbackd_reports_not_found_total", json!({ "queue": "q" }), 1.0),
        ("callbackd_steps_without_message", json!({ "queue": "q" }), 4.0),
        ("callbackd_steps_queued", json!({ "queue": "q", "kind": "new" }), 5.0),
        ("callbackd_steps_queued", json!({ "queue": "q", "kind": "resumed" }), 6.0),
        ("callbackd_steps_queued", json!({ "queue": "q", "kind": "limited" }), 10.0),
        ("callbackd_queue_paused", json!({ "queue": "q", "why": "order" }), 1.0),
        ("callbackd_queue_paused", json!({ "queue": "q", "why": "breaker" }), 0.0),
        ("callbackd_breaker_open", json!({ "handler": ODD }), 1.0),
        ("callbackd_handler_paused", json!({ "handler": ODD }), 1.0),
        ("callbackd_cleanups_waiting", json!({ "queue": "q" }), 7.0),
        ("callbackd_reports_waiting", json!({ "queue": "q" }), 8.0),
        ("callbackd_clock_set_total", json!({}), 1.0),
        ("callbackd_stops_total", json!({ "queue": "q", "via": "watch" }), 1.0),
        ("callbackd_stop_watch_interval_seconds", json!({}), 1.5),
        ("callbackd_ledger_commit_seconds_count", json!({}), 1.0),
        ("callbackd_ledger_failing", json!({}), 1.0),
        ("callbackd_build_info", json!({ "version": env!("CARGO_PKG_VERSION") }), 1.0),
    ] {
        let all = samples[name].as_array().unwrap_or_else(|| panic!("{name} is there: {samples}"));
        assert!(all.contains(&json!([labels, value])), "{name} {labels} {value}: {all:?}");
    }
}

#[test]
fn a_daemon_that_has_done_nothing_yet_can_be_scraped() {
    let samples = parsed(&Metrics::new().exposition().expect("it is written to memory"));
    assert_eq!(samples["callbackd_ready"], json!([[{}, 0.0]]));
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_is_measured_in_prometheus_standard_metrics() {
    let samples = parsed(&Metrics::new().exposition().expect("it is written to memory"));
    for (name, least) in [
        ("process_resident_memory_bytes", 1_000_000.0),
        ("process_cpu_seconds_total", 0.0),
        ("process_open_fds", 3.0),
        ("process_max_fds", 3.0),
        ("process_start_time_seconds", 1.7e9),
    ] {
        let value =
            samples[name][0][1].as_f64().unwrap_or_else(|| panic!("{name} is there: {samples}"));
        assert!(value >= least, "{name} {value}");
    }
}
