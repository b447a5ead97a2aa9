//! The spans of a step's trace.

use std::sync::{Arc, Mutex};

use callbackd::seam::{Field, Observation, Observer, Span, Tracer};
use callbackd::step::{SpanId, TraceIds};
use serde_json::json;

use crate::bench::{Bench, body, until};

const TOKEN: &str = "abcdefghij";

/// Keeps the name, the parent and the result of each span.
#[derive(Default)]
struct Traced(Mutex<Vec<(&'static str, Option<SpanId>, String)>>);

impl Observer for Traced {
    fn observe(&self, _: Observation<'_>) {}

    fn tracer(&self) -> &dyn Tracer {
        self
    }
}

impl Tracer for Traced {
    fn is_on(&self) -> bool {
        true
    }

    fn records(&self, ids: &TraceIds) -> bool {
        ids.sampled() != Some(false)
    }

    fn ended(&self, span: Span<'_>) {
        let is_result = |(name, _): &&(&str, Field<'_>)| ["result", "outcome"].contains(name);
        let result = match span.fields.iter().find(is_result) {
            Some((_, Field::Text(result))) => (*result).to_owned(),
            _ => String::new(),
        };
        assert!(span.begun <= span.ended, "{span:?}");
        self.0.lock().unwrap().push((span.name, span.parent, result));
    }
}

#[tokio::test(start_paused = true)]
async fn the_parts_of_a_step_are_traced_below_it_unless_its_sender_does_not_record_it() {
    const ROOT: &str = "Root=1-5759e988-bd862e3fe1be46a994272793";
    let mut bench = Bench::new();
    let traced = Arc::new(Traced::default());
    bench.observer = traced.clone();
    let worker = bench.start().await;
    for (token, sampled) in [(TOKEN, 1), ("klmnopqrst", 0)] {
        bench.pipelines.open(token);
        let header = format!("{ROOT};Sampled={sampled}");
        bench.queue.put_in(Some(&header), &body(token, &json!({"do": "succeed"}), "Executing"));
    }
    until("both are settled", || bench.queue.len() == 0).await;
    worker.drain_hurried().await;
    let record = bench.disk.body(TOKEN);
    let (token, execution) = (TOKEN.parse().expect("a token"), &record["execution"]);
    let execution = execution.as_str().expect("an ARN").parse().expect("an ARN");
    let step = Some(TraceIds::of(&token, &execution, 0, ROOT.parse().ok().as_ref()).step());
    let spans = traced.0.lock().unwrap().clone();
    let of = |name, parent, result: &str| (name, parent, result.to_owned());
    let wanted =
        [of("run", step, "success"), of("report", step, "accepted"), of("step", None, "success")];
    assert_eq!(spans, wanted);
}
