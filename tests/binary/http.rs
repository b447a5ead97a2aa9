//! One HTTP request at a time, with nothing between the test and the wire.

use std::io;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An answer: its status and its body.
pub type HttpAnswer = (u16, String);

pub async fn get(address: SocketAddr, path: &str) -> io::Result<HttpAnswer> {
    exchange(
        address,
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"),
    )
    .await
}

/// `headers` are whole lines, each with its end.
pub async fn post(address: SocketAddr, headers: &str, body: &str) -> io::Result<HttpAnswer> {
    let length = body.len();
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: \
         {length}\r\n{headers}"
    );
    exchange(address, format!("{head}\r\n{body}")).await
}

/// An operation of a service of AWS, which must succeed.
pub async fn call(address: SocketAddr, target: &str, input: &Value) -> Value {
    let headers = format!("Content-Type: application/x-amz-json-1.1\r\nX-Amz-Target: {target}\r\n");
    let answer = post(address, &headers, &input.to_string()).await;
    let (status, body) = answer.expect("the endpoint answers");
    assert_eq!(status, 200, "{target}: {body}");
    serde_json::from_str(&body).unwrap_or_default()
}

async fn exchange(address: SocketAddr, request: String) -> io::Result<HttpAnswer> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, body.to_owned()))
}
