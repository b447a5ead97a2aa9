//! The labels of the metrics' series.

use std::borrow::Cow;

pub(super) type Labels<const N: usize> = [(&'static str, Cow<'static, str>); N];

pub(super) fn step_labels(queue: &str, handler: &str) -> Labels<2> {
    [("queue", queue.to_owned().into()), ("handler", handler.to_owned().into())]
}

pub(super) fn outcome_labels(queue: &str, handler: &str, outcome: &str) -> Labels<3> {
    let [queue, handler] = step_labels(queue, handler);
    [queue, handler, ("outcome", outcome.to_owned().into())]
}

pub(super) fn via_labels(queue: &str, via: &'static str) -> Labels<2> {
    [("queue", queue.to_owned().into()), ("via", via.into())]
}

pub(super) fn queue_label(queue: &str) -> Labels<1> {
    [("queue", queue.to_owned().into())]
}

/// An error's code, which a service or a proxy chose: only text that looks like one becomes a
/// label.
pub(super) fn code(result: &str) -> Cow<'static, str> {
    let plain = !result.is_empty()
        && result.len() <= 64
        && result.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if plain { result.to_owned().into() } else { "other".into() }
}
