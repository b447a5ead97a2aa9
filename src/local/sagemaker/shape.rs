//! The service model's constraints, and SageMaker's message about violations.

use std::fmt::Display;

use serde_json::Value;

use crate::local::protocol::ApiError;

/// A pattern of the service model: its text, and its meaning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pattern {
    pub text: &'static str,
    pub fits: fn(&str) -> bool,
}

pub(super) const PIPELINE_NAME: Pattern =
    Pattern { text: "[a-zA-Z0-9](-*[a-zA-Z0-9]){0,255}", fits: |text| is_name(text, 256) };
pub(super) const PIPELINE_NAME_OR_ARN: Pattern = Pattern {
    text: r"(arn:aws[a-z\-]*:sagemaker:[a-z0-9\-]*:([0-9]{12}|aws):pipeline/.*)?([a-zA-Z0-9](-*[a-zA-Z0-9]){0,255})",
    fits: |text| {
        is_name(text.rsplit('/').next().unwrap_or(text), 256)
            && (!text.contains('/') || is_pipeline_arn(text))
    },
};
pub(super) const EXECUTION_NAME: Pattern =
    Pattern { text: "[a-zA-Z0-9](-*[a-zA-Z0-9]){0,81}", fits: |text| is_name(text, 82) };
pub(super) const PARAMETER_NAME: Pattern = Pattern {
    text: r"[A-Za-z0-9\-_]*",
    fits: |text| text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'),
};
pub(super) const EXECUTION_ARN: Pattern = Pattern {
    text: r"arn:aws[a-z\-]*:sagemaker:[a-z0-9\-]*:[0-9]{12}:pipeline\/.*\/execution\/.*",
    fits: |text| {
        is_pipeline_arn(text)
            && text.split_once('/').is_some_and(|(_, rest)| rest.contains("/execution/"))
    },
};
pub(super) const ROLE_ARN: Pattern =
    Pattern { text: r"arn:aws[a-z\-]*:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+", fits: is_role };
pub(super) const CALLBACK_TOKEN: Pattern =
    Pattern { text: "[a-zA-Z0-9]+", fits: |text| text.chars().all(|c| c.is_ascii_alphanumeric()) };

/// Collects all violations of an input, so that they are reported together.
#[derive(Debug, Default)]
pub(super) struct Constraints {
    broken: Vec<String>,
}

impl Constraints {
    /// A required member.
    pub(super) fn required<T>(&mut self, member: &str, value: Option<&T>) -> &mut Self {
        if value.is_none() {
            self.broken.push(format!(
                "Value null at '{member}' failed to satisfy constraint: Member must not be null"
            ));
        }
        self
    }

    /// An optional text: its length in characters, and its pattern.
    pub(super) fn text(
        &mut self,
        member: &str,
        value: Option<&String>,
        (least, most): (usize, usize),
        pattern: Option<Pattern>,
    ) -> &mut Self {
        let Some(text) = value else { return self };
        let length = text.chars().count();
        if length < least {
            self.breaks(
                member,
                text,
                format_args!("Member must have length greater than or equal to {least}"),
            );
        }
        if length > most {
            self.breaks(
                member,
                text,
                format_args!("Member must have length less than or equal to {most}"),
            );
        }
        if let Some(pattern) = pattern.filter(|pattern| !(pattern.fits)(text)) {
            self.breaks(
                member,
                text,
                format_args!("Member must satisfy regular expression pattern: {}", pattern.text),
            );
        }
        self
    }

    /// An optional number.
    pub(super) fn number(
        &mut self,
        member: &str,
        value: Option<i64>,
        least: i64,
        most: Option<i64>,
    ) -> &mut Self {
        let Some(number) = value else { return self };
        if number < least {
            self.breaks(
                member,
                number,
                format_args!("Member must have value greater than or equal to {least}"),
            );
        }
        if let Some(most) = most.filter(|most| number > *most) {
            self.breaks(
                member,
                number,
                format_args!("Member must have value less than or equal to {most}"),
            );
        }
        self
    }

    /// An optional text out of a few.
    pub(super) fn one_of(
        &mut self,
        member: &str,
        value: Option<&String>,
        allowed: &[&str],
    ) -> &mut Self {
        if let Some(text) = value.filter(|text| !allowed.contains(&text.as_str())) {
            let allowed = allowed.join(", ");
            self.breaks(
                member,
                text,
                format_args!("Member must satisfy enum value set: [{allowed}]"),
            );
        }
        self
    }

    /// The number of items of a list.
    pub(super) fn items(&mut self, member: &str, items: usize, most: usize) -> &mut Self {
        if items > most {
            let list = format!("[{items} items]");
            self.breaks(
                member,
                list,
                format_args!("Member must have length less than or equal to {most}"),
            );
        }
        self
    }

