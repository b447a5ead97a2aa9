//! The result of a step in a form that SageMaker cannot refuse, and the client request token that
//! identifies it.
//!
//! Lengths are counted in UTF-16 units. SageMaker's model says "characters" without saying which;
//! this count is never the smaller one.

mod typed;

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Number, Value};
use sha2::{Digest, Sha256};

use crate::hex::hex;
use crate::step::{CallbackToken, ExecutionArn};

/// The result of a callback step. It is computed once, frozen, and sent as often as necessary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The step succeeded, with these outputs for later steps.
    Success(Outputs),
    /// The step failed, and with it the execution.
    Failure(Reason),
}

/// Output parameters: at most 50, names of 1 to 256 characters, values of at most 1,024
/// (SageMaker's service model).
///
/// Values are strings on the wire whatever type the pipeline declares.
///
/// ```
/// use callbackd::Outputs;
///
/// let mut outputs = Outputs::of([("model", "s3://bucket/model.tar.gz")])?;
/// outputs.insert("epochs", 7)?;
/// assert_eq!(outputs.get("epochs"), Some("7"));
/// assert!(outputs.insert("log", "x".repeat(2000)).is_err(), "SageMaker would refuse it");
/// # Ok::<(), callbackd::outcome::InvalidOutput>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Outputs(BTreeMap<String, String>);

/// Why a step failed, at most 256 characters (SageMaker's service model; a longer one makes the
/// failure report itself fail).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Reason(String);

/// The idempotency token of a report: 64 hexadecimal digits, a function of the execution, the
/// callback token and the outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientRequestToken(String);

/// An output that SageMaker would refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's message says it")]
pub enum InvalidOutput {
    #[error("there are more than {} outputs", Outputs::MAX_COUNT)]
    TooMany,
    #[error("the output name {0:?} has {1} characters; 1 to {max} are \
             allowed", max = Outputs::MAX_NAME)]
    Name(String, usize),
    #[error("the output `{0}` has {1} characters; at most {max} are \
             allowed", max = Outputs::MAX_VALUE)]
    Value(String, usize),
    #[error("the output `{0}` is {1}; only strings, numbers and booleans are allowed")]
    NotScalar(String, &'static str),
    #[error("the output `{0}` is not a finite number")]
    NotFinite(String),
    #[error("the output `{0}` is set twice")]
    Twice(String),
    #[error("not a JSON object: {0}")]
    NotJson(String),
    #[error("outputs must be one JSON object of names and values, not {0}")]
    NotObject(&'static str),
    #[error("the outputs cannot be serialised: {0}")]
    Unserialisable(String),
}

impl Outcome {
    /// `success` or `failure`, as in metrics and logs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Success(_) => "success",
            Self::Failure(_) => "failure",
        }
    }

    /// A unique text for each outcome: no spaces, outputs sorted by name, every value a string.
    fn canonical(&self) -> String {
        let value = match self {
            Self::Success(outputs) => {
                let outputs = outputs
                    .iter()
                    .map(|(name, value)| (name.to_owned(), value.into()))
                    .collect::<BTreeMap<String, Value>>();
                [("success", Value::from_iter(outputs))]
            }
            Self::Failure(reason) => [("failure", reason.as_str().into())],
        };
        Value::from_iter(value).to_string()
    }
}

impl Outputs {
    const MAX_COUNT: usize = 50;
    const MAX_NAME: usize = 256;
    const MAX_VALUE: usize = 1024;

