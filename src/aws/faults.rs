//! The one place that sorts errors of the SDK by what to do about them.
//!
//! Only a service can refuse, and a service says so with an error code. What has none came from something on the way, or was
//! cut short, and says nothing about the step.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use crate::seam::{Fault, FaultKind};

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No whole answer in time.
    Timeout(String),
    /// No connection, or one that broke.
    Connection(String),
    /// There was nothing to sign with.
    Credentials(Fault),
    /// The request could not be made at all: an impossible endpoint, a lacking setting.
    Unsent(String),
    /// An answer that no AWS service gives: no error code, or a body that cannot be read.
    Unreadable {
        status: u16,
        why: String,
    },
    Refusal(Refusal),
}

/// An error that the service itself gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// As the service spelt it.
    pub code: String,
    pub message: String,
    pub status: u16,
}

impl Failure {
    pub(super) fn of<E>(error: &SdkError<E, HttpResponse>) -> Self
    where
        E: Error + ProvideErrorMetadata + 'static,
    {
        if let Some(fault) = credentials(error) {
            return Self::Credentials(fault);
        }
        match error {
            SdkError::TimeoutError(_) => Self::Timeout(chain(error)),
            SdkError::DispatchFailure(failure) if failure.is_timeout() => Self::Timeout(chain(error)),
            SdkError::DispatchFailure(failure) if failure.is_user() => Self::Unsent(chain(error)),
            SdkError::DispatchFailure(_) => Self::Connection(chain(error)),
            SdkError::ResponseError(response) => {
                Self::Unreadable { status: response.raw().status().as_u16(), why: chain(error) }
            }
            SdkError::ServiceError(service) => {
                let status = service.raw().status().as_u16();
                match service.err().code().filter(|code| !code.is_empty()) {
                    Some(code) => Self::Refusal(Refusal {
                        code: code.to_owned(),
                        message: service.err().message().unwrap_or_default().to_owned(),
                        status,
                    }),
                    None => Self::Unreadable { status, why: chain(error) },
                }
            }
            _ => Self::Unsent(chain(error)),
        }
    }

    /// An entry of a batch that failed. It has no status of its own, but says whose fault it was.
    pub(super) fn of_entry(code: &str, message: Option<&str>, sender_fault: bool) -> Self {
        Self::Refusal(Refusal {
            code: code.to_owned(),
            message: message.unwrap_or_default().to_owned(),
            status: if sender_fault { 400 } else { 500 },
        })
    }

    /// The service's error code without what differs between its protocols; `None` where no service spoke.
    pub(super) fn code(&self) -> Option<&str> {
        match self {
            Self::Refusal(refusal) => Some(plain(&refusal.code)),
            _ => None,
        }
    }

    /// What there is none of: the execution, the step, the queue.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self.code(), Some("ResourceNotFound" | "QueueDoesNotExist" | "NonExistentQueue"))
    }

    /// The credentials are no longer taken, whatever their own date says.
    pub(super) fn distrusts_credentials(&self) -> bool {
        matches!(
            self.code(),
            Some(
                "ExpiredToken"
                    | "TokenRefreshRequired"
                    | "InvalidClientTokenId"
                    | "UnrecognizedClient"
                    | "InvalidToken"
            )
        )
    }

    /// A short word for metrics.
    pub(super) fn label(&self) -> &str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Connection(_) => "connection",
            Self::Credentials(_) => "credentials",
            Self::Unsent(_) => "unsent",
            Self::Unreadable { .. } => "unreadable",
            // A code becomes a label, and labels must not grow with whatever somebody answers.
            Self::Refusal(Refusal { code, .. }) => {
                let fits = code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
                if fits { code } else { "other" }
            }
        }
    }

    pub(super) fn fault(&self, operation: &str) -> Fault {
        let detail = match self {
            Self::Credentials(fault) => return fault.clone(),
            Self::Timeout(why) | Self::Connection(why) | Self::Unsent(why) => format!("{operation}: {why}"),
            Self::Unreadable { status, why } => format!("{operation}: HTTP {status} without an error code: {why}"),
            Self::Refusal(Refusal { code, message, .. }) => format!("{operation}: {code}: {message}"),
        };
        Fault::new(self.kind(), line(&detail))
    }

    fn kind(&self) -> FaultKind {
        match self {
            Self::Timeout(_) | Self::Connection(_) => FaultKind::Transient,
            Self::Credentials(fault) => fault.kind,
            // Nothing was sent, so nobody refused; it will not mend itself either.
            Self::Unsent(_) => FaultKind::Denied,
            // A proxy, a firewall or an endpoint policy in the way.
            Self::Unreadable { status: 401 | 403 | 407, .. } => FaultKind::Denied,
            // On 200 this leaves open whether a report was taken; it is sent again, and is the same request.
            Self::Unreadable { .. } => FaultKind::Transient,
            Self::Refusal(refusal) => sort(refusal),
        }
    }
}

