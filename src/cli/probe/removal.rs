//! The end of everything that a probe started or created, within bounds.

use std::time::Duration;

use tokio::time::Instant;

use super::caller::{Caller, Setback};
use super::lab::{is_over, request};
use super::plan::is_ours;
use crate::aws::probe::{Refusal, Services};
use crate::duration;

/// What is to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Remains {
    /// By name.
    pub pipelines: Vec<String>,
    /// By URL.
    pub queues: Vec<String>,
}

/// What could not be removed, why, and the command that removes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leftover {
    pub what: String,
    pub why: String,
    pub by_hand: String,
}

const REASON: &str = "callbackd probe ends this execution";
/// Between two attempts to delete something.
const PAUSE: Duration = Duration::from_secs(5);

impl Remains {
    /// What probes with this prefix have left.
    pub(super) async fn find(caller: &mut Caller, prefix: &str) -> Result<Self, Setback> {
        let pipelines =
            caller.ask(async |services: &Services| services.pipelines(prefix).await).await?;
        let queues = caller.ask(async |services: &Services| services.queues(prefix).await).await?;
        let queue_is_ours =
            |url: &String| url.rsplit_once('/').is_some_and(|(_, name)| is_ours(prefix, name));
        Ok(Self {
            pipelines: pipelines.into_iter().filter(|name| is_ours(prefix, name)).collect(),
            queues: queues.into_iter().filter(queue_is_ours).collect(),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pipelines.is_empty() && self.queues.is_empty()
    }

    /// Ends the executions of the pipelines and deletes all; each takes at most `within`.
    pub(super) async fn remove(self, caller: &mut Caller, within: Duration) -> Vec<Leftover> {
        let mut left = Vec::new();
        for name in self.pipelines {
            let end = Instant::now() + within;
            let remove = async |caller: &mut Caller| pipeline(caller, &name, end).await;
            if let Err(setback) = until_gone(caller, end, remove).await {
                left.push(Leftover {
                    by_hand: format!("aws sagemaker delete-pipeline --pipeline-name {name}"),
                    what: format!("the pipeline {name}"),
                    why: setback.to_string(),
                });
            }
        }
        // The last, because executions that end need it.
        for url in self.queues {
            let end = Instant::now() + within;
            let remove = async |caller: &mut Caller| queue(caller, &url).await;
            if let Err(setback) = until_gone(caller, end, remove).await {
                left.push(Leftover {
                    by_hand: format!("aws sqs delete-queue --queue-url {url}"),
                    what: format!("the queue {url}"),
                    why: setback.to_string(),
                });
            }
        }
        left
    }
}

/// Tries until it is gone; not if that was interrupted or denied.
async fn until_gone(
    caller: &mut Caller,
    end: Instant,
    remove: impl AsyncFn(&mut Caller) -> Result<(), Setback>,
) -> Result<(), Setback> {
    loop {
        match remove(caller).await {
            Err(Setback::Refused(refusal)) if is_absent(&refusal) => return Ok(()),
            Err(Setback::Refused(refusal)) if refusal.is_denial => {
                return Err(Setback::Refused(refusal));
            }
            Err(Setback::Refused(_) | Setback::Unanswered(_) | Setback::Late(_))
                if Instant::now() < end =>
            {
                caller.pause(PAUSE).await?;
            }
            result => return result,
        }
    }
}

async fn queue(caller: &mut Caller, url: &str) -> Result<(), Setback> {
    caller.ask(async |services: &Services| services.delete_queue(url).await).await
}

/// Ends the pipeline's executions, and deletes it.
async fn pipeline(caller: &mut Caller, name: &str, end: Instant) -> Result<(), Setback> {
    let list = async |services: &Services| services.executions(name).await;
    let executions = match caller.ask(list).await {
        Ok(executions) => executions,
        // Those that are known have been ended: it may work without the list.
        Err(Setback::Refused(refusal)) if refusal.is_denial => Vec::new(),
        Err(other) => return Err(other),
    };
    for (execution, status) in executions {
        if !is_over(&status) {
            end_execution(caller, &execution, end).await?;
        }
    }
    let request = request();
    caller.ask(async |services: &Services| services.delete_pipeline(name, &request).await).await
}

/// Stops an execution, and answers its steps until it has ended.
pub(super) async fn end_execution(
    caller: &mut Caller,
    execution: &str,
    end: Instant,
) -> Result<(), Setback> {
    let stop = request();
    loop {
        let round = round(caller, execution, &stop).await;
        match round {
            Ok(true) => return Ok(()),
            Err(Setback::Interrupted) => return Err(Setback::Interrupted),
            Err(Setback::Refused(refusal)) if is_absent(&refusal) => return Ok(()),
            Err(Setback::Refused(refusal)) if refusal.is_denial => {
                return Err(Setback::Refused(refusal));
            }
            Err(other) if Instant::now() >= end => return Err(other),
            Ok(false) if Instant::now() >= end => {
                let what = format!("{execution} did not end in time");
                return Err(Setback::Late(what));
            }
            Ok(false) | Err(_) => {}
        }
    }
}

/// One look at an execution; whether it has ended.
async fn round(caller: &mut Caller, execution: &str, stop: &str) -> Result<bool, Setback> {
    let ask = async |services: &Services| services.execution_status(execution).await;
    let status = caller.ask(ask).await?;
    if is_over(&status) {
        return Ok(true);
    }
    if status != "Stopping" {
        // So that no further step begins; if it fails, the steps are answered all the same.
        refused(
            caller.ask(async |services: &Services| services.stop(execution, stop).await).await,
        )?;
    }
    let ask = async |services: &Services| services.step_states(execution).await;
    for state in caller.ask(ask).await? {
        let Some(token) = state.token.filter(|_| !is_over(&state.status)) else { continue };
        let request = request();
        let fail = async |services: &Services| services.fail(&token, REASON, &request).await;
        refused(caller.ask(fail).await)?;
    }
    Ok(false)
}

/// A refusal is no reason to give up: the next look shows what became of it.
fn refused(answer: Result<(), Setback>) -> Result<(), Setback> {
    match answer {
        Err(Setback::Refused(refusal)) if !refusal.is_denial => Ok(()),
        other => other,
    }
}

fn is_absent(refusal: &Refusal) -> bool {
    ["ResourceNotFound", "NonExistentQueue", "QueueDoesNotExist"]
        .iter()
        .any(|code| refusal.code.contains(code))
        || refusal.message.contains("does not exist")
}

/// What is said of the leftovers.
pub(super) fn told(left: &[Leftover], prefix: &str) -> String {
    let mut text = "these could not be removed:".to_owned();
    for Leftover { what, why, by_hand } in left {
        text.push_str(&format!("\n  {what}: {why}\n    {by_hand}"));
    }
    text.push_str(&format!(
        "\nRun `callbackd probe --clean-up --name-prefix {prefix}`, which also ends their \
         executions, or these commands."
    ));
    text
}

/// What is said of what was found.
pub(super) fn found(remains: &Remains, within: Duration) -> String {
    let mut text = "callbackd probe --clean-up will end the executions of and delete:".to_owned();
    for name in &remains.pipelines {
        text.push_str(&format!("\n  the pipeline {name}"));
    }
    for url in &remains.queues {
        text.push_str(&format!("\n  the queue {url}"));
    }
    text.push_str(&format!(
        "\nIf another probe is running, this ends it. Each takes at most {}.",
        duration::text(within)
    ));
    text
}
