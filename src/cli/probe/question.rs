//! What nobody outside AWS knows, as questions, and what callbackd does until they are answered.

/// One question. Those that the local endpoint has a switch for bear its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Question {
    UnknownToken,
    MalformedToken,
    AlreadyTerminal,
    StoppedToken,
    EndedExecution,
    SameRequestToken,
    ReusedRequestToken,
    LongReason,
    LongValue,
    UndeclaredOutput,
    ExecutingMessage,
    StoppingMessage,
    StoppingDelay,
    StoppingBody,
    SecondStop,
    FailureWhileStopping,
    SuccessWhileStopping,
    FailedStep,
    RetriedToken,
    RepeatedAnswer,
    TokenBeforeRetry,
    OutputsInArguments,
    ArgumentBoolean,
    ArgumentNull,
    ArgumentObject,
    ArgumentList,
    ArgumentLongInteger,
    ArgumentHugeInteger,
    ArgumentFraction,
    PipelineArns,
    PipelineNames,
    OldReceipt,
    TwiceInABatch,
    LapsedReceipt,
}

impl Question {
    /// In the order of the report.
    pub(super) const ALL: [Self; 34] = [
        Self::UnknownToken,
        Self::MalformedToken,
        Self::AlreadyTerminal,
        Self::StoppedToken,
        Self::EndedExecution,
        Self::SameRequestToken,
        Self::ReusedRequestToken,
        Self::LongReason,
        Self::LongValue,
        Self::UndeclaredOutput,
        Self::ExecutingMessage,
        Self::StoppingMessage,
        Self::StoppingDelay,
        Self::StoppingBody,
        Self::SecondStop,
        Self::FailureWhileStopping,
        Self::SuccessWhileStopping,
        Self::FailedStep,
        Self::RetriedToken,
        Self::RepeatedAnswer,
        Self::TokenBeforeRetry,
        Self::OutputsInArguments,
        Self::ArgumentBoolean,
        Self::ArgumentNull,
        Self::ArgumentObject,
        Self::ArgumentList,
        Self::ArgumentLongInteger,
        Self::ArgumentHugeInteger,
        Self::ArgumentFraction,
        Self::PipelineArns,
        Self::PipelineNames,
        Self::OldReceipt,
        Self::TwiceInABatch,
        Self::LapsedReceipt,
    ];

