//! The experiments: each starts executions of its own, and depends on no other.
//!
//! | file | asks about |
//! |---|---|
//! | `tokens` | tokens that were never issued |
//! | `answers` | answers to settled steps, request tokens, limits |
//! | `stops` | messages and answers of a stop |
//! | `retries` | retried executions |
//! | `steps` | steps beside and after others |
//! | `arguments` | types of arguments |
//! | `names` | the case of names |
//! | `receipts` | receipt handles |

mod answers;
mod arguments;
mod names;
mod receipts;
mod retries;
mod steps;
mod stops;
mod tokens;

use super::caller::Setback;
use super::lab::Lab;
use super::notes::Notes;
use super::question::Question;

/// One experiment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Experiment {
    Tokens,
    SettledStep,
    ReusedRequestToken,
    Limits,
    StopAndFailure,
    StopAndSuccess,
    Retry,
    Siblings,
    Outputs,
    Arguments,
    Names,
    OldReceipt,
    TwiceInABatch,
    LapsedReceipt,
}

impl Experiment {
    pub(super) const ALL: [Self; 14] = [
        Self::Tokens,
        Self::SettledStep,
        Self::ReusedRequestToken,
        Self::Limits,
        Self::StopAndFailure,
        Self::StopAndSuccess,
        Self::Retry,
        Self::Siblings,
        Self::Outputs,
        Self::Arguments,
        Self::Names,
        Self::OldReceipt,
        Self::TwiceInABatch,
        Self::LapsedReceipt,
    ];

    /// The questions that it answers.
    pub(super) const fn questions(self) -> &'static [Question] {
        match self {
            Self::Tokens => &[Question::UnknownToken, Question::MalformedToken],
            Self::SettledStep => &[
                Question::ExecutingMessage,
                Question::SameRequestToken,
                Question::AlreadyTerminal,
                Question::EndedExecution,
            ],
            Self::ReusedRequestToken => &[Question::ReusedRequestToken],
            Self::Limits => {
                &[Question::LongReason, Question::LongValue, Question::UndeclaredOutput]
            }
            Self::StopAndFailure => &[
                Question::StoppingMessage,
                Question::StoppingDelay,
                Question::StoppingBody,
                Question::SecondStop,
                Question::FailureWhileStopping,
                Question::StoppedToken,
            ],
            Self::StopAndSuccess => &[Question::SuccessWhileStopping],
            Self::Retry => {
                &[Question::RetriedToken, Question::RepeatedAnswer, Question::TokenBeforeRetry]
            }
            Self::Siblings => &[Question::FailedStep],
            Self::Outputs => &[Question::OutputsInArguments],
            Self::Arguments => &[
                Question::ArgumentBoolean,
                Question::ArgumentNull,
                Question::ArgumentObject,
                Question::ArgumentList,
                Question::ArgumentLongInteger,
                Question::ArgumentHugeInteger,
                Question::ArgumentFraction,
            ],
            Self::Names => &[Question::PipelineArns, Question::PipelineNames],
            Self::OldReceipt => &[Question::OldReceipt],
            Self::TwiceInABatch => &[Question::TwiceInABatch],
            Self::LapsedReceipt => &[Question::LapsedReceipt],
        }
    }

    /// Runs it once. What it found before a setback is noted.
    pub(super) async fn run(self, lab: &mut Lab, notes: &mut Notes) -> Result<(), Setback> {
        match self {
            Self::Tokens => Box::pin(tokens::run(lab, notes)).await,
            Self::SettledStep => Box::pin(answers::settled(lab, notes)).await,
            Self::ReusedRequestToken => Box::pin(answers::reused(lab, notes)).await,
            Self::Limits => Box::pin(answers::limits(lab, notes)).await,
            Self::StopAndFailure => Box::pin(stops::failure(lab, notes)).await,
            Self::StopAndSuccess => Box::pin(stops::success(lab, notes)).await,
            Self::Retry => Box::pin(retries::run(lab, notes)).await,
            Self::Siblings => Box::pin(steps::siblings(lab, notes)).await,
            Self::Outputs => Box::pin(steps::outputs(lab, notes)).await,
            Self::Arguments => Box::pin(arguments::run(lab, notes)).await,
            Self::Names => Box::pin(names::run(lab, notes)).await,
            Self::OldReceipt => Box::pin(receipts::old(lab, notes)).await,
            Self::TwiceInABatch => Box::pin(receipts::twice(lab, notes)).await,
            Self::LapsedReceipt => Box::pin(receipts::lapsed(lab, notes)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_question_is_answered_by_one_experiment() {
        let mut asked: Vec<Question> =
            Experiment::ALL.iter().flat_map(|one| one.questions()).copied().collect();
        asked.sort();
        assert_eq!(asked, Question::ALL);
    }
}
