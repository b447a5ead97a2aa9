//! Which region, endpoint, credentials and role a worker calls with.

use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_smithy_async::time::{SharedTimeSource, SystemTimeSource, TimeSource};
use serde_json::{Value, json};

use super::*;
use crate::aws::http::Connections;
use crate::aws::server::{Reply, Server};
use crate::seam::{Pipelines, Queue};

const URL: &str = "http://127.0.0.1:1/123456789012/q";
const ARN: &str = "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/abc";
const ROLE: &str = "arn:aws:iam::123456789012:role/worker";
const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "OWNKEY"), ("AWS_SECRET_ACCESS_KEY", "secret")];

/// What a worker does that has nothing but this environment and this configuration: one receive, one question. An environment
/// belongs to a process, so this is one of its own.
async fn worker(setup: &Value, environment: &[(&str, &str)]) -> Value {
    let home = tempfile::tempdir().expect("a folder");
    let output = tokio::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "aws::clients::tests::worker_process", "--ignored", "--nocapture"])
        .env_clear()
        .env("HOME", home.path())
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("SETUP", setup.to_string())
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .await
        .expect("a process");
    let text = String::from_utf8_lossy(&output.stdout);
    let result = text.lines().find_map(|line| line.split_once("RESULT "));
    let (_, result) = result.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str(result).expect("JSON")
}

#[tokio::test]
#[ignore = "the other tests run it, in a process of its own"]
async fn worker_process() {
    let Ok(setup) = std::env::var("SETUP") else { return };
    let setup: Value = serde_json::from_str(&setup).expect("JSON");
    let text = |key: &str| setup[key].as_str();
    let config = serde_json::from_value(setup["config"].clone()).unwrap_or_default();
    let clients = Clients::new(config, "w 1", Arc::new(()));
    let url: QueueUrl = text("url").unwrap_or(URL).parse().expect("a URL");
    let result = match clients.queue(&url, text("region"), text("role")).await {
        Err(no_region) => json!({ "no_region": no_region.to_string() }),
        Ok(queue) => {
            let received = queue.receive(1, Duration::ZERO, Duration::from_secs(30)).await;
            let pipelines = clients.pipelines(text("region").or(url.region()), text("role")).await;
            let standing = pipelines.expect("a region").execution(&ARN.parse().expect("an ARN")).await;
            json!({
                "sqs": received.map_err(|fault| format!("{:?} {fault}", fault.kind)).map(|messages| messages.len()),
                "sagemaker": standing.map_err(|fault| format!("{:?} {fault}", fault.kind)).map(|standing| format!("{standing:?}")),
            })
        }
    };
    println!("RESULT {result}");
}

fn fine() -> Value {
    json!({ "sqs": { "Ok": 0 }, "sagemaker": { "Ok": "Executing" } })
}

fn empty() -> Reply {
    Reply::Json(200, json!({}))
}

async fn server(replies: usize) -> Server {
    Server::start((0..replies).map(|_| empty())).await
}

fn targets(server: &Server) -> Vec<String> {
    server.requests().iter().map(|request| request.target().to_owned()).collect()
}

/// `KEY/REGION/SERVICE` that a request was signed for.
fn signed(server: &Server, place: usize) -> String {
    let requests = server.requests();
    let header = requests[place].header("authorization").expect("a signature").to_owned();
    let scope = header.split_once("Credential=").expect("a credential").1;
    let parts: Vec<&str> = scope.split('/').collect();
    format!("{}/{}/{}", parts[0], parts[2], parts[3])
}

#[tokio::test]
async fn one_endpoint_of_the_environment_serves_both_services() {
    let server = server(2).await;
    let environment = [KEYS[0], KEYS[1], ("AWS_REGION", "eu-west-1"), ("AWS_ENDPOINT_URL", &server.url)];
    assert_eq!(worker(&json!({}), &environment).await, fine());
    assert_eq!(targets(&server), ["ReceiveMessage", "DescribePipelineExecution"]);
    assert_eq!(signed(&server, 0), "OWNKEY/eu-west-1/sqs");
    assert_eq!(signed(&server, 1), "OWNKEY/eu-west-1/sagemaker");
    assert_eq!(server.requests()[0].json()["QueueUrl"], URL);
}

