//! `callbackd start` and `callbackd stop`: pipeline executions from a terminal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::time::sleep;

use super::{Failure, plain, say};
use crate::aws::{Clients, SageMaker};
use crate::backoff::{Backoff, Failures};
use crate::config::{Access, Config, RoleWithId};
use crate::seam::{Fault, FaultKind, StepResult};
use crate::step::ExecutionArn;

#[derive(Args)]
pub(super) struct Start {
    /// The pipeline's name or ARN.
    pipeline: String,
    /// A parameter of the pipeline; may be given several times.
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = pair)]
    parameters: Vec<(String, String)>,
    /// Show the steps as they progress, and wait for the end; exit 0 only if the execution
    /// succeeded.
    #[arg(long)]
    wait: bool,
    /// Use the role and region of this configured queue, by its name. Needed only if the
    /// configuration leaves a choice.
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
}

#[derive(Args)]
pub(super) struct Stop {
    /// The execution's ARN.
    execution: ExecutionArn,
    /// Show the steps as they progress, and wait for the end; exit 0 only if the execution was
    /// stopped.
    #[arg(long)]
    wait: bool,
    /// Use the role and region of this configured queue, by its name. Needed only if the
    /// configuration leaves a choice.
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
}

/// How often SageMaker is asked about an execution: two calls each time, and no rate limit is
/// published.
const LOOK: Duration = Duration::from_secs(2);
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
/// Someone is waiting at a terminal.
const TRIES: u32 = 6;

pub(super) async fn start(arguments: Start, config: Option<&Path>) -> Result<ExitCode, Failure> {
    if let Some(name) = twice(&arguments.parameters) {
        return Err(Failure::Usage(format!(
            "the parameter {name} is given more than once; give it one value"
        )));
    }
    let of = Target { pipeline: arn_parts(&arguments.pipeline), queue: arguments.queue.as_deref() };
    let sagemaker = sagemaker(config, of).await?;
    let request = request_token();
    let start = || sagemaker.start_execution(&arguments.pipeline, &arguments.parameters, &request);
    let execution = patiently(start).await.map_err(failed("the execution could not be started"))?;
    say(&execution);
    if arguments.wait {
        watch(&sagemaker, &execution, StepResult::Succeeded).await
    } else {
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) async fn stop(arguments: Stop, config: Option<&Path>) -> Result<ExitCode, Failure> {
    let execution = (arguments.execution.region(), arguments.execution.account());
    let of = Target { pipeline: Some(execution), queue: arguments.queue.as_deref() };
    let sagemaker = sagemaker(config, of).await?;
    let request = request_token();
    let stop = || sagemaker.stop_execution(&arguments.execution, &request);
    patiently(stop).await.map_err(failed("the execution could not be stopped"))?;
    say(format_args!("stopping {}", arguments.execution));
    if arguments.wait {
        watch(&sagemaker, &arguments.execution, StepResult::Stopped).await
    } else {
        Ok(ExitCode::SUCCESS)
    }
}

/// What a command refers to.
struct Target<'a> {
    /// The pipeline's region and account, if it is given as an ARN.
    pipeline: Option<(&'a str, &'a str)>,
    /// The queue whose role is used.
    queue: Option<&'a str>,
}

/// The region and the account of a pipeline that is given as an ARN.
pub(super) fn arn_parts(pipeline: &str) -> Option<(&str, &str)> {
    let mut parts = pipeline.strip_prefix("arn:")?.split(':').skip(2);
    Some((parts.next()?, parts.next()?))
}

/// SageMaker as configured, if there is a configuration: with the role that the worker uses for the
/// same pipeline.
async fn sagemaker(path: Option<&Path>, target: Target<'_>) -> Result<SageMaker, Failure> {
    let aws = Config::section("aws", path, std::env::vars_os())?.aws;
    let queues = Config::access(path, std::env::vars_os())?;
    let (region, role) = chosen(&queues, &target).map_err(Failure::Runtime)?;
    let clients = Clients::new(aws, "command", Arc::new(()));
    let role = role.as_ref().map(RoleWithId::role);
    Ok(clients.pipelines(region.as_deref(), role).await?)
}

