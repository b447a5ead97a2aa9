//! The minimum that answers steps on this SDK: receive ten, report each, delete ten. No ledger, no
//! retries of its own, no stops.

use std::sync::Arc;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_sqs::config::{Credentials, SharedCredentialsProvider};
use aws_sdk_sqs::types::{DeleteMessageBatchRequestEntry, Message};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::Semaphore;

pub fn run(endpoint: &str, queue: &str, concurrency: usize) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(answer(endpoint, queue, concurrency));
}

/// Answers steps until it is dropped.
pub async fn answer(endpoint: &str, queue: &str, concurrency: usize) {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
        .build_https();
    let config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(endpoint)
        .region(Region::from_static("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(Credentials::new(
            "bench", "bench", None, None, "bench",
        )))
        .http_client(http)
        .build();
    let (sqs, sagemaker) =
        (aws_sdk_sqs::Client::new(&config), aws_sdk_sagemaker::Client::new(&config));
    let reports = Arc::new(Semaphore::new(concurrency));
    let pollers = (0..concurrency.div_ceil(10)).map(|_| {
        tokio::spawn(poll(sqs.clone(), sagemaker.clone(), queue.to_owned(), reports.clone()))
    });
    for poller in join_all(pollers).await {
        poller.expect("it polls for as long as it is let");
    }
}

async fn poll(
    sqs: aws_sdk_sqs::Client,
    sagemaker: aws_sdk_sagemaker::Client,
    queue: String,
    reports: Arc<Semaphore>,
) {
    loop {
        let receive = sqs
            .receive_message()
            .queue_url(&queue)
            .max_number_of_messages(10)
            .wait_time_seconds(20);
        let messages = receive.send().await.expect("received").messages.unwrap_or_default();
        if messages.is_empty() {
            continue;
        }
        let answered = messages.into_iter().map(|message| {
            let (sagemaker, reports) = (sagemaker.clone(), reports.clone());
            tokio::spawn(async move {
                let _one = reports.acquire_owned().await.expect("never closed");
                report(&sagemaker, message).await
            })
        });
        let answered = join_all(answered).await.into_iter().enumerate().map(|(at, handle)| {
            let handle = handle.expect("it is reported");
            DeleteMessageBatchRequestEntry::builder()
                .id(at.to_string())
                .receipt_handle(handle)
                .build()
                .expect("both")
        });
        let delete =
            sqs.delete_message_batch().queue_url(&queue).set_entries(Some(answered.collect()));
        assert!(delete.send().await.expect("deleted").failed.is_empty(), "all are deleted");
    }
}

/// The receipt handle of the message whose step is answered.
async fn report(sagemaker: &aws_sdk_sagemaker::Client, message: Message) -> String {
    let body: Value = serde_json::from_str(&message.body.expect("a body")).expect("JSON");
    let token = body["token"].as_str().expect("a token");
    let success = sagemaker.send_pipeline_execution_step_success().callback_token(token);
    success.client_request_token(format!("{token:0>32}")).send().await.expect("accepted");
    message.receipt_handle.expect("a handle")
}
