//! Checks the layers of `src/lib.rs`, and rules for every file, against the source itself.

#![allow(clippy::expect_used, reason = "a test says what it expected")]

#[path = "architecture/events.rs"]
mod events;
#[path = "architecture/scan.rs"]
mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use scan::Code;

/// Exactly which other modules each module uses. A new entry is a decision about the design.
const LAYERS: &[(&str, &[&str])] = &[
    ("backoff", &[]),
    ("causes", &[]),
    ("clock", &[]),
    ("duration", &[]),
    ("hex", &[]),
    ("secret", &[]),
    ("trust", &[]),
    ("step", &[]),
    ("outcome", &["hex", "step"]),
    ("seam", &["outcome", "step"]),
    ("handler", &["causes", "outcome", "step"]),
    ("testing", &["handler", "step"]),
    ("builtin", &["backoff", "causes", "duration", "handler", "hex", "outcome", "secret", "trust"]),
    ("lifecycle", &["backoff", "duration", "outcome", "seam", "step"]),
    ("ledger", &["clock", "duration", "hex", "lifecycle", "outcome", "seam", "step"]),
    (
        "engine",
        &[
            "backoff",
            "clock",
            "duration",
            "handler",
            "ledger",
            "lifecycle",
            "outcome",
            "seam",
            "step",
        ],
    ),
    (
        "aws",
        &[
            "backoff",
            "causes",
            "clock",
            "duration",
            "hex",
            "ledger",
            "lifecycle",
            "outcome",
            "seam",
            "step",
            "trust",
        ],
    ),
    ("local", &["duration", "hex"]),
    ("observe", &["causes", "secret"]),
    // The files by which commands pause and resume queues of a running daemon.
    ("orders", &["step"]),
    ("process", &["backoff", "causes"]),
    (
        "config",
        &["aws", "builtin", "duration", "engine", "handler", "ledger", "observe", "orders", "step"],
    ),
    // Stands between the seams and the code that uses them, in debug builds.
    ("crash", &["clock", "handler", "ledger", "lifecycle", "outcome", "seam", "step"]),
    (
        "daemon",
        &[
            "aws",
            "causes",
            "clock",
            "config",
            "crash",
            "duration",
            "engine",
            "handler",
            "ledger",
            "lifecycle",
            "observe",
            "orders",
            "outcome",
            "process",
            "seam",
            "step",
            "trust",
        ],
    ),
    (
        "cli",
        &[
            "aws",
            "backoff",
            "config",
            "daemon",
            "duration",
            "engine",
            "handler",
            "ledger",
            "lifecycle",
            "local",
            "observe",
            "orders",
            "outcome",
            "process",
            "seam",
            "step",
        ],
    ),
    // The stock binary is a user of the library like any other.
    ("main", &[]),
];

/// Code that may start tasks and threads, because it joins them.
const OWNERS: &[&str] = &[
    "src/engine/",
    // The status server and the scale-in protection of the process that it assembles.
    "src/daemon/",
    // The endpoint's own server.
    "src/local/",
    "src/cli/",
    // The threads that exclusively use a connection to the file.
    "src/ledger/sqlite/thread.rs",
    // The thread that lists what the file holds, joined before the file is closed.
    "src/ledger/sqlite/known.rs",
    // The thread that waits for changes of programs' files.
    "src/builtin/exec/watch.rs",
    // A run under test, aborted when the test drops it.
    "src/testing/run.rs",
    // The thread that writes the log, and may hang in a write.
    "src/observe/writer.rs",
];

/// Calls that start a task or a thread, or hold started ones.
const SPAWNING: [&str; 11] = [
    "tokio::spawn",
    "task::spawn",
    "thread::spawn",
    "spawn_blocking",
    "spawn_local",
    "thread::Builder",
    "thread::scope",
    "TaskTracker",
    "JoinSet",
    "Handle::current",
    "block_on",
];

/// A file beyond this is about more than one thing.
const LINES: usize = 440;

