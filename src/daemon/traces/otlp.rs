//! Spans as OpenTelemetry has them, exported by OTLP over HTTP.
//!
//! A step may outlive many processes, and its span begins before the one that sees its end. So
//! spans are not opened and closed: each is made when it has ended, with ids that are computed, and
//! goes to the SDK's batches, whose thread and queue are the SDK's.

use std::time::Duration;

use opentelemetry::trace::{
    SpanContext, SpanKind, Status, TraceContextExt, TraceFlags, TraceState,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue, SpanId, TraceId};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::{
    BatchConfig, BatchSpanProcessor, Config, SamplingDecision, ShouldSample, SpanData, SpanEvents,
    SpanLinks, SpanProcessor,
};
use reqwest::Url;
use tokio::runtime::Handle;

use super::collector::{Connection, Telling, say};
use crate::seam::{Field, Span, Tracer};
use crate::step::TraceIds;

/// How long the end waits for the collector.
const FLUSH: Duration = Duration::from_secs(3);
/// How long a request may take, as OpenTelemetry has it if no variable says otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// As much of a text as is exported, in bytes.
const LONGEST: usize = 1024;

pub(super) struct Exporter {
    batches: BatchSpanProcessor,
    sampler: Box<dyn ShouldSample>,
    scope: InstrumentationScope,
}

impl Exporter {
    /// Nothing if the environment names no collector, or one that cannot be; that is said.
    pub(super) fn of_environment(worker: &str) -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let endpoint = endpoint(variable)?;
        match Self::new(worker, &endpoint, timeout(variable)) {
            Ok(exporter) => {
                tracing::info!(event = "traces_exported", "traces of steps are exported");
                Some(exporter)
            }
            Err(error) => {
                say(&error);
                None
            }
        }
    }

    fn new(worker: &str, endpoint: &Endpoint, timeout: Duration) -> Result<Self, String> {
        let url = endpoint.url.parse().ok().filter(Url::has_host);
        let url = url.ok_or_else(|| format!("{} is not a URL of a host", endpoint.variable))?;
        let connection = Connection::new(&url, timeout, Handle::current())?;
        let failure = connection.failure();
        let exporter = SpanExporter::builder().with_http().with_http_client(connection).build();
        let exporter = exporter.map_err(|error| error.to_string())?;
        let mut batches =
            BatchSpanProcessor::new(Telling::new(exporter, failure), BatchConfig::default());
        batches.set_resource(&resource(worker));
        let scope = InstrumentationScope::builder("callbackd")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        Ok(Self { batches, sampler: Config::default().sampler, scope })
    }

    /// Exports what is left, for a moment. Blocks.
    pub(super) fn end(&self) {
        // Why it failed is said by the exporter; if it takes longer, so be it.
        let _ = self.batches.shutdown_with_timeout(FLUSH);
    }
}

impl Tracer for Exporter {
    fn is_on(&self) -> bool {
        true
    }

    /// As the sender of the message has decided, or else the sampler, by the trace's id: so that
    /// all workers decide alike.
    fn records(&self, ids: &TraceIds) -> bool {
        let trace_id = TraceId::from_bytes(ids.trace_id());
        let sender = ids.sampled().map(|sampled| {
            let span = ids.sender().unwrap_or_else(|| ids.step());
            let flags = TraceFlags::default().with_sampled(sampled);
            let span = SpanId::from_bytes(span.0);
            SpanContext::new(trace_id, span, flags, true, TraceState::default())
        });
        let parent = sender.map(|sender| Context::new().with_remote_span_context(sender));
        let sampled = self.sampler.should_sample(
            parent.as_ref(),
            trace_id,
            "step",
            &SpanKind::Consumer,
            &[],
            &[],
        );
        sampled.decision == SamplingDecision::RecordAndSample
    }

    fn ended(&self, span: Span<'_>) {
        self.batches.on_end(data(&span, self.scope.clone()));
    }
}

/// Where the collector is.
#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    variable: &'static str,
    url: String,
}

/// Unset means off: OpenTelemetry's default address would be tried on every machine.
fn endpoint(variable: impl Fn(&str) -> Option<String>) -> Option<Endpoint> {
    let is = |name: &str, value: &str| {
        variable(name).is_some_and(|found| found.trim().eq_ignore_ascii_case(value))
    };
    if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
        return None;
    }
    ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
        .into_iter()
        .find_map(|name| Some(Endpoint { variable: name, url: variable(name)? }))
}

fn timeout(variable: impl Fn(&str) -> Option<String>) -> Duration {
    ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"]
        .into_iter()
        .find_map(|name| variable(name)?.parse().ok())
        .map_or(TIMEOUT, Duration::from_millis)
}

