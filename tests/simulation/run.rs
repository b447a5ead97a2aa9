//! One seed's run: faults, then recovery, then quiet, and nothing may be left over.

use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Once};
use std::time::Duration;

use callbackd::ledger::Memory;
use futures_util::future::join_all;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::runtime::Builder;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::log;
use crate::plan::{Execution, Fleet, Plan};
use crate::script::PANIC;
use crate::worker::Keeper;
use crate::world::{LIVE, QUEUE_URL, Story, World};

/// How long everything may take to settle once the faults are over: every time limit, wait and jump
/// of a clock in a plan, one after another.
const QUIET: Duration = Duration::from_secs(12 * 3_600);
const LOOK: Duration = Duration::from_secs(5);

thread_local! {
    /// What panicked on this thread although no script said so, or what the daemon reported as its
    /// own bug.
    static PANICKED: RefCell<Option<String>> = const { RefCell::new(None) };
    /// What its log says that nothing else shows.
    static SAID: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
}

/// Fails the run of this thread, wherever in the daemon it is.
fn fail_here(why: &str) {
    PANICKED.with_borrow_mut(|panicked| {
        panicked.get_or_insert_with(|| why.to_owned());
    });
}

/// The daemon has logged an error on this thread.
pub fn heard(error: &str) {
    if error.contains(log::BUG) {
        fail_here(error);
    }
    if error.contains("attempts of so many steps have failed") {
        SAID.with_borrow_mut(|said| said.push("path: a breaker opens"));
    }
}

/// Runs a plan on this thread, with nothing else meanwhile.
pub fn run(plan: Plan) -> Story {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        watch_panics();
        log::listen(LIVE.load(Ordering::SeqCst));
    });
    PANICKED.take();
    SAID.take();
    // The engine's jitter and the SDK's ids come from here.
    fastrand::seed(plan.seed);
    // Neither sockets nor other threads: anything that needs them fails here.
    let runtime =
        Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    let mut story = runtime.block_on(play(Arc::new(plan)));
    drop(runtime);
    for what in SAID.take() {
        story.tally.count(what);
    }
    Story { broken: PANICKED.take().or(story.broken), ..story }
}

fn watch_panics() {
    let loud = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload_as_str() != Some(PANIC) {
            fail_here(&panic.to_string());
            loud(panic);
        }
    }));
}

async fn play(plan: Arc<Plan>) -> Story {
    let world = World::new(plan.clone());
    world.count(match plan.fleet {
        Fleet::Single => "fleet: one worker",
        Fleet::Apart => "fleet: two workers, a ledger each",
        Fleet::Sharing => "fleet: two workers, one ledger",
    });
    for hardship in &plan.hardships.of {
        world.count(&format!("hardship: {}", hardship.name()));
    }
    world.count(&format!("setting: verify = {}", plan.verify));
    for limit in ["max_running", "rate", "breaker"] {
        if plan.config.contains(&format!("\n{limit} = ")) {
            world.count(&format!("setting: {limit}"));
        }
    }
    world.create_queues().await;
    let (workers, finish) = (TaskTracker::new(), CancellationToken::new());
    let shared = if plan.fleet == Fleet::Sharing { Memory::shared() } else { Memory::new() };
    for number in 0..plan.lives.len() {
        let number = u32::try_from(number).expect("small");
        let apart = number > 0 && plan.fleet == Fleet::Apart;
        let held = if apart { Memory::new() } else { shared.clone() };
        if number == 0 || apart {
            world.keep(held.clone());
        }
        let (plan, world, finish) = (plan.clone(), world.clone(), finish.clone());
        workers.spawn(Keeper { plan, world, ledger: u8::from(apart), number, held, finish }.keep());
    }
    workers.close();
    trouble(&plan, &world).await;
    world.heal();
    if plan.stopped_in_the_end {
        world.count("path: all stopped without a message");
        world.stop_all_silently().await;
    }
    let until = world.elapsed() + QUIET;
    while !world.is_broken() && !world.left_over().is_empty() && world.elapsed() < until {
        if plan.hardships.denied_for_good {
            world.complete_all().await;
        }
        sleep(LOOK).await;
    }
    for broken in world.left_over().into_iter().filter(|_| !world.is_broken()) {
        world.fail(&broken.to_string());
    }
    if !world.is_broken() {
        finish.cancel();
        workers.wait().await;
        world.hear(None);
    }
    world.story()
}

