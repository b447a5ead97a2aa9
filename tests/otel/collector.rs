//! A collector of OpenTelemetry, as far as traces need one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One span; ids are hexadecimal, and no id is empty.
#[derive(Clone, Debug, Default)]
pub struct Span {
    pub trace_id: String,
    pub id: String,
    pub parent: String,
    pub name: String,
    pub begun: u64,
    pub ended: u64,
    pub fields: BTreeMap<String, String>,
    pub error: Option<String>,
}

/// Where traces are posted to.
pub struct Collector {
    url: String,
    requests: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
    serving: JoinHandle<()>,
}

impl Collector {
    pub async fn start() -> Self {
        Self::that(true).await
    }

    /// It accepts requests, and answers none.
    pub async fn silent() -> Self {
        Self::that(false).await
    }

    /// The URL of a port where nothing listens.
    pub async fn nowhere() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        format!("http://{}", listener.local_addr().expect("an address"))
    }

    async fn that(answers: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let requests: Arc<Mutex<Vec<(HeaderMap, Bytes)>>> = Arc::default();
        let kept = requests.clone();
        let take = async move |headers: HeaderMap, body: Bytes| {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push((headers, body));
            if !answers {
                std::future::pending::<()>().await;
            }
        };
        let router = Router::new().route("/v1/traces", post(take));
        let serve = async move { axum::serve(listener, router).await.expect("it serves") };
        Self { url, requests, serving: tokio::spawn(serve) }
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    pub fn was_asked(&self) -> bool {
        !self.requests().is_empty()
    }

    /// The header `x-tenant` of each request.
    pub fn tenants(&self) -> Vec<String> {
        let tenant = |(headers, _): &(HeaderMap, Bytes)| {
            headers.get("x-tenant")?.to_str().ok().map(str::to_owned)
        };
        self.requests().iter().filter_map(tenant).collect()
    }

    fn requests(&self) -> MutexGuard<'_, Vec<(HeaderMap, Bytes)>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The attributes of the resource, and the spans in the order of their beginnings.
    pub fn received(&self) -> (BTreeMap<String, String>, Vec<Span>) {
        let (mut resource, mut spans) = (BTreeMap::new(), Vec::new());
        for (_, body) in self.requests().iter() {
            for of_resource in messages(body, 1) {
                for it in messages(of_resource, 1) {
                    resource.extend(attributes(it, 1));
                }
                for of_scope in messages(of_resource, 2) {
                    spans.extend(messages(of_scope, 2).map(span));
                }
            }
        }
        spans.sort_by_key(|span: &Span| span.begun);
        (resource, spans)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The numbers are those of `opentelemetry/proto/trace/v1/trace.proto`.
fn span(bytes: &[u8]) -> Span {
    let id = |number| {
        let bytes = messages(bytes, number).next().unwrap_or_default();
        bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
    };
    let number = |number| numbers(bytes, number).next().expect("it has that");
    let status = messages(bytes, 15).next().unwrap_or_default();
    Span {
        trace_id: id(1),
        id: id(2),
        parent: id(4),
        name: messages(bytes, 5).map(text).collect(),
        begun: number(7),
        ended: number(8),
        fields: attributes(bytes, 9).collect(),
        error: messages(status, 2)
            .map(text)
            .next()
            .filter(|_| numbers(status, 3).next() == Some(2)),
    }
}

fn attributes(bytes: &[u8], number: u64) -> impl Iterator<Item = (String, String)> {
    messages(bytes, number).map(|pair| {
        let value = messages(pair, 2).next().unwrap_or_default();
        let words = messages(value, 1).map(text);
        let numbers = numbers(value, 3).map(|number| number.to_string());
        (messages(pair, 1).map(text).collect(), words.chain(numbers).collect())
    })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// The values of a field that have a length: messages, texts and bytes.
fn messages(bytes: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    fields(bytes).into_iter().filter(move |field| field.0 == number).filter_map(|field| field.2)
}

/// The values of a field that are numbers.
fn numbers(bytes: &[u8], number: u64) -> impl Iterator<Item = u64> {
    let ours = move |field: &(u64, u64, Option<&[u8]>)| field.0 == number && field.2.is_none();
    fields(bytes).into_iter().filter(ours).map(|field| field.1)
}

/// The fields of a message of protobuf: the number of each, and its value or its bytes.
fn fields(mut bytes: &[u8]) -> Vec<(u64, u64, Option<&[u8]>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let (number, kind) = (tag >> 3, tag & 7);
        found.push(match kind {
            0 => (number, varint(&mut bytes), None),
            2 => {
                let length = usize::try_from(varint(&mut bytes)).expect("a length");
                (number, 0, Some(taken(&mut bytes, length)))
            }
            1 | 5 => {
                let fixed = taken(&mut bytes, if kind == 1 { 8 } else { 4 });
                let value = fixed.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte));
                (number, value, None)
            }
            kind => panic!("protobuf has no kind {kind}"),
        });
    }
    found
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = taken(bytes, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}

fn taken<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    taken
}
