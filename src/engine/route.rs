//! Which handler runs a step: that of the first route that matches its pipeline and arguments, else
//! the queue's own.

use std::sync::Arc;

use serde_json::{Map, Value};
use wildmatch::WildMatch;

use super::config::QueueConfig;

/// The routes of one queue.
#[derive(Clone, Debug)]
pub struct Routes {
    routes: Vec<Route>,
    otherwise: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
struct Route {
    pipeline: Option<WildMatch>,
    arguments: Map<String, Value>,
    handler: Arc<str>,
}

impl Routes {
    #[must_use]
    pub fn new(config: &QueueConfig) -> Self {
        let route = |route: &super::config::RouteConfig| Route {
            pipeline: route.pipeline.as_deref().map(WildMatch::new_case_insensitive),
            arguments: route.arguments.clone(),
            handler: route.handler.as_str().into(),
        };
        Self {
            routes: config.routes.iter().map(route).collect(),
            otherwise: config.handler.as_deref().map(Into::into),
        }
    }

    /// The handler's name. The pipeline's name is compared without regard to case, because ARNs
    /// contain it in lower case. `None` if nothing matches and the queue has no handler of its own.
    #[must_use]
    pub fn handler(&self, pipeline: &str, arguments: &Value) -> Option<&Arc<str>> {
        let matching = self.routes.iter().find(|route| route.matches(pipeline, arguments));
        matching.map(|route| &route.handler).or(self.otherwise.as_ref())
    }
}

impl Route {
    fn matches(&self, pipeline: &str, arguments: &Value) -> bool {
        self.pipeline.as_ref().is_none_or(|glob| glob.matches(pipeline))
            && self
                .arguments
                .iter()
                .all(|(name, value)| arguments.get(name).is_some_and(|other| equal(value, other)))
    }
}

/// Equality of JSON values in which 5 equals 5.0.
fn equal(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other || one.as_f64() == other.as_f64()
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(a, b)| equal(a, b))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, a)| other.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn routes() -> Routes {
        let config = json!({
            "url": "https://sqs.us-east-1.amazonaws.com/123456789012/q", "handler": "other",
            "routes": [
                {"pipeline": "train-*", "arguments": {"task": "spark", "size": 5}, "handler": "spark"},
                {"pipeline": "train-*", "handler": "train"},
                {"arguments": {"task": "spark"}, "handler": "any-spark"},
            ],
        });
        Routes::new(&serde_json::from_value(config).expect("config"))
    }

    #[test]
    fn the_first_route_that_matches_all_it_names_decides() {
        for (pipeline, arguments, handler) in [
            ("train-a", json!({"task": "spark", "size": 5.0, "x": null}), "spark"),
            ("train-a", json!({"task": "spark"}), "train"),
            ("score", json!({"task": "spark"}), "any-spark"),
            ("score", json!({"task": "Spark"}), "other"),
            ("score", json!("spark"), "other"),
            ("Train-A", json!({"task": "spark"}), "train"),
        ] {
            assert_eq!(
                routes().handler(pipeline, &arguments).map(AsRef::as_ref),
                Some(handler),
                "{pipeline} {arguments}"
            );
        }
    }

    #[test]
    fn globs_match_as_in_a_shell() {
        for (glob, text, matches) in [
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*a*b*", "xxaxxbxx", true),
            ("", "a", false),
            ("Train-*", "train-a", true),
            ("train-?", "TRAIN-A", true),
        ] {
            assert_eq!(
                WildMatch::new_case_insensitive(glob).matches(text),
                matches,
                "{glob} {text}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_text_with_parts_replaced_by_stars_matches_itself(text in "[ab]{0,12}", keep in prop::collection::vec(any::<bool>(), 12)) {
            let glob: String = text.chars().zip(&keep).map(|(c, keep)| if *keep { c } else { '*' }).collect();
            prop_assert!(WildMatch::new_case_insensitive(&glob).matches(&text));
            let longer = format!("{text}c");
            prop_assert!(!WildMatch::new_case_insensitive(&text).matches(&longer));
        }
    }
}
