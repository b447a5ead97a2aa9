#![doc = include_str!("README.md")]

mod answer;
mod secrets;
mod service;
mod settings;
mod signature;

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::time::sleep;

pub use settings::{Settings, SettingsError};

use self::answer::{Kept, Meaning};
use self::secrets::Files;
use self::service::{Answer, NoAnswer, Service};
use super::given;
use crate::handler::{
    Completion, Context, Handler, HandlerError, HandlerResult, Remark, StopReason,
};
use crate::hex::hex;
use crate::trust;

/// The handler type `http`.
#[derive(Debug)]
pub struct Http {
    run: Service,
    cleanup: Option<Service>,
    headers: HeaderMap,
    files: Files,
    /// Warnings about the settings, for operators.
    warnings: Vec<String>,
}

/// What the ledger keeps between the requests for a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Saved {
    /// How many requests were answered with `again`.
    looks: u64,
    /// What the service wants to be given.
    checkpoint: Option<Value>,
}

/// The name in [`HandlerError::host`] of a service that cannot be reached.
const SERVICE: &str = "service";
/// The same of a secret that cannot be read.
const SECRET: &str = "secret";
/// Pauses before a cleanup is asked for again that was refused for the moment.
const CLEANUP_AGAIN: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

impl Http {
    /// A handler with these settings. What the machine lacks at present, such as the secret, is no
    /// error here but a [remark](Handler::remarks).
    ///
    /// # Errors
    /// [`SettingsError`] if the settings can never call a service.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        let checked = settings.checked()?;
        let mut warnings: Vec<String> = checked
            .open_secrets()
            .map(|name| {
                format!(
                    "headers: `{name}` may be a secret, and the configuration is no place for \
                     one: put it into a file, and name that in header_files"
                )
            })
            .collect();
        let run = Service::new(checked.url, checked.timeout)?;
        let cleanup = checked.cleanup_url.map(|url| Service::new(url, checked.timeout));
        let cleanup = cleanup.transpose()?;
        for service in [&run].into_iter().chain(&cleanup).filter(|service| !service.is_secure()) {
            warnings.push(format!(
                "{} is not encrypted: steps and their outputs can be read and changed on the way; \
                 use https",
                service.shown()
            ));
        }
        let (headers, files) = (checked.headers, checked.files);
        Ok(Self { run, cleanup, headers, files, warnings })
    }

    /// Sends one request for the step.
    async fn ask(
        &self,
        service: &Service,
        cx: &Context,
        saved: &Saved,
        purpose: &str,
    ) -> Result<Answer, AskError> {
        let mut step = given::step(cx);
        step["fence"] = cx.fence().into();
        if let Some(checkpoint) = &saved.checkpoint {
            step["checkpoint"] = checkpoint.clone();
        }
        let body = step.to_string().into_bytes();
        let secrets = self.files.read().map_err(|error| AskError::Secret(error.to_string()))?;
        let mut headers = self.headers.clone();
        headers.extend(secrets.headers);
        let mut set = |name: &'static str, value: &str| {
            // All consist of visible ASCII characters.
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        };
        if let Some(trace) = cx.trace() {
            set("x-amzn-trace-id", trace.as_str());
            if let Some(parent) = trace.traceparent() {
                set("traceparent", &parent);
            }
        }
        set("idempotency-key", &idempotency_key(cx, purpose));
        if let Some(key) = secrets.key {
            let at = Timestamp::now();
            set(signature::HEADER, &signature::of(&key, at, "POST", &service.path(), &body));
        }
        service.post(headers, body).await.map_err(AskError::NoAnswer)
    }

    /// Sends the request of a run. Once it must have reached the service, the handler works.
    async fn ask_to_run(&self, cx: &Context, saved: &Saved) -> Result<Answer, AskError> {
        let purpose = format!("run {}", saved.looks);
        let mut asking = pin!(self.ask(&self.run, cx, saved, &purpose));
        tokio::select! {
            biased;
            answer = &mut asking => return answer,
            () = sleep(self.run.connected_after()) => cx.is_under_way(),
        }
        asking.await
    }
}

/// Why a request has no answer.
enum AskError {
    Secret(String),
    NoAnswer(NoAnswer),
}

