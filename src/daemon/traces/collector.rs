//! The connection to a collector, and what is said if it cannot be used.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::SpanExporter as Otlp;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use reqwest::{Client, Url, redirect};
use tokio::runtime::Handle;

use crate::causes::with_causes;
use crate::trust;

/// A collector answers with a few bytes.
const LARGEST: usize = 64 * 1024;

/// Sends the exporter's requests on the worker's runtime, with its TLS.
#[derive(Debug)]
pub(super) struct Connection {
    client: Client,
    runtime: Handle,
    /// Why the last request failed, which the exporter does not tell.
    failure: Arc<Mutex<Option<String>>>,
}

impl Connection {
    /// To the collector at `url`.
    ///
    /// # Errors
    /// A sentence, if there can be no client.
    pub(super) fn new(url: &Url, timeout: Duration, runtime: Handle) -> Result<Self, String> {
        let tls = trust::client(url.scheme() == "https").map_err(|error| with_causes(&error))?;
        let mut client = Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .redirect(redirect::Policy::none())
            .user_agent(concat!("callbackd/", env!("CARGO_PKG_VERSION")))
            .timeout(timeout);
        if trust::is_loopback(url) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| with_causes(&error))?;
        Ok(Self { client, runtime, failure: Arc::default() })
    }

    pub(super) fn failure(&self) -> Arc<Mutex<Option<String>>> {
        self.failure.clone()
    }
}

type Answer<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

// As `async_trait` writes it.
impl HttpClient for Connection {
    fn send_bytes<'life0, 'async_trait>(
        &'life0 self,
        request: Request<Bytes>,
    ) -> Answer<'async_trait>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        let sent = self.runtime.spawn(sent(self.client.clone(), request));
        Box::pin(async move {
            let answer = sent.await?;
            let why = match &answer {
                Ok(answer) if answer.status().is_success() => None,
                Ok(answer) => Some(format!("it answered {}", answer.status())),
                Err(error) => Some(with_causes(error)),
            };
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = why;
            Ok(answer?)
        })
    }
}

async fn sent(client: Client, request: Request<Bytes>) -> Result<Response<Bytes>, reqwest::Error> {
    // An address may hold a password.
    let shown = reqwest::Error::without_url;
    let mut answer = client.execute(request.try_into().map_err(shown)?).await.map_err(shown)?;
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(shown)? {
        let room = LARGEST - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    let mut response = Response::new(body.into());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    Ok(response)
}

/// Exports spans, and says once if that does not work, and once if it works again.
#[derive(Debug)]
pub(super) struct Telling {
    inner: Otlp,
    failure: Arc<Mutex<Option<String>>>,
    fails: Mutex<bool>,
}

impl Telling {
    pub(super) fn new(inner: Otlp, failure: Arc<Mutex<Option<String>>>) -> Self {
        Self { inner, failure, fails: Mutex::new(false) }
    }

    fn tell(&self, result: &OTelSdkResult) {
        let now = result.is_err();
        let before =
            std::mem::replace(&mut *self.fails.lock().unwrap_or_else(PoisonError::into_inner), now);
        match result {
            Err(error) if !before => {
                let why = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
                say(&why.unwrap_or_else(|| error.to_string()));
            }
            Ok(()) if before => {
                tracing::info!(event = "traces_exported_again", "traces are exported again");
            }
            _ => {}
        }
    }
}

impl SpanExporter for Telling {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.inner.export(batch).await;
        self.tell(&result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

pub(super) fn say(error: &str) {
    tracing::warn!(
        event = "traces_not_exported",
        error,
        "traces cannot be exported to the collector, and are lost; steps are not delayed"
    );
}