/// The files of these modules in an order in which each uses only those before it, so there are no
/// circles. A directory counts as one.
const ORDERS: &[(&str, &[&str])] = &[
    (
        "engine",
        &[
            "accounts",
            "config",
            "route",
            "phase",
            "pause",
            "said",
            "waiting",
            "impaired",
            "limits",
            "handlers",
            "missing",
            "budget",
            "gates",
            "messages",
            "watch",
            "polls",
            "progress",
            "endings",
            "printed",
            "inbox",
            "moments",
            "orphans",
            "lane",
            "shared",
            "ask",
            "report",
            "running",
            "driver",
            "dispatch",
            "delivery",
            "pollers",
            "due",
            "completed",
            "lease",
            "looks",
            "bodies",
            "reap",
            "fleet",
            "evidence",
            "sweep",
            "drain",
            "monitor",
            "intake",
            "retries",
            "answers",
            "settings",
        ],
    ),
    (
        "aws",
        &[
            "config",
            "credentials",
            "faults",
            "roots",
            "http",
            "calls",
            "outside",
            "account",
            "profile",
            "helper",
            "chain",
            "role",
            "sagemaker",
            "sqs",
            "backlog",
            "dynamodb",
            "spot",
            "clients",
            "executions",
            "server",
            "doctor",
            "probe",
        ],
    ),
];

/// A file of the product: its path from the root, and its code.
struct Source {
    path: String,
    code: Code,
}

/// What is wrong, with file and line.
type Rule = fn(&Source) -> Vec<String>;

const RULES: &[(&str, Rule)] = &[
    ("AWS types stay in src/aws", aws_types_stay_in_aws),
    ("tasks and threads have an owner", tasks_have_an_owner),
    ("no field of a log line takes the place of its text", no_field_is_a_message),
    (
        "a message is deleted by src/engine/messages/work.rs, or once its copy is sent",
        one_place_deletes,
    ),
    ("what is decided does nothing itself", decisions_are_pure),
    ("a file is about one thing", files_are_short),
    ("a run can be repeated", nothing_is_left_to_chance),
];

fn aws_types_stay_in_aws(source: &Source) -> Vec<String> {
    if source.path.starts_with("src/aws/") {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (at, _) in source.code.text.match_indices("aws_") {
        let path: String = source.code.text[at..]
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        let starts = !source.code.text[..at]
            .ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '.');
        if starts && source.code.text[at + path.len()..].starts_with("::") {
            found.push(source.at(source.code.line(at), &path));
        }
    }
    found
}

fn tasks_have_an_owner(source: &Source) -> Vec<String> {
    if OWNERS.iter().any(|owner| source.path.starts_with(owner)) {
        return Vec::new();
    }
    source.mentions(&SPAWNING)
}

/// Whatever the simulation replays from a seed must not depend on hashes, nor on tokio's own random
/// choices.
fn nothing_is_left_to_chance(source: &Source) -> Vec<String> {
    let replayed =
        ["src/engine/", "src/ledger/", "src/lifecycle/", "src/local/", "src/daemon/", "src/aws/"];
    if !replayed.iter().any(|part| source.path.starts_with(part)) {
        return Vec::new();
    }
    let mut found = source.mentions(&["HashMap", "HashSet", "futures_util::select"]);
    for (at, text) in source.code.text.match_indices("select! {") {
        if !source.code.text[at + text.len()..].trim_start().starts_with("biased;") {
            found.push(source.at(source.code.line(at), "select! without `biased`"));
        }
    }
    found
}

