//! A log that is not read, or that cannot be written: it costs lines, and nothing else.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Write};
use std::net::{SocketAddr, TcpListener};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::daemon::Config;
use crate::operations::exit_code;
use crate::scene::{Scene, until};

/// Prints without end until the gate opens.
const LOUD: &str =
    "until [ -e $FOLDER/gate ]; do head -c 1000000 /dev/zero | tr '\\0' x; echo; sleep 0.05; done";

const DROPPED: &str = "callbackd_log_lines_dropped_total";

/// A port that is free at the moment.
pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

fn listening(scene: &Scene, address: SocketAddr) -> Config {
    scene.config().with("http.listen", address.to_string())
}

/// A pipe that is full already, as after a previous writer was stopped for the same reason.
fn full_pipe() -> (PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let flags = OFlag::from_bits_retain(fcntl(&writer, FcntlArg::F_GETFL).expect("it is open"));
    fcntl(&writer, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).expect("it is ours");
    while writer.write(b"{}\n").is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(flags)).expect("it is ours");
    (reader, writer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_reader_that_stands_still_stops_neither_steps_nor_health_nor_the_end() {
    let scene = Scene::new(LOUD).await;
    let address = free_port();
    let (reader, stderr) = full_pipe();
    let mut daemon = scene.environment().start_on(&listening(&scene, address), stderr);
    daemon.listens_at(address);
    let first = scene.step_sent().await;
    until("lines are dropped", async || daemon.metric(DROPPED).await > Some(0.0)).await;
    assert_eq!(daemon.status("/healthz").await.map(|(status, _)| status), Some(200));
    // Its message is kept all the while, and another step is begun and answered.
    let kept = scene.to_sqs.seen("changemessagevisibilitybatch") + 2;
    let second = scene.step_sent().await;
    until("messages are kept", async || scene.to_sqs.seen("changemessagevisibilitybatch") >= kept)
        .await;
    scene.open("gate");
    scene.answered_once(&first).await;
    scene.answered_once(&second).await;
    daemon.signal(Signal::SIGTERM);
    assert_eq!(exit_code(&mut daemon).await, Some(0));
    assert_eq!(scene.runs().len(), 2);
    drop(reader);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_is_said_where_it_is_missing_and_the_last_line_is_there() {
    let scene = Scene::new(LOUD).await;
    let address = free_port();
    let (reader, stderr) = std::io::pipe().expect("a pipe");
    let mut daemon = scene.environment().start_on(&listening(&scene, address), stderr);
    daemon.listens_at(address);
    let step = scene.step_sent().await;
    until("lines are dropped", async || daemon.metric(DROPPED).await > Some(0.0)).await;
    let reading = tokio::task::spawn_blocking(move || -> Vec<Value> {
        let lines = BufReader::new(reader).lines().map(|line| line.expect("UTF-8"));
        lines
            .map(|line| {
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect()
    });
    scene.open("gate");
    scene.answered_once(&step).await;
    daemon.signal(Signal::SIGTERM);
    assert_eq!(exit_code(&mut daemon).await, Some(0));
    let lines = reading.await.expect("every line is JSON");
    let gaps: Vec<&Value> =
        lines.iter().filter(|line| line["dropped"].as_u64() > Some(0)).collect();
    assert!(!gaps.is_empty(), "the gap is said");
    assert_eq!(lines.last().expect("a line")["message"], "drained");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_written_stops_nothing() {
    let scene = Scene::new("").await;
    let address = free_port();
    let full = File::options().write(true).open("/dev/full").expect("Linux has it");
    let mut daemon = scene.environment().start_on(&listening(&scene, address), full);
    daemon.listens_at(address);
    let step = scene.step_sent().await;
    scene.answered_once(&step).await;
    assert!(daemon.metric(DROPPED).await > Some(0.0));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(exit_code(&mut daemon).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complaint_that_nobody_reads_keeps_no_exit_code() {
    let scene = Scene::new("").await;
    for (key, value, code) in
        [("worker.id", "?", 78), ("ledger.path", "/proc/nowhere/ledger.db", 1)]
    {
        let (_reader, stderr) = full_pipe();
        let mut daemon = scene.environment().start_on(&scene.config().with(key, value), stderr);
        assert_eq!(exit_code(&mut daemon).await, Some(code), "{key}");
    }
}
