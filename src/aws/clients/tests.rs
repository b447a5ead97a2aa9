//! The region, endpoint, credentials and role of a worker's calls.

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
const ASSUMED: &str = "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ROLEKEY</AccessKeyId>\
                       <SecretAccessKey>s</SecretAccessKey><SessionToken>session</SessionToken>\
                       <Expiration>2199-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>";
const KEYS: [(&str, &str); 2] =
    [("AWS_ACCESS_KEY_ID", "OWNKEY"), ("AWS_SECRET_ACCESS_KEY", "secret")];

/// What a worker does with only this environment and this configuration: one receive, one question.
/// An environment belongs to a process, so this starts one.
async fn worker(setup: &Value, environment: &[(&str, &str)]) -> Value {
    let home = tempfile::tempdir().expect("a folder");
    let output = tokio::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "aws::clients::tests::worker_process", "--ignored", "--nocapture"])
        .env_clear()
        .env("HOME", home.path())
        .env("PATH", "/usr/bin:/bin")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("SETUP", setup.to_string())
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .await
        .expect("a process");
    let text = String::from_utf8_lossy(&output.stdout);
    let result = text.lines().find_map(|line| line.split_once("RESULT "));
    let (_, result) =
        result.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    serde_json::from_str(result).expect("JSON")
}

#[tokio::test]
#[ignore = "the other tests run it, in a process of its own"]
async fn worker_process() {
    let Ok(setup) = std::env::var("SETUP") else { return };
    let setup: Value = serde_json::from_str(&setup).expect("JSON");
    let text = |key: &str| setup[key].as_str();
    if let Some(times) = setup["credentials"].as_u64() {
        println!("RESULT {}", asked_for_credentials(&setup, times).await);
        return;
    }
    let config = serde_json::from_value(setup["config"].clone()).unwrap_or_default();
    let clients = Clients::new(config, "w 1", Arc::new(()));
    let url: QueueUrl = text("url").unwrap_or(URL).parse().expect("a URL");
    let external_id = text("external_id").map(|id| id.parse().expect("an external id"));
    let role = text("role").map(|arn| Role { arn, external_id: external_id.as_ref() });
    let result = match clients.queue(&url, text("region"), role).await {
        Err(no_endpoint) => json!({ "no_endpoint": no_endpoint.to_string() }),
        Ok(queue) => {
            let received = queue.receive(1, Duration::ZERO, Duration::from_secs(30)).await;
            let pipelines = clients.pipelines(text("region").or(url.region()), role).await;
            let standing =
                pipelines.expect("a region").execution(&ARN.parse().expect("an ARN")).await;
            json!({
                "sqs": received.map_err(|fault| format!("{:?} \
                 {fault}", fault.kind)).map(|messages| messages.len()),
                "sagemaker": standing.map_err(|fault| format!("{:?} \
                 {fault}", fault.kind)).map(|standing| format!("{standing:?}")),
            })
        }
    };
    println!("RESULT {result}");
}

