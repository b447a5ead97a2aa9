//! The start of a test: a queue, a SageMaker, proxies to both, a directory of scripts, and steps
//! that wait.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::daemon::{Config, Daemon, Environment};
use crate::disk::Disk;
use crate::lines;
use crate::moto::{self, Queue};
use crate::proxy::Proxy;
use crate::sagemaker::{Request, SageMaker};

/// More than anything here takes, even on a machine under load: only a defect reaches it.
const PATIENCE: Duration = Duration::from_secs(90);

/// For all scripts. `until_there FILE` waits for a file in the test's directory, but not forever,
/// so that none outlives a failed test for long. `alive PID` tells whether a process still runs:
/// one that only waits to be reaped does not. `end STATUS` ends the script and leaves a line
/// `TOKEN STATUS NANOSECONDS` in `$FOLDER/ends`. Its outcome differs each time, so that a second
/// computation is noticed.
const PRELUDE: &str = r#"#!/bin/sh
end() {
    now=$(date +%s%N)
    echo "$STEP_TOKEN $1 $now" >> $FOLDER/ends
    if [ $1 = 0 ]; then echo "ended=$now" >> $STEP_OUTPUT; else echo "ended at $now" >&2; fi
    exit $1
}
alive() { grep -q '^State:.[^ZX]' "/proc/$1/status" 2>/dev/null; }
until_there() { n=0; until [ -e "$FOLDER/$1" ]; do n=$((n+1)); [ $n -lt 2400 ] || exit 99; sleep 0.05; done; }
"#;

pub struct Scene {
    pub queue: Queue,
    pub sagemaker: SageMaker,
    pub to_sqs: Proxy,
    pub to_sagemaker: Proxy,
    /// The file system of the ledger, if it is not the directory's own.
    disk: Option<Disk>,
    readings: Mutex<BTreeMap<(String, u64), Reading>>,
    folder: TempDir,
}

/// A version of a record as `callbackd steps --json` prints it, and when it was seen.
#[derive(Clone, Debug)]
pub struct Reading {
    pub at: Timestamp,
    pub record: Value,
}

/// A callback step that waits at SageMaker.
#[derive(Clone, Debug)]
pub struct Step {
    pub opened: Timestamp,
    pub token: String,
    pub arn: String,
    pub arguments: Value,
}

impl Scene {
    /// `script` is the handler's; `$FOLDER` is the test's folder, and each start adds a line
    /// `TOKEN ATTEMPT` to `$FOLDER/runs`. The cleanup adds one of `TOKEN REASON` to
    /// `$FOLDER/cleanups`.
    pub async fn new(script: &str) -> Self {
        Self::with_cleanup(script, "").await
    }

    pub async fn with_cleanup(run: &str, cleanup: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let sagemaker = SageMaker::start().await;
        let scene = Self {
            queue: Queue::create(&format!("sagemaker-{}", random_token())).await,
            to_sqs: Proxy::start(moto::address()).await,
            to_sagemaker: Proxy::start(sagemaker.address).await,
            sagemaker,
            disk: None,
            readings: Mutex::default(),
            folder,
        };
        fs::create_dir(scene.path("ledger")).expect("the folder is writable");
        scene.script("run", &format!("echo \"$STEP_TOKEN $STEP_ATTEMPT\" >> $FOLDER/runs\n{run}"));
        scene.script(
            "cleanup",
            &format!("echo \"$STEP_TOKEN $STEP_STOP_REASON\" >> $FOLDER/cleanups\n{cleanup}"),
        );
        scene
    }

    /// The ledger lies on a file system of its own.
    pub async fn on_a_disk(script: &str, size: &str) -> Self {
        let mut scene = Self::new(script).await;
        scene.disk = Some(Disk::mount(&scene.path("ledger"), size));
        scene
    }

