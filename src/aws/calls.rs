//! Every call to AWS goes through here: it is bounded in time, counted, and its error is
//! classified.
//!
//! The SDK retries nothing. Its retry quota is shared by the whole process and is not refilled by
//! time, so an outage of one kind of call would use up the retries of all others. Its retries would
//! not be counted either, and every caller here has its own unlimited, jittered back-off. A wrong
//! clock needs no SDK retry: the client learns the service's time from any answer and signs the
//! next call by it.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_smithy_types::timeout::TimeoutConfig;
use tokio::time::timeout;

use super::credentials::CachedCredentials;
use super::faults::Failure;
#[cfg(feature = "dynamodb")]
use crate::seam::FaultKind;
use crate::seam::{Fault, Observation, Observer};

/// How long one call may take. The SDK bounds only the connection set-up; a connection whose peer
/// has vanished silently would hang a call indefinitely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limit(Duration);

impl Limit {
    /// A long poll takes 20 s, plus 10 s for the round trip. Cutting off a poll may strand the
    /// messages it received until their visibility timeout ends; after 30 s of silence none are
    /// coming.
    pub(super) const POLL: Self = Self(Duration::from_secs(30));
    /// Heartbeats, deletes and sends are answered in milliseconds, and late ones are worth nothing.
    /// A heartbeat has half of the visibility timeout for its retries, at least 5 s.
    pub(super) const QUICK: Self = Self(Duration::from_secs(5));
    /// Reports and questions.
    pub(super) const ANSWER: Self = Self(Duration::from_secs(10));
    /// The ledger's table answers in milliseconds. A lease of 3 s is lost 2 s after its last
    /// renewal.
    #[cfg(feature = "dynamodb")]
    pub(super) const LEDGER: Self = Self(Duration::from_secs(2));

    /// The same for longer leases, which a table that is slow for a while need not end: there is
    /// time for two renewals between the moment when one is due and the loss.
    #[cfg(feature = "dynamodb")]
    pub(super) fn of_lease(lease: Duration) -> Self {
        Self((lease / 6).clamp(Self::LEDGER.0, Self::QUICK.0))
    }

    /// Added to the SDK's own timeout, which therefore fires first unless it is broken.
    const MARGIN: Duration = Duration::from_secs(2);

    /// Two lost SYNs are sent again after 1 s and 3 s.
    const CONNECT: Duration = Duration::from_millis(3_100);

    /// The same bound as a setting of the SDK, which also gives up the connection when it fires.
    pub(super) fn of_the_sdk(self) -> TimeoutConfig {
        TimeoutConfig::builder()
            .connect_timeout(Self::CONNECT)
            .operation_attempt_timeout(self.0)
            .build()
    }

    fn ours(self) -> Duration {
        self.0 + Self::MARGIN
    }
}

/// The calls of one service in one account.
#[derive(Clone)]
pub(super) struct Calls {
    service: &'static str,
    credentials: Arc<CachedCredentials>,
    observer: Arc<dyn Observer>,
}

/// A failed call, and which call it was.
#[derive(Debug)]
pub(super) struct Failed {
    pub operation: &'static str,
    pub failure: Failure,
}

impl Failed {
    /// What to do about it.
    #[cfg(feature = "dynamodb")]
    pub(super) fn kind(&self) -> FaultKind {
        self.failure.kind()
    }
}

impl Calls {
    pub(super) fn new(
        service: &'static str,
        credentials: Arc<CachedCredentials>,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self { service, credentials, observer }
    }

    /// The call is boxed: it takes some kilobytes, which every future around it would otherwise
    /// reserve twice.
    pub(super) fn send<T, E>(
        &self,
        operation: &'static str,
        limit: Limit,
        call: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> impl Future<Output = Result<T, Failed>>
    where
        E: Error + ProvideErrorMetadata + 'static,
    {
        self.sent(operation, limit, Box::pin(call))
    }

    async fn sent<T, E>(
        &self,
        operation: &'static str,
        limit: Limit,
        call: Pin<Box<impl Future<Output = Result<T, SdkError<E, HttpResponse>>>>>,
    ) -> Result<T, Failed>
    where
        E: Error + ProvideErrorMetadata + 'static,
    {
        let failure = match timeout(limit.ours(), call).await {
            Ok(Ok(answer)) => {
                self.count(operation, "ok");
                return Ok(answer);
            }
            Ok(Err(error)) => Failure::of(&error),
            Err(_) => {
                self.observer.observe(Observation::AwsTimeout { operation });
                Failure::Timeout(format!("no answer within {:?}", limit.ours()))
            }
        };
        self.count(operation, failure.label());
        if failure.distrusts_credentials() {
            self.credentials.distrust();
        }
        Err(Failed { operation, failure })
    }

    fn count(&self, operation: &'static str, result: &str) {
        self.observer.observe(Observation::AwsCall { service: self.service, operation, result });
    }
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Calls").field("service", &self.service).finish_non_exhaustive()
    }
}

impl From<Failed> for Fault {
    fn from(failed: Failed) -> Self {
        failed.failure.fault(failed.operation)
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_sqs::operation::receive_message::ReceiveMessageError;
    use serde_json::json;

    use super::*;
    use crate::aws::server::{Reply, Seen, Server};
    use crate::seam::FaultKind;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_outlives_the_sdks_own_timeout_is_cut_off_and_counted() {
        let seen = Arc::new(Seen::default());
        let calls = Calls::new("sqs", Arc::new(CachedCredentials::nothing()), seen.clone());
        let never =
            std::future::pending::<Result<(), SdkError<ReceiveMessageError, HttpResponse>>>();
        let fault: Fault =
            calls.send("ReceiveMessage", Limit::POLL, never).await.expect_err("a bound").into();
        assert_eq!(fault.kind, FaultKind::Transient);
        assert_eq!(seen.all(), ["bound ReceiveMessage", "sqs ReceiveMessage timeout"]);
    }

    #[tokio::test]
    async fn credentials_that_a_service_does_not_take_are_distrusted() {
        for (code, wants) in [("ExpiredTokenException", true), ("ThrottlingException", false)] {
            let server = Server::start([Reply::Json(400, json!({ "__type": code }))]).await;
            let account = server.account();
            let calls = account.calls("sqs");
            let call = account.poll.receive_message().queue_url("http://q").send();
            calls.send("ReceiveMessage", Limit::POLL, call).await.expect_err("a failure");
            assert_eq!(account.credentials.is_distrusted(), wants, "{code}");
        }
    }
}
