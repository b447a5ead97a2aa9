//! The one place that classifies SDK errors by what to do about them.
//!
//! Only a service can refuse a request, and a service says so with an error code. An error without
//! a code came from something in between, or was cut short, and says nothing about the step.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use jiff::Timestamp;

use crate::causes::causes;
use crate::seam::{Fault, FaultKind};

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No complete answer in time.
    Timeout(String),
    /// No connection, or a broken one.
    Connection(String),
    /// There were no credentials to sign with.
    Credentials(Fault),
    /// A service refused the signature because our clock is far from its own.
    Clock {
        refusal: Refusal,
        /// How many seconds our clock is ahead of the service's, if the answer carried a date.
        ahead: Option<i64>,
    },
    /// The request could not be built: an impossible endpoint, or a missing setting.
    Unsent(String),
    /// An answer that no AWS service gives: without an error code, or with an unreadable body.
    Unreadable {
        status: u16,
        why: String,
    },
    Refusal(Refusal),
}

/// An error that the service itself returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// As the service spells it.
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
            SdkError::DispatchFailure(failure) if failure.is_timeout() => {
                Self::Timeout(chain(error))
            }
            SdkError::DispatchFailure(failure) if failure.is_user() => Self::Unsent(chain(error)),
            SdkError::DispatchFailure(_) => Self::Connection(chain(error)),
            SdkError::ResponseError(response) => {
                Self::Unreadable { status: response.raw().status().as_u16(), why: chain(error) }
            }
            SdkError::ServiceError(service) => {
                let status = service.raw().status().as_u16();
                match service.err().code().filter(|code| !code.is_empty()) {
                    Some(code) => {
                        let message = service.err().message().unwrap_or_default().to_owned();
                        let refusal = Refusal { code: code.to_owned(), message, status };
                        let ahead = service.raw().headers().get("date").and_then(ahead_of);
                        if refusal.is_of_the_clock(ahead) {
                            Self::Clock { refusal, ahead }
                        } else {
                            Self::Refusal(refusal)
                        }
                    }
                    None => Self::Unreadable { status, why: chain(error) },
                }
            }
            _ => Self::Unsent(chain(error)),
        }
    }

    /// A failed entry of a batch. It has no HTTP status, but says whose fault it was.
    pub(super) fn of_entry(code: &str, message: Option<&str>, sender_fault: bool) -> Self {
        Self::Refusal(Refusal {
            code: code.to_owned(),
            message: message.unwrap_or_default().to_owned(),
            status: if sender_fault { 400 } else { 500 },
        })
    }

    /// The service's error code without the differences between its protocols; `None` if no service
    /// answered.
    pub(super) fn code(&self) -> Option<&str> {
        match self {
            Self::Refusal(refusal) | Self::Clock { refusal, .. } => Some(plain(&refusal.code)),
            _ => None,
        }
    }

    /// Something does not exist: the execution, the step, or the queue.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self.code(), Some("ResourceNotFound" | "QueueDoesNotExist" | "NonExistentQueue"))
    }

    /// The condition of a write to DynamoDB does not hold; nothing was written.
    #[cfg(feature = "dynamodb")]
    pub(super) fn is_condition(&self) -> bool {
        self.code() == Some("ConditionalCheckFailed")
    }

    /// The credentials are no longer accepted, whatever their expiry date says.
    pub(super) fn distrusts_credentials(&self) -> bool {
        match self {
            Self::Refusal(refusal) => {
                matches!(plain(&refusal.code), "ExpiredToken" | "TokenRefreshRequired")
                    || refusal.is_of_the_keys()
            }
            _ => false,
        }
    }

    /// A short word for metrics.
    pub(super) fn label(&self) -> &str {
        match self {
            Self::Timeout(_) => "timeout",
            Self::Connection(_) => "connection",
            Self::Credentials(_) => "credentials",
            Self::Unsent(_) => "unsent",
            Self::Unreadable { .. } => "unreadable",
            // A code becomes a label, and the number of labels must not grow with whatever an
            // endpoint answers.
            Self::Refusal(Refusal { code, .. })
            | Self::Clock { refusal: Refusal { code, .. }, .. } => {
                let fits = code.len() <= 64
                    && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
                if fits { code } else { "other" }
            }
        }
    }

    pub(super) fn fault(&self, operation: &str) -> Fault {
        let detail = match self {
            Self::Credentials(fault) => return fault.clone(),
            Self::Timeout(why) | Self::Connection(why) | Self::Unsent(why) => {
                format!("{operation}: {why}")
            }
            Self::Unreadable { status, why } => {
                format!("{operation}: HTTP {status} without an error code: {why}")
            }
            Self::Refusal(Refusal { code, message, .. }) => {
                format!("{operation}: {code}: {message}")
            }
            Self::Clock { refusal: Refusal { code, message, .. }, ahead } => {
                let off = |by: &str| {
                    format!("the clock of this machine is {by} the service's: set it (NTP)")
                };
                let clock = match ahead {
                    Some(ahead) if ahead.abs() <= AGREED => {
                        "the service finds its time wrong, though its own date agrees with this \
                         machine's clock"
                            .to_owned()
                    }
                    Some(ahead) if *ahead > 0 => off(&format!("{ahead} s ahead of")),
                    Some(behind) => off(&format!("{} s behind", behind.unsigned_abs())),
                    None => off("not"),
                };
                format!("{operation}: {clock}: {code}: {message}")
            }
        };
        Fault::new(self.kind(), line(&detail))
    }

    pub(super) fn kind(&self) -> FaultKind {
        match self {
            // A wrong clock is no lack of permission; it gets set, or the SDK learns the service's
            // time.
            Self::Timeout(_) | Self::Connection(_) | Self::Clock { .. } => FaultKind::Transient,
            Self::Credentials(fault) => fault.kind,
            // Nothing was sent, so nothing was refused; nor will it go away by itself.
            Self::Unsent(_) => FaultKind::Misconfigured,
            // A proxy, a firewall or an endpoint policy is in the way.
            Self::Unreadable { status: 401 | 403 | 407, .. } => FaultKind::Denied,
            // With status 200 this leaves open whether a report was accepted; it is sent again as
            // the same request.
            Self::Unreadable { .. } => FaultKind::Transient,
            Self::Refusal(refusal) => sort(refusal),
        }
    }
}

