//! The options of an endpoint.

use std::time::Duration;

use super::faults::{self, Rule};
use super::sts::{ExternalIds, HOUR};
use super::undocumented::Undocumented;

/// How an endpoint is set up. The default is account 123456789012 in us-east-1, on loopback,
/// without faults.
#[derive(Clone, Debug)]
pub struct Options {
    /// The region in its ARNs.
    pub region: String,
    /// The account in its ARNs and queue URLs: twelve digits.
    pub account: String,
    /// The scheme, host and port that queue URLs begin with; by default the address listened on.
    /// For an endpoint in a container, which clients reach under another name.
    pub public_url: Option<String>,
    /// Allows an address that is not loopback. There is no authentication: everyone who reaches the
    /// port can do everything.
    pub allow_remote: bool,
    /// Seeds every random choice (tokens, ids, faults), so that a run can be repeated; random by
    /// default.
    pub seed: Option<u64>,
    /// How many ended executions can be inspected: the oldest are forgotten, and then not found.
    /// 10,000 by default, tens of megabytes. A step whose execution is forgotten is not known to
    /// be closed, so a fleet with more of them needs more.
    pub ended_executions: usize,
    pub undocumented: Undocumented,
    /// The external ids that `AssumeRole` requires, by the role's ARN; other roles require none.
    pub external_ids: ExternalIds,
    /// How long the credentials last that `AssumeRole` returns, in whole seconds; requests that are
    /// signed with them later are refused. An hour by default, as at STS.
    pub role_lifetime: Duration,
    /// Faults from the start; the control API can replace them.
    pub faults: Vec<Rule>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            region: "us-east-1".to_owned(),
            account: "123456789012".to_owned(),
            public_url: None,
            allow_remote: false,
            seed: None,
            ended_executions: 10_000,
            undocumented: Undocumented::default(),
            external_ids: ExternalIds::new(),
            role_lifetime: HOUR,
            faults: Vec::new(),
        }
    }
}

impl Options {
    /// # Errors
    /// A sentence about the first invalid option.
    pub fn check(&self) -> Result<(), String> {
        if self.account.len() != 12 || !self.account.bytes().all(|b| b.is_ascii_digit()) {
            return Err(format!("an account is twelve digits: {:?}", self.account));
        }
        let regional = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if self.region.is_empty() || !self.region.bytes().all(regional) {
            return Err(format!(
                "a region is lower-case letters, digits and hyphens: {:?}",
                self.region
            ));
        }
        self.undocumented.clone().checked()?;
        faults::check(&self.faults)
    }
}