/// What the environment does not say itself.
fn resource(worker: &str) -> Resource {
    let own = [
        KeyValue::new("service.name", "callbackd"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", worker.to_owned()),
    ];
    let name = std::env::var("OTEL_SERVICE_NAME").ok().filter(|name| !name.is_empty());
    Resource::builder_empty()
        .with_attributes(own)
        .with_detector(Box::new(EnvResourceDetector::new()))
        .with_attributes(name.map(|name| KeyValue::new("service.name", name)))
        .build()
}

fn data(span: &Span<'_>, instrumentation_scope: InstrumentationScope) -> SpanData {
    let trace_id = TraceId::from_bytes(span.ids.trace_id());
    let parent = span.parent.or(span.ids.sender()).map(|id| SpanId::from_bytes(id.0));
    let fields = span.fields.iter().map(|(name, value)| {
        let name = format!("callbackd.{name}");
        match value {
            Field::Text(text) => KeyValue::new(name, cut(text)),
            Field::Number(number) => {
                KeyValue::new(name, i64::try_from(*number).unwrap_or(i64::MAX))
            }
        }
    });
    SpanData {
        span_context: SpanContext::new(
            trace_id,
            SpanId::from_bytes(span.id.0),
            TraceFlags::SAMPLED,
            false,
            TraceState::default(),
        ),
        parent_span_id: parent.unwrap_or(SpanId::INVALID),
        parent_span_is_remote: span.parent.is_none() && parent.is_some(),
        span_kind: match span.name {
            "step" => SpanKind::Consumer,
            "report" => SpanKind::Client,
            _ => SpanKind::Internal,
        },
        name: span.name.into(),
        start_time: span.begun.into(),
        end_time: span.ended.max(span.begun).into(),
        attributes: fields.collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: span.error.map_or(Status::Unset, |error| Status::error(cut(error))),
        instrumentation_scope,
    }
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(LONGEST)].to_owned()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn ids(header: Option<&str>) -> TraceIds {
        let arn = "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/e";
        let header = header.map(|text| text.parse().expect("a header"));
        let (token, execution) = ("abcdefghij".parse(), arn.parse());
        TraceIds::of(&token.expect("a token"), &execution.expect("an ARN"), 0, header.as_ref())
    }

    fn exported(
        ids: &TraceIds,
        parent: Option<crate::step::SpanId>,
        error: Option<&str>,
    ) -> SpanData {
        let (begun, ended) = (Timestamp::from_second(10), Timestamp::from_second(20));
        let span = Span {
            ids,
            id: ids.part("run", 1),
            parent,
            name: "run",
            begun: begun.expect("in range"),
            ended: ended.expect("in range"),
            fields: vec![("token", Field::Text("abcdefghij")), ("attempt", Field::Number(2))],
            error,
        };
        data(&span, InstrumentationScope::default())
    }

    #[test]
    fn a_span_has_its_parent_or_else_that_of_the_message() {
        let header = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8";
        let ids_with = ids(Some(header));
        let whole = exported(&ids_with, None, None);
        assert_eq!(whole.span_context.trace_id().to_string(), "5759e988bd862e3fe1be46a994272793");
        assert_eq!(whole.parent_span_id.to_string(), "53995c3f42cd8ad8");
        assert!(whole.parent_span_is_remote);
        let part = exported(&ids_with, Some(ids_with.step()), None);
        assert_eq!(part.parent_span_id.to_bytes(), ids_with.step().0);
        assert!(!part.parent_span_is_remote);
        assert_eq!(exported(&ids(None), None, None).parent_span_id, SpanId::INVALID);
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_refused_by_the_variable_that_has_it() {
        let variable = "OTEL_EXPORTER_OTLP_ENDPOINT";
        for url in ["collector:4318", "/v1/traces", "127.0.0.1"] {
            let endpoint = Endpoint { variable, url: url.to_owned() };
            let refused = Exporter::new("me", &endpoint, TIMEOUT).err().expect(url);
            assert!(refused.starts_with(variable), "{refused}");
        }
    }

    #[test]
    fn an_error_is_cut_to_what_a_collector_takes() {
        let span = exported(&ids(None), None, Some(&"é".repeat(LONGEST)));
        let Status::Error { description } = span.status else { panic!("it failed") };
        assert_eq!(description.len(), LONGEST);
        assert_eq!(span.attributes[1], KeyValue::new("callbackd.attempt", 2));
    }

    #[test]
    fn only_a_named_collector_is_exported_to() {
        let wanted = |set: &[(&str, &str)]| {
            let found = endpoint(|name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            });
            found.is_some()
        };
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        assert!(!wanted(&[]) && wanted(&[endpoint]));
        assert!(wanted(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/v1/traces")]));
        assert!(!wanted(&[endpoint, ("OTEL_SDK_DISABLED", "TRUE")]));
        assert!(!wanted(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]));
        assert!(wanted(&[endpoint, ("OTEL_TRACES_EXPORTER", "otlp")]));
    }
}
