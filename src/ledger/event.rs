//! An event of a step's history, as short as its body holds it: a write to a table costs by size.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as Unknown, StrDeserializer};
use serde::{Deserialize, Serialize};

use crate::lifecycle::{Happened, Happening, History};

#[derive(Serialize, Deserialize)]
pub(super) struct Event<'a> {
    /// Milliseconds since the event before it; since the step was first seen, if it is the first.
    t: i64,
    e: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    d: Option<Cow<'a, str>>,
    /// How often, if more than once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<u32>,
}

pub(super) fn compact(history: &History, first_seen: Timestamp) -> Vec<Event<'_>> {
    let mut before = first_seen.as_millisecond();
    let each = history.events().iter().map(|it| {
        let at = it.at.as_millisecond();
        let t = at - std::mem::replace(&mut before, at);
        Event {
            t,
            e: it.event.as_str().into(),
            d: it.detail.as_deref().map(Cow::Borrowed),
            n: (it.times > 1).then_some(it.times),
        }
    });
    each.collect()
}

/// A time that cannot be is left out: the step matters more than its history.
pub(super) fn whole(events: Vec<Event<'_>>, first_seen: Timestamp) -> History {
    let mut at = first_seen.as_millisecond();
    let each = events.into_iter().filter_map(|Event { t, e, d, n }| {
        at = at.saturating_add(t);
        let name: StrDeserializer<'_, Unknown> = (*e).into_deserializer();
        let event = Happening::deserialize(name).unwrap_or(Happening::Unknown);
        let happened = Happened::new(Timestamp::from_millisecond(at).ok()?, event, d.as_deref());
        Some(Happened { times: n.unwrap_or(1), ..happened })
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_read_as_it_was_written_and_what_a_later_version_knows_harms_nothing() {
        let at = |milli| Timestamp::from_millisecond(milli).expect("in range");
        let polled = Happened { times: 412, ..Happened::new(at(9_001), Happening::Polled, None) };
        let history: History = [
            Happened::new(at(900), Happening::Claimed, None),
            polled,
            Happened::new(at(9_500), Happening::AttemptFailed, Some("no luck")),
        ]
        .into_iter()
        .collect();
        let json = serde_json::to_string(&compact(&history, at(1_000))).expect("JSON");
        assert_eq!(
            json,
            r#"[{"t":-100,"e":"claimed"},{"t":8101,"e":"polled","n":412},{"t":499,"e":"attempt_failed","d":"no luck"}]"#
        );
        assert_eq!(whole(serde_json::from_str(&json).expect("events"), at(1_000)), history);

        let later = r#"[{"t":1,"e":"teleported","x":7},{"t":9223372036854775807,"e":"claimed"}]"#;
        let read = whole(serde_json::from_str(later).expect("events"), at(0));
        assert_eq!(read.events(), [Happened::new(at(1), Happening::Unknown, None)]);
    }
}
