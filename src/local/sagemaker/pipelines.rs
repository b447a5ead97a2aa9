//! The pipelines of an endpoint, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::definition::Definition;
use super::shape::not_found;
use crate::local::clock::Time;
use crate::local::protocol::ApiError;

/// More pipelines than any drill has; a script gone wild stops here.
pub const MAX_PIPELINES: usize = 10_000;

/// The pipelines.
#[derive(Debug)]
pub struct Pipelines {
    /// Where pipeline ARNs begin.
    arn: String,
    pub by_name: BTreeMap<String, Pipeline>,
}

#[derive(Debug)]
pub struct Pipeline {
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
    pub fn new(region: &str, account: &str) -> Self {
        Self { arn: format!("arn:aws:sagemaker:{region}:{account}:pipeline/"), by_name: BTreeMap::new() }
    }

    pub fn arn(&self, name: &str) -> String {
        format!("{}{name}", self.arn)
    }

    /// The pipeline of a name or an ARN.
    ///
    /// # Errors
    /// `ResourceNotFound`.
    pub fn get(&mut self, name_or_arn: &str) -> Result<&mut Pipeline, ApiError> {
        let name = name_or_arn.strip_prefix(&self.arn).unwrap_or(name_or_arn);
        let arn = self.arn(name);
        self.by_name.get_mut(name).ok_or_else(|| not_found(format!("Pipeline '{arn}' does not exist.")))
    }
}
