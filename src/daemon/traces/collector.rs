//! The connection to a collector.

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
use tokio_util::sync::CancellationToken;

use super::account::Account;
use crate::causes::with_causes;
use crate::trust;

/// A collector answers with a few bytes; more of it is not read.
const LARGEST: usize = 64 * 1024;

/// Sends the exporter's requests on the worker's runtime, with its TLS.
#[derive(Debug)]
pub(super) struct Connection {
    client: Client,
    runtime: Handle,
    /// Requests are given up then.
    until: CancellationToken,
    /// Why the last request failed, which the exporter does not tell.
    failure: Arc<Mutex<Option<String>>>,
}

impl Connection {
    /// To the collector at `url`, by the runtime that this is called in.
    ///
    /// # Errors
    /// A sentence, if there can be no client.
    pub(super) fn new(
        url: &Url,
        timeout: Duration,
        until: CancellationToken,
    ) -> Result<Self, String> {
        let tls = trust::client(url.scheme() == "https").map_err(|error| with_causes(&error))?;
        let mut client = Client::builder()
            .tls_backend_preconfigured(tls)
            .http1_only()
            .redirect(redirect::Policy::none())
            .timeout(timeout);
        if trust::is_loopback(url) {
            client = client.no_proxy();
        }
        let client = client.build().map_err(|error| with_causes(&error))?;
        Ok(Self { client, runtime: Handle::current(), until, failure: Arc::default() })
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
        // The exporter waits for it on a thread of its own, without a runtime.
        let sent = sent(self.client.clone(), request);
        let sent = self.runtime.spawn(self.until.clone().run_until_cancelled_owned(sent));
        Box::pin(async move {
            let answer = sent.await?.ok_or("the worker has ended")?;
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
    while body.len() < LARGEST
        && let Some(chunk) = answer.chunk().await.map_err(shown)?
    {
        let room = LARGEST - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
    }
    let mut response = Response::new(body.into());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    Ok(response)
}

/// Exports spans, and keeps account of them.
#[derive(Debug)]
pub(super) struct Accounted {
    inner: Otlp,
    failure: Arc<Mutex<Option<String>>>,
    account: Arc<Account>,
}

impl Accounted {
    pub(super) fn new(
        inner: Otlp,
        failure: Arc<Mutex<Option<String>>>,
        account: Arc<Account>,
    ) -> Self {
        Self { inner, failure, account }
    }
}

impl SpanExporter for Accounted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.inner.export(batch).await;
        let why = result.as_ref().err().map(|error| {
            let known = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
            known.unwrap_or_else(|| error.to_string())
        });
        self.account.sent(spans, why.as_deref());
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}
