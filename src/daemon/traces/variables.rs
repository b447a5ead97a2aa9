//! What OpenTelemetry's variables say about the export of traces.
//!
//! The SDK reads most of them itself, but passes over what it cannot read. A worker that exports
//! nothing, everything or to nowhere would then look well configured.

use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

/// Where traces are exported to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// The collector, as the variable has it.
    pub(super) url: Url,
    /// For one request.
    pub(super) timeout: Duration,
    /// As many spans may wait.
    pub(super) queue: usize,
    /// As many are sent at a time.
    pub(super) batch: usize,
    /// Between two batches.
    pub(super) delay: Duration,
}

/// OpenTelemetry's defaults.
const TIMEOUT_MILLIS: u64 = 10_000;
const QUEUE: u64 = 2_048;
const BATCH: u64 = 512;
const DELAY_MILLIS: u64 = 5_000;
/// The SDK makes room for all that may wait at its start.
const LONGEST_QUEUE: u64 = 65_536;

const SAMPLERS: [&str; 6] = [
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

/// The settings, with the collector of the variable `named`.
///
/// # Errors
/// All mistakes, each with its variable. None shows a value, which may be a secret.
pub(super) fn settings(
    named: &'static str,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Settings, Vec<String>> {
    let mut mistakes = Vec::new();
    let url = variable(named).and_then(|text| url(&text));
    if url.is_none() {
        mistakes.push(format!(
            "{named} is not the URL of a collector, such as http://127.0.0.1:4318, without user \
             and password"
        ));
    }
    // The names of the trace's own form and of the general one.
    let pair = |name: &str| {
        let own = name.replace("_OTLP_", "_OTLP_TRACES_");
        variable(&own)
            .map(|value| (own, value))
            .or_else(|| Some((name.to_owned(), variable(name)?)))
    };
    let mut number = |found: Option<(String, String)>, default: u64| {
        let Some((name, text)) = found else { return default };
        text.trim().parse().ok().filter(|number| *number > 0).unwrap_or_else(|| {
            mistakes.push(format!("{name} is not a whole number above 0"));
            default
        })
    };
    let timeout = number(pair("OTEL_EXPORTER_OTLP_TIMEOUT"), TIMEOUT_MILLIS);
    let mut of_batch =
        |name: &str, default| number(variable(name).map(|value| (name.to_owned(), value)), default);
    let queue = of_batch("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE);
    let batch = of_batch("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH);
    let delay = of_batch("OTEL_BSP_SCHEDULE_DELAY", DELAY_MILLIS);
    if queue > LONGEST_QUEUE {
        mistakes.push(format!("OTEL_BSP_MAX_QUEUE_SIZE is above {LONGEST_QUEUE}"));
    }
    if let Some((name, text)) = pair("OTEL_EXPORTER_OTLP_HEADERS")
        && !text.split(',').map(str::trim).all(is_header)
    {
        mistakes.push(format!("{name} is not NAME=VALUE, with commas between several"));
    }
    let mut one_of = |found: Option<(String, String)>, allowed: &[&str]| {
        if let Some((name, text)) = found
            && !allowed.contains(&text.as_str())
        {
            mistakes.push(format!("{name} is not {}", allowed.join(" or ")));
        }
    };
    one_of(pair("OTEL_EXPORTER_OTLP_PROTOCOL"), &["http/protobuf"]);
    for (name, allowed) in
        [("OTEL_TRACES_EXPORTER", &["otlp"][..]), ("OTEL_TRACES_SAMPLER", &SAMPLERS)]
    {
        one_of(variable(name).map(|value| (name.to_owned(), value)), allowed);
    }
    // The SDK sends what is not compressed, which every collector takes.
    one_of(pair("OTEL_EXPORTER_OTLP_COMPRESSION"), &["none", "gzip"]);
    let argument = variable("OTEL_TRACES_SAMPLER_ARG");
    if variable("OTEL_TRACES_SAMPLER").is_some_and(|sampler| sampler.ends_with("traceidratio"))
        && argument.is_some_and(|text| !text.parse().is_ok_and(|it: f64| (0.0..=1.0).contains(&it)))
    {
        mistakes.push("OTEL_TRACES_SAMPLER_ARG is not a number from 0 to 1".to_owned());
    }
    match url {
        Some(url) if mistakes.is_empty() => Ok(Settings {
            url,
            timeout: Duration::from_millis(timeout),
            queue: usize::try_from(queue).unwrap_or(usize::MAX),
            batch: usize::try_from(batch.min(queue)).unwrap_or(usize::MAX),
            delay: Duration::from_millis(delay),
        }),
        _ => Err(mistakes),
    }
}

fn url(text: &str) -> Option<Url> {
    let is_usable = |url: &Url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
    };
    // What is more lenient than the client is not what the client would use.
    text.parse().ok().filter(is_usable).filter(|_| text.bytes().all(|byte| byte.is_ascii_graphic()))
}

/// Whether it is one header, or the nothing behind a last comma.
fn is_header(text: &str) -> bool {
    let Some((name, value)) = text.split_once('=') else { return text.is_empty() };
    name.trim().parse::<HeaderName>().is_ok()
        && !value.trim().is_empty()
        && HeaderValue::from_str(value.trim()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

    fn of(set: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
        settings(ENDPOINT, |name| {
            let mut all = set.iter().chain(&[(ENDPOINT, "http://127.0.0.1:4318")]);
            all.find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_settings_are_those_of_opentelemetry() {
        let usual = of(&[]).expect("an endpoint is enough");
        assert_eq!((usual.timeout, usual.queue), (Duration::from_secs(10), 2_048));
        let set = of(&[
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2000"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "7"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20AAA==, x-tenant=me,"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_TRACES_EXPORTER", "otlp"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ]);
        let set = set.expect("all are fine");
        assert_eq!((set.timeout, set.queue), (Duration::from_secs(2), 7));
    }

    #[test]
    fn each_mistake_names_its_variable_and_shows_no_value() {
        for (name, value) in [
            (ENDPOINT, "collector:4318"),
            (ENDPOINT, "/v1/traces"),
            (ENDPOINT, "127.0.0.1"),
            (ENDPOINT, "ftp://collector"),
            (ENDPOINT, "http://collector:4318/a b"),
            (ENDPOINT, "https://me:s3cret@collector"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "-1"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "65537"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"),
            ("OTEL_BSP_SCHEDULE_DELAY", "0"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=me,authorization s3cret"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=s3cret\nx"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x tenant=s3cret"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
            ("OTEL_TRACES_SAMPLER", "xray"),
        ] {
            let [mistake] = &of(&[(name, value)]).expect_err(value)[..] else { panic!("{value}") };
            assert!(mistake.starts_with(name) && !mistake.contains("s3cret"), "{mistake}");
        }
        for ratio in ["1.5", "half", "NaN"] {
            let set = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", ratio)];
            assert_eq!(
                of(&set),
                Err(vec!["OTEL_TRACES_SAMPLER_ARG is not a number from 0 to 1".to_owned()])
            );
        }
        let both = [("OTEL_TRACES_SAMPLER", "xray"), ("OTEL_BSP_SCHEDULE_DELAY", "soon")];
        assert_eq!(of(&both).map_err(|mistakes| mistakes.len()), Err(2), "all at once");
    }
}
