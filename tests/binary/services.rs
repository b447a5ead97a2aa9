//! The handler type `http`: what a service is sent, what its answers mean, and what becomes of a
//! request that is open when something else happens.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::daemon::Config;
use crate::output::printed;
use crate::scene::{Scene, never, until};
use crate::service::{self, Reply, Service, free_address};
use crate::venv::Venv;

/// The handler `job` calls this service, and its cleanup if it has one.
fn calling(config: &Config, url: &str) -> Config {
    let mut settings = toml::Table::new();
    settings.insert("url".to_owned(), url.into());
    config.clone().with("handlers.job.type", "http").with("handlers.job.settings", settings)
}

fn calling_with_cleanup(config: &Config, service: &Service) -> Config {
    calling(config, &service.url("/run"))
        .with("handlers.job.settings.cleanup_url", service.url("/cleanup"))
}

async fn scene_and_service() -> (Scene, Service) {
    (Scene::new("").await, Service::start().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_asked_again_with_its_checkpoint_and_no_attempt_until_it_has_outputs() {
    let (scene, service) = scene_and_service().await;
    service.answers(
        "/run",
        [
            service::json(200, &json!({ "again": "1s", "checkpoint": { "job": 7 } })),
            service::json(200, &json!({ "again": "1s" })),
            service::json(200, &json!({ "outputs": { "model": "s3://m", "epochs": 12 } })),
        ],
    );
    let step = scene.step_sent().await;
    let config = calling(&scene.config(), &service.url("/run"));
    let _daemon = scene.start(&config.with("handlers.job.max_attempts", 1));
    let outputs = scene.answered_once(&step).await.outputs();
    assert_eq!(outputs, json!({ "model": "s3://m", "epochs": "12" }));
    let calls = service.calls("/run");
    let given: Vec<Value> = calls.iter().map(|call| call.json()["checkpoint"].clone()).collect();
    assert_eq!(given, [Value::Null, json!({ "job": 7 }), json!({ "job": 7 })]);
    let first = calls[0].json();
    assert_eq!(
        (&first["token"], &first["pipelineExecutionArn"], &first["arguments"]),
        (&json!(step.token), &json!(step.arn), &json!({ "n": 1 }))
    );
    assert_eq!(
        (&first["queueUrl"], &first["pipeline"], &first["attempt"]),
        (&json!(scene.queue.url), &json!("p"), &json!(1))
    );
    let fences: Vec<u64> =
        calls.iter().map(|call| call.json()["fence"].as_u64().expect("a number")).collect();
    assert!(fences.is_sorted_by(|one, next| one < next), "{fences:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_waits_as_asked_and_a_failure_has_the_services_reason() {
    let (scene, service) = scene_and_service().await;
    let busy = Reply::Answer(503, &[("retry-after", "3")], String::new());
    service.answers("/run", [busy, service::json(422, &json!({ "reason": "no such dataset" }))]);
    let step = scene.step_sent().await;
    let _daemon = scene.start(&calling(&scene.config(), &service.url("/run")));
    let reason = scene.answered_once(&step).await.reason();
    assert_eq!(reason, "HTTP 422 Unprocessable Entity: no such dataset");
    let calls = service.calls("/run");
    let waited = calls[1].at.duration_since(calls[0].at);
    // `retry_delay_max` is a second here.
    assert!(waited.as_secs_f64() >= 3.0, "{waited:?}");
    assert_eq!((calls.len(), &calls[1].json()["attempt"]), (2, &json!(2)));
    assert_eq!(calls[0].header("idempotency-key"), calls[1].header("idempotency-key"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_answer_fails_the_step_and_says_why() {
    let (scene, service) = scene_and_service().await;
    let _daemon = scene.start(&calling(&scene.config(), &service.url("/run")));
    let redirect = Reply::Answer(307, &[("location", "/elsewhere")], String::new());
    let large = json!({ "outputs": { "x": "y".repeat(2 << 20) } });
    for (reply, wants) in [
        (redirect, "/elsewhere"),
        (service::json(200, &large), "larger than 1048576 bytes"),
        (service::json(200, &json!({ "outputs": { "model": [1] } })), "`model`"),
        (Reply::Answer(200, &[], "<html>".to_owned()), "not a JSON object"),
    ] {
        service.answers("/run", [reply]);
        let step = scene.step_sent().await;
        let reason = scene.answered_once(&step).await.reason();
        assert!(reason.contains(wants), "{reason}");
    }
    assert!(service.calls("/elsewhere").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_the_service_defers_is_on_record_and_cleaned_up_when_it_is_stopped() {
    let (scene, service) = scene_and_service().await;
    service.answers("/run", [service::json(202, &json!({ "checkpoint": "job-7" }))]);
    service.answers("/cleanup", [service::json(200, &json!({}))]);
    let step = scene.step_sent().await;
    let _daemon = scene.start(&calling_with_cleanup(&scene.config(), &service));
    let deferred =
        async || scene.record(&step).is_some_and(|record| record["status"] == "deferred");
    until("it is deferred", deferred).await;
    scene.queue_is_empty().await;
    assert!(scene.sagemaker.reports(&step.token).is_empty());
    scene.sagemaker.stop(&step.arn);
    assert!(scene.answered_once(&step).await.reason().contains("the pipeline was stopped"));
    let cleanups = service.calls("/cleanup");
    assert_eq!(cleanups.len(), 1);
    let given = cleanups[0].json();
    assert_eq!(
        (&given["checkpoint"], &given["stopReason"]),
        (&json!("job-7"), &json!("pipeline_stopped"))
    );
    assert_eq!(service.calls("/run").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_closes_the_request_and_names_the_status_of_a_cleanup_that_fails() {
    let (scene, service) = scene_and_service().await;
    let gone = service::json(410, &json!({ "reason": "the job is gone" }));
    service.answers("/cleanup", [service::json(503, &json!({})), gone]);
    let step = scene.step_sent().await;
    let _daemon = scene.start(&calling_with_cleanup(&scene.config(), &service));
    until("it is asked", async || service.calls("/run").len() == 1).await;
    scene.stop(&step).await;
    let reason = scene.answered_once(&step).await.reason();
    assert!(
        reason.contains("the pipeline was stopped")
            && reason.contains("HTTP 410 Gone: the job is gone"),
        "{reason}"
    );
    until("the connection is closed", async || service.given_up() == 1).await;
    let cleanups = service.calls("/cleanup");
    assert_eq!(cleanups.len(), 2, "the first was put off");
    assert_eq!(cleanups[0].header("idempotency-key"), cleanups[1].header("idempotency-key"));
    assert_ne!(
        cleanups[0].header("idempotency-key"),
        service.calls("/run")[0].header("idempotency-key")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_service_fails_no_step_and_shows() {
    let scene = Scene::new("").await;
    let address = free_address().await;
    let config = calling(&scene.config(), &format!("http://{address}/run?key=hunter2"));
    let steps = [scene.step_sent().await, scene.step_sent().await];
    let daemon = scene.start(&config.with("handlers.job.max_attempts", 1).listening());
    until("it shows", async || {
        daemon.metric("callbackd_impaired{what=\"service\"}").await == Some(1.0)
    })
    .await;
    let (status, text) = daemon.status("/readyz").await.expect("an answer");
    assert_eq!(status, 503);
    assert!(text.contains("cannot be reached"), "{text}");
    let service = Service::start_at(address).await;
    service.answers(
        "/run?key=hunter2",
        [1, 2].map(|n| service::json(200, &json!({ "outputs": { "n": n } }))),
    );
    for step in &steps {
        scene.answered_once(step).await.outputs();
    }
    until("it is over", async || {
        daemon.metric("callbackd_impaired{what=\"service\"}").await == Some(0.0)
    })
    .await;
    assert!(service.calls("/run?key=hunter2").iter().all(|call| call.json()["attempt"] == 1));
    assert!(!daemon.log().contains("hunter2"), "a query may hold a key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_killed_daemon_left_open_is_sent_again_under_the_same_key() {
    let (scene, service) = scene_and_service().await;
    service.answers("/run", [Reply::Hang]);
    let step = scene.step_sent().await;
    let config = calling(&scene.config(), &service.url("/run"));
    let mut daemon = scene.start(&config);
    until("it is asked", async || service.calls("/run").len() == 1).await;
    daemon.kill();
    until("the connection is closed", async || service.given_up() == 1).await;
    service.answers("/run", [service::json(200, &json!({ "outputs": { "n": 1 } }))]);
    let _next = scene.start(&config);
    assert_eq!(scene.answered_once(&step).await.outputs(), json!({ "n": "1" }));
    let calls = service.calls("/run");
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].header("idempotency-key"), calls[1].header("idempotency-key"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_outlasts_the_grace_of_a_shutdown_is_sent_again_as_the_same_attempt() {
    let (scene, service) = scene_and_service().await;
    let step = scene.step_sent().await;
    let config = calling(&scene.config(), &service.url("/run"));
    let mut daemon = scene.start(&config.clone().with("worker.drain_timeout", "0s"));
    until("it is asked", async || service.calls("/run").len() == 1).await;
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    until("it has ended", async || daemon.ended().is_some()).await;
    until("the grace was over", async || service.given_up() == 1).await;
    assert!(scene.sagemaker.reports(&step.token).is_empty());
    service.answers("/run", [service::json(200, &json!({}))]);
    let _next = scene.start(&config);
    scene.answered_once(&step).await.outputs();
    let calls = service.calls("/run");
    assert_eq!((calls.len(), &calls[1].json()["attempt"]), (2, &json!(1)));
    assert_eq!(calls[0].header("idempotency-key"), calls[1].header("idempotency-key"));
}

/// A process that says on its first line where it listens, killed when dropped.
struct Listening {
    child: Child,
    port: String,
    /// Open, so that what it says later has a place.
    _said: BufReader<ChildStdout>,
}

impl Listening {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut said = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        said.read_line(&mut line).expect("it says where it listens");
        let port = line.split_whitespace().last().expect("a port").to_owned();
        Self { child, port, _said: said }
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}/run", self.port)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_an_unknown_authority_is_refused_until_the_bundle_has_it() {
    let scene = Scene::new("").await;
    let mut command = Command::new(Venv::ready().python());
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/binary/tls_server.py"))
        .arg(scene.folder())
        .arg(json!({ "outputs": { "secure": true } }).to_string());
    let server = Listening::start(&mut command);
    let step = scene.step_sent().await;
    let config = calling(&scene.config(), &server.url("https"));
    let mut daemon = scene.start(&config);
    until("it is said", async || daemon.log().contains("cannot be reached")).await;
    let log = daemon.log().to_lowercase();
    assert!(log.contains("certificate"), "{log}");
    never("it is answered", Duration::from_secs(1), async || {
        !scene.sagemaker.reports(&step.token).is_empty()
    })
    .await;
    daemon.kill();
    let bundle = scene.path("authority.pem");
    let _daemon = scene.start_in(&config, &[("AWS_CA_BUNDLE", bundle.to_str().expect("UTF-8"))]);
    assert_eq!(scene.answered_once(&step).await.outputs(), json!({ "secure": "true" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_is_reached_through_the_proxy() {
    let (scene, service) = scene_and_service().await;
    let _step = scene.step_sent().await;
    let config = calling(&scene.config(), "http://service.invalid/run");
    let proxy = service.url("");
    // Everything else here is on this machine.
    let variables = [("HTTP_PROXY", proxy.as_str()), ("NO_PROXY", "127.0.0.1,localhost")];
    let daemon = scene.start_in(&config, &variables);
    until("the proxy is asked", async || service.calls("http://service.invalid/run").len() == 1)
        .await;
    drop(daemon);
}

fn example(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/http").join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_example_serves_steps_while_its_secret_is_changed() {
    let scene = Scene::new("").await;
    let (theirs, ours) = (scene.path("accepted"), scene.path("secret"));
    let (old, new) = ("the old secret, long enough", "the new secret, long enough");
    fs::write(&theirs, format!("{old}\n{new}\n")).expect("writable");
    fs::write(&ours, format!("{old}\n")).expect("writable");
    let mut command = Command::new("python3");
    command.arg(example("service.py")).arg("0").env("SECRET_FILE", &theirs);
    let server = Listening::start(&mut command);
    let config = calling(&scene.config(), &server.url("http"))
        .with("handlers.job.settings.secret_file", ours.to_str().expect("UTF-8"))
        .with("handlers.job.settings.cleanup_url", server.url("http").replace("run", "cleanup"));
    let _daemon = scene.start(&config);
    let arguments = json!({ "dataset": "penguins", "looks": 2 });
    let step = scene.step_sent_with(arguments.clone()).await;
    let model = |token: &str| json!({ "model": format!("s3://models/{token}"), "looks": "2" });
    assert_eq!(scene.answered_once(&step).await.outputs(), model(&step.token));

    fs::write(scene.path("next"), new).expect("writable");
    fs::rename(scene.path("next"), &ours).expect("writable");
    let step = scene.step_sent_with(arguments.clone()).await;
    assert_eq!(scene.answered_once(&step).await.outputs(), model(&step.token));

    fs::write(&theirs, "only another secret here").expect("writable");
    let step = scene.step_sent_with(arguments).await;
    let reason = scene.answered_once(&step).await.reason();
    assert!(reason.contains("HTTP 401") && reason.contains("signature"), "{reason}");

    fs::write(&theirs, new).expect("writable");
    let step = scene.step_sent_with(json!({})).await;
    let reason = scene.answered_once(&step).await.reason();
    assert!(reason.ends_with("the argument `dataset` is missing"), "{reason}");
    // It has no answer for a while, and is stopped meanwhile.
    let step = scene.step_sent_with(json!({ "dataset": "x", "looks": 1000 })).await;
    until("it waits", async || {
        scene.record(&step).is_some_and(|record| record["checkpoint"]["looks"].is_u64())
    })
    .await;
    scene.stop(&step).await;
    assert_eq!(scene.answered_once(&step).await.reason(), "the pipeline was stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_example_serves_steps() {
    let scene = Scene::new("").await;
    let secret = scene.path("secret");
    fs::write(&secret, "a secret, long enough").expect("writable");
    let mut command = Command::new("node");
    command.arg(example("receiver.mjs")).arg("0").env("SECRET_FILE", &secret);
    let server = Listening::start(&mut command);
    let config = calling(&scene.config(), &server.url("http"))
        .with("handlers.job.settings.secret_file", secret.to_str().expect("UTF-8"));
    let _daemon = scene.start(&config);
    let step = scene.step_sent_with(json!({ "name": "Ada" })).await;
    assert_eq!(scene.answered_once(&step).await.outputs(), json!({ "greeting": "hello, Ada" }));
}

/// Prints whether each of these is signed: the vector itself, then with another time, method, path,
/// body and signature.
const IN_PYTHON: &str = r"
import json, sys
from service import WINDOW, is_signed
v = json.load(open('vector.json'))
def ok(signature=v['signature'], method=v['method'], path=v['path'], body=v['body'], now=v['time']):
    return is_signed(signature, method, path, body.encode(), [v['secret'].encode()], now)
print(json.dumps([ok(), ok(now=v['time'] + WINDOW + 1), ok(method='PUT'), ok(path='/'), ok(body=''),
                  ok(signature=None), ok(signature=v['signature'].replace('v1=0', 'v1=1')),
                  ok(signature='t=x,v1=\u00e9')]))
";
const IN_NODE: &str = r#"
import { readFileSync } from "node:fs";
import { isSigned } from "./receiver.mjs";
const v = JSON.parse(readFileSync("vector.json", "utf8"));
const ok = (changed) => {
  const all = { ...v, now: v.time, ...changed };
  return isSigned(all.signature, all.method, all.path, Buffer.from(all.body), [v.secret], all.now);
};
console.log(JSON.stringify([ok({}), ok({ now: v.time + 301 }), ok({ method: "PUT" }), ok({ path: "/" }),
  ok({ body: "" }), ok({ signature: undefined }),
  ok({ signature: v.signature.replace("v1=0", "v1=1") }), ok({ signature: "t=x,v1=\u00e9" })]));
"#;

#[test]
fn the_receivers_agree_on_what_is_signed() {
    for (program, arguments) in
        [("python3", ["-B", "-c", IN_PYTHON]), ("node", ["--input-type=module", "--eval", IN_NODE])]
    {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(example("")).env_remove("PYTHONPATH");
        let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}"));
        let told: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", printed(&output)));
        let wants = json!([true, false, false, false, false, false, false, false]);
        assert_eq!(told, wants, "{program}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_says_what_is_risky_and_no_dump_shows_a_secret() {
    let scene = Scene::new("").await;
    let mut headers = toml::Table::new();
    headers.insert("authorization".to_owned(), "Bearer hunter2".into());
    let secret = scene.path("secret");
    let config = calling(&scene.config(), "http://service.example/run")
        .with("handlers.job.settings.headers", headers)
        .with("handlers.job.settings.secret_file", secret.to_str().expect("UTF-8"));
    let check = || scene.environment().run(&config, &["check"]);
    let missing = check();
    assert_eq!(missing.status.code(), Some(78), "{}", printed(&missing));
    let missing = printed(&missing);
    assert!(missing.contains("secret, which `secret_file` names, cannot be read"), "{missing}");
    fs::write(secret, "a secret, long enough").expect("writable");
    let told = check();
    assert!(told.status.success(), "{}", printed(&told));
    let told = printed(&told);
    for wants in ["not encrypted", "`authorization`", "chmod o="] {
        assert!(told.contains(wants), "{wants}: {told}");
    }
    let dumped = printed(&scene.environment().run(&config, &["config"]));
    assert!(dumped.contains("/secret") && dumped.contains("***"), "{dumped}");
    assert!(!format!("{missing}{told}{dumped}").contains("hunter2"), "{told}{dumped}");
}