    /// The directories of runs lie on a file system of their own, in `work`.
    pub async fn working_on_a_disk(script: &str, size: &str) -> Self {
        let mut scene = Self::new(script).await;
        fs::create_dir(scene.path("work")).expect("the folder is writable");
        scene.disk = Some(Disk::mount(&scene.path("work"), size));
        scene
    }

    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("a scene on a disk")
    }

    pub fn ledger(&self) -> PathBuf {
        self.path("ledger/ledger.db")
    }

    pub fn script(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, format!("{PRELUDE}FOLDER={}\n{text}\n", self.folder().display()))
            .expect("it is writable");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Makes a file that a script waits for.
    pub fn open(&self, gate: &str) {
        fs::write(self.path(gate), "").expect("the folder is writable");
    }

    /// The lines of a file; none where it is not there yet.
    pub fn lines(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.path(name)).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    pub fn runs(&self) -> Vec<String> {
        self.lines("runs")
    }

    pub fn cleanups(&self) -> Vec<String> {
        self.lines("cleanups")
    }

    pub fn config(&self) -> Config {
        Config::new(self.folder(), &self.queue.url)
    }

    pub fn environment(&self) -> Environment {
        Environment {
            prefix: self.disk.as_ref().map(Disk::enter).unwrap_or_default(),
            folder: self.folder().to_owned(),
            sqs: self.to_sqs.url(),
            sagemaker: self.to_sagemaker.url(),
        }
    }

    pub fn start(&self, config: &Config) -> Daemon {
        self.environment().start(config, "daemon")
    }

    /// With more variables.
    pub fn start_in(&self, config: &Config, variables: &[(&str, &str)]) -> Daemon {
        self.environment().start_in(config, "daemon", variables)
    }

    /// What the daemons said, by file.
    fn logs(&self) -> Vec<(PathBuf, String)> {
        let entries =
            fs::read_dir(self.folder()).into_iter().flatten().flatten().map(|entry| entry.path());
        let logs =
            entries.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.map(|path| {
            (
                path.clone(),
                String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned(),
            )
        })
        .collect()
    }

    /// A step waits at SageMaker; its message is not sent yet.
    pub fn step(&self) -> Step {
        let token = random_token();
        let arn = format!(
            "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/{}",
            token.to_lowercase()
        );
        self.step_of(arn, token)
    }

    fn step_of(&self, arn: String, token: String) -> Step {
        self.sagemaker.begin(&arn, &token, &self.queue.url);
        Step { opened: Timestamp::now(), token, arn, arguments: json!({ "n": 1 }) }
    }

    /// A step waits at SageMaker and its message on the queue.
    pub async fn step_sent(&self) -> Step {
        let step = self.step();
        self.queue.send(&step.executing()).await;
        step
    }

    /// The same with these arguments.
    pub async fn step_sent_with(&self, arguments: Value) -> Step {
        let mut step = self.step();
        step.arguments = arguments;
        self.queue.send(&step.executing()).await;
        step
    }

    /// One more step of the same execution, with its message.
    pub async fn sibling_sent(&self, of: &Step) -> Step {
        let step = self.step_of(of.arn.clone(), random_token());
        self.queue.send(&step.executing()).await;
        step
    }

    /// The execution is stopped, and the message of that is sent.
    pub async fn stop(&self, step: &Step) {
        self.sagemaker.stop(&step.arn);
        self.queue.send(&step.stopping()).await;
    }

    /// What the ledger holds of a step.
    pub fn record(&self, step: &Step) -> Option<Value> {
        self.records().into_iter().find(|record| record["token"] == step.token.as_str())
    }

    /// The records in the ledger; none if it cannot be read. Everything read is remembered for the
    /// judge.
    pub fn records(&self) -> Vec<Value> {
        let output = self.environment().run(&self.config(), &["steps", "--json"]);
        let at = Timestamp::now();
        let records: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let mut readings = self.readings.lock().unwrap();
        for record in &records {
            let token = record["token"].as_str().expect("a token").to_owned();
            // A damaged record has none.
            let Some(version) = record["version"].as_u64() else { continue };
            readings
                .entry((token, version))
                .or_insert_with(|| Reading { at, record: record.clone() });
        }
        records
    }

    /// Every version of a step's record that was read so far, in order.
    pub fn readings(&self, step: &Step) -> Vec<Reading> {
        let readings = self.readings.lock().unwrap();
        readings
            .range((step.token.clone(), 0)..=(step.token.clone(), u64::MAX))
            .map(|(_, reading)| reading.clone())
            .collect()
    }

    /// Waits for the answer of a step that SageMaker accepts.
    pub async fn answer(&self, step: &Step) -> Request {
        until("the step is answered", async || self.sagemaker.accepted(&step.token).is_some())
            .await;
        self.sagemaker.accepted(&step.token).expect("an answer")
    }

    /// Waits until the ledger has the step as settled.
    pub async fn settled(&self, step: &Step) {
        let settled =
            async || self.record(step).is_some_and(|record| record["status"] == "settled");
        until("the record is settled", settled).await;
    }

    pub async fn queue_is_empty(&self) {
        until("the queue is empty", async || self.queue.is_empty().await).await;
    }

    /// The end of nearly every story: one answer, all attempts to send it identical, and no message
    /// left. Returns the answer.
    pub async fn answered_once(&self, step: &Step) -> Request {
        let answer = self.answer(step).await;
        self.queue_is_empty().await;
        for report in self.sagemaker.reports(&step.token) {
            assert_eq!((&report.operation, &report.body), (&answer.operation, &answer.body));
        }
        answer
    }
}

