//! Steps beside a failing one, and outputs in the arguments of a later step.

use serde_json::Value;

use crate::aws::probe::Services;
use crate::cli::probe::caller::Setback;
use crate::cli::probe::lab::{Lab, is_over, late, request};
use crate::cli::probe::notes::Notes;
use crate::cli::probe::plan::{OUTPUTS, Shape};
use crate::cli::probe::question::Question;
use crate::duration;

/// One of two steps fails; then the other succeeds, on which a third depends.
pub(super) async fn siblings(lab: &mut Lab, notes: &mut Notes) -> Result<(), Setback> {
    let execution = lab.start(Shape::Siblings).await?;
    let (one, other) = (lab.asked(&execution).await?, lab.asked(&execution).await?);
    let surplus = lab.waits.surplus;
    let first = token_of(lab, &execution, "First").await?;
    let (failing, beside) = if first == one.token { (one, other) } else { (other, one) };
    let (token, refusal) = (failing.token.as_str(), request());
    let fail = async |services: &Services| services.fail(token, "probe", &refusal).await;
    lab.caller.once(fail).await?;
    let patience = lab.waits.patience;
    let failed = lab.watch(&execution, "First", patience, is_over).await?;
    if !failed.is_some_and(|state| is_over(&state.status)) {
        return Err(late("a step that was failed did not end", patience));
    }
    let state = lab.watch(&execution, "Second", surplus, is_over).await?;
    let status = state.map_or_else(|| "not listed".to_owned(), |state| state.status);
    if is_over(&status) {
        let told = told_to_stop(lab, &execution).await?;
        let text = format!("the step beside it is {status}, {told} a Stopping message");
        notes.settle(Question::FailedStep, Some("cut"), text);
        return Ok(());
    }
    // A step that is stopping is neither left to run nor cut.
    let runs_on = status == "Executing";
    lab.succeed(&beside.token, &[("x", "1")]).await?;
    let third = lab.message(&execution, "Executing", surplus).await?;
    let shown = format!(
        "the step beside it is {status} after {} and can be answered; the step after that one is",
        duration::text(surplus)
    );
    if let Some(third) = third {
        let setting = runs_on.then_some("continue");
        notes.settle(Question::FailedStep, setting, format!("{shown} started"));
        return lab.succeed(&third.token, &[("x", "1")]).await;
    }
    let ended = lab.ended(&execution).await?;
    let text = format!("{shown} not started, and the execution is {ended}");
    notes.settle(Question::FailedStep, runs_on.then_some("drain"), text);
    Ok(())
}

async fn token_of(lab: &mut Lab, execution: &str, step: &str) -> Result<String, Setback> {
    let within = lab.waits.patience;
    let state = lab.watch(execution, step, within, |status| status == "Executing").await?;
    state.and_then(|state| state.token).ok_or_else(|| late("SageMaker listed no token", within))
}

/// Whether a step that was ended with its execution was told so.
async fn told_to_stop(lab: &mut Lab, execution: &str) -> Result<&'static str, Setback> {
    let within = lab.waits.surplus;
    let message = lab.message(execution, "Stopping", within).await?;
    Ok(if message.is_some() { "with" } else { "without" })
}

/// Outputs of each declared type, as a later step gets them.
pub(super) async fn outputs(lab: &mut Lab, notes: &mut Notes) -> Result<(), Setback> {
    let execution = lab.start(Shape::Later).await?;
    let first = lab.asked(&execution).await?;
    let outputs = OUTPUTS.map(|(name, _, value)| (name, value));
    lab.succeed(&first.token, &outputs).await?;
    let second = lab.asked(&execution).await?;
    let arrived: Vec<String> = OUTPUTS
        .iter()
        .map(|(name, declared, sent)| {
            let written = second.written.get(*name).map_or("nothing", String::as_str);
            format!("{declared} {sent:?} as `{written}`")
        })
        .collect();
    let typed = OUTPUTS.iter().filter(|(_, declared, _)| *declared != "String");
    let values: Option<Vec<&Value>> =
        typed.map(|(name, _, _)| second.arguments.get(*name)).collect();
    let setting = values.and_then(|values| {
        let texts = values.iter().filter(|value| value.is_string()).count();
        let is_typed = |value: &&Value| value.is_number() || value.is_boolean();
        if texts == values.len() {
            Some("strings")
        } else {
            values.iter().all(is_typed).then_some("typed")
        }
    });
    notes.settle(Question::OutputsInArguments, setting, arrived.join(", "));
    lab.succeed(&second.token, &[]).await
}
