//! The pipelines of an endpoint, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::definition::Definition;
use super::shape::not_found;
use crate::local::clock::Time;
use crate::local::protocol::ApiError;
use crate::local::undocumented::{PipelineArns, PipelineNames};

/// More pipelines than any drill has; a runaway script stops here.
pub(super) const MAX_PIPELINES: usize = 10_000;

/// The pipelines.
#[derive(Debug)]
pub(super) struct Pipelines {
    /// The prefix of pipeline ARNs.
    arn: String,
    pub by_name: BTreeMap<String, Pipeline>,
}

#[derive(Debug)]
pub(super) struct Pipeline {
    pub arn: String,
    pub name: String,
    pub display_name: Option<String>,
    pub description: Option<String>,
    pub role: String,
    /// As it was written.
    pub text: String,
    pub definition: Arc<Definition>,
    pub parallelism: Option<usize>,
    pub created: Time,
    pub modified: Time,
    pub last_run: Option<Time>,
    /// Counts the definitions, from 1.
    pub version: u64,
}

impl Pipelines {
    pub(super) fn new(region: &str, account: &str) -> Self {
        Self {
            arn: format!("arn:aws:sagemaker:{region}:{account}:pipeline/"),
            by_name: BTreeMap::new(),
        }
    }

    pub(super) fn arn(&self, name: &str, case: PipelineArns) -> String {
        match case {
            PipelineArns::LowerCase => format!("{}{}", self.arn, name.to_ascii_lowercase()),
            PipelineArns::AsNamed => format!("{}{name}", self.arn),
        }
    }

    /// The pipeline of a name or an ARN.
    ///
    /// # Errors
    /// `ResourceNotFound`.
    pub(super) fn get(
        &mut self,
        name_or_arn: &str,
        names: PipelineNames,
    ) -> Result<&mut Pipeline, ApiError> {
        let of_arn = name_or_arn.strip_prefix(&self.arn);
        let name = of_arn.unwrap_or(name_or_arn);
        let key = match self.by_name.get_key_value(name) {
            Some((key, _)) => Some(key.clone()),
            None if of_arn.is_some() || names == PipelineNames::IgnoringCase => self.alike(name),
            None => None,
        };
        let arn = format!("{}{name}", self.arn);
        let pipeline = key.and_then(|key| self.by_name.get_mut(&key));
        pipeline.ok_or_else(|| not_found(format!("Pipeline '{arn}' does not exist.")))
    }

    /// The name of a pipeline that differs from this one at most in case.
    pub(super) fn alike(&self, name: &str) -> Option<String> {
        self.by_name.keys().find(|key| key.eq_ignore_ascii_case(name)).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipelines() -> Pipelines {
        let mut pipelines = Pipelines::new("us-east-1", "123456789012");
        let definition = r#"{"Version": "2020-12-01", "Steps": [{"Name": "s", "Type": "Callback", "SqsQueueUrl": "http://h/123456789012/q"}]}"#;
        let pipeline = Pipeline {
            arn: pipelines.arn("AbalonePipeline", PipelineArns::LowerCase),
            name: "AbalonePipeline".to_owned(),
            display_name: None,
            description: None,
            role: String::new(),
            text: definition.to_owned(),
            definition: Arc::new(Definition::parse(definition).expect("a definition")),
            parallelism: None,
            created: Time::from_millis(0),
            modified: Time::from_millis(0),
            last_run: None,
            version: 1,
        };
        pipelines.by_name.insert(pipeline.name.clone(), pipeline);
        pipelines
    }

    #[test]
    fn a_pipeline_is_found_by_its_arn_and_by_its_name_as_the_switch_says() {
        let mut pipelines = pipelines();
        let arn = pipelines.arn("AbalonePipeline", PipelineArns::LowerCase);
        assert!(arn.ends_with(":pipeline/abalonepipeline"), "{arn}");
        assert!(
            pipelines
                .arn("AbalonePipeline", PipelineArns::AsNamed)
                .ends_with(":pipeline/AbalonePipeline")
        );
        for (asked, names, found) in [
            ("AbalonePipeline", PipelineNames::Exact, true),
            ("abalonepipeline", PipelineNames::Exact, false),
            ("abalonepipeline", PipelineNames::IgnoringCase, true),
            (&*arn, PipelineNames::Exact, true),
            ("other", PipelineNames::IgnoringCase, false),
        ] {
            assert_eq!(pipelines.get(asked, names).is_ok(), found, "{asked} {names:?}");
        }
    }
}
