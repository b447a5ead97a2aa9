//! A connection that can be cut, between the daemon and a service.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A TCP proxy in front of one service. It forwards everything unchanged.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

/// The first request of a connection and its answer, as the service processed it, whether or not
/// the client received the answer.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub operation: String,
    pub request: Value,
    pub answer: Value,
    /// When the answer began.
    pub at: Timestamp,
}

/// A message as one receive returned it.
#[derive(Clone, Debug)]
pub struct Received {
    pub receipt_handle: String,
    /// How often it had been received by then.
    pub receives: u32,
}

#[derive(Default)]
struct State {
    exchanges: Vec<Exchange>,
    /// Requests forwarded and not yet among the exchanges; long polls only once they are answered.
    open: usize,
    /// The operation of the first request of each connection, in order; moto closes a connection
    /// with its answer.
    seen: Vec<String>,
    down: bool,
    /// Operations whose requests are reset before they are forwarded, until healed.
    refused: Vec<String>,
    /// Operations whose requests are answered here, as if AWS did not allow them, until healed.
    denied: Vec<String>,
    /// Operations whose requests wait, and are forwarded once healed.
    held: Vec<String>,
    /// Operations the next request of which is forwarded and processed, and its connection reset
    /// instead of answered.
    cut: Vec<String>,
    /// How much longer everything takes.
    slower: Duration,
    /// Error codes, one of which half of all requests are answered with.
    throttled: &'static [&'static str],
}

impl Proxy {
    pub async fn start(service: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let state = shared.clone();
                tokio::spawn(async move {
                    // How a connection ends is its client's concern.
                    let _ = forward(client, service, &state).await;
                });
            }
        });
        Self { address, state, serving }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on every connection is reset, those that are open too.
    pub fn go_down(&self) {
        self.state.lock().unwrap().down = true;
    }

    /// Resets what asks for this operation, before the service hears of it.
    pub fn refuse(&self, operation: &str) {
        self.state.lock().unwrap().refused.push(operation.to_owned());
    }

    /// Answers requests for this operation, before the service hears of them, as AWS answers what
    /// no policy allows.
    pub fn deny(&self, operation: &str) {
        self.state.lock().unwrap().denied.push(operation.to_owned());
    }

    /// Holds back requests for this operation, without an answer, until healed.
    pub fn hold(&self, operation: &str) {
        self.state.lock().unwrap().held.push(operation.to_owned());
    }

    /// Forwards the held requests for this operation.
    pub fn let_go(&self, operation: &str) {
        self.state.lock().unwrap().held.retain(|held| held != operation);
    }

    /// Resets the connection of the next request for this operation once the service has answered
    /// it.
    pub fn cut_the_answer_of(&self, operation: &str) {
        self.state.lock().unwrap().cut.push(operation.to_owned());
    }

    /// Every request is forwarded that much later, until healed.
    pub fn slow_down(&self, by: Duration) {
        self.state.lock().unwrap().slower = by;
    }

    /// Answers half of all requests with one of these error codes, until healed.
    pub fn throttle(&self, codes: &'static [&'static str]) {
        self.state.lock().unwrap().throttled = codes;
    }

    /// Everything works again.
    pub fn heal(&self) {
        let mut state = self.state.lock().unwrap();
        state.down = false;
        state.slower = Duration::ZERO;
        state.throttled = &[];
        state.refused.clear();
        state.denied.clear();
        state.held.clear();
    }

    /// Whether something was forwarded that is not yet among the exchanges; a long poll counts once
    /// it is answered.
    pub fn is_busy(&self) -> bool {
        self.state.lock().unwrap().open > 0
    }

    pub fn exchanges(&self) -> Vec<Exchange> {
        self.state.lock().unwrap().exchanges.clone()
    }

    /// What all receives brought, in order.
    pub fn received(&self) -> Vec<Received> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let receives =
            self.exchanges().into_iter().filter(|exchange| exchange.operation == "receivemessage");
        let messages = receives
            .filter_map(|exchange| exchange.answer["Messages"].as_array().cloned())
            .flatten();
        let brought = messages.map(|message| Received {
            receipt_handle: text(&message["ReceiptHandle"]),
            receives: text(&message["Attributes"]["ApproximateReceiveCount"])
                .parse()
                .expect("a count is asked for"),
        });
        brought.collect()
    }

    /// How many connections were opened for this operation; for any, where it is empty.
    pub fn seen(&self, operation: &str) -> usize {
        self.state
            .lock()
            .unwrap()
            .seen
            .iter()
            .filter(|seen| operation.is_empty() || *seen == operation)
            .count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn forward(
    mut client: TcpStream,
    service: SocketAddr,
    state: &Mutex<State>,
) -> io::Result<()> {
    if state.lock().unwrap().down {
        state.lock().unwrap().seen.push("refused".to_owned());
        return client.set_zero_linger();
    }
    let head = read_head(&mut client).await?;
    let operation = operation(&head);
    let (throttled, slower) = {
        let state = state.lock().unwrap();
        (state.throttled, state.slower)
    };
    if let Some(code) = fastrand::choice(throttled).filter(|_| fastrand::bool()) {
        state.lock().unwrap().seen.push(format!("{operation} {code}"));
        return refuse(client, head, code).await;
    }
    let (refused, denied, cut) = {
        let mut state = state.lock().unwrap();
        state.seen.push(operation.clone());
        let cut = state
            .cut
            .iter()
            .position(|cut| *cut == operation)
            .map(|at| state.cut.remove(at))
            .is_some();
        (state.refused.contains(&operation), state.denied.contains(&operation), cut)
    };
    if refused {
        return client.set_zero_linger();
    }
    if denied {
        return refuse(client, head, "AccessDeniedException").await;
    }
    while state.lock().unwrap().held.contains(&operation) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(slower).await;
    let mut upstream = TcpStream::connect(service).await?;
    if cut {
        upstream.write_all(&head).await?;
        let (mut from_client, mut to_service) = (client.split().0, upstream.split());
        tokio::select! {
            _ = tokio::io::copy(&mut from_client, &mut to_service.1) => {}
            // The first byte of an answer: the request was processed.
            _ = to_service.0.read_u8() => {}
        }
        return client.set_zero_linger();
    }
    // A long poll may stay open for long; it matters once it is answered.
    let open = OnceLock::new();
    if operation != "receivemessage" {
        open.get_or_init(|| Open::new(state));
    }
    let mut request = head.clone();
    let mut answer = Vec::new();
    let answered_at = OnceLock::new();
    let down = {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_service, mut to_service) = upstream.split();
        let answered = || {
            answered_at.get_or_init(Timestamp::now);
            open.get_or_init(|| Open::new(state));
        };
        let both = async {
            // Fails where the service is gone; then there is no answer either.
            let _ = to_service.write_all(&head).await;
            tokio::join!(
                pump(&mut from_client, &mut to_service, &mut request, || ()),
                pump(&mut from_service, &mut to_client, &mut answer, answered),
            )
        };
        tokio::select! {
            _ = both => false,
            () = gone_down(state) => true,
        }
    };
    let at = answered_at.into_inner().unwrap_or_else(Timestamp::now);
    let exchange = Exchange { operation, request: body(&request), answer: body(&answer), at };
    state.lock().unwrap().exchanges.push(exchange);
    drop(open);
    if down { client.set_zero_linger() } else { Ok(()) }
}

