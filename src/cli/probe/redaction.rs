//! A report is published: it must not say whose account it is about.

use std::collections::BTreeMap;

/// What stands for every account.
const ACCOUNT: &str = "123456789012";

/// The names of one probe that are not published, and what stands for each.
#[derive(Clone, Debug, Default)]
pub(super) struct Redaction(BTreeMap<String, &'static str>);

impl Redaction {
    pub(super) fn learn(&mut self, secret: &str, instead: &'static str) {
        if !secret.is_empty() {
            self.0.insert(secret.to_owned(), instead);
        }
    }

    /// The id at the end of an execution's ARN.
    pub(super) fn learn_execution(&mut self, arn: &str) {
        if let Some((_, id)) = arn.rsplit_once('/') {
            self.learn(id, "EXECUTION");
        }
    }

    /// The text without account ids, principals, request ids, keys, and all that was learnt; in one
    /// line, without characters that a terminal would interpret.
    pub(super) fn publish(&self, text: &str) -> String {
        let mut text = shortened(&crate::cli::plain(text));
        // The longest first: one secret may be a part of another.
        let mut secrets: Vec<(&String, &&str)> = self.0.iter().collect();
        secrets.sort_by_key(|(secret, _)| std::cmp::Reverse(secret.len()));
        for (secret, instead) in secrets {
            text = text.replace(secret.as_str(), instead);
        }
        words(&text).map(public).collect()
    }
}

/// The text with every long run of one character as the character and how often it comes: services
/// quote what was too long.
fn shortened(text: &str) -> String {
    const LONG: usize = 30;
    let mut shown = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| c != first).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        rest = after;
        match run.chars().count() {
            count if count > LONG => shown.push_str(&format!("{first}… ({count} of them)")),
            _ => shown.push_str(run),
        }
    }
    shown
}

/// The text cut where an ARN, an id or a key ends: its words and what is between them.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_alphanumeric() || "-_:/+=.,@*".contains(c);
    let mut rest = text;
    std::iter::from_fn(move || {
        let within = rest.starts_with(is_part);
        let end = rest.find(|c| is_part(c) != within).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        rest = after;
        (!word.is_empty()).then_some(word)
    })
}

fn public(word: &str) -> String {
    let is_principal = word
        .find("arn:")
        .is_some_and(|at| matches!(word[at..].split(':').nth(2), Some("iam" | "sts")));
    if is_principal {
        return "PRINCIPAL".to_owned();
    }
    let mut shown = String::new();
    let mut rest = word;
    while !rest.is_empty() {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let within = rest.starts_with(is_part);
        let end = rest.find(|c| is_part(c) != within).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        rest = after;
        shown.push_str(&public_part(part));
    }
    shown
}

fn public_part(part: &str) -> String {
    let lengths: Vec<usize> = part.split('-').map(str::len).collect();
    let is_hex = part.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if is_hex && lengths == [8, 4, 4, 4, 12] {
        return "REQUEST-ID".to_owned();
    }
    let is_key = |key: &str| {
        key.len() >= 16
            && ["AKIA", "ASIA", "AROA", "AIDA"].iter().any(|start| key.starts_with(start))
    };
    if part.split('-').any(is_key) {
        return "KEY".to_owned();
    }
    let is_account = |part: &str| part.len() == 12 && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> =
        part.split('-').map(|part| if is_account(part) { ACCOUNT } else { part }).collect();
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn published(text: &str) -> String {
        let mut redaction = Redaction::default();
        redaction.learn("SYZ8ExZ3Sd", "TOKEN");
        redaction.learn("k3x9q2ab", "RUN");
        redaction.learn_execution(
            "arn:aws:sagemaker:us-east-1:111122223333:pipeline/p/execution/wlaimaypb6hb",
        );
        redaction.publish(text)
    }

    #[test]
    fn accounts_principals_ids_keys_and_names_are_replaced() {
        for (text, wants) in [
            (
                "arn:aws:sagemaker:us-east-1:111122223333:pipeline/x-k3x9q2ab-One/execution/wlaimaypb6hb",
                "arn:aws:sagemaker:us-east-1:123456789012:pipeline/x-RUN-One/execution/EXECUTION",
            ),
            (
                "User: arn:aws:sts::111122223333:assumed-role/admin/jane is not authorized",
                "User: PRINCIPAL is not authorized",
            ),
            ("role arn:aws:iam::111122223333:role/secret, and", "role PRINCIPAL and"),
            ("(Request ID: 0d2ba7e1-1f2b-4a3c-9d8e-0123456789ab)", "(Request ID: REQUEST-ID)"),
            ("token SYZ8ExZ3Sd; key AKIAIOSFODNN7EXAMPLE", "token TOKEN; key KEY"),
            ("account 111122223333.", "account 123456789012."),
            ("https://sqs/111122223333/q", "https://sqs/123456789012/q"),
            ("a number of 1111222233334 digits", "a number of 1111222233334 digits"),
            (
                format!("Value '{}' is too long", "r".repeat(257)).as_str(),
                "Value 'r… (257 of them)' is too long",
            ),
            ("two\nlines\u{1b}[2J", "two lines [2J"),
        ] {
            assert_eq!(published(text), wants, "{text}");
        }
    }
}
