//! What becomes of a callback step that waits: the evidence, and the verdict on it.
//!
//! Only what is certain is called lost. A message on the queue itself cannot be looked for without
//! taking it from the workers that poll it, so while the queue has messages that the ledger does
//! not account for, nobody can tell.

use std::time::Duration;

use crate::lifecycle::{Ending, Status};

/// What is known of one waiting step.
#[derive(Clone, Debug)]
pub(super) struct Evidence<'a> {
    pub known: Option<&'a Known>,
    /// A message of the step is in the dead-letter queue.
    pub is_dead: bool,
    /// How long it has waited, if SageMaker says.
    pub age: Option<Duration>,
    /// A step that has waited for less may have its message on the way.
    pub least_age: Duration,
    /// Why absence from the ledger proves nothing, if so.
    pub blind: Option<Blind>,
    /// Why the search for its message in the dead-letter queue proves nothing, if so.
    pub unsearched: Option<&'a str>,
    /// Messages on its queue that the ledger does not account for.
    pub unaccounted: u64,
}

/// What the ledger has of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It runs, waits for its next attempt or someone else, or is about to be answered.
    Open(Status),
    Settled(Option<Ending>),
    /// A record that cannot be this step's, or cannot be read.
    Unusable(String),
}

/// Why absence from the ledger proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blind {
    /// The ledger is in the worker's memory.
    Memory,
    /// Workers with ledgers of their own read the same queue (`exclusive = false`).
    Others,
    /// This many records of the ledger do not even tell their token.
    Damaged(usize),
}

/// What becomes of a waiting step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A worker has it.
    Held(Status),
    /// Its message was received too often and lies in the dead-letter queue.
    DeadLetter,
    /// The ledger has it as answered, and still it waits.
    Settled(Option<Ending>),
    /// The ledger has a record of its token that no worker can use.
    Unusable(String),
    /// It began to wait so recently that its message may be on the way.
    Recent,
    /// Nobody who asks here can know.
    Unknown(Blind),
    /// It may be lost.
    Unclear(Doubt),
    /// No record, no message and no run accounts for it.
    Lost,
}

/// Why a step is not called lost, although nothing accounts for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// One of so many messages on the queue may be its own.
    Queued(u64),
    /// The dead-letter queue was not searched to its end.
    Unsearched(String),
    /// SageMaker does not say since when it waits.
    Ageless,
}

impl Verdict {
    pub(super) fn of(evidence: &Evidence<'_>) -> Self {
        match evidence.known {
            Some(Known::Open(status)) => return Self::Held(*status),
            _ if evidence.is_dead => return Self::DeadLetter,
            // Whatever the ledger has is of an earlier time, if the step was retried.
            _ if evidence.age.is_some_and(|age| age < evidence.least_age) => return Self::Recent,
            Some(Known::Settled(ending)) => return Self::Settled(*ending),
            Some(Known::Unusable(why)) => return Self::Unusable(why.clone()),
            None => {}
        }
        if let Some(blind) = evidence.blind {
            return Self::Unknown(blind);
        }
        if evidence.age.is_none() {
            return Self::Unclear(Doubt::Ageless);
        }
        if let Some(why) = evidence.unsearched {
            return Self::Unclear(Doubt::Unsearched(why.to_owned()));
        }
        match evidence.unaccounted {
            0 => Self::Lost,
            messages => Self::Unclear(Doubt::Queued(messages)),
        }
    }

    /// In JSON and in the table.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Held(_) => "held",
            Self::DeadLetter => "dead_letter",
            Self::Settled(_) => "settled",
            Self::Unusable(_) => "unusable",
            Self::Recent => "recent",
            Self::Unknown(_) => "unknown",
            Self::Unclear(_) => "unclear",
            Self::Lost => "lost",
        }
    }

    /// Whether something or someone will answer the step, as far as can be told.
    pub(super) fn is_well(&self) -> bool {
        matches!(self, Self::Held(_) | Self::Recent)
    }

    /// Whether `--fail-lost` may answer it; `assume_not_queued` is the user's word that none of the
    /// messages on the queue is its own.
    pub(super) fn may_be_failed(&self, assume_not_queued: bool) -> bool {
        match self {
            Self::Lost => true,
            Self::Unclear(Doubt::Queued(_)) => assume_not_queued,
            _ => false,
        }
    }

    /// Why, and what to do.
    pub(super) fn detail(&self) -> String {
        match self {
            Self::Held(Status::Settled) => {
                "its token came back, and a worker asks SageMaker about it".to_owned()
            }
            Self::Held(status) => format!("the ledger has it: {}", status.as_str()),
            Self::DeadLetter => {
                "its message is in the dead-letter queue: --redrive brings it back".to_owned()
            }
            Self::Settled(ending) => {
                let ending = ending.map(|ending| format!(" ({})", ending.as_str()));
                format!(
                    "the ledger has it as answered{}, and it waits: if its execution was retried, \
                     its message is missing; stop the execution",
                    ending.unwrap_or_default()
                )
            }
            Self::Unusable(why) => {
                format!("the ledger has a record that no worker can use: {why}; stop the execution")
            }
            Self::Recent => "it began to wait recently; ask again later".to_owned(),
            Self::Unknown(Blind::Memory) => {
                "the ledger is in the worker's memory: ask its /steps over HTTP".to_owned()
            }
            Self::Unknown(Blind::Others) => {
                "not in this ledger, but other workers read this queue (exclusive = false): \
                 reconcile where their ledgers are, or stop the execution"
                    .to_owned()
            }
            Self::Unknown(Blind::Damaged(records)) => format!(
                "the ledger has {records} record(s) that do not even tell their token, and one \
                 may be its own; see `callbackd steps`, or stop the execution"
            ),
            Self::Unclear(Doubt::Queued(messages)) => format!(
                "{messages} message(s) on its queue are not accounted for, and one may be its \
                 own: ask again when they are received"
            ),
            Self::Unclear(Doubt::Unsearched(why)) => why.clone(),
            Self::Unclear(Doubt::Ageless) => {
                "SageMaker does not say since when it waits; stop the execution if nobody answers \
                 it"
                .to_owned()
            }
            Self::Lost => "no record, no message and no run accounts for it: nobody will answer \
                           it; --fail-lost does"
                .to_owned(),
        }
    }
}

