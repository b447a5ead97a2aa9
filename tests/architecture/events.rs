//! Holds together what the log says: the call sites in `src`, the codes, and `deploy/messages.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use callbackd::observe::events::{CODES, OTHER_CRATE, code_of};

use super::{Source, product};

/// What all lines of one event have in common.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    level: &'static str,
    text: String,
    fields: BTreeSet<String>,
}

/// The conditions that only commands have, as their last words.
const LAST_WORDS: std::ops::Range<u16> = 520..530;

fn is_last_words(code: u16) -> bool {
    code == 1 || (12..100).contains(&code) || LAST_WORDS.contains(&code)
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect("readable")
}

/// A line's text as the table has it.
fn shown(literal: &str) -> String {
    let (mut out, mut depth) = (String::new(), 0);
    let mut rest = literal;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' if rest.starts_with('\n') => rest = rest.trim_start(),
            '{' => {
                depth += 1;
                out.push('…');
            }
            '}' => depth -= 1,
            c if depth == 0 => out.push(c),
            _ => {}
        }
    }
    out.replace("\\\"", "\"")
}

/// The calls of `source` at `level`; `Err` names a call that breaks a rule.
fn told(
    source: &Source,
    original: &str,
    level: &'static str,
) -> Vec<Result<(String, Told), String>> {
    let call = |(line, arguments): (usize, Vec<&str>)| {
        let arguments = arguments.iter().map(|argument| {
            let begin = source.code.place(argument);
            original[begin..begin + argument.len()].trim()
        });
        let mut arguments = arguments.skip_while(|argument| argument.starts_with("target:"));
        let event =
            arguments.next().and_then(|first| first.strip_prefix("event = \"")?.strip_suffix('"'));
        let Some(event) = event else {
            return Err(source.at(line, "its first field is not `event = \"name\"`"));
        };
        let mut told = Told { level, ..Told::default() };
        for argument in arguments {
            if let Some(text) = argument.strip_prefix('"') {
                told.text = shown(text.trim_end_matches('"'));
                return Ok((event.to_owned(), told));
            }
            let name = argument.split('=').next().unwrap_or_default().trim();
            told.fields.insert(name.trim_start_matches(['%', '?']).to_owned());
        }
        Err(source.at(line, "a line without a text"))
    };
    source.code.calls(level).into_iter().map(call).collect()
}

/// All events of `src`, or what breaks a rule.
fn events() -> Result<BTreeMap<String, Told>, Vec<String>> {
    let mut events: BTreeMap<String, Told> = BTreeMap::new();
    let mut broken = Vec::new();
    for source in product() {
        let original = read(&source.path);
        for told in
            ["error", "warn", "info"].iter().flat_map(|level| told(&source, &original, level))
        {
            let (event, told) = match told {
                Ok(told) => told,
                Err(why) => {
                    broken.push(why);
                    continue;
                }
            };
            match events.get_mut(&event) {
                Some(known) if (known.level, &known.text) == (told.level, &told.text) => {
                    known.fields.extend(told.fields);
                }
                Some(known) => broken.push(format!("{event}: both {known:?} and {told:?}")),
                None => drop(events.insert(event, told)),
            }
        }
    }
    // Written by the log itself.
    let dropped =
        "lines of the log were dropped here: they were written faster than stderr is read";
    assert!(read("src/observe/line.rs").contains(dropped));
    let (text, fields) = (dropped.to_owned(), BTreeSet::from(["dropped".to_owned()]));
    events.insert("log_lines_dropped".to_owned(), Told { level: "warn", text, fields });
    let others = Told { level: "any", text: "…".to_owned(), fields: BTreeSet::new() };
    events.insert(OTHER_CRATE.to_owned(), others);
    if broken.is_empty() { Ok(events) } else { Err(broken) }
}