#[tokio::test]
async fn a_service_may_have_an_endpoint_of_its_own() {
    let (sqs, sagemaker) = (server(1).await, server(1).await);
    let environment = [
        KEYS[0],
        KEYS[1],
        ("AWS_ENDPOINT_URL_SQS", sqs.url.as_str()),
        ("AWS_ENDPOINT_URL_SAGEMAKER", &sagemaker.url),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
    ];
    assert_eq!(worker(&json!({ "config": { "region": "us-west-2" } }), &environment).await, fine());
    assert_eq!(targets(&sqs), ["ReceiveMessage"]);
    assert_eq!(targets(&sagemaker), ["DescribePipelineExecution"]);
}

#[tokio::test]
async fn our_own_endpoint_goes_before_those_of_the_environment() {
    let server = server(2).await;
    let environment = [
        KEYS[0],
        KEYS[1],
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
        ("AWS_ENDPOINT_URL_SQS", "http://127.0.0.1:1"),
        ("AWS_REGION", "eu-west-1"),
    ];
    let setup = json!({ "config": { "endpoint_url": server.url, "region": "us-west-2" } });
    assert_eq!(worker(&setup, &environment).await, fine());
    assert_eq!(signed(&server, 0), "OWNKEY/us-west-2/sqs");
}

#[tokio::test]
async fn a_profile_brings_its_keys_region_and_endpoint() {
    let server = server(2).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config");
    let profile = format!(
        "[profile team]\nregion = ap-south-1\nendpoint_url = {}\naws_access_key_id = TEAMKEY\naws_secret_access_key = s\n",
        server.url
    );
    std::fs::write(&file, profile).expect("a file");
    let environment = [("AWS_CONFIG_FILE", file.to_str().expect("text"))];
    assert_eq!(worker(&json!({ "config": { "profile": "team" } }), &environment).await, fine());
    assert_eq!(signed(&server, 0), "TEAMKEY/ap-south-1/sqs");
}

#[tokio::test]
async fn the_queues_region_goes_before_the_one_in_its_url_and_that_before_ours() {
    let url = "https://sqs.eu-central-1.amazonaws.com/123456789012/q";
    for (region, url, wants) in [
        (json!("us-gov-west-1"), url, "us-gov-west-1"),
        (Value::Null, url, "eu-central-1"),
        (Value::Null, URL, "us-west-2"),
    ] {
        let server = server(2).await;
        let config = json!({ "endpoint_url": server.url, "region": "us-west-2" });
        let setup = json!({ "config": config, "url": url, "region": region });
        assert_eq!(worker(&setup, &[KEYS[0], KEYS[1], ("AWS_REGION", "sa-east-1")]).await, fine());
        assert_eq!(signed(&server, 0), format!("OWNKEY/{wants}/sqs"));
        assert_eq!(signed(&server, 1), format!("OWNKEY/{wants}/sagemaker"));
    }
}

#[tokio::test]
async fn a_lacking_region_is_an_error_that_says_what_to_set() {
    let result = worker(&json!({}), &KEYS).await;
    let text = result["no_region"].as_str().expect("an error");
    assert!(text.contains(URL) && text.contains("`aws.region`") && text.contains("AWS_REGION"), "{text}");
}

#[tokio::test]
async fn without_credentials_nothing_is_sent_and_it_may_work_later() {
    let server = server(2).await;
    let setup = json!({ "config": { "endpoint_url": server.url, "region": "us-west-2" } });
    let result = worker(&setup, &[]).await;
    for service in ["sqs", "sagemaker"] {
        let fault = result[service]["Err"].as_str().expect("a fault");
        assert!(fault.starts_with("Transient no AWS credentials: "), "{fault}");
    }
    assert_eq!(server.requests(), []);
}

#[tokio::test]
async fn a_role_is_assumed_once_for_the_queue_and_its_pipelines() {
    let given = "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ROLEKEY</AccessKeyId>\
                 <SecretAccessKey>s</SecretAccessKey><SessionToken>session</SessionToken>\
                 <Expiration>2199-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>";
    let server = Server::start([Reply::Raw(200, "content-type: text/xml\r\n", given), empty(), empty()]).await;
    let setup = json!({ "config": { "endpoint_url": server.url, "region": "us-west-2" }, "role": ROLE });
    assert_eq!(worker(&setup, &KEYS).await, fine());
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    assert!(
        requests[0].body.contains("Action=AssumeRole") && requests[0].body.contains("RoleSessionName=callbackd-w-1")
    );
    assert_eq!(signed(&server, 0), "OWNKEY/us-west-2/sts");
    assert_eq!(signed(&server, 1), "ROLEKEY/us-west-2/sqs");
    assert_eq!(requests[1].header("x-amz-security-token"), Some("session"));
    assert_eq!(signed(&server, 2), "ROLEKEY/us-west-2/sagemaker");
}

