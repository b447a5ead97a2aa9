//! One blocking HTTP connection, for calls that are not measured.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

/// A kept connection, so that ten thousand requests do not use ten thousand ports.
pub struct Http {
    address: SocketAddr,
    stream: RefCell<BufReader<TcpStream>>,
}

impl Http {
    pub fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("somebody listens");
        stream.set_nodelay(true).expect("a socket");
        Self { address, stream: RefCell::new(BufReader::new(stream)) }
    }

    /// An operation of SQS or SageMaker: `AmazonSQS.CreateQueue`.
    pub fn call(&self, target: &str, input: &Value) -> Value {
        let answer =
            self.send("POST", "/", &format!("X-Amz-Target: {target}\r\n"), &input.to_string());
        if answer.is_empty() { Value::Null } else { serde_json::from_str(&answer).expect("JSON") }
    }

    /// The answer's body; anything but a 200 is a mistake in the bench.
    pub fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> String {
        let mut stream = self.stream.borrow_mut();
        let (address, length) = (self.address, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: \
             {length}\r\n{headers}\r\n{body}"
        );
        stream.get_mut().write_all(request.as_bytes()).expect("the connection is kept");
        let (mut status, mut length, mut line) = (String::new(), 0, String::new());
        stream.read_line(&mut status).expect("an answer");
        while line != "\r\n" {
            line.clear();
            assert!(
                stream.read_line(&mut line).expect("an answer") > 0,
                "{path}: the connection was closed"
            );
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).expect("an answer");
        let body = String::from_utf8(body).expect("UTF-8");
        assert!(status.contains(" 200 "), "{method} {path} {headers}: {status}{body}");
        body
    }
}
