//! A service's published model, from botocore's copy, and its constraints on a request or an
//! answer.

#![allow(dead_code, reason = "each test target that includes this file uses its own part of it")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test says what it expected")]

use std::process::Command;
use std::sync::OnceLock;

use regex::Regex;
use serde_json::{Map, Value};

use crate::venv::Venv;

/// The model of SageMaker, read once for all tests of a process.
pub fn sagemaker() -> &'static ServiceModel {
    static MODEL: OnceLock<ServiceModel> = OnceLock::new();
    MODEL.get_or_init(|| ServiceModel::of("sagemaker"))
}

pub struct ServiceModel {
    operations: Map<String, Value>,
    shapes: Map<String, Value>,
}

/// Prints the model without its documentation, which is most of it.
const PRINT: &str = r"
import botocore.loaders, json, sys
def bare(value):
    if isinstance(value, dict):
        return {key: bare(part) for key, part in value.items() if key not in ('documentation', 'examples')}
    return [bare(part) for part in value] if isinstance(value, list) else value
model = botocore.loaders.Loader().load_service_model(sys.argv[1], 'service-2')
json.dump({'operations': bare(model['operations']), 'shapes': bare(model['shapes'])}, sys.stdout)
";

impl ServiceModel {
    fn of(service: &str) -> Self {
        let printed = Command::new(Venv::ready().python())
            .args(["-c", PRINT, service])
            .output()
            .expect("Python starts");
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        let mut model: Value = serde_json::from_slice(&printed.stdout).expect("a model");
        let part = |value: &mut Value| match value.take() {
            Value::Object(part) => part,
            other => panic!("no part of a model: {other}"),
        };
        Self { operations: part(&mut model["operations"]), shapes: part(&mut model["shapes"]) }
    }

    /// What is wrong with a request; nothing where the model allows it.
    pub fn wrong_with_request(&self, operation: &str, body: &Value) -> Vec<String> {
        self.wrong_with(operation, "input", body)
    }

    /// What is wrong with an answer.
    pub fn wrong_with_answer(&self, operation: &str, body: &Value) -> Vec<String> {
        self.wrong_with(operation, "output", body)
    }

    /// The shape of an operation's input.
    pub fn input(&self, operation: &str) -> &Value {
        self.shape(&self.operations[operation]["input"])
    }

    /// The shape that a member, or the entries of a list, are said to have.
    pub fn shape(&self, member: &Value) -> &Value {
        &self.shapes[member["shape"].as_str().expect("it names a shape")]
    }

    fn wrong_with(&self, operation: &str, side: &str, body: &Value) -> Vec<String> {
        let Some(known) = self.operations.get(operation) else {
            return vec![format!("no operation {operation:?}")];
        };
        let mut wrong = Vec::new();
        match known[side]["shape"].as_str() {
            Some(shape) => self.check(shape, body, operation, &mut wrong),
            None if body.as_object().is_none_or(Map::is_empty) => {}
            None => wrong.push(format!("{operation}: it has no {side}")),
        }
        wrong
    }

    fn check(&self, name: &str, value: &Value, at: &str, wrong: &mut Vec<String>) {
        let shape = &self.shapes[name];
        let of = |key: &str| shape[key].as_str().unwrap_or_default();
        match (of("type"), value) {
            ("structure", Value::Object(members)) => self.structure(shape, members, at, wrong),
            ("list", Value::Array(entries)) => {
                within(shape, entries.len(), at, wrong);
                let member = shape["member"]["shape"].as_str().expect("a list has a member");
                for (number, entry) in entries.iter().enumerate() {
                    self.check(member, entry, &format!("{at}[{number}]"), wrong);
                }
            }
            ("map", Value::Object(entries)) => {
                within(shape, entries.len(), at, wrong);
                let part =
                    |key: &str| shape[key]["shape"].as_str().expect("a map has keys and values");
                for (key, value) in entries {
                    self.check(
                        part("key"),
                        &Value::String(key.clone()),
                        &format!("{at}, a key"),
                        wrong,
                    );
                    self.check(part("value"), value, &format!("{at}.{key}"), wrong);
                }
            }
            ("string", Value::String(text)) => string(shape, text, at, wrong),
            ("integer" | "long", Value::Number(number)) if number.is_i64() => {
                let number = number.as_i64().unwrap_or_default();
                let bound = |key: &str| shape[key].as_i64();
                if bound("min").is_some_and(|least| number < least)
                    || bound("max").is_some_and(|most| number > most)
                {
                    wrong.push(format!("{at}: {number} is out of range"));
                }
            }
            ("float" | "double" | "timestamp", Value::Number(_)) | ("boolean", Value::Bool(_)) => {}
            (kind, value) => wrong.push(format!("{at}: {value} is no {kind}")),
        }
    }

    fn structure(
        &self,
        shape: &Value,
        members: &Map<String, Value>,
        at: &str,
        wrong: &mut Vec<String>,
    ) {
        for required in shape["required"].as_array().into_iter().flatten().filter_map(Value::as_str)
        {
            if !members.contains_key(required) {
                wrong.push(format!("{at}: {required} is missing"));
            }
        }
        for (name, value) in members {
            match shape["members"][name]["shape"].as_str() {
                Some(shape) => self.check(shape, value, &format!("{at}.{name}"), wrong),
                None => wrong.push(format!("{at}: there is no member {name}")),
            }
        }
    }
}

fn string(shape: &Value, text: &str, at: &str, wrong: &mut Vec<String>) {
    // The most that anyone may count: the model does not say what a character is.
    within(shape, text.encode_utf16().count(), at, wrong);
    if let Some(pattern) = shape["pattern"].as_str() {
        let whole = Regex::new(&format!("^(?s:{pattern})$")).expect("a pattern of the model");
        if !whole.is_match(text) {
            wrong.push(format!("{at}: {text:?} does not match {pattern}"));
        }
    }
    if let Some(values) =
        shape["enum"].as_array().filter(|values| !values.iter().any(|value| value == text))
    {
        wrong.push(format!("{at}: {text:?} is none of {values:?}"));
    }
}

fn within(shape: &Value, length: usize, at: &str, wrong: &mut Vec<String>) {
    let bound = |key: &str| shape[key].as_u64().and_then(|bound| usize::try_from(bound).ok());
    if bound("min").is_some_and(|least| length < least)
        || bound("max").is_some_and(|most| length > most)
    {
        wrong.push(format!("{at}: a length of {length}"));
    }
}
