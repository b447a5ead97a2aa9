//! The case of pipelines' names.

use crate::aws::probe::Services;
use crate::cli::probe::caller::Setback;
use crate::cli::probe::lab::{Lab, request, told};
use crate::cli::probe::notes::Notes;
use crate::cli::probe::plan::Shape;
use crate::cli::probe::question::Question;

pub(super) async fn run(lab: &mut Lab, notes: &mut Notes) -> Result<(), Setback> {
    let made = lab.pipeline(Shape::One).await?.map_err(Setback::Refused)?;
    let execution = lab.start(Shape::One).await?;
    let of_pipeline = case(&made.name, &made.arn);
    let of_execution = case(&made.name, execution.rsplit_once("/execution/").map_or("", |it| it.0));
    let setting = of_pipeline.filter(|it| Some(*it) == of_execution);
    let shown = |case: Option<&str>| match case {
        Some("lower_case") => "in lower case",
        Some(_) => "as it was given",
        None => "in another form",
    };
    let text = format!(
        "the pipeline's ARN has the name {}, its executions' {}",
        shown(of_pipeline),
        shown(of_execution)
    );
    notes.settle(Question::PipelineArns, setting, text);

    let other = lab.plan.pipeline_in_another_case(Shape::One);
    let described =
        lab.observe(async |services: &Services| services.describe_pipeline(&other).await).await?;
    let first = request();
    let started = lab.observe(async |services: &Services| services.start(&other, &first).await);
    let started = started.await?;
    if let Ok(execution) = &started {
        lab.started(execution);
    }
    let text = format!("DescribePipeline: {}; start: {}", told(&described), told(&started));
    let absent = [described.as_ref().err(), started.as_ref().err()]
        .iter()
        .flatten()
        .all(|refusal| refusal.code == "ResourceNotFound");
    let setting = match (described.is_ok(), started.is_ok()) {
        (true, true) => Some("ignoring_case"),
        (false, false) if absent => Some("exact"),
        _ => None,
    };
    notes.settle(Question::PipelineNames, setting, text);
    Ok(())
}

/// The setting for the form in which an ARN ends with a name.
fn case(name: &str, arn: &str) -> Option<&'static str> {
    let (_, last) = arn.rsplit_once('/')?;
    if last == name {
        Some("as_named")
    } else if last == name.to_ascii_lowercase() {
        Some("lower_case")
    } else {
        None
    }
}