fn sort(refusal: &Refusal) -> FaultKind {
    let Refusal { code, message, status } = refusal;
    let code = plain(code);
    if code.contains("Throttl") {
        return FaultKind::Transient;
    }
    match code {
        "TooManyRequests"
        | "RequestLimitExceeded"
        | "BandwidthLimitExceeded"
        | "SlowDown"
        | "PriorRequestNotComplete" => FaultKind::Transient,
        // 120,000 messages in flight: some of them end.
        "OverLimit" => FaultKind::Transient,
        "RequestTimeout" | "InternalError" | "InternalFailure" | "InternalServerError" | "InternalService" => {
            FaultKind::Transient
        }
        "ServiceUnavailable" | "Unavailable" | "ServiceFailure" => FaultKind::Transient,
        // The SDK learns the service's clock from any answer and signs the next call by it.
        "RequestTimeTooSkewed" | "RequestExpired" => FaultKind::Transient,
        // Credentials are renewed when this is seen.
        "ExpiredToken" | "TokenRefreshRequired" => FaultKind::Transient,
        "AccessDenied"
        | "AuthorizationError"
        | "Unauthorized"
        | "UnauthorizedOperation"
        | "NotAuthorized"
        | "OptInRequired" => FaultKind::Denied,
        // Keys that are unknown, switched off or wrong: somebody rotates them, or a new one takes a while to be known.
        "InvalidClientTokenId" | "UnrecognizedClient" | "InvalidAccessKeyId" | "InvalidToken" => FaultKind::Denied,
        "MissingAuthenticationToken" | "IncompleteSignature" | "InvalidSignature" | "SignatureDoesNotMatch" => {
            FaultKind::Denied
        }
        "AuthFailure" | "InvalidSecurity" => FaultKind::Denied,
        // The queue's key: its policy, or its state.
        "KmsAccessDenied" | "KmsDisabled" | "KmsInvalidState" | "KmsNotFound" | "KmsOptInRequired"
        | "KmsInvalidKeyUsage" => FaultKind::Denied,
        "ReceiptHandleIsInvalid" | "MessageNotInflight" => FaultKind::Stale,
        // What SQS says of a handle that was good once. The same code stands for every other parameter, the 12-hour ceiling too.
        "InvalidParameterValue" if message.contains("parameter ReceiptHandle is invalid") => FaultKind::Stale,
        _ if *status >= 500 || matches!(status, 408 | 429) => FaultKind::Transient,
        _ if matches!(status, 401 | 403) => FaultKind::Denied,
        _ => FaultKind::Refused,
    }
}