/// tracing keeps a line's text in a field of this name. A span has no text, and an event only its
/// own.
fn no_field_is_a_message(source: &Source) -> Vec<String> {
    const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
    let events = LEVELS.iter().map(|level| (*level).to_owned()).chain(["event".to_owned()]);
    let spans = LEVELS.iter().map(|level| format!("{level}_span")).chain(["span".to_owned()]);
    // Arguments after an event's text are formatted into it.
    let fields_of_event = |(line, arguments): (usize, Vec<&str>)| {
        let before = arguments
            .iter()
            .position(|argument| argument.trim().is_empty())
            .unwrap_or(arguments.len());
        arguments[..before].iter().any(|argument| names_message(argument)).then_some(line)
    };
    let fields_of_span = |(line, arguments): (usize, Vec<&str>)| {
        arguments.iter().any(|argument| names_message(argument)).then_some(line)
    };
    let mut lines: Vec<usize> =
        events.flat_map(|name| source.code.calls(&name)).filter_map(fields_of_event).collect();
    lines.extend(spans.flat_map(|name| source.code.calls(&name)).filter_map(fields_of_span));
    let recorded = source.code.text.match_indices(".record(");
    lines.extend(
        recorded
            .filter(|(at, call)| {
                source.code.text[at + call.len()..].trim_start().starts_with("\"message\"")
            })
            .map(|(at, _)| source.code.line(at)),
    );
    let mut found: Vec<String> =
        lines.into_iter().map(|line| source.at(line, "a field `message`")).collect();
    // It makes fields of a function's parameters, whatever they are called.
    found.extend(source.mentions(&["#[instrument", "#[tracing::instrument"]));
    found
}

/// `message`, `%message`, `message = …`, `"message" = …`.
fn names_message(field: &str) -> bool {
    let field = field.trim().trim_start_matches(['%', '?']);
    let (name, is_set) = match field.split_once('=') {
        Some((name, value)) => (name.trim(), !value.starts_with('=')),
        None => (field, false),
    };
    match name.trim_start_matches("r#") {
        "message" => is_set || !field.contains('='),
        "\"message\"" => is_set,
        _ => false,
    }
}

fn one_place_deletes(source: &Source) -> Vec<String> {
    const PLACES: [&str; 3] = [
        "src/engine/messages/work.rs",
        // A crash is placed around a deletion.
        "src/crash.rs",
        // A message in a dead-letter queue, of which a copy was put on the queue before.
        "src/cli/reconcile/dead_letters.rs",
    ];
    // The local endpoint deletes its own messages when a client asks.
    if PLACES.contains(&source.path.as_str()) || source.path.starts_with("src/local/") {
        return Vec::new();
    }
    source.mentions(&["queue.delete(", "Queue::delete"])
}

fn decisions_are_pure(source: &Source) -> Vec<String> {
    if !["src/lifecycle/", "src/backoff.rs", "src/step/", "src/outcome.rs"]
        .iter()
        .any(|at| source.path.starts_with(at))
    {
        return Vec::new();
    }
    source.mentions(&[
        "async",
        "tokio",
        "fs::",
        "net::",
        "env::",
        "fastrand",
        "Timestamp::now",
        "thread",
        "tracing",
    ])
}

fn files_are_short(source: &Source) -> Vec<String> {
    let lines = source.code.lines;
    if lines > LINES {
        vec![format!("{}: {lines} lines before its tests, not {LINES}", source.path)]
    } else {
        vec![]
    }
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), code: Code::of(text) }
    }

    fn at(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }

    fn mentions(&self, words: &[&str]) -> Vec<String> {
        words
            .iter()
            .flat_map(|word| self.code.find(word).into_iter().map(|line| self.at(line, word)))
            .collect()
    }

    /// `engine` for `src/engine/poll.rs` and for `src/engine.rs`.
    fn module(&self) -> &str {
        let path = self.path.strip_prefix("src/").unwrap_or(&self.path);
        path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
    }

    /// How many `super`s lead to the crate root.
    fn depth(&self) -> usize {
        self.path.matches('/').count() - usize::from(self.path.ends_with("/mod.rs"))
    }

    /// Which part of its module it is: `poll` for `src/engine/poll.rs`, `driver` for
    /// `src/engine/driver/apply.rs`.
    fn part(&self) -> &str {
        let below = self.path.splitn(3, '/').nth(2).unwrap_or_default();
        below.split('/').next().unwrap_or(below).trim_end_matches(".rs")
    }

    /// The other parts of its module that it names.
    fn siblings(&self) -> BTreeSet<String> {
        let mut used = self
            .named(&[format!("crate::{}::", self.module()), "super::".repeat(self.depth() - 1)]);
        used.remove(self.part());
        used
    }

    /// The other modules that it names.
    fn uses(&self) -> BTreeSet<String> {
        let mut used = self.named(&[
            "crate::".to_owned(),
            "super::".repeat(self.depth()),
            "callbackd::".to_owned(),
        ]);
        used.remove(self.module());
        used
    }

    /// What it names below any of these.
    fn named(&self, roots: &[String]) -> BTreeSet<String> {
        let mut used = BTreeSet::new();
        for root in roots {
            for (at, _) in self.code.text.match_indices(root) {
                let before = &self.code.text[..at];
                if !before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                    used.extend(first_name(&self.code.text[at + root.len()..]));
                }
            }
            let group = format!("{root}{{");
            used.extend(groups(&self.code.text, &group).into_iter().flatten());
        }
        used
    }
}

