//! The step as JSON: what a program gets on stdin, and a service in a request's body.

use serde_json::{Value, json};

use crate::handler::Context;

/// In a cleanup it has the reason of the stop.
pub(super) fn step(cx: &Context) -> Value {
    let mut step = json!({
        "token": cx.token(),
        "pipelineExecutionArn": cx.execution(),
        "pipeline": cx.pipeline(),
        "queueUrl": cx.queue_url(),
        "attempt": cx.attempt(),
        "arguments": cx.arguments(),
    });
    if let Some(reason) = cx.stop_reason() {
        step["stopReason"] = reason.as_str().into();
    }
    step
}
