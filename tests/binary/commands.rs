//! `callbackd start` and `callbackd stop` from a terminal: with only the environment, and with the
//! role of a configured queue.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::http_server::{Request, Response, serve};
use crate::output::printed;
use crate::venv::Venv;

const ARN: &str = "arn:aws:sagemaker:eu-west-1:210987654321:pipeline/p/execution/e1";
const ASSUMED: &str = "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ROLEKEY</AccessKeyId>\
    <SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2199-01-01T00:00:00Z</Expiration>\
    </Credentials></AssumeRoleResult></AssumeRoleResponse>";

/// SageMaker and STS at one address. Their requests are kept.
struct Account {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// `who` is the key that signed, `where_` the region that it was signed for.
#[derive(Clone, Debug)]
struct Asked {
    operation: String,
    who: String,
    where_: String,
    body: String,
}

impl Account {
    /// The execution is in this state, and its step.
    async fn with(status: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let shared = asked.clone();
        serve(listener, move |request| answer(request, status, shared.clone()));
        Self { address, asked }
    }

    /// The requests since the last look.
    fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// Runs the binary with only this in its environment.
    fn run(&self, folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callbackd"));
        command
            .args(arguments)
            .env_clear()
            .env("HOME", folder)
            .env("AWS_EC2_METADATA_DISABLED", "true");
        command.env("AWS_ACCESS_KEY_ID", "OURKEY").env("AWS_SECRET_ACCESS_KEY", "test");
        command.env("CALLBACKD_AWS__ENDPOINT_URL", format!("http://{}", self.address));
        command.envs(variables.iter().copied()).output().expect("it starts")
    }
}

async fn answer(
    request: Request,
    status: &'static str,
    asked: Arc<Mutex<Vec<Asked>>>,
) -> io::Result<Response> {
    let header = |name: &str| {
        request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    };
    let operation = header("x-amz-target").trim_start_matches("SageMaker.").to_owned();
    // Credential=KEY/DATE/REGION/SERVICE/aws4_request
    let signed = header("authorization")
        .split_once("Credential=")
        .map(|(_, rest)| rest.to_owned())
        .unwrap_or_default();
    let scope = |at: usize| signed.split('/').nth(at).unwrap_or_default().to_owned();
    let (who, where_) = (scope(0), scope(2));
    let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    let body = String::from_utf8_lossy(&body).into_owned();
    let assumes = operation.is_empty() && body.contains("Action=AssumeRole");
    let operation = if assumes { "AssumeRole".to_owned() } else { operation };
    let step = json!({ "StepName": "s", "StepStatus": status, "AttemptCount": 1 });
    let told = match operation.as_str() {
        "AssumeRole" => ASSUMED.to_owned(),
        "StartPipelineExecution" | "StopPipelineExecution" => {
            json!({ "PipelineExecutionArn": ARN }).to_string()
        }
        "DescribePipelineExecution" => {
            json!({ "PipelineExecutionArn": ARN, "PipelineExecutionStatus": status }).to_string()
        }
        _ => json!({ "PipelineExecutionSteps": [step] }).to_string(),
    };
    asked.lock().unwrap().push(Asked { operation, who, where_, body });
    Ok(hyper::Response::new(Full::from(told)))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_file_an_execution_is_started_and_stopped_with_what_the_environment_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let account = Account::with("Executing").await;
    let region = [("CALLBACKD_AWS__REGION", "eu-west-1")];
    let start = ["start", "p", "--parameter", "rows=7", "--parameter", "name=a=b"];
    let output = account.run(folder.path(), &start, &region);
    assert!(output.status.success(), "{}", printed(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{ARN}\n"));
    let [asked] = &account.asked()[..] else { panic!("one call") };
    assert_eq!(
        (&*asked.operation, &*asked.who, &*asked.where_),
        ("StartPipelineExecution", "OURKEY", "eu-west-1")
    );
    let body: Value = serde_json::from_str(&asked.body).expect("JSON");
    let parameters = json!([{ "Name": "rows", "Value": "7" }, { "Name": "name", "Value": "a=b" }]);
    assert_eq!((&body["PipelineName"], &body["PipelineParameters"]), (&json!("p"), &parameters));
    assert!(body["ClientRequestToken"].as_str().is_some_and(|token| token.len() >= 32), "{body}");

    // One name has one value, which is checked before any call.
    let twice = ["start", "p", "--parameter", "n=a", "--parameter", "n=b"];
    let output = account.run(folder.path(), &twice, &[("CALLBACKD_AWS__REGION", "eu-west-1")]);
    assert_eq!(output.status.code(), Some(2), "{}", printed(&output));
    assert!(printed(&output).contains("the parameter n is given more than once"));
    assert!(account.asked().is_empty());

    // An ARN contains the region, so none must be configured, and another one does not count.
    let output = account.run(
        folder.path(),
        &["start", "arn:aws:sagemaker:eu-west-1:210987654321:pipeline/p"],
        &[("CALLBACKD_AWS__REGION", "us-east-2")],
    );
    assert!(output.status.success(), "{}", printed(&output));
    assert_eq!(account.asked()[0].where_, "eu-west-1");

    let output = account.run(folder.path(), &["stop", ARN], &[]);
    assert!(output.status.success(), "{}", printed(&output));
    let [asked] = &account.asked()[..] else { panic!("one call") };
    assert_eq!(
        (&*asked.operation, &*asked.who, &*asked.where_),
        ("StopPipelineExecution", "OURKEY", "eu-west-1")
    );
    let body: Value = serde_json::from_str(&asked.body).expect("JSON");
    assert_eq!(body["PipelineExecutionArn"], ARN);

    // An error in the environment is reported before any call.
    let output =
        account.run(folder.path(), &["start", "p"], &[("CALLBACKD_AWS__REGOIN", "eu-west-1")]);
    assert_eq!(output.status.code(), Some(78), "{}", printed(&output));
    assert!(
        printed(&output).contains("regoin") && account.asked().is_empty(),
        "{}",
        printed(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queues_role_is_taken_where_it_is_told_from_others_by_account_or_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let account = Account::with("Executing").await;
    let queue = |name: &str, region: &str, account: &str| {
        format!(
            "[[queues]]\nurl = \"https://sqs.{region}.amazonaws.com/{account}/{name}\"\nhandler = \
             \"none\"\n\
             role_arn = \"arn:aws:iam::{account}:role/{name}-role\"\n"
        )
    };
    let (one, two) = (folder.path().join("one.toml"), folder.path().join("two.toml"));
    let near = queue("near", "us-east-1", "123456789012");
    // Their handlers need not exist: these commands run no step.
    fs::write(&one, &near).expect("the folder is writable");
    fs::write(&two, near + &queue("far", "eu-west-1", "210987654321"))
        .expect("the folder is writable");
    let (one, two) = (one.to_str().expect("text"), two.to_str().expect("text"));
    let pipeline = "arn:aws:sagemaker:eu-west-1:210987654321:pipeline/p";
    for (arguments, role, region) in [
        (&["--config", one, "start", "p"][..], "near-role", "us-east-1"),
        (&["--config", two, "start", pipeline], "far-role", "eu-west-1"),
        (&["--config", two, "start", "p", "--queue", "near"], "near-role", "us-east-1"),
        (&["--config", two, "stop", ARN], "far-role", "eu-west-1"),
    ] {
        let output = account.run(folder.path(), arguments, &[]);
        assert!(output.status.success(), "{arguments:?}: {}", printed(&output));
        let asked = account.asked();
        let [assumed, acted] = &asked[..] else { panic!("{arguments:?}: {asked:?}") };
        assert_eq!((&*assumed.operation, &*assumed.who), ("AssumeRole", "OURKEY"), "{arguments:?}");
        assert!(assumed.body.contains(role), "{arguments:?}: {}", assumed.body);
        assert_eq!((&*acted.who, &*acted.where_), ("ROLEKEY", region), "{arguments:?}");
    }
    let output = account.run(folder.path(), &["--config", two, "start", "p"], &[]);
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    assert!(
        printed(&output).contains("--queue") && printed(&output).contains("far, near"),
        "{}",
        printed(&output)
    );
    assert!(account.asked().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_an_execution_is_told_how_it_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let region = [("CALLBACKD_AWS__REGION", "eu-west-1")];
    for (status, started, stopped) in [("Succeeded", 0, 1), ("Failed", 1, 1), ("Stopped", 1, 0)] {
        let account = Account::with(status).await;
        for (arguments, code) in
            [(["start", "p", "--wait"], started), (["stop", ARN, "--wait"], stopped)]
        {
            let output = account.run(folder.path(), &arguments, &region);
            assert_eq!(
                output.status.code(),
                Some(code),
                "{status} {arguments:?}: {}",
                printed(&output)
            );
            let text = printed(&output);
            let step = text
                .lines()
                .find(|line| line.starts_with("s "))
                .unwrap_or_else(|| panic!("{text}"));
            assert!(step.contains(status) && text.trim_end().ends_with(status), "{text}");
        }
    }
}

#[test]
fn whom_tls_trusts_is_what_aws_ca_bundle_names() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/binary/tls_server.py");
    let mut server = Command::new(Venv::ready().python());
    server
        .arg(script)
        .arg(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    // It ends with its standard input.
    let mut server = server.spawn().expect("Python starts");
    let mut port = String::new();
    BufReader::new(server.stdout.take().expect("it is piped"))
        .read_line(&mut port)
        .expect("it says where it listens");
    let start = |bundle: Option<&Path>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callbackd"));
        command
            .args(["start", "p"])
            .env_clear()
            .env("HOME", folder.path())
            .env("AWS_EC2_METADATA_DISABLED", "true");
        command
            .env("AWS_ACCESS_KEY_ID", "a")
            .env("AWS_SECRET_ACCESS_KEY", "b")
            .env("AWS_REGION", "eu-west-1");
        command.env("AWS_ENDPOINT_URL_SAGEMAKER", format!("https://127.0.0.1:{}", port.trim()));
        command.envs(bundle.map(|path| ("AWS_CA_BUNDLE", path))).output().expect("it starts")
    };
    let output = start(Some(&folder.path().join("authority.pem")));
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{ARN}\n"), "{}", printed(&output));
    let output = start(None);
    let told = printed(&output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.to_lowercase().contains("certificate"), "{told}");
    drop(server.stdin.take());
    server.wait().expect("it ends");
}
