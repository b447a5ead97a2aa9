//! `callbackd health`: asks the daemon on this machine whether it is alive, for the health checks
//! of containers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Failure, plain, say};
use crate::config::Config;
use crate::observe::server::Listen;

/// Docker and ECS wait 5 s by default.
const PATIENCE: Duration = Duration::from_secs(4);
/// The answer names each check; it is short.
const MAX_ANSWER: u64 = 64 * 1024;

pub(super) async fn run(config: Option<&Path>) -> Result<ExitCode, Failure> {
    let Listen::On(address) = Config::section("http", config, std::env::vars_os())?.http.listen
    else {
        return Err(Failure::Runtime(
            "http.listen is \"off\": the daemon cannot be asked".to_owned(),
        ));
    };
    let address = reachable(address);
    let failed =
        |why: String| Failure::Runtime(format!("no answer from the daemon at {address}: {why}"));
    let late = |_| failed(format!("it took longer than {PATIENCE:?}"));
    let answer = timeout(PATIENCE, ask(address, "/healthz"))
        .await
        .map_err(late)?
        .map_err(|error| failed(error.to_string()))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    say(plain(body.trim_end()));
    let alive = head.split(' ').nth(1) == Some("200");
    Ok(if alive { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How to reach, from this machine, a server that listens on all addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Whether the server at this address is a callbackd.
pub(super) async fn is_callbackd(address: SocketAddr) -> bool {
    let answer = timeout(PATIENCE, ask(reachable(address), "/")).await;
    answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.contains("\r\n\r\ncallbackd\n")))
}

async fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
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
}
