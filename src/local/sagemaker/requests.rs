//! Client request tokens: which requests were already done, and their answers.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

/// How many requests are remembered: more answers than a load test has steps, at a few hundred
/// bytes each.
const MAX_REMEMBERED: usize = 250_000;

/// The completed requests, by scope and client request token.
#[derive(Debug)]
pub(super) struct Requests {
    most: usize,
    done: BTreeMap<(&'static str, String), Done>,
    /// Oldest first.
    order: VecDeque<(&'static str, String)>,
}

/// What identifies a request: the operation and all members except the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(String);

/// Whether a client request token was seen before in its scope.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seen {
    Never,
    /// With the same request, which had this answer.
    Same(Value),
    /// With another request, which had this answer.
    Other(Value),
}

#[derive(Debug)]
struct Done {
    fingerprint: Fingerprint,
    answer: Value,
}

impl Fingerprint {
    pub(super) fn of(operation: &str, body: &Value) -> Self {
        let mut body = body.clone();
        if let Some(members) = body.as_object_mut() {
            members.remove("ClientRequestToken");
        }
        // `serde_json` sorts members by name: equal bodies have equal texts.
        Self(format!("{operation} {body}"))
    }
}

impl Default for Requests {
    fn default() -> Self {
        Self::remembering(MAX_REMEMBERED)
    }
}

impl Requests {
    fn remembering(most: usize) -> Self {
        Self { most, done: BTreeMap::new(), order: VecDeque::new() }
    }

    pub(super) fn seen(&self, scope: &'static str, token: &str, fingerprint: &Fingerprint) -> Seen {
        match self.done.get(&(scope, token.to_owned())) {
            None => Seen::Never,
            Some(done) if done.fingerprint == *fingerprint => Seen::Same(done.answer.clone()),
            Some(done) => Seen::Other(done.answer.clone()),
        }
    }

    /// Records a completed request. Refused ones are not recorded, because they may be tried again.
    pub(super) fn remember(
        &mut self,
        scope: &'static str,
        token: &str,
        fingerprint: Fingerprint,
        answer: Value,
    ) {
        let key = (scope, token.to_owned());
        if self.done.insert(key.clone(), Done { fingerprint, answer }).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > self.most {
            if let Some(oldest) = self.order.pop_front() {
                self.done.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_same_request_is_known_again_whatever_the_order_of_its_members() {
        let mut requests = Requests::default();
        let first: Value =
            serde_json::from_str(r#"{"a": 1, "b": 2, "ClientRequestToken": "t"}"#).expect("JSON");
        let again: Value =
            serde_json::from_str(r#"{"ClientRequestToken": "t", "b": 2, "a": 1}"#).expect("JSON");
        requests.remember("answer", "t", Fingerprint::of("Op", &first), json!("done"));
        assert_eq!(
            requests.seen("answer", "t", &Fingerprint::of("Op", &again)),
            Seen::Same(json!("done"))
        );
        assert_eq!(
            requests.seen("answer", "t", &Fingerprint::of("Other", &again)),
            Seen::Other(json!("done"))
        );
        assert_eq!(requests.seen("answer", "u", &Fingerprint::of("Op", &again)), Seen::Never);
        assert_eq!(requests.seen("start", "t", &Fingerprint::of("Op", &again)), Seen::Never);
    }

    #[test]
    fn the_oldest_request_is_forgotten_first() {
        let mut requests = Requests::remembering(3);
        let fingerprint = Fingerprint::of("Op", &json!({}));
        for number in 0..=3 {
            requests.remember("answer", &number.to_string(), fingerprint.clone(), Value::Null);
        }
        assert_eq!(requests.seen("answer", "0", &fingerprint), Seen::Never);
        assert_eq!(requests.seen("answer", "1", &fingerprint), Seen::Same(Value::Null));
    }
}