/// A request under way whose exchange is still to be noted.
struct Open<'a>(&'a Mutex<State>);

impl<'a> Open<'a> {
    fn new(state: &'a Mutex<State>) -> Self {
        state.lock().unwrap().open += 1;
        Self(state)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap().open -= 1;
    }
}

/// Copies until the end, and keeps what it saw; `seeing` is called before anyone can act on it. It
/// continues if the receiver is gone: a request is processed all the same.
async fn pump(
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    seen: &mut Vec<u8>,
    seeing: impl Fn(),
) {
    while let Ok(count @ 1..) = from.read_buf(seen).await {
        seeing();
        // Fails where the reader is gone.
        let _ = to.write_all(&seen[seen.len() - count..]).await;
    }
    let _ = to.shutdown().await;
}

fn body(message: &[u8]) -> Value {
    serde_json::from_slice(halves(message).1).unwrap_or_default()
}

async fn gone_down(state: &Mutex<State>) {
    while !state.lock().unwrap().down {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Answers a request, once it is read, with an error.
async fn refuse(mut client: TcpStream, mut request: Vec<u8>, code: &str) -> io::Result<()> {
    let (head, _) = halves(&request);
    let length = String::from_utf8_lossy(head)
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    while halves(&request).1.len() < length.unwrap_or_default() {
        if client.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let body = json!({ "__type": code, "message": "as the test wants it" }).to_string();
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: \
         {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    client.write_all(answer.as_bytes()).await?;
    client.shutdown().await
}

/// Head and body of a message, as far as it was read.
fn halves(message: &[u8]) -> (&[u8], &[u8]) {
    let end = message.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(message.len());
    (&message[..end], message.get(end + 4..).unwrap_or_default())
}

/// Reads until the end of the request's head; more may have come with it.
async fn read_head(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if client.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(head)
}

fn operation(head: &[u8]) -> String {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let target = head
        .lines()
        .find_map(|line| line.strip_prefix("x-amz-target:")?.split_once('.').map(|(_, name)| name));
    target.unwrap_or_default().trim().to_owned()
}