impl Refusal {
    /// Keys that are unknown, disabled or wrong: they are being rotated, or new ones are not known
    /// everywhere yet.
    fn is_of_the_keys(&self) -> bool {
        matches!(
            plain(&self.code),
            "InvalidClientTokenId"
                | "UnrecognizedClient"
                | "InvalidAccessKeyId"
                | "InvalidToken"
                | "InvalidSecurity"
                | "MissingAuthenticationToken"
                | "IncompleteSignature"
                | "InvalidSignature"
                | "SignatureDoesNotMatch"
                | "AuthFailure"
        )
    }

    /// Whether the service found the signature too old or too new.
    fn is_of_the_clock(&self, ahead: Option<i64>) -> bool {
        match plain(&self.code) {
            "RequestTimeTooSkewed" | "RequestExpired" | "RequestInTheFuture" => true,
            "InvalidSignature" | "SignatureDoesNotMatch" | "AuthFailure" => {
                let says = ["Signature expired", "Signature not yet current"]
                    .iter()
                    .any(|text| self.message.contains(text));
                says || ahead.is_some_and(|ahead| ahead.abs() > SKEWED)
            }
            _ => false,
        }
    }
}

/// Signatures are valid for five minutes (AWS's signing reference); the SDKs correct a clock from
/// four minutes on.
const SKEWED: i64 = 4 * 60;

/// No signature is refused for so few seconds; such a request was old for another reason, such as a
/// suspended machine.
const AGREED: i64 = 30;

/// How many seconds our clock is ahead of an HTTP date.
pub(super) fn ahead_of(date: &str) -> Option<i64> {
    let date = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    Some(Timestamp::now().as_second() - date.as_second())
}

fn sort(refusal: &Refusal) -> FaultKind {
    let Refusal { code, message, status } = refusal;
    let code = plain(code);
    if refusal.is_of_the_keys() {
        return FaultKind::Misconfigured;
    }
    if code.contains("Throttl") {
        return FaultKind::Transient;
    }
    match code {
        "TooManyRequests"
        | "RequestLimitExceeded"
        | "BandwidthLimitExceeded"
        | "SlowDown"
        | "PriorRequestNotComplete"
        | "ProvisionedThroughputExceeded" => FaultKind::Transient,
        // 120,000 messages are in flight; some of them will be deleted.
        "OverLimit" => FaultKind::Transient,
        "RequestTimeout"
        | "InternalError"
        | "InternalFailure"
        | "InternalServerError"
        | "InternalService" => FaultKind::Transient,
        "ServiceUnavailable" | "Unavailable" | "ServiceFailure" => FaultKind::Transient,
        // Credentials are renewed when this is seen.
        "ExpiredToken" | "TokenRefreshRequired" => FaultKind::Transient,
        "AccessDenied"
        | "AuthorizationError"
        | "Unauthorized"
        | "UnauthorizedOperation"
        | "NotAuthorized"
        | "OptInRequired" => FaultKind::Denied,
        // The queue's key: its policy or its state.
        "KmsAccessDenied" | "KmsDisabled" | "KmsInvalidState" | "KmsNotFound"
        | "KmsOptInRequired" | "KmsInvalidKeyUsage" => FaultKind::Denied,
        "ReceiptHandleIsInvalid" | "MessageNotInflight" => FaultKind::Stale,
        // SQS's answer to a receipt handle that has expired. The same code is used for every other
        // parameter, including the 12-hour limit.
        "InvalidParameterValue" if message.contains("parameter ReceiptHandle is invalid") => {
            FaultKind::Stale
        }
        _ if *status >= 500 || matches!(status, 408 | 429) => FaultKind::Transient,
        _ if matches!(status, 401 | 403) => FaultKind::Denied,
        _ => FaultKind::Refused,
    }
}