    /// No outputs yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// These outputs; `Outputs::of([("model", uri)])`.
    ///
    /// # Errors
    /// As [`insert`](Self::insert).
    pub fn of<N: Into<String>, V: Into<Value>>(
        outputs: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, InvalidOutput> {
        let mut all = Self::new();
        for (name, value) in outputs {
            all.insert(name, value)?;
        }
        Ok(all)
    }

    /// The fields of a struct, or the entries of a map, as outputs; none for `()`. A field is a
    /// string, a number, a boolean, or an enum variant without content, which becomes its name. A
    /// `None` is refused like any null: leave it out with
    /// `#[serde(skip_serializing_if = "Option::is_none")]`.
    ///
    /// ```
    /// use callbackd::Outputs;
    ///
    /// #[derive(serde::Serialize)]
    /// struct Trained { model: String, accuracy: f32 }
    ///
    /// let trained = Trained { model: "s3://bucket/model".into(), accuracy: 0.9 };
    /// assert_eq!(Outputs::from_serialize(&trained)?.get("accuracy"), Some("0.9"));
    /// # Ok::<(), callbackd::outcome::InvalidOutput>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidOutput`] names the field that SageMaker would refuse, or says that the value is
    /// neither a struct nor a map.
    pub fn from_serialize(value: &impl Serialize) -> Result<Self, InvalidOutput> {
        typed::outputs(value)
    }

    /// The entries of one JSON object. A number keeps its text, however many digits it has.
    ///
    /// # Errors
    /// As [`insert`](Self::insert), and [`InvalidOutput::NotJson`].
    pub fn from_json(text: &str) -> Result<Self, InvalidOutput> {
        let not_json = |error: serde_json::Error| InvalidOutput::NotJson(error.to_string());
        let Entries::<&RawValue>(entries) = serde_json::from_str(text).map_err(not_json)?;
        let mut all = Self::new();
        for (name, value) in entries {
            // Only a number begins with a digit or a sign in JSON.
            let value = match value.get() {
                number if number.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => {
                    Value::from(number)
                }
                other => serde_json::from_str(other).map_err(not_json)?,
            };
            all.insert(name, value)?;
        }
        Ok(all)
    }

    /// Adds one output. Numbers are written the same however they were spelled (`1.50`, `15e-1`),
    /// booleans as `true` and `false`.
    ///
    /// # Errors
    /// [`InvalidOutput`] if SageMaker would refuse it, or if the name is taken; nothing is added
    /// then.
    pub fn insert(
        &mut self,
        name: impl Into<String>,
        value: impl Into<Value>,
    ) -> Result<(), InvalidOutput> {
        let name = name.into();
        let length = units(&name);
        if !(1..=Self::MAX_NAME).contains(&length) {
            return Err(InvalidOutput::Name(name.chars().take(Self::MAX_NAME).collect(), length));
        }
        let value = match value.into() {
            Value::String(text) => text,
            Value::Bool(flag) => flag.to_string(),
            Value::Number(number) => {
                canonical_number(&number).ok_or_else(|| InvalidOutput::NotFinite(name.clone()))?
            }
            other => return Err(InvalidOutput::NotScalar(name, kind_of(&other))),
        };
        let length = units(&value);
        if length > Self::MAX_VALUE {
            return Err(InvalidOutput::Value(name, length));
        }
        if self.0.contains_key(&name) {
            return Err(InvalidOutput::Twice(name));
        }
        if self.0.len() == Self::MAX_COUNT {
            return Err(InvalidOutput::TooMany);
        }
        self.0.insert(name, value);
        Ok(())
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The value of the output with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// How many outputs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryFrom<Map<String, Value>> for Outputs {
    type Error = InvalidOutput;

    fn try_from(map: Map<String, Value>) -> Result<Self, InvalidOutput> {
        Self::of(map)
    }
}

impl TryFrom<Value> for Outputs {
    type Error = InvalidOutput;

    fn try_from(value: Value) -> Result<Self, InvalidOutput> {
        match value {
            Value::Object(map) => map.try_into(),
            other => Err(InvalidOutput::NotObject(kind_of(&other))),
        }
    }
}

impl<'de> Deserialize<'de> for Outputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Entries(entries): Entries<Value> = Entries::deserialize(deserializer)?;
        Self::of(entries).map_err(de::Error::custom)
    }
}

/// The entries of a map as they came, including duplicates.
struct Entries<V>(Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Entries<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for All<V> {
            type Value = Entries<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of names and values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(All(PhantomData))
    }
}

impl Reason {
    /// The most that SageMaker accepts, in UTF-16 units.
    pub const MAX: usize = 256;
    const NONE_GIVEN: &str = "no reason was given";

    /// The beginning of `text`, cut at a character boundary; a fixed phrase if it is blank.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let text = text.trim();
        if text.is_empty() {
            return Self(Self::NONE_GIVEN.to_owned());
        }
        if units(text) <= Self::MAX {
            return Self(text.to_owned());
        }
        let mut cut: String = take_units(text.chars(), Self::MAX - 1).collect();
        cut.push('…');
        Self(cut)
    }

    /// `what`, then as much of the end of `text` as fits: a program's last output tells why it
    /// failed.
    #[must_use]
    pub fn with_end_of(what: &str, text: &str) -> Self {
        let text = text.trim();
        if text.is_empty() {
            return Self::new(what);
        }
        let room = Self::MAX.saturating_sub(units(what) + units(": …"));
        let mut end: Vec<char> = take_units(text.chars().rev(), room).collect();
        end.reverse();
        let dots = if end.len() < text.chars().count() { "…" } else { "" };
        Self::new(&format!("{what}: {dots}{}", end.into_iter().collect::<String>()))
    }

    /// The text as it is sent to SageMaker.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if units(&text) > Self::MAX {
            return Err(de::Error::custom(format_args!(
                "a reason of more than {} characters",
                Self::MAX
            )));
        }
        Ok(Self(text))
    }
}