fn first_name(text: &str) -> Option<String> {
    let name: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// For each `use` of several names at once, the first segment of each.
fn groups(text: &str, opening: &str) -> Vec<Vec<String>> {
    let group = |at: usize| {
        let mut depth = 0_usize;
        let mut names = vec![String::new()];
        let mut first_segment = true;
        for c in text[at + opening.len()..].chars() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    names.push(String::new());
                    first_segment = true;
                }
                ':' => first_segment = false,
                c if first_segment && depth == 0 && (c.is_alphanumeric() || c == '_') => {
                    if let Some(name) = names.last_mut() {
                        name.push(c);
                    }
                }
                // `a as b`
                _ if names.last().is_some_and(|name| !name.is_empty()) => first_segment = false,
                _ => {}
            }
        }
        names.retain(|name| !name.is_empty());
        names
    };
    text.match_indices(opening).map(|(at, _)| group(at)).collect()
}

/// The longest line of prose. rustfmt holds code to the same, except for macros and long literals.
const COLUMNS: usize = 100;
/// Words for which plain English has others: someone, anyone who, fix, indefinitely.
const WORDS: [&str; 4] = ["somebody", "whoever", "mend", "for ever"];

#[test]
fn prose_keeps_to_its_columns_and_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["src", "tests", "examples", "config", "deploy"];
    let mut paths: Vec<String> =
        folders.iter().flat_map(|folder| files(&root.join(folder))).collect();
    paths.extend(["README.md", "CHANGELOG.md"].map(|name| root.join(name).display().to_string()));
    let mut found = Vec::new();
    for path in paths.iter().filter(|path| !path.contains("/fuzz/") && !path.contains("/target/")) {
        let Ok(text) = fs::read_to_string(path) else { continue };
        let kind = Path::new(path).extension().and_then(|kind| kind.to_str()).unwrap_or_default();
        for (number, line) in prose(kind, &text) {
            if line.chars().count() > COLUMNS {
                found.push(format!("{path}:{number}: longer than {COLUMNS} columns"));
            }
            let lower = line.to_lowercase();
            let says = |word: &&&str| {
                let is_part = |c: char| c.is_alphanumeric();
                lower.match_indices(**word).any(|(at, _)| {
                    let after = lower[at + word.len()..].chars().next();
                    !lower[..at].ends_with(is_part) && !after.is_some_and(is_part)
                })
            };
            found.extend(
                WORDS.iter().filter(says).map(|word| format!("{path}:{number}: says {word:?}")),
            );
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// The lines of comments and of Markdown, by their numbers, without code, tables and links alone.
fn prose<'a>(kind: &str, text: &'a str) -> Vec<(usize, &'a str)> {
    let mut is_code = false;
    let mut lines = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let words = match kind {
            "rs" => ["/// ", "//! ", "// "].iter().find_map(|mark| line.trim().strip_prefix(mark)),
            "toml" | "service" | "conf" => line.strip_prefix("# "),
            "md" => Some(line),
            _ => None,
        };
        let Some(words) = words else { continue };
        if words.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code && !words.starts_with(['|', '<']) {
            lines.push((at + 1, line));
        }
    }
    lines
}

