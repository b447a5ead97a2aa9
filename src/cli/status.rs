//! What the daemon on this machine shows at its status server.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::observe::server::Listen;
use crate::step::CallbackToken;

/// Docker and ECS wait 5 s by default for a health check.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);
/// Someone waits at a terminal, and what is asked for is dispensable.
const BRIEFLY: Duration = Duration::from_secs(2);
/// The answer of a health check names each check; it is short.
pub(super) const SHORT: u64 = 64 * 1024;
/// A page of steps, without arguments and checkpoints.
const PAGE: u64 = 8 * 1024 * 1024;
/// Steps in hand that are asked for: a screen, many times over.
const MOST: usize = 10_000;

/// An answer of the status server.
pub(super) struct Answer {
    head: String,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn is_ok(&self) -> bool {
        self.head.split(' ').nth(1) == Some("200")
    }

    /// Where the next page is.
    fn next(&self) -> Option<String> {
        let links = self.head.lines().filter_map(|line| line.split_once(':'));
        let mut links = links.filter(|(name, _)| name.eq_ignore_ascii_case("link"));
        let link = links.next()?.1.trim().strip_prefix('<')?;
        let (path, _) = link.split_once(">; rel=\"next\"")?;
        let is_path = path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic());
        is_path.then(|| path.to_owned())
    }
}

/// What is in progress for a step, beside its record.
#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct InHand {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) activity: Option<String>,
    /// When its handler was last started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) progress: Option<Progress>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) progressed_at: Option<Timestamp>,
}

#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct Progress {
    pub(super) fraction: Option<f64>,
    pub(super) text: String,
}

/// How to reach, from this machine, a server that listens on all addresses.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Whether the server at this address is a callbackd.
pub(super) async fn is_callbackd(address: SocketAddr) -> bool {
    let answer = timeout(PATIENCE, ask(reachable(address), "/", SHORT)).await;
    answer.is_ok_and(|answer| {
        answer.is_ok_and(|answer| answer.body.contains("<title>callbackd</title>"))
    })
}

/// Asks for a page; no more than `most` bytes are read.
pub(super) async fn ask(address: SocketAddr, path: &str, most: u64) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(most).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    Ok(Answer { head: head.to_owned(), body: body.to_owned() })
}

/// What the daemon has in hand, by token. Nothing, or not all of it, if there is no daemon, or it
/// does not answer soon.
pub(super) async fn in_hand(listen: Listen) -> BTreeMap<String, InHand> {
    let mut steps = BTreeMap::new();
    if let Listen::On(address) = listen {
        // What was read until then is shown.
        let _ = timeout(BRIEFLY, collect(reachable(address), &mut steps)).await;
    }
    steps
}

/// What keeps the daemon from being ready, a line each. Nothing if there is no daemon, or it does
/// not answer soon.
pub(super) async fn ailments(listen: Listen) -> Vec<String> {
    let Listen::On(address) = listen else { return Vec::new() };
    let answer = timeout(BRIEFLY, ask(reachable(address), "/readyz", SHORT)).await;
    let Ok(Ok(answer)) = answer else { return Vec::new() };
    let body: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let checks = body["checks"].as_array().into_iter().flatten();
    let failed = checks.filter(|check| check["ok"] == false);
    failed
        .filter_map(|check| {
            Some(format!("{}: {}", check["name"].as_str()?, check["detail"].as_str()?))
        })
        .collect()
}

/// What the daemon has in progress for one step.
pub(super) async fn one(listen: Listen, token: &CallbackToken) -> Option<InHand> {
    let Listen::On(address) = listen else { return None };
    let path = format!("/steps/{token}");
    let answer = timeout(BRIEFLY, ask(reachable(address), &path, PAGE)).await.ok()?.ok()?;
    serde_json::from_str(&answer.body).ok().filter(|_| answer.is_ok())
}