impl From<AskError> for HandlerError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Secret(error) => Self::host(SECRET, error),
            AskError::NoAnswer(NoAnswer::Unreachable(error)) => Self::host(SERVICE, error),
            AskError::NoAnswer(NoAnswer::Lost(error)) => Self::retry(error),
        }
    }
}

impl Handler for Http {
    type Args = Value;

    async fn run(&self, cx: Context, _: Value) -> HandlerResult {
        let mut saved: Saved = cx.checkpoint()?.unwrap_or_default();
        let answer = tokio::select! {
            biased;
            answer = self.ask_to_run(&cx, &saved) => answer?,
            reason = told_to_end(&cx) => {
                return Err(HandlerError::retry(format_args!(
                    "the request was given up ({})", reason.as_str()
                )));
            }
        };
        let before = saved.clone();
        let (result, Kept { checkpoint, key }) = match Meaning::of(&answer) {
            Meaning::Success(outputs) => return Ok(Completion::Success(outputs)),
            Meaning::Failure(reason) => return Err(HandlerError::permanent(reason)),
            Meaning::Again(wait, kept) => {
                saved.looks += 1;
                (Ok(Completion::Again(wait)), kept)
            }
            Meaning::Deferred(kept) => (Ok(Completion::Deferred), kept),
            Meaning::Retry(wait, error, kept) => {
                let error = match wait {
                    Some(wait) => HandlerError::retry_after(spread(wait), error),
                    None => HandlerError::retry(error),
                };
                (Err(error), kept)
            }
        };
        saved.checkpoint = checkpoint.or(saved.checkpoint);
        if let Some(key) = key {
            cx.set_key(key.as_str()).await?;
        }
        if saved != before {
            cx.save_checkpoint(&saved).await?;
        }
        result
    }

    async fn cleanup(&self, cx: Context, _: Value) -> Result<(), HandlerError> {
        let Some(service) = &self.cleanup else { return Ok(()) };
        let saved: Saved = cx.checkpoint()?.unwrap_or_default();
        let mut pauses = CLEANUP_AGAIN.into_iter();
        loop {
            let error = match self.ask(service, &cx, &saved, "cleanup").await {
                Ok(answer) if answer.status.is_success() => return Ok(()),
                Ok(answer) => {
                    let told = HandlerError::permanent(answer::told(&answer));
                    if !matches!(Meaning::of(&answer), Meaning::Retry(..)) {
                        return Err(told);
                    }
                    told
                }
                Err(AskError::NoAnswer(NoAnswer::Lost(error))) => HandlerError::permanent(error),
                // The engine tries again, as long as the cleanup may take.
                Err(error) => return Err(error.into()),
            };
            let Some(pause) = pauses.next() else { return Err(error) };
            tracing::warn!(event = "cleanup_asked_again", %error, "the cleanup is asked for again");
            sleep(pause).await;
        }
    }

    fn remarks(&self, _: &Path) -> Vec<Remark> {
        let mut remarks: Vec<Remark> = self.warnings.iter().map(Remark::warning).collect();
        remarks.extend(self.files.remarks());
        remarks.extend(trust::bundle().err().map(|error| Remark::error(error.to_string())));
        remarks
    }
}

/// Resolves when the request must be given up. At a shutdown its answer is waited for, because the
/// work would have to be done again.
async fn told_to_end(cx: &Context) -> StopReason {
    let reason = cx.stopping().await;
    if reason == StopReason::Shutdown {
        sleep(cx.stop_grace()).await;
    }
    reason
}

/// The same for each request for the same piece of work: of a run until it is answered with
/// `again`, and of a cleanup.
fn idempotency_key(cx: &Context, purpose: &str) -> String {
    let mut hash = Sha256::new();
    for part in ["callbackd/http/1", cx.execution().as_str(), cx.token().as_str(), purpose] {
        hash.update(part);
        hash.update([0]);
    }
    hex(&hash.finalize())
}

/// Up to a tenth longer, so that the steps that a service has put off do not return together.
fn spread(wait: Duration) -> Duration {
    wait + wait.mul_f64(fastrand::f64() / 10.0)
}

#[cfg(test)]
mod tests;
