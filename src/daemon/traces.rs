//! The export of steps' traces, if this build has it and the environment names a collector.

#[cfg(feature = "otel")]
mod account;
#[cfg(feature = "otel")]
mod collector;
#[cfg(feature = "otel")]
mod otlp;
#[cfg(feature = "otel")]
mod variables;

use std::sync::Arc;

use crate::seam::Tracer;

/// Where finished spans go.
#[derive(Default)]
pub(super) struct Traces {
    #[cfg(feature = "otel")]
    exporter: Option<Arc<otlp::Exporter>>,
}

impl Traces {
    /// As the environment says; a test whose time is simulated exports nothing. `worker` tells the
    /// spans of this process from those of others.
    pub(super) fn of(worker: &str, is_simulated: bool) -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        match wanted(variable).filter(|_| !is_simulated) {
            Some(named) => Self::to(named, variable, worker),
            None => Self::default(),
        }
    }

    #[cfg(feature = "otel")]
    fn to(named: &'static str, variable: impl Fn(&str) -> Option<String>, worker: &str) -> Self {
        Self { exporter: otlp::Exporter::new(named, variable, worker).map(Arc::new) }
    }

    #[cfg(not(feature = "otel"))]
    fn to(named: &'static str, _: impl Fn(&str) -> Option<String>, _: &str) -> Self {
        tracing::warn!(
            event = "traces_not_built",
            variable = named,
            "a collector is named, but this binary exports no traces: build it with `--features \
             otel`, or unset the variable"
        );
        Self {}
    }

    #[cfg_attr(not(feature = "otel"), expect(clippy::unused_self, reason = "nothing is exported"))]
    pub(super) fn tracer(&self) -> Arc<dyn Tracer> {
        #[cfg(feature = "otel")]
        if let Some(exporter) = &self.exporter {
            return exporter.clone();
        }
        Arc::new(())
    }

    /// Exports what is left, for a moment.
    #[cfg_attr(not(feature = "otel"), expect(clippy::unused_async, reason = "nothing is left"))]
    pub(super) async fn end(self) {
        #[cfg(feature = "otel")]
        if let Some(exporter) = self.exporter {
            exporter.end().await;
        }
    }
}

/// The variable that names a collector, unless others turn the export off. Unset means off:
/// OpenTelemetry's default address would be tried on every machine.
fn wanted(variable: impl Fn(&str) -> Option<String>) -> Option<&'static str> {
    let is = |name: &str, value: &str| {
        variable(name).is_some_and(|found| found.trim().eq_ignore_ascii_case(value))
    };
    if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
        return None;
    }
    ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]
        .into_iter()
        .find(|name| variable(name).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_named_collector_is_exported_to() {
        let of = |set: &[(&str, &str)]| {
            wanted(|name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/v1/traces");
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[all]), Some(all.0));
        assert_eq!(of(&[all, traces]), Some(traces.0), "the more exact one");
        assert_eq!(of(&[all, ("OTEL_SDK_DISABLED", "TRUE")]), None);
        assert_eq!(of(&[all, ("OTEL_SDK_DISABLED", "false")]), Some(all.0));
        assert_eq!(of(&[all, ("OTEL_TRACES_EXPORTER", "none")]), None);
        assert_eq!(of(&[all, ("OTEL_TRACES_EXPORTER", "otlp")]), Some(all.0));
    }
}
