//! The ARN of a pipeline execution.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::quoted::Quoted;

/// The ARN of one pipeline execution,
/// `arn:PARTITION:sagemaker:REGION:ACCOUNT:pipeline/NAME/execution/ID`, at most 2,048 characters
/// (SageMaker's service model).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExecutionArn {
    /// Shared by everything that refers to one execution.
    text: Arc<str>,
    region: Span,
    account: Span,
    pipeline: Span,
}

/// Start and end in the text.
type Span = (u16, u16);

impl ExecutionArn {
    /// The ARN as it was read.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The text, for sharing.
    pub(crate) fn text(&self) -> &Arc<str> {
        &self.text
    }

    /// The region that the execution runs in.
    #[must_use]
    pub fn region(&self) -> &str {
        self.part(self.region)
    }

    /// The twelve digits of the account that owns the execution.
    #[must_use]
    pub fn account(&self) -> &str {
        self.part(self.account)
    }

    /// The pipeline's name.
    #[must_use]
    pub fn pipeline(&self) -> &str {
        self.part(self.pipeline)
    }
}

impl ExecutionArn {
    fn part(&self, (from, to): Span) -> &str {
        &self.text[usize::from(from)..usize::from(to)]
    }
}

impl fmt::Display for ExecutionArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A text that is not the ARN of a pipeline execution.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the ARN of a pipeline execution: {0}")]
pub struct InvalidArn(pub(super) Quoted);

impl std::str::FromStr for ExecutionArn {
    type Err = InvalidArn;

    fn from_str(text: &str) -> Result<Self, InvalidArn> {
        Self::read(text).ok_or_else(|| InvalidArn(Quoted::new(text)))
    }
}

impl ExecutionArn {
    const MAX: usize = 2048;

    fn read(text: &str) -> Option<Self> {
        let plain = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        let mut parts = text.splitn(6, ':');
        let (arn, partition, service) = (parts.next()?, parts.next()?, parts.next()?);
        let (region, account, resource) = (parts.next()?, parts.next()?, parts.next()?);
        let (pipeline, execution) =
            resource.strip_prefix("pipeline/")?.split_once("/execution/")?;
        let fits = text.len() <= Self::MAX
            && arn == "arn"
            && (partition == "aws" || partition.strip_prefix("aws-").is_some_and(plain))
            && service == "sagemaker"
            && plain(region)
            && is_account(account)
            && plain(pipeline)
            && plain(execution);
        let span = |part: &str| {
            let from = part.as_ptr() as usize - text.as_ptr() as usize;
            Some((u16::try_from(from).ok()?, u16::try_from(from + part.len()).ok()?))
        };
        if !fits {
            return None;
        }
        Some(Self {
            text: text.into(),
            region: span(region)?,
            account: span(account)?,
            pipeline: span(pipeline)?,
        })
    }
}

/// Whether it is an AWS account id: twelve digits.
pub(crate) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

impl Serialize for ExecutionArn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for ExecutionArn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_arn_with_one_part_wrong_is_refused() {
        let good = "arn:aws:sagemaker:us-east-2:012345678901:pipeline/p/execution/x";
        assert!(good.parse::<ExecutionArn>().is_ok());
        for (part, wrong) in [
            ("arn:", "urn:"),
            (":aws:", ":aws-:"),
            (":aws:", ":azure:"),
            (":sagemaker:", ":sqs:"),
            (":us-east-2:", "::"),
            (":012345678901:", ":01234567890:"),
            (":012345678901:", ":01234567890x:"),
            ("pipeline/p/", "pipeline/p q/"),
            ("pipeline/p/", "pipeline//"),
            ("/execution/x", "/execution/"),
            ("/execution/x", "/execution/x/y"),
        ] {
            let arn = good.replacen(part, wrong, 1);
            assert!(arn.parse::<ExecutionArn>().is_err(), "{arn}");
        }
        let of_length = |length: usize| format!("{good}{}", "x".repeat(length - good.len()));
        assert!(of_length(2048).parse::<ExecutionArn>().is_ok());
        assert!(of_length(2049).parse::<ExecutionArn>().is_err());
    }

    #[test]
    fn arns_of_every_partition_are_read() {
        for partition in ["aws", "aws-cn", "aws-us-gov"] {
            let arn = format!(
                "arn:{partition}:sagemaker:cn-north-1:012345678901:pipeline/p-1/execution/abc"
            );
            assert_eq!(arn.parse::<ExecutionArn>().map(|arn| arn.to_string()), Ok(arn));
        }
    }

    proptest! {
        #[test]
        fn no_text_whatever_makes_the_parser_panic(text in "\\PC{0,200}") {
            let _ = text.parse::<ExecutionArn>();
        }

        #[test]
        fn an_arn_that_is_read_is_the_text_it_was_read_from(pipeline in "[a-zA-Z0-9-]{1,40}", id in "[a-z0-9]{1,12}") {
            let text = format!("arn:aws:sagemaker:eu-west-1:123456789012:pipeline/{pipeline}/execution/{id}");
            let arn: ExecutionArn = text.parse().expect("valid");
            prop_assert_eq!(arn.pipeline(), pipeline);
            prop_assert_eq!(arn.as_str(), text);
        }
    }
}
