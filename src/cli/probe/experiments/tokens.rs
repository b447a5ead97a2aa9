//! Tokens that were never issued.

use crate::aws::probe::{Refusal, Services};
use crate::cli::probe::caller::Setback;
use crate::cli::probe::lab::{Lab, request, told};
use crate::cli::probe::notes::Notes;
use crate::cli::probe::question::Question;

pub(super) async fn run(lab: &mut Lab, notes: &mut Notes) -> Result<(), Setback> {
    let (short, odd) = (answered(lab, "abcdefghi").await?, answered(lab, "abcdefghi!").await?);
    let text = format!("nine characters: {}; with a `!`: {}", told(&short), told(&odd));
    notes.settle(Question::MalformedToken, None, text);

    let never_issued: String = (0..10).map(|_| fastrand::alphanumeric()).collect();
    lab.redaction.learn(&never_issued, "TOKEN");
    let answer = answered(lab, &never_issued).await?;
    notes.settle(Question::UnknownToken, code(&answer, CODES), told(&answer));
    Ok(())
}

const CODES: &[(&str, &str)] =
    &[("ResourceNotFound", "resource_not_found"), ("ValidationException", "validation")];

/// The setting that stands for the code of a refusal.
pub(super) fn code<T>(
    answer: &Result<T, Refusal>,
    settings: &[(&str, &'static str)],
) -> Option<&'static str> {
    let refusal = answer.as_ref().err()?;
    settings.iter().find(|(code, _)| refusal.code == *code).map(|(_, setting)| *setting)
}

async fn answered(lab: &mut Lab, token: &str) -> Result<Result<(), Refusal>, Setback> {
    let request = request();
    lab.observe(async |services: &Services| services.succeed(token, &[], &request).await).await
}
