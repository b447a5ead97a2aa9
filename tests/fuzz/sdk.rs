//! What holds for any answer to a call to SageMaker through the AWS SDK: an error is never taken
//! for an answer, and never for a refusal unless it names an error of the service.
//!
//! An answer is written as a status, headers and a body, as on the wire:
//! `400\nx-amzn-ErrorType: ConflictException\n\n{}`.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_types::body::SdkBody;
use callbackd::aws::{Clients, Config, Outside, SageMaker};
use callbackd::outcome::{ClientRequestToken, Outcome, Outputs};
use callbackd::seam::{
    ExecutionStanding, Fault, FaultKind, Observation, Observer, Pipelines, Standing,
};
use callbackd::step::{CallbackToken, ExecutionArn};
use serde_json::Value;

const ARN: &str = "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/abc123";
const TOKEN: &str = "abcdefghij";
/// What a fault may say, and the name of its operation before it.
const MOST_SAID: usize = 450;

#[derive(Clone, Debug)]
struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Reply {
    /// Nothing where that is no HTTP.
    fn parse(data: &[u8]) -> Option<Self> {
        let end = data.windows(2).position(|two| two == b"\n\n")?;
        let mut lines = std::str::from_utf8(&data[..end]).ok()?.lines();
        let status = lines.next()?.parse().ok().filter(|status| (200..600).contains(status))?;
        let header = |line: &str| {
            line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()))
        };
        let headers = lines.map(header).collect::<Option<_>>()?;
        Some(Self { status, headers, body: data[end + 2..].to_vec() })
    }

    fn response(&self) -> Option<HttpResponse> {
        let mut response =
            HttpResponse::new(self.status.try_into().ok()?, SdkBody::from(self.body.clone()));
        for (name, value) in &self.headers {
            response.headers_mut().try_append(name.clone(), value.clone()).ok()?;
        }
        Some(response)
    }

    fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether `holds` is true for the JSON that it begins with. The SDK accepts more as JSON than
    /// serde does, such as control characters in texts and, in what it skips, invalid Unicode: then
    /// it must at least contain these `words`.
    fn says(&self, holds: impl Fn(&Value) -> bool, words: &[&str]) -> bool {
        let parsed = serde_json::Deserializer::from_slice(&self.body)
            .into_iter()
            .next()
            .and_then(Result::ok);
        let text = String::from_utf8_lossy(&self.body);
        parsed.map_or_else(|| words.iter().any(|word| text.contains(word)), |json| holds(&json))
    }

    /// Whether it names this error, or any: a service does so in a header or in the outermost
    /// object of its body.
    fn names(&self, code: Option<&str>) -> bool {
        let is_it = |said: &str| !said.is_empty() && code.is_none_or(|code| said.contains(code));
        let headers = ["x-amzn-errortype", "x-amzn-query-error"];
        let in_header = |(name, value): &(String, String)| {
            headers.iter().any(|header| name.eq_ignore_ascii_case(header)) && is_it(value)
        };
        let keys = ["__type", "code"];
        let in_body = |body: &Value| keys.iter().filter_map(|key| body[key].as_str()).any(is_it);
        self.headers.iter().any(in_header) || self.says(in_body, &keys)
    }
}

fn has_text(value: &Value, is_it: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => is_it(text),
        Value::Array(values) => values.iter().any(|value| has_text(value, is_it)),
        Value::Object(fields) => fields.values().any(|value| has_text(value, is_it)),
        _ => false,
    }
}

/// Answers every call with the one reply.
#[derive(Clone, Debug, Default)]
struct Parrot(Arc<Mutex<Option<Reply>>>);

impl HttpConnector for Parrot {
    fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
        let reply = self.0.lock().expect("no one panics").clone().expect("a reply");
        HttpConnectorFuture::ready(Ok(reply.response().expect("it was a response before")))
    }
}

/// Labels of metrics are bounded, and nothing in them needs escaping.
struct Labels;