/// Asks for credentials this many times; in between the file `new` replaces `file`, if the setup
/// names them.
async fn asked_for_credentials(setup: &Value, times: u64) -> Value {
    let config = serde_json::from_value(setup["config"].clone()).unwrap_or_default();
    let clients = Clients::new(config, "w 1", Arc::new(()));
    let account = clients.account("us-east-1".to_owned(), None).await;
    let mut told = Vec::new();
    for time in 0..times {
        let got = account.credentials.provide_credentials().await;
        told.push(got.map_or_else(
            |error| crate::aws::faults::chain(&error),
            |got| got.access_key_id().to_owned(),
        ));
        if let (0, Some(new), Some(file)) = (time, setup["new"].as_str(), setup["file"].as_str()) {
            std::fs::rename(new, file).expect("it is renamed");
            account.credentials.renew().await;
        }
        // A source that failed is asked again after a second.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
    json!(told)
}

/// A directory with files of this content; returns their paths in order.
fn files(contents: &[&str]) -> (tempfile::TempDir, Vec<String>) {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |(index, content): (usize, &&str)| {
        let path = folder.path().join(index.to_string());
        std::fs::write(&path, content).expect("it is writable");
        path.to_str().expect("text").to_owned()
    };
    let paths = contents.iter().enumerate().map(write).collect();
    (folder, paths)
}

fn keys(profile: &str, id: &str) -> String {
    format!("[{profile}]\naws_access_key_id = {id}\naws_secret_access_key = s\n")
}

fn given_by_http(id: &str) -> Reply {
    let end = "2199-01-01T00:00:00Z";
    Reply::Json(
        200,
        json!({ "Code": "Success", "AccessKeyId": id, "SecretAccessKey": "s", "Token": "t", "Expiration": end }),
    )
}

/// A proxy that must not be asked.
async fn a_proxy() -> Server {
    Server::start([]).await
}

#[tokio::test]
async fn a_credentials_file_that_was_changed_is_read_again() {
    let (_folder, paths) = files(&[&keys("default", "OLD"), &keys("default", "NEW")]);
    let setup = json!({ "credentials": 2, "file": paths[0], "new": paths[1] });
    assert_eq!(
        worker(&setup, &[("AWS_SHARED_CREDENTIALS_FILE", &paths[0])]).await,
        json!(["OLD", "NEW"])
    );
}

#[tokio::test]
async fn a_credentials_file_that_comes_late_is_found_and_what_lacks_is_told_each_time_till_then() {
    let (folder, paths) = files(&[&keys("team", "LATE")]);
    let file = folder.path().join("credentials");
    let file = file.to_str().expect("text");
    for config in [json!({ "profile": "team" }), Value::Null] {
        let environment = [("AWS_SHARED_CREDENTIALS_FILE", file), ("AWS_PROFILE", "team")];
        let told = worker(&json!({ "credentials": 2, "config": config }), &environment).await;
        for time in 0..2 {
            let told = told[time].as_str().expect("text");
            assert!(
                told.contains("the profile \"team\" is not in") && told.contains(file),
                "{told}"
            );
        }
        let setup = json!({ "credentials": 2, "config": config, "file": file, "new": paths[0] });
        let told = worker(&setup, &environment).await;
        assert!(
            told[0].as_str().is_some_and(|told| told.contains("is not in")) && told[1] == "LATE",
            "{told}"
        );
        std::fs::rename(file, &paths[0]).expect("it is put back");
    }
}

#[tokio::test]
async fn a_file_that_is_half_written_costs_the_attempt_and_not_the_next() {
    let (_folder, paths) =
        files(&["[default]\naws_access_key_id = HALF\n", &keys("default", "WHOLE")]);
    let setup = json!({ "credentials": 2, "file": paths[0], "new": paths[1] });
    let told = worker(&setup, &[("AWS_SHARED_CREDENTIALS_FILE", &paths[0])]).await;
    assert!(
        told[0].as_str().is_some_and(|told| told.contains("aws_secret_access_key"))
            && told[1] == "WHOLE",
        "{told}"
    );
}

#[tokio::test]
async fn our_profile_goes_before_keys_of_the_environment_and_those_before_its_profile() {
    let (_folder, paths) = files(&[&keys("team", "TEAM")]);
    let environment = [
        KEYS[0],
        KEYS[1],
        ("AWS_SHARED_CREDENTIALS_FILE", paths[0].as_str()),
        ("AWS_PROFILE", "team"),
    ];
    let asked = json!({ "credentials": 1, "config": { "profile": "team" } });
    assert_eq!(worker(&asked, &environment).await, json!(["TEAM"]));
    assert_eq!(worker(&json!({ "credentials": 1 }), &environment).await, json!(["OWNKEY"]));
}

#[tokio::test]
async fn a_credential_process_is_run_and_its_roles_are_assumed() {
    let program = r#"credential_process = echo '{"Version":1,"AccessKeyId":"PROGRAM","SecretAccessKey":"s"}'"#;
    let role = format!(
        "[profile role]\nrole_arn = {ROLE}\nsource_profile = program\n[profile \
         program]\n{program}\n"
    );
    let (_folder, paths) = files(&[&role]);
    let sts = Server::start([Reply::Raw(200, "content-type: text/xml\r\n", ASSUMED)]).await;
    let environment = [("AWS_CONFIG_FILE", paths[0].as_str()), ("AWS_ENDPOINT_URL_STS", &sts.url)];
    let of = |profile: &str| json!({ "credentials": 1, "config": { "profile": profile } });
    assert_eq!(worker(&of("program"), &environment).await, json!(["PROGRAM"]));
    assert_eq!(worker(&of("role"), &environment).await, json!(["ROLEKEY"]));
    assert_eq!(signed(&sts, 0), "PROGRAM/us-east-1/sts");
}

#[tokio::test]
async fn a_container_endpoint_is_asked_without_a_proxy() {
    let (server, proxy) = (Server::start([given_by_http("CONTAINER")]).await, a_proxy().await);
    let url = format!("{}/credentials", server.url);
    let environment = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url.as_str()),
        ("HTTP_PROXY", &proxy.url),
        ("http_proxy", &proxy.url),
    ];
    assert_eq!(worker(&json!({ "credentials": 1 }), &environment).await, json!(["CONTAINER"]));
    assert!(
        server.requests()[0].head.starts_with("GET /credentials ") && proxy.requests().is_empty()
    );
}