/// `AWS.SimpleQueueService.NonExistentQueue`, `KMS.AccessDeniedException` and `ThrottlingException` as one spelling each.
fn plain(code: &str) -> &str {
    let code = code.strip_prefix("AWS.SimpleQueueService.").unwrap_or(code);
    let code = match code {
        "KMS.AccessDeniedException" => "KmsAccessDenied",
        "KMS.DisabledException" => "KmsDisabled",
        "KMS.InvalidStateException" => "KmsInvalidState",
        "KMS.InvalidKeyUsageException" => "KmsInvalidKeyUsage",
        "KMS.NotFoundException" => "KmsNotFound",
        "KMS.OptInRequired" => "KmsOptInRequired",
        other => other,
    };
    code.strip_suffix("Exception").filter(|rest| !rest.is_empty()).unwrap_or(code)
}

/// What became of credentials, where that is why the call failed.
fn credentials(error: &(dyn Error + 'static)) -> Option<Fault> {
    let found = causes(error).find_map(|cause| cause.downcast_ref::<CredentialsError>())?;
    // A role's provider has sorted what STS said.
    if let Some(fault) = causes(found).find_map(|cause| cause.downcast_ref::<Fault>()) {
        return Some(fault.clone());
    }
    let kind = match found {
        CredentialsError::InvalidConfiguration(_) => FaultKind::Denied,
        // Also where the chain found none at all: at boot an instance's metadata may be late.
        _ => FaultKind::Transient,
    };
    Some(Fault::new(kind, line(&format!("no AWS credentials: {}", chain(found)))))
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// What an error and its causes say, each once.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    // Far deeper than any that was seen.
    for cause in causes(error).take(16) {
        let text = cause.to_string();
        if !texts.iter().any(|before| before.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

/// One line of bounded length, without what must not be logged.
fn line(text: &str) -> String {
    /// A log line's worth; the services' own messages are shorter.
    const MOST: usize = 400;
    // What a service says about a wrong signature repeats the signed headers, the session token among them.
    let text = text.split("The Canonical String").next().unwrap_or_default();
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if let Some((cut, _)) = line.char_indices().nth(MOST) {
        line.truncate(cut);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: &str, message: &str, status: u16) -> FaultKind {
        Failure::Refusal(Refusal { code: code.to_owned(), message: message.to_owned(), status }).kind()
    }

    #[test]
    fn every_error_is_sorted_by_what_to_do_about_it() {
        use FaultKind::{Denied, Refused, Stale, Transient};
        for (code, status, wants) in [
            ("ThrottlingException", 400, Transient),
            ("Throttling", 400, Transient),
            ("RequestThrottled", 403, Transient),
            ("KMS.ThrottlingException", 400, Transient),
            ("KmsThrottled", 400, Transient),
            ("TooManyRequestsException", 429, Transient),
            ("RequestLimitExceeded", 503, Transient),
            ("OverLimit", 403, Transient),
            ("InternalFailure", 500, Transient),
            ("InternalFailure", 400, Transient),
            ("ServiceUnavailable", 503, Transient),
            ("NobodyKnowsThis", 500, Transient),
            ("AccessDeniedException", 503, Denied),
            ("NobodyKnowsThis", 429, Transient),
            ("NobodyKnowsThis", 408, Transient),
            ("RequestTimeTooSkewed", 403, Transient),
            ("ExpiredTokenException", 400, Transient),
            ("ExpiredToken", 403, Transient),
            ("AccessDeniedException", 400, Denied),
            ("AccessDenied", 403, Denied),
            ("KMS.AccessDeniedException", 400, Denied),
            ("KmsDisabled", 400, Denied),
            ("UnrecognizedClientException", 400, Denied),
            ("InvalidClientTokenId", 403, Denied),
            ("InvalidSignatureException", 400, Denied),
            ("NobodyKnowsThis", 403, Denied),
            ("NobodyKnowsThis", 401, Denied),
            ("ReceiptHandleIsInvalid", 404, Stale),
            ("AWS.SimpleQueueService.MessageNotInflight", 400, Stale),
            ("ConflictException", 400, Refused),
            ("ResourceNotFound", 400, Refused),
            ("ResourceLimitExceeded", 400, Refused),
            ("ValidationException", 400, Refused),
            ("AWS.SimpleQueueService.NonExistentQueue", 400, Refused),
            ("QueueDoesNotExist", 400, Refused),
            ("InvalidParameterValue", 400, Refused),
            ("NobodyKnowsThis", 400, Refused),
        ] {
            assert_eq!(kind(code, "", status), wants, "{code} with {status}");
        }
    }

    #[test]
    fn a_handle_that_was_good_once_is_stale_and_the_twelve_hour_ceiling_is_a_refusal() {
        let gone = "Value AQEB for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available \
                    for visibility timeout change.";
        assert_eq!(kind("InvalidParameterValue", gone, 400), FaultKind::Stale);
        assert_eq!(kind("InvalidParameterValueException", gone, 400), FaultKind::Stale);
        let ceiling = "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]";
        assert_eq!(kind("InvalidParameterValue", ceiling, 400), FaultKind::Refused);
    }

    #[test]
    fn what_no_service_said_is_never_a_refusal() {
        let unreadable = |status| Failure::Unreadable { status, why: String::new() }.kind();
        for status in [200, 301, 400, 404, 413, 500, 502, 504] {
            assert_eq!(unreadable(status), FaultKind::Transient, "{status}");
        }
        for status in [401, 403, 407] {
            assert_eq!(unreadable(status), FaultKind::Denied, "{status}");
        }
        assert_eq!(Failure::Timeout(String::new()).kind(), FaultKind::Transient);
        assert_eq!(Failure::Connection(String::new()).kind(), FaultKind::Transient);
        assert_eq!(Failure::Unsent(String::new()).kind(), FaultKind::Denied);
    }

    #[test]
    fn a_failed_entry_of_a_batch_is_the_senders_or_the_services_fault() {
        assert_eq!(Failure::of_entry("Strange", None, true).kind(), FaultKind::Refused);
        assert_eq!(Failure::of_entry("Strange", None, false).kind(), FaultKind::Transient);
        assert_eq!(Failure::of_entry("ReceiptHandleIsInvalid", None, true).kind(), FaultKind::Stale);
    }

    #[test]
    fn a_detail_is_one_short_line_without_secrets() {
        let message = format!(
            "The request signature we calculated does not match.\r\n\u{1b}[2J {}\n\nThe Canonical String for this request \
             should have been 'x-amz-security-token:SECRET'",
            "ä".repeat(1000)
        );
        let refusal = Refusal { code: "InvalidSignatureException".to_owned(), message, status: 403 };
        let detail = Failure::Refusal(refusal).fault("ReceiveMessage").detail;
        assert!(detail.starts_with("ReceiveMessage: InvalidSignatureException: The request signature"), "{detail}");
        assert!(detail.chars().count() <= 401 && detail.chars().all(|c| !c.is_control()), "{detail}");
        let short = Failure::of_entry("Code", Some("bad The Canonical String x-amz-security-token:SECRET"), true);
        assert_eq!(short.fault("Op").detail, "Op: Code: bad");
    }

    #[test]
    fn a_code_that_is_no_code_does_not_become_a_label() {
        assert_eq!(Failure::of_entry("AWS.SimpleQueueService.X", None, true).label(), "AWS.SimpleQueueService.X");
        assert_eq!(Failure::of_entry("<html>", None, true).label(), "other");
        assert_eq!(Failure::of_entry(&"x".repeat(65), None, true).label(), "other");
    }

    #[test]
    fn lacking_credentials_are_late_unless_their_configuration_is_wrong() {
        let fault = |error: CredentialsError| credentials(&error).expect("credentials");
        let late = fault(CredentialsError::not_loaded("no providers in chain"));
        assert_eq!(late.kind, FaultKind::Transient);
        assert!(late.detail.contains("no providers in chain"), "{late}");
        assert_eq!(fault(CredentialsError::invalid_configuration("no such profile")).kind, FaultKind::Denied);
        let denied = Fault::new(FaultKind::Denied, "AssumeRole: AccessDenied: no");
        assert_eq!(fault(CredentialsError::provider_error(denied.clone())), denied);
    }
}