/// All that the plan has outside the workers, each at its time.
async fn trouble(plan: &Plan, world: &World) {
    let begin = tokio::time::Instant::now();
    let executions = plan.executions.iter().enumerate().map(|(number, execution)| async move {
        sleep_until(begin + execution.start).await;
        let arn = start(world, number, execution).await;
        if let Some(stop) = execution.stop {
            sleep_until(begin + stop).await;
            world.count("path: execution stopped");
            let body =
                json!({"PipelineExecutionArn": arn, "ClientRequestToken": format!("{number:032}")});
            world.ask("SageMaker.StopPipelineExecution", body).await;
        }
    });
    let jumps = plan.jumps.iter().map(|(at, seconds)| async move {
        sleep_until(begin + *at).await;
        world.jump(SignedDuration::from_secs(*seconds));
    });
    let revocations = plan.revocations.iter().map(|at| async move {
        sleep_until(begin + *at).await;
        world.revoke_keys();
    });
    let unreadable = plan.unreadable.iter().map(|(at, body)| async move {
        sleep_until(begin + *at).await;
        world.send_unreadable(body).await;
    });
    let hardships = &plan.hardships;
    let purges = hardships.purges.iter().map(|at| async move {
        sleep_until(begin + *at).await;
        world.purge().await;
    });
    let others = hardships.others.iter().map(|at| async move {
        sleep_until(begin + *at).await;
        world.complete_all().await;
    });
    let forgeries = hardships.forgeries.iter().map(|(at, forgery)| async move {
        sleep_until(begin + *at).await;
        world.forge(*forgery).await;
    });
    let sets = hardships.sets.iter().map(|(at, seconds)| async move {
        sleep_until(begin + *at).await;
        world.count("fault: the wall clock is set by hours");
        world.jump(SignedDuration::from_secs(*seconds));
    });
    let suspensions = hardships.suspensions.iter().map(|(at, time)| async move {
        sleep_until(begin + *at).await;
        world.suspend(*time);
    });
    let copies = hardships.copies.iter().map(|at| async move {
        sleep_until(begin + *at).await;
        world.copy_to_second().await;
    });
    let retries = hardships.retries.iter().enumerate().map(|(number, at)| async move {
        sleep_until(begin + *at).await;
        world.retry_all(number).await;
    });
    tokio::join!(
        join_all(purges),
        join_all(others),
        join_all(forgeries),
        join_all(sets),
        join_all(suspensions),
        join_all(copies),
        join_all(retries),
        join_all(executions),
        join_all(jumps),
        join_all(revocations),
        join_all(unreadable),
        sleep_until(begin + plan.faults)
    );
}

/// Starts a pipeline of its own, and gives the execution's ARN.
async fn start(world: &World, number: usize, execution: &Execution) -> Value {
    let steps: Vec<Value> = execution
        .steps
        .iter()
        .enumerate()
        .map(|(place, script)| {
            let after: Vec<String> =
                (execution.chained && place > 0).then(|| format!("step{}", place - 1)).into_iter().collect();
            json!({"Name": format!("step{place}"), "Type": "Callback", "SqsQueueUrl": QUEUE_URL, "DependsOn": after,
                "Arguments": {"script": script, "kind": script % 2 == 1},
                "OutputParameters": [{"OutputName": "x", "OutputType": "Integer"}]})
        })
        .collect();
    let (name, request) = (format!("pipeline{number}"), format!("{number:032}"));
    let definition = json!({"Version": "2020-12-01", "Steps": steps}).to_string();
    let pipeline = json!({"PipelineName": name, "PipelineDefinition": definition, "ClientRequestToken": request,
        "RoleArn": "arn:aws:iam::123456789012:role/r"});
    world.ask("SageMaker.CreatePipeline", pipeline).await;
    let started = json!({"PipelineName": name, "ClientRequestToken": request});
    let arn = world.ask("SageMaker.StartPipelineExecution", started).await["PipelineExecutionArn"]
        .clone();
    assert!(arn.is_string(), "the pipeline was not started");
    world.started(arn.clone());
    arn
}
