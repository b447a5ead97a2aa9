//! STS, as far as clients of the other two services need it: the caller's identity, and a role.

use hyper::HeaderMap;
use serde_json::{Value, json};

use super::call::Call;
use super::protocol::ApiError;

/// How long an assumed role's credentials last, as at STS by default.
const HOUR: i64 = 3_600;

/// The operation that a form requests, if it is available.
pub(super) fn operation(headers: &HeaderMap, body: &[u8]) -> Option<&'static str> {
    if headers.contains_key("x-amz-target") {
        return None;
    }
    let action =
        std::str::from_utf8(body).ok()?.split('&').find_map(|pair| pair.strip_prefix("Action="))?;
    ["GetCallerIdentity", "AssumeRole"].into_iter().find(|known| *known == action)
}

/// Answers everyone: there is no authentication. A form's values stay as they came, except for the
/// escapes in every ARN.
pub(super) fn call(
    operation: &str,
    body: &[u8],
    account: &str,
    call: &Call<'_>,
) -> Result<Value, ApiError> {
    let body = String::from_utf8_lossy(body).replace("%3A", ":").replace("%2F", "/");
    let given = |name: &str| {
        let mut pairs = body.split('&').filter_map(|pair| pair.split_once('='));
        let lacking = || ApiError::new("ValidationError", format!("{name} is missing"));
        pairs
            .find(|(key, value)| *key == name && !value.is_empty())
            .map(|(_, value)| value.to_owned())
            .ok_or_else(lacking)
    };
    if operation == "GetCallerIdentity" {
        let arn = format!("arn:aws:iam::{account}:user/local");
        return Ok(
            json!({ "GetCallerIdentity": { "Arn": arn, "UserId": "AIDALOCAL", "Account": account } }),
        );
    }
    let (role, session) = (given("RoleArn")?, given("RoleSessionName")?);
    let end = i64::try_from(call.now.millis() / 1_000).unwrap_or_default() + HOUR;
    let end = jiff::Timestamp::from_second(end).map(|end| end.to_string()).unwrap_or_default();
    Ok(json!({ "AssumeRole": {
        "Credentials": { "AccessKeyId": "ASIALOCAL", "SecretAccessKey": "local", "SessionToken": "local", "Expiration": end },
        "AssumedRoleUser": { "AssumedRoleId": format!("AROALOCAL:{session}"), "Arn": format!("{role}/{session}") },
    } }))
}

/// An answer in its XML frame.
pub(super) fn xml(output: &Value, request_id: &str) -> String {
    let Some((operation, result)) = output.as_object().and_then(|output| output.iter().next())
    else {
        return String::new();
    };
    format!(
        "<{operation}Response \
         xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{operation}Result>{}</{operation}Result>\
         <ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{operation}Response>",
        elements(result)
    )
}

pub(super) fn error(error: &ApiError, request_id: &str) -> String {
    let fault = if error.status < 500 { "Sender" } else { "Receiver" };
    format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>{fault}</Type><Code>{}</Code>\
         <Message>{}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>",
        escaped(&error.code),
        escaped(&error.message)
    )
}

fn elements(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let members =
                members.iter().map(|(name, value)| format!("<{name}>{}</{name}>", elements(value)));
            members.collect::<Vec<_>>().concat()
        }
        Value::String(text) => escaped(text),
        other => other.to_string(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_of_sts_is_told_from_others() {
        let none = HeaderMap::new();
        assert_eq!(
            operation(&none, b"Action=GetCallerIdentity&Version=2011-06-15"),
            Some("GetCallerIdentity")
        );
        assert_eq!(operation(&none, b"Version=2011-06-15&Action=AssumeRole"), Some("AssumeRole"));
        for other in [&b"Action=ListQueues"[..], b"{}", b"", b"\xff"] {
            assert_eq!(operation(&none, other), None);
        }
    }

    #[test]
    fn what_is_answered_is_well_formed_whatever_was_asked() {
        let told = error(&ApiError::new("A", "<&>"), "id");
        assert!(told.contains("<Code>A</Code><Message>&lt;&amp;&gt;</Message>"), "{told}");
        let told = xml(&json!({ "GetCallerIdentity": { "Account": "1", "Arn": "a<b" } }), "id");
        assert!(
            told.contains("<GetCallerIdentityResult><Account>1</Account><Arn>a&lt;b</Arn></GetCallerIdentityResult>"),
            "{told}"
        );
    }
}
