//! The meaning of an answer.

use std::num::IntErrorKind;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap, HeaderName, LOCATION, RETRY_AFTER};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::service::{Answer, LARGEST};
use crate::duration;
use crate::handler::StepKey;
use crate::outcome::Outputs;

/// What an answer means for its step.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Meaning {
    Success(Outputs),
    /// Ask again after this long.
    Again(Duration, Kept),
    /// Someone else will answer the step.
    Deferred(Kept),
    /// Try again later, after this long if the service says so.
    Retry(Option<Duration>, String, Kept),
    Failure(String),
}

/// What the service wants to be kept of the step.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Kept {
    /// Given to it with the next request.
    pub(super) checkpoint: Option<Value>,
    /// What it calls the step.
    pub(super) key: Option<StepKey>,
}

/// The body of an answer with 200.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(borrow)]
    outputs: Option<&'a RawValue>,
    again: Option<String>,
    checkpoint: Option<Value>,
    key: Option<StepKey>,
}

/// The shortest wait: no service is asked more often than each second.
const SOONEST: Duration = Duration::from_secs(1);
/// The longest wait before a retry that a service can ask for.
const LATEST: Duration = Duration::from_hours(1);
/// How much of a body is shown.
const SHOWN: usize = 2000;

impl Meaning {
    pub(super) fn of(answer: &Answer) -> Self {
        let wrong = |wrong| Self::Failure(format!("{}: {wrong}", named(answer.status)));
        match answer.status.as_u16() {
            200 | 202 if answer.is_cut => Self::Failure(format!(
                "{}: the answer is larger than {LARGEST} bytes",
                named(answer.status)
            )),
            200 => done(&answer.body).unwrap_or_else(wrong),
            202 => {
                let (checkpoint, key) = kept(&answer.body);
                key.map_or_else(wrong, |key| Self::Deferred(Kept { checkpoint, key }))
            }
            204 => Self::Success(Outputs::new()),
            408 | 409 | 425 | 429 | 500..=599 => {
                let (checkpoint, key) = kept(&answer.body);
                let kept = Kept { checkpoint, key: key.unwrap_or_default() };
                Self::Retry(retry_after(&answer.headers), told(answer), kept)
            }
            400..=499 => Self::Failure(told(answer)),
            300..=399 => Self::Failure(format!(
                "{}: redirects are not followed; set the handler's url to where it leads{}",
                named(answer.status),
                place(&answer.headers)
            )),
            _ => Self::Failure(format!(
                "{}: no answer that callbackd knows; the service must answer with 200, 202, 204, \
                 4xx or 5xx",
                named(answer.status)
            )),
        }
    }
}

/// The status and the service's own words.
pub(super) fn told(answer: &Answer) -> String {
    let status = named(answer.status);
    match reason(&answer.body) {
        Some(reason) => format!("{status}: {reason}"),
        None => status,
    }
}

fn named(status: StatusCode) -> String {
    let words = status.canonical_reason().map(|words| format!(" {words}")).unwrap_or_default();
    format!("HTTP {}{words}", status.as_u16())
}

/// What an answer with 200 says.
fn done(body: &[u8]) -> Result<Meaning, String> {
    let body: Body<'_> = if body.trim_ascii().is_empty() {
        Body::default()
    } else {
        serde_json::from_slice(body).map_err(|error| {
            format!(
                "the answer is not a JSON object with `outputs` or with `again`, and with \
                 `checkpoint` and `key` if there are any: {error}"
            )
        })?
    };
    match (body.outputs, body.again) {
        (Some(_), Some(_)) => Err("the answer has both `outputs` and `again`".to_owned()),
        (None, Some(wait)) => {
            let wait = duration::parse(&wait).map_err(|error| format!("`again`: {error}"))?;
            let kept = Kept { checkpoint: body.checkpoint, key: body.key };
            Ok(Meaning::Again(wait.max(SOONEST), kept))
        }
        (Some(outputs), None) => Outputs::from_json(outputs.get())
            .map(Meaning::Success)
            .map_err(|error| error.to_string()),
        (None, None) => Ok(Meaning::Success(Outputs::new())),
    }
}

/// The checkpoint and the key to keep, of an answer that may have any body.
fn kept(body: &[u8]) -> (Option<Value>, Result<Option<StepKey>, String>) {
    let mut body: Value = serde_json::from_slice(body).unwrap_or_default();
    let mut taken = |name| body.get_mut(name).map(Value::take).filter(|value| !value.is_null());
    let checkpoint = taken("checkpoint");
    let key = taken("key").map(serde_json::from_value).transpose();
    (checkpoint, key.map_err(|error| format!("`key`: {error}")))
}

