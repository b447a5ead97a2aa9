//! The ids in the trace of a step.
//!
//! They are computed from the step. So all that work on it, one life of a worker after the other,
//! add to the same trace, and none has to remember an id or to tell it to another.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::{CallbackToken, ExecutionArn, TraceHeader};

/// What names a span within its trace; never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanId(pub [u8; 8]);

/// The trace of one step: the one that its message belongs to, or one of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceIds {
    /// What the ids of the spans are computed from.
    seed: [u8; 32],
    trace_id: [u8; 16],
    sender: Option<SpanId>,
    sampled: Option<bool>,
}

impl TraceIds {
    /// The trace of the step with this token, whose message had this header. `returns` is how often
    /// the step has come back after it was settled: its trace stays, its spans are others.
    #[must_use]
    pub fn of(
        token: &CallbackToken,
        execution: &ExecutionArn,
        returns: u32,
        header: Option<&TraceHeader>,
    ) -> Self {
        let step = Sha256::new().chain_update(token.as_str()).chain_update(execution.as_str());
        let of_message = header.and_then(|header| bytes(header.trace_id()));
        let trace_id = of_message.unwrap_or_else(|| some(&step.clone().finalize()));
        let seed = step.chain_update(trace_id).chain_update(returns.to_be_bytes()).finalize();
        Self {
            seed: seed.into(),
            trace_id,
            sender: header.and_then(TraceHeader::parent).and_then(bytes).map(SpanId),
            sampled: header.and_then(TraceHeader::sampled),
        }
    }

    /// The id of the trace.
    #[must_use]
    pub fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The span that the message was sent in.
    #[must_use]
    pub fn sender(&self) -> Option<SpanId> {
        self.sender
    }

    /// Whether the trace is recorded, if the sender of the message has decided that.
    #[must_use]
    pub fn sampled(&self) -> Option<bool> {
        self.sampled
    }

    /// The span of the whole step.
    #[must_use]
    pub fn step(&self) -> SpanId {
        self.part("step", 0)
    }

    /// The span of a part of the step: the same for the same name and number.
    #[must_use]
    pub fn part(&self, name: &str, number: u64) -> SpanId {
        let part = Sha256::new()
            .chain_update(self.seed)
            .chain_update(name)
            .chain_update(number.to_be_bytes())
            .finalize();
        SpanId(some(&part))
    }

    /// The header for what happens in one of the spans, given that of the step's message.
    #[must_use]
    pub fn header(
        &self,
        span: SpanId,
        sampled: bool,
        of_message: Option<&TraceHeader>,
    ) -> Option<TraceHeader> {
        TraceHeader::within(&digits(&self.trace_id), &digits(&span.0), sampled, of_message)
    }
}

/// The first bytes; nothing but zeros would be no id.
fn some<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut id = [0; N];
    id.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    if id.iter().all(|byte| *byte == 0) {
        id[N - 1] = 1;
    }
    id
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn bytes<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(token: &str, header: Option<&str>) -> TraceIds {
        returned(token, 0, header)
    }

    fn returned(token: &str, returns: u32, header: Option<&str>) -> TraceIds {
        let arn = "arn:aws:sagemaker:us-east-1:123456789012:pipeline/p/execution/e";
        let header = header.map(|text| text.parse().expect("a header"));
        TraceIds::of(
            &token.parse().expect("a token"),
            &arn.parse().expect("an ARN"),
            returns,
            header.as_ref(),
        )
    }

    #[test]
    fn a_step_adds_to_the_trace_of_its_message() {
        let header = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1";
        let ids = of("abcdefghij", Some(header));
        assert_eq!(digits(&ids.trace_id()), "5759e988bd862e3fe1be46a994272793");
        assert_eq!(ids.sender().map(|span| digits(&span.0)).as_deref(), Some("53995c3f42cd8ad8"));
        assert_eq!(ids.sampled(), Some(true));
        let within = ids.header(ids.part("run", 3), true, None).expect("a header");
        assert_eq!(within.trace_id(), "5759e988bd862e3fe1be46a994272793");
        assert_eq!(within.parent(), Some(digits(&ids.part("run", 3).0).as_str()));
    }

    #[test]
    fn without_a_header_each_step_has_a_trace_of_its_own_the_same_on_every_worker() {
        let ids = of("abcdefghij", None);
        assert_eq!(ids, of("abcdefghij", None));
        assert_ne!(ids.trace_id(), of("abcdefghik", None).trace_id());
        assert_eq!((ids.sender(), ids.sampled()), (None, None));
        assert!(ids.header(ids.step(), true, None).is_some());
    }

    #[test]
    fn a_step_that_comes_back_stays_in_its_trace_with_spans_of_its_own() {
        for header in [None, Some("Root=1-5759e988-bd862e3fe1be46a994272793")] {
            let (first, second) = (of("abcdefghij", header), returned("abcdefghij", 1, header));
            assert_eq!(first.trace_id(), second.trace_id());
            assert_ne!(first.step(), second.step());
            assert_ne!(first.part("run", 1), second.part("run", 1));
        }
    }

    #[test]
    fn each_part_of_a_step_has_a_span_of_its_own() {
        let ids = of("abcdefghij", None);
        let all = [ids.step(), ids.part("run", 1), ids.part("run", 2), ids.part("cleanup", 1)];
        for (at, one) in all.iter().enumerate() {
            assert_eq!(all.iter().filter(|other| *other == one).count(), 1, "{at}");
            assert_ne!(one.0, [0; 8]);
        }
        assert_eq!(some::<8>(&[0; 8]), [0, 0, 0, 0, 0, 0, 0, 1], "zero is no id");
    }
}
