//! A pipeline definition, parsed and checked: callback steps, their dependencies and arguments.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::expression::{Reference, references};
use super::parameter::{Kind, Parameter};

/// The only schema version that exists.
const VERSION: &str = "2020-12-01";

/// A definition whose steps can be run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Definition {
    pub parameters: Vec<Parameter>,
    /// In the order of the document; each depends only on existing steps, without cycles.
    pub steps: Vec<Step>,
}

/// A callback step.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub name: String,
    pub display_name: Option<String>,
    pub description: Option<String>,
    pub queue_url: String,
    /// May contain expressions.
    pub arguments: Value,
    /// Name and type of each declared output.
    pub outputs: BTreeMap<String, Kind>,
    /// The steps that must succeed before: those it names, and those whose outputs it uses.
    pub after: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    version: Option<String>,
    #[serde(default)]
    parameters: Vec<Parameter>,
    #[serde(default)]
    steps: Vec<Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CallbackStep {
    name: String,
    display_name: Option<String>,
    description: Option<String>,
    sqs_queue_url: String,
    arguments: Option<Map<String, Value>>,
    #[serde(default)]
    output_parameters: Vec<OutputParameter>,
    #[serde(default)]
    depends_on: Vec<String>,
    cache_config: Option<CacheConfig>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OutputParameter {
    output_name: String,
    output_type: Kind,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CacheConfig {
    #[serde(default)]
    enabled: bool,
}

impl Definition {
    /// Parses a definition.
    ///
    /// # Errors
    /// A sentence about what is malformed, or what AWS supports and the local endpoint does not.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let document: Document = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if document.version.as_deref() != Some(VERSION) {
            return Err(format!("Version must be {VERSION:?}"));
        }
        for parameter in &document.parameters {
            parameter.check()?;
        }
        if let Some(name) = repeated(document.parameters.iter().map(|parameter| &parameter.name)) {
            return Err(format!("parameter {name} is declared twice"));
        }
        if document.steps.is_empty() {
            return Err("a pipeline has at least one step".to_owned());
        }
        let steps = document.steps.into_iter().map(Step::read).collect::<Result<Vec<_>, _>>()?;
        if let Some(name) = repeated(steps.iter().map(|step| &step.name)) {
            return Err(format!("two steps are named {name}"));
        }
        let definition = Self { parameters: document.parameters, steps };
        definition.check_references()?;
        definition.check_order()?;
        Ok(definition)
    }

    /// Checks that every dependency and reference is declared.
    fn check_references(&self) -> Result<(), String> {
        let outputs: BTreeMap<_, _> =
            self.steps.iter().map(|step| (&step.name, &step.outputs)).collect();
        for step in &self.steps {
            if let Some(unknown) = step.after.iter().find(|name| !outputs.contains_key(name)) {
                return Err(format!("step {} depends on {unknown}, which is no step", step.name));
            }
            for reference in references(&step.arguments)? {
                let declared = match &reference {
                    Reference::Parameter(name) => {
                        self.parameters.iter().any(|parameter| parameter.name == *name)
                    }
                    Reference::Output { step, output } => {
                        outputs.get(step).is_some_and(|outputs| outputs.contains_key(output))
                    }
                    Reference::Execution(_) => true,
                };
                if !declared {
                    return Err(format!(
                        "step {} uses {reference:?}, which is not declared",
                        step.name
                    ));
                }
            }
        }
        Ok(())
    }

    /// Checks that the steps can be ordered: removes steps without remaining dependencies until
    /// none is left.
    fn check_order(&self) -> Result<(), String> {
        let mut left: BTreeMap<&str, &BTreeSet<String>> =
            self.steps.iter().map(|step| (step.name.as_str(), &step.after)).collect();
        while !left.is_empty() {
            let free: Vec<&str> = left
                .iter()
                .filter(|(_, after)| after.iter().all(|name| !left.contains_key(name.as_str())))
                .map(|(name, _)| *name)
                .collect();
            if free.is_empty() {
                let names: Vec<&str> = left.into_keys().collect();
                return Err(format!("these steps wait for each other: {}", names.join(", ")));
            }
            left.retain(|name, _| !free.contains(name));
        }
        Ok(())
    }
}