/// Every file of the product; those that are tests as a whole are left out.
fn product() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources: Vec<Source> = files(&root.join("src"))
        .into_iter()
        .filter(|path| Path::new(path).extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let name = Path::new(&path)
                .strip_prefix(root)
                .expect("below the root")
                .to_str()
                .expect("UTF-8")
                .to_owned();
            Source::new(&name, &fs::read_to_string(&path).expect("readable"))
        })
        .collect();
    let mut tests = BTreeSet::new();
    let mut folders = Vec::new();
    for source in &sources {
        let folder = source
            .path
            .strip_suffix("/mod.rs")
            .or_else(|| source.path.strip_suffix(".rs"))
            .expect("a file");
        let folder = if ["src/lib", "src/main"].contains(&folder) { "src" } else { folder };
        for module in &source.code.test_modules {
            tests.insert(format!("{folder}/{module}.rs"));
            folders.push(format!("{folder}/{module}/"));
        }
    }
    let is_test = |path: &String| {
        tests.contains(path) || folders.iter().any(|folder| path.starts_with(folder))
    };
    sources.retain(|source| !is_test(&source.path));
    sources
}

fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path.to_str().expect("UTF-8").to_owned());
        }
    }
    found.sort();
    found
}

#[test]
fn every_module_uses_what_its_layer_may_and_nothing_else() {
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in product().iter().filter(|source| source.path != "src/lib.rs") {
        // Types at the root are re-exports, for users.
        let from_outside = source.path == "src/main.rs";
        let named = source
            .uses()
            .into_iter()
            .filter(|name| !from_outside || name.starts_with(char::is_lowercase));
        used.entry(source.module().to_owned()).or_default().extend(named);
    }
    let allowed = LAYERS
        .iter()
        .map(|(name, uses)| ((*name).to_owned(), uses.iter().map(|u| (*u).to_owned()).collect()));
    let allowed: BTreeMap<String, BTreeSet<String>> = allowed.collect();
    for (module, uses) in &used {
        assert_eq!(Some(uses), allowed.get(module), "what `{module}` uses is not what LAYERS says");
    }
    assert_eq!(used.len(), allowed.len(), "LAYERS has a module that is not there");
}

#[test]
fn the_layers_have_no_circle() {
    for (at, (module, uses)) in LAYERS.iter().enumerate() {
        for used in *uses {
            let below = LAYERS[..at].iter().any(|(name, _)| name == used);
            assert!(below, "`{module}` uses `{used}`, which does not stand before it");
        }
    }
}

/// Earlier files that use later ones.
fn against_the_order(sources: &[Source], module: &str, order: &[&str]) -> Vec<String> {
    let place = |part: &str| order.iter().position(|other| *other == part);
    let files = sources.iter().filter(|source| source.module() == module && source.part() != "mod");
    let mut found = Vec::new();
    for source in files {
        match place(source.part()) {
            None => found.push(format!("{} is not in the order", source.path)),
            Some(here) => found.extend(
                source
                    .siblings()
                    .iter()
                    .filter(|used| place(used).is_some_and(|there| there > here))
                    .map(|used| {
                        format!("{} uses {used}, which does not stand before it", source.path)
                    }),
            ),
        }
    }
    found
}

