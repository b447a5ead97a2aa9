//! A daemon that is killed at random moments, again and again, or frozen for longer than any
//! timeout.

use std::collections::BTreeSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::sleep;

use crate::history::judge;
use crate::sagemaker::{Fault, SUCCESS};
use crate::scene::{Scene, until};

/// Some end at once, some after a while, some at the third attempt, some never unless they are
/// stopped; all report what is alive of an earlier run.
const MIXED: &str = r#"
pid=$FOLDER/pid-$STEP_TOKEN
[ -e $pid ] && alive $(cat $pid) && echo $$ >> $FOLDER/alive
echo $$ > $pid
case $(cat) in
    *'"kind":"slow"'*) sleep 1.5; end 0 ;;
    *'"kind":"retry"'*) [ $STEP_ATTEMPT -lt 3 ] && end 75; end 0 ;;
    *'"kind":"failing"'*) echo "no such table" >&2; end 3 ;;
    *'"kind":"stopped"'*) until_there never ;;
    *) end 0 ;;
esac
"#;
const KINDS: [&str; 5] = ["quick", "slow", "retry", "failing", "stopped"];
/// At least this many, and more as long as too few of them hit anything.
const KILLS: usize = 25;
const KILLS_AT_MOST: usize = 150;
/// How many must hit a running program, and how many a frozen outcome that is not reported.
const HITS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_at_random_the_daemon_breaks_no_promise() {
    let scene = Scene::new(MIXED).await;
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    println!("the moments are of seed {seed}");
    let config =
        scene.config().with("handlers.job.max_attempts", 100).with("queues.0.concurrency", 20);
    let mut steps = Vec::new();
    let (mut runs_cut, mut reports_cut) = (BTreeSet::new(), BTreeSet::new());
    for kill in 0.. {
        if kill >= KILLS && runs_cut.len().min(reports_cut.len()) >= HITS {
            break;
        }
        assert!(
            kill < KILLS_AT_MOST,
            "{kill} kills hit no more than {runs_cut:?} and {reports_cut:?}"
        );
        // Every other life has outcomes that it cannot report.
        if kill % 2 == 0 {
            scene.sagemaker.always(SUCCESS, Fault::Hang);
        }
        let mut daemon = scene.start(&config);
        until("it is up", async || daemon.is_up()).await;
        let kind = KINDS[kill % KINDS.len()];
        let new = scene.step_sent_with(serde_json::json!({ "kind": kind })).await;
        // The moment is the test: there is nothing to wait for.
        sleep(Duration::from_millis(random.u64(20..900))).await;
        if kind == "stopped" {
            scene.stop(&new).await;
        }
        steps.push(new);
        sleep(Duration::from_millis(random.u64(0..400))).await;
        daemon.kill();
        scene.sagemaker.heal();
        let begun = scene.runs();
        for record in scene.records() {
            let attempt =
                format!("{} {}", record["token"].as_str().expect("a token"), record["attempt"]);
            match record["status"].as_str() {
                Some("claimed")
                    if record["stop_requested"].is_null() && begun.contains(&attempt) =>
                {
                    runs_cut.insert(attempt)
                }
                Some("concluded") => reports_cut.insert(attempt),
                _ => false,
            };
        }
    }
    println!(
        "{} kills cut short {} runs and {} reports",
        steps.len(),
        runs_cut.len(),
        reports_cut.len()
    );
    let _last = scene.start(&config);
    for step in &steps {
        scene.answer(step).await;
        scene.settled(step).await;
    }
    scene.queue_is_empty().await;
    assert_eq!(scene.lines("alive"), Vec::<String>::new(), "of an earlier run");
    judge(&scene, &steps).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_for_longer_than_a_visibility_timeout_the_daemon_goes_on_with_its_run() {
    let scene = Scene::new("until_there gate; end 0").await;
    let step = scene.step_sent().await;
    let daemon = scene.start(&scene.config());
    until("it runs", async || scene.runs().len() == 1).await;
    daemon.signal(Signal::SIGSTOP);
    until("the message is visible again", async || scene.queue.visible().await == 1).await;
    daemon.signal(Signal::SIGCONT);
    until("it is held again", async || scene.queue.invisible().await == 1).await;
    scene.open("gate");
    scene.answered_once(&step).await;
    scene.settled(&step).await;
    assert_eq!(scene.runs(), [step.attempt(1)]);
    judge(&scene, &[step]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_daemons_with_a_ledger_each_the_frozen_one_finds_its_step_answered() {
    let scene = Scene::new("[ -e $FOLDER/second ] || until_there gate; end 0").await;
    let step = scene.step_sent().await;
    let frozen = scene.start(&scene.config());
    until("it runs", async || scene.runs().len() == 1).await;
    frozen.signal(Signal::SIGSTOP);
    scene.open("second");
    let other = scene.config().with("ledger.path", scene.path("other.db").display().to_string());
    let _other = scene.environment().start(&other, "other");
    let answer = scene.answer(&step).await;
    frozen.signal(Signal::SIGCONT);
    scene.open("gate");
    scene.settled(&step).await;
    scene.queue_is_empty().await;
    assert_eq!(
        scene.sagemaker.accepted(&step.token).map(|taken| taken.body),
        Some(answer.body),
        "SageMaker took one answer"
    );
    assert_eq!(scene.runs().len(), 2, "each ledger began it once");
}
