//! `callbackd route`: which handler a message would get, and why.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, plain, say};
use crate::config::CheckedConfig;
use crate::engine::config::{QueueConfig, RouteConfig};
use crate::engine::route::{Difference, Differing, Route, Routes};
use crate::handler::Misfit;
use crate::step::{Message, Quoted, Step};

#[derive(Args)]
pub(super) struct Arguments {
    /// A file with the message's body as SQS carries it; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    message: PathBuf,
    /// The queue that the message is from, by its name or URL. Needed only if several are
    /// configured.
    #[arg(long, value_name = "NAME|URL")]
    queue: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Twice what SQS accepts.
const MAX_BODY: u64 = 2 << 20;

pub(super) fn run(loaded: &CheckedConfig, arguments: &Arguments) -> Result<ExitCode, Failure> {
    let queue = queue(&loaded.config.queues, arguments.queue.as_deref())?;
    let body = body(&arguments.message)?;
    let routes = Routes::new(queue);
    let choice = Choice::of(loaded, queue, &routes, &body);
    if arguments.json {
        say(escaped(&format!("{:#}", choice.to_json(queue))));
    } else {
        choice.lines(queue).iter().for_each(|line| say(plain(line)));
    }
    Ok(if choice.handler().is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The queue that is meant.
fn queue<'a>(queues: &'a [QueueConfig], named: Option<&str>) -> Result<&'a QueueConfig, Failure> {
    let is_meant = |queue: &&QueueConfig| named.is_none_or(|named| queue.url.is_meant_by(named));
    let meant: Vec<&QueueConfig> = queues.iter().filter(is_meant).collect();
    if let [queue] = meant[..] {
        return Ok(queue);
    }
    let have = |queues: &mut dyn Iterator<Item = &QueueConfig>| {
        queues.map(|queue| queue.url.as_str()).collect::<Vec<_>>().join(", ")
    };
    Err(Failure::Usage(match (named, meant.is_empty()) {
        (Some(named), true) => {
            let have = have(&mut queues.iter());
            format!("no configured queue is {}; there are: {have}", Quoted::within(200, named))
        }
        (Some(_), false) => {
            let have = have(&mut meant.into_iter());
            format!("several queues have this name; give --queue the URL of one: {have}")
        }
        (None, _) => {
            let have = have(&mut queues.iter());
            format!("several queues are configured; choose one with --queue: {have}")
        }
    }))
}

fn body(file: &Path) -> Result<String, Failure> {
    let is_input = file.as_os_str() == "-";
    let mut bytes = Vec::new();
    let read = if is_input {
        io::stdin().lock().take(MAX_BODY + 1).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|file| file.take(MAX_BODY + 1).read_to_end(&mut bytes))
    };
    let name = if is_input { "standard input".to_owned() } else { file.display().to_string() };
    let refused = |why: &dyn std::fmt::Display| {
        Failure::Usage(plain(&format!("the message cannot be read from {name}: {why}")))
    };
    let size = read.map_err(|error| refused(&error))?;
    if size as u64 > MAX_BODY {
        return Err(refused(&"it is larger than any message of SQS"));
    }
    String::from_utf8(bytes).map_err(|_| refused(&"it is not UTF-8, as every message of SQS is"))
}

/// What a worker would do with a message.
enum Choice<'a> {
    /// It would leave it on the queue.
    Refused(String),
    Accepted(Box<Accepted<'a>>),
}

struct Accepted<'a> {
    message: Message,
    routes: &'a Routes,
    handler: Option<Chosen<'a>>,
    /// The names of all configured handlers.
    handlers: Vec<&'a str>,
}

struct Chosen<'a> {
    name: &'a str,
    kind: &'a str,
    misfit: Option<Misfit>,
}

impl<'a> Choice<'a> {
    fn of(loaded: &'a CheckedConfig, queue: &QueueConfig, routes: &'a Routes, body: &str) -> Self {
        let message = match Message::parse(body) {
            Ok(message) => message,
            // Of a body that is no object, the reason has all of it.
            Err(unreadable) => {
                return Self::Refused(Quoted::within(400, &unreadable.to_string()).to_string());
            }
        };
        let Step { execution, arguments, .. } = message.step();
        let region = queue.region.as_deref().or_else(|| queue.url.region());
        let region = region.or(loaded.config.aws.region.as_deref());
        if let Some(why) = queue.foreign(execution, queue.url.account(), region) {
            return Self::Refused(why);
        }
        let handler = routes.handler(execution.pipeline(), arguments).and_then(|name| {
            let kind = &loaded.config.handlers.get(&**name)?.kind;
            let misfit = loaded.handlers.get(&**name)?.fits(arguments).err();
            Some(Chosen { name, kind, misfit })
        });
        let handlers = loaded.config.handlers.keys().map(String::as_str).collect();
        Self::Accepted(Box::new(Accepted { message, routes, handler, handlers }))
    }