/// How many of a queue's messages the ledger does not account for. A message that is visible or
/// delayed is nobody's; one in flight is held for one of the open records, which need not have one.
pub(super) fn unaccounted(visible: u64, delayed: u64, in_flight: u64, records: u64) -> u64 {
    visible + delayed + in_flight.saturating_sub(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_mins(14);

    /// Nothing accounts for it, and nothing is in doubt.
    fn nothing() -> Evidence<'static> {
        Evidence {
            known: None,
            is_dead: false,
            age: Some(LEAST),
            least_age: LEAST,
            blind: None,
            unsearched: None,
            unaccounted: 0,
        }
    }

    #[test]
    fn only_a_step_that_nothing_accounts_for_is_lost() {
        assert_eq!(Verdict::of(&nothing()), Verdict::Lost);
        let open = Known::Open(Status::Waiting);
        let settled = Known::Settled(Some(Ending::Success));
        let unusable = Known::Unusable("why".to_owned());
        let young = Some(LEAST.saturating_sub(Duration::from_secs(1)));
        for (evidence, wants) in [
            (Evidence { known: Some(&open), ..nothing() }, "held"),
            (Evidence { known: Some(&settled), ..nothing() }, "settled"),
            (Evidence { known: Some(&unusable), ..nothing() }, "unusable"),
            (Evidence { is_dead: true, ..nothing() }, "dead_letter"),
            (Evidence { age: young, ..nothing() }, "recent"),
            (Evidence { age: None, ..nothing() }, "unclear"),
            (Evidence { unsearched: Some("why"), ..nothing() }, "unclear"),
            (Evidence { unaccounted: 1, ..nothing() }, "unclear"),
            (Evidence { blind: Some(Blind::Memory), ..nothing() }, "unknown"),
            (Evidence { blind: Some(Blind::Others), ..nothing() }, "unknown"),
            (Evidence { blind: Some(Blind::Damaged(1)), ..nothing() }, "unknown"),
        ] {
            let verdict = Verdict::of(&evidence);
            assert_eq!(verdict.as_str(), wants, "{evidence:?}");
            assert!(!verdict.may_be_failed(false), "{evidence:?}");
        }
    }

    #[test]
    fn what_accounts_for_a_step_outweighs_every_doubt() {
        let (open, settled) = (Known::Open(Status::Deferred), Known::Settled(None));
        let doubtful = Evidence {
            age: None,
            blind: Some(Blind::Others),
            unsearched: Some("why"),
            unaccounted: 7,
            ..nothing()
        };
        let held = Evidence { known: Some(&open), is_dead: true, ..doubtful.clone() };
        assert_eq!(Verdict::of(&held), Verdict::Held(Status::Deferred));
        let dead = Evidence { known: Some(&settled), is_dead: true, ..doubtful };
        assert_eq!(Verdict::of(&dead), Verdict::DeadLetter);
        // A retried step may have the token that was answered before.
        let retried = Evidence { known: Some(&settled), age: Some(Duration::ZERO), ..nothing() };
        assert_eq!(Verdict::of(&retried), Verdict::Recent);
    }

    #[test]
    fn the_users_word_is_taken_for_messages_on_the_queue_and_nothing_else() {
        let queued = Evidence { unaccounted: 1, ..nothing() };
        assert!(Verdict::of(&queued).may_be_failed(true));
        for evidence in [
            Evidence { unsearched: Some("why"), ..queued.clone() },
            Evidence { blind: Some(Blind::Others), ..queued.clone() },
            Evidence { age: None, ..queued.clone() },
            Evidence { age: Some(Duration::ZERO), ..queued },
        ] {
            assert!(!Verdict::of(&evidence).may_be_failed(true), "{evidence:?}");
        }
    }

    #[test]
    fn messages_in_flight_are_accounted_for_by_open_records_and_visible_ones_by_nothing() {
        assert_eq!(unaccounted(0, 0, 3, 5), 0);
        assert_eq!(unaccounted(0, 0, 5, 3), 2);
        assert_eq!(unaccounted(1, 2, 3, 9), 3);
    }
}