impl ClientRequestToken {
    /// The hex form of SHA-256 over `"callbackd/1"`, execution ARN, token and the outcome's
    /// canonical JSON, with a zero byte between them.
    #[must_use]
    pub fn of(execution: &ExecutionArn, token: &CallbackToken, outcome: &Outcome) -> Self {
        Self::of_return(execution, token, 0, outcome)
    }

    /// The same for a token that has come back this many times. An answer that equals an earlier
    /// one is not a repetition of it, and whether SageMaker would take it for one is not published.
    #[must_use]
    pub fn of_return(
        execution: &ExecutionArn,
        token: &CallbackToken,
        returns: u32,
        outcome: &Outcome,
    ) -> Self {
        let mut hash = Sha256::new();
        for part in ["callbackd/1", execution.as_str(), token.as_str()] {
            hash.update(part);
            hash.update([0]);
        }
        hash.update(outcome.canonical());
        if returns > 0 {
            hash.update([0]);
            hash.update(returns.to_string());
        }
        Self(hex(&hash.finalize()))
    }

    /// The 64 hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn units(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

fn take_units(chars: impl Iterator<Item = char>, room: usize) -> impl Iterator<Item = char> {
    let mut left = room;
    chars.take_while(move |c| {
        let fits = c.len_utf16() <= left;
        left = left.saturating_sub(c.len_utf16());
        fits
    })
}

/// Integers digit for digit, others in the shortest text that reads back as the same double.
fn canonical_number(number: &Number) -> Option<String> {
    if number.is_i64() || number.is_u64() {
        return Some(number.to_string());
    }
    let double = number.as_f64()?;
    let double = if double == 0.0 { 0.0 } else { double };
    // `{:?}` keeps the `.0` of a whole double and writes very large and very small values with an
    // exponent.
    double.is_finite().then(|| format!("{double:?}"))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn outputs(json: &str) -> Result<Outputs, InvalidOutput> {
        serde_json::from_str::<Value>(json).expect("json").try_into()
    }

    #[test]
    fn numbers_are_written_the_same_however_they_were_spelt() {
        let values = outputs(
            r#"{"a":1.50,"b":15e-1,"c":100,"d":1e2,"f":-0.0,"g":18446744073709551615,"h":true,"i":""}"#,
        );
        let values: Vec<String> =
            values.expect("valid").iter().map(|(_, value)| value.to_owned()).collect();
        assert_eq!(
            values,
            ["1.5", "1.5", "100", "100.0", "0.0", "18446744073709551615", "true", ""]
        );
    }

    #[test]
    fn numbers_of_a_json_text_stay_as_they_are_written() {
        let text = r#" {"a":1.10,"b":123456789012345678901234567890,"c":-0.0,"d":1e400,"e":"\u00e4","f":true,"g": 7 } "#;
        let outputs = Outputs::from_json(text).expect("valid");
        let values: Vec<&str> = outputs.iter().map(|(_, value)| value).collect();
        assert_eq!(
            values,
            ["1.10", "123456789012345678901234567890", "-0.0", "1e400", "ä", "true", "7"]
        );
    }

    #[test]
    fn a_name_that_is_there_twice_is_named_wherever_it_is_read() {
        let twice = r#"{"a":1,"b":2,"a":1}"#;
        assert_eq!(Outputs::from_json(twice), Err(InvalidOutput::Twice("a".into())));
        assert!(
            serde_json::from_str::<Outputs>(twice)
                .is_err_and(|error| error.to_string().contains("`a` is set twice"))
        );
        for (text, wants) in [
            ("{", "not a JSON object"),
            ("[]", "an object of names"),
            (r#"{"a":{}}"#, "`a` is an object"),
        ] {
            let error = Outputs::from_json(text).expect_err(wants).to_string();
            assert!(error.contains(wants), "{error}");
        }
    }

    #[test]
    fn an_output_that_sagemaker_would_refuse_is_named() {
        let long = "n".repeat(257);
        for (json, wants) in [
            (json!({ "x": null }), "`x` is null"),
            (json!({ "x": {"y": 1} }), "`x` is an object"),
            (json!({ "x": [1] }), "`x` is an array"),
            (json!({ "x": "ä".repeat(1025) }), "`x` has 1025 characters"),
            (json!({ "x": "😀".repeat(513) }), "`x` has 1026 characters"),
            (json!({ "": 1 }), "0 characters"),
            (json!({ long: 1 }), "257 characters"),
            (json!([1]), "not an array"),
        ] {
            let error = Outputs::try_from(json).expect_err(wants).to_string();
            assert!(error.contains(wants), "{error}");
        }
    }

    #[test]
    fn fifty_outputs_are_taken_and_one_more_is_refused() {
        let mut outputs = Outputs::new();
        for n in 0..50 {
            outputs.insert(format!("o{n}"), "ä".repeat(1024)).expect("within limits");
        }
        assert_eq!((outputs.len(), outputs.is_empty()), (50, false));
        assert_eq!(outputs.insert("o50", 1), Err(InvalidOutput::TooMany));
        assert_eq!(outputs.insert("o7", 1), Err(InvalidOutput::Twice("o7".into())));
    }

    #[test]
    fn outputs_are_found_by_their_names_and_outcomes_named_by_their_kinds() {
        let outputs = outputs(r#"{"a":1,"b":"two"}"#).expect("valid");
        assert_eq!((outputs.get("b"), outputs.get("c"), outputs.len()), (Some("two"), None, 2));
        assert!(Outputs::new().is_empty());
        assert_eq!(Outcome::Success(outputs).kind(), "success");
        assert_eq!(Outcome::Failure(Reason::new("x")).kind(), "failure");
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character_and_marked() {
        let reason = Reason::new(&"ä".repeat(2000));
        assert_eq!(reason.as_str().chars().count(), 256);
        assert!(reason.as_str().ends_with('…'));
        assert_eq!(Reason::new(" \n ").as_str(), "no reason was given");
    }

    #[test]
    fn the_end_of_what_a_program_said_is_kept() {
        let text = format!("{}the disk is full\n", "noise ".repeat(200));
        let reason = Reason::with_end_of("exit status 3", &text);
        assert!(reason.as_str().starts_with("exit status 3: …"), "{reason}");
        assert!(reason.as_str().ends_with("the disk is full"), "{reason}");
        assert_eq!(units(reason.as_str()), Reason::MAX, "as much as there is room for");
        assert_eq!(Reason::with_end_of("exit status 3", "short").as_str(), "exit status 3: short");
    }

    #[test]
    fn the_client_request_token_is_this_one_for_ever() {
        let execution =
            "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/e".parse().expect("arn");
        let token = "abcdefghij".parse().expect("token");
        let success = Outcome::Success(outputs(r#"{"b":"2","a":1}"#).expect("valid"));
        assert_eq!(success.canonical(), r#"{"success":{"a":"1","b":"2"}}"#);
        let request = ClientRequestToken::of(&execution, &token, &success);
        assert_eq!(
            request.as_str(),
            "210f69871906c0ad4ed27c16c9a4ddc4870919f20b12201580cfd4dccdb0d8d5"
        );
        let failure = Outcome::Failure(Reason::new("x"));
        assert_ne!(ClientRequestToken::of(&execution, &token, &failure), request);
    }

    #[test]
    fn an_outcome_survives_the_ledger_and_a_forged_record_does_not() {
        let outcome = Outcome::Success(outputs(r#"{"a":1}"#).expect("valid"));
        let text = serde_json::to_string(&outcome).expect("json");
        assert_eq!(serde_json::from_str::<Outcome>(&text).expect("outcome"), outcome);
        let longest = Reason::new(&"x".repeat(1000));
        assert_eq!(longest.to_string(), longest.as_str());
        assert_eq!(serde_json::from_value::<Reason>(json!(longest)).expect("reason"), longest);
        let forged = json!({ "failure": "x".repeat(257) }).to_string();
        assert!(serde_json::from_str::<Outcome>(&forged).is_err());
    }

    proptest! {
        #[test]
        fn no_reason_is_longer_than_sagemaker_takes(what in "\\PC{0,400}", text in "\\PC{0,400}") {
            for reason in [Reason::new(&text), Reason::with_end_of(&what, &text)] {
                prop_assert!(units(reason.as_str()) <= Reason::MAX);
                prop_assert!(!reason.as_str().is_empty());
            }
        }

        #[test]
        fn the_order_of_keys_does_not_matter(pairs in prop::collection::btree_map("[a-z]{1,5}", "[a-z0-9]{0,5}", 0..20)) {
            let mut forth = Outputs::new();
            let mut back = Outputs::new();
            for (name, value) in &pairs { forth.insert(name.clone(), value.clone()).expect("valid"); }
            for (name, value) in pairs.iter().rev() { back.insert(name.clone(), value.clone()).expect("valid"); }
            prop_assert_eq!(Outcome::Success(forth).canonical(), Outcome::Success(back).canonical());
        }
    }
}