#[tokio::test]
async fn the_instance_metadata_is_asked_without_a_proxy_for_keys_and_for_the_region() {
    let text = |text| Reply::Raw(200, "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n", text);
    let proxy = a_proxy().await;
    let of = |server: &Server| {
        [
            ("AWS_EC2_METADATA_DISABLED", "false".to_owned()),
            ("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url.clone()),
            ("HTTP_PROXY", proxy.url.clone()),
        ]
    };
    let server = Server::start([text("TOKEN"), text("role"), given_by_http("INSTANCE")]).await;
    let environment = of(&server);
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(worker(&json!({ "credentials": 1 }), &environment).await, json!(["INSTANCE"]));

    let server = Server::start([text("TOKEN"), text("eu-north-1")]).await;
    let (sqs, sagemaker) = (self::server(1).await, self::server(1).await);
    let environment = of(&server);
    let environment = environment.iter().map(|(name, value)| (*name, value.as_str())).chain([
        KEYS[0],
        KEYS[1],
        ("NO_PROXY", "127.0.0.1"),
        ("AWS_ENDPOINT_URL_SQS", sqs.url.as_str()),
        ("AWS_ENDPOINT_URL_SAGEMAKER", sagemaker.url.as_str()),
    ]);
    worker(&json!({}), &environment.collect::<Vec<_>>()).await;
    assert_eq!(signed(&sqs, 0), "OWNKEY/eu-north-1/sqs");
    assert_eq!(proxy.requests(), []);
}

#[tokio::test]
async fn a_silent_instance_metadata_is_given_up_and_named() {
    let silent = Server::start([]).await;
    let environment = [
        ("AWS_EC2_METADATA_DISABLED", "false"),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", silent.url.as_str()),
    ];
    let told = worker(&json!({ "credentials": 1 }), &environment).await;
    let told = told[0].as_str().expect("text");
    assert!(
        told.contains("instance metadata") && told.contains("hop limit") && !told.contains("ECS"),
        "{told}"
    );
}

#[tokio::test]
async fn a_web_identity_token_is_read_with_each_attempt_and_a_refusal_of_it_is_told() {
    let refused = "<ErrorResponse><Error><Type>Sender</Type><Code>ExpiredTokenException</Code><Message>too old</Message></Error></ErrorResponse>";
    let xml = "content-type: text/xml\r\n";
    let given = ASSUMED.replace("AssumeRole", "AssumeRoleWithWebIdentity");
    let given: &'static str = given.leak();
    let sts = Server::start([Reply::Raw(400, xml, refused), Reply::Raw(200, xml, given)]).await;
    let (_folder, paths) = files(&["old-token", "new-token"]);
    let environment = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", paths[0].as_str()),
        ("AWS_ROLE_ARN", ROLE),
        ("AWS_ENDPOINT_URL_STS", &sts.url),
    ];
    let told =
        worker(&json!({ "credentials": 2, "file": paths[0], "new": paths[1] }), &environment).await;
    let first = told[0].as_str().expect("text");
    assert!(first.contains("web identity token") && first.contains("ExpiredToken"), "{first}");
    assert_eq!(told[1], "ROLEKEY");
    let tokens: Vec<bool> =
        sts.requests().iter().map(|request| request.body.contains("old-token")).collect();
    assert_eq!(tokens, [true, false]);
}

