//! What was observed, question by question.

use std::collections::BTreeMap;

use super::question::Question;

/// The answer to a question, as far as there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Observed {
    /// Whether the question was answered. What is not settled says nothing about AWS.
    pub settled: bool,
    /// The setting of the local endpoint's switch that fits, if there is one.
    pub setting: Option<String>,
    pub text: String,
}

/// The notes of one probe.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes(BTreeMap<Question, Observed>);

impl Notes {
    pub(super) fn settle(
        &mut self,
        question: Question,
        setting: Option<&str>,
        text: impl Into<String>,
    ) {
        let setting = setting.map(str::to_owned);
        self.0.insert(question, Observed { settled: true, setting, text: text.into() });
    }

    /// Notes why a question stays open. An answer that is there already stays.
    pub(super) fn leave(
        &mut self,
        question: Question,
        setting: Option<&str>,
        text: impl Into<String>,
    ) {
        let setting = setting.map(str::to_owned);
        let observed = Observed { settled: false, setting, text: text.into() };
        if !self.is_settled(question) {
            self.0.insert(question, observed);
        }
    }

    pub(super) fn get(&self, question: Question) -> Option<&Observed> {
        self.0.get(&question)
    }

    pub(super) fn is_settled(&self, question: Question) -> bool {
        self.get(question).is_some_and(|observed| observed.settled)
    }

    pub(super) fn has_any_settled(&self) -> bool {
        self.0.values().any(|observed| observed.settled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_not_forgotten_for_a_later_failure() {
        let mut notes = Notes::default();
        notes.leave(Question::OldReceipt, None, "no answer");
        notes.settle(Question::OldReceipt, Some("ignored"), "it came back");
        notes.leave(Question::OldReceipt, None, "no answer");
        let observed = notes.get(Question::OldReceipt).expect("noted");
        assert_eq!((observed.settled, observed.text.as_str()), (true, "it came back"));
    }
}