#[tokio::test]
async fn a_role_that_is_denied_is_a_denial_and_a_broken_sts_is_late() {
    let denied = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>";
    let xml = "content-type: text/xml\r\n";
    let server = Server::start([Reply::Raw(403, xml, denied), Reply::Raw(503, xml, "")]).await;
    let setup = json!({ "config": { "endpoint_url": server.url, "region": "us-west-2" }, "role": ROLE });
    let result = worker(&setup, &KEYS).await;
    assert_eq!(result["sqs"]["Err"], "Denied AssumeRole: AccessDenied: no");
    let late = result["sagemaker"]["Err"].as_str().expect("a fault");
    assert!(late.starts_with("Transient AssumeRole: HTTP 503"), "{late}");
}

#[tokio::test]
async fn a_proxy_and_fips_endpoints_are_honoured() {
    let proxy = Server::start((0..2).map(|_| Reply::Raw(502, "", ""))).await;
    let environment = [
        KEYS[0],
        KEYS[1],
        ("HTTPS_PROXY", proxy.url.as_str()),
        ("AWS_USE_FIPS_ENDPOINT", "true"),
        ("AWS_REGION", "us-east-1"),
    ];
    let result = worker(&json!({}), &environment).await;
    let fault = result["sqs"]["Err"].as_str().expect("a fault");
    assert!(fault.starts_with("Transient "), "{fault}");
    let asked: Vec<String> =
        proxy.requests().iter().map(|request| request.head.lines().next().unwrap_or_default().to_owned()).collect();
    assert!(asked[0].starts_with("CONNECT sqs-fips.us-east-1.amazonaws.com:443"), "{asked:?}");
    assert!(asked[1].contains("sagemaker") && asked[1].contains("fips"), "{asked:?}");
}

/// Credentials that are due for renewal as soon as they are given.
#[derive(Debug, Default)]
struct ShortLived(Arc<AtomicUsize>);

impl ProvideCredentials for ShortLived {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        self.0.fetch_add(1, Ordering::SeqCst);
        let end = SystemTimeSource::new().now() + Duration::from_mins(1);
        future::ProvideCredentials::ready(Ok(Credentials::new("id", "secret", None, Some(end), "test")))
    }
}

#[tokio::test(start_paused = true)]
async fn credentials_are_kept_fresh_beside_the_calls() {
    let asked = Arc::new(AtomicUsize::new(0));
    let kept = Arc::new(Kept::timed_by(
        SharedTimeSource::default(),
        SharedCredentialsProvider::new(ShortLived(asked.clone())),
    ));
    kept.provide_credentials().await.expect("credentials");
    let sdk = SdkConfig::builder().behavior_version(behavior()).build();
    let clients = Clients::of(Account::new(sdk, "us-east-1", kept, &Connections::default(), Arc::new(()))).await;
    let hour = tokio::time::timeout(Duration::from_hours(1), clients.keep_credentials()).await;
    assert!(hour.is_err(), "it ended");
    // Once at first, and then every half minute of the hour.
    let asked = asked.load(Ordering::SeqCst);
    assert!((119..=121).contains(&asked), "{asked}");
}

#[tokio::test]
async fn clients_are_made_once_for_a_region_and_role() {
    let clients = Clients::new(Config::default(), "w", Arc::new(()));
    let a = clients.account("us-east-1".to_owned(), None).await;
    let b = clients.account("us-east-1".to_owned(), None).await;
    let elsewhere = clients.account("us-east-2".to_owned(), None).await;
    let role = clients.account("us-east-1".to_owned(), Some(ROLE)).await;
    assert!(Arc::ptr_eq(&a.credentials, &b.credentials));
    assert!(Arc::ptr_eq(&a.credentials, &elsewhere.credentials), "who we are is the same in every region");
    assert!(!Arc::ptr_eq(&a.credentials, &role.credentials));
    assert_eq!(clients.made.lock().await.accounts.len(), 3);
}
