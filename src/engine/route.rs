//! Which handler runs a step: that of the first route that matches its pipeline and arguments, else
//! the queue's own.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};
use wildmatch::WildMatch;

use super::config::QueueConfig;

/// The routes of one queue.
#[derive(Clone, Debug)]
pub struct Routes {
    in_order: Vec<Route>,
    otherwise: Option<Arc<str>>,
    /// The names of all handlers, each once.
    names: Vec<String>,
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    pipeline: Option<Glob>,
    arguments: Map<String, Value>,
    pub handler: Arc<str>,
}

#[derive(Clone, Debug)]
struct Glob {
    text: String,
    compiled: WildMatch,
}

/// What keeps a step from a route.
#[derive(Clone, Debug, PartialEq)]
pub enum Difference<'a> {
    /// The pipeline's name does not match the glob.
    Pipeline(&'a str),
    /// The argument of this name is not the route's.
    Argument { name: &'a str, expected: &'a Value, found: Option<&'a Value> },
}

/// The innermost values that differ: one of them is missing, or both are there.
#[derive(Clone, Debug, PartialEq)]
pub struct Differing<'a> {
    /// Such as `task` or `options.sizes[0]`.
    pub path: String,
    pub expected: Option<&'a Value>,
    pub found: Option<&'a Value>,
}

impl Routes {
    #[must_use]
    pub fn new(config: &QueueConfig) -> Self {
        let route = |route: &super::config::RouteConfig| Route {
            pipeline: route.pipeline.as_deref().map(Glob::new),
            arguments: route.arguments.clone(),
            handler: route.handler.as_str().into(),
        };
        let names: BTreeSet<&str> = config.handlers().collect();
        Self {
            in_order: config.routes.iter().map(route).collect(),
            otherwise: config.handler.as_deref().map(Into::into),
            names: names.into_iter().map(str::to_owned).collect(),
        }
    }

    /// The handler's name. The pipeline's name is compared without regard to case, because ARNs
    /// contain it in lower case. `None` if nothing matches and the queue has no handler of its own.
    #[must_use]
    pub fn handler(&self, pipeline: &str, arguments: &Value) -> Option<&Arc<str>> {
        let matching = self.in_order.iter().find(|route| route.matches(pipeline, arguments));
        matching.map(|route| &route.handler).or(self.otherwise.as_ref())
    }

    /// The names of the handlers that steps of the queue may get.
    pub fn handlers(&self) -> impl Iterator<Item = &str> + Clone {
        self.names.iter().map(String::as_str)
    }

    /// The same, for a text.
    #[must_use]
    pub fn listed(&self) -> String {
        self.names.join(", ")
    }

    /// The routes in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Route> {
        self.in_order.iter()
    }

    /// The handler of steps that no route matches.
    #[must_use]
    pub fn otherwise(&self) -> Option<&str> {
        self.otherwise.as_deref()
    }
}

impl Route {
    #[must_use]
    pub fn matches(&self, pipeline: &str, arguments: &Value) -> bool {
        self.differences(pipeline, arguments).next().is_none()
    }

    /// Each condition that a step does not meet.
    pub fn differences<'a>(
        &'a self,
        pipeline: &str,
        arguments: &'a Value,
    ) -> impl Iterator<Item = Difference<'a>> {
        let glob = self.pipeline.as_ref().filter(|glob| !glob.compiled.matches(pipeline));
        let differs = |(name, expected): (&'a String, &'a Value)| {
            let found = arguments.get(name);
            let is_equal = found.is_some_and(|found| equal(expected, found));
            (!is_equal).then_some(Difference::Argument { name, expected, found })
        };
        glob.map(|glob| Difference::Pipeline(&glob.text))
            .into_iter()
            .chain(self.arguments.iter().filter_map(differs))
    }
}

impl Glob {
    fn new(text: &str) -> Self {
        Self { text: text.to_owned(), compiled: WildMatch::new_case_insensitive(text) }
    }
}

impl<'a> Differing<'a> {
    /// The first that differs within the argument `name`.
    #[must_use]
    pub fn within(name: &str, expected: &'a Value, found: Option<&'a Value>) -> Self {
        let mut here = Self { path: name.to_owned(), expected: Some(expected), found };
        while let Some(inner) = here.inner() {
            here = inner;
        }
        here
    }

    fn inner(&self) -> Option<Self> {
        let (expected, found) = (self.expected?, self.found?);
        match (expected, found) {
            (Value::Object(expected), Value::Object(found)) => {
                let differs = |key: &&String| match (expected.get(*key), found.get(*key)) {
                    (Some(one), Some(other)) => !equal(one, other),
                    _ => true,
                };
                let key = expected.keys().chain(found.keys()).find(differs)?;
                let path = format!("{}.{key}", self.path);
                Some(Self { path, expected: expected.get(key), found: found.get(key) })
            }
            (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
                let mut pairs = expected.iter().zip(found).enumerate();
                let (at, (expected, found)) = pairs.find(|(_, (a, b))| !equal(a, b))?;
                let path = format!("{}[{at}]", self.path);
                Some(Self { path, expected: Some(expected), found: Some(found) })
            }
            _ => None,
        }
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
    fn a_route_names_each_condition_that_a_step_does_not_meet() {
        let routes = routes();
        let route = routes.iter().next().expect("the first");
        let (spark, five) = (json!("spark"), json!(5));
        let arguments = json!({"size": 6});
        let differences: Vec<_> = route.differences("score", &arguments).collect();
        assert_eq!(
            differences,
            [
                Difference::Pipeline("train-*"),
                Difference::Argument { name: "size", expected: &five, found: Some(&json!(6)) },
                Difference::Argument { name: "task", expected: &spark, found: None },
            ]
        );
        let fitting = json!({"task": "spark", "size": 5.0});
        assert_eq!(route.differences("TRAIN-A", &fitting).next(), None);
        assert_eq!((&*routes.listed(), routes.otherwise()), (ALL, Some("other")));
    }

    const ALL: &str = "any-spark, other, spark, train";

    #[test]
    fn the_innermost_values_that_differ_are_found() {
        let nothing = None::<Value>;
        for (expected, found, path, inner, other) in [
            (json!(1), nothing.clone(), "a", Some(json!(1)), nothing.clone()),
            (json!(1), Some(json!("1")), "a", Some(json!(1)), Some(json!("1"))),
            (
                json!({"b": 1, "c": {"d": [1, 2]}}),
                Some(json!({"b": 1.0, "c": {"d": [1, 3]}})),
                "a.c.d[1]",
                Some(json!(2)),
                Some(json!(3)),
            ),
            (
                json!({"b": 1}),
                Some(json!({"b": 1, "c": 2})),
                "a.c",
                nothing.clone(),
                Some(json!(2)),
            ),
            (json!({"b": 1}), Some(json!({})), "a.b", Some(json!(1)), nothing.clone()),
            (json!([1]), Some(json!([1, 2])), "a", Some(json!([1])), Some(json!([1, 2]))),
        ] {
            let differing = Differing::within("a", &expected, found.as_ref());
            let wants = Differing {
                path: path.to_owned(),
                expected: inner.as_ref(),
                found: other.as_ref(),
            };
            assert_eq!(differing, wants);
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