#[tokio::test]
async fn an_sso_session_that_is_over_says_what_to_run() {
    let profile = "[profile team]\nsso_session = corp\nsso_account_id = \
                   123456789012\nsso_role_name = r\n\
                   [sso-session corp]\nsso_region = us-east-1\nsso_start_url = \
                   https://corp.awsapps.com/start\n";
    let (_folder, paths) = files(&[profile]);
    let setup = json!({ "credentials": 1, "config": { "profile": "team" } });
    let told = worker(&setup, &[("AWS_CONFIG_FILE", &paths[0])]).await;
    assert!(
        told[0].as_str().is_some_and(|told| told.contains("aws sso login --profile team")),
        "{told}"
    );
}

#[tokio::test]
async fn where_nothing_is_set_up_no_source_is_blamed_that_nobody_named() {
    let told = worker(&json!({ "credentials": 1 }), &[]).await;
    let told = told[0].as_str().expect("text");
    assert!(
        told.contains("AWS_EC2_METADATA_DISABLED")
            && !told.contains("token")
            && !told.contains("ontainer"),
        "{told}"
    );
}

#[tokio::test]
async fn the_host_of_a_queues_url_is_where_its_calls_go() {
    let (sqs, sagemaker) = (server(1).await, server(1).await);
    let url = format!("{}/123456789012/q", sqs.url);
    let environment = [
        KEYS[0],
        KEYS[1],
        ("AWS_ENDPOINT_URL_SAGEMAKER", sagemaker.url.as_str()),
        ("AWS_USE_DUALSTACK_ENDPOINT", "true"),
    ];
    let setup = json!({ "url": url, "config": { "region": "us-west-2" } });
    // SageMaker's own host cannot be combined with dual-stack beside another endpoint.
    assert_eq!(worker(&setup, &environment).await["sqs"], json!({ "Ok": 0 }));
    assert_eq!(targets(&sqs), ["ReceiveMessage"]);
    assert_eq!(worker(&setup, &environment[..3]).await["sagemaker"], json!({ "Ok": "Executing" }));
    assert_eq!(targets(&sagemaker), ["DescribePipelineExecution"]);
}

#[tokio::test]
async fn an_endpoint_that_was_named_for_sqs_goes_before_the_host_of_the_url() {
    let sqs = server(1).await;
    let environment =
        [KEYS[0], KEYS[1], ("AWS_ENDPOINT_URL_SQS", sqs.url.as_str()), ("AWS_REGION", "us-east-1")];
    let setup = json!({ "url": "https://vpce-1.sqs.us-east-1.vpce.amazonaws.com/123456789012/q" });
    assert_eq!(worker(&setup, &environment[..3]).await["sqs"], json!({ "Ok": 0 }));
    assert_eq!(targets(&sqs), ["ReceiveMessage"]);
}

#[tokio::test]
async fn private_and_fips_hosts_are_called_and_one_that_is_none_is_refused_where_fips_is_demanded()
{
    for (host, fips, wants) in [
        (
            "vpce-1.sqs.us-east-1.vpce.amazonaws.com",
            "false",
            "CONNECT vpce-1.sqs.us-east-1.vpce.amazonaws.com:443",
        ),
        (
            "sqs-fips.us-east-1.amazonaws.com",
            "false",
            "CONNECT sqs-fips.us-east-1.amazonaws.com:443",
        ),
        (
            "vpce-1.sqs-fips.us-east-1.vpce.amazonaws.com",
            "true",
            "CONNECT vpce-1.sqs-fips.us-east-1.vpce.amazonaws.com:443",
        ),
        ("sqs.us-east-1.amazonaws.com", "true", "CONNECT sqs-fips.us-east-1.amazonaws.com:443"),
    ] {
        let proxy = Server::start((0..2).map(|_| Reply::Raw(502, "", ""))).await;
        let environment = [
            KEYS[0],
            KEYS[1],
            ("HTTPS_PROXY", proxy.url.as_str()),
            ("AWS_USE_FIPS_ENDPOINT", fips),
        ];
        worker(&json!({ "url": format!("https://{host}/123456789012/q") }), &environment).await;
        let asked = &proxy.requests()[0].head;
        assert!(asked.starts_with(wants), "{host}: {asked}");
    }
    let setup = json!({ "url": "https://vpce-1.sqs.us-east-1.vpce.amazonaws.com/123456789012/q" });
    let told = worker(&setup, &[KEYS[0], KEYS[1], ("AWS_USE_FIPS_ENDPOINT", "true")]).await;
    assert!(
        told["no_endpoint"]
            .as_str()
            .is_some_and(|told| told.contains("FIPS") && told.contains("vpce-1")),
        "{told}"
    );
}