    fn handler(&self) -> Option<&Chosen<'a>> {
        match self {
            Self::Refused(_) => None,
            Self::Accepted(accepted) => accepted.handler.as_ref(),
        }
    }

    fn lines(&self, queue: &QueueConfig) -> Vec<String> {
        let mut lines = Lines(vec![labelled("queue", queue.url.as_str())]);
        match self {
            Self::Refused(why) => {
                lines.add("message", &format!("not accepted: {why}"));
                lines.add("handler", "none: a worker leaves the message on the queue");
            }
            Self::Accepted(accepted) => accepted.tell(queue, &mut lines),
        }
        lines.0
    }

    fn to_json(&self, queue: &QueueConfig) -> Value {
        match self {
            Self::Refused(why) => json!({
                "queue": queue.url.as_str(),
                "message": "not_accepted",
                "reason": why,
                "handler": null,
            }),
            Self::Accepted(accepted) => accepted.to_json(queue),
        }
    }
}

struct Lines(Vec<String>);

impl Lines {
    fn add(&mut self, label: &str, text: &str) {
        self.0.push(labelled(label, text));
    }
}

fn labelled(label: &str, text: &str) -> String {
    format!("{label:<10} {text}")
}

impl Accepted<'_> {
    fn pipeline(&self) -> &str {
        self.message.step().execution.pipeline()
    }

    /// The route that decides.
    fn first_match(&self) -> Option<usize> {
        let arguments = &self.message.step().arguments;
        self.routes.iter().position(|route| route.matches(self.pipeline(), arguments))
    }

    fn kind(&self) -> &'static str {
        if matches!(self.message, Message::Stop(_)) { "stop" } else { "work" }
    }

    fn tell(&self, queue: &QueueConfig, lines: &mut Lines) {
        let Step { token, execution, .. } = self.message.step();
        let (what, but) = match self.message {
            Message::Stop(_) => {
                ("a stop of the step", "; if the ledger knows the step, it keeps its handler")
            }
            _ => ("the step", ""),
        };
        lines.add("message", &format!("{what} {token} of {execution}{but}"));
        let first = self.first_match();
        for (index, (route, config)) in self.routes.iter().zip(&queue.routes).enumerate() {
            let (verdict, why) = self.judged(route, config, first.is_some_and(|at| at < index));
            lines.add(verdict, &format!("routes[{index}], handler {}: {why}", route.handler));
        }
        match self.routes.otherwise() {
            Some(name) if first.is_none() => {
                lines.add("yes", &format!("the queue's own handler {name}: no route matches"));
            }
            Some(name) => {
                lines.add("no", &format!("the queue's own handler {name}: a route matches"));
            }
            None => lines.add("no", "the queue has no handler of its own"),
        }
        let Some(chosen) = &self.handler else {
            let have = self.handlers.join(", ");
            return lines.add("handler", &format!("none: the step would fail; there are: {have}"));
        };
        lines.add("handler", &format!("{}, of type {}", chosen.name, chosen.kind));
        lines.add(
            "arguments",
            &match &chosen.misfit {
                None => "fit the handler".to_owned(),
                Some(misfit) => format!("do not fit, so the step would fail: {misfit}"),
            },
        );
    }

    /// Whether a route decides, and why.
    fn judged(&self, route: &Route, config: &RouteConfig, late: bool) -> (&'static str, String) {
        let step = self.message.step();
        let pipeline = self.pipeline();
        let differences: Vec<String> = route
            .differences(pipeline, &step.arguments)
            .map(|difference| match difference {
                Difference::Pipeline(glob) => {
                    format!("the pipeline {pipeline} does not match {glob:?}")
                }
                Difference::Argument { name, expected, found } => {
                    let Differing { path, expected, found } =
                        Differing::within(name, expected, found);
                    let path = Quoted::within(120, &path);
                    let [expected, found] = [expected, found].map(shown);
                    format!("`arguments.{path}`: expected {expected}, found {found}")
                }
            })
            .collect();
        if !differences.is_empty() {
            return ("no", differences.join("; "));
        }
        let conditions = conditions(config);
        if late {
            return ("no", format!("{conditions}, but an earlier route matches too"));
        }
        ("yes", conditions)
    }

    fn to_json(&self, queue: &QueueConfig) -> Value {
        let Step { token, execution, arguments } = self.message.step();
        let first = self.first_match();
        let routes: Vec<Value> = self
            .routes
            .iter()
            .zip(&queue.routes)
            .enumerate()
            .map(|(index, (route, config))| {
                let differences: Vec<Value> = route
                    .differences(self.pipeline(), arguments)
                    .map(|difference| difference_json(&difference, self.pipeline()))
                    .collect();
                json!({
                    "handler": &*route.handler,
                    "pipeline": config.pipeline,
                    "arguments": config.arguments,
                    "matches": differences.is_empty(),
                    "chosen": first == Some(index),
                    "differences": differences,
                })
            })
            .collect();
        let chosen = self.handler.as_ref();
        let misfit = chosen.and_then(|chosen| chosen.misfit.as_ref());
        json!({
            "queue": queue.url.as_str(),
            "message": self.kind(),
            "token": token.as_str(),
            "execution": execution.as_str(),
            "pipeline": self.pipeline(),
            "routes": routes,
            "queue_handler": self.routes.otherwise(),
            "handler": chosen.map(|chosen| chosen.name),
            "type": chosen.map(|chosen| chosen.kind),
            "handlers": self.handlers,
            "arguments_fit": chosen.map(|_| misfit.is_none()),
            "misfit": misfit.map(|it| json!({ "path": it.path, "problem": it.problem })),
        })
    }
}