/// `reason` of a JSON object, else the text itself, in one line.
fn reason(body: &[u8]) -> Option<String> {
    let json = serde_json::from_slice::<Value>(body).ok();
    let reason = json.as_ref().and_then(|body| body.get("reason")?.as_str());
    let text = reason.map_or_else(|| String::from_utf8_lossy(body), Into::into);
    let text = one_line(&text);
    if text.starts_with('<') {
        return Some("a page of HTML or XML".to_owned());
    }
    (!text.is_empty()).then_some(text)
}

/// Without line feeds, control characters and repeated spaces.
fn one_line(text: &str) -> String {
    let is_space = |c: char| c.is_whitespace() || c.is_control();
    let words = text.split(is_space).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ").chars().take(SHOWN).collect()
}

/// Where a redirect leads; a query may hold a key.
fn place(headers: &HeaderMap) -> String {
    let place = headers.get(LOCATION).and_then(|place| place.to_str().ok());
    let place = place.map(|place| one_line(place.split(['?', '#']).next().unwrap_or_default()));
    place.filter(|place| !place.contains('@')).map(|place| format!(", {place}")).unwrap_or_default()
}

/// In seconds or as a date, by the service's own clock if it tells it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let date = |text: &str| rfc2822::parse(text).ok().map(|date| date.timestamp());
    let asked = text(RETRY_AFTER)?.trim();
    let wait = match asked.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(error) if *error.kind() == IntErrorKind::PosOverflow => LATEST,
        Err(_) => {
            let now = text(DATE).and_then(date).unwrap_or_else(Timestamp::now);
            date(asked)?.duration_since(now).try_into().unwrap_or(Duration::ZERO)
        }
    };
    Some(wait.clamp(SOONEST, LATEST))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;
    use serde_json::json;

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        let status = StatusCode::from_u16(status).expect("a status");
        Answer { status, headers: HeaderMap::new(), body: body.into(), is_cut: false }
    }

    fn failure(status: u16, body: &str) -> String {
        match Meaning::of(&answer(status, body)) {
            Meaning::Failure(reason) => reason,
            other => panic!("{status} {body}: {other:?}"),
        }
    }

    #[test]
    fn each_status_means_what_the_manual_says() {
        for status in 200..=599 {
            let meaning = Meaning::of(&answer(status, ""));
            let fits = match status {
                200 | 204 => meaning == Meaning::Success(Outputs::new()),
                202 => meaning == Meaning::Deferred(Kept::default()),
                408 | 409 | 425 | 429 | 500.. => {
                    matches!(&meaning, Meaning::Retry(None, _, kept) if *kept == Kept::default())
                }
                _ => matches!(meaning, Meaning::Failure(_)),
            };
            assert!(fits, "{status}: {meaning:?}");
        }
    }

    #[test]
    fn outputs_keep_their_digits_and_bad_ones_fail_the_step_by_name() {
        let body = r#"{"outputs": {"n": 12345678901234567890123, "ok": true, "s": "x"}}"#;
        let Meaning::Success(outputs) = Meaning::of(&answer(200, body)) else {
            panic!("no success")
        };
        assert_eq!(outputs.get("n"), Some("12345678901234567890123"));
        assert_eq!((outputs.get("ok"), outputs.get("s")), (Some("true"), Some("x")));
        let reason = failure(200, r#"{"outputs": {"model": [1]}}"#);
        assert!(reason.contains("`model`"), "{reason}");
    }

    #[test]
    fn an_answer_with_200_that_is_not_understood_fails_the_step_and_says_why() {
        for (body, wants) in [
            ("<html>", "not a JSON object"),
            ("[]", "not a JSON object"),
            (r#"{"output": {}}"#, "`output`"),
            (r#"{"failure": "no"}"#, "`failure`"),
            (r#"{"outputs": {}, "outputs": {}}"#, "duplicate field"),
            (r#"{"outputs": {}, "again": "1m"}"#, "both"),
            (r#"{"again": "soon"}"#, "\"soon\" is not a duration"),
            (r#"{"again": 60}"#, "integer `60`"),
            (r#"{"outputs": 7}"#, "not a JSON object"),
        ] {
            let reason = failure(200, body);
            assert!(reason.starts_with("HTTP 200 OK: ") && reason.contains(wants), "{reason}");
        }
        let cut = Answer { is_cut: true, ..answer(200, "{}") };
        let Meaning::Failure(reason) = Meaning::of(&cut) else { panic!("no failure") };
        assert!(reason.contains("larger than 1048576 bytes"), "{reason}");
    }

    #[test]
    fn again_waits_as_asked_and_at_least_a_second() {
        for (asked, wants) in [("60s", 60), ("0s", 1), ("1h30m", 5400)] {
            let body = json!({ "again": asked, "checkpoint": { "job": 7 } }).to_string();
            let kept = Kept { checkpoint: Some(json!({ "job": 7 })), key: None };
            let wants = Meaning::Again(Duration::from_secs(wants), kept);
            assert_eq!(Meaning::of(&answer(200, &body)), wants);
        }
    }

    #[test]
    fn checkpoints_come_with_whatever_lets_the_step_go_on() {
        let body = r#"{"checkpoint": "job-7", "more": 1}"#;
        let wants = Kept { checkpoint: Some("job-7".into()), key: None };
        assert_eq!(Meaning::of(&answer(202, body)), Meaning::Deferred(wants.clone()));
        let Meaning::Retry(_, _, kept) = Meaning::of(&answer(503, body)) else {
            panic!("no retry")
        };
        assert_eq!(kept, wants);
        let of = |body| Meaning::of(&answer(202, body));
        for body in [r#"{"checkpoint": null, "key": null}"#, "accepted", "", "[]"] {
            assert_eq!(of(body), Meaning::Deferred(Kept::default()), "{body}");
        }
    }

    #[test]
    fn a_key_comes_with_a_deferral_and_one_that_cannot_be_kept_fails_the_step() {
        let kept = Kept { checkpoint: None, key: Some("ORDER-17".parse().expect("a key")) };
        let body = r#"{"key": "ORDER-17"}"#;
        assert_eq!(Meaning::of(&answer(202, body)), Meaning::Deferred(kept.clone()));
        let body = r#"{"again": "60s", "key": "ORDER-17"}"#;
        let again = Meaning::Again(Duration::from_secs(60), kept);
        assert_eq!(Meaning::of(&answer(200, body)), again);
        for body in [r#"{"key": ""}"#, r#"{"key": 17}"#, r#"{"key": "a\nb"}"#] {
            let reason = failure(202, body);
            assert!(reason.starts_with("HTTP 202 Accepted: `key`: "), "{reason}");
            assert!(matches!(Meaning::of(&answer(503, body)), Meaning::Retry(..)), "{body}");
        }
    }

    #[test]
    fn a_failure_tells_the_status_and_the_services_reason_in_one_line() {
        for (body, wants) in [
            (r#"{"reason": "no such\n  dataset\u001b[2J"}"#, "no such dataset [2J"),
            ("no such dataset\r\n", "no such dataset"),
            (r#"{"detail": "x"}"#, r#"{"detail": "x"}"#),
            ("<html><h1>Not found</h1>", "a page of HTML or XML"),
        ] {
            assert_eq!(failure(422, body), format!("HTTP 422 Unprocessable Entity: {wants}"));
        }
        assert_eq!(failure(404, " \n"), "HTTP 404 Not Found");
    }

    #[test]
    fn a_redirect_says_where_it_leads_without_its_secrets() {
        let led = |to: &'static str| {
            let headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static(to))]);
            match Meaning::of(&Answer { headers, ..answer(307, "") }) {
                Meaning::Failure(reason) => reason,
                other => panic!("{other:?}"),
            }
        };
        let reason = led("https://new.example/run?key=hunter2");
        assert!(reason.ends_with(", https://new.example/run"), "{reason}");
        assert!(!led("https://u:hunter2@new.example/").contains("hunter2"));
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_bounded() {
        let of = |asked: &'static str, date: Option<&'static str>| {
            let mut headers =
                HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(asked))]);
            headers.extend(date.map(|date| (DATE, HeaderValue::from_static(date))));
            retry_after(&headers).map(|wait| wait.as_secs())
        };
        let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(of("120", None), Some(120));
        assert_eq!(of("0", None), Some(1));
        assert_eq!(of("99999999999999999999999", None), Some(3600));
        assert_eq!(of("Sun, 06 Nov 1994 08:50:37 GMT", date), Some(60));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT", None), Some(1), "long ago");
        assert_eq!(of("Wed, 06 Nov 2999 08:49:37 GMT", date), Some(3600));
        assert_eq!(of("-5", None), None);
        assert_eq!((of("soon", None), of("", None)), (None, None));
    }

    proptest! {
        #[test]
        fn no_answer_is_too_strange(status in 100..1000u16, body: Vec<u8>, asked in "\\PC{0,40}") {
            let status = StatusCode::from_u16(status).expect("three digits");
            let asked = HeaderValue::from_str(&asked).ok();
            let headers = asked.map(|asked| (RETRY_AFTER, asked)).into_iter().collect();
            Meaning::of(&Answer { status, headers, body, is_cut: false });
        }
    }
}
