//! What is built on `/metrics`, held to Prometheus' own tool: names, alert rules and their tests,
//! the dashboard, and the runbook.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::exposition::assert_metrics_are_well;
use crate::{parsed, read_by_python, used};

/// Prometheus makes it itself, for each scrape.
const OF_PROMETHEUS: &str = "up";

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(deploy(name)).unwrap_or_else(|error| panic!("deploy/{name}: {error}"))
}

fn yaml(name: &str) -> Value {
    read_by_python("load.py", &text(name))
}

/// What promtool prints if it finds no fault.
fn promtool(arguments: &[&str], file: &Path) -> String {
    let output = Command::new("promtool").args(arguments).arg(file).output();
    let output = output.unwrap_or_else(|error| {
        panic!("promtool does not run ({error}): apt-get install prometheus")
    });
    let printed =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(
        output.status.success(),
        "promtool {arguments:?} {}\n{}",
        file.display(),
        printed.concat()
    );
    printed.concat()
}

fn rules() -> Vec<Value> {
    let groups = yaml("prometheus/alerts.yml");
    let groups = groups["groups"].as_array().expect("groups").iter();
    groups.flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
}

fn field<'a>(value: &'a Value, pointer: &str) -> &'a str {
    let found = value.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_else(|| panic!("{pointer} is missing: {value}"))
}

/// The metrics that an expression names.
fn named(expression: &str) -> BTreeSet<&str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words
        .filter(|word| {
            word.starts_with("callbackd_") || word.starts_with("process_") || *word == OF_PROMETHEUS
        })
        .collect()
}

/// All samples of a daemon whose every metric has been used.
fn samples() -> Value {
    parsed(&used().exposition().expect("it is written to memory"))
}

/// That an expression names metrics, and that the daemon has each of them.
fn assert_there(samples: &Value, expression: &str, place: &str) {
    let named = named(expression);
    assert!(!named.is_empty(), "{place} names no metric: {expression}");
    for metric in named {
        let is_there = metric == OF_PROMETHEUS || !samples[metric].is_null();
        assert!(is_there, "{place}: the daemon has no metric {metric}");
    }
}

#[test]
fn promtool_finds_no_fault_in_names_and_types() {
    assert_metrics_are_well(&used().exposition().expect("it is written to memory"));
}

#[test]
fn every_rule_is_valid_and_its_metrics_exist() {
    promtool(&["check", "rules", "--lint-fatal"], &deploy("prometheus/alerts.yml"));
    let samples = samples();
    for rule in rules() {
        let alert = field(&rule, "/alert");
        assert_there(&samples, field(&rule, "/expr"), alert);
        assert!(["critical", "warning"].contains(&field(&rule, "/labels/severity")), "{alert}");
        for annotation in ["summary", "description"] {
            assert!(!field(&rule, &format!("/annotations/{annotation}")).is_empty(), "{alert}");
        }
        let anchor = format!("deploy/README.md#{}", alert.to_lowercase());
        assert_eq!(field(&rule, "/annotations/runbook"), anchor, "{alert}");
    }
}

#[test]
fn every_rule_fires_for_some_series_and_is_silent_for_others() {
    promtool(&["test", "rules"], &deploy("prometheus/alerts_test.yml"));
    let tests = yaml("prometheus/alerts_test.yml");
    let (samples, mut seen) = (samples(), BTreeSet::new());
    for test in tests["tests"].as_array().expect("tests") {
        let expected = &test["promql_expr_test"][0];
        let quoted: Vec<&str> = field(expected, "/expr").split('"').collect();
        assert_eq!((quoted[0], quoted[3]), ("ALERTS{alertname=", "firing"), "{expected}");
        for series in test["input_series"].as_array().expect("series") {
            let name = field(series, "/series").split('{').next().expect("a name");
            assert_there(&samples, name, field(test, "/name"));
        }
        let fires = expected["exp_samples"].as_array().is_some_and(|samples| !samples.is_empty());
        seen.insert((quoted[1].to_owned(), fires));
    }
    let wanted: BTreeSet<(String, bool)> = rules()
        .iter()
        .flat_map(|rule| [true, false].map(|fires| (field(rule, "/alert").to_owned(), fires)))
        .collect();
    assert_eq!(seen, wanted);
}