    /// # Errors
    /// `ValidationException` naming every violated constraint.
    pub(super) fn check(&self) -> Result<(), ApiError> {
        let count = self.broken.len();
        if count == 0 {
            return Ok(());
        }
        let errors = if count == 1 { "error" } else { "errors" };
        Err(invalid(format!("{count} validation {errors} detected: {}", self.broken.join("; "))))
    }

    fn breaks(&mut self, member: &str, value: impl Display, constraint: impl Display) {
        self.broken.push(format!(
            "Value '{value}' at '{member}' failed to satisfy constraint: {constraint}"
        ));
    }
}

/// A `ValidationException`.
pub(super) fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new("ValidationException", message)
}

/// A `ResourceNotFound`.
pub(super) fn not_found(message: impl Into<String>) -> ApiError {
    ApiError::new("ResourceNotFound", message)
}

/// A `ConflictException`.
pub(super) fn conflict(message: impl Into<String>) -> ApiError {
    ApiError::new("ConflictException", message)
}

/// Refuses members that SageMaker knows and the local endpoint does not act on, instead of ignoring
/// them.
///
/// # Errors
/// `ValidationException` naming the first of them.
pub(super) fn unserved(body: &Value, members: &[&str]) -> Result<(), ApiError> {
    match members.iter().find(|member| body.get(**member).is_some_and(|value| !value.is_null())) {
        Some(member) => Err(invalid(format!("the local endpoint does not serve {member}"))),
        None => Ok(()),
    }
}

/// Letters and digits, at most this many, with hyphens between them, which are not counted.
fn is_name(text: &str, most: usize) -> bool {
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    outer(text.chars().next())
        && outer(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && text.chars().filter(char::is_ascii_alphanumeric).count() <= most
}

fn is_pipeline_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let [arn, partition, service, region, account, resource] = parts[..] else { return false };
    let lower = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    arn == "arn"
        && partition.strip_prefix("aws").is_some_and(lower)
        && service == "sagemaker"
        && region.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && is_account(account)
        && resource.starts_with("pipeline/")
}

fn is_role(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let ["arn", partition, "iam", "", account, role] = parts[..] else { return false };
    partition
        .strip_prefix("aws")
        .is_some_and(|rest| rest.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
        && is_account(account)
        && role.strip_prefix("role").is_some_and(|name| {
            !name.is_empty()
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "+=,.@-_/".contains(c))
        })
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.chars().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_met_is_told_in_the_words_of_the_service() {
        let mut constraints = Constraints::default();
        constraints.text(
            "callbackToken",
            Some(&"short".to_owned()),
            (10, 10),
            Some(CALLBACK_TOKEN),
        );
        assert_eq!(
            constraints.check().expect_err("too short").message,
            "1 validation error detected: Value 'short' at 'callbackToken' failed to satisfy \
             constraint: Member must have length greater than or equal to 10"
        );
    }

    #[test]
    fn everything_that_is_not_met_is_told_at_once() {
        let mut constraints = Constraints::default();
        constraints
            .required::<String>("roleArn", None)
            .text("callbackToken", Some(&"waytoolong--".to_owned()), (10, 10), Some(CALLBACK_TOKEN))
            .number("maxResults", Some(101), 1, Some(100));
        let message = constraints.check().expect_err("four").message;
        assert!(
            message.starts_with("4 validation errors detected: Value null at 'roleArn'"),
            "{message}"
        );
    }

    #[test]
    fn lengths_are_counted_in_characters() {
        let reason = "ü".repeat(256);
        assert!(
            Constraints::default()
                .text("failureReason", Some(&reason), (0, 256), None)
                .check()
                .is_ok()
        );
    }

    #[test]
    fn names_and_arns_are_those_of_the_service_model() {
        let execution =
            "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/abcdefghijkl";
        for (pattern, good, wrong) in [
            (PIPELINE_NAME, "a-b--c", "-a"),
            (PIPELINE_NAME, "A1", "a_b"),
            (PIPELINE_NAME_OR_ARN, "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p", "x/p"),
            (PIPELINE_NAME_OR_ARN, "p", ""),
            (EXECUTION_ARN, execution, "arn:aws:sagemaker:us-east-1:12345:pipeline/p/execution/x"),
            (EXECUTION_ARN, execution, "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p"),
            (
                ROLE_ARN,
                "arn:aws:iam::123456789012:role/pipelines",
                "arn:aws:iam::123456789012:user/x",
            ),
            (ROLE_ARN, "arn:aws-cn:iam::123456789012:role/a/b", "role"),
            (CALLBACK_TOKEN, "SYZ8ExZ3Sd", "SYZ8-xZ3Sd"),
        ] {
            assert!((pattern.fits)(good), "{good} should fit {}", pattern.text);
            assert!(!(pattern.fits)(wrong), "{wrong} should not fit {}", pattern.text);
        }
    }
}