#[test]
fn no_circle_is_among_the_files_of_the_engine_and_of_aws() {
    let sources = product();
    for (module, order) in ORDERS {
        let found = against_the_order(&sources, module, order);
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}

#[test]
fn the_source_keeps_every_rule() {
    let sources = product();
    assert!(sources.len() > 50, "only {} files were found", sources.len());
    for (name, rule) in RULES {
        let broken: Vec<String> = sources.iter().flat_map(rule).collect();
        assert!(broken.is_empty(), "{name}:\n{}", broken.join("\n"));
    }
}

#[test]
fn the_repository_stands_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Built here, so that this file does not break the rule itself.
    let private =
        [["..", "/shared"].concat(), ["DESIGN", ".md"].concat(), ["FACTS", ".md"].concat()];
    let folders = ["src", "tests", "config", "deploy", "examples", ".ci", ".cargo"];
    let mut paths: Vec<String> =
        folders.iter().flat_map(|folder| files(&root.join(folder))).collect();
    for entry in fs::read_dir(root).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            paths.push(path.to_str().expect("UTF-8").to_owned());
        }
    }
    for path in paths {
        let text = String::from_utf8_lossy(&fs::read(&path).expect("readable")).into_owned();
        for name in &private {
            assert!(
                !text.contains(name),
                "{path} speaks of {name}, which nobody has who has this repository"
            );
        }
    }
}

mod each_rule_can_fail {
    use super::*;

    #[test]
    fn a_circle_among_files_is_seen() {
        let sources = [
            Source::new("src/engine/lane.rs", "use super::driver::Input;"),
            Source::new("src/engine/driver/mod.rs", "use super::lane::Lane;"),
            Source::new("src/engine/driver/apply.rs", "use super::super::{ask, lane};"),
        ];
        let found = against_the_order(&sources, "engine", &["lane", "driver", "ask"]);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(against_the_order(&sources[1..2], "engine", &["lane", "driver"]).is_empty());
    }

    fn uses(path: &str, text: &str) -> Vec<String> {
        Source::new(path, text).uses().into_iter().collect()
    }

    #[test]
    fn a_use_is_seen_however_it_is_written() {
        for text in [
            "use crate::engine::Engine;",
            "use crate::{duration, engine::{self, Engine}};",
            "fn f() { crate::engine::start() }",
            "#[serde(with = \"crate::engine\")] x: u8,",
            "pub(in crate::engine) fn f() {}",
        ] {
            assert!(uses("src/ledger/file.rs", text).contains(&"engine".to_owned()), "{text}");
        }
        assert_eq!(uses("src/ledger/mod.rs", "use super::engine::Engine;"), ["engine"]);
        assert_eq!(uses("src/ledger/file.rs", "use super::super::engine;"), ["engine"]);
        assert_eq!(uses("src/daemon.rs", "use super::{engine, step as s};"), ["engine", "step"]);
    }

    #[test]
    fn what_is_no_use_is_not_taken_for_one() {
        for text in [
            "// crate::engine",
            "use super::engine;",
            "use crate::ledger::engine;",
            "\"see crate::engine\"",
            "mycrate::engine",
            "#[cfg(test)]\nmod tests { use crate::engine; }",
        ] {
            assert_eq!(uses("src/ledger/file.rs", text), Vec::<String>::new(), "{text}");
        }
    }

    /// The rule's findings in the file at `path` that consists of `text`.
    fn broken(rule: Rule, path: &str, text: &str) -> usize {
        rule(&Source::new(path, text)).len()
    }

    #[test]
    fn an_aws_type_beside_src_aws() {
        let text = "fn f(x: aws_sdk_sqs::Client) {}";
        assert_eq!(broken(aws_types_stay_in_aws, "src/engine/mod.rs", text), 1);
        assert_eq!(broken(aws_types_stay_in_aws, "src/aws/sqs.rs", text), 0);
        assert_eq!(
            broken(
                aws_types_stay_in_aws,
                "src/engine/mod.rs",
                "metrics.aws_request(aws_section::<u8>)"
            ),
            1
        );
        assert_eq!(broken(aws_types_stay_in_aws, "src/engine/mod.rs", "metrics.aws_request(1)"), 0);
    }

