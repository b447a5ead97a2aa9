//! The callback steps that wait, according to SageMaker.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::fleet::{Fleet, Place};
use super::{Failure, complain};
use crate::aws::{ExecutionSummary, StepView};
use crate::cli::executions::{arn_parts, patiently};
use crate::cli::tempo::Tempo;
use crate::seam::{ExecutionStanding, Fault};
use crate::step::{CallbackToken, ExecutionArn};

/// A callback step that waits on one of our queues.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub token: CallbackToken,
    pub execution: ExecutionArn,
    /// The step's name.
    pub step: String,
    /// In SageMaker's words.
    pub status: String,
    pub since: Option<Timestamp>,
    /// Its index in [`Fleet::queues`].
    pub queue: usize,
    /// Its index in [`Fleet::places`].
    pub place: usize,
}

/// What SageMaker says of the named pipelines.
#[derive(Default)]
pub(super) struct Survey {
    pub waiting: Vec<Waiting>,
    /// Callback steps that wait on queues that are not configured.
    pub elsewhere: usize,
    /// Callback steps that wait on our queues, and whose token cannot be read.
    pub nameless: usize,
    executions: BTreeSet<ExecutionArn>,
    tokens: BTreeSet<CallbackToken>,
}

/// 100,000 executions, which take a quarter of an hour.
const MAX_PAGES: usize = 1_000;
/// How often the user is told how far a long list has got.
const PAGES_TOLD: usize = 10;

impl Survey {
    /// Asks for all executions of the pipelines, and for the steps of those that have not ended.
    pub(super) async fn of(
        fleet: &Fleet,
        pipelines: &[String],
        since: Option<Timestamp>,
        tempo: &mut Tempo,
    ) -> Result<Self, Failure> {
        let mut survey = Self::default();
        for pipeline in pipelines {
            let (mut asked, mut found) = (Vec::new(), false);
            for (index, place) in fleet.places.iter().enumerate() {
                if arn_parts(pipeline).is_some_and(|(region, account)| !place.has(region, account))
                {
                    continue;
                }
                asked.push(place.name());
                let Some(executions) = of_pipeline(place, pipeline, since, tempo).await? else {
                    continue;
                };
                found = true;
                for execution in executions {
                    if survey.executions.insert(execution.clone()) {
                        survey.ask(fleet, index, &execution, tempo).await?;
                    }
                }
            }
            if !found {
                return Err(Failure::Runtime(unknown(pipeline, &asked)));
            }
        }
        Ok(survey)
    }

    async fn ask(
        &mut self,
        fleet: &Fleet,
        place: usize,
        execution: &ExecutionArn,
        tempo: &mut Tempo,
    ) -> Result<(), Failure> {
        let sagemaker = &fleet.places[place].sagemaker;
        let mut next = None;
        for _ in 0..MAX_PAGES {
            let page = patiently(async || {
                tempo.turn(1).await;
                sagemaker.steps_page(execution, next.clone()).await
            });
            // An execution that is gone waits for nothing.
            let Some(page) = page.await.map_err(|fault| unanswered(&fault))? else { return Ok(()) };
            for step in page.items {
                self.add(fleet, place, execution, step);
            }
            next = page.next;
            if next.is_none() {
                return Ok(());
            }
        }
        Err(Failure::Runtime(format!(
            "SageMaker's list of the steps of {execution} does not end; try again"
        )))
    }

    fn add(&mut self, fleet: &Fleet, place: usize, execution: &ExecutionArn, step: StepView) {
        let Some(callback) = step.callback.filter(|_| step.ending.is_none()) else { return };
        let url = callback.queue_url.and_then(|url| url.parse().ok());
        let Some(queue) = url.and_then(|url| fleet.queue_of(&url)) else {
            self.elsewhere += 1;
            return;
        };
        let Some(token) = callback.token.and_then(|token| token.parse::<CallbackToken>().ok())
        else {
            self.nameless += 1;
            return;
        };
        if self.tokens.insert(token.clone()) {
            self.waiting.push(Waiting {
                token,
                execution: execution.clone(),
                step: step.name,
                status: step.status,
                since: step.started,
                queue,
                place,
            });
        }
    }
}

/// The executions of a pipeline that have not ended; `None` if it is not there.
async fn of_pipeline(
    place: &Place,
    pipeline: &str,
    since: Option<Timestamp>,
    tempo: &mut Tempo,
) -> Result<Option<Vec<ExecutionArn>>, Failure> {
    if let Some(found) = listed(place, pipeline, since, tempo).await? {
        return Ok(Some(found));
    }
    if arn_parts(pipeline).is_some() {
        return Ok(None);
    }
    // Executions' ARNs mostly have their pipeline's name in lower case.
    tempo.turn(1).await;
    match place.sagemaker.name_in_another_case(pipeline).await {
        Some(name) => listed(place, &name, since, tempo).await,
        None => Ok(None),
    }
}

async fn listed(
    place: &Place,
    pipeline: &str,
    since: Option<Timestamp>,
    tempo: &mut Tempo,
) -> Result<Option<Vec<ExecutionArn>>, Failure> {
    let (mut open, mut count, mut next) = (Vec::new(), 0, None);
    for page in 1..=MAX_PAGES {
        let answer = patiently(async || {
            tempo.turn(1).await;
            place.sagemaker.executions_page(pipeline, since, next.clone()).await
        });
        let Some(listed) = answer.await.map_err(|fault| unanswered(&fault))? else {
            return Ok(None);
        };
        count += listed.items.len();
        open.extend(listed.items.into_iter().filter_map(open_one));
        next = listed.next;
        if next.is_none() {
            return Ok(Some(open));
        }
        if page % PAGES_TOLD == 0 {
            complain(format_args!(
                "{count} executions of {pipeline} are listed, and there are more"
            ));
        }
    }
    Err(Failure::Runtime(format!(
        "the pipeline {pipeline} has more than {count} executions: ask for the recent ones alone, \
         with --since"
    )))
}

fn open_one(summary: ExecutionSummary) -> Option<ExecutionArn> {
    let is_open =
        matches!(summary.standing, ExecutionStanding::Executing | ExecutionStanding::Stopping);
    is_open.then_some(summary.execution)
}

fn unanswered(fault: &Fault) -> Failure {
    let text = format!(
        "SageMaker did not say what waits: {fault}; check the permissions of \
         deploy/iam/reconcile-policy.json and the network, then try again"
    );
    Failure::call(fault, text)
}

fn unknown(pipeline: &str, asked: &[String]) -> String {
    if asked.is_empty() {
        return format!(
            "no configured queue belongs to the region and account of {pipeline}: check the ARN, \
             or configure `region`, `role_arn` or `accounts` of a queue"
        );
    }
    format!(
        "no pipeline {pipeline} in {}: check its name, the region and the role",
        asked.join(", ")
    )
}
