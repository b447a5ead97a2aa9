//! STS, as far as clients of the other two services need it: the caller's identity, and a role.
//!
//! Every caller is believed. A role's credentials name the role's account, so that its calls see
//! the pipelines of that account and no others.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::HeaderMap;
use serde_json::{Value, json};

use super::call::Call;
use super::clock::Time;
use super::protocol::ApiError;

/// What the id of a role's key begins with; its account follows.
const KEY: &str = "ASIALOCAL";

/// The external ids that roles require, by the role's ARN.
pub type ExternalIds = BTreeMap<String, String>;

/// How long an assumed role's credentials last, as at STS by default.
pub(super) const HOUR: Duration = Duration::from_hours(1);

/// Between a key's account and the second of its end.
const END: char = 'E';

/// The operation that a form requests, if it is available.
pub(super) fn operation(headers: &HeaderMap, body: &[u8]) -> Option<&'static str> {
    if headers.contains_key("x-amz-target") {
        return None;
    }
    let action =
        std::str::from_utf8(body).ok()?.split('&').find_map(|pair| pair.strip_prefix("Action="))?;
    ["GetCallerIdentity", "AssumeRole"].into_iter().find(|known| *known == action)
}

/// The account of the role whose credentials signed the request; `None` for any other caller.
pub(super) fn account_of_role(headers: &HeaderMap) -> Option<&str> {
    let (_, credential) = headers.get("authorization")?.to_str().ok()?.split_once("Credential=")?;
    let key = credential.strip_prefix(KEY)?.split('/').next()?;
    let account = key.split_once(END).map_or(key, |(account, _)| account);
    (account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit())).then_some(account)
}

/// Refuses a request that is signed with the credentials of a role after their end.
pub(super) fn refuse_expired(headers: &HeaderMap, now: Time) -> Result<(), ApiError> {
    let end = || {
        let (_, credential) =
            headers.get("authorization")?.to_str().ok()?.split_once("Credential=")?;
        let (_, end) = credential.strip_prefix(KEY)?.split('/').next()?.split_once(END)?;
        end.parse::<u64>().ok()
    };
    if end().is_none_or(|end| now.millis() / 1_000 < end) {
        return Ok(());
    }
    let message = "The security token included in the request is expired";
    Err(ApiError { status: 403, ..ApiError::new("ExpiredTokenException", message) })
}

/// Answers everyone: there is no authentication. Only a role that requires an external id refuses
/// who does not know it. `role` is the account of the role that calls, if one does; `own` is the
/// endpoint's.
pub(super) fn call(
    operation: &str,
    body: &[u8],
    role: Option<&str>,
    own: &str,
    (external_ids, lifetime): (&ExternalIds, Duration),
    call: &Call<'_>,
) -> Result<Value, ApiError> {
    let form: BTreeMap<String, String> = form(body);
    let given = |name: &str| {
        let lacking = || ApiError::new("ValidationError", format!("{name} is missing"));
        form.get(name).filter(|value| !value.is_empty()).ok_or_else(lacking)
    };
    let caller = match role {
        Some(account) => format!("arn:aws:sts::{account}:assumed-role/local/local"),
        None => format!("arn:aws:iam::{own}:user/local"),
    };
    if operation == "GetCallerIdentity" {
        let account = role.unwrap_or(own);
        return Ok(
            json!({ "GetCallerIdentity": { "Arn": caller, "UserId": "AIDALOCAL", "Account": account } }),
        );
    }
    let (role, session) = (given("RoleArn")?, given("RoleSessionName")?);
    if external_ids.get(role).is_some_and(|wanted| form.get("ExternalId") != Some(wanted)) {
        let message = format!(
            "User: {caller} is not authorized to perform: sts:AssumeRole on resource: {role}"
        );
        return Err(ApiError { status: 403, ..ApiError::new("AccessDenied", message) });
    }
    let account = role.split(':').nth(4).unwrap_or(own);
    let end = call.now.millis() / 1_000 + lifetime.as_secs();
    let key = format!("{KEY}{account}{END}{end}");
    let end = jiff::Timestamp::from_second(i64::try_from(end).unwrap_or_default());
    let end = end.map(|end| end.to_string()).unwrap_or_default();
    Ok(json!({ "AssumeRole": {
        "Credentials": { "AccessKeyId": key, "SecretAccessKey": "local", "SessionToken": "local", "Expiration": end },
        "AssumedRoleUser": { "AssumedRoleId": format!("AROALOCAL:{session}"), "Arn": format!("{role}/{session}") },
    } }))
}

/// The values of a form; of a name that comes twice, the last.
fn form(body: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(body);
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), unescaped(value)))
        .collect()
}

/// A form's value without its escapes; what is not one stays as it is.
fn unescaped(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, behind @ ..] = rest {
        let escaped = match behind {
            [high, low, ..] if *first == b'%' => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|hex| u8::from_str_radix(hex, 16).ok()),
            _ => None,
        };
        bytes.push(escaped.unwrap_or(if *first == b'+' { b' ' } else { *first }));
        rest = if escaped.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8_lossy(&bytes).into_owned()
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
    fn the_values_of_a_form_are_unescaped() {
        let form = form(b"RoleArn=arn%3Aaws&a+b=x+y%2&ExternalId=%C3%A4%2F%zz");
        assert_eq!(form["RoleArn"], "arn:aws");
        assert_eq!(form["a+b"], "x y%2");
        assert_eq!(form["ExternalId"], "ä/%zz");
    }

    #[test]
    fn a_request_is_of_the_account_of_the_role_that_signed_it() {
        let signed = |key: &str| {
            let value = format!("AWS4-HMAC-SHA256 Credential={key}/20260101/us-east-1/sqs/aws4");
            let header = (hyper::header::AUTHORIZATION, value.parse().expect("a header"));
            HeaderMap::from_iter([header])
        };
        let role = signed("ASIALOCAL210987654321");
        assert_eq!(account_of_role(&role), Some("210987654321"));
        for other in ["AKIAIOSFODNN7EXAMPLE", "ASIALOCAL", "ASIALOCAL21098765432x", ""] {
            assert_eq!(account_of_role(&signed(other)), None, "{other}");
        }
        assert_eq!(account_of_role(&HeaderMap::new()), None);
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
