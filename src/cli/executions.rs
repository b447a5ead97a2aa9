//! `callbackd start` and `callbackd stop`: executions of pipelines, from a terminal.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::time::sleep;

use super::{Failure, plain, say};
use crate::aws::{Clients, SageMaker};
use crate::backoff::Backoff;
use crate::config::Config;
use crate::seam::{Ending, Fault, FaultKind};
use crate::step::ExecutionArn;

#[derive(Args)]
pub(super) struct Start {
    /// The pipeline's name or ARN.
    pipeline: String,
    /// A parameter of the pipeline; may be given several times.
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = pair)]
    parameters: Vec<(String, String)>,
    /// Show the steps as they go, and wait for the end; exit 0 only if the execution succeeded.
    #[arg(long)]
    wait: bool,
}

#[derive(Args)]
pub(super) struct Stop {
    /// The execution's ARN.
    execution: ExecutionArn,
    /// Show the steps as they go, and wait for the end; exit 0 only if the execution was stopped.
    #[arg(long)]
    wait: bool,
}

/// How often SageMaker is asked how an execution goes: two calls each time, and no rate limit is published.
const LOOK: Duration = Duration::from_secs(2);
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
/// Somebody is waiting at a terminal.
const TRIES: u32 = 6;

pub(super) async fn start(arguments: Start, config: Option<&Path>) -> Result<ExitCode, Failure> {
    let sagemaker = sagemaker(config, None).await?;
    let request = request_token();
    let start = || sagemaker.start_execution(&arguments.pipeline, &arguments.parameters, &request);
    let execution = patiently(start).await.map_err(failed("the execution could not be started"))?;
    say(&execution);
    if arguments.wait { watch(&sagemaker, &execution, Ending::Succeeded).await } else { Ok(ExitCode::SUCCESS) }
}

pub(super) async fn stop(arguments: Stop, config: Option<&Path>) -> Result<ExitCode, Failure> {
    let sagemaker = sagemaker(config, Some(arguments.execution.region())).await?;
    let request = request_token();
    let stop = || sagemaker.stop_execution(&arguments.execution, &request);
    patiently(stop).await.map_err(failed("the execution could not be stopped"))?;
    say(format_args!("stopping {}", arguments.execution));
    if arguments.wait { watch(&sagemaker, &arguments.execution, Ending::Stopped).await } else { Ok(ExitCode::SUCCESS) }
}

/// SageMaker as the configuration's `[aws]` has it, where there is one.
async fn sagemaker(path: Option<&Path>, region: Option<&str>) -> Result<SageMaker, Failure> {
    let aws = Config::aws_section(path, std::env::vars_os())?;
    let clients = Clients::new(aws, "command", Arc::new(()));
    clients.pipelines(region, None).await.map_err(Failure::runtime)
}

/// Prints each change of a step until the execution has ended.
async fn watch(sagemaker: &SageMaker, execution: &ExecutionArn, wanted: Ending) -> Result<ExitCode, Failure> {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let view =
            patiently(|| sagemaker.describe(execution)).await.map_err(failed("SageMaker does not say how it goes"))?;
        let steps =
            patiently(|| sagemaker.steps(execution)).await.map_err(failed("SageMaker does not say how it goes"))?;
        for step in steps {
            if seen.insert(step.name.clone(), step.status.clone()).as_ref() != Some(&step.status) {
                let outputs = step.callback.iter().flat_map(|callback| &callback.outputs);
                let outputs: Vec<String> = outputs.map(|(name, value)| format!("{name}={value}")).collect();
                let detail = step.failure_reason.unwrap_or_else(|| outputs.join(" "));
                say(plain(&format!("{:<30} {:<10} {detail}", step.name, step.status)));
            }
        }
        let Some(view) = view else { return Err(Failure::Runtime(format!("there is no execution {execution}"))) };
        if let Some(ending) = view.ending {
            let reason = view.failure_reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            say(plain(&format!("{}{reason}", view.status)));
            return Ok(if ending == wanted { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        sleep(LOOK).await;
    }
}

async fn patiently<T>(mut call: impl AsyncFnMut() -> Result<T, Fault>) -> Result<T, Fault> {
    let mut failures = 0;
    loop {
        match call().await {
            Err(fault) if fault.kind == FaultKind::Transient && failures + 1 < TRIES => {
                failures += 1;
                sleep(BACKOFF.after(failures, fastrand::f64())).await;
            }
            result => return result,
        }
    }
}

fn failed(what: &'static str) -> impl Fn(Fault) -> Failure {
    move |fault| Failure::Runtime(format!("{what}: {fault}"))
}

/// The same for each try of one command; another for each command.
fn request_token() -> String {
    format!("callbackd-{:032x}", fastrand::u128(..))
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a parameter is NAME=VALUE".to_owned()),
    }
}