#[tokio::test]
async fn a_bundle_of_authorities_that_is_none_is_refused_and_named() {
    let (_folder, paths) = files(&["no certificate"]);
    for path in [paths[0].as_str(), "/no/such/bundle.pem"] {
        let told = worker(
            &json!({}),
            &[KEYS[0], KEYS[1], ("AWS_REGION", "us-east-1"), ("AWS_CA_BUNDLE", path)],
        )
        .await;
        assert!(
            told["no_endpoint"]
                .as_str()
                .is_some_and(|told| told.contains("AWS_CA_BUNDLE") && told.contains(path)),
            "{told}"
        );
    }
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
    let environment =
        [KEYS[0], KEYS[1], ("AWS_REGION", "eu-west-1"), ("AWS_ENDPOINT_URL", &server.url)];
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
        "[profile team]\nregion = ap-south-1\nendpoint_url = {}\naws_access_key_id = \
         TEAMKEY\naws_secret_access_key = s\n",
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
    let text = result["no_endpoint"].as_str().expect("an error");
    assert!(
        text.contains(URL) && text.contains("`aws.region`") && text.contains("AWS_REGION"),
        "{text}"
    );
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
    let server =
        Server::start([Reply::Raw(200, "content-type: text/xml\r\n", ASSUMED), empty(), empty()])
            .await;
    let setup =
        json!({ "config": { "endpoint_url": server.url, "region": "us-west-2" }, "role": ROLE });
    assert_eq!(worker(&setup, &KEYS).await, fine());
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    assert!(
        requests[0].body.contains("Action=AssumeRole")
            && requests[0].body.contains("RoleSessionName=callbackd-w-1")
            && !requests[0].body.contains("ExternalId")
    );
    assert_eq!(signed(&server, 0), "OWNKEY/us-west-2/sts");
    assert_eq!(signed(&server, 1), "ROLEKEY/us-west-2/sqs");
    assert_eq!(requests[1].header("x-amz-security-token"), Some("session"));
    assert_eq!(signed(&server, 2), "ROLEKEY/us-west-2/sagemaker");
}

#[tokio::test]
async fn a_role_is_assumed_with_its_external_id_which_no_error_repeats() {
    let denied = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>";
    let server = Server::start([Reply::Raw(403, "content-type: text/xml\r\n", denied)]).await;
    let config = json!({ "endpoint_url": server.url, "region": "us-west-2" });
    let setup = json!({ "config": config, "role": ROLE, "external_id": "tenant-7" });
    let told = worker(&setup, &KEYS).await["sqs"]["Err"].as_str().expect("a fault").to_owned();
    assert!(server.requests()[0].body.contains("&ExternalId=tenant-7"));
    assert!(told.contains("the configured external_id") && !told.contains("tenant-7"), "{told}");
}

#[tokio::test]
async fn a_role_that_is_denied_is_a_denial_and_a_broken_sts_is_late() {
    let denied = "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>";
    let xml = "content-type: text/xml\r\n";
    let server = Server::start([Reply::Raw(403, xml, denied)]).await;
    let setup = |server: &Server| json!({ "config": { "endpoint_url": server.url, "region": "us-west-2" }, "role": ROLE });
    let result = worker(&setup(&server), &KEYS).await;
    for service in ["sqs", "sagemaker"] {
        let told = result[service]["Err"].as_str().expect("a fault");
        let wants = format!("Misconfigured the role {ROLE}: AssumeRole: AccessDenied: no; ");
        assert!(told.starts_with(&wants) && told.contains("external_id"), "{told}");
        let remedy = "allow sts:AssumeRole on it (deploy/iam/assume-role-policy.json)";
        assert!(told.contains(remedy), "{told}");
    }
    assert_eq!(server.requests().len(), 1, "of one attempt");
    let server = Server::start([Reply::Raw(503, xml, "")]).await;
    let result = worker(&setup(&server), &KEYS).await;
    let late = result["sqs"]["Err"].as_str().expect("a fault");
    let wants = format!("Transient the role {ROLE}: AssumeRole: HTTP 503");
    assert!(late.starts_with(&wants) && !late.contains("external_id"), "{late}");
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
    let result = worker(
        &json!({ "url": "https://sqs.us-east-1.amazonaws.com/123456789012/q" }),
        &environment,
    )
    .await;
    let fault = result["sqs"]["Err"].as_str().expect("a fault");
    assert!(fault.starts_with("Transient "), "{fault}");
    let asked: Vec<String> = proxy
        .requests()
        .iter()
        .map(|request| request.head.lines().next().unwrap_or_default().to_owned())
        .collect();
    assert!(asked[0].starts_with("CONNECT sqs-fips.us-east-1.amazonaws.com:443"), "{asked:?}");
    assert!(asked[1].contains("sagemaker") && asked[1].contains("fips"), "{asked:?}");
}

