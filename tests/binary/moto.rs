//! moto's server: an independent SQS, one for all tests, with a queue for each.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::http;
use crate::venv::Venv;

pub struct Moto {
    pub address: SocketAddr,
    /// Its standard input is never written to: the server ends when that is closed, which the
    /// kernel does however this process ends.
    _server: Child,
}

pub fn address() -> SocketAddr {
    static MOTO: OnceLock<Moto> = OnceLock::new();
    MOTO.get_or_init(|| Moto::start(&["strict"], Stdio::inherit())).address
}

impl Moto {
    /// A server of its own, whose error output goes to `complaints`; a `strict` one refuses what
    /// the service's model does not allow, and an `atomic` one serves one request after another.
    pub fn start(arguments: &[&str], complaints: Stdio) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/binary/sqs_server.py");
        Self::start_script(script, arguments, complaints)
    }

    /// A server that another script makes of moto.
    pub fn start_script(script: &str, arguments: &[&str], complaints: Stdio) -> Self {
        let mut server = Command::new(Venv::ready().python());
        server
            .arg(script)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints);
        let mut server = server.spawn().expect("Python starts");
        let mut port = String::new();
        let stdout = server.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut port).expect("moto says where it listens");
        let address = format!("127.0.0.1:{}", port.trim()).parse().expect("a port");
        Self { address, _server: server }
    }
}

/// A queue of one test.
pub struct Queue {
    /// As AWS would name it; moto takes the name from it.
    pub url: String,
}

impl Queue {
    pub async fn create(name: &str) -> Self {
        call("CreateQueue", &json!({ "QueueName": name })).await;
        Self { url: format!("https://sqs.us-east-1.amazonaws.com/123456789012/{name}") }
    }

    pub async fn send(&self, body: &str) {
        call("SendMessage", &json!({ "QueueUrl": self.url, "MessageBody": body })).await;
    }

    /// From now on, a message that was received `most` times and not deleted goes to another queue,
    /// which is returned.
    pub async fn redrive(&self, most: u32) -> Self {
        let name = self.url.rsplit('/').next().expect("a name");
        let dead = Self::create(&format!("{name}-dead")).await;
        let target = format!("arn:aws:sqs:us-east-1:123456789012:{name}-dead");
        let policy = json!({ "deadLetterTargetArn": target, "maxReceiveCount": most }).to_string();
        let input = json!({ "QueueUrl": self.url, "Attributes": { "RedrivePolicy": policy } });
        call("SetQueueAttributes", &input).await;
        dead
    }

    pub async fn purge(&self) {
        call("PurgeQueue", &json!({ "QueueUrl": self.url })).await;
    }

    /// Makes a message visible at once, even if it is held; does nothing if it is gone, or visible.
    pub async fn show(&self, receipt_handle: &str) {
        let input = json!({ "QueueUrl": self.url, "ReceiptHandle": receipt_handle, "VisibilityTimeout": 0 });
        ask("ChangeMessageVisibility", &input).await;
    }

    /// Receives a message like another worker that gives it back at once, and returns its body.
    pub async fn glance(&self) -> String {
        let input = json!({ "QueueUrl": self.url, "VisibilityTimeout": 0 });
        let answer = call("ReceiveMessage", &input).await;
        answer["Messages"][0]["Body"].as_str().expect("a message is visible").to_owned()
    }

    /// How many messages are visible.
    pub async fn visible(&self) -> u64 {
        self.counts().await.0
    }

    /// How many messages are in flight or hidden.
    pub async fn invisible(&self) -> u64 {
        self.counts().await.1
    }

    /// How many messages there are at all.
    pub async fn size(&self) -> u64 {
        let (visible, invisible) = self.counts().await;
        visible + invisible
    }

    /// Whether there are none. moto counts the visible ones and then the others, and so misses one
    /// that becomes visible between: it is there at a second look.
    pub async fn is_empty(&self) -> bool {
        self.size().await == 0 && self.size().await == 0
    }

    /// Visible and invisible in one call, so that hardly any message changes between the two.
    async fn counts(&self) -> (u64, u64) {
        let names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"];
        let answer =
            call("GetQueueAttributes", &json!({ "QueueUrl": self.url, "AttributeNames": names }))
                .await;
        let [visible, invisible] = names.map(|name| {
            answer["Attributes"][name]
                .as_str()
                .and_then(|count| count.parse().ok())
                .expect("a count")
        });
        (visible, invisible)
    }
}

async fn call(operation: &str, input: &Value) -> Value {
    let (status, body) = ask(operation, input).await;
    assert_eq!(status, 200, "{operation}: {body}");
    serde_json::from_str(&body).unwrap_or_default()
}

async fn ask(operation: &str, input: &Value) -> http::HttpAnswer {
    let headers = format!(
        "Content-Type: application/x-amz-json-1.0\r\nX-Amz-Target: \
         AmazonSQS.{operation}\r\nAuthorization: AWS4-HMAC-SHA256 \
         Credential=test/20260101/us-east-1/sqs/aws4_request, SignedHeaders=host, Signature=0\r\n"
    );
    http::post(address(), &headers, &input.to_string()).await.expect("moto answers")
}
