//! The runbook as the binary contains it: the sections of `deploy/messages.md` and of the alerts in
//! `deploy/README.md`, as plain text.

use serde::Serialize;

const MESSAGES: &str = include_str!("../../../deploy/messages.md");
const README: &str = include_str!("../../../deploy/README.md");

/// What can be explained: a code with its event, an event without a code, or an alert.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<String>,
    /// The event's name, or the alert's.
    pub(super) name: String,
    /// The level of the event's lines; commands say the others as their last words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) level: Option<String>,
    /// The text of the event's lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
    /// The fields of the event's lines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) fields: Vec<String>,
    /// What it means, what to look at, what to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) text: String,
}

impl Entry {
    /// Whether someone who writes `what` means it.
    pub(super) fn is_called(&self, what: &str) -> bool {
        let what = what.trim().trim_start_matches('[').trim_end_matches(']');
        self.names().any(|name| name.eq_ignore_ascii_case(what))
            || number(what)
                .is_some_and(|asked| self.code.as_deref().and_then(number) == Some(asked))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.code.as_deref().into_iter().chain([self.name.as_str()])
    }

    /// The first sentence about it.
    pub(super) fn summary(&self) -> &str {
        let meaning = self.text.split("\n\n").next().unwrap_or_default();
        if meaning.is_empty() { self.message.as_deref().unwrap_or_default() } else { meaning }
    }
}

/// The number in a code; `cbd12` is `CBD012`.
fn number(code: &str) -> Option<u16> {
    let digits = code.get(3..).filter(|_| code[..3].eq_ignore_ascii_case("CBD"))?;
    digits.parse().ok().filter(|_| digits.bytes().all(|digit| digit.is_ascii_digit()))
}

/// All entries: by code, then the events without one, then the alerts.
pub(super) fn entries() -> Vec<Entry> {
    let rows = rows(MESSAGES);
    let mut entries: Vec<Entry> = sections(MESSAGES, "CBD")
        .map(|(heading, text)| {
            let (code, name) = heading.split_once(' ').unwrap_or((heading, ""));
            let row = rows.iter().find(|row| row.name == name).cloned();
            let name = name.to_owned();
            Entry { code: Some(code.to_owned()), name, text, ..row.unwrap_or_default() }
        })
        .collect();
    entries.extend(rows.into_iter().filter(|row| row.code.is_none()));
    let alerts = sections(README, "Callbackd");
    entries.extend(alerts.map(|(name, text)| Entry {
        name: name.to_owned(),
        text,
        ..Entry::default()
    }));
    entries
}

/// The headings that begin so, with the text below each.
fn sections<'a>(document: &'a str, begin: &'a str) -> impl Iterator<Item = (&'a str, String)> {
    document.split("\n### ").skip(1).filter(move |section| section.starts_with(begin)).filter_map(
        |section| {
            let (heading, text) = section.split("\n## ").next()?.split_once('\n')?;
            Some((heading.trim(), plain(text.trim())))
        },
    )
}

/// The events of the table.
fn rows(document: &str) -> Vec<Entry> {
    let cells = |line: &str| {
        let inside = line.strip_prefix("| `")?.strip_suffix(" |")?;
        let cells: Vec<String> = inside.split(" | ").map(|cell| cell.replace('`', "")).collect();
        <[String; 5]>::try_from(cells).ok()
    };
    document
        .lines()
        .filter_map(cells)
        .map(|[name, level, code, message, fields]| Entry {
            code: code.starts_with('[').then(|| plain(&code)),
            name,
            level: Some(level),
            message: Some(message),
            fields: fields.split(", ").filter(|one| !one.is_empty()).map(str::to_owned).collect(),
            text: String::new(),
        })
        .collect()
}

/// Markdown as a terminal shows it: without emphasis, and of links only their text.
fn plain(text: &str) -> String {
    let text = text.replace("*Look at:*", "Look at:").replace("*Do:*", "Do:");
    let mut text = text.replace("*Messages:*", "Messages:");
    while let Some((open, middle)) =
        text.find("](").and_then(|middle| Some((text[..middle].rfind('[')?, middle)))
        && let Some(length) = text[middle..].find(')')
    {
        text =
            format!("{}{}{}", &text[..open], &text[open + 1..middle], &text[middle + length + 1..]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_can_be_named_and_says_something() {
        let entries = entries();
        for entry in &entries {
            assert!(!entry.summary().is_empty(), "{entry:?}");
            for name in entry.names() {
                let meant = entries.iter().filter(|other| other.is_called(name)).count();
                assert_eq!(meant, 1, "{name}");
            }
        }
        for (kind, least) in [("CBD", 100), ("Callbackd", 30)] {
            let found = entries.iter().filter(|one| one.names().any(|name| name.starts_with(kind)));
            assert!(found.count() > least, "{kind}");
        }
    }

    #[test]
    fn markdown_becomes_plain_text() {
        assert_eq!(
            plain("- *Do:* see [CBD101](#cbd101) and [a](b.md)."),
            "- Do: see CBD101 and a."
        );
        assert_eq!(plain("no [link] (here)"), "no [link] (here)");
    }
}
