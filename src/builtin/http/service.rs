//! One address of a service, and one request to it.

use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url, redirect, retry};
use rustls::ClientConfig;
use tokio::time::timeout;

use super::settings::SettingsError;
use crate::causes::with_causes;
use crate::duration::text;
use crate::trust;

/// One address of a service, with its connections.
#[derive(Debug)]
pub(super) struct Service {
    url: Url,
    client: Client,
    timeout: Duration,
}

/// An answer as it came; what it means is decided elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Its first [`LARGEST`] bytes.
    pub(super) body: Vec<u8>,
    /// There were more.
    pub(super) is_cut: bool,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// No connection was made: the service knows nothing of the request.
    Unreachable(String),
    /// The service may have received the request.
    Lost(String),
}

/// All outputs that SageMaker accepts, in UTF-8, are far smaller.
pub(super) const LARGEST: usize = 1 << 20;
/// How long a connection may take: a host that is up accepts within milliseconds, and lost packets
/// are sent again after 1, 3 and 7 seconds.
const CONNECT: Duration = Duration::from_secs(10);
/// Servers close idle connections after 5 s (Node, uvicorn) or more. A request that meets the end
/// of its connection is lost, so idle ones are closed before that.
const IDLE: Duration = Duration::from_secs(4);
/// NAT gateways silently drop a connection after 350 s without traffic, and answers may take
/// longer.
const KEEP_ALIVE: Duration = Duration::from_mins(1);

impl Service {
    /// Connections are reused for [`IDLE`]; redirects are not followed; nothing is sent twice.
    pub(super) fn new(url: Url, timeout: Duration) -> Result<Self, SettingsError> {
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls(&url)?)
            .http1_only()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .referer(false)
            .user_agent(concat!("callbackd/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(connect_timeout(timeout))
            .pool_idle_timeout(IDLE)
            .tcp_keepalive(KEEP_ALIVE);
        // A proxy would ask its own machine.
        if trust::is_loopback(&url) {
            builder = builder.no_proxy();
        }
        let failed = |error| SettingsError::Client(with_causes(&error));
        Ok(Self { client: builder.build().map_err(failed)?, url, timeout })
    }

    /// The path with the query, as it is sent.
    pub(super) fn path(&self) -> String {
        let query = self.url.query().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}{query}", self.url.path())
    }

    /// The address in words; a query may hold a key.
    pub(super) fn shown(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        url.into()
    }

    /// After this long, a request that has not failed has reached the service.
    pub(super) fn connected_after(&self) -> Duration {
        connect_timeout(self.timeout) + Duration::from_millis(500)
    }

    pub(super) fn is_secure(&self) -> bool {
        self.url.scheme() == "https" || trust::is_loopback(&self.url)
    }

    /// Sends one request with a body of JSON. Dropping the future closes the connection.
    pub(super) async fn post(&self, headers: HeaderMap, body: Vec<u8>) -> Result<Answer, NoAnswer> {
        const JSON: HeaderValue = HeaderValue::from_static("application/json");
        let mut all = HeaderMap::from_iter([(ACCEPT, JSON)]);
        all.extend(headers);
        all.insert(CONTENT_TYPE, JSON);
        let request = self.client.post(self.url.clone()).headers(all).body(body);
        let answering = async { read(request.send().await?).await };
        match timeout(self.timeout, answering).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.no_answer(error)),
            Err(_) => Err(NoAnswer::Lost(format!(
                "{} did not answer within {} (`timeout`)",
                self.shown(),
                text(self.timeout)
            ))),
        }
    }

    fn no_answer(&self, error: reqwest::Error) -> NoAnswer {
        let is_unreachable = error.is_connect();
        let why = with_causes(&error.without_url());
        if is_unreachable {
            NoAnswer::Unreachable(format!("{} cannot be reached: {why}", self.shown()))
        } else {
            NoAnswer::Lost(format!("the answer of {} was lost: {why}", self.shown()))
        }
    }
}

/// Shorter than the time for everything, so that the two are told apart.
fn connect_timeout(timeout: Duration) -> Duration {
    CONNECT.min(timeout / 2)
}

fn tls(url: &Url) -> Result<ClientConfig, SettingsError> {
    trust::client(url.scheme() == "https").map_err(|error| SettingsError::Client(error.to_string()))
}

async fn read(mut response: Response) -> reqwest::Result<Answer> {
    let (status, headers) = (response.status(), response.headers().clone());
    let (mut body, mut is_cut) = (Vec::new(), false);
    while let Some(chunk) = response.chunk().await? {
        let room = LARGEST - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            is_cut = true;
            break;
        }
    }
    Ok(Answer { status, headers, body, is_cut })
}
