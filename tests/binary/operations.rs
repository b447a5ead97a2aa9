//! Starting, watching and stopping the daemon.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::time::Instant;

use crate::daemon::{Config, Daemon};
use crate::sagemaker::{Fault, SUCCESS};
use crate::scene::{Scene, until};

pub async fn exit_code(daemon: &mut Daemon) -> Option<i32> {
    until("the daemon ends", async || daemon.ended().is_some()).await;
    daemon.ended().expect("it ended").code()
}

async fn draining(daemon: &Daemon) {
    until("it drains", async || {
        daemon.status("/readyz").await.is_some_and(|(status, _)| status == 503)
    })
    .await;
}

/// Its last poll ends long before the daemon would give it up.
fn polling(scene: &Scene) -> Config {
    scene.config().with("queues.0.poll_wait", "1s")
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_runs_finish_and_leaves_nothing_stranded() {
    let scene = Scene::new("until_there gate").await;
    let steps = [scene.step_sent().await, scene.step_sent().await];
    let mut daemon = scene.start(&polling(&scene).listening());
    until("both run", async || scene.runs().len() == 2).await;
    daemon.signal(Signal::SIGTERM);
    draining(&daemon).await;
    let late = scene.step_sent().await;
    scene.open("gate");
    assert_eq!(exit_code(&mut daemon).await, Some(0));
    for step in &steps {
        assert!(scene.sagemaker.accepted(&step.token).is_some(), "a run that ended is answered");
    }
    assert_eq!((scene.queue.invisible().await, scene.queue.visible().await), (0, 1));
    assert!(scene.queue.glance().await.contains(&late.token));
    assert_eq!(scene.runs().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_outlasts_the_drain_is_released_and_not_failed() {
    let scene = Scene::new("until_there gate").await;
    let step = scene.step_sent().await;
    let config = polling(&scene);
    let mut daemon = scene.start(&config.clone().with("worker.drain_timeout", "1s"));
    until("it runs", async || !scene.runs().is_empty()).await;
    daemon.signal(Signal::SIGTERM);
    assert_eq!(exit_code(&mut daemon).await, Some(0));
    assert!(scene.sagemaker.reports(&step.token).is_empty());
    assert!(scene.cleanups().is_empty());
    assert_eq!(
        (scene.queue.invisible().await, scene.queue.visible().await),
        (0, 1),
        "visible at once"
    );
    scene.open("gate");
    let _next = scene.start(&config);
    scene.answered_once(&step).await;
    assert_eq!(scene.runs(), [step.attempt(1), step.attempt(1)], "a shutdown is no failed attempt");
}

async fn a_job_that_exits_while_the_daemon_drains_is_not_started_again(status: u32) {
    let scene = Scene::new(&format!("until_there gate; exit {status}")).await;
    let step = scene.step_sent().await;
    let config = scene
        .config()
        .listening()
        .with("worker.drain_timeout", "80s")
        .with("handlers.job.max_attempts", 100);
    let mut daemon = scene.start(&config.with("handlers.job.settings.poll_interval", "1s"));
    until("it runs", async || scene.runs().len() == 1).await;
    daemon.signal(Signal::SIGTERM);
    draining(&daemon).await;
    let late = scene.step_sent().await;
    scene.open("gate");
    let began = Instant::now();
    assert_eq!(exit_code(&mut daemon).await, Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(40),
        "nothing is left to wait for: {:?}",
        began.elapsed()
    );
    assert_eq!(scene.runs(), [step.attempt(1)], "with {status}");
    assert!(
        scene.sagemaker.reports(&step.token).is_empty()
            && scene.sagemaker.reports(&late.token).is_empty()
    );
    until("both messages are visible", async || scene.queue.visible().await == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_to_be_tried_again_or_looked_at_again_is_left_to_the_next_worker_when_the_daemon_drains()
 {
    tokio::join!(
        a_job_that_exits_while_the_daemon_drains_is_not_started_again(75),
        a_job_that_exits_while_the_daemon_drains_is_not_started_again(76),
    );
}

/// `after` the message is received, the daemon is told to end.
async fn a_step_begun_at_the_last_moment_hears_of_the_shutdown(after: Duration) {
    let run = "trap 'echo told >> $FOLDER/told' TERM; echo ready >> $FOLDER/ready; until_there \
               gate; until_there gate";
    let scene = Scene::new(run).await;
    let step = scene.step_sent().await;
    let config =
        scene.config().with("worker.drain_timeout", "2s").with("handlers.job.stop_grace", "3s");
    let mut daemon = scene.start(&config);
    until("it is received", async || !scene.to_sqs.received().is_empty()).await;
    tokio::time::sleep(after).await;
    daemon.signal(Signal::SIGTERM);
    // Lets an open poll end.
    scene.step_sent().await;
    let began = Instant::now();
    assert_eq!(exit_code(&mut daemon).await, Some(0));
    assert!(
        began.elapsed() < Duration::from_secs(40),
        "{:?} after the signal, {after:?} after the receive",
        began.elapsed()
    );
    assert_eq!(
        scene.lines("told").len(),
        scene.lines("ready").len(),
        "{after:?} after the receive"
    );
    assert!(scene.sagemaker.reports(&step.token).is_empty());
    until("both messages are visible", async || scene.queue.visible().await == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_begun_just_before_a_shutdown_is_told_of_it() {
    let after = |milliseconds| {
        a_step_begun_at_the_last_moment_hears_of_the_shutdown(Duration::from_millis(milliseconds))
    };
    tokio::join!(after(0), after(5), after(15), after(40), after(100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_cuts_the_waiting_short_and_releases_the_step() {
    let scene = Scene::new("until_there gate").await;
    let step = scene.step_sent().await;
    let mut daemon = scene.start(&polling(&scene).listening().with("worker.drain_timeout", "24h"));
    until("it runs", async || !scene.runs().is_empty()).await;
    daemon.signal(Signal::SIGTERM);
    draining(&daemon).await;
    daemon.signal(Signal::SIGTERM);
    assert_eq!(exit_code(&mut daemon).await, Some(0));
    assert!(scene.sagemaker.reports(&step.token).is_empty());
    assert_eq!((scene.queue.invisible().await, scene.queue.visible().await), (0, 1));
}

/// ECS leaves 30 s between SIGTERM and SIGKILL by default.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_daemon_ends_before_ecs_loses_patience_though_its_agent_and_its_queue_are_silent() {
    let scene = Scene::new("").await;
    for operation in ["receivemessage", "changemessagevisibilitybatch", "deletemessagebatch"] {
        scene.to_sqs.hold(operation);
    }
    // Connections wait there to be accepted.
    let agent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let uri = format!("http://{}/api/task", agent.local_addr().expect("an address"));
    let mut daemon = scene.start_in(&scene.config(), &[("ECS_AGENT_URI", &uri)]);
    until("it polls", async || scene.to_sqs.seen("receivemessage") > 0).await;
    daemon.signal(Signal::SIGTERM);
    let began = Instant::now();
    assert_eq!(exit_code(&mut daemon).await, Some(0));
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigint_drains_like_sigterm() {
    let scene = Scene::new("").await;
    let step = scene.step_sent().await;
    let mut daemon = scene.start(&scene.config());
    scene.answered_once(&step).await;
    daemon.signal(Signal::SIGINT);
    assert_eq!(exit_code(&mut daemon).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_cannot_be_sent_before_the_end_is_sent_by_the_next_process() {
    let scene = Scene::new("date +%N | sed s/^/at=/ >> $STEP_OUTPUT").await;
    scene.sagemaker.always(SUCCESS, Fault::Answer(503, "ServiceUnavailable"));
    let step = scene.step_sent().await;
    let config = polling(&scene).with("worker.drain_timeout", "1s");
    let mut daemon = scene.start(&config);
    until("a report was refused", async || !scene.sagemaker.reports(&step.token).is_empty()).await;
    daemon.signal(Signal::SIGTERM);
    assert_eq!(exit_code(&mut daemon).await, Some(0));
    // Not given back at once: a worker with another ledger would compute the outcome again.
    assert_eq!(scene.queue.size().await, 1, "its message is still there");
    scene.sagemaker.heal();
    let _next = scene.start(&config);
    scene.answered_once(&step).await;
    assert_eq!(scene.runs(), [step.attempt(1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_is_told_whole_with_exit_78_before_any_call() {
    let scene = Scene::new("").await;
    scene.step_sent().await;
    let config = scene.config().with("worker.drain_timeot", "1s").with("queues.0.concurrency", 0);
    let config =
        config.with("queues.0.visibility_timeout", "1s").with("handlers.job.on_stop", "maybe");
    let output = scene.environment().run(&config.with("queues.0.handler", "jobb"), &["run"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{told}");
    for key in ["drain_timeot", "concurrency", "visibility_timeout", "on_stop", "jobb"] {
        assert!(told.contains(key), "{key} is not named:\n{told}");
    }
    assert!(told.contains("callbackd.toml"), "{told}");
    assert_eq!((scene.to_sqs.seen(""), scene.sagemaker.number_of_requests()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_cannot_be_opened_ends_the_daemon_with_exit_1() {
    let scene = Scene::new("").await;
    scene.step_sent().await;
    scene.open("file");
    let path = scene.path("file/ledger.db").display().to_string();
    let output =
        scene.environment().run(&scene.config().with("ledger.path", path.as_str()), &["run"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&path), "{told}");
    assert_eq!(scene.queue.visible().await, 1, "nothing was taken");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_server_tells_of_a_running_step() {
    let scene = Scene::new("until_there gate").await;
    let step = scene.step_sent().await;
    let daemon = scene.start(&scene.config().listening());
    until("it runs", async || !scene.runs().is_empty()).await;
    assert_eq!(daemon.status("/healthz").await.map(|(status, _)| status), Some(200));
    until("it is ready", async || {
        daemon.status("/readyz").await.is_some_and(|(status, _)| status == 200)
    })
    .await;
    let steps = daemon.steps().await.expect("/steps answers");
    assert_eq!(steps[0]["token"], step.token.as_str());
    assert_eq!((&steps[0]["status"], &steps[0]["attempt"]), (&"claimed".into(), &1.into()));
    let name = scene.queue.url.rsplit('/').next().expect("a name");
    let running = format!("callbackd_steps_running{{queue=\"{name}\",handler=\"job\"}}");
    assert_eq!(daemon.metric(&running).await, Some(1.0));
    assert!(daemon.metric("callbackd_tasks").await > Some(0.0));
    let of_queue = async |metric: &str| {
        daemon.metric(&format!("callbackd_{metric}{{queue=\"{name}\"}}")).await
    };
    assert_eq!(of_queue("concurrency").await, Some(16.0));
    assert_eq!(of_queue("messages_held").await, Some(1.0));
    let now = jiff::Timestamp::now().as_duration().as_secs_f64();
    assert!(
        of_queue("last_poll_timestamp_seconds")
            .await
            .is_some_and(|at| at > now - 600.0 && at < now + 60.0)
    );
    let attempts = format!("callbackd_attempts_total{{queue=\"{name}\",handler=\"job\"}}");
    assert_eq!(daemon.metric(&attempts).await, Some(1.0));
    assert_eq!(daemon.metric("callbackd_ready").await, Some(1.0));
    assert_eq!(daemon.metric("callbackd_draining").await, Some(0.0));
    scene.open("gate");
    scene.answered_once(&step).await;
    let ended =
        format!("callbackd_steps_total{{queue=\"{name}\",handler=\"job\",outcome=\"success\"}}");
    until("it is counted", async || daemon.metric(&ended).await == Some(1.0)).await;
    assert_eq!(daemon.metric(&running).await, Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_are_narrowed_to_what_is_asked_for_and_leave_arguments_to_the_step_s_own_page() {
    let scene = Scene::new("").await;
    let daemon = scene.start(&scene.config().listening());
    let steps = [scene.step_sent().await, scene.step_sent().await];
    for step in &steps {
        scene.settled(step).await;
    }
    let count = async |query: &str| {
        let (status, body) = daemon.status(&format!("/steps?{query}")).await.expect("it answers");
        assert_eq!(status, 200, "{query}: {body}");
        serde_json::from_str::<Value>(&body).expect("JSON").as_array().expect("an array").len()
    };
    for (query, found) in [
        ("", 2),
        ("status=settled", 2),
        ("status=claimed,waiting", 0),
        ("pipeline=P", 2),
        ("pipeline=other", 0),
        ("handler=job&limit=1", 1),
        ("handler=other", 0),
        ("since=1h", 2),
        ("since=1h&limit=1", 1),
        ("since=2020-01-01T00:00:00Z", 2),
        ("since=2999-01-01T00:00:00Z", 0),
    ] {
        assert_eq!(count(query).await, found, "{query}");
    }
    let [first, second] = if steps[0].token < steps[1].token { [0, 1] } else { [1, 0] }
        .map(|at: usize| &steps[at].token);
    assert_eq!(count(&format!("since=1h&limit=1&cursor={first}")).await, 1);
    assert_eq!(count(&format!("since=1h&cursor={second}")).await, 0);
    for wrong in ["since=yesterday", "limit=0", "status=gone", "colour=red"] {
        assert_eq!(
            daemon.status(&format!("/steps?{wrong}")).await.map(|(status, _)| status),
            Some(400),
            "{wrong}"
        );
    }
    assert!(daemon.steps().await.expect("/steps answers")[0].get("arguments").is_none());
    let running = scene.step_sent().await;
    until("its record is there", async || scene.record(&running).is_some()).await;
    let (status, body) =
        daemon.status(&format!("/steps/{}", running.token)).await.expect("it answers");
    assert_eq!(status, 200, "{body}");
    assert!(
        serde_json::from_str::<Value>(&body).expect("JSON").get("arguments").is_some(),
        "{body}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_output_cannot_be_written_fails_and_one_that_nobody_reads_on_does_not() {
    let scene = Scene::new("").await;
    let config = scene.config();
    let step = scene.step_sent().await;
    let _daemon = scene.start(&config);
    scene.settled(&step).await;
    for arguments in [&["steps", "--json"][..], &["steps"], &["config"], &["--help"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux has it");
        let output = scene.environment().run_onto(&config, arguments, full);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("standard output could not be written"), "{arguments:?}: {told}");
        let (reader, nobody) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = scene.environment().run_onto(&config, arguments, nobody);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_of_the_log_is_json_and_a_step_s_lines_bear_its_token() {
    let scene = Scene::new("echo 'a \"line\"'; printf '\\033[31mred\\n' >&2").await;
    let step = scene.step_sent().await;
    let daemon = scene.start(&scene.config());
    scene.answered_once(&step).await;
    until("the answer is logged", async || daemon.log().contains("a \\\"line\\\"")).await;
    // The last line may be half written.
    let log = daemon.log();
    let lines: Vec<serde_json::Value> = log
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let said =
        lines.iter().find(|line| line["message"] == "a \"line\"").expect("the program's output");
    assert!(said.to_string().contains(&step.token), "{said}");
    assert!(!log.contains('\u{1b}'), "no escape of a program's reaches the log");
}