fn row((event, told): (&String, &Told)) -> String {
    let code = code_of(event).map_or(String::new(), |code| {
        format!("[{code}](#{}-{event})", code.to_string().to_lowercase())
    });
    let fields: Vec<String> = told.fields.iter().map(|field| format!("`{field}`")).collect();
    format!("| `{event}` | {} | {code} | {} | {} |", told.level, told.text, fields.join(", "))
}

#[test]
fn every_line_of_the_log_has_an_event_and_the_table_has_them_all() {
    let events = events().unwrap_or_else(|broken| panic!("{}", broken.join("\n")));
    assert!(events.len() > 100, "only {} events were found", events.len());
    let wanted: Vec<String> = events.iter().map(row).collect();
    let document = read("deploy/messages.md");
    let found: Vec<&str> = document.lines().filter(|line| line.starts_with("| `")).collect();
    let missing: Vec<&String> =
        wanted.iter().filter(|row| !found.contains(&row.as_str())).collect();
    let wrong: Vec<&&str> =
        found.iter().filter(|row| !wanted.iter().any(|wanted| wanted == *row)).collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "deploy/messages.md lacks these rows:\n{missing:#?}\nand has too many of these:\n{wrong:#?}"
    );
    assert_eq!(found, wanted, "the rows are not in order");
}

#[test]
fn a_line_has_a_code_if_and_only_if_it_warns() {
    let events = events().unwrap_or_else(|broken| panic!("{}", broken.join("\n")));
    for (event, told) in &events {
        assert_eq!(code_of(event).is_some(), told.level != "info", "{event} at {}", told.level);
    }
    for (code, event) in CODES {
        let is_said = events.contains_key(*event);
        assert_eq!(is_said, !is_last_words(*code), "CBD{code:03} {event}");
    }
    // The names that commands use.
    let source: String = product().iter().map(|source| read(&source.path)).collect();
    for (_, event) in CODES.iter().filter(|(code, _)| is_last_words(*code)) {
        assert!(source.matches(&format!("\"{event}\"")).count() > 1, "nothing says {event}");
    }
}

#[test]
fn each_code_has_its_section_and_each_link_its_code() {
    let document = read("deploy/messages.md");
    let headings: Vec<&str> =
        document.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let wanted: Vec<String> =
        CODES.iter().map(|(code, event)| format!("CBD{code:03} {event}")).collect();
    assert_eq!(headings, wanted);
    for section in document.split("\n### ").skip(1) {
        let (heading, text) = section.split_once("\n\n").expect("a text below the heading");
        for part in ["\n\n- *Look at:* ", "\n- *Do:* "] {
            assert!(text.contains(part), "{heading} lacks {part:?}");
        }
    }
    let anchors: BTreeSet<String> =
        wanted.iter().map(|heading| heading.to_lowercase().replace(' ', "-")).collect();
    for (place, text) in [("messages.md", &document), ("README.md", &read("deploy/README.md"))] {
        for link in text.split("#cbd").skip(1) {
            let anchor = format!("cbd{}", link.split(')').next().unwrap_or_default());
            assert!(anchors.contains(&anchor), "{place} links to {anchor}");
        }
    }
}

#[test]
fn a_text_is_shown_without_what_differs() {
    assert_eq!(shown("a \\\n   b {c} \\\"d\\\" {e:?}"), "a b … \"d\" …");
}

#[test]
fn a_call_that_breaks_a_rule_is_found() {
    let found = |code: &str| told(&Source::new("src/x.rs", code), code, "warn");
    assert_eq!(
        found("warn!(\"x\");"),
        [Err("src/x.rs:1: its first field is not `event = \"name\"`".to_owned())]
    );
    let (event, told) =
        found("\nwarn!(event = \"e\", %a, b = ?c, \"é\", d);").remove(0).expect("good");
    assert_eq!((event.as_str(), told.text.as_str()), ("e", "é"));
    assert_eq!(told.fields.into_iter().collect::<Vec<_>>(), ["a", "b"]);
}
