//! Decides whether an answer to a step is accepted; the only place that does.

use serde_json::Value;

use super::execution::Status;
use super::requests::Seen;
use super::shape::{conflict, invalid, not_found};
use crate::local::protocol::ApiError;
use crate::local::undocumented::{
    AlreadyTerminal, RepeatedAnswer, ReusedRequestToken, Undocumented, UnknownToken,
};

/// What to do with an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// The step ends with it.
    Accept,
    /// It was accepted before; the earlier response is returned again.
    Repeat(Value),
    Refuse(ApiError),
}

/// Decides about an answer to a token, given whether its client request token was seen before, and
/// the name and status of the token's step, if it exists.
pub(super) fn judge(
    seen: Seen,
    step: Option<(&str, Status)>,
    undocumented: &Undocumented,
) -> Verdict {
    match (seen, step) {
        // A step that was answered and waits again was retried and kept its token.
        (Seen::Same(_), Some((_, status)))
            if !status.is_terminal() && undocumented.repeated_answer == RepeatedAnswer::Taken =>
        {
            Verdict::Accept
        }
        (Seen::Same(response), _) => Verdict::Repeat(response),
        (Seen::Other(response), _) => match reused(undocumented) {
            Some(error) => Verdict::Refuse(error),
            None => Verdict::Repeat(response),
        },
        (Seen::Never, None) => Verdict::Refuse(match undocumented.unknown_token {
            UnknownToken::ResourceNotFound => not_found("The callback token does not exist."),
            UnknownToken::Validation => invalid("The callback token does not exist."),
        }),
        (Seen::Never, Some((name, status))) if status.is_terminal() => Verdict::Refuse(
            already_terminal(format!("Step {name} is already in a terminal status"), undocumented),
        ),
        (Seen::Never, Some(_)) => Verdict::Accept,
    }
}

/// The error for a client request token that is used again with another request, if it is one.
pub(super) fn reused(undocumented: &Undocumented) -> Option<ApiError> {
    match undocumented.reused_request_token {
        ReusedRequestToken::Refused => {
            Some(conflict("The client request token was used before, with other parameters."))
        }
        ReusedRequestToken::Replayed => None,
    }
}

pub(super) fn already_terminal(message: String, undocumented: &Undocumented) -> ApiError {
    match undocumented.already_terminal {
        AlreadyTerminal::Conflict => conflict(message),
        AlreadyTerminal::Validation => invalid(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn code(verdict: Verdict) -> String {
        match verdict {
            Verdict::Refuse(error) => error.code,
            other => panic!("{other:?} is no refusal"),
        }
    }

    #[test]
    fn an_open_step_takes_its_first_answer_stopping_or_not() {
        for status in [Status::Executing, Status::Stopping] {
            assert_eq!(
                judge(Seen::Never, Some(("a", status)), &Undocumented::default()),
                Verdict::Accept
            );
        }
    }

    #[test]
    fn the_same_request_again_is_answered_as_before_though_the_step_has_ended() {
        let verdict =
            judge(Seen::Same(json!(1)), Some(("a", Status::Succeeded)), &Undocumented::default());
        assert_eq!(verdict, Verdict::Repeat(json!(1)));
    }

    #[test]
    fn the_same_request_to_a_step_that_waits_again_is_taken_or_answered_as_before() {
        let waiting = Some(("a", Status::Executing));
        assert_eq!(judge(Seen::Same(json!(1)), waiting, &Undocumented::default()), Verdict::Accept);
        let set =
            Undocumented { repeated_answer: RepeatedAnswer::Replayed, ..Undocumented::default() };
        assert_eq!(judge(Seen::Same(json!(1)), waiting, &set), Verdict::Repeat(json!(1)));
    }

    #[test]
    fn a_second_answer_is_refused_with_the_code_that_is_set() {
        for (already_terminal, expected) in [
            (AlreadyTerminal::Conflict, "ConflictException"),
            (AlreadyTerminal::Validation, "ValidationException"),
        ] {
            let set = Undocumented { already_terminal, ..Undocumented::default() };
            for status in [Status::Succeeded, Status::Failed, Status::Stopped] {
                assert_eq!(code(judge(Seen::Never, Some(("a", status)), &set)), expected);
            }
        }
    }

    #[test]
    fn an_unknown_token_is_refused_with_the_code_that_is_set() {
        for (unknown_token, expected) in [
            (UnknownToken::ResourceNotFound, "ResourceNotFound"),
            (UnknownToken::Validation, "ValidationException"),
        ] {
            let set = Undocumented { unknown_token, ..Undocumented::default() };
            assert_eq!(code(judge(Seen::Never, None, &set)), expected);
        }
    }

    #[test]
    fn a_client_request_token_with_another_request_is_refused_or_answered_as_before() {
        let open = Some(("a", Status::Executing));
        let refused = judge(Seen::Other(json!(1)), open, &Undocumented::default());
        assert_eq!(code(refused), "ConflictException");
        let set = Undocumented {
            reused_request_token: ReusedRequestToken::Replayed,
            ..Undocumented::default()
        };
        assert_eq!(judge(Seen::Other(json!(1)), open, &set), Verdict::Repeat(json!(1)));
    }
}
