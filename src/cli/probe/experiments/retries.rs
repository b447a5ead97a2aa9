//! An execution that is retried: the tokens of its second round.

use crate::aws::probe::{Services, Tried};
use crate::cli::probe::caller::Setback;
use crate::cli::probe::lab::{Lab, is_over, request, told};
use crate::cli::probe::notes::Notes;
use crate::cli::probe::question::Question;

const REASON: &str = "probe";

pub(super) async fn run(lab: &mut Lab, notes: &mut Notes) -> Result<(), Setback> {
    let step = lab.waiting().await?;
    let (execution, before) = (step.execution.as_str(), step.message.token.as_str());
    let first = request();
    let answer = async |services: &Services| services.fail(before, REASON, &first).await;
    lab.caller.once(&answer).await?;
    let ended = lab.ended(execution).await?;
    if ended != "Failed" {
        return Err(Setback::Late(format!("after a failure the execution is {ended}, not Failed")));
    }
    let again = request();
    let retry = async |services: &Services| services.retry(execution, &again).await;
    let arn = lab.caller.once(retry).await?;
    let same_arn = if arn == execution { "the same" } else { "another" };
    lab.started(&arn);
    let after = lab.asked(&arn).await?;
    // A second copy of the first message would look like the same token again.
    let within = lab.waits.patience;
    let listed = lab.watch(&arn, "Only", within, |status| status == "Executing").await?;
    if listed.and_then(|state| state.token).as_ref() != Some(&after.token) {
        let what = "the message after the retry names another token than the list of steps";
        return Err(Setback::Late(what.to_owned()));
    }
    let is_same = after.token == before;
    let (setting, text) = if is_same { ("same", "the same") } else { ("fresh", "a new one") };
    let text = format!("{text}; the execution's ARN is {same_arn}");
    notes.settle(Question::RetriedToken, Some(setting), text);

    if is_same {
        repeated(lab, notes, &arn, &answer).await?;
        notes.settle(Question::TokenBeforeRetry, None, "does not arise: the token is the same");
    } else {
        notes.settle(Question::RepeatedAnswer, None, "does not arise: the token is a new one");
        let second = request();
        let late = lab
            .observe(async |services: &Services| services.succeed(before, &[], &second).await)
            .await?;
        notes.settle(Question::TokenBeforeRetry, None, told(&late));
    }
    Ok(())
}

/// The answer of the first round, sent to the second, byte by byte.
async fn repeated(
    lab: &mut Lab,
    notes: &mut Notes,
    execution: &str,
    answer: &impl AsyncFn(&Services) -> Tried<()>,
) -> Result<(), Setback> {
    let repeated = lab.observe(answer).await?;
    if repeated.is_err() {
        notes.settle(Question::RepeatedAnswer, None, told(&repeated));
        return Ok(());
    }
    let within = lab.waits.surplus;
    let state = lab.watch(execution, "Only", within, is_over).await?;
    let status = state.map_or_else(|| "not listed".to_owned(), |state| state.status);
    let setting = if is_over(&status) { "taken" } else { "replayed" };
    let text = format!("accepted, and the step is {status} afterwards");
    notes.settle(Question::RepeatedAnswer, Some(setting), text);
    Ok(())
}
