//! The daemon on this machine, asked over its admin socket.

use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use axum::body::{Body, Bytes};
use clap::Args;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

use super::{Failure, plain};
use crate::config::Config;

/// How a command finds the daemon.
#[derive(Args)]
pub(super) struct Socket {
    /// The worker's admin socket; else `admin.sock` beside the ledger in the configuration, or
    /// beside `worker.work_dir` if the ledger is a table.
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
}

/// A daemon that has been asked something.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) path: PathBuf,
    response: Response<Incoming>,
    /// What has arrived and is not read.
    rest: Vec<u8>,
}

/// More than any answer has.
const MOST: usize = 1 << 20;

impl Socket {
    /// Asks the daemon to do something.
    pub(super) async fn post(&self, what: &str, file: Option<&Path>) -> Result<Asked, Failure> {
        let path = self.find(file)?;
        let stream =
            UnixStream::connect(&path).await.map_err(|error| unreachable(&path, &error))?;
        let broke = |error: hyper::Error| {
            let closed = error.is_canceled() || error.is_closed() || error.is_incomplete_message();
            let refused = "it closed the connection, as it does to all but root and its own user";
            broke(&path, if closed { refused.to_owned() } else { error.to_string() }.as_str())
        };
        let (mut sender, connection) =
            http1::handshake::<_, Body>(TokioIo::new(stream)).await.map_err(broke)?;
        // How it ends is told by the answer, and it ends with the command.
        tokio::spawn(connection);
        let request = Request::post(what).header("host", "callbackd").body(Body::empty());
        let request = request.map_err(Failure::runtime)?;
        let response = sender.send_request(request).await.map_err(broke)?;
        Ok(Asked { path, response, rest: Vec::new() })
    }

    fn find(&self, file: Option<&Path>) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.socket {
            return Ok(path.clone());
        }
        // A mistake elsewhere in the file keeps nobody from a daemon that runs.
        let section = |name| Config::section(name, file, std::env::vars_os());
        let (ledger, worker) = (section("ledger")?.ledger, section("worker")?.worker);
        Config { worker, ledger, ..Config::default() }.admin_socket().ok_or_else(|| {
            Failure::Runtime(
                "the ledger is in the worker's memory, and so it has no admin socket: use signals \
                 (SIGTERM drains it, SIGHUP reloads), or another ledger"
                    .to_owned(),
            )
        })
    }
}

impl Asked {
    pub(super) fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The whole answer.
    pub(super) async fn answer<T: DeserializeOwned>(mut self) -> Result<T, Failure> {
        while self.more().await? {}
        serde_json::from_slice(&self.rest)
            .map_err(|error| broke(&self.path, &format!("its answer is not understood: {error}")))
    }

    /// Why the daemon has not done it.
    pub(super) async fn refusal(self) -> Result<String, Failure> {
        let answer: Value = self.answer().await?;
        Ok(plain_lines(answer["error"].as_str().unwrap_or("it does not say why")))
    }

    /// The next line of an answer; `None` at its end, also if the daemon was killed.
    pub(super) async fn line<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Failure> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let understood = serde_json::from_slice(&line).map_err(|error| {
                    broke(&self.path, &format!("its answer is not understood: {error}"))
                });
                return understood.map(Some);
            }
            if !self.more().await.unwrap_or(false) {
                return Ok(None);
            }
        }
    }

    /// Reads on; returns whether there was more.
    async fn more(&mut self) -> Result<bool, Failure> {
        let Some(frame) = self.response.body_mut().frame().await else { return Ok(false) };
        let frame = frame.map_err(|error| broke(&self.path, &error.to_string()))?;
        let data: Bytes = frame.into_data().unwrap_or_default();
        if self.rest.len() + data.len() > MOST {
            return Err(broke(&self.path, "its answer has no end"));
        }
        self.rest.extend_from_slice(&data);
        Ok(true)
    }
}

/// Text of several lines, each without characters that a terminal would interpret.
fn plain_lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

fn broke(path: &Path, why: &str) -> Failure {
    let text = format!("the daemon at {} did not answer: {}", path.display(), plain(why));
    Failure::Runtime(text)
}

/// Why nothing is reached at this path, and what to do.
fn unreachable(path: &Path, error: &io::Error) -> Failure {
    let at = path.display();
    Failure::Runtime(match error.kind() {
        ErrorKind::NotFound => format!(
            "no daemon listens at {at}: none runs on this machine, or it runs in a container, or \
             with other settings (ledger.path, worker.work_dir), or it warned at its start that it \
             has no admin socket; name its configuration by --config, or its socket by --socket"
        ),
        ErrorKind::ConnectionRefused => {
            format!("no daemon listens at {at}: the one that made it was killed; start it again")
        }
        ErrorKind::PermissionDenied => {
            let owner = path.metadata().map(|found| format!(" {}", found.uid()));
            let owner = owner.unwrap_or_default();
            format!("{at} is for the daemon's user{owner} and root: run the command as one of them")
        }
        _ => format!("{at} cannot be connected to: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// What becomes of a request to which the socket gives this answer.
    async fn asked(answer: &str) -> Result<Asked, Failure> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let listener = UnixListener::bind(&path).expect("it is ours");
        let serving = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.expect("a request");
            assert!(request[..length].starts_with(b"POST /drain HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).await.expect("it is read");
        };
        let socket = Socket { socket: Some(path) };
        tokio::join!(socket.post("/drain", None), serving).0
    }

    fn text(failure: Failure) -> String {
        let Failure::Runtime(text) = failure else { panic!("another failure") };
        text
    }

    #[tokio::test]
    async fn lines_are_read_one_by_one_until_the_daemon_is_gone() {
        let lines = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n[1]\n[\r\n";
        let mut cut = asked(lines).await.ok().expect("an answer");
        assert_eq!(cut.line::<Value>().await.ok().expect("a line"), Some(serde_json::json!([1])));
        assert_eq!(cut.line::<Value>().await.ok().expect("the end"), None);
    }

    #[tokio::test]
    async fn what_is_no_daemon_is_told_by_its_path_and_prints_nothing_of_its_own() {
        let error = asked("").await.expect_err("no answer");
        assert!(text(error).contains("/admin.sock did not answer"));
        let answer = asked("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\x1b[").await;
        let answer = answer.ok().expect("an answer").answer::<Value>().await;
        let error = text(answer.expect_err("no JSON"));
        assert!(error.contains("is not understood") && !error.contains('\x1b'), "{error:?}");
        let answer = asked(
            "HTTP/1.1 409 Conflict\r\ncontent-length: 22\r\n\r\n{\"error\":\"a\\n\\u001b[\"}",
        );
        let refusal = answer.await.ok().expect("an answer").refusal().await;
        assert_eq!(refusal.ok().expect("a reason"), "a\n [");
    }

    #[tokio::test]
    async fn who_is_not_there_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.sock");
        let to = async || {
            let socket = Socket { socket: Some(path.clone()) };
            text(socket.post("/drain", None).await.expect_err("nobody is there"))
        };
        assert!(to().await.contains("--socket"));
        drop(UnixListener::bind(&path).expect("it is ours"));
        assert!(to().await.contains("was killed"));
        let denied = unreachable(&path, &ErrorKind::PermissionDenied.into());
        let owner = format!("user {} and root", path.metadata().expect("it is there").uid());
        assert!(text(denied).contains(&owner));
    }
}