/// Credentials that are due for renewal as soon as they are returned.
#[derive(Debug, Default)]
struct ShortLived(Arc<AtomicUsize>);

impl ProvideCredentials for ShortLived {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        self.0.fetch_add(1, Ordering::SeqCst);
        let end = SystemTimeSource::new().now() + Duration::from_mins(1);
        future::ProvideCredentials::ready(Ok(Credentials::new(
            "id",
            "secret",
            None,
            Some(end),
            "test",
        )))
    }
}

/// Its first credentials are about to expire; it never gives others.
#[derive(Debug, Default)]
struct Hanging(AtomicUsize);

impl ProvideCredentials for Hanging {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        if self.0.fetch_add(1, Ordering::SeqCst) > 0 {
            return future::ProvideCredentials::new(std::future::pending());
        }
        let end = SystemTimeSource::new().now() + Duration::from_mins(1);
        future::ProvideCredentials::ready(Ok(Credentials::new("id", "s", None, Some(end), "test")))
    }
}

#[tokio::test(start_paused = true)]
async fn the_credentials_of_a_role_are_renewed_beside_those_of_another_that_hangs() {
    let asked = Arc::new(AtomicUsize::new(0));
    let of = |source| {
        let source = Arc::new(CachedCredentials::timed_by(SharedTimeSource::default(), source));
        let sdk = SdkConfig::builder().behavior_version(behavior()).build();
        let connections = Connections::default();
        Account::new(sdk, "us-east-1", source, &connections, Arc::new(()))
    };
    let hanging = of(SharedCredentialsProvider::new(Hanging::default()));
    let healthy = of(SharedCredentialsProvider::new(ShortLived(asked.clone())));
    let clients = Clients::new(Config::default(), "w", Arc::new(()));
    for (arn, account) in [("a", &hanging), ("b", &healthy)] {
        account.credentials.provide_credentials().await.expect("credentials");
        let key = ("us-east-1".to_owned(), Some(RoleKey::from(Role { arn, external_id: None })));
        clients.made.lock().await.accounts.insert(key, account.clone());
    }
    // One round, in which the source that hangs is given up after half a minute.
    let round = tokio::time::timeout(Duration::from_secs(31), clients.keep_credentials()).await;
    assert!(round.is_err(), "it ended");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn credentials_are_kept_fresh_beside_the_calls() {
    let asked = Arc::new(AtomicUsize::new(0));
    let kept = Arc::new(CachedCredentials::timed_by(
        SharedTimeSource::default(),
        SharedCredentialsProvider::new(ShortLived(asked.clone())),
    ));
    kept.provide_credentials().await.expect("credentials");
    let sdk = SdkConfig::builder().behavior_version(behavior()).build();
    let clients =
        Clients::of(Account::new(sdk, "us-east-1", kept, &Connections::default(), Arc::new(())))
            .await;
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
    let role = Role { arn: ROLE, external_id: None };
    let other = "tenant-7".parse().expect("an external id");
    let with_id = Role { external_id: Some(&other), ..role };
    let role = clients.account("us-east-1".to_owned(), Some(role)).await;
    let with_id = clients.account("us-east-1".to_owned(), Some(with_id)).await;
    assert!(Arc::ptr_eq(&a.credentials, &b.credentials));
    assert!(
        Arc::ptr_eq(&a.credentials, &elsewhere.credentials),
        "who we are is the same in every region"
    );
    assert!(!Arc::ptr_eq(&a.credentials, &role.credentials));
    assert!(!Arc::ptr_eq(&role.credentials, &with_id.credentials));
    let again =
        clients.account("us-east-1".to_owned(), Some(Role { arn: ROLE, external_id: None }));
    assert!(Arc::ptr_eq(&again.await.credentials, &role.credentials));
    assert_eq!(clients.made.lock().await.accounts.len(), 4);
}