/// The region and role to use.
fn chosen(
    queues: &[Access],
    target: &Target<'_>,
) -> Result<(Option<String>, Option<RoleWithId>), String> {
    let named = |access: &&Access| target.queue.is_none_or(|name| access.queue == name);
    let fits = |access: &&Access| match target.pipeline {
        Some((region, account)) => {
            access.account == account
                && access.region.as_deref().is_none_or(|other| other == region)
        }
        None => !access.is_further,
    };
    let region = |access: &Access| {
        target.pipeline.map(|(region, _)| region.to_owned()).or(access.region.clone())
    };
    if let Some(name) = target.queue.filter(|_| !queues.iter().any(|access| named(&access))) {
        let own = queues.iter().filter(|access| !access.is_further);
        let have: Vec<&str> = own.map(|access| access.queue.as_str()).collect();
        return Err(format!("no queue {name} is configured; there are: {}", have.join(", ")));
    }
    let of_target = |fits: &dyn Fn(&&Access) -> bool| -> BTreeSet<_> {
        let access = queues.iter().filter(named).filter(fits);
        access.map(|access| (region(access), access.role.clone())).collect()
    };
    let mut choices = of_target(&fits);
    if choices.is_empty() && target.queue.is_some() {
        // The user knows better than the configuration where this role reaches.
        choices = of_target(&|access| !access.is_further);
    }
    let mut choices = choices.into_iter();
    match (choices.next(), choices.next()) {
        (Some(_), Some(_)) => {
            let have: BTreeSet<&str> = queues.iter().map(|access| access.queue.as_str()).collect();
            let have: Vec<&str> = have.into_iter().collect();
            Err(format!(
                "the configured queues have different roles or regions; select one with --queue, \
                 or give the pipeline as an ARN: {}",
                have.join(", ")
            ))
        }
        (Some(only), None) => Ok(only),
        (None, _) => Ok((target.pipeline.map(|(region, _)| region.to_owned()), None)),
    }
}

