//! A wire that can be cut: what lies between the daemon and a service.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A TCP proxy in front of one service. What is forwarded is forwarded as it is.
pub struct Proxy {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// The operation of the first request of each connection, in order; moto closes a connection with its answer.
    seen: Vec<String>,
    down: bool,
    /// Operations whose requests are reset before they are forwarded, until healed.
    refused: Vec<String>,
    /// Operations the next request of which is forwarded and processed, and its connection reset instead of answered.
    cut: Vec<String>,
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

    /// Resets the connection of the next request for this operation once the service has answered it.
    pub fn cut_the_answer_of(&self, operation: &str) {
        self.state.lock().unwrap().cut.push(operation.to_owned());
    }

    /// All works again.
    pub fn heal(&self) {
        let mut state = self.state.lock().unwrap();
        state.down = false;
        state.refused.clear();
    }

    /// How many connections were opened for this operation; for any, where it is empty.
    pub fn seen(&self, operation: &str) -> usize {
        self.state.lock().unwrap().seen.iter().filter(|seen| operation.is_empty() || *seen == operation).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn forward(mut client: TcpStream, service: SocketAddr, state: &Mutex<State>) -> io::Result<()> {
    if state.lock().unwrap().down {
        state.lock().unwrap().seen.push("refused".to_owned());
        return client.set_zero_linger();
    }
    let head = read_head(&mut client).await?;
    let operation = operation(&head);
    let (refused, cut) = {
        let mut state = state.lock().unwrap();
        state.seen.push(operation.clone());
        let cut = state.cut.iter().position(|cut| *cut == operation).map(|at| state.cut.remove(at)).is_some();
        (state.refused.contains(&operation), cut)
    };
    if refused {
        return client.set_zero_linger();
    }
    let mut upstream = TcpStream::connect(service).await?;
    upstream.write_all(&head).await?;
    if cut {
        let (mut from_client, mut to_service) = (client.split().0, upstream.split());
        tokio::select! {
            _ = tokio::io::copy(&mut from_client, &mut to_service.1) => {}
            // The first byte of an answer: the request was processed.
            _ = to_service.0.read_u8() => {}
        }
        return client.set_zero_linger();
    }
    tokio::select! {
        copied = copy_bidirectional(&mut client, &mut upstream) => copied.map(drop),
        () = gone_down(state) => client.set_zero_linger(),
    }
}

async fn gone_down(state: &Mutex<State>) {
    while !state.lock().unwrap().down {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
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
    let target =
        head.lines().find_map(|line| line.strip_prefix("x-amz-target:")?.split_once('.').map(|(_, name)| name));
    target.unwrap_or_default().trim().to_owned()
}
