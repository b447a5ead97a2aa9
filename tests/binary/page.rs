//! The page at `/`, in a real browser: `tests/page/page.test.mjs` has the claims, and this the
//! daemon that it looks at.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use callbackd::ledger::{Commit, Ledger, Sqlite, Written};
use callbackd::lifecycle::{Record, Status};
use callbackd::step::Step as CallbackStep;
use futures_util::future::join_all;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::logs::free_port;
use crate::output::printed;
use crate::scene::{Scene, Step, until};

/// What a program may say of itself.
const HOSTILE: &str = "<img src=x onerror=alert(1)>";
const DEFERRED: u32 = 10_000;

/// Puts deferred steps into the ledger, as a worker before this one has left them.
async fn fill(scene: &Scene) {
    let store = Sqlite::open(&scene.ledger(), Arc::new(())).expect("it opens");
    let ledger = Ledger::beside(Arc::new(store));
    let now = Timestamp::now();
    let later = |seconds: i64| now.checked_add(SignedDuration::from_secs(seconds)).expect("a time");
    let record = |number: u32| {
        let pipeline = ["churn-weekly", "fraud-training", "price-forecast"][number as usize % 3];
        let arn = format!(
            "arn:aws:sagemaker:us-east-1:123456789012:pipeline/{pipeline}/execution/e{number:011}"
        );
        let step = CallbackStep {
            token: format!("defer{number:05}").parse().expect("a token"),
            execution: arn.parse().expect("an ARN"),
            arguments: Arc::new(json!({ "model": "m-17", "note": HOSTILE })),
        };
        let queue = scene.queue.url.parse().expect("a URL");
        let record =
            Record::of_message(step, queue, Some("job".into()), later(-60 * i64::from(number)));
        let key = match number {
            0 => HOSTILE.to_owned(),
            1 => "turned \u{202e}round".to_owned(),
            _ => format!("ORDER-{number:05}"),
        };
        Record {
            status: Status::Deferred,
            attempt: 1,
            key: Some(key.parse().expect("a key")),
            deadline: Some(later(7 * 24 * 3600)),
            ..record
        }
    };
    for some in (0..DEFERRED).collect::<Vec<_>>().chunks(1000) {
        let puts = some.iter().map(|number| ledger.write(record(*number), Commit::Soon));
        for put in join_all(puts).await {
            assert!(matches!(put, Ok(Written::Done(_))), "{put:?}");
        }
    }
}

/// The folder of the scripts, with the packages of its lock file.
fn scripts() -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    fs::create_dir_all(&folder).expect("it is writable");
    for file in ["package.json", "package-lock.json", "page.test.mjs"] {
        fs::copy(from.join(file), folder.join(file)).expect("it is writable");
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--loglevel=error", "--no-audit", "--no-fund", "--ignore-scripts"]);
    let status = npm.current_dir(&folder).status().expect("npm starts");
    assert!(status.success(), "npm ci: {status}");
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_ten_thousand_steps_and_no_one_s_markup() {
    let script = format!(
        "[ -e $FOLDER/defers ] && exit 0\n\
         if [ -e $FOLDER/fails ]; then printf '{HOSTILE}\\033[2J\\n' >&2; exit 1; fi\n\
         printf '0.4 <b>epoch</b> 4 of 10' > $STEP_PROGRESS\n\
         n=0; until [ -e $FOLDER/gate ] || [ $n = 600 ]; do n=$((n+1)); sleep 1; done"
    );
    let scene = Scene::new(&script).await;
    fill(&scene).await;
    let address = free_port();
    let operators = "the-operators-token-in-a-file".to_owned();
    fs::write(scene.path("token"), &operators).expect("it is writable");
    let config = scene
        .config()
        .with("http.listen", address.to_string())
        .with("http.token_file", scene.path("token").display().to_string())
        .with("handlers.job.settings.deferred", true);
    let daemon = scene.start(&config.clone().with("queues.0.stop_watch", "0s"));
    daemon.listens_at(address);
    let shows = async |step: &Step, text: &str| {
        let answer = daemon.status(&format!("/steps/{}", step.token)).await;
        answer.is_some_and(|(_, body)| body.contains(text))
    };
    scene.open("fails");
    let failed = scene.step_sent().await;
    until("it has failed", async || shows(&failed, "\"settled\"").await).await;
    fs::remove_file(scene.path("fails")).expect("it is there");
    scene.open("defers");
    let deferred = scene.step_sent().await;
    until("it is deferred", async || shows(&deferred, "\"deferred\"").await).await;
    fs::remove_file(scene.path("defers")).expect("it is there");
    let running = scene.step_sent().await;
    until("it is shown", async || shows(&running, "epoch").await).await;

    let begun = Instant::now();
    let failed_token = failed.token.clone();
    let variables = [
        ("PAGE", format!("http://{address}/")),
        ("RUNNING", running.token),
        ("FAILED", failed.token),
        ("DEFERRED", deferred.token.clone()),
        ("TOKEN", operators.clone()),
    ];
    let output = spawn_blocking(move || {
        let mut node = Command::new("node");
        node.args(["--test", "--test-reporter=spec", "page.test.mjs"])
            .current_dir(scripts())
            .envs(variables)
            .output()
    });
    let output = output.await.expect("it ends").expect("node starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let answer = scene.answer(&deferred).await;
    let report: Value = serde_json::from_str(&answer.body).expect("JSON");
    let score = json!({ "Name": "score", "Value": "0.50" });
    assert_eq!(report["OutputParameters"][1], score, "{report}");
    let levels = ["INFO", "WARN", "ERROR"];
    let taken = daemon.complaints(&levels, "order_taken");
    let told = |line: &Value| [line["order"].clone(), line["about"].clone()];
    let told: Vec<[Value; 2]> = taken.iter().map(told).collect();
    let orders =
        [("complete", &*deferred.token), ("pause", "handler job"), ("resume", "handler job")];
    assert_eq!(told, orders.map(|(order, about)| [json!(order), json!(about)]), "{taken:?}");
    assert_eq!(daemon.complaints(&levels, "token_refused").len(), 1);
    assert!(daemon.complaints(&levels, &operators).is_empty(), "no line has the token");
    let log = printed(&scene.environment().run(&config, &["show", &failed_token, "--log"]));
    assert!(log.contains(&format!(" 1 stderr | {HOSTILE}\\u{{1b}}[2J")), "{log}");
    let asked = "callbackd_aws_requests_total{service=\"sqs\",operation=\"GetQueueAttributes\",\
                 result=\"ok\"}";
    let asked = daemon.metric(asked).await.expect("it has asked");
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    assert!(asked <= minutes + 2.0, "once a minute, however often the page is read: {asked}");
}
