//! Probes of the local endpoint under paused time: each setting of its switches is found out, and
//! nothing is left behind.

#![cfg(feature = "local")]

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use http_body_util::BodyExt;
use hyper::{HeaderMap, Response};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::Receiver;
use tokio_util::sync::CancellationToken;

use super::caller::Caller;
use super::lab::Waits;
use super::plan::Plan;
use super::question::Question;
use super::redaction::Redaction;
use super::removal::Remains;
use super::report::Report;
use super::session::{Interruptions, Outcome, Session};
use super::{agreed, is_yes, role};
use crate::aws::probe::Services;
use crate::aws::{Clients, Config, Outside};
use crate::duration;
use crate::local::clock::Clock;
use crate::local::{Event, Fault, Options, Rule, Service, Undocumented};

const PREFIX: &str = "sagemaker-callbackd-probe";
const ROLE: &str = "arn:aws:iam::123456789012:role/pipelines";
const PATIENCE: Duration = Duration::from_secs(300);

/// The local endpoint in this process, and what it told.
struct Site {
    service: Arc<Service>,
    events: Receiver<Event>,
}

/// The endpoint as the SDK's network.
#[derive(Clone, Debug)]
struct Network(Arc<Service>);

impl HttpConnector for Network {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let service = self.0.clone();
        HttpConnectorFuture::new(async move {
            let mut headers = HeaderMap::new();
            for name in ["x-amz-target", "authorization"] {
                if let Some(value) = request.headers().get(name) {
                    headers.insert(name, value.parse().expect("a header"));
                }
            }
            let body = request.body().bytes().unwrap_or_default().to_vec();
            let Ok(answer) = service.answer(&headers, &body).await else {
                return Err(ConnectorError::io("the connection was dropped".into()));
            };
            let (head, body) = answer.into_parts();
            let body = body.collect().await.expect("it is there").to_bytes();
            let answer = Response::from_parts(head, SdkBody::from(body));
            Ok(HttpResponse::try_from(answer).expect("a response"))
        })
    }
}

impl Site {
    fn new(undocumented: Undocumented, faults: Vec<Rule>) -> Self {
        Self::with(Options { undocumented, faults, ..Options::default() })
    }

    fn with(options: Options) -> Self {
        let options = Options { seed: Some(1), ..options };
        let stopping = CancellationToken::new();
        let service = Service::new("http://localhost:1", options, Clock::start(), stopping);
        let events = service.events().subscribe();
        Self { service: Arc::new(service), events }
    }

    async fn services(&self) -> Services {
        let connector = SharedHttpConnector::new(Network(self.service.clone()));
        let outside = Outside {
            http: http_client_fn(move |_, _| connector.clone()).into(),
            credentials: Some(SharedCredentialsProvider::new(Credentials::new(
                "key", "secret", None, None, "test",
            ))),
            ..Outside::default()
        };
        let config: Config = serde_json::from_value(json!({
            "region": "us-east-1", "endpoint_url": "http://localhost:1",
        }))
        .expect("a configuration");
        let clients = Clients::within(outside, config, "command", Arc::new(()));
        Services::of(&clients).await.expect("a region")
    }

    async fn probe(&self, signals: &Interruptions) -> Outcome {
        let plan = Plan::new(PREFIX, ROLE);
        let mut redaction = Redaction::default();
        redaction.learn(&plan.run, "RUN");
        let session = Session {
            services: self.services().await,
            plan,
            waits: Waits { patience: PATIENCE, surplus: Duration::from_secs(30) },
            pace: Duration::from_secs(1),
            redaction,
            signals: signals.clone(),
        };
        Box::pin(session.run(|_| ())).await
    }

    /// A whole probe, after which nothing may be left.
    async fn probed(&self) -> Outcome {
        let outcome = self.probe(&Interruptions::default()).await;
        assert_eq!(outcome.left, []);
        self.is_empty().await;
        outcome
    }

    async fn is_empty(&self) {
        self.service.set_faults(Vec::new(), None);
        let mut caller =
            Caller::new(self.services().await, Duration::ZERO, CancellationToken::new());
        let found = Remains::find(&mut caller, PREFIX).await.expect("listed");
        assert_eq!(found, Remains::default());
    }

    /// The executions that were started, and those of them that have ended.
    fn executions(&mut self) -> (usize, usize) {
        let (mut started, mut ended) = (0, 0);
        while let Ok(event) = self.events.try_recv() {
            match serde_json::to_value(event.kind).expect("JSON")["event"].as_str() {
                Some("execution_started" | "execution_retried") => started += 1,
                Some("execution_ended") => ended += 1,
                _ => {}
            }
        }
        (started, ended)
    }
}

