//! What bounds the starts of a handler: a number of runs, a rate, a breaker.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{HandlerConfig, Wrong};
use crate::duration::{Range, parse, text};

/// As many as a queue may run at once.
const MAX_RUNNING: RangeInclusive<usize> = 1..=100_000;
/// The moment of each start within `per` is kept.
const STARTS: RangeInclusive<usize> = 1..=100_000;
const PER: Range = Range::new(Duration::from_secs(1), Duration::from_hours(24));
/// Each failed step is remembered until one succeeds.
const FAILURES: RangeInclusive<usize> = 1..=1000;
const PAUSE: Range = Range::new(Duration::from_secs(1), Duration::from_hours(24));

/// At most so many starts within so much time, written `"10/1m"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "Cow<str>")]
pub struct Rate {
    /// At least 1, unless it is not checked yet.
    pub starts: usize,
    pub per: Duration,
}

/// When a handler is left alone because its steps fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BreakerConfig {
    /// How many steps must fail, and none succeed meanwhile.
    pub failures: usize,
    /// How long no step is started then.
    #[serde(with = "crate::duration")]
    #[schemars(with = "String")]
    pub pause: Duration,
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{written:?} is not a rate; write how many starts and in which time, such as \
                 \"10/1m\" or \"200/1h\""
            )
        };
        let (starts, per) = written.split_once('/').ok_or_else(wrong)?;
        let starts = starts.trim().parse().map_err(|_| wrong())?;
        Ok(Self { starts, per: parse(per.trim()).map_err(|_| wrong())? })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.starts, text(self.per))
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

impl TryFrom<Cow<'_, str>> for Rate {
    type Error = String;

    fn try_from(written: Cow<'_, str>) -> Result<Self, String> {
        written.parse()
    }
}

/// The ranges of the keys that are a number or a text.
pub(super) fn ranges() -> [(&'static str, String); 2] {
    [
        ("max_running", worded(&MAX_RUNNING)),
        ("rate", format!("{} starts in {PER}", worded(&STARTS))),
    ]
}

pub(super) fn judge(handler: &HandlerConfig, wrong: &mut Wrong) {
    if let Some(most) = handler.max_running {
        number("max_running", most, &MAX_RUNNING, wrong);
    }
    if let Some(Rate { starts, per }) = handler.rate {
        number("rate", starts, &STARTS, wrong);
        wrong.unless("rate", PER, per);
    }
    if let Some(BreakerConfig { failures, pause }) = handler.breaker {
        number("breaker.failures", failures, &FAILURES, wrong);
        wrong.unless("breaker.pause", PAUSE, pause);
    }
}

fn number(key: &str, value: usize, allowed: &RangeInclusive<usize>, wrong: &mut Wrong) {
    if !allowed.contains(&value) {
        wrong.add(key, format!("{value} is not allowed; {} are", worded(allowed)));
    }
}

fn worded(allowed: &RangeInclusive<usize>) -> String {
    format!("{} to {}", allowed.start(), allowed.end())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_rate_is_written_as_it_was_read() {
        for (written, starts, seconds) in
            [("10/1m", 10, 60), ("200/1h", 200, 3600), ("1/1m30s", 1, 90)]
        {
            let rate: Rate = written.parse().expect(written);
            assert_eq!(rate, Rate { starts, per: Duration::from_secs(seconds) });
            assert_eq!(rate.to_string(), written);
        }
    }

    #[test]
    fn what_is_not_a_rate_is_refused_with_a_remedy() {
        for written in ["", "10", "10/", "/1m", "ten/1m", "-1/1m", "10/m", "10/60", "10/1m/2"] {
            let error = written.parse::<Rate>().expect_err(written);
            assert!(error.contains("\"10/1m\""), "{error}");
        }
    }

    #[test]
    fn limits_out_of_range_are_named() {
        for (limits, key) in [
            (json!({"max_running": 0}), "max_running"),
            (json!({"rate": "0/1m"}), "rate"),
            (json!({"rate": "1/1ms"}), "rate"),
            (json!({"rate": "1/2d"}), "rate"),
            (json!({"breaker": {"failures": 0, "pause": "5m"}}), "breaker.failures"),
            (json!({"breaker": {"failures": 5, "pause": "0s"}}), "breaker.pause"),
        ] {
            let mut config = limits.clone();
            config["type"] = "exec".into();
            let config: HandlerConfig = serde_json::from_value(config).expect("it has the shape");
            let mistakes = config.mistakes();
            assert!(mistakes.len() == 1 && mistakes[0].0 == key, "{limits}: {mistakes:?}");
        }
        for part in [json!({"failures": 5}), json!({"pause": "5m"}), json!({"failures": 5, "x": 1})]
        {
            assert!(serde_json::from_value::<BreakerConfig>(part.clone()).is_err(), "{part}");
        }
    }
}
