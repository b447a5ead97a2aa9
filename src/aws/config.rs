//! The settings of the AWS clients.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[aws]`. Anything not set here comes from the SDK's own chain: `AWS_*` variables, profiles, the
/// container or instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The region of the ledger's table, and of queues whose URL names none.
    pub region: Option<String>,
    /// The profile of the shared configuration files; by default `AWS_PROFILE`, then `default`.
    pub profile: Option<String>,
    /// One endpoint for SQS, SageMaker, STS and DynamoDB, for local emulators. If it is not set,
    /// `AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_SQS`, `AWS_ENDPOINT_URL_SAGEMAKER`,
    /// `AWS_ENDPOINT_URL_STS`, `AWS_ENDPOINT_URL_DYNAMODB` and the profile's endpoints apply.
    pub endpoint_url: Option<String>,
}

impl Config {
    /// What is wrong, as pairs of a key and the reason.
    #[must_use]
    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut mistakes = Vec::new();
        if let Some(url) = &self.endpoint_url {
            let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            if host.is_none_or(|host| {
                host.is_empty() || host.starts_with('/') || host.contains(char::is_whitespace)
            }) {
                mistakes.push(("endpoint_url", "is not http://HOST or https://HOST".to_owned()));
            }
        }
        for (key, value) in [("region", &self.region), ("profile", &self.profile)] {
            if value.as_ref().is_some_and(|value| value.trim().is_empty()) {
                mistakes.push((key, "is empty; leave it out to have the SDK find it".to_owned()));
            }
        }
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_cannot_be_right_is_named() {
        let config = |region: &str, url: &str| Config {
            region: Some(region.to_owned()),
            profile: None,
            endpoint_url: Some(url.to_owned()),
        };
        for url in ["http://127.0.0.1:5000", "https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com"] {
            assert_eq!(config("eu-west-1", url).mistakes(), []);
        }
        for url in ["127.0.0.1:5000", "ftp://host", "https://", "http:///x", "http://a b"] {
            let keys: Vec<_> = config("", url).mistakes().into_iter().map(|(key, _)| key).collect();
            assert_eq!(keys, ["endpoint_url", "region"], "{url}");
        }
    }

    #[test]
    fn a_key_that_is_unknown_is_refused() {
        let error = serde_json::from_str::<Config>(r#"{"regoin":"x"}"#).expect_err("unknown");
        assert!(error.to_string().contains("`regoin`"), "{error}");
    }
}
