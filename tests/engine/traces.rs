//! The spans of a step's trace.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use callbackd::seam::{Field, Observation, Observer, Span, Tracer};
use callbackd::step::{SpanId, TraceIds};
use serde_json::{Value, json};

use crate::bench::{Bench, body, until};

const TOKEN: &str = "abcdefghij";

/// Keeps the name, the parent and the result of each span, and its id.
#[derive(Default)]
struct Traced {
    spans: Mutex<Vec<(&'static str, Option<SpanId>, String)>>,
    ids: Mutex<Vec<[u8; 8]>>,
}

impl Traced {
    /// How many spans have this name.
    fn count(&self, name: &str) -> usize {
        self.spans.lock().unwrap().iter().filter(|span| span.0 == name).count()
    }
}

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
        self.spans.lock().unwrap().push((span.name, span.parent, result));
        self.ids.lock().unwrap().push(span.id.0);
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
    let message: Value = serde_json::from_str(&body(TOKEN, &json!({}), "Executing")).expect("JSON");
    let token = TOKEN.parse().expect("a token");
    let execution = message["pipelineExecutionArn"].as_str().expect("a text");
    let execution = execution.parse().expect("an ARN");
    let step = Some(TraceIds::of(&token, &execution, 0, ROOT.parse().ok().as_ref()).step());
    let spans = traced.spans.lock().unwrap().clone();
    let of = |name, parent, result: &str| (name, parent, result.to_owned());
    let wanted =
        [of("run", step, "success"), of("report", step, "accepted"), of("step", None, "success")];
    assert_eq!(spans, wanted);
}

#[tokio::test(start_paused = true)]
async fn each_run_and_report_has_an_id_of_its_own() {
    let mut bench = Bench::new();
    let traced = Arc::new(Traced::default());
    bench.observer = traced.clone();
    let worker = bench.start().await;
    for (token, arguments) in [
        ("runsfourti", json!({"do": "again", "seconds": 1})),
        ("isretriedx", json!({"do": "error", "seconds": 1})),
    ] {
        bench.pipelines.open(token);
        bench.queue.put(&body(token, &arguments, "Executing"));
    }
    until("both are settled", || bench.queue.len() == 0).await;
    worker.drain_hurried().await;
    assert_eq!(traced.count("step"), 2);
    assert!(traced.count("run") >= 4 + 2, "{:?}", traced.spans);
    let ids = traced.ids.lock().unwrap().clone();
    let different: BTreeSet<_> = ids.iter().collect();
    assert_eq!(different.len(), ids.len(), "{:?}", traced.spans);
}