impl Step {
    pub fn executing(&self) -> String {
        self.message("Executing")
    }

    pub fn stopping(&self) -> String {
        self.message("Stopping")
    }

    fn message(&self, status: &str) -> String {
        json!({ "token": self.token, "pipelineExecutionArn": self.arn, "arguments": self.arguments, "status": status })
            .to_string()
    }

    /// Its line in `runs` for an attempt.
    pub fn attempt(&self, attempt: u32) -> String {
        format!("{} {attempt}", self.token)
    }

    /// Its line in `cleanups` for a reason.
    pub fn cleaned(&self, reason: &str) -> String {
        format!("{} {reason}", self.token)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let complaints = self.sagemaker.complaints();
        let logs = self.logs();
        if !std::thread::panicking() {
            assert!(
                complaints.is_empty(),
                "SageMaker was sent what it would refuse: {complaints:#?}"
            );
            let confessions: Vec<&str> =
                logs.iter().flat_map(|(_, log)| confessions(log)).collect();
            assert!(confessions.is_empty(), "the daemon was mistaken: {confessions:#?}");
            let nameless: Vec<&str> =
                logs.iter().flat_map(|(_, log)| lines::nameless(log)).collect();
            assert!(nameless.is_empty(), "lines without event or code: {nameless:#?}");
            return;
        }
        eprintln!(
            "invalid requests: {complaints:#?}\nruns: {:?}\ncleanups: {:?}",
            self.runs(),
            self.cleanups()
        );
        for (path, log) in logs {
            eprintln!("{}:\n{log}", path.display());
        }
    }
}

/// Log lines that reveal a defect in the daemon.
pub fn confessions(log: &str) -> impl Iterator<Item = &str> {
    let marks = ["internal error: this is a bug in callbackd", "panicked at", "panicked: "];
    log.lines().filter(move |line| marks.iter().any(|mark| line.contains(mark)))
}

/// Polls until something is so.
pub async fn until(what: &str, is_so: impl AsyncFnMut() -> bool) {
    until_within(PATIENCE, what, is_so).await;
}

/// [`until`], for what takes longer than all else.
pub async fn until_within(patience: Duration, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < patience, "it did not come to pass that {what}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

/// Polls for this long, and never finds it so.
pub async fn never(what: &str, within: Duration, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while begun.elapsed() < within {
        assert!(!is_so().await, "it came to pass that {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Ten letters and digits that no other test uses.
pub fn random_token() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(10).collect()
}