fn findings(outcome: &Outcome) -> Vec<Value> {
    let report = Report {
        notes: &outcome.notes,
        redaction: &outcome.redaction,
        region: "us-east-1",
        date: jiff::Timestamp::UNIX_EPOCH,
        has_own_endpoint: true,
    };
    report.json()["findings"].as_array().expect("a list").clone()
}

fn finding(outcome: &Outcome, question: &str) -> Value {
    let found = findings(outcome).into_iter().find(|finding| finding["question"] == question);
    found.unwrap_or_else(|| panic!("no experiment asks about {question}"))
}

/// The switches of the endpoint with all settings of each, as its own parser names them.
fn switches() -> Vec<(String, Vec<String>)> {
    let defaults = serde_json::to_value(Undocumented::default()).expect("JSON");
    let settings = |switch: &String| {
        let wrong = json!({ switch.as_str(): "no such setting" });
        let error = serde_json::from_value::<Undocumented>(wrong).expect_err("refused").to_string();
        let Some((_, listed)) = error.split_once("expected") else {
            // No choice of words: a duration.
            return vec!["30s".to_owned(), "1m30s".to_owned()];
        };
        listed.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    defaults
        .as_object()
        .expect("an object")
        .keys()
        .map(|switch| (switch.clone(), settings(switch)))
        .collect()
}

/// Switches that show only while another one is set.
const NEEDS: [(&str, &str, &str); 1] = [("repeated_answer", "retried_token", "same")];

/// Settings that look like something that has not happened yet.
const NEVER_SETTLED: [(&str, &str); 1] = [("stopping_message", "never")];

#[tokio::test(start_paused = true)]
async fn each_setting_of_each_switch_is_found_out() {
    let switches = switches();
    assert!(switches.len() >= 16, "{switches:?}");
    for (switch, settings) in switches {
        assert!(settings.len() >= 2, "{switch} has settings: {settings:?}");
        for setting in settings {
            let mut set = Map::new();
            set.insert(switch.clone(), json!(setting));
            for (needs, other, value) in NEEDS {
                if needs == switch {
                    set.insert(other.to_owned(), json!(value));
                }
            }
            let undocumented = serde_json::from_value(Value::Object(set)).expect("a setting");
            let mut site = Site::new(undocumented, Vec::new());
            let outcome = site.probed().await;
            let (started, ended) = site.executions();
            assert!(started > 10 && started == ended, "{switch} = {setting}: {started}, {ended}");
            let found = finding(&outcome, &switch);
            let is_open = NEVER_SETTLED.contains(&(switch.as_str(), setting.as_str()));
            assert_eq!(found["settled"], !is_open, "{switch} = {setting}: {found}");
            let shown = found["setting"].as_str().unwrap_or_default();
            if switch == "stopping_delay" {
                let delay = |text: &str| duration::parse(text).expect("a duration").as_secs();
                assert!(delay(shown).abs_diff(delay(&setting)) <= 2, "{setting}: {found}");
            } else {
                assert_eq!(shown, setting, "{switch}: {found}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_question_is_answered_at_an_endpoint_without_faults() {
    let outcome = Site::new(Undocumented::default(), Vec::new()).probed().await;
    assert!(!outcome.was_interrupted);
    for question in Question::ALL {
        let observed = outcome.notes.get(question).expect("noted");
        assert!(observed.settled, "{question:?}: {observed:?}");
    }
    let text = |question| finding(&outcome, question)["observed"].as_str().unwrap().to_owned();
    assert!(text("malformed_token").contains("`ValidationException`"));
    assert!(text("same_request_token").contains("accepted, of a step that is Succeeded"));
    assert!(text("long_reason").contains("`ValidationException`"));
    assert!(text("long_value").contains("`ValidationException`"));
    assert!(text("stopping_body").contains("the same token, the same arguments, the same keys"));
    assert!(text("second_stop").contains("accepted; no Stopping message came within 30s"));
    assert!(text("stopped_token").contains("terminal status"));
    assert!(text("argument_null").contains("as it is given: `null`"));
    assert!(text("executing_message").contains("arguments, pipelineExecutionArn, status, token"));
}

#[tokio::test(start_paused = true)]
async fn a_report_has_no_account_no_token_and_no_name_of_its_own() {
    let account = "111122223333";
    let options = Options { account: account.to_owned(), ..Options::default() };
    let mut site = Site::with(options);
    let outcome = site.probed().await;
    let published = findings(&outcome).iter().map(Value::to_string).collect::<String>();
    let shown = "arn:aws:sagemaker:us-east-1:123456789012:pipeline/RUN-one/execution/EXECUTION";
    assert!(published.contains(shown), "{published}");
    assert!(!published.contains(account), "{published}");
    let mut secrets = 0;
    while let Ok(event) = site.events.try_recv() {
        let event = serde_json::to_value(event.kind).expect("JSON");
        for secret in ["token", "request_token", "execution", "pipeline"] {
            let secret = event[secret].as_str();
            // Not the malformed ones, which are the same in each probe.
            let Some(secret) = secret.filter(|it| !it.starts_with("abcdefghi")) else { continue };
            let last = secret.rsplit('/').next().expect("a part");
            assert!(last.len() < 10 || !published.contains(last), "{last}: {published}");
            secrets += 1;
        }
    }
    assert!(secrets > 50, "{secrets}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_half_of_the_calls_yields_findings_and_a_clean_end() {
    for acted in [false, true] {
        let fault = Fault::Error {
            status: 500,
            code: "InternalFailure".to_owned(),
            message: String::new(),
            acted,
        };
        let rule = Rule { probability: 0.5, ..Rule::new("*", fault) };
        let mut site = Site::new(Undocumented::default(), vec![rule]);
        let outcome = site.probed().await;
        let (started, ended) = site.executions();
        assert_eq!(started, ended);
        let all = findings(&outcome);
        assert_eq!(all.len(), Question::ALL.len());
        let settled = all.iter().filter(|finding| finding["settled"] == true);
        assert!(settled.count() > 5, "{all:?}");
        // A wrong conclusion is worse than none.
        for (question, wants) in [
            ("unknown_token", "resource_not_found"),
            ("already_terminal", "conflict"),
            ("failure_while_stopping", "stopped"),
            ("success_while_stopping", "stopped"),
            ("retried_token", "fresh"),
            ("outputs_in_arguments", "typed"),
            ("pipeline_arns", "lower_case"),
            ("pipeline_names", "ignoring_case"),
            ("reused_request_token", "refused"),
        ] {
            let found = finding(&outcome, question);
            assert!(found["settled"] == false || found["setting"] == wants, "{found}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn throttled_calls_are_made_again_and_change_no_finding() {
    let fault = Fault::Error {
        status: 400,
        code: "ThrottlingException".to_owned(),
        message: "Rate exceeded".to_owned(),
        acted: false,
    };
    let rule = Rule { probability: 0.3, ..Rule::new("*", fault) };
    let throttled = Site::new(Undocumented::default(), vec![rule]).probed().await;
    let calm = Site::new(Undocumented::default(), Vec::new()).probed().await;
    for (one, other) in findings(&throttled).iter().zip(findings(&calm)) {
        let is_time = one["question"] == "stopping_delay";
        assert!(is_time || one["setting"] == other["setting"], "{one} {other}");
        assert_eq!(one["settled"], true, "{one}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_denied_leaves_its_questions_open_and_the_others_settled() {
    for (operation, open) in [
        ("RetryPipelineExecution", "retried_token"),
        ("SendPipelineExecutionStepSuccess", "unknown_token"),
        ("DescribePipeline", "pipeline_names"),
        ("ChangeMessageVisibility", "lapsed_receipt"),
    ] {
        let fault = Fault::Error {
            status: 400,
            code: "AccessDeniedException".to_owned(),
            message: "User: arn:aws:iam::123456789012:user/jane is not authorized".to_owned(),
            acted: false,
        };
        let site = Site::new(Undocumented::default(), vec![Rule::new(operation, fault)]);
        let outcome = site.probed().await;
        let found = finding(&outcome, open);
        assert_eq!(found["settled"], false, "{found}");
        let text = found["observed"].as_str().expect("text");
        let why = "permissions decided before the service did: AccessDeniedException: ";
        assert!(text.starts_with(why) && !text.contains("jane"), "{text}");
        assert_eq!(finding(&outcome, "pipeline_arns")["settled"], true);
    }
}

#[tokio::test(start_paused = true)]
async fn messages_that_never_come_are_awaited_for_a_bounded_time() {
    for kind in ["ExecutingMessage", "StoppingMessage"] {
        let site = Site::new(Undocumented::default(), vec![Rule::new(kind, Fault::Lose)]);
        let outcome = site.probed().await;
        let found = finding(&outcome, "stopping_message");
        assert_eq!(found["settled"], false, "{found}");
        let text = found["observed"].as_str().expect("text");
        let lost = kind.trim_end_matches("Message");
        assert_eq!(text, format!("no {lost} message came within 5m"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_interruption_at_any_moment_leaves_nothing_behind() {
    let mut interrupted = 0;
    for second in (0..400).step_by(7) {
        let mut site = Site::new(Undocumented::default(), Vec::new());
        let signals = Interruptions::default();
        let interrupt = async {
            tokio::time::sleep(Duration::from_millis(second * 1_000 + 500)).await;
            signals.experiments.cancel();
        };
        let (outcome, ()) = tokio::join!(site.probe(&signals), interrupt);
        assert_eq!(outcome.left, [], "after {second} s");
        site.is_empty().await;
        let (started, ended) = site.executions();
        assert_eq!(started, ended, "after {second} s");
        interrupted += usize::from(findings(&outcome).iter().any(|it| it["settled"] == false));
    }
    assert!(interrupted > 20, "{interrupted}");
}

#[tokio::test(start_paused = true)]
async fn a_second_interruption_leaves_what_a_clean_up_removes() {
    let mut site = Site::new(Undocumented::default(), Vec::new());
    let signals = Interruptions::default();
    let interrupt = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        signals.experiments.cancel();
        signals.removal.cancel();
    };
    let (outcome, ()) = tokio::join!(site.probe(&signals), interrupt);
    assert!(outcome.was_interrupted && outcome.left.len() >= 2, "{:?}", outcome.left);
    let mut caller =
        Caller::new(site.services().await, Duration::from_secs(1), CancellationToken::new());
    let remains = Remains::find(&mut caller, PREFIX).await.expect("listed");
    assert_eq!(remains.pipelines.len() + remains.queues.len(), outcome.left.len());
    assert_eq!(remains.remove(&mut caller, PATIENCE).await, []);
    let (started, ended) = site.executions();
    assert!(started > 0 && started == ended, "{started} {ended}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_removed_is_named_and_a_clean_up_removes_it() {
    let denied = Fault::Error {
        status: 400,
        code: "AccessDeniedException".to_owned(),
        message: String::new(),
        acted: false,
    };
    let rules = ["DeletePipeline", "DeleteQueue"].map(|name| Rule::new(name, denied.clone()));
    let site = Site::new(Undocumented::default(), rules.to_vec());
    let outcome = site.probe(&Interruptions::default()).await;
    assert_eq!(outcome.left.len(), 11, "{:?}", outcome.left);
    let told = super::removal::told(&outcome.left, PREFIX);
    assert!(told.contains("aws sagemaker delete-pipeline --pipeline-name sagemaker-callbackd-"));
    assert!(told.contains("aws sqs delete-queue --queue-url") && told.contains("--clean-up"));

    site.service.set_faults(Vec::new(), None);
    let mut caller =
        Caller::new(site.services().await, Duration::from_secs(1), CancellationToken::new());
    let remains = Remains::find(&mut caller, PREFIX).await.expect("listed");
    assert_eq!((remains.pipelines.len(), remains.queues.len()), (10, 1));
    assert_eq!(remains.remove(&mut caller, PATIENCE).await, []);
    site.is_empty().await;
}

#[tokio::test(start_paused = true)]
async fn a_clean_up_ends_what_a_killed_probe_left_and_touches_nothing_else() {
    let mut site = Site::new(Undocumented::default(), Vec::new());
    let services = site.services().await;
    let request = super::lab::request;
    for name in ["sagemaker-callbackd-probe-mine", "sagemaker-callbackd-probe-abcd1234-Mine"] {
        let definition = super::plan::Shape::One.definition("http://localhost:1/123456789012/q");
        services.create_pipeline(name, &definition, ROLE, "x", &request()).await.expect("created");
        services.create_queue(name, "x").await.expect("created");
    }
    let signals = Interruptions::default();
    let killed = tokio::time::timeout(Duration::from_secs(15), site.probe(&signals)).await;
    assert!(killed.is_err(), "it was killed");
    let mut caller =
        Caller::new(services.clone(), Duration::from_secs(1), CancellationToken::new());
    let remains = Remains::find(&mut caller, PREFIX).await.expect("listed");
    assert!(!remains.is_empty());
    assert_eq!(remains.remove(&mut caller, PATIENCE).await, []);
    let (started, ended) = site.executions();
    assert!(started > 0 && started == ended, "{started} {ended}");
    assert_eq!(services.pipelines(PREFIX).await.expect("listed").len(), 2);
    assert_eq!(services.queues(PREFIX).await.expect("listed").len(), 2);
}

#[test]
fn nothing_is_agreed_to_without_a_word() {
    // The tests' standard input is no terminal, or one that nobody types at.
    for no in ["", "\n", "n\n", "no", "yeah?", "N"] {
        assert!(!is_yes(no), "{no:?}");
    }
    for yes in ["y\n", "Y", " yes \n"] {
        assert!(is_yes(yes), "{yes:?}");
    }
    assert!(matches!(agreed(true, ""), Ok(true)));
}

#[test]
fn a_role_is_an_arn_of_a_role() {
    for good in [ROLE, "arn:aws-cn:iam::123456789012:role/service/x"] {
        assert!(role(good).is_ok(), "{good}");
    }
    for wrong in ["", "x", "arn:aws:iam::123456789012:user/x", "arn:aws:iam::1:role/x"] {
        assert!(role(wrong).is_err(), "{wrong}");
    }
}
