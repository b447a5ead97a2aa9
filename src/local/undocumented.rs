//! Behaviour that AWS leaves undocumented, as switches: the endpoint does not guess, it can be
//! told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// SQS's bound on `DelaySeconds`.
const LONGEST_DELAY: Duration = Duration::from_mins(15);

/// What AWS does not document and no one has recorded: a client must be right with every variant.
///
/// The defaults are choices, not findings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Undocumented {
    /// The error's code if a token's step has ended already ("Step … is already in a terminal
    /// status"), and if an ended execution is stopped.
    pub already_terminal: AlreadyTerminal,
    /// The case of a pipeline's name in its ARN and its executions'. Most public captures have it
    /// in lower case, a few as it was given.
    pub pipeline_arns: PipelineArns,
    /// Whether pipelines are found by a name in another case.
    pub pipeline_names: PipelineNames,
    /// The error's code for a callback token that was never issued.
    pub unknown_token: UnknownToken,
    /// A `ClientRequestToken` that was used before, now with other parameters.
    pub reused_request_token: ReusedRequestToken,
    /// The status of a step that is answered with success while its execution is stopping.
    pub success_while_stopping: SuccessWhileStopping,
    /// The status of a step, and so of its execution, that is answered with failure while the
    /// execution is stopping.
    pub failure_while_stopping: FailureWhileStopping,
    /// What happens to the other steps when one fails.
    pub failed_step: FailedStep,
    /// The callback token of a step that is restarted because its execution is retried.
    pub retried_token: RetriedToken,
    /// An answer to a restarted step with the same token, if it equals the answer to the previous
    /// round, including the client request token.
    pub repeated_answer: RepeatedAnswer,
    /// How often a stopped step is told so.
    pub stopping_message: StoppingMessage,
    /// How long after the stop its message becomes visible, at most 15 minutes.
    #[serde(with = "crate::duration")]
    pub stopping_delay: Duration,
    /// How an output parameter declared as a number or boolean appears in a later step's arguments.
    pub outputs_in_arguments: OutputsInArguments,
    /// What `DeleteMessage` does with a receipt handle from an earlier receive; either way it
    /// reports success.
    pub old_receipt: OldReceipt,
    /// The result of a batch that names one receipt handle twice.
    pub twice_in_a_batch: TwiceInABatch,
    /// The error of `ChangeMessageVisibility` if the message's visibility timeout is over but it
    /// was not received since.
    pub lapsed_receipt: LapsedReceipt,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlreadyTerminal {
    /// `ConflictException`.
    #[default]
    Conflict,
    /// `ValidationException`.
    Validation,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineArns {
    #[default]
    LowerCase,
    /// As the pipeline was named when it was created.
    AsNamed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineNames {
    #[default]
    IgnoringCase,
    /// By name; by ARN always without regard to case.
    Exact,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownToken {
    /// `ResourceNotFound`.
    #[default]
    ResourceNotFound,
    /// `ValidationException`.
    Validation,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReusedRequestToken {
    /// `ConflictException`.
    #[default]
    Refused,
    /// The answer to the first request is returned again, and nothing is done.
    Replayed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuccessWhileStopping {
    #[default]
    Stopped,
    Succeeded,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureWhileStopping {
    #[default]
    Stopped,
    Failed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailedStep {
    /// Running steps are awaited, none is started, then the execution fails.
    #[default]
    Drain,
    /// Steps that do not depend on it are started and awaited, then the execution fails.
    Continue,
    /// The execution fails at once; running steps are stopped without a message.
    Cut,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetriedToken {
    /// A new one; the previous one is unknown from then on.
    #[default]
    Fresh,
    /// The same one.
    Same,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepeatedAnswer {
    /// The step ends with it.
    #[default]
    Taken,
    /// The answer to the first request is returned again, and the step keeps waiting.
    Replayed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoppingMessage {
    #[default]
    Once,
    Twice,
    Never,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputsInArguments {
    /// As the JSON number or boolean that it was declared to be.
    #[default]
    Typed,
    /// As the string that was sent.
    Strings,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OldReceipt {
    /// The message stays.
    #[default]
    Ignored,
    /// The message is deleted all the same.
    Deletes,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TwiceInABatch {
    /// It is refused as a whole: `BatchEntryIdsNotDistinct`.
    #[default]
    Refused,
    /// Each entry is performed.
    Done,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LapsedReceipt {
    /// `MessageNotInflight`.
    #[default]
    NotInFlight,
    /// `InvalidParameterValue`.
    InvalidParameter,
}

impl Undocumented {
    /// # Errors
    /// A sentence, if the delay is longer than SQS can delay a message.
    pub fn checked(self) -> Result<Self, String> {
        if self.stopping_delay > LONGEST_DELAY {
            return Err(
                "stopping_delay is at most 15m, as long as SQS can delay a message".to_owned()
            );
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_that_is_not_named_keeps_its_default() {
        let read: Undocumented =
            serde_json::from_str(r#"{"failed_step": "cut", "stopping_delay": "90s"}"#)
                .expect("two switches");
        assert_eq!(
            read,
            Undocumented {
                failed_step: FailedStep::Cut,
                stopping_delay: Duration::from_secs(90),
                ..Undocumented::default()
            }
        );
    }

    #[test]
    fn a_switch_that_does_not_exist_is_refused() {
        assert!(serde_json::from_str::<Undocumented>(r#"{"failing_step": "cut"}"#).is_err());
        assert!(serde_json::from_str::<Undocumented>(r#"{"failed_step": "explode"}"#).is_err());
    }
}