    /// Its name in JSON.
    pub(super) const fn id(self) -> &'static str {
        self.text().0
    }

    pub(super) const fn asks(self) -> &'static str {
        self.text().1
    }

    /// What callbackd assumes, or why it need not know.
    pub(super) const fn assumes(self) -> &'static str {
        self.text().2
    }

    #[expect(clippy::too_many_lines, reason = "a table with a row for each question")]
    const fn text(self) -> (&'static str, &'static str, &'static str) {
        const NO_CODE: &str =
            "nothing: whatever the code, SageMaker is asked where the step stands";
        const ANY_JSON: &str = "nothing: arguments may be any JSON";
        match self {
            Self::UnknownToken => {
                ("unknown_token", "An answer to a token that was never issued", NO_CODE)
            }
            Self::MalformedToken => (
                "malformed_token",
                "An answer to a token of nine characters, and to one with a `!`",
                "that it is refused: such a message is unreadable and never answered",
            ),
            Self::AlreadyTerminal => (
                "already_terminal",
                "A second answer, with another client request token, to a step that succeeded",
                NO_CODE,
            ),
            Self::StoppedToken => {
                ("stopped_token", "An answer to a step after its stop was answered", NO_CODE)
            }
            Self::EndedExecution => (
                "ended_execution",
                "A stop of an execution that has ended",
                "nothing: `callbackd stop` prints the error",
            ),
            Self::SameRequestToken => (
                "same_request_token",
                "The same answer again, with the same client request token",
                "nothing: if it is refused, SageMaker is asked where the step stands",
            ),
            Self::ReusedRequestToken => (
                "reused_request_token",
                "A client request token of an earlier answer, now with the token of another step",
                "nothing: its request tokens are a function of execution, token and outcome",
            ),
            Self::LongReason => (
                "long_reason",
                "A failure reason of 257 characters",
                "that it is refused: reasons are cut to 256",
            ),
            Self::LongValue => (
                "long_value",
                "An output value of 1025 characters",
                "that it is refused: such outputs fail the step, saying so",
            ),
            Self::UndeclaredOutput => (
                "undeclared_output",
                "An output that the step does not declare, while a declared one is missing",
                "nothing: outputs are sent as the handler gave them",
            ),
            Self::ExecutingMessage => (
                "executing_message",
                "The keys and the attributes of the message that starts a step",
                "nothing: keys are matched without regard to case, other keys are ignored",
            ),
            Self::StoppingMessage => (
                "stopping_message",
                "How often the Stopping message of a step is sent",
                "nothing: the stop watch finds stops without it, duplicates do nothing",
            ),
            Self::StoppingDelay => (
                "stopping_delay",
                "How long after the stop the Stopping message can be received",
                "nothing: the stop watch asks every `stop_watch`",
            ),
            Self::StoppingBody => (
                "stopping_body",
                "The token, arguments and keys of the Stopping message beside the Executing one",
                "that the token is the same; the arguments may be absent",
            ),
            Self::SecondStop => (
                "second_stop",
                "A second stop while the execution is stopping, and whether a message follows",
                "nothing: another Stopping message does nothing",
            ),
            Self::FailureWhileStopping => (
                "failure_while_stopping",
                "Status of step and execution after a failure while stopping",
                "nothing: Stopped and Failed are both ends",
            ),
            Self::SuccessWhileStopping => (
                "success_while_stopping",
                "Status of step and execution after a success while stopping",
                "nothing: Stopped and Succeeded are both ends",
            ),
            Self::FailedStep => (
                "failed_step",
                "What happens to a step that runs beside a failing one, and to the step after it",
                "nothing: a step that SageMaker closed is cleaned up without a report",
            ),
            Self::RetriedToken => (
                "retried_token",
                "The token of a failed step after RetryPipelineExecution",
                "nothing: a token that comes again is a new round of its step",
            ),
            Self::RepeatedAnswer => (
                "repeated_answer",
                "To a retried step with the same token: the answer of the round before, identical",
                "nothing: if the step still waits afterwards, an error says so",
            ),
            Self::TokenBeforeRetry => (
                "token_before_retry",
                "An answer to the token that a retried step had before",
                NO_CODE,
            ),
            Self::OutputsInArguments => (
                "outputs_in_arguments",
                "JSON types of outputs declared String, Integer, Float and Boolean in the arguments \
                 of a later step",
                ANY_JSON,
            ),
            Self::ArgumentBoolean => ("argument_boolean", "`true` as an argument", ANY_JSON),
            Self::ArgumentNull => ("argument_null", "`null` as an argument", ANY_JSON),
            Self::ArgumentObject => ("argument_object", "An object as an argument", ANY_JSON),
            Self::ArgumentList => ("argument_list", "A list as an argument", ANY_JSON),
            Self::ArgumentLongInteger => (
                "argument_long_integer",
                "An integer that a double cannot hold, as an argument",
                ANY_JSON,
            ),
            Self::ArgumentHugeInteger => (
                "argument_huge_integer",
                "An integer of more than 64 bits, as an argument",
                "nothing, but programs get it as a float",
            ),
            Self::ArgumentFraction => (
                "argument_fraction",
                "A fraction of 20 digits, as an argument",
                "nothing, but programs get it as a float",
            ),
            Self::PipelineArns => (
                "pipeline_arns",
                "The case of a pipeline's name in the ARNs of the pipeline and its executions",
                "nothing: names are compared without regard to case",
            ),
            Self::PipelineNames => (
                "pipeline_names",
                "Whether a pipeline is described and started by its name in another case",
                "nothing: if a name is not found, it is looked for in another case",
            ),
            Self::OldReceipt => (
                "old_receipt",
                "DeleteMessage with the receipt handle of an earlier receive",
                "nothing: messages are deleted by their latest handle",
            ),
            Self::TwiceInABatch => (
                "twice_in_a_batch",
                "A batch that names one receipt handle in two entries",
                "nothing: such batches are not sent",
            ),
            Self::LapsedReceipt => (
                "lapsed_receipt",
                "ChangeMessageVisibility after the visibility timeout, before the next receive",
                "that the message is no longer ours, if it is refused",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_question_has_a_name_of_its_own_and_is_asked_once() {
        let ids: BTreeSet<&str> = Question::ALL.iter().map(|one| one.id()).collect();
        assert_eq!(ids.len(), Question::ALL.len());
        assert!(Question::ALL.is_sorted(), "the order is that of the declaration");
    }
}