/// Spells `AWS.SimpleQueueService.NonExistentQueue`, `KMS.AccessDeniedException` and
/// `ThrottlingException` alike.
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

/// The fault of the credentials, if that is why the call failed.
fn credentials(error: &(dyn Error + 'static)) -> Option<Fault> {
    let found = causes(error).find_map(|cause| cause.downcast_ref::<CredentialsError>())?;
    // A role's provider has already classified STS's answer.
    if let Some(fault) = causes(found).find_map(|cause| cause.downcast_ref::<Fault>()) {
        let kind =
            if fault.kind == FaultKind::Denied { FaultKind::Misconfigured } else { fault.kind };
        return Some(Fault { kind, ..fault.clone() });
    }
    Some(Fault::without_credentials(line(&format!("no AWS credentials: {}", chain(found)))))
}

/// The messages of an error and its causes, each once, without the wrappers that the SDK puts
/// around a credential source.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    const FRAMES: [&str; 4] = [
        "the credential provider was not enabled",
        "an error occurred while loading credentials",
        "the credentials provider was not properly configured",
        "unexpected credentials error",
    ];
    let mut texts: Vec<String> = Vec::new();
    for cause in causes(error) {
        let text = cause.to_string();
        if !FRAMES.contains(&text.as_str()) && !texts.iter().any(|before| before.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

/// One line of bounded length, without anything that must not be logged.
fn line(text: &str) -> String {
    /// The services' own messages are shorter; those of five credential sources together are not.
    const MAX_CHARS: usize = 1_500;
    // A service's message about a wrong signature repeats the signed headers, the session token
    // among them.
    let text = text.split("The Canonical String").next().unwrap_or_default();
    let words =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if let Some((cut, _)) = line.char_indices().nth(MAX_CHARS) {
        line.truncate(cut);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: &str, message: &str, status: u16) -> FaultKind {
        Failure::Refusal(Refusal { code: code.to_owned(), message: message.to_owned(), status })
            .kind()
    }

    #[test]
    fn every_error_is_sorted_by_what_to_do_about_it() {
        use FaultKind::{Denied, Misconfigured, Refused, Stale, Transient};
        for (code, status, wants) in [
            ("ThrottlingException", 400, Transient),
            ("Throttling", 400, Transient),
            ("RequestThrottled", 403, Transient),
            ("KMS.ThrottlingException", 400, Transient),
            ("KmsThrottled", 400, Transient),
            ("TooManyRequestsException", 429, Transient),
            ("RequestLimitExceeded", 503, Transient),
            ("ProvisionedThroughputExceededException", 400, Transient),
            ("ConditionalCheckFailedException", 400, Refused),
            ("OverLimit", 403, Transient),
            ("InternalFailure", 500, Transient),
            ("InternalFailure", 400, Transient),
            ("ServiceUnavailable", 503, Transient),
            ("NobodyKnowsThis", 500, Transient),
            ("AccessDeniedException", 503, Denied),
            ("NobodyKnowsThis", 429, Transient),
            ("NobodyKnowsThis", 408, Transient),
            ("ExpiredTokenException", 400, Transient),
            ("ExpiredToken", 403, Transient),
            ("AccessDeniedException", 400, Denied),
            ("AccessDenied", 403, Denied),
            ("KMS.AccessDeniedException", 400, Denied),
            ("KmsDisabled", 400, Denied),
            ("UnrecognizedClientException", 400, Misconfigured),
            ("InvalidClientTokenId", 403, Misconfigured),
            ("InvalidSignatureException", 400, Misconfigured),
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
        let gone = "Value AQEB for parameter ReceiptHandle is invalid. Reason: Message does not \
                    exist or is not available for visibility timeout change.";
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
        assert_eq!(Failure::Unsent(String::new()).kind(), FaultKind::Misconfigured);
    }

    #[test]
    fn a_failed_entry_of_a_batch_is_the_senders_or_the_services_fault() {
        assert_eq!(Failure::of_entry("Strange", None, true).kind(), FaultKind::Refused);
        assert_eq!(Failure::of_entry("Strange", None, false).kind(), FaultKind::Transient);
        assert_eq!(
            Failure::of_entry("ReceiptHandleIsInvalid", None, true).kind(),
            FaultKind::Stale
        );
    }

    #[test]
    fn a_detail_is_one_short_line_without_secrets() {
        let message = format!(
            "The request signature we calculated does not match.\r\n\u{1b}[2J {}\n\nThe Canonical \
             String for this request \
             should have been 'x-amz-security-token:SECRET'",
            "ä".repeat(2000)
        );
        let refusal =
            Refusal { code: "InvalidSignatureException".to_owned(), message, status: 403 };
        let detail = Failure::Refusal(refusal).fault("ReceiveMessage").detail;
        assert!(
            detail.starts_with("ReceiveMessage: InvalidSignatureException: The request signature"),
            "{detail}"
        );
        assert!(
            detail.chars().count() <= 1_501 && detail.chars().all(|c| !c.is_control()),
            "{detail}"
        );
        let short = Failure::of_entry(
            "Code",
            Some("bad The Canonical String x-amz-security-token:SECRET"),
            true,
        );
        assert_eq!(short.fault("Op").detail, "Op: Code: bad");
    }

    #[test]
    fn a_code_that_is_no_code_does_not_become_a_label() {
        assert_eq!(
            Failure::of_entry("AWS.SimpleQueueService.X", None, true).label(),
            "AWS.SimpleQueueService.X"
        );
        assert_eq!(Failure::of_entry("<html>", None, true).label(), "other");
        assert_eq!(Failure::of_entry(&"x".repeat(65), None, true).label(), "other");
    }

    #[test]
    fn lacking_credentials_are_late_unless_a_role_is_denied() {
        let fault = |error: CredentialsError| credentials(&error).expect("credentials");
        let late = fault(CredentialsError::not_loaded("no providers in chain"));
        assert_eq!(late.kind, FaultKind::Transient);
        assert!(late.detail.contains("no providers in chain"), "{late}");
        let long = fault(CredentialsError::not_loaded(format!(
            "{} the one that matters",
            "another; ".repeat(100)
        )));
        assert!(long.detail.ends_with("the one that matters"), "{long}");
        let half = fault(CredentialsError::invalid_configuration("half a profile"));
        let lacking = Fault::without_credentials("no AWS credentials: half a profile".to_owned());
        assert_eq!(half, lacking);
        let denied = |kind| Fault::new(kind, "AssumeRole: AccessDenied: no");
        let of_role = fault(CredentialsError::provider_error(denied(FaultKind::Denied)));
        assert_eq!(of_role, denied(FaultKind::Misconfigured));
    }

    #[test]
    fn a_clock_that_is_wrong_is_no_lack_of_permission() {
        let refusal = |code: &str, message: &str| Refusal {
            code: code.to_owned(),
            message: message.to_owned(),
            status: 403,
        };
        for (code, message, ahead, wants) in [
            ("RequestTimeTooSkewed", "", None, true),
            ("RequestExpired", "", Some(0), true),
            (
                "InvalidSignatureException",
                "Signature expired: 20261125T000000Z is now earlier than …",
                None,
                true,
            ),
            ("InvalidSignatureException", "Signature not yet current", None, true),
            ("SignatureDoesNotMatch", "no", Some(-SKEWED - 1), true),
            ("SignatureDoesNotMatch", "no", Some(SKEWED), false),
            ("InvalidSignatureException", "no", None, false),
            ("AccessDeniedException", "no", Some(100_000), false),
        ] {
            assert_eq!(
                refusal(code, message).is_of_the_clock(ahead),
                wants,
                "{code} {message} {ahead:?}"
            );
        }
        for (ahead, wants) in [
            (Some(420), "the clock of this machine is 420 s ahead of the service's: set it (NTP)"),
            (Some(-300), "the clock of this machine is 300 s behind the service's: set it (NTP)"),
            (
                Some(0),
                "the service finds its time wrong, though its own date agrees with this machine's \
                 clock",
            ),
            (None, "the clock of this machine is not the service's: set it (NTP)"),
        ] {
            let failure = Failure::Clock { refusal: refusal("RequestExpired", "why"), ahead };
            let fault = failure.fault("ReceiveMessage");
            let text = format!("ReceiveMessage: {wants}: RequestExpired: why");
            assert_eq!(fault, Fault::new(FaultKind::Transient, text));
            assert!(!failure.distrusts_credentials());
        }
        assert_eq!(
            ahead_of("Thu, 01 Jan 1970 00:00:00 GMT").map(|ahead| ahead > 1_700_000_000),
            Some(true)
        );
        assert_eq!(ahead_of("yesterday"), None);
    }
}
