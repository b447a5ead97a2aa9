//! Turns a tree of settings into a [`Config`](super::Config), continuing after each mistake to find
//! the next.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Segment;

use super::expected;
use super::mistake::{Mistake, Mistakes};
use super::source::Source;

/// More mistakes than anyone wants to read at once.
const MAX_MISTAKES: usize = 200;

/// Decodes the tree. Each wrong value is recorded and removed and the rest is tried again, so that
/// all mistakes are found.
pub(super) fn decode<T: DeserializeOwned>(
    source: &mut Source,
    mistakes: &mut Mistakes,
) -> Option<T> {
    for _ in 0..MAX_MISTAKES {
        let error = match serde_path_to_error::deserialize::<_, T>(source.tree.clone()) {
            Ok(decoded) => return Some(decoded),
            Err(error) => error,
        };
        let segments: Vec<Step> = error.path().iter().filter_map(Step::of).collect();
        let message = error.into_inner().to_string();
        if let Some(field) = quoted_after(&message, "unknown field `") {
            // The path may or may not include the unknown key itself.
            let parent = match segments.split_last() {
                Some((Step::Field(last), parent)) if *last == field => parent,
                _ => &segments[..],
            };
            let key = join(parent, Some(&field));
            let known = message.split_once("expected ").map_or("", |(_, known)| known);
            note(
                source,
                mistakes,
                key,
                format!(
                    "there is no such key{}; known are: {}",
                    nearest(&field, known),
                    known_list(known)
                ),
            );
            with(&mut source.tree, parent, |parent| {
                if let Value::Object(fields) = parent {
                    fields.remove(&field);
                }
            });
        } else if let Some(field) = quoted_after(&message, "missing field `") {
            note(source, mistakes, join(&segments, Some(&field)), "is missing".to_owned());
            with(&mut source.tree, &segments, |parent| {
                if let Value::Object(fields) = parent {
                    fields.insert(field.clone(), Value::String(stand_in(&field).to_owned()));
                }
            });
        } else {
            let key = join(&segments, None);
            let from_environment = source.is_from_environment(&key);
            let mut again = false;
            with(&mut source.tree, &segments, |value| {
                if let (true, Value::String(text)) = (from_environment, &*value)
                    && let Some(read) = read(text, message.contains("expected a sequence"))
                {
                    *value = read;
                    again = true;
                }
            });
            if !again {
                let what = unsaid(&source.tree, &segments, message);
                let what = expected::in_words(&what, &segments);
                let range = super::range_of(&key)
                    .map(|range| format!("; allowed: {range}"))
                    .unwrap_or_default();
                // The wrong value is left out, and so is the path to it.
                note(
                    source,
                    mistakes,
                    key,
                    format!("{}{range}", what.trim_end_matches(": the value")),
                );
                if !remove(&mut source.tree, &segments) {
                    return None;
                }
            }
        }
    }
    None
}

/// A message without the value that it is about: an unparsable value may be a misplaced secret, and
/// messages end up in logs.
fn unsaid(tree: &Value, segments: &[Step], message: String) -> String {
    let mut at = Some(tree);
    for segment in segments {
        at = match (at, segment) {
            (Some(Value::Object(fields)), Step::Field(field)) => fields.get(field),
            (Some(Value::Array(elements)), Step::Index(index)) => elements.get(*index),
            _ => None,
        };
    }
    match at {
        Some(value) => hidden(value, message),
        None => message,
    }
}

fn hidden(value: &Value, message: String) -> String {
    match value {
        Value::String(text) if !text.is_empty() => {
            let quoted = format!("{text:?}");
            message
                .replace(&format!("string {quoted}"), "the text")
                .replace(&quoted, "the value")
                .replace(&format!("`{text}`"), "the value")
        }
        Value::Number(_) | Value::Bool(_) => {
            let text = value.to_string();
            ["integer", "floating point", "boolean"].iter().fold(message, |message, kind| {
                message.replace(&format!("{kind} `{text}`"), &format!("the {kind}"))
            })
        }
        Value::Array(elements) => {
            elements.iter().fold(message, |message, element| hidden(element, message))
        }
        Value::Object(fields) => {
            fields.values().fold(message, |message, field| hidden(field, message))
        }
        _ => message,
    }
}