#[test]
fn the_runbook_has_each_rule_with_its_severity_and_a_section() {
    let readme = text("README.md");
    let rules = rules();
    let rows: BTreeSet<String> = readme
        .lines()
        .filter(|line| line.starts_with("| [`Callbackd"))
        .map(str::to_owned)
        .collect();
    let wanted: BTreeSet<String> = rules
        .iter()
        .map(|rule| {
            let (alert, severity) = (field(rule, "/alert"), field(rule, "/labels/severity"));
            let summary = field(rule, "/annotations/summary").trim_end_matches('.');
            format!("| [`{alert}`](#{}) | {severity} | {summary} |", alert.to_lowercase())
        })
        .collect();
    assert_eq!(rows, wanted);

    let sections: BTreeMap<&str, &str> = readme
        .split("\n### Callbackd")
        .skip(1)
        .filter_map(|section| section.split("\n## ").next()?.split_once('\n'))
        .collect();
    assert_eq!(sections.len(), rules.len(), "{:?}", sections.keys());
    for rule in &rules {
        let alert = field(rule, "/alert").trim_start_matches("Callbackd");
        let section = sections.get(alert).unwrap_or_else(|| panic!("no section for {alert}"));
        for part in [field(rule, "/annotations/summary"), "- *Look at:* ", "- *Do:* "] {
            assert!(section.contains(part), "{alert}: {part}");
        }
    }
}

/// The panels, and the expressions of their targets with a value for each of Grafana's variables.
fn dashboard() -> (Value, Vec<String>) {
    let dashboard: Value =
        serde_json::from_str(&text("grafana/callbackd.json")).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut variables = vec![("$__rate_interval".to_owned(), "5m")];
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        variables.push((format!("${}", field(variable, "/name")), ".*"));
    }
    let expressions: Vec<String> = targets
        .map(|target| {
            let written = field(target, "/expr").to_owned();
            variables.iter().fold(written, |text, (name, value)| text.replace(name, value))
        })
        .collect();
    (dashboard, expressions)
}

#[test]
fn every_expression_of_the_dashboard_is_parsed_and_its_metrics_exist() {
    let (_, expressions) = dashboard();
    let records: Vec<Value> = expressions
        .iter()
        .enumerate()
        .map(|(n, expression)| json!({ "record": format!("panel:{n}"), "expr": expression }))
        .collect();
    assert!(records.len() > 40, "{}", records.len());
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rules.json");
    // JSON is YAML.
    let rules = json!({ "groups": [{ "name": "dashboard", "rules": records }] });
    fs::write(&file, rules.to_string()).expect("it is writable");
    promtool(&["check", "rules"], &file);
    let samples = samples();
    for expression in &expressions {
        assert!(!expression.contains('$'), "an unknown variable: {expression}");
        assert_there(&samples, expression, "the dashboard");
    }
}

#[test]
fn the_dashboard_needs_no_plugin_and_no_data_source_of_its_authors() {
    let (dashboard, _) = dashboard();
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<String> = panels.iter().map(|panel| panel["id"].to_string()).collect();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    for panel in panels {
        let kind = field(panel, "/type");
        assert!(["row", "stat", "timeseries"].contains(&kind), "{kind}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            assert_eq!(field(target, "/datasource/uid"), "${datasource}", "{target}");
        }
    }
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let names: Vec<&str> = variables.iter().map(|variable| field(variable, "/name")).collect();
    assert_eq!(names, ["datasource", "instance", "queue", "handler"]);
}

#[test]
fn the_dashboard_or_an_alert_uses_each_metric_of_ours() {
    let (_, mut expressions) = dashboard();
    expressions.extend(rules().iter().map(|rule| field(rule, "/expr").to_owned()));
    let all = expressions.join("\n");
    let used_names = named(&all);
    let samples = samples();
    for name in samples.as_object().expect("samples").keys() {
        // Of a histogram, the buckets are used.
        if !name.ends_with("_sum") && !name.ends_with("_count") && !name.ends_with("_created") {
            assert!(used_names.contains(name.as_str()), "nothing shows {name}");
        }
    }
}