/// Prints each change of a step until the execution has ended.
async fn watch(
    sagemaker: &SageMaker,
    execution: &ExecutionArn,
    wanted: StepResult,
) -> Result<ExitCode, Failure> {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let view = patiently(|| sagemaker.describe(execution))
            .await
            .map_err(failed("SageMaker did not return the execution's status"))?;
        let steps = patiently(|| sagemaker.steps(execution))
            .await
            .map_err(failed("SageMaker did not return the execution's steps"))?;
        for step in steps {
            if seen.insert(step.name.clone(), step.status.clone()).as_ref() != Some(&step.status) {
                let outputs = step.callback.iter().flat_map(|callback| &callback.outputs);
                let outputs: Vec<String> =
                    outputs.map(|(name, value)| format!("{name}={value}")).collect();
                let detail = step.failure_reason.unwrap_or_else(|| outputs.join(" "));
                say(plain(&format!("{:<30} {:<10} {detail}", step.name, step.status)));
            }
        }
        let Some(view) = view else {
            return Err(Failure::Runtime(format!("the execution {execution} does not exist")));
        };
        if let Some(ending) = view.ending {
            let reason =
                view.failure_reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            say(plain(&format!("{}{reason}", view.status)));
            return Ok(if ending == wanted { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        sleep(LOOK).await;
    }
}

/// Tries a call again that may work soon.
pub(super) async fn patiently<T>(
    mut call: impl AsyncFnMut() -> Result<T, Fault>,
) -> Result<T, Fault> {
    let mut failures = Failures::default();
    loop {
        match call().await {
            Err(fault) if fault.kind == FaultKind::Transient && failures.count() + 1 < TRIES => {
                sleep(failures.another(BACKOFF, fastrand::f64())).await;
            }
            result => return result,
        }
    }
}

fn failed(what: &'static str) -> impl Fn(Fault) -> Failure {
    move |fault| Failure::call(&fault, format_args!("{what}: {fault}"))
}

/// The same for each attempt of one command; different for each command.
fn request_token() -> String {
    format!("callbackd-{:032x}", fastrand::u128(..))
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a parameter is NAME=VALUE".to_owned()),
    }
}

/// The first name that comes again.
fn twice(parameters: &[(String, String)]) -> Option<&str> {
    let mut names = BTreeSet::new();
    parameters.iter().map(|(name, _)| name.as_str()).find(|name| !names.insert(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_that_is_given_twice_is_found_by_its_name() {
        let given = |all: &[&str]| all.iter().map(|text| pair(text)).collect::<Result<Vec<_>, _>>();
        let twice = |all: &[&str]| twice(&given(all).expect("pairs")).map(str::to_owned);
        assert_eq!(twice(&["n=a", "m=a", "n=b"]).as_deref(), Some("n"));
        assert_eq!(twice(&["n=a", "n=a"]).as_deref(), Some("n"), "nor the same value");
        assert_eq!(twice(&["n=n", "N=n", "m=n"]), None);
        assert_eq!(twice(&[]), None);
    }

    fn access(queue: &str, account: &str, region: &str, role: Option<&str>) -> Access {
        let arn = role.map(|name| format!("arn:aws:iam::{account}:role/{name}"));
        Access {
            queue: queue.into(),
            account: account.into(),
            is_further: false,
            region: Some(region.into()),
            role: arn.map(|role_arn| RoleWithId { role_arn, external_id: None }),
        }
    }

    fn choose(
        queues: &[Access],
        pipeline: Option<(&str, &str)>,
        queue: Option<&str>,
    ) -> Result<String, String> {
        let (region, role) = chosen(queues, &Target { pipeline, queue })?;
        let role = role.map(|role| role.role_arn);
        Ok(format!("{} {}", region.unwrap_or_default(), role.unwrap_or_default()))
    }

    #[test]
    fn the_role_of_the_queue_is_taken_where_there_is_no_choice_and_asked_for_where_there_is() {
        let (here, there) =
            (access("a", "1", "us-east-1", Some("x")), access("b", "2", "eu-west-1", Some("y")));
        assert_eq!(choose(&[], None, None), Ok(" ".to_owned()));
        let of_here = Ok("us-east-1 arn:aws:iam::1:role/x".to_owned());
        assert_eq!(choose(std::slice::from_ref(&here), None, None), of_here);
        let both = [here.clone(), here, there];
        let error = choose(&both, None, None).expect_err("a choice");
        assert!(error.contains("--queue") && error.ends_with("a, b"), "{error}");
        assert_eq!(choose(&both, None, Some("a")), of_here);
        assert_eq!(choose(&both, Some(("us-east-1", "1")), None), of_here);
        assert_eq!(
            choose(&both, Some(("eu-west-1", "2")), None),
            Ok("eu-west-1 arn:aws:iam::2:role/y".to_owned())
        );
        assert_eq!(
            choose(&both, Some(("eu-west-1", "3")), None),
            Ok("eu-west-1 ".to_owned()),
            "nobody's"
        );
        assert!(
            choose(&both, None, Some("c")).expect_err("no such").ends_with("there are: a, a, b")
        );
    }

    #[test]
    fn the_role_of_a_further_account_is_taken_where_the_arn_names_the_account() {
        let own = access("a", "1", "us-east-1", Some("x"));
        let further = Access { is_further: true, ..access("a", "2", "us-east-1", Some("y")) };
        let both = [further, own];
        let (of_own, of_further) =
            ("us-east-1 arn:aws:iam::1:role/x", "us-east-1 arn:aws:iam::2:role/y");
        for (pipeline, queue, wants) in [
            (None, None, of_own),
            (None, Some("a"), of_own),
            (Some(("us-east-1", "2")), None, of_further),
            (Some(("us-east-1", "2")), Some("a"), of_further),
            (Some(("us-east-1", "1")), None, of_own),
        ] {
            assert_eq!(choose(&both, pipeline, queue).as_deref(), Ok(wants), "{pipeline:?}");
        }
    }

    #[test]
    fn an_arn_says_its_region_and_account() {
        let arn = "arn:aws-cn:sagemaker:cn-north-1:123456789012:pipeline/p";
        assert_eq!(arn_parts(arn), Some(("cn-north-1", "123456789012")));
        assert_eq!(arn_parts("p"), None);
    }
}
