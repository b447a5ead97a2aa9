//! A stop: its messages, and what an answer makes of its step.

use std::time::Duration;

use tokio::time::Instant;

use super::answers::CODES;
use super::tokens::code;
use crate::aws::probe::{Refusal, Services};
use crate::cli::probe::caller::Setback;
use crate::cli::probe::lab::{Lab, Waiting, request, told};
use crate::cli::probe::letter::StepMessage;
use crate::cli::probe::notes::Notes;
use crate::cli::probe::question::Question;
use crate::duration;

const SECOND: Duration = Duration::from_secs(1);

/// A stop that is answered with failure.
pub(super) async fn failure(lab: &mut Lab, notes: &mut Notes) -> Result<(), Setback> {
    let step = lab.waiting().await?;
    let execution = step.execution.as_str();
    lab.stop(execution).await?;
    let accepted = Instant::now();
    let (patience, surplus) = (lab.waits.patience, lab.waits.surplus);
    match lab.message(execution, "Stopping", patience).await? {
        Some(stopping) => {
            body(&step.message, &stopping, notes);
            let whole = Duration::from_secs(accepted.elapsed().as_secs());
            let text = format!("received within {} of the stop", duration::text(whole + SECOND));
            notes.settle(Question::StoppingDelay, Some(&duration::text(whole)), text);
            let second = lab.message(execution, "Stopping", surplus).await?;
            let (setting, text) = match second {
                Some(_) => ("twice", "a second message came".to_owned()),
                None => ("once", format!("no second one within {}", duration::text(surplus))),
            };
            let text = format!("the message came; {text}");
            notes.settle(Question::StoppingMessage, Some(setting), text);
        }
        None => {
            let text = format!("no Stopping message came within {}", duration::text(patience));
            notes.leave(Question::StoppingMessage, Some("never"), text.as_str());
            notes.leave(Question::StoppingDelay, None, text.as_str());
            notes.leave(Question::StoppingBody, None, text);
        }
    }
    second_stop(lab, notes, execution).await?;
    lab.until(execution, |status| status == "Stopping").await?;

    let (token, first) = (step.message.token.as_str(), request());
    let answer = lab
        .observe(async |services: &Services| services.fail(token, "probe", &first).await)
        .await?;
    let settings = [("Stopped", "stopped"), ("Failed", "failed")];
    answered(lab, notes, Question::FailureWhileStopping, &step, answer, &settings).await?;

    let second = request();
    let late = lab
        .observe(async |services: &Services| services.succeed(token, &[], &second).await)
        .await?;
    notes.settle(Question::StoppedToken, code(&late, CODES), told(&late));
    Ok(())
}

/// A stop that is answered with success.
pub(super) async fn success(lab: &mut Lab, notes: &mut Notes) -> Result<(), Setback> {
    let step = lab.waiting().await?;
    lab.stop(&step.execution).await?;
    lab.until(&step.execution, |status| status == "Stopping").await?;
    let (token, first) = (step.message.token.as_str(), request());
    let outputs = [("x", "1")];
    let answer = lab
        .observe(async |services: &Services| services.succeed(token, &outputs, &first).await)
        .await?;
    let settings = [("Stopped", "stopped"), ("Succeeded", "succeeded")];
    answered(lab, notes, Question::SuccessWhileStopping, &step, answer, &settings).await
}

fn body(executing: &StepMessage, stopping: &StepMessage, notes: &mut Notes) {
    let token = if executing.token == stopping.token { "the same token" } else { "another token" };
    let arguments = if stopping.arguments == executing.arguments {
        "the same arguments"
    } else if stopping.arguments.is_null() {
        "no arguments"
    } else {
        "other arguments"
    };
    let keys = if executing.keys == stopping.keys {
        "the same keys".to_owned()
    } else {
        format!("keys {}", stopping.keys.join(", "))
    };
    notes.settle(Question::StoppingBody, None, format!("{token}, {arguments}, {keys}"));
}

async fn second_stop(lab: &mut Lab, notes: &mut Notes, execution: &str) -> Result<(), Setback> {
    let again = request();
    let stop =
        lab.observe(async |services: &Services| services.stop(execution, &again).await).await?;
    let surplus = lab.waits.surplus;
    let message = lab.message(execution, "Stopping", surplus).await?;
    let follows = match message {
        Some(_) => "a Stopping message came after it".to_owned(),
        None => format!("no Stopping message came within {}", duration::text(surplus)),
    };
    notes.settle(Question::SecondStop, None, format!("{}; {follows}", told(&stop)));
    Ok(())
}

/// Notes what an answer made of a step and its execution.
async fn answered(
    lab: &mut Lab,
    notes: &mut Notes,
    question: Question,
    step: &Waiting,
    answer: Result<(), Refusal>,
    settings: &[(&str, &str)],
) -> Result<(), Setback> {
    if answer.is_err() {
        notes.settle(question, None, told(&answer));
        return Ok(());
    }
    let status = lab.step_ended(&step.execution).await?;
    let execution = lab.ended(&step.execution).await?;
    let setting = settings.iter().find(|(name, _)| *name == status).map(|(_, setting)| *setting);
    let text = format!("accepted; the step is {status}, the execution {execution}");
    notes.settle(question, setting, text);
    Ok(())
}
