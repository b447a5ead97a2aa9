//! The export of steps' traces, if this build has it and the environment names a collector.

#[cfg(feature = "otel")]
mod collector;
#[cfg(feature = "otel")]
mod otlp;

use std::sync::Arc;

use crate::seam::Tracer;

/// Where finished spans go.
pub(super) struct Traces {
    #[cfg(feature = "otel")]
    exporter: Option<Arc<otlp::Exporter>>,
}

impl Traces {
    /// As the environment says. `worker` tells the spans of this process from those of others.
    #[cfg_attr(not(feature = "otel"), expect(unused_variables, reason = "nothing is exported"))]
    pub(super) fn of(worker: &str) -> Self {
        Self {
            #[cfg(feature = "otel")]
            exporter: otlp::Exporter::of_environment(worker).map(Arc::new),
        }
    }

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
            // It blocks its thread.
            let _ = tokio::task::spawn_blocking(move || exporter.end()).await;
        }
    }
}
