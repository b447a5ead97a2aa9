//! Sends a frozen outcome once; the lifecycle decides when to send it again.

use super::lane::Lane;
use crate::lifecycle::{Event, Record};
use crate::seam::FaultKind;

/// Sends a concluded record's outcome. Every attempt sends the identical request.
pub(crate) async fn once(lane: &Lane, record: &Record) -> Event {
    let (Some(outcome), Some(request)) = (&record.outcome, &record.client_request_token) else {
        return Event::ReportRefused("the record has no outcome".to_owned());
    };
    let fault =
        match lane.pipelines(&record.execution).report(&record.token, outcome, request).await {
            Ok(()) => return Event::ReportAccepted,
            Err(fault) => fault,
        };
    match fault.kind {
        FaultKind::Refused | FaultKind::Stale => {
            if let Some(more) = lane.said.again("refused") {
                tracing::warn!(
                    event = "report_refused",
                    error = %fault,
                    more,
                    "SageMaker refused the report; asking where the step stands"
                );
            }
            Event::ReportRefused(fault.detail)
        }
        FaultKind::Denied => {
            if let Some(more) = lane.said.again("denied") {
                tracing::error!(
                    event = "report_denied",
                    error = %fault,
                    more,
                    "no permission to report the outcome, so the pipeline waits: allow \
                     sagemaker:SendPipelineExecutionStep*"
                );
            }
            Event::ReportFailed { denied: true, detail: fault.detail }
        }
        FaultKind::Misconfigured => {
            if let Some(more) = lane.said.again("misconfigured") {
                tracing::error!(
                    event = "report_misdirected",
                    error = %fault,
                    more,
                    "the credentials or the endpoint are wrong, so the outcome is not reported and \
                     the pipeline waits"
                );
            }
            Event::ReportFailed { denied: false, detail: fault.detail }
        }
        FaultKind::Transient => {
            if let Some(more) = lane.said.again("unreported") {
                tracing::warn!(
                    event = "report_failed",
                    error = %fault,
                    more,
                    "the outcome could not be reported yet; it is sent again"
                );
            }
            Event::ReportFailed { denied: false, detail: fault.detail }
        }
    }
}
