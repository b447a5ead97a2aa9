//! What a key takes, in words, by the JSON Schema.

use serde_json::Value;

use super::Config;
use super::decode::Step;

/// What the deserializers of Rust's own types say that they expect.
const RUST: [&str; 9] =
    ["a boolean", "a map", "a sequence", "a string", "f64", "string or map", "u32", "u64", "usize"];

/// A message of serde with the words of the configuration in place of Rust's types.
pub(super) fn in_words(message: &str, key: &[Step]) -> String {
    let Some((begin, expects)) = message.split_once(", expected ") else {
        return message.to_owned();
    };
    let is_rust = RUST.contains(&expects) || expects.starts_with("struct ");
    match is_rust.then(|| worded(key)).flatten() {
        Some(takes) => format!("{begin}, expected {takes}"),
        None => message.to_owned(),
    }
}

fn worded(key: &[Step]) -> Option<String> {
    let schema = Config::schema();
    let resolved = |at: &Value| -> Option<Value> {
        // An optional value is this or null.
        let at = at["anyOf"].get(0).unwrap_or(at);
        match at["$ref"].as_str() {
            Some(reference) => schema.pointer(reference.trim_start_matches('#')).cloned(),
            None => Some(at.clone()),
        }
    };
    let mut at = resolved(&schema)?;
    for step in key {
        at = match step {
            Step::Index(_) => resolved(&at["items"])?,
            Step::Field(field) => match at["properties"].get(field) {
                Some(property) => resolved(property)?,
                None => resolved(&at["additionalProperties"])?,
            },
        };
    }
    let choices = at["enum"].as_array().or(at["oneOf"].as_array());
    if let Some(choices) = choices {
        let choices = choices.iter().filter_map(|it| it["const"].as_str().or(it.as_str()));
        let choices: Vec<String> = choices.map(|choice| format!("\"{choice}\"")).collect();
        return (!choices.is_empty()).then(|| choices.join(" or "));
    }
    let kind = at["type"].get(0).unwrap_or(&at["type"]);
    Some(match kind.as_str()? {
        "array" => "a list".to_owned(),
        "boolean" => "true or false".to_owned(),
        "integer" => "a whole number".to_owned(),
        "number" => "a number".to_owned(),
        "object" => match at["properties"].as_object() {
            Some(keys) => {
                let keys: Vec<&str> = keys.keys().map(String::as_str).collect();
                format!("a table with {}", keys.join(", "))
            }
            None => "a table".to_owned(),
        },
        "string" => "a text in quotes".to_owned(),
        _ => return None,
    })
}