/// What a matching route asks for.
fn conditions(route: &RouteConfig) -> String {
    let pipeline = route.pipeline.iter().map(|glob| format!("the pipeline matches {glob:?}"));
    let equal = |(name, value)| format!("`arguments.{name}` is {}", Quoted::json(value));
    let all: Vec<String> = pipeline.chain(route.arguments.iter().map(equal)).collect();
    if all.is_empty() { "it has no conditions".to_owned() } else { all.join("; ") }
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), |value| Quoted::json(value).to_string())
}

/// A value that is not there has no key.
fn difference_json(difference: &Difference<'_>, pipeline: &str) -> Value {
    match *difference {
        Difference::Pipeline(glob) => {
            json!({ "path": "pipeline", "expected": glob, "found": pipeline })
        }
        Difference::Argument { name, expected, found } => {
            let Differing { path, expected, found } = Differing::within(name, expected, found);
            let mut json = json!({ "path": format!("arguments.{path}") });
            for (key, value) in [("expected", expected), ("found", found)] {
                if let Some(value) = value {
                    json[key] = value.clone();
                }
            }
            json
        }
    }
}

/// JSON with everything that a terminal might interpret escaped. JSON's own syntax has none of it.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            ' '..='~' | '\n' => text.push(c),
            // A character beyond the first plane is two units.
            c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                text.push_str(&format!("\\u{unit:04x}"));
            }),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::handler::{Context, HandlerError, Registry};

    #[derive(Deserialize)]
    struct Args {
        #[serde(rename = "size")]
        _size: u8,
    }

    async fn sized(_: Context, _: Args) -> Result<(), HandlerError> {
        Ok(())
    }

    const CONFIG: &str = r#"
        [[queues]]
        url = "https://sqs.us-east-1.amazonaws.com/123456789012/one"
        [[queues.routes]]
        pipeline = "train-*"
        arguments = { task = "spark", options = { cores = 4 } }
        handler = "spark"
        [[queues.routes]]
        pipeline = "train-*"
        handler = "train"
        [[queues.routes]]
        arguments = { task = "spark" }
        handler = "spark"
        [[queues]]
        url = "https://sqs.us-east-1.amazonaws.com/210987654321/two"
        handler = "train"
        [[queues]]
        url = "https://sqs.us-east-2.amazonaws.com/210987654321/two"
        handler = "train"
        [handlers.spark]
        type = "sized"
        [handlers.train]
        type = "sized"
    "#;

    fn loaded() -> CheckedConfig {
        let registry = Registry::new().function("sized", sized);
        CheckedConfig::from_toml("test.toml", CONFIG, &registry).expect("a configuration")
    }

    fn body(pipeline: &str, arguments: &Value, status: &str) -> String {
        let execution =
            format!("arn:aws:sagemaker:us-east-1:123456789012:pipeline/{pipeline}/execution/e1");
        json!({
            "token": "abcdefghij",
            "pipelineExecutionArn": execution,
            "arguments": arguments,
            "status": status,
        })
        .to_string()
    }

    /// What is shown of a message of the first queue, as lines and as JSON.
    fn told(body: &str) -> (Vec<String>, Value) {
        let loaded = loaded();
        let queue = &loaded.config.queues[0];
        let routes = Routes::new(queue);
        let choice = Choice::of(&loaded, queue, &routes, body);
        (choice.lines(queue), choice.to_json(queue))
    }

    #[test]
    fn each_route_says_why_it_decides_or_not() {
        let arguments = json!({ "task": "spark", "options": { "cores": 2 }, "size": 3 });
        let (lines, json) = told(&body("train-a", &arguments, "Executing"));
        assert_eq!(
            lines[2..],
            [
                "no         routes[0], handler spark: `arguments.options.cores`: expected 4, \
                 found 2",
                "yes        routes[1], handler train: the pipeline matches \"train-*\"",
                "no         routes[2], handler spark: `arguments.task` is \"spark\", but an \
                 earlier route matches too",
                "no         the queue has no handler of its own",
                "handler    train, of type sized",
                "arguments  fit the handler",
            ]
        );
        let [first, second, third] = [0, 1, 2].map(|at| &json["routes"][at]);
        assert_eq!(
            first["differences"],
            json!([{ "path": "arguments.options.cores", "expected": 4, "found": 2 }])
        );
        assert_eq!((&second["chosen"], &second["matches"]), (&json!(true), &json!(true)));
        assert_eq!((&third["chosen"], &third["matches"]), (&json!(false), &json!(true)));
        assert_eq!((&json["handler"], &json["type"]), (&json!("train"), &json!("sized")));
        assert_eq!((&json["message"], &json["arguments_fit"]), (&json!("work"), &json!(true)));
    }

    #[test]
    fn a_message_that_nothing_matches_is_told_which_handlers_there_are() {
        let (lines, json) = told(&body("score", &json!({}), "Executing"));
        assert_eq!(
            lines[2],
            "no         routes[0], handler spark: the pipeline score does not match \"train-*\"; \
             `arguments.options`: expected {\"cores\":4}, found nothing; `arguments.task`: \
             expected \"spark\", found nothing"
        );
        assert_eq!(
            lines.last().expect("a line"),
            "handler    none: the step would fail; there are: spark, train"
        );
        assert_eq!((&json["handler"], &json["arguments_fit"]), (&Value::Null, &Value::Null));
        assert_eq!(json["routes"][0]["differences"][0]["path"], "pipeline");
        assert_eq!(json["routes"][0]["differences"][1].get("found"), None);
    }

    #[test]
    fn arguments_that_do_not_fit_the_handler_are_named() {
        let (lines, json) = told(&body("train-a", &json!({ "size": "3" }), "Stopping"));
        assert!(lines[1].contains("a stop of the step"), "{}", lines[1]);
        assert_eq!(
            lines.last().expect("a line"),
            "arguments  do not fit, so the step would fail: `size`: expected u8, found \"3\""
        );
        assert_eq!((&json["message"], &json["arguments_fit"]), (&json!("stop"), &json!(false)));
        assert_eq!(json["misfit"]["path"], "size");
    }

    #[test]
    fn what_a_worker_would_not_accept_is_told_with_the_reason() {
        let foreign = body("train-a", &json!({}), "Executing").replace("us-east-1", "us-east-2");
        for (body, why) in [
            (foreign.as_str(), "is in the region us-east-2, the queue in us-east-1"),
            ("{}", "the body has no `token`"),
            (&json!("\u{9b}2J".repeat(10_000)).to_string(), "is not a JSON object"),
        ] {
            let (lines, json) = told(body);
            assert!(lines[1].contains(why) && lines[1].len() < 3000, "{}", lines[1]);
            assert!(lines[2].contains("none"), "{}", lines[2]);
            assert!(json["reason"].as_str().is_some_and(|reason| reason.contains(why)), "{json}");
            assert_eq!(
                (&json["message"], &json["handler"]),
                (&json!("not_accepted"), &json!(null))
            );
        }
    }

    #[test]
    fn a_queue_is_meant_by_its_name_or_its_url_unless_that_leaves_a_choice() {
        let queues = loaded().config.queues;
        let meant = |named| match queue(&queues, named) {
            Ok(queue) => queue.url.as_str().to_owned(),
            Err(Failure::Usage(text)) => text,
            Err(Failure::Runtime(text) | Failure::Configuration(text)) => panic!("{text}"),
            Err(Failure::Logged) => panic!("a command has no log"),
        };
        assert!(meant(Some("one")).ends_with("123456789012/one"));
        let url = "https://sqs.us-east-2.amazonaws.com/210987654321/two";
        assert_eq!(meant(Some(url)), url);
        for (named, says) in [
            (None, "choose one with --queue"),
            (Some("two"), "give --queue the URL of one: https://sqs.us-east-1"),
            (Some("three"), "no configured queue is three; there are: https://sqs"),
        ] {
            assert!(meant(named).contains(says), "{}", meant(named));
        }
        assert!(queue(&queues[..1], None).is_ok());
    }

    #[test]
    fn json_has_nothing_that_a_terminal_would_interpret() {
        let json = json!({ "a": "\u{9b}2J\u{202e}\u{1f600}ä" });
        let text = escaped(&format!("{json:#}"));
        assert!(text.is_ascii() && !text.contains('\u{7f}'), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), json);
    }
}