impl Observer for Labels {
    fn observe(&self, observation: Observation<'_>) {
        if let Observation::AwsCall { result, .. } = observation {
            assert!((1..=64).contains(&result.len()), "{result:?}");
            assert!(
                result.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.'),
                "{result:?}"
            );
        }
    }
}

struct Scene {
    parrot: Parrot,
    sagemaker: SageMaker,
    runtime: tokio::runtime::Runtime,
}

impl Scene {
    fn set() -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let parrot = Parrot::default();
        let connector = SharedHttpConnector::new(parrot.clone());
        let keys =
            Credentials::new("AKIAEXAMPLE", "secretKEY", Some("session".to_owned()), None, "fuzz");
        let outside = Outside {
            http: http_client_fn(move |_, _| connector.clone()).into(),
            credentials: Some(SharedCredentialsProvider::new(keys)),
            ..Outside::default()
        };
        let config =
            Config { endpoint_url: Some("http://sagemaker.test".to_owned()), ..Config::default() };
        let clients = Clients::within(outside, config, "fuzz", Arc::new(Labels));
        let sagemaker =
            runtime.block_on(clients.pipelines(Some("us-east-1"), None)).expect("a region");
        Self { parrot, sagemaker, runtime }
    }
}

thread_local! {
    static SCENE: RefCell<Scene> = RefCell::new(Scene::set());
}

/// Whether the answer accepts a report.
pub fn answer(data: &[u8]) -> bool {
    let Some(reply) = Reply::parse(data).filter(|reply| reply.response().is_some()) else {
        return false;
    };
    SCENE.with_borrow(|scene| {
        *scene.parrot.0.lock().expect("no one panics") = Some(reply.clone());
        let (arn, token): (ExecutionArn, CallbackToken) =
            (ARN.parse().expect("valid"), TOKEN.parse().expect("valid"));
        let outcome = Outcome::Success(Outputs::new());
        let request = ClientRequestToken::of(&arn, &token, &outcome);
        let reported = scene.runtime.block_on(scene.sagemaker.report(&token, &outcome, &request));
        match &reported {
            Ok(()) => assert!(reply.is_success(), "taken for accepted: {reply:?}"),
            Err(fault) => judge(fault, "SendPipelineExecutionStepSuccess", &reply),
        }
        match scene.runtime.block_on(scene.sagemaker.step(&arn, &token)) {
            Ok(Standing::NotFound) => {
                let list = "PipelineExecutionSteps";
                let listed =
                    reply.is_success() && reply.says(|body| body[list].is_array(), &[list]);
                assert!(listed || reply.names(Some("ResourceNotFound")), "{reply:?}");
            }
            Ok(Standing::Open { .. } | Standing::Closed(_)) => {
                let told = |body: &Value| has_text(body, &|text| text == TOKEN);
                assert!(reply.is_success() && reply.says(told, &[TOKEN]), "{reply:?}");
            }
            Err(fault) => judge(&fault, "ListPipelineExecutionSteps", &reply),
        }
        match scene.runtime.block_on(scene.sagemaker.execution(&arn)) {
            Ok(ExecutionStanding::NotFound) => {
                assert!(reply.names(Some("ResourceNotFound")), "{reply:?}");
            }
            Ok(_) => assert!(reply.is_success(), "{reply:?}"),
            Err(fault) => judge(&fault, "DescribePipelineExecution", &reply),
        }
        reported.is_ok()
    })
}

/// Only a service refuses, with a code and a matching status; the fault's text fits a line.
fn judge(fault: &Fault, operation: &str, reply: &Reply) {
    if fault.kind == FaultKind::Refused {
        assert!(reply.names(None), "nobody refused: {fault} {reply:?}");
        assert!(
            (300..500).contains(&reply.status) && ![401, 403, 408, 429].contains(&reply.status),
            "{reply:?}"
        );
    }
    let said = &fault.detail;
    assert!(said.starts_with(operation) && said.chars().count() <= MOST_SAID, "{said:?}");
    assert!(!said.chars().any(char::is_control), "{said:?}");
}
