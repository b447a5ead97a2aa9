//! `callbackd probe` as a program: what it asks, prints and leaves. That it finds out what it is
//! asked is tested beside its source.

#![cfg(all(feature = "aws", feature = "local"))]
#![allow(clippy::expect_used, reason = "a test says what it expected")]

#[path = "support/output.rs"]
mod output;

use std::collections::BTreeSet;
use std::process::Stdio;

use callbackd::local::{Endpoint, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use output::printed;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::broadcast::Receiver;

const ROLE: &str = "arn:aws:iam::123456789012:role/pipelines";

/// The endpoint, and what exists there according to its events.
struct Site {
    endpoint: Endpoint,
    events: Receiver<Event>,
    there: BTreeSet<String>,
    running: i32,
}

impl Site {
    async fn start() -> Self {
        let loopback = "127.0.0.1:0".parse().expect("an address");
        let endpoint = Endpoint::start(loopback, Options::default()).await.expect("a free port");
        let events = endpoint.events();
        Self { endpoint, events, there: BTreeSet::new(), running: 0 }
    }

    /// `callbackd probe` without a terminal, a configuration, or the settings of the user.
    fn probe(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callbackd"));
        command
            .env_clear()
            .env("HOME", "/nonexistent")
            .env("AWS_ENDPOINT_URL", self.endpoint.url())
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test")
            .arg("probe")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    fn note(&mut self, event: Event) -> String {
        let event = serde_json::to_value(event.kind).expect("JSON");
        let name = event["event"].as_str().expect("a name").to_owned();
        let subject = [&event["queue"], &event["pipeline"]].into_iter().find_map(Value::as_str);
        let subject = subject.unwrap_or_default().to_owned();
        match name.as_str() {
            "queue_created" | "pipeline_created" => assert!(self.there.insert(subject)),
            "queue_deleted" | "pipeline_deleted" => assert!(self.there.remove(&subject)),
            "execution_started" | "execution_retried" => self.running += 1,
            "execution_ended" => self.running -= 1,
            _ => {}
        }
        name
    }

    async fn until(&mut self, wanted: &str) {
        loop {
            let event = self.events.recv().await.expect("the endpoint lives");
            if self.note(event) == wanted {
                return;
            }
        }
    }

    /// How many queues, pipelines and running executions there are.
    fn left(&mut self) -> (usize, i32) {
        while let Ok(event) = self.events.try_recv() {
            self.note(event);
        }
        (self.there.len(), self.running)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_nothing_is_created_unless_that_is_agreed_to() {
    let mut site = Site::start().await;
    let output = site.probe(&["--role-arn", ROLE]).output().await.expect("it starts");
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(output.stdout.is_empty(), "{text}");
    for part in ["account 123456789012, region us-east-1", "1 SQS queue", "10 pipelines", ROLE] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.contains("nothing was created: pass --yes"), "{text}");
    assert_eq!((site.left(), site.events.len()), ((0, 0), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_of_another_account_and_a_prefix_for_everything_are_refused() {
    let site = Site::start().await;
    let other = "arn:aws:iam::210987654321:role/pipelines";
    for arguments in [
        &["--yes"][..],
        &["--yes", "--role-arn", other],
        &["--yes", "--role-arn", "pipelines"],
        &["--yes", "--clean-up", "--name-prefix", "s"],
        &["--yes", "--role-arn", ROLE, "--patience", "0s"],
    ] {
        let output = site.probe(arguments).output().await.expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", printed(&output));
    }
    assert_eq!(site.events.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_probe_prints_what_it_found_and_leaves_nothing() {
    let mut site = Site::start().await;
    let child = site.probe(&["--yes", "--role-arn", ROLE]).spawn().expect("it starts");
    site.until("execution_started").await;
    let id = i32::try_from(child.id().expect("it runs")).expect("a process id");
    kill(Pid::from_raw(id), Signal::SIGINT).expect("sent");
    let output = child.wait_with_output().await.expect("it ends");
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(site.left(), (0, 0), "{text}");
    let report = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(report.starts_with("# callbackd probe\n"), "{report}");
    assert!(report.contains("| `ResourceNotFound`: "), "{report}");
    assert!(report.contains("nothing here is about AWS") && report.contains("**not settled**"));
    assert!(text.contains("everything that was created is removed"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_up_removes_what_a_killed_probe_left() {
    let mut site = Site::start().await;
    let mut child = site.probe(&["--yes", "--role-arn", ROLE]).spawn().expect("it starts");
    site.until("execution_started").await;
    child.kill().await.expect("killed");
    assert_eq!(site.left(), (2, 1));

    let output = site.probe(&["--clean-up"]).output().await.expect("it starts");
    assert_eq!(output.status.code(), Some(2), "{}", printed(&output));
    assert!(printed(&output).contains("nothing was deleted: pass --yes"), "{}", printed(&output));
    assert_eq!(site.left(), (2, 1));

    let output = site.probe(&["--clean-up", "--yes"]).output().await.expect("it starts");
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    assert_eq!(site.left(), (0, 0));
    let output = site.probe(&["--clean-up"]).output().await.expect("it starts");
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_probe_prints_its_findings_as_json_and_nothing_else() {
    let mut site = Site::start().await;
    let quick = ["--yes", "--json", "--role-arn", ROLE, "--pace", "10ms", "--patience", "5s"];
    // Messages that come at once need no more time, those that do not come get it all.
    let output = site.probe(&quick).output().await.expect("it starts");
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(site.left(), (0, 0), "{text}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("a list");
    let settled = findings.iter().filter(|finding| finding["settled"] == true);
    assert!(findings.len() > 30 && settled.count() > 25, "{report:#}");
    assert_eq!(report["endpoint_set_by_user"], true);
}
