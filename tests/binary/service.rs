//! A service for handlers of the type `http`: it records every request and answers from a script.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use jiff::Timestamp;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::http_server::{Request, Response, serve};

/// What is done with one request.
#[derive(Clone, Debug)]
pub enum Reply {
    Answer(u16, &'static [(&'static str, &'static str)], String),
    /// No answer ever.
    Hang,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Call {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
    pub at: Timestamp,
}

pub struct Service {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// By path. Requests beyond it are not answered.
    script: BTreeMap<String, VecDeque<Reply>>,
    calls: Vec<Call>,
    /// How many clients closed the connection of a request that was not answered.
    given_up: usize,
}

/// An answer of JSON.
pub fn json(status: u16, body: &Value) -> Reply {
    Reply::Answer(status, &[], body.to_string())
}

/// An address at which nothing listens yet.
pub async fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("an address")
}

impl Service {
    pub async fn start() -> Self {
        Self::start_at(free_address().await).await
    }

    pub async fn start_at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let serving = serve(listener, move |request| answer(request, shared.clone()));
        Self { address, state, serving }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The next requests to this path are answered so.
    pub fn answers(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        let mut state = self.state.lock().unwrap();
        state.script.entry(path.to_owned()).or_default().extend(replies);
    }

    /// The requests to this path.
    pub fn calls(&self, path: &str) -> Vec<Call> {
        let state = self.state.lock().unwrap();
        state.calls.iter().filter(|call| call.path == path).cloned().collect()
    }

    pub fn given_up(&self) -> usize {
        self.state.lock().unwrap().given_up
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Call {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(String::as_str).unwrap_or_default()
    }
}

async fn answer(request: Request, state: Arc<Mutex<State>>) -> io::Result<Response> {
    let path = request.uri().to_string();
    let headers = request.headers().iter().map(|(name, value)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let headers = headers.collect();
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let body = String::from_utf8(body.to_vec()).expect("UTF-8");
    let reply = {
        let mut state = state.lock().unwrap();
        state.calls.push(Call { path: path.clone(), headers, body, at: Timestamp::now() });
        state.script.get_mut(&path).and_then(VecDeque::pop_front)
    };
    match reply.unwrap_or(Reply::Hang) {
        Reply::Answer(status, headers, body) => {
            let mut response = hyper::Response::builder().status(status);
            for (name, value) in headers {
                response = response.header(*name, *value);
            }
            Ok(response.body(Full::from(body)).expect("a response"))
        }
        Reply::Hang => {
            let _open = Open(state);
            let never: Infallible = pending().await;
            match never {}
        }
    }
}

/// A request that is not answered. It is dropped with its connection.
struct Open(Arc<Mutex<State>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().unwrap().given_up += 1;
    }
}
