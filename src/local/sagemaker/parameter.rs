//! Pipeline parameters: their types, defaults, and the values of one execution.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// The type of a parameter or of a step's output. On the wire all values are text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(super) enum Kind {
    String,
    Integer,
    Float,
    Boolean,
}

/// A parameter that a definition declares.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Parameter {
    pub name: String,
    #[serde(rename = "Type")]
    pub kind: Kind,
    /// Without it, every execution must provide a value.
    pub default_value: Option<Value>,
    /// The only allowed values.
    pub enum_values: Option<Vec<Value>>,
}

impl Kind {
    /// The JSON value of a text.
    ///
    /// # Errors
    /// A sentence, if the text is not of this type.
    pub(super) fn value(self, text: &str) -> Result<Value, String> {
        let value = match self {
            Self::String => Some(Value::from(text)),
            Self::Integer => text.trim().parse::<i64>().ok().map(Value::from),
            // A number that JSON cannot represent (infinity) is invalid.
            Self::Float => {
                text.trim().parse().ok().and_then(serde_json::Number::from_f64).map(Value::from)
            }
            Self::Boolean => text.trim().to_ascii_lowercase().parse::<bool>().ok().map(Value::from),
        };
        value.ok_or_else(|| format!("{text:?} is not of type {self:?}"))
    }

    fn holds(self, value: &Value) -> bool {
        match self {
            Self::String => value.is_string(),
            Self::Integer => value.is_i64() || value.is_u64(),
            Self::Float => value.is_number(),
            Self::Boolean => value.is_boolean(),
        }
    }
}

impl Parameter {
    /// # Errors
    /// A sentence, if the default is not of the parameter's type or not among its values.
    pub(super) fn check(&self) -> Result<(), String> {
        match &self.default_value {
            Some(default) if !self.kind.holds(default) => Err(format!(
                "the default of parameter {} is not of type {:?}: {default}",
                self.name, self.kind
            )),
            Some(default) => self.allowed(default),
            None => Ok(()),
        }
    }

    fn allowed(&self, value: &Value) -> Result<(), String> {
        match &self.enum_values {
            Some(allowed) if !allowed.contains(value) => {
                Err(format!("{value} is not one of the values that parameter {} allows", self.name))
            }
            _ => Ok(()),
        }
    }
}

/// The value of every declared parameter: the given one, else the default.
///
/// # Errors
/// A sentence about a value that is missing, of the wrong type or not allowed, or a parameter that
/// is not declared.
pub(super) fn bind(
    declared: &[Parameter],
    given: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Value>, String> {
    if let Some(name) =
        given.keys().find(|name| declared.iter().all(|parameter| parameter.name != **name))
    {
        return Err(format!("the pipeline has no parameter {name}"));
    }
    let value = |parameter: &Parameter| match (given.get(&parameter.name), &parameter.default_value)
    {
        (Some(text), _) => {
            let value = parameter
                .kind
                .value(text)
                .map_err(|reason| format!("parameter {}: {reason}", parameter.name))?;
            parameter.allowed(&value).map(|()| value)
        }
        (None, Some(default)) => Ok(default.clone()),
        (None, None) => {
            Err(format!("parameter {} has no default and was given no value", parameter.name))
        }
    };
    declared.iter().map(|parameter| Ok((parameter.name.clone(), value(parameter)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parameter(kind: Kind, default_value: Option<Value>) -> Parameter {
        Parameter { name: "p".to_owned(), kind, default_value, enum_values: None }
    }

    fn given(text: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("p".to_owned(), text.to_owned())])
    }

    #[test]
    fn a_given_text_becomes_a_value_of_the_declared_type() {
        for (kind, text, value) in [
            (Kind::String, "007", json!("007")),
            (Kind::Integer, "42", json!(42)),
            (Kind::Float, "0.5", json!(0.5)),
            (Kind::Boolean, "True", json!(true)),
        ] {
            assert_eq!(bind(&[parameter(kind, None)], &given(text)).expect(text)["p"], value);
        }
        for (kind, text) in [(Kind::Integer, "1.5"), (Kind::Float, "inf"), (Kind::Boolean, "yes")] {
            assert!(bind(&[parameter(kind, None)], &given(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn a_default_stands_in_for_a_value_that_was_not_given() {
        let declared = [parameter(Kind::Integer, Some(json!(5)))];
        assert_eq!(bind(&declared, &BTreeMap::new()).expect("default")["p"], json!(5));
        assert_eq!(bind(&declared, &given("6")).expect("given")["p"], json!(6));
    }

    #[test]
    fn a_value_that_is_missing_undeclared_or_not_allowed_is_refused() {
        assert!(bind(&[parameter(Kind::String, None)], &BTreeMap::new()).is_err());
        assert!(bind(&[], &given("x")).is_err());
        let few =
            Parameter { enum_values: Some(vec![json!("a")]), ..parameter(Kind::String, None) };
        assert!(bind(std::slice::from_ref(&few), &given("a")).is_ok());
        assert!(bind(&[few], &given("b")).is_err());
    }

    #[test]
    fn a_default_of_another_type_is_refused() {
        assert!(parameter(Kind::Integer, Some(json!("5"))).check().is_err());
        assert_eq!(parameter(Kind::Float, Some(json!(5))).check(), Ok(()));
    }
}
