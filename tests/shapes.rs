//! The local endpoint checks requests to SageMaker like the service's published model: it refuses
//! the same forms, and no others.
//!
//! So a request that a test sends to it, in the demo, the example and the interop tests, is checked
//! against the model too.

#![cfg(feature = "local")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what it expected")]

#[allow(dead_code, reason = "only posts are made here")]
#[path = "binary/http.rs"]
mod http;
#[path = "support/service_model.rs"]
mod service_model;
#[path = "support/venv.rs"]
mod venv;

use callbackd::local::{Endpoint, Options};
use serde_json::{Value, json};
use service_model::ServiceModel;

/// Texts that one pattern or another refuses.
const TEXTS: [&str; 7] = [
    "-",
    "a-",
    "a b",
    "ü",
    "a/b",
    "arn:aws:sagemaker:us-east-1:1:x",
    "arn:aws:iam::123456789012:user/pipelines",
];

/// For each operation that is served, a request with every member that is served.
fn requests() -> Vec<(&'static str, Value)> {
    let token = "0".repeat(32);
    let role = "arn:aws:iam::123456789012:role/pipelines";
    let arn = "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/abcdefghijkl";
    let definition = json!({ "Version": "2020-12-01", "Steps": [] }).to_string();
    let parallelism = json!({ "MaxParallelExecutionSteps": 1 });
    let written = json!({
        "PipelineName": "p", "PipelineDisplayName": "p", "PipelineDefinition": definition, "PipelineDescription": "d", "RoleArn": role,
        "ParallelismConfiguration": parallelism,
    });
    let page = json!({ "NextToken": "1", "MaxResults": 1, "SortOrder": "Ascending" });
    let range = json!({ "CreatedAfter": 0, "CreatedBefore": 1, "SortBy": "CreationTime" });
    let with = |parts: &[&Value]| -> Value {
        parts
            .iter()
            .flat_map(|part| part.as_object().into_iter().flatten())
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    let (name, token, arn) = (
        json!({ "PipelineName": "p" }),
        json!({ "ClientRequestToken": token }),
        json!({ "PipelineExecutionArn": arn }),
    );
    let callback = json!({ "CallbackToken": "SYZ8ExZ3Sd" });
    vec![
        ("CreatePipeline", with(&[&written, &token])),
        ("UpdatePipeline", written),
        ("DescribePipeline", name.clone()),
        ("DeletePipeline", with(&[&name, &token])),
        ("ListPipelines", with(&[&json!({ "PipelineNamePrefix": "p" }), &range, &page])),
        (
            "StartPipelineExecution",
            with(&[
                &name,
                &token,
                &json!({
                    "PipelineExecutionDisplayName": "e", "PipelineExecutionDescription": "d", "ParallelismConfiguration": parallelism,
                    "PipelineParameters": [{ "Name": "n", "Value": "v" }],
                }),
            ]),
        ),
        ("StopPipelineExecution", with(&[&arn, &token])),
        ("DescribePipelineExecution", arn.clone()),
        ("ListPipelineExecutions", with(&[&name, &range, &page])),
        ("ListPipelineExecutionSteps", with(&[&arn, &page])),
        (
            "SendPipelineExecutionStepSuccess",
            with(&[
                &callback,
                &token,
                &json!({ "OutputParameters": [{ "Name": "n", "Value": "v" }] }),
            ]),
        ),
        (
            "SendPipelineExecutionStepFailure",
            with(&[&callback, &token, &json!({ "FailureReason": "r" })]),
        ),
    ]
}

/// Values beside a value: at, below and above each bound of its shape, and of other forms and
/// types.
fn variants(model: &ServiceModel, shape: &Value, value: &Value) -> Vec<Value> {
    let bounds = ["min", "max"].into_iter().filter_map(|bound| shape[bound].as_i64());
    let around = bounds.flat_map(|bound| [bound - 1, bound, bound + 1]);
    match shape["type"].as_str().expect("a type") {
        "structure" => members(model, shape, value),
        "list" => {
            let (of, entries) = (model.shape(&shape["member"]), value.as_array().expect("a list"));
            let lists = around
                .filter_map(|length| usize::try_from(length).ok())
                .map(|length| vec![entries[0].clone(); length]);
            let entries = variants(model, of, &entries[0]).into_iter().map(|entry| vec![entry]);
            lists.chain(entries).map(Value::from).chain([json!("text")]).collect()
        }
        "string" => {
            let lengths = around.chain([0]).filter_map(|length| usize::try_from(length).ok());
            let texts = lengths.map(|length| Value::from("a".repeat(length)));
            let known = shape["enum"].as_array().cloned().unwrap_or_default();
            texts
                .chain(TEXTS.map(Value::from))
                .chain(known)
                .chain([json!(1), json!(["text"])])
                .collect()
        }
        "integer" | "long" => around.map(Value::from).chain([json!("text"), json!(1.5)]).collect(),
        _ => vec![json!("text")],
    }
}

/// A structure with each of its members left out, and with each variant of each.
fn members(model: &ServiceModel, shape: &Value, value: &Value) -> Vec<Value> {
    let mut all = vec![json!("text")];
    for (name, member) in value.as_object().expect("a structure") {
        let mut without = value.clone();
        without.as_object_mut().expect("a structure").remove(name);
        all.push(without);
        for variant in variants(model, model.shape(&shape["members"][name]), member) {
            let mut with = value.clone();
            with[name] = variant;
            all.push(with);
        }
    }
    all
}

/// What the endpoint objects to in a request's form; `None` if it goes on to the request itself.
async fn refused_for_its_form(
    endpoint: &Endpoint,
    operation: &str,
    body: &Value,
) -> Option<String> {
    let headers = format!(
        "Content-Type: application/x-amz-json-1.1\r\nX-Amz-Target: SageMaker.{operation}\r\n"
    );
    let address = endpoint.url().trim_start_matches("http://").parse().expect("an address");
    let (_, answer) = http::post(address, &headers, &body.to_string()).await.expect("an answer");
    let of_form = answer.contains("SerializationException") || answer.contains(" detected: Value ");
    of_form.then_some(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_local_endpoint_refuses_for_its_form_what_the_published_model_refuses() {
    let model = tokio::task::spawn_blocking(service_model::sagemaker).await.expect("a model");
    let endpoint = Endpoint::start("127.0.0.1:0".parse().expect("an address"), Options::default())
        .await
        .expect("a free port");
    let (mut wrong, mut allowed, mut refused) = (Vec::new(), 0, 0);
    for (operation, request) in requests() {
        assert_eq!(model.wrong_with_request(operation, &request), Vec::<String>::new());
        let probes = members(model, model.input(operation), &request);
        for body in probes.into_iter().chain([request]) {
            let by_model = model.wrong_with_request(operation, &body);
            let here = refused_for_its_form(&endpoint, operation, &body).await;
            *(if by_model.is_empty() { &mut allowed } else { &mut refused }) += 1;
            if by_model.is_empty() != here.is_none() {
                let body: String = body.to_string().chars().take(300).collect();
                wrong.push(format!(
                    "{operation} {body}\n  the model: {by_model:?}\n  the endpoint: {here:?}"
                ));
            }
        }
    }
    endpoint.shutdown().await;
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), allowed + refused, wrong.join("\n"));
    assert!(allowed > 100 && refused > 100, "{allowed} allowed and {refused} refused prove little");
}
