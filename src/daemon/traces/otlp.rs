//! Spans as OpenTelemetry has them, exported by OTLP over HTTP.
//!
//! A step may outlive many processes, and its span begins before the one that sees its end. So
//! spans are not opened and closed: each is made when it has ended, with ids that are computed, and
//! goes to the SDK's batches, whose thread and queue are the SDK's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::trace::{
    SpanContext, SpanKind, Status, TraceContextExt, TraceFlags, TraceState,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue, SpanId, TraceId};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::EnvResourceDetector;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Config, SamplingDecision, ShouldSample, SpanData,
    SpanEvents, SpanLinks, SpanProcessor,
};
use tokio_util::sync::CancellationToken;

use super::account::Account;
use super::collector::{Accounted, Connection};
use super::variables::{Settings, settings};
use crate::seam::{Field, Span, Tracer};
use crate::step::TraceIds;

/// How long the end waits for the collector.
const FLUSH: Duration = Duration::from_secs(3);
/// As much of a text as is exported, in bytes.
const LONGEST: usize = 1024;

pub(super) struct Exporter {
    batches: BatchSpanProcessor,
    account: Arc<Account>,
    /// Why the last request failed.
    failure: Arc<Mutex<Option<String>>>,
    sampler: Box<dyn ShouldSample>,
    scope: InstrumentationScope,
    ended: CancellationToken,
}

impl Exporter {
    /// Exports to the collector of the variable `named`; nothing if variables cannot be used, and
    /// that is said.
    pub(super) fn new(
        named: &'static str,
        variable: impl Fn(&str) -> Option<String>,
        worker: &str,
    ) -> Option<Self> {
        let made = settings(named, variable)
            .map_err(|mistakes| mistakes.join("; "))
            .and_then(|settings| Self::with(&settings, worker));
        match made {
            Ok(exporter) => {
                tracing::info!(event = "traces_exported", "traces of steps are exported");
                Some(exporter)
            }
            Err(error) => {
                tracing::warn!(
                    event = "traces_misconfigured",
                    error,
                    "traces are not exported: correct the variables of the environment, and restart"
                );
                None
            }
        }
    }

    fn with(settings: &Settings, worker: &str) -> Result<Self, String> {
        let ended = CancellationToken::new();
        let connection = Connection::new(&settings.url, settings.timeout, ended.clone())?;
        let (failure, account) = (connection.failure(), Arc::new(Account::new(settings.queue)));
        // It reads the endpoint and the headers itself; their mistakes are known by now.
        let exporter = SpanExporter::builder().with_http().with_http_client(connection).build();
        let exporter = exporter.map_err(|_| "the collector's URL cannot be used".to_owned())?;
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(settings.queue)
            .with_max_export_batch_size(settings.batch)
            .with_scheduled_delay(settings.delay)
            .build();
        let exporter = Accounted::new(exporter, failure.clone(), account.clone());
        let mut batches = BatchSpanProcessor::new(exporter, config);
        batches.set_resource(&resource(worker));
        let scope = InstrumentationScope::builder("callbackd")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        let sampler = Config::default().sampler;
        Ok(Self { batches, account, failure, sampler, scope, ended })
    }

    /// Exports what is left, for a moment.
    pub(super) async fn end(self: Arc<Self>) {
        let this = self.clone();
        let flush = move || this.batches.shutdown_with_timeout(FLUSH);
        // It blocks its thread. If it fails, spans still wait.
        let _ = tokio::task::spawn_blocking(flush).await;
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        let why = failure.as_deref().unwrap_or("it has not answered before the worker's end");
        self.account.close(why);
        self.ended.cancel();
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
        if self.account.admits() {
            self.batches.on_end(data(&span, self.scope.clone()));
        }
    }
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

    #[test]
    fn an_error_is_cut_to_what_a_collector_takes() {
        let span = exported(&ids(None), None, Some(&"é".repeat(LONGEST)));
        let Status::Error { description } = span.status else { panic!("it failed") };
        assert_eq!(description.len(), LONGEST);
        assert_eq!(span.attributes[1], KeyValue::new("callbackd.attempt", 2));
    }
}