    #[test]
    fn a_task_that_nobody_owns() {
        for text in [
            "tokio::spawn(f())",
            "use tokio::task; task::spawn(f())",
            "JoinSet::new()",
            "std::thread::spawn(f)",
        ] {
            assert!(broken(tasks_have_an_owner, "src/observe/log.rs", text) > 0, "{text}");
            assert_eq!(broken(tasks_have_an_owner, "src/engine/poll.rs", text), 0);
        }
        assert_eq!(
            broken(tasks_have_an_owner, "src/builtin/exec/program.rs", "command.spawn()"),
            0
        );
    }

    #[test]
    fn a_field_that_is_called_message() {
        for text in [
            "tracing::warn!(message = text, \"x\");",
            "tracing::warn!(%error, message, \"x\");",
            "warn!(\n    message,\n    \"x\"\n);",
            "tracing::error!(%message, \"x\")",
            "info!(?message)",
            "debug!(r#message = 1)",
            "trace!(\"message\" = 1, \"x\")",
            "info!(target: \"x\", count = f(|| { 1; 2 }), message = 1, \"x\")",
            "info!({ message = 1 }, \"x\")",
            "tracing::event!(Level::INFO, message = 1, \"x\")",
            "error_span!(\"step\", token, message = tracing::field::Empty)",
            "tracing::span!(Level::INFO, \"step\", message)",
            "span.record(\"message\", 1)",
            "#[tracing::instrument]\nfn f(message: u8) {}",
        ] {
            assert_eq!(broken(no_field_is_a_message, "src/engine/x.rs", text), 1, "{text}");
        }
        for text in [
            "tracing::warn!(messages, message_id = 1, \"x {}\", message)",
            "warn!(text = message == other, \"a message\")",
            "warn!(detail = message, \"x\")",
            "warn!(\"{message}\", message = 1)",
            "error_span!(\"message\", token)",
            "format!(\"{}\", message)",
            "span.record(\"token\", message)",
        ] {
            assert_eq!(broken(no_field_is_a_message, "src/engine/x.rs", text), 0, "{text}");
        }
    }

    #[test]
    fn a_second_place_that_deletes() {
        assert_eq!(
            broken(one_place_deletes, "src/engine/poll.rs", "queue.delete(&handles).await"),
            1
        );
        assert_eq!(
            broken(
                one_place_deletes,
                "src/engine/messages/work.rs",
                "queue.delete(&handles).await"
            ),
            0
        );
        assert_eq!(broken(one_place_deletes, "src/aws/sqs.rs", "fn delete(&self)"), 0);
    }

    #[test]
    fn a_choice_left_to_chance() {
        let chancy =
            ["use std::collections::HashMap;", "fn f() { tokio::select! { a = b => {} } }"];
        for text in chancy {
            assert_eq!(broken(nothing_is_left_to_chance, "src/engine/x.rs", text), 1, "{text}");
            assert_eq!(broken(nothing_is_left_to_chance, "src/process/x.rs", text), 0, "{text}");
        }
        let text = "fn f() { tokio::select! { biased; a = b => {} } }";
        assert_eq!(broken(nothing_is_left_to_chance, "src/engine/x.rs", text), 0);
    }

    #[test]
    fn a_decision_that_looks_around() {
        for text in ["async fn f() {}", "Timestamp::now()", "std::fs::read(x)", "fastrand::f64()"] {
            assert_eq!(broken(decisions_are_pure, "src/lifecycle/machine.rs", text), 1, "{text}");
            assert_eq!(broken(decisions_are_pure, "src/engine/mod.rs", text), 0);
        }
    }

    #[test]
    fn a_file_that_goes_on_and_on() {
        let lines = "x\n".repeat(LINES);
        assert_eq!(broken(files_are_short, "src/duration.rs", &lines), 0);
        assert_eq!(broken(files_are_short, "src/duration.rs", &format!("{lines}x\n")), 1);
        assert_eq!(
            broken(
                files_are_short,
                "src/duration.rs",
                &format!("{lines}#[cfg(test)]\nmod tests {{\n\n}}")
            ),
            0
        );
    }
}
