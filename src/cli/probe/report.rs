//! The report: Markdown to publish, or JSON.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::notes::{Notes, Observed};
use super::question::Question;
use super::redaction::Redaction;

pub(super) struct Report<'a> {
    pub notes: &'a Notes,
    pub redaction: &'a Redaction,
    pub region: &'a str,
    pub date: Timestamp,
    /// The endpoint need not be AWS's.
    pub has_own_endpoint: bool,
}

const NOT_TRIED: &str = "not tried: the probe ended before";

impl Report<'_> {
    pub(super) fn markdown(&self) -> String {
        let mut text = format!(
            "# callbackd probe\n\ncallbackd {} asked Amazon SageMaker Pipelines and Amazon SQS in \
             {} on {}.\nEach row was observed in one account, at one time, mostly once: it is no \
             promise of AWS.\nAccount ids, tokens and names are replaced.\n",
            env!("CARGO_PKG_VERSION"),
            self.region,
            self.date.strftime("%Y-%m-%d"),
        );
        if self.has_own_endpoint {
            text.push_str(
                "\n**The endpoint was set by the user** (`aws.endpoint_url`, `AWS_ENDPOINT_URL` or \
                 the profile). Unless it is one of AWS's own, nothing here is about AWS.\n",
            );
        }
        text.push_str("\n| question | observed | callbackd assumes |\n|---|---|---|\n");
        for question in Question::ALL {
            let observed = self.observed(question);
            let mark = if observed.settled { "" } else { "**not settled**: " };
            text.push_str(&format!(
                "| {} | {mark}{} | {} |\n",
                cell(question.asks()),
                cell(&self.redaction.publish(&observed.text)),
                cell(question.assumes())
            ));
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let finding = |question: Question| {
            let observed = self.observed(question);
            json!({
                "question": question.id(),
                "asks": question.asks(),
                "settled": observed.settled,
                "setting": observed.setting,
                "observed": self.redaction.publish(&observed.text),
                "assumed": question.assumes(),
            })
        };
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "region": self.region,
            "date": self.date.strftime("%Y-%m-%d").to_string(),
            "endpoint_set_by_user": self.has_own_endpoint,
            "findings": Question::ALL.map(finding).to_vec(),
        })
    }

    fn observed(&self, question: Question) -> Observed {
        let not_tried = || Observed { settled: false, setting: None, text: NOT_TRIED.to_owned() };
        self.notes.get(question).cloned().unwrap_or_else(not_tried)
    }
}

/// Text within a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "\\<")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report<'a>(notes: &'a Notes, redaction: &'a Redaction) -> Report<'a> {
        Report {
            notes,
            redaction,
            region: "us-east-1",
            date: "2026-11-26T10:00:00Z".parse().expect("a time"),
            has_own_endpoint: true,
        }
    }

    #[test]
    fn every_question_has_its_row_and_what_is_open_says_so() {
        let mut notes = Notes::default();
        notes.settle(Question::UnknownToken, Some("validation"), "`x`: <a> | b\nc 111122223333");
        let redaction = Redaction::default();
        let report = report(&notes, &redaction);
        let text = report.markdown();
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
        assert_eq!(rows.len(), Question::ALL.len() + 1);
        assert!(rows[1].contains("`x`: \\<a> \\| b c 123456789012 |"), "{}", rows[1]);
        assert!(rows[2..].iter().all(|row| row.contains("**not settled**: not tried")));
        assert!(text.contains("nothing here is about AWS"));
        let json = report.json();
        assert_eq!(json["findings"][0]["setting"], "validation");
        assert_eq!(json["findings"][1]["settled"], false);
        assert_eq!(json["endpoint_set_by_user"], true);
    }
}
