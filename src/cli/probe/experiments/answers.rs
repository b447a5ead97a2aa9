//! Answers to settled steps, request tokens that are used again, and the limits of answers.

use super::tokens::code;
use crate::aws::probe::Services;
use crate::cli::probe::caller::Setback;
use crate::cli::probe::lab::{Lab, is_over, request, told};
use crate::cli::probe::notes::Notes;
use crate::cli::probe::question::Question;

const X: &[(&str, &str)] = &[("x", "1")];

/// The setting for the code of an answer that comes too late.
pub(super) const CODES: &[(&str, &str)] =
    &[("ConflictException", "conflict"), ("ValidationException", "validation")];

/// A step that is answered, and answered again.
pub(super) async fn settled(lab: &mut Lab, notes: &mut Notes) -> Result<(), Setback> {
    let step = lab.waiting().await?;
    let attributes = match step.message.attributes.as_slice() {
        [] => "no attributes".to_owned(),
        names => format!("attributes {}", names.join(", ")),
    };
    let keys = format!("keys {}; {attributes}", step.message.keys.join(", "));
    notes.settle(Question::ExecutingMessage, None, keys);

    let (token, first) = (step.message.token.as_str(), request());
    let answer = async |services: &Services| services.succeed(token, X, &first).await;
    lab.caller.once(&answer).await?;
    let status = lab.step_ended(&step.execution).await?;
    let same = lab.observe(&answer).await?;
    let text = format!("{}, of a step that is {status}", told(&same));
    notes.settle(Question::SameRequestToken, None, text);

    let (second, third) = (request(), request());
    let success =
        lab.observe(async |services: &Services| services.succeed(token, X, &second).await).await?;
    let failure = lab
        .observe(async |services: &Services| services.fail(token, "probe", &third).await)
        .await?;
    let setting = code(&success, CODES).filter(|one| Some(*one) == code(&failure, CODES));
    let text = format!("success: {}; failure: {}", told(&success), told(&failure));
    notes.settle(Question::AlreadyTerminal, setting, text);

    lab.ended(&step.execution).await?;
    let fourth = request();
    let execution = step.execution.as_str();
    let stopped =
        lab.observe(async |services: &Services| services.stop(execution, &fourth).await).await?;
    notes.settle(Question::EndedExecution, code(&stopped, CODES), told(&stopped));
    Ok(())
}

/// A request token of one answer, used for another.
pub(super) async fn reused(lab: &mut Lab, notes: &mut Notes) -> Result<(), Setback> {
    let (one, other) = (lab.waiting().await?, lab.waiting().await?);
    let used = request();
    let answer = |token: String, outputs: &'static [(&str, &str)]| {
        let used = used.clone();
        async move |services: &Services| services.succeed(&token, outputs, &used).await
    };
    lab.caller.once(answer(one.message.token.clone(), X)).await?;
    let again = lab.observe(answer(other.message.token.clone(), &[("x", "2")])).await?;
    let (setting, text) = match &again {
        Err(refusal) => {
            let setting = (refusal.code == "ConflictException").then_some("refused");
            (setting, told(&again))
        }
        Ok(()) => {
            // A moment in which the step would end if the answer was taken.
            let within = lab.waits.surplus;
            let state = lab.watch(&other.execution, "Only", within, is_over).await?;
            let status = state.map_or_else(|| "not listed".to_owned(), |state| state.status);
            let setting = (!is_over(&status)).then_some("replayed");
            (setting, format!("accepted, and the step is {status} afterwards"))
        }
    };
    let late = lab.observe(answer(one.message.token.clone(), &[("x", "3")])).await?;
    let text = format!("{text}; with other outputs for the step that it settled: {}", told(&late));
    notes.settle(Question::ReusedRequestToken, setting, text);
    Ok(())
}

/// Answers just beyond the limits of the service model; each to a step of its own, because one that
/// is accepted ends it.
pub(super) async fn limits(lab: &mut Lab, notes: &mut Notes) -> Result<(), Setback> {
    let step = lab.waiting().await?;
    let (token, reason, first) = (step.message.token.as_str(), "r".repeat(257), request());
    let answer = lab
        .observe(async |services: &Services| services.fail(token, &reason, &first).await)
        .await?;
    notes.settle(Question::LongReason, None, told(&answer));

    let step = if answer.is_ok() { lab.waiting().await? } else { step };
    let (token, value, second) = (step.message.token.as_str(), "v".repeat(1025), request());
    let outputs = [("x", value.as_str())];
    let answer = lab
        .observe(async |services: &Services| services.succeed(token, &outputs, &second).await)
        .await?;
    notes.settle(Question::LongValue, None, told(&answer));

    let step = if answer.is_ok() { lab.waiting().await? } else { step };
    let (token, third) = (step.message.token.as_str(), request());
    let outputs = [("undeclared", "1")];
    let answer = lab
        .observe(async |services: &Services| services.succeed(token, &outputs, &third).await)
        .await?;
    let text = if answer.is_ok() {
        let status = lab.step_ended(&step.execution).await?;
        let execution = lab.ended(&step.execution).await?;
        format!("accepted; the step is {status}, the execution {execution}")
    } else {
        told(&answer)
    };
    notes.settle(Question::UndeclaredOutput, None, text);
    Ok(())
}
