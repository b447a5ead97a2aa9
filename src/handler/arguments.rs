//! Decodes a step's arguments, and says what is wrong with those that do not fit.

use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::step::Quoted;

/// Why arguments are not what a handler takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("`{path}`: {problem}")]
pub struct Misfit {
    /// The argument, such as `size` or `files[0].name`; `.` for all of them.
    pub path: String,
    /// In one line: what was expected and what was found. Text of the message is escaped and cut.
    pub problem: String,
}

/// The most characters of a path, and of a reason in an argument type's own words.
const PATH: usize = 120;
const WORDS: usize = 200;
/// How serde begins a reason that has ", expected …" after what was found.
const FOUND_AND_EXPECTED: [&str; 4] =
    ["invalid type: ", "invalid value: ", "invalid length ", "unknown variant `"];

/// The arguments in a handler's type.
pub(super) fn decode<T: DeserializeOwned>(arguments: &Value) -> Result<T, Misfit> {
    serde_path_to_error::deserialize(arguments).map_err(|error| {
        let reason = error.inner().to_string();
        misfit(arguments, error.path(), &reason)
    })
}

/// serde gives its reasons as text only.
fn misfit(arguments: &Value, path: &Path, reason: &str) -> Misfit {
    let missing = reason.strip_prefix("missing field `").and_then(|name| name.strip_suffix('`'));
    // The name is the message's, and may have anything in it; what is expected is the handler's.
    let unknown = reason.strip_prefix("unknown field `").and_then(|rest| {
        let known = rest.rsplit_once("`, expected ");
        known.or_else(|| Some((rest.strip_suffix("`, there are no fields")?, "no arguments")))
    });
    let (path, problem) = match (missing, unknown) {
        (Some(name), _) => (below(path, name), "is missing".to_owned()),
        (_, Some((name, known))) => {
            (below(path, name), format!("there is no such argument; expected {known}"))
        }
        _ => (path.to_string(), mismatch(at(arguments, path), reason)),
    };
    Misfit { path: Quoted::within(PATH, &path).to_string(), problem }
}

fn mismatch(found: Option<&Value>, reason: &str) -> String {
    let expected = FOUND_AND_EXPECTED
        .iter()
        .any(|kind| reason.starts_with(kind))
        .then(|| reason.rsplit_once(", expected "))
        .flatten();
    let problem = match expected {
        Some((_, expected)) => format!("expected {expected}"),
        None => Quoted::within(WORDS, reason).to_string(),
    };
    let found = found.map(|found| format!(", found {}", Quoted::json(found))).unwrap_or_default();
    format!("{problem}{found}")
}

/// The path of a field. serde's own may end with it already.
fn below(path: &Path, name: &str) -> String {
    let names_it = matches!(path.iter().next_back(), Some(Segment::Map { key }) if key == name);
    match path.to_string() {
        path if names_it => path,
        path if path == "." => name.to_owned(),
        path => format!("{path}.{name}"),
    }
}

/// What stands at a path.
fn at<'a>(arguments: &'a Value, path: &Path) -> Option<&'a Value> {
    path.iter().try_fold(arguments, |value, segment| match segment {
        Segment::Seq { index } => value.get(index),
        Segment::Map { key } => value.get(key),
        // The content of a variant is below the variant's name.
        Segment::Enum { variant } => value.get(variant).or(Some(value)),
        Segment::Unknown => None,
    })
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Deserializer, de};
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only decoded")]
    struct Args {
        size: u8,
        #[serde(default)]
        mode: Mode,
        #[serde(default)]
        files: Vec<File>,
        #[serde(default, deserialize_with = "even")]
        even: u64,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        #[default]
        Fast,
        Exact,
        Within {
            #[serde(rename = "limit")]
            _limit: u8,
        },
    }

    #[derive(Debug, Deserialize)]
    struct File {
        #[serde(rename = "name")]
        _name: String,
    }

    fn even<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let number = u64::deserialize(deserializer)?;
        (number % 2 == 0).then_some(number).ok_or_else(|| de::Error::custom("an odd number"))
    }

    #[test]
    fn what_does_not_fit_is_named_with_what_was_expected_and_what_was_found() {
        assert!(decode::<Args>(&json!({ "size": 3 })).is_ok());
        for (arguments, says) in [
            (json!({ "size": "3" }), r#"`size`: expected u8, found "3""#),
            (json!({ "size": 300 }), "`size`: expected u8, found 300"),
            (json!({ "size": null }), "`size`: expected u8, found null"),
            (json!({}), "`size`: is missing"),
            (json!([{}]), "`[0]`: expected u8, found {}"),
            (json!("text"), r#"`.`: expected struct Args, found "text""#),
            (
                json!({ "size": 3, "mode": "slow" }),
                r#"`mode`: expected one of `fast`, `exact`, `within`, found "slow""#,
            ),
            (
                json!({ "size": 3, "mode": { "within": { "limit": "x" } } }),
                r#"`mode.within.limit`: expected u8, found "x""#,
            ),
            (json!({ "size": 3, "files": [{ "name": "a" }, {}] }), "`files[1].name`: is missing"),
            (
                json!({ "size": 3, "files": [{ "name": ["a, expected b"] }] }),
                r#"`files[0].name`: expected a string, found ["a, expected b"]"#,
            ),
            (json!({ "size": 3, "even": 5 }), "`even`: an odd number, found 5"),
            (
                json!({ "size": 3, "`, expected ": 1 }),
                "``, expected `: there is no such argument; expected one of `size`, `mode`, \
                 `files`, `even`",
            ),
        ] {
            let misfit = decode::<Args>(&arguments).expect_err(says);
            assert_eq!(misfit.to_string(), says);
        }
    }

    #[test]
    fn a_handler_without_arguments_says_so() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct None {}

        let misfit = decode::<None>(&json!({ "size": 3 })).expect_err("there is one");
        let says = "`size`: there is no such argument; expected no arguments";
        assert_eq!(misfit.to_string(), says);
    }

    #[test]
    fn a_message_cannot_make_it_long_or_write_to_a_terminal() {
        let hostile = "\u{1b}[2J\n\u{202e}".repeat(10_000);
        let keyed = json!({ "size": 3, hostile.clone(): 1 });
        let valued = json!({ "size": hostile.clone() });
        let named = json!({ "size": 3, "mode": hostile });
        for arguments in [keyed, valued, named] {
            let text = decode::<Args>(&arguments).expect_err("hostile").to_string();
            let safe = text.chars().all(|c| !c.is_control() && c != '\u{202e}');
            assert!(text.len() < 1500 && safe, "{text}");
        }
    }
}