impl Step {
    fn read(step: Map<String, Value>) -> Result<Self, String> {
        let label = step.get("Name").and_then(Value::as_str).unwrap_or("without a name").to_owned();
        match step.get("Type").and_then(Value::as_str) {
            Some("Callback") => {}
            Some(other) => {
                return Err(format!(
                    "step {label} is of type {other}; the local endpoint runs Callback steps only"
                ));
            }
            None => return Err(format!("step {label} has no Type")),
        }
        let step: CallbackStep = serde_json::from_value(Value::Object(step))
            .map_err(|error| format!("step {label}: {error}"))?;
        let named = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if step.name.is_empty() || step.name.len() > 64 || !step.name.chars().all(named) {
            return Err(format!(
                "step {label}: a name is 1 to 64 letters, digits, hyphens and underscores"
            ));
        }
        if step.cache_config.is_some_and(|cache| cache.enabled) {
            return Err(format!("step {label}: the local endpoint caches no steps"));
        }
        if let Some(name) =
            repeated(step.output_parameters.iter().map(|output| &output.output_name))
        {
            return Err(format!("step {label}: output {name} is declared twice"));
        }
        let arguments = Value::Object(step.arguments.unwrap_or_default());
        let mut after: BTreeSet<String> = step.depends_on.into_iter().collect();
        let used = references(&arguments).map_err(|reason| format!("step {label}: {reason}"))?;
        after.extend(used.into_iter().filter_map(|reference| match reference {
            Reference::Output { step, .. } => Some(step),
            Reference::Parameter(_) | Reference::Execution(_) => None,
        }));
        let outputs = step
            .output_parameters
            .into_iter()
            .map(|output| (output.output_name, output.output_type))
            .collect();
        Ok(Self {
            name: step.name,
            display_name: step.display_name,
            description: step.description,
            queue_url: step.sqs_queue_url,
            arguments,
            outputs,
            after,
        })
    }
}

fn repeated<'a>(names: impl Iterator<Item = &'a String>) -> Option<&'a String> {
    let mut seen = BTreeSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn step(name: &str, changes: &Value) -> Value {
        let mut step = json!({"Name": name, "Type": "Callback", "SqsQueueUrl": "http://localhost/1/q", "Arguments": {},
            "OutputParameters": [{"OutputName": "x", "OutputType": "Float"}]});
        for (key, value) in changes.as_object().expect("an object") {
            step[key] = value.clone();
        }
        step
    }

    fn parse(steps: &[Value]) -> Result<Definition, String> {
        let parameters = json!([{"Name": "p", "Type": "Integer", "DefaultValue": 5}]);
        Definition::parse(
            &json!({"Version": VERSION, "Parameters": parameters, "Steps": steps}).to_string(),
        )
    }

    #[test]
    fn a_step_waits_for_the_steps_it_names_and_for_those_whose_outputs_it_uses() {
        let definition = parse(&[
            step("c", &json!({"DependsOn": ["a"], "Arguments": {"n": {"Get": "Steps.b.OutputParameters['x']"}}})),
            step("a", &json!({})),
            step("b", &json!({"Arguments": {"n": {"Get": "Parameters.p"}}})),
        ])
        .expect("sound");
        assert_eq!(definition.steps[0].after, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        assert_eq!(definition.steps[1].after, BTreeSet::new());
        assert_eq!(definition.steps[0].outputs["x"], Kind::Float);
    }

    #[test]
    fn a_step_of_another_type_is_refused_by_name_and_type() {
        let refusal =
            parse(&[json!({"Name": "train", "Type": "Training"})]).expect_err("not served");
        assert!(
            refusal.contains("train")
                && refusal.contains("Training")
                && refusal.contains("Callback"),
            "{refusal}"
        );
    }

    #[test]
    fn steps_that_wait_for_each_other_are_refused() {
        let refusal = parse(&[
            step("a", &json!({"DependsOn": ["b"]})),
            step("b", &json!({"DependsOn": ["a"]})),
            step("c", &json!({})),
        ])
        .expect_err("a cycle");
        assert!(refusal.ends_with("a, b"), "{refusal}");
        assert!(parse(&[step("a", &json!({"DependsOn": ["a"]}))]).is_err());
    }

    #[test]
    fn what_is_not_declared_cannot_be_used() {
        for changes in [
            json!({"DependsOn": ["nobody"]}),
            json!({"Arguments": {"n": {"Get": "Parameters.nothing"}}}),
            json!({"Arguments": {"n": {"Get": "Steps.b.OutputParameters['nothing']"}}}),
        ] {
            assert!(parse(&[step("a", &changes), step("b", &json!({}))]).is_err(), "{changes}");
        }
    }

    #[test]
    fn a_malformed_definition_is_refused() {
        for (wrong, why) in [
            (json!({"Version": "2019-01-01", "Steps": [step("a", &json!({}))]}), "version"),
            (json!({"Version": VERSION, "Steps": []}), "no step"),
            (
                json!({"Version": VERSION, "Steps": [step("a", &json!({})), step("a", &json!({}))]}),
                "named twice",
            ),
            (json!({"Version": VERSION, "Steps": [step("a b", &json!({}))]}), "name"),
            (
                json!({"Version": VERSION, "Steps": [step("a", &json!({"CacheConfig": {"Enabled": true}}))]}),
                "cache",
            ),
            (json!({"Version": VERSION, "Steps": [{"Name": "a", "Type": "Callback"}]}), "no queue"),
            (json!([]), "a list"),
        ] {
            assert!(Definition::parse(&wrong.to_string()).is_err(), "{why}");
        }
    }
}
