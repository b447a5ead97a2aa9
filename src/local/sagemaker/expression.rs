//! Values of a pipeline definition: JSON in which `Get` and `Std:Join` stand for values that are
//! known only when a step starts.

use serde_json::{Map, Value};

/// What a `Get` names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reference {
    /// `Parameters.NAME`.
    Parameter(String),
    /// `Execution.NAME`.
    Execution(Variable),
    /// `Steps.STEP.OutputParameters['OUTPUT']`.
    Output { step: String, output: String },
}

/// The properties of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Variable {
    PipelineName,
    PipelineArn,
    PipelineExecutionId,
    PipelineExecutionArn,
    StartDateTime,
    CurrentDateTime,
}

/// Everything that a value refers to.
///
/// # Errors
/// A sentence about an expression that is malformed or not supported here.
pub(super) fn references(value: &Value) -> Result<Vec<Reference>, String> {
    let mut found = Vec::new();
    resolve(value, &mut |reference| {
        found.push(reference.clone());
        Ok(Value::String(String::new()))
    })?;
    Ok(found)
}

/// The value with all references resolved.
///
/// # Errors
/// As [`references`], and those of `look_up`.
pub(super) fn resolve(
    value: &Value,
    look_up: &mut impl FnMut(&Reference) -> Result<Value, String>,
) -> Result<Value, String> {
    match value {
        Value::Object(object) => match object.iter().next() {
            Some((function, argument)) if object.len() == 1 && function == "Get" => {
                look_up(&Reference::parse(argument)?)
            }
            Some((function, argument)) if object.len() == 1 && function == "Std:Join" => {
                join(argument, look_up)
            }
            Some((function, _)) if function.starts_with("Std:") => {
                Err(format!("the local endpoint does not serve {function}, only Get and Std:Join"))
            }
            _ => {
                let members = object
                    .iter()
                    .map(|(name, member)| Ok((name.clone(), resolve(member, look_up)?)));
                Ok(Value::Object(members.collect::<Result<Map<_, _>, String>>()?))
            }
        },
        Value::Array(items) => items.iter().map(|item| resolve(item, look_up)).collect(),
        _ => Ok(value.clone()),
    }
}

impl Reference {
    fn parse(path: &Value) -> Result<Self, String> {
        let malformed = || {
            format!(
                "{{\"Get\": {path}}} names neither a parameter, nor an execution variable, nor a \
                 step's output parameter"
            )
        };
        let text = path.as_str().ok_or_else(malformed)?;
        if let Some(name) = text.strip_prefix("Parameters.") {
            return Ok(Self::Parameter(name.to_owned()));
        }
        if let Some(name) = text.strip_prefix("Execution.") {
            return Variable::parse(name).map(Self::Execution).ok_or_else(malformed);
        }
        let (step, output) = text
            .strip_prefix("Steps.")
            .and_then(|rest| rest.split_once(".OutputParameters["))
            .ok_or_else(malformed)?;
        let output = output.strip_suffix(']').ok_or_else(malformed)?;
        let output = ['\'', '"']
            .into_iter()
            .find_map(|quote| output.strip_prefix(quote)?.strip_suffix(quote));
        Ok(Self::Output { step: step.to_owned(), output: output.ok_or_else(malformed)?.to_owned() })
    }
}

impl Variable {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "PipelineName" => Self::PipelineName,
            "PipelineArn" => Self::PipelineArn,
            "PipelineExecutionId" => Self::PipelineExecutionId,
            "PipelineExecutionArn" => Self::PipelineExecutionArn,
            "StartDateTime" => Self::StartDateTime,
            "CurrentDateTime" => Self::CurrentDateTime,
            _ => return None,
        })
    }
}

/// `{"On": "/", "Values": […]}`: the values as text, joined by `On`.
fn join(
    argument: &Value,
    look_up: &mut impl FnMut(&Reference) -> Result<Value, String>,
) -> Result<Value, String> {
    let on = argument.get("On").and_then(Value::as_str);
    let values = argument.get("Values").and_then(Value::as_array);
    let (Some(on), Some(values)) = (on, values) else {
        return Err(format!("Std:Join has a text On and a list Values, unlike {argument}"));
    };
    let mut texts = Vec::with_capacity(values.len());
    for value in values {
        match resolve(value, look_up)? {
            Value::String(text) => texts.push(text),
            plain @ (Value::Number(_) | Value::Bool(_)) => texts.push(plain.to_string()),
            other => {
                return Err(format!("Std:Join joins texts, numbers and booleans, not {other}"));
            }
        }
    }
    Ok(Value::String(texts.join(on)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resolved(value: &Value) -> Result<Value, String> {
        resolve(value, &mut |reference| match reference {
            Reference::Parameter(name) if name == "number" => Ok(json!(7)),
            Reference::Parameter(name) => Ok(json!(name)),
            Reference::Output { step, output } => Ok(json!(format!("{step}/{output}"))),
            Reference::Execution(_) => Err("unknown as yet".to_owned()),
        })
    }

    #[test]
    fn plain_json_stands_for_itself() {
        let value = json!({"a": [1, 2.5, null, true], "b": {"c": "d"}});
        assert_eq!(resolved(&value), Ok(value));
    }

    #[test]
    fn a_get_becomes_what_it_names_with_its_type() {
        let value = json!({"a": {"Get": "Parameters.number"}, "b": [{"Get": "Steps.A.OutputParameters['x']"}]});
        assert_eq!(resolved(&value), Ok(json!({"a": 7, "b": ["A/x"]})));
        let double = json!({"Get": "Steps.A.OutputParameters[\"x\"]"});
        assert_eq!(resolved(&double), Ok(json!("A/x")));
    }

    #[test]
    fn a_join_becomes_one_text_with_numbers_spelt_out() {
        let value = json!({"Std:Join": {"On": "/", "Values": ["s3:/", {"Get": "Parameters.number"}, "x", true]}});
        assert_eq!(resolved(&value), Ok(json!("s3://7/x/true")));
        let nested = json!({"Std:Join": {"On": "-", "Values": [value, "end"]}});
        assert_eq!(resolved(&nested), Ok(json!("s3://7/x/true-end")));
    }

    #[test]
    fn an_object_that_only_looks_like_an_expression_is_plain() {
        let value = json!({"Get": "Parameters.a", "other": 1});
        assert_eq!(resolved(&value), Ok(value));
    }

    #[test]
    fn an_expression_that_cannot_be_read_is_refused_by_name() {
        for wrong in [
            json!({"Get": "Nonsense.a"}),
            json!({"Get": 5}),
            json!({"Get": "Steps.A.Properties.x"}),
            json!({"Get": "Steps.A.OutputParameters['x\"]"}),
            json!({"Get": "Execution.Nonsense"}),
            json!({"Std:Join": {"Values": []}}),
            json!({"Std:Join": {"On": "", "Values": [{"a": 1}]}}),
            json!({"Std:JsonGet": {}}),
        ] {
            assert!(references(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_references_are_found_however_deep() {
        let value = json!({"a": [{"Get": "Parameters.p"}], "b": {"Std:Join": {"On": "", "Values": [{"Get": "Execution.PipelineName"}]}}});
        let found = references(&value).expect("well-formed");
        assert_eq!(
            found,
            [Reference::Parameter("p".to_owned()), Reference::Execution(Variable::PipelineName)]
        );
    }
}