/// A placeholder for a required key, so that the search for mistakes continues: it is a text, its
/// absence is recorded, and it is not judged again.
fn stand_in(field: &str) -> &'static str {
    if field == "url" { "https://queue.invalid/000000000000/queue" } else { "" }
}

fn note(source: &Source, mistakes: &mut Mistakes, key: String, what: String) {
    mistakes.add(Mistake { source: source.origin(&key), key, what });
}

/// One step of the path to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Field(String),
    Index(usize),
}

impl Step {
    fn of(segment: &Segment) -> Option<Self> {
        match segment {
            Segment::Map { key } => Some(Self::Field(key.clone())),
            Segment::Seq { index } => Some(Self::Index(*index)),
            Segment::Enum { .. } | Segment::Unknown => None,
        }
    }
}

pub(super) fn join(steps: &[Step], last: Option<&str>) -> String {
    let mut key = String::new();
    for step in steps {
        match step {
            Step::Index(index) => key.push_str(&format!("[{index}]")),
            Step::Field(field) if key.is_empty() => key.push_str(field),
            Step::Field(field) => key.push_str(&format!(".{field}")),
        }
    }
    match last {
        Some(last) if key.is_empty() => last.to_owned(),
        Some(last) => format!("{key}.{last}"),
        None => key,
    }
}

fn with(tree: &mut Value, steps: &[Step], change: impl FnOnce(&mut Value)) {
    let mut at = Some(tree);
    for step in steps {
        at = match (at, step) {
            (Some(Value::Object(fields)), Step::Field(field)) => fields.get_mut(field),
            (Some(Value::Array(elements)), Step::Index(index)) => elements.get_mut(*index),
            _ => None,
        };
    }
    if let Some(value) = at {
        change(value);
    }
}

/// Removes a value so that its default applies; an element of an array is removed as a whole.
fn remove(tree: &mut Value, steps: &[Step]) -> bool {
    let Some((last, parent)) = steps.split_last() else { return false };
    let mut removed = false;
    with(tree, parent, |parent| match (parent, last) {
        (Value::Object(fields), Step::Field(field)) => removed = fields.remove(field).is_some(),
        (Value::Array(elements), Step::Index(index)) if *index < elements.len() => {
            elements.remove(*index);
            removed = true;
        }
        _ => {}
    });
    removed
}

/// Parses a variable's text for a key that is not a text: as JSON, or, if a list is wanted, as
/// elements separated by commas.
fn read(text: &str, list: bool) -> Option<Value> {
    let elements = || {
        text.split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| Value::String(part.to_owned()))
    };
    match serde_json::from_str::<Value>(text) {
        Ok(value) if !value.is_string() && value.is_array() == list => Some(value),
        _ if list => Some(elements().collect()),
        _ => None,
    }
}

fn quoted_after(message: &str, before: &str) -> Option<String> {
    Some(message.strip_prefix(before)?.split_once('`')?.0.to_owned())
}

fn known_list(known: &str) -> String {
    known.trim_start_matches("one of ").replace('`', "")
}

fn nearest(field: &str, known: &str) -> String {
    let near = known.split('`').skip(1).step_by(2).find(|known| differ_little(field, known));
    near.map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"))
}

/// Whether two words differ by one typing error: a letter more, fewer or different, or two swapped.
fn differ_little(one: &str, other: &str) -> bool {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let front = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
    let (one, other) = (&one[front..], &other[front..]);
    let back = one.iter().rev().zip(other.iter().rev()).take_while(|(a, b)| a == b).count();
    let (one, other) = (&one[..one.len() - back], &other[..other.len() - back]);
    one.len() <= 1 && other.len() <= 1
        || one.len() == 2 && other.len() == 2 && one[0] == other[1] && one[1] == other[0]
}