async fn collect(address: SocketAddr, steps: &mut BTreeMap<String, InHand>) {
    let mut next = Some("/steps?status=claimed,waiting".to_owned());
    while let Some(path) = next.take().filter(|_| steps.len() < MOST) {
        let Ok(answer) = ask(address, &path, PAGE).await else { return };
        if !answer.is_ok() {
            return;
        }
        let rows: Vec<Value> = serde_json::from_str(&answer.body).unwrap_or_default();
        for row in rows {
            let Some(token) = row["token"].as_str().map(str::to_owned) else { continue };
            if let Ok(step) = serde_json::from_value(row)
                && step != InHand::default()
            {
                steps.insert(token, step);
            }
        }
        next = answer.next();
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_server_that_listens_everywhere_is_asked_on_loopback() {
        for (listens, asked) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("127.0.0.2:80", "127.0.0.2:80"),
        ] {
            assert_eq!(reachable(listens.parse().expect("an address")).to_string(), asked);
        }
    }

    /// What is found at a server that answers each request with the next of these, then not at all.
    async fn found_at(answers: &[&str]) -> (BTreeMap<String, InHand>, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut asked = Vec::new();
        let serving = async {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut request = vec![0; 1024];
                let size = stream.read(&mut request).await.expect("a request");
                asked.push(String::from_utf8_lossy(&request[..size]).into_owned());
                stream.write_all(answer.as_bytes()).await.expect("it is read");
            }
            drop(listener);
            std::future::pending::<()>().await;
        };
        let found = tokio::select! {
            found = in_hand(Listen::On(address)) => found,
            () = serving => unreachable!("it never ends"),
        };
        (found, asked)
    }

    #[tokio::test]
    async fn every_page_is_read_and_what_is_no_step_is_skipped() {
        let first = "HTTP/1.1 200 OK\r\nlink: </steps?after=b>; rel=\"next\"\r\n\r\n\
            [{\"token\":\"a\",\"progress\":{\"fraction\":0.4,\"text\":\"epoch 4\"},\
            \"progressed_at\":\"2026-11-20T09:30:00Z\",\"started_at\":null},\
            {\"error\":\"damaged\"},{\"token\":\"b\",\"progress\":7},{\"token\":\"c\"}]";
        let second = "HTTP/1.1 200 OK\r\n\r\n[{\"token\":\"d\",\"progress\":{\"text\":\"x\"}}]";
        let (found, asked) = found_at(&[first, second]).await;
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "d"]);
        let progress = found["a"].progress.as_ref().expect("it has some");
        assert_eq!((progress.fraction, &*progress.text), (Some(0.4), "epoch 4"));
        assert!(asked[0].starts_with("GET /steps?status=claimed,waiting HTTP/1.1"), "{asked:?}");
        assert!(asked[1].starts_with("GET /steps?after=b HTTP/1.1"), "{asked:?}");
    }

    #[tokio::test]
    async fn checks_that_fail_are_told_and_no_other_answer_is() {
        let checks = "HTTP/1.1 503 Service Unavailable\r\n\r\n{\"ok\":false,\"checks\":[\
            {\"name\":\"ledger\",\"ok\":true,\"detail\":\"it works\"},\
            {\"name\":\"breakers\",\"ok\":false,\"detail\":\"job: its steps failed\"}]}";
        for (answer, wants) in [
            (checks, &["breakers: job: its steps failed"][..]),
            ("HTTP/1.1 200 OK\r\n\r\n<html>", &[]),
            ("", &[]),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("an address");
            let serving = async {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut request = vec![0; 1024];
                let _ = stream.read(&mut request).await.expect("a request");
                stream.write_all(answer.as_bytes()).await.expect("it is read");
            };
            let (told, ()) = tokio::join!(ailments(Listen::On(address)), serving);
            assert_eq!(told, wants, "{answer}");
        }
        assert!(ailments(Listen::Off).await.is_empty());
    }

    #[tokio::test]
    async fn a_server_that_is_no_daemon_adds_nothing() {
        for answer in [
            "",
            "HTTP/1.1 200 OK\r\n\r\n<html>",
            "HTTP/1.1 503 Service Unavailable\r\n\r\n[{\"token\":\"a\",\"progress\":{}}]",
            "HTTP/1.1 200 OK\r\nlink: <http://elsewhere/>; rel=\"next\"\r\n\r\n[]",
        ] {
            let (found, asked) = found_at(&[answer]).await;
            assert!(found.is_empty() && asked.len() == 1, "{answer}");
        }
        assert!(in_hand(Listen::Off).await.is_empty());
    }
}
